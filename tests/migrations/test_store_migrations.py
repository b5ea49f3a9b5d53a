"""The schema: made by the revisions alone, upgraded whole or not at all, never losing a row."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from file_helpers import sql
from old_collections import make_old

from muomni_search.errors import CorruptData
from muomni_search.items import DIM, Modality, Span
from muomni_search.store import engine, sqlite, tables
from muomni_search.store.store import NewItem, Store

VECTORS = np.eye(3, DIM, dtype=np.float32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A collection of today's schema with an item of two segments and one of one."""
    place = tmp_path / "collection"
    spans = [Span("char", 0, 5), Span("char", 5, 9)]
    with Store.create(place, model="m", fingerprint="f") as store, store.write() as writer:
        writer.put(
            [
                NewItem("a", Modality.TEXT, VECTORS[:2], spans, text="a long one"),
                NewItem("b", Modality.IMAGE, VECTORS[2:], [None], metadata={"n": 1}),
            ]
        )
    return place


def check_content(store: Store) -> None:
    with store.snapshot() as snapshot:
        assert [(item.key, item.segments) for item in snapshot.iter_items()] == [("a", 2), ("b", 1)]
        assert snapshot.item_rows(["a"])["a"][1].tolist() == [0, 1]
        assert np.array_equal(snapshot.vectors(Modality.TEXT), VECTORS[:2])
    assert list(store.problems()) == []


def test_the_newest_revision_is_the_one_that_the_store_reads() -> None:
    config = Config()
    config.set_main_option("script_location", str(engine.find_migrations()))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [sqlite.HEAD]
    # `found > HEAD` compares them as text.
    numbers = [script.revision for script in scripts.walk_revisions()][::-1]
    assert numbers == [f"{number:04d}" for number in range(1, len(numbers) + 1)]


def test_the_revisions_make_the_tables_that_the_code_speaks_of(place: Path) -> None:
    connected = engine.connect(place / "collection.db")
    with connected.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        made = connection.exec_driver_sql(
            "SELECT name, wr FROM pragma_table_list WHERE type = 'table'"
        ).all()
        without_rowid = {row.name for row in made if row.wr}
    connected.dispose()
    assert without_rowid == {
        table.name
        for table in tables.metadata.sorted_tables
        if table.dialect_options["sqlite"]["with_rowid"] is False
    }


def test_a_collection_is_known_by_its_first_bytes(place: Path) -> None:
    data = (place / "collection.db").read_bytes()
    assert data[:16] == b"SQLite format 3\0"
    assert data[68:72] == b"muom"
    assert data[18:20] == b"\x02\x02"  # a write-ahead log


def test_the_revisions_are_found_in_a_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (engine.find_migrations() / "versions").is_dir()
    package = tmp_path / "site-packages" / "muomni_search"
    monkeypatch.setattr(engine, "__file__", str(package / "store" / "engine.py"))
    assert engine.find_migrations() == tmp_path / "site-packages" / "migrations"
    (package / "migrations").mkdir(parents=True)
    assert engine.find_migrations() == package / "migrations"


# ---- a collection of the first revision ----------------------------------------------------------


def test_a_collection_of_the_first_revision_gets_the_checksums_of_its_items(place: Path) -> None:
    make_old(place)
    assert revision(place) == "0001"
    assert columns(place)[-1] == "added"
    with Store.open(place) as store:
        check_content(store)
        with store.write() as writer:
            writer.put([NewItem("c", Modality.IMAGE, VECTORS[:1], [None])])
            writer.delete(["c"])
        check_content(store)
    assert revision(place) == sqlite.HEAD
    sql(place, "UPDATE items SET metadata = '{\"n\":3}' WHERE key = 'b'")
    with Store.open(place) as store:
        assert [fault.kind for fault in store.problems()] == ["item"]


def test_a_byte_that_is_no_character_does_not_hinder_the_upgrade(place: Path) -> None:
    make_old(place, "0002")
    sql(place, "UPDATE items SET text = CAST(x'68FF6C' AS TEXT) WHERE key = 'a'")
    with Store.open(place) as store:
        assert list(store.problems()) == []  # nobody knows what it was
        with store.snapshot() as snapshot:
            assert list(snapshot.find(["b"])) == ["b"]


def test_hashes_and_times_are_read_as_before_when_they_are_packed(place: Path) -> None:
    make_old(place, "0005")
    digest = "00" * 15 + "ab"
    written = [
        (digest, "2026-11-28T06:28:56.007Z"),
        (digest.upper(), "2026-11-28 06:28:56.007Z"),
        (None, "1969-12-31T23:59:59.999Z"),
        ("", "2026-11-28T06:28:56.007"),
        ("no hash", "then"),
        ("ab ab", "2026-11-28T06:28:56.007+00:00"),
    ]
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute("DELETE FROM items")
        connection.execute(
            'CREATE INDEX "field x" ON items (json_extract(metadata, \'$."a:b?%s"\'))'
        )
        for number, (content_hash, added) in enumerate(written):
            values = (number, f"k{number}", "{}", content_hash, number % 2 or None, added, number)
            connection.execute(
                "INSERT INTO items (id, key, modality, metadata, content_hash, size, added,"
                " checksum) VALUES (?, ?, 'text', ?, ?, ?, ?, ?)",
                values,
            )
        connection.execute("DELETE FROM segments")
        indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'items'"
        before = set(connection.execute(indexes).fetchall())
    connection.close()
    Store.open(place).close()
    with sqlite3.connect(place / "collection.db") as connection:
        found = connection.execute("SELECT content_hash, added FROM items ORDER BY id").fetchall()
        kinds = connection.execute("SELECT typeof(hash), typeof(added_ms) FROM items").fetchall()
        facts = connection.execute("SELECT key, size, checksum FROM items ORDER BY id").fetchall()
        after = set(connection.execute(indexes).fetchall())
    connection.close()
    assert found == written
    assert kinds == [("blob", "integer"), ("text", "text"), ("null", "integer")] + 3 * [
        ("text", "text")
    ]
    assert facts == [(f"k{number}", number % 2 or None, number) for number in range(len(written))]
    assert after == before


def test_two_keys_that_damage_made_one_do_not_hinder_the_upgrade(place: Path) -> None:
    with Store.open(place) as store, store.write() as writer:
        writer.put([NewItem("c", Modality.IMAGE, VECTORS[:1], [None])])
    make_old(place, "0005")
    data = (place / "collection.db").read_bytes()
    assert data.count(b"bimage") == 1  # as it lies in the table, and not in its index
    (place / "collection.db").write_bytes(data.replace(b"bimage", b"cimage"))
    with Store.open(place) as store:
        assert "database" in {fault.kind for fault in store.problems()}
        assert any("turned a flipped bit back" in line for line in store.repair())
        with store.write() as writer:
            writer.delete(["c"])
        check_content(store)


def test_a_reference_that_damage_broke_does_not_hinder_the_upgrade(place: Path) -> None:
    make_old(place, "0005")
    sql(place, "UPDATE segments SET item_id = 99 WHERE modality = 'image'")
    with Store.open(place) as store:
        assert "database" in {fault.kind for fault in store.problems()}
        assert store.repair()
        assert list(store.problems()) == []


def test_a_process_of_an_earlier_version_cannot_write_after_the_upgrade(place: Path) -> None:
    make_old(place, "0002")
    # As the earlier version began and ended every write.
    old = sqlite3.connect(place / "collection.db", isolation_level=None)
    count = "UPDATE collection SET revision = revision + 1, version = version + 1"
    old.execute(count)
    Store.open(place).close()
    old.execute("BEGIN IMMEDIATE")
    old.execute("UPDATE items SET text = 'other' WHERE key = 'a'")
    with pytest.raises(sqlite3.IntegrityError, match="a newer version has upgraded it"):
        old.execute(count)
    old.execute("ROLLBACK")
    old.close()
    with Store.open(place) as store:
        check_content(store)
        with store.write() as writer:
            writer.delete(["b"])
        assert list(store.problems()) == []


# ---- a revision to come --------------------------------------------------------------------------

# Named after the newest that there is.
HEAD = sqlite.HEAD
NEXT = f"{int(HEAD) + 1:04d}"
FUTURE = '''
"""Make the table of items anew, as a change of a column does."""
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{head}"


def upgrade():
    with op.batch_alter_table("items") as batch:
        batch.add_column(sa.Column("language", sa.Text))
    {more}
'''


def future_revision(more: str = "") -> str:
    return FUTURE.format(revision=NEXT, head=HEAD, more=more)


@pytest.fixture(params=["migrations", "100%25 migrations"])
def future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """The revisions with one more, as a later version of this package will have."""
    migrations = tmp_path / str(request.param)
    shutil.copytree(
        engine.find_migrations(), migrations, ignore=shutil.ignore_patterns("__pycache__")
    )
    (migrations / "versions" / f"{NEXT}_language.py").write_text(future_revision())
    monkeypatch.setattr(engine, "find_migrations", lambda: migrations)
    monkeypatch.setattr(sqlite, "HEAD", NEXT)
    return migrations


def revision(place: Path) -> str:
    with sqlite3.connect(place / "collection.db") as connection:
        (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    return str(found)


def columns(place: Path) -> list[str]:
    with sqlite3.connect(place / "collection.db") as connection:
        found = [row[1] for row in connection.execute("PRAGMA table_info(items)")]
    connection.close()
    return found


def test_opening_upgrades_and_loses_nothing(
    place: Path, future: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(place) as store:
        with store.snapshot() as snapshot:
            assert [item.segments for item in snapshot.iter_items()] == [2, 1]
        # The foreign keys are on again: an item takes its segments with it.
        with store.write() as writer:
            writer.connection.execute("DELETE FROM items WHERE key = 'b'")
            left = writer.connection.execute("SELECT count(*) FROM segments").fetchone()
        assert left == (2,)
    assert revision(place) == NEXT
    assert columns(place)[-1] == "language"


def test_two_may_open_an_old_collection_at_once(place: Path, future: Path) -> None:
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(Store.open(place))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 2
    for store in opened:
        store.close()
    assert revision(place) == NEXT


@pytest.mark.parametrize(
    "failing",
    [
        "raise RuntimeError('power cut')",
        "op.execute('INSERT INTO nowhere VALUES (1)')",
        "op.execute('DELETE FROM items')",  # the segments' references lead nowhere then
    ],
)
def test_an_upgrade_that_fails_changes_nothing(
    place: Path, future: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (place / "collection.db").read_bytes()
    (future / "versions" / f"{NEXT}_language.py").write_text(future_revision(failing))
    with pytest.raises((RuntimeError, CorruptData)):
        Store.open(place)
    assert revision(place) == HEAD
    assert columns(place)[-1] == "added_ms"
    assert (place / "collection.db").read_bytes() == before
    monkeypatch.undo()
    with Store.open(place) as store:
        check_content(store)
