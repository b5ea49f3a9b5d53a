"""Verify finds every kind of damage, and repair mends it without losing more than was damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from file_helpers import flip_span, sql

from muomni_search.collection import Collection
from muomni_search.errors import CorruptData, MuomniError
from muomni_search.filters import parse_filter
from muomni_search.items import DIM, Modality, Record
from muomni_search.store import snapshot as snapshots
from muomni_search.store import tables
from muomni_search.store.check import _check_log
from muomni_search.store.fields import summarise_fields
from muomni_search.store.rows import BLOCK_ROWS, ROW_BYTES
from muomni_search.store.salvage import salvage
from muomni_search.store.store import IndexFile, NewItem, Store
from muomni_search.vectors import normalise

TEXT, IMAGE = Modality.TEXT, Modality.IMAGE
COUNT = BLOCK_ROWS + 1000  # two blocks
VECTORS = normalise(np.random.default_rng(2).standard_normal((COUNT, DIM)))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two blocks of texts, one of them dead, two pictures and an index."""
    place = tmp_path_factory.mktemp("original") / "collection"
    with Store.create(place, model="m", fingerprint="f") as store:
        data = b"an index"
        (place / "index" / "text.0.0123456789ab.faiss").write_bytes(data)
        texts = [
            NewItem(
                *(f"t{n}", TEXT, VECTORS[n : n + 1], [None], f"/t{n}" if n % 2 else None),
                content_hash=f"{n:032x}",
            )
            for n in range(COUNT)
        ]
        pictures = [NewItem(f"i{n}", IMAGE, VECTORS[n : n + 1], [None]) for n in range(2)]
        with store.write() as writer:
            writer.put([*texts, *pictures])
        with store.write() as writer:
            writer.delete(["t7"])
            checksum = f"{zlib.crc32(data):08x}"
            writer.set_index(
                IndexFile(TEXT, 0, "text.0.0123456789ab.faiss", "pq4", 9, len(data), checksum, {})
            )
        assert list(store.problems()) == []
        assert store.repair() == []
    return place


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "collection"))


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    with Store.open(place) as store:
        yield store


def flip(path: Path, *places: int) -> None:
    with path.open("r+b") as file:
        for at in places:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1]))


def kinds(store: Store) -> set[str]:
    return {fault.kind for fault in store.problems()}


def texts_left(store: Store) -> set[int]:
    """Return the numbers of the texts that are left, each with its own vector."""
    with store.snapshot() as snapshot:
        keys = [key for key in snapshot.iter_keys() if key.startswith("t")]
        vectors = snapshot.vectors(TEXT)
        for key, (_, rows) in snapshot.item_rows(keys).items():
            assert np.array_equal(vectors[rows[0]], VECTORS[int(key[1:])])
        return {int(key[1:]) for key in keys}


def failed(store: Store) -> set[int]:
    with store.snapshot() as snapshot:
        failures = snapshot.failures()
    for failure in failures:
        assert failure.key is not None
        assert failure.source == (f"/{failure.key}" if int(failure.key[1:]) % 2 else failure.key)
        assert "add it again" in failure.hint
    return {int(str(failure.key)[1:]) for failure in failures}


ALL = set(range(COUNT)) - {7}
FIRST, SECOND = set(range(BLOCK_ROWS)) - {7}, set(range(BLOCK_ROWS, COUNT))
ROWS = "vectors/text.0.f32"


@pytest.mark.parametrize(
    ("damage", "kind", "lost"),
    [
        (lambda place: flip(place / ROWS, 5 * ROW_BYTES, 9 * ROW_BYTES), "checksum", FIRST),
        (
            lambda place: flip(place / ROWS, *(BLOCK_ROWS * ROW_BYTES + at for at in (0, 2))),
            "checksum",
            SECOND,
        ),
        (lambda place: os.truncate(place / ROWS, COUNT * ROW_BYTES - 1), "rows", SECOND),
        (lambda place: os.truncate(place / ROWS, BLOCK_ROWS * ROW_BYTES), "rows", SECOND),
        (lambda place: os.truncate(place / ROWS, 0), "rows", ALL),
        (lambda place: (place / ROWS).unlink(), "rows", ALL),
        (lambda place: sql(place, "DELETE FROM row_blocks WHERE block = 1"), "checksum", SECOND),
    ],
    ids=["two bits", "in the second block", "cut row", "cut block", "emptied", "gone", "no sum"],
)
def test_damaged_rows_are_found_and_only_their_blocks_are_lost(
    store: Store, place: Path, damage: Callable[[Path], None], kind: str, lost: set[int]
) -> None:
    damage(place)
    assert kind in kinds(store)
    done = store.repair()
    assert len(done) == 1
    assert f"{len(lost)} items are gone and listed by `muomni failures`" in done[0]
    assert texts_left(store) == ALL - lost
    assert failed(store) == lost
    assert kinds(store) == set()
    assert store.repair() == []
    # Adding them again makes everything as it was.
    with store.write() as writer:
        writer.put(
            [
                NewItem(
                    f"t{n}", TEXT, VECTORS[n : n + 1], [None], source=f"/t{n}" if n % 2 else None
                )
                for n in lost
            ]
        )
    assert texts_left(store) == ALL
    assert failed(store) == set()
    assert kinds(store) == set()


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: flip(place / ROWS, 5 * ROW_BYTES + 2),
        # The exponent: a vector that is no unit vector any more, if it is finite.
        lambda place: flip(place / ROWS, (BLOCK_ROWS + 900) * ROW_BYTES + 7),
        lambda place: flip(place / ROWS, 2, COUNT * ROW_BYTES - 1),
        lambda place: sql(
            place, "UPDATE row_blocks SET checksum = (checksum | 64) - (checksum & 64)"
        ),
    ],
    ids=["in the fraction", "in the exponent", "one in each block", "in a checksum"],
)
def test_a_flipped_bit_of_rows_is_turned_back(
    store: Store, place: Path, damage: Callable[[Path], None]
) -> None:
    damage(place)
    assert "checksum" in kinds(store)
    done = store.repair()
    assert all("turned a flipped bit back" in line for line in done), done
    assert texts_left(store) == ALL
    assert failed(store) == set()
    assert kinds(store) == set()
    assert store.repair() == []


def test_other_rows_that_look_like_a_flipped_bit_are_lost(store: Store, place: Path) -> None:
    # Three unit rows instead of their own, and a checksum that one bit of another row explains.
    rows = np.fromfile(place / ROWS, np.float32).reshape(-1, DIM)
    rows[3:6] = rows[13:16]
    rows.tofile(place / ROWS)
    rows[1000].view(np.uint32)[9] ^= 1 << 3
    checksum = zlib.crc32(rows[:BLOCK_ROWS].tobytes())
    sql(place, f"UPDATE row_blocks SET checksum = {checksum} WHERE modality='text' AND block = 0")
    assert f"{len(FIRST)} items are gone" in store.repair()[0]
    assert texts_left(store) == SECOND
    assert kinds(store) == set()


def test_of_two_damaged_blocks_the_one_with_a_flipped_bit_is_whole_again(
    store: Store, place: Path
) -> None:
    flip(place / ROWS, 102)
    os.truncate(place / ROWS, COUNT * ROW_BYTES - 1)
    done = store.repair()
    assert len(done) == 2
    assert f"{len(SECOND)} items are gone" in done[1]
    assert texts_left(store) == FIRST
    assert failed(store) == SECOND
    assert kinds(store) == set()


def test_an_index_of_an_earlier_version_is_held_against_its_sha256(
    place: Path, store: Store
) -> None:
    path = next((place / "index").iterdir())
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    sql(place, f"UPDATE index_files SET checksum = '{checksum}'")
    assert kinds(store) == set()
    path.write_bytes(b"an Index")
    assert kinds(store) == {"index"}


def test_a_row_that_is_no_unit_vector_is_found_though_its_checksum_fits(
    store: Store, place: Path
) -> None:
    with (place / ROWS).open("r+b") as file:
        file.seek(3 * ROW_BYTES)
        file.write(np.full(DIM, np.nan, np.float32).tobytes())
        file.seek(0)
        checksum = zlib.crc32(file.read(BLOCK_ROWS * ROW_BYTES))
    sql(place, f"UPDATE row_blocks SET checksum = {checksum} WHERE modality='text' AND block = 0")
    assert kinds(store) == {"norm"}
    store.repair()
    assert texts_left(store) == ALL - {3}
    assert failed(store) == {3}
    assert kinds(store) == set()


def test_what_is_beyond_the_recorded_rows_is_no_fault_and_cut_by_repair(
    store: Store, place: Path
) -> None:
    with (place / ROWS).open("ab") as file:
        file.write(b"x" * 99)
    assert kinds(store) == set()
    assert store.repair() == [f"{place / ROWS}: cut off 99 bytes that nothing refers to"]
    assert (place / ROWS).stat().st_size == COUNT * ROW_BYTES


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 3),
        lambda path: path.write_bytes(b"short"),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["flipped", "short", "gone", "a directory"],
)
def test_a_damaged_index_is_found_and_forgotten(
    store: Store, place: Path, damage: Callable[[Path], None]
) -> None:
    damage(place / "index" / "text.0.0123456789ab.faiss")
    assert kinds(store) == {"index"}
    assert "dropped the damaged index of text" in store.repair()[0]
    with store.snapshot() as snapshot:
        assert snapshot.index_file(TEXT) is None
    assert kinds(store) == set()
    assert texts_left(store) == ALL


def test_an_index_of_more_rows_than_there_are_is_found(store: Store, place: Path) -> None:
    sql(place, f"UPDATE index_files SET rows = {COUNT + 1}")
    assert kinds(store) == {"index"}
    store.repair()
    assert kinds(store) == set()


def test_a_stranger_among_the_files_is_found_and_removed(store: Store, place: Path) -> None:
    (place / "vectors" / "notes.txt").write_text("mine")
    (place / "index" / "foreign.faiss").write_text("mine")
    assert [Path(fault.where).name for fault in store.problems()] == ["notes.txt", "foreign.faiss"]
    assert len(store.repair()) == 2
    assert kinds(store) == set()
    assert sorted(path.name for path in (place / "vectors").iterdir()) == [
        "image.0.f32",
        "text.0.f32",
    ]


@pytest.mark.parametrize(
    ("statements", "kind", "lost"),
    [
        (["DELETE FROM dead_rows"], "orphan", set()),
        (["UPDATE row_files SET dead = 5 WHERE modality = 'text'"], "count", set()),
        (["INSERT INTO dead_rows VALUES ('text', 9)"], "orphan", set()),
        (["INSERT INTO dead_rows VALUES ('text', 99999)"], "orphan", set()),
        (['DELETE FROM segments WHERE modality = \'text\' AND "row" = 9'], "orphan", {9}),
        (
            ['UPDATE segments SET "row" = 99999 WHERE modality = \'text\' AND "row" = 9'],
            "orphan",
            {9},
        ),
        (["DELETE FROM items WHERE key = 't9'"], "database", {9}),
        (
            ['UPDATE segments SET modality = \'audio\' WHERE modality = \'text\' AND "row" = 9'],
            "orphan",
            {9},
        ),
    ],
    ids=["undead", "miscounted", "live and dead", "dead beyond", "no segment", "segment beyond",
         "no item", "another modality"],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_found_and_counted_anew(
    store: Store, place: Path, statements: list[str], kind: str, lost: set[int]
) -> None:
    sql(place, *statements)
    assert kind in kinds(store)
    assert store.repair()
    assert kinds(store) == set()
    assert texts_left(store) == ALL - lost
    assert failed(store) == (lost if kind != "database" else set())


def test_a_row_that_is_nobodys_is_an_error_and_not_a_wrong_hit(store: Store, place: Path) -> None:
    with store.snapshot() as snapshot, pytest.raises(CorruptData, match="row 7 of text"):
        snapshot.matches(TEXT, np.array([6, 7]))


def test_a_schema_with_other_columns_is_found(store: Store, place: Path) -> None:
    sql(place, "ALTER TABLE jobs ADD COLUMN more TEXT")
    assert kinds(store) == {"database"}


def test_an_index_of_sqlite_that_does_not_fit_is_made_anew(store: Store, place: Path) -> None:
    with sqlite3.connect(place / "collection.db") as connection:
        (words,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'failures_again'"
        ).fetchone()
        connection.execute("INSERT INTO failures VALUES ('s', 'k', 'e', 'h', 1, 'then', 'now')")
        connection.execute("PRAGMA writable_schema = ON")
        change = "UPDATE sqlite_master SET sql = ? WHERE name = 'failures_again'"
        connection.execute(change, (f"{words} WHERE source IS NULL",))
        connection.commit()
    connection.close()
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("REINDEX failures_again")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(change, (words,))
    connection.close()
    with Store.open(place) as damaged:
        assert kinds(damaged) == {"database"}
        assert "made its indexes anew" in damaged.repair()[0]
        assert kinds(damaged) == set()


def reword_schema(place: Path, before: str, after: str, *, of: str = "%") -> None:
    """Change words in what SQLite keeps of its tables and indexes, or of one of them."""
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name LIKE ?",
            (before, after, of),
        )
    connection.close()


def test_a_schema_of_other_words_is_found(store: Store, place: Path) -> None:
    reword_schema(place, "VARCHAR(32)", "VARCHAR(33)")
    assert kinds(store) == {"database"}


def test_an_item_that_lost_even_its_key_is_listed_by_its_number(store: Store, place: Path) -> None:
    reword_schema(place, "NOT NULL", "", of="items")
    # As a sector of zeros leaves it.
    sql(place, "UPDATE items SET key = NULL, source = NULL WHERE id = 1")
    with store.write() as writer:
        assert writer.lose_items([1], "lost") == ["item 1"]
    with store.snapshot() as snapshot:
        assert [(one.source, one.key) for one in snapshot.failures()] == [("item 1", "item 1")]
        assert 1 not in snapshot.items([1])


def test_a_schema_that_is_damaged_is_told_of_in_one_line(store: Store, place: Path) -> None:
    store.close()
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET name = ?, sql = 'CREATE nothing' WHERE name = 'segments'",
            ("OT NULL,\n        ordinal INTEGER",),
        )
    connection.close()
    with pytest.raises(CorruptData, match="malformed database schema") as error:
        Store.open(place)
    assert "\n" not in str(error.value)


def test_a_schema_whose_bytes_are_no_characters_is_told_as_damage(place: Path) -> None:
    path = place / "collection.db"
    data = path.read_bytes()
    assert data.count(b"CREATE TABLE segments") == 1
    path.write_bytes(data.replace(b"CREATE TABLE segments", b"CREATE T\xc3BLE segments"))
    with pytest.raises(CorruptData, match="malformed database schema"):
        Store.open(place)


@pytest.mark.parametrize(
    "column", ["key", "modality", "source", "text", "metadata", "hash", "added_ms"]
)
# No character, and no JSON any more; or bytes of a text.
@pytest.mark.parametrize(
    "wrong", ["CAST(x'74FF' AS TEXT)", "CAST(coalesce({}, '') || ' ' AS BLOB)"]
)
def test_an_altered_item_is_found_by_its_checksum_and_listed_as_lost(
    store: Store, place: Path, column: str, wrong: str
) -> None:
    sql(place, f"UPDATE items SET {column} = {wrong.format(column)} WHERE id = 10")
    (fault,) = store.problems()
    assert (fault.kind, fault.where) == ("item", f"{place / 'collection.db'}, item 10")
    assert "1 items were damaged" in store.repair()[0]
    assert kinds(store) == set()
    assert texts_left(store) == ALL - {9}
    with store.snapshot() as snapshot:
        (failure,) = snapshot.failures()
    assert "what was stored of it was damaged" in failure.error


@pytest.mark.parametrize(
    "altered",
    [
        "key = 'u9'",
        "modality = 'tezt'",
        "source = CAST(x'2F74B9' AS TEXT)",
        "metadata = '{|'",
        "hash = x'0000000000000000000000000000000B'",  # of 9: two bits of the digit
        "hash = CAST(hash AS TEXT)",
        # Several characters of the time; and the sign.
        f"added_ms = added_ms + {2**25} - 2 * (added_ms & {2**25})",
        f"added_ms = added_ms - {2**47}",
        # What one bit makes of a text in SQLite.
        "key = CAST(key AS BLOB)",
        "metadata = CAST(metadata AS BLOB)",
        "checksum = (checksum | 64) - (checksum & 64)",
    ],
)
def test_a_flipped_bit_of_an_item_is_turned_back(store: Store, place: Path, altered: str) -> None:
    with store.snapshot() as snapshot:
        before = repr(snapshot.items([10]))
    sql(place, f"UPDATE items SET {altered} WHERE id = 10")
    assert kinds(store) == {"item"}
    (done,) = store.repair()
    assert "turned a flipped bit back in 1 items" in done
    assert kinds(store) == set()
    assert texts_left(store) == ALL
    with store.snapshot() as snapshot:
        assert repr(snapshot.items([10])) == before


def test_a_key_that_became_its_neighbours_is_turned_back(place: Path) -> None:
    database = place / "collection.db"
    data = database.read_bytes()
    # Key and modality, as they lie in the table and in none of its indexes.
    assert data.count(b"t11text") == 1
    database.write_bytes(data.replace(b"t11text", b"t10text"))
    with Store.open(place) as damaged:
        assert "database" in kinds(damaged)
        assert any("turned a flipped bit back in 1 items" in line for line in damaged.repair())
        assert kinds(damaged) == set()
        assert texts_left(damaged) == ALL


@pytest.mark.parametrize("wrong", ["{|", "no JSON at all"])
def test_a_damaged_field_that_has_an_index_is_mended(store: Store, place: Path, wrong: str) -> None:
    with store.write() as writer:
        writer.index_field(("n",))
    flip_metadata(place, wrong)
    with Store.open(place) as damaged:
        assert kinds(damaged)
        assert damaged.repair()
        assert kinds(damaged) == set()
        assert texts_left(damaged) == (ALL if wrong == "{|" else ALL - {9})
        with damaged.snapshot() as snapshot:
            assert snapshot.indexed_fields() == [("n",)]


def flip_metadata(place: Path, wrong: str) -> None:
    """Change an item's metadata in the table, and in no index."""
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        (word,) = connection.execute(
            "SELECT * FROM sqlite_master WHERE name LIKE 'field %'"
        ).fetchall()
        connection.execute("DELETE FROM sqlite_master WHERE name LIKE 'field %'")
        connection.commit()
    connection.close()
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("UPDATE items SET metadata = ? WHERE id = 10", [wrong])
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", word)
    connection.close()


def test_the_fields_of_a_damaged_item_are_an_error_that_names_it(store: Store, place: Path) -> None:
    sql(place, "UPDATE items SET metadata = '{|' WHERE id = 10")
    with store.snapshot() as snapshot, pytest.raises(CorruptData, match=r"t9.*verify --repair"):
        summarise_fields(snapshot)


@pytest.mark.parametrize("wrong", [None, "words", -5, 2**32 + 2**40, 1.5, b"sum"])
def test_a_repair_takes_no_damaged_checksum_for_one(
    store: Store, place: Path, wrong: object
) -> None:
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("UPDATE items SET text = 'other' WHERE id = 10")
        connection.execute("UPDATE items SET checksum = ? WHERE id = 10", [wrong])
        if wrong is not None:
            connection.execute("UPDATE row_blocks SET checksum = ? WHERE block = 1", [wrong])
    connection.close()
    assert "item" in kinds(store)
    store.repair()
    assert kinds(store) == set()
    assert texts_left(store) == ALL - {9} - (SECOND if wrong is not None else set())


def test_a_key_that_another_item_has_by_now_is_not_turned_back(store: Store, place: Path) -> None:
    sql(place, "UPDATE items SET key = 'u9' WHERE id = 10")
    with store.write() as writer:
        writer.put([NewItem("t9", TEXT, VECTORS[9:10], [None])])
    (done,) = store.repair()
    assert "1 items were damaged" in done
    assert kinds(store) == set()
    assert texts_left(store) == ALL


def test_what_an_item_is_packed_into_is_packed_again(store: Store, place: Path) -> None:
    record = Record("t1", TEXT, "", metadata={"n": 1})
    with store.write() as writer:
        writer.touch("t1", record, "0f" * 16)
        writer.put([NewItem("t2", TEXT, VECTORS[:1], [None], content_hash="f0" * 16)])
        writer.put([NewItem("new", TEXT, VECTORS[:1], [None], content_hash="0F")])
    with closing(sqlite3.connect(place / "collection.db")) as connection:
        found = connection.execute(
            "SELECT typeof(hash), content_hash, typeof(added_ms) FROM items"
            " WHERE key IN ('t1', 't2', 'new') ORDER BY key"
        ).fetchall()
    assert found == [
        ("text", "0F", "integer"),
        ("blob", "0f" * 16, "integer"),
        ("blob", "f0" * 16, "integer"),
    ]


@pytest.mark.parametrize(
    "written",
    ["2026-11-28T06:28:56Z", "2026-11-28T06:28:56.007", "then", "2026-11-28 06:28:56.007Z"],
)
def test_a_time_that_is_written_otherwise_stays_as_it_is(written: str) -> None:
    assert tables.packed_time(written) == written
    assert tables.packed_time("2026-11-28T06:28:56.007Z") == 1795847336007


def test_a_damaged_id_is_told_where_many_items_are_equally_near(place: Path) -> None:
    sql(place, f"UPDATE segments SET item_id = item_id + {2**40} WHERE item_id = 20")
    with Store.open(place) as damaged, damaged.snapshot() as snapshot:
        ranks = snapshot.key_ranks(TEXT)
    assert len(ranks) == COUNT
    assert (ranks == -1).sum() == 2  # the dead row, and that one


@pytest.mark.parametrize(
    ("statement", "raising"),
    [
        ('UPDATE segments SET "row" = 99999', "sample owners few item"),
        ('UPDATE segments SET "row" = -3', "sample owners few item"),
        ("UPDATE segments SET \"row\" = 'x'", "sample owners few item"),
        ("UPDATE segments SET item_id = 'x'", "owners owners-of-some"),
        ('UPDATE dead_rows SET "row" = 99999', "dead"),
        ('UPDATE dead_rows SET "row" = -1', "dead"),
    ],
)
def test_a_number_that_is_damaged_is_an_error_of_ours(
    place: Path, statement: str, raising: str
) -> None:
    row = 7 if "dead_rows" in statement else 9
    sql(place, f"{statement} WHERE modality = 'text' AND \"row\" = {row}")
    told = {}
    with Store.open(place) as damaged, damaged.snapshot() as snapshot:
        ways: dict[str, Callable[[], object]] = {
            "sample": lambda: snapshot.sample_rows(TEXT, COUNT),
            "owners": lambda: snapshot.row_items(TEXT),
            "owners-of-some": lambda: snapshot.owners_of(TEXT, np.array([8, 9])),
            "few": lambda: snapshot.matching_rows(TEXT, parse_filter("key in ('t8', 't9')")),
            "item": lambda: snapshot.item_rows(["t9"]),
            "dead": lambda: snapshot.dead(TEXT),
        }
        for name, ask in ways.items():
            try:
                ask()
            except CorruptData as error:
                told[name] = str(error)
    assert told.keys() == set(raising.split())
    assert all("verify --repair" in one for one in told.values())


def test_a_flipped_letter_of_a_columns_name_is_told_and_harms_no_other_collection(
    place: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite calls a column as the schema does, and finds it whatever its capitals."""
    for statement in (snapshots.KNOWN_BY_KEY, snapshots.SHOWN_BY_ID, snapshots.ITEMS_BY_KEY):
        monkeypatch.setattr(statement._few, "_make", None)
    sql(
        place,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'source TEXT', 'Source TEXT')",
    )
    for one in (place, original):
        with Store.open(one) as store, store.snapshot() as snapshot:
            (number,) = snapshot.item_ids(["t1"]).values()
            assert snapshot.known(["t1"])["t1"].source == "/t1"
            assert snapshot.shown([number])[number].source == "/t1"
            assert snapshot.find(["t1"])["t1"].source == "/t1"
            assert bool(list(store.problems())) == (one == place)


@pytest.mark.parametrize("number", [99_999, -3])
def test_a_damaged_block_is_mended_where_a_number_is_damaged_too(place: Path, number: int) -> None:
    sql(place, f'UPDATE segments SET "row" = {number} WHERE modality = \'text\' AND "row" = 9')
    rows = np.memmap(place / "vectors" / "text.0.f32", np.float32, "r+", shape=(COUNT, DIM))
    rows[20] = 3
    rows.flush()
    with Store.open(place) as damaged:
        assert damaged.repair()
        assert list(damaged.problems()) == []


@pytest.mark.parametrize("number", [2**60, -7])
def test_a_filter_finds_the_others_where_an_id_is_damaged(place: Path, number: int) -> None:
    sql(
        place,
        "PRAGMA foreign_keys = OFF",
        f"UPDATE segments SET item_id = {number} WHERE item_id = 20",
        f"UPDATE items SET id = {number} WHERE id = 20",
    )
    with Store.open(place) as damaged, damaged.snapshot() as snapshot:
        rows = snapshot.matching_rows(TEXT, parse_filter("key != 'none'"))
        others = snapshot.row_items(TEXT)
    assert rows.tolist() == np.flatnonzero(others >= 0).tolist()
    assert len(rows) == COUNT - 1 - (number < 0)


def test_what_writers_change_of_an_item_changes_its_checksum(store: Store) -> None:
    with store.write() as writer:
        writer.touch("t1", Record("t1", TEXT, "", metadata={"n": 1}), "hash")
        writer.move("t2", Record("moved", TEXT, "", source="/moved"))
        writer.put([NewItem("t3", TEXT, VECTORS[:1], [None], text="other")])
    assert kinds(store) == set()


def test_an_altered_item_is_not_whole_again_when_something_else_about_it_changes(
    store: Store, place: Path
) -> None:
    sql(place, "UPDATE items SET text = 'altered' WHERE key = 't1'")
    with store.write() as writer:
        writer.touch("t1", Record("t1", TEXT, "", metadata={"n": 1}), "hash")
        writer.move("t1", Record("moved", TEXT, "", source="/moved"))
    assert kinds(store) == {"item"}


def test_an_altered_item_that_is_added_again_is_whole_and_keeps_nothing_of_the_old(
    store: Store, place: Path
) -> None:
    with store.snapshot() as snapshot:
        added = snapshot.find(["t2"])["t2"].added
    sql(
        place,
        "UPDATE items SET added_ms = added_ms + 1000000000000 WHERE key = 't1'",
        "UPDATE items SET text = CAST(x'FF' AS TEXT) WHERE key = 't3'",
    )
    with store.write() as writer:
        writer.put([NewItem(f"t{n}", TEXT, VECTORS[n : n + 1], [None]) for n in (1, 2, 3)])
    assert kinds(store) == set()
    with store.snapshot() as snapshot:
        items = snapshot.find(["t1", "t2", "t3"])
    assert items["t2"].added == added
    assert added <= items["t1"].added < "2050"


@pytest.mark.parametrize("altered", ["metadata = '{'", "text = x'78'", "source = x'78'"])
def test_an_altered_item_that_is_read_is_an_error_that_names_it(
    store: Store, place: Path, altered: str
) -> None:
    sql(place, f"UPDATE items SET {altered} WHERE key = 't1'")
    with store.snapshot() as snapshot:
        ids = snapshot.item_ids(["t1"])
        with pytest.raises(CorruptData, match=r"t1.*verify --repair"):
            snapshot.find(["t1"])
        with pytest.raises(CorruptData, match=r"t1.*verify --repair"):
            snapshot.shown(ids.values())


def test_an_altered_span_is_found_and_its_item_lost(store: Store, place: Path) -> None:
    flip_span(place, 20)
    assert kinds(store) == {"database"}
    done = store.repair()
    assert any("segments of 1 items were damaged" in line for line in done)
    assert kinds(store) == set()
    assert failed(store) == ALL - texts_left(store)
    assert len(failed(store)) == 1


def test_a_segment_of_no_modality_is_found_and_its_item_alone_lost(
    place: Path,
) -> None:
    # As a flipped bit of the table leaves it, whose index is as it was.
    database = place / "collection.db"
    data = database.read_bytes()
    with sqlite3.connect(database) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'segments'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    # Its root has the keys of some rows in it, modality first.
    at = data.index(b"text", (root - 1) * size, root * size)
    database.write_bytes(data[: at + 2] + bytes([data[at + 2] ^ 0x80]) + data[at + 3 :])
    with Store.open(place) as damaged:
        assert kinds(damaged) == {"database"}
        assert damaged.repair()
        assert kinds(damaged) == set()
        assert len(ALL - texts_left(damaged)) == len(failed(damaged)) == 1


def test_a_log_that_is_damaged_in_the_midst_is_found(place: Path, tmp_path: Path) -> None:
    # As a process that was killed leaves it.
    killed = tmp_path / "killed"
    with Store.open(place) as store:
        for number in range(3):
            with store.write() as writer:
                writer.put([NewItem(f"late{number}", IMAGE, VECTORS[:1], [None])])
        shutil.copytree(place, killed)
    log = killed / "collection.db-wal"
    whole = log.read_bytes()
    with Store.open(killed) as store:
        assert kinds(store) == set()
    log.write_bytes(whole)
    flip(log, 32 + 24 + 100)  # the first page
    with Store.open(killed) as store:
        assert kinds(store) == {"log"}
    # A half-written end is no damage.
    log.write_bytes(whole[:-100])
    with Store.open(killed) as store:
        assert kinds(store) == set()


def test_a_log_whose_head_is_damaged_is_found(place: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    with Store.open(place) as store:
        with store.write() as writer:
            writer.put([NewItem("late", IMAGE, VECTORS[:1], [None])])
        shutil.copytree(place, killed)
    flip(killed / "collection.db-wal", 17)
    with Store.open(killed) as store:
        assert kinds(store) == {"log"}


def test_a_long_log_is_read_piece_by_piece(place: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    with Store.open(place) as store:
        with store.write() as writer:
            writer.put(
                [
                    NewItem(f"long{number}", IMAGE, VECTORS[:1], [None], text="x" * 10_000_000)
                    for number in range(2)
                ]
            )
        assert kinds(store) == set()
        shutil.copytree(place, killed)
    log = killed / "collection.db-wal"
    size = log.stat().st_size
    assert size > 20_000_000
    flip(log, size // 4)
    with Store.open(killed) as store, store.snapshot() as snapshot:
        tracemalloc.start()
        faults = list(_check_log(killed, snapshot))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert [fault.kind for fault in faults] == ["log"]
    assert peak < size / 2


def in_another_process(code: str, place: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


TRY_TO_WRITE = """
import sys
from pathlib import Path
from muomni_search.errors import Conflict
from muomni_search.store.store import Store
with Store.open(Path(sys.argv[1])) as store:
    try:
        with store.write(timeout=0):
            print("has the lock")
    except Conflict:
        print("refused")
"""


def test_a_check_gives_up_no_lock_of_a_writer(store: Store, place: Path) -> None:
    # Closing any descriptor of a file that SQLite has open would release its locks.
    with store.write() as writer:
        writer.delete(["t1"])
        assert in_another_process(TRY_TO_WRITE, place) == "refused"
        checker = threading.Thread(target=lambda: list(store.problems()))
        checker.start()
        checker.join()
        assert in_another_process(TRY_TO_WRITE, place) == "refused"
    assert in_another_process(TRY_TO_WRITE, place) == "has the lock"


CHECK_THEN_WRITE = """
import os, subprocess, sys
from pathlib import Path
import numpy as np
from muomni_search.items import Modality
from muomni_search.store.store import NewItem, Store
store = Store.open(Path(sys.argv[1]))
assert list(store.problems()) == []
look = "import sys, pathlib; from muomni_search.store.store import Store;"
look += "Store.open(pathlib.Path(sys.argv[1])).close()"
for _ in range(2):
    subprocess.run([sys.executable, "-c", look, sys.argv[1]], check=True)
with store.write() as writer:
    writer.put([NewItem("late", Modality.IMAGE, np.eye(1, 256, dtype=np.float32), [None])])
print("written", flush=True)
os._exit(9)
"""


def test_what_is_written_after_a_check_is_there_though_others_came_and_went(place: Path) -> None:
    assert in_another_process(CHECK_THEN_WRITE, place) == "written"
    with Store.open(place) as store:
        with store.snapshot() as snapshot:
            assert "late" in snapshot.find(["late"])
        assert kinds(store) == set()


def test_a_repair_loses_nothing_that_can_be_read_before_it(tmp_path: Path) -> None:
    """Whatever 512 bytes of the database are zeroed: it mends them, or it changes nothing."""
    whole = tmp_path / "whole"
    with Collection.create(whole, model="hashing") as made:
        made.add(
            Record(f"key {n}", TEXT, "here", text=f"text {n} " * 20, source=f"/{n}")
            for n in range(300)
        )
    content = (whole / "collection.db").read_bytes()

    def readable(place: Path) -> set[str]:
        try:
            with Collection.open(place, salvage=True) as damaged, damaged.store.snapshot() as seen:
                return {found.item.key for found in salvage(seen)[0]}
        except MuomniError:
            return set()

    refused = mended = 0
    for start in range(3 * 4096, len(content), 4096 * 3):
        place = tmp_path / f"at-{start}"
        shutil.copytree(whole, place)
        damaged = bytearray(content)
        damaged[start + 200 : start + 712] = bytes(512)
        (place / "collection.db").write_bytes(damaged)
        before = readable(place)
        try:
            with Collection.open(place) as collection:
                collection.repair()
                assert not list(collection.verify())
                told = {failure.key for failure in collection.failures()}
            mended += 1
        except MuomniError:
            refused, told = refused + 1, set()
        assert before <= readable(place) | told, start
    assert refused >= 3
    assert mended >= 3
