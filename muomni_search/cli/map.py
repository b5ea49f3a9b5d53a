"""`muomni map`: a picture of a collection, or of a query's neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from muomni_search.cli.options import (
    OUTPUT_FILE,
    FiniteNumber,
    collection_option,
    count_option,
    json_option,
    modality_option,
    model_option,
    where_option,
)
from muomni_search.cli.output import note, on_terminal, print_json, progress_bar
from muomni_search.cli.query import QueryCommand, query_of, query_options, title_of


@click.command(
    "map",
    cls=QueryCommand,
    example="""\
muomni map birds.html -c indexes/birds
muomni map birds.png birds.svg --color country --where "year >= 2000"
muomni map owl.html --near "an owl at night" -k 300""",
)
@click.argument("outputs", metavar="OUT.html|.png|.svg…", nargs=-1, required=True, type=OUTPUT_FILE)
@click.option(
    "--method",
    type=click.Choice(("umap", "tsne", "pca")),
    default="umap",
    show_default=True,
    help="What lays the points out.",
)
@click.option(
    "--color",
    metavar="FIELD",
    default="modality",
    show_default=True,
    help="What colours the points: modality, a metadata field, folder or stem of the key.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="The same seed, the same map.",
)
@click.option(
    "--centre/--no-centre",
    default=True,
    show_default=True,
    help="Take each modality's mean off, so that what is alike across modalities meets.",
)
@click.option("--segments", is_flag=True, help="A point a segment, not one an item.")
@query_options("--near", "--text")
@count_option("-k", default=200, help="How many points nearest to the query.")
@modality_option
@where_option
@count_option("--limit", default=50_000, help="Of more points only a sample of this size.")
@count_option(
    "--neighbors",
    least=2,
    help="Neighbours that count: UMAP's n_neighbors [15], t-SNE's perplexity [30].",
)
@click.option(
    "--min-dist",
    metavar="X",
    type=FiniteNumber(least=0, most=1),
    default=0.1,
    show_default=True,
    help="How near UMAP lets points come, 0 to 1.",
)
@click.option("--title", metavar="TEXT", help="The map's title; by default the collection's name.")
@count_option("--thumbnails", least=0, default=1_000, help="How many pictures a page shows.")
@count_option("--sounds", least=0, default=100, help="How many sounds a page plays.")
@json_option
@model_option
@collection_option
def command(
    outputs: tuple[Path, ...],
    given: Sequence[tuple[str, Any]],
    spelled: str,  # noqa: ARG001  what QueryCommand gives
    modalities: tuple[str, ...],
    thumbnails: int,
    sounds: int,
    as_json: bool,
    model: str | None,
    directory: Path,
    **options: Any,
) -> None:
    """Draw a collection, or what is near a query, as a map.

    An .html is a page to explore, in one file that needs no other: pan, zoom, search, lasso,
    pictures and sounds at the points. .png and .svg are pictures. What lies near in the space
    lies near on the map; distances between far groups mean little.

    With --near, or any other part of a query as in `muomni search`, the map shows the -k items
    nearest to it, and the query as a star.
    """
    from muomni_search import Collection, make_map, write_map
    from muomni_search.explore.drawing import check_map_output

    query = query_of(given) if given else None
    with Collection.open(directory, model=model) as collection, progress_bar("points") as progress:
        # Before the layout, which takes minutes where this takes none.
        for output in outputs:
            check_map_output(collection, output)
        drawn = make_map(
            collection,
            query=query,
            query_title=title_of(query) if query else "",
            modality=modalities or None,
            progress=progress,
            **options,
        )
        for output in outputs:
            write_map(drawn, output, thumbnails=thumbnails, sounds=sounds, progress=progress)
    asked = options["method"]
    if drawn.method != asked:
        note(f"too few different points for {asked}: laid out by {drawn.method}")
    if drawn.found > len(drawn.points):
        note(f"a sample of {len(drawn.points):,} of {drawn.found:,} points: --limit shows more")
    if on_terminal(as_json):
        for output in outputs:
            click.echo(f"{output}: {len(drawn.points):,} points")
        return
    print_json(
        {
            "outputs": [str(output) for output in outputs],
            "points": len(drawn.points),
            "found": drawn.found,
            "method": drawn.method,
            "seed": drawn.seed,
            "centred": drawn.is_centred,
            "color": drawn.colours.field,
            "groups": {group.name: group.count for group in drawn.colours.groups},
            "seconds": round(drawn.seconds, 3),
        }
    )
