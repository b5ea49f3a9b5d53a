"""The cores that there are to compute on, and how threads wait for one another on them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["processor_flags", "short_waits", "usable_cores"]

# GNU OpenMP's threads (FAISS's, PyTorch's, those of FAISS's OpenBLAS) look so often whether the
# others are done before they sleep. By default they look 300,000 times, on cores that another
# program may want, and are parted from them for it: with one busy core of two, products of matrices
# took many times as long. So few cost nothing where all cores are free (benchmarks/busy.py).
SPINS = {"GOMP_SPINCOUNT": "3000"}
# What else says how they wait: whoever set it is to have it.
WAITING = (*SPINS, "OMP_WAIT_POLICY")
# Where Linux tells of the control groups of this process, and where they lie.
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than there are where it is kept to some.

    Or to the time of some, as containers are: more threads than that only wait for one another.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _granted())))
    return os.cpu_count() or 1


@cache
def _granted() -> float:
    """Return of how many cores the control groups of this process grant it the time."""
    return min(map(_granted_by, _groups()), default=math.inf)


def _groups() -> Iterator[Path]:
    """Yield the control groups (cgroups(7)) that this process is in, and those above them."""
    try:
        told = OWN_GROUPS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in told.splitlines():
        _, controllers, path = line.split(":", 2)
        # Of the second version, or of the first.
        if not controllers or "cpu" in controllers.split(","):
            top = GROUPS / ("cpu" if controllers else "")
            own = top / path.lstrip("/")
            # A container sees its own group at the top, whatever the path.
            yield from (top, *(one for one in (own, *own.parents) if top in one.parents))


def _granted_by(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return math.inf
    return share if share > 0 else math.inf  # -1 is no limit


def short_waits() -> dict[str, str]:
    """Return the variables to set before a library with OpenMP is loaded, for it reads them then.

    None where the user says how threads wait.
    """
    return {} if any(name in os.environ for name in WAITING) else SPINS


@cache
def processor_flags() -> frozenset[str]:
    """Return what Linux says that the processor can do, as ``avx2``; nothing elsewhere."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in told.splitlines() if line[:5] == "flags")
    return frozenset(next(flags, ()))
