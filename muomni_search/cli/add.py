"""`muomni add`: files, tables and vectors into a collection."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from muomni_search.cli.options import (
    INPUT_FILE,
    Command,
    collection_option,
    json_option,
    limit_options,
    limits_of,
)
from muomni_search.cli.output import note, on_terminal, print_json, progress_bar

if TYPE_CHECKING:
    from muomni_search import Collection, Report

# So many failures are listed at the end; `muomni failures` has them all.
LISTED_FAILURES = 20


@click.command(
    "add",
    cls=Command,
    example="""\
muomni add photos notes songs -c indexes/mine
muomni add birds.jsonl --prefix birds
muomni add rows.jsonl --vectors rows.npy""",
)
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--prefix", metavar="P", help="Put P/ before every key.")
@click.option(
    "--vectors",
    metavar="F.npy",
    type=INPUT_FILE,
    help="Ready vectors: row i belongs to line i of the table PATH.",
)
@click.option("--exclude", metavar="GLOB", multiple=True, help="Skip what matches; repeatable.")
@click.option("--prune", is_flag=True, help="Remove the items whose files are gone from PATH.")
@click.option("-f", "--force", is_flag=True, help="Prune even when more than half is gone.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would happen, and do nothing.")
@click.option("--strict", is_flag=True, help="Stop at the first input that cannot be used.")
@limit_options
@click.option(
    "--model",
    metavar="NAME|PATH",
    help="The model of a new collection (base by default); an old one must have been made with it.",
)
@json_option
@collection_option
def command(
    paths: tuple[Path, ...],
    prefix: str | None,
    vectors: Path | None,
    exclude: tuple[str, ...],
    prune: bool,
    force: bool,
    dry_run: bool,
    strict: bool,
    model: str | None,
    as_json: bool,
    directory: Path,
    **limits: int | None,
) -> None:
    """Add files, tables and vectors to a collection.

    The collection is made if there is none.

    A folder is read with all its folders: its texts, pictures and sounds become items, named by
    their path in it. A table (.jsonl, .csv, .parquet) is read when it is given by name. What is
    in and did not change is skipped, so the same command again brings a collection up to date,
    or goes on after an interruption.

    An input that cannot be used is listed at the end, and by `muomni failures`; the others are
    in.
    """
    missing = [path for path in paths if not os.path.exists(path)]  # noqa: PTH110  never raises
    if missing and not (prune and force):
        raise click.BadParameter(f"{str(missing[0])!r} does not exist", param_hint="PATH")
    from muomni_search import read_corpus

    present = [path for path in paths if path not in missing]
    corpus = read_corpus(present, prefix=prefix, vectors=vectors, exclude=exclude)
    try:
        with (
            open_or_create(directory, model, dry_run=dry_run) as collection,
            progress_bar("items", lambda: count_inputs(present)) as progress,
        ):
            report = collection.add(
                corpus,
                prune_roots=[path.resolve() for path in paths if not path.is_file()] * prune,
                force=force,
                dry_run=dry_run,
                strict=strict,
                limits=limits_of(limits),
                progress=progress,
            )
    except KeyboardInterrupt:
        note("what was committed so far is in and safe; the same command again goes on")
        raise
    print_report(report, as_json, dry_run=dry_run)


@contextmanager
def open_or_create(
    directory: Path, model: str | None, *, dry_run: bool = False
) -> Iterator[Collection]:
    """Open the collection, or make it; a dry run makes it elsewhere, to be forgotten."""
    from muomni_search import Collection, Conflict, NotFound
    from muomni_search.store.sqlite import DATABASE

    with TemporaryDirectory() as scratch:
        try:
            collection = Collection.open(directory, model=model)
        except NotFound:
            place = Path(scratch, "collection") if dry_run else directory
            try:
                collection = Collection.create(place, model=model or "base")
            except Conflict:  # somebody else has made one meanwhile, or what is there is none
                if not (place / DATABASE).exists():
                    raise
                collection = Collection.open(place, model=model)
        with collection:
            yield collection


def count_inputs(paths: Sequence[Path]) -> int:
    """Return about how many items there will be, for the time left: files and rows, unread."""
    count = 0
    for path in paths:
        # What cannot be read is told by those who read it.
        with suppress(OSError, ValueError):
            count += _count_input(path)
    return count


def _count_input(path: Path) -> int:
    if path.is_dir():
        count = 0
        for _, folders, files in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            count += sum(not name.startswith(".") for name in files)
        return count
    if path.suffix.lower() == ".parquet":
        from pyarrow.parquet import read_metadata

        rows: int = read_metadata(path).num_rows
        return rows
    if path.suffix.lower() in {".jsonl", ".ndjson", ".csv"}:
        with path.open("rb") as table:
            return sum(block.count(b"\n") for block in iter(lambda: table.read(1 << 20), b""))
    return 1


def print_report(report: Report, as_json: bool, *, dry_run: bool = False) -> None:
    """Print what was done on stdout, and what could not be used on stderr."""
    if on_terminal(as_json):
        click.echo(_summary(report, dry_run))
    else:
        print_json(report.as_dict())
    for problem in report.problems[:LISTED_FAILURES]:
        # Most errors name the file themselves.
        source = "" if problem.source in problem.error else problem.source
        note(": ".join(filter(None, ("failed", source, problem.error, problem.hint))))
    if len(report.problems) > LISTED_FAILURES:
        note(f"… and {len(report.problems) - LISTED_FAILURES:,} more: muomni failures")


def _summary(report: Report, dry_run: bool) -> str:
    counts = report.as_dict()
    seconds = counts.pop("seconds")
    told = [f"{count:,} {name}" for name, count in counts.items() if count]
    would = "would be: " if dry_run else ""
    return f"{would}{', '.join(told) or 'nothing to do'} ({seconds:.1f} s)"
