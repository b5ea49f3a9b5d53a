import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from muomni_search.items import Modality
from muomni_search.training.groups import shared
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
    found = info_nce(first, second, np.eye(5, dtype=bool), torch.tensor(10.0))
    assert float(found) == pytest.approx(
        plain_info_nce(first.numpy(), second.numpy(), 10.0), abs=1e-5
    )


def test_rows_that_say_the_same_are_no_negatives():
    vectors = unit(2, 8)
    twice = torch.cat([vectors, vectors])
    scale = torch.tensor(100.0)
    apart = info_nce(twice, twice, np.eye(4, dtype=bool), scale)
    together = info_nce(twice, twice, shared(np.array([[0], [1], [0], [1]])), scale)
    assert float(apart) == pytest.approx(math.log(2), abs=1e-3)  # a coin between two equals
    assert float(together) < 1e-3


def test_pairs_are_found_by_their_examples_whatever_the_order():
    vectors = unit(4, 8)
    rows = {
        Modality.TEXT: np.array([7, 3, 9, 1]),
        Modality.IMAGE: np.array([1, 3, 8]),
        Modality.AUDIO: np.array([20]),
    }
    given = {
        Modality.TEXT: vectors,
        Modality.IMAGE: vectors[[3, 1, 0]],  # what belongs to 1 and 3, and a stranger
        Modality.AUDIO: vectors[:1],
    }
    found = contrastive(given, rows, np.arange(30)[:, None], torch.tensor(50.0))
    both = vectors[[3, 1]]
    assert found is not None
    wanted = info_nce(both, both, np.eye(2, dtype=bool), torch.tensor(50.0))
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)


def test_three_modalities_give_the_mean_of_their_pairs_and_no_text_is_needed():
    vectors = {one: unit(5, 8, seed=seed) for seed, one in enumerate(Modality)}
    rows = {
        Modality.TEXT: np.array([0, 1, 2, 3, 4]),
        Modality.IMAGE: np.array([1, 2, 7, 8, 9]),
        Modality.AUDIO: np.array([9, 2, 4, 8, 5]),  # 8 and 9 have no text
    }
    pairs = {
        (Modality.TEXT, Modality.IMAGE): ([1, 2], [0, 1]),
        (Modality.TEXT, Modality.AUDIO): ([2, 4], [1, 2]),
        (Modality.IMAGE, Modality.AUDIO): ([1, 3, 4], [1, 3, 0]),
    }
    wanted = [
        plain_info_nce(vectors[one][mine].numpy(), vectors[other][theirs].numpy(), 10.0)
        for (one, other), (mine, theirs) in pairs.items()
    ]
    found = contrastive(vectors, rows, np.arange(10)[:, None], torch.tensor(10.0))
    assert found is not None
    assert float(found) == pytest.approx(np.mean(wanted), abs=1e-5)
    # What has no text is told apart alone, too.
    del vectors[Modality.TEXT], rows[Modality.TEXT]
    found = contrastive(vectors, rows, np.arange(10)[:, None], torch.tensor(10.0))
    assert found is not None
    assert float(found) == pytest.approx(wanted[-1], abs=1e-5)


def test_without_two_pairs_there_is_nothing_to_tell_apart():
    vectors = {Modality.TEXT: unit(2, 8), Modality.IMAGE: unit(1, 8)}
    rows = {Modality.TEXT: np.array([0, 1]), Modality.IMAGE: np.array([1])}
    assert contrastive(vectors, rows, np.arange(2)[:, None], torch.tensor(1.0)) is None


def test_a_pupil_that_is_its_teacher_has_nothing_left_to_learn():
    vectors = unit(6, 8)
    same, scale = np.eye(6, dtype=bool), torch.tensor(200.0)
    assert float(distillation(vectors, vectors, same, scale, 1.0)) == pytest.approx(0, abs=1e-3)
    assert float(distillation(vectors, -vectors, same, scale, 0.0)) == pytest.approx(2, abs=1e-5)


def test_captions_of_one_picture_are_no_negatives_of_each_other():
    pictures = unit(4, 8).repeat_interleave(5, dim=0)
    contents = np.stack([np.arange(20), np.arange(20) // 5, np.full(20, -1)], axis=1)
    rows = {one: np.arange(20) for one in (Modality.TEXT, Modality.IMAGE)}
    vectors = {Modality.TEXT: pictures, Modality.IMAGE: pictures}
    found = contrastive(vectors, rows, contents, torch.tensor(100.0))
    assert found is not None
    assert float(found) < 1e-3


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_losses_are_where_the_vectors_are(device):
    # On "meta" tensors have no numbers, but refuse to meet those of another device.
    vectors = {one: torch.empty(6, 8, device=device) for one in (Modality.TEXT, Modality.IMAGE)}
    scale = torch.empty((), device=device)
    rows = {one: np.arange(6) for one in vectors}
    contents = np.array([[0, 0], [1, 0], [2, 1], [3, 2], [3, 3], [4, 4]])
    losses = [
        contrastive(vectors, rows, contents, scale),
        distillation(*vectors.values(), shared(contents), scale, 0.5),
    ]
    for loss in losses:
        assert loss is not None
        assert loss.device.type == device
