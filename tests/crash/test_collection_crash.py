"""Every command of a collection dies at every durable step; nothing is lost, half there or stuck.

After each death the collection opens and ``verify`` finds no fault; every item is what it was
before the command or what the command makes of it, and is found by search with its own vectors;
what was committed is there; and the same command again completes, with the same result as one
that was never disturbed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash_child import DIED, OPERATIONS, VECTORS, prepare, vectors

from muomni_search.collection import Collection
from muomni_search.items import DIM, Query
from muomni_search.store.rows import ROW_BYTES
from muomni_search.transfer import export_collection
from muomni_search.vectors import cosines

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
    (place / "all.parquet").write_bytes(b"an older export")


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


BEFORE: dict[str, Callable[[Path], None]] = {
    "create": lambda place: shutil.rmtree(place / "collection"),
    "import": add_other_export,
    "export": add_old_export,
    "batch": add_queries,
    "repair": damage,
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


class Place:
    """A folder with a collection, as it is before a command."""

    def __init__(self, folder: Path, operation: str) -> None:
        self.path = folder / "place"
        self._before = folder / "before"
        prepare(self.path)
        BEFORE.get(operation, lambda place: None)(self.path)
        shutil.move(self.path, self._before)
        # Moved, not copied: paths and times of files count as changes.
        self.restore()
        self.items: Content = {}
        self.revision = 0
        self.outputs = outputs(self.path)
        if (self.path / "collection").exists():
            with Collection.open(self.path / "collection") as collection:
                self.items, self.revision = content(collection), revision(collection)
            self.restore()

    def restore(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self._before, self.path)


# ---- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "prepare"])
def test_dying_at_any_durable_step_loses_nothing_and_hinders_nothing(
    operation: str, tmp_path: Path, children: Any, count: Any
) -> None:
    place = Place(tmp_path, operation)
    undisturbed = children.run(operation, place.path)
    assert undisturbed.code == 0, undisturbed.error
    with Collection.open(place.path / "collection") as collection:
        items, made = content(collection), outputs(place.path)
        assert collection.verify() == []
        check_search(collection, items)
    assert (items, made) != (place.items, place.outputs) or operation in ("create", "rebuild")

    for instant in range(1, undisturbed.instants + 1):
        place.restore()
        ended = children.run(operation, place.path, die_at=instant)
        assert (ended.code, ended.instants) == (DIED, instant), ended.error
        if operation != "create" or (place.path / "collection/collection.db").exists():
            with Collection.open(place.path / "collection") as collection:
                check_after_death(collection, place, items, ended.commits, operation)
        found = outputs(place.path)
        for name in OUTPUTS:
            assert found.get(name) in (place.outputs.get(name), made.get(name))
        again = children.run(operation, place.path)
        assert again.code == 0, again.error
        assert outputs(place.path) == made
        with Collection.open(place.path / "collection") as collection:
            assert content(collection) == items
            assert collection.verify() == []
            check_search(collection, items)
    assert undisturbed.instants >= 2 * undisturbed.commits
    count("deaths at a durable step", undisturbed.instants)


def check_after_death(
    collection: Collection, place: Place, after: Content, commits: int, operation: str
) -> None:
    found = content(collection)
    for key in place.items.keys() | after.keys() | found.keys():
        assert found.get(key) in (place.items.get(key), after.get(key)), key
    # What a commit said was stored is stored; one that was not heard of may be.
    assert revision(collection) - place.revision in (commits, commits + 1)
    # What was damaged before may still be.
    if operation != "repair" or found == after:
        assert collection.verify() == []
        check_search(collection, found)
