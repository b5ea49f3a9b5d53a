"""What colours the points of a map: a modality, or a field of the metadata.

Names become groups, the commonest with a colour and a shape of their own; numbers become a scale.
The colours are those of Okabe and Ito (2008), and viridis, which people of any colour vision can
tell apart; groups differ in shape as well.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.documents import OF_KEYS, value_of
from muomni_search.errors import InvalidInput
from muomni_search.figures import clip
from muomni_search.items import Modality

__all__ = ["VIRIDIS", "Colours", "Group", "Scale", "colours_of", "rgb_of"]

# Okabe and Ito without black, which a dark page hides.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442")
REST = "#8b93a1"
SHAPES = ("circle", "diamond", "triangle", "square")
# At even steps: as light as the value is high, and read alike by colour-blind eyes (Smith and van
# der Walt 2015).
VIRIDIS = (
    "#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30",
    "#fde725",
)  # fmt: skip
# Without its darkest end, which a dark page hides.
SCALE = VIRIDIS[1:]
OTHER, MISSING, EMPTY = "other", "none", "(empty)"
NAME_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Group:
    """Points of one colour: what the legend calls them, how they look, how many they are."""

    name: str
    colour: str
    shape: str
    count: int


@dataclass(frozen=True, slots=True)
class Scale:
    """The two ends of a scale of numbers."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """How the points of a map are coloured.

    Args:
        field: What by.
        groups: The groups, the commonest first; ``other`` and ``none`` last. No two have the same
            name; values that are called so are quoted.
        group: The number of each point's group (n,).
        rgb: The colour of each point (n, 3), uint8.
        scale: The ends of the scale where numbers colour the first group, else None.
    """

    field: str
    groups: tuple[Group, ...]
    group: NDArray[np.uint8]
    rgb: NDArray[np.uint8]
    scale: Scale | None


def colours_of(
    field: str,
    modalities: Sequence[Modality],
    metadata: Sequence[Mapping[str, Any]],
    keys: Sequence[str] = (),
) -> Colours:
    """Return how points are coloured by a field.

    Args:
        field: ``modality``, or the name of a field of the metadata; or ``folder`` or ``stem`` of
            the keys, where no metadata has this name.
        modalities: The modality of each point.
        metadata: The metadata of each point.
        keys: The key of each point.

    Raises:
        InvalidInput: No point has such a field.
    """
    if field == "modality":
        names = [str(modality) for modality in modalities]
        # In a fixed order, so that a kind has its colour on every map.
        looks = {str(one): _look(number) for number, one in enumerate(Modality)}
        return _named(field, names, looks)
    values = [value_of(one, field) for one in metadata]
    if field in OF_KEYS and all(value is None for value in values):
        values = [OF_KEYS[field](key) or None for key in keys]
    known = [value for value in values if value is not None]
    if not known:
        fields = sorted({name for one in metadata for name in one})
        told = ", ".join(["modality", *OF_KEYS, *fields[:12]])
        told += ", …" if len(fields) > 12 else ""
        raise InvalidInput(f"no point has a field {field!r}", hint=f"colour by one of: {told}")
    if all(_is_number(value) for value in known):
        return _scaled(field, values)
    told_values = [None if value is None else _told(value) for value in values]
    counts = Counter(value for value in told_values if value is not None)
    common = sorted(counts, key=lambda name: (-counts[name], name))[: len(PALETTE)]
    return _named(field, told_values, {name: _look(number) for number, name in enumerate(common)})


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _told(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())


def _called(values: Iterable[str]) -> list[str]:
    """Return what the group of each value is called: as no other one, nor as those of our own."""
    called = [OTHER, MISSING]
    for value in values:
        plain = clip(value, NAME_CHARACTERS) or EMPTY
        name = plain = f'"{plain}"' if plain in (OTHER, MISSING) else plain
        number = 1
        while name in called:
            number += 1
            name = f"{plain} ({number})"
        called.append(name)
    return called[2:]


def _look(number: int) -> tuple[str, str]:
    return PALETTE[number], SHAPES[number % len(SHAPES)]


def _named(
    field: str, values: Sequence[str | None], looks: Mapping[str, tuple[str, str]]
) -> Colours:
    """Return groups by name; those without a look of their own are together."""
    names = [*_called(looks), OTHER, MISSING]
    own = {name: number for number, name in enumerate(looks)}
    other, missing = len(own), len(own) + 1
    group = np.array([missing if one is None else own.get(one, other) for one in values])
    shown = [*looks.values(), (REST, "circle"), (REST, "ring")]
    counts = np.bincount(group, minlength=len(names)).tolist()
    kept = [number for number, count in enumerate(counts) if count]
    renumbered = np.zeros(len(names), np.uint8)
    renumbered[kept] = np.arange(len(kept))
    rgb = np.array([rgb_of(colour) for colour, _ in shown], np.uint8)[group]
    groups = tuple(Group(names[number], *shown[number], counts[number]) for number in kept)
    return Colours(field, groups, renumbered[group], rgb, None)


def _scaled(field: str, values: Sequence[Any]) -> Colours:
    """Return one group of numbers on a scale, and one of those that have none."""
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    is_known = ~np.isnan(numbers)
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    # Halved, for the difference of two huge numbers may be none.
    width = high / 2 - low / 2
    part = (numbers[is_known] / 2 - low / 2) / width if width > 0 else np.full(is_known.sum(), 0.5)
    stops = np.array([rgb_of(colour) for colour in SCALE], np.float64)
    rgb = np.full((len(numbers), 3), rgb_of(REST), np.uint8)
    steps = np.arange(len(stops))
    for channel in range(3):
        mixed = np.interp(part * (len(stops) - 1), steps, stops[:, channel])
        rgb[is_known, channel] = np.round(mixed)
    (name,) = _called([field])
    groups = [Group(name, SCALE[len(SCALE) // 2], "circle", int(is_known.sum()))]
    if not is_known.all():
        groups.append(Group(MISSING, REST, "ring", int((~is_known).sum())))
    group = np.where(is_known, 0, 1).astype(np.uint8)
    return Colours(field, tuple(groups), group, rgb, Scale(low, high))


def rgb_of(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour as ``#rrggbb``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
