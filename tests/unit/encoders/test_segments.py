"""Long texts are tokenised part by part, and their passages lie where they say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muomni_search.encoders import segments
from muomni_search.encoders.model import load_model
from muomni_search.encoders.segments import chunks, length_groups, passages
from muomni_search.items import Modality


@given(st.text("ab .!\n", max_size=400), st.integers(1, 60))
def test_parts_join_to_the_text_and_none_is_too_long(text: str, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "CHUNK_CHARACTERS", limit)
        parts = [text[start:end] for start, end in chunks(text)]
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)


def test_parts_end_with_sentences_else_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", 20)
    text = "One two. Three four. five six seven eight nine ten"
    assert [text[start:end] for start, end in chunks(text)] == [
        "One two. ", "Three four. ", "five six seven ", "eight nine ten",
    ]  # fmt: skip


def test_lines_without_a_space_are_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", 20)
    text = "granite\n" * 9
    assert all(text[start:end].endswith("granite\n") for start, end in chunks(text) if end > start)


# A token of the one has no spaces, one of the other has the space before its word.
@pytest.mark.parametrize("model", ["base", "muomni-tiny"])
@pytest.mark.parametrize("gap", [" ", "  ", "\n\n"])
@pytest.mark.parametrize("first", ["The", "\u201cThe"])
def test_passages_of_a_text_of_several_parts_lie_where_they_say(
    model: str, gap: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", 4_000)
    text = gap.join(f"{first} sentence of number {n} stands here." for n in range(400))
    encoder = load_model(model).encoder(Modality.TEXT)
    pieces = encoder.prepare(text)
    spans = [piece.span for piece in pieces]
    assert len(pieces) > len(text) / 4_000
    for piece, span in zip(pieces, spans, strict=True):
        assert span is not None
        passage = text[span.start : span.end]
        assert passage.startswith(f"{first} sentence")
        assert passage.endswith(".")
        (alone,) = encoder.prepare(passage)
        assert np.array_equal(alone.data, piece.data)


# With a pattern that begins anew at each mark these take minutes, and the suite's limit ends them.
@pytest.mark.parametrize("run", [".", "?!", '."', ". ", " ", "\n", "\n ", ".\n\n", "a"])
def test_long_runs_of_marks_and_spaces_are_cut_at_once(run: str) -> None:
    text = run * (300_000 // len(run)) + "a"
    parts = list(chunks(text))
    assert "".join(text[start:end] for start, end in parts) == text
    offsets = np.array([[0, 1], [len(text) - 1, len(text)]])
    assert list(passages(text, offsets, 5)) == [(0, 2)]


@given(st.text(".!?…\"')] \n\ta", max_size=30))
def test_sentences_end_after_all_their_marks(text: str) -> None:
    plain = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|\n\s*\n\s*")
    assert [match.span() for match in segments.SENTENCE_END.finditer(text)] == [
        match.span() for match in plain.finditer(text)
    ]


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_groups_hold_every_piece_once_and_no_more_than_they_may(
    lengths: list[int], budget: int
) -> None:
    sizes = np.array(lengths, np.int64)
    groups = list(length_groups(sizes, budget))
    assert sorted(np.concatenate(groups).tolist() if groups else []) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * sizes[group].max() <= budget
