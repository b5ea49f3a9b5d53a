"""A real server on a free port, in a thread, with small collections of real files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from file_helpers import write_picture, write_sound
from server_helpers import Running, running

from muomni_search import Collection, read_corpus
from muomni_search.server.settings import Settings


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of texts, a picture and sounds."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "notes").mkdir()
    (folder / "dog.txt").write_text("A dog barks at the postman.")
    (folder / "notes/owl.md").write_text("# Owls\n\nAn owl calls in the night.")
    (folder / "notes/sea.txt").write_text("Waves roll over the sand.")
    write_picture(folder / "red.png", 1)
    write_picture(folder / "blue.jpg", 2)
    write_sound(folder / "low.wav", 110)
    write_sound(folder / "high.flac", 1760, seconds=2)
    return folder


@pytest.fixture(scope="module")
def root(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of collections: ``small``, of the corpus, and ``empty``."""
    folder = tmp_path_factory.mktemp("indexes")
    with Collection.create(folder / "small", model="hashing") as small:
        assert small.add(read_corpus([corpus])).added == 7
    Collection.create(folder / "empty", model="hashing").close()
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Running]:
    """A server of ``root``."""
    with running(Settings(root=root)) as one:
        yield one


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    """A client of the server."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
