"""Learning from a table of pairs: what is read, what is refused, what is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from muomni_search import alignment
from muomni_search.alignment import align
from muomni_search.collection import Collection
from muomni_search.encoders.model import load_model
from muomni_search.errors import Conflict, InvalidInput, MuomniError, NotFound, UnreadableFile
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import Modality
from muomni_search.reembed import reembed_collection

IMAGE = Modality.IMAGE
COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 210)}
PAIRS = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three colours and a table of what each is called, two rows of no use in it."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(PAIRS):
        name = list(COLOURS)[number % 3]
        pixels = np.array(COLOURS[name]) + rng.integers(-20, 20, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"text": name, "image": f"{number}.png"})
    write(folder / "pairs.jsonl", rows)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    bad = [
        {"text": "red", "image": "gone.png"},
        {"text": "red", "image": "broken.png"},
        {"text": "red"},
        {"text": " ", "image": "0.png"},
        {"text": 5.5, "image": "0.png"},
        {"key_a": "a", "key_b": "b"},
        {},
    ]
    write(folder / "some bad.jsonl", [*rows, *bad])
    (folder / "pairs.csv").write_text(
        "text,image\n" + "".join(f"{row['text']},{row['image']}\n" for row in rows)
    )
    return folder


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Two folds, for the sake of time.
def learn(pairs: Path, output: Path, **options: Any) -> alignment.Alignment:
    return align(pairs, output, **{"model": "hashing", "folds": 2, **options})


@pytest.fixture(scope="module")
def learned(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> alignment.Alignment:
    return learn(folder / "some bad.jsonl", tmp_path_factory.mktemp("models") / "colours")


def test_pairs_become_a_model_that_knows_them(learned: alignment.Alignment, folder: Path) -> None:
    assert learned.model is not None
    model, parent = load_model(learned.model), load_model("hashing")
    assert (model.name, model.kind) == ("colours", "aligned")
    new = np.full((8, 8, 3), COLOURS["green"], np.uint8)
    for one, finds in ((model, "green"), (parent, None)):
        words, pictures = one.encoder("text"), one.encoder("image")
        row = pictures.encode(pictures.prepare(new))[0]
        found = {name: float(words.encode(words.prepare(name))[0] @ row) for name in COLOURS}
        if finds:
            assert max(found, key=lambda name: found[name]) == finds
    assert all(one["after"]["mrr"] > one["before"]["mrr"] for one in learned.learned.retrieval)


def test_rows_that_cannot_be_used_are_named_with_their_number(
    learned: alignment.Alignment,
) -> None:
    assert learned.pairs == PAIRS
    told = [problem.error for problem in learned.problems]
    for number, reason in (
        (PAIRS + 1, "gone.png"),
        (PAIRS + 2, "broken.png"),
        (PAIRS + 3, "text is no pair"),
        (PAIRS + 4, "no text"),
        (PAIRS + 5, "no text"),
        (PAIRS + 6, "of no collection"),
        (PAIRS + 7, "nothing is no pair"),
    ):
        assert any(f"some bad.jsonl:{number}" in line and reason in line for line in told), reason
    assert len(told) == 7
    assert all(problem.hint for problem in learned.problems)


def test_the_model_keeps_its_report_and_a_prior_for_all_pairs_of_modalities(
    learned: alignment.Alignment,
) -> None:
    assert learned.model is not None
    model = load_model(learned.model)
    report = model.parts()["report"]
    assert report["pairs"] == PAIRS
    assert report["failed"] == 7
    assert report["anchor"] == "text"
    assert report["retrieval"] == learned.learned.retrieval
    assert set(report["drift"]) == {"image"}
    assert {(a, b) for a in model.prior for b in model.prior[a]} == {
        (a, b) for a in Modality for b in Modality
    }
    assert any("fewer than the 256 dimensions" in note for note in report["notes"])
    json.dumps(learned.as_dict(), allow_nan=False)


def test_a_csv_and_the_same_seed_give_the_same_model(
    learned: alignment.Alignment, folder: Path, tmp_path: Path
) -> None:
    again = learn(folder / "pairs.csv", tmp_path / "again")
    assert again.model is not None
    assert learned.model is not None
    assert load_model(again.model).fingerprint() == load_model(learned.model).fingerprint()


def test_pairs_of_keys_need_no_encoding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in COLOURS:
        (texts / f"{name}.txt").write_text(name)
    rows: list[dict[str, Any]] = [
        {"key_a": f"{list(COLOURS)[number % 3]}.txt", "key_b": f"{number}.png"}
        for number in range(PAIRS)
    ]
    bad = [{"key_a": "0.png", "key_b": "1.png"}, {"key_a": "0.png", "key_b": "nobody"}]
    table = write(tmp_path / "keys.jsonl", [*rows, *bad])
    with Collection.create(tmp_path / "collection", model="hashing") as collection:
        collection.add(read_corpus([texts, folder], exclude=["*.jsonl", "broken.png"]))
        monkeypatch.setattr(alignment, "encode_contents", None)
        done = learn(table, tmp_path / "model", collection=collection, model="ignored")
        assert done.pairs == PAIRS
        assert ["image and image is no pair" in done.problems[0].error] == [True]
        assert "nobody" in done.problems[1].error
        assert done.drift_of == str(tmp_path / "collection")
        assert done.model is not None
        assert reembed_collection(collection, done.model).how == "mapped"
        assert collection.query("green", 1, modality="image")[0].key in {
            f"{number}.png" for number in range(1, PAIRS, 3)
        }


def test_a_table_leads_to_no_file_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "pairs"
    shutil.copytree(folder, place)
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
    table = write(place / "out.jsonl", [*rows, {"text": "red", "image": "../outside.png"}])
    (problem,) = learn(table, tmp_path / "model").problems
    assert "'../outside.png' leaves the folder of the table" in problem.error


def test_pairs_to_keep_are_measured_and_not_learned(folder: Path, tmp_path: Path) -> None:
    rows = [{"text": f"a thing {number}", "image": f"{number}.png"} for number in range(6)]
    kept = write(folder / "kept.jsonl", [*rows, {"text": "x", "image": "gone.png"}])
    done = learn(folder / "pairs.jsonl", tmp_path / "model", keep=kept)
    plain = learn(folder / "pairs.jsonl", tmp_path / "plain")
    assert done.drift_of == str(kept)
    assert [one["queries"] for one in done.kept] == [6, 6]
    assert len(done.problems) == 1
    assert done.learned.maps[IMAGE].tobytes() == plain.learned.maps[IMAGE].tobytes()


def test_nothing_is_written_when_nothing_is_gained_unless_told_to(
    folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    words = rng.permutation([f"word{number}" for number in range(PAIRS)])
    table = write(
        folder / "noise.jsonl",
        [{"text": words[number], "image": f"{number}.png"} for number in range(PAIRS)],
    )
    done = learn(table, tmp_path / "model")
    assert done.model is None
    assert done.as_dict()["model"] is None
    assert list(tmp_path.iterdir()) == []
    assert learn(table, tmp_path / "model", pull=10.0).model == tmp_path / "model"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "no pair can be used"),
        ([{"text": "a", "image": f"{n}.png"} for n in range(5)], "8 pairs"),
        ([{"text": "only words"}] * 20, "no pair can be used"),
    ],
    ids=["empty", "few", "one modality"],
)
def test_too_few_pairs_are_refused_and_nothing_is_written(
    rows: list[Any], named: str, folder: Path, tmp_path: Path
) -> None:
    table = write(folder / "few.jsonl", rows)
    with pytest.raises(InvalidInput, match=named):
        learn(table, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"folds": 1}, InvalidInput),
        ({"pull": 0.0}, InvalidInput),
        ({"anchor": "audio"}, InvalidInput),
        ({"model": "nowhere"}, NotFound),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], error: type[MuomniError], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        learn(folder / "pairs.jsonl", tmp_path / "model", **options)
    assert str(caught.value)


def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_bytes(b"no table")
    with pytest.raises(UnreadableFile, match=r"pairs\.parquet"):
        learn(tmp_path / "pairs.parquet", tmp_path / "model")


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").write_text("mine")


@pytest.mark.parametrize("make", [make_file, make_folder])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_aligned_model_is_never_replaced(
    make: Callable[[Path], None], force: bool, folder: Path, tmp_path: Path
) -> None:
    make(tmp_path / "model")
    with pytest.raises(Conflict, match="model"):
        learn(folder / "pairs.jsonl", tmp_path / "model", force=force)
    assert "mine" in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_model_is_replaced_only_when_told_to(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    learn(folder / "pairs.jsonl", place, pull=10.0)
    before = load_model(place).fingerprint()
    with pytest.raises(Conflict, match="not empty"):
        learn(folder / "pairs.jsonl", place, pull=3.0)
    assert load_model(place).fingerprint() == before
    learn(folder / "pairs.jsonl", place, pull=3.0, force=True)
    assert load_model(place).fingerprint() != before
    # It would be its own parent.
    with pytest.raises(Conflict, match="learned on"):
        learn(folder / "pairs.jsonl", place, model=place, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_that_cannot_be_written_leaves_the_old_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "model"
    learn(folder / "pairs.jsonl", place, pull=10.0)
    before = load_model(place).fingerprint()
    replace = alignment.durable.replace

    def full(source: Path, target: Path) -> None:
        if target == place:
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(alignment.durable, "replace", full)
    with pytest.raises(MuomniError, match="No space left"):
        learn(folder / "pairs.jsonl", place, pull=3.0, force=True)
    assert load_model(place).fingerprint() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
