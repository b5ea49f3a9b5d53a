"""A progress bar, with rate and time left: on stderr, or below the cell of a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from muomni_search.closing import Closing

# Redrawing costs far more than the fastest step (ready vectors come in by 50,000 a second).
REDRAW_SECONDS = 0.1


class _Rate(ProgressColumn):
    """Steps a second, in the unit of the job."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text(f"– {self._unit}/s")
        return Text(f"{speed:,.{0 if speed >= 10 else 1}f} {self._unit}/s")


class Bar(Closing):
    """Shows the stages of a long job; gone when the job ends.

    Args:
        unit: What a step is, in the plural: ``items``.
        estimate: Says how many steps there will be where the job itself cannot.
    """

    def __init__(self, unit: str, estimate: Callable[[], int | None]) -> None:
        self._estimate = estimate
        console = Console(stderr=True)
        # What Rich draws a bar with that moves; without it there would be a warning for each step.
        in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (console.is_interactive or in_notebook),
        )
        self._task = self._bars.add_task("", start=False, visible=False)
        self._left: int | None = None
        self._pending = 0
        self._drawn = 0.0

    def close(self) -> None:
        """Take the bar away."""
        if self._bars.live.is_started:
            self._bars.stop()

    def start(self, total: int | None, label: str) -> None:
        """Begin a stage of ``total`` steps, or of unknown length."""
        # Only now: a bar that never drew anything would leave an empty line.
        self._bars.start()
        self._bars.remove_task(self._task)
        self._left = self._estimate() if total is None else total
        self._task = self._bars.add_task(label, total=self._left)

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` steps as done."""
        self._pending += steps
        if self._left is not None:
            self._left -= steps
        # The last one too, for what comes behind it may take a while.
        if self._left == 0 or time.monotonic() - self._drawn > REDRAW_SECONDS:
            self._draw()

    def label(self, label: str) -> None:
        """Call the stage something else."""
        self._bars.update(self._task, description=label)

    def note(self, line: str) -> None:
        """Print a line above the bar, which stays."""
        self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def finish(self) -> None:
        """End the stage; what is printed now takes the bar's place."""
        self._draw()
        self._bars.stop()

    def _draw(self) -> None:
        self._bars.advance(self._task, self._pending)
        self._pending = 0
        self._drawn = time.monotonic()
