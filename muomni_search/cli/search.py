"""`muomni search`: one query of words, pictures, sounds, items and vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from muomni_search.cli.options import (
    OUTPUT_FILE,
    Command,
    FiniteNumber,
    collection_option,
    json_option,
    k_option,
    modality_option,
    model_option,
    where_option,
)
from muomni_search.cli.output import note, on_terminal, print_json, print_table, snippet

if TYPE_CHECKING:
    from muomni_search import Hit, Query


class Addend(NamedTuple):
    """One part of the query as the command line spells it."""

    weight: float
    kind: str
    value: str


class PartType(click.ParamType[Addend]):
    """What --plus and --minus take: ``[weight*]kind:value``."""

    name = "part"
    _form = re.compile(
        r"(?:(?P<weight>[^*:]*)\*)?(?P<kind>text|image|audio|id):(?P<value>.+)", re.DOTALL
    )

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Addend:
        """Return the addend that ``value`` spells."""
        if isinstance(value, Addend):
            return value
        form = self._form.fullmatch(value)
        if form is None:
            self.fail(
                f"{value!r} is not [weight*]kind:value with kind text, image, audio or id",
                param,
                ctx,
            )
        weight = 1.0
        if form["weight"] is not None:
            weight = FiniteNumber().convert(form["weight"], param, ctx)
        if weight <= 0:
            self.fail(f"the weight of {value!r} is not positive", param, ctx)
        return Addend(weight, form["kind"], form["value"])


class SearchCommand(Command):
    """Keeps the order in which the parts of a query were given, across their options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``args``; put ``parts``, the query's addends, in place of their options."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        rest = super().parse_args(ctx, args)
        names = ("text", "image", "audio", "id", "vector", "plus", "minus")
        values = {name: iter(ctx.params.pop(name)) for name in names}
        words = ctx.params.pop("words")
        parts = [] if words is None else [Addend(1.0, "text", words)]
        for name in (param.name for param in order if param.name in values):
            value = next(values[name])
            if name == "minus":
                parts.append(value._replace(weight=-value.weight))
            else:
                parts.append(value if name == "plus" else Addend(1.0, name, value))
        ctx.params["parts"] = parts
        return rest


@click.command(
    "search",
    cls=SearchCommand,
    example="""\
muomni search "a dog barking" --modality audio
muomni search --image beach.jpg --minus text:sand --plus "0.5*text:snow" -k 5
muomni search owl --where "licence = 'CC0'" --html owl.html""",
)
@click.argument("words", metavar="[TEXT]", required=False)
@click.option("--text", metavar="TEXT", multiple=True, help="Words.")
@click.option("--image", metavar="FILE", multiple=True, type=click.Path(), help="A picture.")
@click.option("--audio", metavar="FILE", multiple=True, type=click.Path(), help="A sound.")
@click.option("--id", metavar="KEY", multiple=True, help="An item of the collection.")
@click.option(
    "--vector", metavar="F.npy", multiple=True, type=click.Path(), help="A vector of 256 numbers."
)
@click.option("--plus", metavar="PART", multiple=True, type=PartType(), help="Add a part.")
@click.option("--minus", metavar="PART", multiple=True, type=PartType(), help="Subtract a part.")
@k_option
@click.option(
    "--offset",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="Leave out this many of the best.",
)
@modality_option
@where_option
@click.option(
    "--min-score", metavar="X", type=FiniteNumber(), help="Only hits with this score or more."
)
@click.option("--exact", is_flag=True, help="Compare with every vector, whatever index there is.")
@click.option("--segments", is_flag=True, help="Every segment is a hit, not one an item.")
@click.option("--include-self", is_flag=True, help="Keep the items that --id names.")
@click.option("--html", type=OUTPUT_FILE, help="Also write a page with pictures and players.")
@json_option
@model_option
@collection_option
def command(
    parts: Sequence[Addend],
    k: int,
    html: Path | None,
    as_json: bool,
    model: str | None,
    directory: Path,
    modalities: tuple[str, ...],
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
    if not parts:
        raise click.UsageError(
            "nothing to search for: give TEXT, --text, --image, --audio, --id, --vector, --plus "
            "or --minus"
        )
    from muomni_search import Collection

    query = reduce(add, (_query(part) for part in parts))
    with Collection.open(directory, model=model) as collection:
        hits = collection.query(query, k, modality=modalities or None, **options)
    if on_terminal(as_json):
        _print_hits(hits)
    else:
        for hit in hits:
            print_json(hit.as_dict())


def _query(part: Addend) -> Query:
    from muomni_search import Query

    value = _load_vector(part.value) if part.kind == "vector" else part.value
    one: Query = getattr(Query, part.kind)(value)
    return one * part.weight


def _load_vector(path: str) -> Any:
    import numpy as np

    from muomni_search.errors import UnreadableFile
    from muomni_search.vectors import check_vectors

    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableFile(
            f"{path}: cannot be read as a vector: {error}", hint="give a .npy file of 256 numbers"
        ) from error
    rows = check_vectors(np.atleast_2d(array), path)
    if len(rows) != 1:
        raise UnreadableFile(
            f"{path}: holds {len(rows)} vectors, a query takes one",
            hint="muomni batch asks many queries",
        )
    return rows[0]


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


def _content(hit: Hit) -> str:
    """Say in a line what the hit is: its text, or where in the sound it lies."""
    if hit.text is not None:
        return snippet(hit.text)
    if hit.span is not None and hit.span.unit == "ms":
        return f"{hit.span.start / 1000:.1f} – {hit.span.end / 1000:.1f} s"
    return hit.source or ""
