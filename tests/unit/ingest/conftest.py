"""What the tests of files share: seeded damage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

ROUNDS = int(os.environ.get("MUOMNI_FUZZ_ROUNDS", "100"))


@pytest.fixture
def damage(rng: np.random.Generator) -> Callable[[bytes], Iterator[bytes]]:
    """Damage a file in many ways: cut it, flip bits (in the header rather), repeat a part of it.

    ``MUOMNI_FUZZ_ROUNDS`` says how many times, by default a hundred.
    """

    def damaged(whole: bytes) -> Iterator[bytes]:
        for number in range(ROUNDS):
            data = bytearray(whole)
            way = number % 4
            if way == 0:
                del data[int(rng.integers(len(data))) :]
            elif way == 3:
                start, end = sorted(int(place) for place in rng.integers(0, len(data), 2))
                data[start:start] = data[start:end]
            else:
                reach = min(len(data), 64) if way == 1 else len(data)
                for place in rng.integers(0, reach, int(rng.integers(1, 9))):
                    data[place] ^= 1 << int(rng.integers(8))
            yield bytes(data)

    return damaged
