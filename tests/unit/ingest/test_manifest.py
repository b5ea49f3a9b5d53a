"""A corpus is folders, files and tables: each gives keys of its own, and no key comes twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from muomni_search.errors import InvalidInput, NotFound
from muomni_search.ingest.folder import Entry, Skipped
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import Modality, Problem, Record

WORDS = "a few words"


def write(folder: Path, *names: str, content: str = WORDS) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def table(path: Path, *keys: str | None) -> Path:
    """Write a table with a text for each key; None is a row without a key."""
    rows = [{"text": WORDS} | ({"key": key} if key else {}) for key in keys]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def keys(entries: Iterable[Entry]) -> list[str]:
    found = list(entries)
    assert all(isinstance(entry, Record) for entry in found), found
    return [entry.key for entry in found if isinstance(entry, Record)]


def places(entries: Iterable[Entry]) -> list[tuple[str, str | None, str | None]]:
    """Return key, root and source of each record."""
    return [(e.key, e.root, e.source) for e in entries if isinstance(e, Record)]


# ---- keys and roots --------------------------------------------------------------------------


def test_a_file_in_a_folder_is_named_by_its_path_there_and_by_itself_by_its_name(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a/b/c.txt")
    source = str(tmp_path / "a/b/c.txt")
    for given, key, root in [
        (tmp_path, "a/b/c.txt", tmp_path),
        (tmp_path / "a", "b/c.txt", tmp_path / "a"),
        (tmp_path / "a/b", "c.txt", tmp_path / "a/b"),
        (tmp_path / "a/b/c.txt", "c.txt", tmp_path / "a/b"),
    ]:
        assert places(read_corpus([given])) == [(key, str(root), source)]
        assert places(read_corpus([f"{given}"])) == places(read_corpus([given]))


def test_a_relative_path_gives_absolute_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a/b/c.txt")
    monkeypatch.chdir(tmp_path / "a")
    source = str(tmp_path / "a/b/c.txt")
    for given, key, root in [
        (".", "b/c.txt", "a"),
        ("", "b/c.txt", "a"),
        ("./b/", "c.txt", "a/b"),
        ("../a/b", "c.txt", "a/b"),
        ("..", "a/b/c.txt", ""),
        ("b/c.txt", "c.txt", "a/b"),
    ]:
        assert places(read_corpus([given])) == [(key, str(tmp_path / root), source)]


def test_a_link_that_is_given_is_followed_wherever_it_leads(tmp_path: Path) -> None:
    write(tmp_path, "far/away/a.txt")
    (tmp_path / "near").mkdir()
    (tmp_path / "near/folder").symlink_to("../far")
    (tmp_path / "near/file.txt").symlink_to("../far/away/a.txt")
    far, near = tmp_path / "far", tmp_path / "near"
    # The root is the folder itself: by any name of it the items are the same.
    assert places(read_corpus([near / "folder"])) == places(read_corpus([far]))
    assert places(read_corpus([near / "folder/away/a.txt"])) == [
        ("a.txt", str(far / "away"), str(near / "folder/away/a.txt"))
    ]
    # A file has the name that it was given by.
    given = near / "file.txt"
    assert places(read_corpus([given])) == [("file.txt", str(near), str(given))]


def test_paths_come_in_the_order_given(tmp_path: Path) -> None:
    write(tmp_path, "b/x.txt", "b/y.txt", "a/z.txt", "c.txt")
    rows = table(tmp_path / "rows.jsonl", "one", "two")
    given = [tmp_path / "c.txt", rows, tmp_path / "b", tmp_path / "a"]
    assert keys(read_corpus(given)) == ["c.txt", "one", "two", "x.txt", "y.txt", "z.txt"]
    assert keys(read_corpus(given[::-1])) == ["z.txt", "x.txt", "y.txt", "one", "two", "c.txt"]


def test_a_path_alone_is_one_and_not_its_letters(tmp_path: Path) -> None:
    write(tmp_path, "b/x.txt")
    assert keys(read_corpus(tmp_path / "b")) == keys(read_corpus(str(tmp_path / "b"))) == ["x.txt"]


def test_nothing_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert list(read_corpus([])) == list(read_corpus([tmp_path])) == []


@pytest.mark.parametrize(
    ("prefix", "start"),
    [(None, ""), ("", ""), ("/", ""), ("P", "P/"), ("P/", "P/"), ("/P//", "P/"), ("P/Q", "P/Q/")],
)
def test_a_prefix_stands_before_every_key(tmp_path: Path, prefix: str | None, start: str) -> None:
    write(tmp_path, "folder/a/b.txt", "c.txt")
    rows = table(tmp_path / "rows.jsonl", "one", None)
    given = [tmp_path / "folder", tmp_path / "c.txt", rows]
    expected = ["a/b.txt", "c.txt", "one", "rows.jsonl:2"]
    assert keys(read_corpus(given, prefix=prefix)) == [start + key for key in expected]


def test_a_file_that_is_given_is_read_though_a_folder_would_hide_it(tmp_path: Path) -> None:
    write(tmp_path, ".hidden.txt", "draft.txt", "code.py", "no suffix")
    write(tmp_path, ".muomniignore", content="draft.txt\n")
    assert [type(entry) for entry in read_corpus([tmp_path])] == [Skipped] * 5
    names = [".hidden.txt", "draft.txt", "code.py", "no suffix"]
    assert keys(read_corpus([tmp_path / name for name in names])) == names


def test_a_file_that_is_given_and_is_no_item_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\3\4\0\0")
    (problem,) = read_corpus([tmp_path / "a.zip"], prefix="P")
    assert isinstance(problem, Problem)
    assert (problem.source, problem.key) == (str(tmp_path / "a.zip"), "P/a.zip")


@pytest.mark.parametrize("patterns", [["*.md"], ["a/"], ["x.md", "a"], ["*", "!*.txt"]])
def test_what_is_excluded_is_left_out_of_every_folder(tmp_path: Path, patterns: list[str]) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, "a/x.md", f"{folder}.txt")
    found = list(read_corpus([tmp_path / "one", tmp_path / "two"], exclude=patterns))
    assert keys(e for e in found if isinstance(e, Record)) == ["one.txt", "two.txt"]
    assert [e.reason for e in found if isinstance(e, Skipped)] == ["excluded"] * 2


# ---- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "ROWS.JSONL"])
def test_a_table_is_read_when_it_is_given_and_skipped_in_a_folder(
    tmp_path: Path, name: str
) -> None:
    table(tmp_path / name, "one", None, "three")
    given = list(read_corpus([tmp_path / name]))
    assert keys(given) == ["one", f"{name}:2", "three"]
    # A row with a key of its own has no root.
    own = f"{tmp_path / name}:"
    assert [entry.root for entry in given if isinstance(entry, Record)] == [None, own, None]
    why = "a table: give it by name"
    assert list(read_corpus([tmp_path])) == [Skipped(str(tmp_path / name), why)]


def test_a_folder_that_is_called_like_a_table_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "rows.csv/a.txt", "v.npy/b.txt")
    assert keys(read_corpus([tmp_path / "rows.csv", tmp_path / "v.npy"])) == ["a.txt", "b.txt"]


def test_vectors_belong_to_the_rows_of_the_table(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"key": "{key}", "modality": "image"}}\n' for key in "abc"))
    vectors = rng.standard_normal((3, 256))
    np.save(tmp_path / "v.npy", vectors)
    found = [e for e in read_corpus([rows], vectors=tmp_path / "v.npy") if isinstance(e, Record)]
    assert [(e.key, e.modality) for e in found] == [(key, Modality.IMAGE) for key in "abc"]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose([e.vector for e in found if e.vector is not None], units, atol=1e-6)


@pytest.mark.parametrize("given", [[], ["a.txt"], ["."], ["rows.jsonl"] * 2, ["rows.jsonl", "."]])
def test_vectors_without_exactly_one_table_are_refused_at_once(
    tmp_path: Path, given: list[str]
) -> None:
    write(tmp_path, "a.txt")
    table(tmp_path / "rows.jsonl", "one")
    with pytest.raises(InvalidInput, match="--vectors belongs to exactly one table"):
        read_corpus([tmp_path / name for name in given], vectors=tmp_path / "v.npy")


@pytest.mark.parametrize("name", ["v.npy", "V.NPY"])
def test_vectors_that_are_given_alone_have_no_keys(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "v.npy", np.ones((2, 256)))
    (tmp_path / "v.npy").rename(tmp_path / name)
    with pytest.raises(InvalidInput, match=rf"{name}: vectors alone have no keys: give a table"):
        list(read_corpus([tmp_path / name]))


# ---- what is refused at once -----------------------------------------------------------------


@pytest.mark.parametrize("missing", ["gone", "gone.jsonl", "a.txt/b", "loose", "loop", "nul\0"])
def test_a_path_that_does_not_exist_is_an_error_before_anything_is_read(
    tmp_path: Path, missing: str
) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "loose").symlink_to("gone")
    (tmp_path / "loop").symlink_to("loop")
    # No entry is asked for: the call itself refuses.
    with pytest.raises(NotFound, match="does not exist: check the path") as caught:
        read_corpus([tmp_path / "a.txt", tmp_path / missing])
    assert caught.value.what == f"{tmp_path / missing} does not exist"


def test_a_pattern_that_is_none_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a pattern that is none"):
        read_corpus([tmp_path], exclude=["*.md", "[z-a]"])


# ---- a key twice -----------------------------------------------------------------------------

SAME, OTHER = "give each item a key of its own", "add one of the two with --prefix"


@pytest.mark.parametrize(
    ("given", "key", "second", "hint"),
    [
        (["one", "two"], "a.txt", "two/a.txt", OTHER),
        (["one/a.txt", "two/a.txt"], "a.txt", "two/a.txt", OTHER),
        (["one", "two/a.txt"], "a.txt", "two/a.txt", OTHER),
        (["one", "one"], "a.txt", "one/a.txt", SAME),
        (["one", "one/a.txt"], "a.txt", "one/a.txt", SAME),
        (["one", "link"], "a.txt", "one/a.txt", SAME),
        (["one", "rows.jsonl"], "a.txt", "rows.jsonl:2", OTHER),
        (["rows.jsonl", "one"], "a.txt", "one/a.txt", OTHER),
        (["twice.jsonl"], "k", "twice.jsonl:3", SAME),
    ],
)
def test_a_key_that_comes_again_is_a_problem_and_the_first_one_stays(
    tmp_path: Path, given: list[str], key: str, second: str, hint: str
) -> None:
    write(tmp_path, "one/a.txt", "two/a.txt")
    (tmp_path / "link").symlink_to("one")
    table(tmp_path / "rows.jsonl", "x", "a.txt")
    table(tmp_path / "twice.jsonl", "k", "l", "k")
    for prefix in ("", "P/"):
        found = list(read_corpus([tmp_path / name for name in given], prefix=prefix))
        (problem,) = [entry for entry in found if not isinstance(entry, Record)]
        again = f"{tmp_path / second}: the key {prefix + key!r} was there before"
        assert problem == Problem(
            str(tmp_path / second),
            again + ", under another root" * (hint == OTHER),
            hint,
            prefix + key,
        )
        first = found.index(problem)
        assert prefix + key in keys(found[:first])
        assert prefix + key not in keys(found[first + 1 :])


def test_a_key_is_refused_as_often_as_it_comes_again_each_time_by_the_first_one(
    tmp_path: Path,
) -> None:
    write(tmp_path, "one/a.txt", "two/a.txt")
    one, two = tmp_path / "one", tmp_path / "two"
    found = list(read_corpus([one, two, two, one]))
    assert isinstance(found[0], Record)
    assert [e.hint for e in found if isinstance(e, Problem)] == [OTHER, OTHER, SAME]


def test_a_key_whose_file_could_not_be_read_is_still_free(tmp_path: Path) -> None:
    write(tmp_path, "one/a.txt", content="")
    write(tmp_path, "two/a.txt")
    bad, good = read_corpus([tmp_path / "one", tmp_path / "two"])
    assert isinstance(bad, Problem)
    assert (bad.error, bad.key) == ("an empty file", "a.txt")
    assert isinstance(good, Record)
    assert good.source == str(tmp_path / "two/a.txt")


def test_keys_that_differ_in_case_only_are_two(tmp_path: Path) -> None:
    assert keys(read_corpus([table(tmp_path / "rows.jsonl", "a", "A")])) == ["a", "A"]


# ---- names that cannot be --------------------------------------------------------------------


def test_a_name_that_is_too_long_is_not_found() -> None:
    with pytest.raises(NotFound, match="does not exist"):
        read_corpus(["a" * 300])


def test_a_name_that_is_no_utf8_is_a_problem_also_when_it_is_given(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.txt"))
    path.write_text("a text")
    (entry,) = read_corpus([path])
    assert isinstance(entry, Problem)
    assert entry.error == "the name is no valid UTF-8"


def test_a_pipe_or_a_folder_named_like_a_table_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (entry,) = read_corpus([tmp_path / "pipe.jsonl"])
    assert isinstance(entry, Problem)
    (tmp_path / "rows.csv").mkdir()
    assert list(read_corpus([tmp_path / "rows.csv"])) == []
    with pytest.raises(InvalidInput, match="exactly one table"):
        read_corpus([tmp_path / "rows.csv"], vectors=tmp_path / "v.npy")
