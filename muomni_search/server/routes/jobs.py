"""Routes that watch jobs: how far one is, its events, its result; and that cancel it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from muomni_search.server import schemas
from muomni_search.server.context import Context, problems
from muomni_search.server.jobs import OVER, Job
from muomni_search.server.routes.media import SentFile

__all__ = ["accepted", "router"]

router = APIRouter(tags=["jobs"])

# How often progress is looked at, and how long a stream is silent at most.
LOOK_SECONDS = 0.2
SILENT_SECONDS = 15.0
MEDIA_TYPES = {".json": "application/json", ".jsonl": "application/x-ndjson"}


def accepted(job: Job) -> Response:
    """Answer that a job has begun, and where to ask for it."""
    body = json.dumps({"job": job.id})
    where = {"Location": f"/v1/jobs/{job.id}"}
    return Response(body, 202, where, "application/json")


@router.get("/v1/jobs/{job}", response_model=schemas.JobOut, responses=problems(404))
async def get_job(context: Context, job: str) -> Response:
    """Tell how far a job is."""
    return context.json(context.jobs.get(job).as_dict())


@router.get(
    "/v1/jobs/{job}/events",
    responses=problems(404)
    | {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    response_class=StreamingResponse,
)
async def events(context: Context, request: Request, job: str) -> Response:
    """Tell of a job's progress as server-sent events, until it is over."""
    found = context.jobs.get(job)
    server = getattr(request.app.state, "server", None)

    async def stream() -> AsyncIterator[str]:
        told, silent = None, 0.0
        while True:
            now = found.as_dict()
            if now != told:
                name = found.state if found.is_over else "progress"
                yield f"event: {name}\ndata: {json.dumps(now)}\n\n"
                told, silent = now, 0.0
            if now["state"] in OVER or (server is not None and server.should_exit):
                return
            await asyncio.sleep(LOOK_SECONDS)
            silent += LOOK_SECONDS
            if silent >= SILENT_SECONDS:
                yield ": still there\n\n"
                silent = 0.0

    return StreamingResponse(stream(), media_type="text/event-stream")


@router.get(
    "/v1/jobs/{job}/result",
    responses=problems(400, 404, 409, 416)
    | {200: {"content": {"application/octet-stream": {}}, "description": "The result."}},
    response_class=Response,
)
async def result(context: Context, job: str) -> Response:
    """Send what a job has made."""
    found = context.jobs.get(job)
    path, facts = await context.figures.run(lambda: context.jobs.result(job))
    return SentFile(
        path,
        media_type=MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        filename=None if path.suffix == ".json" else f"{found.collection}{path.suffix}",
        stat_result=facts,
    )


@router.delete("/v1/jobs/{job}", status_code=202, response_model=schemas.JobOut,
               responses=problems(404))  # fmt: skip
async def cancel(context: Context, job: str) -> Response:
    """Cancel a job, which ends at its next step; forget one that is over, and its result."""
    found = await context.figures.run(lambda: context.jobs.drop(job))
    return context.json(found.as_dict(), 202)
