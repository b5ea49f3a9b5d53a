"""A folder gives its texts, pictures and sounds in a fixed order, and says what it leaves out."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from muomni_search.errors import InvalidInput
from muomni_search.ingest.folder import (
    Entry,
    Skipped,
    read_file_record,
    read_folder,
    read_patterns,
)
from muomni_search.items import Modality, Problem, Record

WORDS = b"a few words"
LATIN_1 = "fünf Wörter".encode("latin-1")


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def mp3() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(2_000), 16_000, format="MP3")
    return file.getvalue()


def write(folder: Path, *names: str, content: bytes = WORDS) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def keys(entries: Iterator[Entry]) -> list[str]:
    return [entry.key for entry in entries if isinstance(entry, Record)]


def left_out(root: Path) -> dict[str, str]:
    """Return why each path below a folder that is no item is none: a problem has a mark."""
    return {
        os.path.relpath(entry.source, root): entry.reason
        if isinstance(entry, Skipped)
        else f"! {entry.error}"
        for entry in read_folder(root)
        if not isinstance(entry, Record)
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder beside others."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


# ---- what is an item, and in which order -----------------------------------------------------


def test_files_come_first_then_folders_both_by_name(root: Path) -> None:
    ordered = ["10.txt", "9.txt", "B.txt", "a.txt", "ä.txt"]
    ordered += ["A/z.txt", "a/a.txt", "a/b.txt", "a/a/z.txt", "a/b/a.txt", "a.b/a.txt", "b/a.txt"]
    # A folder is ordered by its name alone: as paths, "a.b/" would come before "a/".
    for names in (ordered, ordered[::-1]):
        shutil.rmtree(root)
        write(root, *names)
        assert keys(read_folder(root)) == ordered


def test_a_record_says_where_its_file_is_and_which_state_it_has(root: Path) -> None:
    write(root, "deep/er/a.txt")
    path = root / "deep/er/a.txt"
    (record,) = read_folder(root, prefix="P/")
    assert isinstance(record, Record)
    assert (record.key, record.modality) == ("P/deep/er/a.txt", Modality.TEXT)
    assert (record.path, record.source, record.origin) == (path, str(path), str(path))
    assert record.root == str(root)
    assert (record.size, record.mtime_ns) == (len(WORDS), path.stat().st_ctime_ns)
    os.utime(path, ns=(1, 2_700_000_000_123_456_789))  # the future
    (record,) = read_folder(root)
    assert isinstance(record, Record)
    assert record.mtime_ns == 2_700_000_000_123_456_789
    assert (record.text, record.vector, record.metadata) == (None, None, {})


@pytest.mark.parametrize(
    "name", ["-x.txt", " .txt", "a b.txt", "a\nb.txt", "a\\b.txt", "a:1.txt", "*.txt", "🦉.txt"]
)
def test_a_name_is_kept_as_it_is(root: Path, name: str) -> None:
    write(root, name, f"folder {name}/{name}")
    assert keys(read_folder(root)) == [name, f"folder {name}/{name}"]


def test_names_that_only_look_alike_are_two(root: Path) -> None:
    names = ["e\u0301.txt", "é.txt"]  # decomposed and composed
    write(root, *names)
    assert keys(read_folder(root)) == names


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        *[(name, "audio") for name in ("a.png", "a.txt", "a.py", "a")],
        *[(name, "image") for name in ("a.wav", "a.txt", "a.html", "a")],
        *[(name, "text") for name in ("a.txt", "a.MD", "a.b.rst")],
    ],
)
def test_content_decides_what_an_item_is(root: Path, name: str, modality: str) -> None:
    write(root, name, content={"audio": mp3(), "image": png(), "text": WORDS}[modality])
    (record,) = read_folder(root)
    assert isinstance(record, Record)
    assert record.modality == modality


NO_ITEM = "neither text nor picture nor sound"


@pytest.mark.parametrize("name", ["a.py", "a.html", "a.json", "a.yaml", "a.log", "a", "txt"])
def test_other_texts_are_items_only_when_they_are_named(root: Path, name: str) -> None:
    write(root, name)
    assert list(read_folder(root)) == [Skipped(str(root / name), NO_ITEM)]
    record = read_file_record(root / name, name, root, named=True)
    assert isinstance(record, Record)
    assert record.modality == Modality.TEXT


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "csv", "parquet", "npy", "CSV", "Npy"])
@pytest.mark.parametrize("content", [b"", WORDS, b"\x93NUMPY\x01\0", b"PAR1\0\0"])
def test_tables_and_vectors_in_a_folder_are_left_to_be_named(
    root: Path, suffix: str, content: bytes
) -> None:
    write(root, f"rows.{suffix}", content=content)
    assert left_out(root) == {f"rows.{suffix}": "a table: give it by name"}


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7\n\0\1", b"PK\3\4\0\0", LATIN_1])
def test_what_is_no_item_is_skipped_unless_it_was_asked_for(root: Path, content: bytes) -> None:
    write(root, "a.bin", content=content)
    source = str(root / "a.bin")
    assert list(read_folder(root)) == [Skipped(source, NO_ITEM)]
    asked = read_file_record(root / "a.bin", "a.bin", root, named=True)
    assert asked == Problem(source, NO_ITEM, "give another file", "a.bin")


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "what", "hint"),
    [
        ("a.png", WORDS, "no picture by its content", "convert it to PNG or JPEG, or remove it"),
        ("a.heic", b"\0\0\0\x18ftypheic", "no picture by its content", "convert it to PNG"),
        ("a.WAV", WORDS, "no sound by its content", "convert it to WAV, FLAC, OGG or MP3"),
        ("a.m4a", b"\0\0\0\x18ftypM4A ", "no sound by its content", "convert it to WAV"),
        ("a.txt", b"\x7fELF\0\0", "no text in UTF-8 by its content", "convert it to UTF-8"),
        ("a.md", LATIN_1, "no text in UTF-8 by its content", "convert it to UTF-8, or remove it"),
        ("a.txt", b"", "an empty file", "replace it, or remove it"),
        ("a.jpg", b"", "an empty file", "replace it, or remove it"),
        ("a.mp3", b"", "an empty file", "replace it, or remove it"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_a_problem(
    root: Path, name: str, content: bytes, what: str, hint: str, named: bool
) -> None:
    write(root, name, content=content)
    found = read_file_record(root / name, f"P/{name}", root, named=named)
    assert isinstance(found, Problem)
    assert (found.source, found.error, found.key) == (str(root / name), what, f"P/{name}")
    assert found.hint.startswith(hint)
    assert left_out(root) == {name: f"! {what}"}


# ---- what is neither a file nor a folder -----------------------------------------------------


def test_a_pipe_is_skipped_and_nothing_is_taken_from_it(root: Path) -> None:
    os.mkfifo(root / "a.txt")
    # Held open and filled, so that a reader who opens it gets words instead of waiting for ever.
    pipe = os.open(root / "a.txt", os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(pipe, WORDS)
        (root / "link.txt").symlink_to("a.txt")
        why = "neither a file nor a folder"
        assert left_out(root) == {"a.txt": why, "link.txt": why}
        asked = read_file_record(root / "a.txt", "a.txt", root, named=True)
        assert asked == Problem(str(root / "a.txt"), why, "give another file", "a.txt")
        assert os.read(pipe, 100) == WORDS
    finally:
        os.close(pipe)


def test_a_socket_is_skipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.wav")
        assert left_out(root) == {"a.wav": "neither a file nor a folder"}


def test_a_device_is_a_problem_when_it_is_named(root: Path) -> None:
    found = read_file_record(Path("/dev/zero"), "zero", Path("/dev"), named=True)
    assert found == Problem("/dev/zero", "neither a file nor a folder", "give another file", "zero")


# ---- names -----------------------------------------------------------------------------------


def test_hidden_names_are_skipped_with_what_is_below_them(root: Path) -> None:
    write(root, "a.txt", ".a.txt", "...txt", ".git/a.txt", "b/.a.txt", "b/.c/a.txt", "b/a..txt")
    (root / ".link.txt").symlink_to("a.txt")
    assert keys(read_folder(root)) == ["a.txt", "b/a..txt"]
    hidden = [".a.txt", "...txt", ".git", "b/.a.txt", "b/.c", ".link.txt"]
    assert left_out(root) == dict.fromkeys(hidden, "a hidden name")


def test_a_folder_that_is_hidden_itself_is_read_when_it_is_given(tmp_path: Path) -> None:
    write(tmp_path, ".notes/a.txt")
    assert keys(read_folder(tmp_path / ".notes")) == ["a.txt"]


def test_a_name_that_is_no_utf_8_is_a_problem_that_can_be_written_down(root: Path) -> None:
    write(root, "a.txt", "z/a.txt")
    (root / os.fsdecode(b"b\xff.txt")).write_bytes(WORDS)
    (root / os.fsdecode(b"f\xe4n")).mkdir()
    (root / os.fsdecode(b"f\xe4n") / "a.txt").write_bytes(WORDS)
    assert keys(read_folder(root)) == ["a.txt", "z/a.txt"]
    problems = [entry for entry in read_folder(root) if isinstance(entry, Problem)]
    assert problems == [
        Problem(str(root / name), "the name is no valid UTF-8", "rename it")
        for name in ("b\ufffd.txt", "f\ufffdn")
    ]


# ---- links -----------------------------------------------------------------------------------

LEAVES, NOTHING, LOOPS = (
    "a link that leaves the folder",
    "! a link to nothing",
    "a link to a folder below this one",
)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("../outside.txt", LEAVES),
        ("../outside", LEAVES),
        ("../root-2/a.txt", LEAVES),  # whose path begins like the root's
        ("..", LEAVES),
        ("/", LEAVES),
        ("/dev/null", LEAVES),
        ("b/way-out/a.txt", LEAVES),
        ("b/hop.txt", LEAVES),
        ("../root/b/../../outside.txt", LEAVES),
        ("../gone.txt", NOTHING),
        ("gone.txt", NOTHING),
        ("a.txt/below", NOTHING),
        ("link.txt", NOTHING),
        ("other.txt", NOTHING),  # a link back to this one
        (".", LOOPS),
        ("b", LOOPS),
        ("../root", LOOPS),
        ("b/c/..", LOOPS),
        ("a.txt", None),
        ("b/a.txt", None),
        ("../root/a.txt", None),
        ("b/to-a.txt", None),
        ("b/way-out/../root/a.txt", None),  # out and in again
    ],
)
def test_a_link_is_followed_to_a_file_of_the_folder_only(
    root: Path, tmp_path: Path, target: str, why: str | None
) -> None:
    write(tmp_path, "outside.txt", "outside/a.txt", "root-2/a.txt")
    write(root, "a.txt", "b/a.txt", "b/c/a.txt")
    (root / "b/way-out").symlink_to(tmp_path / "outside")
    (root / "b/hop.txt").symlink_to("../../outside.txt")
    (root / "b/to-a.txt").symlink_to(root / "a.txt")
    (root / "other.txt").symlink_to("link.txt")
    (root / "link.txt").symlink_to(target)
    found = {entry.key: entry for entry in read_folder(root) if isinstance(entry, Record)}
    assert left_out(root).get("link.txt") == why
    assert ("link.txt" in found) == (why is None)
    if why is None:
        # The item is the link: the same content may be in under several names.
        assert found["link.txt"].source == str(root / "link.txt")
        assert found["link.txt"].size == len(WORDS)
    assert {"a.txt", "b/a.txt", "b/c/a.txt"} <= set(found)


def test_links_up_and_down_do_not_keep_a_walk_from_ending(root: Path) -> None:
    write(root, "a/b/c/x.txt")
    for number, folder in enumerate(["", "a", "a/b", "a/b/c"]):
        (root / folder / "up").symlink_to("../" * number or ".")
        (root / folder / "down").symlink_to(root / "a/b/c")
    assert keys(read_folder(root)) == ["a/b/c/x.txt"]
    assert sorted(set(left_out(root).values())) == [LOOPS]


@pytest.mark.parametrize("name", [".link.txt", "draft.txt"])
def test_a_link_of_a_hidden_or_ignored_name_is_skipped_whatever_it_leads_to(
    root: Path, name: str
) -> None:
    write(root, "a.txt")
    write(root, ".muomniignore", content=b"draft.txt\n")
    for target in ("a.txt", "gone.txt", "/dev/null"):
        (root / name).symlink_to(target)
        assert keys(read_folder(root)) == ["a.txt"]
        assert left_out(root)[name] == ("a hidden name" if name[0] == "." else "excluded")
        (root / name).unlink()


def test_a_link_to_what_is_hidden_or_ignored_opens_nothing(root: Path) -> None:
    write(root, ".hidden.txt", ".hidden/a.txt", "drafts/a.txt", "drafts.txt")
    write(root, ".muomniignore", content=b"drafts*\n")
    for name in ("hidden.txt", "hidden/a.txt", "hidden"):
        (root / f"to {name.replace('/', ' ')}").symlink_to(f".{name}")
    for name in ("drafts.txt", "drafts/a.txt", "drafts"):
        (root / f"to {name.replace('/', ' ')}").symlink_to(name)
    write(root, "seen.txt", "below/seen.txt")
    (root / "to seen").symlink_to("below/seen.txt")
    (root / "to seen.txt").symlink_to("below/seen.txt")
    # What is kept out by one name is kept out by every name.
    assert keys(read_folder(root)) == ["seen.txt", "to seen.txt", "below/seen.txt"]


# ---- ignored and excluded --------------------------------------------------------------------

LAYOUT = ["#x.txt", "a.md", "a.txt", "b.txt", "a/a.md", "a/a.txt", "a/b/a.txt", "c/a.txt"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"": ""}, LAYOUT),
        # As git has it: `!a` takes nothing back that is below a, the last match counts, and
        # `!*/` opens folders.
        ({"": "a/b/\n!a"}, [name for name in LAYOUT if not name.startswith("a/b/")]),
        ({"": "!*\na/"}, [name for name in LAYOUT if not name.startswith("a/")]),
        ({"": "*\n!*/\n!*.md"}, ["a.md", "a/a.md"]),
        ({"": "a/**/"}, [name for name in LAYOUT if not name.startswith("a/b/")]),
        ({"": "\ufeffa.txt"}, ["#x.txt", "a.md", "b.txt", "a/a.md"]),
        ({"": "# a.txt\n\n   \n"}, LAYOUT),
        ({"": "a.txt"}, ["#x.txt", "a.md", "b.txt", "a/a.md"]),
        ({"": "a.txt\r\nb.txt  \r\n"}, ["#x.txt", "a.md", "a/a.md"]),
        ({"": "/a.txt"}, [name for name in LAYOUT if name != "a.txt"]),
        ({"": "\\#x.txt\n/?.txt"}, ["a.md", "a/a.md", "a/a.txt", "a/b/a.txt", "c/a.txt"]),
        ({"": "[ab].txt\n*.md"}, ["#x.txt"]),
        ({"": "**/a.txt"}, ["#x.txt", "a.md", "b.txt", "a/a.md"]),
        ({"": "*.txt\n!a.txt"}, ["a.md", "a.txt", "a/a.md", "a/a.txt", "a/b/a.txt", "c/a.txt"]),
        ({"": "!a.txt\n*.txt"}, ["a.md", "a/a.md"]),
        ({"": "a/"}, ["#x.txt", "a.md", "a.txt", "b.txt", "c/a.txt"]),
        ({"": "b.txt/"}, LAYOUT),  # a file is no folder
        ({"": "/*/a.txt"}, [name for name in LAYOUT if name not in ("a/a.txt", "c/a.txt")]),
        ({"": "a/**"}, ["#x.txt", "a.md", "a.txt", "b.txt", "c/a.txt"]),
        ({"": "/*\n!/a\n/a/*\n!/a/b"}, ["a/b/a.txt"]),
        # For git `a/**` is what the folder holds and not the folder, from where nothing returns.
        ({"": "/?.*\na/**\n!a/a.md"}, ["#x.txt", "a/a.md", "c/a.txt"]),
        ({"": "/?.*\na/**  \n!a/b\n!a/b/**"}, ["#x.txt", "a/b/a.txt", "c/a.txt"]),
        ({"": "a/\n!a/a.txt"}, ["#x.txt", "a.md", "a.txt", "b.txt", "c/a.txt"]),
        # A file below the root speaks of its own folder, and before those above it.
        ({"a": "a.txt"}, ["#x.txt", "a.md", "a.txt", "b.txt", "a/a.md", "c/a.txt"]),
        ({"a": "/a.txt\n/c"}, [name for name in LAYOUT if name != "a/a.txt"]),
        ({"a/b": "a.txt"}, [name for name in LAYOUT if name != "a/b/a.txt"]),
        ({"": "a.txt", "a": "!a.txt", "c": "a.md"},
         ["#x.txt", "a.md", "b.txt", "a/a.md", "a/a.txt", "a/b/a.txt"]),
        ({"": "*.txt", "a": "!a.txt", "a/b": "*"}, ["a.md", "a/a.md", "a/a.txt"]),
        ({"": "!a.txt", "c": "*"}, [name for name in LAYOUT if name != "c/a.txt"]),
        ({"": "a/", "a": "!*"}, ["#x.txt", "a.md", "a.txt", "b.txt", "c/a.txt"]),
    ],
)  # fmt: skip
def test_an_ignore_file_speaks_as_a_gitignore_does(
    root: Path, rules: dict[str, str], expected: list[str]
) -> None:
    write(root, *LAYOUT)
    for folder, lines in rules.items():
        write(root, f"{folder}/.muomniignore".lstrip("/"), content=lines.encode())
    assert keys(read_folder(root)) == expected
    reasons = ["a hidden name", "excluded"] if expected != LAYOUT else ["a hidden name"]
    assert sorted(set(left_out(root).values())) == reasons


def test_an_ignored_folder_is_one_line_and_nothing_in_it_is_read(root: Path) -> None:
    write(root, "a/a.txt", "a/bad.png", "b/a.txt")
    write(root, ".muomniignore", content=b"a\n")
    write(root, "a/.muomniignore", content=b"!\n")
    assert keys(read_folder(root)) == ["b/a.txt"]
    assert left_out(root) == {".muomniignore": "a hidden name", "a": "excluded"}


def test_an_ignore_file_in_another_encoding_still_ignores(root: Path) -> None:
    write(root, "a.txt", "b.txt")
    write(root, ".muomniignore", content="schön\na.txt\n".encode("latin-1"))
    assert keys(read_folder(root)) == ["b.txt"]


@pytest.mark.parametrize("pattern", ["!", "b\\", "[z-a]"])
def test_an_ignore_file_with_a_pattern_that_is_none_keeps_its_folder_out(
    root: Path, pattern: str
) -> None:
    write(root, "a.txt", "b/a.txt", "b/c/a.txt", "d/a.txt")
    write(root, "b/.muomniignore", content=f"a.txt\n{pattern}\n".encode())
    assert keys(read_folder(root)) == ["a.txt", "d/a.txt"]
    (problem,) = [entry for entry in read_folder(root) if not isinstance(entry, Record)]
    assert isinstance(problem, Problem)
    assert problem.source == str(root / "b/.muomniignore")
    assert problem.error.startswith("a pattern that is none (")
    assert problem.hint == "write it as in .gitignore"
    (root / "b/.muomniignore").rename(root / ".muomniignore")
    assert [type(entry) for entry in read_folder(root)] == [Problem]
    with pytest.raises(InvalidInput, match=r"a pattern that is none .*: write it as in \.gitig"):
        read_patterns(["a.txt", pattern])


@pytest.mark.parametrize(
    ("excluded", "ignored", "expected"),
    [
        (["a.txt"], "", ["#x.txt", "a.md", "b.txt", "a/a.md"]),
        (["/a.txt", "a/b"], "", ["#x.txt", "a.md", "b.txt", "a/a.md", "a/a.txt", "c/a.txt"]),
        (["*.txt", "!b.txt"], "", ["a.md", "b.txt", "a/a.md"]),
        (["a/"], "!a/\n!*.txt", ["#x.txt", "a.md", "a.txt", "b.txt", "c/a.txt"]),
        (["!a.txt"], "*.txt", ["a.md", "a/a.md"]),  # takes back what the option said, no more
        (["a.txt"], "*.md", ["#x.txt", "b.txt"]),
        (["P/*"], "", LAYOUT),  # the prefix belongs to the key, not to the folder
    ],
)
def test_what_is_excluded_stays_out_whatever_the_ignore_files_say(
    root: Path, excluded: list[str], ignored: str, expected: list[str]
) -> None:
    write(root, *LAYOUT)
    write(root, ".muomniignore", content=ignored.encode())
    found = keys(read_folder(root, prefix="P/", excluded=read_patterns(excluded)))
    assert found == [f"P/{name}" for name in expected]


# ---- what cannot be read ---------------------------------------------------------------------


def test_a_folder_that_cannot_be_read_is_a_problem_and_the_others_are_read(root: Path) -> None:
    write(root, "a.txt", "b/a.txt", "c/a.txt")
    entries = read_folder(root)
    assert isinstance(next(entries), Record)
    shutil.rmtree(root / "b")  # seen, and gone before it is read
    problem, record = entries
    hint = "mend its permissions, or exclude it"
    assert problem == Problem(str(root / "b"), "No such file or directory", hint)
    assert isinstance(record, Record)
    assert record.key == "c/a.txt"


def test_a_file_that_cannot_be_read_is_a_problem_and_the_others_are_read(root: Path) -> None:
    write(root, "a.txt", "b.txt", "c.txt")
    entries = read_folder(root, prefix="P/")
    assert isinstance(next(entries), Record)
    (root / "b.txt").unlink()
    problem, record = entries
    hint = "check its name and its permissions"
    assert problem == Problem(str(root / "b.txt"), "No such file or directory", hint, "P/b.txt")
    assert isinstance(record, Record)
    assert record.key == "P/c.txt"


@pytest.mark.parametrize("forbidden", ["b", "b/.muomniignore", "b/a.txt"])
def test_what_may_not_be_read_is_a_problem(root: Path, forbidden: str) -> None:
    write(root, "a.txt", "b/a.txt", "c/a.txt")
    write(root, "b/.muomniignore", content=b"a.txt\n" * (forbidden != "b/a.txt"))
    (root / forbidden).chmod(0)
    if os.access(root / forbidden, os.R_OK):
        pytest.skip("to root nothing is forbidden")
    try:
        assert keys(read_folder(root)) == ["a.txt", "c/a.txt"]
        place = "b/a.txt" if forbidden == "b/a.txt" else "b"
        assert left_out(root)[place] == "! Permission denied"
    finally:
        (root / forbidden).chmod(0o700)


def test_folders_may_be_nested_deeper_than_calls_and_end_where_paths_do(root: Path) -> None:
    depth, long = 1_100, "b" * 255
    place = os.open(root, os.O_RDONLY)
    for level, name in enumerate(["a"] * depth + [long] * 10):
        os.mkdir(name, dir_fd=place)
        place, above = os.open(name, os.O_RDONLY, dir_fd=place), place
        os.close(above)
        if level >= depth - 1:
            file = os.open("x.txt", os.O_WRONLY | os.O_CREAT, dir_fd=place)
            os.write(file, WORDS)
            os.close(file)
    os.close(place)
    try:
        *records, problem = read_folder(root)
        # A path has 4,095 bytes at most: 2,200 of them, and some of 256.
        found = keys(iter(records))
        assert found == ["a/" * depth + f"{long}/" * level + "x.txt" for level in range(len(found))]
        assert 2 <= len(found) == len(records) <= 8
        assert isinstance(problem, Problem)
        assert problem.error == "File name too long"
    finally:
        # pytest cannot remove what is nested so deep.
        subprocess.run(["rm", "-rf", str(root)], check=True)
