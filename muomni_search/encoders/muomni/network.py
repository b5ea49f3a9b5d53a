"""μOmni's three towers and two projectors as one network: plain tensors in, unit vectors out.

    ids (B, T)               → Thinker → mean over tokens ───────────────→ (B, 256)
    pictures (B, 3, 224, 224) → ViT → class token → proj_v (Linear) ─────→ (B, 256)
    mel (B, T, 128)          → AuT → proj_a (Linear) → mean over steps ──→ (B, 256)

The parts are named as in the reference's one-file export, so a file of ours is one of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from muomni_search.encoders.muomni.aut import AuT, AuTConfig
from muomni_search.encoders.muomni.layers import initialise
from muomni_search.encoders.muomni.thinker import Thinker, ThinkerConfig
from muomni_search.encoders.muomni.vit import ViT, ViTConfig
from muomni_search.items import DIM

__all__ = ["MuOmni"]

Part = TypeVar("Part", bound=nn.Module)


class MuOmni(nn.Module):
    """The towers that a checkpoint has; the others are None.

    Args:
        thinker: Sizes of the tower for words.
        vision: Sizes of the tower for pictures.
        audio: Sizes of the tower for sounds.
        projects_vision: Whether there is a projector behind the tower for pictures.
        projects_audio: Whether there is one behind the tower for sounds.
    """

    def __init__(
        self,
        thinker: ThinkerConfig | None = None,
        vision: ViTConfig | None = None,
        audio: AuTConfig | None = None,
        *,
        projects_vision: bool = True,
        projects_audio: bool = True,
    ) -> None:
        super().__init__()
        self.thinker = Thinker(thinker) if thinker else None
        self.vision_encoder = ViT(vision) if vision else None
        self.audio_encoder = AuT(audio) if audio else None
        self.proj_v = nn.Linear(vision.dim, DIM) if vision and projects_vision else None
        self.proj_a = nn.Linear(audio.dim, DIM) if audio and projects_audio else None
        for projector in (self.proj_v, self.proj_a):
            if projector is not None:
                initialise(projector)

    def sizes(self) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
        """Yield the name of each part that is there, the part, and its sizes."""
        for name, part in self.named_children():
            if isinstance(part, Thinker | ViT | AuT):
                yield name, part, asdict(part.config)
            else:
                yield name, part, {"dim": DIM}

    def embed_text(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return unit vectors (B, 256) of token ids (B, T), padded behind their lengths (B,)."""
        hidden = _present(self.thinker)(ids)  # (B, T, 256)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]  # (B, T)
        mean = (hidden * real[..., None]).sum(1) / lengths[:, None]
        return functional.normalize(mean, dim=-1)

    def embed_images(self, pictures: Tensor, *, seen: float = 1.0) -> Tensor:
        """Return unit vectors (B, 256) of pictures (B, 3, 224, 224) in [0, 1]; see ``ViT``."""
        tokens = _present(self.vision_encoder)(pictures, seen=seen)
        return functional.normalize(_present(self.proj_v)(tokens[:, 0]), dim=-1)

    def embed_sounds(self, mel: Tensor) -> Tensor:
        """Return unit vectors (B, 256) of mel spectrograms (B, T, 128), all frames of them real."""
        steps = _present(self.proj_a)(_present(self.audio_encoder)(mel))  # (B, T/8, 256)
        return functional.normalize(steps.mean(1), dim=-1)

    def embed_patches(self, pictures: Tensor) -> Tensor:
        """Return unit vectors (B, 14, 14, 256) of the squares of pictures (B, 3, 224, 224)."""
        tower = _present(self.vision_encoder)
        patches = _present(self.proj_v)(tower(pictures)[:, 1:])  # (B, 196, 256)
        grid = tower.config.grid
        return functional.normalize(patches.unflatten(1, (grid, grid)), dim=-1)

    def embed_steps(self, mel: Tensor) -> Tensor:
        """Return unit vectors (B, ⌈T / 8⌉, 256) of the steps of mel spectrograms (B, T, 128)."""
        steps = _present(self.proj_a)(_present(self.audio_encoder)(mel))
        return functional.normalize(steps, dim=-1)


def _present(part: Part | None) -> Part:
    if part is None:
        raise RuntimeError("this network lacks the tower or the projector that was asked for")
    return part
