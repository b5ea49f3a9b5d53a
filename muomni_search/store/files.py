"""The files beside the database: which count, which a killed writer left, which are strangers."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from muomni_search import durable
from muomni_search.items import Modality
from muomni_search.store.snapshot import INDEX, STAGE, VECTORS, State
from muomni_search.store.sqlite import DATABASE

__all__ = [
    "is_abandoned",
    "is_leftover",
    "is_own",
    "is_useless",
    "own_bytes",
    "remove_store",
    "sweep",
    "unrecorded",
]

MODALITIES = "|".join(Modality)
ROW_FILE = re.compile(rf"({MODALITIES})\.\d+\.f32")
INDEX_FILE = re.compile(rf"\.?({MODALITIES})\.(\d+)\.[0-9a-f]{{12}}\.faiss(\.[\d-]+\.partial)?")
# An index is written before the lock is taken: one that is younger may be about to be recorded.
STALE_SECONDS = 3600.0


def unrecorded(directory: Path, state: State) -> Iterator[Path]:
    """Yield the files in ``vectors/`` and ``index/`` that a state does not speak of."""
    recorded = {file.path for file in state.row_files.values()}
    recorded |= {directory / INDEX / file.name for file in state.index_files.values()}
    for folder in (VECTORS, INDEX):
        with suppress(FileNotFoundError):
            for entry in sorted(os.scandir(directory / folder), key=lambda entry: entry.name):
                path = directory / folder / entry.name
                if path not in recorded and entry.is_file(follow_symlinks=False):
                    yield path


def is_own(directory: Path, path: Path) -> bool:
    """Whether a path is one that only the store of a directory may write to."""
    place = path.resolve()
    folders = {(directory / name).resolve() for name in (VECTORS, INDEX, STAGE)}
    is_database = place.parent == directory.resolve() and place.name.startswith(DATABASE)
    return is_database or not folders.isdisjoint(place.parents)


def is_leftover(path: Path) -> bool:
    """Whether a file has a name that only the store gives."""
    return (ROW_FILE if path.parent.name == VECTORS else INDEX_FILE).fullmatch(
        path.name
    ) is not None


def sweep(directory: Path, state: State) -> None:
    """Remove what writers that died have left; under the write lock only."""
    with suppress(OSError):  # they harm nobody but the disk
        for path in unrecorded(directory, state):
            if is_abandoned(path, state):
                durable.unlink(path)


def is_abandoned(path: Path, state: State) -> bool:
    """Whether an unrecorded file is the store's own, and nobody can need it any more."""
    if not is_leftover(path):
        return False
    if path.parent.name == INDEX:
        is_stale = time.time() - path.stat().st_mtime > STALE_SECONDS
        return is_stale or is_useless(path, state)
    # Row files are made under the lock. When the one that counts is gone, somebody has put
    # another database here: then this may be the only copy of the vectors.
    file = state.row_files.get(Modality(path.name.partition(".")[0]))
    return file is None or not file.rows or file.path.exists()


def is_useless(path: Path, state: State) -> bool:
    """Whether an unrecorded file is the store's own, of rows that do not count any more."""
    if not is_leftover(path):
        return False
    match = INDEX_FILE.fullmatch(path.name)
    if match is None:
        return True
    # An index of rows that were replaced since can never be recorded.
    file = state.row_files.get(Modality(match[1]))
    return file is not None and int(match[2]) != file.generation


def own_bytes(directory: Path) -> int:
    """Return how many bytes the files of a store have in all."""
    files = [*directory.glob(f"{DATABASE}*")]
    files += [path for name in (VECTORS, INDEX, STAGE) for path in (directory / name).rglob("*")]
    total = 0
    for path in files:
        with suppress(FileNotFoundError):  # SQLite's own come and go
            total += path.stat().st_size if path.is_file() else 0
    return total


def remove_store(folder: Path) -> None:
    """Remove a store, its database first: what a kill leaves behind is then none any more."""
    for path in sorted(folder.glob(f"{DATABASE}*")):
        path.unlink()
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
