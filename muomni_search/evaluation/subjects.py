"""What is measured: contents that a model embeds, and collections as other models see them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection
from muomni_search.documents import OF_KEYS, value_of
from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError, MuomniError, NotFound
from muomni_search.filters import Filter, Test, parse_filter
from muomni_search.items import Content, Modality, Query
from muomni_search.pipeline import encode_again
from muomni_search.progress import Progress, Silent
from muomni_search.view import View, Where, encode_all

__all__ = ["common_items", "embed", "encoded_with", "item_vectors", "labels_of"]

# Items looked up and encoded together: a text has 10 MB at most.
PAGE_ITEMS = 64


# ---- models ----------------------------------------------------------------------------------


def embed(
    model: Model, modality: Modality, contents: Sequence[Content | Path]
) -> NDArray[np.float32]:
    """Return a unit vector (n, 256) for each content, the mean of its segments.

    Raises:
        InvalidInput: A content cannot be encoded.
        CheckpointError: The model cannot encode the modality.
        NotFound: Its weights, or a file, are not here.
    """
    return encode_all(model.encoder(modality), contents)


# ---- collections -----------------------------------------------------------------------------


@contextmanager
def encoded_with(
    collection: Collection,
    model: str | Path,
    *,
    where: Where = None,
    progress: Progress | None = None,
) -> Iterator[Collection]:
    """Give a collection as another model sees it, for as long as it is held.

    With the model that it was made with that is the collection itself. With another one it is a
    temporary collection of the same items, encoded again from their texts and files; those that
    came as ready vectors, or whose file changed since, are not in it.

    Args:
        collection: What to encode again; it is not changed.
        model: With which model.
        where: Only these items.
        progress: Told of each item.

    Raises:
        NotFound: No such model, or its weights are not here.
        CheckpointError: The model cannot encode the modality of an item.
    """
    with collection.view() as view:
        is_own = load_model(model).fingerprint() == view.snapshot.fingerprint
    if is_own:
        yield collection
        return
    with (
        TemporaryDirectory(prefix="muomni-eval-") as folder,
        Collection.create(Path(folder) / "collection", model=model) as copy,
    ):
        _encode_into(copy, collection, parse_filter(where), progress or Silent())
        yield copy


def _encode_into(
    copy: Collection, collection: Collection, where: Filter | None, progress: Progress
) -> None:
    with collection.view() as view:
        counts = view.snapshot.counts().values()
        progress.start(
            None if where else sum(count["items"] for count in counts), f"with {copy.model.name}"
        )
        for modality in Modality:
            items = view.snapshot.iter_items(where, [modality])
            while page := list(islice(items, PAGE_ITEMS)):
                known = view.snapshot.known(item.key for item in page)
                pairs = [(item, known[item.key]) for item in page]
                try:
                    made = list(encode_again(copy.model, pairs))
                except (CheckpointError, NotFound) as error:
                    raise type(error)(
                        error.what,
                        hint=f"{error.hint}, or leave these items out with "
                        f"--where \"modality != '{modality}'\"".removeprefix(", or "),
                    ) from error
                with copy.store.write() as writer:
                    writer.put(made)
                progress.advance(len(page))
        progress.finish()


def common_items(collections: Sequence[Collection], where: Where = None) -> Filter | None:
    """Return a filter that lets through the items that ``where`` does and all collections have.

    What is the same for all of them makes figures that compare. What ``where`` means is decided in
    the first collection: copies of an item were added at another time.
    """
    condition = parse_filter(where)
    first, *others = collections
    own = {item.key for item in first.items(where=condition)}
    shared = own.intersection(*({item.key for item in one.items()} for one in others))
    if shared == own and (condition is None or not others):
        return condition
    return Test(("key",), "in", tuple(sorted(shared)))


def item_vectors(view: View, keys: Sequence[str]) -> NDArray[np.float32]:
    """Return the vector (n, 256) of each item, the unit mean of its segments.

    Raises:
        NotFound: A key is not there.
    """
    found = view.resolve_many([Query.id(key) for key in keys])
    return np.stack([_good(vector) for vector in found])


def _good(vector: NDArray[np.float32] | MuomniError) -> NDArray[np.float32]:
    if isinstance(vector, MuomniError):
        raise vector
    return vector


def labels_of(
    collection: Collection, field: str, where: Where = None
) -> dict[Modality, dict[str, str]]:
    """Return the label of each item that has one, by modality and key.

    Args:
        collection: Whose items.
        field: A metadata name (dots go into objects); or ``folder`` or ``stem`` (the key without
            its suffix), where no item has metadata of this name.
        where: Only these items.

    Raises:
        NotFound: No item has such a label, or the filter lets none through.
    """
    found: dict[Modality, dict[str, str]] = {modality: {} for modality in Modality}
    of_key: dict[Modality, dict[str, str]] = {modality: {} for modality in Modality}
    names: set[str] = set()
    for item in collection.items(where=parse_filter(where)):
        label = _told(value_of(item.metadata, field))
        names.update(item.metadata)
        if label is not None:
            found[item.modality][item.key] = label
        elif field in OF_KEYS and (part := OF_KEYS[field](item.key)):
            of_key[item.modality][item.key] = part
    if not any(found.values()):
        found = of_key
    if not any(found.values()):
        if where is not None and not any(collection.items(where=where, limit=1)):
            raise NotFound(
                f"no item of {collection.directory} is let through by the filter",
                hint="mend it; `muomni fields` lists what it can ask for",
            )
        raise NotFound(
            f"no item of {collection.directory} has the metadata {field!r}",
            hint=f"one of: {', '.join(sorted(names | OF_KEYS.keys()))}",
        )
    return found


def _told(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
