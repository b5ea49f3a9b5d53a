"""What is told of a long job's progress, and by whom nothing."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """What is told of a long job's progress."""

    def start(self, total: int | None, label: str) -> None:
        """Begin a stage of ``total`` steps, or of unknown length."""
        ...

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` steps as done."""
        ...

    def finish(self) -> None:
        """End the stage."""
        ...


class Silent:
    """A progress that says nothing."""

    def start(self, total: int | None, label: str) -> None:
        """Say nothing."""

    def advance(self, steps: int = 1) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""
