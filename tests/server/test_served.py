"""The open collections of a server: one that is slow holds up its own alone, none is cut short."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest
from file_helpers import write_picture
from PIL import Image

from muomni_search import Collection, NotFound, Query, Record, UnreadableFile
from muomni_search.encoders.protocol import Model
from muomni_search.ingest.read import Limits
from muomni_search.items import Modality
from muomni_search.server.encoding import Models
from muomni_search.server.query_files import QueryFiles
from muomni_search.server.served import Collections
from muomni_search.server.settings import Settings
from muomni_search.store.files import remove_store


def make(directory: Path, key: str) -> None:
    with Collection.create(directory, model="hashing") as collection:
        collection.add([Record(key, Modality.TEXT, "here", text="words")])


class Slow(Models):
    """Loads a model when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()
        self.has_begun = threading.Event()
        self.loads = 0

    def load(self, name: str | Path) -> Model:
        if not self.has_begun.is_set():
            self.has_begun.set()
            assert self.may_go.wait(60)
        self.loads += 1
        return super().load(name)


def test_a_collection_that_opens_slowly_holds_up_those_who_want_it_alone(tmp_path: Path) -> None:
    for name in ("slow", "quick"):
        make(tmp_path / name, name)
    models = Slow()
    collections = Collections(Settings(root=tmp_path), models)
    opened: list[int] = []

    def look() -> None:
        with collections.open("slow") as slow:
            opened.append(id(slow))

    threads = [threading.Thread(target=look) for _ in range(3)]
    threads[0].start()
    assert models.has_begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    with collections.open("quick") as quick:
        assert [item.key for item in quick.items()] == ["quick"]
    assert not opened
    models.may_go.set()
    for thread in threads:
        thread.join()
    assert len(opened) == 3
    assert len(set(opened)) == 1
    assert models.loads == 2
    collections.close()


def test_limits_of_a_server_hold_for_files_of_queries(tmp_path: Path) -> None:
    make(tmp_path / "c", "owl")
    Image.new("RGB", (24, 24), "red").save(tmp_path / "red.png")
    collections = Collections(Settings(root=tmp_path, limits=Limits(max_pixels=575)), Models())
    with (
        collections.open("c") as collection,
        pytest.raises(UnreadableFile, match="the limit of 575"),
    ):
        collection.query(Query.image(tmp_path / "red.png"))
    collections.close()


def test_a_collection_that_was_replaced_or_dropped_is_closed_by_its_last_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Collection] = []
    close = Collection.close
    monkeypatch.setattr(Collection, "close", lambda self: (closed.append(self), close(self))[1])
    make(tmp_path / "c", "old")
    closed.clear()
    collections = Collections(Settings(root=tmp_path), Models())
    with collections.open("c") as old, collections.open("c") as same, old.view() as view:
        assert same is old
        remove_store(tmp_path / "c")
        with pytest.raises(NotFound), collections.open("c"):
            pass
        make(tmp_path / "c", "new")
        del closed[:]
        with collections.open("c") as new:
            assert [item.key for item in new.items()] == ["new"]
            assert [item.key for item in view.get(["old"])] == ["old"]
        assert closed == []
    assert closed == [old]
    collections.close()
    assert closed == [old, new]


def test_an_upload_is_written_while_others_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = QueryFiles(tmp_path, 1_000_000)
    data = write_picture(tmp_path / "a.png", 1).read_bytes()
    (tmp_path / "a.png").unlink()
    first = files.keep(data, "a.png", Limits())["upload"]
    write = Path.write_bytes

    def write_slowly(path: Path, data: bytes) -> int:
        assert files.find(first)[0].read_bytes()
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_slowly)
    finder = threading.Thread(target=files.keep, args=(data, "a.png", Limits()), daemon=True)
    finder.start()
    finder.join(60)
    assert not finder.is_alive()
    assert [one.name for one in tmp_path.iterdir()] == [first]


def test_a_collection_that_is_gone_is_let_go_of_without_being_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "c", "old")
    collections = Collections(Settings(root=tmp_path), Models())
    with collections.open("c") as old:
        assert [hit.key for hit in old.query("words")] == ["old"]
    assert [one for one in open_files() if one.startswith(str(tmp_path))]
    remove_store(tmp_path / "c")
    assert collections.names() == []
    assert [one for one in open_files() if one.startswith(str(tmp_path))] == []


def open_files() -> list[str]:
    found = []
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(one.readlink()))
    return found


def test_no_more_collections_stay_open_than_files_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muomni_search.server.served.MOST_OPEN", 2)
    for name in "abcde":
        make(tmp_path / name, name)
    collections = Collections(Settings(root=tmp_path), Models())
    with collections.open("a") as first:
        for name in "bcdeb":
            with collections.open(name) as one:
                assert [item.key for item in one.items()] == [name]
        # The one that is used stays, and of the others the last.
        assert [item.key for item in first.items()] == ["a"]
        assert sorted(collections._held) == ["a", "b"]
        with collections.open("a") as again:
            assert again is first
    collections.close()
