"""Which indexes a collection has, and that each was measured on those who ask it."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vector_helpers import rows_of

from muomni_search import Collection, durable
from muomni_search.batch import run_batch, write_neighbors
from muomni_search.errors import Conflict, InvalidInput, MuomniError
from muomni_search.index import planner, tuning
from muomni_search.index.faiss_index import FourBitScan
from muomni_search.index.protocol import VectorIndex
from muomni_search.index.tuning import Promise
from muomni_search.items import Modality, Query, Record
from muomni_search.store.records import Settings

IMAGE, TEXT = Modality.IMAGE, Modality.TEXT


def records(modality: Modality, rows: np.ndarray, start: int = 0) -> Iterator[Record]:
    for number, vector in enumerate(rows, start):
        yield Record(f"{modality}/{number:05}", modality, "made up", vector=vector)


def pairs_of(answers: pa.Table) -> set[tuple[str, str]]:
    return set(zip(answers["query_id"].to_pylist(), answers["key"].to_pylist(), strict=True))


@pytest.fixture
def collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    """3,000 pictures, which here are too many to be compared one by one."""
    monkeypatch.setattr(planner, "EXACT_ROWS", 1_000)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(records(IMAGE, rows_of(3_000, 1)))
        yield collection


def index_of(collection: Collection) -> dict:
    return collection.stats()["image"]["index"]


def test_a_filter_holds_for_what_an_index_proposes_also_after_changes(
    tmp_path: Path, collection: Collection
) -> None:
    rows = rows_of(3_000, 1)
    queries = [Query.vector(one) for one in rows_of(20, 2)]

    def add(numbers: range, rest: int) -> None:
        filtered.add(
            replace(one, metadata={"n": (number + rest) % 2})
            for number, one in zip(numbers, records(IMAGE, rows[numbers], numbers[0]), strict=True)
        )

    def check(rest: int) -> None:
        shares = []
        for query in queries:
            found = filtered.query(query, where="n = 0")
            assert {hit.how for hit in found} == {"ann"}
            assert {hit.metadata["n"] for hit in found} == {0}
            best = filtered.query(query, where="n = 0", exact=True)
            shares.append(len({hit.key for hit in found} & {hit.key for hit in best}) / 10)
            assert {int(hit.key[-5:]) % 2 for hit in best if int(hit.key[-5:]) < 400} <= {rest}
        assert np.mean(shares) > 0.9

    with Collection.create(tmp_path / "filtered", model="hashing") as filtered:
        add(range(3_000), 0)
        check(0)
        # Other metadata, and a few rows that are gone.
        add(range(400), 1)
        filtered.delete([f"image/{number:05}" for number in range(500, 520)])
        check(1)


def test_an_index_is_built_and_measured_by_what_is_added(collection: Collection) -> None:
    index = index_of(collection)
    assert (index["kind"], index["rows"], index["why"]) == ("pq4", 3_000, None)
    assert index["promise"]["recall"] == 0.95
    assert set(index["promise"]["measured"]) == {"image", "afar"}
    hit = collection.query(Query.vector(rows_of(3_000, 1)[7]), k=1)[0]
    assert (hit.key, hit.how, hit.recall) == ("image/00007", "ann", 0.95)
    exact = collection.query(Query.vector(rows_of(3_000, 1)[7]), k=1, exact=True)[0]
    assert (exact.key, exact.how, exact.recall) == ("image/00007", "exact", 1.0)


def test_a_batch_goes_by_the_index_on_demand_and_says_so(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    monkeypatch.setattr(planner, "RUNAWAY_SHARE", 0.5)
    collection.add(records(TEXT, rows_of(40, 8)))
    queries = tmp_path / "queries.npy"
    np.save(queries, rows_of(200, 5))

    def answers(name: str, **options: Any) -> pa.Table:
        run_batch(collection, queries, tmp_path / name, k=10, **options)
        return pq.read_table(tmp_path / name)

    exact = answers("exact.parquet", modality="image")
    assert set(exact["how"].to_pylist()) == {"exact"}
    ann = answers("ann.parquet", modality="image", exact=False)
    # Few ask so that they are better compared with all.
    assert ann["how"].to_pylist().count("ann") > 0.8 * len(ann)
    assert ann["query_id"].to_pylist() == exact["query_id"].to_pylist()
    assert len(pairs_of(exact) & pairs_of(ann)) >= 0.95 * len(exact)
    # Each answer says what it promises; where no index was asked, nothing need be said.
    assert "recall" not in exact.column_names
    promised = set(zip(ann["how"].to_pylist(), ann["recall"].to_pylist(), strict=True))
    assert promised <= {("ann", 0.95), ("exact", 1.0)}
    run_batch(collection, queries, tmp_path / "ann.jsonl", modality="image", exact=False)
    lines = [json.loads(line) for line in (tmp_path / "ann.jsonl").read_text().splitlines()]
    assert [(one["how"], one["recall"]) for one in lines] == list(
        zip(ann["how"].to_pylist(), ann["recall"].to_pylist(), strict=True)
    )
    # The few texts are compared one by one, and so is what a filter lets through.
    mixed = answers("mixed.parquet", exact=False)
    told = set(zip(mixed["modality"].to_pylist(), mixed["how"].to_pylist(), strict=True))
    assert ("image", "ann") in told
    assert ("text", "ann") not in told
    filtered = answers("filtered.parquet", modality="image", where="key > 'image/01'", exact=False)
    assert set(filtered["how"].to_pylist()) == {"exact"}
    # Measured anew, the index may answer otherwise: then this is another job.
    collection.tune()
    assert run_batch(collection, queries, tmp_path / "ann.parquet", modality="image", exact=False)
    collection.tune(recall=0.99)
    with pytest.raises(Conflict, match="option"):
        answers("ann.parquet", modality="image", exact=False)
    answers("exact.parquet", modality="image")


@pytest.mark.parametrize("changed", [{"fetch": 250}, {"reach": 0.75}, {"recall": 0.9}])
def test_an_index_that_is_asked_otherwise_makes_another_job(
    collection: Collection, tmp_path: Path, changed: dict[str, float]
) -> None:
    queries = tmp_path / "queries.npy"
    np.save(queries, rows_of(20, 5))
    run_batch(collection, queries, tmp_path / "out.jsonl", exact=False)
    with collection.store.snapshot() as snapshot:
        file = snapshot.index_file(IMAGE)
    assert file is not None
    promise = {**file.params["promise"], **changed}
    assert promise != file.params["promise"]
    with collection.store.write() as writer:
        writer.set_promise(IMAGE, promise)
    with pytest.raises(Conflict, match="option"):
        run_batch(collection, queries, tmp_path / "out.jsonl", exact=False)
    run_batch(collection, queries, tmp_path / "out.jsonl", exact=False, force=True)


def test_what_was_added_is_reported_though_the_disk_has_no_room_for_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "EXACT_ROWS", 1_000)
    whole_file = durable.whole_file

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        if path.suffix == ".faiss":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        with whole_file(path) as partial:
            yield partial

    rows = rows_of(1_500, 1)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        with monkeypatch.context() as patched:
            patched.setattr(durable, "whole_file", full)
            assert collection.add(records(IMAGE, rows)).added == 1_500
            assert collection.delete("image/00000") == 1
            assert index_of(collection)["kind"] == "exact"
            assert collection.query(Query.vector(rows[5]), 1)[0].key == "image/00005"
            with pytest.raises(MuomniError, match="No space left"):
                collection.rebuild()
        collection.add(records(IMAGE, rows_of(1, 2), 1_500))
        assert index_of(collection)["kind"] == "pq4"


def test_neighbours_go_by_the_index_on_demand(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    monkeypatch.setattr(planner, "RUNAWAY_SHARE", 0.5)
    # So many equal ones that a tie decides who is among the five, some of them since the build.
    collection.add(records(IMAGE, np.repeat(rows_of(1, 6), 30, axis=0), start=3_000))
    found = {}
    for exact in (True, False):
        write_neighbors(collection, tmp_path / f"{exact}.parquet", k=5, exact=exact)
        table = pq.read_table(tmp_path / f"{exact}.parquet")
        assert len(table) == 5 * 3_030
        assert ("ann" in table["how"].to_pylist()) is not exact
        found[exact] = pairs_of(table)
        assert not any(asked == key for asked, key in found[exact])
    assert len(found[True] & found[False]) >= 0.95 * 5 * 3_030
    equal = {f"image/{number:05}" for number in range(3_000, 3_030)}
    own = [{pair for pair in found[exact] if pair[0] in equal} for exact in (True, False)]
    assert own[0] == own[1]


def test_who_comes_later_and_asks_is_measured_too(collection: Collection) -> None:
    before = index_of(collection)
    collection.add(records(TEXT, rows_of(9, 2)))
    after = index_of(collection)
    assert set(after["promise"]["measured"]) == {"image", "text", "afar"}
    assert after["rows"] == before["rows"]
    collection.add(records(TEXT, rows_of(1, 3), start=100))
    assert index_of(collection) == after
    # Nine said little of how many ask, and whoever comes may ask otherwise: half as many more.
    collection.add(records(TEXT, rows_of(3, 4), start=200))
    assert index_of(collection) == after
    collection.add(records(TEXT, rows_of(1, 5), start=300))
    assert asked_by(collection, "text")["rows"] == 14
    collection.add(records(TEXT, rows_of(56, 6), start=400))
    assert asked_by(collection, "text")["rows"] == 70


def test_a_query_that_is_farther_than_those_that_asked_is_compared_with_all(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert index_of(collection)["promise"]["reach"] > 0
    promise = index_of(collection)["promise"]
    queries = rows_of(3, 9)
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    monkeypatch.setattr(planner, "RUNAWAY_SHARE", 1)
    for reach, how in ((-1, "ann"), (0.9999, "exact"), (promise["reach"], "ann")):
        with collection.store.write() as writer:
            writer.set_promise(IMAGE, {**promise, "reach": reach})
        for query in queries:
            hits = collection.query(Query.vector(query))
            assert {hit.how for hit in hits} == {how}
        with collection.view() as view:
            monkeypatch.setattr(planner, "COMPARING_TIME", 0)
            asked = [Query.vector(query) for query in queries]
            found = view.rank_many(asked, queries, 10, exact=False)
        assert set(found.how.tolist()) == {how}


def asked_by(collection: Collection, name: str) -> dict:
    return index_of(collection)["promise"]["measured"][name]


def test_who_asks_with_other_rows_than_before_is_measured_again(collection: Collection) -> None:
    collection.add(records(TEXT, rows_of(300, 2)))
    before = index_of(collection)
    assert asked_by(collection, "text")["dead"] == 0
    # The same keys with other vectors: as many rows as before.
    collection.add(records(TEXT, rows_of(60, 3)))
    assert index_of(collection) == before
    collection.add(records(TEXT, rows_of(10, 4), start=60))
    after = index_of(collection)
    assert asked_by(collection, "text")["dead"] == 70
    assert after["promise"]["measured_at"] > before["promise"]["measured_at"]
    assert after["rows"] == before["rows"]
    # And not with every addition from now on.
    collection.add(records(TEXT, rows_of(60, 5), start=100))
    assert index_of(collection) == after


def test_rows_that_are_deleted_are_measured_no_more(collection: Collection) -> None:
    collection.delete([f"image/{number:05}" for number in range(600)])
    assert asked_by(collection, "image")["dead"] == 0
    collection.delete(["image/00600"])
    now = asked_by(collection, "image")
    assert (now["rows"], now["dead"]) == (2_399, 601)


def test_rows_of_a_file_that_was_compacted_are_measured_once_more(collection: Collection) -> None:
    collection.add(records(TEXT, rows_of(300, 2)))
    collection.delete(["text/00007"])
    before = index_of(collection)
    collection.compact()
    after = index_of(collection)
    assert asked_by(collection, "text")["generation"] == 1
    assert after["rows"] == before["rows"]
    collection.add(records(TEXT, rows_of(1, 3), start=1_000))
    assert index_of(collection) == after


def test_a_few_that_ask_are_not_measured_with_every_change(collection: Collection) -> None:
    collection.add(records(TEXT, rows_of(20, 2)))
    before = index_of(collection)
    for seed in (3, 4):
        collection.add(records(TEXT, rows_of(20, seed)))
    collection.compact()
    assert index_of(collection) == before


def test_a_promise_says_when_it_was_measured(collection: Collection) -> None:
    start = datetime.now(UTC)
    tuned = collection.tune()[IMAGE]["promise"]["measured_at"]
    assert start.timestamp() - 0.001 <= datetime.fromisoformat(tuned).timestamp()
    assert datetime.fromisoformat(tuned) <= datetime.now(UTC)
    assert collection.rebuild("image")[IMAGE]["promise"]["measured_at"] > tuned
    # Earlier versions did not say.
    with collection.store.write() as writer:
        promise = index_of(collection)["promise"]
        del promise["measured_at"]
        writer.set_promise(IMAGE, promise)
    assert index_of(collection)["promise"]["measured_at"] is None


def test_what_was_promised_meanwhile_is_measured_by_the_next_addition(
    collection: Collection,
) -> None:
    # As a kill between the two halves of `tune` leaves it.
    with collection.store.write() as writer:
        writer.set_settings(Settings(recall=0.9))
    assert index_of(collection)["promise"]["recall"] == 0.95
    collection.add(records(TEXT, rows_of(1, 3)))
    assert index_of(collection)["promise"]["recall"] == 0.9


def test_memory_is_kept_to_as_rows_grow(collection: Collection) -> None:
    collection.tune(memory=5_000 * 32 + planner.FIXED_BYTES)
    assert index_of(collection)["kind"] == "pq4"
    collection.add(records(TEXT, rows_of(2_000, 3)))
    stats = collection.stats()
    held = [stats[name]["index"]["bytes"] for name in ("image", "text")]
    assert min(held) > 0
    assert sum(held) < 5_000 * 32 + 2 * 20_000  # the codes themselves, and each one's codebooks
    collection.add(records(TEXT, rows_of(6_000, 4), start=10_000))
    assert [collection.stats()[name]["index"]["kind"] for name in ("image", "text")] == [
        "exact",
        "exact",
    ]
    assert list((collection.directory / "index").iterdir()) == []


def test_an_older_index_does_not_replace_one_of_more_rows(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, grown = planner.build_index, []

    def slow(vectors: np.ndarray, codes: int) -> VectorIndex:
        if not grown:
            grown.append(True)
            collection.add(records(IMAGE, rows_of(3_000, 8), start=10_000))
        return build(vectors, codes)

    monkeypatch.setattr(planner, "build_index", slow)
    assert collection.rebuild("image")[IMAGE]["rows"] == 6_000
    assert len(list((collection.directory / "index").iterdir())) == 1


def test_a_recall_of_all_means_exact_and_why(collection: Collection) -> None:
    index = collection.tune(recall=1)[IMAGE]
    assert (index["kind"], index["bytes"]) == ("exact", 0)
    assert index["why"] == "a recall of 1 was asked for, which only comparing all rows keeps"
    assert {hit.how for hit in collection.query(Query.vector(rows_of(1, 9)[0]))} == {"exact"}
    collection.add(records(IMAGE, rows_of(1, 5), start=5_000))
    assert index_of(collection) == index
    assert collection.rebuild("image")[IMAGE] == index
    assert collection.tune(recall=0.9)[IMAGE]["kind"] == "pq4"


def test_an_index_that_is_asked_for_beyond_measure_is_built_once_and_told_why(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.tune(recall=0.9995)
    built = []
    real = planner.build_index
    monkeypatch.setattr(
        planner, "build_index", lambda vectors, codes: built.append(codes) or real(vectors, codes)
    )
    index = collection.rebuild("image", kind="ann")[IMAGE]
    assert len(built) == 1
    assert index["why"].endswith("no measurement is sure of more than 0.9993")


def test_a_recall_that_no_measurement_shows_builds_and_measures_nothing(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "build_index", None)
    monkeypatch.setattr(tuning, "tune", None)
    index = collection.tune(recall=0.999999)[IMAGE]
    assert (index["kind"], index["bytes"]) == ("exact", 0)
    assert index["why"] == (
        "a recall of 0.999999 was asked for, and no measurement is sure of more than 0.9993"
    )
    assert {hit.how for hit in collection.query(Query.vector(rows_of(1, 9)[0]))} == {"exact"}
    assert collection.rebuild("image")[IMAGE] == index


def test_a_recall_that_no_depth_is_sure_of_means_exact_and_why(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "DEVIATIONS", 1_000.0)
    index = collection.tune()[IMAGE]
    assert index["kind"] == "exact"
    assert index["why"] == "no depth of pq4 was sure to keep a recall of 0.95"
    assert {hit.how for hit in collection.query(Query.vector(rows_of(1, 9)[0]))} == {"exact"}
    # It is remembered, and not tried again with every addition.
    collection.add(records(IMAGE, rows_of(1, 5), start=5_000))
    assert index_of(collection) == index


def test_an_index_that_keeps_no_promise_gives_way_to_one_of_more_codes(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tune = index_of(collection), tuning.tune

    def demanding(index: FourBitScan, *arguments: Any) -> Promise:
        promise = tune(index, *arguments)
        return promise if index.codes == 128 else replace(promise, fetch=None)

    monkeypatch.setattr(tuning, "tune", demanding)
    after = collection.tune()[IMAGE]
    assert after["kind"] == "pq4"
    assert after["promise"]["fetch"] is not None
    assert after["bytes"] > 1.5 * before["bytes"]
    assert collection.tune()[IMAGE]["bytes"] == after["bytes"]
    # There is no memory for so many: then nothing is promised, and all rows are compared.
    few = collection.tune(memory=3_000 * 32 + planner.FIXED_BYTES)[IMAGE]
    assert (few["kind"], few["bytes"]) == ("exact", before["bytes"])
    assert collection.tune(memory=0)[IMAGE]["bytes"] == after["bytes"]


def test_memory_halves_the_codes_and_then_leaves_them_out(collection: Collection) -> None:
    whole = index_of(collection)["bytes"]
    memory = 3_000 * 32 + planner.FIXED_BYTES
    assert whole <= memory
    assert collection.tune(memory=memory)[IMAGE]["bytes"] == whole
    half = collection.tune(memory=memory - 1)[IMAGE]
    assert half["kind"] == "pq4"
    assert half["bytes"] < 0.7 * whole
    none = collection.tune(memory=3_000)[IMAGE]
    assert (none["kind"], none["bytes"]) == ("exact", 0)
    assert none["why"] == "the memory allowed holds no index"
    assert list((collection.directory / "index").iterdir()) == []
    with pytest.raises(InvalidInput, match="holds none"):
        collection.rebuild("image", kind="ann")
    collection.add(records(IMAGE, rows_of(1, 5), start=5_000))
    assert index_of(collection)["kind"] == "exact"
    assert collection.tune(memory=0)[IMAGE]["bytes"] >= whole


def test_settings_outlive_the_process(collection: Collection) -> None:
    collection.tune(recall=0.9, memory=10**9)
    with Collection.open(collection.directory) as again:
        assert again.tune()[IMAGE]["promise"]["recall"] == 0.9
        with again.store.snapshot() as snapshot:
            assert snapshot.settings.memory == 10**9


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"recall"', '"becall"'),
        ('"measured"', '"mmasured"'),
        ('"fetch"', '"fetcj"'),
        ('"promise"', '"qromise"'),
        ('"codes"', '"bodes"'),
        ("{", "["),
        ('"', "'"),
    ],
)
def test_a_promise_that_is_damaged_is_measured_again(
    collection: Collection, right: str, wrong: str
) -> None:
    before = index_of(collection)["promise"]
    change = "UPDATE index_files SET params = replace(params, ?, ?)"
    with collection.store.write() as writer:
        writer.connection.execute(change, [right, wrong])
    assert collection.query(Query.vector(rows_of(1, 9)[0]))
    collection.refresh_indexes()
    after = index_of(collection)["promise"]
    assert after["measured"].keys() == before["measured"].keys()
    assert list(collection.verify()) == []


@pytest.mark.parametrize("settings", ['{"recakl": 0.9}', '{"recall', "[]", "7"])
def test_settings_that_are_damaged_are_the_defaults(collection: Collection, settings: str) -> None:
    with collection.store.write() as writer:
        writer.connection.execute("UPDATE collection SET settings = ?", [settings])
    with Collection.open(collection.directory) as again:
        assert again.tune()[IMAGE]["promise"]["recall"] == 0.95


def test_an_index_of_an_older_version_is_measured_when_it_is_met(collection: Collection) -> None:
    with collection.store.write() as writer:
        writer.connection.execute("""UPDATE index_files SET params = '{"kind": "pq4"}'""")
    assert index_of(collection)["promise"] is None
    query = Query.vector(rows_of(1, 9)[0])
    assert {(hit.how, hit.recall) for hit in collection.query(query)} == {("ann", None)}
    collection.refresh_indexes()
    assert index_of(collection)["promise"]["recall"] == 0.95


def test_tuning_what_was_damaged_builds_it_anew(collection: Collection) -> None:
    (file,) = (collection.directory / "index").iterdir()
    file.write_bytes(b"nothing")
    assert collection.tune()[IMAGE]["kind"] == "pq4"
    assert collection.verify() == []


@pytest.mark.parametrize("wrong", [{"recall": 0.0}, {"recall": 1.01}, {"memory": -1}])
def test_a_promise_that_is_none_is_refused(collection: Collection, wrong: dict) -> None:
    before = index_of(collection)
    with pytest.raises(InvalidInput):
        collection.tune(**wrong)
    assert index_of(collection) == before
