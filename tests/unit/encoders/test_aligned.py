"""Models of the kind ``aligned``: a parent, a map a modality, and what may be wrong with either."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_helpers import write_aligned_model
from safetensors.numpy import load_file, save_file

from muomni_search.collection import Collection
from muomni_search.encoders.aligned import AlignedModel
from muomni_search.encoders.description import file_hash
from muomni_search.encoders.model import load_model
from muomni_search.errors import CheckpointError
from muomni_search.items import DIM, Modality
from muomni_search.projection import apply_map

TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO
PICTURE = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture
def directory(aligned_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(aligned_model, tmp_path / "model"))


def change(directory: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "model.json"
    described = json.loads(path.read_text())
    edit(described)
    path.write_text(json.dumps(described))


def test_a_modality_with_a_map_goes_through_it_and_one_without_is_the_parents(
    directory: Path,
) -> None:
    model, parent = load_model(directory), load_model("hashing")
    weights = load_file(directory / "projectors.safetensors")["image"]
    pieces = parent.encoder(IMAGE).prepare(PICTURE)
    rows = parent.encoder(IMAGE).encode(pieces)
    assert np.array_equal(model.encoder(IMAGE).encode(pieces), apply_map(rows, weights))
    words = parent.encoder(TEXT).prepare("an owl")
    assert (
        model.encoder(TEXT).encode(words).tobytes() == parent.encoder(TEXT).encode(words).tobytes()
    )


def test_its_fingerprint_is_of_the_maps_and_the_parent_and_not_of_a_place(
    directory: Path, aligned_model: Path, tmp_path: Path
) -> None:
    assert load_model(directory).fingerprint() == load_model(aligned_model).fingerprint()
    other = write_aligned_model(tmp_path / "other", seed=1)
    assert load_model(other).fingerprint() != load_model(directory).fingerprint()
    assert load_model(directory).fingerprint() != load_model("hashing").fingerprint()
    base = write_aligned_model(tmp_path / "base", parent="base")
    assert load_model(base).fingerprint() != load_model(directory).fingerprint()


def test_it_maps_from_its_parents_and_from_no_other(directory: Path, tmp_path: Path) -> None:
    child = write_aligned_model(tmp_path / "child", parent=str(directory), seed=1)
    model, hashing = load_model(child), load_model("hashing")
    pieces = hashing.encoder(IMAGE).prepare(PICTURE)
    for ancestor in (hashing, load_model(directory)):
        mapping = model.map_from(ancestor.fingerprint())
        assert mapping is not None
        mapped = mapping(IMAGE, ancestor.encoder(IMAGE).encode(pieces))
        assert np.abs(mapped - model.encoder(IMAGE).encode(pieces)).max() < 1e-6
    assert model.map_from(load_model("base").fingerprint()) is None
    assert hashing.map_from(model.fingerprint()) is None


def test_its_parts_name_the_parent_and_what_is_mapped(directory: Path) -> None:
    parts = load_model(directory).parts()
    assert parts["parent"]["name"] == "hashing"
    assert parts["mapped"] == ["audio", "image"]


def test_a_parent_that_is_gone_is_named_and_look_ups_go_on(tmp_path: Path) -> None:
    parent = write_aligned_model(tmp_path / "parent")
    child = write_aligned_model(tmp_path / "child", parent=str(parent), seed=1)
    Collection.create(tmp_path / "c", model=child).close()
    shutil.rmtree(parent)
    with pytest.raises(CheckpointError, match=r"parent.*is not there") as caught:
        load_model(child)
    assert caught.value.hint
    with Collection.open(tmp_path / "c") as opened:
        assert list(opened.items()) == []


def test_a_parent_that_is_another_model_now_is_refused(tmp_path: Path) -> None:
    parent = write_aligned_model(tmp_path / "parent")
    child = write_aligned_model(tmp_path / "child", parent=str(parent), seed=1)
    shutil.rmtree(parent)
    write_aligned_model(parent, seed=7)
    with pytest.raises(CheckpointError, match="another model now"):
        load_model(child)


def test_parents_that_name_each_other_do_not_go_on_for_ever(directory: Path) -> None:
    change(directory, lambda said: said["parent"].update(model=str(directory)))
    with pytest.raises(CheckpointError, match="16 parents"):
        load_model(directory)


@pytest.mark.parametrize("said", [None, {}, "hashing", {"model": 1, "fingerprint": "f"}, []])
def test_a_damaged_parent_is_an_error_that_names_the_file(said: Any, directory: Path) -> None:
    change(directory, lambda described: described.update(parent=said))
    with pytest.raises(CheckpointError, match=r"model\.json: parent"):
        load_model(directory)


@pytest.mark.parametrize(
    "maps",
    [
        {"image": np.zeros((DIM, DIM), np.float32)},
        {"image": np.full((DIM, DIM), np.nan, np.float32)},
        {"image": np.eye(DIM)},
        {"image": np.eye(DIM, 384, dtype=np.float32)},
        {"smell": np.eye(DIM, dtype=np.float32)},
    ],
    ids=["zero", "nan", "float64", "width", "modality"],
)
def test_maps_that_are_none_are_refused(maps: Any, directory: Path) -> None:
    path = directory / "projectors.safetensors"
    save_file(maps, path)
    change(directory, lambda said: said["files"].update({path.name: file_hash(path)}))
    with pytest.raises(CheckpointError, match="projectors"):
        load_model(directory).encoder(IMAGE)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"{}" * 10])
def test_a_file_that_holds_no_maps_is_refused(content: bytes, directory: Path) -> None:
    path = directory / "projectors.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not the file"):
        load_model(directory).encoder(IMAGE)
    change(directory, lambda said: said["files"].update({path.name: file_hash(path)}))
    with pytest.raises(CheckpointError, match="holds no maps"):
        load_model(directory).encoder(IMAGE)


def test_what_the_parent_lacks_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUOMNI_CACHE", str(tmp_path / "cache"))
    model = load_model(write_aligned_model(tmp_path / "model", parent="base"))
    assert isinstance(model, AlignedModel)
    assert model.missing() == ["audio.onnx"]


@pytest.mark.parametrize(
    "said",
    [
        None,
        {"smell": {}},
        {"image": None},
        {"image": {"source": "module", "name": "os:system", "dim": 3, "fingerprint": "f"}},
        {"image": {"source": "function", "name": "f", "dim": 0, "fingerprint": "f"}},
        {"image": {"source": "function", "name": "f", "dim": True, "fingerprint": "f"}},
        {"image": {"source": "function", "name": "f", "dim": 2**40, "fingerprint": "f"}},
    ],
)
def test_a_damaged_foreign_encoder_is_an_error_that_names_the_file(
    said: Any, directory: Path
) -> None:
    change(directory, lambda described: described.update(encoders=said))
    with pytest.raises(CheckpointError, match=r"model\.json: encoders"):
        load_model(directory)


def test_a_foreign_encoder_needs_a_map_of_its_width(directory: Path) -> None:
    said = {"source": "function", "name": "f", "dim": 7, "fingerprint": "f"}
    change(directory, lambda described: described.update(encoders={"image": said}))
    with pytest.raises(CheckpointError, match="projectors"):
        load_model(directory).encoder(IMAGE)
    change(directory, lambda described: described.update(encoders={"text": {**said, "dim": 256}}))
    with pytest.raises(CheckpointError, match="text has none"):
        load_model(directory).encoder(TEXT)
