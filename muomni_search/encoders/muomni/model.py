"""Models of the kind ``muomni``: the reference's checkpoints, and directories of ours like them.

A directory of ours is a one-file export (``model.safetensors``, ``config.json``,
``tokenizer.model``) with a ``model.json`` that holds its files' hashes. A checkpoint without one
is hashed when it is opened, so that a collection made with it knows it again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from muomni_search.encoders.description import (
    DESCRIPTION,
    check_description,
    file_hash,
    fingerprint_of,
    weight_file,
)
from muomni_search.encoders.muomni.layouts import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    Found,
    find_checkpoint,
)
from muomni_search.encoders.protocol import Encoder, Model
from muomni_search.errors import NoEncoder
from muomni_search.items import DIM, Modality

if TYPE_CHECKING:
    from muomni_search.encoders.muomni.network import MuOmni

__all__ = ["KIND", "PREPROCESSING", "MuOmniModel", "tiny_directory"]

KIND = "muomni"
# Counted up when a step from a content to its vector changes while the weights stay.
PREPROCESSING = 2
FILES = {WEIGHTS, CONFIG, TOKENIZER}


class MuOmniModel(Model):
    """μOmni's encoders, of which a checkpoint may have one, two or three.

    Args:
        found: The files.
        description: What ``model.json`` says, or would say.
        threads: How many threads encoding may use; all by default.
    """

    def __init__(
        self, found: Found, description: Mapping[str, Any], *, threads: int | None = None
    ) -> None:
        super().__init__(
            description["name"], KIND, found.path, prior=description.get("prior"), threads=threads
        )
        self._found = found
        self._description = description
        self._network: MuOmni | None = None
        self._loading = threading.Lock()

    @classmethod
    def described(
        cls, directory: Path, description: Mapping[str, Any], *, threads: int | None = None
    ) -> Self:
        """Return the model of a directory with a ``model.json``.

        Raises:
            CheckpointError: This version cannot follow the description.
        """
        files = description.get("files")
        has_tokenizer = not isinstance(files, dict) or TOKENIZER in files
        check_description(
            description,
            directory / DESCRIPTION,
            preprocessing=PREPROCESSING,
            files=FILES if has_tokenizer else FILES - {TOKENIZER},
            needs_prior=False,
        )
        tokenizer = directory / TOKENIZER if has_tokenizer else None
        found = Found(directory, {WEIGHTS: directory / WEIGHTS}, tokenizer)
        return cls(found, description, threads=threads)

    @classmethod
    def find(cls, path: Path, *, threads: int | None = None) -> Self | None:
        """Return the model of a checkpoint, or None where there is none.

        Raises:
            CheckpointError: A file of it cannot be read.
        """
        found = find_checkpoint(path)
        if found is None:
            return None
        files = {**found.files, **{f"config {n}": one for n, one in enumerate(found.configs)}}
        if found.tokenizer:
            files[TOKENIZER] = found.tokenizer
        description = {
            "name": path.resolve().stem,
            "kind": KIND,
            "dim": DIM,
            "preprocessing": PREPROCESSING,
            "files": {
                name: file_hash(file, hint="mend its permissions") for name, file in files.items()
            },
        }
        return cls(found, description, threads=threads)

    def fingerprint(self) -> str:
        """Return the hash of what decides the vectors: weights and preprocessing."""
        return fingerprint_of(self._description)

    def tokenizer(self) -> Path | None:
        """Return the tokenizer's file, where there is one."""
        return self._found.tokenizer

    def network(self) -> MuOmni:
        """Return the network; loaded at its first use.

        Raises:
            CheckpointError: Its files are damaged or foreign.
        """
        with self._loading:
            if self._network is None:
                self._network = self._load_network()
            return self._network

    def _load_network(self) -> MuOmni:
        import torch

        from muomni_search.encoders.muomni.checkpoint import load_network

        if "format" in self._description:
            for name in self._description["files"]:
                weight_file(self._found.path, self._description, name)
        torch.set_num_threads(self.threads)
        return load_network(self._found)

    def parts(self) -> dict[str, Any]:
        """Return the sizes of each tower that is there, and how many weights it has."""
        return {
            name: {
                "weights": sum(one.numel() for one in part.parameters()),
                **{key: value for key, value in sizes.items() if key != "dropout"},
            }
            for name, part, sizes in self.network().sizes()
        }

    def _load(self, modality: Modality) -> Encoder:
        from muomni_search.encoders.muomni import encoders

        network = self.network()
        if modality == Modality.TEXT:
            tokenizer = self._found.tokenizer
            if network.thinker is None:
                raise self._lacks("a Thinker", modality)
            if network.thinker.config.dim != DIM:
                raise self._lacks(f"a Thinker that is {DIM} wide", modality)
            if tokenizer is None:
                raise self._lacks(f"a tokenizer ({TOKENIZER})", modality)
            return encoders.TextEncoder(
                network,
                encoders.Tokenizer(tokenizer, network.thinker.config.vocabulary),
                self.fingerprint(),
            )
        if modality == Modality.IMAGE:
            if network.vision_encoder is None or network.proj_v is None:
                raise self._lacks(f"a ViT with a projector to {DIM}", modality)
            return encoders.ImageEncoder(network, self.fingerprint())
        if network.audio_encoder is None or network.proj_a is None:
            raise self._lacks(f"an AuT with a projector to {DIM}", modality)
        return encoders.AudioEncoder(network, self.fingerprint())

    def _lacks(self, what: str, modality: Modality) -> NoEncoder:
        return NoEncoder(
            f"{self._found.path} lacks {what}, so it cannot encode {modality}",
            hint="`muomni model check` says what it can encode",
        )


def tiny_directory() -> Path:
    """Return the directory of `muomni-tiny`, which ships with the package."""
    return Path(__file__).parent / "tiny"
