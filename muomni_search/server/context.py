"""What every route needs: what the server holds, the names in its paths, the problems it tells."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi import Path as InPath
from fastapi.routing import APIRoute

from muomni_search.errors import InvalidInput
from muomni_search.server import schemas
from muomni_search.server.problems import MEDIA_TYPE
from muomni_search.server.served import Served
from muomni_search.wire import KINDS

__all__ = ["Context", "Key", "Name", "only_known", "problems"]


async def _served(request: Request) -> Served:
    served: Served = request.app.state.served
    return served


Context = Annotated[Served, Depends(_served)]
Name = Annotated[str, InPath(min_length=1, max_length=255, description="The name of a collection.")]
Key = Annotated[
    str, Query(min_length=1, max_length=schemas.KEY_CHARACTERS, description="The key of an item.")
]


async def only_known(request: Request) -> None:
    """Refuse a parameter that a route does not have: a filter that is misspelled filters nothing.

    Raises:
        InvalidInput: There is one.
    """
    route = request.scope.get("route")
    if request.query_params and isinstance(route, APIRoute):
        known = {field.alias for field in route.dependant.query_params}
        unknown = request.query_params.keys() - known
        if unknown:
            raise InvalidInput(
                f"unknown parameter {min(unknown)[:100]!r}",
                hint=f"this takes {', '.join(sorted(known)) or 'none'}",
            )


ALWAYS = {401, 403, 408, 413, 421, 422, 429, 500, 503}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI page says of the problems that a route may tell."""
    told: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*ALWAYS, *statuses}):
        names = [kind.name for kind in KINDS.values() if kind.status == status]
        told[status] = {
            "description": ", ".join(names),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return told
