import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from muomni_search.items import Modality
from muomni_search.training.losses import contrastive, distillation, info_nce


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def plain_info_nce(first: np.ndarray, second: np.ndarray, scale: float) -> float:
    """The definition, in loops."""
    total = 0.0
    for rows, columns in ((first, second), (second, first)):
        for number, row in enumerate(rows):
            powers = [math.exp(scale * float(row @ column)) for column in columns]
            total -= math.log(powers[number] / sum(powers))
    return total / (2 * len(first))


def test_info_nce_is_its_definition():
    first, second = unit(5, 8), unit(5, 8, seed=1)
    found = info_nce(first, second, torch.arange(5), torch.tensor(10.0))
    assert float(found) == pytest.approx(
        plain_info_nce(first.numpy(), second.numpy(), 10.0), abs=1e-5
    )


def test_rows_that_say_the_same_are_no_negatives():
    vectors = unit(2, 8)
    twice = torch.cat([vectors, vectors])
    scale = torch.tensor(100.0)
    apart = info_nce(twice, twice, torch.arange(4), scale)
    together = info_nce(twice, twice, torch.tensor([0, 1, 0, 1]), scale)
    assert float(apart) == pytest.approx(math.log(2), abs=1e-3)  # a coin between two equals
    assert float(together) < 1e-3


def test_pairs_are_found_by_their_examples_whatever_the_order():
    vectors = unit(4, 8)
    rows = {
        Modality.TEXT: torch.tensor([7, 3, 9, 1]),
        Modality.IMAGE: torch.tensor([1, 3, 8]),
        Modality.AUDIO: torch.tensor([20]),
    }
    given = {
        Modality.TEXT: vectors,
        Modality.IMAGE: vectors[[3, 1, 0]],  # what belongs to 1 and 3, and a stranger
        Modality.AUDIO: vectors[:1],
    }
    found = contrastive(given, rows, torch.arange(30), torch.tensor(50.0))
    both = vectors[[3, 1]]
    assert found is not None
    wanted = info_nce(both, both, torch.arange(2), torch.tensor(50.0))
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)


def test_without_two_pairs_there_is_nothing_to_tell_apart():
    vectors = {Modality.TEXT: unit(2, 8), Modality.IMAGE: unit(1, 8)}
    rows = {Modality.TEXT: torch.tensor([0, 1]), Modality.IMAGE: torch.tensor([1])}
    assert contrastive(vectors, rows, torch.arange(2), torch.tensor(1.0)) is None


def test_a_pupil_that_is_its_teacher_has_nothing_left_to_learn():
    vectors = unit(6, 8)
    groups, scale = torch.arange(6), torch.tensor(200.0)
    assert float(distillation(vectors, vectors, groups, scale, 1.0)) == pytest.approx(0, abs=1e-3)
    assert float(distillation(vectors, -vectors, groups, scale, 0.0)) == pytest.approx(2, abs=1e-5)
