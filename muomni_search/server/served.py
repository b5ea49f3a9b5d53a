"""The collections that this server holds, and what it does its work with."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from fastapi import Response

from muomni_search import durable
from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput, MuomniError, NotFound
from muomni_search.server.cache import Cache
from muomni_search.server.encoding import Models
from muomni_search.server.jobs import Jobs
from muomni_search.server.query_files import QueryFiles
from muomni_search.server.settings import Settings
from muomni_search.server.watches import Watches
from muomni_search.server.work import Workers
from muomni_search.store.sqlite import DATABASE
from muomni_search.store.uploads import UPLOADS, sweep_uploads

__all__ = ["Collections", "Served"]

# What a collection may be called that a client makes.
NAME = re.compile(r"\w[\w. -]{0,98}\w|\w")

# Each may hold one decoded file.
FIGURES, EXPLANATIONS = 4, 2
# Collections that stay open though nobody uses them: each takes three files of SQLite and maps.
MOST_OPEN = 64
WRITERS = 4
WRITE_SECONDS = 60.0

Identity = tuple[int, int]
T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    """An open collection, and how many use it now."""

    identity: Identity
    collection: Collection
    users: int = 0
    is_over: bool = False


class Collections:
    """The open collections, by the name that they are served under.

    Args:
        settings: Which.
        models: What loads their models.
    """

    def __init__(self, settings: Settings, models: Models) -> None:
        self._settings = settings
        self._models = models
        # For the books alone: nothing is opened or closed under it.
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()  # those used last at the end
        # Who opens a collection holds up those of its name.
        self._opening: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def names(self) -> list[str]:
        """Return the names of the collections that there are now; let go of those that are gone."""
        for name in list(self._held):
            try:
                self.find(name)
            except NotFound:
                self._let_go(name)
        if self._settings.collections:
            return sorted(self._settings.collections)
        with suppress(OSError):
            children = sorted(self._settings.root.iterdir())
            return [
                one.name
                for one in children
                if _is_name(one.name) and not one.name.endswith(UPLOADS) and _identity(one)
            ]
        return []

    @contextmanager
    def open(self, name: str) -> Iterator[Collection]:
        """Give a collection, opened anew when another one has taken its place.

        The one before is closed when the last of those who use it has done so.

        Raises:
            NotFound: There is none of this name.
        """
        held = self._use(name)
        try:
            yield held.collection
        finally:
            with self._lock:
                held.users -= 1
                is_last = held.is_over and not held.users
            if is_last:
                held.collection.close()

    def _use(self, name: str) -> _Held:
        try:
            directory, identity = self.find(name)
        except NotFound:
            self._let_go(name)
            raise
        with self._lock:
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:
            with self._lock:
                held = self._held.get(name)
                if held is not None and held.identity == identity:
                    held.users += 1
                    self._held.move_to_end(name)
                    return held
            self._let_go(name)
            limits = self._settings.limits
            collection = Collection.open(directory, load=self._models.load, limits=limits)
            held = _Held(identity, collection, users=1)
            with self._lock:
                self._held[name] = held
                excess = len(self._held) - MOST_OPEN
                unused = [name for name, one in self._held.items() if not one.users]
        for one in unused[: max(0, excess)]:
            self._let_go(one)
        return held

    def _let_go(self, name: str) -> None:
        """Forget an open collection, and close it if nobody uses it."""
        with self._lock:
            held = self._held.pop(name, None)
            if held is None:
                return
            held.is_over = True
            is_used = held.users > 0
        if not is_used:
            held.collection.close()

    def find(self, name: str) -> tuple[Path, Identity]:
        """Return where a collection lies, and what it is known again by.

        Raises:
            NotFound: There is none of this name.
        """
        directory = self._directory(name)
        identity = None if directory is None else _identity(directory)
        if directory is None or identity is None:
            raise NotFound(
                f"no collection {name!r}", hint="GET /v1/collections lists those that are here"
            )
        return directory, identity

    def create(self, name: str, model: str) -> None:
        """Make an empty collection below the root.

        Raises:
            InvalidInput: It cannot be called so, or this server makes none.
            Conflict: There is one of this name.
        """
        if self._settings.collections:
            raise InvalidInput(
                "this server serves the collections that it was given",
                hint="start it with --root DIR to make others",
            )
        if not NAME.fullmatch(name) or name.endswith(UPLOADS):
            raise InvalidInput(
                f"a collection cannot be called {name!r}",
                hint="use up to 100 letters, digits, spaces, dots, dashes and underscores",
            )
        Collection.create(self._settings.root / name, model=model).close()

    def _directory(self, name: str) -> Path | None:
        if self._settings.collections:
            return self._settings.collections.get(name)
        if not _is_name(name) or name.endswith(UPLOADS):
            return None
        return self._settings.root / name

    def warm_up(self, stop: threading.Event) -> None:
        """Load what the first search will need, one collection after another until ``stop``.

        And remove the uploads that are no item's.
        """
        for name in self.names()[:MOST_OPEN]:
            if stop.is_set():
                return
            with suppress(MuomniError, OSError), self.open(name) as collection:
                if not self._settings.read_only:
                    sweep_uploads(collection.store)
                collection.query("warm", 1)

    def close(self) -> None:
        """Close all of them; one that is used still, by its last user."""
        for name in list(self._held):
            self._let_go(name)


def _is_name(name: str) -> bool:
    """Whether this is the name of a folder in the root, and no way out of it."""
    return (
        bool(name) and len(name) <= 255 and not name.startswith(".") and not set(name) & set("/\0")
    )


def _identity(directory: Path) -> Identity | None:
    """Return what a collection's database is known again by; None when there is none."""
    return durable.place_of(directory / DATABASE)


class Served:
    """What the requests of a server share.

    Args:
        settings: What the server was asked for.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = Models()
        self.cache = Cache()
        self.collections = Collections(settings, self.models)
        # A job that hears of nothing until it is done may write there still.
        self._scratch = TemporaryDirectory(prefix="muomni-serve-", ignore_cleanup_errors=True)
        self.scratch = Path(self._scratch.name)
        self.query_files = QueryFiles(_made(self.scratch / "queries"), settings.upload_bytes)
        self.jobs = Jobs(_made(self.scratch / "jobs"), settings.result_bytes)
        self.searches = Workers(
            "searches",
            running=settings.searches,
            waiting=settings.waiting,
            deadline=settings.deadline,
        )
        self.figures = Workers(
            "pictures and sounds",
            running=FIGURES,
            waiting=settings.waiting,
            deadline=settings.deadline,
        )
        # Apart, for one takes seconds, and pictures are to be seen meanwhile.
        self.explanations = Workers(
            "explanations",
            running=EXPLANATIONS,
            waiting=settings.waiting,
            deadline=settings.deadline,
        )
        self.writes = Workers(
            "changes", running=WRITERS, waiting=settings.waiting, deadline=WRITE_SECONDS
        )
        # Each as long as somebody holds it or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._watches = Watches(settings.watched, self.collections.open)

    async def change(self, name: str, work: Callable[[], T]) -> T:
        """Change a collection in a thread, one change after another; others' go on meanwhile.

        Raises:
            Refused: Too many changes are waiting already, or it took too long until its turn.
        """
        return await self.writes.run(work, turn=self._turns.setdefault(name, asyncio.Lock()))

    def workers(self) -> Iterator[Workers]:
        """Yield the kinds of workers."""
        yield from (self.searches, self.figures, self.explanations, self.writes)

    @staticmethod
    def json(told: Any, status: int = 200) -> Response:
        """Return an answer in JSON; as it is made here, nothing checks it again."""
        body = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Response(body.encode(), status, media_type="application/json")

    def close(self) -> None:
        """Finish what was begun, and let go of everything."""
        self._watches.close()
        self.jobs.close()
        for workers in self.workers():
            workers.close()
        self.collections.close()
        self._scratch.cleanup()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
