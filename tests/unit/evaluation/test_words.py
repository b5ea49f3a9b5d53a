"""Ratings, analogies and senses, with a model whose vectors the tests choose."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.encoders.protocol import Encoder, Model, Piece
from muomni_search.errors import CheckpointError, InvalidInput, NotFound, UnreadableFile
from muomni_search.evaluation.figures import differences
from muomni_search.evaluation.subjects import embed
from muomni_search.evaluation.words import (
    CONTEXTS,
    evaluate_analogies,
    evaluate_contexts,
    evaluate_pairs,
    read_words,
)
from muomni_search.items import DIM, Modality
from muomni_search.metrics import pearson, spearman
from muomni_search.vectors import normalise


class Dictionary(Model):
    """A model that looks texts up; a text of several lines has a piece a line."""

    modality = Modality.TEXT

    def __init__(self, words: dict[str, Sequence[float]]) -> None:
        super().__init__("dictionary", "dictionary", None)
        self.words = words
        self.batches: list[int] = []

    def fingerprint(self) -> str:
        return "dictionary"

    def _load(self, modality: Modality) -> Encoder:
        if modality != Modality.TEXT:
            raise CheckpointError(f"dictionary cannot encode {modality}")
        return self  # type: ignore[return-value]

    def prepare(self, content: str) -> list[Piece]:
        if content not in self.words and "\n" not in content:
            raise InvalidInput("the text has no words", hint="write some")
        return [Piece(line) for line in content.split("\n")]

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        rows = np.zeros((len(batch), DIM))
        for row, piece in zip(rows, batch, strict=True):
            numbers = self.words[piece.data]
            row[: len(numbers)] = numbers
        return normalise(rows)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- embedding -------------------------------------------------------------------------------


def test_contents_are_embedded_in_batches_each_the_mean_of_its_pieces() -> None:
    words = {str(number): [number + 1, 5] for number in range(300)}
    model = Dictionary(words)
    found = embed(model, Modality.TEXT, ["3\n7", *words])
    assert found.shape == (301, DIM)
    assert len(model.batches) > 1
    expected = normalise(sum(normalise(np.array(words[word], float)) for word in ("3", "7")))
    assert found[0, :2] == pytest.approx(expected, abs=1e-6)
    assert found[1 + 250, :2] == pytest.approx(normalise(np.array([251.0, 5])), abs=1e-6)


def test_what_cannot_be_embedded_is_named() -> None:
    with pytest.raises(InvalidInput, match="'--': the text has no words"):
        embed(Dictionary({"a": [1]}), Modality.TEXT, ["a", "--"])
    with pytest.raises(CheckpointError, match="cannot encode audio"):
        embed(Dictionary({}), Modality.AUDIO, [np.zeros(9, np.float32)])


# ---- human ratings ---------------------------------------------------------------------------

ANGLES = {"cat": 0, "dog": 20, "car": 80, "bus": 95, "sky": 200}
CIRCLE = {
    word: [np.cos(np.radians(angle)), np.sin(np.radians(angle))] for word, angle in ANGLES.items()
}
PAIRS = [("cat", "dog", 9.0), ("car", "bus", 9.5), ("cat", "car", 2.0), ("dog", "sky", 2.5)]
FORMS = {
    "wordsim": "# The collection\n# Word 1\tWord 2\tHuman (mean)\n"
    + "".join(f"{a}\t{b}\t{r:.2f}\n" for a, b, r in PAIRS),
    "commas": "Word 1,Word 2,Human (mean)\n" + "".join(f"{a},{b},{r}\n" for a, b, r in PAIRS),
    "simlex": "word1\tword2\tPOS\tSimLex999\tconc\n"
    + "".join(f"{a}\t{b}\tN\t{r}\t1\n" for a, b, r in PAIRS),
    "windows": "".join(f"{a}\t{b}\t{r}\r\n" for a, b, r in PAIRS),
}


@pytest.mark.parametrize("form", FORMS)
def test_ratings_are_read_in_each_form_they_are_published_in(form: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"{form}.txt", FORMS[form])
    report = evaluate_pairs(Dictionary(CIRCLE), path)
    cosines = np.cos(np.radians([ANGLES[a] - ANGLES[b] for a, b, _ in PAIRS]))
    ratings = np.array([rating for _, _, rating in PAIRS])
    figures = {figure.metric: figure for figure in report.figures}
    assert figures["spearman"].value == pytest.approx(spearman(cosines, ratings))
    assert figures["pearson"].value == pytest.approx(pearson(cosines, ratings), abs=1e-6)
    assert figures["pearson"].n == 4
    assert figures["pearson"].of == {"file": path.name}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("cat\tdog\t9\ncat\tdog\n", r"bad\.tsv:2: not two words and a number"),
        ("cat\tdog\t9\ncat\tdog\thigh\n", r"bad\.tsv:2"),
        ("cat\tdog\t9\n\tdog\t3\n", r"bad\.tsv:2"),
        ("cat\tdog\t9\ncat\tdog\tnan\n", r"bad\.tsv:2"),
        ("cat\tdog\t9\n", "1 pairs, a correlation takes three"),
        pytest.param(f"cat,dog,9\n{'x' * 200_000},dog,3\n", r"bad\.tsv:2: field larger", id="long"),
    ],
)
def test_bad_ratings_are_named(
    lines: str, said: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Python's own limit, which whoever read a table before may have raised.
    request.addfinalizer(partial(csv.field_size_limit, csv.field_size_limit(131_072)))
    path = write(tmp_path / "bad.tsv", lines)
    with pytest.raises(UnreadableFile, match=said):
        evaluate_pairs(Dictionary(CIRCLE), path)


def test_a_model_that_puts_all_in_one_place_has_no_correlation(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.tsv", FORMS["windows"])
    model = Dictionary({word: [1.0] for word in CIRCLE})
    (figure, _) = evaluate_pairs(model, path).figures
    assert figure.as_dict() == {
        "file": "pairs.tsv", "metric": "spearman", "n": 4, "value": None, "low": None, "high": None,
    }  # fmt: skip


# ---- analogies -------------------------------------------------------------------------------

ROYALS = {
    "man": [1, 0, 0.1], "woman": [0, 1, 0.1], "king": [1, 0, 1], "queen": [0, 1, 1],
    "boy": [1, 0, -1], "girl": [0, 1, -1], "throne": [0.5, 0.5, 1],
}  # fmt: skip


def test_the_words_given_are_no_answers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.txt",
        ": royal\nman king woman queen\nking man queen woman\n\n: young\nman boy woman girl\n"
        "man boy girl king\n",
    )
    report = evaluate_analogies(Dictionary(ROYALS), path)
    values = {figure.of["section"]: (figure.value, figure.n) for figure in report.figures}
    assert values == {"royal": (1, 2), "young": (0.5, 2), "all": (0.75, 4)}
    assert report.notes == ["q.txt: chosen among 6 words"]
    # Nearest to king - man + woman with nothing left out would often be a word given.
    near = {**ROYALS, "king": [1, 0, 0.2], "queen": [0, 0.8, 1.0]}
    (figure,) = evaluate_analogies(
        Dictionary(near), write(tmp_path / "r.txt", "man king woman queen\n")
    ).figures
    assert (figure.value, figure.of["section"]) == (1, "all")


def test_more_candidates_make_it_harder(tmp_path: Path) -> None:
    path = write(tmp_path / "q.txt", "man king woman throne\n")
    words = read_words(write(tmp_path / "words.txt", "queen\nboy\n"))
    assert evaluate_analogies(Dictionary(ROYALS), path).figures[0].value == 1
    assert evaluate_analogies(Dictionary(ROYALS), path, candidates=words).figures[0].value == 0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (": a\nman king woman\n", r"q\.txt:2: 3 words instead of 4"),
        ("man king woman king\n", r"q\.txt:1: the answer 'king' is among the words given"),
        (": a\n", "no question"),
    ],
)
def test_bad_questions_are_named(lines: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "q.txt", lines)
    with pytest.raises(UnreadableFile, match=said):
        evaluate_analogies(Dictionary(ROYALS), path)


# ---- senses ----------------------------------------------------------------------------------


def test_the_nearer_of_two_texts_has_the_same_sense(tmp_path: Path) -> None:
    path = write(tmp_path / "senses.tsv", "# ours\ncat\tdog\tcar\ncar\tsky\tbus\n")
    (figure,) = evaluate_contexts(Dictionary(CIRCLE), path).figures
    assert (figure.metric, figure.value, figure.n) == ("accuracy", 0.5, 2)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("cat\tdog\n", r"senses\.tsv:1: not three texts"),
        ("cat\tdog\tcar\ncat\t\tcar\n", r"senses\.tsv:2"),
        ("# nothing\n", "no texts"),
    ],
)
def test_bad_senses_are_named(lines: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "senses.tsv", lines)
    with pytest.raises(UnreadableFile, match=said):
        evaluate_contexts(Dictionary(CIRCLE), path)


def test_our_own_senses_are_forty_words_in_both() -> None:
    lines = [line for line in CONTEXTS.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    rows = [line.split("\t") for line in lines]
    assert len(rows) == 40
    assert all(len(row) == 3 and len(set(row)) == 3 for row in rows)
    # The word itself stands in all three, so that it alone decides nothing.
    for row in rows:
        assert set.intersection(*(set(text.split()) for text in row)), row


def test_missing_files_are_errors(tmp_path: Path) -> None:
    for measure in (evaluate_pairs, evaluate_analogies, evaluate_contexts):
        with pytest.raises(NotFound, match="no such file"):
            measure(Dictionary({}), tmp_path / "missing.txt")


# ---- comparing -------------------------------------------------------------------------------


def test_two_models_are_compared_question_by_question(tmp_path: Path) -> None:
    path = write(tmp_path / "senses.tsv", "cat\tdog\tcar\n" * 30 + "car\tsky\tbus\n" * 10)
    good, bad = Dictionary(CIRCLE), Dictionary({**CIRCLE, "dog": CIRCLE["sky"]})
    first, second = (evaluate_contexts(model, path).figures for model in (good, bad))
    (more,) = differences(first, second)
    assert (more.value, more.n) == (-0.75, 40)
    low, high = more.interval
    # Of 40 questions 30 differ: the deviation of the share is sqrt(.75 · .25 / 40) = .068.
    assert low == pytest.approx(-0.75 - 1.96 * 0.068, abs=0.04)
    assert high == pytest.approx(-0.75 + 1.96 * 0.068, abs=0.04)
    (none,) = differences(first, first)
    assert (none.value, none.interval) == (0, (0, 0))
    assert differences(first, []) == []
