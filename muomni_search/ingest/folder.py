"""Folders: every text, picture and sound below them, in a fixed order."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muomni_search.errors import MuomniError
from muomni_search.ingest.sniff import HEAD_BYTES, claimed_modality, sniff
from muomni_search.items import Problem, Record

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["Skipped", "read_file_record", "read_folder"]

IGNORE_FILE = ".muomniignore"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that is no item, and why."""

    source: str
    reason: str


Entry = Record | Problem | Skipped


def read_folder(root: Path, *, prefix: str = "", exclude: Sequence[str] = ()) -> Iterator[Entry]:
    """Yield a record for each item below a folder, and what was skipped or cannot be read.

    Args:
        root: The folder, absolute.
        prefix: Put before each key, with a slash.
        exclude: Patterns, as in a ``.muomniignore`` file at the root.
    """
    # A stack instead of recursion: folders may be nested deeper than Python's calls.
    stack: list[tuple[Path, list[tuple[Path, GitIgnoreSpec]]]] = [
        (root, [(root, _spec(exclude))] if exclude else [])
    ]
    while stack:
        folder, specs = stack.pop()
        try:
            specs = [*specs, *_own_rules(folder)]
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (OSError, MuomniError) as error:
            reason = error.what if isinstance(error, MuomniError) else error.strerror
            yield Problem(str(folder), f"{folder}: {reason}", "mend its permissions")
            continue
        below = []
        for entry in entries:
            path = folder / entry.name
            skipped = _reason_to_skip(entry, path, root, specs)
            if skipped is not None:
                yield skipped
            elif entry.is_dir(follow_symlinks=False):
                below.append((path, specs))
            else:
                key = path.relative_to(root).as_posix()
                yield read_file_record(path, f"{prefix}/{key}" if prefix else key, root)
        # Last in, first out: the folders in order, after the files beside them.
        stack += reversed(below)


def read_file_record(path: Path, key: str, root: Path) -> Entry:
    """Return the record of one file, by its content."""
    source = str(path)
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            return Skipped(source, "no regular file")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return Problem(source, f"{path}: {error.strerror}", "check its permissions", key)
    modality = sniff(path.name, head)
    if modality is None:
        claimed = claimed_modality(path.name)
        if claimed is None:
            return Skipped(source, "neither text nor picture nor sound")
        what = "an empty file" if not head else f"its content is no {claimed} that is known"
        return Problem(source, f"{path}: {what}", "replace it, rename it or remove it", key)
    return Record(
        key=key,
        modality=modality,
        origin=source,
        path=path,
        source=source,
        root=str(root),
        size=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
    )


def _reason_to_skip(
    entry: os.DirEntry[str], path: Path, root: Path, specs: list[tuple[Path, GitIgnoreSpec]]
) -> Entry | None:
    """Return why an entry is left out, or None when it is not."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        shown = entry.name.encode(errors="surrogateescape").decode(errors="replace")
        return Problem(
            str(path.parent / shown), f"{shown!r}: the name is no valid UTF-8", "rename it"
        )
    if entry.name.startswith("."):
        return Skipped(str(path), "a hidden name")
    is_folder = entry.is_dir(follow_symlinks=False)
    for base, spec in specs:
        relative = path.relative_to(base).as_posix()
        if spec.match_file(relative + "/" if is_folder else relative):
            return Skipped(str(path), "excluded")
    if entry.is_symlink():
        target = path.resolve()
        if not target.exists():
            return Problem(str(path), f"{path}: a link to nothing", "mend or remove it")
        if not target.is_relative_to(root):
            return Skipped(str(path), "a link that leaves the folder")
        if target.is_dir():
            # What it leads to is below the root and read there; following it could not end.
            return Skipped(str(path), "a link to a folder that is read itself")
    return None


def _own_rules(folder: Path) -> list[tuple[Path, GitIgnoreSpec]]:
    path = folder / IGNORE_FILE
    if not path.is_file():
        return []
    return [(folder, _spec(path.read_text(encoding="utf-8", errors="replace").splitlines()))]


def _spec(patterns: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(patterns)
