"""μOmni's encoders give a content the vector that a plain implementation gives it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import plain_muomni as plain
import pytest
import torch
from model_helpers import WORDS, train_tokenizer
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from muomni_search.encoders.model import load_model
from muomni_search.encoders.muomni.encoders import AudioEncoder, ImageEncoder, TextEncoder
from muomni_search.encoders.protocol import SegmentEncoder
from muomni_search.errors import CheckpointError
from muomni_search.items import Modality

# Of the towers that the checkpoint of the tests has.
LAYERS, TEXT_HEADS, IMAGE_HEADS, SOUND_HEADS = 2, 4, 2, 3
BOS = 1
# The encoders compute in float32.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def weights(muomni_checkpoint: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """The tensors of each part, as they stand in the checkpoint's files."""
    found = {}
    for name in ("thinker_tiny/thinker", "vision_tiny/vision", "audio_enc_tiny/audio_enc"):
        found |= torch.load(muomni_checkpoint / f"{name}.pt", weights_only=True)
    found |= torch.load(muomni_checkpoint / "omni_sft_tiny/omni.pt", weights_only=True)
    return {
        part: {name: tensor.numpy() for name, tensor in tensors.items()}
        for part, tensors in found.items()
    }


def encoder_of(checkpoint: Path, modality: Modality) -> SegmentEncoder:
    return load_model(checkpoint).encoder(modality)  # type: ignore[return-value]


def projected(hidden: plain.Array, projector: Mapping[str, NDArray[Any]]) -> plain.Array:
    return hidden @ projector["weight"].T + projector["bias"]


def check_rows(rows: NDArray[np.float32], expected: list[plain.Array]) -> None:
    assert rows.shape == (len(expected), 256)
    assert np.abs(rows - np.array(expected)).max() < TOLERANCE
    # Others by far than those of the next content, or a mistake would not show.
    assert np.abs(rows - np.roll(np.array(expected), 1, axis=0)).max() > 100 * TOLERANCE


# ---- words -------------------------------------------------------------------------------


def text_vector(
    checkpoint: Path, weights: Mapping[str, Mapping[str, NDArray[Any]]], text: str
) -> plain.Array:
    tokenizer = SentencePieceProcessor(
        model_proto=(checkpoint / "thinker_tiny/tokenizer.model").read_bytes()
    )
    ids = [BOS, *tokenizer.encode(text)]
    return plain.text_vector(weights["model"], ids, layers=LAYERS, heads=TEXT_HEADS)


def test_texts_of_one_batch_get_the_vectors_of_a_plain_thinker(
    muomni_checkpoint: Path, weights: Mapping[str, Mapping[str, NDArray[Any]]]
) -> None:
    texts = ["Robin", "a ferry at dawn", "Seven lanterns, a whistle; granite in the harbour.", "7"]
    encoder = encoder_of(muomni_checkpoint, Modality.TEXT)
    assert isinstance(encoder, TextEncoder)
    rows = encoder.encode([piece for text in texts for piece in encoder.prepare(text)])
    check_rows(rows, [text_vector(muomni_checkpoint, weights, text) for text in texts])


def test_each_passage_of_a_long_text_is_read_from_its_own_beginning(
    muomni_checkpoint: Path,
    weights: Mapping[str, Mapping[str, NDArray[Any]]],
    tmp_path: Path,
) -> None:
    checkpoint = Path(shutil.copytree(muomni_checkpoint, tmp_path / "copy"))
    (checkpoint / "thinker_tiny/config.json").write_text('{"thinker": {"ctx_len": 24}}')
    text = " ".join(f"{one} {other}." for one, other in pairwise(WORDS))
    encoder = encoder_of(checkpoint, Modality.TEXT)
    pieces = encoder.prepare(text)
    assert len(pieces) > 2
    assert max(len(piece.data) for piece in pieces) <= 24
    passages = [text[piece.span.start : piece.span.end] for piece in pieces if piece.span]
    check_rows(encoder.encode(pieces), [text_vector(checkpoint, weights, one) for one in passages])


# ---- pictures ----------------------------------------------------------------------------


def test_pictures_of_one_batch_get_the_vectors_of_a_plain_vit(
    muomni_checkpoint: Path,
    weights: Mapping[str, Mapping[str, NDArray[Any]]],
    rng: np.random.Generator,
) -> None:
    """Smaller and larger ones, and one that lets what is behind it through."""
    shapes = [(40, 90, 3), (331, 250, 3), (300, 70, 4)]
    pictures = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    encoder = encoder_of(muomni_checkpoint, Modality.IMAGE)
    assert isinstance(encoder, ImageEncoder)
    pieces = [piece for one in pictures for piece in encoder.prepare(one)]
    expected, grids = [], []
    for picture, piece in zip(pictures, pieces, strict=True):
        square = plain.squeezed(plain.on_white(picture), 224)
        # Pillow rounds to whole numbers after each of three steps.
        assert np.abs(piece.data - square).max() < 2
        pixels = piece.data.transpose(2, 0, 1) / 255
        tokens = plain.picture_tokens(weights["vit"], pixels, layers=LAYERS, heads=IMAGE_HEADS)
        vectors = projected(tokens, weights["proj_v"])
        expected.append(plain.unit(vectors[0]))
        grids.append(np.array([plain.unit(one) for one in vectors[1:]]).reshape(14, 14, 256))
    check_rows(encoder.encode(pieces), expected)
    for piece, grid in zip(pieces, grids, strict=True):
        assert np.abs(encoder.encode_segments(piece) - grid).max() < TOLERANCE


# ---- sounds ------------------------------------------------------------------------------


def test_sounds_of_one_batch_get_the_vectors_of_a_plain_aut(
    muomni_checkpoint: Path,
    weights: Mapping[str, Mapping[str, NDArray[Any]]],
    rng: np.random.Generator,
) -> None:
    lengths = (3_000, 1_700, 3_000)
    sounds = [(rng.standard_normal(length) / 10).astype(np.float32) for length in lengths]
    encoder = encoder_of(muomni_checkpoint, Modality.AUDIO)
    assert isinstance(encoder, AudioEncoder)
    pieces = [piece for one in sounds for piece in encoder.prepare(one)]
    expected, steps = [], []
    for sound in sounds:
        mel = plain.mel_by_the_book(sound.astype(np.float64))
        hidden = plain.sound_steps(weights["enc"], mel, layers=LAYERS, heads=SOUND_HEADS)
        vectors = projected(hidden, weights["proj_a"])
        expected.append(plain.unit(vectors.mean(0)))
        steps.append(np.array([plain.unit(one) for one in vectors]))
    check_rows(encoder.encode(pieces), expected)
    for piece, step in zip(pieces, steps, strict=True):
        assert np.abs(encoder.encode_segments(piece) - step).max() < TOLERANCE


def test_each_window_of_a_long_sound_is_heard_as_if_it_were_alone(
    muomni_checkpoint: Path, rng: np.random.Generator
) -> None:
    sound = (rng.standard_normal(13 * 16_000) / 10).astype(np.float32)
    sound *= np.linspace(0, 1, len(sound), dtype=np.float32)
    encoder = encoder_of(muomni_checkpoint, Modality.AUDIO)
    pieces = encoder.prepare(sound)
    spans = [(piece.span.start, piece.span.end) for piece in pieces if piece.span]
    assert spans == [(0, 10_000), (3_000, 13_000)]
    rows = encoder.encode(pieces)
    for row, (start, end) in zip(rows, spans, strict=True):
        (alone,) = encoder.prepare(sound[start * 16 : end * 16])
        assert np.abs(encoder.encode([alone])[0] - row).max() < 1e-6
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


# ---- tokenizers that are none ------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), r"lacks a tokenizer \(tokenizer\.model\)"),
        (lambda path: path.write_bytes(b"rubbish"), "is no sentencepiece tokenizer: copy it again"),
        (lambda path: path.write_bytes(b""), "is no sentencepiece tokenizer: copy it again"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-9]),
            "is no sentencepiece tokenizer: copy it again",
        ),
        (
            lambda path: path.write_bytes(train_tokenizer(90)),
            r"has \d+ tokens, and the network beside it knows 60: take the tokenizer",
        ),
    ],
    ids=["missing", "rubbish", "empty", "cut", "too large"],
)
def test_a_checkpoint_without_a_tokenizer_of_its_own_reads_no_words(
    spoil: Callable[[Path], Any], said: str, muomni_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(muomni_checkpoint, tmp_path / "copy"))
    spoil(checkpoint / "thinker_tiny/tokenizer.model")
    with pytest.raises(CheckpointError, match=said) as caught:
        encoder_of(checkpoint, Modality.TEXT)
    assert str(checkpoint) in caught.value.what
    assert encoder_of(checkpoint, Modality.IMAGE).modality == Modality.IMAGE


@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.AUDIO])
@pytest.mark.parametrize("value", [0.0, 3e38])
def test_weights_that_give_no_direction_are_an_error_and_no_vector(
    muomni_checkpoint: Path, tmp_path: Path, modality: Modality, value: float
) -> None:
    checkpoint = shutil.copytree(muomni_checkpoint, tmp_path / "checkpoint")
    place = checkpoint / "omni_sft_tiny/omni.pt"
    found = torch.load(place, weights_only=True)
    for name in ("proj_v", "proj_a"):
        for tensor in found[name].values():
            tensor.fill_(value)
    torch.save(found, place)
    contents: Mapping[Modality, NDArray[Any]] = {
        Modality.IMAGE: np.zeros((8, 8, 3), np.uint8),
        Modality.AUDIO: np.zeros(16_000, np.float32),
    }
    encoder = encoder_of(checkpoint, modality)
    pieces = encoder.prepare(contents[modality])
    for encode in (lambda: encoder.encode(pieces), lambda: encoder.encode_segments(pieces[0])):
        with pytest.raises(CheckpointError, match="weights"):
            encode()
