"""A query on the command line: words, pictures, sounds, items and vectors, added and subtracted."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muomni_search.cli.options import Command, Decorated
from muomni_search.cli.output import snippet

if TYPE_CHECKING:
    from muomni_search import Query
    from muomni_search.items import Part

# The options that give a part of the query, each repeatable.
PARTS = ("text", "image", "audio", "id", "vector", "plus", "minus")


class PartType(click.ParamType["Query"]):
    """What --plus and --minus take: ``[weight*]kind:value``."""

    name = "part"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Query:
        """Return the query that ``value`` spells."""
        from muomni_search import InvalidInput, Query
        from muomni_search.query_parts import parse_part

        if isinstance(value, Query):
            return value
        try:
            return parse_part(value)
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


class QueryCommand(Command):
    """Keeps the order in which the parts of a query were given, across their options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse ``args``; put ``given``, options with their values, in place of the parts.

        An argument ``words`` is the first part of all. ``spelled`` is the whole call, for pages.
        """
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        spelled = shlex.join(["muomni", str(self.name), *args])
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        rest = super().parse_args(ctx, args)
        values = {name: iter(ctx.params.pop(name)) for name in PARTS}
        words = ctx.params.pop("words", None)
        given = [] if words is None else [("text", words)]
        given += [(param.name, next(values[param.name])) for param in order if param.name in PARTS]
        ctx.params |= {"given": given, "spelled": spelled}
        return rest


_OPTIONS = (
    click.option("--image", metavar="FILE", multiple=True, type=click.Path(), help="A picture."),
    click.option("--audio", metavar="FILE", multiple=True, type=click.Path(), help="A sound."),
    click.option("--id", metavar="KEY", multiple=True, help="An item of the collection."),
    click.option(
        "--vector",
        metavar="F.npy",
        multiple=True,
        type=click.Path(),
        help="A vector of 256 numbers.",
    ),
    click.option("--plus", metavar="PART", multiple=True, type=PartType(), help="Add a part."),
    click.option(
        "--minus", metavar="PART", multiple=True, type=PartType(), help="Subtract a part."
    ),
)


def query_options(*names: str) -> Callable[[Decorated], Decorated]:
    """Give a command of the class ``QueryCommand`` the options of ``PARTS``.

    Args:
        names: How the option for words is called, ``--text`` among them.
    """
    words = click.option("text", *names, metavar="TEXT", multiple=True, help="Words.")

    def give(function: Decorated) -> Decorated:
        for option in reversed((words, *_OPTIONS)):
            function = option(function)
        return function

    return give


def query_of(given: Sequence[tuple[str, Any]]) -> Query:
    """Return the query that the options of a ``QueryCommand`` spell.

    Raises:
        UsageError: There are none.
    """
    if not given:
        raise click.UsageError(
            "nothing to search for: give TEXT, --text, --image, --audio, --id, --vector, --plus "
            "or --minus"
        )
    return reduce(add, (addend(option, value) for option, value in given))


def addend(option: str, value: Any) -> Query:
    """Return the part of the query that an option gives."""
    from muomni_search import Query
    from muomni_search.query_parts import make_part

    if option == "vector":
        return Query.vector(_load_vector(value))
    if option in ("plus", "minus"):
        part: Query = value
        return part if option == "plus" else -part
    return make_part(option, value)


def _load_vector(path: str) -> Any:
    import numpy as np

    from muomni_search.errors import UnreadableFile
    from muomni_search.ingest.matrix import NO_ARRAY
    from muomni_search.vectors import check_vectors

    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise UnreadableFile(
            f"{path}: {(error.strerror or str(error)).lower()}", hint="check its name"
        ) from error
    except NO_ARRAY as error:
        # NumPy's words speak of pickles, which none is read as.
        raise UnreadableFile(
            f"{path}: no array of numbers, or cut off", hint="give a .npy file of 256 numbers"
        ) from error
    rows = check_vectors(np.atleast_2d(array), path)
    if len(rows) != 1:
        raise UnreadableFile(
            f"{path}: holds {len(rows)} vectors, a query takes one",
            hint="muomni batch asks many queries",
        )
    return rows[0]


def title_of(query: Query) -> str:
    """Say in a few words what a query asks for."""
    return " ".join(_signed(part) for part in query.parts).removeprefix("+ ")


def _signed(part: Part) -> str:
    """Say in a few words what a part asks for, as an addend."""
    weight = "" if abs(part.weight) == 1 else f"{abs(part.weight):g} × "
    shown = {"vector": "a vector"}.get(part.kind) or snippet(
        Path(part.value).name if isinstance(part.value, Path) else part.value
    )
    return f"{'−' if part.weight < 0 else '+'} {weight}{shown}"
