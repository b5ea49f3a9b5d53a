"""`muomni batch`: many queries from a file, their answers into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from muomni_search.cli.options import (
    INPUT_FILE,
    OUTPUT_FILE,
    Command,
    collection_option,
    json_option,
    k_option,
    modality_option,
    model_option,
    where_option,
)
from muomni_search.cli.output import (
    note_lacking_fields,
    on_terminal,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from muomni_search.batch import BatchReport

ann_option = click.option(
    "--ann",
    is_flag=True,
    help="By the indexes where that takes less time, with their recall; else exactly.",
)
force_option = click.option(
    "--force", is_flag=True, help="Replace an output that another job made."
)


@click.command("batch", cls=Command, example="muomni batch queries.jsonl -o answers.parquet -k 100")
@click.argument("queries", metavar="INPUT", type=INPUT_FILE)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    required=True,
    type=OUTPUT_FILE,
    help="The file to write: .jsonl, .parquet or .trec.",
)
@k_option
@modality_option
@where_option
@ann_option
@force_option
@json_option
@model_option
@collection_option
def command(
    queries: Path,
    output: Path,
    k: int,
    modalities: tuple[str, ...],
    where: str | None,
    ann: bool,
    force: bool,
    as_json: bool,
    model: str | None,
    directory: Path,
) -> None:
    """Answer every query of a file, into a file.

    INPUT is .jsonl, .csv, .parquet or .npy, a query a row: columns query_id, text, image, audio,
    id, vector, plus, minus, k, where, modality. A bad row gets a line in OUT.errors.jsonl and
    makes the exit code 1; the others are answered. After an interruption the same command goes
    on where it stopped.
    """
    from muomni_search import Collection, InvalidInput, run_batch

    with Collection.open(directory, model=model) as collection, progress_bar("queries") as progress:
        report = run_batch(
            collection,
            queries,
            output,
            k=k,
            modality=modalities or None,
            where=where,
            exact=not ann,
            force=force,
            progress=progress,
        )
        note_lacking_fields(collection, where)
    print_report(report, as_json)
    if report.failed:
        raise InvalidInput(
            f"{queries}: {report.failed} rows could not be answered",
            hint=f"{output}.errors.jsonl names them",
        )


def print_report(report: BatchReport, as_json: bool) -> None:
    """Print what a job did."""
    if on_terminal(as_json):
        click.echo(
            f"{report.answered:,} answered, {report.failed:,} failed ({report.seconds:.1f} s)"
        )
    else:
        print_json(
            {
                "answered": report.answered,
                "failed": report.failed,
                "seconds": round(report.seconds, 3),
                "resumed_blocks": report.resumed_blocks,
            }
        )
