"""``model.json``: what a directory says of the model in it.

    {"format": 1, "name": "base", "kind": "base", "dim": 256, "preprocessing": 1,
     "files": {"image.onnx": "<sha-256>", …},      lie beside it
     "fetched": {"audio.onnx": "<sha-256 of its source>"},   lie in the user's cache
     "prior": {"text": {"image": {"median": 0.04, "scale": 0.11}, …}, …}}

The fingerprint of a model is the hash of everything in it that decides what vectors come out.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from muomni_search.errors import CheckpointError
from muomni_search.items import DIM, Modality

__all__ = [
    "COPY_AGAIN",
    "DESCRIPTION",
    "FORMAT",
    "check_description",
    "file_hash",
    "fingerprint_of",
    "read_description",
    "weight_file",
]

FORMAT = 1
DESCRIPTION = "model.json"
COPY_AGAIN = "install the package or copy the model again"


def read_description(directory: Path) -> dict[str, Any] | None:
    """Return what the directory's ``model.json`` says, or None when there is none.

    Raises:
        CheckpointError: It is damaged, or of another format.
    """
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint=COPY_AGAIN) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} describes no model of format {FORMAT}", hint="install a version that fits it"
        )
    return description


def check_description(
    description: Mapping[str, Any],
    path: Path,
    *,
    preprocessing: int,
    files: Collection[str],
    fetched: Collection[str] = (),
    needs_prior: bool = True,
) -> None:
    """Refuse a description that this version cannot follow, before anything relies on it.

    Args:
        description: What ``read_description`` returned.
        path: Where it stands, for errors.
        preprocessing: The version of the steps from contents to vectors that is known here.
        files: The names of the weight files that it must list.
        fetched: The names of the fetched files that it must list.
        needs_prior: Whether it must know one; a model of one tower cannot.

    Raises:
        CheckpointError: It is of another version, or lacks something.
    """
    for name, known in (("dim", DIM), ("preprocessing", preprocessing)):
        if description.get(name) != known:
            raise CheckpointError(
                f"{path}: {name} is {description.get(name)!r}, and only {known!r} can be used here",
                hint="install a version that fits it",
            )
    whole = {
        "name": isinstance(description.get("name"), str),
        "files": _are_hashes(description.get("files"), files),
        "fetched": _are_hashes(description.get("fetched", {}), fetched),
        "prior": _is_prior(description.get("prior"))
        or (description.get("prior") == {} and not needs_prior),
    }
    for name, is_whole in whole.items():
        if not is_whole:
            raise CheckpointError(f"{path}: {name} is missing or damaged", hint=COPY_AGAIN)


def _are_hashes(value: Any, names: Collection[str]) -> bool:
    """Return whether a value names exactly these files, each with a SHA-256."""
    return (
        isinstance(value, dict)
        and value.keys() == set(names)
        and all(re.fullmatch("[0-9a-f]{64}", str(digest)) for digest in value.values())
    )


def _is_prior(value: Any) -> bool:
    """Return whether a value has two finite numbers for each pair of modalities."""
    try:
        numbers = [
            float(value[asking][asked][name])
            for asking in Modality
            for asked in Modality
            for name in ("median", "scale")
        ]
    except (KeyError, TypeError, ValueError):
        return False
    return all(map(math.isfinite, numbers))


def fingerprint_of(description: Mapping[str, Any]) -> str:
    """Return the hash of what decides the vectors in a description."""
    deciding = {
        name: description.get(name) for name in ("kind", "dim", "preprocessing", "files", "fetched")
    }
    if "parent" in description:
        deciding["parent"] = description["parent"]["fingerprint"]
    if "encoders" in description:
        deciding["encoders"] = {
            modality: said["fingerprint"] for modality, said in description["encoders"].items()
        }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def weight_file(directory: Path, description: Mapping[str, Any], name: str) -> Path:
    """Return the path of a weight file that is what the description says.

    Raises:
        CheckpointError: It is missing, or another one.
    """
    path = directory / name
    if file_hash(path) != description["files"].get(name):
        raise CheckpointError(
            f"{path} is not the file that {DESCRIPTION} describes", hint=COPY_AGAIN
        )
    return path


def file_hash(path: Path, *, hint: str = COPY_AGAIN) -> str:
    """Return the SHA-256 of a model's file.

    Raises:
        CheckpointError: It cannot be read; ``hint`` says what to do.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}", hint=hint) from error
