"""Measure models on the held-out sets: every pair of modalities, words, with bootstrap intervals.

    python scripts/evaluate_models.py [--model base] [--model PATH]…

Downloads the evaluation packages (some 250 MB) and prints Markdown: the tables of each model, and
with several models a table that compares them with the first. The sets are for evaluation alone:
nothing is trained or tuned on them.

An item is a hit when it has the query's name. S@k is success@k, the share of queries with a hit
among the first k: of several hits one is enough. Pictures find pictures where two or more share a
name; words find words as the file name of a picture, where it differs, finds its caption; sounds
find sounds as the first half of one of 2 s or more finds its own second half.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from base_model.evaluation_sets import (
    Example,
    animal_photos,
    instruments,
    tux_paint,
    word_drawings,
    word_files,
)
from numpy.typing import NDArray

from muomni_search.encoders.base.audio import PATCH_SAMPLES
from muomni_search.encoders.model import fetch_model, load_model
from muomni_search.encoders.protocol import Model
from muomni_search.evaluation.figures import Figure, differences, estimate
from muomni_search.evaluation.subjects import embed
from muomni_search.evaluation.words import (
    evaluate_analogies,
    evaluate_contexts,
    evaluate_pairs,
)
from muomni_search.ingest.read import read_content
from muomni_search.items import Modality
from muomni_search.metrics import (
    Ranks,
    chance_success_at_k,
    first_relevant_ranks,
    mean_reciprocal_rank,
    success_at_k,
)

Array = NDArray[np.float32]
ROOT = Path(__file__).resolve().parent.parent
SET, KIND = "set and direction", "words"
# What the table that compares models shows of each kind.
COMPARED = {SET: "S@10", KIND: ""}


def success_within(k: int) -> Callable[[Ranks], float]:
    return lambda ranks: success_at_k(ranks, k)


METRICS: dict[str, Callable[[Ranks], float]] = {
    "S@1": success_within(1),
    "S@5": success_within(5),
    "S@10": success_within(10),
    "MRR": mean_reciprocal_rank,
}


def found(
    title: str, asking: Array, asked: Array, names: Sequence[str], among: Sequence[str]
) -> list[Figure]:
    """Return how well queries named ``names`` find the items named ``among``.

    Queries that are the items themselves are left out of their own answers.
    """
    cosines = asking @ asked.T
    relevant = np.array(names)[:, None] == np.array(among)[None]
    if asking is asked:
        np.fill_diagonal(relevant, False)
        np.fill_diagonal(cosines, -2)
        paired = relevant.any(axis=1)
        cosines, relevant = cosines[paired], relevant[paired]
    ranks = first_relevant_ranks(cosines, relevant)
    of = {SET: title}
    # None of the items that ask finds itself.
    items = len(among) - (asking is asked)
    chance = chance_success_at_k(relevant.sum(axis=1).tolist(), items, 10)
    return [
        *(estimate(of, name, ranks, metric) for name, metric in METRICS.items()),
        Figure(of, "chance S@10", len(ranks), chance),
    ]


def retrieval(model: Model, work: Path) -> list[Figure]:
    figures: list[Figure] = []
    for title, examples in {
        "Tux Paint pictures": tux_paint(work),
        "animal photos": animal_photos(work),
        "word drawings": word_drawings(work),
    }.items():
        names = [example.name for example in examples]
        texts = sorted(set(names))
        words = embed(model, Modality.TEXT, texts)
        pictures = embed(model, Modality.IMAGE, [one.picture for one in examples if one.picture])
        figures += found(f"{title}, text → image", words, pictures, texts, names)
        figures += found(f"{title}, image → text", pictures, words, names, texts)
        if title.startswith("Tux"):
            figures += found(f"{title}, image → image", pictures, pictures, names, names)
            figures += reworded(model, examples, words, texts)
            figures += sounding(model, examples, pictures)
    examples = instruments(work)
    figures += sound_figures(model, "instrument sounds", examples)
    return figures


def reworded(
    model: Model, examples: Sequence[Example], words: Array, texts: Sequence[str]
) -> list[Figure]:
    """Ask with the words of a picture's file name for its caption, where the two differ."""
    asking = {}
    for example in examples:
        if example.picture:
            stem = " ".join(re.findall(r"[a-z]+", example.picture.stem.lower()))
            if stem and stem != example.name:
                asking[stem] = example.name
    vectors = embed(model, Modality.TEXT, list(asking))
    return found("Tux Paint file names, text → text", vectors, words, list(asking.values()), texts)


def sounding(model: Model, examples: Sequence[Example], pictures: Array) -> list[Figure]:
    """Return the lines of the examples that have a sound, with their pictures."""
    chosen = [number for number, example in enumerate(examples) if example.sound]
    return sound_figures(
        model, "Tux Paint sounds", [examples[number] for number in chosen], pictures[chosen]
    )


def sound_figures(
    model: Model, title: str, examples: Sequence[Example], pictures: Array | None = None
) -> list[Figure]:
    names = [example.name for example in examples]
    waves = [read_content(Modality.AUDIO, one.sound) for one in examples if one.sound]
    sounds = embed(model, Modality.AUDIO, waves)
    texts = sorted(set(names))
    words = embed(model, Modality.TEXT, texts)
    figures = [
        *found(f"{title}, text → audio", words, sounds, texts, names),
        *found(f"{title}, audio → text", sounds, words, names, texts),
    ]
    if pictures is not None:
        figures += found(f"{title}, audio → image", sounds, pictures, names, names)
        figures += found(f"{title}, image → audio", pictures, sounds, names, names)
    long = [wave for wave in waves if len(wave) >= 2 * PATCH_SAMPLES]
    first, second = (
        embed(model, Modality.AUDIO, halves)
        for halves in zip(*(np.array_split(wave, 2) for wave in long), strict=True)
    )
    numbers = [str(number) for number in range(len(long))]
    figures += found(f"{title}, first half → second half", first, second, numbers, numbers)
    return figures


def words(model: Model, work: Path) -> list[Figure]:
    """Return what a model makes of words: ratings, analogies, senses."""
    ratings, questions = word_files(work)
    reports = [
        *(evaluate_pairs(model, path) for path in ratings),
        evaluate_analogies(model, questions),
        evaluate_contexts(model),
    ]
    return [
        replace(figure, of={KIND: " ".join(figure.of.values())})
        for report in reports
        for figure in report.figures
    ]


# ---- Markdown ----------------------------------------------------------------------------------


def tables(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield a table for each kind of thing: a row a thing, a column a metric."""
    for kind in dict.fromkeys(tuple(figure.of) for figure in figures):
        own = [figure for figure in figures if tuple(figure.of) == kind]
        metrics = list(dict.fromkeys(figure.metric for figure in own))
        rows: dict[str, dict[str, Figure]] = {}
        for figure in own:
            rows.setdefault(figure.of[kind[0]], {})[figure.metric] = figure
        yield from head(*kind, "n", *metrics)
        for name, cells in rows.items():
            count = next(iter(cells.values())).n
            shown = (cell(cells[metric]) if metric in cells else "" for metric in metrics)
            yield line(name, f"{count:,}", *shown)
        yield ""


def comparison(figures: Mapping[str, Sequence[Figure]]) -> Iterator[str]:
    """Yield a table of the models side by side, and of what each has more than the first."""
    first, *others = figures
    more = {name: differences(figures[first], figures[name]) for name in others}
    yield from head("", "n", *figures, *(f"{name} − {first}" for name in others))
    for place, figure in enumerate(figures[first]):
        (kind,) = figure.of
        if COMPARED[kind] in ("", figure.metric):
            (name,) = figure.of.values()
            columns = [cell(own[place]) for own in figures.values()]
            columns += [cell(own[place], "+") for own in more.values()]
            yield line(f"{name}, {figure.metric}", f"{figure.n:,}", *columns)
    yield ""


def head(*names: str) -> Iterator[str]:
    yield line(*names)
    yield "|" + "---|" * len(names)


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def cell(figure: Figure, sign: str = "") -> str:
    value = f"{figure.value:{sign}.3f}"
    if figure.interval is None:
        return value
    low, high = figure.interval
    return f"{value} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="measure models on the held-out sets")
    parser.add_argument("--model", action="append", help="a name or path; may be repeated")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    options = parser.parse_args()
    figures: dict[str, list[Figure]] = {}
    for name in options.model or ["base"]:
        fetch_model(name)
        model = load_model(name)
        print(f"model {model.name}, fingerprint {model.fingerprint()[:12]}\n")
        figures[name] = [*retrieval(model, options.work), *words(model, options.work)]
        print("\n".join(tables(figures[name])), flush=True)
    if len(figures) > 1:
        print("\n".join(comparison(figures)))


if __name__ == "__main__":
    main()
