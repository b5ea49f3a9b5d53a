"""Models of the kind ``aligned``: another model, its *parent*, and a linear map a modality.

    {"format": 1, "name": "birds", "kind": "aligned", "dim": 256, "preprocessing": 1,
     "parent": {"model": "base" or "/path/of/a/model", "fingerprint": "<64 hex digits>"},
     "encoders": {"image": {"source": "pretrained", "name": "/models/clip", "dim": 512,
                            "fingerprint": "…"}},
     "files": {"projectors.safetensors": "<sha-256>"}, "prior": {…}, "report": {…}}

``projectors.safetensors`` holds a matrix (d, 256) of float32 for each modality that is mapped; the
vectors of the others are the parent's. ``encoders``, where it stands, names the foreign encoders
that take the place of the parent's, d wide; else d is 256. A parent may be aligned itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
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
from muomni_search.encoders.foreign.source import Source
from muomni_search.encoders.protocol import Encoder, Model, Piece, Prior, VectorMap
from muomni_search.errors import CheckpointError, NotFound
from muomni_search.items import DIM, Modality
from muomni_search.projection import Maps, apply_map

__all__ = ["KIND", "PREPROCESSING", "PROJECTORS", "AlignedModel", "write_aligned"]

KIND = "aligned"
# Counted up when a step from a parent's vector to ours changes while the maps stay.
PREPROCESSING = 1
PROJECTORS = "projectors.safetensors"
# What a foreign function said of the probe when it was aligned, beside the maps.
PROBE = "probe."
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
        self._load_model = load
        self._arrays: dict[str, NDArray[np.float32]] | None = None
        self.sources = _read_sources(description, directory / DESCRIPTION)
        """Where the encoders come from that take the place of the parent's, by modality."""
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
                hint="put the old one back, or learn from the pairs again (muomni align) and move "
                "collections to what comes of it (muomni reembed)",
            )
        return parent

    def fingerprint(self) -> str:
        """Return the hash of what decides the vectors: the maps and the parent."""
        return fingerprint_of(self._description)

    def maps(self) -> Maps:
        """Return the map (d, 256) of each modality that has one.

        Raises:
            CheckpointError: Their file is damaged or foreign.
        """
        with self._lock:
            return self._read_maps()

    def _read_maps(self) -> Maps:
        names = {str(modality): modality for modality in Modality}
        return {names[name]: rows for name, rows in self._read_arrays().items() if name in names}

    def _read_arrays(self) -> dict[str, NDArray[np.float32]]:
        if self._arrays is None:
            from safetensors import SafetensorError
            from safetensors.numpy import load

            path = weight_file(self._directory, self._description, PROJECTORS)
            widths = {str(one): DIM for one in Modality} | {
                str(one): source.dim for one, source in self.sources.items()
            }
            shapes = {one: (width, DIM) for one, width in widths.items()} | {
                f"{PROBE}{one}": (width,) for one, width in widths.items()
            }
            try:
                found = load(path.read_bytes())
                arrays = {name: _checked(found[name], shapes[name]) for name in found}
                lacking = [one for one in self.sources if one not in arrays]
                if lacking:
                    raise ValueError(f"{lacking[0]} has none")
            except (OSError, SafetensorError, ValueError, KeyError) as error:
                raise CheckpointError(
                    f"{path} holds no maps to {DIM} numbers: {error}", hint=COPY_AGAIN
                ) from error
            self._arrays = arrays
        return self._arrays

    def map_from(self, fingerprint: str) -> VectorMap | None:
        """Return how this model's vectors come from those of its parent, or of the parent's.

        None where an encoder is another one: then contents are encoded anew.
        """
        if self.sources:
            return None
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
        maps = self._read_maps()
        if modality in self.sources:
            encoder = self.sources[modality].open(
                modality,
                self._load_model,
                threads=self.threads,
                probe=self._read_arrays().get(f"{PROBE}{modality}"),
            )
        else:
            encoder = self.parent.encoder(modality)
        return AlignedEncoder(encoder, maps.get(modality), self.fingerprint())

    def missing(self, modalities: Collection[Modality] = tuple(Modality)) -> list[str]:
        """Return what the parent lacks for what it encodes."""
        return self.parent.missing([one for one in modalities if one not in self.sources])

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
            "encoders": {str(one): source.as_dict() for one, source in self.sources.items()},
            "report": self._description.get("report", {}),
        }


class AlignedEncoder:
    """An encoder with a map behind it.

    Args:
        parent: The parent's encoder, or a foreign one.
        weights: The map (d, 256); None to leave the vectors as they are.
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


def _read_sources(description: Mapping[str, Any], path: Path) -> dict[Modality, Source]:
    """Return what a description says of foreign encoders.

    Raises:
        CheckpointError: It is damaged.
    """
    said = description.get("encoders", {})
    if not isinstance(said, dict) or not said.keys() <= set(Modality):
        raise CheckpointError(f"{path}: encoders is damaged", hint=COPY_AGAIN)
    return {
        Modality(name): Source.read(one, f"{path}: encoders.{name}") for name, one in said.items()
    }


def _checked(weights: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if weights.shape != shape or weights.dtype != np.float32:
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
    sources: Mapping[Modality, Source] | None = None,
    probes: Mapping[Modality, NDArray[np.float32]] | None = None,
) -> None:
    """Write a model into an empty directory.

    Args:
        directory: Where.
        maps: For each modality that is mapped its map (d, 256).
        name: What to call it.
        parent: The name or the absolute path of the parent.
        fingerprint: The parent's.
        prior: What cosines of unrelated pairs look like.
        report: How the maps were found and what they do.
        sources: Where the encoders come from that take the place of the parent's.
        probes: What those of them that are functions say of the probe, (d,).
    """
    from safetensors.numpy import save

    path = directory / PROJECTORS
    arrays = {str(modality): weights for modality, weights in sorted(maps.items())}
    arrays |= {f"{PROBE}{one}": rows for one, rows in sorted((probes or {}).items())}
    path.write_bytes(save(arrays))
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
    if sources:
        description["encoders"] = {str(one): source.as_dict() for one, source in sources.items()}
    (directory / DESCRIPTION).write_text(
        json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
