"""The ingestion pipeline: records in, items committed, in bounded memory.

    records ──chunk──▶ what is known? ──▶ read, hash, decode, prepare   (worker threads)
                          │ unchanged             │ in input order
                          ▼                       ▼
                       counted        moved? touched? ──▶ encode by modality ──▶ one commit

A worker reads a file once and hashes those bytes; when the hash is the stored one it stops
there. Encoding and committing happen in the calling thread while the workers read ahead, as far
as their memory goes. A commit comes every few seconds at the latest, and when somebody stops the
run, so an interruption loses little and breaks nothing.
"""

from __future__ import annotations

import math
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import usable_cores
from muomni_search.documents import Document, hash_content, to_json
from muomni_search.encoders.protocol import Model, Piece
from muomni_search.errors import (
    CheckpointError,
    Conflict,
    InvalidInput,
    MuomniError,
    NoEncoder,
    NotFound,
    UnreadableFile,
)
from muomni_search.garbage import rare_collections
from muomni_search.ingest.folder import IGNORE_FILE, Entry
from muomni_search.ingest.manifest import Corpus
from muomni_search.ingest.read import Limits, decode, read_file
from muomni_search.ingest.rows import is_table, table_of_root
from muomni_search.items import Content, Item, Modality, Problem, Record, Span
from muomni_search.progress import Progress, Silent
from muomni_search.store.store import Known, NewItem, Store
from muomni_search.store.writer import Writer

__all__ = ["Limits", "Pipeline", "Progress", "Report"]

# How many records are looked up in the store at once.
CHUNK_RECORDS = 2_000
# How many pieces are encoded together, and how many items or seconds a commit gathers.
BATCH_PIECES = 128
COMMIT_ITEMS = 10_000
COMMIT_SECONDS = 5.0
# The items of a content that so many have are looked up once a run.
MANY_ALIKE = 8
# How many records are read ahead of the encoder, by how many threads at most: each may hold one
# decoded file.
READ_AHEAD = 32
READERS = 8
# What may wait in memory at each of four places: records that were looked up together, what was
# read ahead, what will be encoded next, and what the next commit holds. One item may be larger.
WAITING_BYTES = 64_000_000
# About what an item takes beside its texts and pieces.
ITEM_BYTES = 2_000
# The spans of an item that is one segment.
WHOLE: Sequence[Span | None] = (None,)


@dataclass(slots=True)
class Report:
    """What an ``add`` did: items by outcome, and the inputs that could not be used."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    moved: int = 0
    removed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as the JSON object that ``muomni add --json`` prints."""
        counts = asdict(self)
        del counts["problems"]
        counts["seconds"] = round(self.seconds, 3)
        return counts


class _Begun(NamedTuple):
    """A record that must be read, with what is known of it and its metadata as JSON."""

    record: Record
    known: Known | None
    document: Document


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A record whose content was read: its hash, and its pieces unless nothing changed."""

    record: Record
    known: Known | None
    content_hash: str
    document: Document
    text: str | None = None
    pieces: Sequence[Piece] | None = None

    @property
    def bytes(self) -> int:
        """About how much memory it holds."""
        pieces = sum(_size(piece.data) for piece in self.pieces or ())
        return ITEM_BYTES + pieces + _length(self.text) + _length(self.record.text)

    @property
    def is_unchanged(self) -> bool:
        """Whether this is the content that the item has already."""
        return _is_unchanged(self.record, self.content_hash, self.known)


def _size(data: Any) -> int:
    """Return about how many bytes a piece's data holds: an array, or several."""
    if isinstance(data, list | tuple):
        return sum(map(_size, data))
    return int(getattr(data, "nbytes", ITEM_BYTES))


class _Budget:
    """How much of what was read may wait in memory; whoever is the next in line goes on always."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._next = 0
        self._is_open = True
        self._changed = threading.Condition()

    def hold(self, ticket: int, size: int) -> None:
        """Wait until there is room for so many bytes, or this ticket is the next one taken."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    ticket == self._next or self._used + size <= self._limit or not self._is_open
                )
            )
            self._used += size

    def release(self, size: int) -> None:
        """Give back what the next ticket held; the one after it is the next then."""
        with self._changed:
            self._used -= size
            self._next += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody go on, for nobody takes what they have."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()


@dataclass(slots=True)
class _Staged:
    """What the next commit will hold."""

    items: list[NewItem] = field(default_factory=list)
    touched: list[tuple[Known, Record, str]] = field(default_factory=list)
    moved: list[tuple[Known, Record]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    bytes: int = 0
    since: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.items) + len(self.touched) + len(self.moved) + len(self.problems)


class Pipeline:
    """One run of ``add``.

    Args:
        store: Where the items go.
        model: What encodes them; its encoders load when the first item of a modality comes.
        limits: What a single file may cost.
        strict: Stop at the first input that cannot be used.
        dry_run: Classify, but encode and write nothing.
        progress: Told of each record.
    """

    def __init__(
        self,
        store: Store,
        model: Model,
        *,
        limits: Limits,
        strict: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.report = Report()
        self.moved_keys: set[str] = set()
        self._store = store
        self._model = model
        self._limits = limits
        self._strict = strict
        self._dry_run = dry_run
        self._progress = progress or Silent()
        self._staged = _Staged()
        self._waiting: list[_Read] = []  # read, not yet encoded
        self._waiting_pieces = 0  # theirs, and one more for each
        self._waiting_bytes = 0
        self._budget = _Budget(WAITING_BYTES)
        self._failed: set[str] = set()
        # Items that something else than their file, which may be gone, brought again.
        self._kept: set[str] = set()
        # Of contents that many items have: those whose files were not seen to be there yet.
        self._alike: dict[str, deque[Known]] = {}
        with store.snapshot() as snapshot:
            self._failing = {failure.source for failure in snapshot.failures()}

    def run(self, corpus: Corpus) -> Report:
        """Bring the store up to date with ``corpus``; return what was done.

        Raises:
            UnreadableFile: An input cannot be used and ``strict`` was asked for.
            CheckpointError: The model is damaged.
            Exception: Whatever ends the records early. What was encoded before any of these is
                committed.
        """
        started = time.monotonic()
        self._progress.start(None, "adding")
        try:
            with (
                rare_collections(),
                ThreadPoolExecutor(min(usable_cores(), READERS), "read") as pool,
            ):
                try:
                    self._consume(corpus, pool)
                except BaseException:
                    self._budget.close()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            self._encode_waiting()
            self._forget_mended_failures(corpus.roots)
            self._commit()
        except BaseException as error:  # of whoever gives the records too
            try:
                if isinstance(error, CheckpointError):
                    with suppress(CheckpointError):  # what was read before it, if it can be
                        self._encode_waiting()
            finally:
                self._commit()
            raise
        finally:
            self._progress.finish()
        self.report.seconds = time.monotonic() - started
        return self.report

    # ---- reading -------------------------------------------------------------------------

    def _consume(self, corpus: Corpus, pool: ThreadPoolExecutor) -> None:
        ahead: deque[Future[_Read | Problem]] = deque()
        tickets = count()

        def take_first() -> None:
            read = ahead.popleft().result()
            self._budget.release(_held(read))
            self._take(read)

        for chunk in _chunks(corpus):
            with self._store.snapshot() as snapshot:
                known = snapshot.known([one.key for one in chunk if isinstance(one, Record)])
            for is_ready, entries in groupby(chunk, _is_ready):
                if is_ready:
                    self._take_ready([one for one in entries if isinstance(one, Record)], known)
                    continue
                # Who stops at the first failure wants in what came before it.
                most = 0 if self._strict else READ_AHEAD - 1
                for entry in entries:
                    if isinstance(entry, Problem):
                        self._fail(entry)
                    elif not isinstance(entry, Record):
                        self.report.skipped += 1
                    elif begun := self._begun(entry, known.get(entry.key)):
                        ahead.append(pool.submit(self._read_ahead, begun, next(tickets)))
                    while len(ahead) > most:
                        take_first()
        while ahead:
            take_first()

    def _begun(self, record: Record, known: Known | None) -> _Begun | None:
        """Return what must be read; None where that settles it.

        What needs no reading: bad metadata, a key of another root, and a file that did not change.
        """
        try:
            document = to_json(record.metadata, record.key)
            if known is not None:
                _check_root(record, known)
        except MuomniError as error:
            self._progress.advance()
            self._fail(_problem(record, error))
            return None
        if (
            known is None
            or record.path is None
            or known.content_hash is None
            or record.modality != known.modality
            # Another file may have the same size and time.
            or record.source != known.source
            or (record.size, record.mtime_ns) != (known.size, known.mtime_ns)
        ):
            return _Begun(record, known, document)
        self._progress.advance()
        self._keep(record, known, document, known.content_hash)
        return None

    def _read_ahead(self, begun: _Begun, ticket: int) -> _Read | Problem:
        """Read in a worker thread, and wait with what was read until there is room for it."""
        read = self._read(begun)
        self._budget.hold(ticket, _held(read))
        return read

    def _read(self, begun: _Begun) -> _Read | Problem:
        """Read, hash and decode one record's content; any thread may."""
        record, known, document = begun
        try:
            data = _content_bytes(record, self._limits)
            digest = hash_content(data)
            read = _Read(record, known, digest, document)
            if read.is_unchanged:
                return read
            name = record.path if record.path is not None else Path(record.origin)
            content = decode(record.modality, data, name, self._limits)
            if self._dry_run:
                return read
            pieces = self._model.encoder(record.modality).prepare(content)
            text = content if isinstance(content, str) else None
            return _Read(record, known, digest, document, text, pieces)
        except MuomniError as error:
            if isinstance(error, CheckpointError) and not isinstance(error, NoEncoder):
                raise  # the model is damaged, and no file is to blame
            return _problem(record, error)

    def _hash_vector(self, record: Record) -> str:
        if record.text is not None:
            self._limits.check_size(Modality.TEXT, record.origin, len(record.text))
        vector = np.ascontiguousarray(record.vector)
        return hash_content(vector.data, (record.text or "").encode())

    def _take_ready(self, records: Sequence[Record], known: Mapping[str, Known]) -> None:
        """Take records that bring their vectors: there is nothing to read, and nothing to encode.

        A million of them is no rare table, so they go the short way.
        """
        for record in records:
            old = known.get(record.key)
            if old is not None and old.key in self.moved_keys:
                old = None  # see ``_keep``
            try:
                document = to_json(record.metadata, record.key)
                if old is not None:
                    _check_root(record, old)
                content_hash = self._hash_vector(record)
            except MuomniError as error:
                self._fail(_problem(record, error))
                continue
            if old is not None and _is_unchanged(record, content_hash, old):
                self._keep(record, old, document, content_hash)
                continue
            self._count(old)
            if not self._dry_run:
                vectors = np.asarray(record.vector)[np.newaxis]
                item = _new_item(record, vectors, WHOLE, record.text, document, content_hash)
                self._stage(record, item)
        self._progress.advance(len(records))
        self._commit_when_due()

    def _take(self, read: _Read | Problem) -> None:
        """Take one finished read, in input order."""
        self._progress.advance()
        self._settle(read)

    def _settle(self, read: _Read | Problem) -> None:
        if isinstance(read, Problem):
            self._fail(read)
            return
        if read.known is not None and read.is_unchanged:
            self._keep(read.record, read.known, read.document, read.content_hash)
            return
        self._waiting.append(read)
        self._waiting_pieces += len(read.pieces or ()) + 1
        self._waiting_bytes += read.bytes
        if self._waiting_pieces >= BATCH_PIECES or self._waiting_bytes >= WAITING_BYTES:
            self._encode_waiting()

    # ---- deciding ------------------------------------------------------------------------

    def _keep(self, record: Record, known: Known, document: Document, content_hash: str) -> None:
        """Keep an item's vectors; write down what else changed about it."""
        if known.key in self.moved_keys:
            # In this run its vectors went to a file of another name: this is a new item.
            self._settle(self._read(_Begun(record, None, document)))
            return
        if record.source != known.source:
            self._kept.add(known.key)
        outside = (record.source, record.root, record.size, record.mtime_ns)
        same_metadata = document == known.document
        if same_metadata:
            self.report.unchanged += 1
        else:
            self.report.updated += 1
        if not same_metadata or outside != (known.source, known.root, known.size, known.mtime_ns):
            self._staged.touched.append((known, record, content_hash))
        self._mend(record)
        self._commit_when_due()

    def _encode_waiting(self) -> None:
        """Encode what was read, save what only moved, and stage both."""
        waiting, self._waiting = self._waiting, []
        self._waiting_pieces = self._waiting_bytes = 0
        if not waiting:
            return
        fresh = self._not_moved(waiting)
        for read in fresh:
            self._count(read.known)
        if not self._dry_run:
            for read, vectors in _encode(self._model, fresh):
                self._stage(read.record, _item_of(read, vectors))
        self._commit_when_due()

    def _count(self, known: Known | None) -> None:
        if known is None:
            self.report.added += 1
        else:
            self.report.updated += 1

    def _stage(self, record: Record, item: NewItem) -> None:
        self._staged.items.append(item)
        self._staged.bytes += ITEM_BYTES + item.vectors.nbytes + _length(item.text)
        if self._alike:  # which were looked up before this one took the place of one of them
            self._kept.add(record.key)
        self._mend(record)

    def _not_moved(self, reads: Sequence[_Read]) -> list[_Read]:
        """Stage those that are known items under a new name; return the others."""
        new = {read.content_hash for read in reads if _may_have_moved(read)} - self._alike.keys()
        known: dict[str, deque[Known]] = {}
        if new:
            with self._store.snapshot() as snapshot:
                known = {one: deque(found) for one, found in snapshot.by_hash(new).items()}
        self._alike |= {one: found for one, found in known.items() if len(found) >= MANY_ALIKE}
        others = []
        for read in reads:
            digest = read.content_hash
            candidates = self._alike.get(digest) or known.get(digest) or deque()
            old = self._moved_from(candidates, read) if _may_have_moved(read) else None
            if old is None:
                others.append(read)
                continue
            self.moved_keys.add(old.key)
            self._staged.moved.append((old, read.record))
            self._mend(read.record)
            self.report.moved += 1
        return others

    def _moved_from(self, candidates: deque[Known], read: _Read) -> Known | None:
        """Return an item whose file is gone; take it and those before it from the candidates.

        What is there is not looked at again in this run: of thousands of files that are all alike
        each would be held against each.
        """
        others = []
        found = None
        while candidates and found is None:
            old = candidates.popleft()
            if old.modality != read.record.modality:
                others.append(old)  # which may be the one of a file that is to come
            elif (
                old.key not in self.moved_keys
                and old.key not in self._kept
                and old.source is not None
                and is_gone(old.source)
            ):
                found = old
        candidates.extendleft(reversed(others))
        return found

    def _fail(self, problem: Problem) -> None:
        self.report.failed += 1
        self._failed.add(problem.source)
        self.report.problems.append(problem)
        self._staged.problems.append(problem)
        if self._strict:
            self._encode_waiting()
            self._commit()
            error = problem.error.removeprefix(f"{problem.source}: ")
            raise UnreadableFile(f"{problem.source}: {error}", hint=problem.hint)
        self._commit_when_due()

    def _mend(self, record: Record) -> None:
        if record.origin in self._failing:
            self._staged.mended.append(record.origin)

    # ---- writing -------------------------------------------------------------------------

    def _commit_when_due(self) -> None:
        if (
            len(self._staged) >= COMMIT_ITEMS
            or self._staged.bytes >= WAITING_BYTES
            or time.monotonic() - self._staged.since > COMMIT_SECONDS
        ):
            self._commit()

    def _commit(self) -> None:
        staged, self._staged = self._staged, _Staged()
        if self._dry_run or not (staged or staged.mended):
            return
        with self._store.write(fingerprint=self._model.fingerprint()) as writer:
            try:
                _write(writer, staged)
            except KeyboardInterrupt:
                self._staged = staged  # none of it is written: it is tried once more
                raise

    def _forget_mended_failures(self, roots: Sequence[str]) -> None:
        """Drop the failures of what was read whole and did not fail again: mended, or gone."""
        # What lies in a folder that was closed this time was not looked at.
        failed = map(Path, self._failed)
        closed = {one.parent if one.name == IGNORE_FILE else one for one in failed}
        for source in self._failing - self._failed:
            table = _table_of(source)
            if table is None:
                is_read = any(source == root or source.startswith(root + os.sep) for root in roots)
                is_read = is_read and closed.isdisjoint(Path(source).parents)
            else:
                is_read = table in roots and table not in self._failed
            if is_read:
                self._staged.mended.append(source)


def encode_again(model: Model, items: Sequence[tuple[Item, Known]]) -> Iterator[NewItem]:
    """Yield items with new vectors, of which the content is still what it was.

    Of a text that is what the store holds of it, of a picture or a sound its file. What came as a
    ready vector, or from a file that is gone or changed since, is left out.

    Raises:
        NotFound: The model is not here, or not all of it.
        CheckpointError: The model is damaged.
    """
    reads: list[_Read] = []
    for item, known in items:
        read = _read_again(model, item, known)
        if read is not None:
            reads.append(read)
        if sum(len(one.pieces or ()) for one in reads) >= BATCH_PIECES:
            yield from (_item_of(one, vectors) for one, vectors in _encode(model, reads))
            reads = []
    yield from (_item_of(one, vectors) for one, vectors in _encode(model, reads))


def _read_again(model: Model, item: Item, known: Known) -> _Read | None:
    content = content_again(item, known)
    if content is None:
        return None
    record = _record_of(item, known)
    pieces = model.encoder(item.modality).prepare(content)
    document = to_json(record.metadata, record.key)
    return _Read(record, None, str(known.content_hash), document, item.text, pieces)


def content_again(item: Item, known: Known) -> Content | None:
    """Return the content that an item's vectors came from, or None when it is not to be had.

    Of a text that is what the store holds of it, of a picture or a sound its file, as long as
    the hash is still the one that was written down.
    """
    record = _record_of(item, known)
    # It was let in once, under whatever limits.
    limits = Limits(max_pixels=sys.maxsize, max_seconds=math.inf, max_bytes=sys.maxsize)
    for one in (replace(record, path=None), record):
        if one.path is None and one.text is None:
            continue
        try:
            data = _content_bytes(one, limits)
            if hash_content(data) == known.content_hash:
                return decode(item.modality, data, record.origin, limits)
        except (InvalidInput, NotFound):
            continue
    return None


def _record_of(item: Item, known: Known) -> Record:
    return Record(
        key=item.key,
        modality=item.modality,
        origin=item.source or item.key,
        path=None if item.source is None else Path(item.source),
        text=item.text,
        source=item.source,
        metadata=item.metadata,
        root=known.root,
        size=known.size,
        mtime_ns=known.mtime_ns,
    )


def _encode(model: Model, reads: Sequence[_Read]) -> Iterator[tuple[_Read, NDArray[np.float32]]]:
    """Yield each read with its vectors, encoded in one batch a modality."""
    for modality in Modality:
        group = [read for read in reads if read.record.modality == modality]
        pieces = [piece for read in group for piece in read.pieces or ()]
        vectors = model.encoder(modality).encode(pieces) if pieces else None
        start = 0
        for read in group:
            if vectors is not None and read.pieces:
                yield read, vectors[start : start + len(read.pieces)]
                start += len(read.pieces)


def prune(
    store: Store,
    roots: Sequence[Path],
    *,
    force: bool,
    dry_run: bool,
    moved: Collection[str] = (),
    keys: Collection[str] | None = None,
) -> int:
    """Delete the items of ``roots`` whose files are gone; return how many.

    Args:
        store: Where the items are.
        roots: Their folders.
        force: Delete them whatever happened to the folder.
        dry_run: Count them, and delete nothing.
        moved: Keys that a dry run found under a new name.
        keys: Look only at the items of these keys, and at those below them, for nothing else is
            known to have changed; at all by default.

    Raises:
        Conflict: A root is missing, or more than half of its items are gone, and not ``force``:
            a disk that is not mounted looks just like that.
    """
    gone: list[str] = []
    for root in roots:
        if not root.is_dir() and not force:
            raise Conflict(
                f"{root} is missing, so nothing of it was removed", hint="-f removes its items"
            )
        with store.snapshot() as snapshot:
            under = snapshot.known_under(str(root), keys)
            known = [item for item in under if item.key not in moved]
            total = len(known) if keys is None else snapshot.count_under(str(root))
        vanished = [item.key for item in known if _has_vanished(item)]
        if 2 * len(vanished) > total and not force:
            raise Conflict(
                f"{len(vanished)} of {total} files of {root} are gone, nothing was removed",
                hint="check that the disk is mounted; -f removes them all the same",
            )
        gone += vanished
    if not gone or dry_run:
        return len(gone)
    with store.write() as writer:
        # Looked at again under the lock: somebody may have put one back meanwhile.
        return writer.delete(
            [key for key, item in writer.known(gone).items() if _has_vanished(item)]
        )


def _has_vanished(item: Known) -> bool:
    return item.source is None or is_gone(item.source)


def _chunks(corpus: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Yield what is looked up in the store together."""
    chunk: list[Entry] = []
    size = 0
    for entry in corpus:
        chunk.append(entry)
        if isinstance(entry, Record):
            size += ITEM_BYTES + _length(entry.text)
        if len(chunk) == CHUNK_RECORDS or size >= WAITING_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _length(text: str | None) -> int:
    return 0 if text is None else len(text)


def _held(read: _Read | Problem) -> int:
    return read.bytes if isinstance(read, _Read) else 0


def _is_ready(entry: Entry) -> bool:
    """Whether a record brings its vector."""
    return isinstance(entry, Record) and entry.vector is not None


def _check_root(record: Record, known: Known) -> None:
    """Refuse a key that another root has.

    Raises:
        InvalidInput: It is taken.
    """
    if record.root is not None and known.root is not None and record.root != known.root:
        mend = "add one of the two with --prefix"
        table = table_of_root(known.root)
        if table and _is_same_file(table, table_of_root(record.root)):
            return
        if not os.path.lexists(table or known.root):
            if table:
                return  # it has moved
            mend = f"{known.root} is not there: bring it back, or delete its items"
        holder = known.source or table
        raise InvalidInput(f"the key {record.key!r} is taken by {holder}", hint=mend)


def _is_same_file(one: str, other: str | None) -> bool:
    """Whether two paths lead to one file that is there, by links maybe."""
    try:
        return other is not None and Path(one).samefile(other)
    except OSError:
        return False


def _is_unchanged(record: Record, content_hash: str, known: Known | None) -> bool:
    return (
        known is not None
        and known.content_hash == content_hash
        and known.modality == record.modality
    )


def _problem(record: Record, error: MuomniError) -> Problem:
    return Problem(record.origin, error.what, error.hint, record.key)


def _may_have_moved(read: _Read) -> bool:
    return read.known is None and read.record.path is not None


def _table_of(source: str) -> str | None:
    """Return the table of a row's origin, ``table.jsonl:12``; None for what is no row's."""
    table, _, number = source.rpartition(":")
    return table if number.isdecimal() and is_table(table) else None


def is_gone(path: str) -> bool:
    """Whether no file has this name, or a folder has it now.

    One that may merely not be looked at is still there.
    """
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def _write(writer: Writer, staged: _Staged) -> None:
    """Write what was staged.

    Raises:
        Conflict: An item that only moved has another content now.
    """
    looked_up = [known for known, _ in staged.moved] + [known for known, _, _ in staged.touched]
    there = writer.known(known.key for known in looked_up)
    for known, record in staged.moved:
        if not _is_still(known, there.get(known.key)):
            raise Conflict(
                f"{known.key!r} was changed by another process meanwhile", hint="try again"
            )
        writer.move(known.key, record)
    for known, record, content_hash in staged.touched:
        # Else it is as if this had come before that other one, who has replaced all of it.
        if _is_still(known, there.get(known.key)):
            writer.touch(known.key, record, content_hash)
    writer.put(staged.items)
    writer.fail(staged.problems)
    writer.clear_failures(staged.mended)


def _is_still(known: Known, now: Known | None) -> bool:
    """Whether an item has the content that it had when it was looked up, of the same source."""
    return now is not None and (known.content_hash, known.source) == (now.content_hash, now.source)


def _content_bytes(record: Record, limits: Limits) -> bytes:
    if record.path is None:
        data = (record.text or "").encode()
        limits.check_size(record.modality, record.origin, len(data))
        return data
    return read_file(record.modality, record.path, limits)


def _item_of(read: _Read, vectors: NDArray[np.float32]) -> NewItem:
    spans = [piece.span for piece in read.pieces or ()] or WHOLE
    text = read.text if read.text is not None else read.record.text
    return _new_item(read.record, vectors, spans, text, read.document, read.content_hash)


def _new_item(
    record: Record,
    vectors: NDArray[np.float32],
    spans: Sequence[Span | None],
    text: str | None,
    document: Document,
    content_hash: str,
) -> NewItem:
    return NewItem(
        key=record.key,
        modality=record.modality,
        vectors=vectors,
        spans=spans,
        source=record.source,
        text=text,
        metadata=document,
        root=record.root,
        content_hash=content_hash,
        size=record.size,
        mtime_ns=record.mtime_ns,
    )
