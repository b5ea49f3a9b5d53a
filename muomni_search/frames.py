"""Answers and items as tables: of Arrow, whose vectors are one block of memory, and of pandas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.documents import to_json
from muomni_search.extras import load_extra
from muomni_search.filters import Filter
from muomni_search.items import DIM, Hit, Item, Modality
from muomni_search.store.snapshot import Snapshot
from muomni_search.vectors import mean_vector

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["hits_to_arrow", "hits_to_pandas", "items_to_arrow", "to_pandas"]

# How many items' rows are looked up together.
PAGE_ITEMS = 4_096
# Columns that are JSON in an Arrow table and dicts in a data frame.
JSON_COLUMNS = ("metadata", "span")


def hits_to_arrow(hits: Sequence[Hit]) -> pa.Table:
    """Return a table with a row a hit; ``metadata`` and ``span`` are JSON."""
    import pyarrow as pa

    rows = [
        {
            **hit.as_dict(),
            "metadata": to_json(hit.metadata, hit.key),
            "span": None if hit.span is None else json.dumps(hit.span.as_dict()),
        }
        for hit in hits
    ]
    schema = pa.schema(
        [
            ("rank", pa.int64()),
            ("key", pa.string()),
            ("modality", pa.string()),
            ("score", pa.float64()),
            ("cosine", pa.float64()),
            ("source", pa.string()),
            ("text", pa.string()),
            ("span", pa.string()),
            ("metadata", pa.string()),
            ("how", pa.string()),
            ("recall", pa.float64()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def hits_to_pandas(hits: Sequence[Hit]) -> pd.DataFrame:
    """Return a data frame with a row a hit; ``metadata`` and ``span`` are dicts.

    Raises:
        NotFound: pandas is not installed.
    """
    return to_pandas(hits_to_arrow(hits))


def items_to_arrow(
    snapshot: Snapshot,
    condition: Filter | None,
    modalities: Sequence[Modality] | None,
    *,
    vectors: bool,
) -> pa.Table:
    """Return a table with a row an item, by key.

    Args:
        snapshot: The state to read.
        condition: Only items that it lets through.
        modalities: Only items of these.
        vectors: With a column ``vector``, a FixedSizeList of 256 floats: the unit mean of the
            item's segments, in one block of memory that the table shares.
    """
    import pyarrow as pa

    items = list(snapshot.iter_items(condition, modalities))
    text = pa.string()
    columns: dict[str, Any] = {
        "key": pa.array([item.key for item in items], text),
        "modality": pa.array([str(item.modality) for item in items], text),
        "source": pa.array([item.source for item in items], text),
        "text": pa.array([item.text for item in items], text),
        "metadata": pa.array([to_json(item.metadata, item.key) for item in items], text),
    }
    if vectors:
        block = _vectors(snapshot, items)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIM)
    return pa.table(columns)


def _vectors(snapshot: Snapshot, items: Sequence[Item]) -> NDArray[np.float32]:
    """Return the unit mean of each item's segments (items, 256).

    Where an item is one segment, as most are, that is its row: those are gathered in one go.
    """
    vectors = np.empty((len(items), DIM), np.float32)
    places: dict[Modality, list[int]] = {one: [] for one in Modality}
    rows: dict[Modality, list[int]] = {one: [] for one in Modality}
    for start in range(0, len(items), PAGE_ITEMS):
        page = items[start : start + PAGE_ITEMS]
        found = snapshot.item_rows(item.key for item in page)
        for place, item in enumerate(page, start=start):
            modality, own = found[item.key]
            if len(own) == 1:
                places[modality].append(place)
                rows[modality].append(int(own[0]))
            else:
                vectors[place] = mean_vector(snapshot.vectors(modality)[own])
    for modality in Modality:
        if places[modality]:
            vectors[places[modality]] = snapshot.vectors(modality)[rows[modality]]
    return vectors


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return a table as a data frame; what was JSON in it are dicts, and vectors NumPy's.

    Raises:
        NotFound: pandas is not installed.
    """
    pandas = load_extra("pandas", extra="notebook")
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        if name in JSON_COLUMNS:
            columns[name] = pandas.Series(_objects(column.to_pylist()), dtype=object)
        elif name == "vector":
            # Views of the one block.
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=True)
            columns[name] = pandas.Series(list(flat.reshape(-1, DIM)), dtype=object)
        else:
            columns[name] = column.to_pandas()
    frame: pd.DataFrame = pandas.DataFrame(columns)
    return frame


def _objects(documents: Iterable[str | None]) -> list[Any]:
    return [None if document is None else json.loads(document) for document in documents]
