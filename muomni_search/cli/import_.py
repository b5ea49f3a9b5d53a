"""`muomni import`: what `muomni export` wrote, back into a collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from muomni_search.cli.add import print_report
from muomni_search.cli.options import INPUT_FILE, Command, collection_option, json_option
from muomni_search.cli.output import progress_bar

if TYPE_CHECKING:
    from muomni_search import Collection


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
    from muomni_search import import_collection

    opened = _open_or_create(directory, source, model) if create else _open(directory, model)
    with opened as collection, progress_bar("rows") as progress:
        report = import_collection(collection, source, progress=progress)
        moved = _problem_of_model(collection)
    print_report(report, as_json)
    if moved:
        click.echo(f"note: {moved}", err=True)


def _problem_of_model(collection: Collection) -> str:
    """Return what keeps the collection's model from being used; empty where nothing does."""
    from muomni_search import MuomniError

    try:
        _ = collection.model
    except MuomniError as error:
        return str(error)
    return ""


def _open(directory: Path, model: str | None) -> Collection:
    from muomni_search import Collection, NotFound
    from muomni_search.store.sqlite import DATABASE

    try:
        return Collection.open(directory, model=model)
    except NotFound as error:
        if (directory / DATABASE).exists():  # it is the model that is not there
            raise
        raise NotFound(error.what, hint="--create makes it, for the model of --model") from error


def _open_or_create(directory: Path, source: Path, model: str | None) -> Collection:
    """Open the collection, or make it once it is known that the file fits."""
    from muomni_search import Collection, NotFound
    from muomni_search.transfer import create_for_export

    try:
        return Collection.open(directory, model=model)
    except NotFound:
        return create_for_export(directory, source, model or "base")
