"""Pictures and sounds of items: which files may be shown, as what, and how small."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from muomni_search.durable import changed_ns
from muomni_search.errors import MuomniError, NotFound
from muomni_search.figures import envelope, file_of, shrink
from muomni_search.ingest.audio import SAMPLE_RATE
from muomni_search.ingest.read import Limits, decode, read_file
from muomni_search.ingest.rows import table_of_root
from muomni_search.ingest.sniff import HEAD_BYTES, media_type
from muomni_search.items import Item, Modality
from muomni_search.server import schemas
from muomni_search.server.context import Context, Key, Name, problems
from muomni_search.server.problems import BY_STATUS, problem
from muomni_search.server.served import Served
from muomni_search.server.settings import Settings
from muomni_search.store.records import Known
from muomni_search.wire import KINDS

__all__ = ["SentFile", "is_shown", "router", "send_file", "told_type"]

router = APIRouter(tags=["items"])

SMALLEST, LARGEST = 16, 1_024
# What browsers show or play by themselves, and nothing that runs. All else is for downloading.
DISPLAYED = {
    *("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif"),
    *("image/x-icon", "audio/wav", "audio/flac", "audio/ogg", "audio/mpeg"),
}
TEXT = "text/plain; charset=utf-8"
# By the name, for lists: what is sent is told by its content.
TYPES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe"), "image/jpeg"),
    **{f".{name}": f"image/{name}" for name in ("png", "gif", "webp", "bmp", "avif", "tiff")},
    ".tif": "image/tiff",
    ".ico": "image/x-icon",
    **{f".{name}": f"audio/{name}" for name in ("wav", "flac", "ogg", "aiff")},
    **dict.fromkeys((".oga", ".opus"), "audio/ogg"),
    ".mp3": "audio/mpeg",
}


# ---- what may be shown -----------------------------------------------------------------------


def is_shown(known: Known, settings: Settings) -> bool:
    """Whether an item has something to be sent, as far as the store tells; no file is looked at."""
    if known.source is None or known.modality == Modality.TEXT:
        return False
    if known.size is not None:
        return True
    # As text, for this is asked of every hit.
    folders = [str(one).rstrip(os.sep) + os.sep for one in _folders(known, settings)]
    return known.source.startswith(tuple(folders))


def path_of(item: Item, known: Known, settings: Settings) -> Path:
    """Return the file of an item, links resolved: the one place that decides what may be sent.

    It is one that lies in the folder that the item was added from, or in one that the server was
    started with; or the very file that a table named when it was read, of the same size and time.
    The source of a ready vector is a claim, and may name any file of this machine.

    Raises:
        NotFound: There is none, or it may not be shown.
    """
    path = Path(os.path.realpath(file_of(item.source)))
    folders = _folders(known, settings)
    if not any(path.is_relative_to(os.path.realpath(one)) for one in folders):
        facts = _facts(path)
        if _folder(known) or (facts.st_size, changed_ns(facts)) != (known.size, known.mtime_ns):
            raise NotFound(
                f"the file of {item.key!r} lies outside of the folders of this server",
                hint="start it with --files DIR",
            )
    return path


def _folders(known: Known, settings: Settings) -> list[str | Path]:
    """Return the folders of which an item may show files: the server's, and that it came from."""
    own = _folder(known)
    return [*([own] if own else []), *settings.files]


def _folder(known: Known) -> str | None:
    """Return the folder that an item was added from; None where a table named it."""
    return known.root if known.root and table_of_root(known.root) is None else None


def _facts(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        raise NotFound("its file is gone", hint="bring it back, or delete the item") from error


def told_type(item: Any) -> str | None:
    """Return what a list calls the content of an item or hit."""
    if item.modality == Modality.TEXT:
        return TEXT if item.text is not None else None
    return TYPES.get(os.path.splitext(item.source or item.key)[1].lower())  # noqa: PTH122


def _found(served: Served, name: str, key: str) -> tuple[Item, Path | None]:
    """Return an item and the file that shows it; None for a text."""
    with served.collections.open(name) as collection, collection.view() as view:
        [item] = view.get([key])
        known = view.snapshot.known([key])[key]
    if item.modality == Modality.TEXT:
        return item, None
    return item, path_of(item, known, served.settings)


class SentFile(FileResponse):
    """A file, or a range of it.

    A range that it does not have is a problem like any other, and so is a file that went since it
    was looked at. One that goes while it is sent is sent to its end.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        head: Message | None = None
        refused: Message | None = None
        asked = Headers(scope=scope).get("range", "bytes=")
        if not asked.lower().startswith("bytes="):  # RFC 9110, 14.2: another unit is ignored
            others = [one for one in scope["headers"] if one[0] != b"range"]
            scope = {**scope, "headers": others}

        # The head comes first and the file is opened then: it waits for what is in it.
        async def send_what_is_good(message: Message) -> None:
            nonlocal head, refused
            if message["type"] == "http.response.start":
                head = message
                refused = message if message["status"] >= HTTPStatus.BAD_REQUEST else None
            elif refused is None:
                if head is not None:
                    begun, head = head, None
                    await send(begun)
                await send(message)

        try:
            await super().__call__(scope, receive, send_what_is_good)
        except FileNotFoundError:
            if head is None:
                raise
            gone = problem(KINDS["not-found"], "its file went just now", hint="ask for it again")
            await gone(scope, receive, send)
            return
        if refused is not None:
            wanted = Headers(scope=scope).get("range", "")
            sent = {}
            if refused["status"] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                sent["Content-Range"] = Headers(raw=refused["headers"])["content-range"]
            told = problem(
                BY_STATUS[refused["status"]],
                f"no range of this file: {wanted[:100]!r}",
                hint="ask for bytes=FIRST-LAST, counted from 0",
                headers=sent,
            )
            await told(scope, receive, send)


def send_file(request: Request, path: Path, *, name: str, modality: Modality) -> Response:
    """Send a picture or a sound, or the range of it that was asked for, as what it is.

    Raises:
        NotFound: It is gone, or something else by now.
    """
    try:
        # Without waiting: whoever opens a pipe would wait for somebody to write into it.
        with open(path, "rb", buffering=0, opener=_at_once) as file:
            facts = os.fstat(file.fileno())
            head = file.read(HEAD_BYTES) if stat.S_ISREG(facts.st_mode) else b""
    except OSError as error:
        raise NotFound("its file is gone", hint="bring it back, or delete the item") from error
    kind = media_type(head)
    if kind is None or not kind.startswith(str(modality)):
        raise NotFound(f"{name}: its file is no {modality} any more", hint="add it again")
    headers = {"ETag": _etag(path, facts), "Cache-Control": "private, no-cache"}
    if _is_known(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    is_displayed = kind in DISPLAYED
    return SentFile(
        path,
        headers=headers,
        media_type=kind if is_displayed else "application/octet-stream",
        filename=os.path.basename(name) or "file",  # noqa: PTH119  a key, no path
        stat_result=facts,
        content_disposition_type="inline" if is_displayed else "attachment",
    )


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _etag(path: Path, facts: os.stat_result, *more: object) -> str:
    spoken = f"{path}\0{facts.st_ino}\0{facts.st_size}\0{changed_ns(facts)}\0{more}"
    digest = hashlib.blake2b(spoken.encode(errors="surrogateescape"), digest_size=12)
    return f'"{digest.hexdigest()}"'


def _is_known(request: Request, tag: str) -> bool:
    """Whether a client has what the tag is of: RFC 9110, 13.1.2, where weak ones count too."""
    known = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
    return "*" in known or tag in [one.removeprefix("W/") for one in known]


# ---- routes ----------------------------------------------------------------------------------

BINARY = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}


@router.get(
    "/v1/collections/{name}/original",
    responses=problems(400, 404, 416)
    | {
        200: BINARY | {"description": "The file, or the text."},
        206: BINARY | {"description": "A range of it."},
    },
    response_class=Response,
)
async def original(context: Context, request: Request, name: Name, key: Key) -> Response:
    """Send the file of a picture or a sound, or a range of it, or the text of a text."""

    def look() -> Response:
        item, path = _found(context, name, key)
        if path is not None:
            return send_file(request, path, name=item.key, modality=item.modality)
        if item.text is None:
            raise NotFound(f"{item.key!r} came without a text", hint="add it with one")
        return Response(item.text.encode(), media_type=TEXT)

    return await context.figures.run(look)


@router.get(
    "/v1/collections/{name}/thumbnail",
    responses=problems(404, 422)
    | {200: {"content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}}},
    response_class=Response,
)
async def thumbnail(
    context: Context,
    request: Request,
    name: Name,
    key: Key,
    size: Annotated[int, Query(ge=SMALLEST, le=LARGEST)] = 256,
) -> Response:
    """Send a picture made small: WebP, its longer side ``size`` pixels at most."""

    def make() -> Response:
        item, path = _found(context, name, key)
        if path is None or item.modality != Modality.IMAGE:
            raise NotFound(f"{item.key!r} is no picture", hint="a sound has a waveform")
        return _made(
            context, request, path, "image/webp", size,
            lambda: shrink(_content(path, item, context.settings.limits), size)[1].getvalue(),
        )  # fmt: skip

    return await context.figures.run(make)


@router.get(
    "/v1/collections/{name}/waveform",
    responses=problems(404, 422),
    response_model=schemas.Waveform,
)
async def waveform(context: Context, request: Request, name: Name, key: Key) -> Response:
    """Send the envelope of a sound: bars from 0 to 1, and how long it is."""

    def make() -> Response:
        item, path = _found(context, name, key)
        if path is None or item.modality != Modality.AUDIO:
            raise NotFound(f"{item.key!r} is no sound", hint="a picture has a thumbnail")
        return _made(
            context, request, path, "application/json", "wave",
            lambda: _wave(path, item, context.settings.limits),
        )  # fmt: skip

    return await context.figures.run(make)


def _made(
    context: Context,
    request: Request,
    path: Path,
    kind: str,
    what: object,
    make: Callable[[], bytes],
) -> Response:
    """Send what is made of a file, made once and known again."""
    tag = _etag(path, _facts(path), what)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if _is_known(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(context.cache.get(tag, make), headers=headers, media_type=kind)


def _content(path: Path, item: Item, limits: Limits) -> Any:
    try:
        return decode(item.modality, read_file(item.modality, path, limits), item.key, limits)
    except MuomniError as error:
        raise NotFound(f"it cannot be shown: {error.what}", hint=error.hint) from error


def _wave(path: Path, item: Item, limits: Limits) -> bytes:
    samples = _content(path, item, limits)
    bars = [round(one, 3) for one in envelope(samples).tolist()]
    body = {"bars": bars, "seconds": round(len(samples) / SAMPLE_RATE, 3)}
    return bytes(JSONResponse(body).body)
