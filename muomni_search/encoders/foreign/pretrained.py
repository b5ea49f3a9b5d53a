"""Pretrained models on disk: CLIP and its like, CLAP, sentence-transformers.

A folder as ``save_pretrained`` of Hugging Face's transformers writes it, or one of
sentence-transformers (with ``modules.json``). Nothing is downloaded, only safetensors are read, and
no code from the folder is run.

Preprocessing is what the folder says: its tokenizer, its image processor, its feature extractor. A
text that is longer than the model reads becomes passages of whole sentences; a sound, which comes
at 16 kHz and is brought to the model's rate, becomes windows that the model reads whole.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.description import file_hash
from muomni_search.encoders.foreign.registered import passage_pieces, shown_picture, word_tokens
from muomni_search.encoders.protocol import Encoder, Piece
from muomni_search.encoders.segments import SAMPLE_RATE, windows
from muomni_search.errors import CheckpointError, InvalidInput
from muomni_search.extras import load_extra
from muomni_search.items import Modality
from muomni_search.vectors import check_vectors

__all__ = ["files_fingerprint", "is_pretrained", "open_pretrained"]

EXTRA = "foreign"
CONFIG, MODULES = "config.json", "modules.json"
# What decides the vectors; a card or a picture beside it does not.
DECIDING = {".json", ".safetensors", ".txt", ".model"}
# Weights that only unpickling reads.
PICKLES = ("pytorch_model.bin", "pytorch_model.pt", "model.pt", "model.pkl")
# The parts of a sentence-transformers model that turn texts into vectors.
SENTENCE_MODULES = {"Transformer", "Pooling", "Normalize", "Dense", "LayerNorm"}
# Pieces in one run of the model.
BATCH = 16
# A picture is shrunk to this before it waits to be encoded.
LONGER_PIXELS = 2_048


def is_pretrained(directory: Path) -> bool:
    """Whether a directory is described as these libraries do; μOmni's names no ``model_type``."""
    if (directory / MODULES).is_file():
        return True
    try:
        said = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and "model_type" in said


def files_fingerprint(directory: Path) -> str:
    """Return the hash of the files that decide what vectors come out.

    Raises:
        CheckpointError: There are none, or one cannot be read.
    """
    places = sorted(
        path
        for path in (*directory.glob("*"), *directory.glob("*/*"))
        if path.suffix in DECIDING and path.is_file()
    )
    if not any(path.suffix == ".safetensors" for path in places):
        pickled = next((name for name in PICKLES if (directory / name).exists()), None)
        raise CheckpointError(
            f"{directory} holds no weights as safetensors"
            + (f", and {pickled} is a pickle, which could run code" if pickled else ""),
            hint="save it with safetensors: model.save_pretrained(DIR)",
        )
    hashes = {path.relative_to(directory).as_posix(): file_hash(path) for path in places}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def open_pretrained(directory: Path, modality: Modality, *, threads: int) -> Encoder:
    """Return the encoder of a modality; its vectors are in the model's own space.

    Args:
        directory: The model's.
        modality: What to read.
        threads: How many threads encoding may use.

    Raises:
        CheckpointError: It is damaged, of another kind, or does not read this modality.
        NotFound: The packages that run it are not installed.
    """
    fingerprint = files_fingerprint(directory)
    load_extra("transformers", extra=EXTRA)
    import torch

    torch.set_num_threads(threads)
    with _quiet(), _named(directory):
        if (directory / MODULES).exists():
            return _sentences(directory, modality, fingerprint)
        return _sides(directory, modality, fingerprint)


@contextmanager
def _named(directory: Path) -> Iterator[None]:
    """Turn whatever a library says of a folder into an error that names it."""
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{directory} cannot be loaded: {said[0]}",
            hint="check that it is whole, and that transformers knows a model of this type",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and remarks of transformers off the terminal."""
    logging = load_extra("transformers.utils.logging", extra=EXTRA)
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()


# Nothing from elsewhere, no code from the folder, no pickles.
SAFE = {"local_files_only": True, "trust_remote_code": False}


def _sides(directory: Path, modality: Modality, fingerprint: str) -> Encoder:
    """Return one side of a model with several, by the names that transformers gives them."""
    import transformers

    model = transformers.AutoModel.from_pretrained(directory, use_safetensors=True, **SAFE)
    side = f"get_{modality}_features"
    if not hasattr(model, side):
        kind = model.config.model_type
        raise CheckpointError(
            f"{directory}: a model of the type {kind!r} has no side that reads {modality} into "
            "the space of another",
            hint="CLIP, SigLIP and CLAP have; for words alone take a sentence-transformers model",
        )
    model.eval()
    sides = {Modality.TEXT: _TextSide, Modality.IMAGE: _ImageSide, Modality.AUDIO: _AudioSide}
    return sides[modality](directory, model, fingerprint)


def _sentences(directory: Path, modality: Modality, fingerprint: str) -> Encoder:
    """Return a sentence-transformers model."""
    if modality != Modality.TEXT:
        raise CheckpointError(
            f"{directory} is a sentence-transformers model, which reads text and no {modality}",
            hint="name the folder of a CLIP or CLAP model",
        )
    modules = json.loads((directory / MODULES).read_text(encoding="utf-8"))
    for module in modules:
        kind = str(module["type"])
        if (
            not kind.startswith("sentence_transformers.")
            or kind.rpartition(".")[2] not in SENTENCE_MODULES
        ):
            raise CheckpointError(
                f"{directory / MODULES}: a part of the type {kind!r} is not used here",
                hint=f"known are {', '.join(sorted(SENTENCE_MODULES))}",
            )
        place = directory / str(module["path"])
        for name in PICKLES:
            if (place / name).exists() and not (place / "model.safetensors").exists():
                raise CheckpointError(
                    f"{place / name} is a pickle, which could run code",
                    hint="save the model with safetensors",
                )
    library = load_extra("sentence_transformers", extra=EXTRA)
    model = library.SentenceTransformer(
        str(directory), device="cpu", model_kwargs={"use_safetensors": True}, **SAFE
    )
    return _Sentences(directory, model, fingerprint)


class _Pretrained:
    """What the encoders share."""

    modality: Modality
    dim: int

    def __init__(self, directory: Path, model: Any, fingerprint: str) -> None:
        self._directory = directory
        self._model = model
        self._fingerprint = fingerprint
        self._tokenising = threading.Lock()

    def fingerprint(self) -> str:
        """Return the hash of the model's files."""
        return self._fingerprint

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, d) float32 unit rows.

        Raises:
            CheckpointError: The model gives no finite vectors.
        """
        import torch

        rows = np.empty((len(batch), self.dim), np.float32)
        with torch.inference_mode(), _named(self._directory):
            for start in range(0, len(batch), BATCH):
                some = [piece.data for piece in batch[start : start + BATCH]]
                found = self._run(some)
                # Since version 5 transformers wraps the vectors.
                found = getattr(found, "pooler_output", found)
                try:
                    rows[start : start + BATCH] = check_vectors(
                        found.numpy(), str(self._directory), dim=self.dim
                    )
                except InvalidInput as error:
                    raise CheckpointError(error.what, hint=error.hint) from error
        return rows

    def _run(self, data: list[Any]) -> Any:
        raise NotImplementedError

    def _measure(self, content: Any) -> None:
        """Find the width of the vectors by encoding something."""
        import torch

        with torch.inference_mode():
            found = self._run([piece.data for piece in self.prepare(content)])
        self.dim = int(getattr(found, "pooler_output", found).shape[-1])

    def prepare(self, content: Any) -> list[Piece]:
        """Return the pieces of a content."""
        raise NotImplementedError

    def _tokens(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids (T,) and offsets (T, 2) of a text's tokens."""
        # A tokenizer keeps how it truncates and pads, so one thread at a time.
        with self._tokenising:
            if not self._tokenizer.is_fast:
                return word_tokens(text)
            found = self._tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
        offsets = np.array(found["offset_mapping"], np.int64).reshape(-1, 2)
        ids = np.array(found["input_ids"], np.int64)
        # Tokens of no characters would begin a passage where none is.
        there = offsets[:, 1] > offsets[:, 0]
        return ids[there], offsets[there]

    @property
    def _tokenizer(self) -> Any:
        raise NotImplementedError

    def _room(self, most: int) -> int:
        """Return how many tokens of a text fit, without the marks around them."""
        marks = int(self._tokenizer.num_special_tokens_to_add())
        # One that is not fast is asked for words, of which each may be several tokens.
        return max(1, (most - marks) if self._tokenizer.is_fast else (most - marks) // 3)


class _TextSide(_Pretrained):
    """The side for words of CLIP, SigLIP or CLAP."""

    modality = Modality.TEXT

    def __init__(self, directory: Path, model: Any, fingerprint: str) -> None:
        import transformers

        super().__init__(directory, model, fingerprint)
        self._words = transformers.AutoTokenizer.from_pretrained(directory, **SAFE)
        config = getattr(model.config, "text_config", model.config)
        positions = int(getattr(config, "max_position_embeddings", 512))
        self._most = min(int(self._words.model_max_length), positions)
        self._measure("a word")

    @property
    def _tokenizer(self) -> Any:
        return self._words

    def prepare(self, content: str) -> list[Piece]:
        """Return a piece for each passage of a text.

        Raises:
            InvalidInput: The text has no words.
        """
        return passage_pieces(content, self._tokens, self._room(self._most))

    def _run(self, data: list[Any]) -> Any:
        with self._tokenising:
            given = self._words(
                data, padding=True, truncation=True, max_length=self._most, return_tensors="pt"
            )
        known = {name: given[name] for name in ("input_ids", "attention_mask") if name in given}
        return self._model.get_text_features(**known)


class _ImageSide(_Pretrained):
    """The side for pictures of CLIP or SigLIP."""

    modality = Modality.IMAGE

    def __init__(self, directory: Path, model: Any, fingerprint: str) -> None:
        import transformers

        super().__init__(directory, model, fingerprint)
        self._processor = transformers.AutoImageProcessor.from_pretrained(directory, **SAFE)
        self._measure(np.full((32, 32, 3), 128, np.uint8))

    def prepare(self, content: NDArray[np.uint8]) -> list[Piece]:
        """Return one piece, the picture as the model sees it, float32 (3, h, w)."""
        picture = shown_picture(content, LONGER_PIXELS)
        given = self._processor(
            images=[picture], input_data_format="channels_last", return_tensors="np"
        )
        return [Piece(np.asarray(given["pixel_values"][0], np.float32))]

    def _run(self, data: list[Any]) -> Any:
        import torch

        return self._model.get_image_features(pixel_values=torch.from_numpy(np.stack(data)))


class _AudioSide(_Pretrained):
    """The side for sounds of CLAP."""

    modality = Modality.AUDIO

    def __init__(self, directory: Path, model: Any, fingerprint: str) -> None:
        import transformers

        super().__init__(directory, model, fingerprint)
        self._extractor = transformers.AutoFeatureExtractor.from_pretrained(directory, **SAFE)
        self._rate = int(self._extractor.sampling_rate)
        # Of a longer sound CLAP takes a part at random.
        most = int(self._extractor.nb_max_samples) * SAMPLE_RATE // self._rate
        self._most = min(most, 10 * SAMPLE_RATE)
        self._measure(np.zeros(SAMPLE_RATE, np.float32) + np.float32(0.01))

    def prepare(self, content: NDArray[np.float32]) -> list[Piece]:
        """Return a piece for each window of a waveform (samples,) at 16 kHz."""
        import soxr

        pieces = []
        for start, end, span in windows(content, whole=self._most):
            samples = soxr.resample(content[start:end], SAMPLE_RATE, self._rate, quality="HQ")
            given = self._extractor(
                samples[: self._extractor.nb_max_samples],
                sampling_rate=self._rate,
                return_tensors="np",
            )
            is_longer = given.get("is_longer", np.zeros((1, 1), bool))
            pieces.append(Piece((given["input_features"][0], np.asarray(is_longer)[0]), span))
        return pieces

    def _run(self, data: list[Any]) -> Any:
        import torch

        features, longer = (np.stack([one[place] for one in data]) for place in (0, 1))
        return self._model.get_audio_features(
            input_features=torch.from_numpy(features.astype(np.float32)),
            is_longer=torch.from_numpy(longer),
        )


class _Sentences(_Pretrained):
    """A sentence-transformers model: words alone."""

    modality = Modality.TEXT

    def __init__(self, directory: Path, model: Any, fingerprint: str) -> None:
        super().__init__(directory, model, fingerprint)
        self.dim = int(model.get_embedding_dimension())

    @property
    def _tokenizer(self) -> Any:
        return self._model.tokenizer

    def prepare(self, content: str) -> list[Piece]:
        """Return a piece for each passage of a text.

        Raises:
            InvalidInput: The text has no words.
        """
        return passage_pieces(content, self._tokens, self._room(self._model.max_seq_length or 512))

    def _run(self, data: list[Any]) -> Any:
        with self._tokenising:
            return self._model.encode(data, convert_to_tensor=True, show_progress_bar=False)
