"""`muomni export`: a collection as one Parquet file."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import OUTPUT_FILE, Command, collection_option, json_option
from muomni_search.cli.output import on_terminal, print_json


@click.command("export", cls=Command, example="muomni export birds.parquet -c indexes/birds")
@click.argument("output", metavar="OUT.parquet", type=OUTPUT_FILE)
@json_option
@collection_option
def command(output: Path, as_json: bool, directory: Path) -> None:
    """Write all items with their vectors to a Parquet file.

    A row a segment: key, modality, source, text, metadata (JSON), span and vector.
    """
    from muomni_search import Collection, export_collection

    with Collection.open(directory) as collection:
        exported = export_collection(collection, output)
    if on_terminal(as_json):
        click.echo(f"{exported:,} items exported")
    else:
        print_json({"exported": exported})
