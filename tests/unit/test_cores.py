"""How many cores there are to use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from muomni_search import cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine of 64 cores; this process is in the groups that the test makes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "GROUPS", tmp_path / "groups")
    cores._granted.cache_clear()
    yield tmp_path
    cores._granted.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "usable"),
    [
        # The second version: a container, a service and what is above it, no limit.
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000"}, 1),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/../other\n", {"cpu.max": "300000 100000"}, 3),
        (
            "0::/system.slice/a.service\n",
            {
                "system.slice/a.service/cpu.max": "max 100000",
                "system.slice/cpu.max": "400000 100000",
            },
            4,
        ),
        ("0::/a\n", {"a/cpu.max": "800000 100000", "cpu.max": "900000 100000"}, 8),
        # The first one, also beside the second.
        (
            "3:cpuset:/\n2:cpu,cpuacct:/docker/x:y\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        (
            "1:cpu:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            64,
        ),
        ("1:cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "1"}, 64),
        # What says nothing.
        ("0::/\n", {"cpu.max": "many\n"}, 64),
        ("0::/\n", {"cpu.max": "100000 0"}, 64),
        ("0::/gone\n", {}, 64),
        ("", {}, 64),
    ],
)
def test_a_process_that_has_the_time_of_few_cores_uses_few(
    machine: Path, own: str, files: dict[str, str], usable: int
) -> None:
    write(machine / "own", own)
    for name, text in files.items():
        write(machine / "groups" / name, text)
    assert cores.usable_cores() == usable


def test_where_there_are_no_groups_all_cores_are_used(machine: Path) -> None:
    assert cores.usable_cores() == 64
    assert not (machine / "own").exists()
