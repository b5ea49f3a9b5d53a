"""`muomni train`: a recipe in, a model out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muomni_search.cli.options import DIRECTORY, INPUT_FILE, Command, json_option
from muomni_search.cli.output import harmless, note, on_terminal, print_json, print_record

if TYPE_CHECKING:
    from muomni_search.bar import Bar

SHOWN_PROBLEMS = 5


@click.command("train", cls=Command, example="muomni train recipe.toml models/birds")
@click.argument("recipe", metavar="RECIPE", type=INPUT_FILE)
@click.argument("directory", metavar="OUT", type=DIRECTORY)
@click.option(
    "--device", default="auto", show_default=True, help="Where to compute: cpu, cuda or mps."
)
@click.option("--threads", type=click.IntRange(min=1), help="How many threads; all by default.")
@click.option("--restart", is_flag=True, help="Forget what was trained here before, begin anew.")
@click.option("--finish", is_flag=True, help="Make a model of the last checkpoint, and stop.")
@json_option
def command(
    recipe: Path,
    directory: Path,
    device: str,
    threads: int | None,
    restart: bool,
    finish: bool,
    as_json: bool,
) -> None:
    """Train μOmni's encoders as a recipe says.

    RECIPE is a TOML file that names tables of examples (columns text, image and audio; one, two
    or three a row) and the towers to train. OUT becomes a model: weights, tokenizer,
    configuration, log, curves and a card. After an interruption the same command goes on where
    it stopped.
    """
    from muomni_search import read_recipe, train
    from muomni_search.bar import Bar

    with Bar("steps", lambda: None) as bar:
        training = train(
            read_recipe(recipe),
            directory,
            device=device,
            threads=threads,
            restart=restart,
            finish=finish,
            progress=_Shown(bar),
        )
    for problem in training.problems[:SHOWN_PROBLEMS]:
        note(f"skipped {problem.error}")
    if len(training.problems) > SHOWN_PROBLEMS:
        note(f"skipped {len(training.problems) - SHOWN_PROBLEMS} more rows")
    answer = {"model": str(training.directory), **training.report}
    (print_record if on_terminal(as_json) else print_json)(answer)


class _Shown:
    """Progress of a training on a bar; what was measured stays above it."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._stage, self._done = "", 0
        self._reported = 0
        self._first: tuple[float, int] | None = None  # when this run had done how many steps

    def stage(self, name: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        if name != self._stage:
            self._bar.start(total, name)
            self._stage, self._done = name, 0
        self._bar.advance(done - self._done)
        self._done = done

    def step(self, done: int, total: int, facts: Mapping[str, Any]) -> None:
        """Show the loss; and a line for each measurement, which stays."""
        self.stage("training", done, total)
        self._bar.label(f"training, loss {facts['loss']:.3f}")
        if facts.get("step", 0) > self._reported:
            self._reported = facts["step"]
            told = f"step {done}: loss {facts['loss']:.3f}{_found(facts['held_out'])}"
            self.note(told + self._left(done, total))

    def _left(self, done: int, total: int) -> str:
        """Say how long it takes at this pace, where no bar may be shown."""
        now = time.monotonic()
        start, steps = self._first = self._first or (now, done)
        if not steps < done < total:
            return ""
        minutes = (now - start) / (done - steps) * (total - done) / 60
        return f"; {minutes:.1f} minutes left"

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.note(harmless(line))


def _found(held_out: Mapping[str, Any]) -> str:
    parts = [
        f"{name} mean reciprocal rank {value['mrr']:.3f}"
        if isinstance(value, dict)
        else f"{name.replace('_', ' ')} {value:.3f}"
        for name, value in held_out.items()
    ]
    return "".join(f"; {part}" for part in parts)
