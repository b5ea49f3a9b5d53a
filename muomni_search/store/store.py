"""The store: every SQL statement, and the row files that go with them.

A ``Snapshot`` is one read transaction: whatever it is asked, the answers fit together. A
``Writer`` is one critical section under the write lock: rows are appended and brought to the
disk first, the commit that makes them count comes last.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from muomni_search.errors import Conflict, CorruptData, InvalidInput, NotFound
from muomni_search.filters import Filter
from muomni_search.items import DIM, Item, Modality, Problem, Record, Span
from muomni_search.store import durable, rows, tables
from muomni_search.store.engine import (
    DATABASE,
    LOCK_SECONDS,
    check_schema,
    connect,
    mapped_errors,
    upgrade,
)
from muomni_search.store.sql_filter import filter_to_sql

__all__ = [
    "Failure",
    "Fault",
    "IndexFile",
    "Job",
    "Known",
    "Match",
    "NewItem",
    "RowFile",
    "Snapshot",
    "Store",
    "Writer",
]

VECTORS, INDEX = "vectors", "index"
SPAN_UNITS: Mapping[Modality, Literal["char", "ms"]] = {
    Modality.TEXT: "char",
    Modality.AUDIO: "ms",
}
# How many rows are read from SQLite at a time where there may be millions.
PAGE = 10_000


@dataclass(frozen=True, slots=True)
class RowFile:
    """The row file of a modality: how many of its rows count, and how many of those are dead."""

    modality: Modality
    generation: int
    path: Path
    rows: int
    dead: int


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A FAISS index on disk: which rows it covers, and how to know that it is whole."""

    modality: Modality
    generation: int
    name: str
    kind: str
    rows: int
    bytes: int
    checksum: str
    params: Mapping[str, Any]
    created: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class NewItem:
    """An item to store, with a vector (n, 256) for each of its segments."""

    key: str
    modality: Modality
    vectors: NDArray[np.float32]
    spans: Sequence[Span | None]
    source: str | None = None
    text: str | None = None
    metadata: Mapping[str, Any] | None = None
    root: str | None = None
    content_hash: str | None = None
    size: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What ingestion needs to know of an item that is there already."""

    item_id: int
    key: str
    modality: Modality
    root: str | None
    source: str | None
    size: int | None
    mtime_ns: int | None
    content_hash: str | None
    metadata: dict[str, Any]


class Match(NamedTuple):
    """What a row stands for."""

    row: int
    item_id: int
    key: str
    span: Span | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that could not be used."""

    source: str
    key: str | None
    error: str
    hint: str
    attempts: int
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Job:
    """A long job with an output file: how far it is, and what it was asked."""

    output: str
    fingerprint: str
    done: int
    total: int
    state: Literal["running", "done"]
    updated: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that ``verify`` found."""

    kind: str
    where: str
    detail: str


class _State(NamedTuple):
    """What a snapshot knows without asking again: the same for one revision."""

    revision: int
    version: int
    model: str
    fingerprint: str
    row_files: dict[Modality, RowFile]
    index_files: dict[Modality, IndexFile]


class Store:
    """A collection's directory: ``collection.db``, ``vectors/`` and ``index/``."""

    def __init__(self, directory: Path, engine: Engine) -> None:
        self.directory = directory
        self._engine = engine
        self._writers = engine.execution_options(writes=True)
        self._lock = threading.Lock()
        self._state: _State | None = None
        self._dead: dict[Modality, tuple[int, NDArray[np.int64]]] = {}
        self._maps: dict[Modality, tuple[int, NDArray[np.float32]]] = {}

    # ---- life ----------------------------------------------------------------------------

    @classmethod
    def create(cls, directory: Path, *, model: str, fingerprint: str) -> Store:
        """Make an empty store; it appears whole or not at all.

        Raises:
            Conflict: There is something in the directory already.
        """
        directory = Path(directory).absolute()
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise Conflict(f"{directory} exists already and is not empty", hint="name another")
        with mapped_errors(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
            try:
                cls._fill(scratch, model, fingerprint)
                scratch.chmod(0o755)
                durable.replace(scratch, directory)
            except OSError as error:
                if directory.exists() and any(directory.iterdir()):
                    raise Conflict(f"{directory} was made meanwhile", hint="try again") from error
                raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return cls.open(directory)

    @staticmethod
    def _fill(directory: Path, model: str, fingerprint: str) -> None:
        (directory / VECTORS).mkdir()
        (directory / INDEX).mkdir()
        engine = connect(directory / DATABASE)
        try:
            upgrade(engine)
            facts = {
                "id": 1,
                "model": model,
                "fingerprint": fingerprint,
                "created": now(),
                "version": 0,
                "revision": 0,
            }
            with engine.execution_options(writes=True).begin() as connection:
                connection.execute(insert(tables.collection), facts)
        finally:
            # Closing the last connection folds the write-ahead log into the file.
            engine.dispose()

    @classmethod
    def open(cls, directory: Path) -> Store:
        """Open a store; bring an older one up to date.

        Raises:
            NotFound: There is none.
            CorruptData: It is damaged, foreign or of a newer version.
        """
        directory = Path(directory).absolute()
        path = directory / DATABASE
        if not path.exists():
            raise NotFound(
                f"no collection at {directory}", hint="`muomni add PATH` makes one, -c names another"
            )
        if not path.is_file():
            raise CorruptData(f"{path} is no file", hint="name a collection's directory")
        engine = connect(path)
        try:
            with mapped_errors(path):
                check_schema(engine, path)
            store = cls(directory, engine)
            with store.snapshot():
                return store
        except BaseException:
            engine.dispose()
            raise

    def close(self) -> None:
        """Close the connections; memory maps live as long as somebody holds them."""
        self._maps.clear()
        self._dead.clear()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def database(self) -> Path:
        """The path of the SQLite file."""
        return self.directory / DATABASE

    # ---- transactions --------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Give one consistent state to read from."""
        with mapped_errors(self.database), self._engine.connect() as connection:
            with connection.begin():
                yield Snapshot(self, connection)

    @contextmanager
    def write(self, timeout: float = LOCK_SECONDS) -> Iterator[Writer]:
        """Give the only writer; what it did counts when the block ends, wholly or not at all.

        Raises:
            Conflict: Another writer held the lock for longer than ``timeout`` seconds.
        """
        with mapped_errors(self.database), self._writers.connect() as connection:
            # Set outside of SQLAlchemy's transaction, which begins with taking the lock.
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
            with connection.begin():
                writer = Writer(self, connection)
                yield writer
                writer.finish()
            durable.step("after commit")
            writer.clean_up()

    def _load_state(self, connection: Connection) -> _State:
        facts = connection.execute(FACTS).one_or_none()
        if facts is None:
            raise CorruptData(f"{self.database} has no collection in it")
        with self._lock:
            state = self._state
        if state is not None and state.revision == facts.revision:
            return state
        files = {
            Modality(row.modality): RowFile(
                Modality(row.modality),
                row.generation,
                self._row_path(row.modality, row.generation),
                row.rows,
                row.dead,
            )
            for row in connection.execute(select(tables.row_files))
        }
        indexes = {
            Modality(row.modality): IndexFile(
                Modality(row.modality),
                row.generation,
                row.name,
                row.kind,
                row.rows,
                row.bytes,
                row.checksum,
                json.loads(row.params),
                row.created,
            )
            for row in connection.execute(select(tables.index_files))
        }
        state = _State(
            facts.revision, facts.version, facts.model, facts.fingerprint, files, indexes
        )
        with self._lock:
            if self._state is None or self._state.revision < state.revision:
                self._state = state
        return state

    def _row_path(self, modality: str, generation: int) -> Path:
        return self.directory / VECTORS / f"{modality}.{generation}.f32"

    # ---- checking and mending --------------------------------------------------------------

    def problems(self) -> Iterator[Fault]:
        """Yield what does not fit together: SQLite, row files, index files, each against each."""
        from muomni_search.store.check import check

        with self.snapshot() as snapshot:
            yield from check(self.directory, snapshot)

    def repair(self) -> list[str]:
        """Mend what can be derived; return a line for each thing done."""
        from muomni_search.store.check import repair

        with self.write() as writer:
            return repair(self.directory, writer)


FACTS = select(
    tables.collection.c.revision,
    tables.collection.c.version,
    tables.collection.c.model,
    tables.collection.c.fingerprint,
)
# Lists of values come in as one JSON parameter: no limit on their number, one compiled statement.
VALUES = func.json_each(bindparam("values")).table_valued("value", name="wanted")
WANTED = select(VALUES.c.value)
MATCHES = (
    select(
        tables.segments.c.row,
        tables.segments.c.item_id,
        tables.items.c.key,
        tables.segments.c.span_start,
        tables.segments.c.span_end,
    )
    .join(tables.items)
    .where(tables.segments.c.modality == bindparam("modality"), tables.segments.c.row.in_(WANTED))
)
SEGMENT_COUNT = (
    select(func.count())
    .where(tables.segments.c.item_id == tables.items.c.id)
    .scalar_subquery()
    .label("segments")
)
ITEM = select(tables.items, SEGMENT_COUNT)


class Snapshot:
    """One consistent state of the store."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self._store = store
        self._connection = connection
        self._state = store._load_state(connection)

    @property
    def version(self) -> int:
        """The state of the items: every commit that changes them counts it up."""
        return self._state.version

    @property
    def model(self) -> str:
        """The name or path of the model that the vectors came from."""
        return self._state.model

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that model."""
        return self._state.fingerprint

    # ---- rows ------------------------------------------------------------------------------

    def row_file(self, modality: Modality) -> RowFile | None:
        """Return what is known of a modality's row file, or None when it has none."""
        return self._state.row_files.get(modality)

    def vectors(self, modality: Modality) -> NDArray[np.float32]:
        """Return all rows of a modality, dead ones too, as a read-only map (rows, 256).

        Raises:
            CorruptData: The file is missing or too short.
        """
        file = self.row_file(modality)
        if file is None or not file.rows:
            return np.empty((0, DIM), np.float32)
        store = self._store
        with store._lock:
            cached = store._maps.get(modality)
            if cached is None or cached[0] != file.generation or len(cached[1]) < file.rows:
                cached = (file.generation, rows.map_rows(file.path, file.rows))
                store._maps[modality] = cached
            return cached[1][: file.rows]

    def dead(self, modality: Modality) -> NDArray[np.int64]:
        """Return the dead rows of a modality, sorted."""
        file = self.row_file(modality)
        if file is None or not file.dead:
            return np.empty(0, np.int64)
        store = self._store
        with store._lock:
            cached = store._dead.get(modality)
        if cached is None or cached[0] != self.version:
            table = tables.dead_rows
            query = select(table.c.row).where(table.c.modality == modality).order_by(table.c.row)
            cached = (self.version, self._numbers(query))
            with store._lock:
                store._dead[modality] = cached
        return cached[1]

    def index_file(self, modality: Modality) -> IndexFile | None:
        """Return the index of a modality's current rows, or None when it has none."""
        index, file = self._state.index_files.get(modality), self.row_file(modality)
        if index is None or file is None:
            return None
        fits = index.generation == file.generation and index.rows <= file.rows
        return index if fits else None

    def matching_rows(self, modality: Modality, condition: Filter) -> NDArray[np.int64]:
        """Return the rows of the items that a filter lets through, sorted."""
        table = tables.segments
        query = (
            select(table.c.row)
            .join(tables.items)
            .where(table.c.modality == modality, filter_to_sql(condition))
        )
        return np.sort(self._numbers(query))

    def matches(self, modality: Modality, wanted: NDArray[np.int64]) -> list[Match]:
        """Return what each row stands for, in the order of ``wanted``."""
        found = {
            row.row: Match(
                row.row, row.item_id, row.key, _span(modality, row.span_start, row.span_end)
            )
            for row in self._connection.execute(
                MATCHES, {"modality": modality, "values": json.dumps(wanted.tolist())}
            )
        }
        return [found[row] for row in wanted.tolist()]

    def row_items(self, modality: Modality) -> NDArray[np.int64]:
        """Return the item id of every row (rows,), -1 for dead ones."""
        file = self.row_file(modality)
        owners = np.full(file.rows if file else 0, -1, np.int64)
        table = tables.segments
        query = select(table.c.row, table.c.item_id).where(table.c.modality == modality)
        # The driver's own tuples: SQLAlchemy's rows are ten times slower to make an array of.
        cursor = self._connection.execute(query).cursor
        while page := cursor.fetchmany(PAGE):
            pairs = np.array(page, np.int64)
            owners[pairs[:, 0]] = pairs[:, 1]
        return owners

    # ---- items -----------------------------------------------------------------------------

    def items(self, item_ids: Iterable[int]) -> dict[int, Item]:
        """Return items by their ids."""
        query = ITEM.where(tables.items.c.id.in_(WANTED))
        return {row.id: _item(row) for row in self._for_values(query, item_ids)}

    def keys_of(self, item_ids: Iterable[int]) -> dict[int, str]:
        """Return the keys of items."""
        query = select(tables.items.c.id, tables.items.c.key).where(tables.items.c.id.in_(WANTED))
        return {row.id: row.key for row in self._for_values(query, item_ids)}

    def find(self, keys: Iterable[str]) -> dict[str, Item]:
        """Return items by their keys."""
        query = ITEM.where(tables.items.c.key.in_(WANTED))
        return {row.key: _item(row) for row in self._for_values(query, keys)}

    def item_ids(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the ids of the keys that there are."""
        query = select(tables.items.c.key, tables.items.c.id).where(tables.items.c.key.in_(WANTED))
        return {row.key: row.id for row in self._for_values(query, keys)}

    def item_rows(self, keys: Iterable[str]) -> dict[str, tuple[Modality, NDArray[np.int64]]]:
        """Return the modality and the rows of the items of ``keys``, segments in order."""
        table = tables.segments
        query = (
            select(tables.items.c.key, table.c.modality, table.c.row)
            .join(table)
            .where(tables.items.c.key.in_(WANTED))
            .order_by(table.c.item_id, table.c.ordinal)
        )
        found: dict[str, tuple[Modality, list[int]]] = {}
        for row in self._for_values(query, keys):
            found.setdefault(row.key, (Modality(row.modality), []))[1].append(row.row)
        return {key: (one, np.array(own, np.int64)) for key, (one, own) in found.items()}

    def iter_items(
        self,
        condition: Filter | None = None,
        modality: Sequence[Modality] | None = None,
        *,
        limit: int | None = None,
    ) -> Iterator[Item]:
        """Yield items by key."""
        query = _narrowed(ITEM, condition, modality).order_by(tables.items.c.key).limit(limit)
        for row in self._connection.execute(query).yield_per(1_000):
            yield _item(row)

    def iter_segments(self) -> Iterator[tuple[Item, Span | None, int]]:
        """Yield every segment with its item and its row, by key and place in the item."""
        table = tables.segments
        query = (
            select(
                tables.items,
                SEGMENT_COUNT,
                table.c.row,
                table.c.span_start,
                table.c.span_end,
            )
            .join(table)
            .order_by(tables.items.c.key, table.c.ordinal)
        )
        for row in self._connection.execute(query).yield_per(1_000):
            item = _item(row)
            yield item, _span(item.modality, row.span_start, row.span_end), row.row

    def known(self, keys: Iterable[str]) -> dict[str, Known]:
        """Return what is known of the keys that there are."""
        query = select(tables.items).where(tables.items.c.key.in_(WANTED))
        return {row.key: _known(row) for row in self._for_values(query, keys)}

    def known_under(self, root: str) -> Iterator[Known]:
        """Yield what is known of the items of a folder."""
        query = select(tables.items).where(tables.items.c.root == root)
        for row in self._connection.execute(query).yield_per(1_000):
            yield _known(row)

    def by_hash(self, hashes: Iterable[str]) -> dict[str, list[Known]]:
        """Return the items with a content of these hashes."""
        query = select(tables.items).where(tables.items.c.content_hash.in_(WANTED))
        found: dict[str, list[Known]] = {}
        for row in self._for_values(query.order_by(tables.items.c.key), hashes):
            found.setdefault(row.content_hash, []).append(_known(row))
        return found

    # ---- the rest ----------------------------------------------------------------------------

    def counts(self) -> dict[Modality, dict[str, int]]:
        """Return the numbers of items and segments of each modality that has any."""
        found: dict[Modality, dict[str, int]] = {}
        for name, table in (("items", tables.items), ("segments", tables.segments)):
            query = select(table.c.modality, func.count()).group_by(table.c.modality)
            for modality, count in self._connection.execute(query):
                found.setdefault(Modality(modality), {"items": 0, "segments": 0})[name] = count
        return found

    def failures(self) -> list[Failure]:
        """Return the inputs that could not be used."""
        table = tables.failures
        query = select(
            table.c.source,
            table.c.key,
            table.c.error,
            table.c.hint,
            table.c.attempts,
            table.c.first,
            table.c.last,
        ).order_by(table.c.source)
        return [Failure(*row) for row in self._connection.execute(query)]

    def job(self, output: str) -> Job | None:
        """Return the job that writes an output, or None."""
        table = tables.jobs
        row = self._connection.execute(select(table).where(table.c.output == output)).one_or_none()
        return None if row is None else Job(**row._mapping)

    # ---- for checks --------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        """The connection of this transaction, for the checks beside this module."""
        return self._connection

    def row_numbers(self, table: Table, modality: Modality) -> NDArray[np.int64]:
        """Return the rows of a modality that a table speaks of."""
        return self._numbers(select(table.c.row).where(table.c.modality == modality))

    def block_sums(self, modality: Modality) -> dict[int, int]:
        """Return the checksum of each block of a modality's rows."""
        table = tables.row_blocks
        query = select(table.c.block, table.c.checksum).where(table.c.modality == modality)
        return {row.block: row.checksum for row in self._connection.execute(query)}

    def _for_values(self, query: Select[Any], values: Iterable[Any]) -> Iterator[Any]:
        yield from self._connection.execute(query, {"values": json.dumps(list(values))})

    def _numbers(self, query: Select[Any]) -> NDArray[np.int64]:
        cursor = self._connection.execute(query).cursor
        return np.fromiter((number for (number,) in cursor), np.int64)


class Writer(Snapshot):
    """The one who may change the store; sees what it has done itself."""

    def __init__(self, store: Store, connection: Connection) -> None:
        super().__init__(store, connection)
        self._changed_items = False
        self._unlinked: list[Path] = []

    # ---- items -----------------------------------------------------------------------------

    def put(self, items: Sequence[NewItem]) -> None:
        """Store items, new or in place of those with the same keys.

        Raises:
            InvalidInput: Metadata that is not JSON, or vectors of another width.
        """
        newest = {item.key: item for item in items}
        if not newest:
            return
        self._changed_items = True
        old = self.item_ids(newest)
        self._drop_segments(old.values())
        table = tables.items
        next_id = (self._connection.execute(select(func.max(table.c.id))).scalar() or 0) + 1
        stamp = now()
        ids: dict[str, int] = {}
        fresh, changed = [], []
        for key, item in newest.items():
            values = _item_values(item)
            if key in old:
                ids[key] = old[key]
                changed.append({"item": old[key], **values})
            else:
                ids[key] = next_id
                fresh.append({"id": next_id, "added": stamp, **values})
                next_id += 1
        if fresh:
            self._connection.execute(insert(table), fresh)
        if changed:
            self._connection.execute(update(table).where(table.c.id == bindparam("item")), changed)
        for modality in Modality:
            group = [item for item in newest.values() if item.modality == modality]
            if group:
                self._append(modality, group, ids)

    def touch(self, key: str, record: Record, content_hash: str) -> None:
        """Write down what changed about an item whose content did not."""
        self._changed_items = True
        self._connection.execute(
            update(tables.items)
            .where(tables.items.c.key == key)
            .values(**_outside(record), content_hash=content_hash)
        )

    def move(self, key: str, record: Record) -> None:
        """Give an item the key, source and metadata of a record; its vectors stay."""
        self._changed_items = True
        self._connection.execute(
            update(tables.items)
            .where(tables.items.c.key == key)
            .values(**_outside(record), key=record.key)
        )

    def delete(self, keys: Sequence[str]) -> int:
        """Delete the items of ``keys``; return how many there were."""
        doomed = list(self.item_ids(keys).values())
        if not doomed:
            return 0
        self._changed_items = True
        self._drop_segments(doomed)
        query = delete(tables.items).where(tables.items.c.id.in_(WANTED))
        self._connection.execute(query, {"values": json.dumps(doomed)})
        return len(doomed)

    def _drop_segments(self, item_ids: Iterable[int]) -> None:
        """Mark the rows of items as dead."""
        values = {"values": json.dumps(list(item_ids))}
        if values["values"] == "[]":
            return
        own = tables.segments.c.item_id.in_(WANTED)
        query = select(tables.segments.c.modality, tables.segments.c.row).where(own)
        dead = [{"modality": row.modality, "row": row.row} for row in self._connection.execute(query, values)]
        if not dead:
            return
        self._connection.execute(insert(tables.dead_rows), dead)
        self._connection.execute(delete(tables.segments).where(own), values)
        for modality in Modality:
            count = sum(row["modality"] == modality for row in dead)
            if count:
                self._connection.execute(
                    update(tables.row_files)
                    .where(tables.row_files.c.modality == modality)
                    .values(dead=tables.row_files.c.dead + count)
                )

    def _append(
        self, modality: Modality, items: Sequence[NewItem], ids: Mapping[str, int]
    ) -> None:
        """Append the vectors of items to their row file and write down whose they are."""
        table = tables.row_files
        row = self._connection.execute(
            select(table.c.generation, table.c.rows).where(table.c.modality == modality)
        ).one_or_none()
        generation, start = (row.generation, row.rows) if row else (0, 0)
        vectors = np.concatenate([item.vectors for item in items])
        if vectors.ndim != 2 or vectors.shape[1] != DIM:
            raise InvalidInput(f"vectors of shape {vectors.shape}, expected (n, {DIM})")
        path = self._store._row_path(modality, generation)
        rows.append_rows(path, start, vectors)
        segments = []
        number = start
        for item in items:
            if len(item.spans) != len(item.vectors):
                raise InvalidInput(
                    f"{item.key}: {len(item.vectors)} vectors for {len(item.spans)} segments"
                )
            for ordinal, span in enumerate(item.spans):
                segments.append(
                    {
                        "modality": modality,
                        "row": number,
                        "item_id": ids[item.key],
                        "ordinal": ordinal,
                        "span_start": span.start if span else None,
                        "span_end": span.end if span else None,
                    }
                )
                number += 1
        self._connection.execute(insert(tables.segments), segments)
        self._write_checksums(modality, start, vectors)
        statement = upsert(table).values(
            modality=modality, generation=generation, rows=number, dead=0
        )
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["modality"], set_={"rows": number})
        )

    def _write_checksums(
        self, modality: Modality, start: int, vectors: NDArray[np.float32]
    ) -> None:
        table = tables.row_blocks
        previous = self._connection.execute(
            select(table.c.checksum).where(
                table.c.modality == modality, table.c.block == start // rows.BLOCK_ROWS
            )
        ).scalar()
        sums = [
            {"modality": modality, "block": block, "checksum": checksum}
            for block, checksum in rows.block_checksums(
                vectors, start=start, previous=previous or 0
            )
        ]
        statement = upsert(table)
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["modality", "block"],
                set_={"checksum": statement.excluded.checksum},
            ),
            sums,
        )

    # ---- failures, indexes, jobs -------------------------------------------------------------

    def fail(self, problems: Sequence[Problem]) -> None:
        """Write down inputs that could not be used, once more for those that failed before."""
        if not problems:
            return
        stamp = now()
        statement = upsert(tables.failures)
        excluded = statement.excluded
        self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["source"],
                set_={
                    "key": excluded.key,
                    "error": excluded.error,
                    "hint": excluded.hint,
                    "attempts": tables.failures.c.attempts + 1,
                    "last": excluded.last,
                },
            ),
            [
                {
                    "source": problem.source,
                    "key": problem.key,
                    "error": problem.error,
                    "hint": problem.hint,
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
            query = delete(tables.failures).where(tables.failures.c.source.in_(WANTED))
            self._connection.execute(query, {"values": json.dumps(list(sources))})

    def set_index(self, index: IndexFile) -> None:
        """Make a finished file the index of its modality; the one before it is removed."""
        self.drop_index(index.modality, keep=index.name)
        values = {
            "modality": index.modality,
            "generation": index.generation,
            "name": index.name,
            "kind": index.kind,
            "rows": index.rows,
            "bytes": index.bytes,
            "checksum": index.checksum,
            "params": json.dumps(dict(index.params), sort_keys=True),
            "created": now(),
        }
        self._connection.execute(insert(tables.index_files), values)

    def drop_index(self, modality: Modality, *, keep: str | None = None) -> None:
        """Forget the index of a modality and remove its file."""
        table = tables.index_files
        own = table.c.modality == modality
        name = self._connection.execute(select(table.c.name).where(own)).scalar()
        self._connection.execute(delete(table).where(own))
        if name is not None and name != keep:
            self._unlinked.append(self._store.directory / INDEX / name)

    def set_job(self, job: Job) -> None:
        """Write down how far a job is."""
        values = {
            "fingerprint": job.fingerprint,
            "done": job.done,
            "total": job.total,
            "state": job.state,
            "updated": now(),
        }
        statement = upsert(tables.jobs).values(output=job.output, **values)
        self._connection.execute(
            statement.on_conflict_do_update(index_elements=["output"], set_=values)
        )

    def drop_job(self, output: str) -> None:
        """Forget a job."""
        self._connection.execute(delete(tables.jobs).where(tables.jobs.c.output == output))

    def forget_vectors(self, modality: Modality, damaged: NDArray[np.int64]) -> list[str]:
        """Delete the items that lost rows, list them as failures; return their keys."""
        keys = sorted({match.key for match in self.matches(modality, self._owned(modality, damaged))})
        lost = list(self.find(keys).values())
        self.fail(
            [
                Problem(
                    item.source or item.key,
                    f"the vectors of {item.key} were damaged on disk",
                    "add it again",
                    item.key,
                )
                for item in lost
            ]
        )
        self.delete(keys)
        return keys

    def _owned(self, modality: Modality, damaged: NDArray[np.int64]) -> NDArray[np.int64]:
        table = tables.segments
        query = select(table.c.row).where(table.c.modality == modality, table.c.row.in_(WANTED))
        found = self._for_values(query, damaged.tolist())
        return np.sort(np.fromiter((row.row for row in found), np.int64))

    def replace_row_file(
        self, modality: Modality, vectors: NDArray[np.float32]
    ) -> None:
        """Write all rows of a modality into a new generation, each under its old number."""
        file = self.row_file(modality)
        assert file is not None
        generation = file.generation + 1
        path = self._store._row_path(modality, generation)
        path.unlink(missing_ok=True)
        rows.append_rows(path, 0, vectors)
        self.drop_index(modality)
        self._connection.execute(
            update(tables.row_files)
            .where(tables.row_files.c.modality == modality)
            .values(generation=generation, rows=len(vectors))
        )
        self._connection.execute(
            delete(tables.row_blocks).where(tables.row_blocks.c.modality == modality)
        )
        self._write_checksums(modality, 0, vectors)
        self._changed_items = True
        self._unlinked.append(file.path)

    # ---- the end of a write --------------------------------------------------------------------

    def finish(self) -> None:
        """Count the state up, as the last statement before the commit."""
        table = tables.collection
        step = 1 if self._changed_items else 0
        self._connection.execute(
            update(table).values(revision=table.c.revision + 1, version=table.c.version + step)
        )

    def clean_up(self) -> None:
        """Remove the files that the commit has made useless."""
        for path in self._unlinked:
            durable.unlink(path)


def now() -> str:
    """Return the time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _narrowed(
    query: Select[Any], condition: Filter | None, modality: Sequence[Modality] | None
) -> Select[Any]:
    if condition is not None:
        query = query.where(filter_to_sql(condition))
    if modality is not None:
        query = query.where(tables.items.c.modality.in_([str(one) for one in modality]))
    return query


def _span(modality: Modality, start: int | None, end: int | None) -> Span | None:
    if start is None or end is None or modality not in SPAN_UNITS:
        return None
    return Span(SPAN_UNITS[modality], start, end)


def _item(row: Any) -> Item:
    return Item(
        key=row.key,
        modality=Modality(row.modality),
        source=row.source,
        text=row.text,
        metadata=json.loads(row.metadata),
        segments=row.segments,
        added=row.added,
    )


def _known(row: Any) -> Known:
    return Known(
        item_id=row.id,
        key=row.key,
        modality=Modality(row.modality),
        root=row.root,
        source=row.source,
        size=row.size,
        mtime_ns=row.mtime_ns,
        content_hash=row.content_hash,
        metadata=json.loads(row.metadata),
    )


def _item_values(item: NewItem) -> dict[str, Any]:
    return {
        "key": item.key,
        "modality": item.modality,
        "source": item.source,
        "root": item.root,
        "text": item.text,
        "metadata": to_json(item.metadata or {}, item.key),
        "content_hash": item.content_hash,
        "size": item.size,
        "mtime_ns": item.mtime_ns,
    }


def _outside(record: Record) -> dict[str, Any]:
    """Return what can change about an item while its content stays."""
    return {
        "source": record.source,
        "root": record.root,
        "metadata": to_json(record.metadata, record.key),
        "size": record.size,
        "mtime_ns": record.mtime_ns,
    }


def to_json(metadata: Mapping[str, Any], key: str) -> str:
    """Return metadata as JSON, its keys sorted.

    Raises:
        InvalidInput: It is not JSON: NaN, dates, bytes, …
    """
    try:
        return json.dumps(
            dict(metadata),
            ensure_ascii=False,
            allow_nan=False,
            sort_keys=True,
            separators=(",", ":"),
        )
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the metadata of {key} is no JSON object: {error}",
            hint="use strings, finite numbers, true, false, null, lists and objects",
        ) from error
