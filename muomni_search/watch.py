"""Folders that stay in step with a collection: what changes in them is added, moved and removed.

    file system ──events──▶ pending ──the same for a moment──▶ one `add` of these paths, then prune
                              ▲                                       │
                              └── still being written · put off ◀─────┘

Events only say where to look. What is done is what ``Collection.add`` does with the paths that
they name, and with all of a folder at the beginning, after it was away, and from time to time: so
an event that got lost is made up for, and no rule is told twice.
"""

from __future__ import annotations

import math
import os
import re
import select
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from muomni_search import durable
from muomni_search.collection import Collection, Limits
from muomni_search.documents import key_prefix
from muomni_search.errors import Conflict, InvalidInput, MuomniError, NotFound
from muomni_search.ingest.folder import IGNORE_FILE, Entry
from muomni_search.ingest.manifest import Corpus, read_corpus
from muomni_search.items import Problem, Record
from muomni_search.pipeline import Report, is_gone, prune
from muomni_search.progress import Progress, Silent

__all__ = ["DEBOUNCE_SECONDS", "RESCAN_SECONDS", "TEMPORARY", "watch_folders"]

DEBOUNCE_SECONDS = 1.0
RESCAN_SECONDS = 3600.0
LONGEST_DEBOUNCE = 86_400  # seconds
# What editors and downloads write beside the file that is meant, and rename or remove when it is
# whole. Names with a dot in front are left out anyway.
TEMPORARY = (
    "*~",
    "*.swp",
    "*.swx",
    "4913",
    r"\#*#",
    "*.tmp",
    "*.part",
    "*.partial",
    "*.crdownload",
)
# With more paths than this at once, some events may be lost (Linux keeps 16,384 of them), so that
# whole folders are looked at.
MANY_PATHS = 10_000
# Who polls compares times in whole seconds: only what stays the same for longer than one cannot
# change once more without being seen (watchfiles, issue 319).
SECONDS_OF_A_POLL = 2.0
# What is put off is tried again after this long, then twice as long, …
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
# How often stopping, roots and what is pending are looked at.
LONGEST_TICK = 0.5


def watch_folders(
    collection: Collection,
    folders: str | Path | Sequence[str | Path],
    *,
    stop: Event | None = None,
    once: bool = False,
    prefix: str | None = None,
    exclude: Sequence[str] = (),
    force: bool = False,
    limits: Limits | None = None,
    debounce: float = DEBOUNCE_SECONDS,
    rescan: float = RESCAN_SECONDS,
    poll: bool = False,
    told: Callable[[str], None] = lambda _: None,
    progress: Progress | None = None,
) -> Iterator[Report]:
    """Keep a collection in step with folders; yield a report for each batch that did something.

    Each batch is ``Collection.add`` and its pruning, for the paths that changed. A file is taken
    when its size and time stayed the same for ``debounce``. A folder that is away is waited for,
    and so is a disk below one that was mounted when the watch read it: nothing of it is removed. A
    watch that begins while such a disk is away cannot know of it, and removes its items unless they
    are more than half of the folder's: watch a disk as a folder of its own. Where another writer
    holds the collection, it moves to another model, or the disk is full, a batch is put off and
    tried again.

    Args:
        collection: What to keep up to date.
        folders: One or several; read whole first. One that is given twice is one.
        stop: Ends the watch when it is set: at once when idle, else with a commit of what the
            batch under way has encoded.
        once: Bring the collection up to date once, and end; errors end it too.
        prefix: As in ``read_corpus``.
        exclude: As in ``read_corpus``, after ``TEMPORARY``.
        force: Remove what is gone even when more than half of a folder is.
        limits: What a single file may cost.
        debounce: Seconds that a file must stay as it is; with ``poll``, two at least.
        rescan: Seconds after which the folders are read whole again.
        poll: Look at all files again and again instead of waiting for events, which network
            folders do not send.
        told: Called with what is waited for, in one line.
        progress: Told of each record.

    Yields:
        The first batch's report, and that of each later one that changed or failed something.

    Raises:
        InvalidInput: A path is no folder, or a pattern is none.
        NotFound: A folder is not there at the beginning; or the collection was dropped meanwhile.
        Conflict: Another writer holds the collection, or too much would be removed, and ``once``.
    """
    roots = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    for root in roots:
        if not root.exists():
            raise NotFound(f"{root} does not exist", hint="check the path")
        if not root.is_dir():
            raise InvalidInput(
                f"{root} is no folder, and only folders are watched",
                hint="`muomni add` takes files and tables",
            )
    if not 0 < debounce <= LONGEST_DEBOUNCE or not rescan > 0:
        raise InvalidInput(
            f"debounce and rescan must be more than 0 seconds, and debounce at most "
            f"{LONGEST_DEBOUNCE:,}"
        )
    read_corpus((), exclude=exclude)  # a pattern that is none is told now
    _ = collection.model  # and so is a model that is not here
    return _Watch(
        collection,
        list(dict.fromkeys(root.resolve() for root in roots)),
        stop=stop or Event(),
        prefix=prefix,
        exclude=[*TEMPORARY, *exclude],
        force=force,
        limits=limits,
        debounce=debounce,
        rescan=rescan,
        poll=poll,
        told=told,
        progress=progress or Silent(),
    ).run(once=once)


class _Seen(NamedTuple):
    """How a path looked, and since when it has."""

    look: tuple[int, ...] | None
    since: float


@dataclass(slots=True)
class _PutOff:
    """When something that did not work is tried again."""

    due: float = -math.inf
    wait: float = FIRST_WAIT

    def again(self) -> None:
        """Put it off, each time for twice as long."""
        self.due = time.monotonic() + self.wait
        self.wait = min(2 * self.wait, LONGEST_WAIT)

    def is_due(self) -> bool:
        """Whether it may be tried."""
        return time.monotonic() >= self.due


class _MountTable:
    """What the system has mounted, where it says so in a file, as Linux does (proc(5)).

    A disk that goes and comes back between two looks is at its place each time, but no event of it
    arrives any more; the table tells that it changed.
    """

    FILE = Path("/proc/self/mountinfo")

    def __init__(self) -> None:
        self._file = None
        with suppress(OSError):  # without it the next whole reading finds what came
            self._file = self.FILE.open("rb")
            self._poll = select.poll()
            self._poll.register(self._file, select.POLLPRI)

    def close(self) -> None:
        """Look at it no more."""
        if self._file is not None:
            self._file.close()

    def has_changed(self) -> bool:
        """Whether anything was mounted or unmounted since it was opened, or this asked last."""
        return self._file is not None and bool(self._poll.poll(0))

    def holds(self, roots: Sequence[Path]) -> bool:
        """Whether a disk is mounted at one of some folders, or below."""
        if self._file is None:
            return False
        # Only these separate: whatever else a name has in it stands as it is.
        lines = self.FILE.read_bytes().split(b"\n")[:-1]
        points = (re.sub(rb"\\([0-7]{3})", _octal, line.split(b" ")[4]) for line in lines)
        places = [Path(os.fsdecode(point)) for point in points]
        return any(place.is_relative_to(root) for place in places for root in roots)


def _octal(found: re.Match[bytes]) -> bytes:
    return bytes([int(found[1], 8)])


class _Stopped(KeyboardInterrupt):
    """Ends an ``add`` as Ctrl-C does: what is encoded is committed."""


class _StopProgress:
    """Hands on what a progress is told, until the watch is to stop."""

    def __init__(self, progress: Progress, stop: Event) -> None:
        self._stop = stop
        self._progress = progress
        self.start = progress.start
        self.finish = progress.finish

    def advance(self, steps: int = 1) -> None:
        if self._stop.is_set():
            raise _Stopped
        self._progress.advance(steps)


class _Watch:
    """One watch; see ``watch_folders``."""

    def __init__(
        self,
        collection: Collection,
        roots: Sequence[Path],
        *,
        stop: Event,
        prefix: str | None,
        exclude: Sequence[str],
        force: bool,
        limits: Limits | None,
        debounce: float,
        rescan: float,
        poll: bool,
        told: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._collection = collection
        self._own = collection.directory.resolve()
        self._roots = roots
        self._stop = stop
        self._prefix = prefix
        self._start = key_prefix(prefix)
        self._exclude = exclude
        self._force = force
        self._limits = limits
        self._debounce = debounce
        # How long a file must stay as it is.
        self._settle = max(debounce, SECONDS_OF_A_POLL) if poll else debounce
        self._rescan = rescan
        self._poll = poll
        self._told = told
        self._progress = _StopProgress(progress, stop)
        # By the time since which they look as they do.
        self._pending: OrderedDict[Path, _Seen] = OrderedDict()
        # Disks that are mounted below the folders, and from which there are items.
        self._mounts: set[Path] = set()
        # Those that were mounted when last looked at; one that goes meanwhile is missed here.
        self._present: set[Path] = set()
        # Where they were looked for: folders of files, and the device that each was on.
        self._known_places: set[tuple[Path, int]] = set()
        # Folders from which something may be gone; one that is refused holds up no other.
        self._unpruned: dict[Path, _PutOff] = {}
        # What changed in each folder since it was pruned: the folder itself for all of it.
        self._changed: dict[Path, set[Path]] = {root: set() for root in roots}
        self._batch_wait = _PutOff()
        self._watch_wait = _PutOff()
        self._mount_wait = _PutOff()
        self._complaint = ""
        self._next_scan = math.inf
        self._is_first = True

    def run(self, *, once: bool) -> Iterator[Report]:
        """Yield the reports."""
        if once:
            yield from self._run_once()
            return
        away: set[Path] = set()
        while not self._stop.is_set():
            places = {root: place for root in self._roots if (place := durable.place_of(root))}
            for root in self._roots:
                if root not in places and root not in away:
                    self._told(f"{root} is away: waiting for it, nothing of it is removed")
                elif root in away and root in places:
                    self._told(f"{root} is back")
            away = {root for root in self._roots if root not in places}
            # What was pending of a folder that was away comes up when all of it is read.
            self._pending.clear()
            self._unpruned = {root: self._unpruned[root] for root in places.keys() & self._unpruned}
            self._read_whole(places)
            if places:
                yield from self._follow(places)
            self._check_collection()
            self._stop.wait(max(self._tick, self._watch_wait.due - time.monotonic()))

    @property
    def _tick(self) -> float:
        return min(self._debounce / 4, LONGEST_TICK)

    def _run_once(self) -> Iterator[Report]:
        self._read_whole(self._roots)
        yield from self._batch(once=True)
        if self._pending:  # written just now; what is written still, the next run takes
            self._stop.wait(self._settle)
            yield from self._batch(once=True)
            for path in self._pending:
                self._told(f"{path} is still being written: left to the next run")

    # ---- what changes ----------------------------------------------------------------------

    def _follow(self, places: dict[Path, tuple[int, int]]) -> Iterator[Report]:
        """Follow the folders that are there, until one of them goes or comes."""
        from watchfiles import watch

        tick = max(int(1000 * self._tick), 10)
        changes = watch(
            *places,
            watch_filter=None,
            debounce=tick,
            step=min(tick, 50),
            rust_timeout=tick,
            yield_on_timeout=True,
            stop_event=self._stop,
            force_polling=self._poll or None,
            poll_delay_ms=max(int(1000 * self._debounce), 10),
            ignore_permission_denied=True,
        )
        self._present = self._mounted()
        began, is_mounted_anew = time.monotonic(), False
        with closing(changes), closing(_MountTable()) as table:
            held = table.holds(self._roots)
            # The first comes when the watch is on: from then on no change is missed.
            while (changed := self._next(changes)) is not None:
                self._check_collection()
                self._note(Path(path) for _, path in changed)
                if any(durable.place_of(root) != places.get(root) for root in self._roots):
                    return
                # Of what comes with a disk there are no events.
                if table.has_changed():
                    before, held = held, table.holds(self._roots)
                    is_mounted_anew |= before or held
                if self._mounted() != self._present:
                    return
                # Or another disk somewhere: where that happens time and again, folders are not read
                # whole each time.
                if is_mounted_anew and self._mount_wait.is_due():
                    self._mount_wait.again()
                    return
                if time.monotonic() >= self._next_scan:
                    self._read_whole(places)
                    self._mount_wait = _PutOff()
                if time.monotonic() - began > self._watch_wait.wait:  # it lasts
                    self._watch_wait = _PutOff()
                yield from self._batch()

    def _next(self, changes: Generator[set[tuple[Any, str]]]) -> set[tuple[Any, str]] | None:
        """Return the next changes; None when the watch ended and another one must begin.

        Raises:
            MuomniError: The system watches no more folders.
        """
        try:
            return next(changes, None)
        except (OSError, RuntimeError) as error:
            if "limit" in str(error):
                raise MuomniError(
                    f"the folders cannot be watched: {error}",
                    hint="raise fs.inotify.max_user_watches, or watch with --poll",
                ) from error
            # A folder that went before it was watched ends the watch on all of them.
            self._watch_wait.again()
            return None

    def _note(self, paths: Iterator[Path]) -> None:
        now = time.monotonic()
        for path in paths:
            root = next((root for root in self._roots if path.is_relative_to(root)), None)
            if root is None or path.is_relative_to(self._own):
                continue
            *above, name = path.relative_to(root).parts or (".",)
            if name == IGNORE_FILE:
                path = path.parent
            elif name.startswith(".") and name != ".":
                continue
            if not any(part.startswith(".") for part in above):
                self._wait_for(path, now)

    def _wait_for(self, path: Path, since: float = -math.inf) -> None:
        """Have a path looked at when it has stayed as it is since ``since`` for long enough.

        Args:
            path: Which.
            since: Now, or before everything else that is pending: then it has.
        """
        self._pending[path] = _Seen(_look(path), since)
        self._pending.move_to_end(path, last=since > -math.inf)

    def _read_whole(self, roots: Sequence[Path] | dict[Path, tuple[int, int]]) -> None:
        for root in roots:
            self._wait_for(root)
        self._next_scan = time.monotonic() + self._rescan

    def _ripe(self) -> set[Path]:
        """Take out of what is pending the paths that stayed as they are for long enough."""
        now = time.monotonic()
        ripe = set()
        # Only those whose time has come, however many are pending.
        while self._pending:
            path, seen = next(iter(self._pending.items()))
            if now - seen.since < self._settle:
                break
            if _look(path) == seen.look:
                del self._pending[path]
                ripe.add(path)
            else:
                self._wait_for(path, now)
        return ripe

    def _check_collection(self) -> None:
        """Check that the collection is there and no other one.

        Raises:
            NotFound: It was dropped or replaced.
        """
        with self._collection.store.snapshot():
            pass

    # ---- what is done about it ---------------------------------------------------------------

    def _batch(self, *, once: bool = False) -> Iterator[Report]:
        """Do what is due; yield the report when there is something to tell."""
        report = None
        paths = self._ripe() if self._batch_wait.is_due() else set()
        if paths:
            try:
                report = self._add(paths)
            except _Stopped:
                return
            except MuomniError as error:
                if once or not self._may_pass(error):
                    raise
                self._batch_wait.again()
                self._complain(error)
                for path in paths:
                    self._wait_for(path)
                return
            self._batch_wait = _PutOff()
        refusal = None
        due = sorted(root for root, wait in self._unpruned.items() if wait.is_due())
        for root in due if not self._stop.is_set() else ():
            report = report or Report()
            try:
                self._prune(root, report)
            except MuomniError as error:
                if not self._may_pass(error):
                    raise
                refusal = refusal or error
                self._unpruned[root].again()
        if refusal is not None and not once:
            self._complain(refusal)
        if report is None:
            return
        did = (report.added, report.updated, report.moved, report.removed, report.failed)
        if self._is_first or any(did):
            yield report
        self._is_first = False
        if refusal is None:
            self._complaint = ""
        elif once:
            raise refusal

    def _add(self, paths: set[Path]) -> Report:
        if len(paths) > MANY_PATHS:
            paths = {
                root for root in self._roots if any(path.is_relative_to(root) for path in paths)
            }
        roots = [root for root in self._roots if any(path.is_relative_to(root) for path in paths)]
        corpus = read_corpus(roots, prefix=self._prefix, exclude=self._exclude, only=paths)
        report = self._collection.add(
            Corpus(self._settled(corpus, paths), corpus.roots),
            limits=self._limits,
            progress=self._progress,
        )
        gone = [path for path in paths if is_gone(str(path))]
        for root in roots:
            self._note_changed(root, paths)
            if root in paths or any(path.is_relative_to(root) for path in gone):
                self._unpruned.setdefault(root, _PutOff())
        return report

    def _settled(self, corpus: Corpus, settled: set[Path]) -> Iterator[Entry]:
        """Yield what is not being written just now; the rest becomes pending.

        Args:
            corpus: What was found.
            settled: Paths that were seen to stay as they are.
        """
        for entry in corpus:
            path = entry.path if isinstance(entry, Record) else None
            if isinstance(entry, Problem):  # half a picture may well be one
                path = Path(entry.source)
            look = None if path is None else _look(path)
            if path is not None and look and (path.parent, look[0]) not in self._known_places:
                self._known_places.add((path.parent, look[0]))
                below = [one for one in path.parents if not {*one.parents}.isdisjoint(self._roots)]
                found = {one for one in below if one.is_mount()}
                # Read while it is there: should it go before the batch ends, that is a change.
                self._present |= found - self._mounts
                self._mounts |= found
            is_new = look and 0 <= time.time() - look[-1] / 1e9 < self._settle
            if path is not None and path not in settled and is_new:
                self._wait_for(path, time.monotonic())
            else:
                yield entry

    def _prune(self, root: Path, report: Report) -> None:
        """Remove the items of a folder whose files are gone.

        Raises:
            Conflict: More than half of them are, or a disk below it, and not ``force``; or another
                writer is busy.
        """
        lost = self._mounts_of(root) - self._mounted()
        if lost and not self._force:
            raise Conflict(
                f"{min(lost)} is mounted no more, so nothing of {root} was removed",
                hint="mount it, or watch again with -f",
            )
        # A folder or a disk that goes does so over several batches, and the first of them must see
        # how much it is.
        self._note_changed(root, self._pending)
        # Whoever is away is not empty.
        if root.is_dir():
            report.removed += prune(
                self._collection.store,
                [root],
                force=self._force,
                dry_run=False,
                keys=self._changed_keys(root),
            )
            self._collection.refresh_indexes()
        self._changed[root].clear()
        del self._unpruned[root]

    def _note_changed(self, root: Path, paths: Iterable[Path]) -> None:
        """Have what lies at these paths of a folder, and below, looked at when it is pruned."""
        self._changed[root].update(path for path in paths if path.is_relative_to(root))
        if len(self._changed[root]) > MANY_PATHS:
            self._changed[root] = {root}

    def _changed_keys(self, root: Path) -> list[str] | None:
        """Return the keys at or below which items of a folder may be gone; None for all of them."""
        changed = self._changed[root]
        if root in changed:
            return None
        return [self._start + path.relative_to(root).as_posix() for path in changed]

    def _mounts_of(self, root: Path) -> set[Path]:
        return {one for one in self._mounts if one.is_relative_to(root)}

    def _mounted(self) -> set[Path]:
        return {one for one in self._mounts if one.is_mount()}

    def _may_pass(self, error: MuomniError) -> bool:
        """Whether an error is one that time or somebody else mends: a lock, a full disk."""
        is_away = isinstance(error, NotFound) and not all(root.is_dir() for root in self._roots)
        return is_away or isinstance(error, Conflict) or type(error) is MuomniError

    def _complain(self, error: MuomniError) -> None:
        """Tell what is put off, and why, unless it was the last thing that was told."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._told(f"put off: {error}")


def _look(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a path is written to; None when nothing is there.

    Its last number is the time in nanoseconds. Of a folder it is nothing but that it is one, for
    what changes in it comes by itself.
    """
    try:
        facts = path.stat()
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(facts.st_mode):
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
