"""Compare ways to merge the modalities of a mixed corpus, and count false alarms.

    python scripts/evaluate_scores.py [--model base]

Two corpora: the pictures, sounds and captions of Tux Paint together, which nothing was tuned on;
and, to choose by, pictures and sounds of packages for training, which heads of `base` know. A
query is left out of its own answer; what has its name is relevant (in the second corpus: what has
the last word of its name). Prints Markdown.
"""

# ruff: noqa: ARG001  the ways to merge share one signature

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from base_model.drawings import read_drawings
from base_model.evaluation_sets import tux_paint
from base_model.packages import DRAWINGS, SOUNDS, TINY, unpack
from muomni_tiny.pictures import scratch
from numpy.typing import NDArray
from own_sound.packages import RECORDED
from own_sound.sounds import recordings

from muomni_search import ranking
from muomni_search.encoders.model import fetch_model, load_model
from muomni_search.encoders.protocol import Model
from muomni_search.evaluation.subjects import embed
from muomni_search.ingest.read import read_content
from muomni_search.items import Modality
from muomni_search.metrics import ndcg_at_k

Array = NDArray[np.float32]
ROOT = Path(__file__).resolve().parent.parent
DEPTH = 10
NEVER = -99.0


@dataclass(frozen=True)
class Corpus:
    """Unit rows and labels of each modality; and words to ask with, where they are others."""

    title: str
    rows: Mapping[Modality, Array]
    labels: Mapping[Modality, Sequence[str]]
    words: Array | None = None
    word_labels: Sequence[str] = ()


@dataclass(frozen=True)
class Asked:
    """What queries of one modality meet: cosines, what is relevant and what is the query itself."""

    queries: Array
    cosines: Mapping[Modality, NDArray[np.float64]]
    relevant: Mapping[Modality, NDArray[np.bool_]]
    itself: Mapping[Modality, NDArray[np.bool_]]


# ---- corpora -----------------------------------------------------------------------------------


def held_out(model: Model, work: Path) -> Corpus:
    examples = tux_paint(work)
    names = [example.name for example in examples]
    sounding = [example for example in examples if example.sound]
    asking = {}
    for example in examples:
        stem = " ".join(
            re.findall(r"[a-z]+", str(example.picture and example.picture.stem).lower())
        )
        if stem and stem != example.name:
            asking[stem] = example.name
    texts = sorted(set(names))
    return Corpus(
        "Tux Paint",
        vectors(
            model,
            texts,
            [one.picture for one in examples if one.picture],
            [one.sound for one in sounding if one.sound],
        ),
        {
            Modality.TEXT: texts,
            Modality.IMAGE: names,
            Modality.AUDIO: [one.name for one in sounding],
        },
        embed(model, Modality.TEXT, list(asking)),
        list(asking.values()),
    )


def for_choosing(model: Model, work: Path) -> Corpus:
    for package in [*DRAWINGS, *SOUNDS, *TINY, *RECORDED]:
        unpack(package, work)
    rng = np.random.default_rng(0)
    drawings = read_drawings(work)
    pictures = some([*scratch(work), *drawings["twemoji"], *drawings["fxemoji"]], 550, rng)
    # Some files of lmms-common are no sounds that can be read.
    heard = [one for one in recordings(work) if "lmms-common" not in one[0].parts]
    sounds = some(heard, 200, rng)
    texts = sorted({name for _, name in [*pictures, *sounds]})
    return Corpus(
        "training packages",
        vectors(model, texts, [path for path, _ in pictures], [path for path, _ in sounds]),
        {
            Modality.TEXT: [last_word(name) for name in texts],
            Modality.IMAGE: [last_word(name) for _, name in pictures],
            Modality.AUDIO: [last_word(name) for _, name in sounds],
        },
    )


def some(
    named: Sequence[tuple[Path, str]], count: int, rng: np.random.Generator
) -> list[tuple[Path, str]]:
    return [named[number] for number in sorted(rng.choice(len(named), count, replace=False))]


def last_word(name: str) -> str:
    return name.split()[-1].rstrip("s")


def vectors(
    model: Model, texts: Sequence[str], pictures: Sequence[Path], sounds: Sequence[Path]
) -> dict[Modality, Array]:
    return {
        Modality.TEXT: embed(model, Modality.TEXT, texts),
        Modality.IMAGE: embed(model, Modality.IMAGE, pictures),
        Modality.AUDIO: embed(
            model, Modality.AUDIO, [read_content(Modality.AUDIO, path) for path in sounds]
        ),
    }


def questions(corpus: Corpus) -> Iterator[tuple[Modality, Asked]]:
    for asking in Modality:
        other = asking == Modality.TEXT and corpus.words is not None
        queries = corpus.words if other and corpus.words is not None else corpus.rows[asking]
        labels = np.array(corpus.word_labels if other else corpus.labels[asking])
        cosines, relevant, itself = {}, {}, {}
        for asked, rows in corpus.rows.items():
            cosines[asked] = (queries @ rows.T).astype(np.float64)
            relevant[asked] = labels[:, None] == np.array(corpus.labels[asked])[None]
            itself[asked] = np.zeros_like(relevant[asked])
            if asked == asking and not other:
                np.fill_diagonal(itself[asked], True)
                np.fill_diagonal(relevant[asked], False)
        yield asking, Asked(queries, cosines, relevant, itself)


# ---- ways to merge -------------------------------------------------------------------------------

Scores = Mapping[Modality, NDArray[np.float64]]
Way = Callable[[Modality, Asked, Corpus, Model], Scores]


def seen(asked: Asked, modality: Modality) -> NDArray[np.float64]:
    """Return cosines with NaN where the query would meet itself."""
    return np.where(asked.itself[modality], np.nan, asked.cosines[modality])


def column(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[:, None]


def raw(_: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    return asked.cosines


def deviations(_: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    found = {}
    for one in Modality:
        cosines = seen(asked, one)
        mean, spread = np.nanmean(cosines, axis=1), np.nanstd(cosines, axis=1)
        found[one] = (asked.cosines[one] - column(mean)) / column(spread)
    return found


def by_pair(asking: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    """The model's prior alone: the same for every query of a pair of modalities."""
    found = {}
    for one in Modality:
        prior = ranking.prior_for(model.prior, [asking], one) or ranking.UNKNOWN
        found[one] = (asked.cosines[one] - prior.median) / prior.scale
    return found


def by_upper_tail(asked: Asked) -> Scores:
    found = {}
    for one in Modality:
        median, scale = ranking.upper_tail(seen(asked, one))
        scale = np.maximum(scale, ranking.MIN_SCALE)
        found[one] = (asked.cosines[one] - column(median)) / column(scale)
    return found


def engine(_: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    return by_upper_tail(asked)


def less_neighbours(_: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    """CSLS on the query's side (Conneau et al. 2018): less half the mean of its ten best."""
    found = {}
    for one in Modality:
        best = np.sort(np.nan_to_num(seen(asked, one), nan=NEVER), axis=1)[:, -DEPTH:]
        found[one] = asked.cosines[one] - column(best.mean(axis=1)) / 2
    return found


def blend(asking: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    """The engine's scores, with a fifth of their spread taken back as raw cosines."""
    ours = engine(asking, asked, corpus, model)
    return {one: ours[one] + 2 * asked.cosines[one] for one in Modality}


def exceedances(_: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    """An exponential law fitted to the best tenth of each query: −ln of the share above."""
    found = {}
    for one in Modality:
        cosines = seen(asked, one)
        edge = np.nanquantile(cosines, 0.9, axis=1)
        above = np.where(cosines > column(edge), cosines - column(edge), np.nan)
        found[one] = (asked.cosines[one] - column(edge)) / column(np.nanmean(above, axis=1))
    return found


def centred(asking: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    means = {one: rows.mean(axis=0) for one, rows in corpus.rows.items()}

    def moved(rows: Array, mean: Array) -> Array:
        return (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True)

    queries = moved(asked.queries, means[asking])
    return {
        one: (queries @ moved(rows, means[one]).T).astype(np.float64)
        for one, rows in corpus.rows.items()
    }


def both_sides(asking: Modality, asked: Asked, corpus: Corpus, model: Model) -> Scores:
    """Half the engine's score, half that of the item against the rows of the asking modality."""
    ours = engine(asking, asked, corpus, model)
    found = {}
    for one, rows in corpus.rows.items():
        cosines = (rows @ corpus.rows[asking].T).astype(np.float64)
        if one == asking:
            np.fill_diagonal(cosines, np.nan)
        median, tail = ranking.upper_tail(cosines)
        theirs = (asked.cosines[one] - median) / np.maximum(tail, ranking.MIN_SCALE)
        found[one] = (ours[one] + theirs) / 2
    return found


WAYS: Mapping[str, Way] = {
    "raw cosine": raw,
    "normal law of each query and modality: (c − mean) / deviation": deviations,
    "the prior of each pair of modalities alone": by_pair,
    "**upper tail of each query and modality** (the engine)": engine,
    "exponential law of each query's best tenth": exceedances,
    "cosine − ½ mean of the query's ten best (CSLS)": less_neighbours,
    "the engine's score + 2 × cosine": blend,
    "rows centred by modality": centred,
    "the engine's score and the item's own, half each": both_sides,
}


# ---- measures ------------------------------------------------------------------------------------


def merged_ndcg(scores: Scores, asked: Asked) -> float:
    """Return the mean nDCG@10 of one ranking over all modalities, of queries with an answer."""
    together = np.concatenate(
        [np.where(asked.itself[one], NEVER, scores[one]) for one in Modality], axis=1
    )
    relevant = np.concatenate([asked.relevant[one] for one in Modality], axis=1)
    answerable = relevant.any(axis=1)
    order = np.argsort(-together[answerable], axis=1, kind="stable")[:, :DEPTH]
    gains = np.take_along_axis(relevant[answerable], order, axis=1)
    return float(ndcg_at_k(gains, relevant[answerable], DEPTH).mean())


def best_linear(asked: Asked, tries: int = 300) -> float:
    """Return the best nDCG of any a · score + b a modality, chosen on the very queries."""
    rng = np.random.default_rng(0)
    scores = by_upper_tail(asked)
    best = 0.0
    for number in range(tries):
        shift = rng.normal(0, 2, 3) * (number > 0)
        factor = np.exp(rng.normal(0, 0.4, 3) * (number > 0))
        moved = {
            one: scores[one] * factor[place] + shift[place] for place, one in enumerate(Modality)
        }
        best = max(best, merged_ndcg(moved, asked))
    return best


def alarms(asking: Modality, asked: Asked, model: Model) -> Iterator[str]:
    """Yield a line for each modality asked for: how often auto lets something through."""
    for one in Modality:
        prior = ranking.prior_for(model.prior, [asking], one) or ranking.UNKNOWN
        rows = asked.cosines[one].shape[1]
        limit = prior.alarm_of(rows)
        absent = np.where(asked.relevant[one] | asked.itself[one], np.nan, asked.cosines[one])
        median, tail = ranking.upper_tail(absent)
        scores = (absent - column(median)) / column(np.maximum(tail, ranking.MIN_SCALE))
        false = float((np.nanmax(scores, axis=1) >= limit).mean())
        answerable = asked.relevant[one].any(axis=1)
        found = "–"
        if answerable.any():
            ours = np.where(asked.relevant[one], by_upper_tail(asked)[one], NEVER).max(axis=1)
            found = f"{(ours[answerable] >= limit).mean():.2f} of {answerable.sum()}"
        yield f"| {asking} → {one} | {rows} | {limit:.2f} | {false:.3f} | {found} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="compare ways to merge modalities")
    parser.add_argument("--model", default="base")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    options = parser.parse_args()
    fetch_model(options.model)
    model = load_model(options.model)
    corpora = [held_out(model, options.work), for_choosing(model, options.work)]
    print(f"model {model.name}, fingerprint {model.fingerprint()[:12]}\n")
    titles = [f"{corpus.title}: {asking} asks" for corpus in corpora for asking in Modality]
    print("| merged by | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 1) + "|")
    asked = [(corpus, *question) for corpus in corpora for question in questions(corpus)]
    for name, way in WAYS.items():
        cells = [
            f"{merged_ndcg(way(asking, one, corpus, model), one):.3f}"
            for corpus, asking, one in asked
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    bounds = [f"{best_linear(one):.3f}" if corpus is corpora[0] else "" for corpus, _, one in asked]
    print("| the best a · score + b, chosen on these queries | " + " | ".join(bounds) + " |\n")
    print("| Tux Paint | rows | `auto` asks for | false alarms | answers kept |")
    print("|---|---|---|---|---|")
    for corpus, asking, one in asked:
        if corpus is corpora[0]:
            print("\n".join(alarms(asking, one, model)))


if __name__ == "__main__":
    main()
