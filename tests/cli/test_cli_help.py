"""Help pages: quick, complete, with examples that parse, and printed in the reference."""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from cli_helpers import write_vector

from muomni_search import Collection, Record
from muomni_search.cli.main import COMMANDS, cli
from muomni_search.cli.options import MODALITIES, Command
from muomni_search.items import Modality

ROOT = Path(__file__).parents[2]
HEAVY = {
    "PIL",
    "alembic",
    "faiss",
    "numpy",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "rich",
    "sqlalchemy",
    "torch",
    "watchfiles",
}


def commands(parent: click.Context) -> Iterator[click.Context]:
    assert isinstance(parent.command, click.Group)
    for name in parent.command.list_commands(parent):
        command = parent.command.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from commands(context)
        else:
            yield context


ALL = list(commands(click.Context(cli, info_name="muomni", **cli.context_settings)))
NAMES = [context.command_path for context in ALL]


def imported_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after ``code``."""
    script = f"""\
import sys
try:
    {code}
except SystemExit as end:
    if end.code:
        raise
print(*sys.modules, file=sys.stderr)
"""
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("arguments", ["--help", "search --help", "--version", "model -h"])
def test_help_imports_nothing_heavy(arguments: str) -> None:
    call = f"from muomni_search.cli.main import cli; cli({arguments.split()!r}, 'muomni')"
    assert not imported_by(call) & HEAVY


def test_no_help_page_imports_anything_heavy() -> None:
    modules = ", ".join(f"muomni_search.cli.{name}" for name in COMMANDS if name != "import")
    assert not imported_by(f"import muomni_search.cli.import_, {modules}") & HEAVY


def test_a_search_and_its_collection_load_no_tables_and_no_pages(shared: Path) -> None:
    asked = f"cli(['search', 'owl', '-c', {str(shared)!r}], 'muomni')"
    loaded = imported_by(f"from muomni_search.cli.main import cli; {asked}")
    assert "numpy" in loaded
    assert not loaded & {"pyarrow", "pandas", "watchfiles", "jinja2", "PIL"}


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A collection of the default model that holds one ready vector."""
    with Collection.create(tmp_path / "ready", model="base") as collection:
        vector = np.load(write_vector(tmp_path / "v.npy", 0))
        collection.add([Record("one", Modality.IMAGE, "here", vector=vector)])
    return tmp_path / "ready"


@pytest.mark.parametrize("call", ["search --id one", "search --vector v.npy", "stats", "list"])
def test_what_needs_no_encoder_and_no_index_loads_none(ready: Path, call: str) -> None:
    asked = f"cli({[*call.split(), '-c', str(ready)]!r}, 'muomni')"
    loaded = imported_by(f"from muomni_search.cli.main import cli; {asked}")
    assert "sqlite3" in loaded
    unwanted = {"faiss", "onnxruntime", "scipy", "sklearn", "sqlalchemy", "tokenizers", "torch"}
    unwanted |= {"concurrent.futures", "logging"}
    assert not loaded & unwanted


@pytest.mark.parametrize("context", ALL, ids=NAMES)
def test_every_command_has_help_that_covers_each_option(context: click.Context) -> None:
    command = context.command
    assert isinstance(command, Command)
    assert command.help
    assert not command.get_short_help_str(limit=63).endswith("...")
    for param in command.params:
        assert isinstance(param, click.Argument) or (isinstance(param, click.Option) and param.help)


@pytest.mark.parametrize("context", ALL, ids=NAMES)
def test_every_example_is_a_call_that_parses(
    context: click.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = context.command
    assert isinstance(command, Command)
    monkeypatch.chdir(tmp_path)
    for line in command.example.splitlines():
        words = shlex.split(line.partition(" | ")[0])
        path = context.command_path.split()
        assert words[: len(path)] == path
        for word in words[len(path) :]:
            if "." in word and "/" not in word:
                Path(word).touch()  # inputs that must exist
        command.make_context(context.info_name, words[len(path) :], parent=context.parent)


def test_the_reference_page_is_what_the_commands_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts/generate_cli_reference.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert page == script["render"](), "run: python scripts/generate_cli_reference.py"
    for name in NAMES:
        assert f"## {name}\n" in page


def test_the_modalities_of_the_options_are_those_of_the_package() -> None:
    assert tuple(map(str, Modality)) == MODALITIES
