"""Random work on a collection, and a ledger of what must be there after each piece of it.

The parent plans an order and says what it leaves behind, by itself: contents, metadata and the
vectors as the encoder gives them. A child carries it out. An order that was carried out in part
may be given again.
"""

from __future__ import annotations

import io
import posix
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from old_collections import make_old
from PIL import Image

from muomni_search import reembed, transfer
from muomni_search.collection import Collection
from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Model
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Modality, Record, Span
from muomni_search.store.rows import ROW_BYTES
from muomni_search.vectors import normalise

__all__ = ["ALONE", "ORDERS", "Entry", "Ledger", "Order", "carry_out", "make_model", "plan"]

Order = dict[str, Any]
WORDS = ["owl", "dune", "ferry", "granite", "kettle", "lantern", "meadow", "north", "otter"]
# About how many items there are, so that checks stay quick.
MANY_ITEMS = 45


# ---- the ledger ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Entry:
    """An item as it must be."""

    modality: str
    text: str | None
    source: str | None
    metadata: Mapping[str, Any]
    spans: Sequence[Span | None]
    vectors: NDArray[np.float32]

    def __str__(self) -> str:
        numbers = np.array2string(self.vectors[:, :3], precision=4, separator=",")
        return f"{self.modality} {self.text!r} {self.metadata} {self.spans} {numbers}"

    def is_like(self, other: Entry) -> bool:
        """Whether they are the same; vectors that went through a map differ by rounding."""
        return (
            (self.modality, self.text, self.source, self.metadata, self.spans)
            == (other.modality, other.text, other.source, other.metadata, other.spans)
            and self.vectors.shape == other.vectors.shape
            and np.allclose(self.vectors, other.vectors, rtol=0, atol=2e-6)
        )


@dataclass(frozen=True, eq=False)
class Ledger:
    """What must be there.

    Args:
        items: The items of the collection, by key.
        files: What the files of the corpus hold: a text, or the number of a picture or a sound.
        model: The model of the collection.
        lost: Keys of items that a repair could not save.
    """

    items: Mapping[str, Entry] = field(default_factory=dict)
    files: Mapping[str, str | int] = field(default_factory=dict)
    model: str = "hashing"
    lost: frozenset[str] = frozenset()


def make_model(place: Path) -> Model:
    """Return the model that a collection moves to and back from; made before."""
    return load_model(place / "model")


def model_of(ledger: Ledger) -> Model:
    return load_model(ledger.model if ledger.model == "hashing" else Path(ledger.model))


def vector(number: int) -> NDArray[np.float32]:
    return normalise(np.random.default_rng(number).standard_normal((1, DIM)))[0]


def row_entry(row: Mapping[str, Any]) -> Entry:
    return Entry(
        row["modality"], row["text"], None, row["metadata"], [None], vector(row["vector"])[None]
    )


def file_entry(place: Path, name: str, content: str | int, model: Model) -> Entry:
    """Return the item of a file, with the vectors that the encoder gives its content."""
    modality = MODALITIES[Path(name).suffix]
    given: Any = content
    if modality == Modality.IMAGE:
        given = picture(int(content))
    elif modality == Modality.AUDIO:
        given, _ = soundfile.read(made(place, name, int(content)), dtype="float32")
    encoder = model.encoder(modality)
    pieces = encoder.prepare(given)
    return Entry(
        str(modality),
        content if isinstance(content, str) else None,
        str(place / "files" / name),
        {},
        [piece.span for piece in pieces],
        encoder.encode(pieces),
    )


# ---- files ---------------------------------------------------------------------------------------

MODALITIES = {".txt": Modality.TEXT, ".png": Modality.IMAGE, ".wav": Modality.AUDIO}


def picture(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)


def sound(number: int) -> NDArray[np.float64]:
    return np.sin(np.arange(3 * 16_000) / (20 + number % 97)) / 2


def made(place: Path, name: str, number: int) -> Path:
    """Return a picture or a sound, made when it is first asked for, by child or parent."""
    path = place / "made" / f"{number}{Path(name).suffix}"
    if not path.exists():
        data = io.BytesIO()
        if path.suffix == ".png":
            Image.fromarray(picture(number)).save(data, "PNG")
        else:
            soundfile.write(data, sound(number), 16_000, subtype="PCM_16", format="WAV")
        with suppress(FileExistsError):
            posix.mkdir(path.parent)
        # Who is killed meanwhile leaves no half of one.
        partial = path.with_suffix(".partial")
        write_quietly(partial, data.getvalue())
        posix.rename(partial, path)
    return path


def write_quietly(path: Path, data: bytes) -> None:
    """Write a file of the corpus: not by the calls of ``os``, before which a child dies."""
    descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC)
    posix.write(descriptor, data)
    posix.close(descriptor)


# ---- orders --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of order.

    Args:
        plan: Returns what to do, given what is there; makes what it needs in the place.
        run: Does it.
        outcome: Returns what must be there afterwards.
        is_whole: Whether it counts wholly or not at all, in one commit.
    """

    plan: Callable[[Random, Ledger, Path], Order]
    run: Callable[[Collection, Path, Order], object]
    outcome: Callable[[Ledger, Order, Path], Ledger]
    is_whole: bool = True


def same(ledger: Ledger, order: Order, place: Path) -> Ledger:
    return ledger


def nothing(random: Random, ledger: Ledger, place: Path) -> Order:
    return {}


def plan_rows(random: Random, ledger: Ledger, place: Path) -> Order:
    """Plan some new items, some with other vectors and some with other metadata only."""
    there = sorted(key for key in ledger.items if key.startswith("r"))
    count = random.randrange(1, 12 if len(ledger.items) < MANY_ITEMS else 4)
    keys = {f"r{random.randrange(10**6)}" for _ in range(count)}
    keys |= set(random.sample(there, min(len(there), random.randrange(4))))
    rows = []
    for key in sorted(keys):
        number = random.randrange(10**9)
        old = ledger.items.get(key)
        # Once they were mapped, the stored vectors are not those that they came as.
        if old is not None and ledger.model == "hashing" and random.random() < 0.5:
            row = {"modality": old.modality, "text": old.text, "vector": old.metadata["n"]}
        else:
            row = {
                "modality": random.choice([str(one) for one in Modality]),
                "text": random.choice([None, f"about {random.choice(WORDS)} {number}"]),
                "vector": number,
            }
        metadata = {"n": row["vector"], "word": random.choice(WORDS)}
        rows.append({"key": key, "metadata": metadata, **row})
    return {"rows": rows}


def run_rows(collection: Collection, place: Path, order: Order) -> None:
    collection.add(
        [
            Record(
                row["key"],
                Modality(row["modality"]),
                "test",
                text=row["text"],
                vector=vector(row["vector"]),
                metadata=row["metadata"],
            )
            for row in order["rows"]
        ]
    )


def rows_outcome(ledger: Ledger, order: Order, place: Path) -> Ledger:
    return replace(
        ledger,
        items={**ledger.items, **{row["key"]: row_entry(row) for row in order["rows"]}},
        lost=ledger.lost - {row["key"] for row in order["rows"]},
    )


def plan_files(random: Random, ledger: Ledger, place: Path) -> Order:
    """Plan new, changed, moved and removed files."""
    there = sorted(ledger.files)
    chosen = random.sample(there, min(len(there), random.randrange(5)))
    cut = random.randrange(len(chosen) + 1)
    write: dict[str, str | int] = {}
    for name in [name for name in chosen[:cut] if name.endswith(".txt")]:
        write[name] = text(random)
    for _ in range(random.randrange(1, 5)):
        suffix = random.choice([".txt", ".txt", ".txt", ".png", ".png", ".wav"])
        name = f"f{random.randrange(10**6)}{suffix}"
        write[name] = text(random) if suffix == ".txt" else random.randrange(10**6)
    moved = {
        name: f"m{random.randrange(10**6)}{Path(name).suffix}" for name in chosen[cut : cut + 2]
    }
    many = len(ledger.files) > MANY_ITEMS // 2
    removed = chosen[cut + 2 :] + (random.sample(there, 8) if many else [])
    return {
        "write": write,
        "moved": moved,
        "removed": sorted(set(removed) - moved.keys() - write.keys()),
    }


def text(random: Random) -> str:
    """Return a text of one passage or of several, like no other."""
    sentences = [
        " ".join(random.choices(WORDS, k=9)) + f" {random.randrange(10**9)}."
        for _ in range(random.choice([1, 1, 6]))
    ]
    return " ".join(sentences)


def run_files(collection: Collection, place: Path, order: Order) -> None:
    folder = place / "files"
    for name, content in order["write"].items():
        data = (
            content.encode()
            if isinstance(content, str)
            else made(place, name, content).read_bytes()
        )
        write_quietly(folder / name, data)
    for old, new in order["moved"].items():
        if (folder / old).exists():
            posix.rename(folder / old, folder / new)
    for name in order["removed"]:
        if (folder / name).exists():
            posix.unlink(folder / name)
    collection.add(read_corpus([folder]), prune_roots=[folder], force=True)


def files_outcome(ledger: Ledger, order: Order, place: Path) -> Ledger:
    files = {**ledger.files, **order["write"]}
    for old, new in order["moved"].items():
        files[new] = files.pop(old)
    for name in order["removed"]:
        del files[name]
    model = model_of(ledger)
    items = {key: entry for key, entry in ledger.items.items() if entry.source is None}
    for name, content in files.items():
        old = next((a for a, b in order["moved"].items() if b == name), name)
        kept = ledger.items.get(old)
        if kept is not None and ledger.files.get(old) == content and kept.source is not None:
            items[name] = replace(kept, source=str(place / "files" / name))
        else:
            items[name] = file_entry(place, name, content, model)
    return replace(ledger, items=items, files=files, lost=ledger.lost.difference(files))


def plan_delete(random: Random, ledger: Ledger, place: Path) -> Order:
    keys = sorted(ledger.items)
    return {"keys": random.sample(keys, min(len(keys), random.randrange(1, 9)))}


def run_delete(collection: Collection, place: Path, order: Order) -> None:
    with collection.store.snapshot() as snapshot:
        there = sorted(snapshot.item_ids(order["keys"]))
    collection.delete(there)


def delete_outcome(ledger: Ledger, order: Order, place: Path) -> Ledger:
    gone = set(order["keys"])
    return replace(ledger, items={k: one for k, one in ledger.items.items() if k not in gone})


def plan_rebuild(random: Random, ledger: Ledger, place: Path) -> Order:
    return {"kind": random.choice(["ann", "ann", "exact", "auto"])}


def plan_tune(random: Random, ledger: Ledger, place: Path) -> Order:
    return {"recall": random.choice([0.5, 0.95, 1.0]), "memory": random.choice([0, 10, 10**9])}


def run_tune(collection: Collection, place: Path, order: Order) -> None:
    """Promise something else, with less memory for a while; keep or forget the index of a field."""
    collection.tune(recall=order["recall"], memory=order["memory"])
    # Else a later order to build an index is refused, and rightly.
    collection.tune(memory=0)
    collection.index_fields(["n"])
    if order["memory"] == 0:
        collection.drop_field_indexes(["n"])


def plan_import(random: Random, ledger: Ledger, place: Path) -> Order:
    """Write an export of new items and of some that are there."""
    order = plan_rows(random, ledger, place)
    name = f"import-{random.randrange(10**9)}.parquet"
    other = place / "other"
    with Collection.create(other, model="hashing") as collection:
        run_rows(collection, place, order)
        transfer.export_collection(collection, place / name)
    shutil.rmtree(other)
    return {**order, "file": name}


def plan_output(random: Random, ledger: Ledger, place: Path) -> Order:
    return {"to": f"out-{random.randrange(10**9)}"}


def run_backup(collection: Collection, place: Path, order: Order) -> None:
    if not (place / order["to"]).exists():  # it died after the copy was whole
        collection.backup(place / order["to"])


def reembed_outcome(ledger: Ledger, order: Order, place: Path) -> Ledger:
    if ledger.model == "hashing":
        mapping = make_model(place).map_from(load_model("hashing").fingerprint())
        assert mapping is not None
        items = {
            key: replace(one, vectors=mapping(Modality(one.modality), one.vectors))
            for key, one in ledger.items.items()
        }
        return replace(ledger, items=items, model=str(place / "model"))
    model = load_model("hashing")
    kept = {
        key: file_entry(place, key, ledger.files[key], model)
        for key, one in ledger.items.items()
        if one.source is not None
    }
    lost = ledger.lost.union(ledger.items.keys() - kept.keys())
    return replace(ledger, items=kept, model="hashing", lost=lost)


def run_reembed(collection: Collection, place: Path, order: Order) -> None:
    reembed.reembed_collection(
        collection,
        "hashing" if order["model"] == "hashing" else place / "model",
        drop_missing=True,
    )


def plan_reembed(random: Random, ledger: Ledger, place: Path) -> Order:
    return {"model": "mapped" if ledger.model == "hashing" else "hashing"}


def plan_repair(random: Random, ledger: Ledger, place: Path) -> Order:
    """Damage the rows of a modality, an index, or both, and leave a stranger."""
    folder = place / "collection"
    damaged = [path for path in sorted((folder / "vectors").iterdir()) if path.stat().st_size]
    hurt = random.sample(damaged, min(len(damaged), random.choice([0, 1, 1])))
    for path in hurt:
        size = path.stat().st_size
        with path.open("r+b") as file:
            if random.random() < 0.5:
                file.truncate(random.randrange(size))
            else:
                file.seek(random.randrange(0, size, ROW_BYTES))
                file.write(b"damage")
    for path in (folder / "index").iterdir():
        if random.random() < 0.5:
            path.write_bytes(b"no index")
    (folder / "vectors/stranger").write_bytes(b"")
    return {"hurt": [path.name.split(".")[0] for path in hurt]}


def plan_upgrade(random: Random, ledger: Ledger, place: Path) -> Order:
    """Put everything into a database of an earlier revision."""
    make_old(place / "collection")
    return {}


def repair_outcome(ledger: Ledger, order: Order, place: Path) -> Ledger:
    lost = {
        key
        for key, one in ledger.items.items()
        if one.modality in order["hurt"] and one.source is None
    }
    # What can be encoded again is; the rest is listed as failures.
    return replace(
        ledger,
        items={key: one for key, one in ledger.items.items() if key not in lost},
        lost=ledger.lost | lost,
    )


ORDERS: dict[str, Kind] = {
    "add rows": Kind(plan_rows, run_rows, rows_outcome, is_whole=False),
    "add files and prune": Kind(plan_files, run_files, files_outcome, is_whole=False),
    "delete": Kind(plan_delete, run_delete, delete_outcome),
    "compact": Kind(nothing, lambda collection, _, __: collection.compact(), same),
    "purge": Kind(
        plan_delete,
        lambda collection, _, order: collection.purge(order["keys"]),
        delete_outcome,
    ),
    "tune": Kind(plan_tune, run_tune, same, is_whole=False),
    "rebuild": Kind(
        plan_rebuild, lambda collection, _, order: collection.rebuild(kind=order["kind"]), same
    ),
    "import": Kind(
        plan_import,
        lambda collection, place, order: transfer.import_collection(
            collection, place / order["file"]
        ),
        rows_outcome,
        is_whole=False,
    ),
    "backup": Kind(plan_output, run_backup, same),
    "export": Kind(
        plan_output,
        lambda collection, place, order: transfer.export_collection(
            collection, place / f"{order['to']}.parquet"
        ),
        same,
    ),
    "reembed": Kind(plan_reembed, run_reembed, reembed_outcome),
    "verify --repair": Kind(
        plan_repair, lambda collection, _, __: collection.repair(), repair_outcome
    ),
}
# Opening is what brings an older collection up to date.
ORDERS["upgrade"] = Kind(plan_upgrade, lambda *_: None, same)
# Orders whose plan changes the collection itself: nothing else may come before them.
ALONE = {"upgrade", "verify --repair"}


def plan(random: Random, ledger: Ledger, place: Path, name: str) -> tuple[Order, Ledger]:
    """Return an order, and what must be there when it was carried out."""
    order = {"do": name, **ORDERS[name].plan(random, ledger, place)}
    return order, ORDERS[name].outcome(ledger, order, place)


def carry_out(place: Path, order: Order) -> None:
    with Collection.open(place / "collection") as collection:
        ORDERS[order["do"]].run(collection, place, order)
