"""Pictures: bytes → upright RGB or RGBA pixels.

Whatever Pillow reads: JPEG, PNG, GIF, WebP, BMP, TIFF, … of any mode. The EXIF orientation is
applied; a palette, grey, 16-bit, CMYK or other picture becomes 8-bit RGB; transparency of any
kind is kept as straight alpha; of an animation the first frame counts. The header is checked
before a pixel is decoded, so that a picture of a few bytes cannot ask for all memory.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import UnreadableFile

__all__ = ["MAX_PIXELS", "decode_image"]

MAX_PIXELS = 100_000_000  # 300 MB as RGB; the largest common cameras stay below
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
ORIENTATION_TAG = 0x0112


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
    from PIL import Image, UnidentifiedImageError

    try:
        with PILLOW.at_ease(max_pixels), Image.open(io.BytesIO(data)) as image:
            if image.format == "EPS":  # a program, which Pillow would have Ghostscript run
                raise UnidentifiedImageError
            _check_size(image, name, max_pixels)
            image.load()
            _check_size(image, name, max_pixels)  # an icon's picture may be larger than it says
            return _pixels(_upright(image))
    except UnreadableFile:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableFile(
            f"{name}: damaged, or no picture that can be read",
            hint="replace it, or convert it to PNG",
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "too many pixels", max_pixels) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableFile(
            f"{name}: damaged or truncated picture ({reason})", hint="replace it by a whole copy"
        ) from error


class _Pillow:
    """Pillow's switches, which are the process's while pictures are decoded in many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._warnings = warnings.catch_warnings()
        self._own_limit: int | None = None

    @contextmanager
    def at_ease(self, max_pixels: int) -> Iterator[None]:
        """Let it take our limit for its own, and warn nobody of size, odd tags and profiles.

        The first thread that comes sets the switches, the last one that leaves sets them back.
        """
        from PIL import Image

        with self._lock:
            self._users += 1
            if self._users == 1:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")
                self._own_limit = Image.MAX_IMAGE_PIXELS
            if Image.MAX_IMAGE_PIXELS is not None:
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    Image.MAX_IMAGE_PIXELS = self._own_limit
                    self._warnings.__exit__(None, None, None)


PILLOW = _Pillow()


def _check_size(image: Any, name: str | Path, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(name, f"{width} × {height} pixels", max_pixels)
    if not width or not height:
        raise UnreadableFile(f"{name}: a picture without pixels", hint="replace it")


def _too_large(name: str | Path, size: str, max_pixels: int) -> UnreadableFile:
    return UnreadableFile(
        f"{name}: {size}, more than the limit of {max_pixels}",
        hint="scale it down, or raise the limit (--max-pixels of add and serve)",
    )


def _upright(image: Any) -> Any:
    """Apply the EXIF orientation; where the EXIF data is damaged there is none."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001  (whatever the parser stumbles over: the pixels are whole)
        return image
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    if orientation not in turn:
        return image
    turned = image.transpose(turn[orientation])
    turned.info = image.info
    return turned


def _pixels(image: Any) -> NDArray[np.uint8]:
    if image.mode in WIDE_MODES:
        return _from_wide(np.asarray(image), image.info.get("transparency"))
    transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _from_wide(grey: NDArray[Any], transparent: int | None) -> NDArray[np.uint8]:
    """Scale 16- and 32-bit grey to 8 bits: Pillow's own conversion clips at 255 instead."""
    wide: NDArray[np.float32] = np.where(np.isfinite(grey), grey, 0).astype(np.float32)
    low, high = float(wide.min()), float(wide.max())
    if low >= 0 and high <= 255 and grey.dtype.kind == "f":
        ceiling = 255.0 if high > 1 else 1.0
    elif low >= 0 and high <= 65535:
        ceiling = 65535.0
    else:
        wide *= 0.5  # so that the difference of the largest numbers is still one
        wide -= low / 2
        ceiling = max(high / 2 - low / 2, 0.5)
    level = np.rint(wide / ceiling * 255).astype(np.uint8)
    opaque = [] if transparent is None else [255 * (grey != transparent).astype(np.uint8)]
    return np.stack([level, level, level, *opaque], axis=2)
