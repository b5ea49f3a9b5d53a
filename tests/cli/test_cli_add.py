"""`muomni add` and `muomni failures`: what comes in, what is reported, what stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import Run, answers, write_picture

from muomni_search.cli.add import count_inputs

COUNTS = ["added", "updated", "unchanged", "moved", "removed", "failed", "skipped", "seconds"]
HASHING = ("--model", "hashing")


def counts(result: dict[str, float]) -> dict[str, float]:
    """Return the counts that are not zero."""
    return {name: count for name, count in result.items() if count and name != "seconds"}


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus, to be changed."""
    return Path(shutil.copytree(corpus, tmp_path / "folder"))


def keys(muomni: Run, *more: str) -> list[str]:
    return [item["key"] for item in answers(muomni("list", "-c", "c", *more))]


def test_the_report_is_one_object_with_the_promised_fields(muomni: Run, folder: Path) -> None:
    (report,) = answers(muomni("add", folder, *HASHING, "-c", "c"))
    assert list(report) == COUNTS
    assert counts(report) == {"added": 8}


def test_a_second_run_changes_nothing_and_needs_no_model_named(muomni: Run, folder: Path) -> None:
    muomni("add", folder, *HASHING, "-c", "c")
    (report,) = answers(muomni("add", folder, "-c", "c"))
    assert counts(report) == {"unchanged": 8}


def test_the_collection_comes_from_the_environment_too(
    muomni: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUOMNI_COLLECTION", "elsewhere")
    answers(muomni("add", folder, *HASHING))
    assert len(answers(muomni("list"))) == 8
    assert Path("elsewhere").is_dir()


def test_the_default_collection_is_indexes_default(muomni: Run, folder: Path) -> None:
    answers(muomni("add", folder, *HASHING))
    assert Path("indexes/default").is_dir()
    assert len(answers(muomni("list"))) == 8


def test_a_prefix_comes_before_every_key(muomni: Run, folder: Path) -> None:
    muomni("add", folder / "notes", *HASHING, "--prefix", "mine", "-c", "c")
    assert keys(muomni) == ["mine/owl.md", "mine/sea.txt"]


def test_a_file_by_itself_is_named_by_its_name(muomni: Run, folder: Path) -> None:
    muomni("add", folder / "notes/owl.md", *HASHING, "-c", "c")
    assert keys(muomni) == ["owl.md"]


def test_excluded_files_are_skipped_and_counted(muomni: Run, folder: Path) -> None:
    (report,) = answers(
        muomni("add", folder, *HASHING, "--exclude", "*.png", "--exclude", "notes", "-c", "c")
    )
    assert report["added"] == 5
    assert report["skipped"] >= 2
    assert "red.png" not in keys(muomni)


def test_ready_vectors_come_with_a_table(muomni: Run, tmp_path: Path) -> None:
    rows = [{"key": f"k{row}", "modality": "image", "row": row} for row in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).standard_normal((5, 256)))
    (report,) = answers(muomni("add", "rows.jsonl", "--vectors", "rows.npy", *HASHING, "-c", "c"))
    assert counts(report) == {"added": 5}
    items = answers(muomni("list", "--where", "row >= 3", "-c", "c"))
    assert [item["key"] for item in items] == ["k3", "k4"]


def test_vanished_files_go_when_asked(muomni: Run, folder: Path) -> None:
    muomni("add", folder, *HASHING, "-c", "c")
    (folder / "dog.txt").unlink()
    assert counts(answers(muomni("add", folder, "-c", "c"))[0]) == {"unchanged": 7}
    (report,) = answers(muomni("add", folder, "--prune", "-c", "c"))
    assert counts(report) == {"unchanged": 7, "removed": 1}
    assert "dog.txt" not in keys(muomni)


def test_pruning_more_than_half_needs_force(muomni: Run, folder: Path) -> None:
    muomni("add", folder, *HASHING, "-c", "c")
    for path in [*folder.glob("*.*"), folder / "notes/owl.md"]:
        path.unlink()
    result = muomni("add", folder, "--prune", "-c", "c")
    assert result.exit_code == 1
    assert "-f" in result.stderr
    assert len(keys(muomni)) == 8
    (report,) = answers(muomni("add", folder, "--prune", "-f", "-c", "c"))
    assert report["removed"] == 7
    assert keys(muomni) == ["notes/sea.txt"]


def test_pruning_a_folder_that_is_gone_needs_force(muomni: Run, folder: Path) -> None:
    muomni("add", folder, *HASHING, "-c", "c")
    shutil.rmtree(folder)
    assert muomni("add", folder, "--prune", "-c", "c").exit_code == 2
    assert len(keys(muomni)) == 8
    (report,) = answers(muomni("add", folder, "--prune", "--force", "-c", "c"))
    assert counts(report) == {"removed": 8}


def test_a_dry_run_counts_and_does_nothing(muomni: Run, folder: Path) -> None:
    (report,) = answers(muomni("add", folder, "-n", *HASHING, "-c", "c"))
    assert counts(report) == {"added": 8}
    assert not Path("c").exists()
    muomni("add", folder, *HASHING, "-c", "c")
    (folder / "dog.txt").write_text("Now it sleeps.")
    (report,) = answers(muomni("add", folder, "--dry-run", "-c", "c"))
    assert counts(report) == {"unchanged": 7, "updated": 1}
    assert answers(muomni("get", "dog.txt", "-c", "c"))[0]["text"] != "Now it sleeps."


def test_what_cannot_be_read_is_listed_and_the_rest_is_in(muomni: Run, folder: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:200])
    (folder / "empty.wav").touch()
    result = muomni("add", folder, *HASHING, "-c", "c")
    (report,) = answers(result)
    assert counts(report) == {"added": 8, "failed": 2}
    lines = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 2
    assert any("broken.png" in line for line in lines)
    failures = answers(muomni("failures", "-c", "c"))
    assert {Path(failure["source"]).name for failure in failures} == {"broken.png", "empty.wav"}
    for failure in failures:
        assert list(failure) == ["source", "error", "hint", "attempts", "last"]
        assert failure["error"]
        assert failure["hint"]
        assert failure["attempts"] == 1


def test_failures_are_tried_again_and_leave_the_list_when_they_work(
    muomni: Run, folder: Path
) -> None:
    (folder / "broken.png").write_bytes(b"no picture at all")
    muomni("add", folder, *HASHING, "-c", "c")
    muomni("add", folder, "-c", "c")
    (failure,) = answers(muomni("failures", "-c", "c"))
    assert failure["attempts"] == 2
    write_picture(folder / "broken.png", 9)
    (report,) = answers(muomni("add", folder, "-c", "c"))
    assert counts(report) == {"added": 1, "unchanged": 8}
    assert answers(muomni("failures", "-c", "c")) == []


def test_a_long_list_of_failures_is_cut(muomni: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"key": \n' * 30)
    result = muomni("add", "rows.jsonl", *HASHING, "-c", "c")
    assert answers(result)[0]["failed"] == 30
    *listed, last = result.stderr.splitlines()
    assert len(listed) == 20
    assert last == "… and 10 more: muomni failures"


def test_strict_names_the_place_once(muomni: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"key": "a"}\n')
    result = muomni("add", "rows.jsonl", "--strict", *HASHING, "-c", "c")
    assert result.exit_code == 1
    assert result.stderr.count("rows.jsonl") == 1


def test_strict_stops_with_1_at_the_first(muomni: Run, folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no picture at all")
    result = muomni("add", folder, "--strict", *HASHING, "-c", "c")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "broken.png" in line
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("limit", "refused"),
    [
        (("--max-pixels", "100"), {"red.png", "blue.jpg"}),
        (("--max-seconds", "2"), {"high.flac"}),
        (("--max-bytes", "20"), None),
    ],
)
def test_limits_turn_large_files_into_failures(
    muomni: Run, folder: Path, limit: tuple[str, str], refused: set[str] | None
) -> None:
    (report,) = answers(muomni("add", folder, *limit, *HASHING, "-c", "c"))
    failures = answers(muomni("failures", "-c", "c"))
    assert report["failed"] == len(failures)
    names = {Path(failure["source"]).name for failure in failures}
    assert names == (refused or names)
    assert names
    assert all(limit[0] in failure["hint"] for failure in failures)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["missing"],
        [".", "--vectors", "missing.npy"],
        [".", "--max-pixels", "0"],
        [".", "--no-such-option"],
    ],
)
def test_a_wrong_call_exits_with_2_and_makes_nothing(muomni: Run, arguments: list[str]) -> None:
    assert muomni("add", *arguments, *HASHING, "-c", "c").exit_code == 2
    assert not Path("c").exists()


def test_an_unknown_model_makes_no_collection(muomni: Run, folder: Path) -> None:
    result = muomni("add", folder, "--model", "no-such-model", "-c", "c")
    assert result.exit_code == 1
    assert "no-such-model" in result.stderr
    assert not Path("c").exists()


def test_another_model_than_the_collections_own_is_refused(muomni: Run, shared: Path) -> None:
    result = muomni("add", shared, "--model", "no-such-model", "-c", shared)
    assert result.exit_code == 1


def test_ctrl_c_says_what_is_safe_and_exits_with_130(muomni: Run, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(3000):
        (many / f"{number}.txt").write_text(f"number {number} " * 2000)
    call = [sys.executable, "-m", "muomni_search", "add", "many", *HASHING, "-c", "c"]
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    while not Path("c/collection.db").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    # Python ends itself by the signal where that came while a module's source was made, as named
    # tuples are: shells call it 130 too.
    assert process.returncode in (130, -signal.SIGINT)
    assert stdout == ""
    assert stderr.splitlines() == [
        "what was committed so far is in and safe; the same command again goes on",
        "muomni: stopped",
    ]
    assert answers(muomni("verify", "-c", "c"))[0]["ok"]


def test_the_time_left_is_known_from_the_start(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' * 7)
    pq.write_table(pa.table({"text": ["a"] * 5}), tmp_path / "rows.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    assert count_inputs([corpus]) == 8
    assert count_inputs([tmp_path / "rows.jsonl", tmp_path / "rows.parquet"]) == 12
    assert count_inputs([corpus / "dog.txt", tmp_path / "broken.parquet"]) == 1
