"""The commands `align` and `reembed`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Run, answers
from model_helpers import write_aligned_model
from PIL import Image

from muomni_search.cli import output

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 210)}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        name = list(COLOURS)[number % 3]
        pixels = np.array(COLOURS[name]) + rng.integers(-20, 20, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append({"text": name, "image": f"{number}.png"})
    rows.append({"text": "red", "image": "gone.png"})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_are_learned_and_a_collection_moves_to_the_model(
    muomni: Run, pairs: Path, collection: Path
) -> None:
    result = muomni("align", pairs, "colours", "-c", collection, "--folds", "2")
    (report,) = answers(result)
    assert report["pairs"] == 12
    assert report["failed"] == 1
    assert Path(report["model"]).name == "colours"
    assert report["retrieval"][0]["after"]["mrr"] > report["retrieval"][0]["before"]["mrr"]
    assert report["drift_of"] == str(collection)
    assert "gone.png" in result.stderr

    before = answers(muomni("list", "-c", collection))
    (moved,) = answers(muomni("reembed", "--model", "colours", "-c", collection))
    assert (moved["how"], moved["items"], moved["dropped"]) == ("mapped", 8, 0)
    assert answers(muomni("list", "-c", collection)) == before
    assert answers(muomni("verify", "-c", collection))[0]["ok"]
    (stats,) = answers(muomni("stats", "-c", collection))
    assert Path(stats["model"]["name"]).name == "colours"
    (checked,) = answers(muomni("model", "check", "colours"))
    assert checked["encodes"] == {"text": True, "image": True, "audio": True}
    assert checked["parts"]["mapped"] == ["image"]

    result = muomni("align", pairs, "colours", "--model", "hashing")
    assert result.exit_code == 1
    assert "not empty" in result.stderr


def test_a_terminal_gets_a_table(muomni: Run, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from muomni_search.cli import align

    monkeypatch.setattr(align, "on_terminal", lambda as_json: not as_json)
    monkeypatch.setattr(output, "stdout_console", lambda: wide_console())
    result = muomni("align", pairs, "colours", "--model", "hashing", "--folds", "2")
    assert result.exit_code == 0, result.stderr
    assert "text → image" in result.stdout
    assert "mean cosine: image" in result.stdout
    assert "colours written from 12 pairs" in result.stdout


def test_refinement_is_tried_on_demand_and_told_of(muomni: Run, pairs: Path) -> None:
    told = "refinement did not help"
    for options in ([], ["--refine"]):
        name = f"colours{len(options)}"
        result = muomni("align", pairs, name, "--model", "hashing", "--folds", "2", *options)
        (report,) = answers(result)
        assert (report["refined"] or told in result.stderr) is bool(options)


def wide_console() -> object:
    import sys

    from rich.console import Console

    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False, width=200)


def test_what_gains_nothing_is_no_model_and_an_error(muomni: Run, pairs: Path) -> None:
    words = [
        "nine",
        "two",
        "six",
        "one",
        "ten",
        "four",
        "five",
        "eight",
        "three",
        "seven",
        "o",
        "x",
    ]
    rows = [{"text": word, "image": f"{number}.png"} for number, word in enumerate(words)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = muomni("align", pairs, "colours", "--model", "hashing", "--folds", "2")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["model"] is None
    assert "nothing is gained" in result.stderr.splitlines()[-1]
    assert not Path("colours").exists()


def test_items_without_a_source_stand_in_the_way_until_they_may_go(
    muomni: Run, collection: Path, tmp_path: Path
) -> None:
    model = write_aligned_model(tmp_path / "model")
    np.save("rows.npy", np.eye(1, 256, dtype=np.float32))
    Path("rows.jsonl").write_text('{"key": "v", "modality": "image"}\n')
    answers(muomni("add", "rows.jsonl", "--vectors", "rows.npy", "-c", collection))
    answers(muomni("reembed", "--model", model, "-c", collection))
    result = muomni("reembed", "--model", "hashing", "-c", collection)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "1 item cannot be encoded anew: v: it came as a ready vector" in line
    assert "--drop-missing" in line
    result = muomni("reembed", "--model", "hashing", "--drop-missing", "-c", collection)
    (moved,) = answers(result)
    assert (moved["how"], moved["items"], moved["dropped"]) == ("encoded", 8, 1)
    assert "dropped: v" in result.stderr
    (failure,) = answers(muomni("failures", "-c", collection))
    assert failure["error"].startswith("v: ")


def test_usage(muomni: Run, pairs: Path, collection: Path) -> None:
    assert muomni("align", "nowhere.csv", "out").exit_code == 2
    assert muomni("align", pairs, "out", "--folds", "1").exit_code == 2
    assert muomni("align", pairs, "out", "--pull", "nan").exit_code == 2
    assert muomni("reembed", "-c", collection).exit_code == 2
    assert muomni("reembed", "--model", "nowhere", "-c", collection).exit_code == 1
    assert muomni("reembed", "--model", "hashing", "-c", "nowhere").exit_code == 1


def test_another_encoder_is_brought_in(muomni: Run, pairs: Path, collection: Path) -> None:
    result = muomni(
        *("align", pairs, "lent", "--model", "hashing", "--folds", "2"),
        *("--encoder", "image=hashing"),
    )
    (report,) = answers(result)
    assert report["encoders"]["image"]["name"] == "hashing"
    assert report["agreement"]["image"] > 0
    (checked,) = answers(muomni("model", "check", "lent"))
    assert checked["parts"]["encoders"]["image"]["source"] == "model"
    (moved,) = answers(muomni("reembed", "--model", "lent", "-c", collection, "--drop-missing"))
    assert moved["how"] == "encoded"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["image"], "text|image|audio=ENCODER"),
        (["smell=hashing"], "text|image|audio=ENCODER"),
        (["image="], "text|image|audio=ENCODER"),
        (["image=hashing", "image=base"], "given twice"),
    ],
)
def test_encoders_that_are_none_are_refused(
    given: list[str], said: str, muomni: Run, pairs: Path
) -> None:
    result = muomni("align", pairs, "lent", *(part for one in given for part in ("--encoder", one)))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("│", "").split())
