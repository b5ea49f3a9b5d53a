"""The way into a corpus: folders, files, tables and vectors → a stream of records."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count, groupby, islice
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from muomni_search.documents import check_words, key_prefix
from muomni_search.errors import InvalidInput, NotFound
from muomni_search.ingest.folder import (
    Entry,
    Skipped,
    read_file_record,
    read_folder,
    read_patterns,
)
from muomni_search.ingest.rows import ArrowStream, is_table, stream_rows
from muomni_search.ingest.table import modality_named, read_row_records, read_table
from muomni_search.items import Modality, Problem, Record
from muomni_search.vectors import check_vectors, unit_among

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["Corpus", "Skipped", "read_corpus", "read_records"]


RECORD_TYPES: dict[str, tuple[type, ...]] = {
    "key": (str,),
    "modality": (Modality,),
    "origin": (str,),
    "path": (Path, NoneType),
    "text": (str, NoneType),
    "source": (str, NoneType),
    "metadata": (Mapping,),
    "root": (str, NoneType),
}
CHECKED_AT_ONCE = 64
FIELDS_OF = attrgetter(*RECORD_TYPES)


class Corpus(Iterator[Entry]):
    """A stream of what there is to add: records, what cannot be used, and what was skipped.

    No key comes twice, and keys, texts and vectors are what may be stored.

    Args:
        entries: The stream.
        roots: The folders and tables that are read whole: what failed of them before and does
            not fail again is mended or gone.
    """

    def __init__(self, entries: Iterator[Entry], roots: Sequence[str] = ()) -> None:
        self._entries = _without_repeats(entries)
        self.roots = tuple(roots)

    def __next__(self) -> Entry:
        return next(self._entries)


def read_corpus(
    paths: str | Path | Sequence[str | Path],
    *,
    prefix: str | None = None,
    vectors: str | Path | None = None,
    exclude: Sequence[str] = (),
    only: Collection[Path] | None = None,
) -> Corpus:
    """Return what a corpus holds, as a stream.

    Args:
        paths: One or several: folders (read recursively), texts, pictures, sounds, and tables
            (``.jsonl``, ``.csv``, ``.parquet``). The key of a file in a folder is its path below
            the folder; of a file given by itself its name; of a row its ``key`` column.
        prefix: Put before each key, with a slash.
        vectors: A ``.npy`` whose row i is the vector of row i of the one table given.
        exclude: Patterns of names to leave out, as in ``.gitignore``.
        only: Of the folders only these files, and these folders with all that is in them: absolute
            paths without links, which need not be there any more.

    Raises:
        NotFound: A path does not exist; nothing was yielded yet.
        InvalidInput: ``vectors`` without exactly one table, or with another number of rows; or
            a pattern that is none.
        UnreadableFile: ``vectors`` cannot be read.
    """
    places = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    for place in places:
        if not os.path.exists(place):  # noqa: PTH110  Path.exists raises for a name that is too long
            raise NotFound(f"{place} does not exist", hint="check the path")
    if vectors is not None and (len(places) != 1 or not _is_table(places[0])):
        raise InvalidInput(
            "--vectors belongs to exactly one table",
            hint="muomni add rows.jsonl --vectors rows.npy",
        )
    start = key_prefix(prefix)
    matrix = None if vectors is None else Path(vectors)
    excluded = read_patterns(exclude) if exclude else None
    roots = [
        str(place.resolve() if place.is_dir() else place.absolute())
        for place in places
        if place.is_dir() or _is_table(place)
    ]
    if only is not None:
        roots = [str(path) for path in only]
    return Corpus(_read_all(places, start, matrix, excluded, only), roots)


def read_records(
    records: Iterable[Record | Problem | Skipped | Mapping[str, Any]] | ArrowStream,
    *,
    prefix: str | None = None,
    folder: str | Path | None = None,
) -> Corpus:
    """Return what a program has in memory as a corpus: records, dicts, a table, a data frame.

    Dicts and the rows of tables are read as those of a Parquet file are: ``key``, ``modality``,
    one of ``text``, ``image``, ``audio``, ``path`` and ``vector``; the rest is metadata. What
    cannot be stored becomes a problem; a vector is normalised.

    Args:
        records: Records or dicts, or what hands itself over as a stream of Arrow's, as tables of
            pyarrow's and data frames of pandas' and polars' do.
        prefix: Put before the keys of dicts and rows, with a slash.
        folder: Where the files are that dicts and rows name; the working directory by default.

    Raises:
        InvalidInput: Something among them is no record, or this is no table.
    """
    start = key_prefix(prefix)
    place = None if folder is None else Path(folder)
    if isinstance(records, ArrowStream):
        # Arrow's texts are whole, and what else may be wrong with a row is told where it is read.
        return Corpus(read_row_records(stream_rows(records), prefix=start, folder=place))
    # A text and a dict are iterable as well, by letters and names.
    if isinstance(records, str | Mapping) or not isinstance(records, Iterable):
        raise InvalidInput(
            f"a {type(records).__name__} is no corpus",
            hint="give a list of records or dicts, a table, or what read_corpus returns",
        )
    return Corpus(_checked(_mixed(records, start, place)))


def _mixed(
    records: Iterable[Record | Problem | Skipped | Mapping[str, Any]],
    prefix: str,
    folder: Path | None,
) -> Iterator[Entry]:
    """Yield records as they are, and those of dicts, which are numbered from 1."""
    numbers = count(1)
    for is_row, group in groupby(records, key=lambda one: isinstance(one, Mapping)):
        if is_row:
            rows = ((next(numbers), _row(one)) for one in group if isinstance(one, Mapping))
            yield from read_row_records(rows, prefix=prefix, folder=folder)
        else:
            yield from (one for one in group if not isinstance(one, Mapping))


def _row(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict that a program made as the row of a table."""
    return {
        str(name): os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in given.items()
    }


def _checked(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Yield entries with what is no record as a problem, and vectors at unit length.

    Raises:
        InvalidInput: Something is not even a problem.
    """
    # Some at a time, for the sake of their vectors; few, for they may come slowly.
    while block := list(islice(entries, CHECKED_AT_ONCE)):
        units = unit_among([getattr(entry, "vector", None) for entry in block])
        for entry, is_unit in zip(block, units.tolist(), strict=True):
            if isinstance(entry, Record):
                yield _checked_record(entry, is_unit=is_unit)
            elif isinstance(entry, Problem | Skipped):
                yield entry
            else:
                raise InvalidInput(
                    f"{entry!r} is no record", hint="give records, or what read_corpus returns"
                )


def _checked_record(record: Record, *, is_unit: bool) -> Record | Problem:
    try:
        if type(record.modality) is str:
            record = replace(record, modality=modality_named(record.modality))
        _check_types(record)
        check_words(record.key, record.source, record.text, record.root)
        if record.vector is None or is_unit:
            return record
        return replace(record, vector=check_vectors([record.vector], "the vector")[0])
    except InvalidInput as error:
        key = record.key if isinstance(record.key, str) else None
        return Problem(str(record.origin), error.what, error.hint or "mend the record", key)


def _read_all(
    places: Sequence[Path],
    prefix: str,
    vectors: Path | None,
    excluded: GitIgnoreSpec | None,
    only: Collection[Path] | None,
) -> Iterator[Entry]:
    for place in places:
        if place.is_dir():
            yield from read_folder(place.resolve(), prefix=prefix, excluded=excluded, only=only)
        elif _is_table(place):
            yield from read_table(place.absolute(), prefix=prefix, vectors=vectors)
        elif place.suffix.lower() == ".npy":
            raise InvalidInput(
                f"{place}: vectors alone have no keys",
                hint=f"give a table and --vectors {place}",
            )
        else:
            path = place.absolute()
            yield read_file_record(path, prefix + path.name, path.parent.resolve(), named=True)


def _check_types(record: Record) -> None:
    name = _misfit(tuple(map(type, FIELDS_OF(record))))
    if name is not None:
        raise InvalidInput(
            f"the {name} of a record is {getattr(record, name)!r}", hint="see Record"
        )


@lru_cache(maxsize=256)
def _misfit(types: tuple[type, ...]) -> str | None:
    """Return which field of a record cannot be of the type that it has."""
    for own, (name, kinds) in zip(types, RECORD_TYPES.items(), strict=True):
        if not issubclass(own, kinds):
            return name
    return None


def _is_table(place: Path) -> bool:
    return is_table(place.name) and place.is_file()


def _without_repeats(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Turn the second record of a key into a problem."""
    # Where each key was first: a number for each root, for the sake of memory.
    seen: dict[bytes, int] = {}
    roots: dict[str | None, int] = {}
    for entry in entries:
        if isinstance(entry, Record):
            digest = hashlib.blake2b(
                entry.key.encode(errors="surrogatepass"), digest_size=16
            ).digest()
            root = roots.setdefault(entry.root, len(roots))
            if digest in seen:
                elsewhere = seen[digest] != root
                yield Problem(
                    entry.origin,
                    f"{entry.origin}: the key {entry.key!r} was there before"
                    + ", under another root" * elsewhere,
                    "add one of the two with --prefix"
                    if elsewhere
                    else "give each item a key of its own",
                    entry.key,
                )
                continue
            seen[digest] = root
        yield entry
