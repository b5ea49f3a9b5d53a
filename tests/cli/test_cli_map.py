"""`muomni map`: pages and pictures, what is asked for on the command line, what is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import Run, answers

FIELDS = [
    "outputs", "points", "found", "method", "seed", "centred", "color", "groups", "seconds",
]  # fmt: skip


def test_several_files_are_written_and_a_summary_printed(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    result = muomni(
        "map", "a.html", "a.png", "a.svg", "-c", shared, "--method", "pca", "--no-centre",
        "--seed", 7,
    )  # fmt: skip
    (told,) = answers(result)
    assert list(told) == FIELDS
    assert told["outputs"] == ["a.html", "a.png", "a.svg"]
    assert (told["points"], told["found"], told["method"], told["seed"]) == (8, 8, "pca", 7)
    assert told["groups"] == {"text": 4, "image": 2, "audio": 2}
    assert told["centred"] is False
    assert not result.stderr
    assert (tmp_path / "a.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


def test_a_neighbourhood_takes_the_parts_of_a_search(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    arguments = ["--near", "a dog", "--id", "notes/owl.md", "--minus", "text:sea", "-k", 3]
    (told,) = answers(muomni("map", "a.html", "-c", shared, "--method", "pca", *arguments))
    assert told["points"] == 3
    page = (tmp_path / "a.html").read_text()
    assert "a dog + notes/owl.md − sea" in page
    assert '"rank 1, score ' in page


def test_filters_samples_and_fallbacks_are_told(muomni: Run, shared: Path) -> None:
    result = muomni("map", "a.html", "-c", shared, "--modality", "text", "--limit", 3)
    (told,) = answers(result)
    assert (told["points"], told["found"], told["method"]) == (3, 4, "pca")
    assert "too few different points for umap: laid out by pca" in result.stderr
    assert "a sample of 3 of 4 points" in result.stderr
    result = muomni("map", "a.html", "-c", shared, "--where", "key contains 'nothing'")
    assert result.exit_code == 1
    assert "no item to show" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.pdf"], 1, "no name of a map"),
        (["nowhere/a.png"], 1, "there is no folder nowhere"),
        (["a.html", "--color", "colour"], 1, "no point has a field 'colour'"),
        (["a.html", "--id", "lark"], 1, "no item 'lark'"),
        (["a.html", "--min-dist", "3", "--method", "pca"], 2, "is not at least 0 and at most 1"),
        (["a.html", "--method", "mds"], 2, "mds"),
        (["a.html", "--seed", "-1"], 2, "seed"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_nothing_written(
    muomni: Run, shared: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    result = muomni("map", *arguments, "-c", shared)
    assert result.exit_code == code
    assert message in result.stderr
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".html", ".png", ".pdf")]


def test_the_collections_own_files_are_safe(muomni: Run, collection: Path) -> None:
    result = muomni("map", collection / "vectors" / "a.png", "-c", collection)
    assert result.exit_code == 1
    assert "keeps its own files" in result.stderr
