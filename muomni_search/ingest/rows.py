"""The rows of a table, from JSONL, CSV or Parquet: dicts of plain values, one by one.

A table that cannot be read at all raises; a row that cannot be read is the reason why, as text,
in its place, and the rows after it go on.
"""

from __future__ import annotations

import codecs
import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import numpy as np

from muomni_search.documents import legible
from muomni_search.errors import InvalidInput, UnreadableFile
from muomni_search.items import DIM

__all__ = [
    "BATCH_ROWS",
    "MAX_LINE_BYTES",
    "TABLES",
    "TEXT_COLUMNS",
    "ArrowStream",
    "Numbered",
    "Row",
    "count_rows",
    "is_table",
    "parquet_columns",
    "parse_json",
    "read_rows",
    "stream_rows",
    "table_of_root",
    "table_root",
    "whole_number",
]

TABLES = (".jsonl", ".ndjson", ".csv", ".parquet")
MAX_LINE_BYTES = 16_000_000
# A million floats: the columns of so many vectors stay in a processor's cache.
BATCH_ROWS = 1024

# Columns that have a meaning stay as they are written, in CSV too.
TEXT_COLUMNS = (
    *("key", "modality", "text", "image", "audio", "path", "source", "vector", "metadata"),
)

# Beyond it a float stands for several whole numbers.
MOST_WHOLE = 2.0**53
INDEX_COLUMN = re.compile(r"__index_level_[0-9]+__")


@runtime_checkable
class ArrowStream(Protocol):
    """A table that hands itself over as a stream of Arrow's, as pyarrow, pandas and polars do."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the stream."""
        ...


Row = dict[str, Any]
# A row with its number from 1, or the reason why there is none.
Numbered = tuple[int, Row | str]


def read_rows(path: Path, *, texts: Sequence[str] = TEXT_COLUMNS) -> Iterator[Numbered]:
    """Yield the rows of a table, numbered from 1 (in JSONL: by lines); a bad row as its reason.

    Args:
        path: The table.
        texts: The columns that are text in CSV, whatever they look like.

    Raises:
        UnreadableFile: The table cannot be read at all, or no further.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            yield from _read_csv(path, texts)
        elif suffix == ".parquet":
            yield from _read_parquet(path)
        else:
            for number, line in _jsonl_lines(path):
                yield number, _json_row(line)
    except OSError as error:
        raise _unreadable(path, error.strerror or error, "check its permissions") from error


def count_rows(path: Path) -> int:
    """Return how many rows ``read_rows`` yields, in a fraction of its time.

    Raises:
        UnreadableFile: The table cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            return sum(1 for _ in _csv_rows(path)) - 1
        if suffix == ".parquet":
            with _open_parquet(path) as file:
                rows: int = file.metadata.num_rows
                return rows
        return sum(1 for _ in _jsonl_lines(path))
    except OSError as error:
        raise _unreadable(path, error.strerror or error, "check its permissions") from error


def parquet_columns(path: Path) -> list[str]:
    """Return the names of a Parquet table's columns.

    Raises:
        UnreadableFile: The table cannot be read.
    """
    with _open_parquet(path) as file:
        names: list[str] = file.schema_arrow.names
        return names


def _unreadable(path: Path, reason: object, hint: str) -> UnreadableFile:
    return UnreadableFile(f"{path}: {' '.join(str(reason).split())}", hint=hint)


# ---- JSONL -----------------------------------------------------------------------------------


def _jsonl_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not blank, numbered from 1; None for one that is too long."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                yield number, None
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.isspace():
                yield number, line


def _json_row(line: bytes | None) -> Row | str:
    if line is None:
        return f"a line of more than {MAX_LINE_BYTES} bytes"
    try:
        row = parse_json(line.decode())
    except UnicodeDecodeError:
        return "no UTF-8"
    except ValueError as error:
        return f"no JSON: {error}"
    return row if isinstance(row, dict) else "a JSON value that is no object"


def parse_json(text: str) -> Any:
    """Return a JSON value, read by the letter.

    Raises:
        ValueError: No JSON: also NaN, a name twice in an object, half a surrogate pair, or
            nested too deep.
    """
    try:
        value = STRICT_JSON.decode(text)
        if HALF_PAIR.search(text) and not _is_unicode(json.dumps(value, ensure_ascii=False)):
            raise ValueError("half a surrogate pair, which is no character")
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def listed(value: Any) -> Any:
    """Return the list that a cell of a CSV table spells as JSON; anything else as it is.

    Raises:
        InvalidInput: It begins like one, and is none.
    """
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        told = value if len(value) <= 40 else f"{value[:40]}…"
        raise InvalidInput(f"{told!r} is no JSON list: {error}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands there twice")
    return found


STRICT_JSON = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object_of)
# An escape that may be half a pair: only then is the slow check worth its time.
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- CSV -------------------------------------------------------------------------------------

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,999})")
# 007 is a name, not a number: it would not come back as it was.
NUMBER = re.compile(r"[-+]?(?=\.?[0-9])(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?")
EXACT_FLOATS = 2**53  # above, not every integer is a float
FLAG = re.compile("true|false", re.IGNORECASE)


def _read_csv(path: Path, texts: Sequence[str]) -> Iterator[Numbered]:
    kinds = _csv_kinds(path, texts)
    rows = _csv_rows(path)
    _, names = next(rows)
    for number, cells in rows:
        if isinstance(cells, str):
            yield number, cells
            continue
        filled = zip(names, kinds, cells, strict=False)
        yield number, {name: kind(cell) for name, kind, cell in filled if cell and name}


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the names of the columns as row 0, then the cells of each row that is not blank.

    Raises:
        UnreadableFile: No header of different names in UTF-8, or a line without an end.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        delimiter = _delimiter(file.readline(MAX_LINE_BYTES))
        file.seek(0)
        reader = csv.reader(_csv_lines(file, path), delimiter=delimiter, strict=True)
        names = _csv_header(path, reader)
        yield 0, names
        number = 0
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                # The reader says no more of it than "unexpected end of data".
                is_open = "end of data" in str(error)
                reason = "a quote is left open, and all that follows is in it" if is_open else error
                yield number, _bad_csv(f"no CSV: {reason}", line)
                continue
            if not cells:
                continue
            number += 1
            if len(cells) > len(names):
                reason = f"{len(cells)} cells under {len(names)} columns"
                yield number, _bad_csv(reason, line)
            elif not _is_unicode("".join(cells)):
                yield number, _bad_csv("no UTF-8", line)
            else:
                yield number, cells


def _bad_csv(reason: str, line: int) -> str:
    """Return why a row cannot be read, and its first line: what is broken is mended in an editor.

    Its number, by which spreadsheets and keys know it, counts no header and no lines within cells.
    """
    return f"{reason} (the row begins on line {line})"


def _csv_lines(file: TextIO, path: Path) -> Iterator[str]:
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            reason = f"a line of more than {MAX_LINE_BYTES} characters"
            raise _unreadable(path, reason, "save it as CSV in UTF-8")
        yield line


def _csv_header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise _unreadable(path, f"no CSV: {error}", "save it as CSV in UTF-8") from error
    if not any(names):
        raise _unreadable(path, "no line with the names of the columns", "put them on line 1")
    if not _is_unicode("".join(names)) or "\0" in "".join(names):
        raise _unreadable(path, "no UTF-8", "save it as CSV in UTF-8")
    _check_names(path, [name for name in names if name])
    return names


def _check_names(path: Path, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _unreadable(path, f"two columns are called {twice!r}", "rename one of them")


def _delimiter(header: str) -> str:
    """Return what divides the cells: a comma, else what the header has in its place."""
    return next((sign for sign in ",;\t" if sign in header), ",")


def _csv_kinds(path: Path, texts: Sequence[str]) -> list[Callable[[str], Any]]:
    """Return, for each column, the narrowest type that all of its cells have."""
    rows = _csv_rows(path)
    _, names = next(rows)
    kinds: list[Callable[[str], Any] | None] = [
        str if name in texts or not name else None for name in names
    ]
    for _, cells in rows:
        if isinstance(cells, str):
            continue
        for column, cell in enumerate(cells):
            before = kinds[column]
            if cell and before is not str:
                found = _kind_of(cell)
                if before not in (None, found):
                    found = _number if {before, found} == {int, _number} else str
                kinds[column] = found
    return [kind or str for kind in kinds]


def _kind_of(cell: str) -> Callable[[str], Any]:
    if INTEGER.fullmatch(cell):
        return int
    if NUMBER.fullmatch(cell) and math.isfinite(float(cell)):
        return _number
    return _is_true if FLAG.fullmatch(cell) else str


def _number(cell: str) -> float:
    """Return a number of a column that has fractions; an integer too long for a float stays one."""
    if INTEGER.fullmatch(cell) and abs(int(cell)) > EXACT_FLOATS:
        return int(cell)
    return float(cell)


def _is_true(cell: str) -> bool:
    return cell.lower() == "true"


# ---- Parquet ---------------------------------------------------------------------------------


def _open_parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, "write the Parquet table again") from error


def _read_parquet(path: Path) -> Iterator[Numbered]:
    import pyarrow as pa

    with _open_parquet(path) as file:
        _check_names(path, file.schema_arrow.names)
        try:
            yield from _rows_of(file.iter_batches(_rows_at_once(file)))
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _unreadable(path, error, "write the Parquet table again") from error


def stream_rows(table: ArrowStream) -> Iterator[Numbered]:
    """Yield the rows of a table in memory, numbered from 1; a bad row as its reason.

    Args:
        table: A table or a reader of pyarrow's, a data frame of pandas' or polars', ….

    Raises:
        InvalidInput: It has no such form, or two columns of one name.
    """
    import pyarrow as pa

    # The refusals of pandas are of many kinds.
    errors = (pa.ArrowException, ValueError, TypeError, OverflowError, ImportError)
    try:
        reader = pa.RecordBatchReader.from_stream(_with_json(table))
        names = reader.schema.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two columns are called {twice!r}")
        # Numbers of rows that pandas makes up when a frame was filtered or sorted.
        kept = [name for name in names if not INDEX_COLUMN.fullmatch(name)]
        whole = (_plain_views(batch.select(kept)) for batch in reader)
        yield from _rows_of(
            batch.slice(start, BATCH_ROWS)
            for batch in whole
            for start in range(0, len(batch), BATCH_ROWS)
        )
    except errors as error:
        raise InvalidInput(
            f"a {type(table).__name__} that is no table: {' '.join(str(error).split())}",
            hint="give each column one type, metadata as a dict or JSON, vectors as 256 numbers",
        ) from error


def _with_json(table: Any) -> Any:
    """Return a data frame with JSON in the place of the dicts that its metadata are.

    As Arrow's structs they would all get each other's fields.
    """
    is_frame = hasattr(table, "assign") and "metadata" in getattr(table, "columns", ())
    if not is_frame or not any(isinstance(one, dict) for one in table["metadata"]):
        return table
    return table.assign(
        metadata=[
            json.dumps(one, ensure_ascii=False) if isinstance(one, dict) else one
            for one in table["metadata"]
        ]
    )


def _plain_views(batch: Any) -> Any:
    """Return a batch without the forms in which polars and others keep texts and lists."""
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        if pa.types.is_string_view(field.type):
            column = batch.column(place).cast(pa.large_string())
            batch = batch.set_column(place, field.with_type(pa.large_string()), column)
    return batch


def _rows_of(batches: Iterable[Any]) -> Iterator[Numbered]:
    """Yield the rows of batches of Arrow's; vectors come as views of a batch's own memory."""
    number = 0
    for batch in batches:
        names = batch.schema.names
        vectors = _vectors_of(batch) if "vector" in names else None
        others = batch.select([name for name in names if name != "vector"])
        for place, row in enumerate(_plain_rows(_plain_times(others))):
            number += 1
            if vectors is not None and isinstance(row, dict):
                row["vector"] = vectors[place]
            yield number, row


def _rows_at_once(file: Any) -> int:
    """Return how many rows are some megabytes: fewer than usual where rows are long."""
    groups = [file.metadata.row_group(one) for one in range(file.metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    per_row = max(1, size // max(1, file.metadata.num_rows))
    return int(min(BATCH_ROWS, max(1, MAX_LINE_BYTES // per_row)))


def _plain_rows(batch: Any) -> Iterator[Row | str]:
    """Yield the rows of a batch as dicts; one that Python has no value for, as the reason."""
    import pyarrow as pa

    try:
        yield from batch.to_pylist()
    # Numbers that are no dates raise of several kinds on their way to Python.
    except (pa.ArrowException, ValueError, OverflowError):
        for place in range(len(batch)):
            try:
                yield batch.slice(place, 1).to_pylist()[0]
            except (pa.ArrowException, ValueError, OverflowError) as error:
                yield f"a value that cannot be read: {error}"


def _plain_times(batch: Any) -> Any:
    """Return a batch with its times in microseconds: Python has no finer ones."""
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        coarse = _coarse(field.type)
        if coarse != field.type:
            column = batch.column(place).cast(coarse, safe=False)
            batch = batch.set_column(place, pa.field(field.name, coarse), column)
    return batch


def _coarse(kind: Any) -> Any:
    """Return an Arrow type with microseconds in the place of nanoseconds, however deep."""
    import pyarrow as pa

    if getattr(kind, "unit", None) == "ns":
        if pa.types.is_timestamp(kind):
            return pa.timestamp("us", kind.tz)
        return pa.time64("us") if pa.types.is_time(kind) else pa.duration("us")
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_coarse(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_coarse(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_coarse(kind.value_type))
    return kind


def _vectors_of(batch: Any) -> list[Any]:
    """Return the column of vectors: rows of one matrix where all have 256 numbers, else lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column("vector")
    types = pa.types
    if (
        types.is_list(column.type)
        or types.is_large_list(column.type)
        or (types.is_fixed_size_list(column.type))
    ):
        flat = column.flatten()
        lengths = pc.list_value_length(column)
        is_whole = len(column) and column.null_count == 0 and flat.null_count == 0
        if is_whole and pc.all(pc.equal(lengths, DIM)).as_py():
            return list(flat.to_numpy(zero_copy_only=False).reshape(-1, DIM))
    return list(column.to_pylist())


def is_table(path: str) -> bool:
    """Whether a file is a table by its name."""
    return path.lower().endswith(TABLES)


def table_root(table: Path) -> str:
    """Return the root of rows that are known by their number in a table alone.

    It is what comes before the number where a row is named. Links are not resolved: what a link
    leads to may change, and the table is the same.
    """
    return legible(f"{os.path.normpath(table.absolute())}:")


def table_of_root(root: str) -> str | None:
    """Return the table of such a root; None for a folder."""
    table = root.removesuffix(":")
    return table if table != root and is_table(table) else None


def whole_number(value: Any) -> int | None:
    """Return the whole number that a cell holds; None for all else.

    ``3.0`` is one: tables make it of 3 beside a gap.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float | np.floating):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < MOST_WHOLE else None
    return int(value) if isinstance(value, int | np.integer) else None
