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
from muomni_search.encoders.foreign import registered
from muomni_search.encoders.foreign.registered import register_encoder
from muomni_search.encoders.model import load_model
from muomni_search.errors import (
    CheckpointError,
    Conflict,
    InvalidInput,
    MuomniError,
    NotFound,
    UnreadableFile,
)
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Modality, Query
from muomni_search.projection import Pairs
from muomni_search.reembed import reembed_collection
from muomni_search.vectors import normalise

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


def test_the_prior_does_not_count_partners_as_unrelated() -> None:
    """Pairs of a cosine of .6 among others of about 0: what auto hides must not be they."""
    rng = np.random.default_rng(0)
    texts = normalise(rng.standard_normal((100, DIM)))
    noise = normalise(rng.standard_normal((100, DIM)))
    numbers = np.arange(100)
    pairs = Pairs(
        {Modality.TEXT: texts, IMAGE: normalise(0.75 * texts + noise)},
        {Modality.TEXT: numbers, IMAGE: numbers + 100},
    )
    vectors, labels = alignment._contents(pairs), alignment._labels(pairs)
    prior = alignment._prior(load_model("hashing"), vectors, labels, {}, 0)["text"]["image"]
    partners = np.sum(pairs.vectors[Modality.TEXT] * pairs.vectors[IMAGE], axis=1)
    assert prior["median"] + prior["alarm"] * prior["scale"] < partners.min()


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


# ---- foreign encoders ----------------------------------------------------------------------------


def mean_colours(pictures: Sequence[Any]) -> Any:
    """A foreign encoder of pictures: their mean colour, and one more number."""
    return [[*(one.reshape(-1, 3).mean(axis=0) / 255 - 0.4), 0.1] for one in pictures]


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(registered, "_functions", {})
    register_encoder("mean-colours", mean_colours)
    return "mean-colours"


def test_a_function_takes_the_place_of_an_encoder(
    colours: str, folder: Path, tmp_path: Path
) -> None:
    done = learn(folder / "pairs.jsonl", tmp_path / "model", encoders={"image": colours})
    model = load_model(tmp_path / "model")
    assert model.parts()["encoders"]["image"]["name"] == colours
    assert set(done.learned.maps) == {IMAGE}
    new = np.full((8, 8, 3), COLOURS["green"], np.uint8)
    words, pictures = model.encoder(Modality.TEXT), model.encoder(IMAGE)
    row = pictures.encode(pictures.prepare(new))[0]
    found = {name: float(words.encode(words.prepare(name))[0] @ row) for name in COLOURS}
    assert max(found, key=lambda name: found[name]) == "green"
    assert min(one["after"]["mrr"] for one in done.learned.retrieval) > 0.9
    assert done.as_dict()["encoders"]["image"]["dim"] == 4
    assert set(done.as_dict()["agreement"]) == {"image"}
    # Its vectors do not come from the parent's by a map.
    assert model.map_from(load_model("hashing").fingerprint()) is None


def test_a_model_with_a_function_knows_whether_it_is_the_same(
    colours: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(folder / "pairs.jsonl", tmp_path / "model", encoders={"image": colours})
    register_encoder(colours, lambda pictures: [one[::-1] for one in mean_colours(pictures)])
    with pytest.raises(CheckpointError, match="another one now"):
        load_model(tmp_path / "model").encoder(IMAGE)
    monkeypatch.setattr(registered, "_functions", {})
    model = load_model(tmp_path / "model")
    with pytest.raises(CheckpointError, match="is not registered here"):
        model.encoder(IMAGE)
    assert model.encoder(Modality.TEXT).modality == Modality.TEXT


def test_a_collection_moves_to_a_foreign_encoder_by_encoding_anew(
    colours: str, folder: Path, tmp_path: Path
) -> None:
    learn(folder / "pairs.jsonl", tmp_path / "model", encoders={"image": colours})
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(read_corpus([folder / f"{number}.png" for number in range(PAIRS)]))
        assert reembed_collection(collection, tmp_path / "model").how == "encoded"
        (hit,) = collection.query(Query.text("green"), modality="image", k=1)
    assert int(hit.key.split("/")[-1].removesuffix(".png")) % 3 == 1


def test_keys_of_a_collection_are_read_anew_for_a_foreign_encoder(
    colours: str, folder: Path, tmp_path: Path
) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(read_corpus([folder]))
        pictures = [item.key for item in collection.items() if item.modality == "image"]
        texts = [
            {"key": f"t{key}", "text": list(COLOURS)[number % 3]}
            for number, key in enumerate(pictures)
        ]
        table = write(tmp_path / "texts.jsonl", texts)
        collection.add(read_corpus([table]))
        rows = [{"key_a": f"t{key}", "key_b": key} for key in pictures]
        done = align(
            write(tmp_path / "keys.jsonl", rows),
            tmp_path / "model",
            collection=collection,
            encoders={"image": colours},
            folds=2,
        )
    assert done.pairs == len(pictures) == PAIRS
    assert done.problems == []
    assert load_model(tmp_path / "model").parts()["encoders"]["image"]["dim"] == 4


def test_a_sound_encoder_stands_in_where_the_model_has_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose sound tower was never fetched hears by another one, and lacks nothing then."""
    import soundfile

    monkeypatch.setenv("MUOMNI_CACHE", str(tmp_path / "cache"))
    rows = []
    for number in range(PAIRS):
        hertz = (200, 800, 3_000)[number % 3] * (1 + number / 100)
        samples = 0.5 * np.sin(2 * np.pi * hertz * np.arange(8_000) / 16_000)
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
        name = ("a low hum", "a whistle", "a bat")[number % 3]
        rows.append({"text": name, "audio": f"{number}.wav"})
    table = write(tmp_path / "sounds.jsonl", rows)
    done = align(table, tmp_path / "model", encoders={"audio": "hashing"}, folds=2)
    assert any("brought in by its pairs alone" in note for note in done.learned.notes)
    assert {one["before"] is None for one in done.learned.retrieval} == {True}
    model = load_model(tmp_path / "model")
    assert model.missing() == []
    assert model.encoder(Modality.AUDIO).dim == 256
    with pytest.raises(NotFound):
        load_model("base").encoder(Modality.AUDIO)


@pytest.mark.parametrize(
    ("encoders", "error"),
    [
        ({"smell": "mean-colours"}, InvalidInput),
        ({"image": "nothing"}, NotFound),
        ({"text": "mean-colours"}, CheckpointError),
    ],
)
def test_encoders_that_make_no_sense_are_refused(
    encoders: dict[str, str], error: type[MuomniError], colours: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        learn(folder / "pairs.jsonl", tmp_path / "model", encoders=encoders)
    assert next(iter(encoders.values())) in str(caught.value) or "smell" in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "red", "image": "gone.png"}] * 3, "3 rows could not be used, the first: .*gone"),
        ([{"txt": "red", "img": "0.png"}] * 3, "a row with txt, img is no pair"),
        ([{"key_a": "a", "key_b": "b"}] * 3, "keys, but of no collection"),
    ],
)
def test_when_no_row_can_be_used_the_first_says_why(
    rows: list[dict[str, str]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        learn(write(tmp_path / "pairs.jsonl", rows), tmp_path / "model")
    assert caught.value.hint


def test_what_finds_less_than_before_is_said(folder: Path, tmp_path: Path) -> None:
    """Pictures whose names are turned round, on a model that knows the right ones."""
    learn(folder / "pairs.jsonl", tmp_path / "right")
    rng = np.random.default_rng(0)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    wrong = [{**row, "text": str(rng.choice(list(COLOURS)))} for row in rows]
    table = write(
        folder / "wrong.jsonl",
        [{**one, "text": f"{one['text']} {n}"} for n, one in enumerate(wrong)],
    )
    done = learn(table, tmp_path / "new" / "model", pull=0.1)
    assert (tmp_path / "new" / "model" / "model.json").exists()
    told = [one for one in done.learned.notes if "finds less than before" in one]
    worse = [one for one in done.learned.retrieval if one["mrr_gain_interval"][1] < 0]
    assert len(told) == len(worse)
    assert any("mean cosine of old and new vectors" in note for note in done.learned.notes)
