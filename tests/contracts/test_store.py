"""The contract of the store: what any other engine in its place must keep to as well."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.errors import Conflict, CorruptData, InvalidInput, MuomniError, NotFound
from muomni_search.filters import parse_filter
from muomni_search.items import DIM, Modality, Problem, Record, Span
from muomni_search.store.store import Fault, IndexFile, Job, NewItem, Snapshot, Store
from muomni_search.vectors import normalise

TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO
VECTORS = normalise(np.random.default_rng(7).standard_normal((64, DIM)))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "collection"


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with Store.create(place, model="toy", fingerprint="f" * 64) as store:
        yield store


def new(key: str, *rows: int, modality: Modality = TEXT, **facts: Any) -> NewItem:
    """Return an item with some of VECTORS, by default one that depends on its key."""
    vectors = VECTORS[list(rows or (sum(map(ord, key)) % 64,))]
    spans = facts.pop("spans", [None] * len(vectors))
    return NewItem(key, modality, vectors, spans, **facts)


def put(store: Store, *items: NewItem) -> None:
    with store.write() as writer:
        writer.put(items)


def record(key: str, **facts: Any) -> Record:
    return Record(key, TEXT, origin=f"test:{key}", **facts)


def vectors_of(snapshot: Snapshot, key: str) -> NDArray[np.float32]:
    modality, rows = snapshot.item_rows([key])[key]
    return snapshot.vectors(modality)[rows]


def contents(store: Store) -> dict[str, bytes]:
    """Return every item's vectors, checked: what a reader can see of the store."""
    with store.snapshot() as snapshot:
        keys = [item.key for item in snapshot.iter_items()]
        return {key: vectors_of(snapshot, key).tobytes() for key in keys}


def faults(store: Store) -> list[Fault]:
    return list(store.problems())


# ---- making and opening --------------------------------------------------------------------------


def test_a_new_store_is_empty_and_remembers_its_model(store: Store) -> None:
    with store.snapshot() as snapshot:
        assert (snapshot.model, snapshot.fingerprint, snapshot.version) == ("toy", "f" * 64, 0)
        assert snapshot.counts() == {}
        assert snapshot.vectors(TEXT).shape == (0, DIM)
        assert snapshot.dead(TEXT).tolist() == snapshot.row_items(TEXT).tolist() == []
        assert snapshot.row_file(TEXT) is snapshot.index_file(TEXT) is None
        assert list(snapshot.iter_items()) == snapshot.failures() == []
    assert faults(store) == []


@pytest.mark.parametrize(
    "name", ["with space", "a%20b", "q?mode=memory", "h#ash", "ünï", "'quoted\""]
)
def test_a_store_may_be_anywhere(tmp_path: Path, name: str) -> None:
    with Store.create(tmp_path / name, model="m", fingerprint="f") as store:
        put(store, new("a"))
    with Store.open(tmp_path / name) as store:
        assert contents(store).keys() == {"a"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_store_is_made_in_an_empty_directory_and_where_a_maker_died(place: Path) -> None:
    (place / "vectors").mkdir(parents=True)
    (place / "collection.db.new").write_bytes(b"half of a database")
    (place / "collection.db.new-wal").write_bytes(b"and its log")
    with Store.create(place, model="m", fingerprint="f") as store:
        put(store, new("a"))
        assert faults(store) == []
    assert sorted(path.name for path in place.iterdir()) == ["collection.db", "index", "vectors"]


@pytest.mark.parametrize("stranger", ["notes.txt", "vectors/text.0.f32", "collection.db"])
def test_a_store_is_not_made_over_something_else(place: Path, stranger: str) -> None:
    (place / stranger).parent.mkdir(parents=True)
    (place / stranger).write_bytes(b"precious")
    with pytest.raises(Conflict, match="exists already and is not empty"):
        Store.create(place, model="m", fingerprint="f")
    assert (place / stranger).read_bytes() == b"precious"


def test_a_store_is_not_made_in_place_of_a_file(place: Path) -> None:
    place.write_text("precious")
    with pytest.raises(Conflict, match="is a file"):
        Store.create(place, model="m", fingerprint="f")


def test_only_one_of_many_makers_makes_it(place: Path) -> None:
    made: list[Store] = []
    refused: list[Conflict] = []

    def make() -> None:
        try:
            made.append(Store.create(place, model="m", fingerprint="f"))
        except Conflict as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 4)
    put(made[0], new("a"))
    made[0].close()


def test_a_making_that_fails_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "step", fail)
    with pytest.raises(MuomniError, match=r"No space left.*free some space"):
        Store.create(place, model="m", fingerprint="f")
    assert not place.exists()
    monkeypatch.undo()
    Store.create(place, model="m", fingerprint="f").close()


def test_opening_what_is_not_there_says_so(place: Path) -> None:
    with pytest.raises(NotFound, match=f"no collection at {place}"):
        Store.open(place)
    place.mkdir()
    with pytest.raises(NotFound):
        Store.open(place)
    assert list(place.iterdir()) == []


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('0002')")
    connection.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text(
            "this is a text and no database, however long it may be\n" * 99
        ),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        _foreign,
    ],
    ids=["a text", "nothing", "a directory", "another program's"],
)
def test_what_is_no_collection_is_refused_by_name(place: Path, spoil: Any) -> None:
    place.mkdir()
    spoil(place / "collection.db")
    with pytest.raises(CorruptData, match=str(place / "collection.db")):
        Store.open(place)


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "header"])
def test_a_damaged_database_is_an_error_and_never_a_traceback_of_sqlite(
    place: Path, damage: str
) -> None:
    with Store.create(place, model="m", fingerprint="f") as store:
        put(store, *(new(f"k{number}", metadata={"n": "x" * 200}) for number in range(300)))
    path = place / "collection.db"
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 3]
    elif damage == "overwritten":
        data[4096:] = b"\xa5" * (len(data) - 4096)
    else:
        data[:16] = b"x" * 16
    path.write_bytes(data)
    # Met at opening, or found by the check.
    try:
        with Store.open(place) as store:
            found = [f"{fault.where}: {fault.detail}" for fault in store.problems()]
    except CorruptData as error:
        found = [error.what]
    assert str(path) in found[0]


def test_a_newer_collection_is_refused(place: Path) -> None:
    Store.create(place, model="m", fingerprint="f").close()
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(CorruptData, match=r"newer version.*upgrade muomni_search"):
        Store.open(place)


def test_opening_and_reading_import_no_alembic(place: Path) -> None:
    Store.create(place, model="m", fingerprint="f").close()
    code = (
        "import sys; from pathlib import Path; from muomni_search.store.store import Store\n"
        f"with Store.open(Path({str(place)!r})) as s, s.snapshot() as n: n.counts()\n"
        "assert not {'alembic', 'torch', 'faiss', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- items ---------------------------------------------------------------------------------------


def test_an_item_comes_back_as_it_was_put(store: Store) -> None:
    spans = [Span("ms", 0, 960), Span("ms", 480, 1440)]
    metadata = {"ü": [1, 2.5, None, True, {"z": "\n"}], "a": {"b.c": "'"}, "big": 2**70}
    put(
        store,
        new("owl.wav", 1, 2, modality=AUDIO, spans=spans, source="/s/owl.wav", root="/s", size=7,
            mtime_ns=2**62, content_hash="h", metadata=metadata),
        new("poem", 3, text="Ä poem\0with all\nkinds 😀"),
        new("dog.jpg", 4, modality=IMAGE),
    )  # fmt: skip
    with store.snapshot() as snapshot:
        owl, poem = (snapshot.find(["owl.wav", "poem"])[key] for key in ("owl.wav", "poem"))
        assert (owl.modality, owl.source, owl.text) == (AUDIO, "/s/owl.wav", None)
        assert (owl.metadata, owl.segments) == (metadata, 2)
        assert (poem.text, poem.metadata, poem.segments) == ("Ä poem\0with all\nkinds 😀", {}, 1)
        assert owl.added.endswith("Z")
        assert vectors_of(snapshot, "owl.wav").tobytes() == VECTORS[[1, 2]].tobytes()
        assert [match.span for match in snapshot.matches(AUDIO, np.array([1, 0]))] == spans[::-1]
        (dog,) = snapshot.matches(IMAGE, np.array([0]))
        assert snapshot.shown([dog.item_id])[dog.item_id].key == "dog.jpg"
        known = snapshot.known(["owl.wav", "nobody"])
        assert known["owl.wav"].mtime_ns == 2**62
        assert (known["owl.wav"].size, known["owl.wav"].root) == (7, "/s")
        assert [one.key for one in snapshot.known_under("/s")] == ["owl.wav"]
        assert [one.key for one in snapshot.by_hash(["h", "i"])["h"]] == ["owl.wav"]
        assert list(snapshot.iter_keys()) == ["dog.jpg", "owl.wav", "poem"]
        assert [(item.key, span, row) for item, span, row in snapshot.iter_segments()] == [
            ("dog.jpg", None, 0),
            ("owl.wav", spans[0], 0),
            ("owl.wav", spans[1], 1),
            ("poem", None, 0),
        ]
        assert snapshot.counts()[AUDIO] == {"items": 1, "segments": 2}
        ids = snapshot.item_ids(["poem", "nobody"])
        assert snapshot.items(ids.values())[ids["poem"]].text == poem.text
        assert snapshot.keys_of(ids.values()) == {ids["poem"]: "poem"}
        assert snapshot.row_items(TEXT).tolist() == [ids["poem"]]
    assert faults(store) == []


def test_the_items_of_a_folder_are_found_at_some_keys_and_below(store: Store) -> None:
    keys = ["a", "a b", "a-", "a.", "a/b", "a/b/c", "a/😀", "a0", "aa", "A/b", "b/a/b"]
    put(store, *(new(key, root="/s") for key in keys), new("a/other", root="/t"), new("a/none"))
    with store.snapshot() as snapshot:

        def found(*asked: str) -> list[str]:
            return [one.key for one in snapshot.known_under("/s", asked)]

        assert found("a") == ["a", "a/b", "a/b/c", "a/😀"]
        assert found("a/b", "a/b/c", "a", "nobody") == found("a")
        assert found("a/b", "b", "\udc80", "a'") == ["a/b", "a/b/c", "b/a/b"]
        assert found() == []
        assert snapshot.count_under("/s") == len(list(snapshot.known_under("/s"))) == len(keys)
        assert snapshot.count_under("/nowhere") == 0


@pytest.mark.parametrize(
    "key", ["a/b.txt", "ü😀", "it's", 'a"b', "back\\slash", "%_%", "new\nline", " ", "a" * 5000]
)
def test_any_text_can_be_a_key(store: Store, key: str) -> None:
    put(store, new(key), new("other"))
    put(store, new(key, 5))
    with store.snapshot() as snapshot:
        assert snapshot.find([key])[key].key == key
        assert vectors_of(snapshot, key).tobytes() == VECTORS[[5]].tobytes()
    with store.write() as writer:
        assert writer.delete([key, "nobody"]) == 1
    assert contents(store).keys() == {"other"}


def test_metadata_is_kept_as_compact_json_with_sorted_keys(store: Store) -> None:
    put(store, new("a", metadata={"b": 1, "a": {"d": "ü", "c": 0.1}}))
    with sqlite3.connect(store.database) as connection:
        (text,) = connection.execute("SELECT metadata FROM items").fetchone()
    connection.close()
    assert text == '{"a":{"c":0.1,"d":"ü"},"b":1}'


def nested(depth: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(depth):
        document = {"a": document}
    return document


@pytest.mark.parametrize(
    "bad",
    [
        new("bad", metadata={"x": float("nan")}),
        new("bad", metadata={"x": [float("-inf")]}),
        new("bad", metadata={"x": b"bytes"}),
        new("bad", metadata={"x": "\udc80"}),
        new("bad", metadata=nested(5000)),
        new("bad", text="half \ud83d"),
        new("bad\udc80"),
        new("bad", source="/\udc80"),
        new("nul\0nul"),
        new(""),
        NewItem("bad", TEXT, VECTORS[:0], []),
        NewItem("bad", TEXT, VECTORS[:2], [None]),
        NewItem("bad", TEXT, VECTORS[:1, :255], [None]),
        NewItem("bad", TEXT, VECTORS[0], [None] * DIM),
        NewItem("bad", TEXT, VECTORS[:1] * 2, [None]),
        NewItem("bad", TEXT, VECTORS[:1] * np.float32(np.nan), [None]),
        NewItem("bad", TEXT, VECTORS[:1] * 0, [None]),
    ],
    ids=lambda item: None,
)
def test_what_cannot_be_kept_is_refused_whole(store: Store, bad: NewItem) -> None:
    put(store, new("a", 1))
    before = contents(store)
    # The error is caught inside: also for one who goes on and commits.
    with store.write() as writer, pytest.raises(InvalidInput):
        writer.put([new("a", 2), new("good"), bad])
    assert contents(store) == before
    assert faults(store) == []


def test_replacing_an_item_keeps_its_id_and_its_age(store: Store) -> None:
    put(store, new("a", 1, 2, modality=AUDIO, metadata={"n": 1}), new("b", 3))
    with store.snapshot() as snapshot:
        before, number = snapshot.find(["a"])["a"], snapshot.item_ids(["a"])["a"]
    put(store, new("a", 4, text="now a text", metadata={"n": 2}))
    with store.snapshot() as snapshot:
        after = snapshot.find(["a"])["a"]
        assert (after.added, snapshot.item_ids(["a"])["a"]) == (before.added, number)
        assert (after.modality, after.text, after.metadata) == (TEXT, "now a text", {"n": 2})
        assert vectors_of(snapshot, "a").tobytes() == VECTORS[[4]].tobytes()
        assert snapshot.dead(AUDIO).tolist() == [0, 1]
        assert snapshot.row_items(AUDIO).tolist() == [-1, -1]
        assert snapshot.row_items(TEXT).tolist() == [number + 1, number]
        assert snapshot.key_ranks(AUDIO).tolist() == [-1, -1]
        assert snapshot.key_ranks(TEXT).tolist() == [1, 0]
        assert snapshot.owners_of(AUDIO, np.array([1, 0])).tolist() == [-1, -1]
        found = snapshot.owners_of(TEXT, np.array([1, 0, 1]))
        assert found.tolist() == [number, number + 1, number]
        assert snapshot.owners_of(TEXT, np.empty(0, np.int64)).tolist() == []
        file = snapshot.row_file(AUDIO)
        assert file is not None
        assert (file.rows, file.dead) == (2, 2)
    assert faults(store) == []


def test_the_last_item_of_a_key_counts(store: Store) -> None:
    put(store, new("a", 1), new("b", 2), new("a", 3))
    with store.snapshot() as snapshot:
        assert vectors_of(snapshot, "a").tobytes() == VECTORS[[3]].tobytes()
        assert len(snapshot.vectors(TEXT)) == 2
    assert faults(store) == []


def test_ids_are_never_mixed_up_after_deletions(store: Store) -> None:
    put(store, new("a", 1), new("b", 2))
    with store.write() as writer:
        writer.delete(["b"])
        writer.put([new("c", 3), new("a", 4)])
    with store.snapshot() as snapshot:
        rows = snapshot.item_rows(["a", "b", "c"])
        assert {key: own.tolist() for key, (_, own) in rows.items()} == {"a": [3], "c": [2]}
        assert snapshot.dead(TEXT).tolist() == [0, 1]
    assert faults(store) == []


def test_touching_changes_what_is_outside_of_the_content(store: Store) -> None:
    put(store, new("a", 1, source="/old/a", root="/old", metadata={"n": 1}))
    with store.write() as writer:
        writer.touch("a", record("a", source="/new/a", root="/new", size=3, mtime_ns=4,
                                 metadata={"n": 2}), "hash")  # fmt: skip
        writer.touch("nobody", record("nobody"), "hash")
    with store.snapshot() as snapshot:
        known = snapshot.known(["a"])["a"]
        assert (known.source, known.root, known.size, known.mtime_ns) == ("/new/a", "/new", 3, 4)
        assert (known.document, known.content_hash) == ('{"n":2}', "hash")
        assert vectors_of(snapshot, "a").tobytes() == VECTORS[[1]].tobytes()
        assert snapshot.counts() == {TEXT: {"items": 1, "segments": 1}}


def test_moving_keeps_the_vectors_and_never_lands_on_another_item(store: Store) -> None:
    put(store, new("a", 1, content_hash="h"), new("b", 2))
    before = contents(store)
    with pytest.raises(Conflict, match="'b', which is there already"), store.write() as writer:
        writer.move("a", record("b"))
    assert contents(store) == before
    with store.write() as writer:
        writer.move("a", record("c", source="/c"))
        writer.move("nobody", record("d"))
    assert contents(store) == {"b": before["b"], "c": before["a"]}
    with store.snapshot() as snapshot:
        assert snapshot.known(["c"])["c"].content_hash == "h"
    assert faults(store) == []


def test_items_are_listed_by_key_with_filter_modality_and_limit(store: Store) -> None:
    put(store, *(new(f"k{n}", modality=list(Modality)[n % 3], metadata={"n": n}) for n in range(9)))
    with store.snapshot() as snapshot:

        def keys(*arguments: Any, **options: Any) -> str:
            return "".join(item.key[1] for item in snapshot.iter_items(*arguments, **options))

        assert keys() == "012345678"
        assert keys(parse_filter("n > 4")) == "5678"
        assert keys(None, [TEXT, AUDIO], limit=3) == "023"
        assert keys(parse_filter("n > 4"), [IMAGE]) == "7"
        assert snapshot.matching_rows(IMAGE, parse_filter("n > 1")).tolist() == [1, 2]  # type: ignore[arg-type]


def test_thousands_of_keys_are_looked_up_at_once(store: Store) -> None:
    keys = [f"k{number}" for number in range(40_000)]
    put(store, *(NewItem(key, TEXT, VECTORS[:1], [None]) for key in keys[::10]))
    with store.snapshot() as snapshot:
        assert snapshot.find(keys).keys() == snapshot.known(keys).keys() == set(keys[::10])
    with store.write() as writer:
        assert writer.delete(keys) == 4_000
    assert faults(store) == []


def test_answers_that_are_shared_cannot_be_changed(store: Store) -> None:
    put(store, new("a", 1), new("b", 2))
    put(store, new("a", 3))
    with store.snapshot() as snapshot:
        everything = parse_filter("not x = 1")
        assert everything is not None
        for array in (
            snapshot.vectors(TEXT),
            snapshot.dead(TEXT),
            snapshot.row_items(TEXT),
            snapshot.matching_rows(TEXT, everything),
        ):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


# ---- failures, jobs, indexes ---------------------------------------------------------------------


def test_failures_are_counted_and_forgotten_when_their_source_is_put(store: Store) -> None:
    with store.write() as writer:
        writer.fail([Problem("/b", "bad", "mend", "b"), Problem("/a\udc80", "half", key="a\udc80")])
    with store.write() as writer:
        writer.fail([Problem("/b", "worse", "", "b")])
        writer.fail([])
    with store.snapshot() as snapshot:
        odd, b = snapshot.failures()
        assert (b.source, b.key, b.error, b.hint, b.attempts) == ("/b", "b", "worse", "", 2)
        assert b.first <= b.last
        assert (odd.source, odd.key, odd.attempts) == ("/a?", "a?", 1)
    put(store, new("b", source="/b"))
    with store.write() as writer:
        writer.clear_failures(["/a\udc80", "/never"])
        writer.clear_failures([])
    with store.snapshot() as snapshot:
        assert snapshot.failures() == []


def test_jobs_are_remembered(store: Store) -> None:
    with store.write() as writer:
        writer.set_job(Job("/out", "f", 0, "running"))
        writer.set_job(Job("/out", "f", 3, "running"))
        writer.set_job(Job("/other", "g", 1, "done"))
    with store.snapshot() as snapshot:
        job = snapshot.job("/out")
        assert job is not None
        assert (job.done, job.state, job.mark) == (3, "running", "")
        assert job.updated
        assert snapshot.job("/other") is not None


def save_index(store: Store, name: str, *, generation: int = 0, rows: int = 1) -> IndexFile:
    data = b"an index"
    (store.directory / "index" / name).write_bytes(data)
    checksum = hashlib.sha256(data).hexdigest()
    params = {"b": 1, "a": [2]}
    return IndexFile(TEXT, generation, name, "pq4", rows, len(data), checksum, params)


def test_an_index_is_recorded_and_the_one_before_it_removed(store: Store) -> None:
    put(store, new("a"))
    for name in ("text.0.000000000001.faiss", "text.0.000000000002.faiss"):
        with store.write() as writer:
            writer.set_index(save_index(store, name))
            assert writer.index_file(TEXT) is not None
    assert [path.name for path in (store.directory / "index").iterdir()] == [name]
    with store.snapshot() as snapshot:
        index = snapshot.index_file(TEXT)
        assert index is not None
        assert (index.name, index.params, index.kind) == (name, {"b": 1, "a": [2]}, "pq4")
        assert index.created
        assert snapshot.index_file(IMAGE) is None
    with store.write() as writer:
        writer.set_index(index)  # the same once more: its file stays
    assert (store.directory / "index" / name).exists()
    with store.write() as writer:
        writer.drop_index(TEXT)
        writer.drop_index(IMAGE)
    assert list((store.directory / "index").iterdir()) == []


def test_an_index_of_other_rows_is_none(store: Store) -> None:
    put(store, new("a"))
    for facts in ({"generation": 1}, {"rows": 2}):
        with store.write() as writer:
            writer.set_index(save_index(store, "text.0.000000000001.faiss", **facts))
        with store.snapshot() as snapshot:
            assert snapshot.index_file(TEXT) is None


def test_an_index_whose_file_went_away_is_not_recorded(store: Store) -> None:
    put(store, new("a"))
    index = save_index(store, "text.0.000000000001.faiss")
    (store.directory / "index" / index.name).unlink()
    with pytest.raises(Conflict, match="muomni rebuild"), store.write() as writer:
        writer.set_index(index)


# ---- the sample of a modality's rows -------------------------------------------------------------


def sampled(store: Store, most: int) -> set[tuple[str, int]]:
    """Return the keys and ordinals of the segments in the sample of TEXT."""
    with store.snapshot() as snapshot:
        rows = snapshot.sample_rows(TEXT, most).tolist()
        assert rows == sorted(set(rows))
        assert not set(rows) & set(snapshot.dead(TEXT).tolist())
        found = snapshot.item_rows(snapshot.iter_keys())
    places = {
        row: (key, ordinal)
        for key, (modality, own) in found.items()
        if modality == TEXT
        for ordinal, row in enumerate(own.tolist())
    }
    return {places[row] for row in rows}


def test_few_segments_are_all_in_the_sample(store: Store) -> None:
    assert sampled(store, 5) == set()
    put(store, new("a", 1, 2), new("b", 3), new("c", 4, modality=IMAGE))
    assert sampled(store, 5) == sampled(store, 3) == {("a", 0), ("a", 1), ("b", 0)}
    assert len(sampled(store, 2)) == 2


def test_a_segment_that_comes_or_goes_changes_one_of_the_sample_at_most(store: Store) -> None:
    put(store, *[new(f"k{number:03}", *[number % 64] * (1 + number % 3)) for number in range(600)])
    before = sampled(store, 200)
    assert len(before) == 200
    for number in range(0, 600, 30):
        put(store, new(f"new{number}"))
        after = sampled(store, 200)
        assert len(before - after) == len(after - before) <= 1
        with store.write() as writer:
            writer.delete([f"k{number:03}"])
        before, gone = sampled(store, 200), 1 + number % 3
        assert len(after - before) == len(before - after) <= gone
        assert not any(key == f"k{number:03}" for key, _ in before)


def test_the_sample_is_spread_over_the_items_and_their_segments(store: Store) -> None:
    put(store, *[new(f"k{number:04}", *range(8)) for number in range(1_000)])
    sample = sampled(store, 1_024)
    items = np.array([int(key[1:]) for key, _ in sample])
    ordinals = np.array([ordinal for _, ordinal in sample])
    assert np.histogram(items, bins=10, range=(0, 1_000))[0].min() > 80
    assert np.bincount(ordinals).min() > 100
    assert np.bincount(items).max() <= 4


# ---- transactions --------------------------------------------------------------------------------


def test_the_version_counts_changes_of_items_and_nothing_else(store: Store) -> None:
    def version() -> int:
        with store.snapshot() as snapshot:
            return snapshot.version

    put(store, new("a"))
    assert version() == 1
    with store.write() as writer:
        writer.touch("a", record("a", metadata={"n": 1}), "h")
        writer.move("a", record("b"))
    assert version() == 2
    with store.write() as writer:
        writer.set_job(Job("/out", "f", 0, "running"))
        writer.fail([Problem("/x", "bad")])
        writer.set_index(save_index(store, "text.0.000000000001.faiss"))
        writer.put([])
        writer.delete(["nobody"])
    assert version() == 2
    with store.write() as writer:
        writer.delete(["b"])
    assert version() == 3


def test_a_snapshot_sees_its_state_whatever_is_committed_meanwhile(store: Store) -> None:
    put(store, new("a", 1, metadata={"n": 1}), new("b", 2))
    one = parse_filter("n = 1")
    assert one is not None
    with store.snapshot() as snapshot:
        with store.write() as writer:
            writer.put([new("a", 3, metadata={"n": 2}), new("c", 4)])
            writer.delete(["b"])
            writer.set_index(save_index(store, "text.0.000000000001.faiss"))
        assert vectors_of(snapshot, "a").tobytes() == VECTORS[[1]].tobytes()
        assert snapshot.vectors(TEXT).tobytes() == VECTORS[[1, 2]].tobytes()
        ids = [match.item_id for match in snapshot.matches(TEXT, np.array([0, 1]))]
        keys = snapshot.keys_of(ids)
        assert [keys[item_id] for item_id in ids] == ["a", "b"]
        assert snapshot.dead(TEXT).tolist() == []
        assert snapshot.matching_rows(TEXT, one).tolist() == [0]
        assert snapshot.row_items(TEXT).min() > 0
        assert snapshot.index_file(TEXT) is None
        assert snapshot.version == 1
        with store.snapshot() as later:
            assert vectors_of(later, "a").tobytes() == VECTORS[[3]].tobytes()
            assert later.dead(TEXT).tolist() == [0, 1]
            assert later.matching_rows(TEXT, one).tolist() == []
            assert later.index_file(TEXT) is not None
    assert faults(store) == []


def test_a_writer_sees_its_own_changes_and_nobody_else_does(store: Store) -> None:
    put(store, new("a", 1, metadata={"n": 1}), new("b", 2))
    one = parse_filter("n = 1")
    assert one is not None
    with store.write() as writer:
        assert writer.dead(TEXT).tolist() == []
        writer.put([new("a", 3), new("c", 4, metadata={"n": 1})])
        assert vectors_of(writer, "a").tobytes() == VECTORS[[3]].tobytes()
        assert writer.dead(TEXT).tolist() == [0]
        assert writer.matching_rows(TEXT, one).tolist() == [3]
        writer.delete(["b"])
        assert writer.dead(TEXT).tolist() == [0, 1]
        assert writer.item_ids(["a", "b", "c"]).keys() == {"a", "c"}
        with store.snapshot() as snapshot:
            assert snapshot.dead(TEXT).tolist() == []
            assert snapshot.matching_rows(TEXT, one).tolist() == [0]
            assert snapshot.find(["a", "b", "c"]).keys() == {"a", "b"}


def test_an_exception_takes_everything_back(store: Store) -> None:
    put(store, new("a", 1))
    before, size = contents(store), (store.directory / "vectors/text.0.f32").stat().st_size

    def fail() -> None:
        with store.write() as writer:
            writer.put([new("a", 2), new("b", 3, modality=IMAGE)])
            writer.delete(["a"])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert contents(store) == before
    assert (store.directory / "vectors/text.0.f32").stat().st_size == size
    assert not (store.directory / "vectors/image.0.f32").exists()
    put(store, new("b", 3, modality=IMAGE))
    assert faults(store) == []


def test_a_second_writer_waits_and_then_gives_up_with_a_conflict(store: Store) -> None:
    with store.write() as writer:
        writer.put([new("a")])
        with (
            pytest.raises(Conflict, match="being written by another process"),
            store.write(timeout=0.2),
        ):
            pass
    order = []

    def wait() -> None:
        with store.write(timeout=20) as second:
            order.append("second")
            second.put([new("b")])

    with store.write() as writer:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert contents(store).keys() == {"a", "b"}


def test_a_writer_in_another_process_is_waited_for(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, time, numpy as np; from pathlib import Path\n"
        "from muomni_search.store.store import *; from muomni_search.items import Modality\n"
        f"with Store.open(Path({str(store.directory)!r})) as s, s.write() as w:\n"
        "    w.put([NewItem('other', Modality.TEXT, np.eye(1, 256, dtype='f4'), [None])])\n"
        "    print('locked', flush=True); sys.stdin.readline()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "locked\n"
    with pytest.raises(Conflict), store.write(timeout=0):
        pass
    assert contents(store) == {}
    child.stdin.write("go on\n")
    child.stdin.flush()
    put(store, new("mine"))
    child.communicate()
    assert child.returncode == 0
    assert contents(store).keys() == {"mine", "other"}
    assert faults(store) == []


def test_many_threads_read_while_one_writes(store: Store) -> None:
    keys = [f"k{number}" for number in range(8)]
    put(store, *(new(key, 0) for key in keys))
    stop = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                with store.snapshot() as snapshot:
                    rows = snapshot.item_rows(keys)
                    # Every commit gives all items the same vector.
                    seen = {snapshot.vectors(TEXT)[own].tobytes() for _, own in rows.values()}
                    assert len(rows) == len(keys)
                    assert len(seen) == 1
                    dead = set(snapshot.dead(TEXT).tolist())
                    assert not dead & {int(own[0]) for _, own in rows.values()}
        except BaseException as error:  # noqa: BLE001  shown by the thread that joins
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 30):
        put(store, *(new(key, number) for key in keys))
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert faults(store) == []


def test_a_reader_keeps_the_rows_of_a_file_that_was_replaced(store: Store) -> None:
    put(store, new("a", 1), new("b", 2))
    with Store.open(store.directory) as other, other.snapshot() as snapshot:
        with store.write() as writer:
            writer.replace_row_file(TEXT, [VECTORS[[1]], VECTORS[[2]]])
        assert not (store.directory / "vectors/text.0.f32").exists()
        assert snapshot.vectors(TEXT).tobytes() == VECTORS[[1, 2]].tobytes()
        with other.snapshot() as later:
            file = later.row_file(TEXT)
            assert file is not None
            assert file.generation == 1
            assert later.vectors(TEXT).tobytes() == VECTORS[[1, 2]].tobytes()
    put(store, new("c", 3))
    assert faults(store) == []


def test_a_reader_that_begins_while_a_file_is_replaced_looks_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from muomni_search.store import snapshot as module

    put(store, new("a", 1))
    read_state, states = module.read_state, []

    def replaced_right_after(*arguments: Any) -> Any:
        states.append(read_state(*arguments))
        if len(states) == 1:
            with store.write() as writer:
                writer.replace_row_file(TEXT, [VECTORS[[1]]])
        return states[-1]

    with Store.open(store.directory) as other:
        other._newest = None
        monkeypatch.setattr("muomni_search.store.store.read_state", replaced_right_after)
        with other.snapshot() as snapshot:
            file = snapshot.row_file(TEXT)
            assert file is not None
            assert file.generation == 1
            assert snapshot.vectors(TEXT).tobytes() == VECTORS[[1]].tobytes()


# ---- files that are not as they should be --------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_row_file_that_lost_rows_is_named_and_the_rest_still_reads(
    store: Store, place: Path, how: str
) -> None:
    put(store, new("a", 1), new("b", 2), new("dog", modality=IMAGE))
    path = place / "vectors/text.0.f32"
    if how == "cut":
        os.truncate(path, 1500)
    else:
        path.unlink()
    with Store.open(place) as other:
        with other.snapshot() as snapshot:
            with pytest.raises(CorruptData, match=f"{path}.*muomni verify --repair"):
                snapshot.vectors(TEXT)
            assert len(snapshot.vectors(IMAGE)) == 1
            assert snapshot.find(["a"])["a"].key == "a"
        with pytest.raises(CorruptData, match=str(path)):
            put(other, new("c"))
        assert path.exists() == (how == "cut")


def test_a_row_file_that_is_cut_while_it_is_mapped_is_no_bus_error(store: Store) -> None:
    put(store, new("a", 1), new("b", 2))
    with store.snapshot() as snapshot:
        assert snapshot.vectors(TEXT)[1, 0] == VECTORS[2, 0]
    os.truncate(store.directory / "vectors/text.0.f32", 1024)
    with store.snapshot() as snapshot, pytest.raises(CorruptData, match="has 1024 bytes"):
        snapshot.vectors(TEXT)


def test_what_a_dead_writer_left_behind_is_cut_and_swept(store: Store, place: Path) -> None:
    put(store, new("a", 1))
    with (place / "vectors/text.0.f32").open("ab") as file:
        file.write(b"x" * 5000)
    leftovers = [
        place / "vectors" / "text.1.f32",  # of a repair
        place / "vectors" / "image.0.f32",  # of a first commit
        place / "index" / "text.0.0123456789ab.faiss",
        place / "index" / ".text.0.0123456789ab.faiss.4711.partial",
    ]
    for path in leftovers:
        path.write_bytes(b"left")
        os.utime(path, (0, 0))
    young = place / "index" / "image.0.0123456789ab.faiss"
    young.write_bytes(b"about to be recorded")
    with store.snapshot() as snapshot:
        assert snapshot.vectors(TEXT).tobytes() == VECTORS[[1]].tobytes()
    assert faults(store) == []
    put(store, new("b", 2))
    assert (place / "vectors/text.0.f32").stat().st_size == 2 * 4 * DIM
    assert not any(path.exists() for path in leftovers)
    assert young.exists()
    assert faults(store) == []


def test_a_writer_removes_no_vectors_of_another_database(store: Store, place: Path) -> None:
    put(store, new("a", 1))
    # As after an old copy of the database was put back.
    (place / "vectors/text.0.f32").rename(place / "vectors/text.1.f32")
    with pytest.raises(CorruptData):
        put(store, new("b", 2))
    assert (place / "vectors/text.1.f32").exists()


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from muomni_search.errors import MuomniError
from muomni_search.items import Modality
from muomni_search.store.store import Store
import muomni_search.store.writer  # nobody may not look where the packages are
os.setuid(65534)
try:
    with Store.open(Path(sys.argv[1])) as store:
        with store.snapshot() as snapshot:
            print(sorted(snapshot.find(["a", "b"])), snapshot.vectors(Modality.TEXT).shape)
        print(list(store.problems()))
        with store.write() as writer:
            writer.delete(["a"])
except MuomniError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_one_who_may_only_read_reads_and_is_told_that_writing_fails(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    with Store.create(tmp_path / "c", model="m", fingerprint="f") as store:
        put(store, new("a"), new("b"))

        def read() -> list[str]:
            done = subprocess.run(
                [sys.executable, "-c", READ_AS_NOBODY, str(store.directory)],
                capture_output=True, text=True, check=True, cwd="/",
            )  # fmt: skip
            return done.stdout.splitlines()

        beside_a_writer = read()
    for answer in (beside_a_writer, read()):
        assert answer[:2] == ["['a', 'b'] (2, 256)", "[]"]
        assert "read-only: mend its permissions" in answer[2]


# ---- a disk that fails ---------------------------------------------------------------------------


def test_a_disk_that_fails_at_any_step_leaves_the_store_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, new("a", 1), new("b", 2, modality=IMAGE))
    before = contents(store)

    def work() -> None:
        with store.write() as writer:
            writer.put([new("a", 3), new("c", 4, modality=IMAGE), new("d", 5, modality=AUDIO)])

    steps: list[str] = []
    failing_at = 0

    def step(name: str) -> None:
        steps.append(name)
        if len(steps) == failing_at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "step", step)
    while True:
        failing_at, steps[:] = failing_at + 1, []
        try:
            work()
        except MuomniError as error:
            refused = str(error)
        else:
            break
        assert "No space left on device: free some space" in refused
        assert contents(store) == before
        assert faults(store) == []
    # What fails after the commit costs no more than disk space.
    assert steps[failing_at - 1] == "after commit"
    monkeypatch.undo()
    work()
    assert contents(store).keys() == {"a", "b", "c", "d"}
    assert faults(store) == []


FILL = """
import resource, sys
import numpy as np
from pathlib import Path
from muomni_search.errors import MuomniError
from muomni_search.items import Modality
from muomni_search.store.store import NewItem, Store
store = Store.open(Path(sys.argv[1]))
vector, limit = np.eye(1, 256, dtype=np.float32), int(sys.argv[2])
def put(number):
    with store.write() as writer:
        writer.put([NewItem(f"k{number}", Modality.TEXT, vector, [None], text="x" * 3000)])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
number = 0
try:
    while True:
        put(number)
        number += 1
except MuomniError as error:
    print(error)
assert list(store.problems()) == [], list(store.problems())
with store.snapshot() as snapshot:
    assert len(list(snapshot.iter_items())) == number, number
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
put(number)
assert list(store.problems()) == []
"""


# In the first the log of the database meets the limit, in the second its file, in the third none.
@pytest.mark.parametrize("limit", [60_000, 200_000, 500_000])
def test_a_file_that_cannot_grow_is_an_error_and_works_again_later(
    store: Store, limit: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(store.directory), str(limit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "what was stored before is whole" in done.stdout
    assert faults(store) == []
