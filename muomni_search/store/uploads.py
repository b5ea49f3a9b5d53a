"""Files that clients of a server have added: beside the collection, each in a folder of its own.

    indexes/birds/                                  the collection
    indexes/birds-uploads/9f2c41d07be35a68/owl.jpg  a file that was added to it

They belong to their items, unlike the files of any other folder: with the item goes the file.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from muomni_search.store.store import Store

__all__ = [
    "UPLOADS",
    "Replaced",
    "new_upload",
    "own_uploads",
    "remove_uploads",
    "sweep_uploads",
    "uploads_of",
]

UPLOADS = "-uploads"
NAME_BYTES = 8
FOLDER = re.compile(rf"[0-9a-f]{{{2 * NAME_BYTES}}}")
# A file is written before its item is committed: one that is younger may be about to be.
STALE_SECONDS = 3600.0
# By whatever still names it: an import knows no roots, and what a repair lost is added again from
# its file.
HELD = (
    "SELECT source FROM items WHERE source LIKE '%' || ?1 || '/%'"
    " UNION ALL SELECT source FROM failures WHERE source LIKE '%' || ?1 || '/%'"
)


def uploads_of(directory: Path) -> Path:
    """Return the folder of a collection's uploads, links resolved as in all roots."""
    place = Path(os.path.realpath(directory))
    return place.with_name(place.name + UPLOADS)


def new_upload(folder: Path) -> Path:
    """Make the folder of one file below a folder of uploads."""
    place = folder / secrets.token_hex(NAME_BYTES)
    place.mkdir(parents=True)
    return place


def own_uploads(store: Store) -> dict[Path, bool]:
    """Return the folders of single files that are a collection's, and whether it still names them.

    Those that it does not name are its own when they were made after it was: the ones before are of
    a collection that was there earlier, and may have been moved away without them.
    """
    places = list(_places(uploads_of(store.directory)))
    if not places:
        return {}
    with store.snapshot() as snapshot:
        # Whatever the folder is called in them: it may have moved with its collection.
        held = {Path(source).parent.name for (source,) in snapshot.ask(HELD, [UPLOADS])}
        made = datetime.fromisoformat(snapshot.state.created).timestamp()
    own = {}
    for place in places:
        with suppress(FileNotFoundError):  # it went by itself
            if place.name in held or place.stat().st_mtime >= made:
                own[place] = place.name in held
    return own


def sweep_uploads(store: Store) -> list[Path]:
    """Remove the files that are no item's, which a process that died has left, or a deletion.

    Returns:
        Those that stay: they are so young that somebody may be adding them, or cannot be removed.
    """
    remains = []
    for place, is_held in own_uploads(store).items():
        if is_held:
            continue
        with suppress(FileNotFoundError):
            is_young = time.time() - place.stat().st_mtime <= STALE_SECONDS
            if is_young or not _is_removed(place):
                remains.append(place)
    return remains


def remove_uploads(places: Iterable[Path], folder: Path) -> int:
    """Remove uploads, and their folder when nothing else is in it.

    Returns:
        How many were removed; one that cannot be stays.
    """
    removed = sum(map(_is_removed, places))
    with suppress(OSError):
        folder.rmdir()
    return removed


def _is_removed(place: Path) -> bool:
    """Remove the folder of one file; return whether it is gone."""
    shutil.rmtree(place, ignore_errors=True)
    return not os.path.lexists(place)


def _places(folder: Path) -> Iterator[Path]:
    """Yield the folders of single files, and nothing that somebody else has put there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            if FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield folder / entry.name


class Replaced:
    """The uploaded files of items that are about to change; those of no item go in the end.

    Args:
        store: Of the items.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = uploads_of(store.directory)
        self._keys: dict[str, str] = {}  # of files, the key of their item

    def remember(self, keys: Iterable[str]) -> None:
        """Write down the uploaded files that items have now."""
        if not self._folder.is_dir():
            return
        with self._store.snapshot() as snapshot:
            known = snapshot.known(keys)
        for key, one in known.items():
            if one.root == str(self._folder) and one.source is not None:
                self._keys[one.source] = key

    def sweep(self, new: Mapping[str, str] = MappingProxyType({})) -> None:
        """Remove those files that no item has now.

        Args:
            new: Files that were kept for items that were to come, with their keys.
        """
        keys = {**self._keys, **new}
        if not keys:
            return
        with self._store.snapshot() as snapshot:
            known = snapshot.known(set(keys.values()))
        for source, key in keys.items():
            is_held = key in known and known[key].source == source
            # Each lies in a folder of its own; nothing else is touched.
            if not is_held and Path(source).parent.parent == self._folder:
                shutil.rmtree(Path(source).parent, ignore_errors=True)
