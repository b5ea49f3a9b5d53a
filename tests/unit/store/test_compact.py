"""What a compaction gives back, that it changes no answer, and when it happens by itself."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muomni_search import Collection, Modality, Query, Record
from muomni_search.errors import CorruptData
from muomni_search.index import planner
from muomni_search.items import DIM
from muomni_search.store import rows
from muomni_search.store import store as store_module
from muomni_search.store.rows import BLOCK_ROWS, ROW_BYTES
from muomni_search.store.writer import Writer
from muomni_search.vectors import normalise

# Each vector four times, so that ties are everywhere.
ROWS = np.repeat(normalise(np.random.default_rng(0).standard_normal((2_000, DIM))), 4, axis=0)
COUNT = BLOCK_ROWS + 500


def records(numbers: range, modality: Modality = Modality.IMAGE, shift: int = 0) -> list[Record]:
    return [
        Record(f"{modality}/{n}", modality, "here", vector=ROWS[n + shift], metadata={"n": n})
        for n in numbers
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of pictures of which a third is dead, and sounds of which none is."""
    place = tmp_path_factory.mktemp("shared") / "c"
    with Collection.create(place, model="hashing") as made:
        made.add(records(range(COUNT)))
        made.add(records(range(20), Modality.AUDIO))
        made.delete([f"image/{n}" for n in range(100, 1_000)])
        made.add(records(range(2_000, 2_600), shift=1_000))
    return place


@pytest.fixture
def collection(shared: Path, tmp_path: Path) -> Iterator[Collection]:
    with Collection.open(shutil.copytree(shared, tmp_path / "c")) as made:
        yield made


def answers(collection: Collection) -> list[Any]:
    """Return every way of asking, with keys, scores and places."""
    queries = [Query.vector(row) for row in ROWS[50:7_000:2_300]] + [Query.id("image/2100")]
    ways: list[dict[str, Any]] = [
        {},
        {"modality": "image"},
        {"where": {"n": {"$gte": 1_500}}},
        {"segments": True, "offset": 3},
    ]
    return [collection.query_many(queries, 30, **way) for way in ways]


def test_a_compaction_leaves_the_dead_rows_out_and_the_answers_as_they_were(
    collection: Collection,
) -> None:
    before, version = answers(collection), version_of(collection)
    done = collection.compact()
    assert done.rows == {
        Modality.TEXT: (0, 0),
        Modality.IMAGE: (COUNT + 600, COUNT - 900),
        Modality.AUDIO: (20, 20),
    }
    assert done.remains == []
    assert done.bytes_before - done.bytes_after > 1_500 * ROW_BYTES
    assert collection.stats()["image"]["dead"] == 0
    row_files = {
        path.name: path.stat().st_size for path in (collection.directory / "vectors").iterdir()
    }
    assert row_files == {
        "image.1.f32": (COUNT - 900) * ROW_BYTES,
        "audio.0.f32": 20 * ROW_BYTES,
    }
    assert answers(collection) == before
    # An interrupted batch job may go on: its answers are what they were.
    assert version_of(collection) == version
    with Collection.open(collection.directory) as other:
        assert answers(other) == before
        assert other.verify() == []


def version_of(collection: Collection) -> int:
    with collection.view() as view:
        return view.version


def test_compacting_again_changes_nothing(collection: Collection) -> None:
    first = collection.compact()
    second = collection.compact()
    assert second.rows == {modality: (after, after) for modality, (_, after) in first.rows.items()}
    assert second.bytes_after == second.bytes_before
    assert collection.verify() == []


def test_an_empty_collection_and_one_whose_items_are_all_gone_can_be_compacted(
    tmp_path: Path,
) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        assert set(collection.compact().rows.values()) == {(0, 0)}
        collection.add(records(range(5)))
        collection.delete(where="n >= 0")
        assert collection.compact().rows[Modality.IMAGE] == (5, 0)
        assert collection.verify() == []
        assert collection.query(Query.vector(ROWS[0])) == []
        collection.backup(tmp_path / "copy")
        collection.add(records(range(3)))
        assert len(collection.query(Query.vector(ROWS[0]))) == 3
        assert collection.verify() == []


def test_the_database_gives_its_free_pages_back(collection: Collection) -> None:
    collection.add([Record(f"t{n}", Modality.TEXT, "here", text="owl " * 2_000) for n in range(50)])
    collection.delete([f"t{n}" for n in range(50)])
    database = collection.store.database
    done = collection.compact()
    assert done.bytes_before - done.bytes_after > 50 * 8_000
    assert database.with_name("collection.db-wal").stat().st_size == 0
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)


def test_a_reader_goes_on_and_the_rest_is_given_back_later(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "READER_SECONDS", 0.01)
    with Collection.open(collection.directory) as other, other.view() as view:
        rows = view.snapshot.vectors(Modality.IMAGE).copy()
        done = collection.compact()
        assert [path.name for path in done.remains] == ["collection.db", "collection.db-wal"]
        assert collection.verify() == []
        assert np.array_equal(view.snapshot.vectors(Modality.IMAGE), rows)
        assert len(view.snapshot.dead(Modality.IMAGE)) == 1_500
        assert len(view.get(["image/2100"])) == 1
    assert collection.compact().remains == []
    assert collection.verify() == []


def test_a_writer_that_goes_on_writing_is_told_of_and_loses_nothing(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muomni_search.store.sqlite.LOCK_SECONDS", 0.01)
    with Collection.open(collection.directory) as other, other.store.write() as writer:
        assert collection.store.vacuum()
        writer.delete(["image/0"])
    assert collection.stats()["image"]["items"] == COUNT - 901


def test_damaged_rows_are_not_compacted(collection: Collection) -> None:
    with (collection.directory / "vectors/image.0.f32").open("r+b") as file:
        file.seek(5 * ROW_BYTES)
        file.write(b"damage")
    with pytest.raises(CorruptData, match=r"image\.0\.f32.*verify --repair"):
        collection.compact()
    assert collection.stats()["image"]["dead"] == 1_500
    assert not (collection.directory / "vectors/image.1.f32").exists()


def test_damage_is_found_before_anything_is_numbered_or_written(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (collection.directory / "vectors/image.0.f32").open("r+b") as file:
        file.seek((BLOCK_ROWS + 5) * ROW_BYTES)
        file.write(b"damage")
    told: list[str] = []

    def noted(owner: Any, name: str) -> None:
        act = getattr(owner, name)

        def note(*given: Any, **named: Any) -> Any:
            told.append(name)
            return act(*given, **named)

        monkeypatch.setattr(owner, name, note)

    noted(rows, "append_rows")
    noted(Writer, "changes")
    noted(Writer, "drop_dead_rows")
    monkeypatch.setattr(planner, "is_compaction_due", lambda **_: True)
    assert collection.add([]).removed == 0
    with pytest.raises(CorruptData, match="verify --repair"):
        collection.compact()
    assert set(told) == {"drop_dead_rows"}
    assert collection.stats()["image"]["dead"] == 1_500


# Of the rows, 150 is dead and 1200 is not.
NUMBERS = {
    "nobody's": ['DELETE FROM segments WHERE "row" = 1200'],
    "not dead either": ['DELETE FROM dead_rows WHERE "row" = 150'],
    "both": ["INSERT INTO dead_rows VALUES ('image', 1200)"],
    "one both, another neither": [
        "INSERT INTO dead_rows VALUES ('image', 1200)",
        'DELETE FROM segments WHERE "row" = 1300',
        "UPDATE row_files SET dead = dead + 1 WHERE modality = 'image'",
    ],
    "one both, another nobody's": ['UPDATE dead_rows SET "row" = 1200 WHERE "row" = 150'],
    "beyond the end": ['UPDATE segments SET "row" = 9000 WHERE "row" = 1200'],
    "before the beginning": ['UPDATE dead_rows SET "row" = -1 WHERE "row" = 150'],
    "miscounted": ["UPDATE row_files SET dead = dead + 1 WHERE modality = 'image'"],
    "counted, not listed": ["DELETE FROM dead_rows WHERE modality = 'image'"],
    "listed, not counted": ["UPDATE row_files SET dead = 0 WHERE modality = 'image'"],
}


@pytest.mark.parametrize("damage", NUMBERS.values(), ids=NUMBERS)
def test_rows_whose_numbers_do_not_add_up_are_not_numbered_anew(
    collection: Collection, damage: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(collection.store.database)) as connection:
        for statement in damage:
            assert connection.execute(statement).rowcount
        connection.commit()
    before = everything(collection)
    for act in (collection.compact, collection.purge):
        with pytest.raises(CorruptData, match="verify --repair"):
            act()
    # Neither by itself, after an addition.
    monkeypatch.setattr(planner, "is_compaction_due", lambda **_: True)
    collection.add([])
    assert everything(collection) == before
    collection.repair()
    collection.compact()
    assert collection.verify() == []
    for item in collection.get([item.key for item in collection.items()], vectors=True):
        number = int(item.key.partition("/")[2])
        shift = 1_000 if item.modality == "image" and 2_000 <= number < 2_600 else 0
        assert item.vector is not None
        assert np.allclose(item.vector, ROWS[number + shift], atol=1e-6)


def test_a_dead_row_that_is_counted_and_is_not_there_is_refused(collection: Collection) -> None:
    with closing(sqlite3.connect(collection.store.database)) as connection:
        connection.execute("UPDATE row_files SET dead = 1 WHERE modality = 'audio'")
        connection.commit()
    with pytest.raises(CorruptData, match=r"20 rows of audio.*verify --repair"):
        collection.compact()
    assert collection.repair()
    assert collection.compact().rows[Modality.AUDIO] == (20, 20)


def everything(collection: Collection) -> dict[str, list[Any]]:
    """Return what the tables of rows hold, and the files."""
    with closing(sqlite3.connect(collection.store.database)) as connection:
        found = {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
            for name in ("segments", "dead_rows", "row_files", "row_blocks")
        }
    return {**found, "files": sorted((collection.directory / "vectors").iterdir())}


def test_an_index_is_built_anew_of_the_rows_that_are_left(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "EXACT_ROWS", 1_000)
    collection.rebuild()
    collection.compact()
    assert collection.stats()["image"]["index"]["rows"] == COUNT - 900
    assert len(list((collection.directory / "index").iterdir())) == 1
    (hit,) = collection.query(Query.vector(ROWS[4_000]), 1)
    assert (hit.cosine, hit.how) == (1.0, "ann")


def test_an_index_of_rows_that_were_replaced_meanwhile_is_built_again(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = planner.build_index
    built = []

    def slow(vectors: Any, codes: int) -> Any:
        built.append(len(vectors))
        if len(built) == 1:
            collection.compact()
        return build(vectors, codes)

    monkeypatch.setattr(planner, "build_index", slow)
    assert collection.rebuild("image", kind="ann")[Modality.IMAGE]["rows"] == COUNT - 900
    assert list(dict.fromkeys(built)) == [COUNT + 600, COUNT - 900]
    assert len(list((collection.directory / "index").iterdir())) == 1


# ---- by itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["add", "delete"])
def test_dead_rows_are_left_out_when_they_are_many(
    collection: Collection, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    monkeypatch.setattr(planner, "DEAD_ROWS", 100)
    collection.delete(["image/0"])
    assert collection.stats()["image"]["dead"] == 1_501
    if act == "delete":
        collection.delete([f"image/{n}" for n in range(3_000, 4_000)])
    else:
        collection.add(records(range(3_000, 4_000), shift=2_000))
    assert collection.stats()["image"]["dead"] == 0
    assert collection.verify() == []


def test_rows_and_disk_level_off_when_items_are_replaced_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "DEAD_ROWS", 50)
    sizes = []
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        for turn in range(12):
            collection.add(records(range(100), shift=4 * turn))
            sizes.append(collection.stats()["image"]["rows"])
        assert collection.verify() == []
        assert max(sizes[4:]) <= max(sizes[:4]) <= 200


def test_few_dead_rows_are_left_where_they_are() -> None:
    assert not planner.is_compaction_due(rows=5_000, dead=planner.DEAD_ROWS)
    assert planner.is_compaction_due(rows=5_000, dead=planner.DEAD_ROWS + 1)
    assert not planner.is_compaction_due(rows=300_000, dead=99_000)
    assert planner.is_compaction_due(rows=300_000, dead=101_000)
