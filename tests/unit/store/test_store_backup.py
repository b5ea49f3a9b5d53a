"""Copies of a live collection: of one instant, whole or not there at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from muomni_search import Collection, Modality, Query, Record
from muomni_search.errors import Conflict, CorruptData
from muomni_search.items import DIM
from muomni_search.store import backup
from muomni_search.vectors import normalise

ROWS = normalise(np.random.default_rng(0).standard_normal((5_000, DIM)))


def records(numbers: range, modality: Modality = Modality.IMAGE) -> list[Record]:
    return [
        Record(f"{modality}/{n}", modality, "here", vector=ROWS[n], metadata={"n": n})
        for n in numbers
    ]


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    """More rows than a block has, an index over them, dead ones, and another modality."""
    with Collection.create(tmp_path / "c", model="hashing") as made:
        made.add(records(range(4_500)))
        made.add(records(range(20), Modality.AUDIO))
        made.rebuild("image", kind="ann")
        made.delete([f"image/{n}" for n in range(0, 40, 3)])
        yield made


def answers(collection: Collection) -> list[tuple[str, float]]:
    hits = collection.query(Query.vector(ROWS[7]), modality="image", k=20)
    return [(hit.key, hit.cosine) for hit in hits]


def test_a_copy_is_the_same_collection(collection: Collection, tmp_path: Path) -> None:
    done = collection.backup(tmp_path / "copy")
    assert done["items"] == 4_506
    with Collection.open(tmp_path / "copy") as copy:
        assert copy.verify() == []
        for one, other in zip(copy.items(), collection.items(), strict=True):
            assert (one.key, one.metadata, one.added) == (other.key, other.metadata, other.added)
        assert answers(copy) == answers(collection)
        assert copy.stats()["image"]["index"] == (collection.stats()["image"]["index"])
        copy.add(records(range(4_500, 4_600)))
        assert copy.verify() == []
    assert collection.stats()["items"] == 4_506
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "copy"]


def test_a_copy_is_of_the_instant_at_which_it_began(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of it others add, delete, and replace every file that is being copied."""
    began = {item.key for item in collection.items()}
    append = backup.append_rows
    meddled = []

    def meddle() -> None:
        with Collection.open(collection.directory) as other:
            other.add(records(range(4_900, 4_950)))
            other.delete(["image/1", "audio/3"])
            other.rebuild("image", kind="ann")
            with other.store.write() as writer:
                rows = np.array(writer.vectors(Modality.IMAGE))
                writer.replace_row_file(Modality.IMAGE, iter([rows[::-1].copy()]))

    def slow(*given: object) -> None:
        append(*given)  # type: ignore[arg-type]
        if not meddled:
            meddled.append(True)
            thread = threading.Thread(target=meddle)
            thread.start()
            thread.join()

    monkeypatch.setattr(backup, "append_rows", slow)
    collection.backup(tmp_path / "copy")
    assert meddled
    with Collection.open(tmp_path / "copy") as copy:
        assert copy.verify() == []
        assert {item.key for item in copy.items()} == began
        # The index went away under the copy, so it has none; searches are exact.
        assert copy.stats()["image"]["index"]["kind"] == "exact"
        assert answers(copy)[0] == ("image/7", pytest.approx(1.0))


def test_an_index_that_is_not_whole_is_left_out(collection: Collection, tmp_path: Path) -> None:
    (index,) = (collection.directory / "index").iterdir()
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    collection.backup(tmp_path / "copy")
    with Collection.open(tmp_path / "copy") as copy:
        assert copy.verify() == []
        assert answers(copy) == answers(collection)


def test_a_damaged_collection_is_not_copied(collection: Collection, tmp_path: Path) -> None:
    path = next((collection.directory / "vectors").glob("audio.*"))
    content = bytearray(path.read_bytes())
    content[3_000] ^= 1
    path.write_bytes(content)
    with (
        Collection.open(collection.directory) as opened,
        pytest.raises(CorruptData, match="audio") as caught,
    ):
        opened.backup(tmp_path / "copy")
    assert "verify --repair" in (caught.value.hint or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_what_is_there_is_never_written_over(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    for place, said in (
        ("file", "not empty"),
        ("full", "not empty"),
        ("c/copy", "lies in the collection"),
        ("c", "not empty"),
    ):
        with pytest.raises(Conflict, match=said):
            collection.backup(tmp_path / place)
    assert collection.backup(tmp_path / "no/where")["items"] == 4_506
    (tmp_path / "empty").mkdir()
    assert collection.backup(tmp_path / "empty")["items"] == 4_506


def test_what_a_copy_that_died_has_left_is_cleared(collection: Collection, tmp_path: Path) -> None:
    left = tmp_path / ".copy.partial"
    (left / "vectors").mkdir(parents=True)
    (left / "vectors/image.0.f32").write_bytes(b"half")
    collection.backup(tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "copy"]


def test_an_empty_collection_is_copied(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as made:
        assert made.backup(tmp_path / "copy")["items"] == 0
    with Collection.open(tmp_path / "copy") as copy:
        assert copy.verify() == []
