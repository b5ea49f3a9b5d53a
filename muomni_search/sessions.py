"""Sessions of ONNX Runtime on the processor, as all of this package runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["open_session"]


def open_session(path: Path, *, threads: int, **entries: str) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a file.

    Args:
        path: The ONNX file.
        threads: How many threads one call may use.
        entries: Further settings below ``session.``, by their names.

    Raises:
        Exception: Of whatever kind ONNX Runtime has for what is no network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Errors arrive as exceptions; what the runtime logs besides is for its authors.
    options.log_severity_level = 4
    # A thread that spins while it waits takes the core from the readers and from FAISS.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in entries.items():
        options.add_session_config_entry(f"session.{name}", value)
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
