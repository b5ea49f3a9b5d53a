"""The files beside the database: which count, which a killed writer left, which are strangers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from muomni_search import durable
from muomni_search.items import Modality
from muomni_search.store.engine import DATABASE
from muomni_search.store.snapshot import INDEX, STAGE, VECTORS, State

__all__ = ["is_abandoned", "is_leftover", "is_own", "sweep", "unrecorded"]

MODALITIES = "|".join(Modality)
ROW_FILE = re.compile(rf"({MODALITIES})\.\d+\.f32")
INDEX_FILE = re.compile(rf"\.?({MODALITIES})\.\d+\.[0-9a-f]{{12}}\.faiss(\.[\d-]+\.partial)?")
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
    match = ROW_FILE.fullmatch(path.name)
    if match is None:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    # Row files are made under the lock. When the one that counts is gone, somebody has put
    # another database here: then this may be the only copy of the vectors.
    file = state.row_files.get(Modality(match[1]))
    return file is None or not file.rows or file.path.exists()
