"""Row files: appending, cutting, mapping, checksums."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muomni_search import durable
from muomni_search.errors import CorruptData
from muomni_search.items import DIM
from muomni_search.store.rows import (
    BLOCK_ROWS,
    ROW_BYTES,
    MappedRows,
    append_rows,
    are_unit,
    block_checksums,
    cut_rows,
    read_blocks,
)
from muomni_search.vectors import normalise

ROWS = normalise(np.random.default_rng(1).standard_normal((20, DIM)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors" / "text.0.f32"


def test_a_row_file_is_nothing_but_little_endian_rows(path: Path) -> None:
    append_rows(path, 0, ROWS[:3])
    append_rows(path, 3, ROWS[3:4][:, ::-1])  # not contiguous
    assert path.read_bytes() == ROWS[:3].astype("<f4").tobytes() + ROWS[3][::-1].tobytes()
    assert MappedRows(path, 2).vectors().tolist() == ROWS[:2].tolist()
    with pytest.raises(ValueError, match="read-only"):
        MappedRows(path, 2).vectors()[0, 0] = 1


def test_appending_cuts_what_is_beyond_the_recorded_rows(path: Path) -> None:
    append_rows(path, 0, ROWS[:9])
    append_rows(path, 2, ROWS[9:10])
    assert path.read_bytes() == ROWS[[0, 1, 9]].tobytes()


def test_appending_never_makes_up_rows_that_are_missing(path: Path) -> None:
    with pytest.raises(CorruptData, match=f"{path} is missing"):
        append_rows(path, 1, ROWS[:1])
    assert not path.exists()
    append_rows(path, 0, ROWS[:1])
    with pytest.raises(CorruptData, match="has 1024 bytes, its 2 rows of 256 float32 need 2048"):
        append_rows(path, 2, ROWS[:1])
    assert path.read_bytes() == ROWS[:1].tobytes()


def test_the_name_of_a_file_is_brought_to_the_disk_also_when_its_maker_died_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"")  # made, but never committed
    steps: list[str] = []
    monkeypatch.setattr(durable, "step", steps.append)
    append_rows(path, 0, ROWS[:1])
    assert steps.index("after fsync") < steps.index("after fsync of a directory")


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    append_rows(path, 0, ROWS)
    assert path.read_bytes() == ROWS.tobytes()


def test_cutting_refuses_to_lengthen(path: Path) -> None:
    append_rows(path, 0, ROWS)
    cut_rows(path, 5)
    assert path.stat().st_size == 5 * ROW_BYTES
    with pytest.raises(CorruptData):
        cut_rows(path, 6)


@pytest.mark.parametrize("rows", [2, 3])
def test_a_map_never_reaches_beyond_its_file(path: Path, rows: int) -> None:
    append_rows(path, 0, ROWS[:2])
    mapped = MappedRows(path, 2)
    os.truncate(path, ROW_BYTES)
    with pytest.raises(CorruptData, match="verify --repair"):
        mapped.vectors()
    with pytest.raises(CorruptData, match="verify --repair"):
        MappedRows(path, rows)


def test_a_directory_in_place_of_a_file_is_corrupt(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(CorruptData, match="Is a directory"):
        MappedRows(path, 1)


@given(lengths=st.lists(st.integers(1, 3 * BLOCK_ROWS), min_size=1, max_size=5))
def test_checksums_that_run_on_are_those_of_whole_blocks(lengths: list[int]) -> None:
    # One column stands for a row: what counts is where the blocks end.
    column = np.arange(sum(lengths), dtype=np.float32)[:, np.newaxis]
    sums: dict[int, int] = {}
    start = 0
    for length in lengths:
        rows = column[start : start + length]
        previous = sums.get(start // BLOCK_ROWS, 0)
        sums.update(block_checksums(rows, start=start, previous=previous))
        start += length
    expected = {
        block: zlib.crc32(column[at : at + BLOCK_ROWS].tobytes())
        for block, at in enumerate(range(0, len(column), BLOCK_ROWS))
    }
    assert sums == expected


def test_blocks_are_read_up_to_the_last_whole_row(path: Path) -> None:
    path.parent.mkdir()
    many = np.resize(ROWS, (BLOCK_ROWS + 10, DIM))
    path.write_bytes(many.tobytes() + b"beyond")
    assert [len(block) for block in read_blocks(path, BLOCK_ROWS + 7)] == [BLOCK_ROWS, 7]
    assert np.array_equal(np.concatenate(list(read_blocks(path, BLOCK_ROWS + 10))), many)
    os.truncate(path, 3 * ROW_BYTES + 100)
    assert [len(block) for block in read_blocks(path, BLOCK_ROWS + 7)] == [3, 0]


def test_rows_of_length_one_are_told_from_others() -> None:
    odd = [
        np.zeros(DIM),
        ROWS[0] * 1.01,
        ROWS[0] * np.nan,
        np.full(DIM, np.inf),
        np.full(DIM, 3e38),
    ]
    rows = np.array([ROWS[0], *odd, ROWS[1]], dtype=np.float32)
    assert are_unit(rows).tolist() == [True, False, False, False, False, False, True]
