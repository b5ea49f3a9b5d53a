"""A flipped bit is found by its checksum, and nothing else is taken for one."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muomni_search.store.bits import Flipped, flipped_bit

WHOLE = np.random.default_rng(0).bytes(4 * 2**20)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_each_flipped_bit_is_found(written: bytes, data: st.DataObject) -> None:
    byte = data.draw(st.integers(0, len(written) - 1))
    bit = Flipped(byte, 1 << data.draw(st.integers(0, 7)))
    read = bit.turned_back(written)
    assert read != written
    assert flipped_bit(read, zlib.crc32(written)) == bit
    assert bit.turned_back(read) == written


@given(st.binary(min_size=1, max_size=300), st.integers(0, 31))
def test_a_flipped_bit_of_the_checksum_is_told_from_one_of_the_data(data: bytes, bit: int) -> None:
    found = flipped_bit(data, zlib.crc32(data) ^ 1 << bit)
    assert found is not None
    assert found.turned_back(data) == data


@given(st.binary(min_size=1, max_size=60), st.data())
def test_two_flipped_bits_are_not_taken_for_one(written: bytes, data: st.DataObject) -> None:
    places = st.integers(0, 8 * len(written) - 1)
    first, second = data.draw(st.lists(places, min_size=2, max_size=2, unique=True))
    read = bytearray(written)
    for place in (first, second):
        read[place // 8] ^= 1 << place % 8
    # Any three bits of so few, or of so few and a checksum, differ from none of CRC-32.
    assert flipped_bit(bytes(read), zlib.crc32(written)) is None


@pytest.mark.parametrize("byte", [0, 1_000_000, len(WHOLE) - 1])
def test_a_flipped_bit_is_found_in_a_whole_block(byte: int) -> None:
    bit = Flipped(byte, 16)
    assert flipped_bit(bit.turned_back(WHOLE), zlib.crc32(WHOLE)) == bit


def test_nothing_has_no_bits() -> None:
    assert flipped_bit(b"", 1) is None
