"""Reading: a ``Snapshot`` is one read transaction, whose answers all fit together."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    Row,
    Select,
    Table,
    bindparam,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.sqlite import dialect

from muomni_search.errors import CorruptData
from muomni_search.filters import Filter
from muomni_search.items import Item, Modality, Span
from muomni_search.store import tables
from muomni_search.store.engine import driver_connection
from muomni_search.store.records import (
    Failure,
    IndexFile,
    Job,
    Known,
    Match,
    RowFile,
    Settings,
    Shown,
)
from muomni_search.store.rows import NO_ROWS, MappedRows
from muomni_search.store.sql_filter import filter_to_sql

__all__ = [
    "FIELD_INDEX",
    "INDEX",
    "STAGE",
    "VECTORS",
    "Snapshot",
    "State",
    "Statement",
    "item_of",
    "read_state",
    "row_path",
    "span_of",
]

VECTORS, INDEX = "vectors", "index"
# Where the vectors of another model grow until the collection moves to it.
STAGE = "reembed"
SPAN_UNITS: Mapping[Modality, Literal["char", "ms"]] = {
    Modality.TEXT: "char",
    Modality.AUDIO: "ms",
}
# How many rows are read from SQLite at a time where there may be millions.
PAGE = 10_000
# Items come with their texts, so fewer of them.
ITEMS_PAGE = 1_000
# How much is kept of arrays of row numbers: dead rows and owners of each modality, and the filters
# that were asked for last. At a million rows one takes up to 8 MB.
ARRAY_BYTES = 64_000_000
# Names of the values of a lookup that are given one by one.
FEW = tuple(f"value_{number}" for number in range(16))
# What an array takes beside its numbers, so that there is an end of empty ones too.
EACH_ARRAY_BYTES = 1_000
# Of so few items, a share of all rows, each one's rows are looked up; for more it is faster to read
# the owners of all rows, which are kept.
LOOKED_UP_SHARE = 0.01


# ---- the state -----------------------------------------------------------------------------------


class _Arrays:
    """Arrays of one version of the items, made when they are asked for; the oldest give way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: OrderedDict[tuple[str, ...], NDArray[np.int64]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, ...], make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        made = make()
        made.flags.writeable = False
        with self._lock:
            if key not in self._arrays:  # another thread may have made it too
                self._arrays[key] = made
                self._bytes += made.nbytes + EACH_ARRAY_BYTES
            while self._bytes > ARRAY_BYTES and len(self._arrays) > 1:
                _, oldest = self._arrays.popitem(last=False)
                self._bytes -= oldest.nbytes + EACH_ARRAY_BYTES
        return made


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What is known of one revision of the store without asking again."""

    created: str
    revision: int
    version: int
    model: str
    fingerprint: str
    settings: Settings
    row_files: Mapping[Modality, RowFile]
    index_files: Mapping[Modality, IndexFile]
    maps: dict[Modality, MappedRows] = field(default_factory=dict)
    arrays: _Arrays = field(default_factory=_Arrays)

    def map_rows(self, old: State | None) -> None:
        """Map the row files into memory, those that did not change once more as they are.

        A file that cannot be mapped is left out: whoever asks for its rows is told why.
        """
        for modality, file in self.row_files.items():
            if old is not None and old.row_files.get(modality) == file and modality in old.maps:
                self.maps[modality] = old.maps[modality]
            elif file.rows:
                try:
                    self.maps[modality] = MappedRows(file.path, file.rows)
                except CorruptData:
                    continue

    @property
    def is_mapped(self) -> bool:
        """Whether all rows are there to be read."""
        return all(modality in self.maps for modality, file in self.row_files.items() if file.rows)


def read_state(connection: Connection, directory: Path, newest: State | None = None) -> State:
    """Return the state that a transaction sees: ``newest`` itself where it is that one.

    Raises:
        CorruptData: The database says nothing about itself.
    """
    facts = next(FACTS.run(connection), None)
    if facts is None:
        raise CorruptData(
            f"{directory} lacks the facts about itself", hint="restore it from a copy"
        )
    # Another collection in the same place begins to count anew.
    if newest is not None and newest.created != facts.created:
        newest = None
    if newest is not None and newest.revision == facts.revision:
        return newest
    row_files = [_row_file(row, directory) for row in connection.execute(ROW_FILES)]
    index_files = [_index_file(row) for row in connection.execute(INDEX_FILES)]
    # The same items in the same files have the same dead rows, owners and matches.
    is_same = (
        newest is not None
        and newest.version == facts.version
        and [file.generation for file in newest.row_files.values()]
        == [file.generation for file in row_files]
    )
    return State(
        created=facts.created,
        revision=facts.revision,
        version=facts.version,
        model=facts.model,
        fingerprint=facts.fingerprint,
        settings=Settings(**json.loads(facts.settings)),
        row_files={file.modality: file for file in row_files},
        index_files={file.modality: file for file in index_files},
        arrays=newest.arrays if newest and is_same else _Arrays(),
    )


def row_path(directory: Path, modality: str, generation: int) -> Path:
    """Return the path of a row file."""
    return directory / VECTORS / f"{modality}.{generation}.f32"


def _row_file(row: Row[Any], directory: Path) -> RowFile:
    return RowFile(
        modality=Modality(row.modality),
        generation=row.generation,
        path=row_path(directory, row.modality, row.generation),
        rows=row.rows,
        dead=row.dead,
    )


def _index_file(row: Row[Any]) -> IndexFile:
    return IndexFile(
        modality=Modality(row.modality),
        generation=row.generation,
        name=row.name,
        kind=row.kind,
        rows=row.rows,
        bytes=row.bytes,
        checksum=row.checksum,
        params=json.loads(row.params),
        created=row.created,
    )


# ---- statements ----------------------------------------------------------------------------------


class Statement:
    """A SELECT compiled once and given to the driver as it is.

    For the few statements of a query SQLAlchemy's own work takes longer than SQLite's.
    """

    def __init__(self, query: Select[Any]) -> None:
        self._query = query

    @cached_property
    def _compiled(self) -> tuple[str, Sequence[str], Callable[[Iterable[Any]], Any]]:
        compiled = self._query.compile(dialect=dialect())
        columns = [(column.key, Any) for column in self._query.selected_columns]
        row = NamedTuple("Row", columns)  # type: ignore[misc]
        return str(compiled), tuple(compiled.positiontup or ()), row._make

    def run(self, connection: Connection, **values: Any) -> Iterator[Any]:
        """Yield what it finds, as named tuples."""
        if not connection.in_transaction():
            connection.begin()
        sql, names, make = self._compiled
        cursor = driver_connection(connection).execute(sql, [values[name] for name in names])
        return map(make, cursor)


class Lookup:
    """A SELECT of what belongs to some values: a query's few ones are given to SQLite one by one.

    Any number goes in as one JSON array, which SQLite takes longer to read.

    Args:
        query: The SELECT.
        column: What has these values.
    """

    def __init__(self, query: Select[Any], column: Column[Any]) -> None:
        self._few = Statement(query.where(column.in_([bindparam(name) for name in FEW])))
        self._many = Statement(query.where(column.in_(WANTED)))

    def run(self, connection: Connection, values: Sequence[Any], **more: Any) -> Iterator[Any]:
        """Yield what it finds, as named tuples."""
        if len(values) <= len(FEW):
            with suppress(UnicodeEncodeError):  # half a character: JSON can say it, UTF-8 cannot
                return self._few.run(connection, **dict(zip_longest(FEW, values)), **more)
        return self._many.run(connection, values=json.dumps(values), **more)


FACTS = Statement(
    select(
        tables.collection.c.created,
        tables.collection.c.revision,
        tables.collection.c.version,
        tables.collection.c.model,
        tables.collection.c.fingerprint,
        tables.collection.c.settings,
    )
)
ROW_FILES = select(tables.row_files)
INDEX_FILES = select(tables.index_files)
WANTED = select(func.json_each(bindparam("values")).table_valued("value", name="wanted").c.value)
SEGMENT_COUNT = (
    select(func.count())
    .where(tables.segments.c.item_id == tables.items.c.id)
    .correlate(tables.items)
    .scalar_subquery()
    .label("segments")
)
ITEM = select(
    tables.items.c.id,
    tables.items.c.key,
    tables.items.c.modality,
    tables.items.c.source,
    tables.items.c.text,
    tables.items.c.metadata,
    tables.items.c.added,
    SEGMENT_COUNT,
)
ITEMS_BY_ID = Lookup(ITEM, tables.items.c.id)
# What a hit shows of its item beside what is known of its row.
SHOWN_BY_ID = Lookup(
    select(
        tables.items.c.id,
        tables.items.c.key,
        tables.items.c.source,
        tables.items.c.text,
        tables.items.c.metadata,
    ),
    tables.items.c.id,
)
ITEMS_BY_KEY = Lookup(ITEM, tables.items.c.key)
KEYS_BY_ID = Lookup(select(tables.items.c.id, tables.items.c.key), tables.items.c.id)
IDS_BY_KEY = Lookup(select(tables.items.c.key, tables.items.c.id), tables.items.c.key)
KEYS = select(tables.items.c.key).order_by(tables.items.c.key)
KNOWN = select(
    tables.items.c.id,
    tables.items.c.key,
    tables.items.c.modality,
    tables.items.c.root,
    tables.items.c.source,
    tables.items.c.size,
    tables.items.c.mtime_ns,
    tables.items.c.content_hash,
    tables.items.c.metadata,
)
KNOWN_BY_KEY = Lookup(KNOWN, tables.items.c.key)
KNOWN_BY_ROOT = KNOWN.where(tables.items.c.root == bindparam("root")).order_by(tables.items.c.key)
KNOWN_BY_HASH = Lookup(
    KNOWN.where(tables.items.c.size.is_not(None)).order_by(tables.items.c.key),
    tables.items.c.content_hash,
)
MATCHES = Lookup(
    select(
        tables.segments.c.row,
        tables.segments.c.item_id,
        tables.items.c.key,
        tables.segments.c.span_start,
        tables.segments.c.span_end,
    )
    .join(tables.items)
    .where(tables.segments.c.modality == bindparam("modality")),
    tables.segments.c.row,
)
DEAD = (
    select(tables.dead_rows.c.row)
    .where(tables.dead_rows.c.modality == bindparam("modality"))
    .order_by(tables.dead_rows.c.row)
)
OWNERS = select(tables.segments.c.row, tables.segments.c.item_id).where(
    tables.segments.c.modality == bindparam("modality")
)
# A number for each segment, spread evenly: the fractions of id · 0.618… + ordinal · 0.414…, in
# 32 bits (Weyl). Of the segment and not of its row, which a compaction changes.
SPREAD = literal_column(
    "((item_id & 1073741823) * 2654435761 + ordinal * 1779033703) & 4294967295", Integer
)
SAMPLE = (
    select(tables.segments.c.row)
    .where(tables.segments.c.modality == bindparam("modality"))
    .order_by(SPREAD, tables.segments.c.row)
    .limit(bindparam("most"))
)
# What the index ``segments_sample`` holds: the 64th of the segments that comes first.
SAMPLE_OF_MANY = SAMPLE.where(literal_column("67108864") > SPREAD)
ROWS_BY_KEY = Lookup(
    select(tables.items.c.key, tables.segments.c.modality, tables.segments.c.row)
    .join(tables.segments)
    .order_by(tables.segments.c.item_id, tables.segments.c.ordinal),
    tables.items.c.key,
)
ROWS_BY_ID = Lookup(
    # The sign keeps SQLite from going through all rows of the modality instead of the items'.
    select(tables.segments.c.row).where(
        literal_column("+segments.modality") == bindparam("modality")
    ),
    tables.segments.c.item_id,
)
SEGMENTS = (
    ITEM.add_columns(
        tables.segments.c.row, tables.segments.c.span_start, tables.segments.c.span_end
    )
    .join(tables.segments)
    .order_by(tables.items.c.key, tables.segments.c.ordinal)
)
COUNTS = select(
    tables.segments.c.modality,
    func.count().label("segments"),
    # Or the sum of truth values is taken for one itself.
    func.sum(tables.segments.c.ordinal == 0, type_=Integer).label("items"),
).group_by(tables.segments.c.modality)
# The index of a metadata field is known by its name: this, a hash, for SQLite's names know no case,
# and the names that lead to the field as JSON.
FIELD_INDEX = "field "
FIELD_INDEXES = text("SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'field %'")
FAILURES = select(
    tables.failures.c.source,
    tables.failures.c.key,
    tables.failures.c.error,
    tables.failures.c.hint,
    tables.failures.c.attempts,
    tables.failures.c.first,
    tables.failures.c.last,
).order_by(tables.failures.c.source)
JOB = select(tables.jobs).where(tables.jobs.c.output == bindparam("output"))


# ---- the snapshot --------------------------------------------------------------------------------


class Snapshot:
    """One consistent state of the store."""

    def __init__(self, connection: Connection, state: State) -> None:
        self._connection: Connection | None = connection
        self._state = state

    @property
    def connection(self) -> Connection:
        """The connection whose transaction this is.

        Raises:
            RuntimeError: The transaction is over: another reader may have the connection.
        """
        if self._connection is None:
            raise RuntimeError("this state of the collection was let go of: open another view")
        return self._connection

    def end(self) -> None:
        """Read no more: the transaction is over."""
        self._connection = None

    @property
    def state(self) -> State:
        """What is known without asking."""
        return self._state

    @property
    def version(self) -> int:
        """The state of the items: every commit that changes them counts it up."""
        return self.state.version

    @property
    def model(self) -> str:
        """The name or path of the model that the vectors came from."""
        return self.state.model

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that model."""
        return self.state.fingerprint

    @property
    def settings(self) -> Settings:
        """What the collection was asked to keep to."""
        return self.state.settings

    # ---- rows ------------------------------------------------------------------------------

    def row_file(self, modality: Modality) -> RowFile | None:
        """Return what is known of a modality's row file, or None when it has none."""
        return self.state.row_files.get(modality)

    def vectors(self, modality: Modality) -> NDArray[np.float32]:
        """Return all rows of a modality, dead ones too, as a read-only map (rows, 256).

        Raises:
            CorruptData: The file is missing or too short.
        """
        file = self.row_file(modality)
        if file is None or not file.rows:
            return NO_ROWS
        mapped = self.state.maps.get(modality)
        if mapped is None:
            mapped = MappedRows(file.path, file.rows)
        return mapped.vectors()

    def dead(self, modality: Modality) -> NDArray[np.int64]:
        """Return the dead rows of a modality, sorted; read-only."""
        return self.state.arrays.get(
            ("dead", modality), lambda: self._numbers(DEAD, {"modality": modality})
        )

    def row_items(self, modality: Modality) -> NDArray[np.int64]:
        """Return the item id of every row (rows,), -1 for dead ones; read-only."""
        return self.state.arrays.get(("owners", modality), lambda: self._owners(modality))

    def _owners(self, modality: Modality) -> NDArray[np.int64]:
        file = self.row_file(modality)
        owners = np.full(file.rows if file else 0, -1, np.int64)
        # The driver's own tuples: SQLAlchemy's rows are ten times slower to make an array of.
        cursor = self.connection.execute(OWNERS, {"modality": modality}).cursor
        while page := cursor.fetchmany(PAGE):
            pairs = np.array(page, np.int64)
            owners[pairs[:, 0]] = pairs[:, 1]
        return owners

    def sample_rows(self, modality: Modality, most: int) -> NDArray[np.int64]:
        """Return the rows of a fixed sample of up to ``most`` segments of a modality, sorted.

        Those with the lowest hashes: a segment that comes or goes changes one of them at most, and
        one that moves to another row none.
        """
        wanted = {"modality": modality, "most": most}
        rows = self._numbers(SAMPLE_OF_MANY, wanted)
        return np.sort(rows if len(rows) == most else self._numbers(SAMPLE, wanted))

    def matching_rows(self, modality: Modality, condition: Filter) -> NDArray[np.int64]:
        """Return the rows of the items that a filter lets through, sorted; read-only."""
        # Its text, for 1, 1.0 and true are one key of a dict but three filters.
        key = repr(condition)
        return self.state.arrays.get(
            ("filter", modality, key),
            lambda: self._rows_of(
                modality,
                self.state.arrays.get(("items", key), lambda: self._matching(condition)),
            ),
        )

    def _matching(self, condition: Filter) -> NDArray[np.int64]:
        """Return the ids of the items that a filter lets through, whatever their modality.

        Asked of ``items`` alone: an index of a field answers it without a look at the items, and
        what the filter costs is paid once for all modalities.
        """
        return self._numbers(select(tables.items.c.id).where(filter_to_sql(condition)))

    def _rows_of(self, modality: Modality, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of items in a modality, sorted."""
        file = self.row_file(modality)
        if file is None or not len(item_ids):
            return np.empty(0, np.int64)
        if len(item_ids) <= LOOKED_UP_SHARE * file.rows:
            found = self._for_values(ROWS_BY_ID, item_ids.tolist(), modality=modality)
            return np.sort(np.fromiter((row.row for row in found), np.int64))
        owners = self.row_items(modality)
        is_wanted = np.zeros(max(int(item_ids.max()), int(owners.max(initial=0))) + 2, bool)
        is_wanted[item_ids] = True
        return np.flatnonzero(is_wanted[owners])  # the owner -1 of dead rows is the last, unwanted

    def index_file(self, modality: Modality) -> IndexFile | None:
        """Return the index of a modality's current rows, or None when it has none."""
        index, file = self.state.index_files.get(modality), self.row_file(modality)
        if index is None or file is None:
            return None
        fits = index.generation == file.generation and index.rows <= file.rows
        return index if fits else None

    def matches(self, modality: Modality, wanted: NDArray[np.int64]) -> list[Match]:
        """Return what each row stands for, in the order of ``wanted``.

        Raises:
            CorruptData: A row is dead or nobody's.
        """
        rows = wanted.tolist()
        found = {
            row.row: Match(
                row.row, row.item_id, row.key, span_of(modality, row.span_start, row.span_end)
            )
            for row in self._for_values(MATCHES, rows, modality=modality)
        }
        if len(found) < len(set(rows)):
            lost = next(row for row in rows if row not in found)
            raise CorruptData(
                f"row {lost} of {modality} is no item's", hint="run: muomni verify --repair"
            )
        return [found[row] for row in rows]

    # ---- items -----------------------------------------------------------------------------

    def items(self, item_ids: Iterable[int]) -> dict[int, Item]:
        """Return items by their ids."""
        return {row.id: item_of(row) for row in self._for_values(ITEMS_BY_ID, item_ids)}

    def shown(self, item_ids: Iterable[int]) -> dict[int, Shown]:
        """Return what hits show of items, by their ids."""
        return {
            row.id: Shown(row.source, row.text, _metadata_of(row))
            for row in self._for_values(SHOWN_BY_ID, item_ids)
        }

    def find(self, keys: Iterable[str]) -> dict[str, Item]:
        """Return items by their keys."""
        return {row.key: item_of(row) for row in self._for_values(ITEMS_BY_KEY, keys)}

    def keys_of(self, item_ids: Iterable[int]) -> dict[int, str]:
        """Return the keys of items."""
        return {row.id: row.key for row in self._for_values(KEYS_BY_ID, item_ids)}

    def item_ids(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the ids of the keys that there are."""
        return {row.key: row.id for row in self._for_values(IDS_BY_KEY, keys)}

    def item_rows(self, keys: Iterable[str]) -> dict[str, tuple[Modality, NDArray[np.int64]]]:
        """Return the modality and the rows of the items of ``keys``, segments in order."""
        found: dict[str, tuple[Modality, list[int]]] = {}
        for row in self._for_values(ROWS_BY_KEY, keys):
            found.setdefault(row.key, (Modality(row.modality), []))[1].append(row.row)
        return {key: (one, np.array(own, np.int64)) for key, (one, own) in found.items()}

    def iter_items(
        self,
        condition: Filter | None = None,
        modality: Sequence[Modality] | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
    ) -> Iterator[Item]:
        """Yield items by key; with ``after`` those that come behind this key."""
        query = ITEM.order_by(tables.items.c.key).limit(limit)
        if after is not None:
            query = query.where(tables.items.c.key > after)
        if condition is not None:
            query = query.where(filter_to_sql(condition))
        if modality is not None:
            query = query.where(tables.items.c.modality.in_([str(one) for one in modality]))
        for row in self._streamed(query, ITEMS_PAGE):
            yield item_of(row)

    def iter_keys(self, modality: Modality | None = None) -> Iterator[str]:
        """Yield all keys, or those of a modality, sorted."""
        query = KEYS if modality is None else KEYS.where(tables.items.c.modality == modality)
        for row in self._streamed(query, PAGE):
            yield row.key

    def iter_segments(self) -> Iterator[tuple[Item, Span | None, int]]:
        """Yield every segment with its item and its row, by key and place in the item."""
        for row in self._streamed(SEGMENTS, ITEMS_PAGE):
            item = item_of(row)
            yield item, span_of(item.modality, row.span_start, row.span_end), row.row

    def known(self, keys: Iterable[str]) -> dict[str, Known]:
        """Return what is known of the keys that there are."""
        return {row.key: _known(row) for row in self._for_values(KNOWN_BY_KEY, keys)}

    def known_under(self, root: str) -> Iterator[Known]:
        """Yield what is known of the items of a folder, by key."""
        for row in self._streamed(KNOWN_BY_ROOT, ITEMS_PAGE, root=root):
            yield _known(row)

    def by_hash(self, hashes: Iterable[str]) -> dict[str, list[Known]]:
        """Return the items whose files have a content of these hashes, by key."""
        found: dict[str, list[Known]] = {}
        for row in self._for_values(KNOWN_BY_HASH, hashes):
            found.setdefault(row.content_hash, []).append(_known(row))
        return found

    # ---- the rest ----------------------------------------------------------------------------

    def counts(self) -> dict[Modality, dict[str, int]]:
        """Return the numbers of items and segments of each modality that has any."""
        return {
            Modality(row.modality): {"items": row.items, "segments": row.segments}
            for row in self.connection.execute(COUNTS)
        }

    def count_items(self, condition: Filter | None) -> dict[Modality, int]:
        """Return how many items of each modality a filter lets through."""
        table = tables.items
        found = select(table.c.modality, func.count()).group_by(table.c.modality)
        if condition is not None:
            found = found.where(filter_to_sql(condition))
        counts = dict.fromkeys(Modality, 0)
        counts |= {Modality(name): count for name, count in self.connection.execute(found)}
        return counts

    def failures(self) -> list[Failure]:
        """Return the inputs that could not be used, by source."""
        return [Failure(*row) for row in self.connection.execute(FAILURES)]

    def job(self, output: str) -> Job | None:
        """Return the job that writes an output, or None."""
        row = self.connection.execute(JOB, {"output": output}).mappings().one_or_none()
        return None if row is None else Job(**row)

    # ---- indexed fields ----------------------------------------------------------------------

    def indexed_fields(self) -> list[tuple[str, ...]]:
        """Return the metadata fields that have an index, each as the names that lead to it."""
        return sorted(self._field_indexes())

    def _field_indexes(self) -> dict[tuple[str, ...], str]:
        """Return the names of those indexes; the first ones had no hash in them."""
        names = self.connection.execute(FIELD_INDEXES).scalars()
        return {tuple(json.loads(name[name.index("[") :])): name for name in names}

    # ---- for checks --------------------------------------------------------------------------

    def row_numbers(self, table: Table, modality: Modality) -> NDArray[np.int64]:
        """Return the rows of a modality that a table speaks of."""
        return self._numbers(select(table.c.row).where(table.c.modality == modality))

    def block_sums(self, modality: Modality) -> dict[int, int]:
        """Return the checksum of each block of a modality's rows."""
        table = tables.row_blocks
        query = select(table.c.block, table.c.checksum).where(table.c.modality == modality)
        return {row.block: row.checksum for row in self.connection.execute(query)}

    # ---- asking ------------------------------------------------------------------------------

    def _for_values(self, query: Lookup, values: Iterable[Any], **more: Any) -> Iterable[Any]:
        wanted = list(values)
        return query.run(self.connection, wanted, **more) if wanted else ()

    def _streamed(self, query: Select[Any], page: int, **more: Any) -> Iterable[Any]:
        return self.connection.execute(query, more).yield_per(page)

    def _numbers(
        self, query: Select[Any], parameters: Mapping[str, Any] | None = None
    ) -> NDArray[np.int64]:
        cursor: Any = self.connection.execute(query, parameters or {}).cursor
        return np.fromiter((number for (number,) in cursor), np.int64)


def span_of(modality: Modality, start: int | None, end: int | None) -> Span | None:
    """Return the span that a row of ``segments`` holds."""
    if start is None or end is None or modality not in SPAN_UNITS:
        return None
    return Span(SPAN_UNITS[modality], start, end)


def item_of(row: Row[Any]) -> Item:
    """Return the item of a row of ``ITEM``.

    Raises:
        CorruptData: It is not what was written.
    """
    return Item(
        key=row.key,
        modality=_modality_of(row),
        source=row.source,
        text=row.text,
        metadata=_metadata_of(row),
        segments=row.segments,
        added=row.added,
    )


def _modality_of(row: Row[Any]) -> Modality:
    try:
        return Modality(row.modality)
    except ValueError as error:
        raise _damaged(row) from error


def _metadata_of(row: Row[Any]) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads(row.metadata)
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(row) from error
    return metadata


def _damaged(row: Row[Any]) -> CorruptData:
    return CorruptData(
        f"what is stored of item {row.id} ({row.key}) is damaged",
        hint="run: muomni verify --repair",
    )


def _known(row: Row[Any]) -> Known:
    return Known(
        item_id=row.id,
        key=row.key,
        modality=_modality_of(row),
        root=row.root,
        source=row.source,
        size=row.size,
        mtime_ns=row.mtime_ns,
        content_hash=row.content_hash,
        document=row.metadata,
    )
