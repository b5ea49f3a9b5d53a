"""`muomni export`: a collection as one Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from muomni_search.cli.options import OUTPUT_FILE, Command, collection_option, json_option
from muomni_search.cli.output import note, on_terminal, print_json

# A damaged block of rows takes thousands of items along.
SHOWN_LINES = 10


@click.command("export", cls=Command, example="muomni export birds.parquet -c indexes/birds")
@click.argument("output", metavar="OUT.parquet", type=OUTPUT_FILE)
@click.option("--salvage", is_flag=True, help="Go past what is damaged, and say what is left out.")
@json_option
@collection_option
def command(output: Path, salvage: bool, as_json: bool, directory: Path) -> None:
    """Write all items with their vectors to a Parquet file.

    A row a segment: key, modality, source, text, metadata (JSON), span and vector. --salvage is
    the way out of a database that `muomni verify --repair` cannot mend: what is whole goes into
    the file, and `muomni import --create` makes a new collection of it; --json names all that is
    left out. Then the exit code is 1. --salvage replaces no file.
    """
    from muomni_search import Collection, Conflict, CorruptData, export_collection

    if salvage and output.exists():
        # It may be the last that is whole, and this one may hold less.
        raise Conflict(f"{output} is there", hint="name another file for what is saved")
    left_out: list[str] = []
    with Collection.open(directory, salvage=salvage) as collection:
        exported = export_collection(collection, output, left_out=left_out if salvage else None)
    _tell(left_out)
    if on_terminal(as_json):
        click.echo(f"{exported:,} items exported")
    else:
        print_json({"exported": exported, **({"left_out": left_out} if salvage else {})})
    if left_out:
        raise CorruptData(
            f"{output} holds what is whole, and not what is damaged",
            hint="make a collection of it with muomni import --create, and add the rest again",
        )


def _tell(left_out: Sequence[str]) -> None:
    """Name the first that are left out, and count the others by what is wrong with them."""
    for line in left_out[:SHOWN_LINES]:
        note(f"left out: {line}")
    reasons = Counter(line.rpartition(": ")[2] for line in left_out[SHOWN_LINES:])
    for reason, count in reasons.items():
        note(f"left out: {count:,} more: {reason}")
