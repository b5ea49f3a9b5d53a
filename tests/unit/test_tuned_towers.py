"""The tuning of towers (`scripts/base_model/tuning.py`, `scripts/own_sound/tuning.py`)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PACKAGES = ("base_model", "own_sound")
NAMES = ["owl", "key", "drum"]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the scripts' modules be imported, and forget them after the test."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]


@pytest.fixture
def pictures(scripts: None) -> ModuleType:
    return importlib.import_module("base_model.tuning")


@pytest.fixture
def sounds(scripts: None) -> ModuleType:
    return importlib.import_module("own_sound.tuning")


@pytest.fixture
def towers(scripts: None) -> ModuleType:
    return importlib.import_module("base_model.towers")


@pytest.fixture
def training(scripts: None) -> ModuleType:
    return importlib.import_module("own_sound.training")


def random_words(width: int) -> dict[str, Array]:
    rows = np.random.default_rng(0).normal(size=(len(NAMES), width)).astype(np.float32)
    return dict(zip(NAMES, rows / np.linalg.norm(rows, axis=1, keepdims=True), strict=True))


def normed(rng: np.random.Generator, weight: str, norm: str, *shape: int) -> dict[str, Array]:
    """Return a convolution and a batch norm of random numbers that keep signals at their size."""
    channels, spread = shape[0], np.sqrt(2 / np.prod(shape[1:]))
    return {
        f"{weight}.weight": rng.normal(0, spread, shape).astype(np.float32),
        f"{norm}.weight": rng.uniform(0.8, 1.2, channels).astype(np.float32),
        f"{norm}.bias": rng.normal(0, 0.2, channels).astype(np.float32),
        f"{norm}.running_mean": rng.normal(0, 0.1, channels).astype(np.float32),
        f"{norm}.running_var": rng.uniform(0.8, 1.2, channels).astype(np.float32),
    }


def picture_state(towers: ModuleType, seed: int = 1) -> dict[str, Array]:
    """Return random arrays in the shapes of EfficientNet-Lite0."""
    rng = np.random.default_rng(seed)
    kernels = [width for _, _, width, _, repeats in towers.STAGES for _ in range(repeats)]
    state = normed(rng, "_conv_stem", "_bn0", 32, 3, 3, 3)
    for number, (expansion, channels, out, _) in enumerate(towers.block_sizes()):
        name, inner, width = f"_blocks.{number}", channels * expansion, kernels[number]
        if expansion != 1:
            state |= normed(rng, f"{name}._expand_conv", f"{name}._bn0", inner, channels, 1, 1)
        state |= normed(rng, f"{name}._depthwise_conv", f"{name}._bn1", inner, 1, width, width)
        state |= normed(rng, f"{name}._project_conv", f"{name}._bn2", out, inner, 1, 1)
    state |= normed(rng, "_conv_head", "_bn1", 1280, 320, 1, 1)
    classes = {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}
    return state | {
        name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in classes.items()
    }


def sound_state() -> dict[str, Array]:
    """Return random arrays in the shapes of aiSFX's convolutions."""
    rng, entry = np.random.default_rng(2), 1
    state: dict[str, Array] = {}
    for block, channels in enumerate((64, 128, 256, 512), start=1):
        place = f"embedding_net.conv_block{block}"
        for layer in (1, 2):
            shape = (channels, entry, 3, 3)
            state |= normed(rng, f"{place}.conv{layer}", f"{place}.bn{layer}", *shape)
            entry = channels
    return state


def rounded(weights: dict[str, Array], towers: ModuleType) -> dict[str, Array]:
    """Return the arrays as a graph keeps them: all but the biases in int8."""
    found = dict(weights)
    for name, array in weights.items():
        if array.ndim > 1:
            codes, scale = towers.quantise(array, 0)
            found[name] = codes * scale.reshape(-1, *[1] * (array.ndim - 1))
    return found


# ---- pictures ----------------------------------------------------------------------------------


def plain_convolution(
    x: Array, state: dict[str, Array], weight: str, norm: str, stride: int = 1
) -> Array:
    """Convolve (channels, s, s) number by number as TensorFlow's SAME does, and norm after that."""
    kernel = state[f"{weight}.weight"].astype(np.float64)
    width, size = kernel.shape[-1], x.shape[-1]
    out = -(-size // stride)
    padding = max((out - 1) * stride + width - size, 0)
    before, after = padding // 2, padding - padding // 2
    x = np.pad(x, ((0, 0), (before, after), (before, after)))
    depthwise = kernel.shape[1] == 1
    found = np.empty((len(kernel), out, out))
    for row in range(out):
        for column in range(out):
            top, left = row * stride, column * stride
            seen = x[:, top : top + width, left : left + width]
            product = kernel[:, 0] * seen if depthwise else kernel * seen
            found[:, row, column] = product.reshape(len(kernel), -1).sum(axis=1)
    shape = (-1, 1, 1)
    scale = np.sqrt(state[f"{norm}.running_var"].astype(np.float64) + 1e-3).reshape(shape)
    centred = found - state[f"{norm}.running_mean"].reshape(shape)
    gain, bias = state[f"{norm}.weight"].reshape(shape), state[f"{norm}.bias"].reshape(shape)
    return np.asarray(centred / scale * gain + bias)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("number", [1, 2, 3])  # stride 2 and 3 × 3, 1 and 3 × 3, 2 and 5 × 5
def test_a_block_of_pictures_is_its_convolutions_and_norms_number_by_number(
    pictures: ModuleType, towers: ModuleType, number: int, size: int
) -> None:
    state = picture_state(towers)
    _, channels, out, stride = list(towers.block_sizes())[number]
    x = np.random.default_rng(3).normal(size=(channels, size, size)).astype(np.float32)
    name = f"_blocks.{number}"
    wide = plain_convolution(x, state, f"{name}._expand_conv", f"{name}._bn0").clip(0, 6)
    deep = plain_convolution(wide, state, f"{name}._depthwise_conv", f"{name}._bn1", stride)
    expected = plain_convolution(deep.clip(0, 6), state, f"{name}._project_conv", f"{name}._bn2")
    if stride == 1 and channels == out:
        expected = expected + x
    tower = pictures.PictureTower(towers.folded(state))
    with torch.no_grad():
        found = tower.block(torch.from_numpy(x[None]), number)[0].numpy()
    assert found.shape == (out, -(-size // stride), -(-size // stride))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def means(tower: Any, square: Array) -> dict[str, Array]:
    """Return the mean over a picture of what each convolution of a tower gives, by its name."""
    found: dict[str, Array] = {}
    convolve = tower._convolve

    def kept(x: torch.Tensor, name: str, **how: Any) -> torch.Tensor:
        layer: torch.Tensor = convolve(x, name, **how)
        found[name] = layer.mean(dim=(2, 3)).numpy()
        return layer

    tower._convolve = kept
    with torch.no_grad():
        last = tower(torch.from_numpy(square)).numpy()
    np.testing.assert_array_equal(last, found["_conv_head"])
    return found


def tuned_elsewhere(pictures: ModuleType, towers: ModuleType) -> dict[str, Array]:
    """Return upper blocks that have nothing in common with those of `picture_state`."""
    others = towers.folded(picture_state(towers, seed=7))
    return {name: array for name, array in others.items() if pictures.is_learned(name)}


def test_the_exported_picture_tower_names_as_it_came_and_gives_both_branches(
    pictures: ModuleType, towers: ModuleType, tmp_path: Path
) -> None:
    from onnxruntime import InferenceSession

    state, graph = picture_state(towers), tmp_path / "image.onnx"
    weights, tuned = towers.folded(state), tuned_elsewhere(pictures, towers)
    towers.export_image_tower(state, tuned, graph)
    square = np.random.default_rng(4).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
    session = InferenceSession(graph.read_bytes())
    features, logits = session.run(["features", "logits"], {"image": square})
    came = means(pictures.PictureTower(rounded(weights, towers)), square)
    other = means(pictures.PictureTower(rounded(weights | tuned, towers)), square)
    last = came["_conv_head"]
    assert features.shape == (1, 3712)
    close = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(features[:, :1280], other["_conv_head"], **close)
    inner = other["_blocks.15._depthwise_conv"]
    np.testing.assert_allclose(features[:, 1280:2432], inner, **close)
    np.testing.assert_allclose(features[:, 2432:], last, **close)
    classes = rounded(state, towers)["_fc.weight"]
    np.testing.assert_allclose(logits, last @ classes.T + state["_fc.bias"], rtol=1e-3, atol=1e-3)


def test_tuned_blocks_that_are_read_back_are_written_as_the_same_bytes(
    pictures: ModuleType, towers: ModuleType, tmp_path: Path
) -> None:
    state, tuned = picture_state(towers), tuned_elsewhere(pictures, towers)
    first, second = (tmp_path / name / "image.onnx" for name in ("first", "second"))
    for path in (first, second):  # a graph is named after its file
        path.parent.mkdir()
    towers.export_image_tower(state, tuned, first)
    found = towers.tuned_blocks(first)
    towers.export_image_tower(state, found, second)
    assert second.read_bytes() == first.read_bytes()
    assert found.keys() == tuned.keys()


def test_views_of_pictures_keep_shape_and_range(pictures: ModuleType) -> None:
    torch.manual_seed(0)
    squares = torch.randint(0, 256, (40, 4, 30, 30), dtype=torch.uint8)
    squares[1] = squares[0]
    before = squares.clone()
    views = pictures.alter(squares, 48)
    assert views.shape == (40, 3, 48, 48)
    assert views.min() >= 0
    assert views.max() <= 1
    assert not torch.equal(views[0], views[1])
    assert torch.equal(squares, before)


def test_what_is_opaque_hides_its_background(pictures: ModuleType) -> None:
    torch.manual_seed(0)
    rgb, alpha = torch.rand(20, 3, 48, 48), torch.ones(20, 1, 48, 48)
    torch.testing.assert_close(pictures.laid(rgb, alpha), rgb)
    alpha[:, :, :, :24] = 0
    shown = pictures.laid(rgb * alpha, alpha)
    torch.testing.assert_close(shown[:, :, :, 24:], rgb[:, :, :, 24:])
    assert (shown[:, :, :, :24] == 1).all(dim=(1, 2, 3)).sum() in range(4, 17)  # on white


def test_two_steps_on_pictures_change_the_upper_blocks_alone(
    pictures: ModuleType, towers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "SIZE", 64)
    monkeypatch.setattr(pictures, "IMAGE_SIZE", 64)
    rng = np.random.default_rng(5)
    weights = towers.folded(picture_state(towers))
    before = {name: array.copy() for name, array in weights.items()}
    drawings = rng.integers(0, 256, (12, 32, 32, 4), np.uint8)
    said: list[str] = []
    tuned = pictures.tune_pictures(
        weights, drawings, NAMES * 4, random_words(24), epochs=2, say=said.append
    )
    upper = (*(f"_blocks.{number}." for number in range(8, 16)), "_conv_head.")
    assert set(tuned) == {name for name in weights if name.startswith(upper)}
    for name, array in tuned.items():
        assert array.shape == weights[name].shape
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
        assert not np.array_equal(array, weights[name])
    for name, array in weights.items():
        np.testing.assert_array_equal(array, before[name])
    assert said[-1].startswith("step 2 of 2, loss ")


# ---- sounds ------------------------------------------------------------------------------------


def random_spectrograms(*lengths: int) -> list[Array]:
    rng = np.random.default_rng(6)
    return [rng.uniform(0, 1, (length, 96)).astype(np.float32) for length in lengths]


def test_a_sound_is_pooled_over_its_own_frames_alone(
    sounds: ModuleType, training: ModuleType
) -> None:
    """With kernels of one frame and band nothing beyond the end reaches what is before it."""
    weights = training.folded(sound_state())
    for name, array in weights.items():
        if array.ndim == 4:
            middle = array[:, :, 1, 1] * 3
            weights[name] = np.zeros_like(array)
            weights[name][:, :, 1, 1] = middle
    tower = sounds.SoundTower(weights)
    short, long = (torch.from_numpy(one) for one in random_spectrograms(24, 40))
    both = torch.stack([torch.cat([short, torch.full((16, 96), 9.0)]), long])
    with torch.no_grad():
        found = tower(both, torch.tensor([24, 40]))
        alone = [tower(one[None], torch.tensor([len(one)]))[0] for one in (short, long)]
    assert found.shape == (2, 1536)
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-4)


def test_the_border_of_a_padded_sound_changes_little(
    sounds: ModuleType, training: ModuleType
) -> None:
    """After an end that is padded the layers see their own biases, where alone they see zeros."""
    tower = sounds.SoundTower(training.folded(sound_state()))
    (short,) = (torch.from_numpy(one) for one in random_spectrograms(96))
    padded = torch.cat([short, torch.zeros(64, 96)])
    with torch.no_grad():
        found = tower(padded[None], torch.tensor([96]))[0]
        alone = tower(short[None], torch.tensor([96]))[0]
    assert torch.nn.functional.cosine_similarity(found, alone, dim=0) > 0.99


def test_the_exported_sound_tower_gives_the_same(
    sounds: ModuleType, training: ModuleType, towers: ModuleType, tmp_path: Path
) -> None:
    from onnxruntime import InferenceSession

    weights, graph = training.folded(sound_state()), tmp_path / "own_sound.onnx"
    training.export_tower(weights, graph)
    (heard,) = random_spectrograms(45)
    given = InferenceSession(graph.read_bytes()).run(None, {"spectrogram": heard[None]})[0][0]
    with torch.no_grad():
        tower = sounds.SoundTower(rounded(weights, towers))
        found = tower(torch.from_numpy(heard[None]), torch.tensor([45]))[0].numpy()
    np.testing.assert_allclose(found, given, rtol=1e-3, atol=1e-3)


def test_sounds_are_packed_in_255ths_with_silence_after_their_ends(sounds: ModuleType) -> None:
    short, long = random_spectrograms(5, 180)
    packed, frames = sounds.packed([short, long])
    assert packed.shape == (2, 173, 69)
    assert frames.tolist() == [5, 173]
    assert not packed[0, 5:].any()
    back = sounds.unpacked(packed)
    assert back.shape == (2, 173, 96)
    np.testing.assert_allclose(back[0, :5, :69], short[:, :69], atol=0.002)
    assert not back[:, :, 69:].any()


def test_altered_sounds_keep_their_shape_and_end_where_it_is_said(sounds: ModuleType) -> None:
    torch.manual_seed(0)
    lengths = [3, 20, 60, 120, 172, 173] * 5
    packed, frames = sounds.packed([np.full((length, 96), 0.5) for length in lengths])
    power, ends = sounds.alter(sounds.unpacked(packed[:, :172]), frames)
    assert power.shape == (30, 172, 96)
    assert torch.isfinite(power).all()
    assert power.min() >= 0
    assert not power[:, :, 69:].any()
    assert ends.min() >= 16
    assert ends.max() <= 172
    loud = power.sum(dim=2) > 0
    for one, end in zip(loud, ends.tolist(), strict=True):
        assert not one[end + 2 :].any()  # the last frame is between two


def test_powers_and_loudness_are_inverse(sounds: ModuleType) -> None:
    heard = torch.linspace(0, 1, 96 * 4).reshape(1, 4, 96)
    torch.testing.assert_close(sounds.loudness(sounds.powers(heard)), heard, rtol=1e-4, atol=1e-4)


def test_masks_silence_at_most_two_stretches_of_eight_bands(sounds: ModuleType) -> None:
    torch.manual_seed(0)
    hidden = (sounds.masked(torch.ones(50, 3, 96)) == 0).all(dim=1)
    assert hidden[:, 69:].all()
    counts = hidden[:, :69].sum(dim=1)
    assert counts.max() <= 16
    assert counts.float().mean() > 3


def test_two_steps_on_sounds_give_finite_arrays(
    sounds: ModuleType, training: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = sounds.RECIPE
    monkeypatch.setattr(sounds, "RECIPE", type(recipe)(**{**vars(recipe), "batch": 3}))
    weights = training.folded(sound_state())
    said: list[str] = []
    heard = random_spectrograms(4, 80, 173)
    tuned = sounds.tune_sounds(weights, heard, NAMES, random_words(24), epochs=2, say=said.append)
    assert set(tuned) == set(weights)
    for name, array in tuned.items():
        assert array.shape == weights[name].shape
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
        assert not np.array_equal(array, weights[name])
    assert said[-1].startswith("step 2 of 2, loss ")
