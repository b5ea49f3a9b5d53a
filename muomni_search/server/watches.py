"""Folders that a collection is kept in step with while it is served."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from muomni_search.collection import Collection
from muomni_search.errors import MuomniError
from muomni_search.watch import watch_folders

__all__ = ["Watches"]

log = logging.getLogger("muomni_search.server")

# How long until a watch that ended is tried again: the collection may come back.
AGAIN_SECONDS = 10.0


class Watches:
    """A watch for each collection that has folders, in a thread of its own.

    Args:
        folders: The folders of a collection, by its name.
        open_named: Gives the collection of a name, open.
    """

    def __init__(
        self,
        folders: Mapping[str, Sequence[Path]],
        open_named: Callable[[str], AbstractContextManager[Collection]],
    ) -> None:
        self._open = open_named
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(name, own), name=f"muomni-watch-{name}")
            for name, own in folders.items()
        ]
        for thread in self._threads:
            thread.start()

    def _follow(self, name: str, folders: Sequence[Path]) -> None:
        told = ""
        while not self._stop.is_set():
            try:
                with self._open(name) as collection:
                    for report in watch_folders(
                        collection,
                        folders,
                        stop=self._stop,
                        told=lambda line: log.warning("%s: %s", name, line),
                    ):
                        log.info("%s: %s", name, report.as_dict())
                        told = ""
            except MuomniError as error:
                if str(error) != told:
                    log.error("%s: %s", name, error)  # noqa: TRY400  it says what is wrong
                told = str(error)
            except Exception:
                log.exception("%s: the watch ended", name)
            self._stop.wait(AGAIN_SECONDS)

    def close(self) -> None:
        """End the watches; what they have encoded is committed first."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
