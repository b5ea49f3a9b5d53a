"""`muomni import`: what `muomni export` wrote, back into a collection."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.add import open_or_create, print_report
from muomni_search.cli.options import INPUT_FILE, Command, collection_option, json_option
from muomni_search.cli.output import progress_bar


@click.command(
    "import", cls=Command, example="muomni import birds.parquet --create --model base -c indexes/b"
)
@click.argument("source", metavar="IN.parquet", type=INPUT_FILE)
@click.option("--create", is_flag=True, help="Make the collection if there is none.")
@click.option("--model", metavar="NAME|PATH", help="The model that the vectors came from.")
@json_option
@collection_option
def command(source: Path, create: bool, model: str | None, as_json: bool, directory: Path) -> None:
    """Take in the items of an exported file.

    Their vectors come along: nothing is encoded. An item with a key that is there already is
    replaced. After an interruption the same command goes on.
    """
    from muomni_search import Collection, import_collection

    opened = open_or_create if create else Collection.open
    with opened(directory, model=model) as collection, progress_bar("rows") as progress:
        report = import_collection(collection, source, progress=progress)
    print_report(report, as_json)
