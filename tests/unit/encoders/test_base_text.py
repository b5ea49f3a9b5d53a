"""The word side of `base`: passages, spans, what texts mean."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from muomni_search.encoders import segments
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.encoders.model import load_model
from muomni_search.errors import InvalidInput
from muomni_search.items import Modality

ROOM = 126  # tokens of a passage; two marks come on top
TOKENIZER = Tokenizer.from_file(str(packaged_directory() / "tokenizer.json"))
TOKENIZER.no_truncation()
TOKENIZER.no_padding()
ENCODER = load_model("base").encoder(Modality.TEXT)
WORDS = (
    "robin",
    "dawn",
    "über",
    "granite",
    "whistle",
    "naïve",
    "lantern",
    "7",
    "東京",
    "🦉",
    "it's",
)


def tokens(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def sentence(words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words)) + "."


def spans(text: str) -> list[str]:
    """The characters of each passage."""
    return [text[piece.span.start : piece.span.end] for piece in ENCODER.prepare(text)]


def packed(sentences: list[str]) -> list[str]:
    """Greedy packing by the book: as many whole sentences as fit."""
    passages: list[list[str]] = [[]]
    for one in sentences:
        if sum(len(tokens(each)) for each in [*passages[-1], one]) > ROOM:
            passages.append([])
        passages[-1].append(one)
    return [" ".join(passage) for passage in passages]


@given(st.lists(st.integers(1, 40), min_size=40, max_size=60), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_a_long_text_is_cut_into_passages_of_as_many_sentences_as_fit(
    lengths: list[int], seed: int
) -> None:
    sentences = [sentence(words, seed + number) for number, words in enumerate(lengths)]
    text = " ".join(sentences)
    if len(tokens(text)) > ROOM:
        assert spans(text) == packed(sentences)


@given(st.text(min_size=1, max_size=40), st.integers(1, 60))
@example("word " * 40, 60)
@example("Ends. " * 6, 60)
@example("é́ ﬃ İ\u200b\x00 ", 60)
@settings(max_examples=60, deadline=None)
def test_passages_of_any_text_hold_every_token_once_and_in_order(text: str, times: int) -> None:
    content = text * times
    expected = tokens(content)
    if not expected:
        with pytest.raises(InvalidInput):
            ENCODER.prepare(content)
        return
    pieces = ENCODER.prepare(content)
    found = [piece.data[1:-1].tolist() for piece in pieces]
    assert [token for passage in found for token in passage] == expected
    assert all(len(passage) <= ROOM for passage in found)
    if len(expected) <= ROOM:
        assert [piece.span for piece in pieces] == [None]
        return
    for piece in pieces:
        assert piece.span is not None
        assert piece.span.unit == "char"
        assert 0 <= piece.span.start < piece.span.end <= len(content)


def test_a_text_that_just_fits_is_one_segment_and_one_token_more_is_two() -> None:
    assert [piece.span for piece in ENCODER.prepare("dog " * ROOM)] == [None]
    assert [len(piece.data) for piece in ENCODER.prepare("dog " * (ROOM + 1))] == [128, 3]


def test_a_sentence_longer_than_the_window_is_cut_and_its_rest_joins_the_next() -> None:
    text = "dog " * 200 + "ends. A cat sat. " + "cow " * 100
    first, second, third = spans(text)
    assert first == ("dog " * ROOM).strip()
    assert second.endswith("ends. A cat sat.")
    assert third == ("cow " * 100).strip()


@pytest.mark.parametrize("end", ["? ", "! ", ".” ", "… ", ".)\n", "\n\n", "\r\n \r\n"])
def test_sentences_end_where_a_reader_would_say(end: str) -> None:
    first, second = "dog " * 79 + "dog", "cat " * 80
    assert spans(first + end + second) == [(first + end).rstrip(), second.rstrip()]


@pytest.mark.parametrize("inside", ["3.14 ", "a.b ", "\n"])
def test_numbers_names_and_line_breaks_end_no_sentence(inside: str) -> None:
    text = "dog " * 100 + inside + "cat " * 100
    assert len(tokens(spans(text)[0])) == ROOM


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (" ".join(sentence(7, seed) for seed in range(30)), ". "),
        ("dog cats " * 60, " "),
        ("One. " + "dog cats " * 60, " "),
        ("dog" * 99, None),
        ("", None),
        ("x" * 80, None),
    ],
)
def test_a_text_is_tokenised_in_parts_that_end_with_a_sentence_or_a_word(
    monkeypatch: pytest.MonkeyPatch, text: str, end: str | None
) -> None:
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", 80)
    parts = [text[start:end] for start, end in segments.chunks(text)]
    assert "".join(parts) == text
    assert all(len(part) <= 80 for part in parts)
    assert len(parts) >= len(text) / 80
    assert text == "" or all(parts)
    if end is not None:
        assert len(parts) > 4
        assert all(part.endswith(end) for part in parts[:-1])
        assert [word for part in parts for word in part.split()] == text.split()


def test_a_text_of_several_parts_has_passages_with_spans_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = " ".join(sentence(7, seed) for seed in range(90))
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", 1_000)
    assert len(list(segments.chunks(text))) > 3
    pieces = ENCODER.prepare(text)
    found = [piece.data[1:-1].tolist() for piece in pieces]
    assert [token for passage in found for token in passage] == tokens(text)
    for piece, passage in zip(spans(text), found, strict=True):
        assert tokens(piece) == passage
        assert piece.endswith(".")


def test_spans_count_characters_of_the_text_as_it_was_given() -> None:
    words = "Ĳssel Über ﬁsh Ȁ́ 🦉🦉 "
    text = words * 40
    for passage in spans(text):
        # Whole words of the original, whatever the tokenizer folds them to.
        assert set(passage.split()) <= set(words.split()) | {"🦉", "Ĳ", "ssel"}


@pytest.mark.parametrize("text", ["", " \n\t ", "\u200b", "\x00"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no words") as caught:
        ENCODER.prepare(text)
    assert caught.value.hint


def test_case_and_accents_do_not_matter() -> None:
    one, other = (ENCODER.encode(ENCODER.prepare(text)) for text in ("Café CRÈME", "cafe creme"))
    assert np.array_equal(one, other)


def test_a_text_is_nearest_to_what_means_the_same() -> None:
    asked = ["a puppy", "automobile", "the ocean", "to run quickly", "a thunderstorm", "baby cat"]
    answers = ["dog", "car", "sea", "sprint", "lightning and heavy rain", "kitten"]
    others = ["a teapot", "mathematics", "wooden chair", "opera"]
    rows = [
        ENCODER.encode([ENCODER.prepare(text)[0] for text in texts])
        for texts in (asked, [*answers, *others])
    ]
    assert (rows[0] @ rows[1].T).argmax(axis=1).tolist() == list(range(len(asked)))


def test_unrelated_texts_have_cosines_near_the_prior() -> None:
    words = re.findall(r"\w+", "granite teapot senator violin glacier tax pepper hinge owl comma")
    rows = ENCODER.encode([ENCODER.prepare(word)[0] for word in words])
    cosines = (rows @ rows.T)[~np.eye(len(words), dtype=bool)]
    prior = load_model("base").prior["text"]["text"]
    assert abs(np.median(cosines) - prior["median"]) < prior["scale"]
