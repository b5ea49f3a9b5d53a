"""Writing: a ``Writer`` is one critical section under the write lock.

Rows are appended and brought to the disk first, the commit that makes them count comes last. What
an exception, a full disk or a kill leaves behind them is cut off by this writer or by the next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Connection,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.dialects.sqlite import insert as upsert

from muomni_search import durable
from muomni_search.documents import (
    check_words,
    hash_content,
    item_checksum,
    legible,
    to_json,
)
from muomni_search.errors import Conflict, CorruptData, InvalidInput, MuomniError
from muomni_search.items import DIM, Modality, Problem, Record, Span
from muomni_search.store import rows, tables
from muomni_search.store.engine import driver_connection, stamp_schema
from muomni_search.store.records import IndexFile, Job, NewItem, RowFile, Settings, now
from muomni_search.store.snapshot import (
    FIELD_INDEX,
    INDEX,
    Lookup,
    Snapshot,
    State,
    read_state,
    row_path,
)
from muomni_search.store.sql_filter import field_expressions
from muomni_search.store.sqlite import disk_errors
from muomni_search.store.tables import SUMMED, packed_hash, packed_time

__all__ = ["Writer", "quoted"]

# ---- statements ----------------------------------------------------------------------------------

NEXT_ID = select(func.coalesce(func.max(tables.items.c.id), 0) + 1)
CHANGE_ITEM = update(tables.items).where(tables.items.c.key == bindparam("old_key"))
WANTED = select(func.json_each(bindparam("values")).table_valued("value", name="wanted").c.value)
SUMMED_BY_KEY = Lookup(
    f"SELECT checksum, {tables.SUMMED_BYTES} FROM items WHERE items.key IN ({{wanted}})"  # noqa: S608
)
NAMES_BY_ID = Lookup(
    "SELECT id, CAST(key AS BLOB) AS key, CAST(source AS BLOB) AS source"
    " FROM items WHERE id IN ({wanted}) ORDER BY id"
)
DELETE_ITEMS = delete(tables.items).where(tables.items.c.id.in_(WANTED))
OWN_SEGMENTS = tables.segments.c.item_id.in_(WANTED)
COUNT_SEGMENTS = (
    select(tables.segments.c.modality, func.count().label("rows"))
    .where(OWN_SEGMENTS)
    .group_by(tables.segments.c.modality)
)
# A damaged store may have segments that are dead already; its repair counts them anew.
BURY_SEGMENTS = (
    insert(tables.dead_rows)
    .prefix_with("OR IGNORE")
    .from_select(
        ["modality", "row"],
        select(tables.segments.c.modality, tables.segments.c.row).where(OWN_SEGMENTS),
    )
)
DELETE_SEGMENTS = delete(tables.segments).where(OWN_SEGMENTS)
COUNT_DEAD = (
    update(tables.row_files)
    .where(tables.row_files.c.modality == bindparam("own"))
    .values(dead=tables.row_files.c.dead + bindparam("more"))
)
DELETE_FAILURES = delete(tables.failures).where(tables.failures.c.source.in_(WANTED))
FAIL = upsert(tables.failures)
FAIL_AGAIN = FAIL.on_conflict_do_update(
    index_elements=["source"],
    set_={
        "key": FAIL.excluded.key,
        "error": FAIL.excluded.error,
        "hint": FAIL.excluded.hint,
        "attempts": tables.failures.c.attempts + 1,
        "last": FAIL.excluded.last,
    },
)


# By way of a temporary table, which lies in a file when it is large: 4.7 s for 700,000 rows of a
# million, where an executemany took 10. Rows only move down, so each finds its new number free.
NUMBER_ANEW = [
    text(statement)
    for statement in (
        'CREATE TEMP TABLE moved ("row" INTEGER PRIMARY KEY, now INTEGER NOT NULL)',
        'INSERT INTO moved SELECT "row", :first + row_number() OVER (ORDER BY "row") - 1'
        ' FROM segments WHERE modality = :own AND "row" > :first ORDER BY "row"',
        'UPDATE segments SET "row" = (SELECT now FROM moved WHERE moved."row" = segments."row")'
        ' WHERE modality = :own AND "row" > :first',
        "DROP TABLE moved",
        "DELETE FROM dead_rows WHERE modality = :own",
    )
]
# Where a row is nobody's, or two's, the numbers that rows get and the places that they take differ.
COUNT_NUMBERS = text(
    'WITH live AS (SELECT "row" FROM segments WHERE modality = :own),'
    ' dead AS (SELECT "row" FROM dead_rows WHERE modality = :own)'
    " SELECT (SELECT count(*) FROM live), (SELECT count(*) FROM dead),"
    ' (SELECT count(*) FROM dead WHERE "row" IN live),'
    ' (SELECT count(*) FROM live WHERE "row" NOT BETWEEN 0 AND :last)'
    ' + (SELECT count(*) FROM dead WHERE "row" NOT BETWEEN 0 AND :last)'
)
# A path that other items still have, as the rows of a table have that of the table, stays theirs.
OWN_SOURCES = (
    "WITH wanted AS (SELECT value FROM json_each(:values))"
    ' SELECT source FROM items WHERE "key" IN wanted AND source IS NOT NULL'
    ' EXCEPT SELECT source FROM items WHERE "key" NOT IN wanted'
)
STRAY_FAILURES = text(
    'DELETE FROM failures WHERE coalesce("key" NOT IN (SELECT "key" FROM items),'
    " source NOT IN (SELECT source FROM items WHERE source IS NOT NULL))"
)
# Where a name in a message may begin or end: not between two characters of one path.
EDGE = re.compile(r"(?<![\w/\\.-])|(?![\w/\\-]|\.[\w/])")
QUOTES = ("'", '"', "`")
LINE = re.compile(r":\d+$")  # of a table


COUNT_UP = text(
    "WITH RECURSIVE more(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM more WHERE n + 1 < :more)"
    ' INSERT INTO segments (modality, "row", item_id, ordinal)'
    " SELECT :own, :first + n, :item + n, 0 FROM more"
)


@cache
def insert_sql(table: Table) -> str:
    """Return an INSERT for the driver, its values in the order of the columns that are stored."""
    stored = [column.name for column in table.columns if column.computed is None]
    return str(insert(table).compile(dialect=dialect(), column_keys=stored))


# ---- the writer ----------------------------------------------------------------------------------


class Writer(Snapshot):
    """The one who may change the store; sees what it has done itself."""

    def __init__(self, transaction: Connection, directory: Path) -> None:
        connection = driver_connection(transaction)
        super().__init__(connection, read_state(connection, directory))
        self.transaction = transaction  # the same, for statements that change something
        self._directory = directory
        self._is_stale = False
        self._items_changed = False
        self._lengths: dict[Path, int] = {}  # rows that files had before
        self._useless: list[Path] = []

    @property
    def state(self) -> State:
        """What is known, with this writer's own changes."""
        if self._is_stale:
            self._state = read_state(self.connection, self._directory)
            self._is_stale = False
        return self._state

    def changes(self, *, items: bool = True) -> None:
        """Say that the next statement changes something."""
        self._is_stale = True
        self._items_changed |= items

    # ---- items -----------------------------------------------------------------------------

    def put(self, items: Sequence[NewItem]) -> None:
        """Store items, new or in place of those with the same keys; the last one of a key counts.

        Failures that were written down for their sources are forgotten.

        Raises:
            InvalidInput: Metadata that is not JSON, vectors that are no unit rows of 256; nothing
                was stored then.
            CorruptData: A row file lost rows.
            MuomniError: The disk is full, or cannot be written to.
        """
        newest = {item.key: item for item in items}
        if not newest:
            return
        for item in newest.values():
            _check(item)
        documents = {key: to_json(item.metadata, key) for key, item in newest.items()}
        groups = {
            modality: [item for item in newest.values() if item.modality == modality]
            for modality in sorted({item.modality for item in newest.values()})
        }
        stacked = {modality: _stack(group) for modality, group in groups.items()}
        self.changes()
        starts = {modality: self._append(modality, stacked[modality]) for modality in groups}
        ids = self._store_items(newest, documents)
        for modality, group in groups.items():
            self._store_segments(modality, starts[modality], group, ids)
        self._forget_failures(newest.values())

    def _append(self, modality: Modality, vectors: NDArray[np.float32]) -> int:
        """Append rows to a modality's file, and count them; return the number of the first."""
        file = self.row_file(modality)
        if file is None:
            file = RowFile(modality, 0, row_path(self._directory, modality, 0), 0, 0)
            self._insert(tables.row_files, [(modality, 0, 0, 0)])
        with disk_errors(file.path):
            self._lengths.setdefault(file.path, file.rows)
            rows.append_rows(file.path, file.rows, vectors)
        self._set_row_file(modality, rows=file.rows + len(vectors))
        self._write_checksums(modality, file.rows, vectors)
        return file.rows

    def _store_items(
        self, items: Mapping[str, NewItem], documents: Mapping[str, str]
    ) -> dict[str, int]:
        """Insert or update rows of ``items``; return the id of each key."""
        ids = self.item_ids(items)
        self._bury(ids.values())
        added = self._added(ids) if ids else {}
        next_id = self.transaction.execute(NEXT_ID).scalar_one()
        stamp = now()
        packed_stamp = packed_time(stamp)
        fresh, changed = [], []
        for key, item in items.items():
            values = (
                str(item.modality),
                item.source,
                item.root,
                item.text,
                documents[key],
                packed_hash(item.content_hash),
                item.size,
                item.mtime_ns,
            )
            first = added.get(key, stamp)
            modality, source, _, words, document, *_ = values
            checksum = item_checksum(
                key, modality, source, words, document, item.content_hash, first
            )
            if key in ids:
                changed.append((*values, packed_time(first), checksum, ids[key]))
            else:
                ids[key] = next_id
                fresh.append((next_id, key, *values, packed_stamp, checksum))
                next_id += 1
        self._insert(tables.items, fresh)
        if changed:
            # Like the inserts, straight to the driver: half of the time goes otherwise into
            # SQLAlchemy's parameters.
            self.transaction.exec_driver_sql(
                "UPDATE items SET modality = ?, source = ?, root = ?, text = ?, metadata = ?,"
                " hash = ?, size = ?, mtime_ns = ?, added_ms = ?, checksum = ? WHERE id = ?",
                changed,
            )
        return ids

    def _added(self, keys: Iterable[str]) -> dict[str, str]:
        """Return when each key was first added, where its checksum says that this is still so."""
        return {old["key"]: old["added"] for old, is_whole in self._summed(keys) if is_whole}

    def _summed(self, keys: Iterable[str]) -> Iterator[tuple[dict[str, Any], bool]]:
        """Yield for each key that there is what its checksum is of, and whether it fits."""
        for checksum, *values in self.for_values(SUMMED_BY_KEY, keys):
            old: dict[str, Any] = {
                name: None if value is None else value.decode(errors="surrogateescape")
                for name, value in zip(SUMMED, values, strict=True)
            }
            yield old, checksum == _checksum(old)

    def _store_segments(
        self, modality: Modality, start: int, items: Sequence[NewItem], ids: Mapping[str, int]
    ) -> None:
        numbers = [ids[item.key] for item in items]
        are_counted = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if are_counted and all(list(item.spans) == [None] for item in items):
            # New items of one segment each: SQLite counts for itself in a quarter of the time.
            values = {"own": modality, "first": start, "item": numbers[0], "more": len(numbers)}
            self.transaction.execute(COUNT_UP, values)
            return
        name, row = str(modality), start
        segments = []
        for item in items:
            item_id = ids[item.key]
            for ordinal, span in enumerate(item.spans):
                begin, end = (span.start, span.end) if span else (None, None)
                segments.append((name, row, item_id, ordinal, begin, end))
                row += 1
        self._insert(tables.segments, segments)

    def _forget_failures(self, items: Iterable[NewItem]) -> None:
        if self.transaction.execute(select(tables.failures.c.source).limit(1)).first() is not None:
            self.clear_failures(
                [name for item in items for name in (item.source, item.key) if name]
            )

    def touch(self, key: str, record: Record, content_hash: str) -> None:
        """Write down what changed about an item whose content did not; no item, nothing done."""
        self._change(key, {**_outside(record), "content_hash": content_hash})

    def move(self, key: str, record: Record) -> None:
        """Give an item the key, source and metadata of a record; its vectors stay.

        Raises:
            Conflict: The new key is another item's.
        """
        values = _outside(record)
        if record.key != key and record.key in self.item_ids([record.key]):
            raise Conflict(
                f"{key!r} cannot become {record.key!r}, which is there already", hint="try again"
            )
        self._change(key, {**values, "key": record.key})

    def _change(self, key: str, values: dict[str, Any]) -> None:
        """Change columns of an item; a checksum that does not fit before does not fit after.

        Where and when a file lies is no part of the item: who keeps what was made of all items need
        not make it again.
        """
        for old, is_whole in list(self._summed([key])):
            self.changes(items=any(old[one] != values[one] for one in old.keys() & values.keys()))
            checksum = _checksum({**old, **values}) if is_whole else None
            stored = {"old_key": key, **values, "checksum": checksum}
            if "content_hash" in stored:
                stored["hash"] = packed_hash(stored.pop("content_hash"))
            self.transaction.execute(CHANGE_ITEM, stored)

    def delete(self, keys: Sequence[str]) -> int:
        """Delete the items of ``keys``; return how many there were."""
        doomed = list(self.item_ids(keys).values())
        self._delete(doomed)
        return len(doomed)

    def _delete(self, item_ids: Sequence[int]) -> None:
        if item_ids:
            self.changes()
            self._bury(item_ids)
            self.transaction.execute(DELETE_ITEMS, {"values": json.dumps(list(item_ids))})

    def _bury(self, item_ids: Iterable[int]) -> None:
        """Make the rows of items dead."""
        values = {"values": json.dumps(list(item_ids))}
        counts = self.transaction.execute(COUNT_SEGMENTS, values).all()
        if not counts:
            return
        self.transaction.execute(BURY_SEGMENTS, values)
        self.transaction.execute(DELETE_SEGMENTS, values)
        for modality, count in counts:
            self.transaction.execute(COUNT_DEAD, {"own": modality, "more": count})

    # ---- failures, indexes, jobs -------------------------------------------------------------

    def fail(self, problems: Sequence[Problem]) -> None:
        """Write down inputs that could not be used, once more for those that failed before."""
        if not problems:
            return
        stamp = now()
        self.changes(items=False)
        self.transaction.execute(
            FAIL_AGAIN,
            [
                {
                    "source": legible(problem.source),
                    "key": None if problem.key is None else legible(problem.key),
                    "error": legible(problem.error),
                    "hint": legible(problem.hint),
                    "attempts": 1,
                    "first": stamp,
                    "last": stamp,
                }
                for problem in problems
            ],
        )

    def clear_failures(self, sources: Sequence[str]) -> None:
        """Forget the failures of inputs that are mended or gone."""
        if sources:
            self.changes(items=False)
            self.transaction.execute(
                DELETE_FAILURES, {"values": json.dumps([legible(source) for source in sources])}
            )

    def forget_failures_of(self, keys: Sequence[str]) -> None:
        """Forget the failures that name one of some keys, or the source that its item alone has."""
        failures = self.failures()
        if not keys or not failures:
            return
        sources = self.connection.execute(OWN_SOURCES, {"values": json.dumps(list(keys))})
        names = {legible(name) for name in (*keys, *(source for (source,) in sources))}
        shown = names | {repr(name)[1:-1] for name in names}
        self.clear_failures(
            [
                one.source
                for one in failures
                if not names.isdisjoint((one.key, one.source, LINE.sub("", one.source)))
                or _mentions(one.error, shown)
                or _mentions(one.hint, shown)
            ]
        )

    def forget_stray_failures(self) -> None:
        """Forget the failures whose key, or source where no key is known, is no item's."""
        self.changes(items=False)
        self.transaction.execute(STRAY_FAILURES)

    def set_index(self, index: IndexFile) -> bool:
        """Make a finished file the index of its modality; the one before it is removed.

        Returns:
            False when the rows that it was built from were replaced meanwhile: then it is the file
            that is removed.

        Raises:
            Conflict: The file is not there, or not of its length.
        """
        path = self._directory / INDEX / index.name
        file = self.row_file(index.modality)
        if file is None or file.generation != index.generation:
            self._useless.append(path)
            return False
        if not path.is_file() or path.stat().st_size != index.bytes:
            raise Conflict(f"{path} went away before it was recorded", hint="run: muomni rebuild")
        self.drop_index(index.modality, keep=index.name)
        params = json.dumps(dict(index.params), sort_keys=True)
        self._insert(
            tables.index_files,
            [
                (
                    str(index.modality),
                    index.generation,
                    index.name,
                    index.kind,
                    index.rows,
                    index.bytes,
                    index.checksum,
                    params,
                    now(),
                )
            ],
        )
        return True

    def drop_index(self, modality: Modality, *, keep: str | None = None) -> None:
        """Forget the index of a modality and remove its file, unless its name is ``keep``."""
        table = tables.index_files
        own = table.c.modality == modality
        name = self.transaction.execute(select(table.c.name).where(own)).scalar()
        if name is None:
            return
        self.changes(items=False)
        self.transaction.execute(delete(table).where(own))
        if name != keep:
            self._useless.append(self._directory / INDEX / name)

    def set_promise(self, modality: Modality, promise: Mapping[str, Any]) -> None:
        """Write down what the index of a modality was measured to hold to; none, nothing done."""
        index = self.state.index_files.get(modality)
        if index is not None:
            table = tables.index_files
            params = json.dumps({**index.params, "promise": promise}, sort_keys=True)
            self.changes(items=False)
            self.transaction.execute(
                update(table).where(table.c.modality == modality).values(params=params)
            )

    def set_settings(self, settings: Settings) -> None:
        """Write down what the collection has to keep to."""
        chosen = {name: value for name, value in asdict(settings).items() if value is not None}
        self.changes(items=False)
        self.transaction.execute(
            update(tables.collection).values(settings=json.dumps(chosen, sort_keys=True))
        )

    def index_field(self, names: tuple[str, ...]) -> None:
        """Let SQLite keep an index of a metadata field; one that has one keeps it.

        Args:
            names: The names that lead to it.

        Raises:
            InvalidInput: It is no metadata, or has a name that no JSON path spells.
        """
        expressions = field_expressions(names)
        if names in self._field_indexes():
            return
        spelt = json.dumps(list(names))
        name = f"{FIELD_INDEX}{hash_content(spelt.encode())[:8]} {spelt}"
        self.changes(items=False)
        self.transaction.exec_driver_sql(f"CREATE INDEX {quoted(name)} ON items ({expressions})")
        stamp_schema(self.transaction)

    def drop_field_index(self, names: tuple[str, ...]) -> None:
        """Let SQLite forget the index of a metadata field; without one, nothing is done."""
        name = self._field_indexes().get(names)
        if name is None:
            return
        self.changes(items=False)
        self.transaction.exec_driver_sql(f"DROP INDEX {quoted(name)}")
        stamp_schema(self.transaction)

    def set_job(self, job: Job) -> None:
        """Write down how far a job is."""
        values = {
            "fingerprint": job.fingerprint,
            "done": job.done,
            "state": job.state,
            "mark": job.mark,
            "updated": now(),
        }
        statement = upsert(tables.jobs).values(output=job.output, **values)
        self.changes(items=False)
        self.transaction.execute(
            statement.on_conflict_do_update(index_elements=["output"], set_=values)
        )

    # ---- mending -----------------------------------------------------------------------------

    def lose_items(self, item_ids: Iterable[int], reason: str) -> list[str]:
        """Delete items that cannot be had back, list them as failures; return their keys."""
        # As bytes, for what is damaged may be no text any more.
        lost = [
            (row.id, *(value and legible(value.decode(errors="replace")) for value in row[1:]))
            for row in self.for_values(NAMES_BY_ID, item_ids)
        ]
        # A lost sector leaves items without even a key.
        named = [(key or f"item {number}", source) for number, key, source in lost]
        hint = "add it again, from its file or its table"
        self.fail([Problem(source or key, f"{key}: {reason}", hint, key) for key, source in named])
        self._delete([number for number, _, _ in lost])
        return [key for key, _ in named]

    def set_dead(self, modality: Modality, dead: NDArray[np.int64]) -> None:
        """Let exactly these rows be the dead ones."""
        table = tables.dead_rows
        self.changes()
        self.transaction.execute(delete(table).where(table.c.modality == modality))
        self._insert(table, [(str(modality), row) for row in dead.tolist()])
        self._set_row_file(modality, dead=len(dead))

    def replace_row_file(self, modality: Modality, blocks: Iterable[NDArray[np.float32]]) -> None:
        """Write the rows of a modality into a new generation; its index goes.

        Args:
            modality: Whose rows.
            blocks: The rows, in order.
        """
        old = self.state.row_files[modality]
        generation, start = old.generation + 1, 0
        path = row_path(self._directory, modality, generation)
        self.changes(items=False)
        self.drop_index(modality)
        table = tables.row_blocks
        self.transaction.execute(delete(table).where(table.c.modality == modality))
        self._lengths[path] = 0
        with disk_errors(path):
            path.unlink(missing_ok=True)
            for block in filter(len, blocks):
                rows.append_rows(path, start, block)
                self._write_checksums(modality, start, block)
                start += len(block)
        self._set_row_file(modality, generation=generation, rows=start)
        self._useless.append(old.path)

    def drop_dead_rows(
        self, modality: Modality, read: Callable[[], Iterable[NDArray[np.float32]]]
    ) -> None:
        """Write the live rows of a modality into a new generation, numbered anew in their order.

        The items stay what they are, and so does the version. Where none is dead, nothing is done.

        Args:
            modality: Whose rows.
            read: Reads all of them, in order, and raises CorruptData for those that are damaged.

        Raises:
            CorruptData: A row is not a segment's or dead, or is both, or is damaged; nothing was
                changed.
        """
        self._check_numbers(modality)
        dead = self.dead(modality)
        if not len(dead):
            return
        # Read twice, for damage would else be found by each addition after all the numbering.
        for _ in read():
            pass
        self.changes(items=False)
        for statement in NUMBER_ANEW:
            self.transaction.execute(statement, {"own": modality, "first": int(dead[0])})
        self.replace_row_file(modality, _live(read(), dead))
        self._set_row_file(modality, dead=0)

    def _check_numbers(self, modality: Modality) -> None:
        """Refuse to go on where not every row is a segment's or dead, and only one of them."""
        file = self.state.row_files[modality]
        live, dead, both, outside = self.transaction.execute(
            COUNT_NUMBERS, {"own": modality, "last": file.rows - 1}
        ).one()
        if (live + dead, dead, both, outside) != (file.rows, file.dead, 0, 0):
            raise CorruptData(
                f"{self._directory}: of {file.rows} rows of {modality}, {file.dead} of them dead, "
                f"{live} are a segment's, {dead} dead, {both} both and {outside} beyond the end",
                hint=rows.HINT,
            )

    # ---- moving to another model -------------------------------------------------------------

    def set_model(self, model: str, fingerprint: str) -> None:
        """Say that all vectors come from another model from now on."""
        self.changes()
        self.transaction.execute(
            update(tables.collection).values(model=model, fingerprint=fingerprint)
        )

    def replace_segments(
        self,
        modality: Modality,
        pages: Iterable[tuple[NDArray[np.float32], Sequence[tuple[int, int, Span | None]]]],
    ) -> None:
        """Put other segments with other vectors in the place of all those of a modality.

        Args:
            modality: Whose segments.
            pages: Some vectors (n, 256) at a time, with the item id, the ordinal and the span of
                each.
        """
        if self.row_file(modality) is None:
            return
        table, name = tables.segments, str(modality)
        self.changes()
        self.transaction.execute(delete(table).where(table.c.modality == modality))

        def blocks() -> Iterator[NDArray[np.float32]]:
            row = 0
            for vectors, segments in pages:
                if not rows.are_unit(vectors).all():
                    raise InvalidInput(f"a vector of {modality} is not finite and of length 1")
                placed = []
                for item_id, ordinal, span in segments:
                    begin, end = (span.start, span.end) if span else (None, None)
                    placed.append((name, row, item_id, ordinal, begin, end))
                    row += 1
                self._insert(table, placed)
                yield vectors

        self.replace_row_file(modality, blocks())
        self.set_dead(modality, np.empty(0, np.int64))

    # ---- tables ------------------------------------------------------------------------------

    def _insert(self, table: Table, values: list[tuple[Any, ...]]) -> None:
        self._is_stale = True
        if values:
            self.transaction.exec_driver_sql(insert_sql(table), values)

    def _set_row_file(self, modality: Modality, **values: int) -> None:
        table = tables.row_files
        self._is_stale = True
        self.transaction.execute(update(table).where(table.c.modality == modality).values(**values))

    def _write_checksums(
        self, modality: Modality, start: int, vectors: NDArray[np.float32]
    ) -> None:
        table = tables.row_blocks
        own = (table.c.modality == modality, table.c.block == start // rows.BLOCK_ROWS)
        previous = self.transaction.execute(select(table.c.checksum).where(*own)).scalar()
        sums = [
            {"modality": modality, "block": block, "checksum": checksum}
            for block, checksum in rows.block_checksums(
                vectors, start=start, previous=previous or 0
            )
        ]
        statement = upsert(table)
        self.transaction.execute(
            statement.on_conflict_do_update(
                index_elements=["modality", "block"],
                set_={"checksum": statement.excluded.checksum},
            ),
            sums,
        )

    # ---- the end of a write ------------------------------------------------------------------

    def finish(self) -> None:
        """Count the state up, the last thing before the commit.

        Raises:
            MuomniError: SQLite gave the transaction up after an error that nobody heeded.
        """
        if not self.connection.in_transaction:
            raise MuomniError("the write failed and was taken back", hint="try again")
        table = tables.collection
        step = int(self._items_changed)
        self.transaction.execute(
            update(table).values(
                revision=table.c.revision + 1,
                summed=table.c.revision + 1,
                version=table.c.version + step,
            )
        )
        with disk_errors(self._directory):
            durable.step("before commit")

    def undo(self) -> None:
        """Take back what was written to files, as far as the disk lets us; before the rollback.

        Never after a commit was tried: one that failed may still have reached the disk.
        """
        for path, length in self._lengths.items():
            with suppress(OSError, MuomniError):
                if length:
                    rows.cut_rows(path, length)
                else:
                    path.unlink(missing_ok=True)

    def clean_up(self) -> None:
        """Remove the files that the commit has made useless.

        One that stays, because the disk or the process fails here, is the next writer's to sweep.
        """
        with suppress(OSError):
            durable.step("after commit")
            for path in self._useless:
                durable.unlink(path)


def _live(
    blocks: Iterable[NDArray[np.float32]], dead: NDArray[np.int64]
) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of blocks without the dead ones, whose numbers are sorted."""
    start = 0
    for block in blocks:
        first, last = np.searchsorted(dead, [start, start + len(block)])
        yield np.delete(block, dead[first:last] - start, axis=0)
        start += len(block)


def _mentions(words: str, names: Collection[str]) -> bool:
    """Return whether a message has one of some names in it, and not within another.

    One of letters alone may be any word, so it counts in quotes or as the beginning before a colon.
    """
    longest = max(map(len, names))
    edges = [edge.start() for edge in EDGE.finditer(words)]
    for number, start in enumerate(edges):
        for end in edges[number + 1 :]:
            if end - start > longest:
                break
            name = words[start:end]
            if name in names and (
                not name.isalpha()
                or words.startswith(QUOTES, end)
                or (start == 0 and words.startswith(":", end))
            ):
                return True
    return False


# ---- what may be stored --------------------------------------------------------------------------


def _checksum(row: Mapping[Any, Any]) -> int:
    return item_checksum(*(row[name] for name in SUMMED))


def _check(item: NewItem) -> None:
    check_words(item.key, item.source, item.root, item.text)
    if len(item.spans) != len(item.vectors) or not len(item.vectors):
        raise InvalidInput(
            f"{item.key}: {len(item.vectors)} vectors for {len(item.spans)} segments, "
            "expected one each and at least one"
        )


def _stack(items: Sequence[NewItem]) -> NDArray[np.float32]:
    try:
        vectors = np.concatenate([item.vectors for item in items], dtype=np.float32)
    except ValueError as error:
        raise InvalidInput(f"vectors of different shapes: {error}") from error
    if vectors.ndim != 2 or vectors.shape[1] != DIM:
        raise InvalidInput(f"vectors of shape {vectors.shape}, expected (n, {DIM})")
    bad = np.flatnonzero(~rows.are_unit(vectors))
    if len(bad):
        ends = np.cumsum([len(item.vectors) for item in items])
        item = items[int(np.searchsorted(ends, bad[0], side="right"))]
        raise InvalidInput(f"{item.key}: its vector is not finite and of length 1")
    return vectors


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _outside(record: Record) -> dict[str, Any]:
    """Return what can change about an item while its content stays."""
    check_words(record.key, record.source, record.root)
    return {
        "source": record.source,
        "root": record.root,
        "metadata": to_json(record.metadata, record.key),
        "size": record.size,
        "mtime_ns": record.mtime_ns,
    }
