"""What a server was asked for: its collections, who may ask, and what a request may cost."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from muomni_search.collection import Collection
from muomni_search.cores import usable_cores
from muomni_search.errors import InvalidInput
from muomni_search.ingest.read import Limits

__all__ = ["Settings", "is_loopback", "name_collections"]

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server was asked for.

    Args:
        collections: Directories of collections, by the name that they are served under; empty for
            all that lie below ``root``.
        root: Where collections are found, and made.
        host: The address to listen at.
        token: What a client must show; None where everybody who reaches the address may ask.
        read_only: Whether adding, deleting and making collections are refused.
        hosts: Further names that a request may call this server by.
        watched: Folders that a collection is kept in step with, by the name of the collection.
        files: Folders whose files may be shown although no item was added from them as a folder.
        limits: What a single file may cost.
        max_upload: Bytes of one request that brings items, queries or a file.
        max_body: Bytes of any other request.
        searches: How many searches run at once.
        waiting: How many requests of a kind may wait for their turn; more are told to come back.
        deadline: Seconds that a request waits for its turn.
        idle: Seconds between two pieces of a request's body.
        upload_bytes: What the pictures and sounds of queries may take on the disk, all together.
        result_bytes: What the results of jobs may take there.
    """

    collections: dict[str, Path] = field(default_factory=dict)
    root: Path = Path("indexes")
    host: str = "127.0.0.1"
    token: str | None = None
    read_only: bool = False
    hosts: tuple[str, ...] = ()
    watched: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)
    max_upload: int = 1_000 * MEGABYTE
    max_body: int = MEGABYTE
    searches: int = field(default_factory=lambda: 8 * usable_cores())
    waiting: int = 256
    deadline: float = 10.0
    idle: float = 30.0
    upload_bytes: int = 500 * MEGABYTE
    result_bytes: int = 2_000 * MEGABYTE

    def __post_init__(self) -> None:
        if self.token is not None and not self.token:
            raise InvalidInput("the token is empty", hint="give one, or leave --token out")
        if self.token is None and not is_loopback(self.host):
            raise InvalidInput(
                f"{self.host} can be reached from other machines, and there is no token",
                hint="give --token T (or MUOMNI_TOKEN), or leave --host out",
            )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def name_collections(directories: Sequence[Path]) -> dict[str, Path]:
    """Return directories of collections by the name that they are served under: their last part.

    Raises:
        NotFound: There is no collection in one of them.
        CorruptData: One of them is damaged, foreign, or of a newer version.
        InvalidInput: Two of them have the same name.
    """
    named: dict[str, Path] = {}
    for directory in map(Path.absolute, directories):
        Collection.open(directory).close()
        name = directory.resolve().name
        if name in named and named[name] != directory:
            raise InvalidInput(
                f"{named[name]} and {directory} are both called {name!r}", hint="rename one of them"
            )
        named[name] = directory
    return named
