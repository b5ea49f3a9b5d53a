"""A purge leaves no byte of what was deleted anywhere in the collection's directory."""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search import Collection, Modality, Query, Record
from muomni_search.errors import CorruptData
from muomni_search.items import DIM, Problem
from muomni_search.store import sqlite
from muomni_search.store import store as store_module
from muomni_search.store.store import NewItem, Store
from muomni_search.vectors import normalise

VECTORS = normalise(np.random.default_rng(8).standard_normal((400, DIM)))
SECRET = "secret/ünseen key"
SOURCE = "/home/somebody/secret place/picture.jpg"


def prose(seed: int, words: int) -> str:
    """Return a text that no other has a run of 12 characters in common with."""
    generator = random.Random(seed)
    return " ".join("".join(generator.choices(ascii_lowercase, k=7)) for _ in range(words))


# Longer than several of SQLite's pages, and one for each of its lives.
LONG = [prose(seed, 1_500) for seed in range(3)]


@pytest.fixture(autouse=True)
def _gaps_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite overwrite nothing that is freed, as most builds of it do."""
    connect = sqlite._open_uri

    def careless(uri: str, *, salvage: bool) -> sqlite3.Connection:
        connection = connect(uri, salvage=salvage)
        connection.execute("PRAGMA secure_delete=OFF")
        return connection

    monkeypatch.setattr(sqlite, "_open_uri", careless)


def neighbours(numbers: range) -> list[Record]:
    return [
        Record(f"n{n}", Modality.TEXT, "here", text=prose(100 + n, 5 + n % 40), metadata={"n": n})
        for n in numbers
    ] + [Record(f"v{n}", Modality.IMAGE, "here", vector=VECTORS[n]) for n in numbers]


def secrets(life: int) -> list[Record]:
    """Return a text and a picture, another content and other metadata in each of their lives."""
    metadata = {"title": f"a title nobody must see {life}", "year": life}
    return [
        Record(SECRET, Modality.TEXT, SOURCE, text=LONG[life], source=SOURCE, metadata=metadata),
        Record("secret/v", Modality.IMAGE, "x", vector=VECTORS[300 + life], metadata=metadata),
    ]


def needles(collection: Collection) -> list[bytes]:
    """Return what must not be found: of every life so far, and of the vectors of the last."""
    found = [SECRET.encode(), b"secret place", b"secret/v", b"a title nobody must see"]
    for text in LONG:
        content = text.encode()
        found += [content[at : at + 12] for at in range(0, len(content) - 12, 5)]
    rows = [*VECTORS[300:303]]
    with collection.store.snapshot() as snapshot:
        for modality, own in snapshot.item_rows([SECRET, "secret/v"]).values():
            rows += [*snapshot.vectors(modality)[own]]
    for row in rows:
        content = row.astype("<f4").tobytes()
        found += [content[at : at + 16] for at in range(0, len(content), 16)]
    return found


def found_in(directory: Path, sought: list[bytes]) -> set[str]:
    """Return the names of the files in which one of some byte sequences, of 8 or more, is."""
    by_head: dict[int, list[bytes]] = {}
    for one in sought:
        by_head.setdefault(int.from_bytes(one[:8], "little"), []).append(one)
    heads = np.array([*by_head], np.uint64)
    return {
        path.name
        for path in directory.rglob("*")
        if path.is_file() and is_in(path.read_bytes(), by_head, heads)
    }


def is_in(content: bytes, by_head: dict[int, list[bytes]], heads: NDArray[np.uint64]) -> bool:
    for shift in range(8):
        numbers = np.frombuffer(content[shift:], "<u8", max(0, len(content) - shift) // 8)
        for place in np.flatnonzero(np.isin(numbers, heads)).tolist():
            at = 8 * place + shift
            if any(content.startswith(one, at) for one in by_head[int(numbers[place])]):
                return True
    return False


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    """A collection in which the secret had three lives, between many others that come and go."""
    with Collection.create(tmp_path / "c", model="hashing") as made:
        for life in range(3):
            made.add(neighbours(range(60 * life, 60 * life + 60)))
            made.add(secrets(life))
            made.delete([f"n{n}" for n in range(60 * life, 60 * life + 30)])
            made.store.vacuum() if life == 1 else None
        made.add(neighbours(range(30)))
        yield made


@pytest.mark.parametrize("indexed", [False, True])
def test_after_a_purge_no_byte_is_left(collection: Collection, indexed: bool) -> None:
    if indexed:
        collection.rebuild(kind="ann")
    sought = needles(collection)
    assert found_in(collection.directory, sought) >= {
        "collection.db-wal",
        "text.0.f32",
        "image.0.f32",
    }
    others = [item.key for item in collection.items() if not item.key.startswith("secret")]
    vectors = {item.key: item.vector for item in collection.get(others, vectors=True)}
    before = collection.query(Query.vector(VECTORS[5]), 400)

    done = collection.purge([SECRET, "secret/v"])
    assert done.as_dict() == {"purged": 2, "absent": [], "remains": []}
    assert found_in(collection.directory, sought) == set()
    assert [item.key for item in collection.items()] == others
    for item in collection.get(others, vectors=True):
        assert np.array_equal(item.vector, vectors[item.key])
    kept = [(hit.key, hit.cosine) for hit in before if not hit.key.startswith("secret")]
    after = collection.query(Query.vector(VECTORS[5]), 400)
    assert sorted((hit.key, hit.cosine) for hit in after) == sorted(kept)
    assert collection.verify() == []


def test_the_search_for_bytes_finds_what_a_deletion_leaves(collection: Collection) -> None:
    sought = needles(collection)
    collection.delete([SECRET, "secret/v"])
    collection.store.vacuum()
    assert {"text.0.f32", "image.0.f32"} <= found_in(collection.directory, sought)


def test_what_was_deleted_before_is_purged_without_a_key_or_with_it(collection: Collection) -> None:
    sought = needles(collection)
    collection.delete([SECRET])
    assert collection.purge("secret/v").deleted == 1
    assert found_in(collection.directory, sought) == set()
    assert collection.purge([SECRET, "never"]).as_dict() == {
        "purged": 0,
        "absent": ["never", SECRET],
        "remains": [],
    }
    assert collection.purge().deleted == 0
    assert collection.verify() == []


def test_items_are_purged_by_filter(collection: Collection) -> None:
    sought = needles(collection)
    assert collection.purge(where="year = 2").deleted == 2
    assert found_in(collection.directory, sought) == set()


def test_a_replaced_content_goes_with_the_next_purge(collection: Collection) -> None:
    collection.purge("n0")
    old = [text.encode()[at : at + 12] for text in LONG[:2] for at in range(0, 5_000, 12)]
    assert found_in(collection.directory, old) == set()
    assert found_in(collection.directory, [SECRET.encode()]) == {"collection.db"}


def test_failures_that_speak_of_it_go_and_others_stay(collection: Collection) -> None:
    with collection.store.write() as writer:
        writer.fail(
            [
                Problem(SOURCE, "cannot be read"),
                Problem("/x/1", "bad", key=SECRET),
                Problem("/x/2", f"{SECRET} is there twice"),
                Problem("/x/3", "bad", f"remove {SOURCE}"),
                Problem("/x/4", "bad"),
            ]
        )
    sought = needles(collection)
    collection.purge([SECRET, "secret/v"])
    assert [failure.source for failure in collection.failures()] == ["/x/4"]
    assert found_in(collection.directory, sought) == set()


def fail(collection: Collection, *problems: Problem) -> None:
    with collection.store.write() as writer:
        writer.fail(problems)


def left(collection: Collection) -> list[str]:
    return [failure.source for failure in collection.failures()]


def text_record(key: str, source: str | None = None) -> Record:
    return Record(key, Modality.TEXT, "here", text="owl", source=source)


def test_failures_of_strangers_stay(collection: Collection) -> None:
    collection.add([text_record("a", "/x/a")])
    strangers = [
        Problem("/data/photos/beach.jpg", "it is a directory", "take a picture", "beach.jpg"),
        Problem("/x/a/b", "cannot be read", "mend /x/a/b", "x/a"),
        Problem("/x/a.txt", "/x/a.txt: is 'a.txt'", "remove /x/a.txt or a-b"),
        Problem("/x/ab", "", "see /y/x/a"),
    ]
    fail(collection, *strangers)
    collection.purge("a")
    assert left(collection) == sorted(one.source for one in strangers)


@pytest.mark.parametrize(
    "key", ["a", "owl (1)", 'Anna\'s "letter"\n.txt', "ü", "a/b.txt", "'", "a b", "back\\slash"]
)
@pytest.mark.parametrize(
    "spell",
    [
        lambda key: f"{key}: it is damaged",
        lambda key: f"the key {key!r} was there before",
        lambda key: f"the key {key!r}",
        lambda key: f"{key!r}",
    ],
)
def test_failures_that_show_a_key_go(
    collection: Collection, key: str, spell: Callable[[str], str]
) -> None:
    collection.add([text_record(key)])
    fail(collection, Problem("/t.csv:3", spell(key)), Problem("/t.csv:4", "bad", spell(key)))
    collection.purge(key)
    assert left(collection) == []


def test_failures_of_a_table_stay_as_long_as_it_has_other_items(collection: Collection) -> None:
    table = "/somewhere/t.csv"
    collection.add([text_record("r1", table), text_record("r2", table)])
    fail(collection, Problem(f"{table}:3", f"{table}:3: no text"), Problem(f"{table}:4", "", "r1."))
    collection.purge("r1")
    assert left(collection) == [f"{table}:3"]
    collection.purge("r2")
    assert left(collection) == []


def test_without_a_key_the_failures_of_what_is_no_item_go(collection: Collection) -> None:
    fail(
        collection,
        Problem(SOURCE, f"{SECRET}: bad", "mend it", SECRET),
        Problem("/x/n1", "an update failed", "", "n1"),
        Problem("/x/n2", "unknown key"),
    )
    sought = needles(collection)
    collection.delete([SECRET, "secret/v"])
    collection.purge(where="n = 1")  # of a filter those that it matches
    assert left(collection) == [SOURCE, "/x/n2"]
    fail(collection, Problem("/x/n3", "an update failed", "", "n3"))
    collection.purge()
    assert left(collection) == ["/x/n3"]
    assert found_in(collection.directory, sought) == set()


def leave_behind(collection: Collection) -> None:
    """Leave what writers that died leave: rows behind the end, generations, indexes."""
    folder = collection.directory
    row = VECTORS[300].astype("<f4").tobytes()
    for modality in ("text", "image"):
        with (folder / f"vectors/{modality}.0.f32").open("ab") as file:
            file.write(row)
    (folder / "vectors/image.1.f32").write_bytes(row)
    (folder / "vectors/audio.3.f32").write_bytes(row)
    (folder / "index/image.0.0123456789ab.faiss").write_bytes(row)
    (folder / "index/.text.0.0123456789ab.faiss.1-2.partial").write_bytes(row)


def test_what_dead_writers_left_goes_too(collection: Collection) -> None:
    sought = needles(collection)
    leave_behind(collection)
    assert collection.purge([SECRET, "secret/v"]).remains == []
    assert found_in(collection.directory, sought) == set()
    assert [path.name for path in (collection.directory / "vectors").iterdir()] != []
    assert list((collection.directory / "index").iterdir()) == []


def test_damaged_rows_are_not_purged(collection: Collection) -> None:
    with (collection.directory / "vectors/image.0.f32").open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(CorruptData, match="verify --repair"):
        collection.purge(SECRET)
    assert collection.get(SECRET)


# ---- what is in the way --------------------------------------------------------------------------


def test_a_reader_keeps_some_of_it_until_it_is_done(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "READER_SECONDS", 0.01)
    sought = needles(collection)
    with Collection.open(collection.directory) as other, other.view() as view:
        done = collection.purge([SECRET, "secret/v"])
        assert done.deleted == 2
        assert {path.name for path in done.remains} == {"collection.db", "collection.db-wal"}
        assert found_in(collection.directory, sought) <= {path.name for path in done.remains}
        assert found_in(collection.directory, sought)
        assert collection.query(Query.vector(VECTORS[302]), 1)[0].key != "secret/v"
        assert view.get([SECRET])[0].text == LONG[2]
    again = collection.purge([SECRET, "secret/v"])
    assert again.remains == []
    assert set(again.absent) == {SECRET, "secret/v"}
    assert found_in(collection.directory, sought) == set()


def staged(collection: Collection, keys: list[str]) -> Path:
    """Leave a move to another model half done: vectors of some items, in a store of their own."""
    place = collection.directory / "reembed" / "0123456789abcdef"
    place.parent.mkdir()
    with collection.store.snapshot() as snapshot:
        known = snapshot.known(keys)
    with (
        Store.create(place, model="another", fingerprint="f" * 64) as stage,
        stage.write() as writer,
    ):
        for number, key in enumerate(keys):
            facts: dict[str, Any] = {"content_hash": known[key].content_hash}
            writer.put(
                [NewItem(key, known[key].modality, VECTORS[[380 + number]], [None], **facts)]
            )
        writer.fail([Problem(SOURCE, f"{SECRET} is broken")])
    return place


def rows_of(place: Path) -> NDArray[np.float32]:
    with Store.open(place) as stage, stage.snapshot() as snapshot:
        assert list(stage.problems()) == []
        return np.array(snapshot.vectors(Modality.TEXT))


def test_what_is_staged_for_another_model_is_purged_and_the_rest_of_it_kept(
    collection: Collection,
) -> None:
    sought = [*needles(collection), VECTORS[380].tobytes()[:16]]
    place = staged(collection, [SECRET, "n1", "n2"])
    collection.purge([SECRET, "secret/v"])
    assert found_in(collection.directory, sought) == set()
    assert np.array_equal(rows_of(place), VECTORS[381:383])
    # What is staged of a content that was replaced is dead as well.
    collection.add([Record("n1", Modality.TEXT, "here", text="another text")])
    collection.purge()
    assert np.array_equal(rows_of(place), VECTORS[382:383])


def test_a_stage_that_is_damaged_is_removed(collection: Collection) -> None:
    place = staged(collection, [SECRET])
    (place / "collection.db").write_bytes(b"no database" * 1_000)
    collection.purge([SECRET, "secret/v"])
    assert not place.exists()


def test_a_move_to_another_model_that_is_under_way_is_left_alone_and_told_of(
    collection: Collection,
) -> None:
    place = staged(collection, [SECRET, "n1"])
    descriptor = os.open(place.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert collection.purge(SECRET).remains == [place.parent]
    finally:
        os.close(descriptor)
    assert collection.purge(SECRET).remains == []
    assert np.array_equal(rows_of(place), VECTORS[381:382])
