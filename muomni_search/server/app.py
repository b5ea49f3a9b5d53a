"""The application: routes, the layer around them, and the page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from starlette.staticfiles import StaticFiles

from muomni_search.server import heads, leaving, metrics, problems, schemas, security
from muomni_search.server.context import only_known
from muomni_search.server.routes import exploring, front, jobs, media, reading, uploads, writing
from muomni_search.server.served import Served
from muomni_search.server.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings, port: int) -> FastAPI:
    """Return the application that serves collections.

    Args:
        settings: What it is asked for.
        port: Where its server listens.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        served = Served(settings)
        app.state.served = served
        app.state.metrics = metrics.Metrics(served)
        stop = threading.Event()
        warm = threading.Thread(target=served.collections.warm_up, args=(stop,), daemon=True)
        warm.start()
        try:
            yield
        finally:  # also when it is cancelled: by a second signal, which waits for no client
            stop.set()
            await asyncio.to_thread(warm.join)
            await asyncio.to_thread(served.close)

    app = FastAPI(
        title="muomni",
        summary="Texts, pictures and sounds, found by texts, pictures and sounds.",
        version=version("muomni_search"),
        lifespan=life,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
    )
    problems.install(app)
    for module in (front, reading, writing, media, uploads, exploring, jobs, metrics):
        app.include_router(module.router, dependencies=[Depends(only_known)])
    app.mount("/page", StaticFiles(directory=front.PAGE), name="page")
    app.state.sessions = security.Sessions(settings.token, port)
    # The last is the outermost.
    app.add_middleware(heads.Heads)
    app.add_middleware(leaving.Leaving)
    app.add_middleware(security.Guard, settings=settings, sessions=app.state.sessions)
    app.add_middleware(metrics.Meter)
    _describe(app, app.state.sessions.cookie)
    return app


def _describe(app: FastAPI, cookie: str) -> None:
    """Have the OpenAPI page know problems, and how a client shows the token."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        described = made()
        parts = described.setdefault("components", {})
        known = parts.setdefault("schemas", {})
        for model in (schemas.Problem, schemas.NewItems):
            described_model = model.model_json_schema(ref_template="#/components/schemas/{model}")
            known.update(described_model.pop("$defs", {}))
            known[model.__name__] = described_model
        for unused in ("HTTPValidationError", "ValidationError"):
            known.pop(unused, None)
        parts["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": cookie},
        }
        described["security"] = [{"token": []}, {"cookie": []}, {}]
        return described

    app.openapi = openapi  # type: ignore[method-assign]
