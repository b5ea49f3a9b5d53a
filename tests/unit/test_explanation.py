"""Why a hit: what in a picture, a sound, a text and a query carries the cosine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from muomni_search import explanation
from muomni_search.collection import Collection
from muomni_search.errors import CheckpointError, Conflict, InvalidInput, NotFound
from muomni_search.explanation import Curve, Explanation, Grid, Words, explain
from muomni_search.heat import colours, write_heat
from muomni_search.ingest.image import decode_image
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import Modality, Query, Record, Span
from muomni_search.vectors import cosines, normalise

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "examples/corpus"
RATE = 16_000


def tone(hertz: float, seconds: float) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


def grid_of(found: Explanation) -> Grid:
    assert isinstance(found.evidence, Grid)
    return found.evidence


def curve_of(found: Explanation) -> Curve:
    assert isinstance(found.evidence, Curve)
    return found.evidence


def words_of(found: Explanation) -> Words:
    assert isinstance(found.evidence, Words)
    return found.evidence


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two things, a beep in silence, texts."""
    folder = tmp_path_factory.mktemp("explained")
    # Side by side on a square, for the encoder looks at the centre alone.
    both = Image.new("RGB", (512, 512), "grey")
    for number, name in enumerate(("animals/panda.jpg", "places/eiffel-tower.jpg")):
        half = Image.open(CORPUS / name)
        side = min(half.size)
        corner = ((half.width - side) // 2, (half.height - side) // 2)
        square = half.crop((*corner, corner[0] + side, corner[1] + side))
        both.paste(square.resize((240, 240)), (16 + 240 * number, 136))
    both.save(folder / "panda-tower.png")
    silence = np.zeros(3 * RATE, np.float32)
    sound = np.concatenate([silence, tone(880, 1), silence])
    soundfile.write(folder / "beep.wav", sound, RATE)
    soundfile.write(folder / "query.wav", tone(880, 1), RATE)
    (folder / "planted.txt").write_text(
        "The report lists costs and dates. A volcano stands behind the office."
    )
    (folder / "long.txt").write_text(
        " ".join(f"Line {number} of the ledger adds a sum." for number in range(80))
        + " Then a volcano erupted."
    )
    return folder


@pytest.fixture(scope="module")
def base(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection of it with the packaged model."""
    with Collection.create(tmp_path_factory.mktemp("base") / "c") as collection:
        assert collection.add(read_corpus([folder])).failed == 0
        yield collection


@pytest.fixture(scope="module")
def panda(base: Collection) -> Explanation:
    """A picture of two things, explained by the left one."""
    return explain(base, "a panda", "panda-tower.png")


@pytest.fixture
def hashed(folder: Path, tmp_path: Path) -> Iterator[Collection]:
    """A collection of it to be changed, with the model without weights, which is instant."""
    with Collection.create(tmp_path / "hashed", model="hashing") as collection:
        assert collection.add(read_corpus([folder])).failed == 0
        yield collection


# ---- pictures ------------------------------------------------------------------------------


def test_the_half_of_a_picture_that_shows_the_word_lights_up(
    base: Collection, panda: Explanation
) -> None:
    tower = explain(base, "the eiffel tower", "panda-tower.png")
    for found, is_right in ((panda, False), (tower, True)):
        halves = np.split(grid_of(found).strengths(), 2, axis=1)
        shown, other = halves[is_right], halves[not is_right]
        assert shown.sum() > 2 * other.sum()
        assert shown.max() == pytest.approx(1)


def test_covering_the_hottest_squares_costs_more_than_covering_others(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    keys = ["cow.jpg", "horse.jpg"]
    with Collection.create(tmp_path / "animals") as animals:
        animals.add(read_corpus([CORPUS / "animals" / key for key in keys]))
        hot, chance = [], []
        for key in keys:
            query = Path(key).stem
            found = explain(animals, query, key)
            values = grid_of(found).values
            order = np.argsort(-values.ravel())
            fifth = values.size // 5
            picture = np.asarray(found.content)
            direction = animals.resolve(Query.text(query))
            hot.append(cosine_without(animals, picture, order[:fifth], values.shape, direction))
            for _ in range(4):
                some = rng.permutation(values.size)[:fifth]
                chance.append(cosine_without(animals, picture, some, values.shape, direction))
    # Blurred here, so that it is not the same cover once more.
    assert np.mean(hot) < np.mean(chance) - 0.05


def cosine_without(
    collection: Collection,
    picture: NDArray[Any],
    squares: NDArray[np.int64],
    shape: tuple[int, ...],
    direction: NDArray[np.float32],
) -> float:
    """Return the cosine of a picture whose squares are smoothed away."""
    coarse = Image.fromarray(picture).resize((3, 3), Image.Resampling.BOX)
    smooth = coarse.resize((picture.shape[1], picture.shape[0]), Image.Resampling.BICUBIC)
    mask = np.zeros(shape, np.uint8)
    mask.ravel()[squares] = 255
    whole = Image.fromarray(mask).resize(smooth.size, Image.Resampling.NEAREST)
    mixed = np.where(np.asarray(whole)[:, :, None] > 0, np.asarray(smooth), picture)
    encoder = collection.model.encoder(Modality.IMAGE)
    return float(cosines(encoder.encode(encoder.prepare(mixed)), direction)[0])


def test_squares_cover_a_picture_and_keep_its_shape(hashed: Collection, tmp_path: Path) -> None:
    sizes = {"wide.png": (600, 200), "high.png": (30, 90), "dot.png": (1, 1), "line.png": (400, 1)}
    for name, size in sizes.items():
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    hashed.add(read_corpus([tmp_path / name for name in sizes]))
    shapes = {name: grid_of(explain(hashed, Query.id(name), name)).values.shape for name in sizes}
    assert shapes == {
        "wide.png": (8, 24),
        "high.png": (24, 8),
        "dot.png": (1, 1),
        "line.png": (1, 32),
    }


def test_a_panorama_is_looked_at_small() -> None:
    for shape in ((449, 20_000, 3), (30_000, 3, 4), (1, 90_000, 3)):
        small = explanation._scaled(np.zeros(shape, np.uint8))
        assert max(small.shape[:2]) == 2048
        assert min(small.shape[:2]) >= 1
    assert explanation._scaled(np.zeros((500, 1_000, 3), np.uint8)).shape == (448, 896, 3)


def test_what_a_model_cannot_see_has_no_share(base: Collection, tmp_path: Path) -> None:
    cut_out = np.zeros((200, 200, 4), np.uint8)
    cut_out[60:140, 60:140] = (200, 30, 30, 255)
    cut_out[60:140, 100:140, :3] = (20, 220, 20)
    Image.fromarray(cut_out).save(tmp_path / "cut-out.png")
    with Collection.create(tmp_path / "c") as collection:
        collection.add(read_corpus([tmp_path / "cut-out.png"]))
        values = grid_of(explain(collection, "an apple", "cut-out.png")).values
    assert np.abs(values[3:5, 3:5]).min() > 1e-4
    for edge in (values[0], values[-1], values[:, 0], values[:, -1]):
        np.testing.assert_allclose(edge, 0, atol=1e-6)


def test_patches_are_the_encoders_own(
    muomni_checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    with Collection.create(tmp_path / "c", model=muomni_checkpoint) as collection:
        collection.add(read_corpus([folder / "panda-tower.png"]))
        found = explain(collection, "robin", "panda-tower.png", patches=True)
        encoder: Any = collection.model.encoder(Modality.IMAGE)
        pixels = decode_image((folder / "panda-tower.png").read_bytes(), "panda-tower.png")
        [piece] = encoder.prepare(pixels)
        direction = collection.resolve(Query.text("robin"))
        covered = explain(collection, "robin", "panda-tower.png")
    grid = grid_of(found)
    assert grid.how == "patches"
    np.testing.assert_allclose(grid.values, encoder.encode_segments(piece) @ direction, atol=1e-6)
    assert grid.strengths().min() == 0
    assert grid.strengths().max() == pytest.approx(1)
    assert grid_of(covered).how == "covered"


def test_a_model_without_patches_says_so(base: Collection) -> None:
    with pytest.raises(InvalidInput, match="no vectors for the patches"):
        explain(base, "dog", "panda-tower.png", patches=True)


# ---- sounds --------------------------------------------------------------------------------


def test_the_best_window_lies_on_the_event(base: Collection, folder: Path) -> None:
    found = explain(base, Query.audio(folder / "query.wav"), "beep.wav")
    curve = curve_of(found)
    assert abs(curve.best.start - 3_000) <= 500
    assert curve.windows[0, 0] == 0
    assert curve.windows[-1, 1] == 7_000
    # The silence before is farther from the beep than the beep.
    assert curve.cosines.max() > curve.cosines[0] + 0.2


def test_an_encoder_of_steps_is_asked_for_them(
    muomni_checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    with Collection.create(tmp_path / "c", model=muomni_checkpoint) as collection:
        collection.add(read_corpus([folder / "beep.wav"]))
        curve = curve_of(explain(collection, Query.audio(folder / "query.wav"), "beep.wav"))
    assert abs(curve.best.start - 3_000) <= 500
    hops = np.diff(curve.windows[:, 0])
    assert hops.min() >= 79
    assert hops.max() <= 81
    assert curve.windows[-1, 1] == 7_000


def test_of_a_long_sound_the_segment_that_was_found_is_explained(
    hashed: Collection, tmp_path: Path, folder: Path
) -> None:
    sound = np.concatenate([np.zeros(20 * RATE, np.float32), tone(880, 1)])
    soundfile.write(tmp_path / "late.wav", sound, RATE)
    hashed.add(read_corpus([tmp_path / "late.wav"]))
    query = Query.audio(folder / "query.wav")
    [hit] = hashed.query(query, 1, where="key = 'late.wav'")
    found = explain(hashed, query, "late.wav")
    assert found.hit == hit
    assert found.hit.span == Span("ms", 19_000, 21_000)
    curve = curve_of(found)
    assert curve.windows[0, 0] == 19_000
    assert curve.windows[-1, 1] == 21_000
    assert curve.best == Span("ms", 20_000, 21_000)


def test_a_sound_shorter_than_a_window_is_one(hashed: Collection, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", tone(500, 0.01), RATE)
    hashed.add(read_corpus([tmp_path / "click.wav"]))
    curve = curve_of(explain(hashed, "a click", "click.wav"))
    assert curve.windows.tolist() == [[0, 10]]


def test_a_model_without_sounds_says_so(base: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    model = base.model
    load = model.encoder

    def without_sounds(modality: Modality) -> Any:
        if modality == Modality.AUDIO:
            raise CheckpointError("it has no tower for sounds")
        return load(modality)

    monkeypatch.setattr(model, "encoder", without_sounds)
    with pytest.raises(CheckpointError, match="no tower for sounds"):
        explain(base, "a beep", "beep.wav")


# ---- texts and queries ---------------------------------------------------------------------


def test_the_planted_word_carries_the_text(base: Collection) -> None:
    found = explain(base, "lava and eruptions", "planted.txt")
    words = words_of(found).words
    text = str(found.content)
    assert [text[word.start : word.end] for word in words] == text.split()
    assert max(words, key=lambda word: word.share).text == "volcano"


def test_of_a_long_text_the_passage_is_explained_in_places_of_the_whole(
    hashed: Collection,
) -> None:
    found = explain(hashed, "volcano", "long.txt")
    span = found.hit.span
    assert span is not None
    assert span.start > 0
    whole = hashed.get("long.txt")[0].text
    assert whole is not None
    words = words_of(found).words
    assert all(whole[word.start : word.end] == word.text for word in words)
    assert words[0].start >= span.start
    assert words[-1].end <= span.end
    assert max(words, key=lambda word: word.share).text == "volcano"


def test_a_words_share_is_the_cosine_with_it_less_the_cosine_without(base: Collection) -> None:
    found = explain(base, "lava", "planted.txt")
    [word] = [one for one in words_of(found).words if one.text == "volcano"]
    text = str(found.content)
    encoder = base.model.encoder(Modality.TEXT)
    with_it, without = (
        encoder.encode(encoder.prepare(one))[0]
        for one in (text, text[: word.start] + text[word.end :])
    )
    direction = base.resolve(Query.text("lava"))
    expected = float(direction @ with_it) - float(direction @ without)
    assert word.share == pytest.approx(expected, abs=1e-5)


def test_the_words_of_the_query_are_told_too(base: Collection) -> None:
    words = explain(base, "the volcano please", "planted.txt").query_words
    assert [word.text for word in words] == ["the", "volcano", "please"]
    assert max(words, key=lambda word: word.share).text == "volcano"
    [only] = explain(base, "volcano", "planted.txt").query_words
    assert only.share == pytest.approx(explain(base, "volcano", "planted.txt").hit.cosine, abs=1e-5)


def test_a_subtracted_text_has_shares_of_the_other_sign(base: Collection) -> None:
    plus = explain(base, Query.text("the volcano"), "planted.txt").query_words
    minus = explain(base, -Query.text("the volcano"), "planted.txt").query_words
    assert [one.share for one in minus] == pytest.approx([-one.share for one in plus])


def test_many_words_are_taken_apart_by_runs(
    hashed: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "MOST_WORDS", 4)
    text = "one two three four five six seven eight nine"
    hashed.add([Record("t", Modality.TEXT, "t", text=text)])
    words = words_of(explain(hashed, "nine", "t")).words
    assert [word.text for word in words] == ["one two three", "four five six", "seven eight nine"]
    assert words[-1].share == max(word.share for word in words)


def test_the_shares_of_the_parts_sum_up_to_the_cosine(base: Collection, folder: Path) -> None:
    query = (
        Query.text("a volcano")
        + 0.5 * Query.image(folder / "panda-tower.png")
        - 2 * Query.id("beep.wav")
        + Query.vector(np.arange(256) - 100)
    )
    found = explain(base, query, "planted.txt")
    assert [share.part for share in found.parts] == list(query.parts)
    assert sum(share.share for share in found.parts) == pytest.approx(found.hit.cosine, abs=1e-6)
    assert found.parts[2].share == pytest.approx(
        -2 * found.parts[2].cosine * found.parts[0].share / found.parts[0].cosine
    )
    assert found.query_words == ()


def test_cosine_and_score_are_those_of_the_search(hashed: Collection) -> None:
    for hit in hashed.query("a volcano", 10):
        found = explain(hashed, "a volcano", hit.key)
        assert (found.hit.score, found.hit.cosine) == (hit.score, hit.cosine)
        assert found.hit.span == hit.span


def test_an_item_that_the_query_names_is_explained_by_itself(base: Collection) -> None:
    found = explain(base, Query.id("planted.txt"), "planted.txt")
    assert found.hit.cosine == pytest.approx(1)


def test_the_answer_is_json(hashed: Collection) -> None:
    query = Query.text("dog") + Query.vector(np.ones(256))
    for key in ("panda-tower.png", "beep.wav", "planted.txt"):
        told = json.loads(json.dumps(explain(hashed, query, key).as_dict()))
        assert told["key"] == key
        assert told["evidence"]["kind"] in ("grid", "curve", "words")
        assert told["parts"][1]["value"] is None


# ---- what cannot be explained --------------------------------------------------------------


def test_a_missing_item_is_named(hashed: Collection) -> None:
    with pytest.raises(NotFound, match="'nowhere'"):
        explain(hashed, "dog", "nowhere")


def test_an_empty_query_is_none(hashed: Collection) -> None:
    for query in (Query(()), 5):
        with pytest.raises(InvalidInput, match="is no query"):
            explain(hashed, query, "t")  # type: ignore[arg-type]


def test_a_file_that_is_gone_is_named(hashed: Collection, tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (9, 9)).save(path)
    hashed.add(read_corpus([path]))
    path.unlink()
    with pytest.raises(NotFound, match=r"dot\.png.* is gone"):
        explain(hashed, "dog", "dot.png")


def test_a_file_that_changed_is_refused(hashed: Collection, tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (9, 9)).save(path)
    hashed.add(read_corpus([path]))
    Image.new("RGB", (9, 9), "red").save(path)
    with pytest.raises(Conflict, match=r"dot\.png.* has changed"):
        explain(hashed, "dog", "dot.png")


def test_a_text_is_explained_as_it_is_stored(hashed: Collection, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("a dog")
    hashed.add(read_corpus([path]))
    path.write_text("a cat")
    assert explain(hashed, "dog", "t.txt").content == "a dog"


@pytest.mark.parametrize("text", [None, "a dog"])
@pytest.mark.parametrize("source", [None, "/somewhere/dog.txt"])
def test_of_a_ready_vector_nothing_is_known(
    hashed: Collection, text: str | None, source: str | None
) -> None:
    vector = normalise(np.ones((1, 256)))[0]
    record = Record("v", Modality.TEXT, "v", vector=vector, text=text, source=source)
    hashed.add([record])
    with pytest.raises(InvalidInput, match="'v' came as a ready vector"):
        explain(hashed, "dog", "v")


# ---- the picture of it ---------------------------------------------------------------------


def test_the_overlay_is_as_large_as_the_picture_and_brightest_where_it_counts(
    panda: Explanation, tmp_path: Path
) -> None:
    write_heat(tmp_path / "heat.png", panda)
    drawn = Image.open(tmp_path / "heat.png")
    assert drawn.size == (512, 512)
    pixels = np.asarray(drawn.convert("RGB"), float)
    # Yellow has little blue, violet has little green.
    warmth = pixels[:, :, 1] - pixels[:, :, 2]
    assert warmth[:, :256].max() > warmth[:, 256:].max() + 20


def test_a_cut_out_and_a_huge_picture_are_drawn(hashed: Collection, tmp_path: Path) -> None:
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (4000, 1000), "red").save(tmp_path / "huge.png")
    hashed.add(read_corpus([tmp_path / "clear.png", tmp_path / "huge.png"]))
    for key, size in (("clear.png", (40, 20)), ("huge.png", (1600, 400))):
        write_heat(tmp_path / f"heat-{key}", explain(hashed, "dog", key))
        with Image.open(tmp_path / f"heat-{key}") as drawn:
            assert drawn.size == size


def test_the_curve_is_drawn(base: Collection, folder: Path, tmp_path: Path) -> None:
    found = explain(base, Query.audio(folder / "query.wav"), "beep.wav")
    write_heat(tmp_path / "curve.png", found)
    pixels = np.asarray(Image.open(tmp_path / "curve.png").convert("RGB"), int)
    # The best window is a yellow band in the middle.
    yellow = (pixels[:, :, 0] - pixels[:, :, 2]) > 50
    columns = np.flatnonzero(yellow.any(axis=0))
    assert abs(columns.mean() / pixels.shape[1] - 0.5) < 0.1


def test_a_text_has_no_picture_and_nothing_is_replaced(hashed: Collection, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a text"):
        write_heat(tmp_path / "t.png", explain(hashed, "dog", "planted.txt"))
    with pytest.raises(InvalidInput, match=r"name a \.png file"):
        write_heat(tmp_path / "t.jpg", explain(hashed, "dog", "panda-tower.png"))
    other = tmp_path / "notes.png"
    other.write_text("mine")
    with pytest.raises(Conflict, match="something else"):
        write_heat(other, explain(hashed, "dog", "panda-tower.png"))
    assert other.read_text() == "mine"
    assert not list(tmp_path.glob("t.*"))


def test_colours_get_lighter_all_the_way() -> None:
    shades = colours(np.linspace(0, 1, 101)).astype(float)
    lightness = shades @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -1).all()
    assert tuple(shades[0]) == (68, 1, 84)
    assert tuple(shades[-1]) == (253, 231, 37)
