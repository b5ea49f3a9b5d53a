"""What a model makes of words: human ratings, analogies, and senses in context."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.protocol import Model
from muomni_search.errors import UnreadableFile
from muomni_search.evaluation.figures import Report, estimate
from muomni_search.evaluation.subjects import embed
from muomni_search.ingest.read import Limits, read_file
from muomni_search.ingest.text import decode_text
from muomni_search.items import Modality
from muomni_search.metrics import pearson, spearman

__all__ = ["CONTEXTS", "evaluate_analogies", "evaluate_contexts", "evaluate_pairs"]

# Ours: 40 words of two senses, a text of one sense with a text of the same and one of the other.
CONTEXTS = Path(str(files("muomni_search.evaluation") / "contexts.tsv"))
# Questions answered at a time: 8 MB of cosines with a thousand words.
QUESTIONS_AT_ONCE = 2_048


class Question(NamedTuple):
    """``first`` is to ``second`` as ``third`` is to ``answer``."""

    section: str
    first: str
    second: str
    third: str
    answer: str


# ---- human ratings -----------------------------------------------------------------------------


def evaluate_pairs(model: Model, path: Path) -> Report:
    """Return the correlations of a model's cosines with how similar people find two words.

    Args:
        model: What embeds the words.
        path: A word, another, and a rating a line, separated by tabs or commas: WordSim-353 and
            SimLex-999 as they are published, or your own. Lines that begin with # and a header
            are passed over.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: A line has no rating; or there are fewer than three.
    """
    pairs = list(_read_pairs(path))
    if len(pairs) < 3:
        raise UnreadableFile(
            f"{path}: {len(pairs)} pairs, a correlation takes three or more", hint="add some"
        )
    vectors = _embed(model, [word for first, second, _ in pairs for word in (first, second)])
    cosines = [float(vectors[first] @ vectors[second]) for first, second, _ in pairs]
    rows = np.array([cosines, [rating for _, _, rating in pairs]]).T
    of = {"file": path.name}
    return Report(
        [
            estimate(of, "spearman", rows, lambda some: spearman(some[:, 0], some[:, 1])),
            estimate(of, "pearson", rows, lambda some: pearson(some[:, 0], some[:, 1])),
        ]
    )


def _read_pairs(path: Path) -> Iterator[tuple[str, str, float]]:
    rating = 2
    is_first = True
    for where, cells in _rows(path, sniffs_commas=True):
        if is_first and "SimLex999" in cells:
            rating = cells.index("SimLex999")
        number = _number(cells[rating]) if len(cells) > rating else None
        if number is not None and cells[0] and cells[1]:
            yield cells[0], cells[1], number
        elif not is_first:
            raise UnreadableFile(
                f"{where}: not two words and a number", hint="write: word, tab, word, tab, rating"
            )
        is_first = False


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


# ---- analogies ---------------------------------------------------------------------------------


def evaluate_analogies(
    model: Model, path: Path, *, candidates: Sequence[str] | None = None
) -> Report:
    """Return how often a model completes "man is to king as woman is to" with "queen".

    The answer is the word nearest to king - man + woman, the three left out (3CosAdd; Mikolov et
    al. 2013, Levy & Goldberg 2014).

    Args:
        model: What embeds the words.
        path: Four words a line, in sections that ``: name`` begins: Google's questions-words.txt.
        candidates: The words that are chosen among, to which those of the file are added; by
            default the words of the file alone.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: A line has other than four words; or there is none.
    """
    questions = list(_read_questions(path))
    if not questions:
        raise UnreadableFile(f"{path}: no question", hint="write four words a line")
    own = (word for question in questions for word in question[1:])
    vectors = _embed(model, [*own, *(candidates or ())])
    number_of = {word: number for number, word in enumerate(vectors)}
    space = np.stack(list(vectors.values()))
    asked = np.array([[number_of[word] for word in question[1:]] for question in questions])
    right = np.concatenate(
        [
            _is_completed(space, asked[start : start + QUESTIONS_AT_ONCE])
            for start in range(0, len(asked), QUESTIONS_AT_ONCE)
        ]
    )
    sections = np.array([question.section for question in questions])
    figures = [
        estimate({"file": path.name, "section": name}, "accuracy", right[sections == name])
        for name in dict.fromkeys(sections.tolist())
    ]
    if len(figures) > 1:
        figures.append(estimate({"file": path.name, "section": "all"}, "accuracy", right))
    return Report(figures, [f"{path.name}: chosen among {len(space):,} words"])


def _is_completed(space: NDArray[np.float32], asked: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 for each question (n, 4) of word numbers whose fourth is the nearest, else 0."""
    first, second, third = (space[asked[:, column]] for column in range(3))
    cosines = (second - first + third) @ space.T
    np.put_along_axis(cosines, asked[:, :3], -np.inf, axis=1)
    return np.asarray(np.argmax(cosines, axis=1) == asked[:, 3], np.float64)


def _read_questions(path: Path) -> Iterator[Question]:
    section = "all"
    for where, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip() or "all"
            continue
        words = line.split()
        if len(words) != 4:
            raise UnreadableFile(
                f"{where}: {len(words)} words instead of 4",
                hint="write four words a line, or `: name` to begin a section",
            )
        if words[3] in words[:3]:
            raise UnreadableFile(
                f"{where}: the answer {words[3]!r} is among the words given, which are left out",
                hint="remove the line",
            )
        yield Question(section, *words)


# ---- senses ------------------------------------------------------------------------------------


def evaluate_contexts(model: Model, path: Path = CONTEXTS) -> Report:
    """Return how often a text lies nearer to one with its word in the same sense than another.

    Args:
        model: What embeds the texts.
        path: A text, one with the same sense, and one with another, separated by tabs: "the bank
            of the river", "the shore of a stream", "a bank account". By default our own.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: A line has other than three texts; or there is none.
    """
    triples = []
    for where, cells in _rows(path):
        if len(cells) != 3 or not all(cells):
            raise UnreadableFile(
                f"{where}: not three texts",
                hint="write: text, tab, one of the same sense, tab, one of another sense",
            )
        triples.append(cells)
    if not triples:
        raise UnreadableFile(f"{path}: no texts", hint="write three texts a line")
    vectors = _embed(model, [text for triple in triples for text in triple])
    anchor, same, other = (
        np.stack([vectors[triple[column]] for triple in triples]) for column in range(3)
    )
    margins = np.sum(anchor * (same - other), axis=1, dtype=np.float64)
    return Report([estimate({"file": path.name}, "accuracy", np.asarray(margins > 0, np.float64))])


# ---- files -------------------------------------------------------------------------------------


def _embed(model: Model, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Return the vector of each text, each embedded once."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, embed(model, Modality.TEXT, distinct), strict=True))


def read_words(path: Path) -> list[str]:
    """Return the words of a file, one a line.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: It cannot be read, or is empty.
    """
    return [line for _, line in _lines(path)]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the content of each line that is not blank, and no remark."""
    data = read_file(Modality.TEXT, path, Limits(max_bytes=sys.maxsize))
    for number, line in enumerate(decode_text(data, path).splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield f"{path}:{number}", line.strip(" \r\n")


def _rows(path: Path, *, sniffs_commas: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the cells of each line: between tabs, or commas where there is none."""
    for where, line in _lines(path):
        by_commas = sniffs_commas and "\t" not in line
        try:
            cells = next(csv.reader([line])) if by_commas else line.split("\t")
        except csv.Error as error:
            raise UnreadableFile(
                f"{where}: {error}", hint="write: word, tab, word, tab, rating"
            ) from error
        yield where, [cell.strip() for cell in cells]
