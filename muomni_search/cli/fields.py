"""`muomni fields`: what filters can ask for, and which of it has an index."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import note, note_lacking_fields, on_terminal, print_json, print_table


@click.command("fields", cls=Command, example="muomni fields --index year --index place.city")
@click.option(
    "--index", "indexed", metavar="FIELD", multiple=True, help="Keep an index of it; repeatable."
)
@click.option(
    "--drop", "dropped", metavar="FIELD", multiple=True, help="Keep none any more; repeatable."
)
@json_option
@collection_option
def command(
    indexed: tuple[str, ...], dropped: tuple[str, ...], as_json: bool, directory: Path
) -> None:
    """List the metadata fields, and keep indexes of some.

    A filter on a field without an index reads every item, once for each state of the collection;
    with one it takes a tenth of the time or less. An index is kept up by every addition, which it
    makes a little slower.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        collection.index_fields(indexed, drop=dropped)
        fields = collection.fields()
        for field in indexed:
            note_lacking_fields(collection, f"{field} is not null")
    if not on_terminal(as_json):
        print_json(fields)
    elif not fields:
        note("no item has metadata")
    else:
        print_table(
            ("field", "items", "types", "index"),
            [
                (name, f"{one['items']:,}", ", ".join(one["types"]), "yes" * one["indexed"])
                for name, one in fields.items()
            ],
            right=("items",),
        )
