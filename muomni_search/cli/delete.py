"""`muomni delete`: items out of a collection."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import Command, collection_option, json_option, where_option
from muomni_search.cli.output import note_lacking_fields, on_terminal, print_json


@click.command("delete", cls=Command, example='muomni delete --where "year < 1990"')
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@where_option
@json_option
@collection_option
def command(keys: tuple[str, ...], where: str | None, as_json: bool, directory: Path) -> None:
    """Delete items, by key or by filter.

    The files that they came from stay. A KEY that is not there is an error, and then nothing is
    deleted. A KEY that starts with a dash comes after a lone "--".
    """
    if bool(keys) == (where is not None):
        raise click.UsageError("name items by KEY, or give --where (one, and not both)")
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        deleted = collection.delete(keys, where=where)
        if not deleted:
            note_lacking_fields(collection, where)
    if on_terminal(as_json):
        click.echo(f"{deleted} deleted")
    else:
        print_json({"deleted": deleted})
