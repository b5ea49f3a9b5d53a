"""The acts that must survive a power cut, each announced before and after.

``step`` does nothing. The crash tests replace it with one that ends the process at its first,
second, … nth call, or fails as a full disk does, so that every instant between two durable acts
is tried.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from muomni_search.errors import Conflict, NotFound

__all__ = [
    "PNG_HEAD",
    "WHOLE",
    "changed_ns",
    "check_folder",
    "check_kind",
    "checksum",
    "cut",
    "disk_hint",
    "fsync_directory",
    "fsync_file",
    "held_folder",
    "place_of",
    "replace",
    "step",
    "unlink",
    "whole_file",
    "write_all",
]


def step(name: str) -> None:
    """Mark an instant at which the process may die; the seam of the crash tests."""


def cut(descriptor: int, length: int) -> None:
    """Cut a file to ``length`` bytes."""
    step("before cut")
    os.ftruncate(descriptor, length)
    step("after cut")


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``; a short write is continued, an error raised."""
    step("before write")
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
    step("after write")


def fsync_file(descriptor: int) -> None:
    """Bring a file's content to the disk."""
    step("before fsync")
    os.fsync(descriptor)
    step("after fsync")


def fsync_directory(path: Path) -> None:
    """Bring a directory's names to the disk."""
    step("before fsync of a directory")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    step("after fsync of a directory")


def replace(source: Path, target: Path) -> None:
    """Give a finished file its name, in one step, and bring the name to the disk."""
    step("before rename")
    source.replace(target)
    step("after rename")
    fsync_directory(target.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; what was written there gets the name ``path`` when it is whole.

    Who dies half-way leaves a ``.partial`` file that nothing refers to. Errors of the file system
    name ``path``, which is the name that people know.
    """
    # Two threads may write the same file at once.
    own = f"{os.getpid()}-{threading.get_ident()}"
    partial = path.with_name(f".{path.name}.{own}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            fsync_file(file.fileno())
        replace(partial, path)
    except OSError as error:
        if error.filename in (partial, str(partial)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def held_folder(folder: Path, why: str) -> Iterator[None]:
    """Make a folder and hold it, alone; remove it at the end when nothing is left in it.

    Args:
        folder: Which.
        why: What to say of another who holds it.

    Raises:
        Conflict: Another process holds it. Such a hold dies with its process.
    """
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have removed it just now.
            if not folder.exists() or folder.stat().st_ino != os.fstat(descriptor).st_ino:
                raise BlockingIOError
        except BlockingIOError as error:
            raise Conflict(f"{folder} is in use: {why}", hint="wait for it") from error
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
    finally:
        os.close(descriptor)


PNG_HEAD = b"\x89PNG\r\n\x1a\n"
SHA256_DIGITS = 64
# Of a file that is summed, at a time: a quarter of a megabyte stays in a core's cache.
READ_BYTES = 1 << 18


def check_folder(path: Path) -> None:
    """Refuse to write a file where there is no folder for it.

    Raises:
        NotFound: There is none.
    """
    if not path.absolute().parent.is_dir():
        raise NotFound(f"{path}: there is no folder {path.parent}", hint="make it first")


def check_kind(path: Path, magic: bytes) -> None:
    """Refuse to replace a file that does not begin as what will be written does.

    Raises:
        Conflict: There is a file of another kind.
        NotFound: There is no folder for it.
    """
    check_folder(path)
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(magic))
        if head and head.lower() != magic.lower():
            raise Conflict(f"{path} is there, and something else", hint="name another file")


def unlink(path: Path) -> None:
    """Remove a file that nothing refers to any more."""
    step("before unlink")
    path.unlink(missing_ok=True)
    step("after unlink")


# ---- what to do about a disk that refuses -----------------------------------------------------

WHOLE = "what was stored before is whole"


def disk_hint(number: int | None) -> str:
    """Return what to do about an error of the file system, by its number."""
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"free some space and try again; {WHOLE}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"mend the permissions and try again; {WHOLE}"
    return f"check the path and the disk; {WHOLE}"


def changed_ns(facts: os.stat_result) -> int:
    """Return when a file or what is called so was last changed, in nanoseconds.

    The later one of two times: what writes a file sets the first, and some programs set it back;
    renaming another file to its name sets the second, and nobody can set that.
    """
    return max(facts.st_mtime_ns, facts.st_ctime_ns)


def checksum(blocks: Iterable[bytes | memoryview], *, like: str = "") -> str:
    """Return what the bytes of a file are known again by: their CRC-32.

    A SHA-256 of an index takes as long as FAISS takes to read it, and guards no better against
    disks: who could alter a file on purpose could alter what it is held against.

    Args:
        blocks: The bytes, in order.
        like: What they will be held against: earlier versions took a SHA-256, which is then taken.
    """
    if len(like) == SHA256_DIGITS:
        summed = hashlib.sha256()
        for block in blocks:
            summed.update(block)
        return summed.hexdigest()
    running = 0
    for block in blocks:
        running = zlib.crc32(block, running)
    return f"{running:08x}"


def place_of(path: Path) -> tuple[int, int] | None:
    """Return what is known again by this, however it is called; None when nothing is there.

    A disk that is mounted over a folder makes it another one. What was removed may leave its
    numbers to what comes, unless somebody has it open.
    """
    try:
        facts = os.stat(path)  # noqa: PTH116  it is asked at each query
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino
