"""A copy of a live collection: one state of it, whole, in a directory that appears at the end.

    the snapshot's rows (mapped, checked) ─┐
    its index files ───────────────────────┼──▶ .DEST.partial ──▶ DEST
    its database, by SQLite's backup API ──┘

Writers go on meanwhile. The snapshot holds SQLite's state and the maps of the row files, so a file
that a writer replaces is still copied. An index file that went away is left out, as it is derived.
"""

from __future__ import annotations

import shutil
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from muomni_search import durable
from muomni_search.errors import Conflict, CorruptData
from muomni_search.items import Modality
from muomni_search.store.check import index_fault
from muomni_search.store.rows import BLOCK_ROWS, HINT, append_rows
from muomni_search.store.snapshot import INDEX, VECTORS, Snapshot
from muomni_search.store.sqlite import DATABASE, disk_errors
from muomni_search.store.store import Store

__all__ = ["back_up"]


def back_up(
    store: Store, target: Path, *, copied: Callable[[int], None] = lambda _: None
) -> dict[str, int]:
    """Copy a store; return how many items and bytes the copy has.

    Args:
        store: What to copy.
        target: The new directory, which must be empty or not there.
        copied: Told of each number of rows that is copied.

    Raises:
        Conflict: There is something in its place, or somebody else is copying to there.
        CorruptData: The collection is damaged; nothing is left of the copy.
    """
    target = Path(target).absolute()
    with disk_errors(target):
        _check_target(store, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with durable.held_folder(partial, "it is being copied to already"):
            _clear(partial)  # what was left by one that died
            try:
                items, lacking = _copy(store, partial, copied)
                _open_copy(partial, lacking)
                size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
                _check_target(store, target)
                durable.replace(partial, target)
            except BaseException:
                _clear(partial)
                raise
    return {"items": items, "bytes": size}


def _check_target(store: Store, target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} exists already and is not empty", hint="name another place")
    if store.directory in target.resolve().parents:
        raise Conflict(
            f"{target} lies in the collection that is to be copied", hint="name another place"
        )


def _clear(folder: Path) -> None:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _copy(store: Store, partial: Path, copied: Callable[[int], None]) -> tuple[int, list[Modality]]:
    """Copy one state; return how many items it has, and the modalities that lost their index."""
    for name in (VECTORS, INDEX):
        (partial / name).mkdir()
    with store.snapshot() as snapshot:
        for modality in Modality:
            _copy_rows(snapshot, modality, partial, copied)
        lacking = [one for one in Modality if not _copy_index(store, snapshot, one, partial)]
        _copy_database(snapshot, partial / DATABASE)
        items = sum(count["items"] for count in snapshot.counts().values())
    for folder in (partial / INDEX, partial):
        durable.fsync_directory(folder)
    return items, lacking


def _copy_rows(
    snapshot: Snapshot, modality: Modality, partial: Path, copied: Callable[[int], None]
) -> None:
    file = snapshot.row_file(modality)
    if file is None:
        return
    rows, sums = snapshot.vectors(modality), snapshot.block_sums(modality)
    path = partial / VECTORS / file.path.name
    if not len(rows):
        append_rows(path, 0, rows)
    for block, start in enumerate(range(0, len(rows), BLOCK_ROWS)):
        content = np.ascontiguousarray(rows[start : start + BLOCK_ROWS])
        if zlib.crc32(content.data) != sums.get(block):
            raise CorruptData(f"{file.path}: row {start} or one after it is damaged", hint=HINT)
        append_rows(path, start, content)
        copied(len(content))


def _copy_index(store: Store, snapshot: Snapshot, modality: Modality, partial: Path) -> bool:
    """Copy an index; return False when it is not there any more, or not whole."""
    index = snapshot.state.index_files.get(modality)
    if index is None:
        return True
    path = partial / INDEX / index.name
    try:
        shutil.copyfile(store.directory / INDEX / index.name, path)
    except FileNotFoundError:
        return False
    with path.open("rb") as file:
        durable.fsync_file(file.fileno())
    if index_fault(path, index) is None:
        return True
    path.unlink()
    return False


def _copy_database(snapshot: Snapshot, path: Path) -> None:
    """Copy what the snapshot's transaction sees, and nothing that was committed after."""
    durable.step("before the database is copied")
    with closing(sqlite3.connect(path)) as copy:
        snapshot.connection.backup(copy)
    with path.open("rb") as file:
        durable.fsync_file(file.fileno())


def _open_copy(partial: Path, lacking: list[Modality]) -> None:
    """Open the copy, to see that it can be, and let it forget the indexes that it lacks."""
    with Store.open(partial) as store:
        if lacking:
            with store.write() as writer:
                for modality in lacking:
                    writer.drop_index(modality)
