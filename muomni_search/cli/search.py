"""`muomni search`: one query of words, pictures, sounds, items and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muomni_search.cli.options import (
    OUTPUT_FILE,
    FiniteNumber,
    collection_option,
    json_option,
    k_option,
    modality_option,
    model_option,
    where_option,
)
from muomni_search.cli.output import (
    note,
    note_lacking_fields,
    on_terminal,
    print_json,
    print_table,
    snippet,
)
from muomni_search.cli.query import QueryCommand, query_of, query_options, title_of

if TYPE_CHECKING:
    from muomni_search import Collection, Hit, Query


class MinScore(FiniteNumber):
    """A number, or the word ``auto``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that ``value`` spells, or ``auto``."""
        return value if value == "auto" else super().convert(value, param, ctx)


@click.command(
    "search",
    cls=QueryCommand,
    example="""\
muomni search "a dog barking" --modality audio
muomni search --image beach.jpg --minus text:sand --plus "0.5*text:snow" -k 5
muomni search owl --where "licence = 'CC0'" --html owl.html""",
)
@click.argument("words", metavar="[TEXT]", required=False)
@query_options("--text")
@k_option
@click.option(
    "--offset",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Leave out this many of the best: pages of one -k make one list.",
)
@modality_option
@where_option
@click.option(
    "--min-score",
    metavar="X|auto",
    type=MinScore(),
    help="Only hits with this score or more; auto for what one query of ten without an answer "
    "reaches by chance, in each modality.",
)
@click.option("--exact", is_flag=True, help="Compare with every vector, whatever index there is.")
@click.option("--segments", is_flag=True, help="Every segment is a hit, not one an item.")
@click.option("--include-self", is_flag=True, help="Keep the items that --id names.")
@click.option("--html", type=OUTPUT_FILE, help="Also write a page with pictures and players.")
@json_option
@model_option
@collection_option
def command(
    given: Sequence[tuple[str, Any]],
    spelled: str,
    k: int,
    html: Path | None,
    as_json: bool,
    model: str | None,
    directory: Path,
    modalities: tuple[str, ...],
    where: str | None,
    **options: Any,
) -> None:
    """Find what is nearest to a query.

    All parts form one query, the sum of their directions: words (TEXT or --text), pictures,
    sounds, items of the collection, vectors. --plus and --minus take PART, which is
    [weight*]kind:value with kind text, image, audio or id: --minus "0.5*text:night".

    Prints a table, or JSON lines when stdout is no terminal. `score` says how far a hit stands
    out from the rest of its modality, so that texts, pictures and sounds compare; `cosine` is
    the raw similarity.
    """
    from muomni_search import Collection
    from muomni_search.durable import check_folder

    query = query_of(given)
    with Collection.open(directory, model=model, once=True) as collection:
        if html is not None:
            collection.check_output(html)
            check_folder(html)
        hits = collection.query(query, k, modality=modalities or None, where=where, **options)
        if not hits:
            note_lacking_fields(collection, where)
        if html is not None:
            _write_page(html, collection, query, spelled, hits)
    if on_terminal(as_json):
        _print_hits(hits)
    else:
        for hit in hits:
            print_json(hit.as_dict())


def _write_page(
    path: Path, collection: Collection, query: Query, spelled: str, hits: Sequence[Hit]
) -> None:
    from muomni_search.report import Section, asked_parts, write_page

    section = Section(title_of(query), spelled, asked_parts(collection, query), hits)
    write_page(path, "muomni search", [section])
    note(f"page: {path}")


def _print_hits(hits: Sequence[Hit]) -> None:
    if not hits:
        note("no hits")
        return
    print_table(
        ("", "score", "cosine", "what", "key", "content"),
        [
            (
                str(hit.rank),
                f"{hit.score:.2f}",
                f"{hit.cosine:.3f}",
                str(hit.modality),
                hit.key,
                _content(hit),
            )
            for hit in hits
        ],
        right=("", "score", "cosine"),
        cut=("key", "content"),
    )
    note(f"searched: {_how(hits)}")


def _how(hits: Sequence[Hit]) -> str:
    """Say whether all items were compared, and what recall is promised where they were not."""
    told = {hit.modality: hit.promise for hit in hits}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{modality} {how}" for modality, how in told.items())


def _content(hit: Hit) -> str:
    """Say in a line what the hit is: its text, or where in the sound it lies."""
    if hit.text is not None:
        return snippet(hit.text)
    if hit.span is not None and hit.span.unit == "ms":
        return f"{hit.span.start / 1000:.1f} – {hit.span.end / 1000:.1f} s"
    return hit.source or ""
