"""`muomni rebuild`: the indexes anew."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import (
    Command,
    collection_option,
    json_option,
    modality_option,
)
from muomni_search.cli.output import on_terminal, print_json, print_table


@click.command("rebuild", cls=Command, example="muomni rebuild --modality image --kind ann")
@modality_option
@click.option(
    "--kind",
    type=click.Choice(["auto", "exact", "ann"]),
    default="auto",
    show_default=True,
    help="exact: compare with every row. ann: a compressed index, its finds checked exactly. "
    "auto: by size.",
)
@json_option
@collection_option
def command(modalities: tuple[str, ...], kind: str, as_json: bool, directory: Path) -> None:
    """Build the indexes anew from the stored vectors.

    Never needed in normal use: `muomni add` does it when it pays, and then by size again, whatever
    was built here. For good, exact search is `muomni tune --recall 1`.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        built = collection.rebuild(modalities or None, kind=kind)
    indexes = {str(modality): index for modality, index in built.items()}
    if on_terminal(as_json):
        print_table(
            ("modality", "index", "rows"),
            [(name, index["kind"], f"{index['rows']:,}") for name, index in indexes.items()],
            right=("rows",),
        )
    else:
        print_json(indexes)
