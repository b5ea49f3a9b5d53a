"""`muomni purge`: items out of a collection, and every byte of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from muomni_search.cli.options import Command, collection_option, json_option, where_option
from muomni_search.cli.output import agreed, note, note_lacking_fields, on_terminal, print_json

if TYPE_CHECKING:
    from muomni_search import Collection


@click.command("purge", cls=Command, example="muomni purge letters/to-anna.txt")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@where_option
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@collection_option
def command(
    keys: tuple[str, ...], where: str | None, force: bool, as_json: bool, directory: Path
) -> None:
    """Delete items so that no byte of them is left.

    Text, key, path, metadata and vectors of the items are afterwards nowhere in the collection's
    directory, and neither is what was deleted or replaced before: without KEY that alone is
    purged. A KEY that is not there is no error. The files that items came from stay, except for
    those that were uploaded to a server; and so do exports and copies.

    Asks first. While other processes read the collection some of it may stay: then the exit code
    is 1, and the same command again finishes.
    """
    if keys and where is not None:
        raise click.UsageError("name items by KEY, or give --where, but not both")
    from muomni_search import Collection
    from muomni_search.errors import Conflict, MuomniError

    with Collection.open(directory) as collection:
        # Before it: afterwards no item may have a field that purged ones had.
        if not any(collection.items(where=where, limit=1)):
            note_lacking_fields(collection, where)
        if not force and not agreed(_question(collection, keys, where, directory)):
            raise MuomniError(f"{directory} was not purged", hint="-f purges without asking")
        done = collection.purge(keys, where=where)
    if on_terminal(as_json):
        click.echo(f"{done.deleted:,} items purged")
    else:
        print_json(done.as_dict())
    for key in done.absent:
        note(f"{key} was not there")
    if done.remains:
        raise Conflict(
            "the items are deleted, but others are using the collection or some files cannot be "
            "removed, and what was deleted may still be in "
            f"{', '.join(map(str, done.remains))}",
            hint="when they are done, or may be removed, the same command again finishes",
        )


def _question(
    collection: Collection, keys: tuple[str, ...], where: str | None, directory: Path
) -> str:
    doomed = [f"{len(keys):,} key{'s' * (len(keys) > 1)}"] if keys else []
    if where is not None:
        matching = sum(1 for _ in collection.items(where=where))
        doomed.append(f"{matching:,} items that the filter matches")
    doomed.append("all that was deleted before")
    return f"Purge {' and '.join(doomed)} from {directory}, for good?"
