"""What a step sees: examples in an order that the seed decides, altered anew each time.

Everything here is a function of the recipe and the number of the step, so that a training that
was interrupted goes on as if it had not been. Pictures and sounds are altered on the device that
learns from them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from muomni_search.encoders.muomni.aut import mel_spectrograms
from muomni_search.encoders.muomni.encoders import BOS
from muomni_search.errors import InvalidInput
from muomni_search.items import Modality
from muomni_search.training.examples import SAMPLE_RATE, Examples
from muomni_search.training.recipe import Augmentation, Recipe

__all__ = ["Ahead", "Batches", "Inputs", "tensor"]

Rows = NDArray[np.int64]
Tokenise = Callable[[str], Rows]
WHITE = 255
CPU = torch.device("cpu")
# Pictures stay on the device that learns from them where they take no more of its free memory.
KEPT_SHARE = 0.5
TEXTS_KEPT = 500_000  # whose token ids are remembered


@dataclass(frozen=True)
class Inputs:
    """One modality's part of a batch.

    Args:
        rows: Which examples, (n,).
        tensors: What the tower takes: token ids and lengths, pixels, or mel bands.
    """

    rows: Rows
    tensors: tuple[Tensor, ...]


class Batches:
    """Draws batches, by the number of the step.

    Args:
        recipe: Says how many, of which tables, and how they are altered.
        examples: What there is.
        tokenise: Returns the ids (T,) of a text.
        device: Where the tensors of pictures and sounds are made.

    Raises:
        InvalidInput: A table has nothing to learn from.
    """

    def __init__(
        self,
        recipe: Recipe,
        examples: Examples,
        tokenise: Tokenise,
        device: torch.device = CPU,
    ) -> None:
        self._recipe = recipe
        self._examples = examples
        self._device = device
        room = recipe.augmentation.tokens - 1
        # A copy, for a part of a long text would keep all of it.
        self._ids = lru_cache(TEXTS_KEPT)(
            lambda number: tokenise(examples.texts[number])[:room].copy()
        )
        self._pictures = _kept(examples.images, device)
        shares = np.array([table.share for table in recipe.data])
        self._counts = apportion(recipe.optimiser.batch, shares)
        self._pools = []
        for place, table in enumerate(recipe.tables()):
            pool = np.flatnonzero((examples.table == place) & ~examples.is_held_out)
            if not len(pool):
                raise InvalidInput(
                    f"{table} has no row that can be learned from",
                    hint="lower held_out if all of them are held out, or leave the table out",
                )
            self._pools.append(pool)
        self._order = lru_cache(maxsize=2 * len(self._pools))(self._permutation)

    def rows(self, step: int) -> Rows:
        """Return the examples of a step: each table gives all of its own, again and again."""
        drawn = []
        for place, (pool, count) in enumerate(zip(self._pools, self._counts, strict=True)):
            places = np.arange(step * count, (step + 1) * count)
            drawn += [
                self._order(place, int(epoch))[places[places // len(pool) == epoch] % len(pool)]
                for epoch in np.unique(places // len(pool))
            ]
        return np.concatenate(drawn)

    def _permutation(self, place: int, epoch: int) -> Rows:
        rng = np.random.default_rng((self._recipe.seed, 1, place, epoch))
        return rng.permutation(self._pools[place])

    def draw(self, step: int) -> dict[Modality, Inputs]:
        """Return the inputs of a step."""
        return self.inputs(self.rows(step), np.random.default_rng((self._recipe.seed, 2, step)))

    def inputs(self, rows: Rows, rng: np.random.Generator | None = None) -> dict[Modality, Inputs]:
        """Return the inputs of examples; altered by ``rng``, or as they are without it."""
        makers = {
            Modality.TEXT: self._texts,
            Modality.IMAGE: self._images,
            Modality.AUDIO: self._sounds,
        }
        found = {}
        for modality, make in makers.items():
            if modality not in self._recipe.towers:
                continue
            numbers = self._examples.numbers[modality]
            here = rows[numbers[rows] >= 0]
            if len(here):
                found[modality] = Inputs(here, make(numbers[here], rng))
        return found

    def _texts(self, numbers: Rows, _: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        ids = [self._ids(int(number)) for number in numbers]
        lengths = np.array([1 + len(one) for one in ids], np.int64)
        padded = np.full((len(ids), int(lengths.max())), BOS, np.int64)
        for place, one in enumerate(ids):
            padded[place, 1 : 1 + len(one)] = one
        return tensor(padded), tensor(lengths)

    def _images(self, numbers: Rows, rng: np.random.Generator | None) -> tuple[Tensor]:
        if self._pictures is not None:
            pictures = self._pictures[tensor(numbers).to(self._device)]
        else:
            order = np.argsort(numbers)  # neighbours on the disk
            rows = np.empty((len(numbers), *self._examples.images.shape[1:]), np.uint8)
            rows[order] = self._examples.images[numbers[order]]
            pictures = torch.from_numpy(rows).to(self._device)
        return (alter_pictures(pictures, self._recipe.augmentation, rng),)

    def _sounds(self, numbers: Rows, rng: np.random.Generator | None) -> tuple[Tensor]:
        most = int(self._recipe.augmentation.seconds * SAMPLE_RATE)
        waves = [self._examples.sound(number) for number in numbers]
        length = min(most, max(map(len, waves)))
        parts = tensor(np.stack([part_of(wave, length, rng) for wave in waves])).to(self._device)
        if rng is None:
            return (mel_spectrograms(parts),)
        mel = mel_spectrograms(alter_sounds(parts, self._recipe.augmentation, rng))
        mask_bands(mel, self._recipe.augmentation.mask, rng)
        return (mel,)


class Ahead:
    """Draws steps in a thread of its own, each while the one before it is learned from.

    Args:
        draw: Returns the inputs of a step, by its number.
        steps: How many there are: none is drawn behind them.
    """

    def __init__(self, draw: Callable[[int], dict[Modality, Inputs]], steps: int) -> None:
        self._draw = draw
        self._steps = steps
        self._thread = ThreadPoolExecutor(1)
        self._waiting: dict[int, Future[dict[Modality, Inputs]]] = {}

    def __call__(self, step: int) -> dict[Modality, Inputs]:
        """Return the inputs of a step."""
        drawn = self._waiting.pop(step, None) or self._thread.submit(self._draw, step)
        more = range(step + 1, min(step + 2, self._steps))
        self._waiting = {one: self._thread.submit(self._draw, one) for one in more}
        return drawn.result()


def tensor(array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor with memory of its own.

    PyTorch aligns its memory and NumPy does not, and the last bits of a product depend on that.
    """
    return torch.from_numpy(array).clone()


def _kept(pictures: NDArray[np.uint8], device: torch.device) -> Tensor | None:
    """Return all pictures on a device with a memory of its own, where there is room for them."""
    if device.type != "cuda" or pictures.nbytes > KEPT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    return torch.from_numpy(np.array(pictures)).to(device)


def apportion(count: int, shares: NDArray[np.float64]) -> list[int]:
    """Return whole numbers in proportion to ``shares``, ``count`` in sum, each at least 1.

    Raises:
        InvalidInput: There are more shares than that.
    """
    if count < len(shares):
        raise InvalidInput(
            f"a batch of {count} has no room for {len(shares)} tables",
            hint="raise optimiser.batch, or join tables",
        )
    wanted = shares / shares.sum() * count
    whole = np.maximum(1, np.floor(wanted)).astype(int)
    while whole.sum() < count:
        whole[np.argmax(wanted - whole)] += 1
    while whole.sum() > count:  # the least shares were raised to 1
        whole[np.argmin(np.where(whole > 1, wanted - whole, np.inf))] -= 1
    return [int(one) for one in whole]


# ---- pictures --------------------------------------------------------------------------------


def alter_pictures(pictures: Tensor, how: Augmentation, rng: np.random.Generator | None) -> Tensor:
    """Return pixels (n, 3, size, size) in [0, 1] of pictures (n, size, size, 4) with alpha, uint8.

    Without ``rng`` what is transparent becomes white, as in the encoder, and nothing else happens.
    """
    count = len(pictures)
    behind = np.ones((count, 3, 1, 1), np.float32)
    if rng is not None:
        coloured = rng.random(count) < how.background
        behind[coloured, :, 0, 0] = rng.uniform(0, 1, (int(coloured.sum()), 3))
    # One pass makes planes of numbers of them, and a second one puts the colour behind.
    planes = pictures.permute(0, 3, 1, 2).contiguous().float() / WHITE
    pixels = tensor(behind).to(planes.device).lerp(planes[:, :3], planes[:, 3:])
    if rng is None:
        return pixels
    # One bilinear look-up does crop, turn and mirror; what lies outside repeats the border.
    grid = _grid(_places(count, how, rng).to(pixels.device), *pixels.shape[2:])
    pixels = functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return _mixed(_colours(pixels, how, rng), how.mix, rng)


def _grid(maps: Tensor, height: int, width: int) -> Tensor:
    """Return the places (n, h, w, 2) that maps (n, 2, 3) give, as ``affine_grid`` in a third of it.

    That multiplies a matrix for each pixel, and a pixel's place is its column's plus its row's.
    """
    x, y = ((torch.arange(size, device=maps.device) * 2 + 1) / size - 1 for size in (width, height))
    across, down, shift = maps[:, None, None, :].unbind(-1)  # (n, 1, 1, 2) each
    rows = down * y[:, None, None] + shift  # (n, h, 1, 2)
    return torch.addcmul(rows, across, x[:, None])


def _places(count: int, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return the affine maps (n, 2, 3) from places in the new picture to places in the old."""
    area = rng.uniform(1 - how.crop, 1, count)
    aspect = np.exp(rng.uniform(-0.15, 0.15, count)) if how.crop else np.ones(count)
    width, height = np.sqrt(area) * aspect, np.sqrt(area) / aspect
    angle = np.deg2rad(rng.uniform(-how.turn, how.turn, count))
    mirrored = np.where(rng.random(count) < how.mirror, -1.0, 1.0)
    maps = np.zeros((count, 2, 3), np.float32)
    maps[:, 0, 0], maps[:, 0, 1] = width * np.cos(angle) * mirrored, -height * np.sin(angle)
    maps[:, 1, 0], maps[:, 1, 1] = width * np.sin(angle) * mirrored, height * np.cos(angle)
    maps[:, 0, 2] = rng.uniform(-1, 1, count) * np.maximum(0, 1 - width)
    maps[:, 1, 2] = rng.uniform(-1, 1, count) * np.maximum(0, 1 - height)
    return tensor(maps)


def _colours(pixels: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return pictures with other brightness, contrast and saturation, or without colours."""
    count = len(pixels)

    def factors() -> Tensor:
        drawn = rng.uniform(1 - how.colour, 1 + how.colour, (count, 1, 1))
        return tensor(drawn.astype(np.float32))

    weights = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
    brightness, contrast, saturation = factors(), factors(), factors()
    saturation[tensor(rng.random(count) < how.grey)] = 0
    mixing = saturation * torch.eye(3) + (1 - saturation) * weights  # (n, 3, 3)
    brightness, contrast, mixing = (one.to(pixels.device) for one in (brightness, contrast, mixing))
    # All three mix a pixel's colours, so one matrix a picture does, and one pass over the pixels.
    middle = brightness * pixels.mean(dim=(1, 2, 3))[:, None, None]
    mixed = torch.baddbmm(
        middle * (1 - contrast), brightness * contrast * mixing, pixels.flatten(2)
    )
    return mixed.clamp_(0, 1).view_as(pixels)


def _mixed(pixels: Tensor, often: float, rng: np.random.Generator) -> Tensor:
    """Return pictures through which another one shows now and then, up to as strong (mixup)."""
    count = len(pixels)
    shares = rng.uniform(0, 0.5, count) * (rng.random(count) < often)
    if not shares.any():
        return pixels
    others = pixels[tensor(rng.permutation(count)).to(pixels.device)]
    weights = tensor(shares.astype(np.float32)).to(pixels.device)
    return pixels.lerp(others, weights[:, None, None, None])


# ---- sounds ----------------------------------------------------------------------------------


def part_of(
    wave: NDArray[np.float32], length: int, rng: np.random.Generator | None
) -> NDArray[np.float32]:
    """Return ``length`` samples of a sound: a part of a longer one, a shorter one repeated.

    Without ``rng`` it is the first part.
    """
    if len(wave) >= length:
        start = int(rng.integers(0, len(wave) - length + 1)) if rng is not None else 0
        return wave[start : start + length]
    if not len(wave):
        return np.zeros(length, np.float32)
    repeated = np.resize(wave, length)
    shift = int(rng.integers(0, length)) if rng is not None else 0
    return np.roll(repeated, shift)


def alter_sounds(waves: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
    """Return sounds (n, samples) moved in time, louder or softer, with noise."""
    count = (len(waves), 1)
    if most := int(how.shift * waves.shape[1]):
        moves = rng.integers(-most, most, len(waves), endpoint=True).tolist()
        waves = torch.stack([one.roll(move) for one, move in zip(waves, moves, strict=True)])
    loudness = waves.square().mean(dim=1, keepdim=True).sqrt()
    levels = rng.uniform(0, how.noise, count).astype(np.float32)
    gains = (10 ** (rng.uniform(-how.gain, how.gain, count) / 20)).astype(np.float32)
    drawn = torch.Generator(waves.device).manual_seed(int(rng.integers(2**63)))
    noise = torch.randn(waves.shape, generator=drawn, device=waves.device)
    noise *= loudness * tensor(levels).to(waves.device)
    return (waves + noise) * tensor(gains).to(waves.device)


def mask_bands(mel: Tensor, widest: float, rng: np.random.Generator) -> None:
    """Silence one stretch of time and one of frequency of each sound (n, T, bands), in place."""
    for one in mel:
        for axis in (0, 1):
            size = one.shape[axis]
            width = int(rng.integers(0, int(size * widest) + 1))
            start = int(rng.integers(0, size - width + 1))
            one[(slice(None),) * axis + (slice(start, start + width),)] = 0
