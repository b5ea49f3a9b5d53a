"""`muomni verify`: whether everything stored fits together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import note, on_terminal, print_json, print_table

if TYPE_CHECKING:
    from muomni_search.store.records import Fault


@click.command("verify", cls=Command, example="muomni verify --repair")
@click.option("--repair", is_flag=True, help="Mend what can be derived, then look again.")
@json_option
@collection_option
def command(repair: bool, as_json: bool, directory: Path) -> None:
    """Check database, vectors and indexes against each other.

    Checksums, lengths, dimensions, unit lengths, orphans. With --repair, indexes are built anew,
    flipped bits are turned back, and items whose vectors are damaged otherwise are encoded again,
    from the text that is stored or from their file. Items of which neither is there are deleted,
    and `muomni failures` tells which: one checksum covers 4096 rows, so `muomni backup` first where
    vectors came ready. The exit code is 1 while problems are left.
    """
    from muomni_search import Collection
    from muomni_search.errors import CorruptData
    from muomni_search.store.sqlite import BEYOND_REPAIR, MAYBE_BEYOND

    with _told(directory, as_json), Collection.open(directory) as collection:
        if repair:
            try:
                for done in collection.repair():
                    note(f"repaired: {done}")
            except CorruptData as error:
                raise CorruptData(error.what, hint=BEYOND_REPAIR) from error
        faults = collection.verify()
    if not on_terminal(as_json):
        _print_problems(faults)
    elif faults:
        print_table(
            ("kind", "where", "detail"),
            [(fault.kind, fault.where, fault.detail) for fault in faults],
            wrap=("where", "detail"),
        )
    else:
        click.echo("everything fits together")
    if faults:
        kinds = {fault.kind for fault in faults}
        mend = "muomni verify --repair"
        if repair or "log" in kinds:  # of a log that is cut short nothing tells what it held
            mend = BEYOND_REPAIR
        elif "database" in kinds:
            mend = MAYBE_BEYOND
        count = "1 problem" if len(faults) == 1 else f"{len(faults)} problems"
        raise CorruptData(f"{directory}: {count}", hint=mend)


@contextmanager
def _told(directory: Path, as_json: bool) -> Iterator[None]:
    """Print what keeps a database from being opened or read as the problem that it is, too."""
    from muomni_search.errors import CorruptData
    from muomni_search.store.records import Fault
    from muomni_search.store.sqlite import DATABASE

    try:
        yield
    except CorruptData as error:
        if not on_terminal(as_json):
            where = str(directory.absolute() / DATABASE)
            _print_problems([Fault("database", where, error.what)])
        raise


def _print_problems(faults: Sequence[Fault]) -> None:
    problems = [
        {"kind": fault.kind, "where": fault.where, "detail": fault.detail} for fault in faults
    ]
    print_json({"ok": not problems, "problems": problems})
