"""The tower and the head: aiSFX as an ONNX graph, and a small network from features to words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from base_model.towers import Graph
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional

from muomni_search.encoders.base.own_sound import DIM, FURTHEST, HIDDEN, MEL_BANDS, TOWER_WIDTH

Array = NDArray[Any]
BATCH_NORM_EPS = 1e-5
EPOCHS, BATCH, LEARNING_RATE, DECAY = 15, 256, 2e-3, 0.05
TEMPERATURE, SOFT = 0.07, 0.15
INPUT_DROPOUT, DROPOUT, NOISE, MIX = 0.2, 0.5, 0.2, 1.0


def read_checkpoint(path: Path) -> dict[str, Array]:
    """Return aiSFX's weights; nothing but arrays and NumPy's scalars is unpickled."""
    scalar = np.core.multiarray.scalar
    safe = [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Int64DType]
    with torch.serialization.safe_globals(safe):
        weights, _ = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in weights.items()}


def folded(state: dict[str, Array]) -> dict[str, Array]:
    """Return aiSFX's convolutions, such as ``1.2.weight``, with the norm behind each folded in."""
    found = {}
    for block in range(1, 5):
        for layer in (1, 2):
            place = f"embedding_net.conv_block{block}"
            norm = f"{place}.bn{layer}"
            gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPS)
            kernel = state[f"{place}.conv{layer}.weight"]
            found[f"{block}.{layer}.weight"] = kernel * gain[:, None, None, None]
            found[f"{block}.{layer}.bias"] = (
                state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
            )
    return found


def export_tower(weights: dict[str, Array], path: Path) -> None:
    """Write the convolutions: (n, frames, 96) → maximum, mean, deviation over time (n, 1536)."""
    graph = Graph()
    x = graph.add("Unsqueeze", "spectrogram", graph.constant("axes", np.array([1])))
    for block in range(1, 5):
        for layer in (1, 2):
            name = f"{block}.{layer}"
            x = graph.add(
                "Conv",
                x,
                graph.weight(f"{name}.weight", weights[f"{name}.weight"], axis=0),
                graph.constant(f"{name}.bias", weights[f"{name}.bias"].astype(np.float32)),
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
            )
            x = graph.add("Relu", x)
        if block < 4:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = graph.add("ReduceMean", x, axes=[3], keepdims=0)  # over bands: (n, 512, time)
    mean = graph.add("ReduceMean", x, axes=[2], keepdims=1)
    off = graph.add("Sub", x, mean)
    spread = graph.add(
        "Sqrt", graph.add("ReduceMean", graph.add("Mul", off, off), axes=[2], keepdims=1)
    )
    highest = graph.add("ReduceMax", x, axes=[2], keepdims=1)
    joined = graph.add("Concat", highest, mean, spread, axis=1)
    graph.nodes.append(onnx.helper.make_node("Flatten", [joined], ["pooled"], axis=1))
    taken = helper.make_tensor_value_info(
        "spectrogram", TensorProto.FLOAT, ["n", "frames", MEL_BANDS]
    )
    graph.save(path, [taken], {"pooled": ["n", TOWER_WIDTH]})


def train_head(
    features: Array, names: list[str], words: dict[str, Array], seed: int
) -> dict[str, Array]:
    """Return the head that maps features (n, width) to the vectors of their names.

    A sound is drawn as often as the square root of how many share its name. The loss is the
    cross entropy with a target that is soft over like names, and the cosine with the name.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    known = sorted(set(names))
    place = {name: number for number, name in enumerate(known)}
    labels = np.array([place[name] for name in names])
    weights = 1 / np.sqrt(np.bincount(labels)[labels])
    mean = np.average(features, axis=0, weights=weights)
    scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights)) + 1e-3
    inputs = torch.tensor(np.clip((features - mean) / scale, -FURTHEST, FURTHEST)).float()
    targets = torch.tensor(np.stack([words[name] for name in known])).float()
    soft = functional.softmax(targets @ targets.T / SOFT, dim=1)
    net = nn.Sequential(
        nn.Dropout(INPUT_DROPOUT),
        nn.Linear(features.shape[1], HIDDEN),
        nn.GELU(approximate="tanh"),
        nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, DIM),
    )
    steps = EPOCHS * len(names) // BATCH
    optimiser = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    drawn = rng.choice(len(names), (steps, BATCH), p=weights / weights.sum())
    for chosen in drawn:
        x, y = inputs[chosen], torch.tensor(labels[chosen])
        share = torch.tensor(rng.beta(MIX, MIX, (BATCH, 1))).float()
        share = torch.maximum(share, 1 - share)
        other = torch.randperm(BATCH)
        x = share * x + (1 - share) * x[other] + NOISE * torch.randn_like(x)
        wanted = share * soft[y] + (1 - share) * soft[y[other]]
        near = share * targets[y] + (1 - share) * targets[y[other]]
        vectors = functional.normalize(net(x), dim=1)
        told = functional.log_softmax(vectors @ targets.T / TEMPERATURE, dim=1)
        loss = -(wanted * told).sum(dim=1).mean()
        loss = loss + (1 - functional.cosine_similarity(vectors, near)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    first, last = net[1], net[4]
    found = {
        "mean": mean,
        "scale": scale,
        "w1": first.weight.detach().numpy().T,
        "b1": first.bias.detach().numpy(),
        "w2": last.weight.detach().numpy().T,
        "b2": last.bias.detach().numpy(),
    }
    return {name: np.asarray(array, np.float16) for name, array in found.items()}
