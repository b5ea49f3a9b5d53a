"""`muomni get`: items by key."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import item_as_dict, on_terminal, print_json, print_record


@click.command("get", cls=Command, example="muomni get photos/dog.jpg")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@click.option("--vectors", is_flag=True, help="Show the vectors too.")
@json_option
@collection_option
def command(keys: tuple[str, ...], vectors: bool, as_json: bool, directory: Path) -> None:
    """Show items by their keys.

    A KEY that starts with a dash comes after a lone "--". A key that is not there is an error,
    and then nothing is shown.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        items = collection.get(keys, vectors=vectors)
    show = print_record if on_terminal(as_json) else print_json
    for item in items:
        show(item_as_dict(item))
