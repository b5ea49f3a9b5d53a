"""Move a collection to another model, while it goes on answering.

    aligned with the old model ──▶ every stored row through the map ─────────┐
                                                                             ├──▶ one commit
    any other model ──▶ sources encoded into `reembed/` ──▶ its rows ────────┘

New row files are written beside the old ones, and one transaction makes them count, together with
the segments and the model's name; a reader sees the one state or the other. Mapping a million rows
takes seconds, so it happens under the write lock and needs no memory of how far it got. Encoding
takes hours: its vectors grow in a store of their own in the collection's folder, where a run that
was killed goes on, and what others add or delete meanwhile is caught up with under the lock.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.collection import Collection, full_name
from muomni_search.documents import hash_content
from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Model, VectorMap
from muomni_search.errors import CheckpointError, Conflict, CorruptData, NotFound
from muomni_search.ingest.manifest import read_records
from muomni_search.ingest.read import Limits
from muomni_search.items import Item, Modality, Problem, Record, Span
from muomni_search.pipeline import Pipeline, is_gone
from muomni_search.progress import Progress, Silent
from muomni_search.store.check import whole_blocks
from muomni_search.store.files import remove_store
from muomni_search.store.rows import are_unit
from muomni_search.store.sqlite import disk_errors
from muomni_search.store.store import STAGE, Known, Snapshot, Store
from muomni_search.store.writer import Writer

__all__ = ["Reembedded", "reembed_collection"]

# Items looked up together: with their texts, which have 10 MB at most, and without.
PAGE_KEYS, MANY_KEYS = 64, 4_096
# So few items that came in meanwhile may be encoded while the lock is held.
FEW_ITEMS = 64
# How many items that cannot be encoded an error names.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Reembedded:
    """What moving a collection did.

    Args:
        model: The model that it has now.
        how: ``mapped`` from the stored vectors, ``encoded`` from the sources, or ``unchanged``
            when it had this model already.
        items: How many items it has.
        dropped: Items that could not be encoded, which are gone and listed as failures.
        seconds: How long it took.
    """

    model: str
    how: Literal["mapped", "encoded", "unchanged"]
    items: int
    dropped: list[Problem]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object that ``muomni reembed --json`` prints."""
        return {
            "model": self.model,
            "how": self.how,
            "items": self.items,
            "dropped": len(self.dropped),
            "seconds": round(self.seconds, 3),
        }


def reembed_collection(
    collection: Collection,
    model: str | Path,
    *,
    drop_missing: bool = False,
    progress: Progress | None = None,
) -> Reembedded:
    """Move a collection to another model.

    With a model that was aligned with the collection's own, the stored vectors are mapped and no
    source is needed. With any other each item is encoded anew, from the text that is stored or
    from its file if that did not change since.

    Args:
        collection: What to move.
        model: The name or path of the model.
        drop_missing: Delete the items that cannot be encoded, and list them as failures.
        progress: Told of each item.

    Raises:
        Conflict: Items cannot be encoded, and not ``drop_missing``: nothing was changed. Or
            another process does the same.
        NotFound: No such model, or not all of it is here.
        CheckpointError: The model is damaged, or cannot encode a modality.
        CorruptData: Rows are damaged.
    """
    started = time.monotonic()
    new, name = load_model(model), full_name(model)
    store, folder = collection.store, collection.directory / STAGE
    dropped: list[Problem] = []
    with store.snapshot() as snapshot:
        old, called = snapshot.fingerprint, snapshot.model
    how: Literal["mapped", "encoded", "unchanged"] = "unchanged"
    with disk_errors(folder), durable.held_folder(folder, "another process moves this collection"):
        if new.fingerprint() == old:
            if called != name:  # the same model, in another place now
                with store.write(fingerprint=old) as writer:
                    writer.set_model(name, old)
        else:
            mapping = new.map_from(old)
            if mapping is not None:
                how = "mapped"
                with store.write(fingerprint=old) as writer:
                    _map_rows(writer, mapping)
                    writer.set_model(name, new.fingerprint())
            else:
                how = "encoded"
                stage_folder = folder / new.fingerprint()[:16]
                with _stage(stage_folder, name, new.fingerprint()) as stage:
                    move = _Move(store, stage, new, progress or Silent())
                    dropped = move.run(name, old, drop_missing=drop_missing)
        # What is left of moves that were given up, and of this one.
        for path in sorted(folder.iterdir()):
            remove_store(path)
    collection.refresh_indexes()
    with store.snapshot() as snapshot:
        items = sum(count["items"] for count in snapshot.counts().values())
    return Reembedded(name, how, items, dropped, time.monotonic() - started)


def _map_rows(writer: Writer, mapping: VectorMap) -> None:
    """Write every row anew, through the map."""
    for modality in list(writer.state.row_files):
        blocks = whole_blocks(writer, modality)
        writer.replace_row_file(modality, _mapped(mapping, modality, blocks))


def _mapped(
    mapping: VectorMap, modality: Modality, blocks: Iterator[NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        rows = mapping(modality, block)
        if not are_unit(rows).all():
            raise CheckpointError(
                f"the map of {modality} leaves a vector without a direction", hint="align anew"
            )
        yield rows


# ---- encoding anew -------------------------------------------------------------------------------


@contextmanager
def _stage(folder: Path, model: str, fingerprint: str) -> Iterator[Store]:
    """Give the store in which the new vectors grow; one that is damaged is begun anew."""
    try:
        store = Store.open(folder)
    except (NotFound, CorruptData):
        remove_store(folder)
        store = Store.create(folder, model=model, fingerprint=fingerprint)
    with store:
        yield store


def _in_pages(keys: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(keys)
    while page := list(islice(rest, size)):
        yield page


class _Move:
    """One run of encoding a collection anew.

    Args:
        store: The collection's.
        stage: Where the new vectors grow.
        model: What encodes.
        progress: Told of each item.
    """

    def __init__(self, store: Store, stage: Store, model: Model, progress: Progress) -> None:
        self._store = store
        self._stage = stage
        self._model = model
        self._progress = progress
        # Why a content could not be encoded, by key and hash: it is not tried again.
        self._failed: dict[tuple[str, str | None], Problem] = {}

    def run(self, name: str, old: str, *, drop_missing: bool) -> list[Problem]:
        """Encode all, then let the new vectors take the place of the old ones."""
        with self._store.snapshot() as snapshot:
            # That the model lacks a modality is no reason to drop items, and is told before the
            # hours that the others take.
            for modality in snapshot.counts():
                self._model.encoder(modality)
            if not drop_missing:
                _refuse(list(_hopeless(snapshot)))
        while len(keys := self._lacking()) > FEW_ITEMS:
            self._encode(keys)
        with self._store.write(fingerprint=old) as writer:
            if keys := self._lacking():
                self._encode(keys)
            self._check_stage()
            lost = self._lost(writer)
            if not drop_missing:
                _refuse([problem for _, problem in lost])
            writer.lose_items([number for number, _ in lost], "the new model has no vector of it")
            with self._stage.snapshot() as stage:
                for modality in Modality:
                    writer.replace_segments(modality, _pages(writer, stage, modality))
            writer.set_model(name, self._model.fingerprint())
        return [problem for _, problem in lost]

    def _check_stage(self) -> None:
        """Check that the vectors are what was written, perhaps days ago."""
        with self._stage.snapshot() as stage:
            for modality in Modality:
                try:
                    for _ in whole_blocks(stage, modality):
                        pass
                except CorruptData as error:
                    raise CorruptData(
                        error.what,
                        hint=f"remove {self._stage.directory} and run the same command again",
                    ) from error

    def _compared(self, snapshot: Snapshot) -> Iterator[tuple[Known, bool]]:
        """Yield what is known of each item, and whether the stage has the vectors of its content.

        Args:
            snapshot: The collection, as it is to be compared.
        """
        keys = list(snapshot.iter_keys())
        with self._stage.snapshot() as stage:
            for page in _in_pages(keys, MANY_KEYS):
                staged = stage.known(page)
                for key, known in sorted(snapshot.known(page).items()):
                    there = staged.get(key)
                    yield (
                        known,
                        (
                            there is not None
                            and there.content_hash == known.content_hash
                            and there.modality == known.modality
                        ),
                    )

    def _lacking(self) -> list[str]:
        """Return the keys of what is still to be encoded."""
        with self._store.snapshot() as snapshot:
            return [
                known.key
                for known, is_there in self._compared(snapshot)
                if not is_there and (known.key, known.content_hash) not in self._failed
            ]

    def _lost(self, writer: Writer) -> list[tuple[int, Problem]]:
        """Return the ids of the items that could not be encoded, with the reasons."""
        return [
            (known.item_id, self._failed[known.key, known.content_hash])
            for known, is_there in self._compared(writer)
            if not is_there
        ]

    def _encode(self, keys: Sequence[str]) -> None:
        """Encode some items into the stage; write down why it could not be done for the others."""
        with self._stage.write() as writer:
            writer.delete(keys)  # vectors of contents that have changed since
        wanted: dict[str, tuple[str, str | None]] = {}
        pipeline = Pipeline(
            self._stage,
            self._model,
            # They were let in once, under whatever limits.
            limits=Limits(max_pixels=sys.maxsize, max_seconds=math.inf, max_bytes=sys.maxsize),
            progress=_Counted(self._progress, len(keys)),
        )
        report = pipeline.run(read_records(self._records(keys, wanted)))
        reasons = {problem.key: problem for problem in report.problems}
        with self._stage.snapshot() as stage:
            for page in _in_pages(wanted, MANY_KEYS):
                staged = stage.known(page)
                for key in page:
                    source, content_hash = wanted[key]
                    if key not in staged or staged[key].content_hash != content_hash:
                        self._failed[key, content_hash] = reasons.get(key, _changed(key, source))

    def _records(
        self, keys: Sequence[str], wanted: dict[str, tuple[str, str | None]]
    ) -> Iterator[Record | Problem]:
        """Yield what to encode, page by page, so that no transaction lasts as long as encoding.

        Args:
            keys: Of which items.
            wanted: Filled with each item's source and the hash that its content must have.
        """
        for page in _in_pages(keys, PAGE_KEYS):
            with self._store.snapshot() as snapshot:
                items, known = snapshot.find(page), snapshot.known(page)
            for key in page:
                if key in items:
                    item, facts = items[key], known[key]
                    wanted[key] = (item.source or key, facts.content_hash)
                    yield _record(item, facts)


class _Counted:
    """A progress that knows how many steps there will be."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self.advance = progress.advance
        self.finish = progress.finish

    def start(self, total: int | None, label: str) -> None:  # noqa: ARG002  a pipeline's
        """Begin the stage."""
        self._progress.start(self._total, "encoding")


def _record(item: Item, known: Known) -> Record | Problem:
    """Return what to encode an item from: its stored text, or its file."""
    text = item.text if _is_hashed(item.text, known.content_hash) else None
    if text is None and item.source is None:
        return _no_source(item.key, item.source)
    return Record(
        key=item.key,
        modality=item.modality,
        origin=item.source or item.key,
        path=None if text is not None or item.source is None else Path(item.source),
        text=text,
    )


def _is_hashed(text: str | None, known_hash: str | None) -> bool:
    """Whether a hash is that of this text."""
    return text is not None and hash_content(text.encode()) == known_hash


def _hopeless(snapshot: Snapshot) -> Iterator[Problem]:
    """Yield the items that have neither their text nor a file of their own."""
    for page in _in_pages(list(snapshot.iter_keys()), PAGE_KEYS):
        known = snapshot.known(page)
        for key, item in sorted(snapshot.find(page).items()):
            if not _is_hashed(item.text, known[key].content_hash):
                if _has_changed(item, known[key]):
                    yield _changed(key, str(item.source))
                elif not _has_file(item, known[key]):
                    is_there = item.source is not None and not is_gone(item.source)
                    yield _no_source(key, None if is_there else item.source)


def _has_file(item: Item, known: Known) -> bool:
    """Whether an item came from its source, which is still there.

    Of an import nothing is known of the file itself, nor of a ready vector that names one: the hash
    tells whether it is that of the file.
    """
    if item.source is None or is_gone(item.source):
        return False
    if known.size is not None:
        return True
    try:
        return hash_content(Path(item.source).read_bytes()) == known.content_hash
    except (OSError, ValueError):
        return False


def _has_changed(item: Item, known: Known) -> bool:
    """Whether an item's file is there with another size, so that it need not be read to know."""
    if item.source is None or known.size is None:
        return False
    try:
        return Path(item.source).stat().st_size != known.size
    except (OSError, ValueError):
        return False


def _changed(key: str, source: str) -> Problem:
    what = f"{key}: {source} has changed since it was added"
    return Problem(source, what, "bring the collection up to date with `muomni add`", key)


def _no_source(key: str, source: str | None) -> Problem:
    what = "it came as a ready vector" if source is None else f"{source} is gone"
    return Problem(source or key, f"{key}: {what}", "add it again, from its source", key)


def _refuse(problems: Sequence[Problem]) -> None:
    """Refuse to lose items.

    Raises:
        Conflict: There are some.
    """
    if problems:
        named = "; ".join(problem.error for problem in problems[:NAMED])
        more = f"; and {len(problems) - NAMED:,} more" if len(problems) > NAMED else ""
        items = "item" if len(problems) == 1 else "items"
        raise Conflict(
            f"{len(problems):,} {items} cannot be encoded anew: {named}{more}",
            hint="bring their sources back as they were, or drop them with --drop-missing (after "
            "the move `muomni add` takes in what has changed); the collection is as it was",
        )


def _pages(
    writer: Writer, stage: Snapshot, modality: Modality
) -> Iterator[tuple[NDArray[np.float32], list[tuple[int, int, Span | None]]]]:
    """Yield the staged vectors of a modality's items, with what each is of."""
    vectors = stage.vectors(modality)
    for page in _in_pages(list(writer.iter_keys(modality)), MANY_KEYS):
        ids, rows = writer.item_ids(page), stage.item_rows(page)
        numbers = np.concatenate([rows[key][1] for key in page])
        spans = iter(stage.matches(modality, numbers))
        segments = [
            (ids[key], ordinal, next(spans).span)
            for key in page
            for ordinal in range(len(rows[key][1]))
        ]
        yield vectors[numbers], segments
