"""Tables whose rows hold one thing in several modalities: a picture and its caption, say.

Columns ``text``, ``image`` and ``audio``, each of which may be empty: an inline text, or the path
of a file relative to the table's folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from muomni_search.errors import InvalidInput
from muomni_search.ingest.rows import Row, read_rows
from muomni_search.ingest.table import find_beside
from muomni_search.items import Modality, Problem

__all__ = ["Example", "read_examples"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row: what it holds in each modality that it has.

    Args:
        origin: Where it stands: ``table.csv:12``.
        contents: A text, or the path of a picture or sound, by modality.
    """

    origin: str
    contents: Mapping[Modality, str | Path]


def read_examples(path: Path) -> Iterator[Example | Problem]:
    """Yield the rows of a table; those that cannot be used as problems.

    Raises:
        UnreadableFile: The table cannot be read at all, or no further.
    """
    for number, row in read_rows(path):
        origin = f"{path}:{number}"
        if isinstance(row, str):
            yield Problem(origin, f"{origin}: {row}", "mend the row")
            continue
        try:
            yield Example(origin, _contents(row, path))
        except InvalidInput as error:
            yield Problem(origin, f"{origin}: {error.what}", error.hint or "mend the row")


def _contents(row: Row, path: Path) -> dict[Modality, str | Path]:
    contents: dict[Modality, str | Path] = {}
    for modality in Modality:
        value = row.get(modality)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise InvalidInput(f"{modality} is {value!r}, no text", hint="give a text")
        if modality != Modality.TEXT:
            contents[modality] = find_beside(path, value)
        elif value.strip():
            contents[modality] = value.strip()
    if not contents:
        raise InvalidInput(
            "neither text nor image nor audio", hint="fill one of these columns, or more"
        )
    return contents
