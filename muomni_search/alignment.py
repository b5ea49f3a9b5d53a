"""Teach a model pairs of your own: a table of what belongs together in, an aligned model out.

    pairs ──▶ vectors of a model ──▶ a map a modality, cross-validated ──▶ a directory
    (a table, or keys of a collection)       projection.py                 encoders/aligned.py

The model that was there, the parent, stays as it is; the new one is its encoders with a map behind
each. `reembed` brings a collection to it.

A *foreign* encoder, a function or a pretrained model on disk, may take the place of one of the
parent's. Then both encode each content, and where the foreign one starts is learned from that.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable, ranking
from muomni_search.collection import Collection, full_name
from muomni_search.encoders.aligned import write_aligned
from muomni_search.encoders.description import read_description
from muomni_search.encoders.foreign.source import Source, find_source, probes_of
from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Encoder, Model
from muomni_search.errors import CheckpointError, Conflict, InvalidInput, MuomniError, NotFound
from muomni_search.ingest.examples import cell_text
from muomni_search.ingest.rows import TEXT_COLUMNS, Row, read_rows
from muomni_search.ingest.table import find_beside
from muomni_search.items import DIM, Item, Modality, Problem
from muomni_search.progress import Progress, Silent
from muomni_search.projection import (
    Learned,
    Maps,
    Pairs,
    apply_map,
    choose_anchor,
    compare_retrieval,
    learn,
)
from muomni_search.store.sqlite import disk_errors
from muomni_search.view import View, encode_contents

__all__ = ["Alignment", "align"]

KEY_COLUMNS = ("key_a", "key_b")
# Fewer vectors of a modality than this say less of unrelated cosines than the parent does.
PRIOR_ROWS = 50

# A lower mean cosine of old and new vectors than this deserves a warning.
MUCH_MOVED = 0.7

Vectors = dict[Modality, NDArray[np.float32]]
Labels = dict[Modality, Sequence[object]]


@dataclass(frozen=True, slots=True)
class Content:
    """One half of a pair: words, a file, or an item of the collection."""

    modality: Modality
    value: str | Path
    is_key: bool = False


@dataclass(eq=False)
class Alignment:
    """What was learned, and what it does.

    Args:
        model: The directory of the new model; None when nothing was gained and none was written.
        anchor: The modality that stays as it was.
        pairs: How many pairs were learned from.
        learned: The maps and how they did on held-out pairs.
        drift: For each mapped modality the mean cosine between old and new vectors.
        drift_of: What those are the vectors of.
        kept: How the pairs of ``keep`` find each other before and after.
        problems: Rows that could not be used.
        sources: Where foreign encoders come from, by modality.
        seconds: How long it took.
    """

    model: Path | None
    anchor: Modality
    pairs: int
    learned: Learned
    drift: dict[str, float]
    drift_of: str
    kept: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    sources: dict[Modality, Source] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object that ``muomni align --json`` prints."""
        return {
            "model": None if self.model is None else str(self.model),
            **self.report(),
            "seconds": round(self.seconds, 3),
        }

    def report(self) -> dict[str, Any]:
        """Return what the model's description keeps of it."""
        return {
            "pairs": self.pairs,
            "failed": len(self.problems),
            "anchor": str(self.anchor),
            "pulls": {
                str(modality): None if math.isinf(pull) else pull
                for modality, pull in self.learned.pulls.items()
            },
            "refined": self.learned.refined,
            "encoders": {str(one): source.as_dict() for one, source in self.sources.items()},
            "agreement": self.learned.agreement,
            "retrieval": self.learned.retrieval,
            "drift": self.drift,
            "drift_of": self.drift_of,
            "kept": self.kept,
            "notes": self.learned.notes,
        }


def align(
    pairs: str | Path,
    output: str | Path,
    *,
    model: str | Path = "base",
    collection: Collection | None = None,
    encoders: Mapping[Modality | str, str | Path] | None = None,
    keep: str | Path | None = None,
    anchor: Modality | str | None = None,
    pull: float | None = None,
    folds: int = 5,
    refine: bool = False,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Alignment:
    """Learn from pairs, and write a model that knows them.

    A modality that gains nothing on pairs that were held out stays as it was; when that is so of
    all, no model is written, unless ``pull`` is given.

    Args:
        pairs: A table (``.jsonl``, ``.csv``, ``.parquet``) with two or three of the columns
            ``text``, ``image`` and ``audio`` filled in each row, or with ``key_a`` and ``key_b``,
            two items of the collection. Paths are relative to the table's folder.
        output: The directory of the new model, which must be empty or not there.
        model: The parent. With a collection it is the collection's.
        collection: Where keys are looked up, and whose vectors show the drift.
        encoders: Foreign encoders that take the place of the parent's, by modality: the name of a
            registered function, the folder of a pretrained model (CLIP, CLAP,
            sentence-transformers), or the name or path of another model.
        keep: A table of pairs that are not learned from, to see what becomes of them.
        anchor: The modality that stays as it is; by default text, or else the commonest.
        pull: How strongly the maps are held to what was there; by default cross-validated.
        folds: Parts of the pairs, each held out once.
        refine: Go on from the closed form by contrastive learning.
        seed: What decides on the folds and on the batches of refinement.
        force: Replace a model that is there.
        progress: Told of each content that is encoded.

    Returns:
        What was learned, cross-validated, and the rows that could not be used.

    Raises:
        InvalidInput: Too few pairs, or of one modality only.
        Conflict: There is something in the output's place.
        NotFound: No such model, encoder or table.
        CheckpointError: An encoder is damaged, fails, or reads another modality.
        UnreadableFile: A table cannot be read.
    """
    started = time.monotonic()
    if not (folds >= 2 and (pull is None or pull > 0)):
        raise InvalidInput(f"folds must be 2 or more and pull above 0, not {folds} and {pull}")
    target, table = Path(output).absolute(), Path(pairs)
    parent = load_model(model) if collection is None else collection.model
    _check_target(target, parent, force=force)
    if collection is not None:
        collection.check_output(target)
    sources, foreign = _open_foreign(encoders or {}, parent)
    reader = _Reader(parent, foreign, collection, progress or Silent())
    rows = reader.read(table)
    problems = list(reader.problems)
    staying = _anchor(rows, table, anchor, problems)
    try:
        learned = learn(rows, anchor=staying, pull=pull, folds=folds, refine=refine, seed=seed)
    except InvalidInput as error:
        raise InvalidInput(f"{error.what}{_first_of(problems)}", hint=error.hint) from error
    learned.notes += [*reader.notes, *_losses(learned)]
    widest = max([DIM, *(source.dim for source in sources.values())])
    if len(rows) < widest:
        learned.notes.append(
            f"{len(rows)} pairs are fewer than the {widest} dimensions: the maps were held the more"
        )
    searched, labels = reader.background(rows)
    background, drift_of = searched, reader.searched or str(table)
    kept: list[dict[str, Any]] = []
    if keep is not None:
        others = reader.read(Path(keep))
        problems = list(reader.problems)
        kept = compare_retrieval(others, learned.maps)
        background, drift_of = _contents(others), str(keep)
    done = Alignment(
        model=target,
        anchor=staying,
        pairs=len(rows),
        learned=learned,
        drift=_drift(background, rows, learned.maps),
        drift_of=drift_of,
        kept=kept,
        problems=problems,
        sources=sources,
    )
    learned.notes += [
        f"{modality}: the mean cosine of old and new vectors is {cosine:.2f}; look with --keep at "
        "what became of the rest before you move a collection"
        for modality, cosine in done.drift.items()
        if cosine < MUCH_MOVED
    ]
    if learned.maps:
        described = reader.described()
        prior = _prior(parent, searched, labels, learned.maps, seed)
        with _whole_directory(target, parent, force=force) as partial:
            write_aligned(
                partial,
                learned.maps,
                name=target.name,
                parent=described if collection is not None else full_name(model),
                fingerprint=parent.fingerprint(),
                prior=prior,
                report=done.report(),
                sources=sources,
                probes=probes_of(foreign),
            )
    else:
        done.model = None
    done.seconds = time.monotonic() - started
    return done


def _open_foreign(
    encoders: Mapping[Modality | str, str | Path], parent: Model
) -> tuple[dict[Modality, Source], dict[Modality, Encoder]]:
    """Return where the foreign encoders come from, and the encoders.

    Raises:
        InvalidInput: There is no such modality.
        NotFound: There is no such encoder.
        CheckpointError: One cannot be used.
    """
    sources, found = {}, {}
    for name, place in encoders.items():
        if name not in set(Modality):
            raise InvalidInput(
                f"{name!r} is no modality of an encoder", hint=f"one of {', '.join(Modality)}"
            )
        modality = Modality(name)
        sources[modality], found[modality] = find_source(
            place, modality, load_model, threads=parent.threads
        )
    return sources, found


def _first_of(problems: Sequence[Problem]) -> str:
    """Return what to add to an error when rows could not be used: how many, and why the first."""
    if not problems:
        return ""
    return f"; {len(problems):,} rows could not be used, the first: {problems[0].error}"


def _losses(learned: Learned) -> Iterator[str]:
    """Yield a note for each direction in which held-out pairs find less than before."""
    for one in learned.retrieval:
        interval = one["mrr_gain_interval"]
        if interval is not None and interval[1] < 0:
            yield (
                f"{one['from']} → {one['to']} finds less than before: held-out MRR "
                f"{one['before']['mrr']:.2f} → {one['after']['mrr']:.2f}"
            )


def _anchor(
    rows: Pairs, table: Path, wanted: Modality | str | None, problems: Sequence[Problem]
) -> Modality:
    """Return the modality that stays.

    Raises:
        InvalidInput: It is none, or there are no pairs with it.
    """
    there = [one for one in Modality if one in rows.contents and rows.have(one).any()]
    if not there:
        raise InvalidInput(
            f"{table}: no pair can be used{_first_of(problems)}",
            hint=problems[0].hint if problems else "each row needs two of text, image and audio",
        )
    if wanted is not None and wanted not in there:
        raise InvalidInput(
            f"{table}: no pairs with {wanted}, which is to stay",
            hint=f"one of {', '.join(there)}",
        )
    anchor = choose_anchor(rows) if wanted is None else Modality(wanted)
    if anchor in rows.foreign and not rows.foreign[anchor].any():
        raise InvalidInput(
            f"{anchor} is to stay, and the present model has no place for it",
            hint="let another modality stay, with --anchor",
        )
    return anchor


# ---- reading pairs -------------------------------------------------------------------------------


class _Reader:
    """Turns tables of pairs into vectors; what cannot be used is listed in ``problems``.

    Args:
        model: What encodes.
        foreign: What encodes in its place, by modality.
        collection: Where keys are looked up; None for nowhere.
        progress: Told of each content.
    """

    def __init__(
        self,
        model: Model,
        foreign: Mapping[Modality, Encoder],
        collection: Collection | None,
        progress: Progress,
    ) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._model = model
        self._foreign = foreign
        # Of the foreign ones, those whose contents the model encodes too.
        self._twins = {modality for modality in foreign if self._encodes(modality)}
        self._collection = collection
        self._progress = progress
        self._found: dict[Content, NDArray[np.float32] | MuomniError] = {}
        # What the model has of the contents that a foreign encoder encodes.
        self._present: dict[Content, NDArray[np.float32] | MuomniError] = {}

    def _encodes(self, modality: Modality) -> bool:
        try:
            self._model.encoder(modality)
        except (CheckpointError, NotFound) as error:
            self.notes.append(
                f"{modality} is brought in by its pairs alone, as the present model does not "
                f"encode it: {error.what}"
            )
            return False
        return True

    def read(self, table: Path) -> Pairs:
        """Return the rows of a table of which every half can be used."""
        with nullcontext() if self._collection is None else self._collection.view() as view:
            rows = list(self._rows(table, view))
            self._encode({content for _, contents in rows for content in contents}, view)
        good = []
        for origin, contents in rows:
            errors = [
                found[one]
                for one in contents
                for found in (self._found, self._present)
                if one in found
            ]
            bad = next((one for one in errors if isinstance(one, MuomniError)), None)
            if bad is not None:
                self._fail(origin, bad)
            else:
                good.append(contents)
        return self._stacked(good)

    def _rows(self, table: Path, view: View | None) -> Iterator[tuple[str, list[Content]]]:
        """Yield the halves of each row, with where it stands."""
        for number, row in read_rows(table, texts=(*TEXT_COLUMNS, *KEY_COLUMNS)):
            origin = f"{table}:{number}"
            try:
                if isinstance(row, str):
                    raise InvalidInput(row, hint="mend the row")
                yield origin, self._contents_of(row, table, view)
            except InvalidInput as error:
                self._fail(origin, error)

    def _fail(self, origin: str, error: MuomniError) -> None:
        self.problems.append(Problem(origin, f"{origin}: {error.what}", error.hint))

    def _encode(self, contents: set[Content], view: View | None) -> None:
        """Find the vector of each content that has none yet."""
        new = sorted(contents - self._found.keys(), key=lambda one: (one.modality, str(one.value)))
        keys = [one for one in new if one.is_key]
        if view is not None:
            items = view.get([str(one.value) for one in keys], vectors=True)
            for one, item in zip(keys, items, strict=True):
                if item.vector is not None:
                    self._found[one] = item.vector
        encoded = [one for one in new if not one.is_key]
        twins = sum(one.modality in self._twins for one in encoded)
        self._progress.start(len(encoded) + twins, "encoding")
        try:
            for modality in Modality:
                group = [one for one in encoded if one.modality == modality]
                if modality in self._twins:
                    self._encode_group(self._model.encoder(modality), group, self._present)
                encoder = self._foreign.get(modality) or (group and self._model.encoder(modality))
                if group and encoder:
                    self._encode_group(encoder, group, self._found)
        finally:
            self._progress.finish()

    def _encode_group(
        self,
        encoder: Encoder,
        group: Sequence[Content],
        found: dict[Content, NDArray[np.float32] | MuomniError],
    ) -> None:
        vectors = encode_contents(
            encoder, [one.value for one in group], advance=self._progress.advance
        )
        found.update(zip(group, vectors, strict=True))

    def _stacked(self, rows: Sequence[Sequence[Content]]) -> Pairs:
        numbers: dict[Content, int] = {}
        contents = {modality: np.full(len(rows), -1, np.int64) for modality in Modality}
        widths = {one: encoder.dim for one, encoder in self._foreign.items()}
        vectors: Vectors = {
            one: np.zeros((len(rows), widths.get(one, DIM)), np.float32) for one in Modality
        }
        present: Vectors = {one: np.zeros((len(rows), DIM), np.float32) for one in self._foreign}
        for place, row in enumerate(rows):
            for one in row:
                contents[one.modality][place] = numbers.setdefault(one, len(numbers))
                for stack, found in ((vectors, self._found), (present, self._present)):
                    vector = found.get(one)
                    if isinstance(vector, np.ndarray):
                        stack[one.modality][place] = vector
        return Pairs(vectors, contents, present)

    def described(self) -> str:
        """Return what the collection calls its model."""
        if self._collection is None:
            return self._model.name
        with self._collection.store.snapshot() as snapshot:
            return snapshot.model

    @property
    def searched(self) -> str | None:
        """The collection's directory; None when there is none."""
        return None if self._collection is None else str(self._collection.directory)

    def background(self, rows: Pairs) -> tuple[Vectors, Labels]:
        """Return vectors of each modality that stand for what is searched, and what each is of.

        Those of the collection where there is one, each of something else; those of a foreign
        encoder are always of the table, as no collection has them.
        """
        found, labels = _contents(rows), _labels(rows)
        if self._collection is not None:
            with self._collection.store.snapshot() as snapshot:
                for modality in set(Modality) - self._foreign.keys():
                    sample = snapshot.sample_rows(modality, ranking.SAMPLE_ROWS)
                    found[modality] = snapshot.vectors(modality)[sample]
                    labels[modality] = [f"{modality} {row}" for row in range(len(found[modality]))]
        return found, labels

    def _contents_of(self, row: Row, table: Path, view: View | None) -> list[Content]:
        """Return the halves that a row names.

        One half is enough where a foreign encoder and the model read the same.

        Raises:
            InvalidInput: They make no pair, or a file is not there or not in the table's folder.
        """
        if any(row.get(name) is not None for name in KEY_COLUMNS):
            items = _items([cell_text(name, row.get(name)) for name in KEY_COLUMNS], view)
            found = [self._content_of(item) for item in items]
        else:
            given = {one: cell_text(one, row[one]) for one in Modality if row.get(one) is not None}
            found = [
                Content(one, value if one == Modality.TEXT else find_beside(table, value))
                for one, value in given.items()
            ]
        modalities = {one.modality for one in found}
        least = 1 if modalities & self._twins else 2
        if len(modalities) < max(least, len(found)):
            others = [name for name, value in row.items() if value is not None]
            nothing = f"a row with {', '.join(others)}" if others else "nothing"
            raise InvalidInput(
                f"{' and '.join(one.modality for one in found) or nothing} is no pair",
                hint="fill two of text, image and audio, or key_a and key_b of two modalities",
            )
        return found

    def _content_of(self, item: Item) -> Content:
        """Return an item as the half of a pair: its vector, or for a foreign encoder its content.

        Raises:
            InvalidInput: It has none.
        """
        if item.modality not in self._foreign:
            return Content(item.modality, item.key, is_key=True)
        value = item.text if item.modality == Modality.TEXT else item.source
        if value is None:
            raise InvalidInput(
                f"{item.key!r} has no content for another encoder to read",
                hint="pair items that were added from a file",
            )
        return Content(item.modality, value if item.modality == Modality.TEXT else Path(value))


def _items(keys: Sequence[str], view: View | None) -> list[Item]:
    if view is None:
        raise InvalidInput("keys, but of no collection", hint="name it with -c DIR")
    try:
        return view.get(keys)
    except NotFound as error:
        raise InvalidInput(error.what, hint=error.hint) from error


def _contents(rows: Pairs) -> Vectors:
    """Return the vector of each different content of some rows, by modality."""
    found: Vectors = {}
    for modality, contents in rows.contents.items():
        numbers, places = np.unique(contents, return_index=True)
        found[modality] = rows.vectors[modality][places[numbers >= 0]]
    return found


def _labels(rows: Pairs) -> Labels:
    """Return for each of ``_contents`` a number that those share which have to do with another."""
    related = rows.related()
    found: Labels = {}
    for modality, contents in rows.contents.items():
        numbers, places = np.unique(contents, return_index=True)
        found[modality] = related[places[numbers >= 0]].tolist()
    return found


# ---- what the maps do ----------------------------------------------------------------------------


def _drift(vectors: Vectors, rows: Pairs, maps: Maps) -> dict[str, float]:
    """Return for each mapped modality the mean cosine between old and new vectors.

    Args:
        vectors: What stands for what is searched.
        rows: The pairs, which stand for it where the encoder is another one.
        maps: The maps.
    """
    found = {}
    for modality, weights in sorted(maps.items()):
        old = new = vectors.get(modality, np.empty((0, DIM), np.float32))
        if modality in rows.foreign:
            there = rows.have(modality) & rows.foreign[modality].any(axis=1)
            old, new = rows.foreign[modality][there], rows.vectors[modality][there]
        if len(old):
            cosines = np.sum(old * apply_map(new, weights), axis=1)
            found[str(modality)] = round(float(cosines.mean()), 4)
    return found


def _prior(
    parent: Model, vectors: Vectors, labels: Labels, maps: Maps, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the new model's prior: measured where there are vectors enough, else the parent's."""
    rng = np.random.default_rng(seed)
    sampled: Vectors = {}
    of: Labels = {}
    for modality, rows in vectors.items():
        if len(rows) >= PRIOR_ROWS:
            some = rng.permutation(len(rows))[: ranking.PRIOR_SAMPLE]
            mapped = modality in maps
            sampled[modality] = apply_map(rows[some], maps[modality]) if mapped else rows[some]
            of[modality] = [labels[modality][row] for row in some]
    measured = ranking.fit_prior(sampled, of)

    def known(asking: str, asked: str) -> dict[str, float]:
        for prior in (measured, parent.prior):
            if asked in prior.get(asking, {}):
                return dict(prior[asking][asked])
        return {"median": ranking.UNKNOWN.median, "scale": ranking.UNKNOWN.scale}

    return {
        str(asking): {str(asked): known(asking, asked) for asked in Modality} for asking in Modality
    }


# ---- the directory -------------------------------------------------------------------------------


def _check_target(target: Path, parent: Model, *, force: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        Conflict: The place is taken.
    """
    with disk_errors(target):
        if not target.exists():
            return
        if not target.is_dir():
            raise Conflict(f"{target} is a file", hint="name another place")
        if not any(target.iterdir()):
            return
        if not force:
            raise Conflict(
                f"{target} exists already and is not empty",
                hint="name another place, or replace a model there with --force",
            )
        description = read_description(target)
        if description is None or description.get("kind") != "aligned":
            raise Conflict(f"{target} holds no aligned model", hint="name another place")
    ancestor: Model | None = parent
    while ancestor is not None:
        if ancestor.directory is not None and ancestor.directory.resolve() == target.resolve():
            raise Conflict(
                f"{target} is what the new model would be learned on", hint="name another place"
            )
        ancestor = getattr(ancestor, "parent", None)


@contextmanager
def _whole_directory(target: Path, parent: Model, *, force: bool) -> Iterator[Path]:
    """Give a directory to write to; it gets its name when all in it is on the disk."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    with disk_errors(target):
        partial.mkdir(parents=True)
        try:
            yield partial
            for path in sorted(partial.iterdir()):
                with path.open("rb") as file:
                    durable.fsync_file(file.fileno())
            durable.fsync_directory(partial)
            _check_target(target, parent, force=force)
            if target.exists() and any(target.iterdir()):
                durable.replace(target, old)
            try:
                durable.replace(partial, target)
            except BaseException:
                if old.exists():
                    old.replace(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
