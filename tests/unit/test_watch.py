"""Watching from Python: a thread's own stop, and what a batch that is stopped leaves behind."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from file_helpers import bound, mounted_disk

from muomni_search import (
    Collection,
    Conflict,
    InvalidInput,
    NotFound,
    durable,
    read_corpus,
    watch,
    watch_folders,
)
from muomni_search.pipeline import Report


class StopsAfter:
    """A progress that sets an event after so many records."""

    def __init__(self, records: int, stop: threading.Event) -> None:
        self._left = records
        self._stop = stop

    def start(self, total: int | None, label: str) -> None: ...

    def advance(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left <= 0:
            self._stop.set()

    def finish(self) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(600):
        path = folder / f"{number}.txt"
        path.write_text(f"A text of number {number}.")
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return folder


def test_a_stop_in_the_middle_of_a_batch_keeps_what_is_encoded(
    folder: Path, tmp_path: Path
) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        stop = threading.Event()
        reports = list(
            watch_folders(collection, [folder], stop=stop, progress=StopsAfter(300, stop))
        )
        assert reports == []  # the batch is not done
        held = collection.stats()["items"]
        assert 128 <= held < 600
        assert collection.verify() == []
        (rest,) = watch_folders(collection, [folder], once=True)
        assert (rest.added, rest.unchanged) == (600 - held, held)


def test_a_thread_watches_while_another_searches(folder: Path, tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        stop, came = threading.Event(), threading.Semaphore(0)
        reports: list[Report] = []

        def watch() -> None:
            for report in watch_folders(collection, [folder], stop=stop, debounce=0.2):
                reports.append(report)
                came.release()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            assert came.acquire(timeout=60)
            (folder / "owl.txt").write_text("An owl calls in the night.")
            assert came.acquire(timeout=60)
            assert collection.query("An owl calls in the night.", k=1)[0].key == "owl.txt"
        finally:
            stop.set()
            thread.join(60)
        assert not thread.is_alive()
        assert [report.added for report in reports] == [600, 1]


def test_a_disk_that_goes_before_the_batch_that_read_it_ends_is_missed(
    folder: Path, tmp_path: Path
) -> None:
    stop = threading.Event()
    deadline = threading.Timer(60, stop.set)
    said: list[str] = []

    def told(words: str) -> None:
        said.append(words)
        stop.set()

    with mounted_disk(tmp_path / "disk", 1 << 20) as disk, bound(disk, folder / "disk"):
        (disk / "owl.txt").write_text("An owl calls in the night.")
        os.utime(disk / "owl.txt", (1_000_000_000, 1_000_000_000))
        with Collection.create(tmp_path / "c", model="hashing") as collection:
            deadline.start()
            for report in watch_folders(collection, folder, stop=stop, told=told, debounce=0.2):
                assert report.added == 601
                subprocess.run(["umount", folder / "disk"], check=True)
            deadline.cancel()
            assert ["is mounted no more" in words for words in said] == [True]
            assert {item.key for item in collection.items()} >= {"disk/owl.txt", "0.txt"}


def test_what_is_polled_must_stay_as_it_is_for_longer_than_a_second(
    folder: Path, tmp_path: Path
) -> None:
    """Else a file that is written twice in one second would be taken between, and not again."""
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        reports = watch_folders(collection, folder, poll=True, debounce=0.05)
        assert next(reports).added == 600
        written = time.monotonic()
        (folder / "new.txt").write_text("Written just now.")
        assert next(reports).added == 1
        assert time.monotonic() - written >= 2
        assert isinstance(reports, Generator)
        reports.close()


def test_the_table_of_mounts_is_read_whatever_stands_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of white space Linux escapes what separates, and nothing else."""
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"21 1 0:20 / / rw - tmpfs none rw\n"
        b"42 21 0:39 / /mnt/a\\040b\rc rw shared:1 - tmpfs from\rafar rw\n"
    )
    monkeypatch.setattr(watch._MountTable, "FILE", table)
    with closing(watch._MountTable()) as mounts:
        assert mounts.holds([Path("/srv"), Path("/mnt")])
        assert mounts.holds([Path("/mnt/a b\rc")])
        assert not mounts.holds([Path("/mnt/a b"), Path("/mnt/a b\rc/below")])


def test_a_run_that_polls_waits_for_what_was_written_just_now(folder: Path, tmp_path: Path) -> None:
    (folder / "new.txt").write_text("Written just now.")
    written = time.monotonic()
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        reports = list(watch_folders(collection, folder, once=True, poll=True, debounce=0.01))
        assert sum(report.added for report in reports) == 601
        assert time.monotonic() - written >= 2


def test_what_cannot_be_watched_is_told_at_the_call(folder: Path, tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        with pytest.raises(NotFound, match="nowhere"):
            watch_folders(collection, [tmp_path / "nowhere"])
        with pytest.raises(InvalidInput, match="no folder"):
            watch_folders(collection, [folder / "0.txt"])
        with pytest.raises(InvalidInput, match="more than 0"):
            watch_folders(collection, [folder], debounce=float("nan"))


def test_a_folder_alone_is_one_and_not_its_letters(folder: Path, tmp_path: Path) -> None:
    for given in (folder, str(folder)):
        with Collection.create(tmp_path / type(given).__name__, model="hashing") as collection:
            (report,) = watch_folders(collection, given, once=True)
            assert report.added == 600


def test_a_folder_that_is_given_twice_is_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        twice = [folder, tmp_path / "c/../folder", tmp_path / "link"]
        (report,) = watch_folders(collection, twice, once=True)
        assert (report.added, report.failed) == (600, 0)


def test_what_waits_is_not_looked_at_before_its_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        run = watch_folders(collection, [folder], debounce=3600)
        assert isinstance(run, Generator)
        kept = run.gi_frame.f_locals["self"]
        looked: list[Path] = []
        look = watch._look
        monkeypatch.setattr(watch, "_look", lambda path: (looked.append(path), look(path))[1])
        paths = sorted(folder.iterdir())
        kept._note(iter(paths))
        assert looked == paths
        assert kept._ripe() == kept._ripe() == set()
        assert looked == paths
        # What is read whole goes first, and of what waits each in its time.
        kept._read_whole([folder])
        assert kept._ripe() == {folder}
        clock = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 3601)
        paths[0].write_text("Changed.")
        assert kept._ripe() == set(paths[1:])
        assert list(kept._pending) == paths[:1]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still until a test moves it."""
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_is_put_off_waits_ever_longer_until_it_works(
    folder: Path, tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is held now and then must not cost minutes each time."""
    add, tries = Collection.add, []

    def busy(*_: object, **__: object) -> Report:
        tries.append(now[0])
        raise Conflict("another writer is busy")

    with Collection.create(tmp_path / "c", model="hashing") as collection:
        run = watch_folders(collection, [folder])
        assert isinstance(run, Generator)
        kept = run.gi_frame.f_locals["self"]

        def waits() -> list[float]:
            """Try as often as it may within ten seconds; return how long each try waited."""
            tries.clear()
            kept._read_whole([folder])
            for _ in range(100):
                assert list(kept._batch()) == []
                now[0] += 0.1
            return [round(after - before) for before, after in pairwise(tries)]

        monkeypatch.setattr(Collection, "add", busy)
        assert waits() == [1, 2, 4]
        now[0] += watch.LONGEST_WAIT
        monkeypatch.setattr(Collection, "add", add)
        (report,) = kept._batch()
        assert report.added == 600
        monkeypatch.setattr(Collection, "add", busy)
        assert waits() == [1, 2, 4]


@pytest.mark.parametrize(("lasted", "next_wait"), [(7, 8.0), (9, 1.0)])
def test_a_watch_that_ends_waits_ever_longer_to_begin_again_until_it_lasts(
    lasted: float,
    next_wait: float,
    folder: Path,
    tmp_path: Path,
    now: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changes(*_: object, **__: object) -> Iterator[set[tuple[int, str]]]:
        now[0] += lasted
        yield set()
        raise RuntimeError("the watch ended")

    monkeypatch.setattr("watchfiles.watch", changes)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        run = watch_folders(collection, [folder])
        assert isinstance(run, Generator)
        kept = run.gi_frame.f_locals["self"]
        for _ in range(3):  # so often it ended at once: then the wait is of eight seconds
            kept._watch_wait.again()
        place = durable.place_of(folder)
        assert place is not None
        assert list(kept._follow({folder: place})) == []
        assert kept._watch_wait.due == now[0] + next_wait


def test_after_a_whole_reading_what_comes_with_a_disk_is_read_at_once(
    folder: Path, tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = [False, True, False]

    def changes(*_: object, **__: object) -> Iterator[set[tuple[int, str]]]:
        yield from (set(), set(), set())

    monkeypatch.setattr("watchfiles.watch", changes)
    monkeypatch.setattr(watch._MountTable, "holds", lambda *_: True)
    monkeypatch.setattr(watch._MountTable, "has_changed", lambda _: mounted.pop(0))
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        run = watch_folders(collection, [folder])
        assert isinstance(run, Generator)
        kept = run.gi_frame.f_locals["self"]
        for _ in range(3):  # so many disks came before, one after the other
            kept._mount_wait.again()
        kept._next_scan = now[0]
        place = durable.place_of(folder)
        assert place is not None
        assert [report.added for report in kept._follow({folder: place})] == [600]
        assert mounted == [False]  # the third was not waited for


def test_two_folders_with_one_key_need_prefixes(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.txt").write_text("Another nought.")
    os.utime(other / "0.txt", (1_000_000_000, 1_000_000_000))
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        (report,) = watch_folders(collection, [folder, other], once=True)
        assert (report.added, report.failed) == (600, 1)


def test_once_tells_what_it_did_before_it_refuses_to_prune(folder: Path, tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        list(watch_folders(collection, [folder], once=True))
        for number in range(400):
            (folder / f"{number}.txt").unlink()
        (folder / "new.txt").write_text("New.")
        os.utime(folder / "new.txt", (1_000_000_000, 1_000_000_000))
        reports = watch_folders(collection, [folder], once=True)
        assert next(reports).added == 1
        with pytest.raises(Conflict, match="400 of 601"):
            next(reports)


def test_only_what_is_named_is_read(folder: Path) -> None:
    (folder / "a/b").mkdir(parents=True)
    for place in ("a/x.txt", "a/b/y.txt", "z.txt"):
        (folder / place).write_text("Words.")
    (folder / "a/.muomniignore").write_text("y*\n")

    def keys(*only: str) -> list[str]:
        corpus = read_corpus([folder], only={folder / one for one in only})
        return [entry.key for entry in corpus if hasattr(entry, "key")]

    assert keys("z.txt", "0.txt") == ["0.txt", "z.txt"]
    assert keys("a") == ["a/x.txt"]
    assert keys("a/b/y.txt") == []
    assert keys("gone.txt", "a/gone") == []
    assert keys("a", "a/x.txt") == ["a/x.txt"]
    assert len(keys(".")) == 602
    assert read_corpus([folder], only=[folder / "a"]).roots == (str(folder / "a"),)


# ---- what is gone --------------------------------------------------------------------------------


class Kept:
    """A watch whose events and time come from the test."""

    def __init__(self, collection: Collection, folder: Path, now: list[float], **options: Any):
        self.said: list[str] = []
        run = watch_folders(collection, folder, told=self.said.append, **options)
        assert isinstance(run, Generator)
        self.watch = run.gi_frame.f_locals["self"]
        self._now = now

    def batch(self, *paths: Path) -> int:
        """Let paths change and settle; return how many items the batch removes."""
        self.watch._note(iter(paths))
        self._now[0] += 2
        return sum(report.removed for report in self.watch._batch())

    def batch_before(self, paths: Sequence[Path], later: Sequence[Path]) -> int:
        """Let paths change and settle; others changed too, but have not settled."""
        self.watch._note(iter(paths))
        self._now[0] += 0.9
        self.watch._note(iter(later))
        self._now[0] += 0.2
        return sum(report.removed for report in self.watch._batch())


def keys_of(collection: Collection) -> set[str]:
    return {item.key for item in collection.items()}


def test_what_is_gone_is_looked_for_where_something_changed_alone(
    folder: Path, tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        kept = Kept(collection, folder, now)
        kept.batch(folder)
        looked: list[Path] = []
        lstat = os.lstat

        def counted(path: str | Path) -> os.stat_result:
            if Path(path).parent == folder:
                looked.append(Path(path))
            return lstat(path)

        monkeypatch.setattr(os, "lstat", counted)
        gone = {folder / f"{number}.txt" for number in range(3)}
        for path in gone:
            path.unlink()
            assert kept.batch(path) == 1
        assert set(looked) == gone
        # A whole reading looks at all, as ever.
        (folder / "3.txt").unlink()
        assert kept.batch(folder / "4.txt") == 0
        assert kept.batch(folder) == 1
        assert len(set(looked)) == 600


@pytest.mark.parametrize("prefix", [None, "some/"])
def test_what_lay_below_a_folder_that_is_gone_goes_and_no_neighbour(
    prefix: str | None, folder: Path, tmp_path: Path, now: list[float]
) -> None:
    places = ("a/x.txt", "a/b/y.txt", "a b/x.txt", "a-.txt", "a.txt", "a0.txt", "aa/x.txt")
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(f"The text of {place}.")
        os.utime(folder / place, (1_000_000_000, 1_000_000_000))
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        kept = Kept(collection, folder, now, prefix=prefix)
        kept.batch(folder)
        assert len(keys_of(collection)) == 607
        # The folder and one below it: what is told twice is gone once.
        shutil.rmtree(folder / "a")
        assert kept.batch(folder / "a", folder / "a/b", folder / "a/b/y.txt") == 2
        assert {f"{prefix or ''}{place}" for place in places[2:]} <= keys_of(collection)


def test_what_a_file_replaced_a_folder_of_goes_with_the_next_that_is_gone(
    folder: Path, tmp_path: Path, now: list[float]
) -> None:
    (folder / "a").mkdir()
    (folder / "a/x.txt").write_text("It lies in a folder.")
    os.utime(folder / "a/x.txt", (1_000_000_000, 1_000_000_000))
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        kept = Kept(collection, folder, now)
        kept.batch(folder)
        (folder / "a").rename(tmp_path / "a")
        (folder / "a").write_text("A file that is called as the folder was.")
        assert kept.batch(folder / "a") == 0
        (folder / "0.txt").unlink()
        assert kept.batch(folder / "0.txt") == 2


def test_half_of_a_folder_that_goes_over_several_batches_is_refused_by_the_first(
    folder: Path, tmp_path: Path, now: list[float]
) -> None:
    paths = sorted(folder.iterdir())
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        kept = Kept(collection, folder, now)
        kept.batch(folder)
        texts = {path: path.read_text() for path in paths[:301]}
        for path in texts:
            path.unlink()
        assert kept.batch_before(paths[:10], paths[10:301]) == 0
        assert ["301 of 600 files" in words for words in kept.said] == [True]
        # What was refused counts on, whatever else is gone later.
        paths[301].unlink()
        now[0] += watch.LONGEST_WAIT
        assert kept.batch(paths[301]) == 0
        assert "302 of 600 files" in kept.said[-1]
        for path in paths[:2]:
            path.write_text(texts[path])
        now[0] += watch.LONGEST_WAIT
        assert kept.batch() == 300
        assert len(keys_of(collection)) == 300


def test_nothing_is_removed_from_a_folder_that_is_missing(
    folder: Path, tmp_path: Path, now: list[float]
) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        kept = Kept(collection, folder, now)
        kept.batch(folder)
        (folder / "0.txt").unlink()
        add = kept.watch._add

        def goes_meanwhile(paths: set[Path]) -> Report:
            report: Report = add(paths)
            folder.rename(tmp_path / "away")
            return report

        kept.watch._add = goes_meanwhile
        assert kept.batch(folder / "0.txt") == 0
        assert len(keys_of(collection)) == 600


def test_many_changes_make_a_whole_look(
    folder: Path, tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among many events some get lost, so that what was not told is looked at too."""
    monkeypatch.setattr(watch, "MANY_PATHS", 20)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        kept = Kept(collection, folder, now)
        kept.batch(folder)
        for number in range(30):
            (folder / f"{number}.txt").unlink()
        told = [folder / f"{number}.txt" for number in range(25)]
        assert kept.batch_before(told[:10], told[10:]) == 30


@pytest.mark.parametrize("debounce", [0, -1, math.nan, 1e300, 9e18, 86_401])
def test_a_wait_that_is_none_is_refused(debounce: float, folder: Path, tmp_path: Path) -> None:
    with (
        Collection.create(tmp_path / "c", model="hashing") as collection,
        pytest.raises(InvalidInput, match="debounce at most 86,400"),
    ):
        next(watch_folders(collection, folder, debounce=debounce, once=True))


@pytest.mark.parametrize("by", ["add", "watch"])
def test_a_file_that_a_folder_replaces_is_gone(tmp_path: Path, by: str) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")

    def look(collection: Collection) -> None:
        if by == "add":
            collection.add(read_corpus([folder]), prune_roots=[folder])
        else:
            list(watch_folders(collection, folder, debounce=0.01, once=True))

    with Collection.create(tmp_path / "c", model="hashing") as collection:
        look(collection)
        (folder / "a.txt").unlink()
        (folder / "a.txt").mkdir()
        (folder / "a.txt/z.txt").write_text("three")
        look(collection)
        assert sorted(item.key for item in collection.items()) == ["a.txt/z.txt", "b.txt"]
