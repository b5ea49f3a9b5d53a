"""Speed of the encoders: items a second, the towers of `base` beside eager torch, cold searches.

    nice python benchmarks/encoders.py

The towers run as shipped (ONNX Runtime) and as the same graph op by op in eager torch, in turns,
on the same inputs with the same threads. Items a second are of the sample corpus, decoded
beforehand: preparing and encoding, with one thread and with all, the models in turns. Then cold
`muomni search` is timed on the sample corpus. Compare ratios within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from common import SEED, describe_machine, seconds, table
from onnx import helper, numpy_helper

from muomni_search.encoders.base.image import FEATURES
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.encoders.base.session import Tower
from muomni_search.encoders.model import load_model
from muomni_search.ingest.read import read_content
from muomni_search.items import Modality
from muomni_search.view import encode_contents

CORPUS = Path(__file__).resolve().parent.parent / "examples/corpus"
ROUNDS = 5
COLD_ROUNDS = 10
Arrays = dict[str, np.ndarray]


# ---- the same graph in eager torch -----------------------------------------------------------


def convolve(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, **a: Any) -> torch.Tensor:
    top, left, bottom, right = a["pads"]
    if (top, left) == (bottom, right):
        padding = (top, left)
    else:
        x, padding = torch.nn.functional.pad(x, (left, right, top, bottom)), (0, 0)
    return torch.nn.functional.conv2d(x, w, b, a["strides"], padding, groups=a["group"])


def normalise_layer(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, **a: Any) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, w.shape, w, b, a["epsilon"])


def reshape(x: torch.Tensor, shape: torch.Tensor, **_: Any) -> torch.Tensor:
    return x.reshape([x.shape[at] if size == 0 else size for at, size in enumerate(shape.tolist())])


def total(x: torch.Tensor, axes: torch.Tensor, **_: Any) -> torch.Tensor:
    return x.sum(dim=axes.tolist())


def unsqueeze(x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    for axis in sorted(axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def part(x: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    return x[int(start) : int(end)]


OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "Add": torch.add,
    "Cast": lambda x, **_: x.float(),
    "Clip": lambda x, low, high: x.clamp(low, high),
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Conv": convolve,
    "Div": torch.div,
    "Erf": torch.erf,
    "Flatten": lambda x, axis: x.flatten(axis),
    "Gather": lambda table, at: table[at],
    "Gemm": lambda x, w, b, **_: torch.nn.functional.linear(x, w, b),
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "LayerNormalization": normalise_layer,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "ReduceSum": total,
    "Relu": torch.relu,
    "Reshape": reshape,
    "Shape": lambda x: torch.tensor(x.shape),
    "Slice": part,
    "Softmax": lambda x, axis: x.softmax(axis),
    "Sub": torch.sub,
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": unsqueeze,
}


class Eager:
    """A tower's graph, op by op in torch; int8 weights are unpacked once, as the runtime does."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.constants = {
            one.name: torch.from_numpy(numpy_helper.to_array(one).copy())
            for one in graph.initializer
        }
        self.outputs = [one.name for one in graph.output]
        self.steps: list[tuple[Callable[..., torch.Tensor], list[str], str, dict[str, Any]]] = []
        for node in graph.node:
            named = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            if node.op_type == "DequantizeLinear":
                codes, scale = (self.constants[name] for name in node.input[:2])
                shape = [-1 if axis == named["axis"] else 1 for axis in range(codes.ndim)]
                self.constants[node.output[0]] = codes.float() * scale.reshape(shape)
                continue
            if node.op_type == "LayerNormalization":
                named.pop("axis")
            step = OPERATORS[node.op_type], list(node.input), node.output[0], named
            self.steps.append(step)

    @torch.inference_mode()
    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        """Run the graph; return its outputs in their order."""
        values = self.constants | {name: torch.from_numpy(x) for name, x in inputs.items()}
        for operator, names, output, named in self.steps:
            values[output] = operator(*(values[name] for name in names), **named)
        return [values[name].numpy() for name in self.outputs]


def towers(threads: int) -> Iterator[Sequence[str]]:
    rng = np.random.default_rng(SEED)
    weights = packaged_directory()
    tokens = rng.integers(1000, 20_000, (64, 32))
    sound = load_model("base").sound_tower
    tasks: list[tuple[str, Path, Sequence[int], int, Arrays]] = [
        ("16 pictures", weights / "image.onnx", (FEATURES, 1000), 16,
         {"image": rng.standard_normal((16, 3, 224, 224)).astype(np.float32)}),
        ("64 texts of 32 tokens", weights / "text.onnx", (384,), 64,
         {"ids": tokens, "mask": np.ones_like(tokens)}),
        ("64 patches of sound", sound, (521,), 64,
         {"patches": rng.standard_normal((64, 1, 96, 64)).astype(np.float32)}),
        ("1 picture", weights / "image.onnx", (FEATURES, 1000), 1,
         {"image": rng.standard_normal((1, 3, 224, 224)).astype(np.float32)}),
        ("1 text of 8 tokens", weights / "text.onnx", (384,), 1,
         {"ids": tokens[:1, :8], "mask": np.ones((1, 8), np.int64)}),
    ]  # fmt: skip
    torch.set_num_threads(threads)
    for name, path, widths, count, inputs in tasks:
        shipped = Tower(path, inputs=list(inputs), widths=widths, threads=threads)
        eager = Eager(path)
        gap = max(
            float(np.abs(one - other).max())
            for one, other in zip(shipped(**inputs), eager(**inputs), strict=True)
        )
        best = {"shipped": np.inf, "eager": np.inf}
        for _ in range(ROUNDS):
            for key, run in (("shipped", shipped), ("eager", eager)):
                best[key] = min(best[key], seconds(run, **inputs))
        yield (
            name, f"{1e3 * best['shipped'] / count:.2f}", f"{1e3 * best['eager'] / count:.2f}",
            f"{best['eager'] / best['shipped']:.1f} ×", f"{gap:.0e}",
        )  # fmt: skip


# ---- items a second ----------------------------------------------------------------------


def encoders(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield for each modality the items a second of each model, with one thread and with all."""
    suffixes = {"text": (".md", ".txt"), "image": (".jpg", ".png"), "audio": (".ogg", ".flac")}
    every = sorted(CORPUS.rglob("*"))
    for modality, endings in suffixes.items():
        paths = [path for path in every if path.suffix in endings]
        read: list[Any] = [
            path.read_text("utf-8")
            if modality == "text"
            else read_content(Modality(modality), path)
            for path in paths
        ]
        for threads in (1, os.cpu_count() or 1):
            best = dict.fromkeys(names, np.inf)
            for _ in range(ROUNDS):
                for name in names:
                    # Anew each time: PyTorch's threads are of the process.
                    encoder = load_model(name, threads=threads).encoder(Modality(modality))
                    encode_contents(encoder, read[:2])
                    best[name] = min(best[name], seconds(encode_contents, encoder, read))
            yield (
                modality,
                str(len(read)),
                str(threads),
                *(f"{len(read) / best[name]:.0f}" for name in names),
            )


# ---- the command line --------------------------------------------------------------------


def muomni(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "muomni_search", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def searches(collection: Path) -> Iterator[Sequence[str]]:
    first = json.loads(muomni("list", "-c", collection, "--json").splitlines()[0])
    asked: list[tuple[str, Sequence[str | Path]]] = [
        ("`muomni --help`", ["--help"]),
        ("`muomni search --id KEY`", ["search", "--id", first["key"]]),
        ('`muomni search "a dog that barks"`', ["search", "a dog that barks"]),
        ("`muomni search --image FILE`", ["search", "--image", CORPUS / "animals/dog.jpg"]),
        ("`muomni search --audio FILE`", ["search", "--audio", CORPUS / "animals/dog.ogg"]),
    ]
    for name, arguments in asked:
        options = [] if name.endswith("--help`") else ["-c", collection, "--json"]
        taken = [seconds(muomni, *arguments, *options) for _ in range(COLD_ROUNDS)]
        yield name, f"{np.median(taken):.2f}", f"{min(taken):.2f}"


def main() -> None:
    argparse.ArgumentParser(description="speed of the encoders").parse_args()
    describe_machine()
    table(
        ("in one call", "shipped, ms each", "eager torch", "ratio", "gap"),
        towers(os.cpu_count() or 1),
    )
    names = ("base", "base-offline", "muomni-tiny")
    header = (f"`{name}`, items/s" for name in names)
    table(("modality", "items", "threads", *header), encoders(names))
    with tempfile.TemporaryDirectory() as folder:
        collection = Path(folder, "collection")
        muomni("add", CORPUS, "-c", collection, "--json")
        table(("cold", "median s", "best s"), searches(collection))
    print(f"\nload {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
