"""Labels, shapes, and collections as other models see them."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from muomni_search import metrics
from muomni_search.collection import Collection
from muomni_search.errors import CheckpointError, InvalidInput, NotFound
from muomni_search.evaluation import shape
from muomni_search.evaluation.figures import Report
from muomni_search.evaluation.labels import evaluate_labels
from muomni_search.evaluation.shape import evaluate_shape
from muomni_search.evaluation.subjects import common_items, encoded_with, item_vectors
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Modality, Query, Record
from muomni_search.vectors import normalise

COUNTS = {Modality.TEXT: 30, Modality.IMAGE: 24}
NAMES = ("owl", "ferry", "harp")


def values(report: Report) -> dict[tuple[str, ...], float]:
    return {(*one.of.values(), one.metric): one.value for one in report.figures}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Vectors in three clusters; those of texts lie about the text vectors of their names."""
    rng = np.random.default_rng(8)
    with Collection.create(tmp_path_factory.mktemp("spaces") / "shelf", model="hashing") as made:
        centres = {name: made.resolve(Query.text(name)) for name in NAMES}
        records = []
        for modality, count in COUNTS.items():
            for number in range(count):
                name = NAMES[number % 3]
                centre = centres[name] if modality == Modality.TEXT else -centres[name]
                vector = normalise(centre + 0.05 * rng.standard_normal(DIM))
                facts = {"name": name, "rare": str(number // 2), "one": "same", "pair": number}
                facts["half"] = f"half {number % 2}"
                key = f"{modality}/{number:02d}"
                records.append(Record(key, modality, "test", vector=vector, metadata=facts))
        made.add(records)
        yield made


# ---- labels ----------------------------------------------------------------------------------


def test_clusters_are_told_apart_by_neighbours_lines_and_names(shelf: Collection) -> None:
    found = values(evaluate_labels(shelf, "name"))
    assert found["text", "knn"] == found["text", "logistic"] == found["text", "zero-shot"] == 1
    assert found["image", "knn"] == 1
    # Pictures lie opposite to the words: the names are of no use.
    assert found["image", "zero-shot"] == 0
    assert found["text", "majority"] == pytest.approx(1 / 3)


def test_the_prompt_surrounds_the_name(shelf: Collection) -> None:
    plain = values(evaluate_labels(shelf, "name"))["text", "zero-shot"]
    framed = values(evaluate_labels(shelf, "name", prompt="a {}, nothing else"))[
        "text", "zero-shot"
    ]
    # To this model a word with another ending is another word.
    bent = values(evaluate_labels(shelf, "name", prompt="{}s"))["text", "zero-shot"]
    assert bent < framed == plain
    with pytest.raises(InvalidInput, match=r"no \{\}"):
        evaluate_labels(shelf, "name", prompt="a photo")


def test_the_seed_decides_the_folds(shelf: Collection) -> None:
    first, again, other = (values(evaluate_labels(shelf, "half", seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_labels_that_are_too_rare_are_left_out_and_said_so(shelf: Collection) -> None:
    report = evaluate_labels(shelf, "rare")
    assert {one.metric for one in report.figures} == {"zero-shot"}
    assert "text: no knn and logistic, for 0 of 15 labels have 5 different items" in report.notes[0]
    report = evaluate_labels(shelf, "name", where="name != 'owl' or pair < 3")
    kept = {one.metric: one.n for one in report.figures if one.of["modality"] == "text"}
    assert kept == {"knn": 20, "logistic": 20, "majority": 20, "zero-shot": 21}
    assert (
        "text: 1 of 3 labels have fewer than 5 different items and are left out" in report.notes[0]
    )


def test_an_equal_vector_has_not_been_seen(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = normalise(rng.standard_normal((60, DIM)))
    with Collection.create(tmp_path / "copies", model="hashing") as made:
        made.add(
            Record(
                f"{number:02d}/{copy}", Modality.IMAGE, "test", vector=row,
                metadata={"name": f"n{number % 3}", "few": f"n{number // 20}" if copy else "n0"},
            )
            for number, row in enumerate(rows)
            for copy in range(4)
        )  # fmt: skip
        found = values(evaluate_labels(made, "name", neighbours=1))
        # Names that mean nothing are known of no vector, save where a copy of it was learned from.
        assert found["image", "knn"] < 0.6
        assert found["image", "logistic"] < 0.6
        # Copies of one vector may have several labels.
        assert ("image", "knn") in values(evaluate_labels(made, "few", neighbours=1))
        # Of the second label there are 12 items and 4 vectors.
        report = evaluate_labels(made, "few", neighbours=1, where="key < '24'")
        assert "1 of 2 labels have 5 different items" in report.notes[0]


def test_one_label_is_no_classification(shelf: Collection) -> None:
    with pytest.raises(InvalidInput, match="have the same: 'same'"):
        evaluate_labels(shelf, "one")
    with pytest.raises(NotFound, match=r"no item .* has the metadata 'nothing'"):
        evaluate_labels(shelf, "nothing")
    with pytest.raises(NotFound, match="is let through by the filter"):
        evaluate_labels(shelf, "stem", where="key = 'nobody'")


# ---- shape -----------------------------------------------------------------------------------


def test_the_shape_is_that_of_the_metrics(shelf: Collection) -> None:
    report = evaluate_shape(shelf, same="pair", k=4)
    found = values(report)
    with shelf.view() as view:
        texts, pictures = (
            item_vectors(view, [f"{modality}/{number:02d}" for number in range(count)])
            for modality, count in COUNTS.items()
        )
    assert found["text", "effective rank"] == pytest.approx(metrics.effective_rank(texts))
    assert found["image", "uniformity"] == pytest.approx(metrics.uniformity(pictures))
    both = np.concatenate([texts, pictures])
    assert found["all", "uniformity"] == pytest.approx(metrics.uniformity(both))
    assert found["text", "image", "hubness@4"] == pytest.approx(metrics.hubness(texts, pictures, 4))
    assert found["image", "image", "hubness@4"] == pytest.approx(
        metrics.hubness(pictures, pictures, 4)
    )
    assert found["text–image", "gap"] == pytest.approx(metrics.modality_gap(texts, pictures))
    assert found["text–image", "alignment"] == pytest.approx(
        np.mean(np.sum((texts[:24] - pictures) ** 2, axis=1))
    )
    assert found["text–image", "separability"] == 1
    assert {one.metric for one in report.figures if one.interval} == {"separability"}
    assert "alignment" not in {one.metric for one in evaluate_shape(shelf).figures}


def test_all_pairs_of_a_label_are_aligned(shelf: Collection) -> None:
    (found,) = (
        one for one in evaluate_shape(shelf, same="rare").figures if one.metric == "alignment"
    )
    with shelf.view() as view:
        texts, pictures = (
            item_vectors(view, [f"{modality}/{number:02d}" for number in range(24)])
            for modality in COUNTS
        )
    gaps = [texts[n] - pictures[m] for n in range(24) for m in range(24) if n // 2 == m // 2]
    assert found.n == len(gaps) == 48
    assert found.value == pytest.approx(np.mean(np.sum(np.array(gaps) ** 2, axis=1)))


def test_items_of_one_label_take_no_memory_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normalise(np.random.default_rng(0).standard_normal((3_000, DIM)))
    tracemalloc.start()
    try:
        value = metrics.alignment([(rows, rows)])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert value == pytest.approx(2, abs=0.01)
    assert most < 100_000_000


def test_few_items_have_few_neighbours(shelf: Collection) -> None:
    report = evaluate_shape(shelf, where="pair < 4")
    assert [one.metric for one in report.figures if "hub" in one.metric] == ["hubness@2"] * 4
    report = evaluate_shape(shelf, where="modality = 'text' or pair = 0")
    assert report.notes == ["image: 1 items, too few to have a shape"]
    assert {one.of.get("modality", "text") for one in report.figures} == {"text"}
    with pytest.raises(InvalidInput, match="three items"):
        evaluate_shape(shelf, where="pair = 1")


def test_of_many_items_a_sample_is_measured(
    shelf: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape, "MAX_ITEMS", 12)
    report = evaluate_shape(shelf, seed=5)
    assert report.notes[0] == "text: 12 of 30 items, drawn by seed 5"
    assert {one.n for one in report.figures if one.of == {"modality": "text"}} == {12}
    assert values(report) == pytest.approx(values(evaluate_shape(shelf, seed=5)), nan_ok=True)


# ---- other models ----------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"robin dawn number {number}")
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        soundfile.write(folder / f"{number}.wav", rng.uniform(-0.5, 0.5, 16_000), 16_000)
    return folder


def test_another_model_encodes_the_same_items_again(
    corpus: Path, muomni_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        Collection.create(tmp_path / "hashed", model="hashing") as hashed,
        Collection.create(tmp_path / "fresh", model=muomni_checkpoint) as fresh,
    ):
        for one in (hashed, fresh):
            assert one.add(read_corpus([corpus])).failed == 0
        with encoded_with(hashed, "hashing") as own:
            assert own is hashed
        with encoded_with(hashed, muomni_checkpoint) as other:
            place = other.directory
            keys = [item.key for item in fresh.items()]
            assert [item.key for item in other.items()] == keys
            for again, first in zip(
                other.get(keys, vectors=True), fresh.get(keys, vectors=True), strict=True
            ):
                assert again.vector == pytest.approx(first.vector, abs=1e-5)
                assert again.metadata == first.metadata
            assert common_items([hashed, other]) is None
            # The copies were added later, but they are copies of what was added before.
            (last,) = {max(item.added for item in hashed.items())}
            shared = common_items([hashed, other], f"added <= '{last}'")
            assert [item.key for item in other.items(where=shared)] == keys
        assert not place.exists()
        with encoded_with(hashed, muomni_checkpoint, where="modality = 'text'") as other:
            assert {item.modality for item in other.items()} == {Modality.TEXT}


def test_what_cannot_be_encoded_again_is_measured_for_none(
    corpus: Path, muomni_checkpoint: Path, tmp_path: Path
) -> None:
    with Collection.create(tmp_path / "hashed", model="hashing") as hashed:
        hashed.add(read_corpus([corpus]))
        vector = normalise(np.random.default_rng(0).standard_normal(DIM))
        hashed.add([Record("bare", Modality.IMAGE, "test", vector=vector)])
        (corpus / "2.png").write_bytes((corpus / "3.png").read_bytes())
        with encoded_with(hashed, muomni_checkpoint) as other:
            shared = common_items([hashed, other], "key != '0.txt'")
            keys = {item.key for item in hashed.items(where=shared)}
            assert {item.key for item in hashed.items()} - keys == {"bare", "2.png", "0.txt"}
            reports = [evaluate_shape(one, where=shared) for one in (hashed, other)]
            counts = [[figure.n for figure in report.figures] for report in reports]
            assert counts[0] == counts[1]
        assert len(list(hashed.items())) == 13


def test_a_model_that_cannot_encode_a_modality_says_so(
    corpus: Path, muomni_checkpoint: Path, tmp_path: Path
) -> None:
    deaf = tmp_path / "deaf"
    for name in ("thinker_tiny/thinker.pt", "thinker_tiny/tokenizer.model"):
        (deaf / name).parent.mkdir(parents=True, exist_ok=True)
        (deaf / name).write_bytes((muomni_checkpoint / name).read_bytes())
    with Collection.create(tmp_path / "hashed", model="hashing") as hashed:
        hashed.add(read_corpus([corpus]))
        with (
            pytest.raises(CheckpointError, match=r"cannot encode image.*modality != 'image'"),
            encoded_with(hashed, deaf),
        ):
            pass
        with encoded_with(hashed, deaf, where="modality = 'text'") as other:
            assert math.isfinite(evaluate_shape(other).figures[0].value)
        with pytest.raises(NotFound, match="no model"), encoded_with(hashed, "no such model"):
            pass
