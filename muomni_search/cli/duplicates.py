"""`muomni duplicates`: items that are one thing."""

from __future__ import annotations

from pathlib import Path

import click

from muomni_search.cli.options import (
    Command,
    FiniteNumber,
    collection_option,
    json_option,
    modality_option,
    where_option,
)
from muomni_search.cli.output import on_terminal, print_json, print_table, progress_bar


@click.command("duplicates", cls=Command, example="muomni duplicates --above 0.98 --modality image")
@click.option(
    "--above",
    metavar="X",
    type=FiniteNumber(above=0, most=1),
    default=0.95,
    show_default=True,
    help="The least cosine of two that are one thing, at most 1.",
)
@modality_option
@where_option
@json_option
@collection_option
def command(
    above: float,
    modalities: tuple[str, ...],
    where: str | None,
    as_json: bool,
    directory: Path,
) -> None:
    """List groups of near-duplicates, the largest first.

    Every pair of a modality is compared. A group is what chains of pairs at or above the limit
    connect; the item that was added first stands first in it. `jq -r '.items[1:][].key'` names the
    others.
    """
    from muomni_search import Collection, find_duplicates

    with Collection.open(directory) as collection, progress_bar("items") as progress:
        groups = find_duplicates(
            collection, above=above, modality=modalities or None, where=where, progress=progress
        )
    if not on_terminal(as_json):
        for group in groups:
            print_json(group.as_dict())
        return
    rows = [
        (str(number), str(group.modality), item.key, f"{cosine:.4f}")
        for number, group in enumerate(groups, 1)
        for item, cosine in zip(group.items, group.cosines, strict=True)
    ]
    print_table(("group", "modality", "key", "cosine"), rows, right=("group", "cosine"))
    extra = sum(len(group.items) - 1 for group in groups)
    click.echo(f"{len(groups):,} groups, {extra:,} items that could go")
