"""`muomni list`: the items of a collection."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import (
    Command,
    collection_option,
    count_option,
    json_option,
    modality_option,
    where_option,
)
from muomni_search.cli.output import note_lacking_fields, print_items


@click.command(
    "list",
    cls=Command,
    example='muomni list --modality image --where "year >= 2020" --limit 20',
)
@modality_option
@where_option
@count_option("--limit", help="Stop after this many.")
@json_option
@collection_option
def command(
    modalities: tuple[str, ...],
    where: str | None,
    limit: int | None,
    as_json: bool,
    directory: Path,
) -> None:
    """List the items of a collection, by key."""
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        items = collection.items(where=where, modality=modalities or None, limit=limit)
        if not print_items(items, as_json):
            note_lacking_fields(collection, where)
