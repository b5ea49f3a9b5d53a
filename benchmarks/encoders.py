"""Speed of the model `base`: its towers beside eager torch, whole additions, cold searches.

    nice python benchmarks/encoders.py [FOLDER…] [--files 400]

The towers run as shipped (ONNX Runtime) and as the same graph op by op in eager torch, in turns,
on the same inputs with the same threads. Then real files from the folders (by default the sample
corpus) are added with `muomni add`, each modality to a collection of its own, and cold `muomni
search` is timed on all of them together. Compare ratios within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from muomni_search.encoders.base.session import Tower
from muomni_search.encoders.model import SOUND_TOWER, load_model, packaged_directory

SEED = 20260101
ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
SUFFIXES = {
    "text": (".txt", ".md"),
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "audio": (".flac", ".wav", ".ogg", ".mp3"),
}
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
    sound = load_model("base").fetched_path(SOUND_TOWER)
    tasks: list[tuple[str, Path, Sequence[int], int, Arrays]] = [
        ("16 pictures", weights / "image.onnx", (1280, 1000), 16,
         {"image": rng.standard_normal((16, 3, 224, 224)).astype(np.float32)}),
        ("64 texts of 32 tokens", weights / "text.onnx", (384,), 64,
         {"ids": tokens, "mask": np.ones_like(tokens)}),
        ("64 patches of sound", sound, (521,), 64,
         {"patches": rng.standard_normal((64, 1, 96, 64)).astype(np.float32)}),
        ("1 picture", weights / "image.onnx", (1280, 1000), 1,
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


def seconds(work: Callable[..., Any], *given: Any, **named: Any) -> float:
    start = time.perf_counter()
    work(*given, **named)
    return time.perf_counter() - start


# ---- the command line --------------------------------------------------------------------


def muomni(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "muomni_search", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def gather(folders: Sequence[Path], limit: int, target: Path) -> dict[str, Path]:
    """Copy up to so many files of each modality into a folder of their own."""
    rng = np.random.default_rng(SEED)
    gathered = {}
    for modality, suffixes in SUFFIXES.items():
        found = sorted(
            path
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file() and path.suffix.lower() in suffixes
        )
        if found:
            chosen = rng.permutation(len(found))[:limit]
            gathered[modality] = target / modality
            gathered[modality].mkdir()
            for number in chosen:
                path = found[number]
                shutil.copyfile(path, gathered[modality] / f"{number:06}{path.suffix.lower()}")
    return gathered


def additions(gathered: dict[str, Path], scratch: Path) -> Iterator[Sequence[str]]:
    for modality, folder in gathered.items():
        collection = scratch / f"collection-{modality}"
        start = time.perf_counter()
        report = json.loads(muomni("add", folder, "-c", collection, "--json"))
        wall = time.perf_counter() - start
        items = report["added"]
        segments = json.loads(muomni("stats", "-c", collection, "--json"))[modality]["segments"]
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        again = seconds(muomni, "add", folder, "-c", collection, "--json")
        yield (
            modality, f"{items:,}", f"{segments:,}", f"{size:.0f}", f"{wall:.1f}",
            f"{items / report['seconds']:.0f}", f"{segments / report['seconds']:.0f}",
            str(report["failed"]), f"{again:.2f}",
        )  # fmt: skip


def searches(gathered: dict[str, Path], scratch: Path) -> Iterator[Sequence[str]]:
    collection = scratch / "collection-all"
    muomni("add", *gathered.values(), "-c", collection, "--json")
    first = json.loads(muomni("list", "-c", collection, "--json").splitlines()[0])
    asked: list[tuple[str, Sequence[str | Path]]] = [
        ("`muomni --help`", ["--help"]),
        ("`muomni search --id KEY`", ["search", "--id", first["key"]]),
        ('`muomni search "a dog that barks"`', ["search", "a dog that barks"]),
    ]
    for modality in ("image", "audio"):
        if modality in gathered:
            file = min(gathered[modality].iterdir(), key=lambda path: path.stat().st_size)
            asked.append((f"`muomni search --{modality} FILE`", ["search", f"--{modality}", file]))
    for name, arguments in asked:
        options = [] if name.endswith("--help`") else ["-c", collection, "--json"]
        taken = [seconds(muomni, *arguments, *options) for _ in range(ROUNDS)]
        yield name, f"{np.median(taken):.2f}", f"{min(taken):.2f}"


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of the model `base`")
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / "examples/corpus"])
    parser.add_argument("--files", type=int, default=400, help="at most, of each modality")
    options = parser.parse_args()
    threads = os.cpu_count() or 1
    print(f"{threads} cores, load {os.getloadavg()[0]:.1f}")
    table(("in one call", "shipped, ms each", "eager torch", "ratio", "gap"), towers(threads))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        gathered = gather(options.folders, options.files, scratch)
        table(
            ("`muomni add`", "items", "segments", "MB", "seconds, whole command",
             "items/s", "segments/s", "failed", "again, s"),
            additions(gathered, scratch),
        )  # fmt: skip
        table(("cold", "median s", "best s"), searches(gathered, scratch))


if __name__ == "__main__":
    main()
