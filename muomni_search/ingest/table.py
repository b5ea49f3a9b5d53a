"""Tables: a record a row, from JSONL, CSV or Parquet, with content inline, in files or as vectors.

Columns: ``key``, ``modality``, one of ``text``, ``image``, ``audio`` (an inline text, or the path
of a file relative to the table's folder), or ``path`` or ``source`` with a modality, or ``vector``;
``source`` and ``text`` may go with a vector. A column ``metadata`` that holds an object, and every
other column, is metadata: JSON values, with times as ISO 8601 and a NaN, which is how tables spell
a gap, as nothing.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.documents import check_words
from muomni_search.errors import InvalidInput, UnreadableFile
from muomni_search.ingest.folder import Entry, Skipped, read_file_record
from muomni_search.ingest.matrix import load_matrix
from muomni_search.ingest.rows import (
    BATCH_ROWS,
    Numbered,
    Row,
    count_rows,
    listed,
    parse_json,
    read_rows,
    table_root,
    whole_number,
)
from muomni_search.items import Modality, Problem, Record
from muomni_search.vectors import check_vectors

__all__ = ["find_beside", "modality_named", "read_row_records", "read_table"]

CONTENT_COLUMNS = ("text", "image", "audio", "path")
RESERVED = {"key", "modality", "source", "vector", "metadata", *CONTENT_COLUMNS}
PLAIN = {int, bool, type(None)}
LISTS = {list, tuple}
FRACTIONS = (float, Decimal)
BATCH_CHARACTERS = 16_000_000
# A row with a vector needs no file, so that columns which would name one are metadata.
RESERVED_BESIDE_VECTORS = {"key", "modality", "source", "vector", "metadata", "text"}
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def read_table(path: Path, *, prefix: str = "", vectors: Path | None = None) -> Iterator[Entry]:
    """Yield a record for each row of a table, or the problem that it has.

    Args:
        path: The table.
        prefix: Put before each key.
        vectors: A ``.npy`` of (rows, 256) whose row i belongs to row i of the table.

    A table that cannot be read, or no further, ends with a problem of its own.

    Raises:
        InvalidInput: The vectors are not (rows, 256) numbers, or not one a row.
        UnreadableFile: The vectors cannot be read.
    """
    rows = read_rows(path)
    if vectors is not None:
        matrix = load_matrix(vectors)
        count = count_rows(path)
        if count != len(matrix):
            raise InvalidInput(
                f"{vectors} has {len(matrix)} vectors, {path} has {count} rows",
                hint="row i of the vectors must belong to row i of the table",
            )
        rows = _with_vectors(rows, matrix)
    try:
        for batch in _batches(rows):
            yield from _Batch(path, batch, prefix=prefix, name=path.name).entries()
    except UnreadableFile as error:
        yield Problem(str(path), error.what, error.hint)


def read_row_records(
    rows: Iterator[Numbered], *, prefix: str = "", folder: Path | None = None
) -> Iterator[Entry]:
    """Yield a record for each row that a program has in memory, by the rules of a table.

    Args:
        rows: The rows, numbered from 1. Each needs a ``key``: there is no file to name it after.
        prefix: Put before each key.
        folder: Where the files are that rows name; the working directory by default.
    """
    # Called a table in the folder, for what a row names lies beside it.
    place = (folder or Path.cwd()).absolute() / "row"
    for batch in _batches(rows):
        yield from _Batch(place, batch, prefix=prefix, name=None).entries()


def _batches(rows: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    """Yield some rows at a time, fewer where they hold long texts."""
    batch: list[Numbered] = []
    size = 0
    try:
        for numbered in rows:
            batch.append(numbered)
            row = numbered[1]
            if isinstance(row, dict):
                size += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(batch) == BATCH_ROWS or size > BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    except UnreadableFile:
        if batch:
            yield batch  # what came before the damage is good
        raise
    if batch:
        yield batch


class _Batch:
    """Some rows of a table on their way to records; their vectors are checked together."""

    def __init__(
        self, path: Path, rows: Sequence[Numbered], *, prefix: str, name: str | None
    ) -> None:
        self._path = path
        self._rows = rows
        self._prefix = prefix
        self._name = name
        self._folder = path.parent.resolve()
        self._root = table_root(path)
        self._vectors = self._normalised()

    def entries(self) -> Iterator[Entry]:
        for number, row in self._rows:
            origin = f"{self._path}:{number}" if self._name else f"row {number}"
            if isinstance(row, str):
                yield Problem(origin, f"{origin}: {row}", "mend the row")
                continue
            try:
                yield self._record(number, row, origin)
            except InvalidInput as error:
                yield Problem(origin, f"{origin}: {error.what}", error.hint or "mend the row")
            except RecursionError:
                yield Problem(origin, f"{origin}: metadata nested too deep", "flatten it")

    def _normalised(self) -> dict[int, NDArray[np.float32]]:
        """Return the unit vectors of the rows that have good ones, in one go where all are."""
        rows = [
            (number, row["vector"])
            for number, row in self._rows
            if isinstance(row, dict) and row.get("vector") is not None
        ]
        if not rows:
            return {}
        try:
            checked = check_vectors([listed(vector) for _, vector in rows], "the batch")
        except InvalidInput:
            return {}  # one of them is bad: each is checked on its own
        return {number: vector for (number, _), vector in zip(rows, checked, strict=True)}

    def _record(self, number: int, row: Row, origin: str) -> Record:
        key = row.get("key")
        if self._name and (key is None or key != key):  # a gap, in a table of numbers NaN
            numbered = self._prefix + f"{self._name}:{number}"
            # Another table of the same name has such a row too.
            return replace(self._keyed(number, row, numbered, origin), root=self._root)
        whole = whole_number(key)
        if whole is not None:
            key = str(whole)
        if key == "":
            raise InvalidInput("the key is empty", hint="give each row a text as key")
        if not isinstance(key, str):
            raise InvalidInput(f"the key {key!r} is no text", hint="give each row a text as key")
        if "\0" in key:
            raise InvalidInput(f"the key {key!r} holds a NUL", hint="give it a name without NUL")
        return self._keyed(number, row, self._prefix + key, origin)

    def _keyed(self, number: int, row: Row, key: str, origin: str) -> Record:
        if row.get("vector") is not None:
            metadata = _metadata(row, RESERVED_BESIDE_VECTORS)
            return self._vector_record(number, row, key, origin, metadata)
        column, modality = _content_column(row)
        # Beside a content it says where that comes from, and nothing is read there.
        metadata = _metadata(row, RESERVED if column == "source" else RESERVED - {"source"})
        value = row[column]
        if not isinstance(value, str):
            raise InvalidInput(f"{column} is {value!r}, no text", hint="give a text")
        if column == "text":
            if not value.strip():
                raise InvalidInput("the text is empty", hint="write something or leave it out")
            return Record(key, Modality.TEXT, origin, text=value, metadata=metadata)
        return self._file_record(value, modality, key, origin, metadata)

    def _vector_record(
        self, number: int, row: Row, key: str, origin: str, metadata: Mapping[str, Any]
    ) -> Record:
        vector = self._vectors.get(number)
        if vector is None:
            vector = check_vectors([listed(row["vector"])], "the vector")[0]
        modality = _stated_modality(row)
        if modality is None:
            raise InvalidInput("a vector without a modality", hint="say text, image or audio")
        text, source = row.get("text"), row.get("source")
        for name, value in (("text", text), ("source", source)):
            if value is not None and not isinstance(value, str):
                raise InvalidInput(f"{name} is {value!r}, no text", hint="give a text")
        if source and not URL.match(source):
            source = os.path.normpath(self._folder / source)
        check_words(key, source, text)
        return Record(
            key, modality, origin, vector=vector, text=text, source=source, metadata=metadata
        )

    def _file_record(
        self,
        value: str,
        modality: Modality | None,
        key: str,
        origin: str,
        metadata: Mapping[str, Any],
    ) -> Record:
        path = find_beside(self._path, value)
        entry = read_file_record(path, key, self._folder, named=True)
        if isinstance(entry, Problem):
            raise InvalidInput(entry.error, hint=entry.hint)
        if isinstance(entry, Skipped):
            raise InvalidInput(entry.reason)
        if modality is not None and entry.modality != modality:
            raise InvalidInput(f"{path} is {entry.modality}, not {modality}")
        return Record(
            key,
            entry.modality,
            origin,
            path=entry.path,
            source=entry.source,
            metadata=metadata,
            size=entry.size,
            mtime_ns=entry.mtime_ns,
        )


def find_beside(table: Path, value: str) -> Path:
    """Return the absolute path of a file that a table names, in its folder or below.

    Raises:
        InvalidInput: It is not there, or elsewhere.
    """
    folder = table.parent.resolve()
    path = Path(os.path.normpath(folder / value))
    if "\0" in value or not path.is_relative_to(folder):
        raise InvalidInput(
            f"the path {value!r} leaves the folder of the table",
            hint="put the file beside the table",
        )
    try:
        if not path.exists():
            raise InvalidInput(f"no file {path}", hint="mend the path or add the file")
        if not path.resolve().is_relative_to(folder):
            raise InvalidInput(f"{path} is a link that leaves the folder of the table")
    except OSError as error:  # a name that is too long, a folder that is closed
        raise InvalidInput(f"{path}: {error.strerror}", hint="mend the path") from error
    return path


def _content_column(row: Row) -> tuple[str, Modality | None]:
    """Return the column that holds the content, and what it says the content is."""
    filled = [name for name in CONTENT_COLUMNS if row.get(name) is not None]
    if not filled and row.get("source") is not None:
        filled = ["source"]
    if len(filled) != 1:
        found = " and ".join(filled) if filled else "no content"
        raise InvalidInput(
            f"{found}: one is needed", hint="fill one of text, image, audio, path or vector"
        )
    stated = _stated_modality(row)
    own = {"text": Modality.TEXT, "image": Modality.IMAGE, "audio": Modality.AUDIO}.get(filled[0])
    if own is not None and stated is not None and own != stated:
        raise InvalidInput(f"the modality is {stated}, the content is in {filled[0]!r}")
    return filled[0], own or stated


def _stated_modality(row: Row) -> Modality | None:
    value = row.get("modality")
    return None if value is None else modality_named(value)


def modality_named(value: Any) -> Modality:
    """Return the modality of a name.

    Raises:
        InvalidInput: There is none.
    """
    try:
        return Modality(value)
    except ValueError as error:
        raise InvalidInput(f"no modality {value!r}", hint="say text, image or audio") from error


def _metadata(row: Row, reserved: Collection[str]) -> dict[str, Any]:
    metadata = {}
    for name, value in row.items():
        if value is None or name in reserved:
            continue
        if "\0" in name:
            _plain("the name of a column", name)  # which refuses it
        plain = _plain(name, value)
        if plain is not None:
            metadata[name] = plain
    given = row.get("metadata")
    if isinstance(given, str):
        try:
            given = parse_json(given)
        except ValueError as error:
            raise InvalidInput(f"metadata is no JSON: {error}") from error
    if given is None:
        return metadata
    if not isinstance(given, dict):
        raise InvalidInput(f"metadata is {given!r}, no object")
    return {**_plain("metadata", given), **metadata}


def _plain(name: str, value: Any) -> Any:
    """Return a cell as a JSON value.

    Raises:
        InvalidInput: It is none and has no plain form, or could not be found by a filter.
    """
    kind = type(value)
    if kind is str:
        if "\0" in value:
            raise InvalidInput(f"{name} holds a NUL, which no filter finds", hint="take it out")
        return value
    if kind in PLAIN:
        return value
    if kind is dict:
        return {_plain(name, str(key)): _plain(name, one) for key, one in value.items()}
    if kind in LISTS:
        return [_plain(name, one) for one in value]
    if isinstance(value, FRACTIONS):
        number = float(value)
        if math.isinf(number):
            raise InvalidInput(f"{name} is infinite", hint="give a finite number, or none")
        return None if math.isnan(number) else number
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        return _plain(name, value.tolist())
    raise InvalidInput(
        f"{name} holds {type(value).__name__}, which metadata cannot", hint="leave the column out"
    )


# ---- vectors beside a table ------------------------------------------------------------------


def _with_vectors(rows: Iterator[Numbered], matrix: NDArray[Any]) -> Iterator[Numbered]:
    for place, (number, row) in enumerate(rows):
        if isinstance(row, dict):
            row["vector"] = matrix[place]
        yield number, row
