"""The errors that this package raises on purpose.

    MuomniError
    ├── InvalidInput      (also ValueError)   a file, option, filter, vector or query of no use
    │   └── UnreadableFile                    a text, picture, sound or table that cannot be read
    ├── NotFound          (also LookupError)  no such collection, key, model or file
    ├── Conflict                              exists already, locked, another model, another root
    ├── CorruptData                           a checksum, length or schema does not fit
    ├── CheckpointError                       a model's files are missing, foreign or damaged
    │   └── NoEncoder                         it was made without one, and nothing is damaged
    └── TrainingError                         a training that cannot go on

Each says in one line what is wrong and where; ``hint`` says what to do about it.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "Conflict",
    "CorruptData",
    "InvalidInput",
    "MuomniError",
    "NoEncoder",
    "NotFound",
    "TrainingError",
    "UnreadableFile",
]


class MuomniError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        what: One line: what is wrong, and where (a file, a key, a row).
        hint: One line: what the reader can do about it; empty when ``what`` says it all.
    """

    def __init__(self, what: str, *, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}: {hint}" if hint else what)


class InvalidInput(MuomniError, ValueError):
    """Input that cannot be used: an option, a filter, a vector, a query or a row."""


class UnreadableFile(InvalidInput):
    """A file whose content cannot be read as what it claims or appears to be."""


class NotFound(MuomniError, LookupError):
    """A collection, key, model or file that does not exist."""


class Conflict(MuomniError):
    """Something stands in the way: it exists already, is locked, or belongs to another model."""


class CorruptData(MuomniError):
    """Stored data whose checksum, length or schema does not fit."""


class CheckpointError(MuomniError):
    """A model whose files are missing, foreign or damaged."""


class NoEncoder(CheckpointError):
    """A model that was made without an encoder of this modality: nothing of it is damaged."""


class TrainingError(MuomniError):
    """A training that cannot go on; its last good state is kept."""
