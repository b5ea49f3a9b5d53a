"""The metadata fields of a collection: what a filter can ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.filters import COLUMNS, Filter, Test, fields_of, metadata_field, spell_field
from muomni_search.store.snapshot import Snapshot

__all__ = ["lacking_fields", "summarise_fields"]

TYPES = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
PAGE = 10_000
MOST_DIFFERENT = 10_000


class _Counted(NamedTuple):
    """What a field holds: how often which types, and which values."""

    types: Counter[str]
    values: Counter[tuple[type, Any]]


def summarise_fields(
    snapshot: Snapshot, *, values: int = 0, most: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return each metadata field: ``items``, ``types`` (a count each), ``indexed``; by name.

    Args:
        snapshot: The state that is looked at.
        values: How many of the commonest values to tell as well, with a count each; of a list,
            its elements. Of a field with very many different ones, those of the first items.
        most: Look at so many items at most, from among all; at all by default.
    """
    found: dict[tuple[str, ...], _Counted] = {}
    for metadata in snapshot.iter_metadata(most):
        for path, value in _fields(metadata):
            counted = found.get(path)
            if counted is None:
                counted = found[path] = _Counted(Counter(), Counter())
            counted.types[TYPES.get(type(value), "null")] += 1
            if values:
                _count(counted.values, value)
    indexed = set(snapshot.indexed_fields())
    counts = dict.fromkeys(indexed, _Counted(Counter(), Counter()))
    counts |= {metadata_field(path): counted for path, counted in found.items()}
    return {
        spell_field(names): {
            "items": counts[names].types.total(),
            "types": dict(counts[names].types.most_common()),
            "indexed": names in indexed,
            **({"values": _commonest(counts[names].values, values)} if values else {}),
        }
        for names in sorted(counts)
    }


def lacking_fields(snapshot: Snapshot, condition: Filter) -> dict[str, list[str]]:
    """Return the metadata fields of a filter that no item has, and to each those spelled alike.

    Of one that lets nothing through also the item's own columns, where metadata is called so too.
    """
    fields = fields_of(condition)
    lacking = [
        spell_field(names)
        for names in sorted(fields.difference(COLUMNS))
        if not snapshot.lets_any_through(Test(names, "is not null"))
    ]
    columns = sorted(fields.intersection(COLUMNS))
    meant = {
        spell_field(names): [spell_field(metadata_field(names))]
        for names in (columns if columns and not snapshot.lets_any_through(condition) else ())
        if snapshot.lets_any_through(Test(metadata_field(names), "is not null"))
    }
    if not lacking:
        return meant
    known = snapshot.state.arrays.get(("fields",), partial(_names, snapshot)).tolist()
    return meant | {
        name: get_close_matches(name, known)
        or [one for one in known if one.casefold() == name.casefold()]
        for name in lacking
    }


def _names(snapshot: Snapshot) -> NDArray[np.object_]:
    """Return the fields that the first items have, as filters spell them."""
    known = summarise_fields(snapshot, most=PAGE)
    # An index is no field: one may be kept of what no item has.
    return np.array([name for name, one in known.items() if one["items"]], object)


def _count(counter: Counter[Any], value: Any) -> None:
    """Count the plain values of a field: each with its type, for 1 and true are equal."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str | int | float):
            known = type(one), one
            if known in counter or len(counter) < MOST_DIFFERENT:
                counter[known] += 1


def _commonest(counter: Counter[Any], most: int) -> list[dict[str, Any]]:
    return [{"value": value, "items": items} for (_, value), items in counter.most_common(most)]


def _fields(
    document: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in document.items():
        names = (*above, name)
        if isinstance(value, Mapping):
            yield from _fields(value, names)
        else:
            yield names, value
