"""Batch jobs: a file of queries in, a file of neighbours out, restartable.

    queries ──block──▶ resolve ──▶ products, or indexes ──▶ part file
                                                                └── all parts ──▶ the output, whole

A part that has its name is whole and on the disk, and parts lie in ``<output>.parts`` beside a
file that is named after what decides about the answers. So a job that was killed goes on where it
stopped and its output is the same to the byte (with indexes, whose use depends on how fast the
machine is at that moment, but for that), and no other job goes on with its parts. A part that
is no longer what was written, by its checksum, is made again, and so are those after it.

All blocks are answered from one state of the collection. It is one read transaction: while a job
runs, SQLite's log keeps what others write meanwhile, and shrinks when the last of them closes.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.collection import Collection
from muomni_search.errors import Conflict, InvalidInput, MuomniError, NotFound, UnreadableFile
from muomni_search.filters import parse_filter, refuse_source
from muomni_search.garbage import rare_collections
from muomni_search.index.planner import QUERY_BLOCK
from muomni_search.indexing import promise_of
from muomni_search.ingest.matrix import load_matrix
from muomni_search.ingest.rows import (
    MAX_LINE_BYTES,
    TABLES,
    TEXT_COLUMNS,
    count_rows,
    listed,
    parquet_columns,
    parse_json,
    read_rows,
    whole_number,
)
from muomni_search.items import Modality, Query
from muomni_search.progress import Progress, Silent
from muomni_search.query_parts import make_part, parse_part
from muomni_search.ranked import MODALITIES, RankedLists
from muomni_search.store.sqlite import disk_errors
from muomni_search.store.store import Job
from muomni_search.view import Modalities, View, Where, modalities_of

__all__ = ["FOREIGN_HITS", "BatchReport", "read_queries", "run_batch", "write_neighbors"]

# As many queries as are multiplied at a time: a second or so of work at 100,000 rows. Its answers
# are some 100 MB at most.
BLOCK_QUERIES = QUERY_BLOCK
BLOCK_HITS = 50 * BLOCK_QUERIES
# How many hits a query of a stranger's may have: a row may ask for every item there is.
FOREIGN_HITS = 10_000
MOST_HITS = 10**9
FORMATS = (".jsonl", ".parquet", ".trec")
RUN_TAG = "muomni"
# What lies in the folder of a job's parts, whole or half written.
PART = re.compile(
    r"[0-9a-f]{64}\.job|\d{6}\.(errors|jsonl|parquet|trec|sha256)|output|errors|\..*\.partial"
)
FILE_COLUMNS = {"image", "audio", "plus", "minus"}
NO_HITS = RankedLists.joined(0, [])
# In CSV these stay as they are written: an id of 007 is no number.
QUERY_COLUMNS = ("query_id", "id", "plus", "minus", "where")


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a batch job did.

    Args:
        answered: Queries with an answer.
        failed: Queries that could not be answered; ``<output>.errors.jsonl`` says why.
        seconds: How long this run took.
        resumed_blocks: Blocks that an earlier run had finished.
        output: The file that was written; the report stands for it where a path is asked for.
    """

    answered: int
    failed: int
    seconds: float
    resumed_blocks: int
    output: Path

    def __fspath__(self) -> str:
        return str(self.output)


class Task(NamedTuple):
    """One query of a job, or why it is none."""

    query_id: str | int
    query: Query | MuomniError
    k: int
    modality: Modalities
    where: Any


class Answers(NamedTuple):
    """The hits of a block of queries, and why some have none.

    Args:
        query_ids: Of each query.
        found: The hits of each; none of one that has an error.
        errors: Why, by the number of the query.
        promised: The recall that the index of each of ``MODALITIES`` was measured to hold to, None
            for none; empty for a job that asks no index, whose answers do not speak of it.
    """

    query_ids: Sequence[str | int]
    found: RankedLists
    errors: Mapping[int, MuomniError]
    promised: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where the queries of a job come from.

    Args:
        asked: What decides about the answers, beside the collection.
        count: Returns how many there are.
        read: Yields them, the same ones every time.
    """

    asked: Mapping[str, Any]
    count: Callable[[View], int]
    read: Callable[[View], Iterator[Task]]


def run_batch(
    collection: Collection,
    queries: str | Path,
    output: str | Path,
    *,
    k: int = 10,
    modality: Modalities = None,
    where: Where = None,
    exact: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    is_foreign: bool = False,
) -> BatchReport:
    """Answer every query of a file into a file.

    Args:
        collection: What to search.
        queries: JSONL, CSV, Parquet or ``.npy``; a query a row (``docs/how-to/batch.md``).
        output: ``.jsonl``, ``.parquet`` or ``.trec``.
        k: Hits of each query whose row does not say.
        modality: Modalities of each query whose row does not say.
        where: Filter of each query whose row does not say.
        exact: Compare with every row; otherwise by the indexes where they take less time, as a
            single query is: with the recall that they were measured to hold to.
        force: Replace an output that another job made.
        progress: Told of each query.
        is_foreign: The file came from somebody who may name no files of this machine: a query
            with a picture or a sound fails, and one for more than ``FOREIGN_HITS``. The collection
            keeps no books of the output.

    Raises:
        Conflict: The output belongs to another input, collection state or option.
        UnreadableFile: The query file cannot be read.
    """
    # Absolute: an empty name has no other.
    k = _whole(k)
    queries, output = Path(queries), Path(output).absolute()
    _check_format(queries)
    for taken in (output, _errors_of(output)):
        if taken.exists() and queries.exists() and taken.samefile(queries):
            raise InvalidInput(f"{taken} holds the queries", hint="name another output")
    default = Task(0, Query(()), k, modality, where)
    source = Source(
        asked={
            **_options(k, modality, where, exact=exact),
            "input": _digest(queries),
            "files": None if is_foreign else _digest_files(queries, default),
        },
        count=lambda _: _count_queries(queries),
        read=lambda _: _read_tasks(queries, default, is_foreign=is_foreign),
    )
    return _Run(
        collection,
        output,
        source,
        exact=exact,
        force=force,
        progress=progress,
        has_books=not is_foreign,
    ).run()


def write_neighbors(
    collection: Collection,
    output: str | Path,
    *,
    k: int = 10,
    modality: Modalities = None,
    exact: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> BatchReport:
    """Write the nearest neighbours of every item, itself left out; ``query_id`` is its key.

    Args:
        collection: What to compare with itself.
        output: ``.jsonl``, ``.parquet`` or ``.trec``.
        k: Neighbours of each item.
        modality: Only neighbours of these modalities.
        exact: See ``run_batch``.
        force: Replace an output that another job made.
        progress: Told of each item.

    Raises:
        Conflict: The output belongs to another collection state or option.
    """
    k = _whole(k)
    source = Source(
        asked={**_options(k, modality, None, exact=exact), "neighbors": True},
        count=_count_items,
        read=lambda view: (
            Task(key, Query.id(key), k, modality, None) for key in view.snapshot.iter_keys()
        ),
    )
    return _Run(collection, Path(output), source, exact=exact, force=force, progress=progress).run()


def _options(k: int, modality: Modalities, where: Any, *, exact: bool) -> dict[str, Any]:
    """Return options as they decide about a job, however they were spelled.

    Raises:
        InvalidInput: One of them makes no sense.
    """
    options = {"k": k, "modality": modalities_of(modality), "where": repr(parse_filter(where))}
    return options if exact else {**options, "exact": False}


def _promised(view: View, modality: Modality) -> float | None:
    file = view.snapshot.index_file(modality)
    promise = None if file is None else promise_of(file)
    return None if promise is None else promise.recall


def _count_items(view: View) -> int:
    return sum(count["items"] for count in view.snapshot.counts().values())


# ---- the machinery ---------------------------------------------------------------------------


class _Run:
    """One run of a job: what is done already, what is left, and the output at the end."""

    def __init__(
        self,
        collection: Collection,
        output: Path,
        source: Source,
        *,
        exact: bool,
        force: bool,
        progress: Progress | None,
        has_books: bool = True,
    ) -> None:
        output = output.absolute()
        if output.is_dir():  # as an empty name is
            raise InvalidInput(f"{output} is a folder", hint="name a file")
        if output.suffix not in FORMATS:
            raise InvalidInput(
                f"{output.name}: no format {output.suffix!r}", hint=f"one of {', '.join(FORMATS)}"
            )
        durable.check_folder(output)
        collection.check_output(output)
        self._collection = collection
        self._output = output
        self._source = source
        self._exact = exact
        self._force = force
        self._has_books = has_books
        self._progress = progress or Silent()
        self._promised: Sequence[float | None] = ()  # see ``Answers``
        self._parts = output.with_name(output.name + ".parts")
        self._errors = _errors_of(output)

    def run(self) -> BatchReport:
        started = time.monotonic()
        with (
            disk_errors(self._output),
            durable.held_folder(self._parts, "another process makes this output"),
            self._collection.view() as view,
        ):
            total = self._source.count(view)
            if not self._exact:
                self._promised = [_promised(view, one) for one in MODALITIES]
            fingerprint = self._fingerprint(view)
            job = view.snapshot.job(str(self._output))
            is_own = job is not None and job.fingerprint == fingerprint and job.mark == self._mark()
            if job is not None and is_own and job.state == "done":
                done = blocks = job.done
                failed = _count_lines(self._errors)
            else:
                done = self._claim(fingerprint, is_own=is_own)
                blocks = self._write_parts(view, total, done)
                failed = self._merge(blocks)
                self._keep(Job(str(self._output), fingerprint, blocks, "done", self._mark()))
            _clear(self._parts)
        seconds = time.monotonic() - started
        return BatchReport(total - failed, failed, seconds, done, self._output)

    def _fingerprint(self, view: View) -> str:
        """Return a name for all that decides about the output's bytes."""
        state = view.snapshot.state
        deciding = {
            **self._source.asked,
            "collection": state.created,
            "version": state.version,
            "model": state.fingerprint,
            "block": [BLOCK_QUERIES, BLOCK_HITS],
        }
        if not self._exact:
            # The same items may get another index, or one may be asked deeper. Parts of an earlier
            # version have no column for what is promised.
            if self._output.suffix != ".trec":
                deciding["columns"] = ["recall"]
            promises = {file.name: promise_of(file) for file in state.index_files.values()}
            deciding["indexes"] = [
                (name, own and [own.recall, own.fetch, *([own.reach] if own.reach != -1 else [])])
                for name, own in sorted(promises.items())
            ]
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def _claim(self, fingerprint: str, *, is_own: bool) -> int:
        """Make the parts this job's; return how many of them are done.

        Args:
            fingerprint: The job's.
            is_own: Whether the output, if there is one, was made by it.

        Raises:
            Conflict: The output or what there is of it is another job's.
        """
        mark = self._parts / f"{fingerprint}.job"
        if mark.exists():
            done = 0
            while self._is_done(done):
                done += 1
            return done
        if not self._force:
            if self._output.exists() and not is_own:
                raise Conflict(
                    f"{self._output} was made by another input, collection state or option, or "
                    "was changed since",
                    hint="name another output, or replace it with --force",
                )
            if self._errors.exists() and not _are_errors(self._errors):
                raise Conflict(
                    f"{self._errors} is there, and no list of errors",
                    hint="move it away, or replace it with --force",
                )
            # A mark without parts is of a job that ended before it had answered anything.
            if any(path.suffix in FORMATS for path in self._parts.iterdir()):
                raise Conflict(
                    f"{self._parts} holds the half of another input, collection state or option",
                    hint="name another output, or begin anew with --force",
                )
        for path in self._parts.iterdir():
            if not PART.fullmatch(path.name):
                raise Conflict(f"{path} is no part of a job", hint="move it away")
        _clear(self._parts)
        self._keep(Job(str(self._output), fingerprint, 0, "running"))
        _write_whole(mark, b"")
        return 0

    def _mark(self) -> str:
        """Return what the output is known again by: its size and time; empty when it is gone."""
        try:
            facts = self._output.stat()
        except OSError:
            return ""
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def _keep(self, job: Job) -> None:
        # A collection that one may only read is searched all the same; without its books a
        # finished job is not known again.
        if not self._has_books or not os.access(self._collection.store.database, os.W_OK):
            return
        with self._collection.store.write() as writer:
            writer.set_job(job)

    def _write_parts(self, view: View, total: int, done: int) -> int:
        """Answer the blocks that are not done; return how many blocks there are."""
        self._progress.start(total, "searching")
        number = -1
        try:
            with rare_collections():
                blocks = _blocks(self._source.read(view), cache(lambda: _count_items(view)))
                for number, block in enumerate(blocks):
                    if number >= done:
                        answers = _answer(view, block, exact=self._exact)
                        self._write_part(number, answers._replace(promised=self._promised))
                    self._progress.advance(len(block))
        finally:
            self._progress.finish()
        return number + 1

    def _write_part(self, number: int, answers: Answers) -> None:
        errors = "".join(
            _json({"query_id": answers.query_ids[place], "error": str(error)}) + "\n"
            for place, error in sorted(answers.errors.items())
        )
        # The answers last: a block is done when they have their name.
        _write_whole(self._part(number, ".errors"), errors.encode())
        path = self._part(number, self._output.suffix)
        with durable.whole_file(path) as partial:
            if path.suffix == ".parquet":
                _write_parquet(partial, answers)
            else:
                form = _jsonl_lines if path.suffix == ".jsonl" else _trec_lines
                partial.write_bytes("".join(form(answers)).encode())
            checksum = _checksum(self._part(number, ".errors"), partial)
            _write_whole(self._part(number, ".sha256"), checksum.encode())

    def _is_done(self, number: int) -> bool:
        """Whether a block's part is there, as it was written."""
        parts = self._part(number, ".errors"), self._part(number, self._output.suffix)
        try:
            return _checksum(*parts) == self._part(number, ".sha256").read_text("latin-1")
        except FileNotFoundError:
            return False

    def _part(self, number: int, suffix: str) -> Path:
        return self._parts / f"{number:06d}{suffix}"

    def _merge(self, blocks: int) -> int:
        """Make the output of all parts, in one step; return how many queries failed."""
        parts = [self._part(number, self._output.suffix) for number in range(blocks)]
        whole = self._parts / "output"
        if self._output.suffix == ".parquet":
            _merge_parquet(parts, whole, Answers((), NO_HITS, {}, self._promised))
        else:
            _concatenate(parts, whole)
        errors = self._parts / "errors"
        _concatenate([self._part(number, ".errors") for number in range(blocks)], errors)
        failed = _count_lines(errors)
        if failed:
            errors.replace(self._errors)
        else:
            self._errors.unlink(missing_ok=True)
        durable.replace(whole, self._output)
        return failed


def _clear(folder: Path) -> None:
    # The mark first: without it, what a kill leaves of the parts is nobody's.
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".job"):
        path.unlink()


def _blocks(tasks: Iterator[Task], count_items: Callable[[], int]) -> Iterator[list[Task]]:
    """Yield the tasks block by block, fewer at a time where they ask for many of the items.

    These are counted only for tasks of which a block might hold too few: it takes a while.
    """
    block: list[Task] = []
    hits = 0
    for task in tasks:
        is_few = task.k <= BLOCK_HITS // BLOCK_QUERIES
        wanted = task.k if is_few else min(task.k, count_items())
        if block and (len(block) == BLOCK_QUERIES or hits + wanted > BLOCK_HITS):
            yield block
            block, hits = [], 0
        block.append(task)
        hits += wanted
    if block:
        yield block


def _answer(view: View, block: Sequence[Task], *, exact: bool) -> Answers:
    """Answer a block: tasks that share a filter, modalities and k go through together."""
    errors: dict[int, MuomniError] = {}
    asked: list[tuple[int, Task, Query]] = []
    for place, task in enumerate(block):
        if isinstance(task.query, MuomniError):
            errors[place] = task.query
        else:
            asked.append((place, task, task.query))
    groups: dict[str, list[tuple[int, Task, Query, NDArray[np.float32]]]] = {}
    vectors = view.resolve_many([query for _, _, query in asked])
    for (place, task, query), vector in zip(asked, vectors, strict=True):
        if isinstance(vector, MuomniError):
            errors[place] = vector
            continue
        alike = repr((task.where, task.modality, task.k))
        groups.setdefault(alike, []).append((place, task, query, vector))
    answered: list[tuple[list[int], RankedLists]] = []
    for members in groups.values():
        places = [place for place, _, _, _ in members]
        first = members[0][1]
        try:
            found = view.rank_many(
                [query for _, _, query, _ in members],
                np.stack([vector for _, _, _, vector in members]),
                first.k,
                modality=first.modality,
                where=first.where,
                exact=exact,
            )
        except MuomniError as error:
            errors.update(dict.fromkeys(places, error))
        else:
            answered.append((places, found))
    found = RankedLists.joined(len(block), answered)
    return Answers([task.query_id for task in block], found, errors)


# ---- reading queries -------------------------------------------------------------------------


def read_queries(path: Path) -> Iterator[tuple[str | int, Query | MuomniError, Any]]:
    """Yield the id, the query (or why it is none) and the filter of each row of a query file.

    Raises:
        InvalidInput: This is no format of queries.
        UnreadableFile: The file cannot be read.
    """
    _check_format(path)
    for task in _read_tasks(path, Task(0, Query(()), 1, None, None)):
        yield task.query_id, task.query, task.where


def _check_format(path: Path) -> None:
    if path.suffix.lower() not in (*TABLES, ".npy"):
        raise InvalidInput(
            f"{path}: no format of queries", hint=f"one of {', '.join((*TABLES, '.npy'))}"
        )


def _count_queries(path: Path) -> int:
    return len(load_matrix(path)) if path.suffix.lower() == ".npy" else count_rows(path)


def _read_tasks(path: Path, default: Task, *, is_foreign: bool = False) -> Iterator[Task]:
    """Yield the queries of a file; rows without a ``query_id`` are numbered from 0."""
    if path.suffix.lower() == ".npy":
        for number, vector in enumerate(np.asarray(load_matrix(path))):  # slices of a map are slow
            yield default._replace(query_id=number, query=Query.vector(vector))
        return
    for number, (_, row) in enumerate(read_rows(path, texts=(*TEXT_COLUMNS, *QUERY_COLUMNS))):
        if isinstance(row, str):
            yield default._replace(query_id=number, query=InvalidInput(row))
            continue
        query_id = number
        try:
            query_id = _query_id(row, number)
            task = _task(row, query_id, default, path.parent)
            if is_foreign:
                _check_foreign(task)
            yield task
        except MuomniError as error:
            yield default._replace(query_id=query_id, query=error)


def _query_id(row: Mapping[str, Any], number: int) -> Any:
    query_id = row.get("query_id")
    if query_id is None or query_id == "" or query_id != query_id:  # NaN, a gap
        return number
    whole = whole_number(query_id)
    if whole is not None:
        return whole
    if not isinstance(query_id, str):
        raise InvalidInput(
            f"the query_id {query_id!r} is neither text nor a whole number", hint="give one"
        )
    return query_id


def _task(row: Mapping[str, Any], query_id: str | int, default: Task, folder: Path) -> Task:
    parts: list[Query] = []
    for kind in ("text", "image", "audio", "id"):
        parts += [make_part(kind, value, folder=folder) for value in _texts(row, kind)]
    if row.get("vector") is not None:
        parts.append(Query.vector(listed(row["vector"])))
    parts += [parse_part(spelled, folder=folder) for spelled in _texts(row, "plus")]
    parts += [-parse_part(spelled, folder=folder) for spelled in _texts(row, "minus")]
    if not parts:
        raise InvalidInput(
            "a query without a part", hint="fill one of text, image, audio, id, vector or plus"
        )
    query = Query(tuple(part for one in parts for part in one.parts))
    where = row.get("where") or default.where
    parse_filter(where)
    modality = _texts(row, "modality") or default.modality
    modalities_of(modality)
    return Task(query_id, query, _k(row.get("k"), default.k), modality, where)


def _check_foreign(task: Task) -> None:
    """Refuse what would open a file that a stranger names, say where files lie, or fill a disk."""
    refuse_source(parse_filter(task.where))
    if task.k > FOREIGN_HITS:
        raise InvalidInput(f"k is {task.k}", hint=f"ask for {FOREIGN_HITS} hits at most")
    if isinstance(task.query, Query):
        for part in task.query.parts:
            if part.kind in ("image", "audio"):
                raise InvalidInput(
                    f"the query names a file ({part.kind})", hint="ask with words, ids or vectors"
                )


def _whole(k: Any) -> int:
    """Return how many hits a job asks for.

    Raises:
        InvalidInput: It is no whole number, or too large a one.
    """
    number = int(k) if isinstance(k, np.integer) else k
    if not isinstance(number, int) or isinstance(number, bool):
        raise InvalidInput(f"k is {k!r}", hint="give a whole number")
    if number > MOST_HITS:  # of which Python may write no digits
        raise InvalidInput(f"k is more than {MOST_HITS:,}", hint="ask for fewer hits")
    return _k(number, number)


def _k(value: Any, default: int) -> int:
    """Return how many hits a row asks for; ``10.0`` is what tables make of 10 beside a gap."""
    if value is None or value != value:  # a gap, in a table of numbers NaN
        return default
    number = value
    if isinstance(value, str) and value.isdecimal():
        number = int(value[:20])  # Python reads no more than some thousand digits
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not 1 <= number <= MOST_HITS or number % 1:
        told = repr(value)
        raise InvalidInput(
            f"k is {told if len(told) <= 20 else f'{told[:20]}…'}",
            hint=f"give a whole number, from 1 to {MOST_HITS:,}",
        )
    return int(number)


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    """Return a column's values: none, one or a list of them, in CSV as JSON."""
    value = row.get(column)
    if value is None:
        return []
    if column in ("plus", "minus", "modality"):
        value = listed(value)
    values = value if isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str):
            raise InvalidInput(f"{column} holds {one!r}, no text")
    return values


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="check its name") from error
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror}", hint="check its permissions") from error


def _digest_files(path: Path, default: Task) -> str | None:
    """Return a name for the files that the queries name, by path, size and time; None for none."""
    if not _may_name_files(path):
        return None
    named = hashlib.sha256()
    for task in _read_tasks(path, default):
        if isinstance(task.query, MuomniError):
            continue
        for part in task.query.parts:
            if part.kind in ("image", "audio"):
                file = Path(part.value).absolute()
                try:
                    facts = file.stat()
                    found = f"{facts.st_size} {facts.st_mtime_ns}"
                except (OSError, ValueError):
                    found = "missing"
                named.update(f"{file}\0{found}\0".encode(errors="surrogateescape"))
    return named.hexdigest()


def _may_name_files(path: Path) -> bool:
    """Whether a query file can have parts that are files, without reading its rows."""
    if path.suffix.lower() == ".npy":
        return False
    if path.suffix.lower() == ".parquet":
        return not FILE_COLUMNS.isdisjoint(parquet_columns(path))
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(kind) >= 0 for kind in (b"image", b"audio"))


# ---- writing answers -------------------------------------------------------------------------


_json = json.JSONEncoder(ensure_ascii=False).encode


def _jsonl_lines(answers: Answers) -> Iterator[str]:
    found = answers.found
    query_ids = [_json(one) for one in answers.query_ids]
    keys = [_json(one) for one in found.keys]
    modalities = [_json(str(one)) for one in MODALITIES]
    promised = [f', "recall": {_json(one)}' for one in answers.promised] or [""] * len(MODALITIES)
    of_all = ', "recall": 1.0' if answers.promised else ""
    for query, rank, place, modality, score, cosine, how in _hits(found):
        # The same text as of a dict, in a quarter of the time: names are encoded once.
        yield (
            f'{{"query_id": {query_ids[query]}, "rank": {rank}, "key": {keys[place]}, '
            f'"modality": {modalities[modality]}, "score": {score}, "cosine": {cosine}, '
            f'"how": "{how}"{of_all if how == "exact" else promised[modality]}}}\n'
        )


def _trec_lines(answers: Answers) -> Iterator[str]:
    """Yield lines of a TREC run; white space in names is percent-encoded.

    The score keeps all of its digits: readers of runs rank by it anew.
    """
    query_ids = [_encoded(str(one)) for one in answers.query_ids]
    keys = [_encoded(one) for one in answers.found.keys]
    for query, rank, place, _, score, _, _ in _hits(answers.found):
        yield f"{query_ids[query]} Q0 {keys[place]} {rank} {score} {RUN_TAG}\n"


def _hits(found: RankedLists) -> Iterator[tuple[int, int, int, int, float, float, str]]:
    """Yield number of query, rank, place of key and modality, score, cosine and how of each hit."""
    return zip(
        np.repeat(np.arange(len(found)), np.diff(found.starts)).tolist(),
        found.ranks.tolist(),
        found.places.tolist(),
        found.modalities.tolist(),
        found.scores.tolist(),
        found.cosines.tolist(),
        found.how.tolist(),
        strict=True,
    )


def _encoded(name: str) -> str:
    return "".join(urllib.parse.quote(one) if one.isspace() or one == "%" else one for one in name)


def _write_parquet(path: Path, answers: Answers) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = answers.found
    counts = np.diff(found.starts)
    recalls = {}
    if answers.promised:
        promised = np.array([math.nan if one is None else one for one in answers.promised])
        recall = np.where(found.are_exact, 1.0, promised[found.modalities])
        recalls = {"recall": pa.array(recall, from_pandas=True)}  # a gap where nothing is promised
    query_ids = pa.array([str(one) for one in answers.query_ids], pa.string())
    table = pa.table(
        {
            "query_id": query_ids.take(pa.array(np.repeat(np.arange(len(counts)), counts))),
            "rank": pa.array(found.ranks, pa.int32()),
            "key": pa.array(found.keys, pa.string()).take(pa.array(found.places)),
            "modality": pa.array(list(map(str, MODALITIES))).take(pa.array(found.modalities)),
            "score": pa.array(found.scores),
            "cosine": pa.array(found.cosines),
            "how": pa.array(found.how, pa.string()),
            **recalls,
        }
    )
    pq.write_table(table, path)


def _merge_parquet(parts: Sequence[Path], target: Path, none: Answers) -> None:
    """Make one table of parts; where there is no part, of no answers."""
    import pyarrow.parquet as pq

    with durable.whole_file(target) as partial:
        if not parts:
            _write_parquet(partial, none)
            return
        with pq.ParquetWriter(partial, pq.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part))


def _concatenate(parts: Sequence[Path], target: Path) -> None:
    with durable.whole_file(target) as partial, partial.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)


def _write_whole(path: Path, data: bytes) -> None:
    with durable.whole_file(path) as partial:
        partial.write_bytes(data)


def _checksum(*files: Path) -> str:
    """Return the SHA-256 of what some files hold, one after the other."""
    summed = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            summed.update(hashlib.file_digest(file, "sha256").digest())
    return summed.hexdigest()


def _errors_of(output: Path) -> Path:
    return output.with_name(output.name + ".errors.jsonl")


def _are_errors(path: Path) -> bool:
    """Whether a file is a list of errors, as jobs write it: by its first line."""
    with path.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES)
    try:
        row = parse_json(line.decode())
    except ValueError:
        return False
    return isinstance(row, dict) and set(row) == {"query_id", "error"}


def _count_lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
