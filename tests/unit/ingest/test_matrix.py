"""A file of vectors that is none is told of by name, whatever NumPy makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.ingest.matrix import load_matrix
from muomni_search.items import DIM


def header(described: str) -> bytes:
    return (
        b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + described.ljust(117).encode() + b"\n"
    )


def shaped(shape: str) -> bytes:
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")


# Of an archive that is none NumPy leaves an object half made, whose end fails unseen.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"abc",
        b"PK\x03\x04rubbish",
        header("{{{"),
        header("{[]: 1}"),
        header("if 1:\n    x\n  y"),
        shaped("(99999999999999999999, 256)"),
        shaped("(2, -256)"),
        shaped("(True, 256)"),
        shaped("(99999999999, 256)"),
    ],
)
def test_a_file_that_holds_no_array_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "v.npy"
    path.write_bytes(data)
    with pytest.raises((UnreadableFile, InvalidInput), match=r"v\.npy"):
        load_matrix(path)


def test_what_is_no_matrix_of_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    for array in (np.ones((2, DIM), bool), np.ones((2, 3)), np.ones(DIM), np.zeros(2, "f4,f4")):
        np.save(path, array)
        with pytest.raises(InvalidInput, match=r"v\.npy"):
            load_matrix(path)
    with pytest.raises(NotFound, match="no such file"):
        load_matrix(tmp_path / "none.npy")
    np.save(path, np.ones((2, DIM), np.float16))
    assert load_matrix(path).shape == (2, DIM)
