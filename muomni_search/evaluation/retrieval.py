"""Finding, measured: every modality asked with against every modality asked for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search import metrics
from muomni_search.batch import read_queries
from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput, MuomniError
from muomni_search.evaluation.figures import Figure, Report, estimate
from muomni_search.evaluation.relevance import Qrels, Run, read_qrels, read_run
from muomni_search.filters import Filter, parse_filter
from muomni_search.items import Modality, Query
from muomni_search.view import View, Where

__all__ = ["ANY", "MEASURES", "evaluate", "evaluate_retrieval", "measure_rankings"]

MEASURES = ("recall@10", "ndcg@10", "mrr")
# The column of a search in everything at once, which the calibrated score ranks.
ANY = "any"
# How deep a ranking is looked at where a metric has no k: what lies deeper adds less than 1/1000.
DEPTH = 1_000
# Rankings looked at together: some 100 MB of hits.
HITS_AT_ONCE = 200_000
# Rankings turned into arrays together.
RANKINGS_AT_ONCE = 1_024

Array = NDArray[np.float64]
Gains = Sequence[int] | Array
# What was found, best first, and all that is relevant.
Ranking = tuple[Gains, Gains]


# ---- metrics by name -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric of rankings by its name.

    Args:
        name: ``recall@10``.
        depth: How many of the first it looks at.
        values: Returns a value for each ranking.
    """

    name: str
    depth: int
    values: Callable[[Array, Array], metrics.Values]


def measure_named(name: str) -> Measure:
    """Return the metric of a name: recall@k, success@k, ndcg@k, mrr or mrr@k.

    Raises:
        InvalidInput: There is none.

    Example:
        >>> measure_named("recall@10").depth
        10
    """
    match = re.fullmatch(r"(recall|success|ndcg|mrr)(?:@([1-9]\d{0,5}))?", name.lower())
    if match is None or (match[2] is None and match[1] != "mrr"):
        raise InvalidInput(
            f"no metric {name!r}", hint="recall@10, success@10, ndcg@10 (with any k), mrr, mrr@10"
        )
    kind, k = match[1], int(match[2] or 0)
    values: dict[str, Callable[[Array, Array], metrics.Values]] = {
        "recall": lambda ranked, judged: metrics.recall_at_k(ranked, judged, k),
        "success": lambda ranked, _: metrics.successes_at_k(ranked, k),
        "ndcg": lambda ranked, judged: metrics.ndcg_at_k(ranked, judged, k),
        "mrr": lambda ranked, _: metrics.reciprocal_ranks(ranked, k or None),
    }
    return Measure(match[0], k or DEPTH, values[kind])


def measures_named(names: Sequence[str]) -> list[Measure]:
    """Return the metric of each name, each once however it is spelled.

    Raises:
        InvalidInput: There is none of a name.
    """
    return list({measure.name: measure for measure in map(measure_named, names)}.values())


def measure_rankings(
    rankings: Iterable[Ranking], measures: Sequence[Measure], of: Mapping[str, str]
) -> list[Figure]:
    """Return a figure for each metric.

    Args:
        rankings: For each query the gains of what was found, best first, and the gains of all
            that is relevant.
        measures: The metrics, none of them twice.
        of: What the figures are of.
    """
    values: dict[str, list[metrics.Values]] = {measure.name: [] for measure in measures}
    remaining = iter(rankings)
    while block := list(islice(remaining, RANKINGS_AT_ONCE)):
        found, relevant = (_filled(gains) for gains in zip(*block, strict=True))
        for measure in measures:
            values[measure.name].append(measure.values(found, relevant))
    return [estimate(of, name, np.concatenate(own)) for name, own in values.items()]


def _filled(gains: Sequence[Gains]) -> Array:
    """Return lists of several lengths as one array, filled up with zeros."""
    filled = np.zeros((len(gains), max(map(len, gains), default=0)))
    for row, own in zip(filled, gains, strict=True):
        row[: len(own)] = own
    return filled


# ---- runs ------------------------------------------------------------------------------------


def evaluate(
    run: str | os.PathLike[str] | Run,
    qrels: str | os.PathLike[str] | Qrels,
    measures: Sequence[str] = MEASURES,
) -> dict[str, Figure]:
    """Return how well a run finds what is relevant, by metric, as trec_eval counts it.

    A judged query that the run does not answer counts 0; one without anything relevant is left
    out, and so is one without judgements.

    Args:
        run: What ``run_batch`` wrote (``.trec``, ``.jsonl`` or ``.parquet``), or for each query
            the keys that were found, best first.
        qrels: A TREC qrels file, or for each query the grade of each key.
        measures: recall@k, success@k, ndcg@k, mrr or mrr@k.

    Raises:
        InvalidInput: No such metric; a query finds a key twice; or the run answers no query that
            has something relevant.
        NotFound: There is no such file.
        UnreadableFile: A line of a file cannot be used.

    Example:
        >>> found = {"q": ["owl.jpg", "dog.jpg", "cat.jpg"]}
        >>> scores = evaluate(found, {"q": {"dog.jpg": 1}}, ["recall@10", "mrr"])
        >>> scores["recall@10"].value, scores["mrr"].value
        (1.0, 0.5)
    """
    wanted = measures_named(measures)
    found = run if isinstance(run, Mapping) else read_run(run)
    for query, keys in found.items():
        if len(set(keys)) < len(keys):
            twice = next(key for key, count in Counter(keys).items() if count > 1)
            raise InvalidInput(
                f"{twice!r} is found for {query!r} more than once",
                hint="give a ranking that holds each key once",
            )
    judged = qrels if isinstance(qrels, Mapping) else read_qrels(Path(qrels))
    queries = [query for query, own in judged.items() if any(grade > 0 for grade in own.values())]
    if found.keys().isdisjoint(queries):
        name = "the run" if isinstance(run, Mapping) else os.fspath(run)
        raise InvalidInput(
            f"{name} answers no query that has something relevant",
            hint="the query ids of run and qrels must be the same",
        )
    rankings = (
        (
            [judged[query].get(key, 0) for key in found.get(query, ())],
            [grade for grade in judged[query].values() if grade > 0],
        )
        for query in queries
    )
    figures = measure_rankings(rankings, wanted, {})
    return {figure.metric: figure for figure in figures}


# ---- collections -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A query that was judged.

    Args:
        query: What asks.
        vector: Its unit vector (256,).
        asking: The modality it asks with; ``mixed`` for a sum of several.
        judged: The grade of each item that was judged; queries may share it.
        named: The items that it names, which it does not find.
    """

    query: Query
    vector: NDArray[np.float32]
    asking: str
    judged: Mapping[str, int]
    named: AbstractSet[str]


class Relevant:
    """What is relevant among some items, kept once for all queries of the same judgements.

    Args:
        judged: The grade of each item that was judged.
        among: The items that are asked for.
    """

    def __init__(self, judged: Mapping[str, int], among: AbstractSet[str]) -> None:
        self.grades = {key: grade for key, grade in judged.items() if grade > 0 and key in among}
        self._gains = np.array(list(self.grades.values()), np.float64)

    def without(self, named: AbstractSet[str]) -> Array:
        """Return the gains of all but the items named, which have 0."""
        gains = self._gains
        for key in self.grades.keys() & named:
            gains = gains.copy()
            # Which of several items of this grade it is does not matter.
            gains[np.argmax(gains == self.grades[key])] = 0
        return gains


def evaluate_retrieval(
    collection: Collection,
    qrels: Qrels,
    *,
    queries: Path | None = None,
    measures: Sequence[str] = MEASURES,
    where: Where = None,
) -> Report:
    """Return how well each modality finds each modality, and all of them at once (``any``).

    The answers are those of an exact search: an item counts by its best segment, and a query that
    names an item does not find that item. In ``any`` the calibrated score ranks.

    Args:
        collection: What is searched.
        qrels: What is relevant to each query.
        queries: A query file of ``muomni batch``; without it the queries are items, by key.
            Its k and modality do not count.
        measures: recall@k, success@k, ndcg@k, mrr (of the first 1,000) or mrr@k.
        where: Only these items are asked for, and ask.

    Raises:
        InvalidInput: No such metric; a query that cannot be asked; or nothing relevant at all.
    """
    wanted = measures_named(measures)
    condition = parse_filter(where)
    with collection.view() as view:
        modality_of = {item.key: item.modality for item in view.snapshot.iter_items(condition)}
        asked, notes = _judged_queries(view, qrels, queries, modality_of)
        figures: list[Figure] = []
        for asking in dict.fromkeys([*Modality, *sorted({one.asking for one in asked})]):
            own = [one for one in asked if one.asking == asking]
            for target in (*Modality, None):
                figures += _cell(view, own, target, wanted, condition, modality_of)
    if not figures:
        raise InvalidInput(
            f"no query has a relevant item in {collection.directory}",
            hint="check the judgements and --where",
        )
    return Report(figures, notes)


def _judged_queries(
    view: View, qrels: Qrels, path: Path | None, modality_of: Mapping[str, Modality]
) -> tuple[list[Asked], list[str]]:
    notes = []
    if path is None:
        queries = {key: Query.id(key) for key in modality_of if key in qrels}
    else:
        queries = {}
        for name, query in _read(path):
            if name in queries:
                raise InvalidInput(f"{path}: query {name} is there twice", hint="rename one")
            if name in qrels:
                queries[name] = query
        lost = len(qrels.keys() - queries.keys())
        if lost:
            notes.append(f"{lost:,} judged queries are not in {path}")
    asked = []
    vectors = view.resolve_many(list(queries.values()))
    for (name, query), vector in zip(queries.items(), vectors, strict=True):
        if isinstance(vector, MuomniError):
            raise InvalidInput(f"the query {name!r}: {vector.what}", hint=vector.hint)
        named = {str(part.value) for part in query.parts if part.kind == "id"}
        asked.append(Asked(query, vector, _asking(query, modality_of), qrels[name], named))
    return asked, notes


def _read(path: Path) -> Iterator[tuple[str, Query]]:
    for query_id, query, where in read_queries(path):
        if isinstance(query, MuomniError):
            raise InvalidInput(f"{path}: query {query_id}: {query.what}", hint=query.hint)
        if where is not None:
            raise InvalidInput(
                f"{path}: query {query_id} has a filter of its own",
                hint="leave `where` out: all queries are asked among the same items",
            )
        yield str(query_id), query


def _asking(query: Query, modality_of: Mapping[str, Modality]) -> str:
    kinds = {
        str(modality_of.get(part.value, part.kind)) if part.kind == "id" else part.kind
        for part in query.parts
    }
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _cell(
    view: View,
    asked: Sequence[Asked],
    target: Modality | None,
    measures: Sequence[Measure],
    where: Filter | None,
    modality_of: Mapping[str, Modality],
) -> list[Figure]:
    """Return the figures of queries of one modality in one modality, or in all."""
    among = {key for key, one in modality_of.items() if target in (None, one)}
    # Queries of the same judgements, as --same makes them, share what is relevant: a copy for each
    # would grow with the square of the items.
    distinct = {id(one.judged): one.judged for one in asked}
    relevant = {number: Relevant(judged, among) for number, judged in distinct.items()}
    paired = [(one, relevant[id(one.judged)]) for one in asked]
    paired = [(one, own) for one, own in paired if not own.grades.keys() <= one.named]
    if not paired:
        return []
    depth = min(max(measure.depth for measure in measures), len(modality_of))

    def rankings() -> Iterator[Ranking]:
        block = max(1, HITS_AT_ONCE // depth)
        for start in range(0, len(paired), block):
            some = paired[start : start + block]
            found = view.rank_many(
                [one.query for one, _ in some],
                np.stack([one.vector for one, _ in some]),
                depth,
                modality=target,
                where=where,
            )
            for (one, own), keys in zip(some, found.found_keys(), strict=True):
                # An item that is named is never among its hits.
                yield [own.grades.get(key, 0) for key in keys], own.without(one.named)

    of = {"asking": paired[0][0].asking, "asked": str(target or ANY)}
    return measure_rankings(rankings(), measures, of)
