"""`muomni neighbors`: the whole collection against itself."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import (
    OUTPUT_FILE,
    Command,
    collection_option,
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
@collection_option
def command(k: int, output: Path, modalities: tuple[str, ...], directory: Path) -> None:
    """Write the nearest neighbours of every item to a file.

    The format follows the suffix, as with `muomni batch`: .jsonl, .parquet or .trec.
    """
    from muomni_search import Collection, write_neighbors

    with Collection.open(directory) as collection, progress_bar("items") as progress:
        write_neighbors(collection, output, k=k, modality=modalities or None, progress=progress)
