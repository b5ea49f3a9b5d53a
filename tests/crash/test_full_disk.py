"""The disk is full at any point of a command: a clear error, nothing lost, and it works again."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash_place import Place

OPERATIONS = [
    "create",
    "add",
    "delete",
    "compact",
    "purge",
    "rebuild",
    "upgrade",
    "repair",
    "import",
    "export",
    "batch",
    "neighbors",
    "reembed mapped",
    "reembed anew",
    "backup",
]
DISK_BYTES = 8_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk can be mounted by root only")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, leaving: int) -> Path:
    """Fill a disk but for some bytes; return the file that does."""
    ballast = disk / "ballast"
    facts = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_frsize - leaving)
    return ballast


def check_unharmed(place: Place, operation: str, ended: Any) -> None:
    place.check_unharmed(
        commits=ended.commits,
        is_damaged=operation == "repair",
        is_staged=operation == "reembed anew",
    )


def check_failed(place: Place, ended: Any) -> None:
    assert ended.code == 1, ended.error
    assert "\n" not in ended.error
    assert str(place.path) in ended.error


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_disk_is_a_clear_error_and_loses_nothing(
    operation: str, disk: Path, children: Any, count: Any
) -> None:
    place = Place(disk, operation, children)
    for failures in itertools.count():
        place.restore()
        ballast = fill(disk, leaving=failures * 16_384)
        ended = children.run(operation, place.path)
        ballast.unlink()
        check_unharmed(place, operation, ended)
        if ended.code == 0:
            break
        check_failed(place, ended)
        assert "space" in ended.error
        again = children.run(operation, place.path)
        assert again.code == 0, again.error
        place.check_done()
    assert failures
    count("full disks", failures)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_files_that_cannot_grow_are_a_clear_error_and_lose_nothing(
    operation: str, tmp_path: Path, children: Any, count: Any
) -> None:
    place = Place(tmp_path, operation, children)
    for failures in itertools.count():
        place.restore()
        ended = children.run(operation, place.path, file_bytes=failures * 20_000)
        check_unharmed(place, operation, ended)
        if ended.code == 0:
            break
        check_failed(place, ended)
    assert failures
    again = children.run(operation, place.path)
    assert again.code == 0, again.error
    place.check_done()
    count("files that cannot grow", failures)
