"""`muomni serve`: collections over HTTP, with a page for people."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import click

from muomni_search.cli.options import (
    DEFAULT_COLLECTION,
    DIRECTORY,
    Command,
    check_folders,
    count_option,
    limit_options,
    limits_of,
)
from muomni_search.cli.output import note


@click.command(
    "serve",
    cls=Command,
    example="""\
muomni serve
muomni serve -c indexes/birds --watch photos/birds --open
muomni serve --host 0.0.0.0 --token "a long secret" --read-only""",
)
@click.option(
    "-c",
    "--collection",
    "directories",
    type=DIRECTORY,
    multiple=True,
    help="Serve this collection; may be repeated. By default all below --root.",
)
@click.option(
    "--root",
    type=DIRECTORY,
    default=DEFAULT_COLLECTION.parent,
    show_default=True,
    help="Serve the collections in this folder, as they come and go.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8765,
    show_default=True,
    help="The port; 0 for any that is free.",
)
@click.option(
    "--token",
    metavar="T",
    envvar="MUOMNI_TOKEN",
    show_envvar=True,
    help="What clients must show; needed where other machines can reach the address.",
)
@click.option(
    "--allow-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    help="A further name that requests may call this server by; may be repeated.",
)
@click.option(
    "--files",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Also show files from this folder, where an import says that they lie.",
)
@click.option(
    "--watch",
    "watched",
    metavar="PATH",
    type=DIRECTORY,
    multiple=True,
    help="Keep the collection of -c in step with this folder; may be repeated.",
)
@click.option("--read-only", is_flag=True, help="Refuse to add, delete and make collections.")
@count_option("--max-upload", default=1_000_000_000, help="Bytes of a request that brings files.")
@limit_options
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
def command(
    directories: tuple[Path, ...],
    root: Path,
    host: str,
    port: int,
    token: str | None,
    hosts: tuple[str, ...],
    files: tuple[Path, ...],
    watched: tuple[Path, ...],
    read_only: bool,
    max_upload: int,
    opens: bool,
    **limits: int | None,
) -> None:
    """Serve collections: an HTTP API, and a page to search with.

    Without -c it serves all collections in --root. The page is at the address that is printed
    when it is ready, the API below /v1, its description at /v1/openapi.json. Ctrl-C stops it:
    requests that are being answered are finished first.
    """
    if watched and len(directories) != 1:
        raise click.UsageError("--watch keeps one collection in step: name it with -c")
    check_folders(watched, "--watch")
    from muomni_search.server.jobs import THREAD
    from muomni_search.server.run import serve
    from muomni_search.server.settings import Settings, name_collections

    collections = name_collections(directories)
    settings = Settings(
        collections=collections,
        root=root.absolute(),
        host=host,
        token=token,
        read_only=read_only,
        hosts=hosts,
        files=tuple(one.resolve() for one in files),
        watched={name: watched for name in collections if watched},
        limits=limits_of(limits),
        max_upload=max_upload,
    )

    def ready(url: str) -> None:
        click.echo(url)
        if not collections and not root.is_dir():
            note(f"{root} does not exist: nothing is served until collections are made in it")
        note("Ctrl-C stops it")
        if opens:
            click.launch(url)

    serve(settings, port=port, ready=ready)
    if any(thread.name == THREAD for thread in threading.enumerate()):
        # A job is in the midst of loading a model, say: Python's end would stop its thread amid
        # code that is not Python's, which aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
