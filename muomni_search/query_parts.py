"""The spelling of a part of a query: ``[weight*]kind:value``."""

from __future__ import annotations

import math
import re
from pathlib import Path

from muomni_search.errors import InvalidInput
from muomni_search.items import Query

__all__ = ["make_part", "parse_part"]

FORM = re.compile(
    r"(?:(?P<weight>[^*:]*)\*)?(?P<kind>text|image|audio|id):(?P<value>.+)", re.DOTALL
)


def parse_part(spelled: str, *, folder: Path | None = None) -> Query:
    """Return the query that a part spells.

    Args:
        spelled: ``text:snow``, ``0.5*image:beach.jpg``, ``id:dog.jpg``, …
        folder: What the paths of files are relative to; the working directory by default.

    Raises:
        InvalidInput: It is misspelled, or its weight is no positive number.

    Example:
        >>> parse_part("0.5*text:snow").parts[0]
        Part(weight=0.5, kind='text', value='snow')
    """
    form = FORM.fullmatch(spelled) if isinstance(spelled, str) else None
    if form is None:
        raise InvalidInput(
            f"{spelled!r} is no part of a query",
            hint="write [weight*]kind:value with kind text, image, audio or id, as 0.5*text:snow",
        )
    weight = 1.0
    if form["weight"] is not None:
        try:
            weight = float(form["weight"])
        except ValueError:
            weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise InvalidInput(
            f"{spelled!r} has the weight {form['weight']!r}", hint="give a positive number"
        )
    return weight * make_part(form["kind"], form["value"], folder=folder)


def make_part(kind: str, value: str, *, folder: Path | None = None) -> Query:
    """Return the query of one part of weight 1; ``kind`` is text, image, audio or id."""
    if kind == "text":
        return Query.text(value)
    if kind == "id":
        return Query.id(value)
    path = Path(value) if folder is None else folder / value
    return Query.image(path) if kind == "image" else Query.audio(path)
