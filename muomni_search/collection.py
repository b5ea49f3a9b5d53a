"""A collection: the one place where encoders, store and index meet.

    with Collection.open("indexes/birds") as birds:
        hits = birds.query(Query.text("a robin at dawn"), k=10, modality="audio")

Whatever a query reads (rows, dead rows, index, items) comes from one snapshot, a ``View``; a
commit or a rebuild in between is not seen by it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from muomni_search import ranking
from muomni_search.encoders.model import Model, load_model
from muomni_search.errors import Conflict, CorruptData, InvalidInput, MuomniError, NotFound
from muomni_search.filters import Filter, parse_filter
from muomni_search.index import files as index_files
from muomni_search.index import planner
from muomni_search.index.protocol import VectorIndex
from muomni_search.ingest.folder import Skipped
from muomni_search.ingest.read import Limits, read_content
from muomni_search.items import Hit, Item, Modality, Part, Problem, Query, Record, Span
from muomni_search.pipeline import Pipeline, Progress, Report, prune
from muomni_search.store.store import Failure, Fault, IndexFile, Snapshot, Store
from muomni_search.vectors import check_vectors, combine, mean_vector

__all__ = ["Collection", "Limits", "Ranked", "Report", "View"]

Modalities = Modality | str | Sequence[Modality | str] | None
Where = str | Mapping[str, Any] | None

# The next try fetches this many times more when too many rows belonged to items already seen.
WIDEN = 4


class Ranked(NamedTuple):
    """A row found, before its item is looked up: what a batch job writes."""

    score: float
    cosine: float
    key: str
    item_id: int
    modality: Modality
    span: Span | None
    how: str


class Collection:
    """Items of three modalities in one space, with their vectors, on disk.

    Made by ``create`` or ``open``; usable from several threads; close it, or use it as a
    context manager.
    """

    def __init__(self, store: Store, model: str | Path, *, loaded: Model | None = None) -> None:
        self._store = store
        self._model_name = model
        self._model = loaded
        self._lock = threading.RLock()
        self._indexes: dict[Modality, tuple[str, VectorIndex]] = {}
        self._samples: dict[Modality, tuple[tuple[int, int], NDArray[np.float32]]] = {}

    # ---- life ----------------------------------------------------------------------------

    @classmethod
    def create(cls, directory: str | Path, *, model: str | Path = "base") -> Self:
        """Make an empty collection for the vectors of one model.

        Raises:
            Conflict: There is one already.
            NotFound: No such model.
        """
        loaded = load_model(model)
        name = str(model) if loaded.name == model else str(Path(model).resolve())
        store = Store.create(Path(directory), model=name, fingerprint=loaded.fingerprint())
        return cls(store, name, loaded=loaded)

    @classmethod
    def open(cls, directory: str | Path, *, model: str | Path | None = None) -> Self:
        """Open a collection.

        Args:
            directory: Where it is.
            model: The model to encode with; by default the one it was made with.

        Raises:
            NotFound: There is none.
            Conflict: The model is not the one that the collection's vectors came from.
            CorruptData: It is damaged, foreign, or of a newer version.
        """
        store = Store.open(Path(directory))
        try:
            with store.snapshot() as snapshot:
                made_with, fingerprint = snapshot.model, snapshot.fingerprint
            loaded = None
            try:
                loaded = load_model(made_with if model is None else model)
            except NotFound:
                # Ids, vectors and look-ups need no model; encoding will say that it is gone.
                if model is not None:
                    raise
            if loaded is not None and loaded.fingerprint() != fingerprint:
                raise Conflict(
                    f"{directory} holds vectors of the model {made_with!r} "
                    f"({fingerprint[:12]}), not of {loaded.name!r} "
                    f"({loaded.fingerprint()[:12]})",
                    hint="give its own model with --model, or make a new collection",
                )
        except BaseException:
            store.close()
            raise
        return cls(store, made_with if model is None else model, loaded=loaded)

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
        with self._lock:
            if self._model is None:
                self._model = load_model(self._model_name)
            return self._model

    def close(self) -> None:
        """Let go of the files."""
        self._indexes.clear()
        self._samples.clear()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- writing -------------------------------------------------------------------------

    def add(
        self,
        corpus: Iterable[Record | Problem | Skipped],
        *,
        prune_roots: Sequence[Path] = (),
        force: bool = False,
        dry_run: bool = False,
        strict: bool = False,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Bring the collection up to date with a corpus.

        Args:
            corpus: What ``read_corpus`` yields.
            prune_roots: Folders whose vanished files are removed from the collection.
            force: Remove them even when more than half of a folder vanished.
            dry_run: Say what would happen, and do nothing.
            strict: Stop at the first input that cannot be used.
            limits: What a single file may cost.
            progress: Told of each record.

        Returns:
            The counts, and the inputs that could not be used with their reasons.

        Raises:
            UnreadableFile: An input cannot be used, and ``strict``.
            Conflict: Another writer holds the collection; or too much would be pruned.
        """
        pipeline = Pipeline(
            self._store,
            self.model,
            limits=limits or Limits(),
            strict=strict,
            dry_run=dry_run,
            progress=progress,
        )
        report = pipeline.run(corpus)
        report.removed = prune(self._store, prune_roots, force=force, dry_run=dry_run)
        if not dry_run:
            self.refresh_indexes()
        return report

    def delete(self, keys: Sequence[str] = (), *, where: Where = None) -> int:
        """Delete items by key, by filter, or both; return how many.

        Raises:
            NotFound: A key is not there; nothing was deleted.
        """
        with self._store.write() as writer:
            doomed = set(keys)
            missing = doomed - writer.item_ids(list(doomed)).keys()
            if missing:
                raise NotFound(f"no item {', '.join(sorted(missing))} in {self.directory}")
            if where is not None:
                doomed |= {item.key for item in writer.iter_items(parse_filter(where))}
            return writer.delete(sorted(doomed))

    def rebuild(
        self, modality: Modalities = None, *, kind: str = "auto"
    ) -> dict[Modality, dict[str, Any]]:
        """Build the indexes anew from the rows; return what each modality has now.

        Args:
            modality: Which; all by default.
            kind: ``exact`` for none, ``ann`` for a 4-bit scan, ``auto`` to choose by size.
        """
        done = {}
        for one in _modalities(modality):
            done[one] = self._build(one, kind)
        return done

    def refresh_indexes(self) -> None:
        """Build the indexes that have fallen too far behind their rows."""
        for modality in Modality:
            with self._store.snapshot() as snapshot:
                file = snapshot.row_file(modality)
                index = snapshot.index_file(modality)
            if file is not None and planner.is_index_due(
                rows=file.rows, covered=index.rows if index else 0
            ):
                self._build(modality, "auto")

    def _build(self, modality: Modality, kind: str) -> dict[str, Any]:
        with self._store.snapshot() as snapshot:
            file = snapshot.row_file(modality)
            vectors = snapshot.vectors(modality)
        chosen = planner.choose_kind(len(vectors)) if kind == "auto" else kind
        if file is None or chosen == "exact" or not len(vectors):
            with self._store.write() as writer:
                writer.drop_index(modality)
            return {"kind": "exact", "rows": 0}
        index = planner.build_index(vectors)
        saved = index_files.save(index, self.directory / "index", f"{modality}.{file.generation}")
        with self._store.write() as writer:
            writer.set_index(
                IndexFile(
                    modality=modality,
                    generation=file.generation,
                    name=saved.name,
                    kind=index.kind,
                    rows=index.rows,
                    bytes=saved.bytes,
                    checksum=saved.checksum,
                    params=saved.params,
                )
            )
        return {"kind": index.kind, "rows": index.rows, "bytes": saved.bytes}

    # ---- reading -------------------------------------------------------------------------

    @contextmanager
    def view(self) -> Iterator[View]:
        """Give one consistent view of the collection, for as long as it is held."""
        with self._store.snapshot() as snapshot:
            yield View(self, snapshot)

    def get(self, keys: Sequence[str], *, vectors: bool = False) -> list[Item]:
        """Return the items of ``keys``, in that order; with vectors on demand.

        Raises:
            NotFound: A key is not there.
        """
        with self.view() as view:
            return view.get(keys, vectors=vectors)

    def items(
        self, *, where: Where = None, modality: Modalities = None, limit: int | None = None
    ) -> Iterator[Item]:
        """Yield items by key."""
        wanted = None if modality is None else _modalities(modality)
        with self._store.snapshot() as snapshot:
            yield from snapshot.iter_items(parse_filter(where), wanted, limit=limit)

    def query(
        self,
        query: Query,
        k: int = 10,
        *,
        offset: int = 0,
        modality: Modalities = None,
        where: Where = None,
        min_score: float | None = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
    ) -> list[Hit]:
        """Return the best hits for a query: exactly min(k, what matches) of them.

        Args:
            query: What to look for, a sum of words, pictures, sounds, items and vectors.
            k: How many hits.
            offset: How many of the best to leave out before them.
            modality: Only items of these modalities.
            where: Only items that this filter matches (docs/reference/filters.md).
            min_score: Only hits with at least this calibrated score.
            exact: Compare with every row, whatever index there is.
            segments: Make every segment a hit, not only the best one of an item.
            include_self: Keep the items that the query itself names.

        Returns:
            Hits by score, then key; scores never increase.

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
        queries: Sequence[Query],
        k: int = 10,
        *,
        offset: int = 0,
        modality: Modalities = None,
        where: Where = None,
        min_score: float | None = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
    ) -> list[list[Hit]]:
        """Answer several queries from one view; see ``query``."""
        if k < 1 or offset < 0:
            raise InvalidInput(f"k must be 1 or more and offset 0 or more, not {k} and {offset}")
        with self.view() as view:
            answers = []
            for query, vector in zip(queries, view.resolve_many(queries), strict=True):
                if isinstance(vector, MuomniError):
                    raise vector
                ranked = view.rank(
                    query,
                    vector,
                    k + offset,
                    modality=modality,
                    where=where,
                    exact=exact,
                    segments=segments,
                    include_self=include_self,
                )[offset:]
                if min_score is not None:
                    ranked = [found for found in ranked if found.score >= min_score]
                answers.append(view.hits(ranked, first_rank=offset + 1))
        return answers

    def resolve(self, query: Query) -> NDArray[np.float32]:
        """Return the unit vector (256,) that a query stands for."""
        with self.view() as view:
            vector = view.resolve_many([query])[0]
        if isinstance(vector, MuomniError):
            raise vector
        return vector

    def failures(self) -> list[Failure]:
        """Return the inputs that could not be used, with cause and mend."""
        with self._store.snapshot() as snapshot:
            return snapshot.failures()

    def stats(self) -> dict[str, Any]:
        """Return counts, sizes, the model and the index, for each modality and in sum."""
        with self._store.snapshot() as snapshot:
            model = {"name": str(snapshot.model), "fingerprint": snapshot.fingerprint}
            counts = snapshot.counts()
            parts = {str(one): self._modality_stats(snapshot, one, counts) for one in Modality}
        sums = {
            name: sum(part[name] for part in parts.values())
            for name in ("items", "segments", "bytes")
        }
        return {**sums, "model": model, **{name: {**part, "model": model} for name, part in parts.items()}}

    def _modality_stats(
        self, snapshot: Snapshot, modality: Modality, counts: Mapping[Modality, Mapping[str, int]]
    ) -> dict[str, Any]:
        file, index = snapshot.row_file(modality), snapshot.index_file(modality)
        count = counts.get(modality, {})
        rows = file.rows if file else 0
        index_stats: dict[str, Any] = {"kind": "exact", "rows": 0, "bytes": 0}
        if index is not None:
            index_stats = {"kind": index.kind, "rows": index.rows, "bytes": index.bytes}
        return {
            "items": count.get("items", 0),
            "segments": count.get("segments", 0),
            "rows": rows,
            "dead": file.dead if file else 0,
            "bytes": file.path.stat().st_size if file and file.path.exists() else 0,
            "index": index_stats,
        }

    # ---- checking ------------------------------------------------------------------------

    def verify(self) -> list[Fault]:
        """Hold store, row files and indexes against each other; return what does not fit."""
        return list(self._store.problems())

    def repair(self) -> list[str]:
        """Mend what can be derived; return a line for each thing done.

        Indexes are built anew from the rows. Items whose rows are damaged become failures, which
        the next ``add`` of their files encodes again.
        """
        done = self._store.repair()
        with self._lock:
            self._indexes.clear()
        self.refresh_indexes()
        return done

    def prior(self, asked_with: Sequence[str], modality: Modality) -> ranking.Prior | None:
        """Return what the model knows of cosines of such a query with such items."""
        try:
            return ranking.prior_for(self.model.prior, asked_with, modality)
        except NotFound:
            return None

    # ---- caches --------------------------------------------------------------------------

    def index(self, snapshot: Snapshot, modality: Modality) -> VectorIndex | None:
        """Return the index of this snapshot's rows, or None when there is none to trust."""
        file = snapshot.index_file(modality)
        if file is None:
            return None
        with self._lock:
            cached = self._indexes.get(modality)
            if cached is not None and cached[0] == file.name:
                return cached[1]
            try:
                index = index_files.load(
                    self.directory / "index" / file.name, bytes=file.bytes, checksum=file.checksum
                )
            except (CorruptData, NotFound):
                # Derived, so never trusted and never missed: the rows answer instead.
                return None
            self._indexes[modality] = (file.name, index)
            return index

    def sample(self, snapshot: Snapshot, modality: Modality) -> NDArray[np.float32]:
        """Return the fixed sample of live rows that a query's background is measured on."""
        file = snapshot.row_file(modality)
        tag = (snapshot.version, file.generation if file else 0)
        with self._lock:
            cached = self._samples.get(modality)
            if cached is None or cached[0] != tag:
                vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
                cached = (tag, vectors[ranking.sample_rows(len(vectors), dead)])
                self._samples[modality] = cached
            return cached[1]


class View:
    """One consistent state of a collection: every read of a query goes through one of these."""

    def __init__(self, collection: Collection, snapshot: Snapshot) -> None:
        self._collection = collection
        self.snapshot = snapshot
        # What a batch looks up again and again.
        self._row_items: dict[Modality, NDArray[np.int64]] = {}
        self._keys: dict[int, str] = {}

    @property
    def version(self) -> int:
        """The state that is seen; every change of items makes another."""
        return self.snapshot.version

    def get(self, keys: Sequence[str], *, vectors: bool = False) -> list[Item]:
        """Return the items of ``keys``, in that order.

        Raises:
            NotFound: A key is not there.
        """
        found = self.snapshot.find(keys)
        missing = [key for key in keys if key not in found]
        if missing:
            raise NotFound(
                f"no item {', '.join(map(repr, missing))} in {self._collection.directory}",
                hint="`muomni list` names them all",
            )
        items = [found[key] for key in keys]
        return [self._with_vector(item) for item in items] if vectors else items

    def _with_vector(self, item: Item) -> Item:
        return replace(item, vector=self._item_vector(item.key))

    def _item_vector(self, key: str) -> NDArray[np.float32]:
        found = self.snapshot.item_rows([key]).get(key)
        if found is None:
            raise NotFound(f"no item {key!r} in {self._collection.directory}")
        modality, rows = found
        return mean_vector(self.snapshot.vectors(modality)[rows])

    def resolve_many(self, queries: Sequence[Query]) -> list[NDArray[np.float32] | MuomniError]:
        """Return the unit vector (256,) of each query, or the error that it meets.

        All words of all queries are encoded in one batch, all pictures in one, all sounds in
        one.
        """
        parts = [part for query in queries for part in query.parts]
        vectors = self._part_vectors(parts)
        resolved: list[NDArray[np.float32] | MuomniError] = []
        for query in queries:
            own = [vectors[id(part)] for part in query.parts]
            bad = next((one for one in own if isinstance(one, MuomniError)), None)
            if bad is not None:
                resolved.append(bad)
                continue
            try:
                good = [one for one in own if not isinstance(one, MuomniError)]
                weights = [part.weight for part in query.parts]
                resolved.append(combine(weights, good, what="the query"))
            except InvalidInput as error:
                resolved.append(error)
        return resolved

    def _part_vectors(self, parts: Sequence[Part]) -> dict[int, NDArray[np.float32] | MuomniError]:
        vectors: dict[int, NDArray[np.float32] | MuomniError] = {}
        for part in parts:
            try:
                if part.kind == "vector":
                    vectors[id(part)] = check_vectors(np.atleast_2d(part.value), "the query vector")[0]
                elif part.kind == "id":
                    vectors[id(part)] = self._item_vector(part.value)
            except MuomniError as error:
                vectors[id(part)] = error
        for modality in Modality:
            group = [part for part in parts if part.kind == str(modality)]
            if group:
                vectors.update(self._encoded(modality, group))
        return vectors

    def _encoded(
        self, modality: Modality, parts: Sequence[Part]
    ) -> dict[int, NDArray[np.float32] | MuomniError]:
        """Encode the parts of one modality together; a long part is the mean of its pieces."""
        results: dict[int, NDArray[np.float32] | MuomniError] = {}
        encoder = self._collection.model.encoder(modality)
        pieces, owners = [], []
        for part in parts:
            try:
                content = read_content(modality, part.value)
                prepared = encoder.prepare(content)
            except MuomniError as error:
                results[id(part)] = error
                continue
            owners.append((id(part), len(pieces), len(pieces) + len(prepared)))
            pieces += prepared
        if pieces:
            vectors = encoder.encode(pieces)
            for owner, start, end in owners:
                results[owner] = mean_vector(vectors[start:end])
        return results

    def rank(
        self,
        query: Query,
        vector: NDArray[np.float32],
        k: int,
        *,
        modality: Modalities = None,
        where: Where | Filter = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
    ) -> list[Ranked]:
        """Return the best min(k, what matches) rows or items for a query's unit vector.

        Args:
            query: The query itself: its kinds choose the prior, its ids are left out.
            vector: Its unit vector (256,).
            k: How many.
            modality: Only these modalities.
            where: A filter, parsed or not.
            exact: Compare with every row.
            segments: Let every row stand for itself.
            include_self: Keep the items that the query names.
        """
        condition = parse_filter(where) if isinstance(where, str | Mapping) else where
        named = [part.value for part in query.parts if part.kind == "id"]
        left_out = set() if include_self else set(self.snapshot.item_ids(named).values())
        asked_with = tuple(dict.fromkeys(part.kind for part in query.parts))
        ranked: list[Ranked] = []
        for one in _modalities(modality):
            if len(self.snapshot.vectors(one)) == 0:
                continue
            allowed = None if condition is None else self.snapshot.matching_rows(one, condition)
            if allowed is not None and len(allowed) == 0:
                continue
            background = ranking.background(
                vector,
                self._collection.sample(self.snapshot, one),
                self._collection.prior(asked_with, one),
            )
            found = self._top(one, vector, k, allowed, left_out, exact=exact, segments=segments)
            ranked += [
                match._replace(score=background.score(match.cosine)) for match in found
            ]
        ranked.sort(key=lambda match: (-match.score, match.key, match.span.start if match.span else 0))
        return ranked[:k]

    def _top(
        self,
        modality: Modality,
        vector: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None,
        left_out: set[int],
        *,
        exact: bool,
        segments: bool,
    ) -> list[Ranked]:
        """Return the best k items (or rows) of one modality and all tied with the last."""
        snapshot = self.snapshot
        vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
        index = None if exact else self._collection.index(snapshot, modality)
        available = len(vectors) - len(dead) if allowed is None else len(allowed)
        fetch = k + len(left_out)
        while True:
            best = planner.top_rows(
                vector, vectors, k=fetch, dead=dead, allowed=allowed, index=index, exact=exact
            )
            found: dict[Any, Ranked] = {}
            for match, cosine in zip(
                snapshot.matches(modality, best.rows), best.cosines.tolist(), strict=True
            ):
                # Rows come best first, so the first row of an item is its best.
                owner = match.row if segments else match.item_id
                if match.item_id not in left_out and owner not in found:
                    found[owner] = Ranked(
                        0.0, cosine, match.key, match.item_id, modality, match.span, best.how
                    )
            if len(found) >= k or fetch >= available:
                return list(found.values())
            fetch = min(available, fetch * WIDEN)

    def rank_many(
        self,
        queries: Sequence[Query],
        vectors: NDArray[np.float32],
        k: int,
        *,
        modality: Modalities = None,
        where: Where = None,
    ) -> list[list[Ranked]]:
        """Return for each of many queries what ``rank`` returns when it compares every row.

        Args:
            queries: The queries.
            vectors: Their unit vectors (n, 256).
            k: How many for each.
            modality: Only these modalities.
            where: A filter for all.
        """
        condition = parse_filter(where)
        ids = self.snapshot.item_ids(
            {part.value for query in queries for part in query.parts if part.kind == "id"}
        )
        left_out = [
            {ids[part.value] for part in query.parts if part.kind == "id"} for query in queries
        ]
        ranked: list[list[Ranked]] = [[] for _ in queries]
        for one in _modalities(modality):
            if len(self.snapshot.vectors(one)) == 0:
                continue
            allowed = None if condition is None else self.snapshot.matching_rows(one, condition)
            if allowed is not None and len(allowed) == 0:
                continue
            backgrounds = self._backgrounds(queries, vectors, one)
            for number, found in enumerate(self._top_many(one, vectors, k, allowed, left_out)):
                score = backgrounds[number].score
                ranked[number] += [match._replace(score=score(match.cosine)) for match in found]
        for found in ranked:
            found.sort(key=lambda match: (-match.score, match.key))
        return [found[:k] for found in ranked]

    def _backgrounds(
        self, queries: Sequence[Query], vectors: NDArray[np.float32], modality: Modality
    ) -> list[ranking.Background]:
        sample = self._collection.sample(self.snapshot, modality)
        priors = {}
        kinds = [tuple(dict.fromkeys(part.kind for part in query.parts)) for query in queries]
        for asked_with in set(kinds):
            priors[asked_with] = self._collection.prior(asked_with, modality)
        return ranking.backgrounds(vectors, sample, [priors[asked_with] for asked_with in kinds])

    def _top_many(
        self,
        modality: Modality,
        vectors: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.int64] | None,
        left_out: Sequence[set[int]],
    ) -> Iterator[list[Ranked]]:
        """Yield for each query the best k items of a modality and all tied with the last."""
        snapshot = self.snapshot
        rows, dead = snapshot.vectors(modality), snapshot.dead(modality)
        owners = self._owners(modality)
        available = len(rows) - len(dead) if allowed is None else len(allowed)
        fetch = min(available, k + max(map(len, left_out)))
        answers = list(planner.top_rows_many(vectors, rows, k=fetch, dead=dead, allowed=allowed))
        found = np.unique(owners[np.concatenate([best.rows for best in answers])])
        missing = [item for item in found.tolist() if item not in self._keys]
        self._keys.update(snapshot.keys_of(missing))
        for number, best in enumerate(answers):
            top: dict[int, Ranked] = {}
            for item, cosine in zip(
                owners[best.rows].tolist(), best.cosines.tolist(), strict=True
            ):
                if item not in top and item not in left_out[number]:
                    top[item] = Ranked(
                        0.0, cosine, self._keys[item], item, modality, None, best.how
                    )
            if len(top) >= k or fetch >= available:
                yield list(top.values())
            else:
                # Items of many segments took the places: ask again, wider, for this one alone.
                yield self._top(
                    modality,
                    vectors[number],
                    k,
                    allowed,
                    left_out[number],
                    exact=True,
                    segments=False,
                )

    def _owners(self, modality: Modality) -> NDArray[np.int64]:
        if modality not in self._row_items:
            self._row_items[modality] = self.snapshot.row_items(modality)
        return self._row_items[modality]

    def hits(self, ranked: Sequence[Ranked], *, first_rank: int = 1) -> list[Hit]:
        """Look up the items of what was ranked."""
        items = self.snapshot.items([match.item_id for match in ranked])
        return [
            _hit(rank, match, items[match.item_id])
            for rank, match in enumerate(ranked, start=first_rank)
        ]


def _hit(rank: int, match: Ranked, item: Item) -> Hit:
    text = item.text
    if text is not None and match.span is not None and match.span.unit == "char":
        text = text[match.span.start : match.span.end]
    return Hit(
        rank=rank,
        key=item.key,
        modality=item.modality,
        score=match.score,
        cosine=match.cosine,
        source=item.source,
        text=text,
        span=match.span,
        metadata=item.metadata,
        how="ann" if match.how == "ann" else "exact",
    )


def _modalities(asked: Modalities) -> tuple[Modality, ...]:
    """Return the modalities asked for, each once, in a fixed order.

    Raises:
        InvalidInput: One of them is none.
    """
    if asked is None:
        return tuple(Modality)
    names = [asked] if isinstance(asked, str) else list(asked)
    known = {str(modality) for modality in Modality}
    for name in names:
        if name not in known:
            raise InvalidInput(f"no modality {str(name)!r}", hint=f"one of {', '.join(sorted(known))}")
    return tuple(modality for modality in Modality if modality in names)
