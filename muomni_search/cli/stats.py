"""`muomni stats`: what a collection holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from muomni_search.cli.options import MODALITIES, Command, collection_option, json_option
from muomni_search.cli.output import on_terminal, print_json, print_table, size
from muomni_search.cli.tune import print_promises


@click.command("stats", cls=Command, example="muomni stats -c indexes/birds")
@json_option
@collection_option
def command(as_json: bool, directory: Path) -> None:
    """Show how much a collection holds, its model and its indexes.

    Of an index: the recall that it promises, and when that was measured. With one, also the
    processor whose instructions FAISS's matrix products use: an old one's are slow.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        stats = collection.stats()
    if not on_terminal(as_json):
        print_json(stats)
        return
    print_table(
        ("modality", "items", "segments", "size", "index"),
        [_row(name, stats[name]) for name in MODALITIES],
        right=("items", "segments", "size"),
    )
    print_promises({name: stats[name]["index"] for name in MODALITIES})
    if stats["blas"]:
        click.echo(f"FAISS multiplies as on {stats['blas']}")
    click.echo(f"model {stats['model']['name']} ({stats['model']['fingerprint'][:12]})")


def _row(name: str, part: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{part['items']:,}",
        f"{part['segments']:,}",
        size(part["bytes"]),
        part["index"]["kind"],
    )
