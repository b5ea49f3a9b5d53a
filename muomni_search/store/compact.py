"""Giving back what is dead: row files without dead rows, and a directory without deleted bytes.

    live rows, in their order ──▶ the next generation of the row file ─┐
                                                                       ├──▶ one commit
    segments, numbered anew; no dead rows; no index ───────────────────┘
    then SQLite's pages written anew, and its log emptied into the file

``compact_rows`` is all that a modality needs to be small and fast again. ``purge`` lets nothing
but what is live stay in the directory, so whatever was deleted or replaced before goes as well,
and running it again is how one that was disturbed is finished.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from muomni_search import durable
from muomni_search.errors import Conflict, CorruptData, NotFound
from muomni_search.filters import Filter
from muomni_search.items import Modality
from muomni_search.store.check import whole_blocks
from muomni_search.store.files import is_useless, remove_store, unrecorded
from muomni_search.store.records import Purged
from muomni_search.store.rows import cut_rows
from muomni_search.store.snapshot import STAGE, Snapshot
from muomni_search.store.sqlite import disk_errors
from muomni_search.store.store import Store
from muomni_search.store.uploads import Replaced, sweep_uploads
from muomni_search.store.writer import Writer

__all__ = ["compact_rows", "purge"]

PAGE_KEYS = 4_096


def compact_rows(writer: Writer, modality: Modality) -> None:
    """Leave the dead rows of a modality out of its file; none, nothing done.

    Raises:
        CorruptData: A block of its rows is not what was written, or a row is not an item's or
            dead; nothing was changed.
        MuomniError: The disk has no room for the live rows once more.
    """
    if writer.row_file(modality) is not None:
        writer.drop_dead_rows(modality, lambda: whole_blocks(writer, modality))


def purge(store: Store, keys: Collection[str] = (), condition: Filter | None = None) -> Purged:
    """Delete items, and let nothing that is not live stay in the directory, or of the uploads.

    Args:
        store: Whose.
        keys: The items of these keys, those that are there.
        condition: And those that this filter lets through.

    Raises:
        CorruptData: Rows are damaged; nothing was changed.
        MuomniError: The disk is full, or cannot be written to.
    """
    uploaded = Replaced(store)
    with store.write() as writer:
        absent = sorted(set(keys) - writer.item_ids(keys).keys())
        wanted = set(keys)
        if condition is not None:
            wanted |= {item.key for item in writer.iter_items(condition)}
        doomed = sorted(wanted)
        uploaded.remember(doomed)
        if keys or condition is not None:
            writer.forget_failures_of(doomed)
        else:
            writer.forget_stray_failures()
        deleted = writer.delete(doomed)
        for modality in Modality:
            compact_rows(writer, modality)
            _cut_tail(writer, modality)
    # Another write, which sweeps what belongs to the generations before.
    with store.write():
        pass
    uploaded.sweep()
    remains = [*_purge_stages(store), *store.vacuum(), *sweep_uploads(store)]
    with store.snapshot() as snapshot:
        remains += [
            path
            for path in unrecorded(store.directory, snapshot.state)
            if is_useless(path, snapshot.state)
        ]
    return Purged(deleted, absent, remains)


def _cut_tail(writer: Writer, modality: Modality) -> None:
    """Cut off what a writer that died has left behind the rows that count."""
    file = writer.row_file(modality)
    if file is not None and file.path.exists():
        with disk_errors(file.path):
            cut_rows(file.path, file.rows)


# ---- vectors of a model that the collection has not moved to yet ---------------------------------


def _purge_stages(store: Store) -> list[Path]:
    """Purge what is staged of items that are gone or changed; return the folder when it is used."""
    folder = store.directory / STAGE
    if not folder.exists():
        return []
    remains = []
    try:
        with disk_errors(folder), durable.held_folder(folder, "the collection is being moved"):
            for place in sorted(folder.iterdir()):
                remains += _purge_stage(store, place)
    except Conflict:
        return [folder]
    return remains


def _purge_stage(store: Store, place: Path) -> list[Path]:
    try:
        stage = Store.open(place)
    except (NotFound, CorruptData):
        remove_store(place)
        return []
    with stage:
        with stage.write() as writer:
            writer.clear_failures([failure.source for failure in writer.failures()])
        with store.snapshot() as snapshot, stage.snapshot() as staged:
            stale = list(_stale(snapshot, staged))
        return purge(stage, stale).remains


def _stale(snapshot: Snapshot, staged: Snapshot) -> Iterator[str]:
    """Yield the staged keys whose items are gone or have another content."""
    keys = list(staged.iter_keys())
    for start in range(0, len(keys), PAGE_KEYS):
        page = keys[start : start + PAGE_KEYS]
        known, there = snapshot.known(page), staged.known(page)
        for key in page:
            if key not in known or known[key].content_hash != there[key].content_hash:
                yield key
