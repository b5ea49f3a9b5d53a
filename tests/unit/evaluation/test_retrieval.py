"""Finding, measured: runs as trec_eval and ir_measures count them, collections as they answer."""

from __future__ import annotations

import json
import tracemalloc
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from ir_measures import RR, R, Success, nDCG

from muomni_search import evaluate
from muomni_search.batch import run_batch
from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.evaluation.relevance import check_judged, read_qrels, read_run, same_label
from muomni_search.evaluation.retrieval import evaluate_retrieval, measure_named
from muomni_search.items import DIM, Modality, Query, Record
from muomni_search.vectors import normalise

KEYS = [f"item {number}%" for number in range(40)]
THEIRS = {
    "recall@5": R @ 5,
    "recall@20": R @ 20,
    "success@3": Success @ 3,
    "ndcg@10": nDCG @ 10,
    "ndcg@40": nDCG @ 40,
    "mrr": RR,
}


def encoded(name: str) -> str:
    return urllib.parse.quote(name)


def write_qrels(path: Path, judged: dict[str, dict[str, int]]) -> Path:
    lines = [
        f"{encoded(query)} 0 {encoded(key)} {grade}\n"
        for query, own in judged.items()
        for key, grade in own.items()
    ]
    path.write_text("".join(lines))
    return path


def random_case(
    seed: int,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Return scores with many ties, and graded judgements, some below 0, some not in the run."""
    rng = np.random.default_rng(seed)
    run, judged = {}, {}
    for number in range(25):
        found = rng.choice(KEYS, rng.integers(1, 35), replace=False)
        run[f"q {number}"] = {key: float(rng.integers(0, 6)) / 4 for key in found.tolist()}
        some = rng.choice(KEYS, rng.integers(1, 20), replace=False)
        judged[f"q {number}"] = {key: int(rng.integers(-1, 4)) for key in some.tolist()}
    # A query that the run does not answer, and one that was not judged.
    del run["q 3"], judged["q 4"]
    judged["q 3"][KEYS[0]] = 2
    return run, judged


@pytest.mark.parametrize("seed", range(6))
def test_a_run_is_counted_as_ir_measures_counts_it(seed: int, tmp_path: Path) -> None:
    scores, judged = random_case(seed)
    lines = [
        f"{encoded(query)} Q0 {encoded(key)} {rank} {score} tag\n"
        for query, own in scores.items()
        # The ranks that are written are no help: readers rank by the score.
        for rank, (key, score) in enumerate(own.items(), start=1)
    ]
    (tmp_path / "run.trec").write_text("".join(lines))
    qrels = write_qrels(tmp_path / "judged.qrels", judged)
    ours = evaluate(tmp_path / "run.trec", qrels, list(THEIRS))
    relevant = {query for query, own in judged.items() if max(own.values()) > 0}
    judgements = {query: judged[query] for query in relevant}
    theirs = ir_measures.calc_aggregate(list(THEIRS.values()), judgements, scores)
    assert {name: ours[name].value for name in THEIRS} == pytest.approx(
        {name: theirs[measure] for name, measure in THEIRS.items()}
    )
    assert {figure.n for figure in ours.values()} == {len(relevant)}
    low, high = ours["recall@5"].interval
    assert low < ours["recall@5"].value < high


def test_a_cut_reciprocal_rank_is_that_of_ir_measures_too() -> None:
    # Of equal scores its implementation takes another order than trec_eval: so there are none.
    scores, judged = random_case(9)
    untied = {
        query: {key: score + number / 100 for number, (key, score) in enumerate(own.items())}
        for query, own in scores.items()
    }
    judged = {query: own for query, own in judged.items() if max(own.values()) > 0}
    run = {query: sorted(own, key=own.__getitem__, reverse=True) for query, own in untied.items()}
    theirs = ir_measures.calc_aggregate([RR @ 4], judged, untied)
    assert evaluate(run, judged, ["mrr@4"])["mrr@4"].value == pytest.approx(theirs[RR @ 4])


def test_scores_are_ranked_in_single_precision_as_trec_eval_does(tmp_path: Path) -> None:
    close = 1.0 + 1e-9
    (tmp_path / "a.run").write_text(f"q Q0 a 1 {close!r} t\nq Q0 b 2 1.0 t\nq Q0 c 3 1e300 t\n")
    assert read_run(tmp_path / "a.run") == {"q": ["c", "b", "a"]}
    judged = {"q": {"a": 1, "b": 0}}
    theirs = ir_measures.calc_aggregate([RR], judged, {"q": {"a": close, "b": 1.0, "c": 9.0}})
    ours = evaluate(tmp_path / "a.run", judged, ["mrr"])
    assert ours["mrr"].value == pytest.approx(theirs[RR])


# ---- files that are no good ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q 0 a", "3 fields instead of 4"),
        ("q 0 a b 1", "5 fields"),
        ("q 0 a one", "'one' is no whole number"),
        ("q 0 a 0.5", "'0.5' is no whole number"),
        ("q1 0 a 1", "a second time"),
    ],
)
def test_a_bad_line_of_judgements_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.qrels"
    path.write_text(f"q1 0 a 1\n\n{line}\n")
    with pytest.raises(UnreadableFile, match=said) as caught:
        read_qrels(path)
    assert f"{path}:3" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q Q0 a 1 0.5", "5 fields instead of 6"),
        ("q Q0 a 1 high tag", "'high' is no number"),
        ("q Q0 a 1 nan tag", "is no number"),
        ("q Q0 b 1 0.5 tag", "a second time"),
    ],
)
def test_a_bad_line_of_a_run_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.trec"
    path.write_text(f"q Q0 b 1 0.7 tag\n{line}\n")
    with pytest.raises(UnreadableFile, match=said) as caught:
        read_run(path)
    assert f"{path}:2" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"query_id": "q", "key": "a"}', "lacks score"),
        ('{"query_id": "q", "key": "a", "score": "x"}', "'x' is no number"),
        ("nonsense", "no JSON"),
    ],
)
def test_a_bad_row_of_a_run_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UnreadableFile, match=said) as caught:
        read_run(path)
    assert f"{path}:1" in str(caught.value)


def test_files_that_are_missing_or_empty_are_errors(tmp_path: Path) -> None:
    for read in (read_qrels, read_run):
        with pytest.raises(NotFound, match="no such file"):
            read(tmp_path / "missing.trec")
        (tmp_path / "blank.trec").write_text("\n \n")
        with pytest.raises(UnreadableFile, match=r"blank\.trec"):
            read(tmp_path / "blank.trec")
    with pytest.raises(NotFound, match="no such file"):
        read_run(tmp_path / "missing.jsonl")


def test_a_run_that_answers_nothing_judged_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="answers no query"):
        evaluate({"q": ["a"]}, {"other": {"a": 1}})
    with pytest.raises(InvalidInput, match="answers no query"):
        evaluate({"q": ["a"]}, {"q": {"a": 0}})


@pytest.mark.parametrize("name", ["recall", "recall@0", "map", "ndcg@x", "mrr@", "precision@5"])
def test_a_metric_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="no metric"):
        measure_named(name)


def test_a_metric_that_is_named_twice_is_measured_once() -> None:
    found = evaluate({"q": ["a"]}, {"q": {"a": 1}}, ["recall@10", "RECALL@10", "mrr", "recall@10"])
    assert {name: figure.n for name, figure in found.items()} == {"recall@10": 1, "mrr": 1}


def test_a_ranking_that_holds_a_key_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'a' is found for 'q' more than once"):
        evaluate({"q": ["b", "a", "a"]}, {"q": {"a": 1}})


# ---- collections -----------------------------------------------------------------------------


def vectors(seed: int, count: int) -> np.ndarray:
    return normalise(np.random.default_rng(seed).standard_normal((count, DIM)))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Ready vectors of three modalities, thing by thing, the further the noisier."""
    rng = np.random.default_rng(4)
    things = vectors(3, 12)
    with Collection.create(tmp_path_factory.mktemp("eval") / "shelf", model="hashing") as made:
        records = []
        for modality, noise in zip(Modality, (0.01, 0.06, 0.12), strict=True):
            for number, thing in enumerate(things):
                vector = normalise(thing + noise * rng.standard_normal(DIM))
                facts = {"thing": f"thing {number}", "half": number % 2, "deep": {"part": "x"}}
                facts["with.dot"] = "d"
                key = f"{modality}/{number} %.x"
                records.append(Record(key, modality, "test", vector=vector, metadata=facts))
        made.add(records)
        yield made


def brute_force(
    shelf: Collection, judged: dict[str, dict[str, int]], asking: str, asked: str, k: int
) -> tuple[list[float], list[float]]:
    """Return recall@k and reciprocal rank of each query that has something relevant there."""
    items = {item.key: item for item in shelf.items()}
    vector = {item.key: item.vector for item in shelf.get(list(items), vectors=True)}
    recalls, reciprocal = [], []
    for query in sorted(items):
        if items[query].modality != asking or query not in judged:
            continue
        among = [key for key in items if items[key].modality == asked and key != query]
        good = {key for key, grade in judged[query].items() if grade > 0} & set(among)
        if good:
            order = sorted(among, key=lambda key: (-float(vector[query] @ vector[key]), key))
            recalls.append(len(good & set(order[:k])) / len(good))
            reciprocal.append(1 / (1 + min(order.index(key) for key in good)))
    return recalls, reciprocal


def test_the_matrix_is_that_of_a_plain_search(shelf: Collection) -> None:
    judged = same_label(shelf, "half")
    report = evaluate_retrieval(shelf, judged, measures=["recall@3", "mrr"])
    cells = {(one.of["asking"], one.of["asked"], one.metric): one for one in report.figures}
    assert len(cells) == 3 * 4 * 2
    for asking in Modality:
        for asked in Modality:
            recalls, reciprocal = brute_force(shelf, judged, asking, asked, 3)
            assert cells[asking, asked, "recall@3"].value == pytest.approx(np.mean(recalls))
            assert cells[asking, asked, "mrr"].value == pytest.approx(np.mean(reciprocal))
            assert cells[asking, asked, "mrr"].n == len(recalls) == 12


def test_many_items_of_one_label_take_no_memory_a_pair(tmp_path: Path) -> None:
    rows = vectors(5, 1_000)
    with Collection.create(tmp_path / "one", model="hashing") as made:
        made.add(
            Record(f"f/{number}", Modality.IMAGE, "test", vector=row)
            for number, row in enumerate(rows)
        )
        judged = same_label(made, "folder")
        tracemalloc.start()
        try:
            report = evaluate_retrieval(made, judged, measures=["recall@10"])
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert report.figures[0].value == pytest.approx(10 / 999)
    # A judgement for each pair takes 80 MB and more.
    assert most < 50_000_000


def test_in_any_the_calibrated_score_ranks(shelf: Collection) -> None:
    judged = same_label(shelf, "thing")
    report = evaluate_retrieval(shelf, judged, measures=["recall@2"])
    values = []
    for key in sorted(judged):
        if key.startswith("image"):
            hits = [hit.key for hit in shelf.query(Query.id(key), 2, exact=True)]
            good = judged[key].keys() - {key}
            values.append(len(good & set(hits)) / len(good))
    (cell,) = (one for one in report.figures if one.of == {"asking": "image", "asked": "any"})
    assert cell.value == pytest.approx(np.mean(values))


def test_a_things_own_kind_has_no_cell_where_nothing_is_relevant_but_itself(
    shelf: Collection,
) -> None:
    report = evaluate_retrieval(shelf, same_label(shelf, "thing"), measures=["mrr"])
    pairs = {(one.of["asking"], one.of["asked"]) for one in report.figures}
    assert not {(one, one) for one in map(str, Modality)} & pairs
    assert len(pairs) == 9


def test_grades_count_and_a_filter_restricts_both_sides(shelf: Collection, tmp_path: Path) -> None:
    judged = {
        "text/0 %.x": {"image/0 %.x": 3, "image/1 %.x": 1, "audio/0 %.x": 0},
        "text/1 %.x": {"image/1 %.x": 2},
    }
    path = write_qrels(tmp_path / "judged.qrels", judged)
    read = read_qrels(path)
    assert read == judged
    check_judged(shelf, read, path, asks_items=True)
    report = evaluate_retrieval(shelf, read, measures=["ndcg@5"])
    assert [(one.of["asked"], one.n) for one in report.figures] == [("image", 2), ("any", 2)]
    fewer = evaluate_retrieval(shelf, read, measures=["ndcg@5"], where="half = 0")
    assert [(one.of["asked"], one.n) for one in fewer.figures] == [("image", 1), ("any", 1)]
    # Among six pictures its own is found first, and the other one is not asked for.
    assert fewer.figures[0].value == 1
    with pytest.raises(InvalidInput, match="no query has a relevant item"):
        evaluate_retrieval(shelf, read, where="modality != 'image'")


def test_judgements_of_what_is_not_there_are_errors(shelf: Collection, tmp_path: Path) -> None:
    path = write_qrels(tmp_path / "j.qrels", {"text/0 %.x": {"image/77 %.x": 1}})
    with pytest.raises(NotFound, match=r"j\.qrels names what is not in .*'image/77 %\.x'"):
        check_judged(shelf, read_qrels(path), path, asks_items=True)
    path = write_qrels(path, {"some query": {"image/0 %.x": 1}})
    with pytest.raises(NotFound, match="--queries"):
        check_judged(shelf, read_qrels(path), path, asks_items=True)
    check_judged(shelf, read_qrels(path), path, asks_items=False)


def write_queries(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_queries_come_from_a_file_too(shelf: Collection, tmp_path: Path) -> None:
    sounds = [item.vector for item in shelf.get(["audio/0 %.x", "audio/1 %.x"], vectors=True)]
    queries = write_queries(
        tmp_path / "q.jsonl",
        {"query_id": "bare vector", "vector": sounds[0].tolist()},
        {"query_id": "an item", "id": "audio/1 %.x"},
        {"query_id": "a sum", "id": "audio/1 %.x", "plus": ["id:text/1 %.x"]},
        {"query_id": "not judged", "text": "words"},
    )
    judged = {
        "bare vector": {"audio/0 %.x": 1},
        "an item": {"audio/1 %.x": 1, "image/1 %.x": 1},
        "a sum": {"image/1 %.x": 1},
        "gone": {"image/1 %.x": 1},
    }
    report = evaluate_retrieval(shelf, judged, queries=queries, measures=["recall@2"])
    # The item that asks is not relevant to itself.
    found = {(one.of["asking"], one.of["asked"]): one.value for one in report.figures}
    # The item that asks is not relevant to itself.
    assert found == {
        ("audio", "image"): 1, ("audio", "any"): 1,
        ("mixed", "image"): 1, ("mixed", "any"): 1,
        ("vector", "audio"): 1, ("vector", "any"): 1,
    }  # fmt: skip
    assert report.notes == [f"1 judged queries are not in {queries}"]


def test_a_query_that_cannot_be_asked_is_an_error(shelf: Collection, tmp_path: Path) -> None:
    judged = {"q": {"image/1 %.x": 1}}
    queries = write_queries(tmp_path / "q.jsonl", *[{"query_id": "q", "text": "x"}] * 2)
    with pytest.raises(InvalidInput, match="query q is there twice"):
        evaluate_retrieval(shelf, judged, queries=queries)
    for row, said in (
        ({"query_id": "q", "id": "missing"}, "the query 'q': no item 'missing'"),
        ({"query_id": "q"}, "query q: a query without a part"),
        ({"query_id": "q", "text": "x", "where": "half = 1"}, "filter of its own"),
    ):
        queries = write_queries(tmp_path / "q.jsonl", row)
        with pytest.raises(InvalidInput, match=said):
            evaluate_retrieval(shelf, judged, queries=queries)


def test_labels_are_metadata_or_parts_of_the_key(shelf: Collection) -> None:
    for field in ("deep.part", "with.dot"):
        assert same_label(shelf, field).keys() == {item.key for item in shelf.items()}
    halves = same_label(shelf, "half")
    assert set(map(len, halves.values())) == {18}
    folders = same_label(shelf, "folder")
    assert folders["text/0 %.x"].keys() == {f"text/{number} %.x" for number in range(12)}
    with pytest.raises(InvalidInput, match=r"no two items .* same 'stem'"):
        same_label(shelf, "stem")
    with pytest.raises(NotFound, match=r"metadata 'colour'.*deep, folder, half, stem, thing"):
        same_label(shelf, "colour")


@pytest.mark.parametrize("suffix", [".trec", ".jsonl", ".parquet"])
def test_what_a_batch_job_wrote_is_evaluated(
    shelf: Collection, tmp_path: Path, suffix: str
) -> None:
    keys = [f"audio/{number} %.x" for number in range(12)]
    queries = write_queries(tmp_path / "q.jsonl", *({"query_id": key, "id": key} for key in keys))
    run = run_batch(shelf, queries, tmp_path / f"out{suffix}", k=36, modality="image")
    judged = {key: {key.replace("audio", "image"): 1} for key in keys}
    qrels = write_qrels(tmp_path / "judged.tsv", judged)
    ours = evaluate(run, str(qrels), ["recall@1", "ndcg@5", "mrr"])
    assert list(ours) == ["recall@1", "ndcg@5", "mrr"]
    report = evaluate_retrieval(shelf, judged, measures=list(ours))
    assert {one.metric: one.value for one in report.figures if one.of["asked"] == "image"} == (
        pytest.approx({name: figure.value for name, figure in ours.items()})
    )


def test_whole_numbers_name_queries_too(shelf: Collection, tmp_path: Path) -> None:
    queries = write_queries(tmp_path / "q.jsonl", {"id": "audio/1 %.x"}, {"id": "audio/2 %.x"})
    run = run_batch(shelf, queries, tmp_path / "out.parquet", k=36)
    assert pq.read_table(run).num_rows == 70
    found = evaluate(run, {"1": {"image/2 %.x": 1}}, ["success@36"])
    assert found["success@36"].value == 1
