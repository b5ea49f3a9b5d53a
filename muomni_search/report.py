"""Answers as one self-contained HTML page: pictures, players and passages, for people.

Nothing on the page comes from a network and nothing in it runs: pictures and sounds are data URIs
(``figures``), and a content security policy forbids everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from muomni_search.collection import Collection
from muomni_search.figures import WAVE_BARS, Figures, clip, facts, strength
from muomni_search.items import Hit, Part, Query
from muomni_search.pages import write_html

__all__ = ["Section", "asked_parts", "write_page"]


@dataclass(frozen=True, slots=True)
class Section:
    """One question of a page, and its answer.

    Args:
        title: The heading.
        command: The command line that asks it.
        parts: The parts of the query as they were asked; a part of the kind ``id`` shows its
            item when its value is the ``Item`` instead of the key (see ``asked_parts``).
        hits: The answer, best first.
    """

    title: str
    command: str
    parts: Sequence[Part]
    hits: Sequence[Hit]


def asked_parts(collection: Collection, query: Query) -> tuple[Part, ...]:
    """Return the parts of a query with the items in place of their keys.

    Raises:
        NotFound: A key is not there.
    """
    keys = [part.value for part in query.parts if part.kind == "id"]
    items = dict(zip(keys, collection.get(keys), strict=True)) if keys else {}
    return tuple(
        replace(part, value=items[part.value]) if part.kind == "id" else part
        for part in query.parts
    )


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """Write questions and answers to one HTML file that needs no other.

    The file has its name only when it is whole.

    Args:
        path: The file; a page that is there is replaced.
        title: The heading of the page.
        sections: The questions, in order.

    Raises:
        Conflict: A file of another kind has this name.
        MuomniError: It cannot be written.
    """
    figures = Figures()
    # Rendered piece by piece: no more than one hit's media is in memory.
    write_html(
        path,
        "page.html.j2",
        styles=("base.css", "page.css"),
        title=title,
        sections=sections,
        figure_of_part=figures.of_part,
        figure_of_hit=figures.of_hit,
        facts=facts,
        strength=strength,
        clip=clip,
        wave_bars=WAVE_BARS,
    )
