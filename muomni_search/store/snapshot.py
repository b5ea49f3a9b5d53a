"""Reading: a ``Snapshot`` is one read transaction, whose answers all fit together."""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection, Cursor
from typing import Any, Literal, NamedTuple
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from muomni_search.documents import hash_content
from muomni_search.errors import CorruptData
from muomni_search.filters import Filter, fields_of
from muomni_search.items import Item, Modality, Span
from muomni_search.store.columns import Columns
from muomni_search.store.records import (
    Counting,
    Failure,
    IndexFile,
    Job,
    Known,
    Match,
    RowFile,
    Settings,
    Shown,
)
from muomni_search.store.rows import HINT, NO_ROWS, MappedRows, damaged_among, not_unit
from muomni_search.store.sql_filter import Sql, all_of, field_values, filter_to_sql, sql
from muomni_search.store.sqlite import BEYOND_REPAIR, MAYBE_BEYOND

__all__ = [
    "FIELD_INDEX",
    "INDEX",
    "STAGE",
    "VECTORS",
    "ItemRow",
    "Lookup",
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
# How much is kept of arrays of row numbers: dead rows and owners of each modality, and the filters
# that were asked for last. At a million rows one takes up to 8 MB.
ARRAY_BYTES = 64_000_000
# So many values of a lookup are given one by one, as SQLite's ?1, ?2 …
FEW = 16
NO_VALUES = (None,) * FEW
NO_LIMIT = -1  # SQLite's word for it
LET_GO = "this state of the collection was let go of: open another view"
NAMES = frozenset(map(str, Modality))
# Fields of which each item has another value: SQL finds them by an index, or as fast.
UNIQUE = frozenset({("key",), ("source",)})
# What an array takes beside its numbers, so that there is an end of empty ones too.
EACH_ARRAY_BYTES = 1_000
# How long one is waited for that another thread makes.
TURN_SECONDS = 30.0
# Of so few items, a share of all rows, each one's rows are looked up; for more it is faster to read
# the owners of all rows, which are kept.
LOOKED_UP_SHARE = 0.01
# Of so few rows, a share of all, each is looked at for itself whether it is whole.
CHECKED_SHARE = 0.1
# Items are marked by their ids while the greatest is not so many times the number of rows.
MARKED_IDS = 64


# ---- the state -----------------------------------------------------------------------------------


class _Arrays:
    """Arrays of one version of the items, made when they are asked for; the oldest give way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: OrderedDict[tuple[str, ...], NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._turns: dict[tuple[str, ...], threading.Lock] = {}

    def get(self, key: tuple[str, ...], make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return an array; who asks for one that is being made waits for it.

        To make one may take others, but none in a circle.
        """
        with self._lock:
            if (kept := self._kept(key)) is not None:
                return kept
            turn = self._turns.setdefault(key, threading.Lock())
        # Who has the turn may be a thread that a fork did not copy.
        has_turn = turn.acquire(timeout=TURN_SECONDS)
        try:
            with self._lock:
                if (kept := self._kept(key)) is not None:
                    return kept
            made = make()
            made.flags.writeable = False
            self._keep(key, made)
        finally:
            with self._lock:
                self._turns.pop(key, None)
            if has_turn:
                turn.release()
        return made

    def _kept(self, key: tuple[str, ...]) -> NDArray[Any] | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def _keep(self, key: tuple[str, ...], made: NDArray[Any]) -> None:
        with self._lock:
            if key not in self._arrays:  # of two who waited for one that failed each makes it
                self._arrays[key] = made
                self._bytes += made.nbytes + EACH_ARRAY_BYTES
            while self._bytes > ARRAY_BYTES and len(self._arrays) > 1:
                _, oldest = self._arrays.popitem(last=False)
                self._bytes -= oldest.nbytes + EACH_ARRAY_BYTES


def _named(condition: Filter | None) -> str:
    """Return the name under which what a filter finds is kept: short, however long its lists are.

    By its text, for 1, 1.0 and true are one key of a dict but three filters.
    """
    return hash_content(repr(condition).encode(errors="surrogatepass"))


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
    columns: Columns = field(default_factory=Columns)

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
    found = FACTS.run(connection)
    if not found:
        raise CorruptData(
            f"{directory} lacks the facts about itself", hint="restore it from a copy"
        )
    facts = found[0]
    # Another collection in the same place begins to count anew.
    if newest is not None and newest.created != facts.created:
        newest = None
    if newest is not None and newest.revision == facts.revision:
        return newest
    row_files = [_row_file(row, directory) for row in ROW_FILES.run(connection)]
    # One whose modality is damaged is nobody's; it is derived, and `verify` sees it.
    index_files = [_index_file(row) for row in INDEX_FILES.run(connection) if row.modality in NAMES]
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
        settings=_settings_of(facts.settings),
        row_files={file.modality: file for file in row_files},
        index_files={file.modality: file for file in index_files},
        arrays=newest.arrays if newest and is_same else _Arrays(),
        columns=newest.columns if newest and is_same else Columns(),
    )


def row_path(directory: Path, modality: str, generation: int) -> Path:
    """Return the path of a row file."""
    return directory / VECTORS / f"{modality}.{generation}.f32"


def _row_file(row: Any, directory: Path) -> RowFile:
    if row.modality not in NAMES:
        raise CorruptData(
            f"{directory}: the row file of {row.modality!r} is of no modality",
            hint=BEYOND_REPAIR,
        )
    return RowFile(
        modality=Modality(row.modality),
        generation=row.generation,
        path=row_path(directory, row.modality, row.generation),
        rows=row.rows,
        dead=row.dead,
    )


def _index_file(row: Any) -> IndexFile:
    return IndexFile(
        modality=Modality(row.modality),
        generation=row.generation,
        name=row.name,
        kind=row.kind,
        rows=row.rows,
        bytes=row.bytes,
        checksum=row.checksum,
        params=_object_of(row.params),
        created=row.created,
    )


# A flipped byte in these is seen by ``verify``, and must not keep it or a repair from looking. They
# are read as bytes, for one may be no character.


def _settings_of(stored: bytes) -> Settings:
    """Return settings as they were stored, or the defaults where they are damaged."""
    try:
        return Settings(**_object_of(stored))
    except TypeError:  # a name that there is not
        return Settings()


def _object_of(stored: bytes) -> dict[str, Any]:
    """Return a JSON object as it was stored, or an empty one where it is damaged."""
    try:
        found = json.loads(stored)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# ---- statements ----------------------------------------------------------------------------------


class Statement:
    """A SELECT whose rows are named tuples."""

    def __init__(self, query: str) -> None:
        self._query = query
        self._make: Callable[[Iterable[Any]], Any] | None = None

    def run(
        self, connection: Connection, values: Mapping[str, Any] | Sequence[Any] = ()
    ) -> list[Any]:
        """Return what it finds with these values of its parameters, read to its end."""
        cursor = connection.execute(self._query, values)
        if self._make is None:
            # As SQLite says them, which is as the schema does: one flipped bit of that makes a
            # capital, and this is kept for all collections of the process.
            names = [name.lower() for name, *_ in cursor.description]
            row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024
            self._make = row._make
        return list(map(self._make, cursor.fetchall()))


class Lookup:
    """A SELECT of what belongs to some values: a query's few ones are given to SQLite one by one.

    Any number goes in as one JSON array, which SQLite takes longer to read.

    Args:
        query: The SELECT, with ``{wanted}`` in the place of the values, and ``{modality}`` in that
            of the one modality that they are of.
    """

    def __init__(self, query: str) -> None:
        few = ", ".join(f"?{number}" for number in range(1, FEW + 1))
        many = "SELECT value FROM json_each(?1)"
        modality = f"?{FEW + 1}"
        self._few = Statement(query.format(wanted=few, modality=modality))
        self._many = Statement(query.format(wanted=many, modality=modality))

    def run(
        self, connection: Connection, values: Sequence[Any], modality: Modality | None = None
    ) -> list[Any]:
        """Return what it finds, as named tuples."""
        # Of a subclass of str the driver first asks how it is to be stored.
        last = () if modality is None else (modality.value,)
        if len(values) <= FEW:
            with suppress(UnicodeEncodeError):  # half a character: JSON can say it, UTF-8 cannot
                return self._few.run(connection, (*values, *NO_VALUES[len(values) :], *last))
        unused = NO_VALUES[1:] if last else ()
        return self._many.run(connection, (json.dumps(values), *unused, *last))


class ItemRow(NamedTuple):
    """The columns of ``ITEM``."""

    id: int
    key: str
    modality: str
    source: str | None
    text: str | None
    metadata: str
    added: str
    segments: int


class MetadataRow(NamedTuple):
    """The columns of ``METADATA``."""

    id: int
    key: str
    metadata: str


class KnownRow(NamedTuple):
    """The columns of ``KNOWN``."""

    id: int
    key: str
    modality: str
    root: str | None
    source: str | None
    size: int | None
    mtime_ns: int | None
    content_hash: str | None
    metadata: str


FACTS = Statement(
    "SELECT created, revision, version, model, fingerprint, CAST(settings AS BLOB) AS settings"
    " FROM collection"
)
ROW_FILES = Statement('SELECT modality, generation, "rows", dead FROM row_files')
INDEX_FILES = Statement(
    'SELECT modality, generation, name, kind, "rows", bytes, checksum,'
    " CAST(params AS BLOB) AS params, created FROM index_files"
)
OWN_COLUMNS = ", ".join(f"items.{name}" for name in ItemRow._fields[:-1])
SEGMENT_COUNT = "(SELECT count(*) FROM segments WHERE segments.item_id = items.id) AS segments"
ITEM_COLUMNS = f"{OWN_COLUMNS}, {SEGMENT_COUNT}"
ITEM = f"SELECT {ITEM_COLUMNS} FROM items"  # noqa: S608  (all of it stands here)
ITEMS_BY_ID = Lookup(f"{ITEM} WHERE id IN ({{wanted}})")
ITEMS_BY_KEY = Lookup(f"{ITEM} WHERE key IN ({{wanted}})")
# Of ids by chance: items that were added in turns, a picture and its text, have ids in turns.
METADATA = (
    f"SELECT {', '.join(MetadataRow._fields)} FROM items"  # noqa: S608
    " WHERE ((id * 2654435761) >> 16) % ? = 0 LIMIT ?"
)
# What a hit shows of its item beside what is known of its row.
SHOWN_BY_ID = Lookup("SELECT id, key, source, text, metadata FROM items WHERE id IN ({wanted})")
KEYS_BY_ID = Lookup("SELECT id, key FROM items WHERE id IN ({wanted})")
IDS_BY_KEY = Lookup("SELECT key, id FROM items WHERE key IN ({wanted})")
KNOWN = f"SELECT {', '.join(KnownRow._fields)} FROM items WHERE"  # noqa: S608
KNOWN_BY_KEY = Lookup(f"{KNOWN} key IN ({{wanted}})")
KNOWN_BY_ROOT = f"{KNOWN} root = ? ORDER BY key"
# Of some keys, and of those below them: 0 is the character that comes after the slash. The sign
# keeps SQLite from going through all items of the root.
KNOWN_BELOW = (
    f"{KNOWN} +root = ? AND id IN (SELECT items.id FROM json_each(?) CROSS JOIN items"  # noqa: S608
    " ON items.key = value OR items.key > value || '/' AND items.key < value || '0') ORDER BY key"
)
COUNT_BY_ROOT = "SELECT count(*) FROM items WHERE root = ?"
KNOWN_BY_HASH = Lookup(f"{KNOWN} size IS NOT NULL AND content_hash IN ({{wanted}}) ORDER BY key")
MATCHES = Lookup(
    'SELECT "row", item_id, span_start, span_end FROM segments'
    ' WHERE modality = {modality} AND "row" IN ({wanted})'
)
DEAD = 'SELECT "row" FROM dead_rows WHERE modality = :modality ORDER BY "row"'
OWNERS = 'SELECT "row", item_id FROM segments WHERE modality = :modality'
OWNERS_BY_ROW = Lookup(
    'SELECT "row", item_id FROM segments WHERE modality = {modality} AND "row" IN ({wanted})'
)
# A number for each segment, spread evenly: the fractions of id · 0.618… + ordinal · 0.414…, in
# 32 bits (Weyl). Of the segment and not of its row, which a compaction changes.
SPREAD = "((item_id & 1073741823) * 2654435761 + ordinal * 1779033703) & 4294967295"
SAMPLE = (
    'SELECT "row" FROM segments WHERE modality = :modality {}'  # noqa: S608
    f' ORDER BY {SPREAD}, "row" LIMIT :most'
)
# What the index ``segments_sample`` holds: the 64th of the segments that comes first.
SAMPLE_OF_MANY = SAMPLE.format(f"AND 67108864 > {SPREAD}")
SAMPLE_OF_FEW = SAMPLE.format("")
ROWS_BY_KEY = Lookup(
    'SELECT items.key, segments.modality, segments."row"'
    " FROM items JOIN segments ON items.id = segments.item_id"
    " WHERE items.key IN ({wanted}) ORDER BY segments.item_id, segments.ordinal"
)
ROWS_BY_ID = Lookup(
    # The sign keeps SQLite from going through all rows of the modality instead of the items'.
    'SELECT "row" FROM segments WHERE +segments.modality = {modality} AND item_id IN ({wanted})'
)
SEGMENTS = (
    f'SELECT {ITEM_COLUMNS}, segments."row", segments.span_start, segments.span_end'  # noqa: S608
    " FROM items JOIN segments ON items.id = segments.item_id"
    " ORDER BY items.key, segments.ordinal"
)
COUNTS = Statement(
    "SELECT modality, count(*) AS segments, sum(ordinal = 0) AS items FROM segments"
    " GROUP BY modality"
)
# The index of a metadata field is known by its name: this, a hash, for SQLite's names know no case,
# and the names that lead to the field as JSON.
FIELD_INDEX = "field "
FIELD_INDEXES = "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'field %'"
FAILURES = (
    'SELECT source, key, error, hint, attempts, "first", "last" FROM failures ORDER BY source'
)
JOB = Statement(
    "SELECT output, fingerprint, done, state, mark, updated FROM jobs WHERE output = :output"
)


# ---- the snapshot --------------------------------------------------------------------------------


class Snapshot:
    """One consistent state of the store."""

    def __init__(self, connection: Connection, state: State) -> None:
        self._connection: Connection | None = connection
        self._state = state
        # Of what is read row by row: somebody may leave off, or fail and keep the traceback.
        self._cursors: WeakSet[Cursor] | None = None

    @property
    def connection(self) -> Connection:
        """The connection whose transaction this is.

        Raises:
            RuntimeError: The transaction is over: another reader may have the connection.
        """
        if self._connection is None:
            raise RuntimeError(LET_GO)
        return self._connection

    def end(self) -> None:
        """Read no more: the transaction is over.

        Were a cursor left open, the next reader of the connection would still see this state.
        """
        self._connection = None
        for cursor in self._cursors or ():
            cursor.close()

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

    def check_rows(self, modality: Modality, rows: NDArray[np.int64] | None = None) -> None:
        """Check that some rows, or all live ones, are unit vectors.

        Unless they are few, all are looked at, once for each state of a collection.

        Raises:
            CorruptData: One is not, or the file is missing or too short.
        """
        vectors = self.vectors(modality)
        if rows is not None and len(rows) <= CHECKED_SHARE * len(vectors):
            damaged = damaged_among(vectors, rows)
        else:
            damaged = self.state.arrays.get(
                ("damaged", modality),
                lambda: np.setdiff1d(damaged_among(vectors), self.dead(modality)),
            )
            if rows is not None and len(damaged):
                damaged = np.intersect1d(damaged, rows)
        if len(damaged):
            raise not_unit(self.row_file(modality))

    def dead(self, modality: Modality) -> NDArray[np.int64]:
        """Return the dead rows of a modality, sorted; read-only."""
        return self.state.arrays.get(
            ("dead", modality),
            lambda: self._checked(modality, self._numbers(DEAD, {"modality": modality})),
        )

    def row_items(self, modality: Modality) -> NDArray[np.int64]:
        """Return the item id of every row (rows,), -1 for dead ones; read-only."""
        return self.state.arrays.get(("owners", modality), lambda: self._owners(modality))

    def owners_of(self, modality: Modality, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the item id of some rows (n,), -1 for dead ones."""
        numbers, places = np.unique(rows, return_inverse=True)
        found = dict(self.for_values(OWNERS_BY_ROW, numbers.tolist(), modality))
        with _whole_numbers():
            return np.array([found.get(row, -1) for row in numbers.tolist()], np.int64)[places]

    def _owners(self, modality: Modality) -> NDArray[np.int64]:
        owners = np.full(self._count_rows(modality), -1, np.int64)
        cursor = self.ask(OWNERS, {"modality": modality})
        while page := cursor.fetchmany(PAGE):
            with _whole_numbers():
                pairs = np.array(page, np.int64)
            owners[self._checked(modality, pairs[:, 0])] = pairs[:, 1]
        return owners

    def _count_rows(self, modality: Modality) -> int:
        file = self.row_file(modality)
        return file.rows if file else 0

    def _checked(self, modality: Modality, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of rows as the database has them, if there are such rows.

        Raises:
            CorruptData: There is none of a number: NumPy would take another one for less than 0.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._count_rows(modality):
            raise CorruptData(
                f"the database names a row of {modality} that is not there", hint=HINT
            )
        return rows

    def key_ranks(self, modality: Modality) -> NDArray[np.int64]:
        """Return the rank of every row's item by its key (rows,), -1 for dead rows; read-only.

        And for rows whose item is not there, so that they come first and are seen.
        """
        return self.state.arrays.get(("ranks", modality), lambda: self._key_ranks(modality))

    def _key_ranks(self, modality: Modality) -> NDArray[np.int64]:
        by_key = self._numbers("SELECT id FROM items ORDER BY key")
        owners = self.row_items(modality)
        if not len(by_key):
            return np.full(len(owners), -1)
        # By search and not by number: a damaged id may be any.
        ranks = np.argsort(by_key)
        ids = by_key[ranks]
        places = np.searchsorted(ids, owners).clip(max=len(ids) - 1)
        return np.where(ids[places] == owners, ranks[places], -1)

    def sample_rows(self, modality: Modality, most: int) -> NDArray[np.int64]:
        """Return the rows of a fixed sample of up to ``most`` segments of a modality, sorted.

        Those with the lowest hashes: a segment that comes or goes changes one of them at most, and
        one that moves to another row none.
        """
        wanted = {"modality": modality, "most": most}
        rows = self._numbers(SAMPLE_OF_MANY, wanted)
        rows = rows if len(rows) == most else self._numbers(SAMPLE_OF_FEW, wanted)
        return np.sort(self._checked(modality, rows))

    def lets_any_through(self, condition: Filter) -> bool:
        """Whether there is an item that a filter lets through, of whatever modality.

        That there is none takes a look at all of them, and is kept: who misspelt a field asks anew.
        """

        def look() -> NDArray[np.int64]:
            return self._numbers(*sql("SELECT id FROM items WHERE {} LIMIT 1", asked))

        asked = filter_to_sql(condition)
        return len(self.state.arrays.get(("any", _named(condition)), look)) > 0

    def matching_rows(self, modality: Modality, condition: Filter) -> NDArray[np.int64]:
        """Return the rows of the items that a filter lets through, sorted; read-only."""
        return self._matching_rows(modality, condition, _named(condition))

    def _matching_rows(self, modality: Modality, condition: Filter, key: str) -> NDArray[np.int64]:
        return self.state.arrays.get(
            ("filter", modality, key),
            lambda: self._rows_of(
                modality,
                self.state.arrays.get(("items", key), lambda: self._matching(condition)),
            ),
        )

    def counting(self, modality: Modality, condition: Filter | None) -> Counting:
        """Return which rows are live and let through by a filter; all arrays are read-only."""
        key = _named(condition)
        rows = None if condition is None else self._matching_rows(modality, condition, key)
        return Counting(
            rows,
            lambda: self.state.arrays.get(
                ("marks", modality, key), lambda: self._marked(modality, rows)
            ),
        )

    def _marked(self, modality: Modality, rows: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        marks = np.full(self._count_rows(modality), fill_value=rows is None)
        if rows is None:
            marks[self.dead(modality)] = False
        else:
            marks[rows] = True
        return marks

    def _matching(self, condition: Filter) -> NDArray[np.int64]:
        """Return the ids of the items that a filter lets through, whatever their modality.

        Asked of ``items`` alone: an index of a field answers it without a look at the items, and
        what the filter costs is paid once for all modalities.
        """
        asked = filter_to_sql(condition)  # which refuses some, whatever way is taken
        fields, columns = fields_of(condition), self.state.columns
        may_be_kept = UNIQUE.isdisjoint(fields)
        if may_be_kept and columns.is_worth(fields, self._count_items):
            found = columns.matching(condition, fields, self._ids, self._values)
            if found is not None:
                return found
        start = time.perf_counter()
        found = self._numbers(*sql("SELECT id FROM items WHERE {}", asked))
        if may_be_kept:
            columns.spend(fields, time.perf_counter() - start)
        return found

    def _count_items(self) -> int:
        return sum(self.count_items(None).values())

    def _ids(self) -> NDArray[np.int64]:
        return self._numbers("SELECT id FROM items ORDER BY id")

    def _values(self, field: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        return self._found(field_values(field))

    def _rows_of(self, modality: Modality, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of items in a modality, sorted."""
        count = self._count_rows(modality)
        if not count or not len(item_ids):
            return np.empty(0, np.int64)
        if len(item_ids) <= LOOKED_UP_SHARE * count:
            found = self.for_values(ROWS_BY_ID, item_ids.tolist(), modality)
            with _whole_numbers():
                rows = np.fromiter((row.row for row in found), np.int64)
            return np.sort(self._checked(modality, rows))
        owners = self.row_items(modality)
        most = max(int(item_ids.max()), int(owners.max(initial=0)))
        least = min(int(item_ids.min()) - 1, int(owners.min(initial=0)))
        if most > MARKED_IDS * count or least < -1:  # damaged, or of long ago
            return np.flatnonzero(np.isin(owners, item_ids) & (owners >= 0))
        is_wanted = np.zeros(most + 2, bool)
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
            row: Match(row, item_id, span_of(modality, start, end))
            for row, item_id, start, end in self.for_values(MATCHES, rows, modality)
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
        return {row.id: item_of(row) for row in self.for_values(ITEMS_BY_ID, item_ids)}

    def shown(self, item_ids: Iterable[int]) -> dict[int, Shown]:
        """Return what hits show of items, by their ids."""
        return {
            row.id: Shown(row.key, row.source, row.text, _metadata_of(row))
            for row in self.for_values(SHOWN_BY_ID, item_ids)
        }

    def find(self, keys: Iterable[str]) -> dict[str, Item]:
        """Return items by their keys."""
        return {row.key: item_of(row) for row in self.for_values(ITEMS_BY_KEY, keys)}

    def keys_of(self, item_ids: Iterable[int]) -> dict[int, str]:
        """Return the keys of items."""
        return {row.id: row.key for row in self.for_values(KEYS_BY_ID, item_ids)}

    def item_ids(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the ids of the keys that there are."""
        return {row.key: row.id for row in self.for_values(IDS_BY_KEY, keys)}

    def item_rows(self, keys: Iterable[str]) -> dict[str, tuple[Modality, NDArray[np.int64]]]:
        """Return the modality and the rows of the items of ``keys``, segments in order."""
        found: dict[str, tuple[Modality, list[int]]] = {}
        for row in self.for_values(ROWS_BY_KEY, keys):
            found.setdefault(row.key, (Modality(row.modality), []))[1].append(row.row)
        with _whole_numbers():
            return {
                key: (one, self._checked(one, np.array(own, np.int64)))
                for key, (one, own) in found.items()
            }

    def iter_items(
        self,
        condition: Filter | None = None,
        modality: Sequence[Modality] | None = None,
        *,
        limit: int | None = None,
        after: str | None = None,
    ) -> Iterator[Item]:
        """Yield items by key; with ``after`` those that come behind this key."""
        conditions = []
        if after is not None:
            conditions.append(sql("items.key > {}", after))
        if condition is not None:
            conditions.append(filter_to_sql(condition))
        if modality is not None:
            marks = ", ".join(["{}"] * len(modality))
            conditions.append(sql(f"items.modality IN ({marks})", *map(str, modality)))
        query, values = sql(
            f"{ITEM} WHERE {{}} ORDER BY items.key LIMIT {{}}",
            all_of(*conditions),
            NO_LIMIT if limit is None else limit,
        )
        for row in self._streamed(query, values):
            yield item_of(ItemRow._make(row))

    def iter_metadata(self, most: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the metadata of items, of so many at most, from among all.

        Raises:
            CorruptData: From the iterator: one is not what was written.
        """
        step = 1 if most is None else max(1, -(-self._count_items() // most))
        for row in self._streamed(METADATA, [step, NO_LIMIT if most is None else most]):
            yield _metadata_of(MetadataRow._make(row))

    def iter_keys(self, modality: Modality | None = None) -> Iterator[str]:
        """Yield all keys, or those of a modality, sorted."""
        own = all_of() if modality is None else sql("modality = {}", str(modality))
        for (key,) in self._streamed(*sql("SELECT key FROM items WHERE {} ORDER BY key", own)):
            yield key

    def iter_segments(self) -> Iterator[tuple[Item, Span | None, int]]:
        """Yield every segment with its item and its row, by key and place in the item."""
        for *row, number, start, end in self._streamed(SEGMENTS):
            item = item_of(ItemRow._make(row))
            yield item, span_of(item.modality, start, end), number

    def known(self, keys: Iterable[str]) -> dict[str, Known]:
        """Return what is known of the keys that there are."""
        return {row.key: _known(row) for row in self.for_values(KNOWN_BY_KEY, keys)}

    def known_under(self, root: str, keys: Iterable[str] | None = None) -> Iterator[Known]:
        """Yield what is known of the items of a folder, by key.

        Args:
            root: The folder.
            keys: Of its items only these, and those below them, as ``a/b`` is below ``a``.
        """
        if keys is None:
            found = self._streamed(KNOWN_BY_ROOT, [root])
        else:
            found = self._streamed(KNOWN_BELOW, [root, json.dumps(list(keys))])
        for row in found:
            yield _known(KnownRow._make(row))

    def count_under(self, root: str) -> int:
        """Return how many items a folder has."""
        count: int = self.ask(COUNT_BY_ROOT, [root]).fetchone()[0]
        return count

    def by_hash(self, hashes: Iterable[str]) -> dict[str, list[Known]]:
        """Return the items whose files have a content of these hashes, by key."""
        found: dict[str, list[Known]] = {}
        for row in self.for_values(KNOWN_BY_HASH, hashes):
            found.setdefault(row.content_hash, []).append(_known(row))
        return found

    # ---- the rest ----------------------------------------------------------------------------

    def counts(self) -> dict[Modality, dict[str, int]]:
        """Return the numbers of items and segments of each modality that has any."""
        return {
            Modality(row.modality): {"items": row.items, "segments": row.segments}
            for row in COUNTS.run(self.connection)
        }

    def count_items(self, condition: Filter | None) -> dict[Modality, int]:
        """Return how many items of each modality a filter lets through."""
        key = _named(condition)

        def count() -> NDArray[np.int64]:
            if condition is None:
                there = self.counts()
                return np.array([there[one]["items"] if one in there else 0 for one in Modality])
            return np.array([self._count_owners(one, condition, key) for one in Modality])

        counts = self.state.arrays.get(("count", key), count)
        return dict(zip(Modality, counts.tolist(), strict=True))

    def _count_owners(self, modality: Modality, condition: Filter, key: str) -> int:
        """Return how many items of a modality a filter lets through, by what a search keeps."""
        rows, file = self._matching_rows(modality, condition, key), self.row_file(modality)
        if file is None:
            return 0
        are_few = len(rows) <= LOOKED_UP_SHARE * file.rows
        owners = self.owners_of(modality, rows) if are_few else self.row_items(modality)[rows]
        return len(np.unique(owners))

    def failures(self) -> list[Failure]:
        """Return the inputs that could not be used, by source."""
        return [Failure(*row) for row in self.ask(FAILURES)]

    def job(self, output: str) -> Job | None:
        """Return the job that writes an output, or None."""
        found = JOB.run(self.connection, {"output": output})
        return Job(**found[0]._asdict()) if found else None

    # ---- indexed fields ----------------------------------------------------------------------

    def indexed_fields(self) -> list[tuple[str, ...]]:
        """Return the metadata fields that have an index, each as the names that lead to it."""
        return sorted(self._field_indexes())

    def _field_indexes(self) -> dict[tuple[str, ...], str]:
        """Return the names of those indexes; the first ones had no hash in them."""
        names = self.ask(FIELD_INDEXES)
        return {tuple(json.loads(name[name.index("[") :])): name for (name,) in names}

    # ---- for checks --------------------------------------------------------------------------

    def row_numbers(
        self, table: Literal["segments", "dead_rows"], modality: Modality
    ) -> NDArray[np.int64]:
        """Return the rows of a modality that a table speaks of."""
        return self._numbers(f'SELECT "row" FROM {table} WHERE modality = ?', [modality])  # noqa: S608

    def block_sums(self, modality: Modality) -> dict[int, int]:
        """Return the checksum of each block of a modality's rows."""
        return dict(
            self._found(
                sql("SELECT block, checksum FROM row_blocks WHERE modality = {}", str(modality))
            )
        )

    # ---- asking ------------------------------------------------------------------------------

    def ask(self, query: str, values: Mapping[str, Any] | Sequence[Any] = ()) -> Cursor:
        """Return the rows that a SELECT finds, to be read before the transaction ends."""
        cursor = self.connection.execute(query, values)
        if self._cursors is None:
            self._cursors = WeakSet()
        self._cursors.add(cursor)
        return cursor

    def for_values(
        self, query: Lookup, values: Iterable[Any], modality: Modality | None = None
    ) -> Iterable[Any]:
        """Return what a query finds for values, in its order; nothing for none."""
        wanted = list(values)
        return query.run(self.connection, wanted, modality) if wanted else ()

    def _streamed(self, query: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows of what may be long, as SQLite finds them, until the transaction ends."""
        for row in self.ask(query, values):
            yield row
            if self._connection is None:
                raise RuntimeError(LET_GO)

    def _found(self, query: Sql) -> Iterator[tuple[Any, ...]]:
        return self.ask(query.text, query.values)

    def _numbers(
        self, query: str, values: Mapping[str, Any] | Sequence[Any] = ()
    ) -> NDArray[np.int64]:
        found = self.ask(query, values)
        with _whole_numbers():
            return np.fromiter((number for (number,) in found), np.int64)


@contextmanager
def _whole_numbers() -> Iterator[None]:
    """Turn what NumPy says of a damaged number of the database into our error."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise CorruptData(
            "the database holds something else where a number belongs", hint=MAYBE_BEYOND
        ) from error


def span_of(modality: Modality, start: int | None, end: int | None) -> Span | None:
    """Return the span that a row of ``segments`` holds."""
    if start is None or end is None or modality not in SPAN_UNITS:
        return None
    return Span(SPAN_UNITS[modality], start, end)


def item_of(row: ItemRow) -> Item:
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


def _modality_of(row: Any) -> Modality:
    try:
        return Modality(row.modality)
    except ValueError as error:
        raise _damaged(row) from error


def _metadata_of(row: Any) -> dict[str, Any]:
    if bytes in map(type, row):  # a flipped bit makes them of a text
        raise _damaged(row)
    try:
        metadata: dict[str, Any] = json.loads(row.metadata)
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(row) from error
    return metadata


def _damaged(row: Any) -> CorruptData:
    return CorruptData(
        f"what is stored of item {row.id} ({row.key}) is damaged",
        hint="run: muomni verify --repair",
    )


def _known(row: KnownRow) -> Known:
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
