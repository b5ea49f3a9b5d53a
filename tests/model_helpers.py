"""Small models that tests make."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from muomni_search.encoders.aligned import write_aligned
from muomni_search.encoders.model import load_model
from muomni_search.items import DIM, Modality

WORDS = ("robin", "dawn", "ferry", "granite", "whistle", "harbour", "lantern", "seven", "here")


def write_aligned_model(folder: Path, *, parent: str = "hashing", seed: int = 0) -> Path:
    """Write a model that maps the pictures and sounds of another, each by a matrix of its own."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    write_aligned(
        folder,
        {
            one: (np.eye(DIM) + rng.standard_normal((DIM, DIM)) / 40).astype(np.float32)
            for one in (Modality.IMAGE, Modality.AUDIO)
        },
        name=folder.name,
        parent=parent,
        fingerprint=load_model(parent).fingerprint(),
        prior={
            asking: {asked: {"median": 0.0, "scale": 0.1} for asked in Modality}
            for asking in Modality
        },
        report={},
    )
    return folder


def train_tokenizer(vocabulary: int = 60) -> bytes:
    """Return a sentencepiece model of so many pieces."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 9)).capitalize() + "." for _ in range(300)]
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=vocabulary,
        model_type="bpe",
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()
