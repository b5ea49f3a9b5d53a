"""μOmni's towers give what a plain implementation gives, whatever the sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import plain_muomni as plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from muomni_search.encoders.muomni.aut import AuTConfig, mel_spectrogram, mel_spectrograms
from muomni_search.encoders.muomni.layers import freeze, initialise
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.muomni.thinker import Thinker, ThinkerConfig
from muomni_search.encoders.muomni.vit import ViTConfig
from muomni_search.errors import InvalidInput

SMALL_VIT = ViTConfig(size=32, patch=8, dim=16, layers=2, heads=2, hidden=24)


def randomise(module: nn.Module, seed: int = 3) -> None:
    """Give every weight a value that shows: no zeros, no ones, nothing that hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.15 * noise if parameter.dim() > 1 else parameter.data + 0.2 * noise


def weights(module: nn.Module | None) -> dict[str, NDArray[Any]]:
    assert module is not None
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def network(**parts: Any) -> MuOmni:
    made = MuOmni(**parts).eval().requires_grad_(False)
    randomise(made)
    return made


# ---- against the plain implementation ----------------------------------------------------


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("theta", [10_000.0, 500.0])
def test_words_get_the_vector_of_a_plain_thinker(kv_heads: int, theta: float) -> None:
    config = ThinkerConfig(
        vocabulary=50, layers=2, heads=4, kv_heads=kv_heads, hidden=40, rope_theta=theta
    )
    made = network(thinker=config)
    texts = [[1, 7, 7, 3], [1], [1, *range(2, 40)]]
    lengths = torch.tensor([len(ids) for ids in texts])
    padded = torch.zeros(len(texts), int(lengths.max()), dtype=torch.int64)
    for row, ids in zip(padded, texts, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    found = made.embed_text(padded, lengths).numpy()
    for vector, ids in zip(found, texts, strict=True):
        expected = plain.text_vector(
            weights(made.thinker), ids, layers=2, heads=4, theta=theta
        )  # fmt: skip
        assert np.abs(vector - expected).max() < 1e-5


def test_a_picture_gets_the_vector_of_a_plain_vit(rng: np.random.Generator) -> None:
    made = network(vision=SMALL_VIT)
    pictures = rng.uniform(0, 1, (3, 3, 32, 32)).astype(np.float32)
    vectors = made.embed_images(torch.from_numpy(pictures)).numpy()
    grids = made.embed_patches(torch.from_numpy(pictures)).numpy()
    assert grids.shape == (3, 4, 4, 256)
    projector = weights(made.proj_v)
    for picture, vector, grid in zip(pictures, vectors, grids, strict=True):
        tokens = plain.picture_tokens(weights(made.vision_encoder), picture, layers=2, heads=2)
        projected = tokens @ projector["weight"].T + projector["bias"]
        assert np.abs(vector - plain.unit(projected[0])).max() < 1e-5
        for place, patch in enumerate(projected[1:]):
            assert np.abs(grid[place // 4, place % 4] - plain.unit(patch)).max() < 1e-5


def test_a_picture_of_the_real_size_has_a_grid_of_14_by_14(rng: np.random.Generator) -> None:
    made = network(vision=ViTConfig(layers=1))
    picture = rng.uniform(0, 1, (1, 3, 224, 224)).astype(np.float32)
    assert made.embed_patches(torch.from_numpy(picture)).shape == (1, 14, 14, 256)
    tokens = plain.picture_tokens(weights(made.vision_encoder), picture[0], layers=1, heads=2)
    found = made.vision_encoder(torch.from_numpy(picture))[0].numpy()  # type: ignore[misc]
    assert np.abs(found - tokens).max() < 1e-4 * np.abs(tokens).max()


@pytest.mark.parametrize("downsample", [4, 8])
@pytest.mark.parametrize("frames", [1, 7, 33])
def test_a_sound_gets_the_vector_of_a_plain_aut(
    downsample: int, frames: int, rng: np.random.Generator
) -> None:
    config = AuTConfig(channels=4, downsample=downsample, dim=12, layers=2, heads=3, hidden=20)
    made = network(audio=config)
    mel = rng.uniform(0, 3, (2, frames, 128)).astype(np.float32)
    vectors = made.embed_sounds(torch.from_numpy(mel)).numpy()
    steps = made.embed_steps(torch.from_numpy(mel)).numpy()
    assert steps.shape == (2, -(-frames // downsample), 256)
    projector = weights(made.proj_a)
    for number in range(2):
        hidden = plain.sound_steps(weights(made.audio_encoder), mel[number], layers=2, heads=3)
        projected = hidden @ projector["weight"].T + projector["bias"]
        assert np.abs(vectors[number] - plain.unit(projected.mean(0))).max() < 1e-5
        for found, expected in zip(steps[number], projected, strict=True):
            assert np.abs(found - plain.unit(expected)).max() < 1e-5


@pytest.mark.parametrize("kind", ["noise", "chirp", "click", "silence"])
def test_the_mel_front_end_is_what_an_independent_one_gives(
    kind: str, rng: np.random.Generator
) -> None:
    times = np.arange(2_000) / 16_000
    samples = {
        "noise": rng.standard_normal(2_000) / 10,
        "chirp": np.sin(2 * np.pi * (100 + 20_000 * times) * times) / 2,
        "click": (np.arange(2_000) == 1_000) * 1.0,
        "silence": np.zeros(2_000),
    }[kind].astype(np.float32)
    found, expected = mel_spectrogram(samples), plain.mel_by_the_book(samples.astype(np.float64))
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (13, 128)
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, expected.max())


def test_many_spectrograms_at_a_time_are_those_of_one(rng):
    for samples in (100, 512, 4_000, 16_001):
        waves = rng.standard_normal((3, samples)).astype(np.float32)
        together = mel_spectrograms(torch.from_numpy(waves)).numpy()
        for wave, mel in zip(waves, together, strict=True):
            expected = mel_spectrogram(wave)
            assert mel.shape == expected.shape
            assert np.allclose(mel, expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.parametrize("samples", [0, 1, 512, 513, 16_000])
def test_a_sound_of_any_length_has_frames(samples: int) -> None:
    frames = mel_spectrogram(np.full(samples, 0.1, np.float32))
    assert frames.shape == (1 + max(samples, 513) // 160, 128)
    assert np.isfinite(frames).all()


# ---- properties --------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 49), min_size=2, max_size=30), st.integers(0, 49))
def test_what_follows_a_token_changes_nothing_before_it(ids: list[int], last: int) -> None:
    made = network(thinker=ThinkerConfig(vocabulary=50, dim=16, layers=2, heads=2, kv_heads=1))
    assert made.thinker is not None
    before = made.thinker(torch.tensor([ids]))[0, :-1]
    after = made.thinker(torch.tensor([[*ids[:-1], last]]))[0, :-1]
    assert torch.allclose(before, after, atol=1e-6)


def test_the_same_word_has_another_state_in_another_sentence() -> None:
    made = network(thinker=ThinkerConfig(vocabulary=50, dim=16, layers=2, heads=2, kv_heads=1))
    assert made.thinker is not None
    states = made.thinker(torch.tensor([[1, 5, 9], [1, 6, 9]]))[:, 2]
    assert torch.nn.functional.cosine_similarity(states[:1], states[1:]).item() < 0.999


def test_embeddings_and_projections_begin_small_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    made = MuOmni(ThinkerConfig(layers=1), ViTConfig(layers=1), AuTConfig(layers=1))
    spreads = dict(made.named_parameters())
    for name in ("thinker.tok_emb.weight", "vision_encoder.pos", "proj_a.weight"):
        assert spreads[name].std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(spreads[name].mean().item()) < 1e-3
    assert not spreads["proj_v.bias"].any()
    assert spreads["thinker.norm.weight"].eq(1).all()
    assert sum(p.numel() for p in Thinker(ThinkerConfig()).tok_emb.parameters()) == 1_280_000


def test_dropout_acts_in_training_alone() -> None:
    made = MuOmni(ThinkerConfig(vocabulary=50, dim=256, layers=1))
    ids, lengths = torch.tensor([[1, 5, 9]]), torch.tensor([3])
    made.train()
    assert not torch.equal(made.embed_text(ids, lengths), made.embed_text(ids, lengths))
    made.eval()
    assert torch.equal(made.embed_text(ids, lengths), made.embed_text(ids, lengths))


@pytest.mark.parametrize(
    ("tower", "place"),
    [
        ("thinker", "drop"),
        ("thinker", "blocks"),
        ("vision_encoder", "drop"),
        ("vision_encoder", "blocks"),
        ("audio_encoder", "blocks"),
    ],
)
def test_dropout_acts_on_embeddings_and_in_blocks_each_alone(tower: str, place: str) -> None:
    made = MuOmni(
        ThinkerConfig(vocabulary=50, layers=1, hidden=32),
        SMALL_VIT,
        AuTConfig(channels=4, dim=12, layers=1, hidden=20),
    ).train()
    for name, module in made.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        if isinstance(module, nn.Dropout):
            module.p = 0.5 if name.startswith(f"{tower}.{place}") else 0.0
    inputs = {
        "thinker": (torch.tensor([[1, 5, 9]]), torch.tensor([3])),
        "vision_encoder": (torch.full((1, 3, 32, 32), 0.5),),
        "audio_encoder": (torch.ones(1, 16, 128),),
    }
    embed = {
        "thinker": made.embed_text,
        "vision_encoder": made.embed_images,
        "audio_encoder": made.embed_sounds,
    }
    for name, given_ in inputs.items():
        vectors = [embed[name](*given_) for _ in range(2)]  # type: ignore[operator]
        assert torch.equal(*vectors) != (name == tower), name


def test_parts_are_frozen_by_name() -> None:
    made = MuOmni(ThinkerConfig(vocabulary=50, dim=16, layers=2, heads=2, kv_heads=2), SMALL_VIT)
    freeze(made, ["thinker.tok_emb", "vision_encoder.blocks.0"])
    held = {name for name, one in made.named_parameters() if not one.requires_grad}
    assert held == {
        name
        for name, _ in made.named_parameters()
        if name.startswith(("thinker.tok_emb.", "vision_encoder.blocks.0."))
    }
    with pytest.raises(InvalidInput, match=r"'thinker\.blocks\.9'.*thinker"):
        freeze(made, ["thinker.blocks.9"])


def test_initialising_twice_with_one_seed_gives_the_same() -> None:
    layer = nn.Linear(4, 4)
    torch.manual_seed(5)
    initialise(layer)
    first = layer.weight.clone()
    torch.manual_seed(5)
    initialise(layer)
    assert torch.equal(first, layer.weight)
