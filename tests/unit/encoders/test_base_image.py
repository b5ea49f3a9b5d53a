"""The picture side of `base`: crop, cut-out, resize, scale, classes; and what pictures mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from muomni_search.encoders.base import image
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.encoders.base.session import Tower
from muomni_search.encoders.model import load_model
from muomni_search.items import Modality
from muomni_search.vectors import normalise

# Levels of 255: eight-bit rounding after each of the two passes.
ROUNDING = 2


# ---- an independent preprocessing ---------------------------------------------------------


def resized(picture: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """Bicubic (a = −½), the kernel widened when shrinking: separable, in float64, by loops."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    def matrix(length: int) -> NDArray[np.float64]:
        scale = length / size
        stretch = max(scale, 1.0)
        rows = np.zeros((size, length))
        for out in range(size):
            centre = (out + 0.5) * scale
            first = max(0, int(centre - 2 * stretch + 0.5))
            last = min(length, int(centre + 2 * stretch + 0.5))
            for source in range(first, last):
                rows[out, source] = kernel((source + 0.5 - centre) / stretch)
            rows[out] /= rows[out].sum()
        return rows

    # Across first, then down, with eight bits in between, as every eight-bit resizer does.
    across = np.einsum("ow,hwc->hoc", matrix(picture.shape[1]), picture)
    across = np.clip(np.rint(across), 0, 255)
    down = np.einsum("oh,hwc->owc", matrix(picture.shape[0]), across)
    return np.clip(np.rint(down), 0, 255)


def photo_by_the_book(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    height, width = picture.shape[:2]
    side = max(1, math.floor(min(height, width) * 15 / 16))
    top, left = (height - side) // 2, (width - side) // 2
    return resized(picture[top : top + side, left : left + side, :3].astype(np.float64), 224)


def cut_out_by_the_book(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    alpha = picture[:, :, 3]
    down, across = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    shape = picture[down[0] : down[-1] + 1, across[0] : across[-1] + 1].astype(np.float64)
    height, width = shape.shape[:2]
    side = math.floor(max(height, width) * 1.1) + 2
    square = np.full((side, side, 3), 255.0)
    top, left = (side - height) // 2, (side - width) // 2
    opacity = shape[:, :, 3:] / 255
    place = square[top : top + height, left : left + width]
    place[:] = np.rint(opacity * shape[:, :, :3] + (1 - opacity) * place)
    return resized(square, 224)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    small = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


@pytest.mark.parametrize(
    "size", [(300, 400), (640, 333), (224, 224), (50, 90), (239, 239), (16, 16)]
)
def test_a_photo_is_cropped_to_its_centre_and_resized(
    size: tuple[int, int], rng: np.random.Generator
) -> None:
    for picture in (smooth_noise(rng, *size), rng.integers(0, 256, (*size, 3), np.uint8)):
        found = image.fit_square(picture)
        assert found.shape == (224, 224, 3)
        assert found.dtype == np.uint8
        assert np.abs(found - photo_by_the_book(picture)).max() <= ROUNDING


@pytest.mark.parametrize("box", [(0, 0, 200, 150), (60, 20, 130, 90), (199, 149, 200, 150)])
def test_a_cut_out_is_cropped_to_what_is_visible_and_laid_on_white_with_a_margin(
    box: tuple[int, int, int, int], rng: np.random.Generator
) -> None:
    left, top, right, bottom = box
    picture = np.zeros((150, 200, 4), np.uint8)
    picture[:, :, :3] = smooth_noise(rng, 150, 200)
    alpha = rng.choice(np.array([1, 128, 255], np.uint8), (bottom - top, right - left))
    picture[top:bottom, left:right, 3] = alpha
    found = image.fit_square(picture)
    assert np.abs(found - cut_out_by_the_book(picture)).max() <= ROUNDING
    assert (found[0] == 255).all()
    assert (found[:, -1] == 255).all()


def test_a_picture_may_be_larger_than_pillow_holds_for_harmless(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever raised the limit of a picture has let it in; then it is seen as any other."""
    pictures = [smooth_noise(rng, 301, 500), rng.integers(0, 256, (300, 201, 4), np.uint8)]
    expected = [image.fit_square(picture) for picture in pictures]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for picture, own in zip(pictures, expected, strict=True):
        assert np.array_equal(image.fit_square(picture), own)


def test_what_no_pixel_shows_does_not_matter(rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (80, 80, 4), np.uint8)
    picture[:, :40, 3] = 0
    other = picture.copy()
    other[:, :40, :3] = 7
    assert np.array_equal(image.fit_square(picture), image.fit_square(other))


def test_a_picture_without_a_transparent_pixel_is_no_cut_out(rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (120, 90, 4), np.uint8)
    picture[:, :, 3] = 255
    assert np.array_equal(image.fit_square(picture), image.fit_square(picture[:, :, :3].copy()))


def test_a_picture_that_shows_nothing_is_white() -> None:
    assert (image.fit_square(np.zeros((30, 50, 4), np.uint8)) == 255).all()


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1)])
def test_a_thin_cut_out_does_not_ask_for_a_square_of_its_length(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "LARGEST_CUT_OUT", 1_000)
    picture = np.zeros((*shape, 4), np.uint8)
    picture[..., 3] = 254
    sizes = []
    new = Image.new
    monkeypatch.setattr(
        Image, "new", lambda mode, size, *rest: sizes.append(size) or new(mode, size, *rest)
    )
    found = image.fit_square(picture)
    assert max(max(size) for size in sizes) <= 1_102
    # A dark line across the middle of a white square.
    line = found[112] if shape[0] == 1 else found[:, 112]
    assert found[0].min() == 255
    assert line[112].max() < 255


def test_pixels_are_scaled_as_the_tower_was_trained(rng: np.random.Generator) -> None:
    squares = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    encoder = load_model("base").encoder(Modality.IMAGE)
    tower = Tower(
        packaged_directory() / "image.onnx",
        inputs=["image"],
        widths=[image.FEATURES, 1000],
        threads=1,
    )
    planes = [[(one[:, :, c].astype(np.float64) - 127) / 128 for c in range(3)] for one in squares]
    expected = tower(image=np.array(planes, np.float32))
    for found, right in zip(encoder.run_tower(list(squares)), expected, strict=True):
        assert np.allclose(found, right, atol=1e-4)


def test_the_fifty_likeliest_classes_are_kept(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((3, 1000)).astype(np.float32) * 4
    for found, row in zip(image.mixture(logits), logits.tolist(), strict=True):
        total = sum(math.exp(value / 2) for value in row)
        likeliest = sorted(range(1000), key=lambda number: -row[number])[:50]
        assert sorted(np.flatnonzero(found)) == sorted(likeliest)
        expected = [math.exp(row[number] / 2) / total for number in likeliest]
        assert found[likeliest] == pytest.approx(expected, rel=1e-4)


def by_layers(row: NDArray[Any]) -> NDArray[Any]:
    """Return a row whose layers have the lengths √½, ½ and ½."""
    parts = row[:1280], row[1280:2432], row[2432:]
    return np.concatenate(
        [
            part / math.sqrt((part**2).sum()) * length
            for part, length in zip(parts, (math.sqrt(0.5), 0.5, 0.5), strict=True)
        ]
    )


def test_features_are_rooted_centred_and_compared_with_landmarks(
    rng: np.random.Generator,
) -> None:
    features = rng.random((2, image.FEATURES), np.float32) - np.float32(0.2)
    mean = rng.random(image.FEATURES, np.float32) / 2
    marks = normalise(rng.standard_normal((4, image.FEATURES)))
    rows = image.unit_roots(features, mean)
    for found, row in zip(rows, features, strict=True):
        given = np.array([math.sqrt(max(value, 0)) for value in row.tolist()]) - mean
        assert np.allclose(found, by_layers(given), atol=1e-6)
    marks[3] = rows[1]
    for near, row in zip(image.nearness(rows, marks), rows, strict=True):
        expected = [math.exp(-((row - mark).astype(np.float64) ** 2).sum()) for mark in marks]
        assert near == pytest.approx(expected, abs=1e-5)
    assert image.nearness(rows, marks)[1, 3] == pytest.approx(1, abs=1e-5)


def test_the_learned_half_counts_by_its_length_and_less_what_drawings_have_in_common(
    rng: np.random.Generator,
) -> None:
    encoder = load_model("base").encoder(Modality.IMAGE)
    assert isinstance(encoder, image.ImageEncoder)
    with np.load(packaged_directory() / "image.head.npz", allow_pickle=False) as arrays:
        head = {name: arrays[name].astype(np.float64) for name in arrays.files}
    features = rng.random((3, image.FEATURES), np.float32)
    logits = rng.standard_normal((3, 1000)).astype(np.float32) * 4
    weights = image.mixture(logits).astype(np.float64)
    rooted = np.sqrt(features.astype(np.float64)) - head["feature_mean"]
    rows = np.stack([by_layers(row) for row in rooted])
    marks = head["landmarks"] / np.linalg.norm(head["landmarks"], axis=1, keepdims=True)
    near = np.exp(-((rows[:, None] - marks[None]) ** 2).sum(axis=2))
    named, learned = weights @ head["classes"], near @ head["coefficients"]
    named /= np.linalg.norm(named, axis=1, keepdims=True)
    length = np.linalg.norm(learned, axis=1, keepdims=True)
    joined = named + np.minimum(1, (length / 0.36) ** 2) * (learned / length - head["common"])
    expected = joined @ head["projection"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(encoder.project(features, logits), expected, atol=1e-4)


def clock(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((30, 30, 370, 370), outline="black", width=12, fill="#fffbe8")
    for hour in range(12):
        x, y = math.sin(hour * math.pi / 6), -math.cos(hour * math.pi / 6)
        tick = (200 + 140 * x, 200 + 140 * y, 200 + 160 * x, 200 + 160 * y)
        draw.line(tick, fill="black", width=6)
    draw.line((200, 200, 200, 90), fill="black", width=8)
    draw.line((200, 200, 270, 240), fill="black", width=10)


def traffic_light(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 0, 400, 400), fill="#8fc7f0")
    draw.rectangle((140, 30, 260, 330), fill="#222222")
    draw.rectangle((185, 330, 215, 400), fill="#444444")
    for y, colour in ((80, "red"), (180, "#5a4a00"), (280, "#005533")):
        draw.ellipse((160, y - 40, 240, y + 40), fill=colour)


@pytest.mark.parametrize(
    ("paint", "name"), [(clock, "a clock"), (traffic_light, "a traffic light")]
)
def test_pictures_are_near_the_words_for_them(
    paint: Callable[[ImageDraw.ImageDraw], None], name: str
) -> None:
    """Drawn shapes that anybody would name the same way, and that ImageNet has classes for."""
    picture = Image.new("RGB", (400, 400), "white")
    paint(ImageDraw.Draw(picture))
    model = load_model("base")
    eyes, words = model.encoder(Modality.IMAGE), model.encoder(Modality.TEXT)
    names = ["a clock", "a traffic light", "a dog", "a car", "a house", "an orange", "a violin"]
    seen = eyes.encode(eyes.prepare(np.asarray(picture)))[0]
    read = words.encode([words.prepare(one)[0] for one in names])
    assert names[int((read @ seen).argmax())] == name
