"""`muomni reembed`: a collection moves to another model."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.add import LISTED_FAILURES
from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import harmless, note, on_terminal, print_json, progress_bar


@click.command(
    "reembed",
    cls=Command,
    example="""\
muomni reembed --model models/birds -c indexes/birds
muomni reembed --model base --drop-missing""",
)
@click.option("--model", metavar="NAME|PATH", required=True, help="The model to move to.")
@click.option("--drop-missing", is_flag=True, help="Delete the items that cannot be encoded anew.")
@json_option
@collection_option
def command(model: str, drop_missing: bool, as_json: bool, directory: Path) -> None:
    """Move a collection to another model.

    With a model that `muomni align` made for the collection's own, the stored vectors are mapped,
    ready ones too, and no source is needed. With any other model every item is encoded anew, from
    its text or its file. Meanwhile the collection answers with the old model; the new vectors take
    over all at once. After an interruption the same command goes on.

    An item whose file is gone or has changed, or that came as a ready vector, cannot be encoded
    anew: then nothing is changed, unless --drop-missing says to delete it. `muomni failures`
    lists what was deleted.
    """
    from muomni_search import Collection, reembed_collection

    try:
        with Collection.open(directory) as collection, progress_bar("items") as progress:
            done = reembed_collection(
                collection, model, drop_missing=drop_missing, progress=progress
            )
    except KeyboardInterrupt:
        note("the collection is as it was; the same command again goes on")
        raise
    if on_terminal(as_json):
        told = {"mapped": "mapped from", "encoded": "encoded from", "unchanged": "had it already:"}
        click.echo(
            f"{harmless(done.model)}: {told[done.how]} {done.items:,} items, "
            f"{len(done.dropped):,} dropped ({done.seconds:.1f} s)"
        )
    else:
        print_json(done.as_dict())
    for problem in done.dropped[:LISTED_FAILURES]:
        note(f"dropped: {problem.error}: {problem.hint}")
    if len(done.dropped) > LISTED_FAILURES:
        note(f"… and {len(done.dropped) - LISTED_FAILURES:,} more: muomni failures")
