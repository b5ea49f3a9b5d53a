"""Pictures of every kind become upright 8-bit pixels; the others are refused with a reason."""

from __future__ import annotations

import io
import resource
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from muomni_search.errors import NotFound, UnreadableFile
from muomni_search.ingest.image import decode_image
from muomni_search.ingest.read import Limits, decode, read_content, read_file
from muomni_search.items import Modality

HEIGHT, WIDTH = 24, 32
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> NDArray[np.uint8]:
    """Return a picture (24, 32, 3) with another colour in each corner: no turn leaves it alike."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:12, :16], pixels[:12, 16:] = RED, GREEN
    pixels[12:, :16], pixels[12:, 16:] = BLUE, WHITE
    return pixels


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """Return a PNG made by hand: of a size, bits a sample, kind of colour and filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IEND", b"")])


def peak_bytes() -> int:
    """Return the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- kinds of pictures -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "AVIF"])
def test_a_picture_of_any_format_keeps_its_pixels(kind: str) -> None:
    options = {
        "WEBP": {"lossless": True},
        "ICO": {"sizes": [(WIDTH, HEIGHT)]},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    pixels = decode_image(encoded(corners(), kind, **options.get(kind, {})), "x")
    assert (pixels.dtype, pixels.shape[:2]) == (np.uint8, (HEIGHT, WIDTH))
    assert np.abs(pixels[:, :, :3].astype(int) - corners()).max() <= (3 if kind == "AVIF" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_stands_upright(orientation: int, kind: str) -> None:
    upright = corners()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),  # shown turned to the right, so stored turned to the left
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(stored), kind, exif=exif)
    pixels = decode_image(data, "x")
    assert pixels.shape == upright.shape
    for row, column in ((4, 4), (4, 28), (20, 4), (20, 28)):
        assert np.abs(pixels[row, column].astype(int) - upright[row, column]).max() < 40


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode_image(encoded(corners(), "PNG", exif=exif), "x"), corners())


def test_damaged_exif_data_does_not_cost_the_picture(rng: np.random.Generator) -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", rng.bytes(40)):
        pixels = decode_image(encoded(corners(), "PNG", exif=exif), "x")
        assert np.array_equal(pixels, corners())


def test_a_turned_picture_keeps_its_transparency() -> None:
    image = Image.fromarray(corners()).quantize(4)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, "PNG", transparency=image.getpixel((0, 0)), exif=exif)
    pixels = decode_image(data, "x")
    assert pixels.shape == (WIDTH, HEIGHT, 4)
    assert pixels[0, -1, 3] == 0  # the upper left went to the upper right
    assert pixels[-1, -1, 3] == 255


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_straight_alpha_comes_out_as_it_went_in(kind: str, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_image(encoded(pixels, kind, **options), "x"), pixels)


def test_grey_with_alpha_is_spread_over_the_colours(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 2), dtype=np.uint8)
    found = decode_image(encoded(Image.fromarray(pixels, "LA"), "PNG"), "x")
    assert np.array_equal(found, pixels[:, :, [0, 0, 0, 1]])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_becomes_alpha(kind: str) -> None:
    image = Image.fromarray(corners()).quantize(4)
    pixels = decode_image(encoded(image, kind, transparency=image.getpixel((20, 20))), "x")
    assert pixels.shape == (HEIGHT, WIDTH, 4)
    assert tuple(pixels[0, 0]) == (*RED, 255)
    assert tuple(pixels[20, 20, 3:]) == tuple(pixels[20, 31, 3:]) != tuple(pixels[0, 0, 3:])


def test_a_palette_with_degrees_of_transparency_becomes_alpha() -> None:
    image = Image.fromarray(np.arange(4, dtype=np.uint8)[None].repeat(2, 0), "P")
    image.putpalette([*RED, *GREEN, *BLUE, *WHITE])
    pixels = decode_image(encoded(image, "PNG", transparency=bytes([0, 85, 170, 255])), "x")
    assert pixels[0].tolist() == [[*RED, 0], [*GREEN, 85], [*BLUE, 170], [*WHITE, 255]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_is_scaled_and_not_clipped(kind: str) -> None:
    wide = np.linspace(0, 65_535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    pixels = decode_image(encoded(wide, kind), "x")
    assert np.array_equal(pixels, np.rint(wide / 257).astype(np.uint8)[:, :, None].repeat(3, 2))


def test_grey_of_sixteen_bits_keeps_its_transparent_level() -> None:
    rows = b"\0" + struct.pack(">3H", 65_535, 30_000, 0)
    data = png(3, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 30_000)))
    assert decode_image(data, "x")[0].tolist() == [[255] * 4, [117, 117, 117, 0], [0, 0, 0, 255]]


@pytest.mark.parametrize(("colour", "samples"), [(2, 3), (6, 4), (4, 2)])
def test_colours_of_sixteen_bits_keep_their_upper_half(
    colour: int, samples: int, rng: np.random.Generator
) -> None:
    wide = rng.integers(0, 65_536, (5, 7, samples)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    channels = [0, 0, 0, 1] if samples == 2 else list(range(samples))
    found = decode_image(png(7, 5, 16, colour, rows), "x")
    assert np.abs(found - (wide / 257)[:, :, channels]).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0, 65_535.0])
def test_floating_point_grey_is_scaled_by_its_range(top: float) -> None:
    grey = np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)
    found = decode_image(encoded(grey, "TIFF"), "x")[:, :, 1]
    assert np.array_equal(found.ravel(), np.arange(256))


def test_grey_that_is_negative_or_no_number_is_still_a_picture() -> None:
    deep = np.array([[-1_000, 0, 1_000]], np.int32)
    assert decode_image(encoded(deep, "TIFF"), "x")[0, :, 0].tolist() == [0, 128, 255]
    grey = np.array([[np.nan, np.inf, -np.inf, 3e38, -3e38]], np.float32)
    assert decode_image(encoded(grey, "TIFF"), "x")[0, :, 0].tolist() == [128, 128, 128, 255, 0]


def test_a_cmyk_jpeg_shows_its_colours() -> None:
    data = encoded(Image.fromarray(corners()).convert("CMYK"), "JPEG", quality=95)
    pixels = decode_image(data, "x")
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels[4, 4].astype(int) - RED).max() < 16
    assert np.abs(pixels[20, 28].astype(int) - WHITE).max() < 16


@pytest.mark.parametrize("mode", ["L", "1", "LAB", "YCbCr"])
def test_other_modes_become_colours(mode: str, rng: np.random.Generator) -> None:
    if mode == "LAB":
        image = Image.new("LAB", (WIDTH, HEIGHT), (255, 128, 128))
    else:
        image = Image.fromarray(np.full((HEIGHT, WIDTH, 3), 255, np.uint8)).convert(mode)
    pixels = decode_image(encoded(image, "TIFF"), "x")
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.min() >= 253


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert np.array_equal(
        np.unique(decode_image(data, "x")[:, :, :3].reshape(-1, 3), axis=0), [RED]
    )


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_picture_is_refused(kind: str, rng: np.random.Generator) -> None:
    data = encoded(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    with pytest.raises(UnreadableFile, match=r"half\.img: .*(damaged|no picture)") as caught:
        decode_image(data[: len(data) // 2], "half.img")
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableFile, match=r"x\.png: "):
        decode(Modality.IMAGE, data, "x.png", Limits())


def test_a_program_that_draws_a_picture_is_not_run() -> None:
    with pytest.raises(UnreadableFile, match="no picture that can be read"):
        decode_image(encoded(corners(), "EPS"), "drawing.eps")


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(UnreadableFile, match=r"x: "):
        decode_image(png(0, 5, 8, 2, b""), "x")


@pytest.mark.parametrize("colour", [0, 2, 3, 6])
def test_a_picture_of_giant_size_is_refused_before_a_pixel_is_decoded(colour: int) -> None:
    rows = bytes(10_000_000)  # 10 MB of zeros are 10 KB in the file
    palette = [chunk(b"PLTE", bytes(3))] * (colour == 3)
    data = png(50_000, 50_000, 8, colour, rows, *palette)
    before = peak_bytes()
    with pytest.raises(UnreadableFile, match=r"giant\.png: .*more than the limit of 100000000"):
        decode_image(data, "giant.png")
    assert peak_bytes() - before < 50_000_000


def test_the_limit_on_pixels_is_the_one_asked_for() -> None:
    data = encoded(corners(), "PNG")
    assert decode_image(data, "x", max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UnreadableFile, match="32 × 24 pixels, more than the limit of 767"):
        decode_image(data, "x", max_pixels=HEIGHT * WIDTH - 1)
    # Above Pillow's own limit too: the header is let through, and then there are no rows.
    with pytest.raises(UnreadableFile, match="damaged or truncated"):
        decode_image(png(400_000, 500, 1, 0, b""), "x", max_pixels=200_000_000)


def test_the_picture_in_an_icon_is_held_to_the_limit_too() -> None:
    inner = encoded(Image.new("L", (300, 300)), "PNG")
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    with pytest.raises(UnreadableFile, match="more than the limit of 1000"):
        decode_image(icon, "x.ico", max_pixels=1000)


def test_the_limit_on_bytes_holds_before_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(corners(), "PNG"))
    size = path.stat().st_size
    assert len(read_file(Modality.IMAGE, path, Limits(max_bytes=size))) == size
    with pytest.raises(UnreadableFile, match=f"x.png: {size} bytes, more than the limit of"):
        read_file(Modality.IMAGE, path, Limits(max_bytes=size - 1))
    with (tmp_path / "holes.png").open("wb") as file:
        file.truncate(10**12)  # a file of a terabyte without a byte on the disk
    with pytest.raises(UnreadableFile, match="1000000000000 bytes"):
        read_file(Modality.IMAGE, tmp_path / "holes.png", Limits())


def test_a_picture_of_a_query_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(corners(), "PNG"))
    assert np.array_equal(np.asarray(read_content(Modality.IMAGE, path)), corners())
    path.write_bytes(b"")
    with pytest.raises(UnreadableFile, match="an empty file"):
        read_content(Modality.IMAGE, path)
    for missing in (tmp_path / "no.png", tmp_path / "a\0b", path / "below.png"):
        with pytest.raises((NotFound, UnreadableFile)):
            read_content(Modality.IMAGE, missing)
    with pytest.raises(UnreadableFile, match="no file"):
        read_content(Modality.IMAGE, tmp_path)
    with pytest.raises(UnreadableFile):
        read_content(Modality.IMAGE, tmp_path / ("x" * 300))


# ---- threads, and chance ---------------------------------------------------------------------


def test_many_threads_decode_without_a_warning_and_leave_the_switches_alone() -> None:
    # A truncated EXIF makes Pillow warn; with `error`, a warning would damage the picture.
    data = encoded(corners(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09" + bytes(9))
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(200):
                assert np.array_equal(decode_image(data, "x", max_pixels=10**9), corners())
        except BaseException as error:  # noqa: BLE001  (of a thread: told below)
            failures.append(error)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert not failures
    assert warnings.filters == before
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "AVIF"])
def test_damage_gives_pixels_or_our_error_and_nothing_else(
    kind: str, rng: np.random.Generator, damage: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = encoded(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), kind)
    refused = 0
    for data in damage(whole):
        try:
            pixels = decode_image(data, "damaged", max_pixels=1_000_000)
        except UnreadableFile as error:
            refused += error.what.startswith("damaged: ") and "\n" not in error.what
            continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] in (3, 4)
        assert 0 < pixels.shape[0] * pixels.shape[1] <= 1_000_000
    assert refused > 10
    assert capfd.readouterr() == ("", "")
