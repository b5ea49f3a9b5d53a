"""`muomni train`: a recipe in, a model out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import click

from muomni_search.cli.options import DIRECTORY, INPUT_FILE, Command, json_option
from muomni_search.cli.output import harmless, note, on_terminal, print_json, print_record

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

    with _Shown() as progress:
        training = train(
            read_recipe(recipe),
            directory,
            device=device,
            threads=threads,
            restart=restart,
            finish=finish,
            progress=progress,
        )
    for problem in training.problems[:SHOWN_PROBLEMS]:
        note(f"skipped {problem.error}")
    if len(training.problems) > SHOWN_PROBLEMS:
        note(f"skipped {len(training.problems) - SHOWN_PROBLEMS} more rows")
    answer = {"model": str(training.directory), **training.report}
    (print_record if on_terminal(as_json) else print_json)(answer)


class _Shown:
    """Progress on stderr: a bar with the loss and what was found, where it is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeLeft(),
            TextColumn("{task.fields[facts]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bars.add_task("reading", total=None, facts="")
        self._reported = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, name: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        self._bars.update(self._task, description=name, completed=done, total=total, facts="")

    def step(self, done: int, total: int, facts: Mapping[str, Any]) -> None:
        """Show the loss; and a line for each measurement, which stays."""
        self._bars.update(
            self._task,
            description="training",
            completed=done,
            total=total,
            facts=f"loss {facts['loss']:.3f}",
        )
        if facts.get("step", 0) > self._reported:
            self._reported = facts["step"]
            self.note(f"step {done}: loss {facts['loss']:.3f}{_found(facts['held_out'])}")

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(harmless(line), markup=False, highlight=False, soft_wrap=True)


def _found(held_out: Mapping[str, Any]) -> str:
    parts = [
        f"{name} success@10 {value['success@10']:.3f}"
        if isinstance(value, dict)
        else f"{name.replace('_', ' ')} {value:.3f}"
        for name, value in held_out.items()
    ]
    return "".join(f"; {part}" for part in parts)
