"""μOmni's network behind the encoder protocol: words, pictures and sounds to unit vectors.

Preprocessing, all of it:

- **Text**: the checkpoint's own sentencepiece tokenizer, a BOS token in front. Up to the context
  (512 tokens) is one segment; a longer text becomes passages of as many whole sentences as fit.
- **Pictures**: what is transparent becomes white, then RGB; resized to 224 × 224 without keeping
  the aspect (bilinear, antialiased), scaled to [0, 1].
- **Sounds**: mono at 16 kHz. Up to 12 s are one segment, a longer sound becomes windows of 10 s
  that overlap by 2 s; each a mel spectrogram of 128 bands, without a logarithm.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from muomni_search.encoders.muomni.aut import mel_spectrogram
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.protocol import Piece
from muomni_search.encoders.segments import length_groups, text_pieces, windows
from muomni_search.errors import CheckpointError, InvalidInput
from muomni_search.items import DIM, Modality
from muomni_search.vectors import check_vectors

__all__ = ["AudioEncoder", "ImageEncoder", "TextEncoder", "Tokenizer", "train_tokenizer"]

BOS = 1
# Tokens, pictures and mel frames in one run of a tower.
BATCH_TOKENS, BATCH_PICTURES, BATCH_FRAMES = 4096, 16, 8_000


class Tokenizer:
    """A sentencepiece model: text to token ids and where each lies in the text.

    Args:
        path: The file ``tokenizer.model``.
        vocabulary: How many tokens the network knows.

    Raises:
        CheckpointError: It is no tokenizer, or one of another vocabulary.
    """

    def __init__(self, path: Path, vocabulary: int) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            content = path.read_bytes()
            if not content:  # of which sentencepiece makes one that knows nothing
                raise ValueError("it is empty")
            self._model = SentencePieceProcessor(model_proto=content)
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is no sentencepiece tokenizer", hint="copy it again"
            ) from error
        if self._model.vocab_size() > vocabulary:
            raise CheckpointError(
                f"{path} has {self._model.vocab_size()} tokens, and the network beside it knows "
                f"{vocabulary}",
                hint="take the tokenizer that the network was trained with",
            )

    @property
    def size(self) -> int:
        """How many pieces it knows."""
        return int(self._model.vocab_size())

    def ids(self, text: str) -> NDArray[np.int64]:
        """Return the ids (T,) of a text's tokens."""
        return np.array(self._model.encode(text), np.int64)

    def __call__(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids (T,) and the offsets (T, 2) in characters of a text's tokens."""
        found = self._model.encode(text, out_type="offset_mapping")
        offsets = np.array(found["offsets"], np.int64).reshape(-1, 2)
        return np.array(found["ids"], np.int64), offsets


def train_tokenizer(texts: Sequence[str], vocabulary: int, *, fold_case: bool) -> bytes:
    """Return a sentencepiece model of byte-pair codes (Sennrich et al. 2016), learned from texts.

    Args:
        texts: What it should be good at.
        vocabulary: The most pieces; texts of few letters give fewer.
        fold_case: Whether capitals are treated as small letters.

    Raises:
        InvalidInput: The texts have more letters than there may be pieces, or there are none.
    """
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=vocabulary,
            model_type="bpe",
            normalization_rule_name="nmt_nfkc_cf" if fold_case else "nmt_nfkc",
            byte_fallback=False,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        what = f"no tokenizer of {vocabulary} pieces can be learned from {len(texts)} texts"
        # "Vocabulary size is smaller than required_chars. 8 vs 16": each letter is a piece.
        if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            raise InvalidInput(
                f"{what}: their letters alone need {least[1]}",
                hint="raise towers.text.vocabulary",
            ) from error
        raise InvalidInput(
            f"{what}: {str(error).splitlines()[0]}", hint="give more texts, and shorter ones"
        ) from error
    return model.getvalue()


class _Encoder:
    """What the three encoders share: the network and the fingerprint."""

    modality: Modality
    dim = DIM

    def __init__(self, network: MuOmni, fingerprint: str) -> None:
        self._network = network
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self._fingerprint


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows (…, 256) scaled to unit length.

    Raises:
        CheckpointError: One has no direction: weights so large that float32 overflows make zeros.
    """
    try:
        return check_vectors(rows.reshape(-1, DIM), "the vectors").reshape(rows.shape)
    except InvalidInput as error:
        raise CheckpointError(
            "the model's weights make vectors of zeros, NaN or infinity",
            hint="train it anew, with a lower learning_rate",
        ) from error


class TextEncoder(_Encoder):
    """The side of words: Thinker, the mean over all tokens of a passage.

    Args:
        network: A network with the tower for words.
        tokenizer: What it was trained with.
        fingerprint: The model's.
    """

    modality = Modality.TEXT

    def __init__(self, network: MuOmni, tokenizer: Tokenizer, fingerprint: str) -> None:
        super().__init__(network, fingerprint)
        self._tokenizer = tokenizer
        self._room = network.thinker.config.context - 1 if network.thinker else 0

    def prepare(self, content: str) -> list[Piece]:
        """Return a piece of token ids for each passage of a text, with its span in characters.

        Raises:
            InvalidInput: The text has no words.
        """
        return text_pieces(content, self._tokenizer, _begun, self._room)

    @torch.inference_mode()
    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        rows = np.empty((len(batch), DIM), np.float32)
        lengths = np.array([len(piece.data) for piece in batch], np.int64)
        for group in length_groups(lengths, BATCH_TOKENS):
            ids = np.zeros((len(group), int(lengths[group].max())), np.int64)
            for row, number in enumerate(group):
                ids[row, : lengths[number]] = batch[number].data
            vectors = self._network.embed_text(
                torch.from_numpy(ids), torch.from_numpy(lengths[group])
            )
            rows[group] = vectors.numpy()
        return _unit(rows)


class ImageEncoder(_Encoder):
    """The side of pictures: ViT-Tiny's class token through its projector.

    Args:
        network: A network with the tower for pictures and its projector.
        fingerprint: The model's.
    """

    modality = Modality.IMAGE

    def __init__(self, network: MuOmni, fingerprint: str) -> None:
        super().__init__(network, fingerprint)
        self._size = network.vision_encoder.config.size if network.vision_encoder else 0

    def prepare(self, content: NDArray[np.uint8]) -> list[Piece]:
        """Return one piece, the picture as (224, 224, 3) uint8."""
        return [Piece(squeeze(content, self._size))]

    @torch.inference_mode()
    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        rows = np.empty((len(batch), DIM), np.float32)
        for start in range(0, len(batch), BATCH_PICTURES):
            block = slice(start, start + BATCH_PICTURES)
            rows[block] = self._network.embed_images(_pixels(batch[block])).numpy()
        return _unit(rows)

    @torch.inference_mode()
    def encode_segments(self, piece: Piece) -> NDArray[np.float32]:
        """Return the unit vectors (14, 14, 256) of a picture's squares, row by row."""
        return _unit(self._network.embed_patches(_pixels([piece]))[0].numpy())


class AudioEncoder(_Encoder):
    """The side of sounds: AuT-Tiny's steps through their projector, and the mean of them.

    Args:
        network: A network with the tower for sounds and its projector.
        fingerprint: The model's.
    """

    modality = Modality.AUDIO

    def prepare(self, content: NDArray[np.float32]) -> list[Piece]:
        """Return a piece for each window of a waveform (samples,): its mel bands (T, 128)."""
        return [
            Piece(mel_spectrogram(content[start:end]), span)
            for start, end, span in windows(content)
        ]

    @torch.inference_mode()
    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        rows = np.empty((len(batch), DIM), np.float32)
        # Attention looks both ways and convolutions reach over the end, so padding would be
        # heard: only sounds of one length go together.
        alike: dict[int, list[int]] = defaultdict(list)
        for number, piece in enumerate(batch):
            alike[len(piece.data)].append(number)
        for frames, numbers in alike.items():
            together = max(1, BATCH_FRAMES // frames)
            for start in range(0, len(numbers), together):
                group = numbers[start : start + together]
                mel = torch.from_numpy(np.stack([batch[number].data for number in group]))
                rows[group] = self._network.embed_sounds(mel).numpy()
        return _unit(rows)

    @torch.inference_mode()
    def encode_segments(self, piece: Piece) -> NDArray[np.float32]:
        """Return the unit vectors (steps, 256) of a sound's steps, 80 ms each with 8 ×."""
        mel = torch.from_numpy(piece.data[None])
        return _unit(self._network.embed_steps(mel)[0].numpy())


def squeeze(
    picture: NDArray[np.uint8], size: int, *, keep_alpha: bool = False
) -> NDArray[np.uint8]:
    """Return a picture (h, w, 3 or 4) as the (size, size, 3) square that the tower sees.

    Args:
        picture: RGB, or RGBA with straight alpha.
        size: Pixels of the square, both ways.
        keep_alpha: Return (size, size, 4), with what is transparent left transparent.
    """
    from PIL import Image

    image = Image.fromarray(picture)
    if keep_alpha:
        image = image.convert("RGBA")
    elif image.mode == "RGBA":
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def _pixels(batch: Sequence[Piece]) -> torch.Tensor:
    stacked = np.stack([piece.data for piece in batch]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked, np.float32) / np.float32(255))


def _begun(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[BOS], ids])
