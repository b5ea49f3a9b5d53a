"""Every command of a collection dies at every durable step; nothing is lost, half there or stuck.

After each death the collection opens and ``verify`` finds no fault; every item is what it was
before the command or what the command makes of it, and is found by search with its own vectors;
what was committed is there; and the same command again completes, with the same result as one
that was never disturbed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crash_child import DIED, OPERATIONS
from crash_place import Place


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "prepare"])
def test_dying_at_any_durable_step_loses_nothing_and_hinders_nothing(
    operation: str, tmp_path: Path, children: Any, count: Any
) -> None:
    place = Place(tmp_path, operation, children)
    deaths = place.undisturbed.instants
    for instant in range(1, deaths + 1):
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
    count("deaths at a durable step", deaths)
