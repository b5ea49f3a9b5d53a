"""Export and import: a whole collection as one Parquet file, a row a segment, and back.

    key · modality · source · text · metadata (JSON) · span (JSON) · vector · content_hash

Rows are sorted by key, then by their place in the item; an item's own columns stand in each of its
rows. The model and its fingerprint are in the schema's metadata. ``content_hash`` comes along so
that adding the same files after an import encodes nothing; roots, sizes and times do not, for
they belong to the machine that exported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection
from muomni_search.items import DIM, Item, Modality, Span
from muomni_search.store import durable
from muomni_search.store.engine import disk_errors
from muomni_search.store.snapshot import Snapshot

__all__ = ["export_collection", "import_collection"]

MODEL, FINGERPRINT = b"muomni.model", b"muomni.fingerprint"
# Items looked up together, and the size at which what they gave becomes a row group: 16 MB of
# vectors, or texts that are as long.
PAGE_ITEMS = 1_000
GROUP_ROWS = 16_384
GROUP_CHARACTERS = 16_000_000
# A text stands in each row of its item, but only once in a row group's dictionary; left to itself
# Parquet gives its dictionaries up at a megabyte.
DICTIONARY_BYTES = 2**30
REPEATED = ["modality", "source", "text", "metadata", "content_hash"]
# Rows read at a time, and the items and rows of a commit.
READ_ROWS = 4_096
COMMIT_ITEMS = 10_000
COMMIT_ROWS = 32_768
HINT = "give a file that `muomni export` wrote"


# ---- export ----------------------------------------------------------------------------------


def export_collection(collection: Collection, path: str | Path) -> int:
    """Write all items with their vectors to a Parquet file; return how many items.

    The file shows one state of the collection, and has its name only when it is whole.

    Args:
        collection: What to export.
        path: The file to write; one that is there is replaced.

    Raises:
        MuomniError: It cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    with disk_errors(target):
        try:
            with collection.view() as view:
                exported = _write(view.snapshot, partial)
            with partial.open("rb") as file:
                durable.fsync_file(file.fileno())
            durable.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return exported


def _write(snapshot: Snapshot, path: Path) -> int:
    import pyarrow.parquet as pq

    schema = _schema().with_metadata(
        {MODEL: snapshot.model.encode(), FINGERPRINT: snapshot.fingerprint.encode()}
    )
    exported = 0
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=REPEATED,
        dictionary_pagesize_limit=DICTIONARY_BYTES,
    ) as writer:
        for group in _groups(snapshot):
            writer.write_table(_table(snapshot, group, schema), row_group_size=GROUP_ROWS)
            exported += len(group)
    return exported


class _Stored(NamedTuple):
    """An item as it goes into the file."""

    item: Item
    rows: NDArray[np.int64]
    spans: Sequence[Span | None]
    content_hash: str | None


def _groups(snapshot: Snapshot) -> Iterator[list[_Stored]]:
    """Yield all items by key, as many at a time as make a row group."""
    group: list[_Stored] = []
    rows = characters = 0
    for page in _chunks(snapshot.iter_items(), PAGE_ITEMS):
        for stored in _stored(snapshot, page).values():
            group.append(stored)
            rows += len(stored.rows)
            characters += len(stored.item.text or "")
            if rows >= GROUP_ROWS or characters >= GROUP_CHARACTERS:
                yield group
                group, rows, characters = [], 0, 0
    if group:
        yield group


def _stored(snapshot: Snapshot, items: Sequence[Item]) -> dict[str, _Stored]:
    """Return items with their rows, spans and hashes, in the same order."""
    keys = [item.key for item in items]
    rows = {key: own for key, (_, own) in snapshot.item_rows(keys).items()}
    known = snapshot.known(keys)
    spans: dict[tuple[Modality, int], Span | None] = {}
    for modality in Modality:
        wanted = [rows[item.key] for item in items if item.modality == modality]
        if wanted:
            for match in snapshot.matches(modality, np.concatenate(wanted)):
                spans[modality, match.row] = match.span
    return {
        item.key: _Stored(
            item,
            rows[item.key],
            [spans[item.modality, row] for row in rows[item.key].tolist()],
            known[item.key].content_hash,
        )
        for item in items
    }


def _table(snapshot: Snapshot, group: Sequence[_Stored], schema: Any) -> Any:
    import pyarrow as pa

    owners = np.repeat(np.arange(len(group)), [len(stored.rows) for stored in group])
    items = [stored.item for stored in group]
    columns = {
        "key": [item.key for item in items],
        "modality": [str(item.modality) for item in items],
        "source": [item.source for item in items],
        "text": [item.text for item in items],
        "metadata": [json.dumps(item.metadata, ensure_ascii=False) for item in items],
        "content_hash": [stored.content_hash for stored in group],
    }
    arrays = {
        # Each value once, however many rows the item has.
        name: pa.DictionaryArray.from_arrays(
            pa.array(owners, pa.int32()), pa.array(values, pa.string())
        )
        for name, values in columns.items()
    }
    arrays["span"] = pa.array(
        [
            None if span is None else json.dumps(span.as_dict())
            for stored in group
            for span in stored.spans
        ],
        pa.string(),
    )
    vectors = np.concatenate(
        [snapshot.vectors(stored.item.modality)[stored.rows] for stored in group]
    )
    arrays["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    return pa.table([arrays[name] for name in schema.names], names=schema.names).cast(schema)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("modality", pa.string()),
            ("source", pa.string()),
            ("text", pa.string()),
            ("metadata", pa.string()),
            ("span", pa.string()),
            ("vector", pa.list_(pa.float32(), DIM)),
            ("content_hash", pa.string()),
        ]
    )
