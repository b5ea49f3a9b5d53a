"""What was made of files, kept while it is asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

__all__ = ["Cache"]

CACHE_BYTES = 64_000_000
OVERHEAD_BYTES = 500


class Cache:
    """What was made of files, until it takes too much: what was asked for last stays.

    Args:
        most: Bytes.
    """

    def __init__(self, most: int = CACHE_BYTES) -> None:
        self._most = most
        self._bytes = 0
        self._kept: OrderedDict[Any, tuple[bytes, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], bytes]) -> bytes:
        """Return what was kept under a key, or make it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        made = make()
        size = len(made) + OVERHEAD_BYTES
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made, size
                self._bytes += size
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        return made
