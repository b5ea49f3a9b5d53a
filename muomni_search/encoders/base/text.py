"""Words: MiniLM-L6, centred and projected into the shared space.

Preprocessing, all of it: the tokenizer that MiniLM was trained with (lower case, word pieces). A
text of up to 128 tokens is one segment. A longer one is cut into passages of whole sentences, as
many as fit into 128 tokens; a sentence that is longer still is cut between tokens. The vector is
the mean over the tokens' last states, scaled to unit length, less the mean of the class names'
embeddings, projected to 256 dimensions and scaled to unit length again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.base.session import MEND, Tower, load_head
from muomni_search.encoders.protocol import Piece
from muomni_search.encoders.segments import length_groups, text_pieces
from muomni_search.errors import CheckpointError
from muomni_search.items import DIM, Modality
from muomni_search.vectors import normalise

__all__ = ["TextEncoder"]

WIDTH = 384  # of MiniLM's embeddings
WINDOW_TOKENS = 128  # what MiniLM saw in training, the two marks at the ends among them
# Tokens, padding among them, in one run of the tower.
BATCH_TOKENS = 4096


class TextEncoder:
    """The side of words of the model.

    Args:
        tower: The file of MiniLM-L6.
        tokenizer: Its ``tokenizer.json``.
        head: The file with ``mean`` (384,) and ``projection`` (384, 256).
        fingerprint: The model's.
        threads: How many threads encoding may use.
    """

    modality = Modality.TEXT
    dim = DIM

    def __init__(
        self, tower: Path, tokenizer: Path, head: Path, fingerprint: str, *, threads: int
    ) -> None:
        from tokenizers import Tokenizer

        self._tower = Tower(tower, inputs=["ids", "mask"], widths=[WIDTH], threads=threads)
        self._fingerprint = fingerprint
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:
            raise CheckpointError(f"{tokenizer} is no tokenizer: {error}", hint=MEND) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        marks = [self._tokenizer.token_to_id(mark) for mark in ("[CLS]", "[SEP]")]
        if None in marks:
            raise CheckpointError(f"{tokenizer} lacks the marks [CLS] and [SEP]", hint=MEND)
        self._start, self._end = marks
        arrays = load_head(head, mean=(WIDTH,), projection=(WIDTH, DIM))
        self._mean = arrays["mean"]
        self._projection = arrays["projection"]

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self._fingerprint

    def prepare(self, content: str) -> list[Piece]:
        """Return a piece of token ids for each passage of a text, with its span in characters.

        Raises:
            InvalidInput: The text has no words.
        """
        return text_pieces(content, self._tokens, self._framed, WINDOW_TOKENS - 2)

    def _tokens(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        return np.asarray(encoding.ids, np.int64), offsets

    def _framed(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Put the marks of start and end around a passage."""
        return np.concatenate([[self._start], ids, [self._end]])

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        centred = self.embed(batch) - self._mean
        return normalise(centred @ self._projection)

    def embed(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return MiniLM's own unit embeddings (n, 384)."""
        lengths = np.array([len(piece.data) for piece in batch])
        embeddings = np.empty((len(batch), len(self._mean)), np.float32)
        # Texts of like length go together, so that little is padded.
        for group in length_groups(lengths, BATCH_TOKENS):
            ids = np.zeros((len(group), int(lengths[group].max())), np.int64)
            for row, number in enumerate(group):
                ids[row, : lengths[number]] = batch[number].data
            mask = (np.arange(ids.shape[1]) < lengths[group, None]).astype(np.int64)
            embeddings[group] = self._tower(ids=ids, mask=mask)[0]
        return normalise(embeddings)
