"""`muomni collections`: the collections in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from muomni_search.cli.options import DEFAULT_COLLECTION, MODALITIES, Command, json_option
from muomni_search.cli.output import note, on_terminal, print_json, print_table


@click.command("collections", cls=Command, example="muomni collections")
@click.argument(
    "directory", metavar="[DIR]", type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=False,
)  # fmt: skip
@json_option
def command(directory: Path | None, as_json: bool) -> None:
    """List the collections in a directory, by default indexes."""
    found = _collections(directory or DEFAULT_COLLECTION.parent)
    if not on_terminal(as_json):
        for one in found:
            print_json(one)
        return
    rows = [
        (
            one["directory"],
            one["model"] or "",
            *(f"{one[name]:,}" for name in MODALITIES),
            one["error"] or "",
        )
        for one in found
    ]
    if rows:
        print_table(
            ("collection", "model", *MODALITIES, "problem"),
            rows,
            right=MODALITIES,
            wrap=("problem",),
        )
    else:
        note("no collections")


def _collections(parent: Path) -> Iterator[dict[str, Any]]:
    """Yield a description of each collection; a damaged one with the error instead of counts."""
    from muomni_search import Collection, MuomniError, NotFound

    children = sorted(path for path in parent.iterdir() if path.is_dir()) if parent.exists() else []
    for child in children:
        one: dict[str, Any] = {"directory": str(child), "model": None, "error": None}
        try:
            with Collection.open(child) as collection:
                stats = collection.stats()
        except NotFound:
            continue
        except (MuomniError, OSError) as error:
            yield one | dict.fromkeys(("items", *MODALITIES), 0) | {"error": str(error)}
        else:
            counts = {name: stats[name]["items"] for name in MODALITIES}
            yield one | {"model": stats["model"]["name"], "items": stats["items"]} | counts
