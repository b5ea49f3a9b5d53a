"""A server that keeps its collection in step with a folder."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from server_helpers import C, running

from muomni_search import Collection
from muomni_search.cli.main import cli
from muomni_search.server import watches
from muomni_search.server.settings import Settings
from muomni_search.store.files import remove_store

WAIT_SECONDS = 60.0


def keys_until(http: httpx.Client, wanted: set[str]) -> set[str]:
    """Return the keys of the collection when they are those wanted, or after a minute."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        keys = {item["key"] for item in http.get(f"{C}/items").json()["items"]}
        if keys == wanted or time.monotonic() > until:
            return keys
        time.sleep(0.1)


def test_what_comes_and_goes_in_a_folder_is_found_and_lost(tmp_path: Path) -> None:
    folder, directory = tmp_path / "notes", tmp_path / "small"
    folder.mkdir()
    for name in ("dog", "owl", "sea"):
        (folder / f"{name}.txt").write_text(f"A note on the {name}.")
    Collection.create(directory, model="hashing").close()
    settings = Settings(collections={"small": directory}, watched={"small": (folder,)})
    with running(settings) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        start = {"dog.txt", "owl.txt", "sea.txt"}
        assert keys_until(http, start) == start
        (folder / "fox.txt").write_text("A fox in the snow.")
        assert keys_until(http, {*start, "fox.txt"}) == {*start, "fox.txt"}
        hits = http.get(f"{C}/search", params={"q": "A fox in the snow.", "k": 1}).json()["hits"]
        assert hits[0]["key"] == "fox.txt"
        assert hits[0]["has_original"]
        (folder / "dog.txt").unlink()
        left = {"owl.txt", "sea.txt", "fox.txt"}
        assert keys_until(http, left) == left


def test_a_watch_goes_on_with_a_collection_that_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "AGAIN_SECONDS", 0.2)
    folder, directory = tmp_path / "notes", tmp_path / "small"
    folder.mkdir()
    (folder / "dog.txt").write_text("A note on the dog.")
    Collection.create(directory, model="hashing").close()
    settings = Settings(collections={"small": directory}, watched={"small": (folder,)})
    with running(settings) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        assert keys_until(http, {"dog.txt"}) == {"dog.txt"}
        remove_store(directory)
        assert http.get(f"{C}/items").status_code == 404
        Collection.create(directory, model="hashing").close()
        assert keys_until(http, {"dog.txt"}) == {"dog.txt"}
        (folder / "owl.txt").write_text("A note on the owl.")
        assert keys_until(http, {"dog.txt", "owl.txt"}) == {"dog.txt", "owl.txt"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--watch", "{folder}"], "name it with -c"),
        (["-c", "{folder}", "--watch", "{folder}/nowhere"], "does not exist"),
    ],
)
def test_a_watch_needs_a_collection_and_a_folder(
    args: list[str], told: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(cli, ["serve", *(one.format(folder=tmp_path) for one in args)])
    assert result.exit_code == 2
    assert told in result.stderr
