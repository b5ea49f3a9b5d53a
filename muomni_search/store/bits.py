"""Which bit was flipped, of what a CRC-32 was kept of."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

__all__ = ["Flipped", "flipped_bit"]

# What each byte counts in a CRC-32 when it is the last one, and the bytes by the highest eight bits
# of that, which differ.
CRC_OF_LAST = [zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0") for byte in range(256)]
LAST_BY_HIGHEST = {own >> 24: byte for byte, own in enumerate(CRC_OF_LAST)}
MASK_BY_CRC = {CRC_OF_LAST[1 << bit]: 1 << bit for bit in range(8)}


class Flipped(NamedTuple):
    """A bit that is another one than was written.

    Args:
        byte: Which byte has it.
        mask: The bit; 0 when it is none of the data but one of the checksum.
    """

    byte: int
    mask: int

    def turned_back(self, data: bytes | memoryview) -> bytes:
        """Return the data as they were written."""
        written = bytearray(data)
        written[self.byte] ^= self.mask
        return bytes(written)


def flipped_bit(data: bytes | memoryview, checksum: Any) -> Flipped | None:
    """Return which bit was flipped; None when it was not one alone.

    A CRC-32 is linear: a flipped bit changes it by what depends on its distance from the end alone,
    and no two of 2³² − 1 bits change it by the same. Of other damage a share looks like one bit, as
    many of 2³² as the data have bits, a hundredth where they are 4 MiB: be sure by something else.

    Args:
        data: What was read, as long as what was written. A second for each 4 MiB.
        checksum: The CRC-32 of what was written, or whatever stands in its place now.
    """
    if not isinstance(checksum, int) or not data:
        return None
    change = zlib.crc32(data) ^ checksum
    if change > 0 and change.bit_count() == 1:
        return Flipped(0, 0)
    if not 0 < change < 2**32:
        return None
    for byte in range(len(data) - 1, -1, -1):
        if change in MASK_BY_CRC:
            return Flipped(byte, MASK_BY_CRC[change])
        # What it would be, were the last byte not there.
        last = LAST_BY_HIGHEST[change >> 24]
        change = (change ^ CRC_OF_LAST[last]) << 8 | last
    return None
