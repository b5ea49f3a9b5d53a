"""Routes that read: collections, items, searches."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from muomni_search.errors import InvalidInput, MuomniError, NotFound
from muomni_search.filters import Filter, parse_filter, refuse_source
from muomni_search.ingest.rows import parse_json
from muomni_search.items import Hit, Item, Modality
from muomni_search.items import Query as Asked
from muomni_search.server import schemas
from muomni_search.server.context import Context, Key, Name, problems
from muomni_search.server.explaining import explained
from muomni_search.server.problems import without_paths
from muomni_search.server.routes.media import is_shown, told_type
from muomni_search.server.served import Served
from muomni_search.store.fields import lacking_fields, summarise_fields
from muomni_search.store.records import Known
from muomni_search.store.snapshot import Snapshot

__all__ = ["asked_of", "filter_of", "router", "title_of"]

router = APIRouter()

PAGE_ITEMS = 100
MOST_PAGE_ITEMS = 1_000
COMMON_VALUES = 20


# ---- what questions mean -----------------------------------------------------------------------


def filter_of(where: str | Mapping[str, Any] | None) -> Filter | None:
    """Return the filter of a request.

    Raises:
        InvalidInput: It is malformed, or asks where files lie.
    """
    condition = parse_filter(where)
    refuse_source(condition)
    return condition


def asked_of(served: Served, parts: Sequence[schemas.Part]) -> Asked:
    """Return the query that a request asks.

    Raises:
        NotFound: An upload is not there any more.
        InvalidInput: A part cannot be used.
    """
    asked: list[Any] = []
    for part in parts:
        value: Any = part.value if part.kind in ("text", "id") else part.vector
        if part.kind in ("image", "audio"):
            value, _ = served.query_files.find(str(part.upload), part.kind)
        make = Asked.vector if part.kind == "vector" else getattr(Asked, part.kind)
        asked += (part.weight * make(value)).parts
    return Asked(tuple(asked))


# ---- what answers say --------------------------------------------------------------------------


def title_of(key: str, metadata: Mapping[str, Any]) -> str:
    """Return what people call an item: its title, or the last part of its key."""
    title = metadata.get("title")
    return title if isinstance(title, str) and title.strip() else key.rpartition("/")[2] or key


def _shown(item: Item | Hit, known: Known, served: Served) -> dict[str, Any]:
    """Return what hits and items have in common: not where their files lie."""
    has_original = (
        item.text is not None
        if item.modality == Modality.TEXT
        else is_shown(known, served.settings)
    )
    return {
        "key": item.key,
        "modality": str(item.modality),
        "title": title_of(item.key, item.metadata),
        "text": item.text,
        "metadata": item.metadata,
        "has_original": has_original,
        "media_type": told_type(item) if has_original else None,
    }


def _hit(hit: Hit, known: Known, served: Served) -> dict[str, Any]:
    return {
        **_shown(hit, known, served),
        "rank": hit.rank,
        "score": hit.score,
        "cosine": hit.cosine,
        "span": hit.span.as_dict() if hit.span else None,
        "how": hit.how,
        "recall": hit.recall,
    }


def _item(item: Item, known: Known, served: Served) -> dict[str, Any]:
    told = {**_shown(item, known, served), "segments": item.segments, "added": item.added}
    if item.vector is not None:
        told["vector"] = item.vector.tolist()
    return told


# ---- routes ------------------------------------------------------------------------------------


@router.get("/v1/collections", tags=["collections"], response_model=schemas.CollectionList,
            responses=problems())  # fmt: skip
async def list_collections(context: Context) -> Response:
    """List the collections, with how many items they have."""

    def look() -> dict[str, Any]:
        return {"collections": [_counted(context, name) for name in context.collections.names()]}

    return context.json(await context.searches.run(look))


def _counted(served: Served, name: str) -> dict[str, Any]:
    counts: dict[str, Any] = dict.fromkeys(("items", *map(str, Modality)), 0)
    try:
        with served.collections.open(name) as collection, collection.view() as view:
            for modality, count in view.snapshot.counts().items():
                counts[str(modality)] = count["items"]
                counts["items"] += count["items"]
            return {
                "name": name,
                **counts,
                "model": _model_name(view.snapshot.model),
                "error": None,
            }
    except (MuomniError, OSError) as error:
        return {"name": name, **counts, "model": None, "error": without_paths(str(error))}


def _model_name(model: str) -> str:
    return PurePosixPath(model).name


@router.get("/v1/collections/{name}", tags=["collections"], response_model=dict[str, Any],
            responses=problems(404))  # fmt: skip
async def stats(context: Context, name: Name) -> Response:
    """Tell of a collection: items, segments, bytes, model and index, a modality and in sum."""

    def look() -> dict[str, Any]:
        with context.collections.open(name) as collection:
            told = collection.stats()
        for one in (told, *(told[str(modality)] for modality in Modality)):
            one["model"] = {**one["model"], "name": _model_name(one["model"]["name"])}
        return {"name": name, **told}

    return context.json(await context.searches.run(look))


@router.get("/v1/collections/{name}/items", tags=["items"], response_model=schemas.ItemPage,
            responses=problems(404))  # fmt: skip
async def list_items(
    context: Context,
    name: Name,
    where: Annotated[str | None, Query(max_length=schemas.WHERE_CHARACTERS)] = None,
    modality: Annotated[list[schemas.Kind] | None, Query(max_length=3)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_PAGE_ITEMS)] = PAGE_ITEMS,
    after: Annotated[str | None, Query(max_length=schemas.KEY_CHARACTERS)] = None,
) -> Response:
    """List items by key; ``next`` is the ``after`` of the next page, or null at the end."""

    def look() -> dict[str, Any]:
        condition = filter_of(_spelled(where))
        wanted = [Modality(one) for one in modality] if modality else None
        with context.collections.open(name) as collection, collection.view() as view:
            items = list(view.snapshot.iter_items(condition, wanted, limit=limit + 1, after=after))
            known = view.snapshot.known([item.key for item in items])
        page = items[:limit]
        return {
            "items": [_item(item, known[item.key], context) for item in page],
            "next": page[-1].key if len(items) > limit else None,
        }

    return context.json(await context.searches.run(look))


def _spelled(where: str | None) -> str | dict[str, Any] | None:
    """Return the filter in a query string: as text, or as an object in JSON."""
    if where is None or not where.lstrip().startswith("{"):
        return where
    try:
        found: dict[str, Any] = parse_json(where)
    except ValueError as error:
        raise InvalidInput(f"where is no JSON: {error}") from error
    return found


@router.get("/v1/collections/{name}/count", tags=["items"], response_model=schemas.FilterCounts,
            responses=problems(404))  # fmt: skip
async def count_items(
    context: Context,
    name: Name,
    where: Annotated[str | None, Query(max_length=schemas.WHERE_CHARACTERS)] = None,
) -> Response:
    """Count the items that a filter lets through: all, and of each modality.

    Of a filter that lets none through, ``lacking_fields`` are those that no item has.
    """

    def look() -> dict[str, Any]:
        condition = filter_of(_spelled(where))
        with context.collections.open(name) as collection, collection.view() as view:
            counts = view.snapshot.count_items(condition)
            items = sum(counts.values())
            lacking = _lacking(view.snapshot, condition) if not items else {}
        own = {str(modality): count for modality, count in counts.items()}
        return {"items": items, **own, "lacking_fields": lacking}

    return context.json(await context.searches.run(look))


@router.get("/v1/collections/{name}/item", tags=["items"], response_model=schemas.FoundItem,
            responses=problems(404))  # fmt: skip
async def get_item(context: Context, name: Name, key: Key, vectors: bool = False) -> Response:
    """Tell of one item."""

    def look() -> dict[str, Any]:
        with context.collections.open(name) as collection, collection.view() as view:
            [item] = view.get([key], vectors=vectors)
            return _item(item, view.snapshot.known([key])[key], context)

    return context.json(await context.searches.run(look))


@router.get("/v1/collections/{name}/fields", tags=["collections"], response_model=schemas.Fields,
            responses=problems(404))  # fmt: skip
async def fields(
    context: Context, name: Name, most: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    """Tell what filters can ask for: fields, their types and their commonest values.

    All items are looked at, or ``most`` of them, from among all: of a million that takes seconds.
    """

    def look() -> bytes:
        with context.collections.open(name) as collection, collection.view() as view:
            # To keep an index of a field changes no item.
            now, indexed = view.snapshot.state, view.snapshot.indexed_fields()
            state = ("fields", name, most, now.created, now.version, *indexed)

            def make() -> bytes:
                told = summarise_fields(view.snapshot, values=COMMON_VALUES, most=most)
                return json.dumps({"fields": told}, ensure_ascii=False).encode()

            return context.cache.get(state, make)

    return Response(await context.searches.run(look), media_type="application/json")


@router.get("/v1/collections/{name}/failures", tags=["collections"],
            response_model=schemas.FailureList, responses=problems(404))  # fmt: skip
async def failures(context: Context, name: Name) -> Response:
    """List the inputs that could not be used."""

    def look() -> dict[str, Any]:
        with context.collections.open(name) as collection:
            found = collection.failures()
        return {
            "failures": [
                {
                    "key": one.key,
                    "error": without_paths(one.error),
                    "hint": without_paths(one.hint),
                    "attempts": one.attempts,
                    "last": one.last,
                }
                for one in found
            ]
        }

    return context.json(await context.searches.run(look))


@router.post("/v1/collections/{name}/search", tags=["search"], response_model=schemas.Hits,
             responses=problems(400, 404))  # fmt: skip
async def search(context: Context, name: Name, request: schemas.SearchRequest) -> Response:
    """Find what is nearest to a query, a weighted sum of words, items, uploads and vectors."""
    workers = context.explanations if request.explain else context.searches
    return context.json(await workers.run(lambda: _answer(context, name, request)))


@router.get("/v1/collections/{name}/search", tags=["search"], response_model=schemas.Hits,
            responses=problems(404))  # fmt: skip
async def search_words(
    context: Context,
    name: Name,
    q: Annotated[str, Query(min_length=1, max_length=schemas.QUERY_CHARACTERS)],
    k: Annotated[int, Query(ge=1, le=schemas.MOST_HITS)] = 10,
) -> Response:
    """Find what is nearest to words."""
    request = schemas.SearchRequest(parts=[schemas.Part(kind="text", value=q)], k=k)
    return context.json(await context.searches.run(lambda: _answer(context, name, request)))


def _answer(served: Served, name: str, request: schemas.SearchRequest) -> dict[str, Any]:
    started = time.perf_counter()
    query = asked_of(served, request.parts)
    where = filter_of(request.where)
    with served.collections.open(name) as collection, collection.view() as view:
        try:
            [hits] = view.search(
                [query],
                request.k,
                offset=request.offset,
                modality=request.modality,
                where=where,
                min_score=request.min_score,
                exact=request.exact,
                segments=request.segments,
                include_self=request.include_self,
            )
        except NotFound as error:
            named = [part.value for part in query.parts if part.kind == "id"]
            lost = sorted(set(named) - view.snapshot.item_ids(named).keys())
            if not lost:
                raise
            # By its key alone: where the collection lies is nobody's business.
            raise NotFound(f"no item {', '.join(map(repr, lost))} in {name}") from error
        known = view.snapshot.known({hit.key for hit in hits})
        lacking = _lacking(view.snapshot, where) if not hits else {}
    told = [_hit(hit, known[hit.key], served) for hit in hits]
    if request.explain:
        _explain(served, name, query, told[: schemas.MOST_EXPLAINED])
    return {
        "hits": told,
        "how": "ann" if any(hit.how == "ann" for hit in hits) else "exact",
        "seconds": round(time.perf_counter() - started, 6),
        "lacking_fields": lacking,
    }


def _explain(served: Served, name: str, query: Asked, told: Sequence[dict[str, Any]]) -> None:
    """Tell of hits what carries them: each from a view of its own, for it takes a while."""
    with served.collections.open(name) as collection:
        for one in told:
            # What cannot be explained, as a ready vector cannot, is a hit all the same.
            with suppress(MuomniError):
                one["explanation"] = explained(collection, query, one["key"], served.scratch)


def _lacking(snapshot: Snapshot, condition: Filter | None) -> dict[str, list[str]]:
    """Return the fields of a filter that no item has: what to look at when it lets none through."""
    return {} if condition is None else lacking_fields(snapshot, condition)
