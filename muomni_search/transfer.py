"""Export and import: a whole collection as one Parquet file, a row a segment, and back.

    key · modality · source · text · metadata (JSON) · span (JSON) · vector · content_hash

Rows are sorted by key, then by their place in the item; an item's own columns stand in each of its
rows. The model and its fingerprint are in the schema's metadata, and every page has a checksum.
``content_hash`` comes along so that adding the same files after an import encodes nothing; roots,
sizes and times do not, for they belong to the machine that exported.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby, islice, starmap
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.collection import Collection, full_name
from muomni_search.documents import to_json
from muomni_search.encoders.model import load_model
from muomni_search.errors import Conflict, CorruptData, InvalidInput, NotFound
from muomni_search.garbage import rare_collections
from muomni_search.ingest.rows import parse_json
from muomni_search.items import DIM, Item, Modality, Span
from muomni_search.pipeline import Report
from muomni_search.progress import Progress, Silent
from muomni_search.store.check import altered_items, whole_blocks
from muomni_search.store.salvage import Salvaged, rows_left, salvage
from muomni_search.store.snapshot import SPAN_UNITS, Snapshot
from muomni_search.store.sqlite import disk_errors
from muomni_search.store.store import NewItem, Store

__all__ = ["create_for_export", "export_collection", "import_collection"]

FACTS = MODEL, FINGERPRINT = b"muomni.model", b"muomni.fingerprint"
# Items looked up together: a text has 10 MB at most, so this many stay under a gigabyte.
PAGE_ITEMS = 64
# The size at which items become a row group: 16 MB of vectors, or texts that are as long.
GROUP_ROWS = 16_384
GROUP_CHARACTERS = 16_000_000
# A text stands in each row of its item, but only once in a row group's dictionary; left to itself
# Parquet gives its dictionaries up at a megabyte.
DICTIONARY_BYTES = 2**30
REPEATED = ("modality", "source", "text", "metadata", "content_hash")
# What a row group may need in memory; one that was written here needs a tenth of it.
MAX_GROUP_BYTES = 2**30
# Rows read at a time, and what a commit gathers.
READ_ROWS = 4_096
COMMIT_ROWS = 32_768
COMMIT_CHARACTERS = 64_000_000
# Far more segments than a file of any modality can have.
MAX_ITEM_ROWS = 2**20
HINT = "give a file that `muomni export` wrote; what was stored before is whole"


# ---- export ----------------------------------------------------------------------------------


def export_collection(
    collection: Collection, path: str | Path, *, left_out: list[str] | None = None
) -> int:
    """Write all items with their vectors to a Parquet file; return how many items.

    The file shows one state of the collection, and has its name only when it is whole.

    Args:
        collection: What to export.
        path: The file to write, ``….parquet``; an export that is there is replaced.
        left_out: Given, what is damaged is no error: it is left out of the file, and said here.

    Raises:
        InvalidInput: The name is not one of a Parquet file, or one of the collection's own.
        Conflict: A file of another kind has this name.
        NotFound: There is no folder for it.
        CorruptData: Something of it is damaged, and ``left_out`` was not given.
        MuomniError: It cannot be written.
    """
    target = Path(path)
    collection.check_output(target)
    if target.suffix.lower() != ".parquet":
        raise InvalidInput(f"{target} is no name of an export", hint="call it ….parquet")
    with disk_errors(target):
        durable.check_kind(target, b"PAR1")
    with disk_errors(target), durable.whole_file(target) as partial, collection.view() as view:
        if left_out is None:
            _check_whole(view.snapshot)
            rows = {one: view.snapshot.vectors(one) for one in Modality}
            return _write(view.snapshot, _all(view.snapshot), rows, partial)
        salvaged, lost = salvage(view.snapshot)
        rows = {one: rows_left(view.snapshot, one) for one in Modality}
        exported = _write(view.snapshot, map(_from_salvage, salvaged), rows, partial)
        left_out += lost
        return exported


def _check_whole(snapshot: Snapshot) -> None:
    """Refuse to write what is damaged into a file that looks whole."""
    altered = [key for _, key in altered_items(snapshot)]
    if altered:
        raise CorruptData(
            f"damaged: {', '.join(altered[:3])}{', …' * (len(altered) > 3)}",
            hint="run: muomni verify --repair, or export what is whole with --salvage",
        )
    for modality in Modality:
        for _ in whole_blocks(snapshot, modality):
            pass


_Vectors = Mapping[Modality, NDArray[np.float32]]


def _write(snapshot: Snapshot, items: Iterator[_Stored], vectors: _Vectors, path: Path) -> int:
    import pyarrow.parquet as pq

    schema = _schema().with_metadata(
        {MODEL: snapshot.model.encode(), FINGERPRINT: snapshot.fingerprint.encode()}
    )
    exported = 0
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=list(REPEATED),
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        write_page_checksum=True,
    ) as writer:
        for group in _groups(items):
            writer.write_table(_table(group, vectors, schema), row_group_size=GROUP_ROWS)
            exported += len(group)
    return exported


class _Stored(NamedTuple):
    """An item as it stands in the file."""

    item: Item
    metadata: str
    rows: NDArray[np.int64]
    spans: Sequence[Span | None]
    content_hash: str | None


def _all(snapshot: Snapshot) -> Iterator[_Stored]:
    """Yield all items by key."""
    keys = snapshot.iter_keys()
    while page := list(islice(keys, PAGE_ITEMS)):
        stored = _stored(snapshot, page)
        yield from (stored[key] for key in page)


def _from_salvage(one: Salvaged) -> _Stored:
    metadata = to_json(one.item.metadata, one.item.key)
    return _Stored(one.item, metadata, one.rows, one.spans, one.content_hash)


def _groups(items: Iterator[_Stored]) -> Iterator[list[_Stored]]:
    """Yield items as many at a time as make a row group."""
    group: list[_Stored] = []
    rows = characters = 0
    for one in items:
        group.append(one)
        rows += len(one.rows)
        characters += len(one.item.text or "") + len(one.metadata)
        if rows >= GROUP_ROWS or characters >= GROUP_CHARACTERS:
            yield group
            group, rows, characters = [], 0, 0
    if group:
        yield group


def _stored(snapshot: Snapshot, keys: Sequence[str]) -> dict[str, _Stored]:
    """Return those items of ``keys`` that there are."""
    items = snapshot.find(keys)
    rows = {key: own for key, (_, own) in snapshot.item_rows(items).items()}
    hashes = {key: known.content_hash for key, known in snapshot.known(items).items()}
    spans: dict[tuple[Modality, int], Span | None] = {}
    for modality in Modality:
        wanted = [rows[key] for key, item in items.items() if item.modality == modality]
        if wanted:
            for match in snapshot.matches(modality, np.concatenate(wanted)):
                spans[modality, match.row] = match.span
    return {
        key: _Stored(
            item,
            to_json(item.metadata, key),
            rows[key],
            [spans[item.modality, row] for row in rows[key].tolist()],
            hashes[key],
        )
        for key, item in items.items()
    }


def _table(group: Sequence[_Stored], rows: _Vectors, schema: Any) -> Any:
    import pyarrow as pa

    owners = pa.array(
        np.repeat(np.arange(len(group)), [len(stored.rows) for stored in group]), pa.int32()
    )
    keys = pa.array([stored.item.key for stored in group], pa.string())
    spans = [span for stored in group for span in stored.spans]
    vectors = [rows[stored.item.modality][stored.rows] for stored in group]
    repeated = {
        "modality": [str(stored.item.modality) for stored in group],
        "source": [stored.item.source for stored in group],
        "text": [stored.item.text for stored in group],
        "metadata": [stored.metadata for stored in group],
        "content_hash": [stored.content_hash for stored in group],
    }
    columns = {
        "key": keys.take(owners),
        "span": pa.array(
            [None if span is None else json.dumps(span.as_dict()) for span in spans], pa.string()
        ),
        "vector": pa.FixedSizeListArray.from_arrays(np.concatenate(vectors).ravel(), DIM),
    }
    for name, values in repeated.items():
        # Each value once, however many rows have it.
        columns[name] = pa.array(values, pa.string()).dictionary_encode().take(owners)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _schema() -> Any:
    import pyarrow as pa

    text = pa.string()
    types = {
        "key": text,
        "modality": text,
        "source": text,
        "text": text,
        "metadata": text,
        "span": text,
        "vector": pa.list_(pa.float32(), DIM),
        "content_hash": text,
    }
    repeated = pa.dictionary(pa.int32(), text)
    return pa.schema(
        [(name, repeated if name in REPEATED else kind) for name, kind in types.items()]
    )


# ---- import ----------------------------------------------------------------------------------


def import_collection(
    collection: Collection, path: str | Path, *, progress: Progress | None = None
) -> Report:
    """Take in the items of an exported file, with their vectors: nothing is encoded.

    An item whose key is there already is replaced, and left alone when nothing about it differs.
    Items are committed many at a time, each wholly or not at all, so an import that was
    interrupted goes on when it is called again.

    Args:
        collection: Where they go.
        path: What ``export_collection`` wrote.
        progress: Told of each row.

    Returns:
        How many items were added, updated and unchanged.

    Raises:
        NotFound: There is no such file.
        Conflict: Its vectors came from another model.
        InvalidInput: It is no export.
        CorruptData: It is damaged; the items before the damage may be in.
    """
    started = time.monotonic()
    source = Path(path)
    progress = progress or Silent()
    report = Report()
    with rare_collections(), disk_errors(source), _opened(source) as (file, schema):
        fingerprint = _check_model(source, schema.metadata or {}, collection)
        _check_layout(source, file, schema)
        progress.start(file.metadata.num_rows, "importing")
        try:
            for batch in _batches(_read(source, file)):
                _commit(source, collection, fingerprint, batch, report)
                progress.advance(sum(len(item.spans) for item in batch))
        finally:
            progress.finish()
    collection.refresh_indexes()
    report.seconds = time.monotonic() - started
    return report


def create_for_export(directory: str | Path, path: str | Path, model: str | Path) -> Collection:
    """Make the collection that an exported file can be imported into, once it is known to be one.

    Vectors of another version of the model, one of the same name, get a collection of that version:
    it can be looked at, searched by vectors and ids, and moved by ``reembed_collection``.

    Args:
        directory: Where it is to be; there must be none.
        path: What ``export_collection`` wrote.
        model: The model that the vectors came from.

    Raises:
        NotFound: There is no such file, or no such model.
        Conflict: Its vectors came from another model.
        InvalidInput: It is no export.
    """
    source, loaded = Path(path), load_model(model)
    with disk_errors(source), _opened(source) as (file, schema):
        name, fingerprint = _model(source, schema.metadata or {})
        is_another = fingerprint != loaded.fingerprint()
        if is_another and name != full_name(model):
            raise Conflict(
                f"{source} holds vectors of the model {name!r} ({fingerprint[:12]}), "
                f"not of {loaded.name!r} ({loaded.fingerprint()[:12]})",
                hint="make the collection for the model of its vectors, with --model",
            )
        _check_layout(source, file, schema)
    if not is_another:
        return Collection.create(directory, model=model)
    Store.create(Path(directory), model=name, fingerprint=fingerprint).close()
    return Collection.open(directory)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Give a Parquet file and its schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Opened here, because Arrow's errors for what is missing or a folder say less.
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="check its name") from error
    with handle:
        try:
            file = pq.ParquetFile(handle, page_checksum_verification=True)
            schema = file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInput(f"{path}: no Parquet file: {_line(error)}", hint=HINT) from error
        with file:
            yield file, schema


def _check_model(path: Path, facts: Mapping[bytes, bytes], collection: Collection) -> str:
    """Check that a file's vectors lie in the space of the collection's; return its fingerprint.

    Raises:
        InvalidInput: It does not say where they came from.
        Conflict: They came from another model.
    """
    model, fingerprint = _model(path, facts)
    with collection.store.snapshot() as snapshot:
        if fingerprint != snapshot.fingerprint:
            raise Conflict(
                f"{path} holds vectors of the model {model!r} ({fingerprint[:12]}), "
                f"{collection.directory} of {snapshot.model!r} ({snapshot.fingerprint[:12]})",
                hint="import it into a collection of its own model: --create --model",
            )
    return fingerprint


def _model(path: Path, facts: Mapping[bytes, bytes]) -> tuple[str, str]:
    """Return the name and the fingerprint of the model that a file's vectors came from.

    Raises:
        InvalidInput: It does not say.
    """
    if FINGERPRINT not in facts:
        raise InvalidInput(f"{path}: no export, it names no model", hint=HINT)
    model, fingerprint = (facts.get(name, b"").decode(errors="replace") for name in FACTS)
    return model, fingerprint


def _check_layout(path: Path, file: Any, schema: Any) -> None:
    """Check columns and sizes before a row is read.

    Raises:
        InvalidInput: They are not those of an export. Hashes may lack: files whose items have none
            are read again when they are added.
    """
    expected = _schema()
    without_hashes = expected.remove(expected.get_field_index("content_hash"))
    if not schema.equals(expected) and not schema.equals(without_hashes):
        raise InvalidInput(
            f"{path}: no export, its columns are not {', '.join(expected.names)}", hint=HINT
        )
    for number in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(number).total_byte_size
        if not 0 <= size <= MAX_GROUP_BYTES:
            raise InvalidInput(f"{path}: no export, {size} bytes in a row group", hint=HINT)


class _Head(NamedTuple):
    """What each row of an item says about it."""

    key: str
    modality: str
    source: str | None
    text: str | None
    metadata: str
    content_hash: str | None


# A segment with its item's head, its span and its vector.
_Row = tuple[_Head, str | None, NDArray[np.float32]]


def _read(path: Path, file: Any) -> Iterator[NewItem]:
    """Yield the items of a file.

    Raises:
        CorruptData: It is damaged; the message says where.
    """
    import pyarrow as pa

    number, last = 0, ""
    try:
        for head, rows in groupby(_rows(file), key=itemgetter(0)):
            segments = list(islice(rows, MAX_ITEM_ROWS + 1))
            if len(segments) > MAX_ITEM_ROWS:
                raise ValueError(f"{head.key!r} has more than {MAX_ITEM_ROWS} segments")
            # Also when its rows contradict each other.
            if head.key <= last:
                raise ValueError(f"{head.key!r} stands there twice or out of order")
            yield _item(head, segments)
            number, last = number + len(segments), head.key
    # Arrow raises of several kinds where a file contradicts itself.
    except (pa.ArrowException, OSError, ValueError, LookupError, OverflowError) as error:
        raise _damaged(path, f"after row {number}: {_line(error)}") from error


def _rows(file: Any) -> Iterator[_Row]:
    """Yield the rows of a file.

    Raises:
        ValueError: A cell is empty that must not be.
    """
    last = _Head("", "", None, None, "", None)
    for batch in file.iter_batches(READ_ROWS):
        for name in ("key", "modality", "metadata", "vector"):
            if batch.column(name).null_count:
                raise ValueError(f"a row without {name}")
        facts = [
            _texts(batch.column(name), getattr(last, name))
            if name in batch.schema.names
            else [None] * len(batch)
            for name in _Head._fields
        ]
        heads = list(starmap(_Head, zip(*facts, strict=True)))
        vectors = batch.column("vector").flatten().to_numpy().reshape(-1, DIM)
        yield from zip(heads, batch.column("span").to_pylist(), vectors, strict=True)
        last = heads[-1]


def _texts(column: Any, last: str | None) -> list[str | None]:
    """Return a column as Python's texts.

    Equal texts of a dictionary are one object, and one that is equal to ``last`` is that object:
    a text of 10 MB must be neither held nor compared anew for each of its 50,000 rows.
    """
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    numbers = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    used, places = np.unique(numbers, return_inverse=True)
    values = [None if number < 0 else column.dictionary[number].as_py() for number in used.tolist()]
    values = [last if value == last else value for value in values]
    return [values[place] for place in places.tolist()]


def _item(head: _Head, segments: Sequence[_Row]) -> NewItem:
    """Return the item that rows with one head describe.

    Raises:
        ValueError: They do not describe one.
    """
    modality = Modality(head.modality)
    return NewItem(
        key=head.key,
        modality=modality,
        vectors=np.stack([vector for _, _, vector in segments]),
        spans=[_span(span, modality) for _, span, _ in segments],
        source=head.source,
        text=head.text,
        # As JSON, for as objects they take many times as much.
        metadata=to_json(_metadata(head.metadata), head.key),
        content_hash=head.content_hash,
    )


def _metadata(text: str) -> dict[str, Any]:
    match parse_json(text):
        case dict() as metadata:
            return metadata
    raise ValueError(f"{text!r} is no JSON object")


def _span(text: str | None, modality: Modality) -> Span | None:
    if text is None:
        return None
    value = parse_json(text)
    match value:
        case {"unit": unit, "start": int(start), "end": int(end)} if (
            unit == SPAN_UNITS.get(modality) and 0 <= start <= end < 2**63
        ):
            return Span(unit, start, end)
    raise ValueError(f"{value!r} is no span of {modality}")


def _batches(items: Iterator[NewItem]) -> Iterator[list[NewItem]]:
    """Yield items as many at a time as make a commit."""
    batch: list[NewItem] = []
    rows = characters = 0
    for item in items:
        batch.append(item)
        rows += len(item.spans)
        characters += len(item.text or "") + len(to_json(item.metadata, item.key))
        if rows >= COMMIT_ROWS or characters >= COMMIT_CHARACTERS:
            yield batch
            batch, rows, characters = [], 0, 0
    if batch:
        yield batch


def _commit(
    path: Path,
    collection: Collection,
    fingerprint: str,
    items: Sequence[NewItem],
    report: Report,
) -> None:
    with collection.store.write(fingerprint=fingerprint) as writer:
        old = _stored(writer, [item.key for item in items])
        fresh = [
            item
            for item in items
            if item.key not in old or not _is_same(item, old[item.key], writer)
        ]
        try:
            writer.put(fresh)
        except InvalidInput as error:
            raise _damaged(path, error.what) from error
    updated = sum(item.key in old for item in fresh)
    report.added += len(fresh) - updated
    report.updated += updated
    report.unchanged += len(items) - len(fresh)


def _is_same(new: NewItem, old: _Stored, snapshot: Snapshot) -> bool:
    """Whether an item is in already, to the bit."""
    return (
        (new.modality, new.source, new.text, new.content_hash, new.spans)
        == (old.item.modality, old.item.source, old.item.text, old.content_hash, old.spans)
        and to_json(new.metadata, new.key) == old.metadata
        and np.array_equal(new.vectors, snapshot.vectors(new.modality)[old.rows])
    )


def _damaged(path: Path, reason: str) -> CorruptData:
    return CorruptData(f"{path} is damaged: {reason}", hint=HINT)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
