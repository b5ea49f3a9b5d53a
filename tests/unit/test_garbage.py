"""How often Python looks for cycles while much is added."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from muomni_search.collection import Collection
from muomni_search.garbage import RARELY, rare_collections
from muomni_search.items import Modality, Record


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_whoever_is_last_puts_it_back() -> None:
    gc.set_threshold(701, 11, 12)
    first, second = rare_collections(), rare_collections()
    with first:
        assert gc.get_threshold() == (RARELY, 11, 12)
        second.__enter__()
    assert gc.get_threshold() == (RARELY, 11, 12)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (701, 11, 12)


@pytest.mark.parametrize("chosen", [0, RARELY + 1])
def test_nobody_is_asked_to_collect_more_often(chosen: int) -> None:
    gc.set_threshold(chosen, 10, 10)
    with rare_collections():
        assert gc.get_threshold()[0] == chosen
    assert gc.get_threshold()[0] == chosen


def test_what_was_chosen_meanwhile_is_kept() -> None:
    with rare_collections():
        gc.set_threshold(5_000, 10, 10)
    assert gc.get_threshold() == (5_000, 10, 10)


def test_an_addition_that_fails_puts_it_back(tmp_path: Path) -> None:
    gc.set_threshold(701, 11, 12)
    seen = []

    def records() -> Iterator[Record]:
        seen.append(gc.get_threshold()[0])
        yield Record("a", Modality.TEXT, "made up", text="a")
        raise OSError("the disk is gone")

    with (
        Collection.create(tmp_path / "c", model="hashing") as collection,
        pytest.raises(OSError, match="the disk is gone"),
    ):
        collection.add(records())
    assert seen == [RARELY]
    assert gc.get_threshold() == (701, 11, 12)
