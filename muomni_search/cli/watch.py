"""`muomni watch`: folders that stay in step with a collection."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

import click

from muomni_search.cli.add import print_report
from muomni_search.cli.options import (
    DIRECTORY,
    Command,
    FiniteNumber,
    check_folders,
    collection_option,
    json_option,
    limit_options,
    limits_of,
)
from muomni_search.cli.output import note, progress_bar


@click.command(
    "watch",
    cls=Command,
    example="""\
muomni watch photos notes -c indexes/mine
muomni watch /mnt/nas/photos --poll -c indexes/mine
muomni watch photos --once -c indexes/mine""",
)
@click.argument(
    "folders",
    metavar="PATH...",
    nargs=-1,
    required=True,
    type=DIRECTORY,
)
@click.option("--once", is_flag=True, help="Bring the collection up to date, and end: for cron.")
@click.option("--prefix", metavar="P", help="Put P/ before every key.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="Skip what matches; repeatable.")
@click.option("-f", "--force", is_flag=True, help="Prune even when more than half is gone.")
@click.option(
    "--debounce",
    type=FiniteNumber(above=0, most=86_400),
    metavar="S",
    default=1.0,
    show_default=True,
    help="Take a file when it stayed as it is for S seconds.",
)
@click.option(
    "--rescan",
    type=FiniteNumber(above=0),
    metavar="S",
    default=3600.0,
    show_default=True,
    help="Read the folders whole again every S seconds.",
)
@click.option("--poll", is_flag=True, help="Look again and again: for network folders.")
@limit_options
@json_option
@collection_option
def command(
    folders: tuple[Path, ...],
    once: bool,
    prefix: str | None,
    exclude: tuple[str, ...],
    force: bool,
    debounce: float,
    rescan: float,
    poll: bool,
    as_json: bool,
    directory: Path,
    **limits: int | None,
) -> None:
    """Keep a collection in step with folders.

    What is added to the folders, changed, renamed or removed there is added, changed, renamed or
    removed in the collection, by the rules of `muomni add --prune`. Each batch that did something
    is told in a line. Ctrl-C or SIGTERM ends it, with all that was encoded committed.

    A folder that goes away, as a disk does, is waited for: nothing of it is removed.
    """
    check_folders(folders, "PATH")
    from muomni_search import Collection, watch_folders

    with (
        Collection.open(directory) as collection,
        _stop_signals() as (stop, signals),
        progress_bar("items") as progress,
    ):
        reports = watch_folders(
            collection,
            folders,
            stop=stop,
            once=once,
            prefix=prefix,
            exclude=exclude,
            force=force,
            limits=limits_of(limits),
            debounce=debounce,
            rescan=rescan,
            poll=poll,
            told=note,
            progress=progress,
        )
        if not once:
            note(f"watching {', '.join(map(str, folders))}: Ctrl-C ends it")
        for report in reports:
            print_report(report, as_json)
            sys.stdout.flush()  # whoever reads a pipe waits for the line
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


@contextmanager
def _stop_signals() -> Iterator[tuple[Event, list[int]]]:
    """Give an event that SIGINT and SIGTERM set, and the signals that came; a second one ends."""
    stop, came = Event(), list[int]()

    def end(number: int, _: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        stop.set()

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, came
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
