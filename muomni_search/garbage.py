"""Python's search for cycles, made rarer while many objects come that stay."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["rare_collections"]

# After how many new containers Python looks for cycles, where 3.11 does after 700 by itself.
RARELY = 10_000


class _Users:
    """How many have asked for it, in whatever threads, and what was set before the first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = self.own = gc.get_threshold()


_users = _Users()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for cycles more rarely as long as this lasts; who forbade it is obeyed.

    What a commit gathers holds no cycles, yet Python went through it again and again, which took a
    good part of the time of an addition of ready vectors (`benchmarks/ingest.py` shows its rate).
    """
    with _users.lock:
        if not _users.count:
            _users.before = gc.get_threshold()
            first, *others = _users.before
            if first:
                gc.set_threshold(max(first, RARELY), *others)
            _users.own = gc.get_threshold()
        _users.count += 1
    try:
        yield
    finally:
        with _users.lock:
            _users.count -= 1
            # Who has set another one meanwhile keeps it.
            if not _users.count and gc.get_threshold() == _users.own:
                gc.set_threshold(*_users.before)
