"""The model `muomni-tiny` as it ships: small, whole, the same as ever, and of some use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.encoders.description import file_hash
from muomni_search.encoders.model import load_model
from muomni_search.encoders.muomni.model import tiny_directory
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError
from muomni_search.ingest.audio import decode_audio
from muomni_search.items import DIM, Modality
from muomni_search.view import encode_all

CORPUS = Path(__file__).resolve().parents[3] / "examples" / "corpus"
TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load_model("muomni-tiny")


def encode(model: Model, modality: Modality, contents: list[Any]) -> NDArray[np.float32]:
    return encode_all(model.encoder(modality), contents)


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in tiny_directory().iterdir()) <= 20_000_000


def test_its_files_are_those_that_it_describes_and_collections_know_it_again(tiny: Model) -> None:
    described = json.loads((tiny_directory() / "model.json").read_text())
    assert described["files"].keys() == {"model.safetensors", "config.json", "tokenizer.model"}
    for name, digest in described["files"].items():
        assert file_hash(tiny_directory() / name) == digest, name
    # Collections were made with it. Whoever ships other weights, or changes a step from contents
    # to vectors, changes this on purpose: those collections have to be encoded anew then.
    assert tiny.fingerprint() == "e26c4eb97871f89de0758c090732371ccac0bdd379cc3b84c2fe75ad0db078ea"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
@pytest.mark.parametrize("how", ["altered", "missing"])
def test_a_file_of_it_that_is_altered_or_missing_is_named(
    name: str, how: str, tmp_path: Path
) -> None:
    for path in tiny_directory().iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).unlink()
    if how == "altered":
        content = bytearray((tiny_directory() / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=name) as caught:
        load_model(tmp_path).encoder(TEXT)
    assert caught.value.hint


def test_words_a_picture_and_a_sound_become_unit_vectors_of_one_space(tiny: Model) -> None:
    contents = {
        TEXT: "a robin at dawn",
        IMAGE: CORPUS / "animals/cat.jpg",
        AUDIO: CORPUS / "animals/cat.ogg",
    }
    for modality, content in contents.items():
        (row,) = encode(tiny, modality, [content])
        assert row.shape == (DIM,)
        assert row.dtype == np.float32
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("modality", [IMAGE, AUDIO])
def test_pictures_and_sounds_are_nearer_to_their_own_words_than_to_others(
    tiny: Model, modality: Modality
) -> None:
    """The mean over the sample corpus: hardly any other order of the names fits as well.

    Of pictures the cut-outs, since photographs are its weak side; of sounds the first second.
    """
    kinds = {IMAGE: [".png"], AUDIO: [".flac", ".ogg"]}[modality]
    paths = sorted(path for path in CORPUS.rglob("*") if path.suffix in kinds)
    contents: list[Any] = paths
    if modality == AUDIO:
        contents = [decode_audio(path.read_bytes(), path)[:16_000] for path in paths]
    names = encode(tiny, TEXT, [path.stem.replace("-", " ") for path in paths])
    cosines = encode(tiny, modality, contents) @ names.T
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(len(paths)) for _ in range(2_000)])
    shuffled = cosines[np.arange(len(paths)), orders].mean(axis=1)
    # Weights at random lie anywhere among them; this lies 3.5 deviations above them and more.
    assert np.mean(shuffled >= np.trace(cosines) / len(paths)) < 0.005
