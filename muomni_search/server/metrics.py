"""What the server has done and is doing, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muomni_search.server.context import problems
from muomni_search.server.served import Served

__all__ = ["Meter", "Metrics", "router"]

router = APIRouter(tags=["server"])

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
UNKNOWN = "-"
METHODS = {"GET", "POST", "DELETE"}


class Metrics:
    """The numbers of one server.

    Args:
        served: What it holds.
    """

    def __init__(self, served: Served) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "muomni_requests", "Requests answered.", ("method", "route", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "muomni_request_seconds", "Time until the last byte was sent.", ("method", "route"),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        ProcessCollector(registry=self.registry)
        self.registry.register(_Now(served))


class _Now(Collector):
    """What is so at the moment of asking."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily(
            "muomni_waiting", "Requests that wait for a thread.", labels=["work"]
        )
        for workers in self._served.workers():
            waiting.add_metric([workers.name], workers.waiting)
        yield waiting
        jobs = GaugeMetricFamily("muomni_jobs", "Jobs by state.", labels=["state"])
        for state, count in self._served.jobs.counts().items():
            jobs.add_metric([state], count)
        yield jobs


class Meter:
    """The layer that counts requests, those that are refused among them.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics: Metrics = scope["app"].state.metrics
        started = time.perf_counter()
        status = 499  # whoever asked has left

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            # The template, and methods that there are: whatever a client makes up would be
            # another number, without end.
            route = getattr(scope.get("route"), "path", UNKNOWN)
            method = scope["method"] if scope["method"] in METHODS else UNKNOWN
            metrics.requests.labels(method, route, status).inc()
            metrics.seconds.labels(method, route).observe(time.perf_counter() - started)


@router.get(
    "/v1/metrics",
    responses=problems() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
)
async def metrics(request: Request) -> Response:
    """Send the server's numbers in the text form of Prometheus."""
    told: Metrics = request.app.state.metrics
    return Response(generate_latest(told.registry), media_type=CONTENT_TYPE_LATEST)
