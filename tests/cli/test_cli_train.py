"""The command `train`, from a recipe to a model."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cli_helpers import Run, answers, on_terminal, plain
from training_helpers import RECIPE, TEACHER, write_pairs

from muomni_search.cli import train
from muomni_search.cli.train import SHOWN_PROBLEMS
from muomni_search.training import trainer


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_pairs(tmp_path)
    path = tmp_path / "toy.toml"
    path.write_text(RECIPE + TEACHER, encoding="utf-8")
    return path


def test_a_recipe_becomes_a_model_and_what_was_measured_stays_on_stderr(
    muomni: Run, recipe: Path
) -> None:
    with (recipe.parent / "pairs.jsonl").open("a") as table:
        table.writelines(f'\n{{"image": "gone{n}.png"}}' for n in range(SHOWN_PROBLEMS + 2))
    result = muomni("train", recipe, "toy", "--threads", "1")
    (report,) = answers(result)
    assert report["model"] == "toy"
    assert (report["steps"], report["planned_steps"], report["threads"]) == (4, 4, 1)
    assert report["skipped_rows"] == SHOWN_PROBLEMS + 2

    lines = result.stderr.splitlines()
    measured = [line for line in lines if line.startswith("step ")]
    assert [line.partition(":")[0] for line in measured] == ["step 2", "step 4"]
    last = report["last"]
    assert measured[-1].startswith(f"step 4: loss {last['loss']:.3f}; ")
    for direction in ("text→image", "audio→text"):
        found = last["held_out"][direction]["mrr"]
        assert f"; {direction} mean reciprocal rank {found:.3f}" in measured[-1]
    assert f"; cosine audio {last['held_out']['cosine_audio']:.3f}" in measured[-1]
    skipped = [line for line in lines if line.startswith("skipped ")]
    assert all("gone" in line for line in skipped[:-1])
    assert (len(skipped), skipped[-1]) == (SHOWN_PROBLEMS + 1, "skipped 2 more rows")

    (checked,) = answers(muomni("model", "check", "toy"))
    assert checked["encodes"] == {"text": True, "image": True, "audio": True}
    again = muomni("train", recipe, "toy")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "holds a model already" in again.stderr


def test_each_measurement_says_how_long_it_still_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    nothing = dict.fromkeys(("start", "advance", "label"), lambda *_: None)
    bar = cast("Any", SimpleNamespace(**nothing, note=lines.append))
    shown = train._Shown(bar)
    moments = iter([100.0, 160.0, 400.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    for done in (50, 60, 100):
        shown.step(done, 100, {"loss": 1.0, "step": done, "held_out": {}})
    assert lines == [
        "step 50: loss 1.000",
        "step 60: loss 1.000; 4.0 minutes left",
        "step 100: loss 1.000",
    ]


def test_a_terminal_gets_a_bar_and_a_record(recipe: Path) -> None:
    code, shown = on_terminal("train", recipe, "toy", columns=120)
    assert code == 0, shown
    printed = plain(shown)
    assert re.search(r"training(, loss \d+\.\d{3})? ━.* 4/4 ", printed)
    assert re.search(r"[\r\n]step 4: loss \d+\.\d{3}; ", printed)
    assert re.search(r"[\r\n]planned_steps +4\s", printed)
    assert Path("toy/model.json").exists()


def test_a_training_that_was_cut_short_is_finished_or_begun_anew(
    muomni: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = muomni("train", recipe, "toy", "--finish")
    assert result.exit_code == 1
    assert "nothing was trained yet: leave --finish out" in result.stderr
    take = trainer._Run._step
    with monkeypatch.context() as patched:

        def stopped(run: trainer._Run, number: int) -> dict[str, float]:
            if number == 3:
                raise trainer.TrainingError("the power went")
            return take(run, number)

        patched.setattr(trainer._Run, "_step", stopped)
        result = muomni("train", recipe, "toy")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.splitlines()[-1] == "muomni: error: the power went"
    result = muomni("train", recipe, "toy", "--restart", "--finish")
    assert result.exit_code == 1
    assert "restart and finish together" in result.stderr
    result = muomni("train", recipe, "toy", "--finish")
    (report,) = answers(result)
    assert (report["steps"], report["planned_steps"]) == (2, 4)
    assert "going on after step 2" in result.stderr


def test_a_device_that_is_not_there_is_one_line(muomni: Run, recipe: Path) -> None:
    result = muomni("train", recipe, "toy", "--device", "abacus")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("muomni: error: there is no device 'abacus'")
    assert not Path("toy/model.json").exists()
