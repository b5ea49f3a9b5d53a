"""A folder with a collection as it is before a command, and what is there after one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from crash_child import VECTORS, prepare, vectors
from model_helpers import write_aligned_model
from old_collections import make_old

from muomni_search.collection import Collection
from muomni_search.items import DIM, Query
from muomni_search.reembed import reembed_collection
from muomni_search.store.rows import ROW_BYTES
from muomni_search.transfer import export_collection
from muomni_search.vectors import cosines

__all__ = ["Place"]

Content = dict[str, tuple[Any, ...]]
# What a command writes beside the collection: it is what it was, or the new one, whole.
OUTPUTS = ("all.parquet", "answers.jsonl", "graph.parquet")


# ---- before --------------------------------------------------------------------------------------


def add_other_export(place: Path) -> None:
    """Put an export beside the collection that shares some of its keys."""
    with Collection.create(place / "other", model="hashing") as other:
        other.add(vectors(range(5, 15), 20))
        export_collection(other, place / "other.parquet")
    shutil.rmtree(place / "other")


def add_old_export(place: Path) -> None:
    (place / "all.parquet").write_bytes(b"PAR1, an older export")


def add_queries(place: Path) -> None:
    lines = [json.dumps({"vector": vector.tolist()}) for vector in VECTORS[:14]]
    (place / "queries.jsonl").write_text("\n".join([*lines, '{"id": "nobody"}', ""]))


def damage(place: Path) -> None:
    """Damage a row and an index, and leave a stranger."""
    with (place / "collection/vectors/image.0.f32").open("r+b") as file:
        file.seek(ROW_BYTES)
        file.write(b"damage")
    (index,) = (place / "collection/index").iterdir()
    index.write_bytes(b"no index")
    (place / "collection/vectors/stranger").write_bytes(b"")


def add_model(place: Path) -> None:
    """Put a model beside the collection that was aligned with the collection's own."""
    write_aligned_model(place / "model")


def move_to_model(place: Path) -> None:
    """Let the collection have that model, with vectors from it."""
    add_model(place)
    with Collection.open(place / "collection") as collection:
        reembed_collection(collection, place / "model")


BEFORE: dict[str, Callable[[Path], None]] = {
    "create": lambda place: shutil.rmtree(place / "collection"),
    "import": add_other_export,
    "export": add_old_export,
    "batch": add_queries,
    "upgrade": lambda place: make_old(place / "collection"),
    "repair": damage,
    "reembed mapped": add_model,
    "reembed anew": move_to_model,
}


# ---- what is there -------------------------------------------------------------------------------


def content(collection: Collection) -> Content:
    """Return all items with everything that the store keeps of them."""
    found = {}
    with collection.store.snapshot() as snapshot:
        keys = list(snapshot.iter_keys())
        known, rows = snapshot.known(keys), snapshot.item_rows(keys)
        for item in snapshot.iter_items():
            modality, own = rows[item.key]
            spans = [match.span for match in snapshot.matches(modality, own)]
            vectors = snapshot.vectors(modality)[own].tobytes()
            outside = (modality, item.source, item.text, item.metadata)
            found[item.key] = (*outside, known[item.key].content_hash, spans, vectors)
    return found


def check_search(collection: Collection, items: Content) -> None:
    """Check that search finds exactly these items, each by its own best vector."""
    for vector in (VECTORS[0], VECTORS[1]):
        hits = collection.query(Query.vector(vector), 1_000)
        assert {hit.key: hit.cosine for hit in hits} == {
            key: cosines(np.frombuffer(rows, np.float32).reshape(-1, DIM), vector).max()
            for key, (*_, rows) in items.items()
        }


def revision(collection: Collection) -> int:
    with collection.store.snapshot() as snapshot:
        return snapshot.state.revision


def outputs(place: Path) -> dict[str, bytes]:
    return {name: (place / name).read_bytes() for name in OUTPUTS if (place / name).exists()}


def check_purged(place: Path) -> None:
    """Check that no byte is left of what was purged, nor of what was deleted before."""
    deleted = ["a.txt", "An owl calls", "c.wav", *(VECTORS[n].tobytes()[:16] for n in (1, 6, 9))]
    sought = [one.encode() if isinstance(one, str) else one for one in deleted]
    for path in (place / "collection").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [one for one in sought if one in content], path


# What a command must have done besides.
AFTER: dict[str, Callable[[Path], None]] = {"purge": check_purged}


class Place:
    """A folder with a collection as it is before a command, and what the command makes of it.

    Args:
        folder: Where; the place is ``folder / "place"``.
        operation: The command.
        children: They run it, once undisturbed to know its result.
    """

    def __init__(self, folder: Path, operation: str, children: Any) -> None:
        self.path = folder / "place"
        self._check_after = AFTER.get(operation, lambda place: None)
        self.collection = self.path / "collection"
        self._kept = folder / "before"
        prepare(self.path)
        BEFORE.get(operation, lambda place: None)(self.path)
        # Moved and copied back: its own path and the times of its files count.
        shutil.move(self.path, self._kept)
        self.restore()
        self._outputs = outputs(self.path)
        self._items: Content = {}
        self._revision = 0
        if self.exists():
            with Collection.open(self.collection) as collection:
                self._items, self._revision = content(collection), revision(collection)
            self.restore()
        self.undisturbed = children.run(operation, self.path)
        assert self.undisturbed.code == 0, self.undisturbed.error
        with Collection.open(self.collection) as collection:
            self._items_after = content(collection)
        self._outputs_after = outputs(self.path)
        self.check_done()
        self.restore()

    def restore(self) -> None:
        """Make everything what it was before the command."""
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self._kept, self.path)

    def exists(self) -> bool:
        return (self.collection / "collection.db").exists()

    def check_unharmed(
        self, *, commits: int, is_damaged: bool = False, is_staged: bool = False
    ) -> None:
        """Check that all is whole after a command that did not get to its end.

        Args:
            commits: How many it said were done.
            is_damaged: Whether there was something to repair.
            is_staged: Whether most of them went to a store beside the collection's.
        """
        found = outputs(self.path)
        for name in OUTPUTS:
            assert found.get(name) in (self._outputs.get(name), self._outputs_after.get(name))
        if not self.exists():
            assert not self._items
            return
        with Collection.open(self.collection) as collection:
            items = content(collection)
            for key in self._items.keys() | self._items_after.keys() | items.keys():
                assert items.get(key) in (self._items.get(key), self._items_after.get(key)), key
            # What a commit said was stored is stored; one that was not heard of may be.
            fewest = 0 if is_staged else commits
            assert fewest <= revision(collection) - self._revision <= commits + 1
            if not is_damaged or items == self._items_after:
                assert collection.verify() == []
                check_search(collection, items)

    def check_done(self) -> None:
        """Check that all is as the command leaves it when nothing disturbs it."""
        self._check_after(self.path)
        assert outputs(self.path) == self._outputs_after
        with Collection.open(self.collection) as collection:
            items = content(collection)
            assert items == self._items_after
            assert collection.verify() == []
            check_search(collection, items)
