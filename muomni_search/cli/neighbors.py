"""`muomni neighbors`: the whole collection against itself."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.batch import ann_option, force_option, print_report
from muomni_search.cli.options import (
    OUTPUT_FILE,
    Command,
    collection_option,
    json_option,
    k_option,
    modality_option,
)
from muomni_search.cli.output import progress_bar


@click.command(
    "neighbors", cls=Command, example="muomni neighbors -k 10 -o graph.parquet --modality image"
)
@k_option
@click.option(
    "-o", "--output", metavar="OUT", required=True, type=OUTPUT_FILE, help="The file to write."
)
@modality_option
@ann_option
@force_option
@json_option
@collection_option
def command(
    k: int,
    output: Path,
    modalities: tuple[str, ...],
    ann: bool,
    force: bool,
    as_json: bool,
    directory: Path,
) -> None:
    """Write the nearest neighbours of every item to a file.

    The format follows the suffix, as with `muomni batch`: .jsonl, .parquet or .trec. After an
    interruption the same command goes on where it stopped.
    """
    from muomni_search import Collection, write_neighbors

    with Collection.open(directory) as collection, progress_bar("items") as progress:
        report = write_neighbors(
            collection,
            output,
            k=k,
            modality=modalities or None,
            exact=not ann,
            force=force,
            progress=progress,
        )
    print_report(report, as_json)
