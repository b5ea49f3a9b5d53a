"""The cores that there are to compute on, and how threads wait for one another on them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["processor_flags", "short_waits", "usable_cores"]

# GNU OpenMP's threads (FAISS's, PyTorch's, those of FAISS's OpenBLAS) look so often whether the
# others are done before they sleep. By default they look 300,000 times, on cores that another
# program may want, and are parted from them for it: with one busy core of two, products of matrices
# took many times as long. So few cost nothing where all cores are free.
SPINS = {"GOMP_SPINCOUNT": "3000"}
# What else says how they wait: whoever set it is to have it.
WAITING = (*SPINS, "OMP_WAIT_POLICY")


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than there are where it is kept to some."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
