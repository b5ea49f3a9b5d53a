"""The metadata fields of a collection: what a filter can ask for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select

from muomni_search.filters import spell_field
from muomni_search.store import tables
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.sql_filter import COLUMNS

__all__ = ["summarise_fields"]

TYPES = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
PAGE = 10_000


def summarise_fields(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Return each metadata field: ``items``, ``types`` (a count each), ``indexed``; by name."""
    counts: dict[tuple[str, ...], Counter[str]] = {}
    documents = snapshot.connection.execute(select(tables.items.c.metadata)).yield_per(PAGE)
    for (document,) in documents:
        for names, kind in _fields(json.loads(document)):
            counts.setdefault(names, Counter())[kind] += 1
    indexed = set(snapshot.indexed_fields())
    return {
        spell_field(names): {
            "items": counts.get(names, Counter()).total(),
            "types": dict(counts.get(names, Counter()).most_common()),
            "indexed": names in indexed,
        }
        for names in sorted(counts.keys() | indexed)
        if names not in COLUMNS  # a filter by that name looks at the item itself
    }


def _fields(
    document: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, value in document.items():
        names = (*above, name)
        if isinstance(value, Mapping):
            yield from _fields(value, names)
        else:
            yield names, TYPES.get(type(value), "null")
