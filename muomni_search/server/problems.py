"""Errors as problem+json (RFC 9457): the one table from what went wrong to what is answered."""

from __future__ import annotations

import errno
import json
import logging
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from muomni_search.errors import MuomniError
from muomni_search.view import LIST_HINT
from muomni_search.wire import ERRORS, KINDS, REFUSALS, TYPE, Kind

__all__ = [
    "BY_STATUS",
    "MEDIA_TYPE",
    "Refused",
    "answer",
    "at_fault",
    "install",
    "kind_of",
    "problem",
    "without_paths",
]

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("muomni_search.server")


class Refused(MuomniError):
    """A request that is refused before it reaches a collection.

    Args:
        kind: The name of its kind of problem.
        what: One line: what is wrong.
        hint: One line: what to do about it.
    """

    def __init__(self, kind: str, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.kind = kind


BY_STATUS = {kind.status: kind for kind in reversed(REFUSALS)}
BUSY, DISK_FULL, UNEXPECTED = (KINDS[name] for name in ("busy", "disk-full", "unexpected"))

# Where pydantic names types of Python.
JSON_TYPES = {
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dict_type"), "Input should be an object"
    ),
    "list_type": "Input should be an array",
}

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def kind_of(error: Exception) -> Kind:
    """Return the kind of problem that an error is."""
    if isinstance(error, Refused):
        return KINDS[error.kind]
    for cause in _causes(error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (isinstance(cause, OSError) and cause.errno in FULL):
            return DISK_FULL
        if code in LOCKED:
            return BUSY
    return next((kind for kind in ERRORS if isinstance(error, kind.error)), UNEXPECTED)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # SQLAlchemy wraps what the driver raised.
        original = getattr(error, "orig", None)
        if isinstance(original, BaseException):
            yield original
        error = error.__cause__


# What no path goes on behind; a quote between letters may be in a name.
END = re.compile(r"[\n\"|]|(?<!\w)'|'(?!\w)")
# A slash that begins a path: words before it (``text/plain``, ``notes/a.txt``) make it none, and
# ``/v1/`` is our own. And one that a name follows.
FIRST = re.compile(r"(?<![\w.~)/-])/(?!v1/)")
LAST = re.compile(r"/(?=[^\s/'\":;,])")


def without_paths(text: str) -> str:
    """Return what an error says with the folders taken off every path in it.

    Example:
        >>> without_paths("/home/ada/My Photos/a.jpg: no such file")
        'a.jpg: no such file'
    """
    kept, start = [], 0
    for end in [*(found.start() for found in END.finditer(text)), len(text)]:
        first = FIRST.search(text, start, end)
        slashes = [] if first is None else list(LAST.finditer(text, first.start(), end))
        if first is not None and slashes:
            kept.append(text[start : first.start()])
            # Behind the last one of all: folders may have spaces in their names.
            start = slashes[-1].end()
        kept.append(text[start:end])
        start = end
    return "".join(kept)


def _for_clients(hint: str) -> str:
    """Return a hint in the words of those who ask over HTTP, and may have no shell there."""
    if hint == LIST_HINT:
        return "GET …/items lists them all"
    return f"{hint}, where the server runs" if "muomni " in hint else hint


def problem(
    kind: Kind,
    detail: str,
    *,
    hint: str = "",
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer that tells of a problem."""
    told: dict[str, Any] = {
        "type": f"{TYPE}{kind.name}",
        "title": HTTPStatus(kind.status).phrase,
        "status": kind.status,
        "detail": without_paths(detail),
    }
    if hint:
        told["hint"] = _for_clients(without_paths(hint))
    if errors:
        told["errors"] = list(errors)
    sent = dict(headers or {})
    if kind.retry_after is not None:
        sent["Retry-After"] = str(kind.retry_after)
    if kind.status == HTTPStatus.UNAUTHORIZED:
        sent["WWW-Authenticate"] = "Bearer"
    body = json.dumps(told, ensure_ascii=False).encode(errors="replace")
    return Response(body, kind.status, sent, MEDIA_TYPE)


def answer(error: Exception) -> Response:
    """Return the answer that tells of an error; one that nobody expected goes to the log."""
    kind = kind_of(error)
    if isinstance(error, MuomniError) and kind is not UNEXPECTED:
        if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR and kind.retry_after is None:
            log.error("%s", error)
        return problem(kind, error.what, hint=error.hint)
    if kind is BUSY:
        return problem(kind, "another process writes there", hint="try again when it is done")
    if kind is DISK_FULL:
        return problem(kind, "the server's disk refuses", hint="free some space and try again")
    number = secrets.token_hex(4)
    log.error("unexpected error %s", number, exc_info=error)
    return problem(
        kind,
        f"an unexpected error, {number} in the server's log",
        hint="report it with what the log says",
    )


def install(app: FastAPI) -> None:
    """Have an application answer every error as a problem."""

    async def known(_: Request, error: Exception) -> Response:
        return answer(error)

    async def invalid(_: Request, error: Exception) -> Response:
        found = error.errors() if isinstance(error, RequestValidationError) else []
        if any(one["type"] == "json_invalid" for one in found):
            return problem(KINDS["malformed"], f"no JSON: {found[0]['ctx']['error']}")
        errors = [at_fault(one) for one in found]
        first = errors[0] if errors else {"field": "", "message": "a bad request"}
        # FastAPI takes a body of another type for a text, and says only that it is no object.
        is_untyped = any(one["type"] == "model_attributes_type" for one in found)
        return problem(
            KINDS["invalid-input"],
            f"{first['field']}: {first['message']}",
            hint="send an object, as Content-Type: application/json" if is_untyped else "",
            errors=errors,
        )

    async def refused(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return answer(error)
        if isinstance(error.__cause__, MuomniError):
            return answer(error.__cause__)  # it came while the body was read
        kind = BY_STATUS.get(error.status_code, UNEXPECTED)
        return problem(kind, str(error.detail), headers=error.headers)

    app.add_exception_handler(MuomniError, known)
    app.add_exception_handler(OSError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def at_fault(error: Mapping[str, Any]) -> dict[str, str]:
    """Return which field of a request is wrong, and how, from one of pydantic's errors."""
    place = error["loc"]
    inside = place[1:] if place and place[0] in ("body", "query", "path") else place
    # Behind these pydantic says which type it tried.
    ends = [number for number, name in enumerate(inside, 1) if name in ("where", "min_score")]
    field = ".".join(map(str, inside[: ends[0]] if ends else inside))
    message = JSON_TYPES.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    return {"field": field or str(place[0] if place else "body"), "message": message}
