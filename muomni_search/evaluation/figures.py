"""A figure: one measured number, what it is of, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.metrics import Values, bootstrap_draws, interval_of, mean

__all__ = ["Figure", "Report", "differences", "estimate"]


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """One measured number.

    Args:
        of: What was measured: ``{"asking": "text", "asked": "image"}``.
        metric: How: ``recall@10``.
        n: Of how many queries, pairs or items.
        value: The number; NaN where the metric has none (a correlation with a constant).
        draws: The metric of the same units drawn again, for its interval; None for a number that
            says nothing when it is of units drawn twice.
    """

    of: Mapping[str, str]
    metric: str
    n: int
    value: float
    draws: Values | None = field(default=None, repr=False)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % bootstrap interval, where there is one."""
        return None if self.draws is None else interval_of(self.draws)

    def as_dict(self) -> dict[str, Any]:
        """Return the figure as the JSON object that ``muomni eval`` prints."""
        low, high = self.interval or (None, None)
        numbers = {"value": self.value, "low": low, "high": high}
        return {
            **self.of,
            "metric": self.metric,
            "n": self.n,
            **{name: _finite(number) for name, number in numbers.items()},
        }


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What was measured, and what could not be and why."""

    figures: Sequence[Figure]
    notes: Sequence[str] = ()


def estimate(
    of: Mapping[str, str],
    metric: str,
    rows: NDArray[Any],
    statistic: Callable[[NDArray[Any]], float] = mean,
) -> Figure:
    """Return a statistic of units (a row each), with the bootstrap over them."""
    draws = bootstrap_draws(rows, statistic)
    return Figure(of, metric, len(rows), statistic(rows), draws)


def differences(first: Sequence[Figure], second: Sequence[Figure]) -> list[Figure]:
    """Return what ``second`` has more than ``first``, figure by figure, by a paired bootstrap.

    Both must be measured on the same units in the same order; figures that only one of them has
    are left out.
    """
    known = {_name(figure): figure for figure in first}
    found = []
    for figure in second:
        other = known.get(_name(figure))
        if other is None or other.n != figure.n:
            continue
        is_drawn = figure.draws is not None and other.draws is not None
        draws = np.subtract(figure.draws, other.draws) if is_drawn else None  # type: ignore[arg-type]
        found.append(Figure(figure.of, figure.metric, figure.n, figure.value - other.value, draws))
    return found


def _name(figure: Figure) -> tuple[object, ...]:
    return (*sorted(figure.of.items()), figure.metric)


def _finite(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else number
