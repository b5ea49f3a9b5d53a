"""Packages that only some commands need, imported where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from muomni_search.errors import NotFound

__all__ = ["load_extra"]


def load_extra(module: str, *, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Its dotted name.
        extra: The name of our extra that installs it.

    Raises:
        NotFound: It is not installed; the hint says how to get it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there and lacks another one is broken, and says so itself.
        if error.name != module.partition(".")[0]:
            raise
        raise NotFound(
            f"this needs the package {error.name!r}, which is not installed",
            hint=f"run: pip install 'muomni_search[{extra}]'",
        ) from error
