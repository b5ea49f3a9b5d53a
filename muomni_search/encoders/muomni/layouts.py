"""Checkpoints of μOmni on disk: every layout that the reference writes, as data.

One directory, its direct subdirectories too, or one file:

    model.safetensors + config.json      the one-file export: every part behind its name
    omni.pt                              thinker, proj_a, proj_v: trained together, so they go first
    thinker.pt + tokenizer.model         model or thinker, or the bare tensors
    vision.pt                            vit, img_proj: the latter leads elsewhere, unless to 256;
                                         or model, or the bare tensors
    audio_enc.pt                         enc or model, or the bare tensors

``thinker_step_1000.pt`` stands in for a ``thinker.pt`` that is not there; the highest step counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from muomni_search.items import DIM

__all__ = ["CONFIG", "PLACES", "SECTIONS", "TOKENIZER", "WEIGHTS", "Found", "find_checkpoint"]

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"


class Place(NamedTuple):
    """Where a part of the network may be: a file, and what its names begin with there.

    Where ``width`` is said, what gives vectors of another width is no such part.
    """

    part: str
    file: str
    prefix: str
    width: int | None = None


# In order of preference.
PLACES = (
    *(
        Place(part, WEIGHTS, f"{part}.")
        for part in ("thinker", "vision_encoder", "audio_encoder", "proj_v", "proj_a")
    ),
    Place("thinker", "omni.pt", "thinker."),
    Place("thinker", "thinker.pt", "model."),
    Place("thinker", "thinker.pt", "thinker."),
    Place("thinker", "thinker.pt", ""),
    Place("vision_encoder", "vision.pt", "vit."),
    Place("vision_encoder", "vision.pt", "model."),
    Place("vision_encoder", "vision.pt", ""),
    Place("audio_encoder", "audio_enc.pt", "enc."),
    Place("audio_encoder", "audio_enc.pt", "model."),
    Place("audio_encoder", "audio_enc.pt", ""),
    Place("proj_v", "omni.pt", "proj_v."),
    # The reference's vision training compares pictures with captions in a space of its own, of 128
    # dimensions unless it is told otherwise.
    Place("proj_v", "vision.pt", "img_proj.", width=DIM),
    Place("proj_a", "omni.pt", "proj_a."),
)
# What the configuration calls each part.
SECTIONS = {"thinker": "thinker", "vision_encoder": "vision", "audio_encoder": "audio"}


@dataclass(frozen=True)
class Found:
    """The files of a checkpoint.

    Args:
        path: The directory or file that was named.
        files: The path of each file that ``PLACES`` names and that is there.
        tokenizer: The tokenizer, where there is one.
    """

    path: Path
    files: Mapping[str, Path]
    tokenizer: Path | None

    @property
    def configs(self) -> list[Path]:
        """Return the configurations beside the files, the nearest ones last."""
        folders = {self.path if self.path.is_dir() else self.path.parent: None}
        folders |= dict.fromkeys(path.parent for path in self.files.values())
        names = [CONFIG, *(f"{folder.name}.json" for folder in folders)]
        return [folder / name for folder in folders for name in names if (folder / name).is_file()]


def find_checkpoint(path: Path) -> Found | None:
    """Return the files of the checkpoint at a path, or None when there is none."""
    if path.is_file():
        name = _role(path.name)
        files = {name: path} if name else {}
        folders = [path.parent]
    elif path.is_dir():
        folders = [path, *sorted(child for child in path.iterdir() if child.is_dir())]
        files = {}
        for folder in folders:
            for role, file in _roles(folder):
                files.setdefault(role, file)
    else:
        return None
    if not files:
        return None
    tokenizers = [folder / TOKENIZER for folder in folders if (folder / TOKENIZER).is_file()]
    return Found(path, files, tokenizers[0] if tokenizers else None)


def _role(name: str) -> str | None:
    """Return which of the files of ``PLACES`` a name is, or stands in for."""
    role = re.sub(r"_step_\d+\.pt$", ".pt", name)
    return role if role in {place.file for place in PLACES} else None


def _roles(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder that have a role: whole ones, then by falling step."""

    def order(path: Path) -> tuple[bool, int]:
        step = re.search(r"_step_(\d+)\.pt$", path.name)
        return step is not None, -int(step[1]) if step else 0

    for path in sorted(folder.iterdir(), key=order):
        role = _role(path.name)
        if role and path.is_file():
            yield role, path
