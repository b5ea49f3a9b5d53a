"""What tuning a tower of pictures and one of sounds have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[Any]
Say = Callable[[str], None]

WARM_UP = 0.15  # of the steps
LONGEST_GRADIENT = 1.0
# The arrays that are kept are a moving average over some 500 steps; a short run forgets sooner.
SLOWEST_AVERAGE, AVERAGED_EVERY = 0.996, 2
SAID_EVERY = 20  # steps
FIRST_BETA = 0.9  # any: OneCycleLR moves it between 0.95 and 0.85
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Recipe:
    """How a tower and the head on top of it are learned."""

    batch: int
    rate: float
    head_rate: float
    head_decay: float  # the tower's arrays do not decay
    second_beta: float
    clip_head: bool  # whether the head's gradient counts in the length that is limited


class Convolutions(nn.Module):
    """A tower's arrays, by the names that they have in its graph.

    Args:
        weights: The arrays.
        learned: The names of those that are learned.
    """

    def __init__(self, weights: Mapping[str, Array], learned: Iterable[str]) -> None:
        super().__init__()
        # A name of a parameter has no dots.
        self._arrays = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(torch.tensor(array, dtype=torch.float32))
                for name, array in weights.items()
            }
        )
        self._learned = tuple(learned)
        self.requires_grad_(False)
        for array in self.learned().values():
            array.requires_grad_(True)

    def array(self, name: str) -> Tensor:
        """Return an array by its name in the graph."""
        return self._arrays[name.replace(".", "/")]

    def learned(self) -> dict[str, Tensor]:
        """Return the arrays that are learned, by their names in the graph."""
        return {name: self.array(name) for name in self._learned}


def named_targets(
    names: Sequence[str], words: Mapping[str, Array]
) -> tuple[Tensor, NDArray[np.intp]]:
    """Return the unit vectors of the different names, and which of them each name is."""
    known, labels = np.unique(np.asarray(names), return_inverse=True)
    vectors = torch.tensor(np.stack([words[name] for name in known]), dtype=torch.float32)
    return functional.normalize(vectors, dim=1), labels


def chosen_device(name: str) -> str:
    """Return the device for one of ``DEVICES``: ``auto`` is a GPU where there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def in_half_precision(device: torch.device) -> torch.autocast:
    """Compute convolutions in bfloat16 on a GPU, which is faster there; not on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def roots(features: Tensor, least: float) -> Tensor:
    """Return square roots of features; the least that is added keeps their slope finite."""
    return (features.clamp(min=0) + least).sqrt()


def uniform(low: float, high: float, *shape: int, device: torch.device) -> Tensor:
    """Return random numbers that lie evenly between two."""
    return torch.empty(shape, device=device).uniform_(low, high)


def learn(
    learned: Mapping[str, Tensor],
    head: nn.Module,
    batches: Iterable[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    recipe: Recipe,
    *,
    steps: int,
    say: Say,
) -> dict[str, Array]:
    """Learn a tower's arrays with the head on top of it.

    Args:
        learned: The arrays, by name; changed in place.
        head: Learned beside them, and not needed after that.
        batches: At least so many batches, as numbers of examples.
        loss_of: Returns the loss of a batch.
        recipe: The rates, and what else there is to choose.
        steps: How many steps are taken.
        say: Is told from time to time the step, the loss and the time left.

    Returns:
        The moving average of the arrays over the steps, float32.
    """
    arrays = list(learned.values())
    optimiser = torch.optim.AdamW(
        [
            {"params": arrays, "lr": recipe.rate, "weight_decay": 0.0},
            {
                "params": head.parameters(),
                "lr": recipe.head_rate,
                "weight_decay": recipe.head_decay,
            },
        ],
        betas=(FIRST_BETA, recipe.second_beta),
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [recipe.rate, recipe.head_rate], total_steps=steps + 1, pct_start=WARM_UP
    )
    clipped = [*arrays, *head.parameters()] if recipe.clip_head else arrays
    average = {name: array.detach().clone() for name, array in learned.items()}
    told = _Told(steps, say)
    for step, batch in zip(range(steps), batches, strict=False):
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, LONGEST_GRADIENT)
        optimiser.step()
        rate.step()
        if step % AVERAGED_EVERY == 0:
            kept = min(SLOWEST_AVERAGE, (step + 1) / (step + 10))
            for name, array in learned.items():
                average[name].lerp_(array.detach(), 1 - kept)
        told.step(step + 1, loss.detach())
    return {name: array.cpu().numpy() for name, array in average.items()}


class _Told:
    """Says how far a run is, with the mean loss since it last did."""

    def __init__(self, steps: int, say: Say) -> None:
        self._steps, self._say = steps, say
        self._began = time.monotonic()
        self._losses: list[Tensor] = []  # asking a GPU for a number after each step holds it up

    def step(self, done: int, loss: Tensor) -> None:
        self._losses.append(loss)
        if done % SAID_EVERY and done != self._steps:
            return
        mean = float(torch.stack(self._losses).mean())
        self._losses.clear()
        left = (time.monotonic() - self._began) / done * (self._steps - done)
        self._say(f"step {done:,} of {self._steps:,}, loss {mean:.3f}, {left / 60:.1f} min left")
