"""`muomni tune`: what the indexes promise, and whether they keep it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from muomni_search.cli.options import Command, FiniteNumber, collection_option, json_option
from muomni_search.cli.output import minute, on_terminal, print_json, print_table, size

UNITS = ("", "k", "m", "g", "t")


class Size(click.ParamType[int]):
    """A number of bytes: 2GB, 500 MB, 1.5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes that ``value`` spells."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no size, as 2GB or 500MB are", param, ctx)
        size = float(match[1]) * (1024 if match[3] else 1000) ** UNITS.index(match[2])
        if 0 < size < 1:
            self.fail(f"{value!r} is less than a byte", param, ctx)
        return int(size)


@click.command("tune", cls=Command, example="muomni tune --recall 0.99 --memory 2GB")
@click.option(
    "--recall",
    metavar="SHARE",
    type=FiniteNumber(above=0, most=1),
    help="Of the ten best, what an index must find on average: 0.95 at first, 1 for no index.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    type=Size(),
    help="What the indexes may keep in memory, all together: 2GB; 0 for any, as at first.",
)
@json_option
@collection_option
def command(recall: float | None, memory: int | None, as_json: bool, directory: Path) -> None:
    """Measure the recall of the indexes, and promise one.

    Every modality that can ask does, with what the collection holds of it, and each answer is held
    against all rows. The index is then asked as deep as its promise needs (95 % confidence); where
    no depth is sure to keep it, searches stay exact; above 0.9993, which no measurement is sure of,
    they do without measuring.

    `muomni add` tunes what it builds; this is for another promise, or to measure again.
    """
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        tuned = collection.tune(recall=recall, memory=memory)
    indexes = {str(modality): index for modality, index in tuned.items()}
    if not on_terminal(as_json):
        print_json(indexes)
        return
    print_table(
        ("modality", "index", "memory", "asked by", "queries", "recall@10", "at least"),
        [row for name, index in indexes.items() for row in _rows(name, index)],
        right=("memory", "queries", "recall@10", "at least"),
    )
    print_promises(indexes)


def print_promises(indexes: Mapping[str, dict[str, Any]]) -> None:
    """Print a line for each modality that has an index or ought to: its promise, or why none."""
    for name, index in indexes.items():
        promise = index["promise"]
        if index["why"]:
            click.echo(f"{name} is searched exactly: {index['why']}")
        elif promise:
            when = promise["measured_at"]
            told = f"measured {minute(when)} UTC" if when else "measured by an earlier version"
            if promise["measured"]:
                worst = min(promise["measured"].values(), key=lambda one: float(one["low"]))
                told += f": {worst['recall']:.4f}, surely {worst['low']:.4f}, at worst"
            click.echo(
                f"{name} is searched with a recall@{promise['k']} of {promise['recall']:g}, {told}"
            )


def _rows(name: str, index: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a line for each modality that asks, or one for none."""
    kind, memory = index["kind"], size(index["bytes"])
    if not index["promise"]:
        return [(name, kind, memory, "", "", "", "")]
    return [
        (
            name,
            kind,
            memory,
            who,
            f"{one['queries']:,}",
            f"{one['recall']:.4f}",
            f"{one['low']:.4f}",
        )
        for who, one in index["promise"]["measured"].items()
    ]
