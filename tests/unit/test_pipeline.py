"""Additions from the outside: what is new, moved, changed, gone or of no use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from muomni_search import pipeline
from muomni_search.collection import Collection
from muomni_search.encoders.hashing import HashingEncoder
from muomni_search.errors import Conflict, InvalidInput, UnreadableFile
from muomni_search.ingest.manifest import read_corpus
from muomni_search.ingest.read import Limits
from muomni_search.items import DIM, Modality, Query, Record
from muomni_search.pipeline import Report

ENCODED: list[str] = []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    """A collection of the real model without weights, whose encoder counts what it is given."""
    encode = HashingEncoder.encode

    def counted(self: HashingEncoder, batch: Sequence[Any]) -> Any:
        ENCODED.extend(str(self.modality) for _ in batch)
        return encode(self, batch)

    monkeypatch.setattr(HashingEncoder, "encode", counted)
    ENCODED.clear()
    with Collection.create(tmp_path / "collection", model="hashing") as collection:
        yield collection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "below/e.txt"):
        write(made / name, f"The text of {name}.")
    return made


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows)
    )
    return path


def add(place: Collection, *paths: Path, prefix: str | None = None, **options: Any) -> Report:
    ENCODED.clear()
    return place.add(read_corpus(paths, prefix=prefix), **options)


def told(report: Report) -> dict[str, int]:
    """The counts of a report that are not zero."""
    counts = report.as_dict()
    return {name: counts[name] for name in counts if name != "seconds" and counts[name]}


def vector(place: Collection, key: str) -> list[float]:
    (item,) = place.get([key], vectors=True)
    assert item.vector is not None
    return item.vector.tolist()


def words(key: str, text: str = "words", **facts: Any) -> Record:
    return Record(key=key, modality=Modality.TEXT, origin=f"made:{key}", text=text, **facts)


# ---- moved -------------------------------------------------------------------------------


def test_a_moved_file_keeps_its_vector_under_its_new_name(place: Collection, folder: Path) -> None:
    add(place, folder)
    before = vector(place, "a.txt")
    (folder / "a.txt").rename(folder / "below/z.txt")
    assert told(add(place, folder)) == {"moved": 1, "unchanged": 4}
    assert ENCODED == []
    assert vector(place, "below/z.txt") == before
    (item,) = place.get("below/z.txt")
    assert item.source == str(folder / "below/z.txt")
    assert "a.txt" not in {one.key for one in place.items()}
    assert place.verify() == []


def test_a_copy_is_no_move_and_of_two_copies_one_is(place: Collection, folder: Path) -> None:
    add(place, folder)
    shutil.copy(folder / "a.txt", folder / "copy.txt")
    assert told(add(place, folder)) == {"added": 1, "unchanged": 5}
    for name in ("one.txt", "two.txt"):
        shutil.copy(folder / "b.txt", folder / name)
    (folder / "b.txt").unlink()
    assert told(add(place, folder)) == {"added": 1, "moved": 1, "unchanged": 5}


def test_files_that_are_all_alike_are_not_each_held_against_each(
    place: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_PIECES", 8)
    looked_at: list[str] = []
    is_gone = pipeline.is_gone
    monkeypatch.setattr(pipeline, "is_gone", lambda one: looked_at.append(one) or is_gone(one))
    for number in range(60):
        write(tmp_path / f"first/a{number:02}.txt", "a placeholder")
        write(tmp_path / f"second/b{number:02}.txt", "a placeholder")
    assert told(add(place, tmp_path / "first")) == {"added": 60}
    looked_at.clear()
    assert told(add(place, tmp_path / "second")) == {"added": 60}
    assert len(looked_at) == len(set(looked_at)) == 60
    # Those that moved are found among them all the same, each for one.
    for number in (3, 31, 59):
        (tmp_path / f"first/a{number:02}.txt").rename(tmp_path / f"second/c{number:02}.txt")
    write(tmp_path / "second/d.txt", "a placeholder")
    assert told(add(place, tmp_path / "second")) == {"moved": 3, "added": 1, "unchanged": 60}
    keys = [item.key for item in place.items()]
    assert [key for key in keys if key[0] in "cd"] == ["c03.txt", "c31.txt", "c59.txt", "d.txt"]
    assert len(keys) == 121
    assert "a31.txt" not in keys
    assert place.verify() == []


def test_a_key_of_many_that_are_alike_may_be_taken_in_the_same_run(
    place: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_PIECES", 4)
    monkeypatch.setattr(pipeline, "COMMIT_ITEMS", 2)
    monkeypatch.setattr(pipeline, "CHUNK_RECORDS", 2)
    first, second = tmp_path / "first", tmp_path / "second"
    for number in range(10):
        write(first / f"k{number}.txt", "a placeholder")
    add(place, first)
    for number in range(10):
        write(second / f"m{number}.txt", "a placeholder")
        (first / f"k{number}.txt").unlink()
    moved = list(read_corpus([second]))
    taken = Record("k5.txt", Modality.TEXT, "here", text="other words")
    report = place.add([*moved[:3], taken, *moved[3:]])
    assert (report.moved + report.added, report.updated) == (10, 1)
    assert len(list(place.items())) == 11
    assert place.get(["k5.txt"])[0].text == "other words"
    assert place.verify() == []


def test_a_key_that_a_moved_file_left_may_be_taken_in_the_same_run(
    place: Collection, tmp_path: Path
) -> None:
    source = write(tmp_path / "one/a.txt", "the same words")
    add(place, source)
    (tmp_path / "two").mkdir()
    source.rename(tmp_path / "two/b.txt")
    rows = table(tmp_path / "t.jsonl", {"key": "a.txt", "text": "the same words"})
    add(place, tmp_path / "two/b.txt", rows)
    assert [item.key for item in place.items()] == ["a.txt", "b.txt"]
    assert told(add(place, tmp_path / "two/b.txt", rows)) == {"unchanged": 2}


def test_a_key_that_a_moved_file_left_earlier_in_the_run_is_a_new_item(
    place: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_PIECES", 1)  # so that the move is known by then
    source = write(tmp_path / "one/a.txt", "the same words")
    add(place, source)
    (tmp_path / "two").mkdir()
    source.rename(tmp_path / "two/b.txt")
    rows = [{"key": f"k{n}", "text": "others"} for n in range(2 * pipeline.READ_AHEAD)]
    last = table(tmp_path / "t.jsonl", *rows, {"key": "a.txt", "text": "the same words"})
    report = add(place, tmp_path / "two/b.txt", last)
    assert told(report) == {"moved": 1, "added": len(rows) + 1}
    assert len(list(place.items())) == len(rows) + 2


# ---- unchanged and changed ---------------------------------------------------------------


def test_size_and_time_save_the_reading_and_the_hash_decides(
    place: Collection, folder: Path
) -> None:
    late = 3 * 10**18
    for path in folder.glob("?.txt"):
        os.utime(path, ns=(late, late))
    add(place, folder)
    # Another text of the same size at the same time, later than now: the shortcut says that nothing
    # changed.
    write(folder / "a.txt", (folder / "a.txt").read_text().upper())
    os.utime(folder / "a.txt", ns=(late, late))
    assert told(add(place, folder)) == {"unchanged": 5}
    os.utime(folder / "a.txt")
    os.utime(folder / "b.txt")
    assert told(add(place, folder)) == {"updated": 1, "unchanged": 4}
    assert ENCODED == ["text"]
    (item,) = place.get("a.txt")
    assert item.text == "THE TEXT OF A.TXT."


def test_files_that_swap_their_names_are_read_though_size_and_time_are_the_same(
    place: Collection, folder: Path
) -> None:
    for path in folder.glob("?.txt"):
        os.utime(path, (1e9, 1e9))
    add(place, folder)
    (folder / "a.txt").rename(folder / "other")
    (folder / "b.txt").rename(folder / "a.txt")
    (folder / "other").rename(folder / "b.txt")
    assert told(add(place, folder)) == {"updated": 2, "unchanged": 3}
    assert [item.text for item in place.get(["a.txt", "b.txt"])] == [
        "The text of b.txt.",
        "The text of a.txt.",
    ]
    # What was only touched is not encoded again.
    (folder / "c.txt").chmod(0o600)
    assert told(add(place, folder)) == {"unchanged": 5}
    assert ENCODED == []


def test_a_row_that_names_another_file_of_the_same_size_and_time_is_read(
    place: Collection, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        os.utime(write(tmp_path / f"{name}.txt", f"text {name}"), ns=(10**9, 10**9))
    rows = tmp_path / "t.jsonl"
    add(place, table(rows, {"key": "k", "path": "one.txt"}))
    before = vector(place, "k")
    assert told(add(place, table(rows, {"key": "k", "path": "two.txt"}))) == {"updated": 1}
    assert vector(place, "k") != before


@pytest.mark.parametrize(
    ("old", "new"),
    [(1, 2), (1, True), (0, False), (1, 1.0), ([1], [True]), ({"a": 0}, {"a": False}), ("x", None)],
)
def test_changed_metadata_alone_is_written_down_and_encodes_nothing(
    place: Collection, tmp_path: Path, old: Any, new: Any
) -> None:
    rows = tmp_path / "t.jsonl"
    add(place, table(rows, {"key": "k", "text": "words", "v": old}))
    assert told(add(place, table(rows, {"key": "k", "text": "words", "v": old}))) == {
        "unchanged": 1
    }
    assert told(add(place, table(rows, {"key": "k", "text": "words", "v": new}))) == {"updated": 1}
    assert ENCODED == []
    (item,) = place.get("k")
    expected = {} if new is None else {"v": new}
    assert json.dumps(item.metadata) == json.dumps(expected)


def test_what_another_process_replaced_meanwhile_stays_its_own(
    place: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.add([words("a")])
    before_commit(monkeypatch, lambda: place.add([words("a", "other words")]))
    # As if it had come first: the other one has replaced all of it.
    place.add([words("a", metadata={"n": 1})])
    assert [(item.text, item.metadata) for item in place.items()] == [("other words", {})]
    assert told(place.add([words("a", metadata={"n": 1})])) == {"updated": 1}
    assert [(item.text, item.metadata) for item in place.items()] == [("words", {"n": 1})]


def test_a_file_is_not_moved_that_another_process_replaced_meanwhile(
    place: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(place, folder)
    (folder / "a.txt").rename(folder / "z.txt")
    before_commit(monkeypatch, lambda: place.add([words("a.txt", "other words")]))
    with pytest.raises(Conflict, match=r"a\.txt.*meanwhile"):
        add(place, folder)
    assert told(add(place, folder)) == {"added": 1, "unchanged": 4}
    assert place.query("The text of a.txt.", k=1)[0].key == "z.txt"


def before_commit(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Have something done just before the next commit, once."""
    commit = pipeline.Pipeline._commit

    def late(self: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(pipeline.Pipeline, "_commit", commit)
        work()
        return commit(self, *arguments)

    monkeypatch.setattr(pipeline.Pipeline, "_commit", late)


def test_another_modality_is_another_content(place: Collection, tmp_path: Path) -> None:
    rows, ready = tmp_path / "t.jsonl", np.eye(DIM)[0].tolist()
    add(place, table(rows, {"key": "k", "modality": "image", "vector": ready}))
    again = add(place, table(rows, {"key": "k", "modality": "audio", "vector": ready}))
    assert told(again) == {"updated": 1}
    assert place.stats()["audio"]["items"] == 1
    assert place.stats()["image"]["items"] == 0


def test_the_key_of_another_root_is_an_error_that_says_so(
    place: Collection, folder: Path, tmp_path: Path
) -> None:
    add(place, folder)
    other = tmp_path / "other"
    write(other / "a.txt", "Another text.")
    report = add(place, other)
    assert told(report) == {"failed": 1}
    assert str(folder / "a.txt") in report.problems[0].error
    assert "--prefix" in report.problems[0].hint
    assert told(add(place, other, prefix="other")) == {"added": 1}


def test_a_folder_may_be_called_like_the_place_of_a_row(place: Collection, tmp_path: Path) -> None:
    folder, other = tmp_path / "photos:", tmp_path / "other"
    for one in (folder, other):
        write(one / "a.txt", f"A text of {one.name}.")
    assert told(add(place, folder)) == {"added": 1}
    assert told(add(place, other)) == {"failed": 1}


def test_rows_that_are_numbered_alike_in_two_tables_take_no_others_place(
    place: Collection, tmp_path: Path
) -> None:
    tables = []
    for year in ("2025", "2026"):
        tables.append(tmp_path / year / "rows.jsonl")
        write(tables[-1], json.dumps({"text": f"words of {year}"}) + "\n")
    assert told(add(place, tables[0])) == {"added": 1}
    assert told(add(place, tables[0])) == {"unchanged": 1}
    report = add(place, tables[1])
    assert told(report) == {"failed": 1}
    assert str(tables[0]) in report.problems[0].error
    assert "--prefix" in report.problems[0].hint
    assert place.get("rows.jsonl:1")[0].text == "words of 2025"
    assert told(add(place, tables[1], prefix="2026")) == {"added": 1}
    # Nor is it another by another way to it.
    assert told(add(place, tables[1].parent / ".." / "2025" / "rows.jsonl")) == {"unchanged": 1}
    (tmp_path / "linked").symlink_to(tmp_path / "2025")
    assert told(add(place, tmp_path / "linked" / "rows.jsonl")) == {"unchanged": 1}
    # What a link leads to may change.
    (tmp_path / "latest").symlink_to(tmp_path / "2025")
    linked = tmp_path / "latest" / "rows.jsonl"
    assert told(add(place, linked, prefix="latest")) == {"added": 1}
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(tmp_path / "2026")
    assert told(add(place, linked, prefix="latest")) == {"updated": 1}
    # One that has moved is the same.
    moved = Path(shutil.move(tables[0], tmp_path))
    assert told(add(place, moved)) == {"unchanged": 1}
    assert told(add(place, tables[1])) == {"failed": 1}


def test_a_table_in_a_folder_whose_name_is_no_text_is_read(
    place: Collection, tmp_path: Path
) -> None:
    table = tmp_path / os.fsdecode(b"a\xff") / "rows.jsonl"
    write(table, json.dumps({"text": "words"}) + "\n")
    assert told(add(place, table)) == {"added": 1}
    assert told(add(place, table)) == {"unchanged": 1}


# ---- gone --------------------------------------------------------------------------------


def prune(place: Collection, folder: Path, **options: Any) -> Report:
    return add(place, folder, prune_roots=[folder], **options)


def test_vanished_files_go_when_asked_and_those_of_other_folders_stay(
    place: Collection, folder: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other/x.txt", "Elsewhere.").parent
    add(place, folder, other)
    (folder / "a.txt").unlink()
    (other / "x.txt").unlink()
    assert told(add(place, folder)) == {"unchanged": 4}
    assert told(prune(place, folder, dry_run=True)) == {"unchanged": 4, "removed": 1}
    assert len(list(place.items())) == 6
    assert told(prune(place, folder)) == {"unchanged": 4, "removed": 1}
    assert {item.key for item in place.items()} == {
        "b.txt", "c.txt", "d.txt", "below/e.txt", "x.txt",
    }  # fmt: skip


def test_more_than_half_or_a_missing_folder_is_not_removed_unless_forced(
    place: Collection, folder: Path
) -> None:
    add(place, folder)
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).unlink()
    with pytest.raises(Conflict, match="3 of 5"):
        prune(place, folder)
    shutil.rmtree(folder)
    with pytest.raises(Conflict, match="missing"):
        place.add([], prune_roots=[folder])
    assert len(list(place.items())) == 5
    assert place.add([], prune_roots=[folder], force=True).removed == 5


def test_a_dry_run_says_what_the_run_then_does(place: Collection, folder: Path) -> None:
    add(place, folder)
    (folder / "a.txt").rename(folder / "moved.txt")
    (folder / "b.txt").rename(folder / "moved too.txt")
    (folder / "c.txt").unlink()
    write(folder / "d.txt", "Another text.")
    write(folder / "new.txt", "A new text.")
    Image.new("RGB", (9, 9)).save(folder / "torn.png")
    data = (folder / "torn.png").read_bytes()
    (folder / "torn.png").write_bytes(data[: len(data) // 2])
    before = place.directory.joinpath("collection.db").read_bytes()
    would = prune(place, folder, dry_run=True)
    assert ENCODED == []
    assert place.directory.joinpath("collection.db").read_bytes() == before
    assert told(would) == told(prune(place, folder))
    assert told(would) == {
        "added": 1, "updated": 1, "unchanged": 1, "moved": 2, "removed": 1, "failed": 1,
    }  # fmt: skip


# ---- failures ----------------------------------------------------------------------------


def failing(place: Collection) -> dict[str, int]:
    return {Path(one.source).name: one.attempts for one in place.failures()}


def test_failures_count_their_attempts_and_go_when_mended_gone_or_excluded(
    place: Collection, folder: Path
) -> None:
    for name in ("one", "two", "three", "four"):
        (folder / f"{name}.png").write_bytes(b"no picture")
    (folder / "empty").mkdir()
    (folder / "empty/five.png").write_bytes(b"no picture")
    for attempt in (1, 2):
        report = add(place, folder)
        assert report.failed == 5
        assert all(problem.hint for problem in report.problems)
        assert set(failing(place).values()) == {attempt}
    Image.new("RGB", (9, 9)).save(folder / "one.png")
    (folder / "two.png").unlink()
    write(folder / ".muomniignore", "three.png")
    (folder / "empty/five.png").unlink()
    add(place, folder)
    assert failing(place) == {"four.png": 3}
    shutil.rmtree(folder)
    folder.mkdir()
    add(place, folder)
    assert failing(place) == {}


def test_rows_that_were_mended_or_removed_leave_the_list_when_the_table_was_read(
    place: Collection, tmp_path: Path
) -> None:
    rows = tmp_path / "t.jsonl"
    add(place, table(rows, "{", "{", {"key": "k", "text": "words"}))
    assert set(failing(place)) == {"t.jsonl:1", "t.jsonl:2"}
    # A folder does not read the tables in it.
    add(place, tmp_path)
    assert set(failing(place)) >= {"t.jsonl:1", "t.jsonl:2"}
    add(place, table(rows, {"key": "a", "text": "mended"}))
    assert "t.jsonl:1" not in failing(place)
    assert "t.jsonl:2" not in failing(place)


def test_a_table_that_was_not_read_to_its_end_forgets_nothing(
    place: Collection, tmp_path: Path
) -> None:
    rows = tmp_path / "t.csv"
    rows.write_text("key,text\na,\nb,words\n")
    add(place, rows)
    assert set(failing(place)) == {"t.csv:1"}
    rows.write_bytes(b"\xff\xff\n")
    add(place, rows)
    assert set(failing(place)) == {"t.csv:1", "t.csv"}
    rows.write_text("key,text\na,mended\nb,words\n")
    add(place, rows)
    assert failing(place) == {}


def test_failures_in_a_folder_that_was_closed_stay_on_the_list(
    place: Collection, folder: Path
) -> None:
    (folder / "below/bad.png").write_bytes(b"no picture")
    add(place, folder)
    write(folder / "below/.muomniignore", "[z-a]")
    add(place, folder)
    assert failing(place) == {"bad.png": 1, ".muomniignore": 1}
    (folder / "below/.muomniignore").unlink()
    add(place, folder)
    assert failing(place) == {"bad.png": 2}


def test_strict_keeps_what_came_before_and_stops(place: Collection, folder: Path) -> None:
    (folder / "bb.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableFile, match=r"bb\.png"):
        add(place, folder, strict=True)
    assert [item.key for item in place.items()] == ["a.txt", "b.txt"]
    assert set(failing(place)) == {"bb.png"}


# ---- records of a program ----------------------------------------------------------------


def test_a_record_that_cannot_be_stored_is_a_problem_and_the_others_are_in(
    place: Collection,
) -> None:
    bad = [
        words(""),
        words("nul\0key"),
        words("half \ud800"),
        words("nan", metadata={"n": float("nan")}),
        words("object", metadata={"o": object()}),
        words("nul", metadata={"s": "a\0b"}),
        words("surrogate", text="half \ud800"),
        words("source", source="a\0b"),
        Record("short", Modality.IMAGE, "made:short", vector=np.ones(7, np.float32)),
        Record("zero", Modality.IMAGE, "made:zero", vector=np.zeros(DIM, np.float32)),
        words("first", text="of this name"),
        words(5),  # type: ignore[arg-type]
        words("number", text=5),  # type: ignore[arg-type]
        Record("smell", "smell", "made:smell", text="x"),  # type: ignore[arg-type]
        Record("path", Modality.TEXT, "made:path", path="rel.txt"),  # type: ignore[arg-type]
    ]
    report = place.add([words("first"), *bad, words("last")])
    assert told(report) == {"added": 2, "failed": len(bad)}
    assert [item.key for item in place.items()] == ["first", "last"]
    assert all(problem.error and problem.hint for problem in report.problems)


def test_vectors_of_a_program_are_normalised(place: Collection) -> None:
    for key, given in (("f", np.full(DIM, 3.0)), ("i", np.arange(DIM) - 3), ("l", [1] * DIM)):
        ready: Any = given
        place.add([Record(key, Modality.IMAGE, "made", vector=ready)])
        expected = np.asarray(given) / np.linalg.norm(given)
        assert np.allclose(vector(place, key), expected, atol=1e-6)
    assert place.verify() == []


@pytest.mark.parametrize(
    ("corpus", "told"),
    [
        ([None], "None is no record"),
        ([42], "42 is no record"),
        ("abc", "a str is no corpus: give a list"),
        ({"key": "k"}, "a dict is no corpus"),
        (None, "a NoneType is no corpus"),
    ],
)
def test_what_is_no_record_is_refused(place: Collection, corpus: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        place.add(corpus)


def test_a_modality_may_be_given_by_its_name(place: Collection) -> None:
    ready = np.eye(DIM, dtype=np.float32)[0]
    named: Any = ["image", "smell", None]
    records = [Record(f"{name}", name, "made", vector=ready) for name in named]
    report = place.add(records)
    assert place.get(["image"])[0].modality is Modality.IMAGE
    assert [(one.key, one.error, one.hint) for one in report.problems] == [
        ("smell", "no modality 'smell'", "say text, image or audio"),
        ("None", "the modality of a record is None", "see Record"),
    ]


def test_the_text_beside_a_vector_has_the_limit_of_texts(place: Collection) -> None:
    ready = np.eye(DIM, dtype=np.float32)[0]
    long = Record("k", Modality.IMAGE, "made", vector=ready, text="x" * 1_000)
    assert told(place.add([long], limits=Limits(max_bytes=999))) == {"failed": 1}
    assert told(place.add([long], limits=Limits(max_bytes=1_000))) == {"added": 1}


# ---- long runs ---------------------------------------------------------------------------


class Stop:
    """A progress during which somebody presses Ctrl-C after some items."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, total: int | None, label: str) -> None:
        pass

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if not self.left:
            signal.raise_signal(signal.SIGINT)

    def finish(self) -> None:
        pass


def test_ctrl_c_keeps_what_was_encoded_and_the_next_run_goes_on(
    place: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_PIECES", 8)
    rows = table(
        tmp_path / "t.jsonl", *({"key": f"k{n:03}", "text": f"word {n}"} for n in range(200))
    )
    with pytest.raises(KeyboardInterrupt):
        add(place, rows, progress=Stop(after=100))
    kept = [item.key for item in place.items()]
    assert 90 <= len(kept) <= 100
    assert kept == [f"k{n:03}" for n in range(len(kept))]
    assert place.verify() == []
    assert told(add(place, rows)) == {"unchanged": len(kept), "added": 200 - len(kept)}


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt, SystemExit])
def test_what_came_before_the_records_end_early_is_kept(
    place: Collection, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(pipeline, "CHUNK_RECORDS", 50)

    def records() -> Iterator[Record]:
        for number in range(3_000):
            vector = np.eye(1, DIM, number % DIM, np.float32)[0]
            yield Record(f"v{number:04}", Modality.TEXT, "made", vector=vector)
        raise error("the database went away")

    with pytest.raises(error, match="went away"):
        place.add(records())
    # But for those that were being checked, or looked up together.
    kept = [item.key for item in place.items()]
    assert kept == [f"v{number:04}" for number in range(len(kept))]
    assert len(kept) >= 1_500
    assert place.verify() == []


def test_ctrl_c_in_a_commit_is_no_reason_to_lose_it(
    place: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(tmp_path / "t.jsonl", *({"key": f"k{n}", "text": f"word {n}"} for n in range(9)))
    write_staged, calls = pipeline._write, []

    def stopped(writer: Any, staged: Any) -> None:
        write_staged(writer, staged)
        calls.append(len(staged))
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        add(place, rows)
    assert calls == [9, 9]
    assert len(list(place.items())) == 9
    assert place.verify() == []


def test_ready_vectors_among_texts_and_failures(place: Collection) -> None:
    def ready(number: int, **facts: Any) -> Record:
        vector = np.eye(1, 256, number, np.float32)[0] * facts.pop("length", 1)
        return Record(f"v{number}", Modality.IMAGE, f"made:{number}", vector=vector, **facts)

    rows = [
        ready(0, metadata={"n": 0}),
        words("w"),
        ready(1, length=3.0),
        ready(2, length=0.0),
        ready(3, metadata={"n": float("nan")}),
        ready(4, text="x", source="https://example.org/4"),
    ]
    assert told(place.add(rows)) == {"added": 4, "failed": 2}
    assert [one.key for one in place.failures()] == ["v2", "v3"]
    assert vector(place, "v1") == np.eye(1, 256, 1)[0].tolist()
    assert place.verify() == []
    rows[0] = ready(0, metadata={"n": 1})
    rows[5] = ready(4, text="y", source="https://example.org/4")
    assert told(place.add(rows)) == {"unchanged": 2, "updated": 2, "failed": 2}
    with pytest.raises(UnreadableFile, match="made:6"):
        place.add([ready(5), ready(6, length=0.0), ready(7)], strict=True)
    assert [one.key for one in place.items()] == ["v0", "v1", "v4", "v5", "w"]


def test_bad_metadata_of_a_known_file_is_one_failure(place: Collection, folder: Path) -> None:
    add(place, folder)
    [known, *others] = [one for one in read_corpus([folder]) if isinstance(one, Record)]
    bad = replace(known, metadata={"n": float("nan")})
    report = place.add([bad, words("new"), *others])
    assert told(report) == {"added": 1, "unchanged": 4, "failed": 1}
    assert [one.key for one in place.failures()] == [known.key]
    assert place.get([known.key])[0].metadata == {}


def test_what_is_committed_is_found_before_the_run_ends(
    place: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "CHUNK_RECORDS", 10)
    seen = []

    def corpus() -> Iterator[Record]:
        for number in range(600):
            seen.append(place.stats()["items"])
            yield words(f"k{number:03}", f"word{number}")

    place.add(corpus())
    assert 0 < max(seen) < 600
    assert seen == sorted(seen)
    # Read by several threads, stored in the order of the input.
    with place.view() as view:
        rows = [view.snapshot.item_rows([f"k{n:03}"])[f"k{n:03}"][1][0] for n in range(600)]
    assert rows == sorted(rows)
    assert place.query(Query.text("word77"), k=1)[0].key == "k077"


MEASURE = r"""
import re, sys
from pathlib import Path
from muomni_search.collection import Collection
from muomni_search.ingest.manifest import read_corpus
with Collection.create(sys.argv[1], model="hashing") as place:
    report = place.add(read_corpus(sys.argv[2:]), dry_run=True)
    assert report.added == 400, report
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    with (tmp_path / "t.jsonl").open("w") as file:
        for number in range(400):
            file.write(json.dumps({"key": f"k{number}", "text": f"{number} " * 200_000}) + "\n")
    assert (tmp_path / "t.jsonl").stat().st_size > 290e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "c", tmp_path / "t.jsonl"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 450_000  # KB; all texts at once were more than a gigabyte


def test_readers_wait_when_too_much_is_read_ahead(
    place: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WAITING_BYTES", 50_000)
    most = [0]
    hold = pipeline._Budget.hold

    def watched(self: pipeline._Budget, ticket: int, size: int) -> None:
        hold(self, ticket, size)
        most[0] = max(most[0], self._used)

    monkeypatch.setattr(pipeline._Budget, "hold", watched)
    for number in range(60):
        write(tmp_path / f"many/{number:02}.txt", f"{number} " + "x" * 20_000)
    assert told(add(place, tmp_path / "many")) == {"added": 60}
    # Two may be in, and whoever is next in line goes on whatever the others hold.
    assert most[0] <= 50_000 + 2 * 45_000


def test_what_waits_is_counted_when_a_piece_holds_several_arrays() -> None:
    """As those of sounds do: a list of spectrograms, or what two towers make of one."""
    parts = [np.zeros((40, 96), np.float32)] * 3
    assert pipeline._size(parts[0]) == 15_360
    assert pipeline._size(parts) == 3 * 15_360
    assert pipeline._size((np.zeros(100, np.int8), parts)) == 100 + 3 * 15_360
