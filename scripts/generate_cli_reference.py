"""Write docs/reference/cli.md from the commands' own help; ``--check`` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from muomni_search.cli.main import cli

PAGE = Path(__file__).parents[1] / "docs/reference/cli.md"
HEAD = """\
# The command line

<!-- Written by scripts/generate_cli_reference.py; change the commands, then run it. -->

Answers go to stdout, progress and notes to stderr. On a terminal an answer is a table; with
`--json`, and when stdout is no terminal, it is JSON lines.

| exit code | means |
|---|---|
| 0 | done; also a search without hits, and `add` with failed files unless `--strict` |
| 1 | an error: one line on stderr says what, where and what to do (`--debug` adds the traceback) |
| 2 | a wrong call: unknown option, `-k 0`, an argument for an input file that is not there |
| 130 | stopped by Ctrl-C; the collection is whole |

A collection, a model or a content that is not there is an error, with exit code 1, and so is a
stdout that was closed.
"""


def contexts(parent: click.Context) -> Iterator[click.Context]:
    """Yield the context of ``parent`` and of each command under it."""
    yield parent
    if isinstance(parent.command, click.Group):
        for name in parent.command.list_commands(parent):
            command = parent.command.get_command(parent, name)
            assert command is not None
            yield from contexts(click.Context(command, info_name=name, parent=parent))


def render() -> str:
    """Return the page."""
    # A fixed width: the page must not depend on the terminal that wrote it.
    root = click.Context(cli, info_name="muomni", terminal_width=88, **cli.context_settings)
    sections = [
        f"## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
        for context in contexts(root)
    ]
    return "\n".join([HEAD, *sections])


def main() -> None:
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(render(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != render():
        sys.exit(f"{PAGE} is out of date: python scripts/generate_cli_reference.py")


if __name__ == "__main__":
    main()
