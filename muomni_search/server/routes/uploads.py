"""Files that clients send: those that a query is asked with, and those that become items.

Every file is written under a name of our own, read by the decoders of ``ingest`` within their
limits before anything else is done with it, and known by its content, whatever it is called.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData, UploadFile

from muomni_search.errors import InvalidInput
from muomni_search.server import schemas
from muomni_search.server.context import Context, problems
from muomni_search.server.problems import Refused
from muomni_search.server.routes.media import send_file
from muomni_search.store.uploads import new_upload

__all__ = ["content_type", "files_of", "keep_file", "router"]

router = APIRouter(tags=["search"])

MOST_FILES = 1_000
MOST_FIELDS = 20
# A file to ask with is read into memory, several at once.
MOST_QUERY_BYTES = 100_000_000
FIELD_BYTES = 10_000_000
UNSAFE = re.compile(r"[^\w. -]")
# Together well below the 255 bytes that file systems take.
NAME_BYTES = 160
SUFFIX_CHARACTERS = 10


def content_type(request: Request) -> str:
    """Return what a body says that it is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def files_of(request: Request) -> AsyncIterator[FormData]:
    """Give the parts of a multipart body; what is large waits on the disk.

    Raises:
        Refused: It is no such body.
    """
    if content_type(request) != "multipart/form-data":
        raise Refused("unsupported-media", "no multipart/form-data", hint="send a form with files")
    async with request.form(
        max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=FIELD_BYTES
    ) as form:
        yield form


def keep_file(upload: UploadFile, name: str, folder: Path) -> Path:
    """Write an upload to a folder of its own below ``folder``; return its path.

    Its name is kept as far as it is harmless, for those who look into the folder.
    """
    place = new_upload(folder)
    path = place / _harmless(name)
    upload.file.seek(0)
    try:
        with path.open("xb") as file:
            shutil.copyfileobj(upload.file, file, 1 << 20)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return path


def _harmless(name: str) -> str:
    """Return what a file may be called here: short, visible, and in one folder."""
    last = UNSAFE.sub("_", name.replace("\\", "/").rpartition("/")[2]).lstrip(".")
    stem, suffix = os.path.splitext(last)  # noqa: PTH122  what a client says, no path
    kept = stem.encode(errors="replace")[:NAME_BYTES].decode(errors="ignore")
    return f"{kept}{suffix[:SUFFIX_CHARACTERS]}" or "file"


FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post(
    "/v1/uploads",
    responses=problems(400, 415, 422, 507),
    response_model=schemas.Upload,
    openapi_extra=FORM,
)
async def upload(context: Context, request: Request) -> Response:
    """Take a picture or a sound to ask with; a search names it by ``upload``."""
    async with files_of(request) as form:
        files = [one for one in form.getlist("file") if isinstance(one, UploadFile)]
        if len(files) != 1:
            raise InvalidInput("an upload is one file", hint="send one part called file")
        [file] = files
        name = file.filename or "the upload"
        if (file.size or 0) > MOST_QUERY_BYTES:
            raise Refused("too-large", f"a file of more than {MOST_QUERY_BYTES} bytes to ask with")

        def keep() -> dict[str, Any]:
            file.file.seek(0)
            return context.query_files.keep(file.file.read(), name, context.settings.limits)

        return context.json(await context.figures.run(keep))


@router.get(
    "/v1/uploads/{upload}",
    responses=problems(400, 404, 416)
    | {200: {"content": {"application/octet-stream": {}}, "description": "The file."}},
    response_class=Response,
)
async def uploaded(context: Context, request: Request, upload: str) -> Response:
    """Send what was uploaded to ask with, or a range of it."""

    def send() -> Response:
        path, modality = context.query_files.find(upload)
        return send_file(request, path, name=upload, modality=modality)

    return await context.figures.run(send)
