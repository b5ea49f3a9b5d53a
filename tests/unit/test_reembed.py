"""Moving a collection to another model: by a map or from the sources, while it answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_helpers import write_aligned_model
from numpy.typing import NDArray
from PIL import Image

from muomni_search import reembed
from muomni_search.collection import Collection
from muomni_search.encoders.hashing import HashingEncoder
from muomni_search.encoders.model import load_model
from muomni_search.errors import Conflict, CorruptData, NotFound
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Modality, Query, Record
from muomni_search.pipeline import Pipeline
from muomni_search.reembed import reembed_collection
from muomni_search.store.rows import ROW_BYTES
from muomni_search.store.store import STAGE
from muomni_search.transfer import export_collection, import_collection
from muomni_search.vectors import normalise

TEXT, IMAGE = Modality.TEXT, Modality.IMAGE
LONG = " ".join(f"Sentence {number} tells of the number {number}." for number in range(20))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "owl.txt").write_text("An owl calls in the night.")
    (folder / "long.txt").write_text(LONG)
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_aligned_model(tmp_path / "model")


@pytest.fixture
def place(tmp_path: Path, corpus: Path) -> Path:
    """A collection of the model ``hashing`` with a row that is dead."""
    with Collection.create(tmp_path / "collection", model="hashing") as made:
        made.add(read_corpus([corpus]))
        made.delete("a.png")
    return tmp_path / "collection"


def vectors(place: Path) -> dict[str, NDArray[np.float32]]:
    with Collection.open(place) as opened, opened.store.snapshot() as snapshot:
        rows = snapshot.item_rows(snapshot.iter_keys())
        return {key: snapshot.vectors(one)[own] for key, (one, own) in rows.items()}


def encoded(place: Path, model: str | Path) -> dict[str, NDArray[np.float32]]:
    """What a collection of the same files has that was made with a model."""
    with Collection.create(place, model=model) as made:
        made.add(read_corpus([place.parent / "corpus"]))
        made.delete("a.png")
    return vectors(place)


def check_alike(
    found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]
) -> None:
    assert found.keys() == expected.keys()
    for key, rows in expected.items():
        assert np.abs(found[key] - rows).max() < 1e-6, key


def test_an_aligned_model_maps_what_is_stored(place: Path, model: Path, tmp_path: Path) -> None:
    with Collection.open(place) as opened:
        done = reembed_collection(opened, model)
        assert (done.how, done.items, done.dropped) == ("mapped", 4, [])
        assert opened.model.name == "model"
        assert opened.query("owl", 1)[0].key == "owl.txt"
        assert opened.verify() == []
        assert opened.stats()["model"]["name"] == str(model)
    check_alike(vectors(place), encoded(tmp_path / "other", model))
    assert not (place / STAGE).exists()


def test_ready_vectors_are_mapped_without_any_source(
    place: Path, model: Path, corpus: Path, rng: np.random.Generator
) -> None:
    vector = normalise(rng.standard_normal((1, DIM)))[0]
    with Collection.open(place) as opened:
        opened.add([Record("v", IMAGE, "test", vector=vector, metadata={"n": 1})])
        for path in corpus.iterdir():
            path.unlink()
        assert reembed_collection(opened, model).items == 5
        (item,) = opened.get("v", vectors=True)
    mapping = load_model(model).map_from(load_model("hashing").fingerprint())
    assert mapping is not None
    assert np.array_equal(vectors(place)["v"], mapping(IMAGE, vector[None]))
    assert item.metadata == {"n": 1}


def test_another_model_encodes_everything_anew(place: Path, model: Path, tmp_path: Path) -> None:
    with Collection.open(place) as opened:
        reembed_collection(opened, model)
        before = [repr(item) for item in opened.items()]
        done = reembed_collection(opened, "hashing")
        assert (done.how, done.items) == ("encoded", 4)
        assert [repr(item) for item in opened.items()] == before
        assert opened.verify() == []
        assert opened.query(Query.text("number 7"), 1, segments=True)[0].span is not None
    check_alike(vectors(place), encoded(tmp_path / "other", "hashing"))
    assert not (place / STAGE).exists()


def test_the_model_that_it_has_changes_nothing(place: Path) -> None:
    with Collection.open(place) as opened:
        with opened.store.snapshot() as snapshot:
            revision = snapshot.state.revision
        assert reembed_collection(opened, "hashing").how == "unchanged"
        with opened.store.snapshot() as snapshot:
            assert snapshot.state.revision == revision


def test_a_model_that_is_not_there_changes_nothing(place: Path, tmp_path: Path) -> None:
    before = vectors(place)
    with Collection.open(place) as opened, pytest.raises(NotFound):
        reembed_collection(opened, tmp_path / "nowhere")
    check_alike(vectors(place), before)


def moved(place: Path, model: Path) -> Collection:
    """The collection at the aligned model, from which `hashing` needs the sources."""
    opened = Collection.open(place)
    reembed_collection(opened, model)
    return opened


def test_a_file_that_is_gone_is_refused_before_anything_is_encoded(
    place: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moved(place, model) as opened:
        before = vectors(place)
        (corpus / "b.png").unlink()
        monkeypatch.setattr(Pipeline, "run", None)
        with pytest.raises(Conflict, match=r"1 item.*b\.png is gone") as caught:
            reembed_collection(opened, "hashing")
        assert "--drop-missing" in caught.value.hint
    check_alike(vectors(place), before)


def test_what_was_imported_is_encoded_from_its_files(
    place: Path, model: Path, corpus: Path, tmp_path: Path
) -> None:
    with moved(place, model) as opened:
        export_collection(opened, tmp_path / "all.parquet")
    with Collection.create(tmp_path / "again", model=model) as again:
        import_collection(again, tmp_path / "all.parquet")
        assert reembed_collection(again, "hashing").items == 4
    check_alike(vectors(tmp_path / "again"), encoded(tmp_path / "other", "hashing"))


def test_a_ready_vector_that_names_a_file_is_refused_before_anything_is_encoded(
    place: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moved(place, model) as opened:
        vector = np.eye(1, 256, dtype=np.float32)[0]
        opened.add([Record("v", IMAGE, "test", vector=vector, source=str(corpus / "b.png"))])
        monkeypatch.setattr(Pipeline, "run", None)
        with pytest.raises(Conflict, match=r"1 item.*v: it came as a ready vector"):
            reembed_collection(opened, "hashing")


def test_a_file_that_changed_is_refused_and_the_rest_is_not_encoded_twice(
    place: Path, model: Path, corpus: Path, encodings: list[int]
) -> None:
    with moved(place, model) as opened:
        (corpus / "b.png").write_bytes((corpus / "c.png").read_bytes())
        with pytest.raises(Conflict, match=r"b\.png has changed") as caught:
            reembed_collection(opened, "hashing")
        assert "muomni add" in caught.value.hint
        encodings.clear()
        opened.add(read_corpus([corpus]))
        encodings.clear()
        assert reembed_collection(opened, "hashing").items == 5
    # What the addition brought; the changed file was encoded as what it is now.
    assert sum(encodings) == 1


def test_what_cannot_be_encoded_is_dropped_when_told_to_and_listed(
    place: Path, model: Path, corpus: Path, rng: np.random.Generator
) -> None:
    with moved(place, model) as opened:
        vector = normalise(rng.standard_normal((1, DIM)))[0]
        opened.add([Record("v", TEXT, "test", vector=vector)])
        (corpus / "b.png").unlink()
        done = reembed_collection(opened, "hashing", drop_missing=True)
        assert sorted(problem.key or "" for problem in done.dropped) == ["b.png", "v"]
        assert [item.key for item in opened.items()] == ["c.png", "long.txt", "owl.txt"]
        assert {failure.key for failure in opened.failures()} == {"b.png", "v"}
        assert opened.verify() == []


def test_a_refusal_names_all_that_would_be_dropped(place: Path, model: Path, corpus: Path) -> None:
    """Whoever agrees to lose what is named loses nothing else."""
    with moved(place, model) as opened:
        (corpus / "b.png").unlink()
        (corpus / "c.png").write_bytes((corpus / "c.png").read_bytes() + b"more")
        with pytest.raises(Conflict) as caught:
            reembed_collection(opened, "hashing")
        assert "2 items cannot be encoded anew" in caught.value.what
        assert "b.png: " in caught.value.what
        assert f"c.png: {corpus / 'c.png'} has changed since it was added" in caught.value.what
        done = reembed_collection(opened, "hashing", drop_missing=True)
        assert sorted(problem.key or "" for problem in done.dropped) == ["b.png", "c.png"]


def test_a_text_is_encoded_from_what_is_stored_when_its_file_is_gone(
    place: Path, model: Path, corpus: Path
) -> None:
    with moved(place, model) as opened:
        (corpus / "owl.txt").unlink()
        assert reembed_collection(opened, "hashing").items == 4


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that ``hashing`` encodes."""
    sizes: list[int] = []
    encode = HashingEncoder.encode

    def counted(self: HashingEncoder, batch: Any) -> NDArray[np.float32]:
        sizes.append(len(batch))
        return encode(self, batch)

    monkeypatch.setattr(HashingEncoder, "encode", counted)
    return sizes


def interrupt(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let something happen after all is encoded and before the new vectors take over."""
    run = Pipeline.run

    def interrupted(self: Pipeline, corpus: Any) -> Any:
        report = run(self, corpus)
        monkeypatch.setattr(Pipeline, "run", run)
        act()
        return report

    monkeypatch.setattr(Pipeline, "run", interrupted)


def test_what_was_encoded_before_an_interruption_is_not_encoded_again(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch, encodings: list[int]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with moved(place, model) as opened:
        before = vectors(place)
        interrupt(monkeypatch, stop)
        with pytest.raises(KeyboardInterrupt):
            reembed_collection(opened, "hashing")
        check_alike(vectors(place), before)
        assert (place / STAGE).exists()
        encodings.clear()
        assert reembed_collection(opened, "hashing").items == 4
    assert encodings == []
    assert not (place / STAGE).exists()


def test_what_comes_and_goes_meanwhile_is_caught_up_with(
    place: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        (corpus / "new.txt").write_text("It has just come.")
        (corpus / "owl.txt").write_text("Another owl altogether.")
        with Collection.open(place) as other:
            other.add(read_corpus([corpus / "new.txt"]))
            other.add(read_corpus([corpus]))
            other.delete("c.png")

    monkeypatch.setattr(reembed, "FEW_ITEMS", 1)
    with moved(place, model) as opened:
        interrupt(monkeypatch, change)
        reembed_collection(opened, "hashing")
        keys = [item.key for item in opened.items()]
        assert keys == ["a.png", "b.png", "long.txt", "new.txt", "owl.txt"]
        (item,) = opened.get("owl.txt")
        assert item.text == "Another owl altogether."
        assert opened.query("Another owl altogether.", 1)[0].cosine > 0.999
        assert opened.verify() == []


def test_a_view_goes_on_in_the_old_space_and_the_next_one_is_in_the_new(
    place: Path, model: Path, corpus: Path
) -> None:
    picture = corpus / "b.png"
    with Collection.open(place) as reader, reader.view() as view:
        before = view.resolve_many([Query.image(picture)])[0]
        with Collection.open(place) as writer:
            reembed_collection(writer, model)
        again = view.resolve_many([Query.image(picture)])[0]
        assert isinstance(before, np.ndarray)
        assert np.array_equal(before, again)
        ranked = view.rank(Query.image(picture), before, 1)
        assert ranked[0].cosine == pytest.approx(1, abs=1e-6)
        # Another question of the same collection, which nobody opened anew.
        (hit,) = reader.query(Query.image(picture), 1)
        assert hit.cosine == pytest.approx(1, abs=1e-6)
        assert not np.allclose(reader.resolve(Query.image(picture)), before)


def test_a_collection_that_was_opened_with_its_model_named_follows_it(
    place: Path, model: Path
) -> None:
    with Collection.open(place, model="hashing") as opened:
        reembed_collection(opened, model)
        assert opened.model.name == "model"


def test_vectors_of_the_old_model_do_not_get_in_after_the_move(
    place: Path, model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "new.txt").write_text("It has just come.")
    with Collection.open(place) as writer:
        commit = Pipeline._commit

        def late(self: Pipeline) -> None:
            monkeypatch.setattr(Pipeline, "_commit", commit)
            with Collection.open(place) as other:
                reembed_collection(other, model)
            commit(self)

        monkeypatch.setattr(Pipeline, "_commit", late)
        with pytest.raises(Conflict, match="moved to the model"):
            writer.add(read_corpus([corpus / "new.txt"]))
        assert writer.add(read_corpus([corpus / "new.txt"])).added == 1
        assert writer.query("It has just come.", 1)[0].cosine > 0.999


def test_two_moves_at_once_are_refused(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = []

    def another() -> None:
        with Collection.open(place) as other, pytest.raises(Conflict, match="in use") as error:
            reembed_collection(other, "hashing")
        caught.append(error)

    with moved(place, model) as opened:
        interrupt(monkeypatch, another)
        reembed_collection(opened, "hashing")
    assert len(caught) == 1


@pytest.mark.parametrize("where", ["collection", "stage"])
def test_damaged_rows_are_not_passed_on(
    place: Path, model: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(folder: Path) -> None:
        (path,) = (folder / "vectors").glob("image.*")
        with path.open("r+b") as file:
            file.seek(ROW_BYTES)
            file.write(b"damage")

    if where == "collection":
        damage(place)
        with Collection.open(place) as opened, pytest.raises(CorruptData, match="image"):
            reembed_collection(opened, model)
        return
    with moved(place, model) as opened:
        interrupt(monkeypatch, lambda: damage(next((place / STAGE).iterdir())))
        with pytest.raises(CorruptData) as caught:
            reembed_collection(opened, "hashing")
        assert STAGE in caught.value.hint
        assert opened.verify() == []


def test_a_stage_that_is_damaged_is_begun_anew(place: Path, model: Path) -> None:
    with moved(place, model) as opened:
        folder = place / STAGE / load_model("hashing").fingerprint()[:16]
        folder.mkdir(parents=True)
        (folder / "collection.db").write_bytes(b"no database " * 1000)
        assert reembed_collection(opened, "hashing").how == "encoded"


def test_a_model_learned_from_an_aligned_one_maps_from_either(
    place: Path, model: Path, tmp_path: Path
) -> None:
    second = write_aligned_model(tmp_path / "second", parent=str(model), seed=1)
    with Collection.open(place) as opened:
        assert reembed_collection(opened, second).how == "mapped"
    check_alike(vectors(place), encoded(tmp_path / "other", second))


def test_a_collection_without_items_moves_too(tmp_path: Path, model: Path) -> None:
    with Collection.create(tmp_path / "empty", model="hashing") as opened:
        assert reembed_collection(opened, model).items == 0
        assert reembed_collection(opened, "hashing").items == 0
        assert opened.verify() == []


def test_a_collection_whose_model_became_another_is_read_and_can_be_moved(
    corpus: Path, tmp_path: Path, muomni_checkpoint: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(muomni_checkpoint, checkpoint)
    with Collection.create(tmp_path / "collection", model=checkpoint) as made:
        made.add(read_corpus([corpus]))
    path = checkpoint / "omni_sft_tiny/omni.pt"
    turned = torch.load(path, weights_only=True)
    turned["proj_v"] = {name: -tensor for name, tensor in turned["proj_v"].items()}
    torch.save(turned, path)
    with Collection.open(tmp_path / "collection") as opened:
        assert [item.key for item in opened.items()]
        assert opened.query(Query.id("a.png"), 2)
        with pytest.raises(Conflict, match=r"move it: muomni reembed --model .*checkpoint"):
            opened.query("an owl")
        assert reembed_collection(opened, checkpoint).how == "encoded"
        assert opened.query("an owl", 1)
    assert len(vectors(tmp_path / "collection")) == 5


def test_a_model_that_lacks_a_modality_deletes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even with drop_missing: the sounds are there, what hears them is not."""
    import soundfile

    soundfile.write(tmp_path / "hum.wav", np.sin(np.arange(8_000) / 20), 16_000)
    monkeypatch.setenv("MUOMNI_CACHE", str(tmp_path / "cache"))
    with Collection.open(place) as opened:
        opened.add(read_corpus([tmp_path / "hum.wav"]))
        before = {item.key for item in opened.items()}
        for drop_missing in (False, True):
            with pytest.raises(NotFound, match="sound tower") as caught:
                reembed_collection(opened, "base", drop_missing=drop_missing)
            assert "muomni model fetch base" in (caught.value.hint or "")
        assert {item.key for item in opened.items()} == before
        assert opened.stats()["model"]["name"] == "hashing"


def test_a_model_that_has_moved_is_found_again(place: Path, model: Path, tmp_path: Path) -> None:
    with Collection.open(place) as opened:
        reembed_collection(opened, model)
    elsewhere = model.rename(tmp_path / "elsewhere")
    with Collection.open(place) as opened, pytest.raises(NotFound, match="no model") as caught:
        opened.query("an owl")
    assert f"reembed --model PATH -c {place}" in (caught.value.hint or "")
    with Collection.open(place, model=elsewhere) as opened:
        assert reembed_collection(opened, elsewhere).how == "unchanged"
    with Collection.open(place) as opened:
        assert opened.query("an owl")
