"""`muomni watch`: a real folder, a real process, and what a person, an editor or a disk does to it.

No sleep decides anything here: what should come is waited for until a deadline, and what should not
come is shown by something later that came without it.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import MUOMNI, Run, answers, on_terminal, plain, write_picture
from file_helpers import bound, mounted_disk

from muomni_search import Collection, read_corpus

DEADLINE = 60.0
DEBOUNCE = 0.3


class Watcher:
    """A `muomni watch` that runs, with what it says."""

    def __init__(self, *args: str | Path) -> None:
        self.process = subprocess.Popen(
            [*MUOMNI, "watch", *map(str, args), "--debounce", str(DEBOUNCE)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_answers),
            threading.Thread(target=self._read_notes),
        ]
        for reader in self._readers:
            reader.start()

    def _read_answers(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_notes(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def report(self) -> dict[str, Any]:
        """Return the next batch's report."""
        line = self._lines.get(timeout=DEADLINE)
        assert line is not None, f"the watch ended: {self.said}"
        found: dict[str, Any] = json.loads(line)
        return found

    def until_said(self, words: str) -> None:
        wait_for(lambda: words in self.said or self.process.poll() is not None)
        assert words in self.said

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        assert "Traceback" not in self.said
        return code


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.02)


@contextmanager
def watching(*args: str | Path) -> Iterator[Watcher]:
    watcher = Watcher(*args)
    try:
        yield watcher
        if watcher.process.poll() is None:
            assert watcher.end() == 0, watcher.said
    finally:
        watcher.process.kill()
        watcher.ended()
        assert watcher.process.stdout is not None
        assert watcher.process.stderr is not None
        watcher.process.stdout.close()
        watcher.process.stderr.close()


def counts(report: dict[str, Any]) -> dict[str, int]:
    """Return what a report says was done."""
    names = ("added", "updated", "moved", "removed", "failed")
    return {name: report[name] for name in names if report[name]}


def keys_of(directory: Path) -> set[str]:
    with Collection.open(directory) as collection:
        return {item.key for item in collection.items()}


def settle(folder: Path) -> None:
    """Make files as old as if nobody had written to them for long."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1_000_000_000, 1_000_000_000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "notes").mkdir(parents=True)
    for number in range(4):
        (folder / f"notes/{number}.txt").write_text(f"The text of number {number}.")
    write_picture(folder / "red.png", 1)
    settle(folder)
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    directory = tmp_path / "kept"
    Collection.create(directory, model="hashing").close()
    return directory


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", 10_000_000) as disk:
        yield disk


def rowids(directory: Path) -> dict[str, int]:
    """Return the number of each item: it stays when an item only moves."""
    with sqlite3.connect(directory / "collection.db") as database:
        return dict(database.execute("SELECT key, id FROM items"))


def test_what_happens_in_a_folder_happens_in_the_collection(folder: Path, kept: Path) -> None:
    with watching(folder, "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 5}
        (folder / "new.txt").write_text("Something new.")
        assert counts(watch.report()) == {"added": 1}
        (folder / "new.txt").write_text("Something newer.")
        assert counts(watch.report()) == {"updated": 1}
        before = rowids(kept)
        (folder / "new.txt").rename(folder / "notes/renamed.txt")
        assert counts(watch.report()) == {"moved": 1}
        assert rowids(kept)["notes/renamed.txt"] == before["new.txt"]
        (folder / "notes/renamed.txt").unlink()
        assert counts(watch.report()) == {"removed": 1}
        (folder / "deep/er").mkdir(parents=True)
        (folder / "deep/er/x.txt").write_text("Deep down.")
        assert counts(watch.report()) == {"added": 1}
        (folder / "deep").rename(folder / "deeper")
        assert counts(watch.report()) == {"moved": 1}
        assert "deeper/er/x.txt" in keys_of(kept)
        shutil.rmtree(folder / "deeper")
        assert counts(watch.report()) == {"removed": 1}
    assert keys_of(kept) == {"red.png", *(f"notes/{number}.txt" for number in range(4))}


def test_a_rename_of_a_whole_folder_keeps_the_vectors(folder: Path, kept: Path) -> None:
    with watching(folder, "-c", kept) as watch:
        watch.report()
        before = rowids(kept)
        (folder / "notes").rename(folder / "letters")
        assert counts(watch.report()) == {"moved": 4}
    after = rowids(kept)
    assert {after[f"letters/{n}.txt"] for n in range(4)} == {
        before[f"notes/{n}.txt"] for n in range(4)
    }


def test_a_file_that_is_still_written_waits(folder: Path, kept: Path) -> None:
    picture = write_picture(folder.parent / "whole.png", 2, side=300).read_bytes()
    with watching(folder, "-c", kept) as watch:
        watch.report()
        with (folder / "slow.png").open("wb", buffering=0) as file:
            # Longer than the debounce in all, with never so long a pause.
            for start in range(0, len(picture), len(picture) // 8 + 1):
                file.write(picture[start : start + len(picture) // 8 + 1])
                time.sleep(DEBOUNCE / 3)
        # Had a half of it been read, that would be a failure.
        assert counts(watch.report()) == {"added": 1}
    assert "slow.png" in keys_of(kept)


def test_a_failed_file_is_tried_again_when_it_changes(folder: Path, kept: Path) -> None:
    picture = write_picture(folder.parent / "whole.png", 2, side=300).read_bytes()
    with watching(folder, "-c", kept) as watch:
        watch.report()
        (folder / "half.png").write_bytes(picture[: len(picture) // 2])
        assert counts(watch.report()) == {"failed": 1}
        (folder / "half.png").write_bytes(picture)
        assert counts(watch.report()) == {"added": 1}
        assert "half.png" in watch.said
    with Collection.open(kept) as collection:
        assert collection.failures() == []


def test_a_failed_file_that_goes_is_forgotten(folder: Path, kept: Path) -> None:
    with watching(folder, "-c", kept) as watch:
        watch.report()
        (folder / "none.png").write_text("no picture")
        assert counts(watch.report()) == {"failed": 1}
        (folder / "none.png").unlink()
        (folder / "next.txt").write_text("Next.")
        assert counts(watch.report()) == {"added": 1}
    with Collection.open(kept) as collection:
        assert collection.failures() == []


def test_what_editors_and_downloads_leave_around_is_no_item(folder: Path, kept: Path) -> None:
    picture = write_picture(folder.parent / "whole.png", 3).read_bytes()
    with watching(folder, "-c", kept) as watch:
        watch.report()
        names = ["4913", "red.png~", ".red.png.swp", "a.png.part", "b.png.crdownload", "#red.png#"]
        for name in names:
            (folder / name).write_bytes(picture)
        # Written beside and renamed, as Vim, rsync and browsers do.
        (folder / "a.png.part").rename(folder / "a.png")
        (folder / ".red.png.Xk3").write_bytes(picture)
        (folder / ".red.png.Xk3").rename(folder / "red.png")
        assert counts(watch.report()) == {"added": 1, "updated": 1}
    assert keys_of(kept) == {"a.png", "red.png", *(f"notes/{number}.txt" for number in range(4))}


def test_the_ignore_file_is_heeded_and_read_again(folder: Path, kept: Path) -> None:
    (folder / ".muomniignore").write_text("secret*\n")
    with watching(folder, "--exclude", "*.bak.txt", "-c", kept) as watch:
        watch.report()
        (folder / "secret.txt").write_text("Secret.")
        (folder / "a.bak.txt").write_text("Old.")
        (folder / "plain.txt").write_text("Plain.")
        assert counts(watch.report()) == {"added": 1}
        (folder / ".muomniignore").unlink()
        assert counts(watch.report()) == {"added": 1}
    assert {"plain.txt", "secret.txt"} <= keys_of(kept)
    assert "a.bak.txt" not in keys_of(kept)


def test_a_folder_that_goes_away_and_comes_back_loses_nothing(folder: Path, kept: Path) -> None:
    other = folder.parent / "unmounted"
    with watching(folder, "-c", kept) as watch:
        watch.report()
        folder.rename(other)
        watch.until_said("is away")
        (other / "meanwhile.txt").write_text("Meanwhile.")
        other.rename(folder)
        assert counts(watch.report()) == {"added": 1}
        (folder / "after.txt").write_text("After.")
        assert counts(watch.report()) == {"added": 1}
    assert len(keys_of(kept)) == 7


def test_an_empty_folder_where_a_disk_was_loses_nothing(folder: Path, kept: Path) -> None:
    other = folder.parent / "unmounted"
    with watching(folder, "-c", kept) as watch:
        watch.report()
        before = rowids(kept)
        # As after an unmount: at once another folder of the same name, and nothing in it.
        folder.rename(other)
        folder.mkdir()
        watch.until_said("5 of 5 files")
        assert rowids(kept) == before
        # What comes in meanwhile is taken all the same.
        (folder / "x.txt").write_text("Here already.")
        assert counts(watch.report()) == {"added": 1}
        (folder / "x.txt").unlink()
        folder.rmdir()
        other.rename(folder)
        # Everything is back, so that the one that is gone may go.
        assert counts(watch.report()) == {"removed": 1}
        assert rowids(kept) == before
        assert watch.said.count("5 of 5 files") == 1


@pytest.mark.parametrize("below", [".", "photos"])
def test_a_disk_that_is_unmounted_and_mounted_again_loses_nothing(
    tmp_path: Path, kept: Path, disk: Path, below: str
) -> None:
    """The folder is where the disk is mounted, or lies on it."""
    place = tmp_path / "mounted"
    place.mkdir()
    on_disk = disk / below
    on_disk.mkdir(exist_ok=True)
    for number in range(4):
        (on_disk / f"{number}.txt").write_text(f"The text of number {number}.")
    settle(disk)

    def mount() -> None:
        subprocess.run(["mount", "--bind", disk, place], check=True)

    mount()
    try:
        with watching(place / below, "-c", kept) as watch:
            assert counts(watch.report()) == {"added": 4}
            before = rowids(kept)
            for away in (1, 2):
                subprocess.run(["umount", place], check=True)
                words = "4 of 4 files" if below == "." else "is away"
                wait_for(lambda: watch.said.count(words) == away)  # noqa: B023
                assert rowids(kept) == before
                (on_disk / "0.txt").write_text(f"Written while it was away, {away}.")
                mount()
                assert counts(watch.report()) == {"updated": 1}
            (place / below / "1.txt").unlink()
            assert counts(watch.report()) == {"removed": 1}
            (place / below / "4.txt").write_text("The text of number 4.")
            assert counts(watch.report()) == {"added": 1}
    finally:
        subprocess.run(["umount", place], check=False, capture_output=True)
    assert keys_of(kept) == {f"{number}.txt" for number in (0, 2, 3, 4)}


def test_a_disk_below_the_folder_that_is_unmounted_loses_nothing(
    folder: Path, kept: Path, disk: Path
) -> None:
    """Its items are fewer than half, so that nothing else speaks for them."""
    (disk / "owl.txt").write_text("An owl calls in the night.")
    settle(disk)
    place = folder / "disk"
    place.mkdir()

    def mount() -> None:
        subprocess.run(["mount", "--bind", disk, place], check=True)

    mount()
    try:
        with watching(folder, "-c", kept) as watch:
            assert counts(watch.report()) == {"added": 6}
            subprocess.run(["umount", place], check=True)
            watch.until_said("is mounted no more")
            (folder / "notes/0.txt").unlink()
            (folder / "new.txt").write_text("Meanwhile.")
            assert counts(watch.report()) == {"added": 1}
            assert "disk/owl.txt" in keys_of(kept)
            (disk / "fox.txt").write_text("A fox in the snow.")
            mount()
            # What was gone of the folder itself may go now, and what is on the disk is seen.
            left = {*(f"notes/{n}.txt" for n in (1, 2, 3)), "red.png", "new.txt", "disk/fox.txt"}
            wait_for(lambda: keys_of(kept) == {*left, "disk/owl.txt"})
            (place / "owl.txt").unlink()
            wait_for(lambda: keys_of(kept) == left)
    finally:
        subprocess.run(["umount", place], check=False, capture_output=True)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A second folder to watch, which comes after ``folder``."""
    other = tmp_path / "other"
    other.mkdir()
    for name in "xyz":
        (other / f"{name}.txt").write_text(f"The text {name}.")
    settle(other)
    return other


def test_a_disk_that_is_away_holds_up_no_other_folder(
    folder: Path, other: Path, kept: Path, disk: Path
) -> None:
    (disk / "owl.txt").write_text("An owl calls in the night.")
    settle(disk)
    with bound(disk, folder / "disk"), watching(folder, other, "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 9}
        subprocess.run(["umount", folder / "disk"], check=True)
        watch.until_said("is mounted no more")
        (other / "x.txt").unlink()
        assert counts(watch.report()) == {"removed": 1}
    assert {"disk/owl.txt", "x.txt"} & keys_of(kept) == {"disk/owl.txt"}


def test_a_disk_is_known_by_files_that_come_later_too(folder: Path, kept: Path, disk: Path) -> None:
    """It was empty when the folder was read."""
    with bound(disk, folder / "disk"), watching(folder, "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 5}
        (disk / "owl.txt").write_text("An owl calls in the night.")
        assert counts(watch.report()) == {"added": 1}
        subprocess.run(["umount", folder / "disk"], check=True)
        watch.until_said("is mounted no more")
        (folder / "new.txt").write_text("Meanwhile.")
        assert counts(watch.report()) == {"added": 1}
    assert "disk/owl.txt" in keys_of(kept)


def test_a_disk_in_the_place_of_another_is_read(folder: Path, kept: Path, disk: Path) -> None:
    """Between two looks: a disk is at that place each time, but of the new one no event comes."""
    for name in ("fox", "owl"):
        (disk / name).mkdir()
        (disk / name / f"{name}.txt").write_text(f"The text of the {name}.")
    settle(disk)
    with bound(disk / "fox", folder / "disk"), watching(folder, "-f", "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 6}
        change = 'umount "$1" && mount --bind "$0" "$1"'
        subprocess.run(["sh", "-c", change, disk / "owl", folder / "disk"], check=True)
        wait_for(lambda: {one for one in keys_of(kept) if "/" in one} >= {"disk/owl.txt"})


def test_a_disk_that_comes_later_is_read(folder: Path, kept: Path, disk: Path) -> None:
    (disk / "owl.txt").write_text("An owl calls in the night.")
    settle(disk)
    place = folder / "a disk\r here"
    place.mkdir()
    with watching(folder, "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 5}
        with bound(disk, place):
            assert counts(watch.report()) == {"added": 1}
            (disk / "fox.txt").write_text("A fox in the snow.")
            assert counts(watch.report()) == {"added": 1}
            subprocess.run(["umount", place], check=True)
            watch.until_said("is mounted no more")
    assert {f"{place.name}/owl.txt", f"{place.name}/fox.txt"} <= keys_of(kept)


def test_what_lay_below_a_disk_that_goes_is_read(folder: Path, kept: Path, disk: Path) -> None:
    place = folder / "below"
    place.mkdir()
    (place / "hidden.txt").write_text("It lies below the disk.")
    settle(folder)
    with bound(disk, place), watching(folder, "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 5}
        subprocess.run(["umount", place], check=True)
        assert counts(watch.report()) == {"added": 1}


def test_a_disk_that_is_mounted_twice_is_known_at_both_places(
    folder: Path, other: Path, kept: Path, disk: Path
) -> None:
    for name in ("fox", "owl"):
        (disk / name).mkdir()
        (disk / name / f"{name}.txt").write_text(f"The text of the {name}.")
    settle(disk)
    with (
        bound(disk / "fox", folder / "disk"),
        bound(disk / "owl", other / "disk"),
        watching(folder, other, "-c", kept) as watch,
    ):
        assert counts(watch.report()) == {"added": 10}
        subprocess.run(["umount", other / "disk"], check=True)
        (other / "x.txt").unlink()
        watch.until_said(f"{other / 'disk'} is mounted no more")
    assert {"disk/owl.txt", "x.txt"} <= keys_of(kept)


def test_force_removes_what_is_gone(folder: Path, kept: Path) -> None:
    with watching(folder, "-f", "-c", kept) as watch:
        watch.report()
        shutil.rmtree(folder / "notes")
        (folder / "red.png").unlink()
        removed = watch.report()["removed"]
        while removed < 5:
            removed += watch.report()["removed"]
    assert keys_of(kept) == set()


@pytest.mark.slow
def test_a_busy_writer_is_waited_for(folder: Path, kept: Path) -> None:
    with watching(folder, "-c", kept) as watch:
        watch.report()
        with Collection.open(kept) as collection, collection.store.write() as writer:
            (folder / "new.txt").write_text("Something new.")
            # Another writer's wait ends after 30 seconds; this one is put off and goes on.
            watch.until_said("put off")
            assert writer.item_ids(["new.txt"]) == {}
        assert counts(watch.report()) == {"added": 1}


def test_a_collection_that_is_dropped_ends_the_watch(folder: Path, kept: Path, muomni: Run) -> None:
    with watching(folder, "-c", kept) as watch:
        watch.report()
        assert muomni("drop", "-f", "-c", kept).exit_code == 0
        assert watch.ended() == 1
        assert "dropped or replaced" in watch.said


def test_a_collection_that_moves_to_another_model_goes_on(
    folder: Path, kept: Path, muomni: Run, aligned_model: Path
) -> None:
    with watching(folder, "-c", kept) as watch:
        watch.report()
        done = answers(muomni("reembed", "--model", aligned_model, "-c", kept))
        assert done[0]["items"] == 5
        (folder / "new.txt").write_text("Something new.")
        assert counts(watch.report()) == {"added": 1}
    with Collection.open(kept) as collection:
        assert collection.verify() == []
        assert collection.query("Something new.", k=1)[0].key == "new.txt"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_with_all_that_was_done(
    folder: Path, kept: Path, number: int, code: int
) -> None:
    with watching(folder, "-c", kept) as watch:
        watch.report()
        assert watch.end(number) == code
    assert len(keys_of(kept)) == 5


def test_a_signal_in_the_middle_leaves_a_whole_collection(folder: Path, kept: Path) -> None:
    for number in range(3000):
        (folder / f"{number}.txt").write_text(f"A text of number {number}.")
    settle(folder)
    with watching(folder, "-c", kept) as watch:
        watch.until_said("watching")  # the first batch begins
        assert watch.end() == 0
    with Collection.open(kept) as collection:
        assert collection.verify() == []
        rest = collection.add(read_corpus([folder]))
        assert rest.failed == 0
        assert rest.added + rest.unchanged == 3005


def test_polling_finds_the_same(folder: Path, kept: Path) -> None:
    with watching(folder, "--poll", "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 5}
        (folder / "new.txt").write_text("Something new.")
        assert counts(watch.report()) == {"added": 1}
        (folder / "new.txt").unlink()
        assert counts(watch.report()) == {"removed": 1}


def test_a_rescan_finds_what_no_event_told(folder: Path, kept: Path) -> None:
    # A link's own folder hears nothing of a change in what it leads to.
    (folder / "link.txt").symlink_to(folder / "notes/0.txt")
    with watching(folder, "--rescan", "1", "-c", kept) as watch:
        assert counts(watch.report()) == {"added": 6}
        (folder / "notes/0.txt").write_text("Other words now.")
        updated = watch.report()["updated"]
        while updated < 2:
            updated += watch.report()["updated"]


def test_a_collection_inside_the_folder_does_not_wake_its_watch(folder: Path) -> None:
    inside = folder / "index"
    Collection.create(inside, model="hashing").close()
    with watching(folder, "-c", inside) as watch:
        assert counts(watch.report()) == {"added": 5}
        (folder / "new.txt").write_text("Something new.")
        assert counts(watch.report()) == {"added": 1}
        (folder / "new.txt").unlink()
        assert counts(watch.report()) == {"removed": 1}


# ---- once ------------------------------------------------------------------------------------


def test_once_is_an_add_that_prunes(folder: Path, kept: Path, muomni: Run) -> None:
    (done,) = answers(muomni("watch", "--once", folder, "-c", kept))
    assert counts(done) == {"added": 5}
    (done,) = answers(muomni("watch", "--once", folder, "-c", kept))
    assert (counts(done), done["unchanged"]) == ({}, 5)
    (folder / "notes/0.txt").unlink()
    (done,) = answers(muomni("watch", "--once", folder, "-c", kept))
    assert counts(done) == {"removed": 1}
    (again,) = answers(muomni("add", "--prune", folder, "-c", kept))
    assert (counts(again), again["unchanged"]) == ({}, 4)


def test_a_terminal_gets_a_line_a_batch(folder: Path, kept: Path) -> None:
    code, shown = on_terminal("watch", "--once", folder, "-c", kept)
    assert code == 0
    assert re.search(r"^\r?5 added \(\d+\.\d s\)\r?$", plain(shown), re.M)


def test_once_takes_what_was_written_just_now(folder: Path, kept: Path, muomni: Run) -> None:
    (folder / "now.txt").write_text("Just now.")
    os.utime(folder / "now.txt")
    done = answers(muomni("watch", "--once", folder, "-c", kept, "--debounce", "0.5"))
    assert sum(report["added"] for report in done) == 6


def test_once_ends_with_the_codes_of_add(folder: Path, kept: Path, muomni: Run) -> None:
    (folder / "none.png").write_text("no picture")
    settle(folder)
    result = muomni("watch", "--once", folder, "-c", kept)
    assert result.exit_code == 0  # a file that cannot be used is reported
    assert counts(json.loads(result.stdout)) == {"added": 5, "failed": 1}
    shutil.rmtree(folder / "notes")
    result = muomni("watch", "--once", folder, "-c", kept)
    assert result.exit_code == 1
    assert "4 of 5 files" in result.stderr
    assert len(keys_of(kept)) == 5
    assert muomni("watch", "--once", "-f", folder, "-c", kept).exit_code == 0
    assert keys_of(kept) == {"red.png"}
    assert muomni("watch", "--once", "nowhere", "-c", kept).exit_code == 2
    assert muomni("watch", "--once", folder / "red.png", "-c", kept).exit_code == 2
    assert muomni("watch", "--once", folder, "--debounce", "0", "-c", kept).exit_code == 2
    result = muomni("watch", "--once", folder, "--exclude", "[z-a]", "-c", kept)
    assert result.exit_code == 1
    assert "a pattern that is none" in result.stderr


# ---- everything at once -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--poll"]])
def test_after_any_commotion_folder_and_collection_agree(
    folder: Path, kept: Path, options: list[str]
) -> None:
    rng = np.random.default_rng(11)
    with watching(folder, "-f", *options, "-c", kept) as watch:
        watch.report()
        for step in range(600):
            commotion(folder, rng, step)
        expected = {
            str(path.relative_to(folder)): path.read_text()
            for path in folder.rglob("*.txt")
            if path.is_file()
        }
        # The texts too: the last change may be of a file that is there already.
        wait_for(lambda: texts_of(kept) == {"red.png": None, **expected})
    with Collection.open(kept) as collection:
        report = collection.add(read_corpus([folder]), prune_roots=[folder])
        assert (report.added, report.updated, report.removed, report.failed) == (0, 0, 0, 0)
        assert collection.failures() == []
        assert collection.verify() == []


def texts_of(directory: Path) -> dict[str, str | None]:
    with Collection.open(directory) as collection:
        return {item.key: item.text for item in collection.items()}


def commotion(folder: Path, rng: np.random.Generator, step: int) -> None:
    """Do one thing of those that people and programs do in folders."""
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    texts = list(folder.rglob("*.txt"))
    place = places[rng.integers(len(places))]
    chosen = texts[rng.integers(len(texts))] if texts else None
    match rng.integers(7):
        case 0 | 1:
            (place / f"{step}.txt").write_text(f"A text of step {step}.")
        case 2 if chosen:
            chosen.write_text(f"Something else at step {step}.")
        case 3 if chosen:
            chosen.rename(place / f"moved {step}.txt")
        case 4 if chosen:
            chosen.unlink()
        case 5:
            # Gone again before anybody can look.
            (place / f"brief {step}/deep").mkdir(parents=True)
            (place / f"brief {step}/deep/x.txt").write_text("Brief.")
            shutil.rmtree(place / f"brief {step}")
        case 6:
            (place / f"new {step}").mkdir()
            (place / f"new {step}/.x.txt.tmp").write_text(f"Step {step}.")
            (place / f"new {step}/.x.txt.tmp").rename(place / f"new {step}/x.txt")
            if place != folder and len(places) < 60:
                place.rename(folder / f"renamed {step}")
