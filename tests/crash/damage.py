"""Flipped bits, cut files and lost sectors: what is seen, what is mended, what can be saved.

Each damage is done to a fresh copy, in one of the files of a collection. Children with a limit of
memory and time look at it, mend it, and save what is whole; none may die of it. What is damaged is
seen, or nothing that anybody can read has changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from workload import vector

from muomni_search.collection import Collection
from muomni_search.items import Modality, Problem, Record
from muomni_search.store.store import Job
from muomni_search.transfer import export_collection

__all__ = ["Damage", "examine", "mend", "save"]

LIMITS = {"memory_bytes": 2**30, "seconds": 60.0}
SECTOR = 512
Told = dict[str, Any]


# ---- in children ---------------------------------------------------------------------------------


def state(collection: Collection) -> Told:
    """Return all that can be read of a collection: a hash of each item, and what else there is."""
    items = {}
    with collection.store.snapshot() as snapshot:
        known = snapshot.known(list(snapshot.iter_keys()))
        rows = snapshot.item_rows(list(known))
        for item in snapshot.iter_items():
            modality, own = rows[item.key]
            spans = [match.span for match in snapshot.matches(modality, own)]
            vectors = np.array(snapshot.vectors(modality)[own])
            content_hash = known[item.key].content_hash
            items[item.key] = digest(
                [item.modality, item.source, item.text, item.metadata, item.added, content_hash],
                [str(span) for span in spans],
                vectors.tobytes().hex(),
            )
        job = snapshot.job("a job")
        rest = [str(one) for one in snapshot.failures()], str(job), snapshot.model
    return {"items": items, "rest": digest(rest)}


def digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def examine(place: Path) -> Told:
    with Collection.open(place) as collection:
        faults = [[fault.kind, fault.where] for fault in collection.verify()]
        return {"faults": faults, "state": None if faults else state(collection)}


def mend(place: Path) -> Told:
    with Collection.open(place) as collection:
        collection.repair()
        faults = [[fault.kind, fault.where] for fault in collection.verify()]
        failed = [failure.key for failure in collection.failures()]
        return {"faults": faults, "failed": failed, "state": state(collection)}


def save(place: Path) -> Told:
    left_out: list[str] = []
    with Collection.open(place) as collection:
        export_collection(collection, place.with_name("saved.parquet"), left_out=left_out)
    return {"left_out": left_out}


# ---- in the parent -------------------------------------------------------------------------------


class Damage:
    """Damages a collection over and over.

    Args:
        folder: Where; the collection of which copies are damaged is made in it.
        children: They look at it.
        seed: Of all that is random.
    """

    def __init__(self, folder: Path, children: Any, seed: int) -> None:
        place = folder / "place"
        children.run("prepare", place)
        self._folder = folder
        self._children = children
        self._random = Random(seed)
        self.counts: Counter[tuple[str, str]] = Counter()
        self._logged = self._folder / "logged"
        with Collection.open(place / "collection") as collection:
            collection.add(records(0, 120))
            collection.rebuild(kind="ann")
            with collection.store.write() as writer:
                writer.fail([Problem("/lost.txt", "it cannot be read", "mend it", "lost.txt")])
                writer.set_job(Job("a job", "f", 3, "running"))
        # What is there after each of the commits that are in the log alone.
        self._states = []
        with Collection.open(place / "collection") as collection:
            for number in range(4):
                if number:
                    collection.add(records(200 * number, 8))
                    self._states.append(state(collection))
                    collection.delete([f"late{200 * number}"])
                self._states.append(state(collection))
            shutil.copytree(place / "collection", self._logged)
        self._closed = place / "collection"
        self._rows = exported(self._closed, self._folder / "whole.parquet")

    def summarise(self) -> None:
        """Print what was seen and mended, by kind of file."""
        kinds = sorted({kind for kind, _ in self.counts})
        for kind in kinds:
            ends = {end: number for (one, end), number in self.counts.items() if one == kind}
            print(f"{kind:18}", ", ".join(f"{end} {number:,}" for end, number in ends.items()))

    def _run(self, work: str, place: Path) -> tuple[Told, str]:
        """Let a child do something; return what it told, or why it could not."""
        ended = self._children.run(work, place, **LIMITS)
        assert ended.code in (0, 1), f"{self._said}: exit code {ended.code}: {ended.error}"
        assert "\n" not in ended.error, ended.error
        return ended.examined, ended.error

    def strike(self) -> None:
        """Damage a copy; check that it is seen, and what can be had back."""
        source = self._random.choice([self._closed, self._logged])
        place = self._folder / "copy"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
        files = sorted(path for path in place.rglob("*") if path.is_file() and path.stat().st_size)
        database = [path for path in files if path.suffix in (".db", ".db-wal")]
        path = self._random.choice(files + 3 * database)
        kind = {".f32": "row files", ".faiss": "index files"}.get(path.suffix, path.name)
        self._said = f"{path.name}: {hurt(path, self._random)}"
        told, error = self._run("examine", place)
        whole = self._states[-1]
        if not error and not told["faults"]:
            seen = told["state"]
            if seen == whole:
                self.counts[kind, "harmless"] += 1
                # Bytes that count are there all the same, once each.
                assert kind not in ("row files", "index files"), self._said
                return
            # SQLite takes a log to end where it is damaged: what is there is an older state.
            is_older = kind == "collection.db-wal" and seen in self._states
            assert is_older, f"{self._said}: it is not seen"
            self.counts[kind, "older state, unseen"] += 1
            return
        self.counts[kind, "seen at opening" if error else "seen by verify"] += 1
        if kind in ("row files", "index files"):
            assert any(path.name in where for _, where in told["faults"]), (self._said, told)
        saved = self._check_saved(place, kind)
        self._check_mended(place, kind, saved)

    def _check_saved(self, place: Path, kind: str) -> set[str]:
        """Check what is whole of what is saved; return its keys."""
        rows, told = self._save(place)
        if told is None:
            self.counts[kind, "nothing saved"] += 1
            return set()
        older = kind == "collection.db-wal"
        for key, row in rows.items():
            assert older or row == self._rows.get(key), f"{self._said}: {key} is not what it was"
        missing = self._rows.keys() - rows.keys()
        assert not missing or told["left_out"] or older, f"{self._said}: {sorted(missing)}"
        self.counts[kind, "all saved" if not missing else "some saved"] += 1
        return set(rows)

    def _save(self, place: Path) -> tuple[dict[str, Any], Any]:
        """Return the rows of each item that is saved, and what was told; None for an error."""
        saved = place.with_name("saved.parquet")
        saved.unlink(missing_ok=True)
        told, error = self._run("save", place)
        return ({}, None) if error else (read_export(saved), told)

    def _check_mended(self, place: Path, kind: str, saved: set[str]) -> None:
        told, error = self._run("mend", place)
        if error or told["faults"]:
            assert kind not in ("row files", "index files"), (self._said, error, told)
            lost = saved - self._save(place)[0].keys()
            assert not lost, f"{self._said}: {sorted(lost)} could be saved before the repair"
            self.counts[kind, "not mended"] += 1
            return
        items, whole = told["state"]["items"], self._states[-1]["items"]
        for key, item in items.items():
            assert kind == "collection.db-wal" or item == whole.get(key), f"{self._said}: {key}"
        missing = whole.keys() - items.keys()
        if kind != "collection.db-wal":
            assert len(missing) <= len(told["failed"]), f"{self._said}: {missing}"
        self.counts[kind, "mended" if not missing else "mended, items lost"] += 1


def records(first: int, count: int) -> list[Record]:
    """Return items of texts, pictures and sounds with ready vectors."""
    return [
        Record(
            f"late{number}",
            list(Modality)[number % 3],
            "test",
            text=f"The story of number {number}. " * (1 + number % 9),
            vector=vector(number),
            metadata={"n": number, "words": ["owl", "dune"][number % 2]},
        )
        for number in range(first, first + count)
    ]


def exported(place: Path, path: Path) -> dict[str, Any]:
    with Collection.open(place) as collection:
        export_collection(collection, path)
    return read_export(path)


def read_export(path: Path) -> dict[str, list[Any]]:
    """Return the rows of each item."""
    found: dict[str, list[Any]] = {}
    for row in pq.read_table(path).to_pylist():
        found.setdefault(row["key"], []).append(row)
    return found


def hurt(path: Path, random: Random) -> str:
    """Flip a bit, cut a file or lose a sector; return what was done."""
    size = path.stat().st_size
    if random.random() < 0.1:
        length = random.randrange(size)
        with path.open("r+b") as file:
            file.truncate(length)
        return f"cut to {length} of {size} bytes"
    at = random.randrange(size)
    with path.open("r+b") as file:
        if random.random() < 0.1:
            start = at // SECTOR * SECTOR
            file.seek(start)
            old = file.read(SECTOR)
            file.seek(start)
            file.write(bytes(len(old)) if any(old) else b"\xff" * len(old))
            return f"the sector at {start} is lost"
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << random.randrange(8)]))
        return f"a bit of byte {at} is flipped"
