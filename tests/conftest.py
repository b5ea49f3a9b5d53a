"""What the tests share: seeded generators, small collections, a corpus of real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_helpers import train_tokenizer, write_aligned_model
from numpy.typing import NDArray

from muomni_search.items import DIM
from muomni_search.vectors import normalise


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives the same numbers in every run."""
    return np.random.default_rng(20_240_229)


def unit_rows(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Return n random unit vectors (n, 256)."""
    return normalise(rng.standard_normal((n, DIM)))


@pytest.fixture(scope="session")
def muomni_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of all three of μOmni's encoders, small, as training writes it."""
    return write_muomni_checkpoint(tmp_path_factory.mktemp("checkpoints"))


def write_muomni_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of three towers, two projectors and a tokenizer."""
    import torch

    from muomni_search.encoders.muomni.aut import AuTConfig
    from muomni_search.encoders.muomni.network import MuOmni
    from muomni_search.encoders.muomni.thinker import ThinkerConfig
    from muomni_search.encoders.muomni.vit import ViTConfig

    tokenizer = train_tokenizer()
    network = MuOmni(
        ThinkerConfig(vocabulary=60, layers=2, kv_heads=2, hidden=64),
        ViTConfig(dim=32, layers=2, hidden=48),
        AuTConfig(channels=4, dim=24, layers=2, hidden=32),
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.6 * noise if parameter.dim() > 1 else parameter.data + 0.2 * noise
    part = {name: child.state_dict() for name, child in network.named_children()}
    files: dict[str, Any] = {
        "thinker_tiny/thinker.pt": {"model": part["thinker"]},
        "vision_tiny/vision.pt": {
            "vit": part["vision_encoder"],
            # Vision training's own space has 128 dimensions.
            "img_proj": {"weight": torch.ones(128, 32), "bias": torch.zeros(128)},
        },
        "audio_enc_tiny/audio_enc.pt": {"enc": part["audio_encoder"]},
        "omni_sft_tiny/omni.pt": {"proj_a": part["proj_a"], "proj_v": part["proj_v"]},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / name)
    (folder / "thinker_tiny/tokenizer.model").write_bytes(tokenizer)
    return folder


@pytest.fixture(scope="session")
def aligned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model aligned with ``hashing``, which maps pictures and sounds."""
    return write_aligned_model(tmp_path_factory.mktemp("models") / "aligned")
