"""Models of the kind ``aligned``: another model, its *parent*, and a linear map a modality.

    {"format": 1, "name": "birds", "kind": "aligned", "dim": 256, "preprocessing": 1,
     "parent": {"model": "base" or "/path/of/a/model", "fingerprint": "<64 hex digits>"},
     "files": {"projectors.safetensors": "<sha-256>"}, "prior": {…}, "report": {…}}

``projectors.safetensors`` holds a matrix (256, 256) of float32 for each modality that is mapped;
the vectors of the others are the parent's. A parent may be aligned itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.description import (
    COPY_AGAIN,
    DESCRIPTION,
    FORMAT,
    check_description,
    file_hash,
    fingerprint_of,
    read_description,
    weight_file,
)
from muomni_search.encoders.protocol import Encoder, Model, Piece, Prior, VectorMap
from muomni_search.errors import CheckpointError, NotFound
from muomni_search.items import DIM, Modality
from muomni_search.projection import Maps, apply_map

__all__ = ["KIND", "PREPROCESSING", "PROJECTORS", "AlignedModel", "write_aligned"]

KIND = "aligned"
# Counted up when a step from a parent's vector to ours changes while the maps stay.
PREPROCESSING = 1
PROJECTORS = "projectors.safetensors"
# More would be slow, and parents that name each other would never end.
MAX_PARENTS = 16


class AlignedModel(Model):
    """A parent's encoders, with a map behind each.

    Args:
        directory: Where ``model.json`` and the maps lie.
        description: What ``model.json`` says.
        load: Loads the parent by its name or path.
        threads: How many threads encoding may use; all by default.

    Raises:
        CheckpointError: This version cannot follow the description, or the parent is not there
            or another model than the maps were learned for.
    """

    def __init__(
        self,
        directory: Path,
        description: Mapping[str, Any],
        load: Callable[..., Model],
        *,
        threads: int | None = None,
    ) -> None:
        check_description(
            description, directory / DESCRIPTION, preprocessing=PREPROCESSING, files={PROJECTORS}
        )
        super().__init__(
            description["name"], KIND, directory, prior=description["prior"], threads=threads
        )
        self._description = description
        self._directory = directory
        self._maps: Maps | None = None
        self.parent = self._find_parent(load)

    def _find_parent(self, load: Callable[..., Model]) -> Model:
        path = self._directory / DESCRIPTION
        said = _check_parents(self._directory, self._description.get("parent"))
        try:
            parent: Model = load(said["model"], threads=self.threads)
        except NotFound as error:
            raise CheckpointError(
                f"{path}: its parent {said['model']!r} is not there",
                hint="put it back where it was, or align anew",
            ) from error
        if parent.fingerprint() != said["fingerprint"]:
            raise CheckpointError(
                f"{path}: its parent {said['model']!r} is another model now "
                f"({parent.fingerprint()[:12]}) than it was learned for "
                f"({said['fingerprint'][:12]})",
                hint="put the old one back, or align anew",
            )
        return parent

    def fingerprint(self) -> str:
        """Return the hash of what decides the vectors: the maps and the parent."""
        return fingerprint_of(self._description)

    def maps(self) -> Maps:
        """Return the map (256, 256) of each modality that has one.

        Raises:
            CheckpointError: Their file is damaged or foreign.
        """
        with self._lock:
            return self._read_maps()

    def _read_maps(self) -> Maps:
        if self._maps is None:
            from safetensors import SafetensorError
            from safetensors.numpy import load

            path = weight_file(self._directory, self._description, PROJECTORS)
            try:
                found = load(path.read_bytes())
                self._maps = {Modality(name): _checked(found[name]) for name in found}
            except (OSError, SafetensorError, ValueError, KeyError) as error:
                raise CheckpointError(
                    f"{path} holds no maps of {DIM} to {DIM} numbers: {error}", hint=COPY_AGAIN
                ) from error
        return self._maps

    def map_from(self, fingerprint: str) -> VectorMap | None:
        """Return how this model's vectors come from those of its parent, or of the parent's."""
        if fingerprint == self.parent.fingerprint():
            return self._map
        before = self.parent.map_from(fingerprint)
        if before is None:
            return None
        return lambda modality, rows: self._map(modality, before(modality, rows))

    def _map(self, modality: Modality, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        weights = self.maps().get(modality)
        return rows if weights is None else apply_map(rows, weights)

    def _load(self, modality: Modality) -> Encoder:
        return AlignedEncoder(
            self.parent.encoder(modality), self._read_maps().get(modality), self.fingerprint()
        )

    def missing(self) -> list[str]:
        """Return what the parent lacks."""
        return self.parent.missing()

    def fetch(
        self, *, wheel: Path | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> list[Path]:
        """Fetch what the parent lacks; return the files that were written."""
        return self.parent.fetch(wheel=wheel, progress=progress)

    def parts(self) -> dict[str, Any]:
        """Return the parent, what is mapped, and what the maps were found to do."""
        return {
            "parent": {"name": self.parent.name, "fingerprint": self.parent.fingerprint()},
            "mapped": sorted(self.maps()),
            "report": self._description.get("report", {}),
        }


class AlignedEncoder:
    """A parent's encoder with a map behind it.

    Args:
        parent: The parent's.
        weights: The map (256, 256); None to leave the vectors as they are.
        fingerprint: The aligned model's.
    """

    dim = DIM

    def __init__(
        self, parent: Encoder, weights: NDArray[np.float32] | None, fingerprint: str
    ) -> None:
        self.modality = parent.modality
        self._parent = parent
        self._weights = weights
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self._fingerprint

    def prepare(self, content: Any) -> list[Piece]:
        """Split a content as the parent does."""
        return self._parent.prepare(content)

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        rows = self._parent.encode(batch)
        return rows if self._weights is None else apply_map(rows, self._weights)


def _checked(weights: NDArray[Any]) -> NDArray[np.float32]:
    if weights.shape != (DIM, DIM) or weights.dtype != np.float32:
        raise ValueError(f"one is {weights.shape} of {weights.dtype}")
    # A unit row must keep a direction.
    if not np.isfinite(weights).all() or not weights.any():
        raise ValueError("one is not finite, or zero")
    return weights


def _check_parents(directory: Path, said: Any) -> dict[str, str]:
    """Return what is said of the parent; refuse what is damaged, and parents that never end.

    Raises:
        CheckpointError: They are.
    """
    path, first = directory / DESCRIPTION, said
    for _ in range(MAX_PARENTS):
        match said:
            case {"model": str(model), "fingerprint": str()}:
                pass
            case _:
                raise CheckpointError(f"{path}: parent is missing or damaged", hint=COPY_AGAIN)
        path = Path(model) / DESCRIPTION
        description = read_description(Path(model)) if Path(model).is_absolute() else None
        if description is None or description.get("kind") != KIND:
            return dict(first)
        said = description.get("parent")
    raise CheckpointError(
        f"{directory / DESCRIPTION} has more than {MAX_PARENTS} parents, one above the other",
        hint="align the first of them anew, with all pairs",
    )


def write_aligned(
    directory: Path,
    maps: Maps,
    *,
    name: str,
    parent: str,
    fingerprint: str,
    prior: Prior,
    report: Mapping[str, Any],
) -> None:
    """Write a model into an empty directory.

    Args:
        directory: Where.
        maps: For each modality that is mapped its map (256, 256).
        name: What to call it.
        parent: The name or the absolute path of the parent.
        fingerprint: The parent's.
        prior: What cosines of unrelated pairs look like.
        report: How the maps were found and what they do.
    """
    from safetensors.numpy import save

    path = directory / PROJECTORS
    path.write_bytes(save({str(modality): weights for modality, weights in sorted(maps.items())}))
    description = {
        "format": FORMAT,
        "name": name,
        "kind": KIND,
        "dim": DIM,
        "preprocessing": PREPROCESSING,
        "parent": {"model": parent, "fingerprint": fingerprint},
        "files": {PROJECTORS: file_hash(path)},
        "prior": prior,
        "report": report,
    }
    (directory / DESCRIPTION).write_text(
        json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
