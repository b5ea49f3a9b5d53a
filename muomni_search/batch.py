"""Batch jobs: a file of queries in, a file of neighbours out, restartable.

    queries ──block──▶ resolve ──▶ matrix products ──▶ part file ──▶ job row: one block more
                                                          └── all parts ──▶ the output, whole

A part is brought to the disk before the store says that its block is done, so a job that was
killed goes on where it stopped and its output is the same to the byte. All blocks are answered
from one state of the collection; a job that was begun on another is refused.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection
from muomni_search.errors import Conflict, InvalidInput, MuomniError, NotFound, UnreadableFile
from muomni_search.filters import parse_filter
from muomni_search.ingest.rows import read_rows
from muomni_search.items import Query
from muomni_search.pipeline import Progress, Silent
from muomni_search.query_parts import make_part, parse_part
from muomni_search.store.store import Job
from muomni_search.vectors import check_vectors
from muomni_search.view import Modalities, Ranked, View

__all__ = ["BatchReport", "run_batch", "write_neighbors"]

# Queries between two checkpoints: a second or so of work at 100,000 rows.
BLOCK_QUERIES = 2_048
FORMATS = (".jsonl", ".parquet", ".trec")
RUN_TAG = "muomni"


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a batch job did.

    Args:
        answered: Queries with an answer.
        failed: Queries that could not be answered; ``<output>.errors.jsonl`` says why.
        seconds: How long this run took.
        resumed_blocks: Blocks that an earlier run had finished.
    """

    answered: int
    failed: int
    seconds: float
    resumed_blocks: int


class Task(NamedTuple):
    """One query of a job, or why it is none."""

    query_id: str | int
    query: Query | MuomniError
    k: int
    modality: Modalities
    where: Any


class Answer(NamedTuple):
    """The hits of one query, or why there are none."""

    query_id: str | int
    found: list[Ranked] | MuomniError


def run_batch(
    collection: Collection,
    queries: Path,
    output: Path,
    *,
    k: int = 10,
    modality: Modalities = None,
    where: str | Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BatchReport:
    """Answer every query of a file, exactly, into a file.

    Args:
        collection: What to search.
        queries: JSONL, CSV, Parquet or ``.npy``; a query a row (``docs/how-to/batch.md``).
        output: ``.jsonl``, ``.parquet`` or ``.trec``.
        k: Hits of each query whose row does not say.
        modality: Modalities of each query whose row does not say.
        where: Filter of each query whose row does not say.
        force: Replace an output that another job made.
        progress: Told of each query.

    Raises:
        Conflict: The output belongs to another input, collection state or option.
        UnreadableFile: The query file cannot be read.
    """
    if k < 1:
        raise InvalidInput(f"k must be 1 or more, not {k}")
    parse_filter(where)
    asked = {"k": k, "modality": modality, "where": where, "input": _digest(queries)}

    def tasks(_: View) -> Iterator[Task]:
        return _read_tasks(queries, Task(0, Query(()), k, modality, where))

    return _Run(collection, output, asked, force=force, progress=progress).run(tasks)


def write_neighbors(
    collection: Collection,
    output: Path,
    *,
    k: int = 10,
    modality: Modalities = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BatchReport:
    """Write the nearest neighbours of every item, itself left out; ``query_id`` is its key.

    Args:
        collection: What to compare with itself.
        output: ``.jsonl``, ``.parquet`` or ``.trec``.
        k: Neighbours of each item.
        modality: Only neighbours of these modalities.
        force: Replace an output that another job made.
        progress: Told of each item.

    Raises:
        Conflict: The output belongs to another collection state or option.
    """
    if k < 1:
        raise InvalidInput(f"k must be 1 or more, not {k}")

    def tasks(view: View) -> Iterator[Task]:
        for key in view.snapshot.iter_keys():
            yield Task(key, Query.id(key), k, modality, None)

    asked = {"k": k, "modality": modality, "neighbors": True}
    return _Run(collection, output, asked, force=force, progress=progress).run(tasks)


# ---- the machinery ---------------------------------------------------------------------------


class _Run:
    """One run of a job: what is done already, what is left, and the output at the end."""

    def __init__(
        self,
        collection: Collection,
        output: Path,
        asked: Mapping[str, Any],
        *,
        force: bool,
        progress: Progress | None,
    ) -> None:
        output = output.absolute()
        if output.suffix not in FORMATS:
            raise InvalidInput(
                f"{output.name}: no format {output.suffix!r}", hint=f"one of {', '.join(FORMATS)}"
            )
        if not output.parent.is_dir():
            raise NotFound(f"{output.parent} does not exist", hint="make the folder first")
        self._collection = collection
        self._output = output
        self._asked = asked
        self._force = force
        self._progress = progress or Silent()
        self._parts = output.with_name(output.name + ".parts")
        self._errors = output.with_name(output.name + ".errors.jsonl")

    def run(self, tasks: Callable[[View], Iterator[Task]]) -> BatchReport:
        started = time.monotonic()
        with self._collection.view() as view:
            job = self._claim(view)
            total = sum(1 for _ in tasks(view))
            if job.state == "done":
                failed = _count_lines(self._errors)
                return BatchReport(total - failed, failed, time.monotonic() - started, job.total)
            self._progress.start(total, "searching")
            try:
                blocks = _blocks(tasks(view))
                for number, block in enumerate(blocks):
                    if number >= job.done:
                        self._write_part(number, _answer(view, block))
                        self._keep(job, number + 1)
                    self._progress.advance(len(block))
            finally:
                self._progress.finish()
        failed = self._merge()
        self._keep(job, job.total, state="done")
        shutil.rmtree(self._parts)
        return BatchReport(total - failed, failed, time.monotonic() - started, job.done)

    def _claim(self, view: View) -> Job:
        """Return the job of this output as it stands; begin it when it is new.

        Raises:
            Conflict: The output is another job's, or no job's at all.
        """
        deciding = {
            **self._asked,
            "version": view.version,
            "model": view.snapshot.fingerprint,
            "block": BLOCK_QUERIES,
        }
        text = json.dumps(deciding, sort_keys=True, default=str)
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        known = view.snapshot.job(str(self._output))
        if known is not None and known.fingerprint == fingerprint:
            if known.state == "done" and self._output.exists():
                return known
            if known.state == "running" and self._parts.is_dir():
                return known
        elif (known is not None or self._output.exists()) and not self._force:
            raise Conflict(
                f"{self._output} was made by another input, collection state or option",
                hint="name another output, or replace it with --force",
            )
        shutil.rmtree(self._parts, ignore_errors=True)
        self._parts.mkdir()
        job = Job(str(self._output), fingerprint, 0, 0, "running")
        self._keep(job, 0)
        return job

    def _keep(self, job: Job, done: int, *, state: Any = "running") -> None:
        with self._collection.store.write() as writer:
            writer.set_job(Job(job.output, job.fingerprint, done, done, state))

    def _write_part(self, number: int, answers: Sequence[Answer]) -> None:
        good = [(one.query_id, one.found) for one in answers if isinstance(one.found, list)]
        bad = [(one.query_id, one.found) for one in answers if isinstance(one.found, MuomniError)]
        lines = (
            json.dumps({"query_id": query_id, "error": str(error)}, ensure_ascii=False) + "\n"
            for query_id, error in bad
        )
        _write_whole(self._part(number, ".errors.jsonl"), "".join(lines).encode())
        if self._output.suffix == ".parquet":
            _write_parquet(self._part(number, ".parquet"), good)
        else:
            form = _jsonl_line if self._output.suffix == ".jsonl" else _trec_line
            text = "".join(
                form(query_id, rank, one)
                for query_id, found in good
                for rank, one in enumerate(found, start=1)
            )
            _write_whole(self._part(number, self._output.suffix), text.encode())

    def _part(self, number: int, suffix: str) -> Path:
        return self._parts / f"{number:06d}{suffix}"

    def _merge(self) -> int:
        """Make the output of all parts, in one step; return how many queries failed."""
        errors = sorted(self._parts.glob("*.errors.jsonl"))
        parts = sorted(set(self._parts.glob(f"*{self._output.suffix}")) - set(errors))
        partial = self._parts / "output"
        if self._output.suffix == ".parquet":
            _merge_parquet(parts, partial)
        else:
            _concatenate(parts, partial)
        _concatenate(errors, self._parts / "errors")
        failed = _count_lines(self._parts / "errors")
        if failed:
            (self._parts / "errors").replace(self._errors)
        else:
            self._errors.unlink(missing_ok=True)
        partial.replace(self._output)
        _sync_folder(self._output.parent)
        return failed


def _blocks(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    while block := list(itertools.islice(tasks, BLOCK_QUERIES)):
        yield block


def _answer(view: View, block: Sequence[Task]) -> list[Answer]:
    """Answer a block: tasks that share a filter, modalities and k go through together."""
    answers: dict[int, Answer] = {}
    good: list[tuple[int, Task]] = []
    for place, task in enumerate(block):
        if isinstance(task.query, MuomniError):
            answers[place] = Answer(task.query_id, task.query)
        else:
            good.append((place, task))
    queries = [task.query for _, task in good if isinstance(task.query, Query)]
    groups: dict[str, list[tuple[int, Task, NDArray[np.float32]]]] = {}
    for (place, task), vector in zip(good, view.resolve_many(queries), strict=True):
        if isinstance(vector, MuomniError):
            answers[place] = Answer(task.query_id, vector)
            continue
        alike = json.dumps([task.where, task.modality, task.k], default=str)
        groups.setdefault(alike, []).append((place, task, vector))
    for members in groups.values():
        first = members[0][1]
        try:
            found: Sequence[list[Ranked] | MuomniError] = view.rank_many(
                [task.query for _, task, _ in members if isinstance(task.query, Query)],
                np.stack([vector for _, _, vector in members]),
                first.k,
                modality=first.modality,
                where=first.where,
            )
        except MuomniError as error:
            found = [error] * len(members)
        for (place, task, _), one in zip(members, found, strict=True):
            answers[place] = Answer(task.query_id, one)
    return [answers[place] for place in range(len(block))]


# ---- reading queries -------------------------------------------------------------------------


def _read_tasks(path: Path, default: Task) -> Iterator[Task]:
    """Yield the queries of a file; rows without a ``query_id`` are numbered from 0."""
    if path.suffix.lower() == ".npy":
        for number, vector in enumerate(_load_matrix(path)):
            yield default._replace(query_id=number, query=Query.vector(vector))
        return
    for number, row in read_rows(path):
        if isinstance(row, str):
            yield default._replace(query_id=number - 1, query=InvalidInput(row))
            continue
        query_id = row.get("query_id")
        query_id = number - 1 if query_id is None else query_id
        try:
            yield _task(row, query_id, default, path.parent)
        except MuomniError as error:
            yield default._replace(query_id=query_id, query=error)


def _task(row: Mapping[str, Any], query_id: Any, default: Task, folder: Path) -> Task:
    if not isinstance(query_id, str | int):
        raise InvalidInput(f"the query_id {query_id!r} is neither text nor number")
    parts: list[Query] = []
    for kind in ("text", "image", "audio", "id"):
        parts += [make_part(kind, value, folder=folder) for value in _texts(row, kind)]
    if row.get("vector") is not None:
        parts.append(Query.vector(check_vectors([row["vector"]], "the vector")[0]))
    parts += [parse_part(spelled, folder=folder) for spelled in _texts(row, "plus")]
    parts += [-parse_part(spelled, folder=folder) for spelled in _texts(row, "minus")]
    if not parts:
        raise InvalidInput(
            "a query without a part", hint="fill one of text, image, audio, id, vector or plus"
        )
    query = Query(tuple(part for one in parts for part in one.parts))
    k = row.get("k") if row.get("k") is not None else default.k
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InvalidInput(f"k is {k!r}", hint="give a whole number, 1 or more")
    where = row.get("where") or default.where
    parse_filter(where)
    return Task(query_id, query, k, _listed(row, "modality") or default.modality, where)


def _texts(row: Mapping[str, Any], column: str) -> list[str]:
    values = _listed(row, column)
    for value in values:
        if not isinstance(value, str):
            raise InvalidInput(f"{column} holds {value!r}, no text")
    return values


def _listed(row: Mapping[str, Any], column: str) -> list[Any]:
    """Return a column's values: a list, one value, or (in CSV) a list as JSON."""
    value = row.get(column)
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("[") and column in ("plus", "minus"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidInput(f"{column} is no JSON list: {error}") from error
    return list(value) if isinstance(value, list) else [value]


def _load_matrix(path: Path) -> NDArray[Any]:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableFile(
            f"{path}: no array of numbers ({error})", hint="write it with numpy.save"
        ) from error
    if matrix.ndim != 2:
        raise InvalidInput(f"{path} has the shape {matrix.shape}, expected (queries, 256)")
    return np.asarray(matrix)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="check its name") from error
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror}", hint="check its permissions") from error


# ---- writing answers -------------------------------------------------------------------------


def _jsonl_line(query_id: str | int, rank: int, one: Ranked) -> str:
    row = {
        "query_id": query_id,
        "rank": rank,
        "key": one.key,
        "modality": str(one.modality),
        "score": one.score,
        "cosine": one.cosine,
        "how": one.how,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _trec_line(query_id: str | int, rank: int, one: Ranked) -> str:
    """Return a line of a TREC run; white space in names is percent-encoded."""
    return f"{_encoded(str(query_id))} Q0 {_encoded(one.key)} {rank} {one.score:.6f} {RUN_TAG}\n"


def _encoded(name: str) -> str:
    if any(character.isspace() or character == "%" for character in name):
        return "".join(
            urllib.parse.quote(character) if character.isspace() or character == "%" else character
            for character in name
        )
    return name


def _write_parquet(path: Path, answers: Sequence[tuple[str | int, Sequence[Ranked]]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        (str(query_id), rank, one)
        for query_id, found in answers
        for rank, one in enumerate(found, start=1)
    ]
    table = pa.table(
        {
            "query_id": pa.array([row[0] for row in rows], pa.string()),
            "rank": pa.array([row[1] for row in rows], pa.int32()),
            "key": pa.array([row[2].key for row in rows], pa.string()),
            "modality": pa.array([str(row[2].modality) for row in rows], pa.string()),
            "score": pa.array([row[2].score for row in rows], pa.float64()),
            "cosine": pa.array([row[2].cosine for row in rows], pa.float32()),
            "how": pa.array([row[2].how for row in rows], pa.string()),
        }
    )
    pq.write_table(table, path.with_suffix(".partial"))
    _sync_as(path.with_suffix(".partial"), path)


def _merge_parquet(parts: Sequence[Path], target: Path) -> None:
    import pyarrow.parquet as pq

    if not parts:
        _write_parquet(target, [])
        return
    with pq.ParquetWriter(target, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))
    _sync_as(target, target)


def _concatenate(parts: Sequence[Path], target: Path) -> None:
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out)
    _sync_as(target, target)


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    _sync_as(partial, path)


def _sync_as(partial: Path, path: Path) -> None:
    """Bring a finished file to the disk, then give it its name."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    if partial != path:
        partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _count_lines(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
