"""A corpus of colours and tones, and recipes beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from training_helpers import RECIPE, write_pairs

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a table of 24 rows, with their pictures and sounds."""
    return write_pairs(tmp_path_factory.mktemp("pairs")).parent


@pytest.fixture
def write_recipe(corpus: Path, request: pytest.FixtureRequest) -> Write:
    """Return a function that writes a changed recipe beside the corpus."""

    def write(*changes: tuple[str, str], more: str = "") -> Path:
        said = RECIPE
        for old, new in changes:
            assert old in said
            said = said.replace(old, new)
        path = corpus / f"{request.node.name.replace('/', '-')}.toml"
        path.write_text(said + more, encoding="utf-8")
        return path

    return write
