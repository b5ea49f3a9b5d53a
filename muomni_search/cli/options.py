"""The options, argument types and command class that all commands share.

Imports click alone, as every module of commands does at its top: `--help` answers at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from muomni_search import Limits

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# ``items.Modality`` without importing NumPy for it; a test holds the two together.
MODALITIES = ("text", "image", "audio")
DEFAULT_COLLECTION = Path("indexes/default")

_DEBUG = "muomni_search.debug"

DIRECTORY = click.Path(file_okay=False, path_type=Path)
OUTPUT_FILE = click.Path(dir_okay=False, path_type=Path)
# Not `readable`: that a file cannot be read is told by what tries to read it, with the cause.
INPUT_FILE = click.Path(exists=True, dir_okay=False, readable=False, path_type=Path)


class Command(click.Command):
    """A command whose help ends with an example, and which takes --debug.

    Args:
        example: One or more lines, each a whole command.
    """

    def __init__(self, *args: Any, example: str, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.example = example
        self.params.append(debug_option())

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the example, unwrapped so that it can be copied."""
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class FiniteNumber(click.ParamType[float]):
    """A number, but neither NaN nor infinity.

    Args:
        above: What it must be more than.
        least: What it may be at least.
        most: What it may be at most.
    """

    name = "number"

    def __init__(
        self, *, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
    ) -> None:
        self._above, self._least, self._most = above, least, most
        bounds = {"more than": above, "at least": least, "at most": most}
        self._bounds = " and ".join(
            f"{words} {bound:,g}" for words, bound in bounds.items() if math.isfinite(bound)
        )

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number that ``value`` spells."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        if not (number > self._above and self._least <= number <= self._most):
            self.fail(f"{value!r} is not {self._bounds}", param, ctx)
        return number


def _remember_debug(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[_DEBUG] = True


def wants_debug(ctx: click.Context) -> bool:
    """Whether --debug was given, before or after the command's name."""
    return bool(ctx.meta.get(_DEBUG))


def debug_option() -> click.Option:
    """Return the option --debug, which the group and every command take."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )


def count_option(
    *names: str,
    help: str,  # noqa: A002  click's name
    least: int = 1,
    default: int | None = None,
) -> Callable[[Decorated], Decorated]:
    """Return an option for a whole number N of ``least`` or more."""
    return click.option(
        *names,
        metavar="N",
        type=click.IntRange(min=least),
        default=default,
        show_default=default is not None,
        help=help,
    )


collection_option = click.option(
    "-c",
    "--collection",
    "directory",
    type=DIRECTORY,
    default=DEFAULT_COLLECTION,
    show_default=True,
    envvar="MUOMNI_COLLECTION",
    show_envvar=True,
    help="The collection's directory.",
)
model_option = click.option(
    "--model",
    metavar="NAME|PATH",
    help="The model that the collection was made with, where it is now.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, as a pipe gets it.")
modality_option = click.option(
    "--modality",
    "modalities",
    type=click.Choice(MODALITIES),
    multiple=True,
    help="Only these; may be repeated.",
)
where_option = click.option(
    "--where", metavar="EXPR", help='Only items that this filter matches: "year >= 2020".'
)


def limit_options(function: Decorated) -> Decorated:
    """Give a command the options of what a single file may cost, as ``Limits`` calls them."""
    for name, what in (
        ("bytes", "larger files"),
        ("seconds", "longer sounds"),
        ("pixels", "larger pictures"),
    ):
        option = click.option(
            f"--max-{name}", type=click.IntRange(min=1), metavar="N", help=f"Refuse {what}."
        )
        function = option(function)
    return function


def check_folders(folders: Sequence[Path], option: str) -> None:
    """Refuse folders that are not there; not their type's check, for examples name made-up ones.

    Raises:
        BadParameter: One of them is not.
    """
    for folder in folders:
        if not folder.is_dir():
            raise click.BadParameter(f"{str(folder)!r} does not exist", param_hint=option)


def limits_of(asked: Mapping[str, int | None]) -> Limits:
    """Return what ``limit_options`` were given; what was not has its default."""
    from muomni_search import Limits

    return Limits(**{name: most for name, most in asked.items() if most is not None})


k_option = count_option("-k", default=10, help="How many hits.")
