"""`muomni failures`: the inputs that could not be used."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import minute, note, on_terminal, print_json, print_table


@click.command("failures", cls=Command, example="muomni failures --json | jq -r .source")
@json_option
@collection_option
def command(as_json: bool, directory: Path) -> None:
    """List the inputs that could not be used.

    Each with its cause and what mends it.

    The next `muomni add` of the same path tries them again; one that works leaves this list.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        failures = collection.failures()
    if not on_terminal(as_json):
        for failure in failures:
            print_json(
                {
                    "source": failure.source,
                    "error": failure.error,
                    "hint": failure.hint,
                    "attempts": failure.attempts,
                    "last": failure.last,
                }
            )
    elif not failures:
        note("no failures")
    else:
        print_table(
            ("source", "error", "mend", "tries", "last"),
            [
                (
                    failure.source,
                    failure.error.removeprefix(f"{failure.source}: "),
                    failure.hint,
                    str(failure.attempts),
                    minute(failure.last),
                )
                for failure in failures
            ],
            right=("tries",),
            wrap=("source", "error", "mend"),
        )
