"""A picture of a space: a collection, or a query's neighbourhood, as points in a plane.

items ──▶ points, a vector each ──▶ centred ──▶ laid out ──▶ a ``Map``, which ``drawing`` writes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection, Modalities, Where
from muomni_search.errors import InvalidInput, MuomniError
from muomni_search.explore.colours import Colours, colours_of
from muomni_search.explore.layout import METHODS, MIN_DIST, centred, check_seed, lay_out
from muomni_search.figures import clip
from muomni_search.filters import parse_filter
from muomni_search.items import Item, Modality, Query, Span
from muomni_search.progress import Progress, Silent
from muomni_search.store.snapshot import Snapshot
from muomni_search.view import View, modalities_of

__all__ = ["Map", "Point", "make_map"]

# What a page shows smoothly, and UMAP lays out in minutes.
LIMIT = 50_000
NEIGHBORHOOD = 200
# Of a long text a card shows, and a page's search box knows, so much.
TEXT_CHARACTERS = 400
# Items and rows looked up together.
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Point:
    """What a point of a map stands for: an item, or a segment of one.

    Args:
        key: The item's key.
        modality: Its modality.
        source: The path of its file, or None.
        text: The beginning of its text, or of the segment's.
        metadata: Its metadata.
        span: Where in the item the segment lies, or None.
        rank: Its rank in a query's neighbourhood, or None.
        score: Its score there, or None.
    """

    key: str
    modality: Modality
    source: str | None
    text: str | None
    metadata: dict[str, Any]
    span: Span | None = None
    rank: int | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """Points in a plane, with their colours.

    Args:
        title: What it shows.
        points: What the points are.
        places: Where they are, (n, 2) in [-1, 1].
        colours: How they are coloured.
        method: What laid them out; ``pca`` also where there were too few for another method.
        seed: The seed of the layout and the sample.
        is_centred: Whether each modality's mean was taken off.
        found: How many points there would be without the limit.
        query_place: Where the query is, (2,), or None.
        query_title: What the query is called.
        seconds: How long it took.
    """

    title: str
    points: Sequence[Point]
    places: NDArray[np.float32]
    colours: Colours
    method: str
    seed: int
    is_centred: bool
    found: int
    query_place: NDArray[np.float32] | None
    query_title: str
    seconds: float


def make_map(
    collection: Collection,
    *,
    query: Query | str | None = None,
    k: int = NEIGHBORHOOD,
    modality: Modalities = None,
    where: Where = None,
    segments: bool = False,
    limit: int = LIMIT,
    color: str = "modality",
    method: str = "umap",
    seed: int = 0,
    centre: bool = True,
    neighbors: int | None = None,
    min_dist: float = MIN_DIST,
    title: str | None = None,
    query_title: str | None = None,
    progress: Progress | None = None,
) -> Map:
    """Lay out a collection, or the neighbourhood of a query, in a plane.

    The same state of the collection with the same options gives the same map, to the byte.

    Args:
        collection: What to show.
        query: Show what is nearest to it, and the query itself; by default everything.
        k: How many are nearest.
        modality: Only items of these modalities.
        where: Only items that this filter matches.
        segments: A point a segment, not an item.
        limit: Of more points than these only a sample, chosen by the seed.
        color: ``modality``, or a field of the metadata: names become groups, numbers a scale; or
            ``folder`` or ``stem`` (the key without its suffix), where no metadata has this name.
        method: ``umap``, ``tsne`` or ``pca``.
        seed: Decides the sample and the layout.
        centre: Take each modality's mean off, so that what is alike across modalities meets.
        neighbors: UMAP's ``n_neighbors`` (15) or t-SNE's perplexity (30).
        min_dist: How near UMAP lets points come, from 0 to 1.
        title: What the map is called; by default the collection's name.
        query_title: What the query is called there; by default its words.
        progress: Told of the stages.

    Raises:
        InvalidInput: No item to show, a bad query, filter or option, or no such field.
        NotFound: The query names an item that is not there; or the package for the method is
            not installed.
    """
    begun = time.monotonic()
    shown = progress or Silent()
    if method not in METHODS:
        raise InvalidInput(f"no method {method!r}", hint=f"one of {', '.join(METHODS)}")
    if limit < 1 or k < 1:
        raise InvalidInput(f"limit and k must be 1 or more, not {limit} and {k}")
    check_seed(seed)
    asked = Query.text(query) if isinstance(query, str) else query
    shown.start(None, "reading")
    with collection.view() as view:
        if asked is None:
            points, rows, found = _sample(
                view.snapshot, where, modality, segments=segments, limit=limit, seed=seed
            )
            groups = [str(point.modality) for point in points]
        else:
            points, rows, groups = _neighborhood(
                view, asked, min(k, limit), where, modality, segments=segments
            )
            found = len(points)
    shown.finish()
    if not points:
        raise InvalidInput(
            f"{collection.directory} has no item to show",
            hint="add some, or ask for fewer conditions",
        )
    metadata = [point.metadata for point in points]
    # Before the layout, which takes minutes where a wrong name takes none.
    colours = colours_of(
        color,
        [point.modality for point in points],
        metadata,
        [point.key for point in points],
    )
    shown.start(None, "layout")
    moved = centred(rows, groups) if centre else rows
    places, method = lay_out(
        moved, method=method, seed=seed, neighbors=neighbors, min_dist=min_dist
    )
    shown.finish()
    return Map(
        title=title or collection.directory.resolve().name,
        points=points,
        places=places[: len(points)],
        colours=colours,
        method=method,
        seed=seed,
        is_centred=centre,
        found=found,
        query_place=None if asked is None else places[-1],
        query_title=query_title or (query if isinstance(query, str) else "query"),
        seconds=time.monotonic() - begun,
    )


# ---- points ----------------------------------------------------------------------------------


def _sample(
    snapshot: Snapshot,
    where: Where,
    modality: Modalities,
    *,
    segments: bool,
    limit: int,
    seed: int,
) -> tuple[list[Point], NDArray[np.float32], int]:
    """Return points with their vectors, by key and place in the item, and how many there are."""
    wanted = None if modality is None else modalities_of(modality)
    keys = [item.key for item in snapshot.iter_items(parse_filter(where), wanted)]
    if not segments:
        chosen = _chosen(keys, limit, seed)
        items = list(_items(snapshot, chosen))
        return [_point(item) for item in items], _means(snapshot, chosen), len(keys)
    stands = list(_segments(snapshot, keys))
    kept = _chosen(stands, limit, seed)
    points, rows = _points_of_segments(snapshot, kept)
    return points, rows, len(stands)


def _chosen(things: list[Any], limit: int, seed: int) -> list[Any]:
    if len(things) <= limit:
        return things
    rng = np.random.default_rng(seed)
    return [things[number] for number in np.sort(rng.choice(len(things), limit, replace=False))]


def _neighborhood(
    view: View, query: Query, k: int, where: Where, modality: Modalities, *, segments: bool
) -> tuple[list[Point], NDArray[np.float32], list[str]]:
    """Return the points nearest to a query, best first, vectors and groups; the query's last."""
    vector = view.resolve_many([query])[0]
    if isinstance(vector, MuomniError):
        raise vector
    hits = view.rank(
        query, vector, k, modality=modality, where=where, segments=segments, include_self=True
    )
    points = [
        Point(
            hit.key,
            hit.modality,
            hit.source,
            _excerpt(hit.text),
            hit.metadata,
            hit.span,
            hit.rank,
            hit.score,
        )
        for hit in hits
    ]
    if not points:
        return [], np.empty((0, len(vector)), np.float32), []
    keys = [hit.key for hit in hits]
    if segments:
        row_of = {
            (key, span): (one, row)
            for key, one, span, row in _segments(view.snapshot, sorted(set(keys)))
        }
        found = [row_of[hit.key, hit.span] for hit in hits]
        rows = np.stack([view.snapshot.vectors(one)[row] for one, row in found])
    else:
        rows = _means(view.snapshot, keys)
    groups = [*(str(point.modality) for point in points), _asked_with(view, query)]
    return points, np.concatenate([rows, vector[None]]), groups


def _asked_with(view: View, query: Query) -> str:
    """Return the modality that a query lies in: its parts', where they all have the same one."""
    named = view.get([part.value for part in query.parts if part.kind == "id"])
    kinds = {part.kind for part in query.parts} - {"id"} | {str(item.modality) for item in named}
    return str(kinds.pop()) if len(kinds) == 1 else "query"


def _items(snapshot: Snapshot, keys: Sequence[str]) -> Iterator[Item]:
    """Yield the items of keys, in that order."""
    for start in range(0, len(keys), PAGE):
        page = keys[start : start + PAGE]
        found = snapshot.find(page)
        yield from (found[key] for key in page)


def _segments(
    snapshot: Snapshot, keys: Sequence[str]
) -> Iterator[tuple[str, Modality, Span | None, int]]:
    """Yield key, modality, span and row of each segment of items, in the order of the keys."""
    for start in range(0, len(keys), PAGE):
        found = snapshot.item_rows(keys[start : start + PAGE])
        for key in keys[start : start + PAGE]:
            modality, rows = found[key]
            for match in snapshot.matches(modality, rows):
                yield key, modality, match.span, match.row


def _means(snapshot: Snapshot, keys: Sequence[str]) -> NDArray[np.float32]:
    """Return the unit mean of each item's segments (n, 256)."""
    means: list[NDArray[np.float32]] = []
    for start in range(0, len(keys), PAGE):
        page = keys[start : start + PAGE]
        found = snapshot.item_rows(page)
        sums = np.stack(
            [snapshot.vectors(found[key][0])[found[key][1]].sum(axis=0, dtype="f8") for key in page]
        )
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # Segments that cancel each other out have no mean, and get no direction.
        means.append((sums / np.where(lengths > 0, lengths, 1.0)).astype(np.float32))
    return np.concatenate(means) if means else np.empty((0, 0), np.float32)


def _points_of_segments(
    snapshot: Snapshot, stands: Iterable[tuple[str, Modality, Span | None, int]]
) -> tuple[list[Point], NDArray[np.float32]]:
    points: list[Point] = []
    rows: list[NDArray[np.float32]] = []
    first: Callable[[tuple[str, Modality, Span | None, int]], str] = lambda one: one[0]  # noqa: E731
    grouped = [(key, list(own)) for key, own in groupby(stands, first)]
    items = _items(snapshot, [key for key, _ in grouped])
    for item, (_, own) in zip(items, grouped, strict=True):
        for _, modality, span, row in own:
            points.append(_point(item, span))
            rows.append(snapshot.vectors(modality)[row])
    return points, np.stack(rows) if rows else np.empty((0, 0), np.float32)


def _point(item: Item, span: Span | None = None) -> Point:
    text = item.text
    if text is not None and span is not None and span.unit == "char":
        text = text[span.start : span.end]
    return Point(item.key, item.modality, item.source, _excerpt(text), item.metadata, span)


def _excerpt(text: str | None) -> str | None:
    return None if text is None else clip(text, TEXT_CHARACTERS)
