"""Which index each modality has: built when it is due, asked as deep as its promise needs.

    rows ──▶ planner: none, or how many codes ──▶ built ──▶ tuned on the rows that ask ──▶ recorded
                             ▲                                 │ no depth keeps the promise
                             └────────── the next choice ──────┘

Everything is measured and built outside of the writer's lock, from one snapshot; only the record of
the finished file is a write.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from muomni_search import durable
from muomni_search.errors import CorruptData, InvalidInput, MuomniError, NotFound
from muomni_search.index import files, planner, tuning
from muomni_search.index.protocol import VectorIndex
from muomni_search.index.tuning import Asking, Promise
from muomni_search.items import Modality
from muomni_search.store.records import IndexFile, now
from muomni_search.store.snapshot import INDEX, Snapshot
from muomni_search.store.sqlite import disk_errors
from muomni_search.store.store import Store

__all__ = ["CHOICES", "build", "describe", "load", "promise_of", "refresh", "tune"]

# The kinds of an index that may be asked for.
CHOICES = ("auto", "exact", "ann")
# Stands in for modalities of which the collection holds too little.
AFAR = "afar"
# How many times as many rows of one that asks are worth another measurement.
GROWTH = 1.5
# Of the rows that asked, what share must be gone (deleted, or replaced by others) for another one.
GONE_SHARE = 0.2
# And of those that the index covers: a measurement compares them all for each query, which takes
# as long as to replace some hundredths of them, so replacing stays linear.
COST_SHARE = 0.02
# Of an index whose record does not say how many codes it has.
FIRST_CODES = 128


def refresh(store: Store) -> None:
    """Leave dead rows out where they are many, and bring each index to what it has to be."""
    for modality in Modality:
        _compact(store, modality)
        # What was added is in, and found without an index. Damaged rows are told of by who searches
        # them, and by `verify`; where the disk has no room for one, the next write tries again.
        with suppress(MuomniError):
            _mend(store, modality)


def _mend(store: Store, modality: Modality, *, measure: bool = False) -> None:
    """Build, measure or drop the index of a modality, whatever it lacks.

    Args:
        store: Whose.
        modality: Whose rows.
        measure: Measure it even when nothing has changed.
    """
    with store.snapshot() as snapshot:
        lacks = _lacks(snapshot, modality)
    if lacks == "build":
        build(store, modality)
    elif lacks == "drop":
        with store.write() as writer:
            writer.drop_index(modality)
    elif lacks == "measure" or (measure and lacks is None):
        _tune(store, modality)


def _lacks(
    snapshot: Snapshot, modality: Modality
) -> Literal["build", "measure", "drop", "index"] | None:
    """Return what must be done to a modality's index; ``index`` for none that need be there."""
    file, index = snapshot.row_file(modality), snapshot.index_file(modality)
    choices, settings = _choices(snapshot), snapshot.settings
    if not choices or settings.recall > tuning.MOST_RECALL:
        return "index" if index is None else "drop"
    if file is None or planner.is_index_due(rows=file.rows, covered=index.rows if index else 0):
        return "index" if file is None else "build"
    if index is None:
        return "index"
    codes, promise = _codes_of(index), promise_of(index)
    if codes not in choices or _is_another_due(promise, codes, choices):
        return "build"
    if promise is None or promise.recall != settings.recall:
        return "measure"
    if promise.fetch is not None and any(_asks_anew(snapshot, one, promise) for one in Modality):
        return "measure"
    return None


def _asks_anew(snapshot: Snapshot, modality: Modality, promise: Promise) -> bool:
    """Whether a modality is another one than when it was measured how it asks."""
    file, count = snapshot.row_file(modality), _live(snapshot, modality)
    if file is None or count < tuning.ENOUGH_ROWS:
        return False
    before = promise.measured.get(modality)
    # What was measured of a few rows, or before they were many, says little of them now.
    if before is None or count >= GROWTH * before.rows:
        return True
    # Whether those are still there of which it was. Of rows in an earlier generation of the file,
    # which was left because many were dead, nobody knows.
    is_same_file = file.generation == before.generation
    gone = file.dead - before.dead if is_same_file else before.rows
    return gone > max(GONE_SHARE * before.rows, COST_SHARE * promise.rows)


def _compact(store: Store, modality: Modality) -> None:
    with store.snapshot() as snapshot:
        file = snapshot.row_file(modality)
    if file is not None and planner.is_compaction_due(rows=file.rows, dead=file.dead):
        from muomni_search.store.compact import compact_rows

        # An economy and no duty: what was added or deleted before counts, though the disk may have
        # no room for the live rows once more. The next write tries again; `verify` tells of damage.
        with suppress(MuomniError), store.write() as writer:
            compact_rows(writer, modality)


def _choices(snapshot: Snapshot) -> tuple[int, ...]:
    """Return how many codes an index may have, in the order in which they are tried."""
    rows = [file.rows for file in snapshot.state.row_files.values()]
    return planner.choose_codes(rows, snapshot.settings.memory)


def _codes_of(file: IndexFile) -> int:
    return int(file.params.get("codes", FIRST_CODES))


def _is_another_due(promise: Promise | None, codes: int, choices: tuple[int, ...]) -> bool:
    """Whether an index keeps no promise that a later choice may keep."""
    if promise is None or promise.fetch is not None or promise.recall > tuning.MOST_RECALL:
        return False
    return codes != choices[-1]


def _live(snapshot: Snapshot, modality: Modality) -> int:
    file = snapshot.row_file(modality)
    return 0 if file is None else file.rows - file.dead


def build(
    store: Store, modality: Modality, kind: str = "auto", *, tried: int | None = None
) -> dict[str, Any]:
    """Build the index of a modality anew; return what ``describe`` says of it.

    Args:
        store: Whose.
        modality: Whose rows.
        kind: ``exact`` for none, ``ann`` for a 4-bit scan, ``auto`` to choose by size and memory.
        tried: So many codes keep no promise, as was measured just now: begin behind them.

    Raises:
        InvalidInput: ``ann``, and the memory that was allowed holds no index.
    """
    while True:
        described = _build(store, modality, kind, tried)
        if described is not None:
            return described


def _build(store: Store, modality: Modality, kind: str, tried: int | None) -> dict[str, Any] | None:
    """Build an index; return None when somebody has replaced its rows meanwhile."""
    with store.snapshot() as snapshot:
        file, choices = snapshot.row_file(modality), _choices(snapshot)
        vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
        recall = snapshot.settings.recall
        asking = _asking(snapshot, modality)
    if tried in choices[:-1]:
        choices = choices[choices.index(tried) + 1 :]
    if kind == "ann" and not choices:
        raise InvalidInput(
            "the memory that was allowed for indexes holds none",
            hint="allow more: muomni tune --memory SIZE",
        )
    chosen = planner.choose_kind(len(vectors)) if kind == "auto" else kind
    if kind == "auto" and recall > tuning.MOST_RECALL:
        chosen = "exact"
    if file is None or chosen == "exact" or not choices or len(vectors) == len(dead):
        with store.write() as writer:
            writer.drop_index(modality)
            return describe(writer, modality)
    for codes in choices:
        index = planner.build_index(vectors, codes)
        promise = _measure(index, vectors, dead, asking, recall)
        if not _is_another_due(promise, codes, choices):
            break
    folder = store.directory / INDEX
    with disk_errors(folder):
        saved = files.save(index, folder, f"{modality}.{file.generation}")
    with store.write() as writer:
        newest = writer.index_file(modality)
        if newest is not None and _is_better(newest, index.rows, promise, choices):
            durable.unlink(folder / saved.name)
            return describe(writer, modality)
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


def _measure(index: VectorIndex, *given: Any) -> Promise:
    """Return what ``tuning.tune`` measures, and when that was."""
    return replace(tuning.tune(index, *given), measured_at=now())


def _is_better(newest: IndexFile, rows: int, promise: Promise, choices: tuple[int, ...]) -> bool:
    """Whether somebody recorded one of more rows and the same promise while ours was built."""
    theirs = promise_of(newest)
    is_as_good = theirs is not None and theirs.recall == promise.recall
    return newest.rows > rows and is_as_good and _codes_of(newest) in choices


def _asking(snapshot: Snapshot, modality: Modality) -> dict[str, Asking]:
    """Return queries for a modality's rows, as each modality asks them."""
    count = tuning.queries_for(snapshot.settings.recall)
    asking = {}
    for one in Modality:
        rows = _live(snapshot, one)
        if rows >= tuning.ENOUGH_ROWS:
            numbers = snapshot.sample_rows(one, count)
            own = numbers if one == modality else None
            queries = tuning.asking_with(snapshot.vectors(one)[numbers], count, own)
            file = snapshot.state.row_files[one]
            asking[str(one)] = queries._replace(
                rows=rows, dead=file.dead, generation=file.generation
            )
    is_lacking = any(_live(snapshot, one) < count for one in Modality)
    if is_lacking and _live(snapshot, modality):
        some = snapshot.vectors(modality)[snapshot.sample_rows(modality, count)]
        asking[AFAR] = tuning.asking_from_afar(some, count)
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
    with store.snapshot() as snapshot:
        before = snapshot.settings
    settings = before
    if recall is not None:
        settings = replace(settings, recall=recall)
    if memory is not None:
        settings = replace(settings, memory=memory or None)
    if settings != before:
        with store.write() as writer:
            writer.set_settings(settings)
    for modality in Modality:
        _mend(store, modality, measure=True)


def _tune(store: Store, modality: Modality) -> None:
    """Measure an index as it is; one that cannot be read is built anew."""
    with store.snapshot() as snapshot:
        file = snapshot.index_file(modality)
        vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
        asking, recall = _asking(snapshot, modality), snapshot.settings.recall
        choices = _choices(snapshot)
    index = None if file is None else load(store.directory, file)
    if file is None or index is None:
        build(store, modality)
        return
    promise = _measure(index, vectors, dead, asking, recall)
    if _is_another_due(promise, _codes_of(file), choices):
        build(store, modality, tried=_codes_of(file))
        return
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
    """Return what an index was measured to hold to; None where that is not known, or damaged."""
    stored = file.params.get("promise")
    try:
        return None if stored is None else Promise.from_dict(stored)
    except (AttributeError, KeyError, TypeError):  # so that it is measured again
        return None


def describe(snapshot: Snapshot, modality: Modality) -> dict[str, Any]:
    """Return how a modality is searched: by what, with which promise, and why exactly if so."""
    file, index = snapshot.row_file(modality), snapshot.index_file(modality)
    if index is None:
        why = None
        if file is not None and planner.choose_kind(file.rows) == "ann":
            why = _why_none(snapshot)
        return {"kind": "exact", "rows": 0, "bytes": 0, "promise": None, "why": why}
    promise, kind, why = promise_of(index), index.kind, None
    if promise is not None and promise.fetch is None:
        kind = "exact"
        why = _beyond_measure(promise.recall) or (
            f"no depth of {index.kind} was sure to keep a recall of {promise.recall:g}"
        )
    return {
        "kind": kind,
        "rows": index.rows,
        "bytes": index.bytes,
        "promise": None if promise is None else promise.as_dict(),
        "why": why,
    }


def _why_none(snapshot: Snapshot) -> str:
    """Return why so many rows have no index."""
    why = _beyond_measure(snapshot.settings.recall)
    if why is None:
        why = "none was built" if _choices(snapshot) else "the memory allowed holds no index"
    return why


def _beyond_measure(recall: float) -> str | None:
    """Return why an index is not even measured for a recall; None where it is."""
    if recall >= 1:
        return "a recall of 1 was asked for, which only comparing all rows keeps"
    most = tuning.MOST_RECALL
    if recall > most:
        return f"a recall of {recall} was asked for, and no measurement is sure of more than {most}"
    return None
