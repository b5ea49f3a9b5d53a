"""`muomni drop`: a collection out of the world."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import note, on_terminal, one_line, print_json


@click.command("drop", cls=Command, example="muomni drop -c indexes/birds")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@collection_option
def command(force: bool, as_json: bool, directory: Path) -> None:
    """Delete a collection, with all its vectors and indexes.

    Asks first. The files that its items came from stay.
    """
    raise NotImplementedError
