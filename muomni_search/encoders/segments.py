"""How long contents become segments, and which segments are encoded together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.protocol import Piece
from muomni_search.errors import InvalidInput
from muomni_search.items import Span

__all__ = ["chunks", "length_groups", "passages", "text_pieces", "windows"]

Ids = NDArray[np.int64]

# A sentence ends after . ! ? and closing marks, or with an empty line. Without the lookbehind and
# the possessive quantifiers a run of n dots takes n² steps, and the lock of Python is held for all.
SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s+|\n\s*\n\s*")
SPACE = re.compile(r"\s+")
CHUNK_CHARACTERS = 100_000
SAMPLE_RATE = 16_000  # Hz: what every sound encoder here hears
WHOLE_SECONDS = 12
SEGMENT_SECONDS, SEGMENT_HOP_SECONDS = 10, 8


def text_pieces(
    text: str,
    tokenise: Callable[[str], tuple[Ids, Ids]],
    frame: Callable[[Ids], Ids],
    room: int,
) -> list[Piece]:
    """Return a piece of token ids for each passage of a text, with its span in characters.

    Args:
        text: The text.
        tokenise: Returns the ids (T,) and the offsets (T, 2) in characters of a text's tokens.
        frame: Puts the marks that the encoder wants around a passage.
        room: The most tokens of a passage, without those marks.

    Raises:
        InvalidInput: The text has no words.
    """
    pieces = []
    for start, stop in chunks(text):
        part = text[start:stop]
        ids, offsets = tokenise(part)
        for first, last in passages(part, offsets, room):
            begin, end = int(offsets[first, 0]), int(offsets[last - 1, 1])
            # Sentencepiece's tokens include the space before a word.
            begin = end - len(part[begin:end].lstrip())
            span = Span("char", start + begin, start + end)
            pieces.append(Piece(frame(ids[first:last]), span))
    if not pieces:
        raise InvalidInput("the text has no words", hint="write some, or leave it out")
    return pieces if len(pieces) > 1 else [Piece(pieces[0].data)]


def chunks(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of parts of a text that are tokenised one at a time.

    Tokens take some hundred times the memory of their characters. A part ends with a sentence
    where it has one, else with a word.
    """
    start = 0
    while len(text) - start > CHUNK_CHARACTERS:
        part = text[start : start + CHUNK_CHARACTERS]
        ends = [match.end() for match in SENTENCE_END.finditer(part)]
        spaces = [match.end() for match in SPACE.finditer(part)] if not ends else []
        end = start + (ends or spaces or [CHUNK_CHARACTERS])[-1]
        yield start, end
        start = end
    yield start, len(text)


def passages(text: str, offsets: NDArray[np.int64], room: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) tokens of passages of whole sentences, each at most ``room`` tokens.

    A sentence that is longer still is cut between tokens.

    Args:
        text: The text.
        offsets: Where its tokens begin and end in it, (tokens, 2) in characters.
        room: The most tokens of a passage.
    """
    # Where the marks end, not the spaces after them, which may be part of the next word's token.
    ends = [match.start() + len(match[0].rstrip()) for match in SENTENCE_END.finditer(text)]
    # The first token of each sentence, then the end of all.
    firsts = np.searchsorted(offsets[:, 1], ends, side="right")
    bounds = np.unique([0, *firsts, len(offsets)]).tolist()
    start = 0
    for sentence, end in pairwise(bounds):
        if end - start > room and sentence > start:
            yield start, sentence
            start = sentence
        while end - start > room:
            yield start, start + room
            start += room
    if start < len(offsets):
        yield start, len(offsets)


def windows(
    samples: NDArray[np.float32], *, whole: int = WHOLE_SECONDS * SAMPLE_RATE
) -> list[tuple[int, int, Span | None]]:
    """Return (start, end, span) in samples of each segment of a waveform at 16 kHz.

    Up to 12 s are one segment, without a span; a longer sound becomes windows of 10 s that
    overlap by 2 s, the last one flush with its end.

    Args:
        samples: The waveform (samples,).
        whole: The most samples of one segment; with fewer than 10 s the windows are as short.
    """
    if len(samples) <= whole:
        return [(0, len(samples), None)]
    size = min(SEGMENT_SECONDS * SAMPLE_RATE, whole)
    hop = size * SEGMENT_HOP_SECONDS // SEGMENT_SECONDS
    starts = [*range(0, len(samples) - size, hop), len(samples) - size]
    per_ms = SAMPLE_RATE // 1000
    return [
        (start, start + size, Span("ms", start // per_ms, (start + size) // per_ms))
        for start in starts
    ]


def length_groups(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of pieces of like length, so that little is padded.

    Args:
        lengths: How long each piece is, (n,).
        budget: The most that a group may hold, its padding among it; a piece that is longer
            goes alone.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end - start + 1) * lengths[order[end]] > budget:
            yield order[start:end]
            start = end
