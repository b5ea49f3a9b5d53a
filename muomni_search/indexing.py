"""Which index each modality has: built when it is due, asked as deep as its promise needs.

    rows ──▶ planner: none, or how many codes ──▶ built ──▶ tuned on the rows that ask ──▶ recorded

Everything is measured and built outside of the writer's lock, from one snapshot; only the record of
the finished file is a write.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from muomni_search.errors import CorruptData, InvalidInput, MuomniError, NotFound
from muomni_search.index import files, planner, tuning
from muomni_search.index.protocol import VectorIndex
from muomni_search.index.tuning import Asking, Promise
from muomni_search.items import Modality
from muomni_search.store.engine import disk_errors
from muomni_search.store.records import IndexFile
from muomni_search.store.snapshot import INDEX, Snapshot
from muomni_search.store.store import Store

__all__ = ["build", "describe", "load", "promise_of", "refresh", "tune"]

# Asks for a modality that no other one of the collection asks for.
AFAR = "afar"


def refresh(store: Store) -> None:
    """Leave dead rows out where they are many, build the indexes that lag behind their rows.

    An index that another modality asks now is measured again.
    """
    for modality in Modality:
        _compact(store, modality)
        with store.snapshot() as snapshot:
            file, index = snapshot.row_file(modality), snapshot.index_file(modality)
            if file is None or _codes(snapshot) is None:
                continue
            is_due = planner.is_index_due(rows=file.rows, covered=index.rows if index else 0)
            is_untuned = index is not None and _is_untuned(snapshot, index)
        if is_due:
            build(store, modality)
        elif is_untuned:
            _tune(store, modality)


def _compact(store: Store, modality: Modality) -> None:
    with store.snapshot() as snapshot:
        file = snapshot.row_file(modality)
    if file is not None and planner.is_compaction_due(rows=file.rows, dead=file.dead):
        from muomni_search.store.compact import compact_rows

        # An economy and no duty: what was added or deleted before counts, though the disk may have
        # no room for the live rows once more. The next write tries again; `verify` tells of damage.
        with suppress(MuomniError), store.write() as writer:
            compact_rows(writer, modality)


def _codes(snapshot: Snapshot) -> int | None:
    rows = [file.rows for file in snapshot.state.row_files.values()]
    return planner.choose_codes(rows, snapshot.settings.memory)


def _is_untuned(snapshot: Snapshot, index: IndexFile) -> bool:
    """Whether nobody measured how an index answers those who can ask it."""
    promise = index.params.get("promise")
    if promise is None:
        return True
    asking = {str(one) for one in Modality if _can_ask(snapshot, one)}
    return not asking <= promise["measured"].keys() and promise["fetch"] is not None


def _can_ask(snapshot: Snapshot, modality: Modality) -> bool:
    file = snapshot.row_file(modality)
    return file is not None and file.rows - file.dead >= tuning.FEWEST_ROWS


def build(store: Store, modality: Modality, kind: str = "auto") -> dict[str, Any]:
    """Build the index of a modality anew; return what ``describe`` says of it.

    Args:
        store: Whose.
        modality: Whose rows.
        kind: ``exact`` for none, ``ann`` for a 4-bit scan, ``auto`` to choose by size and memory.

    Raises:
        InvalidInput: ``ann``, and the memory that was allowed holds no index.
    """
    while True:
        described = _build(store, modality, kind)
        if described is not None:
            return described


def _build(store: Store, modality: Modality, kind: str) -> dict[str, Any] | None:
    """Build an index; return None when somebody has replaced its rows meanwhile."""
    with store.snapshot() as snapshot:
        file, codes = snapshot.row_file(modality), _codes(snapshot)
        vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
        asking, recall = _asking(snapshot, modality), snapshot.settings.recall
    if kind == "ann" and codes is None:
        raise InvalidInput(
            "the memory that was allowed for indexes holds none",
            hint="allow more: muomni tune --memory SIZE",
        )
    chosen = planner.choose_kind(len(vectors)) if kind == "auto" else kind
    if file is None or chosen == "exact" or codes is None or len(vectors) == len(dead):
        with store.write() as writer:
            writer.drop_index(modality)
            return describe(writer, modality)
    index = planner.build_index(vectors, codes)
    promise = tuning.tune(index, vectors, dead, asking, recall)
    folder = store.directory / INDEX
    with disk_errors(folder):
        saved = files.save(index, folder, f"{modality}.{file.generation}")
    with store.write() as writer:
        is_recorded = writer.set_index(
            IndexFile(
                modality=modality,
                generation=file.generation,
                name=saved.name,
                kind=index.kind,
                rows=index.rows,
                bytes=saved.bytes,
                checksum=saved.checksum,
                params={**saved.params, "promise": promise.as_dict()},
            )
        )
        return describe(writer, modality) if is_recorded else None


def _asking(snapshot: Snapshot, modality: Modality) -> dict[str, Asking]:
    """Return queries for a modality's rows, as each modality asks them."""
    count = tuning.queries_for(snapshot.settings.recall)
    asking = {}
    for one in Modality:
        if _can_ask(snapshot, one):
            numbers = snapshot.sample_rows(one, count)
            own = numbers if one == modality else None
            asking[str(one)] = tuning.asking_with(snapshot.vectors(one)[numbers], count, own)
    if not asking.keys() - {str(modality)} and str(modality) in asking:
        asking[AFAR] = tuning.asking_from_afar(asking[str(modality)].vectors, count)
    return asking


def tune(store: Store, *, recall: float | None = None, memory: int | None = None) -> None:
    """Measure the indexes anew, and build those that what is asked for now makes due.

    Args:
        store: Whose.
        recall: What to promise from now on; by default what was promised before.
        memory: Bytes that the indexes may keep from now on, 0 for any; by default as before.

    Raises:
        InvalidInput: A recall that is no share, or less memory than none.
    """
    if recall is not None and not 0 < recall <= 1:
        raise InvalidInput(f"a recall of {recall}", hint="give a share, as 0.95")
    if memory is not None and memory < 0:
        raise InvalidInput(f"{memory} bytes of memory", hint="give 0 for any")
    with store.write() as writer:
        settings = writer.settings
        if recall is not None:
            settings = replace(settings, recall=recall)
        if memory is not None:
            settings = replace(settings, memory=memory or None)
        if settings != writer.settings:
            writer.set_settings(settings)
    for modality in Modality:
        with store.snapshot() as snapshot:
            file, index = snapshot.row_file(modality), snapshot.index_file(modality)
            codes = _codes(snapshot)
        if file is None:
            continue
        is_kept = (
            index is not None
            and codes == index.params.get("codes", planner.CODES[0])
            and not planner.is_index_due(rows=file.rows, covered=index.rows)
        )
        if is_kept:
            _tune(store, modality)
        else:
            build(store, modality)


def _tune(store: Store, modality: Modality) -> None:
    """Measure an index as it is; one that cannot be read is built anew."""
    with store.snapshot() as snapshot:
        file = snapshot.index_file(modality)
        vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
        asking, recall = _asking(snapshot, modality), snapshot.settings.recall
    index = None if file is None else load(store.directory, file)
    if file is None or index is None:
        build(store, modality)
        return
    promise = tuning.tune(index, vectors, dead, asking, recall)
    with store.write() as writer:
        newest = writer.state.index_files.get(modality)
        if newest is not None and newest.name == file.name:
            writer.set_promise(modality, promise.as_dict())


def load(directory: Path, file: IndexFile) -> VectorIndex | None:
    """Return a recorded index; None when its file is gone or is not the one that was written.

    It is derived, so never trusted and never missed: the rows answer instead.
    """
    path = directory / INDEX / file.name
    try:
        return files.load(path, bytes=file.bytes, checksum=file.checksum)
    except (CorruptData, NotFound):
        return None


def promise_of(file: IndexFile) -> Promise | None:
    """Return what an index was measured to hold to; None where nobody measured."""
    stored = file.params.get("promise")
    return None if stored is None else Promise.from_dict(stored)


def describe(snapshot: Snapshot, modality: Modality) -> dict[str, Any]:
    """Return how a modality is searched: by what, with which promise, and why exactly if so."""
    file, index = snapshot.row_file(modality), snapshot.index_file(modality)
    if index is None:
        is_large = file is not None and planner.choose_kind(file.rows) == "ann"
        why = None
        if is_large:
            why = "no index was built" if _codes(snapshot) else "the memory allowed holds no index"
        return {"kind": "exact", "rows": 0, "bytes": 0, "promise": None, "why": why}
    promise, kind, why = promise_of(index), index.kind, None
    if promise is not None and promise.fetch is None:
        kind = "exact"
        why = f"no depth of {index.kind} was sure to keep a recall of {promise.recall:g}"
    return {
        "kind": kind,
        "rows": index.rows,
        "bytes": index.bytes,
        "promise": None if promise is None else promise.as_dict(),
        "why": why,
    }
