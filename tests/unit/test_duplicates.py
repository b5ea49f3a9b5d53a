"""Near-duplicates against every pair compared one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import numpy as np
import pytest

from muomni_search import Collection, Modality, Record, duplicates, find_duplicates
from muomni_search.errors import InvalidInput
from muomni_search.index import coarse, first_pass
from muomni_search.items import DIM
from muomni_search.vectors import normalise

CENTRES, COPIES = 40, 6


def crowd(rng: np.random.Generator) -> np.ndarray:
    """Clusters of vectors at all distances, some equal, some that no other is near to."""
    centres = normalise(rng.standard_normal((CENTRES, DIM)))
    spread = np.repeat(np.linspace(0, 0.04, CENTRES), COPIES)[:, None]
    return normalise(np.repeat(centres, COPIES, axis=0) + spread * rng.standard_normal((240, DIM)))


def records(rows: np.ndarray, modality: str = "image") -> list[Record]:
    return [
        Record(f"{modality}/{n}", Modality(modality), "here", vector=row, metadata={"n": n})
        for n, row in enumerate(rows)
    ]


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection.create(tmp_path / "c", model="hashing") as made:
        yield made


def groups_by_hand(rows: np.ndarray, above: float) -> set[frozenset[int]]:
    """The same by the plainest way there is."""
    alike = rows.astype(np.float64) @ rows.astype(np.float64).T >= above
    groups: list[set[int]] = []
    for n in range(len(rows)):
        touched = [group for group in groups if any(alike[n, other] for other in group)]
        groups = [group for group in groups if group not in touched]
        groups.append({n}.union(*touched))
    return {frozenset(group) for group in groups if len(group) > 1}


@pytest.fixture(params=["floats", "a first pass", "bfloat16", "too many pass"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How vectors are multiplied."""
    pays = request.param != "floats"
    monkeypatch.setattr(first_pass, "is_paying", lambda *_: pays)
    chosen = coarse.BFLOAT16 if request.param == "bfloat16" else coarse.EIGHT_BITS
    monkeypatch.setattr(coarse, "choose", lambda _: chosen)
    monkeypatch.setattr(first_pass, "PASSING_SHARE", 0 if request.param == "too many pass" else 1)
    monkeypatch.setattr(coarse, "ROWS_AT_ONCE", 50)


def test_who_came_first_stands_first(collection: Collection) -> None:
    row = crowd(np.random.default_rng(5))[:1]
    came = [Record(key, Modality.IMAGE, "here", vector=row[0]) for key in ("z", "b", "a")]
    collection.add(came)
    (group,) = find_duplicates(collection)
    assert [item.key for item in group.items] == ["z", "b", "a"]


@pytest.mark.usefixtures("way")
def test_a_limit_that_is_a_cosine_is_reached(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the cosine in float64, whatever the products of fewer bits say."""
    monkeypatch.setattr(duplicates, "BLOCK", 64)
    rows = crowd(np.random.default_rng(3))
    collection.add(records(rows))
    cosines = np.tril(rows.astype(np.float64) @ rows.T.astype(np.float64), -1)
    for cosine in np.sort(cosines[(cosines > 0.7) & (cosines < 0.99)])[::60].tolist():
        for above in (cosine - 1e-7, cosine + 1e-7):
            found = {
                frozenset(int(item.key.split("/")[1]) for item in group.items)
                for group in find_duplicates(collection, above=above)
            }
            assert found == groups_by_hand(rows, above)


@pytest.mark.usefixtures("way")
@pytest.mark.filterwarnings("error")
def test_segments_that_cancel_out_are_like_nothing(collection: Collection, tmp_path: Path) -> None:
    rows = crowd(np.random.default_rng(4))
    collection.add(records(rows))
    expected = len(find_duplicates(collection, above=0.9))
    assert expected
    take = duplicates._Vectors.take

    def with_nothing(self: Any, items: Any) -> np.ndarray:
        found = take(self, items)
        places = np.arange(len(self))[items]
        found[places == 0] = 0
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(duplicates._Vectors, "take", with_nothing)
        groups = find_duplicates(collection, above=0.9)
    assert "image/0" not in {item.key for group in groups for item in group.items}


@pytest.mark.usefixtures("way")
def test_equal_items_are_found_whatever_their_product_rounds_to(collection: Collection) -> None:
    # One large number beside many small ones: float32 loses more of their sum than of others.
    vector = np.full(DIM, 1.7e-4)
    vector[0] = np.sqrt(1 - (DIM - 1) * 1.7e-4**2)
    collection.add(records(np.tile(vector, (400, 1))))
    (group,) = find_duplicates(collection, above=1.0)
    assert len(group.items) == 400


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("block", [7, 64, 4_096])
@pytest.mark.parametrize("above", [0.5, 0.8, 0.95, 1.0])
def test_groups_are_those_of_all_pairs(
    block: int, above: float, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    monkeypatch.setattr(duplicates, "PAIRS", 5 * block)
    rows = crowd(np.random.default_rng(0))
    rows[7] = rows[100]
    collection.add(records(rows))
    stored = np.stack(
        [
            item.vector
            for item in collection.get([f"image/{n}" for n in range(len(rows))], vectors=True)
        ]
    )
    found = find_duplicates(collection, above=above)
    numbers = [frozenset(int(item.key[6:]) for item in group.items) for group in found]
    assert set(numbers) == groups_by_hand(stored, min(above, 1 - 1e-6))
    assert [len(one) for one in numbers] == sorted(map(len, numbers), reverse=True)
    exact = stored.astype(np.float64) @ stored.astype(np.float64).T
    np.fill_diagonal(exact, -1)
    for group in found:
        for item, cosine in zip(group.items, group.cosines, strict=True):
            assert above <= cosine + 1e-6
            assert cosine == pytest.approx(exact[int(item.key[6:])].max(), abs=1e-5)


def test_all_alike_are_one_group(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 50)
    one = normalise(np.random.default_rng(0).standard_normal((1, DIM)))
    collection.add(records(np.repeat(one, 220, axis=0)))
    (group,) = find_duplicates(collection, above=1.0)
    assert len(group.items) == 220
    assert set(group.cosines) == {1.0}


def test_a_chain_is_one_group(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is near to the next alone; the chain runs back and forth through the blocks."""
    monkeypatch.setattr(duplicates, "BLOCK", 10)
    turn = np.linspace(0, 3, 60)
    rows = np.zeros((60, DIM), np.float32)
    rows[:, 0], rows[:, 1] = np.cos(turn), np.sin(turn)
    collection.add(records(rows[np.random.default_rng(1).permutation(60)]))
    (group,) = find_duplicates(collection, above=0.998)
    assert len(group.items) == 60


@pytest.mark.parametrize("way", ["a first pass"], indirect=True)
@pytest.mark.usefixtures("way")
def test_threads_join_their_pairs_one_after_the_other(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that hang one root at once could lose what the other connected."""
    monkeypatch.setattr(coarse, "usable_cores", lambda: 2)
    collection.add(records(crowd(np.random.default_rng(6))))
    two, met, join = Barrier(2), [], duplicates._join

    def waiting_for_another(*pairs: np.ndarray) -> None:
        with suppress(BrokenBarrierError):  # nobody came, nor can anybody any more
            met.append(two.wait(timeout=0.5))
        join(*pairs)

    monkeypatch.setattr(duplicates, "_join", waiting_for_another)
    assert find_duplicates(collection, above=0.5)
    assert two.broken
    assert not met


def test_modalities_are_not_compared_and_can_be_chosen(collection: Collection) -> None:
    rows = crowd(np.random.default_rng(2))[:6]
    collection.add([*records(rows), *records(rows, "audio")])
    found = find_duplicates(collection)
    assert [(group.modality, len(group.items)) for group in found] == [("audio", 6), ("image", 6)]
    (only,) = find_duplicates(collection, modality="audio")
    assert only.modality == "audio"


def test_a_filter_and_deletions_leave_items_out(collection: Collection) -> None:
    collection.add(records(crowd(np.random.default_rng(2))[:6]))
    collection.delete(["image/1"])
    (group,) = find_duplicates(collection, where="n > 2")
    assert [item.key for item in group.items] == ["image/3", "image/4", "image/5"]
    assert find_duplicates(collection, where="n = 2") == []


def test_long_texts_are_compared_by_their_means(collection: Collection) -> None:
    text = " ".join(f"Sentence {n} tells of the number {n}." for n in range(60))
    collection.add(
        [
            Record("long", Modality.TEXT, "here", text=text),
            Record("copy", Modality.TEXT, "here", text=text + " "),
            Record("part", Modality.TEXT, "here", text="Sentence 1 tells of the number 1."),
        ]
    )
    assert collection.stats()["text"]["segments"] > 3
    (group,) = find_duplicates(collection, above=0.999)
    assert {item.key for item in group.items} == {"long", "copy"}


def test_the_first_added_comes_first(collection: Collection) -> None:
    rows = crowd(np.random.default_rng(2))[:2]
    collection.add(records(rows)[1:])
    collection.add(records(rows)[:1])
    (group,) = find_duplicates(collection)
    assert [item.key for item in group.items] == ["image/1", "image/0"]


@pytest.mark.parametrize("above", [0.0, -0.5, 1.01, float("nan")])
def test_limits_that_are_none_are_refused(above: float, collection: Collection) -> None:
    with pytest.raises(InvalidInput, match="above"):
        find_duplicates(collection, above=above)


def test_an_empty_collection_has_none(collection: Collection) -> None:
    assert find_duplicates(collection) == []


def test_a_later_segment_that_is_no_number_is_damage() -> None:
    rows = np.eye(3, 256, dtype=np.float32)
    owners = np.array([7, 7, 8])
    assert duplicates._Vectors(rows, owners, np.arange(3)).are_unit()
    rows[1] = np.nan
    assert not duplicates._Vectors(rows, owners, np.arange(3)).are_unit()
