"""One contract for every encoder of every model: what the rest of the engine relies on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Encoder, Model, Piece
from muomni_search.items import DIM, Modality

MODELS = ("base", "hashing", "muomni", "aligned")
# What else is in a batch, how much of it is padding and how a product is split over threads
# changes the last bits of a vector and no more.
TOLERANCE = 1e-5
SAMPLE_RATE = 16_000
WORDS = ("robin", "dawn", "ferry", "granite", "whistle", "harbour", "lantern", "seven", "drifting")

# Run in a process of its own, with another seed for the hashes of strings.
ELSEWHERE = """
import json, sys
import numpy as np
from muomni_search.encoders.model import load_model
from muomni_search.items import Modality
found = {}
for name in sys.argv[2:]:
    model = load_model(name)
    for modality in Modality:
        encoder = model.encoder(modality)
        with np.load(sys.argv[1]) as contents:
            content = contents[modality.value]
        pieces = encoder.prepare(content.item() if modality == Modality.TEXT else content)
        found[f"{name} {modality}"] = [encoder.fingerprint(), encoder.encode(pieces).tolist()]
print(json.dumps(found))
"""


def short_contents(modality: Modality) -> list[Any]:
    """Contents of one segment each, of many lengths and shapes; the same in every run."""
    rng = np.random.default_rng(11)
    if modality == Modality.TEXT:
        return ["a", *(" ".join(rng.choice(WORDS, n)) for n in (2, 3, 5, 8, 13, 21, 29))]
    if modality == Modality.IMAGE:
        shapes = [(1, 1, 3), (1, 300, 3), (224, 224, 3), (90, 40, 4), (33, 517, 4), (640, 480, 3)]
        return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
    seconds = (1 / SAMPLE_RATE, 0.2, 0.975, 1.0, 1.7, 2.0)
    sounds = [rng.standard_normal(int(one * SAMPLE_RATE)).astype(np.float32) / 8 for one in seconds]
    return [*sounds, np.zeros(SAMPLE_RATE, np.float32)]


def long_content(modality: Modality) -> Any:
    rng = np.random.default_rng(12)
    if modality == Modality.TEXT:
        sentences = [" ".join(rng.choice(WORDS, n)).capitalize() for n in rng.integers(4, 40, 40)]
        return ". ".join(sentences) + "."
    return rng.standard_normal(31 * SAMPLE_RATE + 7).astype(np.float32) / 8


@pytest.fixture(scope="module")
def places(muomni_checkpoint: Path, aligned_model: Path) -> dict[str, str]:
    """What each model is loaded by: a name, or where it lies."""
    own = {"muomni": str(muomni_checkpoint), "aligned": str(aligned_model)}
    return {name: name for name in MODELS} | own


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, places: dict[str, str]) -> Model:
    return load_model(places[request.param])


@pytest.fixture(scope="module", params=list(Modality))
def encoder(request: pytest.FixtureRequest, model: Model) -> Encoder:
    return model.encoder(request.param)


@pytest.fixture(scope="module")
def pieces(encoder: Encoder) -> list[Piece]:
    return [encoder.prepare(content)[0] for content in short_contents(encoder.modality)]


@pytest.fixture(scope="module")
def rows(encoder: Encoder, pieces: list[Piece]) -> NDArray[np.float32]:
    return encoder.encode(pieces)


def test_it_says_what_it_reads_and_how_wide_its_vectors_are(model: Model) -> None:
    for modality in Modality:
        assert model.encoder(modality).modality == modality
        assert model.encoder(modality).dim == model.dim == DIM


def test_its_fingerprint_is_that_of_its_model(model: Model, encoder: Encoder) -> None:
    assert encoder.fingerprint() == model.fingerprint()
    assert len(model.fingerprint()) == 64


def test_a_model_gives_the_same_encoder_every_time(model: Model) -> None:
    assert model.encoder(Modality.TEXT) is model.encoder(Modality.TEXT)


def test_a_batch_gives_unit_rows_of_float32(pieces: list[Piece], rows: NDArray[np.float32]) -> None:
    assert rows.dtype == np.float32
    assert rows.shape == (len(pieces), DIM)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_different_contents_get_different_vectors(rows: NDArray[np.float32]) -> None:
    assert (rows @ rows.T).min() < 0.9


def test_the_size_of_the_batch_does_not_matter(
    encoder: Encoder, pieces: list[Piece], rows: NDArray[np.float32]
) -> None:
    alone = np.concatenate([encoder.encode([piece]) for piece in pieces])
    many = encoder.encode(pieces * 20)
    assert np.abs(alone - rows).max() < TOLERANCE
    assert np.abs(many - np.tile(rows, (20, 1))).max() < TOLERANCE


def test_rows_come_in_the_order_of_the_batch(
    encoder: Encoder, pieces: list[Piece], rows: NDArray[np.float32]
) -> None:
    order = np.random.default_rng(3).permutation(len(pieces))
    shuffled = encoder.encode([pieces[number] for number in order])
    assert np.abs(shuffled - rows[order]).max() < TOLERANCE


def test_an_empty_batch_gives_no_rows(encoder: Encoder) -> None:
    rows = encoder.encode([])
    assert rows.shape == (0, DIM)
    assert rows.dtype == np.float32


def test_the_same_batch_gives_the_same_bytes_twice(
    encoder: Encoder, pieces: list[Piece], rows: NDArray[np.float32]
) -> None:
    assert encoder.encode(pieces).tobytes() == rows.tobytes()


def test_a_short_content_is_one_segment_without_a_span(encoder: Encoder) -> None:
    for content in short_contents(encoder.modality):
        (piece,) = encoder.prepare(content)
        assert piece.span is None


def test_a_content_is_left_as_it_was(encoder: Encoder) -> None:
    for content, again in zip(
        short_contents(encoder.modality), short_contents(encoder.modality), strict=True
    ):
        encoder.encode(encoder.prepare(content))
        assert np.array_equal(content, again)


@pytest.mark.parametrize("modality", [Modality.TEXT, Modality.AUDIO])
def test_a_long_content_is_several_segments_with_rising_spans(
    model: Model, modality: Modality
) -> None:
    content = long_content(modality)
    encoder = model.encoder(modality)
    spans = [piece.span for piece in encoder.prepare(content)]
    assert len(spans) > 2
    assert all(span is not None for span in spans)
    length = len(content) if modality == Modality.TEXT else len(content) * 1000 // SAMPLE_RATE
    starts = [span.start for span in spans if span]
    ends = [span.end for span in spans if span]
    assert {span.unit for span in spans if span} == {"char" if isinstance(content, str) else "ms"}
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert ends == sorted(ends)
    assert ends[-1] == length
    assert all(start < end for start, end in zip(starts, ends, strict=True))


def test_threads_may_prepare_and_encode_at_once(
    encoder: Encoder, rows: NDArray[np.float32]
) -> None:
    def work(content: Any) -> NDArray[np.float32]:
        return encoder.encode(encoder.prepare(content))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, short_contents(encoder.modality) * 3))
    assert np.abs(np.concatenate(found) - np.tile(rows, (3, 1))).max() < TOLERANCE


def test_another_process_gives_the_same_fingerprints_and_vectors(
    tmp_path: Path, places: dict[str, str]
) -> None:
    contents = {modality: short_contents(modality)[3] for modality in Modality}
    np.savez(tmp_path / "contents.npz", **{str(key): value for key, value in contents.items()})
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "contents.npz"), *places.values()],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "77"},
    )  # fmt: skip
    found = json.loads(done.stdout)
    for name, modality in product(places.values(), Modality):
        encoder = load_model(name).encoder(modality)
        fingerprint, rows = found[f"{name} {modality}"]
        assert fingerprint == encoder.fingerprint()
        here = encoder.encode(encoder.prepare(contents[modality]))
        assert np.abs(here - np.array(rows)).max() < TOLERANCE
