"""Folders: every text, picture and sound below them, in a fixed order."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from muomni_search.durable import changed_ns
from muomni_search.errors import InvalidInput
from muomni_search.ingest.rows import TABLES
from muomni_search.ingest.sniff import HEAD_BYTES, claimed_modality, sniff
from muomni_search.items import Modality, Problem, Record

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["IGNORE_FILE", "Entry", "Skipped", "read_file_record", "read_folder", "read_patterns"]

IGNORE_FILE = ".muomniignore"
TABLE_SUFFIXES = (*TABLES, ".npy")
# What to do about a file that is not what its name says.
MENDS = {
    Modality.TEXT: "convert it to UTF-8, or remove it",
    Modality.IMAGE: "convert it to PNG or JPEG, or remove it",
    Modality.AUDIO: "convert it to WAV, FLAC, OGG or MP3, or remove it",
}
NOUNS = {Modality.TEXT: "text in UTF-8", Modality.IMAGE: "picture", Modality.AUDIO: "sound"}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that is no item, and why."""

    source: str
    reason: str


Entry = Record | Problem | Skipped


class _Ignore(NamedTuple):
    """What decides whether a path is left out: ``--exclude``, then the nearest ignore file."""

    excluded: GitIgnoreSpec | None
    # The ignore files from the root down, each with the path of its folder below the root.
    rules: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    def matches(self, relative: str) -> bool:
        """Whether a path below the root (of a folder: with a slash at its end) is left out."""
        if self.excluded is not None and _verdict(self.excluded, relative):
            return True
        for folder, spec in reversed(self.rules):
            verdict = _verdict(spec, relative[len(folder) :])
            if verdict is not None:
                return verdict
        return False

    def below(self, folder: Path, relative: str) -> _Ignore:
        """Return what decides in a folder, with the folder's own ignore file.

        Raises:
            InvalidInput: The ignore file holds a pattern that is none.
        """
        file = folder / IGNORE_FILE
        if not file.is_file():
            return self
        lines = file.read_text("utf-8-sig", errors="replace").splitlines()
        return self._replace(rules=(*self.rules, (relative, read_patterns(lines))))


def _verdict(spec: GitIgnoreSpec, path: str) -> bool | None:
    """Return what the last pattern that matches a path says of it; None when none does.

    As git does it, a pattern is held against the path alone: whoever walks the folders does not
    enter what is left out. pathspec's own matching also looks at the folders above, so that
    ``!a`` would take back what is below ``a``.
    """
    for pattern in reversed(list(spec.patterns)):
        regex = pattern.regex
        if regex is not None and _whole(regex.pattern).search(path):
            return pattern.include
    return None


@cache
def _whole(regex: str) -> re.Pattern[str]:
    """Return a pattern that must reach the end of what it is held against."""
    return re.compile(rf"(?:{regex})\Z")


def read_folder(
    root: Path,
    *,
    prefix: str = "",
    excluded: GitIgnoreSpec | None = None,
    only: Collection[Path] | None = None,
) -> Iterator[Entry]:
    """Yield a record for each item below a folder, and what was skipped or cannot be read.

    Of each folder the files come first, then its folders, both by name.

    Args:
        root: The folder, absolute and without links.
        prefix: Put before each key.
        excluded: What to leave out, as a ``.muomniignore`` at the root would.
        only: The files, and the folders with all that is in them, to which to keep; by default
            the root. What is above them decides about them as ever.
    """
    wanted = {root} if only is None else set(only)
    # The folders on the way there.
    above = {parent for path in wanted for parent in path.parents}
    # A stack instead of recursion: folders may be nested deeper than Python's calls.
    stack = [(root, "", _Ignore(excluded), root in wanted)]
    while stack:
        folder, relative, ignore, is_whole = stack.pop()
        try:
            ignore = ignore.below(folder, relative)
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            yield Problem(str(folder), reason_of(error), "mend its permissions, or exclude it")
            continue
        except InvalidInput as error:
            # Without its rules the folder would give what its owner keeps out.
            yield Problem(str(folder / IGNORE_FILE), error.what, error.hint)
            continue
        below = []
        for entry in entries:
            path, place = folder / entry.name, relative + entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            is_wanted = is_whole or path in wanted
            if not is_wanted and not (is_folder and path in above):
                continue
            left_out = _left_out(entry, path, place + "/" * is_folder, root, ignore)
            if left_out is not None:
                yield left_out
            elif is_folder:
                below.append((path, place + "/", ignore, is_wanted))
            else:
                yield read_file_record(path, prefix + place, root)
        # Last in, first out.
        stack += reversed(below)


def read_file_record(path: Path, key: str, root: Path, *, named: bool = False) -> Entry:
    """Return the record of one file, by its content.

    Args:
        path: The file, absolute.
        key: Its key.
        root: The folder that the key is relative to.
        named: It was asked for by its name: any text will do, whatever it is called, and what
            is no item is a problem instead of skipped.
    """
    source = str(path)
    try:
        source.encode()
    except UnicodeEncodeError:
        return _unspeakable(path)
    try:
        facts = path.stat()
        is_file = stat.S_ISREG(facts.st_mode)  # a pipe would block who opens it
        head = _read_head(path) if is_file else b""
    except OSError as error:
        return Problem(source, reason_of(error), "check its name and its permissions", key)
    claimed = claimed_modality(path.name)
    modality = sniff(head)
    if modality == Modality.TEXT and claimed != modality and not (named and claimed is None):
        modality = None  # readable, but code, a table or settings
    if modality is not None:
        return Record(
            key=key,
            modality=modality,
            origin=source,
            path=path,
            source=source,
            root=str(root),
            size=facts.st_size,
            mtime_ns=changed_ns(facts),
        )
    if not is_file:
        why = "neither a file nor a folder"
    elif claimed is not None:
        what = f"no {NOUNS[claimed]} by its content" if head else "an empty file"
        return Problem(source, what, MENDS[claimed] if head else "replace it, or remove it", key)
    elif path.suffix.lower() in TABLE_SUFFIXES:
        why = "a table: give it by name"
    else:
        why = "neither text nor picture nor sound"
    return Problem(source, why, "give another file", key) if named else Skipped(source, why)


def reason_of(error: OSError) -> str:
    """Return what the system says about a file, without the file's name."""
    return error.strerror or str(error)


def read_patterns(lines: Iterable[str]) -> GitIgnoreSpec:
    """Return patterns in the syntax of ``.gitignore``.

    Raises:
        InvalidInput: One of them is no pattern.
    """
    from pathspec import GitIgnoreSpec

    # For pathspec `a/**` is the folder a too; for git it is what the folder holds, so that a
    # later `!a/b` can take something back.
    meant = [re.sub(r"/\*\*(/?)\s*$", r"/**/*\1", line) for line in lines]
    try:
        return GitIgnoreSpec.from_lines(meant)
    except (ValueError, re.error) as error:
        raise InvalidInput(
            f"a pattern that is none ({error})", hint="write it as in .gitignore"
        ) from error


def _read_head(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(HEAD_BYTES)


def _unspeakable(path: Path) -> Problem:
    return Problem(_shown(path), "the name is no valid UTF-8", "rename it")


def _shown(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")


def _left_out(
    entry: os.DirEntry[str], path: Path, relative: str, root: Path, ignore: _Ignore
) -> Problem | Skipped | None:
    """Return why an entry is left out, or None when it is not."""
    if entry.name.startswith("."):
        return Skipped(_shown(path), "a hidden name")
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return _unspeakable(path)
    if ignore.matches(relative):
        return Skipped(str(path), "excluded")
    if not entry.is_symlink():
        return None
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        return Problem(str(path), "a link to nothing", "mend it, or remove it")
    if not target.is_relative_to(root):
        return Skipped(str(path), "a link that leaves the folder")
    if target.is_dir():
        # What it leads to is below the root and has its turn there; following it could not end.
        return Skipped(str(path), "a link to a folder below this one")
    if _is_kept_out(target.relative_to(root), root, ignore.excluded):
        return Skipped(str(path), "a link to what is left out")
    return None


def _is_kept_out(relative: Path, root: Path, excluded: GitIgnoreSpec | None) -> bool:
    """Whether a file below the root is hidden or excluded, itself or by a folder above it."""
    ignore, folder = _Ignore(excluded), ""
    for place, name in enumerate(relative.parts):
        last = place == len(relative.parts) - 1
        try:
            ignore = ignore.below(root / folder, folder)
        except (OSError, InvalidInput):
            return True
        if name.startswith(".") or ignore.matches(folder + name + "/" * (not last)):
            return True
        folder += f"{name}/"
    return False
