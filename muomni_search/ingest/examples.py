"""Tables whose rows hold one thing in several modalities: a picture and its caption, say.

Columns ``text``, ``image`` and ``audio``: an inline text, or the path of a file relative to the
table's folder. A row may leave out one or two of them, or hold null; an empty text is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muomni_search.errors import InvalidInput
from muomni_search.ingest.rows import Row, read_rows
from muomni_search.ingest.table import find_beside
from muomni_search.items import Modality, Problem

__all__ = ["Example", "cell_text", "read_examples"]


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
    given = {one: cell_text(one, row[one]) for one in Modality if row.get(one) is not None}
    if not given:
        raise InvalidInput(
            "neither text nor image nor audio", hint="fill one of these columns, or more"
        )
    return {
        one: value.strip() if one == Modality.TEXT else find_beside(path, value)
        for one, value in given.items()
    }


def cell_text(name: str, value: Any) -> str:
    """Return what a cell says; a whole number, as a name may be one, in digits.

    Raises:
        InvalidInput: It says nothing, or is of another kind.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{name} is {value!r}, no text", hint="give a text, or leave it out")
    return value
