"""Routes that everybody may ask: whether the server is there, the way in, and the page."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from muomni_search.server import schemas, security
from muomni_search.server.context import Context, problems
from muomni_search.server.problems import Refused

__all__ = ["PAGE", "router"]

router = APIRouter(tags=["server"])

PAGE = Path(__file__).parents[1] / "page"
BASE_STYLE = Path(__file__).parents[2] / "templates" / "base.css"


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Send the page."""
    return FileResponse(PAGE / "index.html")


@router.get("/page/base.css", include_in_schema=False)
async def base_style() -> Response:
    """Send the palette that the page shares with the pages that are exported."""
    return FileResponse(BASE_STYLE)


@router.get("/v1/health", response_model=schemas.Health, responses=problems())
async def health(context: Context) -> Response:
    """Say that the server is there."""
    # Not by the workers, which refuse when they have much to do: it is there then as well.
    names = await asyncio.to_thread(context.collections.names)
    return context.json(
        {
            "status": "ok",
            "version": version("muomni_search"),
            "collections": len(names),
            "read_only": context.settings.read_only,
        }
    )


@router.get("/v1/session", response_model=schemas.Session, responses=problems())
async def session(context: Context, request: Request) -> Response:
    """Say whether a token is wanted, and whether this client has shown it."""
    sessions: security.Sessions = request.app.state.sessions
    return context.json(
        {
            "token_required": not sessions.is_open,
            "authenticated": sessions.lets_in(request.headers),
        }
    )


@router.post("/v1/session", status_code=204, response_class=Response, responses=problems(400))
async def begin_session(request: Request, shown: schemas.Token) -> Response:
    """Give a cookie for the token: pictures and players of a page cannot send headers."""
    sessions: security.Sessions = request.app.state.sessions
    if not sessions.is_token(shown.token.encode()):
        raise Refused("unauthorized", "this is not the token", hint="ask who started the server")
    response = Response(status_code=204)
    response.set_cookie(
        sessions.cookie,
        sessions.begin(),
        max_age=security.SESSION_SECONDS,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.delete("/v1/session", status_code=204, response_class=Response, responses=problems())
async def end_session(request: Request) -> Response:
    """Take the cookie back."""
    sessions: security.Sessions = request.app.state.sessions
    response = Response(status_code=204)
    response.delete_cookie(sessions.cookie, httponly=True, samesite="strict")
    return response
