"""`muomni backup`: a copy of a live collection."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import DIRECTORY, Command, collection_option, json_option
from muomni_search.cli.output import harmless, on_terminal, print_json


@click.command("backup", cls=Command, example="muomni backup backups/birds -c indexes/birds")
@click.argument("target", metavar="DEST", type=DIRECTORY)
@json_option
@collection_option
def command(target: Path, as_json: bool, directory: Path) -> None:
    """Copy a collection, while others search it and add to it.

    The copy is of one instant, and DEST appears when it is whole. It is a collection like any
    other: `-c DEST` uses it. The files that the items came from are not copied.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        done = collection.backup(target)
    if on_terminal(as_json):
        place = harmless(str(target))
        click.echo(f"{place}: {done['items']:,} items, {done['bytes'] / 1e6:,.1f} MB")
    else:
        print_json({"backup": str(target), **done})
