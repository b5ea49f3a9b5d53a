"""Write the graph of the first pass of batches (`muomni_search/index/first_pass.py`).

    python scripts/build_first_pass.py

Rows (m, 256) in 8 bits less 128, times queries (256, n) in 8 or 7 bits, in whole numbers; then
which of the products exceed a number for each query.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TARGET = Path(__file__).parents[1] / "muomni_search" / "index" / "first_pass.onnx"
# What every version of ONNX Runtime reads that has MatMulInteger.
OPSET, IR_VERSION = 13, 7


def make_graph() -> onnx.ModelProto:
    """Return the graph."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMulInteger", ["rows", "queries", "zero"], ["products"]),
            helper.make_node("Greater", ["products", "least"], ["is_near"]),
        ],
        "first_pass",
        [
            helper.make_tensor_value_info("rows", TensorProto.UINT8, ["m", 256]),
            helper.make_tensor_value_info("queries", TensorProto.INT8, [256, "n"]),
            helper.make_tensor_value_info("least", TensorProto.INT32, ["n"]),
        ],
        [helper.make_tensor_value_info("is_near", TensorProto.BOOL, ["m", "n"])],
        [numpy_helper.from_array(np.array(128, np.uint8), "zero")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    TARGET.write_bytes(make_graph().SerializeToString())
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")
