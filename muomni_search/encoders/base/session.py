"""How the files of the model are read and run: towers by ONNX Runtime, heads as arrays.

A model's directory may come from anywhere, so nothing in a file is ever unpickled, and a file
that is not what its encoder needs is an error at loading, not a wrong vector later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import CheckpointError
from muomni_search.sessions import open_session

__all__ = ["Tower", "load_head"]

MEND = "install the package or fetch the model again"


class Tower:
    """A frozen network on the CPU: arrays in, arrays out; safe to call from several threads.

    Args:
        path: The ONNX file.
        inputs: The names of what it takes.
        widths: The width of each of its outputs.
        threads: How many threads one call may use.

    Raises:
        CheckpointError: The file is missing, no network, or another one.
    """

    def __init__(
        self, path: Path, *, inputs: Sequence[str], widths: Sequence[int], threads: int
    ) -> None:
        # Without this the runtime keeps the int8 weights and looks for int8 kernels; with it the
        # weights are folded to float32 at start: 5.1 ms a picture instead of 13.9.
        settings = {"disable_quant_qdq": "1"}
        try:
            self._session = open_session(path, threads=threads, **settings)
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be loaded: {_reason(error)}", hint=MEND
            ) from error
        found = [one.name for one in self._session.get_inputs()]
        shapes = [list(one.shape) for one in self._session.get_outputs()]
        if found != list(inputs) or [shape[1:] for shape in shapes] != [[one] for one in widths]:
            raise CheckpointError(
                f"{path} is another network: it takes {found} and gives {shapes}", hint=MEND
            )

    def __call__(self, **inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Run the network; return its outputs in their order."""
        outputs: list[NDArray[np.float32]] = self._session.run(None, inputs)
        return outputs


def load_head(path: Path, **shapes: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of an ``.npz`` file as float32.

    Args:
        path: The file.
        shapes: The name and the shape of each array that it must hold.

    Raises:
        CheckpointError: It is no such file, or an array is missing, pickled, of another shape or
            not finite.
    """
    try:
        # Opened here: NumPy leaves a file that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            head = {name: arrays[name].astype(np.float32) for name in shapes}
    except Exception as error:
        raise CheckpointError(f"{path} cannot be loaded: {_reason(error)}", hint=MEND) from error
    for name, shape in shapes.items():
        if head[name].shape != shape:
            raise CheckpointError(
                f"{path}: {name!r} has the shape {head[name].shape}, expected {shape}", hint=MEND
            )
        if not np.isfinite(head[name]).all():
            raise CheckpointError(f"{path}: {name!r} holds NaN or infinity", hint=MEND)
    return head


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
