"""Examples on disk, ready to be drawn from: contents decoded once, and what the teacher says.

A folder with

    texts.json     the distinct texts
    images.npy     the distinct pictures, (n, size, size, 4) uint8 with straight alpha
    sounds.pcm     the distinct sounds, one after another, samples of int16 at 16 kHz
    rows.npz       for each example: its table, the number of its text, picture and sound (−1 for
                   none), its group, whether it is held out, and whether measured; where each
                   sound ends; a hash of what was read
    teacher.npz    the teacher's unit vectors, (n, 256) float16 a modality
    problems.json  the rows that could not be used
    key            a hash of where all this was read, and when it was changed; written last

Contents are the same where their bytes are, whatever their files are called.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.documents import hash_content
from muomni_search.encoders.muomni.encoders import squeeze
from muomni_search.encoders.protocol import Model, Piece
from muomni_search.errors import CheckpointError, InvalidInput, MuomniError
from muomni_search.ingest.examples import read_examples
from muomni_search.ingest.read import read_content
from muomni_search.items import DIM, Content, Modality, Problem
from muomni_search.training.groups import draws
from muomni_search.training.recipe import Recipe
from muomni_search.vectors import mean_vector

__all__ = ["Examples", "prepare"]

Step = Callable[[str, int, int], None]
# A table's place in the recipe, and what a row of it holds.
Rows = list[tuple[int, Mapping[Modality, str | Path]]]
# Counted up when what is written changes.
VERSION = 3
LONGEST_SECONDS, SAMPLE_RATE = 30, 16_000
DECODERS = 3
WAITING = 64  # contents that are decoded ahead
TOGETHER = 32  # contents whose pieces the teacher encodes together


@dataclass(frozen=True)
class Examples:
    """What a training draws from; see the module for shapes.

    ``numbers[modality]`` (examples,) is each example's row in that modality's contents, or −1.
    ``contents`` (examples, modalities) is the same as an array. ``groups`` (examples,) is equal
    where examples are held out together. Of those that ``is_held_out`` none is learned from, and
    those that ``is_measured`` are measured with. ``digest`` is a hash of all that was read.
    """

    texts: list[str]
    images: NDArray[np.uint8]
    sounds: NDArray[np.int16]
    sound_ends: NDArray[np.int64]
    table: NDArray[np.int64]
    numbers: Mapping[Modality, NDArray[np.int64]]
    groups: NDArray[np.int64]
    is_held_out: NDArray[np.bool_]
    is_measured: NDArray[np.bool_]
    digest: str
    teacher: Mapping[Modality, NDArray[np.float32]]
    problems: list[Problem]

    @cached_property
    def contents(self) -> NDArray[np.int64]:
        """The numbers as an array (examples, modalities), in the order of ``Modality``."""
        return np.stack([self.numbers[modality] for modality in Modality], axis=1)

    def sound(self, number: int) -> NDArray[np.float32]:
        """Return a sound's waveform (samples,) in [−1, 1]."""
        start = self.sound_ends[number - 1] if number else 0
        return self.sounds[start : self.sound_ends[number]].astype(np.float32) / np.float32(32_767)

    def targets(
        self,
        modality: Modality,
        rows: NDArray[np.int64],
        own: float,
        said: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the unit vectors (n, 256) that examples should become, by what the teacher says.

        Rows are zero where it says nothing.

        Args:
            modality: What the examples are read as; all of them have it.
            rows: Which examples.
            own: The share of the teacher's vector of this modality; the others share the rest.
            said: What the teacher said of them anew, unit rows (n, 256).
        """
        mine = said
        if mine is None and modality in self.teacher:
            mine = self.teacher[modality][self.numbers[modality][rows]]
        if mine is None:
            mine = np.zeros((len(rows), DIM), np.float32)
        others, count = np.zeros_like(mine), np.zeros(len(rows), np.float32)
        for other in self.teacher.keys() - {modality}:
            there = self.numbers[other][rows] >= 0
            others[there] += self.teacher[other][self.numbers[other][rows[there]]]
            count += there
        own = own if modality in self.teacher else 0.0
        share = np.where(count > 0, own, 1.0)[:, None].astype(np.float32)
        mixed = share * mine + (1 - share) * others / np.maximum(count, 1)[:, None]
        lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (mixed / np.maximum(lengths, 1e-9)).astype(np.float32)
        return unit


def prepare(recipe: Recipe, folder: Path, *, size: int, teacher: Model | None, step: Step) -> None:
    """Write the examples of a recipe into ``folder``, unless they are there.

    Args:
        recipe: Names the tables.
        folder: Where to.
        size: Pixels of a picture, both ways.
        teacher: Whose vectors to write too.
        step: Told of each stage's name, how much of it is done, and of how much.

    Raises:
        UnreadableFile: A table cannot be read.
        InvalidInput: There is nothing to learn from.
    """
    rows: Rows = []
    problems: list[Problem] = []
    for place, table in enumerate(recipe.tables()):
        for entry in read_examples(table):
            if isinstance(entry, Problem):
                problems.append(entry)
            else:
                rows.append((place, entry.contents))
    key = _key(recipe, rows, size, teacher)
    if (folder / "key").exists() and (folder / "key").read_bytes() == key.encode():
        return
    folder.mkdir(parents=True, exist_ok=True)
    forget(folder)
    _Writer(recipe, folder, size, teacher, step).write(rows, problems)
    (folder / "key").write_text(key, encoding="utf-8")


def load(folder: Path) -> Examples:
    """Return the examples that ``prepare`` wrote; pictures and sounds stay on the disk.

    Raises:
        CheckpointError: A file of theirs is damaged or gone.
    """
    try:
        return _load(folder)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{folder} is damaged ({error})", hint="remove it") from error


def forget(folder: Path) -> None:
    """Have examples written again the next time."""
    (folder / "key").unlink(missing_ok=True)


def _load(folder: Path) -> Examples:
    # Opened here, for NumPy leaves a damaged archive open.
    with (folder / "rows.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        rows = {name: arrays[name] for name in arrays.files}
    with (folder / "teacher.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        teacher = {Modality(name): arrays[name].astype(np.float32) for name in arrays.files}
    sounds = _mapped(folder / "sounds.pcm")
    if len(sounds) != (rows["sound_ends"][-1] if len(rows["sound_ends"]) else 0):
        raise ValueError(f"sounds.pcm has {len(sounds)} samples")
    return Examples(
        texts=json.loads((folder / "texts.json").read_text(encoding="utf-8")),
        images=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        sounds=sounds,
        sound_ends=rows["sound_ends"],
        table=rows["table"],
        numbers={modality: rows[modality] for modality in Modality},
        groups=rows["groups"],
        is_held_out=rows["is_held_out"],
        is_measured=rows["is_measured"],
        digest=str(rows["digest"]),
        teacher=teacher,
        problems=[
            Problem(**one)
            for one in json.loads((folder / "problems.json").read_text(encoding="utf-8"))
        ],
    )


def _mapped(path: Path) -> NDArray[np.int16]:
    """Return samples that stay on the disk; an empty file cannot be mapped."""
    if not path.stat().st_size:
        return np.zeros(0, np.int16)
    return np.memmap(path, np.int16, mode="r")


def _key(recipe: Recipe, rows: Rows, size: int, teacher: Model | None) -> str:
    """Return a hash of everything that the prepared examples depend on, without reading files."""
    hashed = hashlib.sha256()
    facts = (
        VERSION,
        size,
        (teacher.fingerprint(), recipe.distillation.reads)
        if teacher and recipe.distillation
        else None,
        sorted(recipe.towers),
        recipe.seed,
        recipe.held_out,
        recipe.most_held_out,
    )
    hashed.update(repr(facts).encode())
    for place, contents in rows:
        for modality, value in contents.items():
            stamp = None
            if isinstance(value, Path):
                facts_of_file = value.stat()
                stamp = (facts_of_file.st_size, facts_of_file.st_mtime_ns)
            hashed.update(repr((place, str(modality), str(value), stamp)).encode())
    return hashed.hexdigest()


class _Writer:
    """Decodes contents, asks the teacher, and writes both."""

    def __init__(
        self, recipe: Recipe, folder: Path, size: int, teacher: Model | None, step: Step
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._size = size
        reads = recipe.distillation.reads if recipe.distillation else ()
        self._teachers = {Modality(name): teacher for name in reads} if teacher else {}
        self._step = step
        self._vectors: dict[Modality, NDArray[np.float32]] = {}

    def write(self, rows: Rows, problems: list[Problem]) -> None:
        hashes = self._hashes(rows)
        # What holds the same bytes is one content: its first file stands for all of them.
        firsts: dict[tuple[Modality, str], str | Path] = {}
        rows = [
            (
                place,
                {
                    modality: firsts.setdefault((modality, hashes[value]), value)
                    for modality, value in contents.items()
                },
            )
            for place, contents in rows
        ]
        # With what no tower here reads: it is the same in a recipe with other towers.
        groups, drawn = _drawn(rows, hashes, self._recipe.seed)
        digest = hashlib.sha256(repr((VERSION, self._size)).encode())
        for place, contents in rows:
            digest.update(
                repr((place, [(one, hashes[of]) for one, of in contents.items()])).encode()
            )
        used = {*map(Modality, self._recipe.towers), *self._teachers}
        found: dict[Modality, dict[str | Path, int]] = {}
        kept = [bool(contents.keys() & set(self._recipe.towers)) for _, contents in rows]
        for modality in Modality:
            distinct = dict.fromkeys(
                contents[modality]
                for (_, contents), is_kept in zip(rows, kept, strict=True)
                if is_kept and modality in contents and modality in used
            )
            found[modality] = self._contents(modality, list(distinct), problems)
        whole = {
            modality: np.array(
                [found[modality].get(contents.get(modality, ""), -1) for _, contents in rows],
                np.int64,
            )
            for modality in Modality
        }
        learned = np.stack([whole[Modality(tower)] for tower in self._recipe.towers])
        good = (learned >= 0).any(axis=0)
        if not good.any():
            first = f"; the first: {problems[0].error}" if problems else ""
            raise InvalidInput(f"none of the {len(problems)} rows can be used{first}")
        table = np.array([place for place, _ in rows], np.int64)[good]
        is_held_out = drawn[good] < self._recipe.held_out
        np.savez(
            self._folder / "rows.npz",
            allow_pickle=False,
            table=table,
            groups=groups[good],
            is_held_out=is_held_out,
            is_measured=is_held_out & _first(table, drawn[good], self._recipe),
            digest=np.array(digest.hexdigest()),
            sound_ends=self._sound_ends,
            **{str(modality): numbers[good] for modality, numbers in whole.items()},
        )
        np.savez(
            self._folder / "teacher.npz",
            allow_pickle=False,
            **{str(name): vectors.astype(np.float16) for name, vectors in self._vectors.items()},
        )
        (self._folder / "problems.json").write_text(
            json.dumps([asdict(problem) for problem in problems]), encoding="utf-8"
        )

    def _hashes(self, rows: Rows) -> dict[str | Path, str]:
        """Return the hash of each content's bytes."""
        values = list(dict.fromkeys(value for _, contents in rows for value in contents.values()))
        found: dict[str | Path, str] = {}
        with ThreadPoolExecutor(DECODERS) as pool:
            for value, hashed in zip(values, pool.map(_hash, values), strict=True):
                found[value] = hashed
                if len(found) % WAITING == 0:
                    self._step("comparing", len(found), len(values))
        return found

    def _contents(
        self, modality: Modality, values: Sequence[str | Path], problems: list[Problem]
    ) -> dict[str | Path, int]:
        """Write the distinct contents of a modality; return the number of each good one."""
        keep = {
            Modality.TEXT: self._write_texts,
            Modality.IMAGE: self._write_images,
            Modality.AUDIO: self._write_sounds,
        }[modality]
        numbers: dict[str | Path, int] = {}
        vectors: list[NDArray[np.float32]] = []

        def good() -> Iterator[Content]:
            waiting: list[list[Piece]] = []
            for value, got in self._decoded(modality, values):
                if isinstance(got, Problem):
                    problems.append(got)
                    continue
                content, pieces = got
                numbers[value] = len(numbers)
                waiting.append(pieces)
                if len(waiting) == TOGETHER:
                    vectors.extend(self._encode(modality, waiting))
                    waiting.clear()
                yield content
            vectors.extend(self._encode(modality, waiting))

        keep(good(), len(values))
        if modality in self._teachers:
            self._vectors[modality] = np.array(vectors, np.float32).reshape(-1, DIM)
        return numbers

    def _decoded(
        self, modality: Modality, values: Sequence[str | Path]
    ) -> Iterator[tuple[str | Path, tuple[Content, list[Piece]] | Problem]]:
        """Yield each value with its content and the teacher's pieces of it, in order."""
        teacher = self._teachers.get(modality)
        encoder = teacher.encoder(modality) if teacher and values else None

        def read(value: str | Path) -> tuple[Content, list[Piece]] | Problem:
            try:
                content = read_content(modality, value)
                if modality == Modality.AUDIO:
                    content = np.asarray(content)[: LONGEST_SECONDS * SAMPLE_RATE]
                pieces = encoder.prepare(content) if encoder else []
            except MuomniError as error:
                return Problem(str(value)[:200], error.what, error.hint)
            return self._kept(modality, content), pieces

        with ThreadPoolExecutor(DECODERS) as pool:
            ahead: deque[tuple[str | Path, Future[Any]]] = deque()
            done = 0
            for value in values:
                ahead.append((value, pool.submit(read, value)))
                if len(ahead) > WAITING:
                    first, future = ahead.popleft()
                    yield first, future.result()
                    done += 1
                    if done % TOGETHER == 0:
                        self._step(f"reading {modality}", done, len(values))
            for first, future in ahead:
                yield first, future.result()

    def _kept(self, modality: Modality, content: Any) -> Any:
        """Return what is kept of a content: pictures squeezed, sounds as 16-bit numbers."""
        if modality == Modality.IMAGE:
            return squeeze(content, self._size, keep_alpha=True)
        if modality == Modality.AUDIO:
            return np.round(np.clip(content, -1, 1) * 32_767).astype(np.int16)
        return content

    def _encode(
        self, modality: Modality, waiting: Sequence[list[Piece]]
    ) -> list[NDArray[np.float32]]:
        """Return the teacher's vector of each content: the unit mean of its pieces'."""
        if modality not in self._teachers or not waiting:
            return []
        pieces = [piece for several in waiting for piece in several]
        rows = self._teachers[modality].encoder(modality).encode(pieces)
        ends = np.cumsum([len(several) for several in waiting])[:-1]
        return [mean_vector(part) for part in np.split(rows, ends)]

    def _write_texts(self, contents: Iterator[Content], _: int) -> None:
        text = json.dumps(list(contents), ensure_ascii=False)
        (self._folder / "texts.json").write_text(text, encoding="utf-8")

    def _write_images(self, contents: Iterator[Content], count: int) -> None:
        shape = (count, self._size, self._size, 4)
        path = self._folder / "images.npy"
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        # Those that cannot be read leave unused rows at the end.
        for number, content in enumerate(contents):
            rows[number] = content
        rows.flush()

    def _write_sounds(self, contents: Iterator[Content], _: int) -> None:
        lengths = []
        with (self._folder / "sounds.pcm").open("wb") as file:
            for content in contents:
                samples = np.asarray(content)
                lengths.append(len(samples))
                file.write(samples.tobytes())
        self._sound_ends = np.cumsum(lengths, dtype=np.int64)


def _hash(value: str | Path) -> str:
    try:
        return hash_content(value.encode() if isinstance(value, str) else value.read_bytes())
    except OSError:  # which is said where it is decoded
        return hash_content(str(value).encode())


def _drawn(
    rows: Rows, hashes: Mapping[str | Path, str], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the group of each row, and what it has drawn; see ``draws``."""
    numbers: dict[Modality, dict[str, int]] = {modality: {} for modality in Modality}
    contents = np.full((len(rows), len(numbers)), -1, np.int64)
    for place, (_, row) in enumerate(rows):
        for column, (modality, known) in enumerate(numbers.items()):
            if modality in row:
                contents[place, column] = known.setdefault(hashes[row[modality]], len(known))
    return draws(contents, {modality: list(known) for modality, known in numbers.items()}, seed)


def _first(
    table: NDArray[np.int64], drawn: NDArray[np.float64], recipe: Recipe
) -> NDArray[np.bool_]:
    """Return whether each row is among the first of its table, in the order that was drawn."""
    most = recipe.most_held_out // len(recipe.data)
    order = np.lexsort((drawn, table))
    starts = np.searchsorted(table[order], table[order])
    first = np.zeros(len(table), bool)
    first[order] = np.arange(len(table)) - starts < most
    return first
