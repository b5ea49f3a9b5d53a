"""The cores that there are to compute on."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["processor_flags", "usable_cores"]


def usable_cores() -> int:
    """Return how many cores this process may use: fewer than there are where it is kept to some."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def processor_flags() -> frozenset[str]:
    """Return what Linux says that the processor can do, as ``avx2``; nothing elsewhere."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in told.splitlines() if line[:5] == "flags")
    return frozenset(next(flags, ()))
