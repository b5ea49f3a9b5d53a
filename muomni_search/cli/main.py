"""The command `muomni`: finds commands, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any, NoReturn

import click

from muomni_search.cli.options import debug_option, wants_debug
from muomni_search.cli.output import complain
from muomni_search.cores import short_waits
from muomni_search.errors import MuomniError

# In the order of `muomni --help`; each is a module of this package with an attribute `command`.
COMMANDS = (
    "add",
    "watch",
    "search",
    "serve",
    "explain",
    "batch",
    "neighbors",
    "duplicates",
    "get",
    "list",
    "delete",
    "purge",
    "failures",
    "fields",
    "stats",
    "map",
    "eval",
    "align",
    "reembed",
    "rebuild",
    "tune",
    "compact",
    "verify",
    "backup",
    "export",
    "import",
    "collections",
    "drop",
    "model",
    "train",
)

INTERRUPTED = 130  # what shells give a process that Ctrl-C ended: 128 + SIGINT


class Commands(click.Group):
    """A group whose commands load when they are named, and the one place that meets errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the names of all commands, in the order of the help page."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002  click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Import and return a command, or None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"muomni_search.cli.{cmd_name}{'_' * iskeyword(cmd_name)}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error becomes one line on stderr and an exit code."""
        try:
            result = super().invoke(ctx)
            # What is still buffered must fail here, not in silence while Python shuts down.
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            # The reader (`| head`) has seen enough.
            _drop_buffered_output()
            ctx.exit(0)
        except (KeyboardInterrupt, click.Abort) as error:
            _end(ctx, error, "stopped", code=INTERRUPTED)
        except MuomniError as error:
            _end(ctx, error, f"error: {error}")
        except Exception as error:  # noqa: BLE001  the last line of defence: no traceback for users
            is_told = wants_debug(ctx) or isinstance(error, OSError)
            hint = "" if is_told else ": --debug shows more"
            _end(ctx, error, f"error: {_describe(error)}{hint}")


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        from muomni_search.durable import disk_hint

        # Files name themselves; what has no name was being printed.
        return f"{error.filename or 'stdout'}: {error.strerror}: {disk_hint(error.errno)}"
    return f"{type(error).__name__}: {error}"


def _end(ctx: click.Context, error: BaseException, line: str, *, code: int = 1) -> NoReturn:
    if wants_debug(ctx):
        traceback.print_exception(error)
    complain(line)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_buffered_output()
    ctx.exit(code)


def _drop_buffered_output() -> None:
    """Let what stdout still holds go nowhere, or Python complains about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"muomni {version('muomni_search')}")
        ctx.exit()


_VERSION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)


@click.group(
    "muomni",
    cls=Commands,
    params=[_VERSION, debug_option()],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def cli() -> None:
    """Search texts, pictures and sounds with texts, pictures and sounds.

    A collection is a directory, given with -c DIR: `muomni add` makes and fills it, the other
    commands use it. Answers go to stdout, as JSON lines when it is no terminal; progress and
    notes go to stderr.
    """


def main() -> None:
    """Run the command line; the entry point of the console script."""
    os.environ.update(short_waits())  # before a command loads PyTorch
    if sys.stdout is None:
        # Somebody closed it (`muomni list >&-`): an answer would go nowhere, unnoticed.
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  till the end
        complain("error: stdout is closed: send it to /dev/null where no answer is wanted")
        sys.exit(1)
    cli(prog_name="muomni")
