"""`muomni stats`: what a collection holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from muomni_search.cli.options import MODALITIES, Command, collection_option, json_option
from muomni_search.cli.output import on_terminal, print_json, print_table, size


@click.command("stats", cls=Command, example="muomni stats -c indexes/birds")
@json_option
@collection_option
def command(as_json: bool, directory: Path) -> None:
    """Show how much a collection holds, its model and its indexes."""
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
    click.echo(f"model {stats['model']['name']} ({stats['model']['fingerprint'][:12]})")


def _row(name: str, part: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{part['items']:,}",
        f"{part['segments']:,}",
        size(part["bytes"]),
        part["index"]["kind"],
    )
