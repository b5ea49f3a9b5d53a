"""A collection from the outside: every way to ask, to change, to break and to mend it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from muomni_search.batch import run_batch
from muomni_search.collection import Collection, Limits
from muomni_search.duplicates import find_duplicates
from muomni_search.errors import (
    Conflict,
    CorruptData,
    InvalidInput,
    MuomniError,
    NotFound,
    UnreadableFile,
)
from muomni_search.index import planner
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Hit, Modality, Query, Record, Span
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.store import NewItem
from muomni_search.vectors import check_vectors, cosines, normalise
from muomni_search.view import Loaded, Tuned

ROWS = 90
VECTORS = normalise(np.random.default_rng(21).standard_normal((ROWS, DIM)))
# Three of every nine are alike, so that pages end inside of ties.
VECTORS[3::9] = VECTORS[0::9]
VECTORS[6::9] = VECTORS[0::9]
ASKED = np.random.default_rng(22).standard_normal(DIM).astype(np.float32)
LONG = " ".join(f"Sentence {number} tells of the number {number}." for number in range(20))


def record(key: str, vector: Any, modality: str = "image", **metadata: Any) -> Record:
    return Record(
        key=key, modality=Modality(modality), origin="test", vector=vector, metadata=metadata
    )


def words(key: str, text: str) -> Record:
    return Record(key=key, modality=Modality.TEXT, origin="test", text=text)


def records() -> Iterator[Record]:
    for number, vector in enumerate(VECTORS):
        key = f"k{(number * 7) % ROWS:02d}"  # keys that do not sort as the rows do
        yield record(key, vector, list(Modality)[number % 3], year=2000 + number % 10)
    yield words("owl", "An owl calls in the night.")
    yield words("dog", "A dog barks at the postman.")
    yield words("long", LONG)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("collection") / "made"
    with Collection.create(directory, model="hashing") as collection:
        collection.add(records())
    return directory


@pytest.fixture(scope="module")
def shelf(made: Path) -> Iterator[Collection]:
    """A collection that no test changes."""
    with Collection.open(made) as collection:
        yield collection


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Collection]:
    with Collection.create(tmp_path / "empty", model="hashing") as collection:
        yield collection


def names(hits: list[Hit]) -> list[str]:
    return [hit.key for hit in hits]


def by_cosine(collection: Collection, vector: NDArray[np.float32], where: str) -> list[str]:
    """Return the keys of one modality by their cosine with a vector: the slow way."""
    keys = [item.key for item in collection.items(where=where)]
    values = {
        item.key: cosines(item.vector[np.newaxis], vector)[0]
        for item in collection.get(keys, vectors=True)
    }
    return sorted(keys, key=lambda key: (-values[key], key))


# ---- asking ----------------------------------------------------------------------------------


def test_words_find_the_text_that_holds_them(shelf: Collection) -> None:
    (hit,) = shelf.query(Query.text("owl night"), 1)
    assert (hit.rank, hit.key, hit.modality, hit.how) == (1, "owl", Modality.TEXT, "exact")
    assert hit.text == "An owl calls in the night."
    assert (hit.span, hit.source, hit.metadata) == (None, None, {})


@pytest.mark.parametrize("modality", list(Modality))
def test_a_vector_finds_what_is_nearest(shelf: Collection, modality: Modality) -> None:
    hits = shelf.query(Query.vector(ASKED), 1_000, modality=modality)
    nearest = by_cosine(shelf, normalise(ASKED), f"modality = '{modality}' and key != 'long'")
    assert [key for key in names(hits) if key != "long"] == nearest
    assert [hit.cosine for hit in hits] == sorted((hit.cosine for hit in hits), reverse=True)


def test_an_item_finds_its_equals_but_not_itself(shelf: Collection) -> None:
    key, twins = "k00", {"k21", "k42"}  # rows 0, 3 and 6
    hits = shelf.query(Query.id(key), 2)
    assert set(names(hits)) <= twins
    assert key not in names(shelf.query(Query.id(key), 1_000))
    with_itself = shelf.query(Query.id(key), 1_000, include_self=True)
    assert key in names(with_itself)
    assert len(with_itself) == ROWS + 3


def test_every_item_that_a_sum_names_is_left_out(shelf: Collection) -> None:
    query = Query.id("k01") + Query.id("k02") - Query.text("owl")
    found = names(shelf.query(query, 1_000))
    assert len(found) == ROWS + 3 - 2
    assert not {"k01", "k02"} & set(found)


def test_a_sum_is_the_weighted_mean_of_unit_vectors(shelf: Collection) -> None:
    one, two = (item.vector for item in shelf.get(["k05", "k06"], vectors=True))
    query = 2.0 * Query.id("k05") - 0.5 * Query.id("k06") + Query.vector(100 * ASKED)
    expected = normalise(2.0 * one - 0.5 * two + normalise(ASKED))
    assert np.allclose(shelf.resolve(query), expected, atol=1e-6)


def test_a_long_item_counts_as_the_mean_of_its_segments(shelf: Collection) -> None:
    hits = shelf.query(Query.id("long"), 1_000, segments=True, include_self=True)
    own = [hit for hit in hits if hit.key == "long"]
    assert len(own) == 20
    (item,) = shelf.get(["long"], vectors=True)
    assert np.array_equal(shelf.resolve(Query.id("long")), item.vector)
    assert item.segments == 20


def test_pictures_and_sounds_ask_too(empty: Collection, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    soundfile.write(tmp_path / "hum.wav", 0.5 * np.sin(np.arange(80_000) / 7), 16_000)
    empty.add(
        Record(key=path.name, modality=modality, origin=str(path), path=path, source=str(path))
        for path, modality in (
            (tmp_path / "red.png", Modality.IMAGE),
            (tmp_path / "hum.wav", Modality.AUDIO),
        )
    )
    (hit,) = empty.query(Query.image(tmp_path / "red.png"), modality="image")
    assert (hit.key, hit.source) == ("red.png", str(tmp_path / "red.png"))
    assert hit.cosine == pytest.approx(1)
    (hit,) = empty.query(Query.audio(tmp_path / "hum.wav"), modality="audio")
    assert hit.span is not None
    assert hit.span.unit == "ms"
    with pytest.raises(NotFound, match="gone"):
        empty.query(Query.image(tmp_path / "gone.png"))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, {"text", "image", "audio"}),
        ("image", {"image"}),
        (["audio", "text"], {"audio", "text"}),
        ([Modality.AUDIO, "audio"], {"audio"}),
    ],
)
def test_only_the_modalities_asked_for_are_found(
    shelf: Collection, asked: Any, found: set[str]
) -> None:
    hits = shelf.query(Query.vector(ASKED), 1_000, modality=asked)
    assert {str(hit.modality) for hit in hits} == found
    wanted = [item for item in shelf.items() if item.modality in found]
    assert len(hits) == len(wanted)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_pages_are_the_whole_answer_in_pieces(shelf: Collection, size: int, segments: bool) -> None:
    query = Query.vector(ASKED) + Query.text("number")
    whole = shelf.query(query, 1_000, segments=segments)
    pages = [
        shelf.query(query, size, offset=offset, segments=segments)
        for offset in range(0, len(whole) + size, size)
    ]
    assert [hit for page in pages for hit in page] == whole
    assert [hit.rank for hit in whole] == list(range(1, len(whole) + 1))
    assert pages[-1] == []


def test_the_same_question_has_the_same_answer(shelf: Collection) -> None:
    query = Query.text("the owl of number 7")
    assert shelf.query(query, 50) == shelf.query(query, 50)
    assert (
        shelf.query_many([query, Query.id("k01"), query], 50)[0::2] == [shelf.query(query, 50)] * 2
    )


def test_hits_come_by_score_then_key(shelf: Collection) -> None:
    for query in (Query.vector(ASKED), Query.id("k00"), Query.text("dog")):
        hits = shelf.query(query, 1_000)
        order = [(-hit.score, hit.key) for hit in hits]
        assert order == sorted(order)
        assert len(set(names(hits))) == len(hits)


@pytest.mark.parametrize("most", [575, 576])
def test_limits_of_a_collection_hold_for_queries_and_for_what_is_added(
    tmp_path: Path, most: int
) -> None:
    Image.new("RGB", (24, 24), "red").save(tmp_path / "red.png")
    Collection.create(tmp_path / "c", model="hashing").close()
    with Collection.open(tmp_path / "c", limits=Limits(max_pixels=most)) as collection:
        report = collection.add(read_corpus([tmp_path / "red.png"]))
        assert report.failed == (most < 576)
        if most < 576:
            with pytest.raises(UnreadableFile, match="the limit of 575"):
                collection.query(Query.image(tmp_path / "red.png"))
        else:
            assert collection.query(Query.image(tmp_path / "red.png"))


@pytest.mark.parametrize("weight", [0, -0.0, float("nan"), float("inf"), 10**400, 1e-320**2])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(InvalidInput, match="a weight must be a finite number"):
        Query.text("owl") * weight
    with pytest.raises(InvalidInput, match="a weight must be a finite number"):
        1e300 * (1e300 * Query.text("owl"))
    for other in ("2", None, [1.0]):
        with pytest.raises(TypeError):
            Query.text("owl") * other


def test_min_score_cuts_the_tail_and_nothing_else(shelf: Collection) -> None:
    whole = shelf.query(Query.vector(ASKED), 1_000)
    limit = whole[20].score
    cut = shelf.query(Query.vector(ASKED), 1_000, min_score=limit)
    assert cut == [hit for hit in whole if hit.score >= limit]
    assert shelf.query(Query.vector(ASKED), 5, min_score=limit) == whole[:5]
    assert shelf.query(Query.vector(ASKED), 5, min_score=1e9) == []


def test_an_automatic_min_score_keeps_what_stands_out_in_its_modality(shelf: Collection) -> None:
    query = Query.id("k00")  # which finds itself at least
    whole = shelf.query(query, 1_000, include_self=True)
    kept = shelf.query(query, 1_000, include_self=True, min_score="auto")
    with shelf.view() as view:
        vector = shelf.resolve(query)[None]
        alarms = {one: view._backgrounds([query], vector, one)[0].alarm for one in Modality}
    expected = [hit.key for hit in whole if hit.score >= alarms[hit.modality]]
    assert [hit.key for hit in kept] == expected
    assert kept[0].key == "k00"
    assert len(kept) < len(whole)


def test_a_min_score_that_is_no_number_is_refused(shelf: Collection) -> None:
    with pytest.raises(InvalidInput, match="min_score is 'some': give a number, or 'auto'"):
        shelf.query(Query.vector(ASKED), 5, min_score="some")  # type: ignore[arg-type]
    for none in ("nan", "inf", "-inf"):  # it would keep nothing, or all, and say nothing
        for kind in (float, np.float32):
            with pytest.raises(InvalidInput, match="min_score is"):
                shelf.query(Query.vector(ASKED), 5, min_score=kind(none))
    others: list[Any] = [10**400, np.complex64(1), True, [1.0]]
    for other in others:
        with pytest.raises(InvalidInput, match="min_score is"):
            shelf.query(Query.vector(ASKED), 5, min_score=other)


def test_numbers_of_numpy_are_numbers_of_hits(shelf: Collection) -> None:
    expected = shelf.query(Query.vector(ASKED), 100, offset=9)
    for kind in (np.uint8, np.int16, np.int64):
        assert shelf.query(Query.vector(ASKED), kind(100), offset=kind(9)) == expected


def test_a_tensor_with_a_gradient_is_refused_in_words(shelf: Collection) -> None:
    vector = torch.ones(256, requires_grad=True)
    with pytest.raises(InvalidInput, match="not detached"):
        Query.vector(vector)
    with pytest.raises(InvalidInput, match="not a vector of 256 numbers"):
        check_vectors([vector], "here")
    assert shelf.query(Query.vector(vector.detach()), 3) == shelf.query(
        Query.vector(np.ones(256)), 3
    )


@pytest.mark.parametrize("k", [1, 3, 7, 500])
@pytest.mark.parametrize(
    "where",
    [
        "year = 2003",
        "year in (2001, 2002) and modality = 'audio'",
        "not year >= 0",
        "key contains 'k1'",
        "year = 1",
        {"$or": [{"year": {"$gte": 2008}}, {"key": "owl"}]},
    ],
)
def test_a_filter_leaves_exactly_what_matches(shelf: Collection, where: Any, k: int) -> None:
    matching = {item.key for item in shelf.items(where=where)}
    hits = shelf.query(Query.vector(ASKED), k, where=where)
    assert len(hits) == min(k, len(matching))
    assert set(names(hits)) <= matching
    # What is found is what the whole answer holds of it, in that order.
    whole = [key for key in names(shelf.query(Query.vector(ASKED), 1_000)) if key in matching]
    assert names(hits) == whole[:k]


def test_an_item_is_found_once_by_its_best_segment(shelf: Collection) -> None:
    (hit,) = shelf.query(Query.text("number 7 sentence 7"), 1, where="key = 'long'")
    assert hit.text == LONG[hit.span.start : hit.span.end]
    assert "Sentence 7" in hit.text
    segments = shelf.query(
        Query.text("number 7 sentence 7"), 50, where="key = 'long'", segments=True
    )
    assert len(segments) == 20
    assert segments[0] == hit
    assert sorted(one.span.start for one in segments) == sorted(
        {one.span.start for one in segments}
    )
    assert all(one.span == Span("char", one.span.start, one.span.end) for one in segments)


def test_an_index_answers_like_the_rows_and_says_so(path: Path) -> None:
    with Collection.open(path) as collection:
        exact = collection.query(Query.vector(ASKED), 5)
        built = collection.rebuild(kind="ann")
        assert built[Modality.IMAGE]["rows"] == ROWS // 3
        by_index = collection.query(Query.vector(ASKED), 5)
        assert names(by_index) == names(exact)
        assert collection.query(Query.vector(ASKED), 5, exact=True) == exact
        # A filter is always answered exactly.
        filtered = collection.query(Query.vector(ASKED), 5, where="year > 2000")
        assert {hit.how for hit in filtered} == {"exact"}
        assert {one["kind"] for one in collection.rebuild(kind="exact").values()} == {"exact"}
        assert collection.query(Query.vector(ASKED), 5) == exact


@pytest.mark.parametrize(
    ("query", "options", "error", "told"),
    [
        (lambda: Query.text("x"), {"k": 0}, InvalidInput, "k must be 1"),
        (lambda: Query.text("x"), {"k": -1}, InvalidInput, "k must be 1"),
        (lambda: Query.text("x"), {"offset": -1}, InvalidInput, "offset"),
        (lambda: Query.text("x"), {"k": 1.5}, InvalidInput, "k must be 1"),
        (lambda: Query.text("x"), {"k": True}, InvalidInput, "k must be 1"),
        (lambda: Query.text("x"), {"min_score": True}, InvalidInput, "min_score is True"),
        (lambda: Query.text("x"), {"where": 5}, InvalidInput, "filter"),
        (lambda: None, {}, InvalidInput, "no query"),
        (lambda: 5, {}, InvalidInput, "no query"),
        (lambda: Query.text("x"), {"modality": "smell"}, InvalidInput, "smell"),
        (lambda: Query.text("x"), {"where": "year >"}, InvalidInput, "character 7"),
        (lambda: Query.text(" "), {}, InvalidInput, "no words"),
        (lambda: Query.id("gone"), {}, NotFound, "gone"),
        (lambda: Query.id("k01") - Query.id("k01"), {}, InvalidInput, "cancels out"),
        (lambda: Query(()), {}, InvalidInput, "part"),
        (lambda: Query.vector(np.full(DIM, np.nan)), {}, InvalidInput, "NaN"),
        (lambda: Query.vector(np.full(DIM, np.inf)), {}, InvalidInput, "infinity"),
        (lambda: Query.vector(np.zeros(DIM)), {}, InvalidInput, "zero"),
        (lambda: Query.vector(np.ones(7)), {}, InvalidInput, "7 numbers"),
        (lambda: Query.vector(np.ones((2, DIM))), {}, InvalidInput, "shape"),
        (lambda: Query.vector(["a"] * DIM), {}, InvalidInput, "numbers"),
        (lambda: Query.vector(5.0), {}, InvalidInput, "shape"),
        (lambda: Query.vector(np.ones(DIM, complex)), {}, InvalidInput, "numbers"),
        (lambda: Query.vector(np.ones(DIM, bool)), {}, InvalidInput, "numbers"),
        (lambda: Query.vector(np.arange(DIM).astype("M8[s]")), {}, InvalidInput, "numbers"),
        (lambda: Query.vector(np.ones(DIM, np.longdouble) * 10**2000), {}, InvalidInput, "inf"),
        (lambda: Query.vector(np.array([True] * DIM, object)), {}, InvalidInput, "numbers"),
        (lambda: Query.vector(np.array([np.datetime64("2020")] * DIM)), {}, InvalidInput, "numb"),
        (lambda: Query.vector(np.zeros(DIM, "f4,f4")), {}, InvalidInput, "numbers"),
        (lambda: Query.vector(np.array([np.complex64(1)] * DIM, "O")), {}, InvalidInput, "numb"),
        (lambda: Query.text("x"), {"modality": [["text"]]}, InvalidInput, "is no name"),
        (lambda: Query.text("x"), {"modality": 3}, InvalidInput, "3 is no name"),
        (lambda: Query.text("x"), {"k": "3"}, InvalidInput, "'3'"),
        (lambda: 0 * Query.text("x"), {}, InvalidInput, "weight"),
        (lambda: float("nan") * Query.text("x"), {}, InvalidInput, "weight"),
    ],
)
def test_a_bad_question_is_told_what_is_wrong(
    shelf: Collection, query: Callable[[], Query], options: dict[str, Any], error: Any, told: str
) -> None:
    with pytest.raises(error, match=told):
        shelf.query(query(), **options)


def test_huge_and_tiny_vectors_have_a_direction(shelf: Collection) -> None:
    expected = names(shelf.query(Query.vector(ASKED.astype(np.float64)), 20))
    for scale in (1e-300, 1e300):
        query = Query.vector(ASKED.astype(np.float64) * scale / np.abs(ASKED).max())
        assert names(shelf.query(query, 20)) == expected


def test_a_query_does_not_change_with_the_array_it_was_made_of(shelf: Collection) -> None:
    vector = ASKED.copy()
    query = Query.vector(vector)
    before = shelf.query(query, 5)
    vector[:] = 1
    assert shelf.query(query, 5) == before


def test_an_empty_collection_has_no_hits(empty: Collection) -> None:
    assert empty.query(Query.text("owl")) == []
    assert empty.query(Query.vector(ASKED), where="year = 1", segments=True) == []
    assert empty.query_many([Query.text("a"), Query.text("b")]) == [[], []]
    assert empty.query_many([]) == []
    assert list(empty.items()) == []
    assert empty.verify() == []
    with pytest.raises(NotFound):
        empty.query(Query.id("owl"))


# ---- items -----------------------------------------------------------------------------------


def test_get_gives_items_in_the_order_asked(shelf: Collection) -> None:
    items = shelf.get(["owl", "k05", "owl"])
    assert [item.key for item in items] == ["owl", "k05", "owl"]
    assert items[0].text == "An owl calls in the night."
    assert items[0].vector is None
    with pytest.raises(NotFound, match=r"'a', 'b'"):
        shelf.get(["a", "owl", "b"])


def test_items_come_by_key(shelf: Collection) -> None:
    keys = [item.key for item in shelf.items()]
    assert keys == sorted(keys)
    assert len(keys) == ROWS + 3
    assert [item.key for item in shelf.items(limit=3)] == keys[:3]
    texts = [item.key for item in shelf.items(modality="text", where="year is null")]
    assert texts == ["dog", "long", "owl"]


def test_stats_count_items_segments_and_bytes(shelf: Collection) -> None:
    stats = shelf.stats()
    assert stats["items"] == ROWS + 3
    assert stats["segments"] == ROWS + 2 + 20
    assert stats["bytes"] == stats["segments"] * 4 * DIM
    assert stats["model"]["name"] == "hashing"
    assert type(stats["text"]["items"]) is int
    assert (stats["text"]["items"], stats["text"]["segments"]) == (ROWS // 3 + 3, ROWS // 3 + 22)
    assert (stats["image"]["items"], stats["image"]["dead"]) == (ROWS // 3, 0)
    assert stats["audio"]["index"]["kind"] == "exact"


def test_what_is_deleted_is_gone_from_every_answer(path: Path) -> None:
    with Collection.open(path) as collection:
        collection.rebuild(kind="ann")
        twin = collection.get(["k00"], vectors=True)[0].vector
        assert collection.delete(["k00", "long"]) == 2
        for options in ({}, {"exact": True}, {"segments": True}, {"where": "key > ''"}):
            found = names(collection.query(Query.vector(twin), 1_000, **options))
            assert len(found) == ROWS + 1
            assert not {"k00", "long"} & set(found)
        assert collection.delete(where="year = 2005") == ROWS // 10
        assert list(collection.items(where="year = 2005")) == []
        with pytest.raises(NotFound, match="k00"):
            collection.delete(["owl", "k00"])
        assert collection.get(["owl"])[0].key == "owl"
        assert collection.verify() == []
        assert collection.stats()["text"]["dead"] >= 20


def test_a_string_is_one_key_and_not_its_letters(empty: Collection) -> None:
    empty.add(record(key, VECTORS[number]) for number, key in enumerate(("a", "ab", "b")))
    assert [item.key for item in empty.get("ab")] == ["ab"]
    assert empty.delete("ab") == 1
    assert [item.key for item in empty.items()] == ["a", "b"]
    with pytest.raises(NotFound, match="'ab'"):
        empty.get("ab")
    with pytest.raises(NotFound, match="ab"):
        empty.delete("ab")
    assert empty.delete(["a", "b"]) == 2


def test_an_item_that_is_added_again_is_replaced(path: Path) -> None:
    with Collection.open(path) as collection:
        report = collection.add([record("k00", ASKED / np.linalg.norm(ASKED), "audio", new=True)])
        assert (report.added, report.updated) == (0, 1)
        (hit,) = collection.query(Query.vector(ASKED), 1, modality="audio")
        assert (hit.key, hit.metadata) == ("k00", {"new": True})
        assert "k00" not in names(collection.query(Query.vector(ASKED), 1_000, modality="text"))
        assert collection.stats()["items"] == ROWS + 3
        assert collection.verify() == []


# ---- opening ---------------------------------------------------------------------------------


def test_a_collection_is_made_once(path: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="not empty"):
        Collection.create(path, model="hashing")
    with pytest.raises(NotFound, match=r"no such model|no model"):
        Collection.create(tmp_path / "other", model="no such model")
    assert not (tmp_path / "other").exists()
    with pytest.raises(NotFound, match="nowhere"):
        Collection.open(tmp_path / "nowhere")


def test_another_model_is_refused_by_both_names(path: Path) -> None:
    with pytest.raises(Conflict, match=r"'hashing'.*'base'"):
        Collection.open(path, model="base")
    with sqlite3.connect(path / "collection.db") as database:
        database.execute("UPDATE collection SET fingerprint = 'feedfacefeedface'")
    database.close()
    with Collection.open(path) as opened, pytest.raises(Conflict, match="feedfacefeed") as raised:
        opened.query("owl")
    with Collection.create(path.with_name("fresh"), model="hashing") as fresh:
        assert fresh.model.fingerprint()[:12] in str(raised.value)


def test_without_its_model_a_collection_answers_what_needs_none(path: Path) -> None:
    with sqlite3.connect(path / "collection.db") as database:
        database.execute("UPDATE collection SET model = '/gone/model'")
    database.close()
    with Collection.open(path) as collection:
        assert collection.query(Query.id("k00"), 3)
        assert collection.query(Query.vector(ASKED), 3)
        with pytest.raises(NotFound, match="gone"):
            collection.query(Query.text("owl"))


def overwrite(content: bytes) -> Callable[[Path], None]:
    return lambda database: database.write_bytes(content) and None


def cut(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:5_000])


def make_foreign(database: Path) -> None:
    database.unlink()
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE items (id)")
    other.close()


def make_newer(database: Path) -> None:
    with sqlite3.connect(database) as own:
        own.execute("UPDATE alembic_version SET version_num = '9999'")
    own.close()


@pytest.mark.parametrize(
    "damage", [overwrite(b""), overwrite(b"no database" * 999), cut, make_foreign, make_newer]
)
def test_a_database_that_is_none_of_ours_is_refused_and_left_alone(
    path: Path, damage: Callable[[Path], None]
) -> None:
    database = path / "collection.db"
    damage(database)
    before = database.read_bytes()
    with pytest.raises(CorruptData, match=r"collection\.db"):
        Collection.open(path)
    assert database.read_bytes() == before


# ---- damage ----------------------------------------------------------------------------------


def rows_of(path: Path, modality: str = "image") -> Path:
    (found,) = (path / "vectors").glob(f"{modality}.*.f32")
    return found


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x55
    file.write_bytes(data)


def test_a_row_file_cut_short_is_never_searched_and_repaired_without_further_loss(
    path: Path,
) -> None:
    file = rows_of(path)
    file.write_bytes(file.read_bytes()[: 10 * 4 * DIM + 100])
    with Collection.open(path) as collection:
        for ask in (
            lambda: collection.query(Query.vector(ASKED)),
            lambda: collection.query(Query.text("owl"), where="year > 1"),
            lambda: collection.get(["k07"], vectors=True),
        ):
            with pytest.raises(CorruptData, match="verify --repair"):
                ask()
        assert collection.query(Query.text("owl"), 1, modality="text")[0].key == "owl"
        faults = collection.verify()
        assert str(file) in {fault.where.split(", rows")[0] for fault in faults}
        assert collection.repair()
        assert collection.verify() == []
        # A checksum covers a block of 4,096 rows: of a part of one nothing can be trusted.
        lost = ROWS // 3
        assert collection.stats()["items"] == ROWS + 3 - lost
        assert len(collection.failures()) == lost
        assert len(collection.query(Query.vector(ASKED), 1_000)) == ROWS + 3 - lost
        # Adding them again mends the rest.
        report = collection.add(records())
        assert report.added == lost
        assert collection.failures() == []
        assert collection.stats()["items"] == ROWS + 3


def test_a_row_file_that_is_gone_is_told_and_repaired(path: Path) -> None:
    rows_of(path).unlink()
    with Collection.open(path) as collection:
        with pytest.raises(CorruptData, match="missing"):
            collection.query(Query.vector(ASKED))
        assert collection.verify()
        collection.repair()
        assert collection.verify() == []
        assert collection.stats()["image"]["items"] == 0
        assert collection.add(records()).added == ROWS // 3


def test_a_row_that_was_altered_is_found_by_verify_and_forgotten_by_repair(path: Path) -> None:
    flip(rows_of(path), 7 * 4 * DIM + 3)
    with Collection.open(path) as collection:
        assert {fault.kind for fault in collection.verify()} & {"checksum", "norm"}
        collection.repair()
        assert collection.verify() == []
        lost = {failure.key for failure in collection.failures()}
        assert lost
        assert not lost & set(names(collection.query(Query.vector(ASKED), 1_000)))
        collection.add(records())
        assert collection.stats()["items"] == ROWS + 3


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of which a part changes after it was added."""
    folder = tmp_path / "files"
    folder.mkdir()
    for seed, name in enumerate(("same", "smaller", "larger", "gone")):
        write_noise(folder / f"{name}.png", seed)
    (folder / "note.txt").write_text(LONG)
    (folder / "left.txt").write_text("A fox left only its words.")
    return folder


def write_noise(path: Path, seed: int, side: int = 24) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def mixed(files: Path, tmp_path: Path) -> Iterator[Collection]:
    """A collection of that folder, of stored texts and of ready vectors."""
    with Collection.create(tmp_path / "mixed", model="hashing") as collection:
        collection.add(read_corpus([files]))
        stored = replace(words("stored", "An owl calls in the night."), metadata={"n": [1, "é"]})
        collection.add([stored, words("long", LONG)])
        collection.add([record("ready text", VECTORS[0], "text"), record("ready", VECTORS[1])])
        yield collection


def state_of(collection: Collection) -> dict[str, tuple[Any, ...]]:
    """Return all that an item is, with its vectors and spans."""
    found = {}
    with collection.store.snapshot() as snapshot:
        for item in snapshot.iter_items():
            modality, own = snapshot.item_rows([item.key])[item.key]
            spans = tuple(match.span for match in snapshot.matches(modality, own))
            vectors = snapshot.vectors(modality)[own].tobytes()
            known = snapshot.known([item.key])[item.key]
            metadata = repr(item.metadata)
            outside = (modality, item.source, item.text, metadata, item.added, known)
            found[item.key] = (*outside, spans, vectors)
    return found


def hurt(file: Path, damage: str) -> None:
    if damage == "flipped":
        flip(file, 3)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        file.unlink()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_repair_encodes_again_what_is_still_there(
    mixed: Collection, files: Path, damage: str
) -> None:
    before = state_of(mixed)
    write_noise(files / "smaller.png", 7, side=8)
    write_noise(files / "larger.png", 8, side=48)
    (files / "gone.png").unlink()
    (files / "left.txt").unlink()  # what the store holds of a text is enough
    kept = {"stored", "long", "note.txt", "left.txt", "same.png"}
    for modality in ("text", "image"):
        hurt(rows_of(mixed.directory, modality), damage)
    assert mixed.verify()
    told = mixed.repair()
    assert mixed.verify() == []
    assert "4 items were encoded again" in told[0]
    assert state_of(mixed) == {key: before[key] for key in kept}
    assert {failure.key for failure in mixed.failures()} == before.keys() - kept
    assert mixed.query("owl in the night", 1)[0].key == "stored"
    assert mixed.query(Query.image(files / "same.png"), 1, modality="image")[0].key == "same.png"
    assert mixed.query("Sentence 12 tells of the number 12", 3)[0].span is not None
    assert mixed.repair() == []
    # Nothing of it is encoded once more, and the changed files come back.
    report = mixed.add(read_corpus([files]))
    assert (report.added, report.updated, report.unchanged) == (2, 0, 2)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_repair_without_the_model_changes_nothing(mixed: Collection, damage: str) -> None:
    directory = mixed.directory
    items = [item.key for item in mixed.items()]
    mixed.close()
    with sqlite3.connect(directory / "collection.db") as database:
        database.execute("UPDATE collection SET model = '/gone/model'")
    database.close()
    hurt(rows_of(directory, "text"), damage)
    rows = {path: path.read_bytes() for path in (directory / "vectors").iterdir()}
    with Collection.open(directory) as collection:
        faults = collection.verify()
        with pytest.raises(NotFound, match="gone"):
            collection.repair()
        assert [item.key for item in collection.items()] == items
        assert collection.failures() == []
        assert collection.verify() == faults != []
    assert {path: path.read_bytes() for path in (directory / "vectors").iterdir()} == rows


@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_a_damaged_index_is_not_trusted_and_built_anew(path: Path, damage: str) -> None:
    with Collection.open(path) as collection:
        expected = collection.query(Query.vector(ASKED), 10)
        collection.rebuild(kind="ann")
    (file,) = (path / "index").glob("image.*")
    if damage == "altered":
        flip(file, file.stat().st_size // 2)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        file.unlink()
    with Collection.open(path) as collection:
        hits = collection.query(Query.vector(ASKED), 10)
        assert names(hits) == names(expected)
        assert {hit.how for hit in hits if hit.modality == Modality.IMAGE} <= {"exact"}
        assert [fault.kind for fault in collection.verify()] == ["index"]
        collection.repair()
        assert collection.verify() == []
        assert names(collection.query(Query.vector(ASKED), 10)) == names(expected)


# ---- at the same time ------------------------------------------------------------------------

WRITER = """
import sys
import numpy as np
from muomni_search.collection import Collection
from muomni_search.items import Modality, Record
from muomni_search.vectors import normalise

rows = normalise(np.random.default_rng(int(sys.argv[2])).standard_normal((30, 256)))
with Collection.open(sys.argv[1]) as collection:
    for number, line in enumerate(sys.stdin):
        if line == "delete\\n":
            collection.delete([f"new {number - 1}"])
        else:
            vector = rows[number]
            collection.add([Record(key=f"new {number}", modality=Modality.IMAGE, origin="t",
                                   vector=vector)])
        print("done", flush=True)
"""


def test_a_reader_sees_what_another_process_commits(path: Path) -> None:
    vectors = normalise(np.random.default_rng(9).standard_normal((30, DIM)))
    command = [sys.executable, "-c", WRITER, str(path), "9"]
    with (
        Collection.open(path) as collection,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child,
    ):

        def ask_for(order: str) -> None:
            child.stdin.write(order + "\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"

        with collection.view() as before:
            ask_for("add")
            # What is begun stays in its own state …
            assert "new 0" not in before.snapshot.find(["new 0"])
        # … and what comes next sees the new one, and nothing twice.
        (hit,) = collection.query(Query.vector(vectors[0]), 1, modality="image")
        assert (hit.key, hit.cosine) == ("new 0", pytest.approx(1))
        ask_for("delete")
        assert "new 0" not in names(collection.query(Query.vector(vectors[0]), 1_000))
        with pytest.raises(NotFound):
            collection.get(["new 0"])
        ask_for("add")
        # Both write in turn.
        collection.add([record("mine", vectors[2])])
        ask_for("add")
        keys = {item.key for item in collection.items()}
        assert {"new 2", "new 3", "mine"} <= keys
        child.stdin.close()
        assert child.wait(20) == 0
        assert collection.verify() == []


def test_threads_ask_while_one_writes(path: Path) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []
    answers: list[int] = []

    with Collection.open(path) as collection:

        def ask() -> None:
            try:
                while not stop.is_set():
                    hits = collection.query(Query.vector(ASKED), 1_000)
                    order = [(-hit.score, hit.key) for hit in hits]
                    assert order == sorted(order)
                    answers.append(len(set(names(hits))))
            except BaseException as error:  # noqa: BLE001  told to the test
                errors.append(error)

        readers = [threading.Thread(target=ask) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(10):
            collection.add([record(f"new {number}", VECTORS[number])])
            collection.delete([f"new {number}"])
        stop.set()
        for reader in readers:
            reader.join()
        assert errors == []
        assert set(answers) <= {ROWS + 3, ROWS + 4}
        assert collection.verify() == []


def together(*jobs: Callable[[], object]) -> None:
    """Run jobs in threads of their own, at once; raise the first error."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        barrier.wait(20)
        job()

    with ThreadPoolExecutor(len(jobs)) as threads:
        for future in [threads.submit(run, job) for job in jobs]:
            future.result()


def test_verify_finds_no_fault_beside_a_rebuild(path: Path) -> None:
    with Collection.open(path) as collection:
        stop = threading.Event()
        found: list[Any] = []

        def rebuild() -> None:
            try:
                for number in range(5):
                    # Another row makes another index, and the one before goes.
                    collection.add([record(f"new {number}", VECTORS[number])])
                    collection.rebuild("image", kind="ann")
            finally:
                stop.set()

        def look() -> None:
            while not stop.is_set():
                found.extend(collection.verify())

        together(rebuild, look)
        assert found == []
        assert collection.verify() == []


def test_two_that_rebuild_at_once_both_succeed(path: Path) -> None:
    with Collection.open(path) as one, Collection.open(path) as other:
        expected = names(one.query(Query.vector(ASKED), 10))

        def rebuild(collection: Collection) -> None:
            for _ in range(3):
                built = collection.rebuild(kind="ann")
                assert {facts["kind"] for facts in built.values()} == {"pq4"}

        together(*(lambda each=each: rebuild(each) for each in (one, one, other)))
        assert one.verify() == []
        assert not list((path / "index").glob(".*"))
        assert names(one.query(Query.vector(ASKED), 10)) == expected


def test_a_writer_that_waits_too_long_is_told_why(path: Path) -> None:
    with (
        Collection.open(path) as one,
        Collection.open(path) as other,
        one.store.write(),
        pytest.raises(Conflict, match="another process"),
        other.store.write(timeout=0.05),
    ):
        raise AssertionError("two writers at once")
    with Collection.open(path) as collection:
        assert collection.verify() == []


def test_a_closed_collection_and_a_removed_one_do_not_end_the_process(path: Path) -> None:
    with Collection.open(path) as collection:
        collection.query(Query.vector(ASKED))
        shutil.rmtree(path)
        with pytest.raises(MuomniError):
            collection.add([words("late", "too late")])


def test_a_string_asks_as_its_words_do(shelf: Collection) -> None:
    assert shelf.query("an owl", k=5) == shelf.query(Query.text("an owl"), k=5)


# ---- damaged rows, and arguments that are none ---------------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e30, 5.0])
@pytest.mark.parametrize("rows", [40, 2_000])
def test_a_damaged_row_is_an_error_and_no_number(
    tmp_path: Path, rng: np.random.Generator, number: float, rows: int
) -> None:
    """Nothing is ranked by it, in whatever way it is asked."""
    vectors = normalise(rng.standard_normal((rows, DIM)))
    place = tmp_path / "damaged"
    with Collection.create(place, model="hashing") as made:
        made.add(
            Record(f"k{n}", Modality.TEXT, "made up", text=f"text {n}", vector=one)
            for n, one in enumerate(vectors)
        )
    path = place / "vectors" / "text.0.f32"
    damaged = np.memmap(path, np.float32, "r+", shape=(rows, DIM))
    damaged[rows - 3] = vectors[0] * number
    damaged.flush()
    query = Query.vector(vectors[0])
    with Collection.open(place) as collection, warnings.catch_warnings():
        warnings.simplefilter("error")
        for late in (
            lambda: collection.query(query),
            lambda: collection.query(query, exact=True, where="key != 'k1'"),
            lambda: find_duplicates(collection),
        ):
            with pytest.raises(CorruptData, match=r"text\.0\.f32: a row .*: run: muomni verify"):
                late()
        # However few are asked for: products of matrices find no NaN, and would leave it out.
        np.save(tmp_path / "queries.npy", vectors[:8])
        for output, asked in (("few.jsonl", {}), ("some.jsonl", {"where": "key != 'k1'"})):
            report = run_batch(
                collection, tmp_path / "queries.npy", tmp_path / output, k=3, **asked
            )
            told = Path(f"{report.output}.errors.jsonl").read_text()
            assert (report.answered, report.failed) == (0, 8)
            assert told.count("text.0.f32: a row is not finite or not of length 1") == 8
        # A filter that leaves it out, of few rows or many, is answered as by a single query; but
        # for the sample that scores are measured on, which few rows are in.
        filters = (f"key != 'k{rows - 3}'", "key in ('k1', 'k2', 'k3')") if rows > 1_024 else ()
        for number, where in enumerate(filters):
            output = tmp_path / f"filtered{number}.jsonl"
            report = run_batch(collection, tmp_path / "queries.npy", output, k=3, where=where)
            assert (report.answered, report.failed) == (8, 0)
        few = ", ".join(f"'k{number}'" for number in (*range(30), rows - 3))
        output, where = tmp_path / "with.jsonl", f"key in ({few})"
        report = run_batch(collection, tmp_path / "queries.npy", output, k=3, where=where)
        assert (report.answered, report.failed) == (0, 8)
        assert collection.repair()
        assert collection.verify() == []
        assert collection.query(query, k=rows) == []  # one checksum, of ready vectors, was of all


@pytest.mark.parametrize("limit", [-1, 2.5, "3"])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, limit: Any) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        with pytest.raises(InvalidInput, match="limit"):
            list(collection.items(limit=limit))
        with pytest.raises(InvalidInput, match="after"):
            list(collection.items(after=limit if isinstance(limit, float) else 5))  # type: ignore[arg-type]


def test_keys_that_are_not_there_are_named_once_and_not_all(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        with pytest.raises(NotFound, match=r"no item 'a', 'b' in"):
            collection.get(["a", "b", "a"])
        with pytest.raises(NotFound, match=r"'9' and 90 more in"):
            collection.get([str(number) for number in range(100)])


# ---- pages of an index's answer --------------------------------------------------------------


class FindsMore:
    """An index that proposes two of three rows, and all to who asks for many."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.rows = len(vectors)
        self._vectors = vectors

    def search(self, query: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        order = np.argsort(-cosines(self._vectors, query), kind="stable")
        return (order if fetch >= 60 else order[order % 3 > 0])[:fetch]


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("modality", [None, "image"])
def test_pages_of_an_index_make_one_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str | None, segments: bool
) -> None:
    rng = np.random.default_rng(3)
    vectors = normalise(rng.standard_normal((1_200, DIM)))
    vectors[50:90] = vectors[40]  # ties, over several pages
    kinds = list(Modality)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(
            record(f"k{(number * 7) % 1_200:04d}", vector, kinds[number % 3])
            for number, vector in enumerate(vectors)
        )
        indexes = {one: FindsMore(vectors[number::3]) for number, one in enumerate(kinds)}
        monkeypatch.setattr(Loaded, "index", lambda self, _, one: Tuned(indexes[one], 10, 0.5, -1))
        monkeypatch.setattr(planner, "RUNAWAY_SHARE", 1.0)
        moved = 0
        for query in map(Query.vector, [*vectors[40:43], *vectors[:20] + vectors[20:40]]):
            ask: dict[str, Any] = {"modality": modality, "segments": segments}
            first = collection.query(query, 10, **ask)
            assert {hit.how for hit in first} == {"ann"}
            whole = collection.query(query, 40, **ask)
            moved += [hit.key for hit in first] != [hit.key for hit in whole[:10]]
            pages = [collection.query(query, 10, offset=one, **ask) for one in range(0, 1_210, 10)]
            hits = [hit for page in pages for hit in page]
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
            assert len({hit.key for hit in hits}) == len(hits)
            assert len(hits) == len(collection.query(query, 2_000, exact=True, **ask))
            assert list(pages[0]) == list(first)
            rest = [(-hit.score, hit.key) for hit in hits[10:]]
            assert rest == sorted(rest)
            # A page that ends elsewhere is cut from the same list.
            assert list(collection.query(query, 10, offset=5, **ask)) == hits[5:15]
            exactly = collection.query(query, 30, exact=True, **ask)
            assert list(collection.query(query, 10, offset=20, exact=True, **ask)) == exactly[20:]
            for least in (first[3].score, first[9].score, first[0].score + 1):
                ask["min_score"] = least
                some = [collection.query(query, 10, offset=one, **ask) for one in (0, 10, 20)]
                keys = [hit.key for page in some for hit in page]
                assert len(set(keys)) == len(keys)
                assert [hit.rank for page in some for hit in page] == list(range(1, len(keys) + 1))
                assert list(some[0]) == [hit for hit in first if hit.score >= least]
                del ask["min_score"]
        assert moved  # or nothing was tried


@pytest.mark.parametrize("segments", [False, True])
def test_pages_of_items_of_many_segments_make_one_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segments: bool
) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(words(f"t{number}", f"{number} {LONG} {number}") for number in range(40))
        with collection.view() as view:
            index = FindsMore(view.snapshot.vectors(Modality.TEXT))
        assert index.rows > 100
        monkeypatch.setattr(Loaded, "index", lambda *_: Tuned(index, 10, 0.5, -1))
        monkeypatch.setattr(planner, "RUNAWAY_SHARE", 1.0)
        for words_asked in ("Sentence 3 tells", "the number 17", "7 Sentence 0"):
            pages = [
                collection.query(words_asked, 10, offset=one, segments=segments)
                for one in range(0, index.rows + 10, 10)
            ]
            assert {hit.how for hit in pages[0]} == {"ann"}
            found = [(hit.key, hit.span if segments else None) for page in pages for hit in page]
            whole = collection.query(words_asked, 9_999, exact=True, segments=segments)
            assert len(set(found)) == len(found) == len(whole)


@pytest.mark.parametrize("method", ["delete", "purge"])
def test_keys_and_a_filter_at_once_delete_nothing(tmp_path: Path, method: str) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(record(f"k{number}", VECTORS[number]) for number in range(4))
        for keys in ("k0", ["k0", "k1"]):
            with pytest.raises(InvalidInput, match="keys and a filter at once"):
                getattr(collection, method)(keys, where="year >= 0")
        assert sum(collection.count().values()) == 4
        getattr(collection, method)((), where="key in ('k0', 'k3')")
        assert [item.key for item in collection.items()] == ["k1", "k2"]


def test_a_kind_of_index_that_there_is_none_of_is_refused(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(record(f"k{number}", VECTORS[number]) for number in range(4))
        with pytest.raises(InvalidInput, match="'flat' is no kind"):
            collection.rebuild(kind="flat")


def test_one_field_to_index_may_come_alone(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.index_fields("year")
        collection.index_fields(["y", "e"])
        assert [name for name, one in collection.fields().items() if one["indexed"]] == [
            "e",
            "y",
            "year",
        ]
        collection.index_fields((), drop="year")
        assert [name for name, one in collection.fields().items() if one["indexed"]] == ["e", "y"]


def test_of_a_document_of_many_segments_that_are_all_near_one_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    near = normalise(VECTORS[:1] + 0.02 * rng.standard_normal((600, DIM)).astype(np.float32))
    near[100:140] = near[99]  # some of its segments are alike, and so are some items
    others = np.concatenate([VECTORS[1:50], VECTORS[1:11]])
    looked_up: list[int] = []
    matches = Snapshot.matches

    def counted(self: Snapshot, modality: Modality, rows: NDArray[np.int64]) -> Any:
        looked_up.append(len(rows))
        return matches(self, modality, rows)

    monkeypatch.setattr(Snapshot, "matches", counted)
    spans = [Span("char", at, at + 1) for at in range(len(near))]
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        with collection.store.write() as writer:
            writer.put([NewItem("long", Modality.TEXT, near, spans)])
            writer.put(
                [
                    NewItem(f"k{number:02}", Modality.TEXT, others[number : number + 1], [None])
                    for number in range(len(others))
                ]
            )
        for k in (1, 3, 10, 59, 60, 100):
            hits = collection.query(Query.vector(VECTORS[0]), k)
            best = {f"k{n:02}": one for n, one in enumerate(cosines(others, VECTORS[0]).tolist())}
            best["long"] = float(cosines(near, VECTORS[0]).max())
            right = sorted(best, key=lambda key: (-best[key], key))[:k]
            assert [hit.key for hit in hits] == right
            assert [hit.cosine for hit in hits] == [best[key] for key in right]
            nearest = spans[int(cosines(near, VECTORS[0]).argmax())]
            assert all(hit.span == nearest for hit in hits if hit.key == "long")
            assert max(looked_up) <= 4 * k
            looked_up.clear()


def test_a_collection_that_is_opened_for_one_query_compares_all_rows(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(record(f"k{number}", vector) for number, vector in enumerate(VECTORS[:60]))
        collection.rebuild(kind="ann")
    ask = """
import sys
from muomni_search import Collection, Query, view
view.SOONER_COMPARED = int(sys.argv[3])
with Collection.open(sys.argv[1], once=sys.argv[2] == "once") as collection:
    hits = collection.query(Query.id("k1"))
    print({hit.how for hit in hits}, {hit.recall for hit in hits}, "faiss" in sys.modules)
"""
    told = [
        subprocess.run(
            [sys.executable, "-c", ask, tmp_path / "c", often, most],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[-1]
        for often, most in (("once", "60"), ("once", "59"), ("often", "60"))
    ]
    assert told == ["False", "True", "True"]  # whether FAISS was imported


@pytest.mark.parametrize("offset", [0, 1])
def test_a_row_whose_item_is_gone_is_an_error_that_says_so(tmp_path: Path, offset: int) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(record(f"k{number}", vector) for number, vector in enumerate(VECTORS[:9]))
    with sqlite3.connect(tmp_path / "c/collection.db") as database:
        database.execute("DELETE FROM items WHERE key = 'k4'")
    with (
        Collection.open(tmp_path / "c") as collection,
        pytest.raises(CorruptData, match=r"a row is of the item 5.*verify --repair"),
    ):
        collection.query(Query.vector(VECTORS[4]), 5, offset=offset)
