"""A collection: the one place where encoders, store and index meet.

    with Collection.open("indexes/birds") as birds:
        hits = birds.query(Query.text("a robin at dawn"), k=10, modality="audio")

Whatever a query reads (rows, dead rows, index, items) comes from one snapshot, a ``View``; a
commit or a rebuild in between is not seen by it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from muomni_search import frames, indexing
from muomni_search.closing import Closing
from muomni_search.encoders.model import is_name, load_model
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError, Conflict, InvalidInput, MuomniError, NotFound
from muomni_search.filters import parse_field, parse_filter
from muomni_search.hits import Hits
from muomni_search.ingest.read import Limits
from muomni_search.items import Item, Modality, Problem, Query, Record
from muomni_search.store.fields import lacking_fields, summarise_fields
from muomni_search.store.files import is_own, own_bytes
from muomni_search.store.records import Compacted, Failure, Fault, Purged
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.store import Store
from muomni_search.view import (
    Loaded,
    Modalities,
    View,
    Where,
    check_page,
    modalities_of,
    not_there,
    several,
)

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from muomni_search.ingest.manifest import Corpus, Skipped
    from muomni_search.ingest.rows import ArrowStream
    from muomni_search.pipeline import Report
    from muomni_search.progress import Progress

__all__ = ["Collection", "Limits", "Modalities", "View", "Where"]


class Collection(Closing):
    """Items of three modalities in one space, with their vectors, on disk.

    Made by ``create`` or ``open``; usable from several threads; close it, or use it as a
    context manager.
    """

    def __init__(
        self,
        store: Store,
        load: Callable[[Snapshot], Model],
        limits: Limits | None = None,
        *,
        once: bool = False,
    ) -> None:
        self._store = store
        self._loaded = Loaded(store.directory, load, limits or Limits(), once=once)

    # ---- life ----------------------------------------------------------------------------

    @classmethod
    def create(cls, directory: str | Path, *, model: str | Path = "base") -> Self:
        """Make an empty collection for the vectors of one model.

        Raises:
            Conflict: There is one already.
            NotFound: No such model.
        """
        loaded = load_model(model)
        store = Store.create(
            Path(directory), model=full_name(model), fingerprint=loaded.fingerprint()
        )
        collection = cls(store, _loader(store.directory, None, load_model))
        collection._loaded.keep(loaded)
        return collection

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        model: str | Path | None = None,
        salvage: bool = False,
        load: Callable[[str | Path], Model] = load_model,
        limits: Limits | None = None,
        once: bool = False,
    ) -> Self:
        """Open a collection.

        Args:
            directory: Where it is.
            model: The model to encode with; by default the one it was made with.
            salvage: Open one too that an earlier version made and that is too damaged to be brought
                up to date: ``export_collection`` with ``left_out`` is all that it is good for.
            load: What loads models, for programs in which several collections share one.
            limits: What a single file may cost, of queries and where ``add`` is told no others.
            once: For a program that asks one query and ends: up to 150,000 rows, of all
                modalities, are all compared where FAISS is not imported, which takes longer.

        Raises:
            NotFound: There is none.
            Conflict: The model is not the one that the collection's vectors came from.
            CorruptData: It is damaged, foreign, or of a newer version.
        """
        store = Store.open(Path(directory), salvage=salvage)
        collection = cls(store, _loader(store.directory, model, load), limits, once=once)
        try:
            try:
                _ = collection.model
            except (NotFound, CheckpointError, Conflict):
                # Ids, vectors and look-ups need no model; encoding will say what is wrong with it.
                if model is not None:
                    raise
        except BaseException:
            store.close()
            raise
        return collection

    @property
    def directory(self) -> Path:
        """Where the collection is."""
        return self._store.directory

    @property
    def store(self) -> Store:
        """The store behind it, for jobs that keep their own books there."""
        return self._store

    @property
    def model(self) -> Model:
        """The model that encodes; loaded at its first use."""
        with self._store.snapshot() as snapshot:
            return self._loaded.model(snapshot)

    def close(self) -> None:
        """Let go of the files."""
        self._loaded.forget()
        self._store.close()

    # ---- writing -------------------------------------------------------------------------

    def add(
        self,
        corpus: Corpus | Iterable[Record | Problem | Skipped | Mapping[str, Any]] | ArrowStream,
        *,
        prune_roots: Sequence[Path] = (),
        force: bool = False,
        dry_run: bool = False,
        strict: bool = False,
        limits: Limits | None = None,
        progress: Progress | bool | None = None,
    ) -> Report:
        """Bring the collection up to date with a corpus.

        Args:
            corpus: What ``read_corpus`` returns; or records, dicts, an Arrow table or a data frame
                of your own (see ``read_records``).
            prune_roots: Folders whose vanished files are removed from the collection.
            force: Remove them even when more than half of a folder vanished.
            dry_run: Say what would happen, and do nothing.
            strict: Stop at the first input that cannot be used.
            limits: What a single file may cost; by default what ``open`` was told.
            progress: Told of each record; True for a bar on stderr or in the notebook.

        Returns:
            The counts, and the inputs that could not be used with their reasons.

        Raises:
            UnreadableFile: An input cannot be used, and ``strict``.
            Conflict: Another writer holds the collection; or too much would be pruned.
        """
        # Here, because a search waits for no reader of tables and folders.
        from muomni_search.ingest.manifest import Corpus, read_records
        from muomni_search.pipeline import Pipeline, prune

        with _told(progress, corpus) as told:
            pipeline = Pipeline(
                self._store,
                self.model,
                limits=limits or self._loaded.limits,
                strict=strict,
                dry_run=dry_run,
                progress=told,
            )
            report = pipeline.run(corpus if isinstance(corpus, Corpus) else read_records(corpus))
        report.removed = prune(
            self._store,
            prune_roots,
            force=force,
            dry_run=dry_run,
            moved=pipeline.moved_keys if dry_run else (),
        )
        if not dry_run:
            self.refresh_indexes()
        return report

    def delete(self, keys: str | Sequence[str] = (), *, where: Where = None) -> int:
        """Delete items by key (one or several) or by filter; return how many.

        They are found no more, but their bytes stay until dead rows are many: see ``compact`` and
        ``purge``.

        Raises:
            InvalidInput: Keys and a filter at once; nothing was deleted.
            NotFound: A key is not there; nothing was deleted.
        """
        doomed = set(_doomed(keys, where))
        with self._store.write() as writer:
            missing = doomed - writer.item_ids(list(doomed)).keys()
            if missing:
                raise not_there(sorted(missing), self.directory)
            if where is not None:
                doomed |= {item.key for item in writer.iter_items(parse_filter(where))}
            deleted = writer.delete(sorted(doomed))
        self.refresh_indexes()
        return deleted

    def compact(self) -> Compacted:
        """Give back the disk that replaced and deleted items still take.

        The live rows of each modality with dead ones are written anew, in their order, and SQLite's
        pages too. Every answer stays what it was; readers go on with what they see.

        Raises:
            CorruptData: Rows are damaged; nothing was changed.
            MuomniError: The disk has no room for the live rows once more.
        """
        from muomni_search.store.compact import compact_rows

        before = own_bytes(self.directory)
        rows: dict[Modality, tuple[int, int]] = {}
        with self._store.write() as writer:
            for modality in Modality:
                old = writer.row_file(modality)
                compact_rows(writer, modality)
                new = writer.row_file(modality)
                rows[modality] = (old.rows if old else 0, new.rows if new else 0)
        self.refresh_indexes()
        remains = self._store.vacuum()
        return Compacted(rows, before, own_bytes(self.directory), remains)

    def purge(self, keys: str | Sequence[str] = (), *, where: Where = None) -> Purged:
        """Delete items by key or by filter, and every byte that was kept of them in the directory.

        Files that were uploaded to a server for them go too; those of other folders stay.

        Whatever was deleted or replaced before goes as well, so that without ``keys`` it finishes
        what ``delete`` began, and called again what was disturbed. A key that is not there is no
        error: nothing of it is there afterwards either.

        Returns:
            How many items were deleted, which keys were not there, and which files may still hold
            deleted bytes because others are using them or they cannot be removed.

        Raises:
            InvalidInput: Keys and a filter at once; nothing was changed.
            CorruptData: Rows are damaged; nothing was changed.
            MuomniError: The disk is full, or cannot be written to.
        """
        from muomni_search.store.compact import purge

        purged = purge(self._store, _doomed(keys, where), parse_filter(where))
        self._loaded.forget()
        self.refresh_indexes()
        return purged

    def rebuild(
        self, modality: Modalities = None, *, kind: str = "auto"
    ) -> dict[Modality, dict[str, Any]]:
        """Build the indexes anew from the rows; return what each modality has now.

        Args:
            modality: Which; all by default.
            kind: ``exact`` for none, ``ann`` for a 4-bit scan, ``auto`` to choose by size.

        Raises:
            InvalidInput: Another kind.
        """
        if kind not in indexing.CHOICES:
            raise InvalidInput(f"{kind!r} is no kind", hint=f"one of {', '.join(indexing.CHOICES)}")
        return {one: indexing.build(self._store, one, kind) for one in modalities_of(modality)}

    def refresh_indexes(self) -> None:
        """Leave dead rows out where they are many; build indexes that lag behind their rows."""
        indexing.refresh(self._store)

    def tune(
        self, *, recall: float | None = None, memory: int | None = None
    ) -> dict[Modality, dict[str, Any]]:
        """Measure the indexes on queries of every modality; return what each holds to now.

        Args:
            recall: The share of the ten best that answers by an index hold on average, with 95 %
                confidence, from now on; 1 for no index. By default as before, 0.95 at first.
            memory: Bytes that the indexes may keep in memory, all together; 0 for any. By default
                as before, any at first.

        Raises:
            InvalidInput: A recall that is no share, or less memory than none.
        """
        indexing.tune(self._store, recall=recall, memory=memory)
        with self._store.snapshot() as snapshot:
            return {one: indexing.describe(snapshot, one) for one in Modality}

    # ---- reading -------------------------------------------------------------------------

    @contextmanager
    def view(self) -> Iterator[View]:
        """Give one consistent view of the collection, for as long as it is held."""
        with self._store.snapshot() as snapshot:
            yield View(self.directory, self._loaded, snapshot)

    def get(self, keys: str | Sequence[str], *, vectors: bool = False) -> list[Item]:
        """Return the items of ``keys`` (one or several), in that order; with vectors on demand.

        Raises:
            NotFound: A key is not there.
        """
        with self.view() as view:
            return view.get(several(keys), vectors=vectors)

    def items(
        self,
        *,
        where: Where = None,
        modality: Modalities = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Iterator[Item]:
        """Yield items by key; with ``after`` those that come behind this key.

        Raises:
            InvalidInput: A bad filter, modality or limit.
        """
        check_page(limit, after)
        wanted = None if modality is None else modalities_of(modality)
        with self._store.snapshot() as snapshot:
            yield from snapshot.iter_items(parse_filter(where), wanted, limit=limit, after=after)

    def to_arrow(
        self, *, where: Where = None, modality: Modalities = None, vectors: bool = True
    ) -> pa.Table:
        """Return the items as an Arrow table, a row an item, by key.

        The columns are those that ``add`` takes back: ``key``, ``modality``, ``source``, ``text``,
        ``metadata`` (JSON, as in an export) and ``vector``.

        Args:
            where: Only items that this filter matches.
            modality: Only items of these modalities.
            vectors: With ``vector``, a FixedSizeList of 256 floats: the unit mean of the item's
                segments. The table shares one NumPy array; nothing is copied a row.
        """
        wanted = None if modality is None else modalities_of(modality)
        with self._store.snapshot() as snapshot:
            return frames.items_to_arrow(snapshot, parse_filter(where), wanted, vectors=vectors)

    def to_pandas(
        self, *, where: Where = None, modality: Modalities = None, vectors: bool = True
    ) -> pd.DataFrame:
        """Return the items as a data frame; see ``to_arrow``. Here ``metadata`` holds dicts.

        Raises:
            NotFound: pandas is not installed.
        """
        return frames.to_pandas(self.to_arrow(where=where, modality=modality, vectors=vectors))

    def count(self, *, where: Where = None) -> dict[Modality, int]:
        """Return how many items of each modality a filter lets through."""
        with self._store.snapshot() as snapshot:
            return snapshot.count_items(parse_filter(where))

    def query(
        self,
        query: Query | str,
        k: int = 10,
        *,
        offset: int = 0,
        modality: Modalities = None,
        where: Where = None,
        min_score: float | Literal["auto"] | None = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
    ) -> Hits:
        """Return the best hits for a query: exactly min(k, what matches) of them.

        Args:
            query: What to look for, a sum of words, pictures, sounds, items and vectors; a string
                is words.
            k: How many hits.
            offset: How many of the best to leave out before them. Pages of the same k make one
                list; for those behind the first all rows are compared, and what an index did not
                find for the first comes there.
            modality: Only items of these modalities.
            where: Only items that this filter matches (docs/reference/filters.md).
            min_score: Only hits with at least this calibrated score; ``auto`` for hits that stand
                out from what is unrelated: a query whose answer is not there gets none of a
                modality in nine cases of ten.
            exact: Compare with every row, whatever index there is.
            segments: Make every segment a hit, not only the best one of an item.
            include_self: Keep the items that the query itself names.

        Returns:
            Hits by score, then key; scores never increase, but where the first page by an index
            ends. A list that notebooks show as pictures, players and passages; ``to_arrow`` and
            ``to_pandas`` make tables of it.

        Raises:
            InvalidInput: A bad query, k or filter.
            NotFound: The query names an item that is not there.
        """
        return self.query_many(
            [query],
            k,
            offset=offset,
            modality=modality,
            where=where,
            min_score=min_score,
            exact=exact,
            segments=segments,
            include_self=include_self,
        )[0]

    def query_many(
        self,
        queries: Sequence[Query | str],
        k: int = 10,
        *,
        offset: int = 0,
        modality: Modalities = None,
        where: Where = None,
        min_score: float | Literal["auto"] | None = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
    ) -> list[Hits]:
        """Answer several queries from one view; see ``query``."""
        if isinstance(queries, str):
            raise InvalidInput("a text is no list of queries", hint="ask it with query")
        asked = [Query.text(query) if isinstance(query, str) else query for query in queries]
        with self._store.snapshot() as snapshot:
            answers = View(self.directory, self._loaded, snapshot).search(
                asked,
                k,
                offset=offset,
                modality=modality,
                where=where,
                min_score=min_score,
                exact=exact,
                segments=segments,
                include_self=include_self,
            )
        return list(map(Hits, answers))

    def resolve(self, query: Query) -> NDArray[np.float32]:
        """Return the unit vector (256,) that a query stands for."""
        with self.view() as view:
            vector = view.resolve_many([query])[0]
        if isinstance(vector, MuomniError):
            raise vector
        return vector

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return the metadata fields as filters spell them: of how many items, types, indexed.

        Every item is looked at. Types are those of JSON; an object's fields stand for it.
        """
        with self._store.snapshot() as snapshot:
            return summarise_fields(snapshot)

    def lacking_fields(self, where: Where) -> dict[str, list[str]]:
        """Return the metadata fields of a filter that no item has, and to each those spelled alike.

        What to look at where a filter lets nothing through: ``yaer > 1990`` is no error.
        """
        condition = parse_filter(where)
        if condition is None:
            return {}
        with self._store.snapshot() as snapshot:
            return lacking_fields(snapshot, condition)

    def index_fields(self, fields: str | Sequence[str], *, drop: str | Sequence[str] = ()) -> None:
        """Keep an index of metadata fields, so that a filter on one need not read every item.

        Args:
            fields: Which, as filters spell them.
            drop: The fields to keep none of any more; the fields themselves stay.

        Raises:
            InvalidInput: No field as filters spell them, or none of the metadata; nothing was done.
            NotFound: A field to drop has none; nothing was done.
        """
        added = [parse_field(field) for field in several(fields)]
        dropped = {parse_field(field): field for field in several(drop)}
        with self._store.write() as writer:
            lacking = dropped.keys() - {*writer.indexed_fields(), *added}
            if lacking:
                raise NotFound(f"no index of {', '.join(sorted(dropped[one] for one in lacking))}")
            for one in added:
                writer.index_field(one)
            for one in dropped:
                writer.drop_field_index(one)

    def drop_field_indexes(self, fields: Sequence[str]) -> None:
        """Forget the indexes of metadata fields; the fields themselves stay.

        Raises:
            NotFound: A field has none; nothing was done.
        """
        self.index_fields((), drop=fields)

    def failures(self) -> list[Failure]:
        """Return the inputs that could not be used, with cause and mend."""
        with self._store.snapshot() as snapshot:
            return snapshot.failures()

    def stats(self) -> dict[str, Any]:
        """Return counts, sizes, the model and the index, for each modality and in sum.

        ``blas`` is the processor whose instructions FAISS's matrix products use; None where no
        modality has an index, for then FAISS is not loaded to be asked.
        """
        with self._store.snapshot() as snapshot:
            model = {"name": str(snapshot.model), "fingerprint": snapshot.fingerprint}
            counts = snapshot.counts()
            parts = {str(one): self._modality_stats(snapshot, one, counts) for one in Modality}
            has_index = bool(snapshot.state.index_files)
        sums = {
            name: sum(part[name] for part in parts.values())
            for name in ("items", "segments", "bytes")
        }
        return {
            **sums,
            "model": model,
            "blas": _blas_core() if has_index else None,
            **{name: {**part, "model": model} for name, part in parts.items()},
        }

    def _modality_stats(
        self, snapshot: Snapshot, modality: Modality, counts: Mapping[Modality, Mapping[str, int]]
    ) -> dict[str, Any]:
        file = snapshot.row_file(modality)
        count = counts.get(modality, {})
        rows = file.rows if file else 0
        return {
            "items": count.get("items", 0),
            "segments": count.get("segments", 0),
            "rows": rows,
            "dead": file.dead if file else 0,
            "bytes": file.path.stat().st_size if file and file.path.exists() else 0,
            "index": indexing.describe(snapshot, modality),
        }

    # ---- outputs ---------------------------------------------------------------------------

    def check_output(self, path: Path) -> None:
        """Refuse to write an answer over one of the collection's own files.

        Raises:
            InvalidInput: It is one of them, or would lie among them.
        """
        if is_own(self.directory, path):
            raise InvalidInput(
                f"{path} is where {self.directory} keeps its own files", hint="name another file"
            )

    # ---- checking and copying ------------------------------------------------------------

    def verify(self) -> list[Fault]:
        """Hold store, row files and indexes against each other; return what does not fit."""
        return list(self._store.problems())

    def repair(self) -> list[str]:
        """Mend what can be derived; return a line for each thing done.

        Indexes are built anew from the rows. Items whose rows are damaged are encoded again, from
        the text that is stored or from a file that did not change since; the others become
        failures, which the next ``add`` of their files encodes again.

        Raises:
            NotFound: The model is not here, or not all of it; nothing was changed.
        """
        from muomni_search.pipeline import encode_again

        done = self._store.repair(lambda items: list(encode_again(self.model, items)))
        self._loaded.forget()
        self.refresh_indexes()
        return done

    def backup(
        self, target: str | Path, *, copied: Callable[[int], None] = lambda _: None
    ) -> dict[str, int]:
        """Copy one state of the collection, while others read and write it.

        Args:
            target: The new directory, which must be empty or not there; it is there when it is
                whole.
            copied: Told of each number of rows that is copied.

        Returns:
            ``items`` and ``bytes`` of the copy.

        Raises:
            Conflict: There is something in its place.
            CorruptData: The collection is damaged; there is no copy then.
        """
        from muomni_search.store.backup import back_up

        return back_up(self._store, Path(target), copied=copied)


@contextmanager
def _told(progress: Progress | bool | None, corpus: object) -> Iterator[Progress | None]:
    """Give what is told of the records; a bar that knows how many there are, where they say so."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        from muomni_search.bar import Bar

        with Bar("items", lambda: len(corpus) if isinstance(corpus, Sized) else None) as bar:
            yield bar


def _blas_core() -> str:
    from muomni_search.index.faiss_index import blas_core

    return blas_core()


def full_name(model: str | Path) -> str:
    """Return what a collection calls a model: its name, or the absolute path of its files."""
    return str(model) if is_name(model) else str(Path(model).resolve())


def _loader(
    directory: Path, model: str | Path | None, load_named: Callable[[str | Path], Model]
) -> Callable[[Snapshot], Model]:
    """Return what loads the model of a collection, by default the one that a snapshot names.

    What it returns raises NotFound or CheckpointError where there is no such model, and Conflict
    where there is another one.
    """
    opened_with: str | None = None
    place = shlex.quote(str(directory))

    def load(snapshot: Snapshot) -> Model:
        nonlocal opened_with
        opened_with = opened_with or snapshot.fingerprint
        # A collection that has moved to another model since it was opened says which one itself.
        has_moved = snapshot.fingerprint != opened_with
        try:
            loaded = load_named(snapshot.model if model is None or has_moved else model)
        except NotFound as error:
            if model is not None:
                raise
            raise NotFound(
                f"{directory}: its model is not there: {error.what}",
                hint=f"where it lies elsewhere now: muomni reembed --model PATH -c {place}",
            ) from error
        if loaded.fingerprint() != snapshot.fingerprint:
            files = snapshot.state.row_files.values()
            is_empty = all(file.rows == file.dead for file in files)
            raise Conflict(
                f"{directory} {'is empty and' if is_empty else 'holds vectors'} of the model "
                f"{snapshot.model!r} "
                f"({snapshot.fingerprint[:12]}), not of {loaded.name!r} "
                f"({loaded.fingerprint()[:12]})",
                hint=f"move it: muomni reembed --model {shlex.quote(snapshot.model)} -c {place}"
                if model is None or str(model) == snapshot.model  # its own, of another version
                else f"give its own model with --model{f', or: muomni drop -c {place}' * is_empty}",
            )
        return loaded

    return load


def _doomed(keys: str | Sequence[str], where: Where) -> list[str]:
    """Return the keys of what is to be deleted.

    Raises:
        InvalidInput: There is a filter too. Whether it is to take fewer of them or others besides
            is not to be guessed.
    """
    named = several(keys)
    if named and where is not None:
        raise InvalidInput("keys and a filter at once", hint="delete by keys, or by a filter")
    return named
