"""Every command of a collection dies at durable steps; nothing is lost, half there or stuck.

Of a command with many of them, other ones are tried each time; `make crash` tries thousands.

After each death the collection opens and ``verify`` finds no fault; every item is what it was
before the command or what the command makes of it, and is found by search with its own vectors;
what was committed is there; and the same command again completes, with the same result as one
that was never disturbed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from crash_child import DIED, OPERATIONS
from crash_place import Place

# An `add` has some two hundred steps, and a death with all that is checked after it takes a second.
MOST_DEATHS = 16


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "prepare"])
def test_dying_at_any_durable_step_loses_nothing_and_hinders_nothing(
    operation: str, tmp_path: Path, children: Any, count: Any
) -> None:
    place = Place(tmp_path, operation, children)
    deaths = place.undisturbed.instants
    tried = sorted(random.sample(range(1, deaths + 1), min(deaths, MOST_DEATHS)))
    for instant in tried:
        place.restore()
        ended = children.run(operation, place.path, die_at=instant)
        assert (ended.code, ended.instants) == (DIED, instant), ended.error
        place.check_unharmed(
            commits=ended.commits,
            is_damaged=operation == "repair",
            is_staged=operation == "reembed anew",
        )
        again = children.run(operation, place.path)
        assert again.code == 0, again.error
        place.check_done()
    assert deaths >= 2
    count("deaths at a durable step", len(tried))
