"""μOmni's three encoders once more, in plain NumPy and float64, written from their description.

Nothing here is shared with the package: weights come as a dictionary of arrays named as in the
reference's checkpoints (fused or grouped queries, four or eight times fewer frames).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.floating]]


def rms_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def attend(q: Array, k: Array, v: Array, heads: int, *, causal: bool = False) -> Array:
    """Attention of (T, D) queries, keys and values, head by head."""
    tokens, width = len(q), q.shape[1] // heads
    mixed = np.empty_like(q)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / math.sqrt(width)
        if causal:
            scores[np.triu_indices(tokens, 1)] = -np.inf
        mixed[:, part] = softmax(scores) @ v[:, part]
    return mixed


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x)


# ---- words -----------------------------------------------------------------------------------


def turned(x: Array, heads: int, theta: float) -> Array:
    """Rotary positions on (T, heads · d): the pair (i, i + d/2) turns by t · theta^(−2i/d)."""
    tokens, width = len(x), x.shape[1] // heads
    out = np.empty_like(x)
    for position in range(tokens):
        for head in range(heads):
            for i in range(width // 2):
                a, b = head * width + i, head * width + i + width // 2
                angle = position * theta ** (-2 * i / width)
                cos, sin = math.cos(angle), math.sin(angle)
                out[position, a] = x[position, a] * cos - x[position, b] * sin
                out[position, b] = x[position, b] * cos + x[position, a] * sin
    return out


def text_vector(
    w: Weights, ids: list[int], *, layers: int, heads: int, theta: float = 10_000.0
) -> Array:
    """The unit mean of the Thinker's states; ``ids`` begin with BOS."""
    x = np.asarray(w["tok_emb.weight"], np.float64)[ids]
    for number in range(layers):
        block = {
            name.removeprefix(f"blocks.{number}."): np.asarray(value, np.float64)
            for name, value in w.items()
            if name.startswith(f"blocks.{number}.")
        }
        normed = rms_norm(x, block["norm1.weight"])
        if "attn.qkv.weight" in block:
            q, k, v = np.split(normed @ block["attn.qkv.weight"].T, 3, axis=1)
        else:
            q, k, v = (normed @ block[f"attn.{name}.weight"].T for name in "qkv")
        width = q.shape[1] // heads
        kv_heads = k.shape[1] // width
        q, k = turned(q, heads, theta), turned(k, kv_heads, theta)
        served = [head * kv_heads // heads for head in range(heads)]
        k, v = (
            np.concatenate([one[:, g * width : (g + 1) * width] for g in served], axis=1)
            for one in (k, v)
        )
        x = x + attend(q, k, v, heads, causal=True) @ block["attn.o.weight"].T
        normed = rms_norm(x, block["norm2.weight"])
        gate = normed @ block["mlp.gate_proj.weight"].T
        up = normed @ block["mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ block["mlp.down_proj.weight"].T
    return unit(rms_norm(x, np.asarray(w["norm.weight"], np.float64)).mean(0))


# ---- pictures --------------------------------------------------------------------------------


def on_white(picture: NDArray[np.uint8]) -> Array:
    """A picture (h, w, 3 or 4) as (h, w, 3) in [0, 255], white where it is transparent."""
    colours = picture[..., :3].astype(np.float64)
    if picture.shape[2] == 3:
        return colours
    alpha = picture[..., 3:] / 255
    return colours * alpha + 255 * (1 - alpha)


def squeezed(picture: Array, size: int) -> Array:
    """A picture (h, w, 3) as (size, size, 3), whatever its aspect.

    Along each axis a pixel is the mean of the old ones, weighted by a triangle around its middle
    that reaches as far as a new pixel is wide, or an old one where the picture grows.
    """
    for axis in (0, 1):
        wide = picture.shape[axis] / size
        middles = (np.arange(size) + 0.5) * wide
        apart = np.abs(np.arange(picture.shape[axis]) + 0.5 - middles[:, None])
        weights = np.maximum(0, 1 - apart / max(wide, 1))
        weights /= weights.sum(axis=1, keepdims=True)
        picture = np.moveaxis(np.tensordot(weights, picture, axes=(1, axis)), 0, axis)
    return picture


def picture_tokens(w: Weights, picture: Array, *, layers: int, heads: int) -> Array:
    """ViT's tokens (197, d) of a picture (3, 224, 224)."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    dim, _, patch, _ = w["proj.weight"].shape
    side = picture.shape[1] // patch
    tokens = [w["cls"][0, 0]]
    for row in range(side):
        for column in range(side):
            y, x = row * patch, column * patch
            square = picture[:, y : y + patch, x : x + patch]
            tokens.append(w["proj.weight"].reshape(dim, -1) @ square.ravel() + w["proj.bias"])
    x = np.array(tokens) + w["pos"][0]
    for number in range(layers):
        p = f"blocks.{number}."
        normed = layer_norm(x, w[p + "norm1.weight"], w[p + "norm1.bias"])
        qkv = normed @ w[p + "self_attn.in_proj_weight"].T + w[p + "self_attn.in_proj_bias"]
        mixed = attend(*np.split(qkv, 3, axis=1), heads)
        x = x + mixed @ w[p + "self_attn.out_proj.weight"].T + w[p + "self_attn.out_proj.bias"]
        normed = layer_norm(x, w[p + "norm2.weight"], w[p + "norm2.bias"])
        hidden = gelu(normed @ w[p + "linear1.weight"].T + w[p + "linear1.bias"])
        x = x + hidden @ w[p + "linear2.weight"].T + w[p + "linear2.bias"]
    return rms_norm(x, w["norm.weight"])


# ---- sounds ----------------------------------------------------------------------------------


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """A 3 × 3 convolution of (C, T, F) with stride 2 and zeros around, then GELU."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    times, bands = (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2
    out = np.empty((len(weight), times, bands))
    for t in range(times):
        for f in range(bands):
            square = padded[:, 2 * t : 2 * t + 3, 2 * f : 2 * f + 3]
            out[:, t, f] = weight.reshape(len(weight), -1) @ square.ravel() + bias
    return gelu(out)


def sound_steps(w: Weights, mel: Array, *, layers: int, heads: int) -> Array:
    """AuT's steps (T/8 or T/4, d) of a mel spectrogram (T, 128)."""
    w = {name: np.asarray(value, np.float64) for name, value in w.items()}
    convolutions = [name for name in w if name.startswith("down.") and name.endswith("weight")]
    x = mel[None].astype(np.float64)
    for name in sorted(convolutions, key=lambda name: (".net." not in name, name)):
        x = convolve(x, w[name], w[name.replace("weight", "bias")])
    # Channels × frequencies, flattened at each step of time.
    x = np.array([x[:, t, :].ravel() for t in range(x.shape[1])])
    x = x @ w["proj.weight"].T + w["proj.bias"]
    for number in range(layers):
        p = f"blocks.{number}."
        normed = rms_norm(x, w[p + "norm1.weight"])
        qkv = normed @ w[p + "qkv_proj.weight"].T + w[p + "qkv_proj.bias"]
        mixed = attend(*np.split(qkv, 3, axis=1), heads)
        x = x + mixed @ w[p + "out_proj.weight"].T + w[p + "out_proj.bias"]
        normed = rms_norm(x, w[p + "norm2.weight"])
        hidden = gelu(normed @ w[p + "mlp.0.weight"].T + w[p + "mlp.0.bias"])
        x = x + hidden @ w[p + "mlp.2.weight"].T + w[p + "mlp.2.bias"]
    return rms_norm(x, w["norm.weight"])


def mel_by_the_book(samples: Array) -> Array:
    """The mel spectrogram of torchaudio's defaults with n_fft 1024, window 400, hop 160, 128 bands.

    Centred frames with reflection, periodic Hann in the middle of each frame, powers, triangles
    that are straight in Hz between edges that are even on the HTK scale from 0 to 8,000 Hz.
    """
    padded = np.concatenate([samples[512:0:-1], samples, samples[-2:-514:-1]])
    window = np.zeros(1024)
    window[312:712] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    k, n = np.arange(513)[:, None], np.arange(1024)[None]
    transform = np.exp(-2j * np.pi * k * n / 1024)
    top = 2595 * math.log10(1 + 8000 / 700)
    edges = [700 * (10 ** (top * one / 129 / 2595) - 1) for one in range(130)]
    bands = np.zeros((513, 128))
    for number in range(513):
        hertz = number * 16_000 / 1024
        for band in range(128):
            low, peak, high = edges[band : band + 3]
            weight = min((hertz - low) / (peak - low), (high - hertz) / (high - peak))
            bands[number, band] = max(0.0, weight)
    frames = []
    for start in range(0, len(padded) - 1024 + 1, 160):
        powers = np.abs(transform @ (padded[start : start + 1024] * window)) ** 2
        frames.append(powers @ bands)
    return np.array(frames)
