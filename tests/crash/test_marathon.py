"""A little of what `make crash` does at length (see `marathon.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from marathon import Run, prepared


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with prepared(tmp_path_factory.mktemp("marathon"), seed=20) as run:
        yield run


@pytest.mark.parametrize(("kind", "number"), [("deaths", 20), ("kills", 4), ("faults", 8)], ids=str)
def test_a_collection_lives_through_it_and_has_what_its_ledger_says(
    run: Run, count: Any, kind: str, number: int
) -> None:
    counts = dict.fromkeys(("deaths", "kills", "faults", "flips"), 0)
    run.go({**counts, kind: number}, lambda _: None)
    survived = run.life.count(kind)
    assert survived >= number
    count(f"{kind} amid random orders", survived)


def test_damage_of_any_file_is_seen_and_kills_nobody(run: Run, count: Any) -> None:
    run.go({"deaths": 0, "kills": 0, "faults": 0, "flips": 15}, lambda _: None)
    count("damages", 15)
    assert run.damage.counts
