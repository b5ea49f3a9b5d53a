"""Long work in the background: one at a time, its progress watched, cancelled at will."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any, Literal, get_args

from muomni_search.errors import Conflict, InvalidInput, MuomniError, NotFound
from muomni_search.server.problems import Refused, log, without_paths

__all__ = ["OVER", "THREAD", "Job", "Jobs"]

MOST_WAITING = 32
MOST_KEPT = 100
# What each job may take, however little all of them may.
ALWAYS_BYTES = 1_000_000
# How often a job looks how much that is.
LOOK_SECONDS = 0.1
CLOSE_SECONDS = 5.0
THREAD = "muomni-job"

State = Literal["queued", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")


class _Cancelled(Exception):
    """Raised in the thread of a job that somebody has cancelled."""


class Job:
    """A job: what it is told to do, and how far it is. It is its own work's progress.

    Args:
        kind: What it makes: ``batch`` or ``map``.
        collection: Of which collection.
        subject: What it is about: a job that is about the same need not run again. None for
            nothing that two could share.
        folder: Where it puts its files.
        work: Does it, and returns the file with the result.
        size: How many bytes it has on the disk already.
    """

    def __init__(
        self,
        kind: str,
        collection: str,
        subject: Any,
        folder: Path,
        work: Callable[[Job], Path],
        size: int = 0,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.kind = kind
        self.collection = collection
        self.subject = subject
        self.folder = folder / self.id
        self.work = work
        self.state: State = "queued"
        self.error: str | None = None
        self.result: Path | None = None
        self.summary: dict[str, Any] | None = None
        self.bytes = size
        self.most: int | None = None  # bytes that its files may take
        self._stage = ""
        self._done = 0
        self._total: int | None = None
        self.is_cancelled = False
        self._looked = 0.0  # at the room that it takes

    def as_dict(self) -> dict[str, Any]:
        """Return what clients are told."""
        return {
            "id": self.id,
            "kind": self.kind,
            "collection": self.collection,
            "state": self.state,
            "stage": self._stage,
            "done": self._done,
            "total": self._total,
            "error": self.error,
            "summary": self.summary,
        }

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in OVER

    def is_same(self, other: Job) -> bool:
        """Whether another one makes the same."""
        return (self.kind, self.subject) == (other.kind, other.subject)

    def cancel(self) -> None:
        """Have it end at its next step."""
        self.is_cancelled = True

    def give_up(self) -> None:
        """End it before it has begun; whoever calls it has set its state."""
        self._end("cancelled", None)

    def start(self, total: int | None, label: str) -> None:
        """Begin a stage of ``total`` steps, or of unknown length."""
        self._check()
        self._stage, self._total, self._done = label, total, 0

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` steps as done."""
        self._check()
        # Some jobs count 50,000 steps in a few seconds.
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._check_room()
        self._done += steps

    def finish(self) -> None:
        """End the stage."""

    def run(self) -> None:
        """Do the work, in the thread for it; whoever calls it has set its state."""
        try:
            self._check()
            self.folder.mkdir(exist_ok=True)
            result = self.work(self)
            self._check()
            self._check_room()
            self.bytes = _bytes_of(self.folder)
            self.result = result
            self.state = "done"
        except _Cancelled:
            self._end("cancelled", None)
        except MuomniError as error:
            self._end("failed", without_paths(str(error)))
        except Exception as error:  # noqa: BLE001  or nobody would hear of it
            log.error("job %s", self.id, exc_info=error)
            self._end("failed", f"an unexpected error, job {self.id} in the server's log")

    def _check(self) -> None:
        if self.is_cancelled:
            raise _Cancelled

    def _check_room(self) -> None:
        """Refuse to take more room than there is for a job.

        Raises:
            InvalidInput: It takes more.
        """
        self._looked = time.monotonic()
        if self.most is not None and _bytes_of(self.folder) > self.most:
            raise InvalidInput(
                f"the result would take more than {self.most:,} bytes",
                hint="ask for fewer hits, or for fewer at once",
            )

    def remove(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, state: State, error: str | None) -> None:
        self.remove()
        self.bytes = 0
        self.error = error
        self.state = state


class Jobs:
    """The jobs of a server: one runs, some wait, and the results of the last ones are kept.

    Args:
        folder: Where they put their files.
        most: How many bytes what they were sent and their results may take together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self._most = most
        # For the books alone: the event loop takes it, so no file is touched under it.
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        # One thread: UMAP's own bear no second caller, and searches want the other cores. It dies
        # with the process, for UMAP hears of nothing until it is done.
        self._queue: Queue[Job | None] = Queue()
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Job:
        """Put a job in the queue; return it, or the one that makes or has made the same.

        Raises:
            Refused: Too many are waiting, or what waits takes too much.
        """
        with self._lock:
            for one in reversed(self._jobs.values()):
                is_wanted = one.state not in OVER[1:] and not one.is_cancelled
                if job.subject is not None and job.is_same(one) and is_wanted:
                    return one
            if sum(one.state == "queued" for one in self._jobs.values()) >= MOST_WAITING:
                raise Refused(
                    "too-many-requests", "too many jobs are waiting", hint="wait for some to end"
                )
            begun = sum(one.bytes for one in self._jobs.values() if not one.is_over)
            if begun and begun + job.bytes > self._most:
                raise Refused(
                    "too-many-requests",
                    f"the jobs that wait take {begun} bytes",
                    hint="wait for some to end, or send fewer queries at once",
                )
            old = self._forget_old(self._most - begun - job.bytes)
            job.most = max(self._most, ALWAYS_BYTES)
            self._jobs[job.id] = job
        for one in old:
            one.remove()
        self._queue.put(job)
        return job

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                if job.is_over:  # it was cancelled while it waited
                    continue
                job.state = "running"
            job.run()

    def _forget_old(self, most: int) -> list[Job]:
        """Let go of the oldest jobs, as far as they are too many or have too many bytes.

        Under the lock; whoever calls it removes their files.
        """
        over = [job for job in self._jobs.values() if job.is_over]
        old = []
        while over and (len(over) >= MOST_KEPT or sum(job.bytes for job in over) > most):
            old.append(self._jobs.pop(over.pop(0).id))
        return old

    def forget(self, job: Job) -> None:
        """Let go of a job that is over, and of its result."""
        with self._lock:
            self._jobs.pop(job.id, None)
        job.remove()

    def get(self, number: str) -> Job:
        """Return a job.

        Raises:
            NotFound: There is none, or not any more.
        """
        with self._lock:
            job = self._jobs.get(number)
        if job is None:
            raise _forgotten(number)
        return job

    def result(self, number: str) -> tuple[Path, os.stat_result]:
        """Return the file that a job has made, and what the system says of it.

        Raises:
            NotFound: There is no such job, or not any more.
            Conflict: It has made none, or not yet.
        """
        job = self.get(number)
        if job.result is None:
            raise Conflict(
                f"the job is {job.state}{': ' + job.error if job.error else ''}",
                hint="wait for its event done" if not job.is_over else "start it again",
            )
        try:
            return job.result, job.result.stat()
        except FileNotFoundError as error:
            raise _forgotten(number) from error

    def drop(self, number: str) -> Job:
        """Cancel a job; one that is over is forgotten, and its result removed.

        Raises:
            NotFound: There is none, or not any more.
        """
        job = self.get(number)
        with self._lock:
            was_over, waited = job.is_over, job.state == "queued"
            job.cancel()
            if waited:
                job.state = "cancelled"
        if was_over:
            self.forget(job)
        if waited:
            job.give_up()
        return job

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        with self._lock:
            states = [job.state for job in self._jobs.values()]
        return {str(state): states.count(state) for state in get_args(State)}

    def close(self) -> None:
        """Cancel all of them, and wait for a moment until they have heard of it."""
        with self._lock:
            for job in self._jobs.values():
                job.cancel()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)


def _bytes_of(folder: Path) -> int:
    """Return how many bytes the files of a folder take, those of a folder in it too."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it was a part, and is done
            found += path.stat().st_size
    return found


def _forgotten(number: str) -> NotFound:
    return NotFound(f"no job {number!r}", hint="old jobs are forgotten: start it again")
