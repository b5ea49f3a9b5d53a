"""A view: one consistent state of a collection, and every query that is answered from it.

query ──▶ unit vector ──▶ best rows of each modality ──▶ scores that compare ──▶ items
(resolve)       (planner: exact or index)      (ranking)              (hits)
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from muomni_search import indexing, ranking
from muomni_search.encoders.protocol import Encoder, Model, Piece
from muomni_search.errors import (
    CheckpointError,
    Conflict,
    CorruptData,
    InvalidInput,
    MuomniError,
    NotFound,
    UnreadableFile,
)
from muomni_search.filters import Filter, parse_filter
from muomni_search.index import planner
from muomni_search.index.exact import best_of
from muomni_search.index.protocol import Candidates, VectorIndex
from muomni_search.index.ties import MOST_TIED, Ties
from muomni_search.ingest.read import Limits, read_content
from muomni_search.items import Content, Hit, Item, Modality, Part, Query
from muomni_search.ranked import RankedLists, Rows
from muomni_search.store.records import Counting, IndexFile, Match, Shown
from muomni_search.store.rows import are_unit, not_unit
from muomni_search.store.snapshot import Snapshot
from muomni_search.vectors import check_vectors, combine, mean_vector

__all__ = [
    "LIST_HINT",
    "Loaded",
    "Modalities",
    "View",
    "Where",
    "check_page",
    "encode_all",
    "encode_contents",
    "modalities_of",
    "not_there",
    "several",
]

Modalities = Modality | str | Sequence[Modality | str] | None
Where = str | Mapping[str, Any] | Filter | None

# The next try fetches this many times more when too many rows belonged to items already seen.
WIDEN = 4
# Up to this share of all rows a batch looks up the items of its hits: of a million rows 20,000 take
# 0.06 s, and all of them 1.
LOOKED_UP_SHARE = 0.2
# So many rows, of all, may a single query find before what is tied with the last is left out: the
# keys of all items that it reads then are kept for those to come.
READ_SHARE = 0.1
# How many pieces of queries are encoded together: those of pictures take 600 KB each.
PIECES_AT_ONCE = 128
# How many of the keys that are not there an error names.
NAMED = 10
LIST_HINT = "`muomni list` names them all"
# To import FAISS and to read an index takes longer than to compare 100,000 rows that nobody has
# looked at yet with one query (benchmarks/cold.py); so many are an estimate of where it ends.
SOONER_COMPARED = 150_000
NO_QUERIES = np.empty(0, np.int64)
Value = TypeVar("Value")


class Tuned(NamedTuple):
    """An index, if any, how deep it is asked, and what that promises (None: nothing was measured).

    For ``reach`` see ``Promise``.
    """

    asked: VectorIndex | None
    fetch: int
    recall: float | None
    reach: float


EXACTLY = Tuned(None, planner.FETCH, None, -1.0)


class _Ranked(NamedTuple):
    """A row found, and how it scores, before its item is looked up."""

    score: float
    cosine: float
    modality: Modality
    match: Match
    how: Literal["exact", "ann"]
    recall: float | None  # what is promised; None where nothing was measured


class Loaded:
    """What the views of a collection share: its model, its indexes, its background samples.

    Args:
        directory: The collection's.
        load: Loads the model that a snapshot's vectors came from, at its first use.
        limits: What a single file of a query may cost.
        once: Whether only one query will be asked.
    """

    def __init__(
        self,
        directory: Path,
        load: Callable[[Snapshot], Model],
        limits: Limits,
        *,
        once: bool = False,
    ) -> None:
        self.limits = limits
        self._once = once
        self._directory = directory
        self._load = load
        self._models: dict[str, Model] = {}
        self._lock = threading.RLock()
        self._indexes: dict[Modality, tuple[str, VectorIndex]] = {}
        self._tuned: dict[Modality, tuple[IndexFile, Tuned]] = {}
        self._unreadable: set[str] = set()  # index files that no query reads again
        self._samples: dict[Modality, tuple[tuple[int, int], NDArray[np.float32]]] = {}
        self._priors: dict[tuple[str, tuple[str, ...], Modality], ranking.Prior | None] = {}

    def model(self, snapshot: Snapshot) -> Model:
        """Return the model that encodes for a snapshot: a collection may move to another."""
        with self._lock:
            if snapshot.fingerprint not in self._models:
                self._models[snapshot.fingerprint] = self._load(snapshot)
            return self._models[snapshot.fingerprint]

    def keep(self, model: Model) -> None:
        """Take a model that is loaded already."""
        with self._lock:
            self._models[model.fingerprint()] = model

    def forget(self) -> None:
        """Let go of indexes and samples."""
        with self._lock:
            self._indexes.clear()
            self._tuned.clear()
            self._unreadable.clear()
            self._samples.clear()

    def prior(
        self, snapshot: Snapshot, asked_with: Sequence[str], modality: Modality
    ) -> ranking.Prior | None:
        """Return what the model knows of cosines of such a query with such items."""
        key = (snapshot.fingerprint, tuple(asked_with), modality)
        if key not in self._priors:
            try:
                known = self.model(snapshot).prior
            except (NotFound, CheckpointError, Conflict):
                return None  # and looked for again: the model may be fetched meanwhile
            self._priors[key] = ranking.prior_for(known, asked_with, modality)
        return self._priors[key]

    # ---- caches --------------------------------------------------------------------------

    def index(self, snapshot: Snapshot, modality: Modality) -> Tuned:
        """Return the index of this snapshot's rows, ``EXACTLY`` when there is none to trust."""
        file = snapshot.index_file(modality)
        if file is None:
            with self._lock:
                self._indexes.pop(modality, None)
                self._tuned.pop(modality, None)
            return EXACTLY
        known, tuned = self._tuned.get(modality, (None, EXACTLY))
        if known is file:  # a promise that is measured anew makes another
            return tuned
        tuned, promise = EXACTLY, indexing.promise_of(file)
        if promise is not None:
            if promise.fetch is None:
                return EXACTLY
            tuned = Tuned(None, promise.fetch, promise.recall, promise.reach)
        if self._once and _is_sooner_compared(snapshot):
            return EXACTLY
        index = self._index(file)
        if index is None:
            return EXACTLY
        tuned = tuned._replace(asked=index)
        with self._lock:
            self._tuned[modality] = (file, tuned)
        return tuned

    def _index(self, file: IndexFile) -> VectorIndex | None:
        modality = file.modality
        with self._lock:
            cached = self._indexes.get(modality)
            if cached is not None and cached[0] == file.name:
                return cached[1]
            if file.name in self._unreadable:
                return None
            index = indexing.load(self._directory, file)
            if index is None:
                # Maybe a view that began before a newer one: that one stays.
                self._unreadable.add(file.name)
            else:
                self._indexes[modality] = (file.name, index)
            return index

    def sample(self, snapshot: Snapshot, modality: Modality) -> NDArray[np.float32]:
        """Return the fixed sample of live rows that a query's background is measured on."""
        file = snapshot.row_file(modality)
        tag = (snapshot.version, file.generation if file else 0)
        with self._lock:
            cached = self._samples.get(modality)
            if cached is None or cached[0] != tag:
                rows = snapshot.sample_rows(modality, ranking.SAMPLE_ROWS)
                sample = snapshot.vectors(modality)[rows]
                if not are_unit(sample).all():
                    raise not_unit(snapshot.row_file(modality))
                cached = (tag, sample)
                self._samples[modality] = cached
            return cached[1]


class View:
    """One consistent state of a collection: every read of a query goes through one of these."""

    def __init__(self, directory: Path, loaded: Loaded, snapshot: Snapshot) -> None:
        self._directory = directory
        self._loaded = loaded
        self.snapshot = snapshot
        # What a batch looks up again and again.
        self._looked_up = dict.fromkeys(Modality, 0)
        self._indexes: dict[Modality, Tuned] = {}
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
        missing = list(dict.fromkeys(key for key in keys if key not in found))
        if missing:
            raise not_there(missing, self._directory)
        items = [found[key] for key in keys]
        return [self._with_vector(item) for item in items] if vectors else items

    def _with_vector(self, item: Item) -> Item:
        return replace(
            item, vector=self._item_vector(item.key, self.snapshot.item_rows([item.key]))
        )

    def _item_vector(
        self, key: str, found: Mapping[str, tuple[Modality, NDArray[np.int64]]]
    ) -> NDArray[np.float32]:
        """Return the unit mean (256,) of an item's segments, which are among the rows found."""
        if key not in found:
            raise not_there([key], self._directory)
        modality, rows = found[key]
        return mean_vector(self.snapshot.vectors(modality)[rows])

    def search(
        self,
        queries: Sequence[Query],
        k: int = 10,
        *,
        offset: int = 0,
        modality: Modalities = None,
        where: Where = None,
        min_score: float | Literal["auto"] | None = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
    ) -> list[list[Hit]]:
        """Return the hits of several queries; see ``Collection.query``.

        Raises:
            InvalidInput: A bad query, k or filter.
            NotFound: A query names an item that is not there.
        """
        if not (_is_whole(k) and k >= 1 and _is_whole(offset) and offset >= 0):
            raise InvalidInput(
                f"k must be 1 or more and offset 0 or more, whole numbers, not {k!r} and {offset!r}"
            )
        k, offset = int(k), int(offset)  # a number of NumPy's may be too small for those made of it
        if not (min_score is None or _is_finite(min_score) or min_score == "auto"):
            raise InvalidInput(f"min_score is {min_score!r}", hint="give a number, or 'auto'")
        for query in queries:
            if not isinstance(query, Query) or not query.parts:
                raise InvalidInput(f"{query!r} is no query", hint="give words, or a Query")
        answers = []
        for query, vector in zip(queries, self.resolve_many(queries), strict=True):
            if isinstance(vector, MuomniError):
                raise vector
            hits = self.rank(
                query,
                vector,
                k,
                offset=offset,
                modality=modality,
                where=where,
                exact=exact,
                segments=segments,
                include_self=include_self,
                min_score=min_score,
            )
            answers.append(hits)
        return answers

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
        groups: dict[str, list[Part]] = {}
        for part in parts:
            groups.setdefault(part.kind, []).append(part)
        vectors: dict[int, NDArray[np.float32] | MuomniError] = {}
        for kind, group in groups.items():
            values = [part.value for part in group]
            if kind == "vector":
                found = _checked(values)
            elif kind == "id":
                found = self._item_vectors(values)
            else:
                encoder = self._loaded.model(self.snapshot).encoder(Modality(kind))
                found = encode_contents(encoder, values, limits=self._loaded.limits)
            vectors.update(zip(map(id, group), found, strict=True))
        return vectors

    def _item_vectors(self, keys: Sequence[str]) -> list[NDArray[np.float32] | MuomniError]:
        rows = self.snapshot.item_rows(set(keys))
        vectors: list[NDArray[np.float32] | MuomniError] = []
        for key in keys:
            try:
                vectors.append(self._item_vector(key, rows))
            except MuomniError as error:
                vectors.append(error)
        return vectors

    def rank(
        self,
        query: Query,
        vector: NDArray[np.float32],
        k: int,
        *,
        offset: int = 0,
        modality: Modalities = None,
        where: Where = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
        min_score: float | Literal["auto"] | None = None,
    ) -> list[Hit]:
        """Return the best min(k, what matches) hits for a query's unit vector.

        Args:
            query: The query itself: its kinds choose the prior, its ids are left out.
            vector: Its unit vector (256,).
            k: How many.
            offset: How many of the best to leave out before them: pages of k make one list.
            modality: Only these modalities.
            where: A filter, parsed or not.
            exact: Compare with every row.
            segments: Let every row stand for itself.
            include_self: Keep the items that the query names.
            min_score: Only those with this score or more; ``auto`` for one that the best of what
                is unrelated reaches for one query of ten, in each modality.
        """
        condition = parse_filter(where)
        named = [part.value for part in query.parts if part.kind == "id"]
        left_out = set() if include_self else set(self.snapshot.item_ids(named).values())

        def find(wanted: int, *, exact: bool) -> list[_Ranked]:
            return self._found(
                query,
                vector,
                wanted,
                condition,
                left_out,
                modality=modality,
                exact=exact,
                segments=segments,
                min_score=min_score,
            )

        if not offset:
            return self._hits(find(k, exact=exact), k)
        # An index that is asked for more finds more, which would move what earlier pages have
        # shown. So the first page stands as it is answered, and all others come behind it, exactly;
        # where it is short, as it may be with a least score, the list ends with it.
        begun = [] if exact else self._best(find(k, exact=False), k)
        ranked = begun
        if exact or len(begun) == k:
            seen = {_name(one, segments=segments) for one in begun}
            whole = self._best(find(offset + k, exact=True), offset + k)
            ranked = begun + [one for one in whole if _name(one, segments=segments) not in seen]
        page = ranked[offset : offset + k]
        shown = self._of_items(self.snapshot.shown, [one.match.item_id for one in page])
        return [
            _hit(rank, one, shown[one.match.item_id])
            for rank, one in enumerate(page, start=offset + 1)
        ]

    def _found(
        self,
        query: Query,
        vector: NDArray[np.float32],
        k: int,
        condition: Filter | None,
        left_out: set[int],
        *,
        modality: Modalities,
        exact: bool,
        segments: bool,
        min_score: float | Literal["auto"] | None,
    ) -> list[_Ranked]:
        """Return the best k of each modality and those tied with the last, with their scores."""
        asked_with = tuple(dict.fromkeys(part.kind for part in query.parts))
        ranked: list[_Ranked] = []
        for one, counting in self._searched(modality, condition):
            background = ranking.background(
                vector,
                self._loaded.sample(self.snapshot, one),
                self._loaded.prior(self.snapshot, asked_with, one),
            )
            ties = self._ties(one, READ_SHARE * len(self.snapshot.vectors(one)))
            found, how, recall = self._top(
                one, vector, k, counting, left_out, ties, exact=exact, segments=segments
            )
            least = background.alarm if min_score == "auto" else min_score
            for match, cosine in found:
                score = background.score(cosine)
                if least is None or score >= least:
                    ranked.append(_Ranked(score, cosine, one, match, how, recall))
        return ranked

    def _searched(
        self, modality: Modalities, condition: Filter | None
    ) -> Iterator[tuple[Modality, Counting]]:
        """Yield each modality asked for that can have hits, with the rows that count."""
        for one in modalities_of(modality):
            if len(self.snapshot.vectors(one)) == 0:
                continue
            counting = self.snapshot.counting(one, condition)
            if counting.rows is None or len(counting.rows):
                yield one, counting

    def _top(
        self,
        modality: Modality,
        vector: NDArray[np.float32],
        k: int,
        counting: Counting,
        left_out: set[int],
        ties: Ties,
        *,
        exact: bool,
        segments: bool,
    ) -> tuple[list[tuple[Match, float]], Literal["exact", "ann"], float | None]:
        """Return the best k items (or rows) of one modality and those tied with the last.

        With their cosines, whether all rows were compared, and what that promises.
        """
        snapshot = self.snapshot
        vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
        index, ask_for, recall, reach = EXACTLY if exact else self._index(modality)
        available = len(vectors) - len(dead) if counting.rows is None else len(counting.rows)
        fetch = wanted = k + len(left_out)
        while True:
            try:
                best = planner.top_rows(
                    vector,
                    vectors,
                    k=fetch,
                    dead=dead,
                    allowed=counting.rows,
                    index=index,
                    fetch=ask_for,
                    reach=reach,
                    marks=counting.marks,
                )
            except CorruptData as error:
                raise not_unit(snapshot.row_file(modality)) from error
            if not segments and len(best.rows) > WIDEN * wanted:
                best = ties.cut(self._best_of_items(modality, best, wanted), wanted)
            found: dict[int, tuple[Match, float]] = {}
            for match, cosine in zip(
                snapshot.matches(modality, best.rows), best.cosines.tolist(), strict=True
            ):
                # Rows come best first, so the first row of an item is its best.
                owner = match.row if segments else match.item_id
                if match.item_id not in left_out and owner not in found:
                    found[owner] = match, cosine
            if len(found) >= k or fetch >= available:
                return list(found.values()), best.how, recall if best.how == "ann" else 1.0
            fetch = min(available, fetch * WIDEN)

    def _best_of_items(self, modality: Modality, best: Candidates, wanted: int) -> Candidates:
        """Return the best row of each of the best items, and of all tied with the last.

        Of an item of thousands of segments all may be among the best rows: to look up what each of
        them stands for takes far longer than to compare them.
        """
        _, first = np.unique(self._owners_of(modality, best.rows), return_index=True)
        return best_of(best.rows[first], best.cosines[first], wanted, best.how)

    def rank_many(
        self,
        queries: Sequence[Query],
        vectors: NDArray[np.float32],
        k: int,
        *,
        modality: Modalities = None,
        where: Where = None,
        exact: bool = True,
    ) -> RankedLists:
        """Return for each of many queries what ``rank`` finds, to the bit when ``exact``.

        Args:
            queries: The queries.
            vectors: Their unit vectors (n, 256).
            k: How many for each.
            modality: Only these modalities.
            where: A filter for all.
            exact: Compare with every row.
        """
        condition = parse_filter(where)
        ids = self.snapshot.item_ids(
            {part.value for query in queries for part in query.parts if part.kind == "id"}
        )
        left_out = [
            {ids[part.value] for part in query.parts if part.kind == "id"} for query in queries
        ]
        parts: list[tuple[Modality, Rows, NDArray[np.float64]]] = []
        for one, counting in self._searched(modality, condition):
            found = self._top_many(one, vectors, k, counting, left_out, exact=exact)
            backgrounds = self._backgrounds(queries, vectors, one)
            medians = np.array([own.median for own in backgrounds])[found.queries]
            scales = np.array([own.scale for own in backgrounds])[found.queries]
            parts.append((one, found, (found.cosines - medians) / scales))
        return RankedLists.of(len(queries), k, parts, self._keys_of)

    def _keys_of(self, item_ids: Sequence[int]) -> list[str]:
        missing = [item for item in item_ids if item not in self._keys]
        self._keys.update(self._of_items(self.snapshot.keys_of, missing))
        return [self._keys[item] for item in item_ids]

    def _of_items(
        self, look_up: Callable[[Sequence[int]], dict[int, Value]], item_ids: Sequence[int]
    ) -> dict[int, Value]:
        """Return what is looked up of the items of rows, which must be there."""
        found = look_up(item_ids)
        lost = next((item for item in item_ids if item not in found), None)
        if lost is not None:
            raise CorruptData(
                f"{self._directory}: a row is of the item {lost}, which is not there",
                hint="run: muomni verify --repair",
            )
        return found

    def _backgrounds(
        self, queries: Sequence[Query], vectors: NDArray[np.float32], modality: Modality
    ) -> list[ranking.Background]:
        sample = self._loaded.sample(self.snapshot, modality)
        priors = {}
        kinds = [tuple(dict.fromkeys(part.kind for part in query.parts)) for query in queries]
        for asked_with in set(kinds):
            priors[asked_with] = self._loaded.prior(self.snapshot, asked_with, modality)
        return ranking.backgrounds(vectors, sample, [priors[asked_with] for asked_with in kinds])

    def _top_many(
        self,
        modality: Modality,
        vectors: NDArray[np.float32],
        k: int,
        counting: Counting,
        left_out: Sequence[set[int]],
        *,
        exact: bool,
    ) -> Rows:
        """Return for each query the best k items of a modality and those tied with the last."""
        snapshot, ties = self.snapshot, self._ties(modality, MOST_TIED)
        rows, dead = snapshot.vectors(modality), snapshot.dead(modality)
        available = len(rows) - len(dead) if counting.rows is None else len(counting.rows)
        fetch = min(available, k + max(map(len, left_out)))
        index, ask_for, _, reach = EXACTLY if exact else self._index(modality)
        try:
            best = planner.top_rows_many(
                vectors,
                rows,
                k=fetch,
                dead=dead,
                allowed=counting.rows,
                index=index,
                fetch=ask_for,
                reach=reach,
                ties=ties,
                check_rows=partial(snapshot.check_rows, modality),
            )
        except CorruptData as error:
            raise not_unit(snapshot.row_file(modality)) from error
        queries = np.repeat(np.arange(len(vectors)), np.diff(best.starts))
        are_exact = best.are_exact[queries]
        owners = self._owners_of(modality, best.rows)
        found = Rows(queries, owners, best.cosines, are_exact).best_of_items()
        if any(left_out):
            own = np.repeat(np.arange(len(vectors)), list(map(len, left_out)))
            found = found.without(own, np.array([one for ids in left_out for one in ids], np.int64))
        counts = np.bincount(found.queries, minlength=len(vectors))
        short = np.flatnonzero(counts < k) if fetch < available else NO_QUERIES
        if not len(short):
            return found
        # Items of many segments took the places: ask again, wider, for these alone.
        parts = [found.only(counts[found.queries] >= k)]
        for number in short.tolist():
            top, *_ = self._top(
                modality,
                vectors[number],
                k,
                counting,
                left_out[number],
                ties,
                exact=True,
                segments=False,
            )
            parts.append(
                Rows(
                    np.full(len(top), number),
                    np.array([match.item_id for match, _ in top], np.int64),
                    np.array([cosine for _, cosine in top], np.float32),
                    np.full(len(top), fill_value=True),
                )
            )
        return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _ties(self, modality: Modality, most: float) -> Ties:
        """Return what leaves out items whose keys come too late, once so many rows are found."""
        return Ties(cache(lambda: self.snapshot.key_ranks(modality)), most)

    def _index(self, modality: Modality) -> Tuned:
        """Return the index of a modality, the same one as long as the view is held."""
        if modality not in self._indexes:
            self._indexes[modality] = self._loaded.index(self.snapshot, modality)
        return self._indexes[modality]

    def _owners_of(self, modality: Modality, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the id of each row's item: looked up, and read of all rows once they are many."""
        if modality not in self._row_items:
            self._looked_up[modality] += len(rows)
            most = LOOKED_UP_SHARE * len(self.snapshot.vectors(modality))
            if self._looked_up[modality] <= most:
                return self.snapshot.owners_of(modality, rows)
            self._row_items[modality] = self.snapshot.row_items(modality)
        return self._row_items[modality][rows]

    def _hits(self, ranked: list[_Ranked], k: int) -> list[Hit]:
        """Return the best k as hits: by score, then key, then place in the item."""
        best = _at_least(ranked, k)
        if len(best) > k:  # which of those that are tied are left out, their keys decide
            best = self._best(best, k)
        shown = self._of_items(self.snapshot.shown, [one.match.item_id for one in best])
        best.sort(key=lambda one: _order(one, shown[one.match.item_id].key))
        return [_hit(rank, one, shown[one.match.item_id]) for rank, one in enumerate(best, start=1)]

    def _best(self, ranked: list[_Ranked], wanted: int) -> list[_Ranked]:
        """Return the best of what was found, in the order of hits."""
        best = _at_least(ranked, wanted)
        keys = self._of_items(self.snapshot.keys_of, [one.match.item_id for one in best])
        return sorted(best, key=lambda one: _order(one, keys[one.match.item_id]))[:wanted]


def _checked(vectors: Sequence[Any]) -> list[NDArray[np.float32] | MuomniError]:
    """Return the unit vector (256,) of each vector of a query, or what is wrong with it."""
    with suppress(InvalidInput):  # one of them is bad: each is checked on its own
        return list(check_vectors(vectors, "the query vectors"))
    checked: list[NDArray[np.float32] | MuomniError] = []
    for vector in vectors:
        try:
            checked.append(check_vectors([vector], "the query vector")[0])
        except InvalidInput as error:
            checked.append(error)
    return checked


def encode_contents(
    encoder: Encoder,
    values: Sequence[Content | Path],
    *,
    advance: Callable[[], None] = lambda: None,
    limits: Limits | None = None,
) -> list[NDArray[np.float32] | MuomniError]:
    """Return the unit vector (256,) of each content or file, or the error that it meets.

    They are encoded together; a long content is the unit mean of its pieces.

    Args:
        encoder: Of their modality.
        values: Words, pixels or samples as they are, or the path of a file.
        advance: Called for each.
        limits: What a file may cost.
    """
    results: dict[int, NDArray[np.float32] | MuomniError] = {}
    pieces: list[Piece] = []
    owners: list[tuple[int, int, int]] = []

    def encode() -> None:
        if pieces:
            vectors = encoder.encode(pieces)
            for owner, start, end in owners:
                try:
                    results[owner] = mean_vector(vectors[start:end])
                except InvalidInput as error:
                    results[owner] = error
        pieces.clear()
        owners.clear()

    for number, value in enumerate(values):
        advance()
        try:
            content = (
                read_content(encoder.modality, value, limits)
                if isinstance(value, str | Path)
                else value
            )
            prepared = encoder.prepare(content)
        except MuomniError as error:
            results[number] = error
            continue
        owners.append((number, len(pieces), len(pieces) + len(prepared)))
        pieces += prepared
        if len(pieces) >= PIECES_AT_ONCE:
            encode()
    encode()
    return [results[number] for number in range(len(values))]


def encode_all(encoder: Encoder, contents: Sequence[Content | Path]) -> NDArray[np.float32]:
    """Return the unit vectors (n, 256) of contents or files; see ``encode_contents``.

    Raises:
        MuomniError: One of them cannot be encoded; the error names it.
    """
    vectors = []
    for content, vector in zip(contents, encode_contents(encoder, contents), strict=True):
        if isinstance(vector, InvalidInput) and not isinstance(vector, UnreadableFile):
            shown = str(content) if isinstance(content, str | Path) else "an array"
            raise InvalidInput(f"{shown!r}: {vector.what}", hint=vector.hint) from vector
        if isinstance(vector, MuomniError):
            raise vector
        vectors.append(vector)
    return np.stack(vectors)


def _is_sooner_compared(snapshot: Snapshot) -> bool:
    """Whether to import FAISS takes longer than to compare all rows with one query."""
    files = snapshot.state.row_files.values()
    return "faiss" not in sys.modules and sum(file.rows for file in files) <= SOONER_COMPARED


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _is_finite(number: Any) -> bool:
    is_real = isinstance(number, int | float | np.integer | np.floating)
    if not is_real or isinstance(number, bool):
        return False
    with suppress(OverflowError):  # of an int that no float holds
        return math.isfinite(number)
    return False


def _at_least(ranked: list[_Ranked], wanted: int) -> list[_Ranked]:
    """Return the best of what was found, and all that score what the last of them does."""
    if len(ranked) <= wanted:
        return ranked
    least = sorted([one.score for one in ranked], reverse=True)[wanted - 1]
    return [one for one in ranked if one.score >= least]


def _name(one: _Ranked, *, segments: bool) -> tuple[Modality, int]:
    """Return what a hit is known again by."""
    return one.modality, one.match.row if segments else one.match.item_id


def _order(one: _Ranked, key: str) -> tuple[float, str, int]:
    """Return what hits are ordered by: score down, then key, then place in the item."""
    span = one.match.span
    return -one.score, key, span.start if span else 0


def _hit(rank: int, one: _Ranked, shown: Shown) -> Hit:
    text, span = shown.text, one.match.span
    if text is not None and span is not None and span.unit == "char":
        text = text[span.start : span.end]
    return Hit(
        rank=rank,
        key=shown.key,
        modality=one.modality,
        score=one.score,
        cosine=one.cosine,
        source=shown.source,
        text=text,
        span=span,
        metadata=shown.metadata,
        how=one.how,
        recall=one.recall,
    )


def check_page(limit: int | None, after: str | None) -> None:
    """Refuse what asks for no page of items.

    Raises:
        InvalidInput: A limit below 0, or something else than a key.
    """
    if not (limit is None or (isinstance(limit, int) and limit >= 0)):
        raise InvalidInput(f"limit is {limit!r}", hint="give 0 or more, or None for all")
    if not (after is None or isinstance(after, str)):
        raise InvalidInput(f"after is {after!r}", hint="give the key of an item")


def several(names: str | Iterable[str]) -> list[str]:
    """Return names as a list, of which one may come alone.

    Raises:
        InvalidInput: What comes is no name, or something in it is none.
    """
    found = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    for name in found:
        if not isinstance(name, str):
            raise InvalidInput(f"{name!r} is no name", hint="give a text, or several")
    return found


def not_there(keys: Sequence[str], directory: Path) -> NotFound:
    """Return the error that there are no items of these keys; of many the first are named."""
    more = f" and {len(keys) - NAMED:,} more" * (len(keys) > NAMED)
    return NotFound(
        f"no item {', '.join(map(repr, keys[:NAMED]))}{more} in {directory}", hint=LIST_HINT
    )


def modalities_of(asked: Modalities) -> tuple[Modality, ...]:
    """Return the modalities asked for, each once, in a fixed order.

    Raises:
        InvalidInput: One of them is none.
    """
    if asked is None:
        return tuple(Modality)
    names = several(asked)
    known = {str(modality) for modality in Modality}
    for name in names:
        if name not in known:
            raise InvalidInput(
                f"no modality {str(name)!r}", hint=f"one of {', '.join(sorted(known))}"
            )
    return tuple(modality for modality in Modality if modality in names)
