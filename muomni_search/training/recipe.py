"""Recipes: one TOML file says everything that a training depends on.

    name = "birds"
    data = [{ path = "birds.csv" }]       # columns text, image, audio: one, two or three a row

    [towers.text]                          # which towers there are, and their sizes
    [towers.image]

    [optimiser]
    steps = 4000

Each section is a dataclass here: its fields are the keys, its defaults the defaults.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.items import Modality

__all__ = [
    "Augmentation",
    "Distillation",
    "Loss",
    "Optimiser",
    "Recipe",
    "Table",
    "check_section",
    "read_recipe",
]

Section = TypeVar("Section")


def number(default: Any, *, least: float = 0.0, most: float = math.inf) -> Any:
    """Return a field for a number within bounds, ends included."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True)
class Table:
    """A table of examples.

    Args:
        path: JSONL, CSV or Parquet, relative to the recipe; columns text, image and audio.
        share: How much of each batch comes from it, beside the shares of the others.
    """

    path: str
    share: float = number(1.0, least=1e-6)


@dataclass(frozen=True, slots=True)
class Distillation:
    """A teacher whose vectors the towers learn.

    Args:
        teacher: A model, by name or by path relative to the recipe.
        weight: How much 1 − cosine with the teacher's vector counts.
        contrast: How much telling it from the teacher's vectors of the batch counts.
        own: The share of an example's own vector in what it should become; the rest is that of
            what it is paired with: a drawing may learn more from its name than from what the
            teacher sees in it.
        reads: What the teacher is asked about; what it does not read learns from what it is
            paired with alone.
        anew: Whether the teacher is asked in each step about each picture as it was altered, and
            not once about the picture as it is (Beyer et al. 2022, "Knowledge distillation: a
            good teacher is patient and consistent").
    """

    teacher: str
    weight: float = number(1.0)
    contrast: float = number(1.0)
    own: float = number(1.0, most=1.0)
    reads: tuple[str, ...] = tuple(Modality)
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """Symmetric InfoNCE across every pair of modalities (van den Oord et al. 2018).

    Args:
        contrastive: How much it counts.
        temperature: Where the learned temperature begins.
        least_temperature: How low it may go.
    """

    contrastive: float = number(1.0)
    temperature: float = number(0.07, least=1e-3, most=10)
    least_temperature: float = number(0.01, least=1e-3, most=10)


@dataclass(frozen=True, slots=True)
class Optimiser:
    """AdamW with warm-up and a cosine (Loshchilov & Hutter 2017, 2019).

    Args:
        steps: How many.
        batch: Examples a step, all tables together.
        learning_rate: The highest.
        warm_up: Steps until then.
        weight_decay: Pulls matrices towards zero; norms, biases and embeddings are left.
        clip: The largest norm of a gradient.
        ema: How much of the mean weights stays at each step; 0 keeps no mean.
    """

    steps: int = number(1000, least=1)
    batch: int = number(64, least=2)
    learning_rate: float = number(1e-3, least=1e-9)
    warm_up: int = number(100)
    weight_decay: float = number(0.05)
    clip: float = number(1.0, least=1e-9)
    ema: float = number(0.998, most=0.999999)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How contents are altered each time they are seen; 0 leaves out.

    Args:
        crop: The largest share of a picture's area that may be cut away.
        turn: The largest turn, in degrees.
        mirror: How often pictures are mirrored.
        colour: How far brightness, contrast and saturation go.
        grey: How often colours are taken away.
        background: How often what is transparent becomes coloured instead of white.
        mix: How often another picture shows through, up to as strong (mixup, Zhang et al. 2018).
            What a picture should become stays what it was, but for what a teacher says anew.
        seconds: The longest part of a sound that is heard at a time.
        shift: The largest share of its length by which what is heard is moved in time, either way;
            what leaves at one end comes in at the other. Without it a longer sound is heard from
            anywhere, and one as long as the longest of a batch always from its beginning.
        gain: Decibels up or down.
        noise: How loud the noise may be, as a share of the sound.
        mask: The widest band of time and of frequency that is silenced, as a share (SpecAugment,
            Park et al. 2019).
        tokens: The most tokens of a text.
        squares: The share of a picture's squares that is looked at in a step, others each time:
            half of them cost half (FLIP, Li et al. 2023).
    """

    crop: float = number(0.4, most=0.95)
    turn: float = number(10.0, most=180)
    mirror: float = number(0.5, most=1)
    colour: float = number(0.3, most=1)
    grey: float = number(0.1, most=1)
    background: float = number(0.5, most=1)
    mix: float = number(0.0, most=1)
    seconds: float = number(4.0, least=0.1, most=12)
    shift: float = number(0.0, most=1)
    gain: float = number(6.0, most=60)
    noise: float = number(0.05, most=1)
    mask: float = number(0.15, most=0.9)
    tokens: int = number(48, least=2)
    squares: float = number(1.0, least=0.05, most=1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a training depends on.

    Args:
        name: What the model is called.
        data: Its tables.
        towers: The sizes of each tower that there is, by modality; what is left out is as in μOmni.
            Where a start has the tower its sizes count: those said here may only be the same, but
            for ``dropout``, which is as it is said here, and ``vocabulary``, which is a limit.
        start: Models whose towers to go on with, relative to the recipe: each tower, with its
            projector and its tokenizer, comes from the last one that has it.
        freeze: Parts that are held still, by their dotted names.
        held_out: The share of examples that is kept aside, decided by the seed and by what they
            hold: recipes with the same seed and share keep the same texts, pictures and sounds
            aside, whatever their tables and towers.
        most_held_out: How many of those are measured with at most, of each table alike; the
            others are not learned from either.
        report_every: Steps between two measurements.
        checkpoint_every: Steps between two checkpoints.
        seed: Decides every choice.
        fold_case: Whether the tokenizer treats capitals as small letters.
        licence: What the card says about the weights.
        notes: What else it says: Markdown.
    """

    name: str
    data: tuple[Table, ...]
    towers: Mapping[str, Mapping[str, Any]]
    start: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    held_out: float = number(0.02, most=0.5)
    most_held_out: int = number(500)
    report_every: int = number(200, least=1)
    checkpoint_every: int = number(200, least=1)
    seed: int = number(0, most=2**31 - 1)  # with the number of a step it fills 64 bits
    fold_case: bool = True
    licence: str = ""
    notes: str = ""
    loss: Loss = field(default_factory=Loss)
    distillation: Distillation | None = None
    optimiser: Optimiser = field(default_factory=Optimiser)
    augmentation: Augmentation = field(default_factory=Augmentation)
    folder: Path = Path()

    def tables(self) -> list[Path]:
        """Return the paths of its tables."""
        return [self.folder / table.path for table in self.data]

    def model_path(self, name: str) -> str | Path:
        """Return a model that it names: a name as it is, a path from the recipe's folder."""
        beside = self.folder / name
        return beside if beside.exists() else name

    def as_dict(self) -> dict[str, Any]:
        """Return what it says, defaults included."""
        said = dataclasses.asdict(dataclasses.replace(self, towers={}))
        del said["folder"]
        return {**said, "towers": {name: dict(sizes) for name, sizes in self.towers.items()}}

    def digest(self) -> str:
        """Return a hash of everything in it that decides the weights."""
        said = self.as_dict()
        for name in ("name", "licence", "notes"):
            del said[name]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path) -> Recipe:
    """Return a recipe.

    Raises:
        NotFound: There is no such file, or it names a table that is not there.
        UnreadableFile: It is no TOML.
        InvalidInput: It says something that no recipe does; the error names the key.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="name a recipe") from error
    except (OSError, ValueError) as error:
        raise UnreadableFile(f"{path} is no recipe: {error}", hint="write it as TOML") from error
    tables = said.get("data")
    if not isinstance(tables, list) or not tables:
        raise InvalidInput(
            f"{path}: data names no table", hint='say: data = [{ path = "pairs.csv" }]'
        )
    towers = said.get("towers")
    if not isinstance(towers, dict) or not towers:
        raise InvalidInput(
            f"{path}: towers names none", hint="write a section [towers.text], and so on"
        )
    for name, sizes in towers.items():
        if name not in list(Modality) or not isinstance(sizes, dict):
            raise InvalidInput(
                f"{path}: there is no tower {name!r}", hint="towers are text, image and audio"
            )
    said["data"] = tuple(
        check_section(Table, table, f"{path}: data[{place}]") for place, table in enumerate(tables)
    )
    said["towers"] = MappingProxyType(towers)
    for name, kind in (
        ("loss", Loss),
        ("optimiser", Optimiser),
        ("augmentation", Augmentation),
        ("distillation", Distillation),
    ):
        if name in said:
            said[name] = check_section(kind, said[name], f"{path}: {name}")
    said.pop("folder", None)
    recipe = check_section(Recipe, {**said, "folder": path.parent}, str(path))
    for table in recipe.tables():
        if not table.is_file():
            raise NotFound(f"{path} names the table {table}, which is not there")
    if recipe.distillation and not set(recipe.distillation.reads) <= set(Modality):
        raise InvalidInput(
            f"{path}: distillation: reads is {list(recipe.distillation.reads)}",
            hint="it may hold text, image and audio",
        )
    if recipe.distillation and not recipe.distillation.reads:
        raise InvalidInput(
            f"{path}: distillation: reads is [], so the teacher is asked nothing",
            hint="leave the section out, or let it read text, image or audio",
        )
    if recipe.distillation is None and not recipe.loss.contrastive:
        raise InvalidInput(
            f"{path}: nothing to learn", hint="give [distillation], or loss.contrastive above 0"
        )
    return recipe


def check_section(kind: type[Section], said: Any, where: str) -> Section:
    """Return a dataclass of what a section says.

    Args:
        kind: The dataclass. A number's bounds are its field's metadata ``least`` and ``most``;
            without any it must be 1 or more.
        said: The section.
        where: What to call it in errors.

    Raises:
        InvalidInput: A key is unknown or missing, or a value of another kind or out of bounds.
    """
    if not isinstance(said, dict):
        raise InvalidInput(f"{where} is {said!r}, no section")
    fields = {one.name: one for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known = ", ".join(name for name in fields if name != "folder")
    for name in said:
        if name not in fields:
            raise InvalidInput(f"{where}: unknown key {name!r}", hint=f"there are {known}")
    missing = dataclasses.MISSING
    for name, one in fields.items():
        if one.default is missing and one.default_factory is missing and name not in said:
            raise InvalidInput(f"{where}: {name} is missing")
    hints = get_type_hints(kind)
    return kind(
        **{
            name: _checked(value, hints[name], fields[name].metadata, f"{where}: {name}")
            for name, value in said.items()
        }
    )


def _checked(value: Any, hint: Any, bounds: Mapping[str, Any], where: str) -> Any:
    """Return a value as what its field holds."""
    if isinstance(hint, UnionType):
        hint = get_args(hint)[0]
    if hint in (int, float):
        fits = isinstance(value, int) or (hint is float and isinstance(value, float))
        if not fits or isinstance(value, bool):
            raise InvalidInput(f"{where} is {value!r}, no {'whole ' * (hint is int)}number")
        least, most = bounds.get("least", 1), bounds.get("most", math.inf)
        if not least <= value <= most:  # NaN is in no bounds
            raise InvalidInput(f"{where} is {value!r}, not from {least:.10g} to {most:.10g}")
        return hint(value)
    if get_args(hint)[:1] == (str,) and isinstance(value, list):
        if not all(isinstance(one, str) for one in value):
            raise InvalidInput(f"{where} is {value!r}, no list of texts")
        return tuple(value)
    if hint is str and not isinstance(value, str):
        raise InvalidInput(f"{where} is {value!r}, no text", hint="put it in quotes")
    wanted = hint if isinstance(hint, type) else (tuple, Mapping)
    if not isinstance(value, wanted):
        raise InvalidInput(f"{where} is {value!r}, which does not fit")
    return value
