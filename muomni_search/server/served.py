"""The collections that this server holds, and what it does its work with."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from fastapi import Response

from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput, MuomniError, NotFound
from muomni_search.server.cache import Cache
from muomni_search.server.encoding import Models
from muomni_search.server.jobs import Jobs
from muomni_search.server.query_files import QueryFiles
from muomni_search.server.settings import Settings
from muomni_search.server.watches import Watches
from muomni_search.server.work import Workers
from muomni_search.store.engine import DATABASE

__all__ = ["UPLOADS", "Collections", "Served"]

# Files that clients added lie beside their collection, in a folder of this name.
UPLOADS = "-uploads"
# What a collection may be called that a client makes.
NAME = re.compile(r"\w[\w. -]{0,98}\w|\w")

# Each may hold one decoded file.
FIGURES = 4
WRITERS = 4
WRITE_SECONDS = 60.0

Identity = tuple[int, int]
T = TypeVar("T")


class Collections:
    """The open collections, by the name that they are served under.

    Args:
        settings: Which.
        models: What loads their models.
    """

    def __init__(self, settings: Settings, models: Models) -> None:
        self._settings = settings
        self._models = models
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Identity, Collection]] = {}

    def names(self) -> list[str]:
        """Return the names of the collections that there are now."""
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

    def get(self, name: str) -> Collection:
        """Return a collection, opened anew when another one has taken its place.

        Raises:
            NotFound: There is none of this name.
        """
        directory = self._directory(name)
        identity = None if directory is None else _identity(directory)
        with self._lock:
            held = self._open.get(name)
            if held is not None and held[0] == identity:
                return held[1]
            if held is not None:
                del self._open[name]
                held[1].close()
            if directory is None or identity is None:
                raise NotFound(
                    f"no collection {name!r}", hint="GET /v1/collections lists those that are here"
                )
            collection = Collection.open(directory, load=self._models.load)
            self._open[name] = identity, collection
            return collection

    def create(self, name: str, model: str) -> Collection:
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
        return self.get(name)

    def _directory(self, name: str) -> Path | None:
        if self._settings.collections:
            return self._settings.collections.get(name)
        if not _is_name(name) or name.endswith(UPLOADS):
            return None
        return self._settings.root / name

    def warm_up(self, stop: threading.Event) -> None:
        """Load what the first search will need, one collection after another until ``stop``."""
        for name in self.names():
            if stop.is_set():
                return
            with suppress(MuomniError, OSError):
                self.get(name).query("warm", 1)

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            while self._open:
                self._open.popitem()[1][1].close()


def _is_name(name: str) -> bool:
    """Whether this is the name of a folder in the root, and no way out of it."""
    return (
        bool(name) and len(name) <= 255 and not name.startswith(".") and not set(name) & set("/\0")
    )


def _identity(directory: Path) -> Identity | None:
    """Return what a collection's database is known again by; None when there is none."""
    try:
        facts = (directory / DATABASE).stat()
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino


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
        self.writes = Workers(
            "changes", running=WRITERS, waiting=settings.waiting, deadline=WRITE_SECONDS
        )
        # Each as long as somebody holds it or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._watches = Watches(settings.watched, self.collections.get, settings.limits)

    async def change(self, name: str, work: Callable[[], T]) -> T:
        """Change a collection in a thread, one change after another; others' go on meanwhile.

        Raises:
            Refused: Too many changes are waiting already, or it took too long until its turn.
        """
        return await self.writes.run(work, turn=self._turns.setdefault(name, asyncio.Lock()))

    def workers(self) -> Iterator[Workers]:
        """Yield the kinds of workers."""
        yield from (self.searches, self.figures, self.writes)

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
