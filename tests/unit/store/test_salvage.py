"""What is whole comes out of a damaged database, and what does not is said."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from file_helpers import flip_span
from old_collections import make_old

from muomni_search.collection import Collection
from muomni_search.errors import CorruptData, MuomniError
from muomni_search.items import DIM, Modality, Record
from muomni_search.store.rows import BLOCK_ROWS
from muomni_search.store.sqlite import disk_errors
from muomni_search.transfer import export_collection, import_collection
from muomni_search.vectors import normalise

COUNT = 300
VECTORS = normalise(np.random.default_rng(5).standard_normal((COUNT, DIM)))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A collection of texts that fill several pages of its database."""
    place = tmp_path / "collection"
    with Collection.create(place, model="hashing") as collection:
        collection.add(
            Record(
                f"k{number:03}",
                Modality.TEXT,
                "test",
                vector=VECTORS[number],
                text=f"The story of {number}. " * 20,
                metadata={"n": number},
            )
            for number in range(COUNT)
        )
    return place


def page_of(place: Path, table: str) -> int:
    """Return a page in the midst of a table's leaves."""
    with sqlite3.connect(place / "collection.db") as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno",
            (table,),
        ).fetchall()
    connection.close()
    return int(pages[len(pages) // 2][0])


def wipe(place: Path, page: int) -> None:
    with (place / "collection.db").open("r+b") as file:
        size = int.from_bytes(file.read(18)[16:], "big")
        file.seek((page - 1) * size)
        file.write(b"\xaa" * size)


@pytest.mark.parametrize("table", ["items", "sqlite_autoindex_items_1"])
def test_what_is_whole_comes_out_past_a_page_that_is_lost(place: Path, table: str) -> None:
    before = place.with_name("before.parquet")
    saved = place.with_name("saved.parquet")
    with Collection.open(place) as collection:
        export_collection(collection, before)
    wipe(place, page_of(place, table))
    left_out: list[str] = []
    with Collection.open(place) as collection:
        assert {fault.kind for fault in collection.verify()} == {"database"}
        with pytest.raises(CorruptData):
            export_collection(collection, saved)
        exported = export_collection(collection, saved, left_out=left_out)
    whole = {row["key"]: row for row in pq.read_table(before).to_pylist()}
    rows = {row["key"]: row for row in pq.read_table(saved).to_pylist()}
    assert all(whole[key] == row for key, row in rows.items())
    assert len(rows) == exported
    if table == "items":
        # A page holds about eight items of this length.
        assert COUNT - 20 < exported < COUNT
        assert any("cannot be read" in line for line in left_out)
    else:
        assert exported == COUNT
    with Collection.create(place.with_name("new"), model="hashing") as collection:
        assert import_collection(collection, saved).added == exported
        assert collection.verify() == []


def test_ids_may_lie_anywhere_and_be_damaged(place: Path) -> None:
    saved = place.with_name("saved.parquet")
    with sqlite3.connect(place / "collection.db") as connection:
        for table, column in (("items", "id"), ("segments", "item_id")):
            # The second is a damaged one, the others as after many updates.
            connection.execute(f"UPDATE {table} SET {column} = 2000000 WHERE {column} = 299")
            connection.execute(f"UPDATE {table} SET {column} = {2**50} WHERE {column} = 300")
            connection.execute(f"UPDATE {table} SET {column} = -7 WHERE {column} = 1")
    connection.close()
    with Collection.open(place) as collection:
        left_out: list[str] = []
        assert export_collection(collection, saved, left_out=left_out) == COUNT
        assert left_out == []
    wipe(place, page_of(place, "items"))
    with Collection.open(place) as collection:
        assert COUNT - 20 < export_collection(collection, saved, left_out=left_out) < COUNT
    keys = pq.read_table(saved)["key"].to_pylist()
    assert {"k000", "k298", "k299"} <= set(keys)
    assert any("items that have segments cannot be read" in line for line in left_out)


def test_what_is_before_and_behind_the_last_page_of_items_comes_out(place: Path) -> None:
    saved = place.with_name("saved.parquet")
    with sqlite3.connect(place / "collection.db") as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'items' AND pagetype = 'leaf' ORDER BY path"
        ).fetchall()
    connection.close()
    wipe(place, pages[-1][0])
    left_out: list[str] = []
    with Collection.open(place) as collection:
        exported = export_collection(collection, saved, left_out=left_out)
    keys = pq.read_table(saved)["key"].to_pylist()
    assert keys == [f"k{number:03}" for number in range(exported)]
    assert COUNT - 20 < exported < COUNT
    assert left_out == [f"{COUNT - exported} items that have segments cannot be read"]


def test_what_an_earlier_version_made_comes_out_though_it_cannot_be_upgraded(place: Path) -> None:
    make_old(place, "0002")
    wipe(place, page_of(place, "items"))
    with pytest.raises(CorruptData):
        Collection.open(place)
    left_out: list[str] = []
    saved = place.with_name("saved.parquet")
    with Collection.open(place, salvage=True) as collection:
        exported = export_collection(collection, saved, left_out=left_out)
    assert COUNT - 20 < exported < COUNT
    assert any("cannot be read" in line for line in left_out)


@pytest.mark.parametrize("revision", ["0002", "0003", "0004"])
def test_one_whose_schema_is_damaged_too_is_opened_to_be_saved(place: Path, revision: str) -> None:
    make_old(place, revision)
    bad = "CAST(replace(CAST({0} AS BLOB), x'79656172', x'79e56172') AS TEXT)"
    with sqlite3.connect(place / "collection.db") as connection:
        connection.text_factory = bytes
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            """CREATE INDEX "field [""year""]" ON items (json_extract(metadata, '$."year"'))"""
        )
        connection.execute(
            f"UPDATE sqlite_master SET name = {bad.format('name')}, sql = {bad.format('sql')}"
            " WHERE name LIKE 'field %'"
        )
    connection.close()
    with pytest.raises(CorruptData):
        Collection.open(place)
    with Collection.open(place, salvage=True) as collection:
        saved = place.with_name("saved.parquet")
        assert export_collection(collection, saved, left_out=[]) == COUNT


def test_items_whose_segments_are_lost_are_named(place: Path) -> None:
    wipe(place, page_of(place, "segments"))
    left_out: list[str] = []
    with Collection.open(place) as collection:
        saved = place.with_name("saved.parquet")
        exported = export_collection(collection, saved, left_out=left_out)
    assert exported < COUNT
    assert "whose they are cannot be read" in left_out[0]
    assert len(left_out) == 1 + COUNT - exported


def test_an_item_that_was_altered_is_left_out_and_named(place: Path) -> None:
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("UPDATE items SET text = 'altered' WHERE key = 'k007'")
    connection.close()
    left_out: list[str] = []
    with Collection.open(place) as collection:
        saved = place.with_name("saved.parquet")
        with pytest.raises(CorruptData, match="k007"):
            export_collection(collection, saved)
        assert not saved.exists()
        assert export_collection(collection, saved, left_out=left_out) == COUNT - 1
    assert left_out == ["item 8 (k007): what is stored of it is not what was written"]


def test_an_item_whose_segments_differ_from_their_index_is_left_out(place: Path) -> None:
    flip_span(place, 8)
    left_out: list[str] = []
    with Collection.open(place) as collection:
        saved = place.with_name("saved.parquet")
        assert export_collection(collection, saved, left_out=left_out) == COUNT - 1
    assert left_out == [
        "item 8 (k007): its segments are not what was written, or their index is not"
    ]


def leaves_of(place: Path, table: str) -> list[tuple[int, bytes]]:
    """Return the numbers and the bytes of the leaves of a table or index."""
    with sqlite3.connect(place / "collection.db") as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)
        ).fetchall()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = (place / "collection.db").read_bytes()
    return [(page, content[(page - 1) * size : page * size]) for (page,) in pages]


@pytest.mark.parametrize("lost", [None, "segments", "segments_by_item"])
def test_no_item_comes_out_with_the_vector_of_another(place: Path, lost: str | None) -> None:
    before, saved = place.with_name("before.parquet"), place.with_name("saved.parquet")
    with Collection.open(place) as collection:
        export_collection(collection, before)
    # In the table, not in its index: the segment of the item 251 is of row 248 instead of 250.
    own, other = b"text" + bytes([0, 250, 0, 251]), b"text" + bytes([0, 248, 0, 251])
    again = bytes([0, 251]) + b"text" + bytes([0, 250])
    content = (place / "collection.db").read_bytes()
    assert content.count(own) == content.count(again) == 1
    pages = leaves_of(place, lost) if lost else []
    (place / "collection.db").write_bytes(content.replace(own, other))
    if lost == "segments":
        wipe(place, next(page for page, held in pages if own not in held))
    elif lost:
        wipe(place, next(page for page, held in pages if again in held))
    left_out: list[str] = []
    with Collection.open(place, salvage=True) as collection:
        export_collection(collection, saved, left_out=left_out)
    whole = {row["key"]: row for row in pq.read_table(before).to_pylist()}
    rows = {row["key"]: row for row in pq.read_table(saved).to_pylist()}
    assert all(whole[key] == row for key, row in rows.items())
    assert "k250" not in rows
    # Nobody knows whose row it is where the index is lost too.
    assert ("k248" in rows) == (lost != "segments_by_item")
    unknown = [line for line in left_out if "held against their index" in line]
    assert bool(unknown) == (lost == "segments_by_item")
    assert len(rows) > (COUNT // 3 if lost else COUNT - 2)


def test_an_item_whose_number_is_another_comes_out_with_nobodys_vector(place: Path) -> None:
    before = place.with_name("before.parquet")
    with Collection.open(place) as collection:
        export_collection(collection, before)
    whole = {row["key"]: row for row in pq.read_table(before).to_pylist()}
    database = place / "collection.db"
    content = database.read_bytes()
    # In the table: a cell's length, its id in two bytes, and a header with the type of the key.
    changed = 0
    for number in range(200, 230):
        own = bytes([0x80 | number >> 7, number & 0x7F])
        at = [
            start + page * 4096 - 4096
            for page, held in leaves_of(place, "items")
            for start in range(8, 4096)
            if held[start : start + 2] == own
            and f"k{number - 1:03}".encode() in held[start + 2 : start + 40]
        ]
        if len(at) != 1:
            continue
        changed += 1
        flipped = bytearray(content)
        flipped[at[0] + 1] ^= 1
        database.write_bytes(flipped)
        saved, left_out = place.with_name(f"saved-{number}.parquet"), list[str]()
        with Collection.open(place, salvage=True) as collection:
            export_collection(collection, saved, left_out=left_out)
        rows = {row["key"]: row for row in pq.read_table(saved).to_pylist()}
        assert all(whole[key] == row for key, row in rows.items())
        assert COUNT - 4 <= len(rows) < COUNT
        assert left_out
    assert changed > 10


@pytest.mark.parametrize("kind", [0, 12, 13], ids=["null", "bytes", "text"])
def test_an_ordinal_that_is_no_number_costs_its_item_alone(tmp_path: Path, kind: int) -> None:
    place = tmp_path / "collection"
    long = " ".join(f"word{number}." for number in range(40))
    with Collection.create(place, model="hashing") as collection:
        collection.add(Record(f"k{n}", Modality.TEXT, "test", text=f"{n} {long}") for n in range(5))
        assert collection.stats()["segments"] > 4 * 5
    database = place / "collection.db"
    content = database.read_bytes()
    # The header of a segment: its length, and the types of modality, row, item and ordinal, 0 here.
    at = content.index(bytes([7, 21, 1, 1, 8]))
    database.write_bytes(content[: at + 4] + bytes([kind]) + content[at + 5 :])
    left_out: list[str] = []
    with Collection.open(place, salvage=True) as collection:
        assert export_collection(collection, tmp_path / "saved.parquet", left_out=left_out) == 4
    assert len(left_out) == 1


def test_what_is_before_a_cut_of_the_database_comes_out(place: Path) -> None:
    before, saved = place.with_name("before.parquet"), place.with_name("saved.parquet")
    with Collection.open(place) as collection:
        export_collection(collection, before)
    database = place / "collection.db"
    os.truncate(database, database.stat().st_size - 4096)
    with pytest.raises(CorruptData):
        Collection.open(place)
    left_out: list[str] = []
    with Collection.open(place, salvage=True) as collection:
        exported = export_collection(collection, saved, left_out=left_out)
    whole = {row["key"]: row for row in pq.read_table(before).to_pylist()}
    rows = {row["key"]: row for row in pq.read_table(saved).to_pylist()}
    assert all(whole[key] == row for key, row in rows.items())
    assert COUNT // 3 < exported == len(rows) < COUNT
    assert len(left_out) > COUNT - exported


def test_items_whose_rows_are_damaged_are_left_out_and_named(place: Path) -> None:
    rows = place / "vectors/text.0.f32"
    rows.write_bytes(rows.read_bytes()[:-1])
    left_out: list[str] = []
    with Collection.open(place) as collection:
        saved = place.with_name("saved.parquet")
        assert export_collection(collection, saved, left_out=left_out) == 0
    assert left_out[0] == f"{rows}: {COUNT} rows are damaged or missing"
    assert len(left_out) == COUNT + 1


def test_a_flipped_bit_of_a_row_is_not_exported_as_if_it_were_whole(place: Path) -> None:
    rows = bytearray((place / "vectors/text.0.f32").read_bytes())
    rows[5 * 4 * DIM] ^= 1
    (place / "vectors/text.0.f32").write_bytes(rows)
    saved = place.with_name("saved.parquet")
    with Collection.open(place) as collection:
        with pytest.raises(CorruptData, match="damaged"):
            export_collection(collection, saved)
        assert not saved.exists()


def test_the_rows_before_a_cut_come_out(tmp_path: Path) -> None:
    place = tmp_path / "collection"
    vectors = np.resize(VECTORS, (BLOCK_ROWS + 9, DIM))
    with Collection.create(place, model="hashing") as collection:
        collection.add(
            Record(f"k{number:05}", Modality.IMAGE, "test", vector=vector)
            for number, vector in enumerate(vectors)
        )
    rows = place / "vectors/image.0.f32"
    rows.write_bytes(rows.read_bytes()[:-1])
    left_out: list[str] = []
    saved = place.with_name("saved.parquet")
    with Collection.open(place) as collection:
        assert export_collection(collection, saved, left_out=left_out) == BLOCK_ROWS
    found = pq.read_table(saved)["vector"].combine_chunks().flatten().to_numpy()
    assert np.array_equal(found.reshape(-1, DIM), vectors[:BLOCK_ROWS])
    assert len(left_out) == 1 + 9


def test_an_error_of_a_file_names_its_folder_too(place: Path) -> None:
    # Functions that work relative to a folder leave it out.
    with (
        pytest.raises(MuomniError, match=f"^{place}: .*space"),
        disk_errors(place),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "text.0.f32")
