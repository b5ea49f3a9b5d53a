"""Fields of all items as columns of arrays, for filters that ask for them again and again.

A filter that was not asked for before reads the metadata of every item. Where others ask for the
same fields, with a slider's next values or in the next rows of a batch, the fields are read into
columns, on which NumPy answers in a hundredth of the time, and with the same items as
``sql_filter``: what a column does not tell to the last digit is left to SQL.

Whether another filter will come nobody knows. So a field is read when SQL has taken as long for it
as reading it is likely to take: then all filters together take about twice as long as with the
better choice at most, whatever comes.
"""

from __future__ import annotations

import operator
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from sqlite3 import DatabaseError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.filters import And, Filter, Literal, Not, Test

__all__ = ["LONGEST_TEXT", "Column", "Columns", "matching"]

# What ``json_type`` says, as a column keeps it.
NOTHING, NUMBER, TEXT, FALSE, TRUE, ARRAY, OBJECT = range(7)
KINDS = {
    None: NOTHING,
    "null": NOTHING,
    "integer": NUMBER,
    "real": NUMBER,
    "text": TEXT,
    "false": FALSE,
    "true": TRUE,
    "array": ARRAY,
    "object": OBJECT,
}
# What ids and a column take for each item.
ID_BYTES, ROW_BYTES = 8, 13
# How much is kept of one version of the items: four fields of a million of them, one of three.
COLUMN_BYTES = 64_000_000
# About what it takes to read a field of an item, in seconds.
READING_TIME = 2e-6
# A field with more different texts, or longer ones, is a name or a description.
MOST_TEXTS, LONGEST_TEXT, MOST_TEXT_BYTES = 20_000, 1_000, 2_000_000
TEXT_BYTES = 50  # what Python takes for each beside its letters
# A client may ask for fields that are none.
MOST_FIELDS = 1_000
# Beyond, floats leave whole numbers out; SQLite compares whole numbers as such.
EXACT = 2**53
READ_AT_ONCE = 1_000
COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Mask = NDArray[np.bool_]
Field = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One field of all items, in the order of their ids.

    Args:
        kinds: What each has there (n,).
        numbers: float64 (n,), NaN where there is none; None where one would be rounded.
        codes: int32 (n,), which text each has, -1 for none.
        texts: The different texts in UTF-8, sorted, as SQLite orders them.
        nbytes: About how much memory it takes.
        is_told: Whether this tells anything: else there are too many texts to keep, or an item is
            damaged.
    """

    kinds: NDArray[np.uint8]
    numbers: NDArray[np.float64] | None
    codes: NDArray[np.int32]
    texts: Sequence[bytes]
    nbytes: int
    is_told: bool = True

    @classmethod
    def of(cls, values: Iterable[tuple[str | None, Any]], count: int) -> Column:
        """Return the column of so many items' kinds, as ``json_type`` has them, and values.

        A text is its bytes, or None where it is long.
        """
        kinds = np.zeros(count, np.uint8)
        numbers: NDArray[np.float64] | None = np.full(count, np.nan)
        codes = np.full(count, -1, np.int32)
        known: dict[bytes, int] = {}
        start, text_bytes, rest = 0, 0, iter(values)
        while some := [(KINDS[kind], value) for kind, value in islice(rest, READ_AT_ONCE)]:
            part = slice(start, start + len(some))
            start += len(some)
            kinds[part] = [kind for kind, _ in some]
            found = [value if kind == NUMBER else np.nan for kind, value in some]
            if numbers is not None and all(map(_is_exact, found)):
                numbers[part] = found
            else:
                numbers = None
            before = len(known)
            codes[part] = [
                known.setdefault(value, len(known)) if kind == TEXT else -1 for kind, value in some
            ]
            if None in known or len(known) > MOST_TEXTS:
                return UNTOLD
            text_bytes += sum(len(one) for one in islice(known, before, None))
            if text_bytes > MOST_TEXT_BYTES:
                return UNTOLD
        texts = sorted(known)
        # From the order in which they came to that of the sorted ones; the last place is -1's.
        places = np.full(len(texts) + 1, -1, np.int32)
        places[[known[text] for text in texts]] = np.arange(len(texts))
        taken = count * ROW_BYTES + text_bytes + len(texts) * TEXT_BYTES
        return cls(kinds, numbers, places[codes], texts, taken)


UNTOLD = Column(np.empty(0, np.uint8), None, np.empty(0, np.int32), (), 0, is_told=False)


class Columns:
    """The columns of one version of the items, as many as there is room for.

    None gives way to another: asked for in turn they would be read again and again.
    """

    def __init__(self) -> None:
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._ids: NDArray[np.int64] | None = None
        self._columns: dict[Field, Column] = {}
        self._spent: dict[Field, float] = {}
        self._dearest: dict[Field, float] = {}
        self._items = -1

    def spend(self, fields: Collection[Field], seconds: float) -> None:
        """Count what SQL took for a filter on some fields."""
        with self._lock:
            for one in fields:
                if one in self._spent or len(self._spent) < MOST_FIELDS:
                    self._spent[one] = self._spent.get(one, 0.0) + seconds / len(fields)
                    self._dearest[one] = max(self._dearest.get(one, 0.0), seconds)

    def is_worth(self, fields: Collection[Field], count: Callable[[], int]) -> bool:
        """Whether columns are to answer: they are there, or there is room and reason to read.

        Args:
            fields: Those of a filter.
            count: Returns how many items there are.
        """
        with self._lock:
            kept = [self._columns[one] for one in fields if one in self._columns]
            lacking = [one for one in fields if one not in self._columns]
            spent = sum(self._spent.get(one, 0.0) for one in lacking)
            if not all(one.is_told for one in kept) or (lacking and not spent):
                return False
            if self._items < 0:
                self._items = count()
            # About as long as the dearest filter on it, which may have looked at each item.
            taken = sum(
                max(self._dearest.get(one, 0.0), READING_TIME * self._items) for one in lacking
            )
        return not lacking or (spent >= taken and self._has_room(lacking))

    def _has_room(self, lacking: Collection[Field]) -> bool:
        kept = sum(one.nbytes for one in list(self._columns.values()))
        return kept + (ID_BYTES + ROW_BYTES * len(lacking)) * self._items <= COLUMN_BYTES

    def matching(
        self,
        condition: Filter,
        fields: Collection[Field],
        read_ids: Callable[[], NDArray[np.int64]],
        read: Callable[[Field], Iterable[tuple[str | None, Any]]],
    ) -> NDArray[np.int64] | None:
        """Return the ids of the items that a filter lets through, or None where this is not told.

        Args:
            condition: One that ``filter_to_sql`` takes.
            fields: Those of the filter.
            read_ids: Returns the ids of all items, sorted.
            read: Returns a field of all items in that order, as ``Column.of`` takes it.
        """
        if not all(one in self._columns for one in fields):
            with self._reading:  # one thread, or several would read the same and more than fits
                lacking = [one for one in fields if one not in self._columns]
                if not self._has_room(lacking):
                    return None
                if self._ids is None:
                    self._ids = read_ids()
                for one in lacking:
                    column = UNTOLD
                    with suppress(DatabaseError):  # of an item that the filter may not look at
                        column = Column.of(read(one), len(self._ids))
                    with self._lock:
                        self._columns[one] = column
                    if not column.is_told:
                        return None
        ids = self._ids
        mask = matching(condition, self._columns)
        return None if mask is None or ids is None else ids[mask]


def matching(condition: Filter, columns: Mapping[Field, Column]) -> Mask | None:
    """Return which items (n,) a filter lets through, or None where the columns do not tell.

    Args:
        condition: One that ``filter_to_sql`` takes.
        columns: Each field of the filter.
    """
    if isinstance(condition, Test):
        column = columns[condition.field]
        return _test(condition, column) if column.is_told else None
    if isinstance(condition, Not):
        found = matching(condition.term, columns)
        return None if found is None else ~found
    join = np.logical_and if isinstance(condition, And) else np.logical_or
    joined = None
    for term in condition.terms:
        mask = matching(term, columns)
        if mask is None:
            return None
        joined = mask if joined is None else join(joined, mask, out=joined)
    return joined


def _test(test: Test, column: Column) -> Mask | None:
    value = test.value
    if test.op in ("is null", "is not null"):
        is_null: Mask = column.kinds == NOTHING
        return is_null if test.op == "is null" else ~is_null
    if isinstance(value, tuple):
        return _among(column, value, is_in=test.op == "in")
    if test.op == "contains":
        return _contains(column, value)
    if isinstance(value, bool):
        if test.op not in ("=", "!="):
            return np.zeros(len(column.kinds), bool)
        is_it: Mask = column.kinds == (TRUE if value == (test.op == "=") else FALSE)
        return is_it
    if isinstance(value, str):
        return _text(column, test.op, value)
    return _number(column, test.op, value)


def _is_exact(number: float) -> bool:
    """Whether a float says what a number is."""
    return not isinstance(number, int) or abs(number) <= EXACT


def _number(column: Column, op: str, value: Any) -> Mask | None:
    if column.numbers is None or not _is_exact(value):
        return None
    found: Mask = COMPARISONS[op](column.numbers, value)
    found &= column.kinds == NUMBER  # of NaN nothing is true but that it differs
    return found


def _text(column: Column, op: str, value: str) -> Mask:
    codes, wanted = column.codes, value.encode()
    first, behind = bisect_left(column.texts, wanted), bisect_right(column.texts, wanted)
    if op in ("<", "<="):
        return np.logical_and(codes >= 0, codes < (first if op == "<" else behind))
    if op in (">", ">="):
        return np.greater_equal(codes, first if op == ">=" else behind)
    is_it = (codes >= first) & (codes < behind)
    return is_it if op == "=" else np.logical_and(codes >= 0, ~is_it)


def _among(column: Column, values: Sequence[Literal], *, is_in: bool) -> Mask | None:
    kinds = column.kinds
    inside, is_comparable = np.zeros((2, len(kinds)), bool)
    flags = [TRUE if one else FALSE for one in values if isinstance(one, bool)]
    texts = {one.encode() for one in values if isinstance(one, str)}
    numbers = [one for one in values if not isinstance(one, bool | str)]
    if flags:
        inside |= np.isin(kinds, flags)
        is_comparable |= np.isin(kinds, (TRUE, FALSE))
    if texts:
        inside |= _of_texts(column, [one in texts for one in column.texts])
        is_comparable |= kinds == TEXT
    if numbers:
        if column.numbers is None or not all(map(_is_exact, numbers)):
            return None
        inside |= np.isin(column.numbers, numbers)
        is_comparable |= kinds == NUMBER
    if is_in:
        return inside
    # As with "!=", a value of a type that is not asked for is not compared at all.
    return np.logical_and(is_comparable if values else kinds != NOTHING, ~inside)


def _contains(column: Column, value: Any) -> Mask | None:
    if (column.kinds == ARRAY).any():
        return None
    wanted = value.encode() if isinstance(value, str) else None
    return _of_texts(column, [wanted is not None and wanted in one for one in column.texts])


def _of_texts(column: Column, are_meant: Sequence[bool]) -> Mask:
    """Return which items have a text that is meant; the last of what is looked up is for none."""
    return np.array([*are_meant, False])[column.codes]
