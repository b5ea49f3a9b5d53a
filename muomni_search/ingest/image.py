"""Pictures: bytes → upright RGB or RGBA pixels.

Whatever Pillow reads: JPEG, PNG, GIF, WebP, BMP, TIFF, … of any mode. The EXIF orientation is
applied; a palette, grey, 16-bit, CMYK or other picture becomes 8-bit RGB; transparency of any
kind is kept as straight alpha; of an animation the first frame counts. The header is checked
before a pixel is decoded, so that a picture of a few bytes cannot ask for all memory.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import UnreadableFile

__all__ = ["MAX_PIXELS", "decode_image"]

MAX_PIXELS = 100_000_000  # 300 MB as RGB; the largest common cameras stay below
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "F")


def decode_image(
    data: bytes, name: str | Path, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return a picture as (height, width, 3) RGB, or (height, width, 4) RGBA, uint8.

    Args:
        data: The file's content.
        name: What to call it in an error.
        max_pixels: Width times height that it may have.

    Raises:
        UnreadableFile: No picture, a damaged one, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # We have a limit of our own; Pillow's warnings about size, odd tags and profiles
            # concern nobody who searches.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image, name, max_pixels)
                image.load()
                return _pixels(ImageOps.exif_transpose(image))
    except UnreadableFile:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableFile(
            f"{name}: no picture that can be read", hint="convert it to PNG or JPEG"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "too many pixels", max_pixels) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"{name}: damaged or truncated picture ({reason})", hint="replace it by a whole copy"
        ) from error


def _check_size(image: Any, name: str | Path, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width} × {height} pixels", max_pixels)
    if not width or not height:
        raise UnreadableFile(f"{name}: a picture without pixels", hint="replace it")


def _too_large(name: str | Path, size: str, max_pixels: int) -> UnreadableFile:
    return UnreadableFile(
        f"{name}: {size}, more than the limit of {max_pixels}",
        hint="scale it down, or raise --max-pixels",
    )


def _pixels(image: Any) -> NDArray[np.uint8]:
    if image.mode in WIDE_MODES:
        return _from_wide(np.asarray(image))
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _from_wide(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale 16- and 32-bit grey to 8 bits: Pillow's own conversion clips at 255 instead."""
    wide = np.nan_to_num(grey.astype(np.float64))
    low, high = float(wide.min()), float(wide.max())
    if low >= 0 and high <= 255 and grey.dtype.kind == "f":
        ceiling = 255.0
    elif low >= 0 and high <= 65535:
        ceiling = 65535.0
    else:
        wide, ceiling = wide - low, max(high - low, 1.0)
    level = np.rint(wide * (255.0 / ceiling)).astype(np.uint8)
    return np.repeat(level[:, :, None], 3, axis=2)
