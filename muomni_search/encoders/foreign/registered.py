"""Functions as encoders, by name.

    def embed(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]: ...
    register_encoder("my-clip", embed)

or, so that the command line finds it too, an entry point of an installed package:

    [project.entry-points."muomni_search.encoders"]
    my-clip = "my_package.clip:embed"

A model on disk holds the name alone, never a module: opening one imports nothing but what is
installed under that name. Whether the function is the one that the model was learned with is seen
by what it says of a fixed content, the *probe*.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.protocol import Piece
from muomni_search.encoders.segments import SAMPLE_RATE, text_pieces, windows
from muomni_search.errors import CheckpointError, InvalidInput
from muomni_search.items import Content, Modality
from muomni_search.vectors import check_vectors

__all__ = [
    "ENTRY_POINTS",
    "Function",
    "FunctionEncoder",
    "find_function",
    "is_same_function",
    "passage_pieces",
    "register_encoder",
    "shown_picture",
    "word_tokens",
]

# Contents of one modality in, (n, d) numbers out.
Function = Callable[[Sequence[Any]], Any]

ENTRY_POINTS = "muomni_search.encoders"
PASSAGE_WORDS = 100
# A function gets pictures no larger than this: it shrinks them itself, and a batch must fit.
LONGER_PIXELS = 1_024
# What rounding on another machine may change of the cosine with the probe that was stored.
SAME_COSINE = 0.999

_functions: dict[str, Function] = {}
_lock = threading.Lock()


def register_encoder(name: str, function: Function) -> None:
    """Let models use a function as an encoder, by a name; again to replace it.

    Args:
        name: What models call it: letters, digits, ``-``, ``_`` and ``.``.
        function: Returns (n, d) finite numbers for a sequence of n contents of the modality that
            it is used for: texts; pictures, uint8 (height, width, 3), at most 1,024 pixels a side;
            or sounds, float32 (samples,) at 16 kHz, at most 12 s. It is called by one thread at a
            time.

    Raises:
        InvalidInput: The name is none, or the function cannot be called.
    """
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise InvalidInput(
            f"{name!r} is no name of an encoder", hint="use letters, digits, -, _ and ."
        )
    if not callable(function):
        raise InvalidInput(f"the encoder {name!r} cannot be called", hint="give a function")
    with _lock:
        _functions[name] = function


def find_function(name: str) -> Function | None:
    """Return the function that is registered, or installed, under a name; None when none is.

    Raises:
        CheckpointError: It is installed and cannot be imported.
    """
    with _lock:
        if name in _functions:
            return _functions[name]
    for point in entry_points(group=ENTRY_POINTS, name=name):
        try:
            found = point.load()
        except Exception as error:
            raise CheckpointError(
                f"the encoder {name!r} ({point.value}) cannot be imported: {error}",
                hint="mend or remove the package that it belongs to",
            ) from error
        register_encoder(name, found)
        return _functions[name]
    return None


class FunctionEncoder:
    """A function as an encoder, in a space of its own.

    Args:
        name: The function's.
        function: What turns contents into vectors.
        modality: What it reads.

    Raises:
        CheckpointError: It gives no vectors.
    """

    def __init__(self, name: str, function: Function, modality: Modality) -> None:
        self.modality = modality
        self._name = name
        self._function = function
        self._calling = threading.Lock()
        self.probe: NDArray[np.float32] = self._call([_probe(modality)])[0]
        """What it says of the probe, a unit vector (d,)."""
        self.dim = len(self.probe)

    def fingerprint(self) -> str:
        """Return the name and the width; ``is_same_function`` says whether the rest is the same."""
        return f"{self._name}:{self.dim}"

    def prepare(self, content: Any) -> list[Piece]:
        """Return a piece for each passage of a text or window of a sound, or a whole picture.

        Raises:
            InvalidInput: The text has no words.
        """
        if self.modality == Modality.TEXT:
            return passage_pieces(content, word_tokens, PASSAGE_WORDS)
        if self.modality == Modality.IMAGE:
            return [Piece(shown_picture(content, LONGER_PIXELS))]
        return [Piece(content[start:end], span) for start, end, span in windows(content)]

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, d) float32 unit rows.

        Raises:
            CheckpointError: The function fails, or gives something else.
        """
        if not batch:
            return np.empty((0, self.dim), np.float32)
        return self._call([piece.data for piece in batch], self.dim)

    def _call(self, contents: Sequence[Content], dim: int | None = None) -> NDArray[np.float32]:
        hint = "it must return (n, d) finite numbers for n contents"
        try:
            with self._calling:
                found = np.asarray(self._function(contents))
        except Exception as error:
            raise CheckpointError(
                f"the encoder {self._name!r} failed: {type(error).__name__}: {error}", hint=hint
            ) from error
        if found.ndim != 2 or len(found) != len(contents) or not found.shape[1]:
            raise CheckpointError(
                f"the encoder {self._name!r} gave {found.shape} for {len(contents)} contents",
                hint=hint,
            )
        try:
            return check_vectors(found, f"the encoder {self._name!r}", dim=dim or found.shape[1])
        except InvalidInput as error:
            raise CheckpointError(error.what, hint=hint) from error


def is_same_function(encoder: FunctionEncoder, probe: NDArray[np.float32]) -> bool:
    """Whether it says of the probe what was said when the probe was stored."""
    return probe.shape == encoder.probe.shape and float(probe @ encoder.probe) >= SAME_COSINE


# ---- contents ------------------------------------------------------------------------------------


def passage_pieces(
    text: str,
    tokenise: Callable[[str], tuple[NDArray[np.int64], NDArray[np.int64]]],
    room: int,
) -> list[Piece]:
    """Return a piece for each passage of a text: its characters, with where they lie.

    Args:
        text: The text.
        tokenise: Returns the ids (T,) and the offsets (T, 2) in characters of a text's tokens.
        room: The most tokens of a passage.

    Raises:
        InvalidInput: The text has no words.
    """
    return [
        Piece(text if piece.span is None else text[piece.span.start : piece.span.end], piece.span)
        for piece in text_pieces(text, tokenise, lambda ids: ids, room)
    ]


def word_tokens(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a number (T,) and the place (T, 2) in characters of each word of a text."""
    places = [match.span() for match in re.finditer(r"\w+", text)]
    return np.arange(len(places)), np.array(places, np.int64).reshape(-1, 2)


def shown_picture(picture: NDArray[np.uint8], longer: int) -> NDArray[np.uint8]:
    """Return a picture as (height, width, 3): on white where it is transparent, and not too large.

    Args:
        picture: RGB, or RGBA with straight alpha.
        longer: The most pixels a side.
    """
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((longer, longer), Image.Resampling.BICUBIC)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(image)


@cache
def _probe(modality: Modality) -> Any:
    """Return a content that is the same for ever."""
    if modality == Modality.TEXT:
        return "A small red bird sings in the rain."
    if modality == Modality.IMAGE:
        steps = np.linspace(0, 255, 64).astype(np.uint8)
        return np.stack(np.broadcast_arrays(steps, steps[:, None] // 2, np.uint8(220)), axis=-1)
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    return (0.5 * np.sin(2 * np.pi * (200 + 400 * time) * time)).astype(np.float32)
