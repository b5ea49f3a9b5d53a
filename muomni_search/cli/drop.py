"""`muomni drop`: a collection out of the world."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import click

from muomni_search.cli.options import Command, collection_option, json_option
from muomni_search.cli.output import agreed, harmless, note, on_terminal, print_json


@click.command("drop", cls=Command, example="muomni drop -c indexes/birds")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@collection_option
def command(force: bool, as_json: bool, directory: Path) -> None:
    """Delete a collection, with all its vectors and indexes.

    Asks first. The files that its items came from stay, except for those that were uploaded to a
    server, and so do other files beside its database; its folders vectors and index go with all
    that is in them.
    """
    from muomni_search import MuomniError
    from muomni_search.store.uploads import uploads_of

    folder = uploads_of(directory)
    if not force and not agreed(_question(directory)):
        raise MuomniError(f"{directory} was not deleted", hint="-f deletes without asking")
    uploads = _drop(directory)
    if uploads:
        note(f"{uploads:,} files went with it that were uploaded to a server")
    if directory.exists():
        note(f"{directory} holds other files too and stays")
    if folder.exists():
        note(f"{folder} holds other files too, or some that cannot be removed, and stays")
    if on_terminal(as_json):
        click.echo(f"{harmless(str(directory))} dropped")
    else:
        print_json({"dropped": str(directory)})


def _question(directory: Path) -> str:
    from muomni_search import Collection

    with Collection.open(directory) as collection:
        items = collection.stats()["items"]
    return f"Delete {directory} with {items:,} items, and the files that were uploaded to it?"


def _drop(directory: Path) -> int:
    """Remove a collection; return how many files went that were uploaded to it."""
    from muomni_search.store.store import INDEX, STAGE, VECTORS, Store
    from muomni_search.store.uploads import own_uploads, remove_uploads, uploads_of

    # Under the write lock, so that nobody is adding. The database goes first: what a kill leaves
    # behind is then no collection any more.
    with Store.open(directory) as store, store.write():
        places = list(own_uploads(store))
        for suffix in ("", "-wal", "-shm"):
            Path(f"{store.database}{suffix}").unlink(missing_ok=True)
        for name in (VECTORS, INDEX, STAGE):
            with suppress(FileNotFoundError):
                shutil.rmtree(store.directory / name)
        uploads = remove_uploads(places, uploads_of(directory))
    with suppress(OSError):  # other files in it, or a link to it
        directory.rmdir()
    return uploads
