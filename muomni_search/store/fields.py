"""The metadata fields of a collection: what a filter can ask for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from sqlalchemy import select

from muomni_search.filters import Filter, Test, fields_of, spell_field
from muomni_search.store import tables
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.sql_filter import COLUMNS, filter_to_sql

__all__ = ["lacking_fields", "summarise_fields"]

TYPES = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
PAGE = 10_000


def summarise_fields(snapshot: Snapshot, *, most: int | None = None) -> dict[str, dict[str, Any]]:
    """Return each metadata field: ``items``, ``types`` (a count each), ``indexed``; by name.

    Args:
        snapshot: Whose.
        most: Look at so many items at most; at all by default.
    """
    counts: dict[tuple[str, ...], Counter[str]] = {}
    wanted = select(tables.items.c.metadata).limit(most)
    documents = snapshot.connection.execute(wanted).yield_per(PAGE)
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


def lacking_fields(snapshot: Snapshot, condition: Filter) -> dict[str, list[str]]:
    """Return the metadata fields of a filter that no item has, and to each those spelled alike."""
    lacking = {}
    for names in sorted(fields_of(condition) - COLUMNS.keys()):
        has_it = filter_to_sql(Test(names, "is not null"))
        found = select(tables.items.c.id).where(has_it).limit(1)
        if snapshot.connection.execute(found).first() is None:
            known = summarise_fields(snapshot, most=PAGE)
            lacking[spell_field(names)] = get_close_matches(spell_field(names), known)
    return lacking


def _fields(
    document: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, value in document.items():
        names = (*above, name)
        if isinstance(value, Mapping):
            yield from _fields(value, names)
        else:
            yield names, TYPES.get(type(value), "null")
