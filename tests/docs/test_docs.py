"""What README and docs/ say is run: their commands, their Python, their links; and docstrings.

A block tagged ``console`` is run line by line (``$ muomni …``), and each line of output that it
shows must come out again, up to an ellipsis and figures aside; a block tagged ``python`` is run.
They find the sample corpus in ``examples/`` and a collection of it in ``indexes/demo``.
"""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from muomni_search import Collection, read_corpus
from muomni_search.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
MODULES_WITH_EXAMPLES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in ROOT.glob("muomni_search/**/*.py")
    if ">>>" in path.read_text()
)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def read_blocks() -> Iterator[Block]:
    for page in PAGES:
        content = page.read_text()
        for match in FENCE.finditer(content):
            line = content.count("\n", 0, match.start()) + 1
            yield Block(str(page.relative_to(ROOT)), line, match[1], match[2])


def blocks_of(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"{block.page}:{block.line}")
        for block in read_blocks()
        if block.language == language
    ]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as README's reader has it after `make demo`."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", folder / "examples")
    with Collection.create(folder / "indexes" / "demo") as collection:
        report = collection.add(read_corpus([folder / "examples" / "corpus"]))
    assert report.failed == 0
    return folder


@pytest.fixture
def reader(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one page, so that no page depends on another."""
    folder = tmp_path / "project"
    shutil.copytree(demo, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MUOMNI_COLLECTION", raising=False)
    return folder


@pytest.mark.parametrize("block", blocks_of("console"))
def test_the_commands_of_the_docs_do_what_is_shown(block: Block, reader: Path) -> None:
    for command, expected in commands_of(block.text):
        program, *arguments = shlex.split(command, comments=True)
        assert program == "muomni", f"a command that is not run here: {command}"
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == (1 if "error:" in expected else 0), result.output
        printed = [without_numbers(line) for line in result.output.splitlines()]
        for line in filter(None, expected.splitlines()):
            shown = without_numbers(line.partition("…")[0])
            assert any(one.startswith(shown) for one in printed), f"{line}\n{result.output}"


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a block with the output that it shows."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.replace("\\\n", " ").partition("\n")
        yield command, expected


def without_numbers(line: str) -> str:
    return re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip()


@pytest.mark.parametrize("block", blocks_of("python"))
def test_the_python_of_the_docs_runs(block: Block, reader: Path) -> None:
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), {"__name__": "docs"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_of_the_docs_is_broken(page: Path) -> None:
    content = page.read_text()
    for target in LINK.findall(content):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
