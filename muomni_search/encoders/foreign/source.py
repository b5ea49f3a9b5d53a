"""Where a foreign encoder comes from, and whether it is still the one that was meant.

In a model's description that is

    {"source": "function" | "model" | "pretrained", "name": "my-clip" or "/models/clip",
     "dim": 512, "fingerprint": "…"}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.description import DESCRIPTION, read_description
from muomni_search.encoders.foreign.registered import (
    FunctionEncoder,
    find_function,
    is_same_function,
)
from muomni_search.encoders.protocol import Encoder, Model
from muomni_search.errors import CheckpointError, NoEncoder, NotFound
from muomni_search.items import Modality

__all__ = ["Source", "find_source", "probes_of"]

PUT_BACK = "put back the one that it was aligned with, or align anew"
# Wider vectors than any encoder gives.
MAX_DIM = 65_536


@dataclass(frozen=True, slots=True)
class Source:
    """Where an encoder comes from, as a model's description says it."""

    source: Literal["function", "model", "pretrained"]
    name: str
    dim: int
    fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as it stands in ``model.json``."""
        return asdict(self)

    @classmethod
    def read(cls, said: Any, place: str) -> Source:
        """Return what a description says.

        Raises:
            CheckpointError: It is damaged.
        """
        match said:
            case {
                "source": "function" | "model" | "pretrained" as source,
                "name": str(name),
                "dim": int(dim),
                "fingerprint": str(fingerprint),
            } if 0 < dim <= MAX_DIM and not isinstance(dim, bool):
                return cls(source, name, dim, fingerprint)
        raise CheckpointError(f"{place} is missing or damaged", hint=PUT_BACK)

    def open(
        self,
        modality: Modality,
        load: Callable[..., Model],
        *,
        threads: int,
        probe: NDArray[np.float32] | None = None,
    ) -> Encoder:
        """Return the encoder.

        Args:
            modality: What it must read.
            load: Loads one of our models by its name or path.
            threads: How many threads encoding may use.
            probe: What a function said of the probe.

        Raises:
            CheckpointError: It is not there, or another one now.
            NotFound: A package that runs it is not installed.
        """
        encoder = _open(self.source, self.name, modality, load, threads)
        changed = encoder.fingerprint() != self.fingerprint or encoder.dim != self.dim
        if isinstance(encoder, FunctionEncoder) and probe is not None:
            changed = changed or not is_same_function(encoder, probe)
        if changed:
            raise CheckpointError(
                f"the encoder {self.name!r} of {modality} is another one now than the model was "
                "aligned with",
                hint=PUT_BACK,
            )
        return encoder


def find_source(
    name: str | Path, modality: Modality, load: Callable[..., Model], *, threads: int
) -> tuple[Source, Encoder]:
    """Return where an encoder comes from that somebody names, and the encoder.

    Args:
        name: A registered function, the name or path of one of our models, or the folder of a
            pretrained model.
        modality: What it must read.
        load: Loads one of our models by its name or path.
        threads: How many threads encoding may use.

    Raises:
        NotFound: There is none, or a package that runs it is not installed.
        CheckpointError: It is damaged, or reads no such modality.
    """
    kind, full = _kind(name, load)
    encoder = _open(kind, full, modality, load, threads)
    return Source(kind, full, encoder.dim, encoder.fingerprint()), encoder


def probes_of(encoders: Mapping[Modality, Encoder]) -> dict[Modality, NDArray[np.float32]]:
    """Return what those encoders that are functions say of the probe, (d,)."""
    return {
        modality: encoder.probe
        for modality, encoder in encoders.items()
        if isinstance(encoder, FunctionEncoder)
    }


def _kind(
    name: str | Path, load: Callable[..., Model]
) -> tuple[Literal["function", "model", "pretrained"], str]:
    from muomni_search.encoders.foreign.pretrained import is_pretrained

    if find_function(str(name)) is not None:
        return "function", str(name)
    directory = Path(name)
    if not (directory / DESCRIPTION).exists() and is_pretrained(directory):
        return "pretrained", str(directory.absolute())
    try:
        model = load(name)
    except NotFound as error:
        raise NotFound(
            f"no encoder {str(name)!r}: neither a registered function nor a model",
            hint="give the folder of a pretrained model, the name of a model, or the name under "
            "which a function is registered",
        ) from error
    return "model", str(name) if model.directory is None or str(name) == model.name else str(
        directory.absolute()
    )


def _open(
    kind: str, name: str, modality: Modality, load: Callable[..., Model], threads: int
) -> Encoder:
    if kind == "function":
        function = find_function(name)
        if function is None:
            raise CheckpointError(
                f"the encoder {name!r} of {modality} is not registered here",
                hint="call register_encoder, or install the package that brings it",
            )
        return FunctionEncoder(name, function, modality)
    if kind == "model":
        # An aligned one might name the model that asks.
        if (read_description(Path(name)) or {}).get("kind") == "aligned":
            raise CheckpointError(
                f"{name} is an aligned model, whose encoders are not taken",
                hint="name the model that it was learned on",
            )
        try:
            return load(name, threads=threads).encoder(modality)
        except (NotFound, NoEncoder) as error:  # it was aligned with one
            raise CheckpointError(
                f"the encoder of {modality}: {error.what}", hint=error.hint
            ) from error
    from muomni_search.encoders.foreign.pretrained import open_pretrained

    if not Path(name).is_dir():
        raise CheckpointError(f"the encoder of {modality}: {name} is not there", hint=PUT_BACK)
    return open_pretrained(Path(name), modality, threads=threads)
