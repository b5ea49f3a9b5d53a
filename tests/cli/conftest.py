"""A small corpus of real files, a collection of it, and the command line called in process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_helpers import Run, answers, write_picture, write_sound
from click.testing import CliRunner, Result

from muomni_search.cli.main import cli

TEXTS = {
    "dog.txt": "A dog barks at the postman.",
    "notes/owl.md": "# Owls\n\nAn owl calls in the night.",
    "notes/sea.txt": "Waves roll over the sand.",
}
# Long enough for several passages.
LONG = " ".join(f"Sentence {number} tells of the number {number}." for number in range(20))


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty directory, with no collection named from outside."""
    monkeypatch.delenv("MUOMNI_COLLECTION", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def muomni() -> Run:
    """Call `muomni` in process; the result has exit_code, stdout and stderr."""

    def run(*args: str | Path, answer: str | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=answer)
        # Only an exit may leave the command line.
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of texts, pictures and sounds."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "notes").mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    (folder / "long.txt").write_text(LONG)
    for seed, name in enumerate(("red.png", "blue.jpg")):
        write_picture(folder / name, seed)
    write_sound(folder / "low.wav", 110)
    write_sound(folder / "high.flac", 1760, seconds=5)
    return folder


@pytest.fixture(scope="session")
def shared(corpus: Path, muomni: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of ``corpus`` that no test changes."""
    directory = tmp_path_factory.mktemp("collections") / "shared"
    result = muomni("add", corpus, "--model", "hashing", "-c", directory)
    assert answers(result)[0]["added"] == 8, result.output
    return directory


@pytest.fixture
def collection(shared: Path, tmp_path: Path) -> Path:
    """A copy of ``shared``, to be changed."""
    return Path(shutil.copytree(shared, tmp_path / "collection"))
