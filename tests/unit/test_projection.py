"""Maps that are learned from pairs, on vectors of which the right map is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search import projection
from muomni_search.errors import InvalidInput
from muomni_search.items import DIM, Modality
from muomni_search.projection import (
    MIN_PAIRS,
    Pairs,
    apply_map,
    choose_anchor,
    compare_retrieval,
    learnable,
)
from muomni_search.vectors import normalise

TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO
# Two folds, for the sake of time.
learn = partial(projection.learn, folds=2)


def rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]


def unit(rng: np.random.Generator, n: int, rank: int = 20) -> NDArray[np.float32]:
    """Unit rows in a space of fewer dimensions, as those of real contents lie."""
    basis = np.random.default_rng(1).standard_normal((rank, DIM))
    return normalise(rng.standard_normal((n, rank)) @ basis)


def pairs_of(
    vectors: Mapping[Modality, NDArray[Any]], contents: Mapping[Modality, list[int]] | None = None
) -> Pairs:
    count = len(next(iter(vectors.values())))
    numbers = {one: np.arange(count) for one in vectors}
    numbers |= {one: np.array(some) for one, some in (contents or {}).items()}
    return Pairs(vectors, numbers)


def turned(rng: np.random.Generator, n: int, noise: float = 0.05) -> Pairs:
    """Texts, and pictures that are the same vectors, turned, with some noise."""
    texts = unit(rng, n)
    pictures = normalise(texts @ rotation(np.random.default_rng(2)))
    pictures = normalise(pictures + noise * rng.standard_normal(pictures.shape) / 16)
    return pairs_of({TEXT: texts, IMAGE: pictures})


def mrr(found: list[dict[str, Any]], which: str) -> list[float]:
    return [one[which]["mrr"] for one in found]


def test_a_turned_modality_is_turned_back_and_others_of_it_too(rng: np.random.Generator) -> None:
    learned = learn(turned(rng, 80), anchor=TEXT)
    assert set(learned.maps) == {IMAGE}
    assert not math.isinf(learned.pulls[IMAGE])
    assert max(mrr(learned.retrieval, "before")) < 0.2
    assert min(mrr(learned.retrieval, "after")) > 0.9
    assert all(one["mrr_gain_interval"][0] > 0.5 for one in learned.retrieval)
    found = compare_retrieval(turned(rng, 60), learned.maps)
    assert min(mrr(found, "after")) > 0.9


def test_what_has_nothing_to_do_with_each_other_stays_as_it_was(rng: np.random.Generator) -> None:
    learned = learn(pairs_of({TEXT: unit(rng, 60), AUDIO: unit(rng, 60, 200)}), anchor=TEXT)
    assert learned.maps == {}
    assert learned.pulls == {AUDIO: math.inf}
    assert "audio gains nothing" in learned.notes[0]
    assert mrr(learned.retrieval, "before") == mrr(learned.retrieval, "after")


def test_a_gain_must_be_a_sure_one(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = turned(rng, 80)
    assert set(learn(pairs, anchor=TEXT).maps) == {IMAGE}
    # As though the same pairs told far less.
    monkeypatch.setattr(projection, "SURE", 1_000.0)
    learned = learn(pairs, anchor=TEXT)
    assert learned.maps == {}
    assert "image gains nothing sure" in learned.notes[0]
    assert set(learn(pairs, anchor=TEXT, pull=1.0).maps) == {IMAGE}


def test_a_modality_that_gains_is_mapped_beside_one_that_does_not(rng: np.random.Generator) -> None:
    pairs = turned(rng, 80)
    pairs = pairs_of({**pairs.vectors, AUDIO: unit(rng, 80, 200)})
    learned = learn(pairs, anchor=TEXT)
    assert set(learned.maps) == {IMAGE}


def test_a_pull_that_is_given_is_taken_whatever_it_gains(rng: np.random.Generator) -> None:
    pairs = pairs_of({TEXT: unit(rng, 60), AUDIO: unit(rng, 60, 200)})
    learned = learn(pairs, anchor=TEXT, pull=10.0)
    assert learned.pulls == {AUDIO: 10.0}
    assert set(learned.maps) == {AUDIO}


def test_the_closed_form_is_the_least_of_its_sum(rng: np.random.Generator) -> None:
    """Its gradient is zero: Xᵀ(XW − T) + λ(W − I) = 0, with λ = pull · n / d."""
    pairs = turned(rng, 40)
    weights = learn(pairs, anchor=TEXT, pull=3.0).maps[IMAGE].astype(np.float64)
    x, t = (pairs.vectors[one].astype(np.float64) for one in (IMAGE, TEXT))
    gradient = x.T @ (x @ weights - t) + 3.0 * 40 / DIM * (weights - np.eye(DIM))
    assert np.abs(gradient).max() < 1e-6


def test_a_strong_pull_changes_little_and_a_weak_one_much(rng: np.random.Generator) -> None:
    pairs = turned(rng, 100)
    moved = [
        float(np.linalg.norm(learn(pairs, anchor=TEXT, pull=pull).maps[IMAGE] - np.eye(DIM)))
        for pull in (300.0, 10.0, 0.1)
    ]
    assert moved == sorted(moved)


def test_the_same_seed_gives_the_same_maps(rng: np.random.Generator) -> None:
    pairs = turned(rng, 60)
    one, other = (learn(pairs, anchor=TEXT, seed=3) for _ in range(2))
    assert one.maps[IMAGE].tobytes() == other.maps[IMAGE].tobytes()
    assert one.retrieval == other.retrieval


def test_what_never_stands_beside_the_anchor_is_brought_to_what_does(
    rng: np.random.Generator,
) -> None:
    """Text–picture pairs and picture–sound pairs; sounds and texts are never seen together."""
    meanings = unit(rng, 160)
    turn = rotation(np.random.default_rng(2)), rotation(np.random.default_rng(3))
    vectors = {
        TEXT: np.where(np.arange(160)[:, None] < 80, meanings, 0).astype(np.float32),
        IMAGE: normalise(meanings @ turn[0]),
        AUDIO: np.where(np.arange(160)[:, None] < 80, 0, normalise(meanings @ turn[1])).astype(
            np.float32
        ),
    }
    numbers = list(range(160))
    contents = {
        TEXT: numbers[:80] + [-1] * 80,
        IMAGE: numbers,
        AUDIO: [-1] * 80 + numbers[80:],
    }
    pairs = pairs_of(vectors, contents)
    assert learnable(pairs, TEXT) == [IMAGE, AUDIO]
    learned = learn(pairs, anchor=TEXT)
    new = unit(rng, 50)
    tested = pairs_of({TEXT: new, AUDIO: normalise(new @ turn[1])})
    found = compare_retrieval(tested, learned.maps)
    assert min(mrr(found, "after")) > 0.8 > 0.3 > max(mrr(found, "before"))


def test_fewer_pairs_than_the_least_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InvalidInput, match=f"{MIN_PAIRS} pairs"):
        learn(turned(rng, MIN_PAIRS - 1), anchor=TEXT)
    assert learn(turned(rng, MIN_PAIRS), anchor=TEXT).pulls


def test_rows_with_one_picture_are_never_told_apart_and_those_with_one_text_are() -> None:
    vectors = {TEXT: np.zeros((4, DIM), np.float32), IMAGE: np.zeros((4, DIM), np.float32)}
    groups = pairs_of(vectors, {TEXT: [0, 0, 1, 2], IMAGE: [0, 1, 1, 2]}).groups()
    assert groups[1] == groups[2]
    assert len(set(groups.tolist())) == 3


def test_any_of_the_pictures_of_a_name_is_a_find(rng: np.random.Generator) -> None:
    texts = np.repeat(unit(rng, 2), 3, axis=0)
    found = compare_retrieval(
        pairs_of({TEXT: texts, IMAGE: texts[[1, 2, 0, 4, 5, 3]]}, {TEXT: [0, 0, 0, 1, 1, 1]}),
        {},
    )
    assert mrr(found, "before") == [1.0, 1.0]


def test_a_map_that_makes_all_alike_finds_nothing(rng: np.random.Generator) -> None:
    flat = np.zeros((DIM, DIM), np.float32)
    flat[:, 0] = 1.0
    texts = np.abs(unit(rng, 20))
    found = compare_retrieval(pairs_of({TEXT: texts, IMAGE: texts}), {IMAGE: flat})
    assert mrr(found, "before") == [1.0, 1.0]
    assert max(mrr(found, "after")) < 0.3


def drowned(rng: np.random.Generator, n: int, loudness: float, noise: float) -> Pairs:
    """Pictures in which one direction that says nothing is louder than those that do."""
    texts = unit(rng, n)
    loud = rng.standard_normal((n, 1)) * rng.standard_normal(DIM)
    pictures = texts @ rotation(np.random.default_rng(2)) + loudness * loud
    pictures = normalise(pictures + noise * rng.standard_normal((n, DIM)))
    return pairs_of({TEXT: texts, IMAGE: pictures})


def test_refinement_finds_what_least_squares_cannot(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "STEPS", 60)
    pairs = drowned(rng, 150, 2.0, 0.05)
    plain = learn(pairs, anchor=TEXT)
    refined = learn(pairs, anchor=TEXT, refine=True)
    assert refined.refined
    assert sum(mrr(refined.retrieval, "after")) > sum(mrr(plain.retrieval, "after")) + 0.05
    assert not np.array_equal(refined.maps[IMAGE], plain.maps[IMAGE])


def test_refinement_that_does_not_help_is_not_kept(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "STEPS", 60)
    pairs = drowned(rng, 100, 0.35, 0.0)
    plain = learn(pairs, anchor=TEXT)
    refined = learn(pairs, anchor=TEXT, refine=True)
    assert not refined.refined
    assert any("refinement did not help" in note for note in refined.notes)
    assert np.array_equal(refined.maps[IMAGE], plain.maps[IMAGE])


def test_refinement_of_one_picture_with_many_names_is_the_closed_form(
    rng: np.random.Generator,
) -> None:
    texts = unit(rng, 8)
    pairs = pairs_of({TEXT: texts, IMAGE: np.repeat(texts[:1], 8, axis=0)}, {IMAGE: [0] * 8})
    refined = learn(pairs, anchor=TEXT, pull=1.0, refine=True)
    assert set(refined.maps) == {IMAGE}


def test_rows_have_to_do_with_each_other_by_any_content() -> None:
    vectors = {TEXT: np.zeros((5, DIM), np.float32), IMAGE: np.zeros((5, DIM), np.float32)}
    related = pairs_of(vectors, {TEXT: [0, 0, 1, 2, -1], IMAGE: [3, 4, 4, 5, 6]}).related()
    assert len(set(related[:3].tolist())) == 1
    assert len(set(related.tolist())) == 3


def test_of_very_many_pairs_a_sample_is_compared(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "EVALUATED_ROWS", 20)
    found = compare_retrieval(turned(rng, 60), {})
    assert [one["queries"] for one in found] == [20, 20]


def test_words_stay_where_there_are_some_or_else_the_commonest(rng: np.random.Generator) -> None:
    vectors = {one: unit(rng, 3) for one in Modality}
    assert choose_anchor(pairs_of(vectors)) == TEXT
    contents = {TEXT: [-1] * 3, IMAGE: [0, -1, 1], AUDIO: [0, 1, 2]}
    assert choose_anchor(pairs_of(vectors, contents)) == AUDIO


def test_a_row_comes_out_the_same_alone_and_among_others(rng: np.random.Generator) -> None:
    rows, weights = unit(rng, 30), rotation(rng).astype(np.float32)
    alone = np.concatenate([apply_map(rows[n : n + 1], weights) for n in range(30)])
    assert np.abs(alone - apply_map(rows, weights)).max() < 1e-7
    assert apply_map(rows[:0], weights).shape == (0, DIM)


# ---- vectors of another space --------------------------------------------------------------------

WIDE = 300


def foreign(rng: np.random.Generator, n: int, *, known: bool = True, right: bool = True) -> Pairs:
    """Texts, and pictures in a space of 300 dimensions, some of which the present space knows.

    Args:
        rng: Draws what they mean.
        n: How many.
        known: Whether the present space has the pictures too.
        right: Whether it has them where their texts are.
    """
    texts = unit(rng, n)
    into = np.random.default_rng(4).standard_normal((DIM, WIDE))
    pictures = normalise(texts @ into)
    present = texts if right else normalise(texts @ rotation(np.random.default_rng(5)))
    return Pairs(
        {TEXT: texts, IMAGE: pictures},
        {TEXT: np.arange(n), IMAGE: np.arange(n)},
        {IMAGE: present if known else np.zeros_like(texts)},
    )


def test_a_foreign_modality_starts_where_the_present_space_has_it(
    rng: np.random.Generator,
) -> None:
    learned = learn(foreign(rng, 90), anchor=TEXT)
    assert learned.maps[IMAGE].shape == (WIDE, DIM)
    assert learned.agreement["image"] > 0.9
    assert mrr(learned.retrieval, "before") == [1.0, 1.0]
    found = compare_retrieval(foreign(rng, 60), learned.maps)
    assert min(mrr(found, "after")) > 0.95


def test_its_pairs_bring_it_where_the_present_space_had_it_not(rng: np.random.Generator) -> None:
    learned = learn(foreign(rng, 90, right=False), anchor=TEXT)
    assert max(mrr(learned.retrieval, "before")) < 0.2
    assert min(mrr(learned.retrieval, "after")) > 0.9
    assert not math.isinf(learned.pulls[IMAGE])


def test_what_the_present_space_does_not_know_comes_in_by_pairs_alone(
    rng: np.random.Generator,
) -> None:
    learned = learn(foreign(rng, 90, known=False), anchor=TEXT)
    assert [one["before"] for one in learned.retrieval] == [None, None]
    assert [one["mrr_gain"] for one in learned.retrieval] == [None, None]
    assert min(mrr(learned.retrieval, "after")) > 0.9
    assert learned.agreement == {}
    assert not math.isinf(learned.pulls[IMAGE])


def test_without_pairs_it_stays_where_the_present_space_has_it(rng: np.random.Generator) -> None:
    pairs = foreign(rng, 60)
    alone = Pairs(pairs.vectors, {IMAGE: np.arange(60), TEXT: np.full(60, -1)}, pairs.foreign)
    learned = learn(alone, anchor=TEXT)
    assert (learned.retrieval, learned.pulls) == ([], {})
    assert min(mrr(compare_retrieval(foreign(rng, 50), learned.maps), "after")) > 0.9


def test_with_neither_pairs_nor_the_present_space_there_is_nothing_to_learn(
    rng: np.random.Generator,
) -> None:
    pairs = foreign(rng, 60, known=False)
    alone = Pairs(pairs.vectors, {IMAGE: np.arange(60), TEXT: np.full(60, -1)}, pairs.foreign)
    with pytest.raises(InvalidInput, match="pairs with text"):
        learn(alone, anchor=TEXT)
    # A sound that is well paired does not help the picture.
    heard = {**pairs.vectors, AUDIO: pairs.vectors[TEXT]}
    numbers = {**alone.contents, TEXT: np.arange(60), AUDIO: np.arange(60)}
    numbers[IMAGE] = np.full(60, -1)
    with pytest.raises(InvalidInput, match="image has neither"):
        learn(Pairs(heard, numbers, pairs.foreign), anchor=TEXT)


def test_a_foreign_anchor_is_brought_in_and_the_others_to_it(rng: np.random.Generator) -> None:
    pairs = foreign(rng, 90)
    turned_round = Pairs(
        {TEXT: pairs.vectors[IMAGE], IMAGE: pairs.vectors[TEXT]},
        {TEXT: np.arange(90), IMAGE: np.arange(90)},
        {TEXT: pairs.vectors[TEXT]},
    )
    learned = learn(turned_round, anchor=TEXT)
    assert learned.maps[TEXT].shape == (WIDE, DIM)
    assert min(mrr(learned.retrieval, "after")) > 0.9


def test_refinement_goes_on_from_a_foreign_start(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "STEPS", 20)
    learned = learn(foreign(rng, 90, right=False), anchor=TEXT, refine=True)
    assert learned.maps[IMAGE].shape == (WIDE, DIM)
    assert min(mrr(learned.retrieval, "after")) > 0.9


def test_rows_that_nothing_is_left_of_find_nothing() -> None:
    rows = np.zeros((3, DIM))
    rows[1, 5] = 2.0
    assert np.array_equal(projection._unit(rows), np.where(rows > 0, 1.0, 0.0).astype(np.float32))
