"""Routes that take long: why an item answers, a map of the space, a file of queries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import FormData, UploadFile

from muomni_search.batch import run_batch
from muomni_search.errors import InvalidInput
from muomni_search.explore.map import Map, make_map
from muomni_search.server import schemas
from muomni_search.server.context import Context, Name, problems
from muomni_search.server.explaining import explained
from muomni_search.server.jobs import Job
from muomni_search.server.problems import Refused, without_paths
from muomni_search.server.routes.jobs import accepted
from muomni_search.server.routes.reading import asked_of, filter_of, title_of
from muomni_search.server.routes.uploads import files_of, keep_file
from muomni_search.view import modalities_of

__all__ = ["router"]

router = APIRouter()

MOST_POINTS = 50_000
POINTS = 20_000
# Parquet is left out: a few bytes of it may stand for any number of rows.
QUERY_FILES = (".jsonl", ".ndjson", ".csv", ".npy")
OUTPUTS = ("jsonl", "parquet", "trec")
TOLD_ERRORS = 100
BATCH_FIELDS = ("format", "k", "where", "modality", "exact")
FLAGS = {"true": True, "false": False}


# ---- why ---------------------------------------------------------------------------------------


@router.post("/v1/collections/{name}/explain", tags=["search"], response_model=schemas.Explained,
             responses=problems(400, 404, 409))  # fmt: skip
async def explain_item(context: Context, name: Name, asked: schemas.ExplainRequest) -> Response:
    """Tell what in an item carries its similarity to a query."""

    def look() -> dict[str, Any]:
        query = asked_of(context, asked.parts)
        with context.collections.open(name) as collection:
            return explained(collection, query, asked.key, context.scratch)

    return context.json(await context.explanations.run(look))


# ---- a map -------------------------------------------------------------------------------------


@router.get(
    "/v1/collections/{name}/map",
    tags=["search"],
    response_model=schemas.MapOut,
    responses=problems(404, 422, 501)
    | {202: {"model": schemas.JobBegun, "description": "A job makes it."}},
)
async def get_map(
    context: Context,
    name: Name,
    limit: Annotated[
        int, Query(ge=1, le=MOST_POINTS, description="Of more items a sample.")
    ] = POINTS,
) -> Response:
    """Send a map of the space; when there is none of this state yet, begin a job that makes it."""
    if find_spec("umap") is None:
        raise Refused(
            "not-installed",
            "maps need the package umap-learn",
            hint="run: pip install 'muomni_search[explore]' where the server runs",
        )

    def look() -> Response:
        with context.collections.open(name) as collection, collection.view() as view:
            if not any(one["items"] for one in view.snapshot.counts().values()):
                raise InvalidInput(f"{name} has no item to show", hint="add some")
            subject = (name, view.snapshot.state.created, view.version, limit)

        def work(job: Job) -> Path:
            with context.collections.open(name) as collection:
                drawn = make_map(collection, limit=limit, progress=job)
            path = job.folder / "map.json"
            path.write_text(json.dumps(_drawn(drawn), ensure_ascii=False), "utf-8")
            return path

        while True:
            job = context.jobs.submit(Job("map", name, subject, context.jobs.folder, work))
            if job.result is None:
                return accepted(job)
            try:
                return Response(job.result.read_bytes(), media_type="application/json")
            except FileNotFoundError:  # it was forgotten just now: another one makes it again
                context.jobs.forget(job)

    return await context.searches.run(look)


def _drawn(drawn: Map) -> Mapping[str, Any]:
    return {
        "method": drawn.method,
        "found": drawn.found,
        "points": [
            {
                "key": point.key,
                "modality": str(point.modality),
                "title": title_of(point.key, point.metadata),
                "x": round(float(x), 4),
                "y": round(float(y), 4),
            }
            for point, (x, y) in zip(drawn.points, drawn.places, strict=True)
        ],
    }


# ---- a file of queries -------------------------------------------------------------------------

FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["queries"],
                    "properties": {
                        "queries": {
                            "type": "string",
                            "format": "binary",
                            "description": "A query a row: .jsonl, .csv, or vectors as .npy.",
                        },
                        "format": {"type": "string", "enum": list(OUTPUTS), "default": "jsonl"},
                        "k": {"type": "integer", "minimum": 1, "maximum": schemas.MOST_HITS},
                        "where": {"type": "string"},
                        "modality": {
                            "type": "array",
                            "items": {"type": "string", "enum": ["text", "image", "audio"]},
                        },
                        "exact": {
                            "type": "boolean",
                            "default": True,
                            "description": "Without it indexes answer where that is faster.",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/collections/{name}/batch",
    tags=["search"],
    status_code=202,
    response_model=schemas.JobBegun,
    responses=problems(400, 404, 415, 507),
    openapi_extra=FORM,
)
async def batch(context: Context, request: Request, name: Name) -> Response:
    """Answer a file of queries in the background; what cannot be answered is left out."""
    context.collections.find(name)  # before all of the body is here
    async with files_of(request) as form:
        upload, output, options = _batch_options(form)
        suffix = Path(upload.filename or "").suffix.lower()
        if suffix not in QUERY_FILES:
            raise InvalidInput(
                f"no queries in {upload.filename!r}", hint=f"send one of {', '.join(QUERY_FILES)}"
            )

        def work(job: Job) -> Path:
            [queries] = job.folder.glob("*/*")
            answers = job.folder / f"answers.{output}"
            with context.collections.open(name) as collection:
                report = run_batch(
                    collection,
                    queries,
                    answers,
                    **options,
                    progress=job,
                    is_foreign=True,
                )
                lacking = collection.lacking_fields(options["where"])
            shutil.rmtree(queries.parent)
            job.summary = {
                "answered": report.answered,
                "failed": report.failed,
                "errors": _first_errors(answers.with_name(f"{answers.name}.errors.jsonl")),
                "lacking_fields": lacking,
            }
            return answers

        job = Job("batch", name, None, context.jobs.folder, work, size=upload.size or 0)

        def begin() -> None:
            try:
                keep_file(upload, str(upload.filename), job.folder)
                context.jobs.submit(job)
            except BaseException:
                shutil.rmtree(job.folder, ignore_errors=True)
                raise

        await context.figures.run(begin)
    return accepted(job)


def _first_errors(path: Path) -> list[dict[str, Any]]:
    """Return why the first of the queries that failed did so."""
    try:
        with path.open("rb") as lines:
            told = [json.loads(line) for line in islice(lines, TOLD_ERRORS)]
    except FileNotFoundError:
        return []
    return [{**one, "error": without_paths(one["error"])} for one in told]


def _batch_options(form: FormData) -> tuple[UploadFile, str, dict[str, Any]]:
    """Return the file of queries, the output's format, and what ``run_batch`` takes of a form."""
    upload = form.get("queries")
    if not isinstance(upload, UploadFile):
        raise InvalidInput("no file of queries", hint="send it as queries")
    values = {key: value for key, value in form.multi_items() if isinstance(value, str)}
    unknown = form.keys() - {"queries", *BATCH_FIELDS}
    if unknown:
        raise InvalidInput(
            f"unknown field {min(unknown)!r}", hint=f"send {', '.join(BATCH_FIELDS)}"
        )
    output = values.get("format", "jsonl")
    if output not in OUTPUTS:
        raise InvalidInput(
            f"format: no format {output[:50]!r}", hint=f"one of {', '.join(OUTPUTS)}"
        )
    number = values.get("k", "10")
    if not (number.isascii() and number.isdecimal() and 1 <= int(number[:10]) <= schemas.MOST_HITS):
        raise InvalidInput(f"k: {number[:50]!r}", hint=f"a number from 1 to {schemas.MOST_HITS}")
    modality = [str(one) for one in form.getlist("modality")] or None
    modalities_of(modality)
    exact = values.get("exact", "true")
    if exact not in FLAGS:
        raise InvalidInput(f"exact: {exact[:50]!r}", hint="true or false")
    options = {
        "k": int(number),
        "where": filter_of(values.get("where")),
        "modality": modality,
        "exact": FLAGS[exact],
    }
    return upload, output, options
