"""Pictures: EfficientNet-Lite0, a mixture of classes and a learned map, into the shared space.

Preprocessing, all of it:

1. A picture with transparency is a cut-out: it is cropped to what is visible, laid on white and
   padded to a square with a margin of 10 %, so that the whole shape is seen.
2. Any other picture is cropped to its central square, 15/16 of its shorter side.
3. The square is resized to 224 × 224 (bicubic, antialiased) and scaled to (x − 127) / 128.

From its ninth block on the tower is there twice, in one file: as it came, which names classes, and
tuned on named drawings, which gives features (`scripts/base_model/tuning.py`).

The vector is unit(m · C) + w (unit(k · R) − c), projected to 256 dimensions and scaled to unit
length: ``m`` are the 50 likeliest of 1,000 ImageNet classes under a softmax of temperature 2,
``C`` the text embeddings of those classes; ``k`` says how near the picture's features are to those
of 3,072 drawings, exp(−|difference|²), and ``R`` is a kernel ridge regression on these to the names
of drawings; ``c`` is what drawings have in common, which would otherwise draw them all to the same
few words; ``w`` is less than 1 where k · R is short, as it is for what resembles no drawing.
Features are the means over the picture of the tuned tower's last layer and of one before it, and of
the other one's last: square roots, centred, each layer of unit length, the first counting a half.
The first half of the vector is ConSE (Norouzi et al. 2014, "Zero-shot learning by convex
combination of semantic embeddings"), the second Nyström's approximation (Williams and Seeger 2000,
"Using the Nyström method to speed up kernel machines").
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
TEMPERATURE = 2.0
CLASSES, TOP_CLASSES = 1000, 50
# The widths of the tuned tower's last layer, of one before it (in its block 15) and of the other
# one's last, and how much each counts in how near two pictures are: the last tells photographs
# apart, of which the tuned one learned nothing.
LAYERS = ((1280, 0.5), (1152, 0.25), (1280, 0.25))
FEATURES = sum(width for width, _ in LAYERS)
# Drawings that a picture's features are compared with.
LANDMARKS = 3072
# From this length on the learned half counts in full. Half of the drawings of a style and with a
# name that a fit had not seen were longer before the tower was tuned; now most are, and more here
# gains photographs nothing.
SURE = 0.36
WIDTH = 384  # of the text embeddings of class names
# Pictures in one run of the tower: 16 × 600 KB of input, and no slower than 64.
BATCH = 16


class ImageEncoder:
    """The picture side of the model.

    Args:
        tower: The file of EfficientNet-Lite0.
        head: The file with ``classes`` (1000, 384), ``feature_mean`` (3712,), ``landmarks``
            (3072, 3712) of any length, ``coefficients`` (3072, 384), ``common`` (384,) and
            ``projection`` (384, 256).
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
            landmarks=(LANDMARKS, FEATURES),
            coefficients=(LANDMARKS, WIDTH),
            common=(WIDTH,),
            projection=(WIDTH, DIM),
        )
        self._classes = arrays["classes"]
        self._mean = arrays["feature_mean"]
        # In place: `normalise` would hold several copies of 38 MB.
        self._landmarks = arrays["landmarks"]
        self._landmarks /= np.linalg.norm(self._landmarks, axis=1, keepdims=True)
        self._coefficients = arrays["coefficients"]
        self._common = arrays["common"]
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
        """Return features (n, 3712) and logits (n, 1000) of (224, 224, 3) uint8 squares."""
        pixels = (np.stack(squares).astype(np.float32) - 127.0) / 128.0
        return self._tower(image=np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))

    def project(
        self, features: NDArray[np.float32], logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return (n, 256) unit rows from what the tower gives."""
        near = nearness(unit_roots(features, self._mean), self._landmarks)
        learned = near @ self._coefficients
        return normalise(
            join(named_half(logits, self._classes), learned, self._common) @ self._projection
        )


def join(
    named: NDArray[np.float32], learned: NDArray[np.float32], common: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the sum of both halves (n, 384); the learned one counts by its length."""
    sure = np.minimum(np.linalg.norm(learned, axis=1, keepdims=True) / SURE, 1) ** 2
    joined: NDArray[np.float32] = named + sure * (normalise(learned) - common)
    return joined


def named_half(logits: NDArray[np.float32], classes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return unit rows (n, 384): the mean of the embeddings of the likeliest classes."""
    return normalise(mixture(logits) @ classes)


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


def unit_roots(features: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the centred square roots of features (n, 3712) as unit rows, layers by their share."""
    centred = root(features) - mean
    ends = np.cumsum([width for width, _ in LAYERS])[:-1]
    parts = [
        normalise(part) * np.float32(share**0.5)
        for part, (_, share) in zip(np.split(centred, ends, axis=1), LAYERS, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def nearness(rows: NDArray[np.float32], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return exp(−|difference|²) of unit rows: 1 where they are the same, towards 0."""
    near: NDArray[np.float32] = np.exp(2 * (rows @ landmarks.T - 1))
    return near


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
        image = _crop(image, visible)
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
    return _crop(image, (left, top, left + side, top + side))


def _crop(image: Any, box: tuple[int, int, int, int]) -> Any:
    """Return a part of a picture, however large: whoever let the picture in has set the limit."""
    from PIL import Image

    width, height = box[2] - box[0], box[3] - box[1]
    if Image.MAX_IMAGE_PIXELS is None or width * height <= Image.MAX_IMAGE_PIXELS:
        return image.crop(box)
    # ``crop`` takes so large a part for a bomb. Pixel by pixel it takes longer.
    return image.transform((width, height), Image.Transform.EXTENT, box, Image.Resampling.NEAREST)
