"""Pictures: EfficientNet-Lite0, a mixture of classes and a learned map, into the shared space.

Preprocessing, all of it:

1. A picture with transparency is a cut-out: it is cropped to what is visible, laid on white and
   padded to a square with a margin of 10 %, so that the whole shape is seen.
2. Any other picture is cropped to its central square, 15/16 of its shorter side.
3. The square is resized to 224 × 224 (bicubic, antialiased) and scaled to (x − 127) / 128.

The vector is unit(m · C) + unit(f · R), projected to 256 dimensions and scaled to unit length:
``m`` are the 50 likeliest of 1,000 ImageNet classes under a softmax of temperature 1.5, ``C`` the
text embeddings of those classes; ``f`` are the centred square roots of the 1,280 features beside
1,536 random ReLU features of them, and ``R`` a ridge regression to the names of drawings. The
first half is ConSE (Norouzi et al. 2014, "Zero-shot learning by convex combination of semantic
embeddings").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.base.session import Tower, load_head
from muomni_search.encoders.protocol import Piece
from muomni_search.items import DIM, Modality
from muomni_search.vectors import normalise

__all__ = ["ImageEncoder", "fit_square", "mixture"]

SIZE = 224  # pixels, both ways
CENTRE_SHARE = 0.9375
CUT_OUT_MARGIN = 1.1
WHITE = (255, 255, 255)
# A cut-out is scaled down to this before it is padded: a line of 1 × 50,000 pixels would ask for
# a square of 9 GB.
LARGEST_CUT_OUT = 10_000  # pixels, the longer side
TEMPERATURE = 1.5
CLASSES, TOP_CLASSES = 1000, 50
FEATURES = 1280
# Random ReLU features beside the given ones: a wide hidden layer whose first weights stay random.
HIDDEN = 1536
# The mean of the ReLU of a standard normal, which is about what a random projection gives; the
# gain makes them weigh like the given features.
HIDDEN_MEAN, HIDDEN_GAIN = 0.4, 1.2
WIDTH = 384  # of the text embeddings of class names
# Pictures in one run of the tower: 16 × 600 KB of input, and no slower than 64.
BATCH = 16


class ImageEncoder:
    """The picture side of the model.

    Args:
        tower: The file of EfficientNet-Lite0.
        head: The file with ``classes`` (1000, 384), ``feature_mean`` (1280,), ``signs``
            (1280, 192), ``ridge`` (2817, 384) and ``projection`` (384, 256).
        fingerprint: The model's.
        threads: How many threads encoding may use.
    """

    modality = Modality.IMAGE
    dim = DIM

    def __init__(self, tower: Path, head: Path, fingerprint: str, *, threads: int) -> None:
        self._tower = Tower(tower, inputs=["image"], widths=[FEATURES, CLASSES], threads=threads)
        self._fingerprint = fingerprint
        arrays = load_head(
            head,
            classes=(CLASSES, WIDTH),
            feature_mean=(FEATURES,),
            signs=(FEATURES, HIDDEN // 8),
            ridge=(FEATURES + HIDDEN + 1, WIDTH),
            projection=(WIDTH, DIM),
        )
        self._classes = arrays["classes"]
        self._mean = arrays["feature_mean"]
        self._signs = unpack_signs(arrays["signs"])
        self._ridge = arrays["ridge"]
        self._projection = arrays["projection"]

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self._fingerprint

    def prepare(self, content: NDArray[np.uint8]) -> list[Piece]:
        """Return one piece, the picture as (224, 224, 3) uint8."""
        return [Piece(fit_square(content))]

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        vectors = np.empty((len(batch), DIM), np.float32)
        for start in range(0, len(batch), BATCH):
            features, logits = self.run_tower(
                [piece.data for piece in batch[start : start + BATCH]]
            )
            vectors[start : start + BATCH] = self.project(features, logits)
        return vectors

    def run_tower(self, squares: Sequence[Any]) -> list[NDArray[np.float32]]:
        """Return features (n, 1280) and logits (n, 1000) of (224, 224, 3) uint8 squares."""
        pixels = (np.stack(squares).astype(np.float32) - 127.0) / 128.0
        return self._tower(image=np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))

    def project(
        self, features: NDArray[np.float32], logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return (n, 256) unit rows from what the tower gives."""
        named = normalise(mixture(logits) @ self._classes)
        learned = normalise(ridge_input(features, self._mean, self._signs) @ self._ridge)
        return normalise((named + learned) @ self._projection)


def mixture(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights (n, 1000) of the likeliest classes, zero for all others."""
    scaled = (logits - logits.max(axis=1, keepdims=True)) / TEMPERATURE
    weights = np.exp(scaled)
    weights /= weights.sum(axis=1, keepdims=True)
    threshold = np.partition(weights, -TOP_CLASSES, axis=1)[:, -TOP_CLASSES, None]
    kept: NDArray[np.float32] = np.where(weights >= threshold, weights, np.float32(0))
    return kept


def root(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the square roots of features, which tames their few large values."""
    rooted: NDArray[np.float32] = np.sqrt(np.maximum(features, 0))
    return rooted


def ridge_input(
    features: NDArray[np.float32], mean: NDArray[np.float32], signs: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the regression's input (n, 2817): unit roots, their random features, a 1."""
    given = normalise(root(features) - mean)
    hidden = np.maximum(given @ signs, 0) - np.float32(HIDDEN_MEAN)
    ones = np.ones((len(features), 1), np.float32)
    return np.concatenate([given, hidden * np.float32(HIDDEN_GAIN / HIDDEN**0.5), ones], axis=1)


def unpack_signs(packed: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the random projection (1280, 1536) of -1 and 1 from its bits, eight a number."""
    bits = np.unpackbits(packed.astype(np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def fit_square(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture (h, w, 3 or 4) as the (224, 224, 3) square that the tower sees."""
    from PIL import Image

    image = Image.fromarray(picture)
    if picture.shape[2] == 4 and picture[:, :, 3].min() < 255:
        square = _cut_out(image)
    else:
        square = _centre(image.convert("RGB"))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _cut_out(image: Any) -> Any:
    from PIL import Image

    visible = image.getchannel("A").getbbox()
    if visible:
        image = image.crop(visible)
    if max(image.size) > LARGEST_CUT_OUT:
        image.thumbnail((LARGEST_CUT_OUT, LARGEST_CUT_OUT))
    side = int(max(image.size) * CUT_OUT_MARGIN) + 2
    corner = ((side - image.width) // 2, (side - image.height) // 2)
    square = Image.new("RGB", (side, side), WHITE)
    square.paste(image, corner, mask=image.getchannel("A"))
    return square


def _centre(image: Any) -> Any:
    side = max(1, int(min(image.size) * CENTRE_SHARE))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
