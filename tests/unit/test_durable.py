"""Files that are whole or not there, whoever writes them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muomni_search import durable


def test_two_threads_write_the_same_file_and_one_of_both_is_there_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in (1, 2)]
    barrier = threading.Barrier(2)

    def write(content: bytes) -> None:
        with durable.whole_file(path) as partial, partial.open("wb") as file:
            for start in range(0, len(content), 25_000):
                barrier.wait(20)
                file.write(content[start : start + 25_000])
                file.flush()

    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(write, content) for content in contents]:
            future.result()
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError), durable.whole_file(path) as partial:
        fail(partial)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
