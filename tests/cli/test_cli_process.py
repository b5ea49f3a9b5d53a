"""Every command once for real: as a process, on a terminal, into a closed pipe, on a full disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import MUOMNI, Run, answers, on_terminal, plain

from muomni_search.cli.output import complain


def start(*args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MUOMNI, *map(str, args)], capture_output=True, text=True, check=False, **options
    )


def test_a_day_in_the_life_of_a_collection(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"text": "owl"}\n')
    calls: list[tuple[list[str | Path], int]] = [
        (["--version"], 0),
        (["--help"], 0),
        (["add", corpus, "--model", "hashing"], 0),
        (["search", "a dog", "-k", "3"], 0),
        (["batch", "q.jsonl", "-o", "out.jsonl"], 0),
        (["neighbors", "-o", "graph.parquet", "-k", "2"], 0),
        (["get", "dog.txt"], 0),
        (["list"], 0),
        (["failures"], 0),
        (["stats"], 0),
        (["rebuild"], 0),
        (["verify"], 0),
        (["export", "all.parquet"], 0),
        (["import", "all.parquet"], 0),
        (["delete", "dog.txt"], 0),
        (["get", "dog.txt"], 1),
        (["collections"], 0),
        (["model", "show", "hashing"], 0),
        (["search", "-k", "0", "owl"], 2),
        (["nonsense"], 2),
        (["drop", "-f"], 0),
        (["list"], 1),
    ]
    for call, code in calls:
        done = start(*call, cwd=tmp_path)
        assert done.returncode == code, (call, done.stderr)
        assert "Traceback" not in done.stderr
        if code == 0 and not str(call[0]).startswith("-"):
            assert done.stderr == ""
            for line in done.stdout.splitlines():
                json.loads(line)


def test_two_that_begin_a_collection_together_both_add_to_it(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a dog"}\n' * 3)
    adding = [
        subprocess.Popen(
            [*MUOMNI, "add", f"{name}.jsonl", "-c", "new", "--model", "hashing"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for one in adding:
        told, said = one.communicate(timeout=100)
        assert (one.returncode, json.loads(told)["added"]) == (0, 3), said
    assert len(start("list", "-c", "new", cwd=tmp_path).stdout.splitlines()) == 6
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("mine")
    refused = start("add", "a.jsonl", "-c", "mine", "--model", "hashing", cwd=tmp_path)
    assert "is not empty" in refused.stderr


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).parent / "muomni"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == start("--version").stdout


def test_debug_shows_the_traceback_before_or_after_the_command(tmp_path: Path) -> None:
    for call in (["--debug", "list"], ["list", "--debug"]):
        done = start(*call, "-c", tmp_path)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("muomni: error: ")


def test_a_terminal_gets_a_table(shared: Path) -> None:
    code, shown = on_terminal("search", "a dog barks", "-c", shared)
    assert code == 0
    assert "cosine" in shown
    assert "dog.txt" in shown
    assert "A dog barks at the postman." in shown
    assert "searched: exact" in shown
    assert "{" not in shown


def test_a_terminal_gets_json_when_asked(shared: Path) -> None:
    code, shown = on_terminal("search", "a dog barks", "--json", "-c", shared, columns=40)
    assert code == 0
    assert json.loads(shown.splitlines()[0])["key"] == "dog.txt"


@pytest.mark.parametrize(
    "call", ["list", "stats", "get long.txt", "verify", "failures", "search owl"]
)
def test_no_line_is_wider_than_the_terminal(shared: Path, call: str) -> None:
    code, shown = on_terminal(*call.split(), "-c", shared, columns=60)
    assert code == 0
    assert max(len(line) for line in plain(shown).splitlines()) <= 60


def test_adding_on_a_terminal_ends_with_a_summary(corpus: Path, tmp_path: Path) -> None:
    code, shown = on_terminal("add", corpus, "--model", "hashing", "-c", tmp_path / "c")
    assert code == 0
    assert "items/s" in shown  # the bar
    assert re.search(r"^\r?8 added \(\d+\.\d s\)\r?$", plain(shown), re.M)


def test_hostile_keys_are_shown_harmlessly(muomni: Run, tmp_path: Path) -> None:
    keys = ["[red]x[/]", "two\nlines", "\u202egnp", "\x1b]0;title\x07", "漢字" * 30, "k" * 4096]
    rows = [{"key": key, "text": f"a text\nof number {n}"} for n, key in enumerate(keys)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers(muomni("add", "rows.jsonl", "--model", "hashing", "-c", "c"))
    for call in (["list"], ["search", "text"], ["get", *keys]):
        code, shown = on_terminal(*call, "-c", tmp_path / "c")
        assert code == 0
        assert "[red]x[/]" in shown
        assert "two\\u000alines" in shown
        assert "\\u202egnp" in shown
        assert "\\u001b]0;title\\u0007" in shown
        assert not set(plain(shown)) & set("\x1b\x07\u202e")


def test_a_complaint_is_one_line_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    gap = " " * 400_000
    complain(f"a \r\n b{gap}c\n\nd  e")
    assert capsys.readouterr().err == f"muomni: a b{gap}c d  e\n"


def test_a_reader_that_leaves_early_is_no_error(shared: Path) -> None:
    command = f"{' '.join(MUOMNI)} list -c '{shared}' | head -n 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(shared: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*MUOMNI, "list", "-c", shared],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("muomni: error: stdout: No space left on device: free some space")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_is_whole_in_any_encoding(muomni: Run, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"key": "漢 é", "text": "é"}) + "\n")
    answers(muomni("add", "rows.jsonl", "--model", "hashing", "-c", "c"))
    done = start("list", "-c", tmp_path / "c", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0
    assert json.loads(done.stdout)["key"] == "漢 é"


def test_a_path_that_is_no_unicode_is_reported(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("coffee")
    done = start("add", tmp_path, "--model", "hashing", "-c", tmp_path / "c")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    done = start("get", name, "-c", tmp_path / "c")
    assert done.returncode in {0, 1}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("call", ["get dog.txt", "get gone", "search owl", "list"])
def test_without_a_stdout_there_is_one_line_and_no_success(shared: Path, call: str) -> None:
    command = f"{' '.join(MUOMNI)} {call} -c '{shared}' >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("muomni: error: stdout is closed")


@pytest.mark.parametrize("option", [[], ["--text"], ["--id"], ["--plus"], ["--image"]])
def test_an_argument_that_is_no_unicode_is_told_in_one_line(
    shared: Path, option: list[str]
) -> None:
    word = ("text:" if option == ["--plus"] else "") + os.fsdecode(b"caf\xe9")
    done = start("search", *option, word, "-c", shared)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("muomni: error: ")
    assert "Error" not in line  # of Python's


@pytest.mark.parametrize("vocabulary", [2, 80])
def test_a_training_that_cannot_begin_is_one_line(tmp_path: Path, vocabulary: int) -> None:
    (tmp_path / "pairs.csv").write_text("text,image\na,gone.png\n")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "toy"\ndata = [{ path = "pairs.csv" }]\n'
        f"[towers.text]\nvocabulary = {vocabulary}\n[towers.image]\n"
    )
    done = start("train", recipe, tmp_path / "toy")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("muomni: error: ")
