"""`muomni compact`: the disk back that replaced and deleted items still take."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import note, on_terminal, print_json, print_table, size


@click.command("compact", cls=Command, example="muomni compact -c indexes/birds")
@json_option
@collection_option
def command(as_json: bool, directory: Path) -> None:
    """Give back the disk that deleted items still take.

    Vectors and database are written anew without what was deleted or replaced; every answer stays
    what it was, and others may read meanwhile. Vectors need room for the live ones once more.
    Seldom needed: `muomni add` and `muomni delete` do the vectors when a third of them is dead.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        done = collection.compact()
    if on_terminal(as_json):
        print_table(
            ("modality", "rows before", "rows after"),
            [
                (str(modality), f"{before:,}", f"{after:,}")
                for modality, (before, after) in done.rows.items()
            ],
            right=("rows before", "rows after"),
        )
        click.echo(f"{size(done.bytes_before)} before, {size(done.bytes_after)} now")
    else:
        print_json(done.as_dict())
    if done.remains:
        note(
            "others are using the collection; when they are done, `muomni compact` gives the rest "
            f"of {', '.join(map(str, done.remains))} back"
        )
