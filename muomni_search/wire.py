"""What a server and its client agree on: the kinds of problems, and which error each one is.

error ──▶ kind ──▶ status, type "urn:muomni:KIND" ──▶ error of the same class at the client
      (server.problems)                       (client)
"""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from muomni_search.errors import (
    CheckpointError,
    Conflict,
    CorruptData,
    InvalidInput,
    MuomniError,
    NotFound,
    UnreadableFile,
)

__all__ = ["ERRORS", "KINDS", "REFUSALS", "TYPE", "Kind"]

# The ``type`` of a problem, before the name of its kind.
TYPE = "urn:muomni:"


class Kind(NamedTuple):
    """A kind of problem.

    Args:
        name: The last part of its ``type``.
        status: What it is answered with.
        error: What a client raises.
        retry_after: Seconds until it is worth another try.
    """

    name: str
    status: int
    error: type[MuomniError] = MuomniError
    retry_after: int | None = None


# What collections raise: the first whose error fits.
ERRORS = (
    Kind("unreadable-file", HTTPStatus.UNPROCESSABLE_ENTITY, UnreadableFile),
    Kind("invalid-input", HTTPStatus.UNPROCESSABLE_ENTITY, InvalidInput),
    Kind("not-found", HTTPStatus.NOT_FOUND, NotFound),
    Kind("conflict", HTTPStatus.CONFLICT, Conflict),
    Kind("corrupt-data", HTTPStatus.INTERNAL_SERVER_ERROR, CorruptData),
    Kind("checkpoint", HTTPStatus.SERVICE_UNAVAILABLE, CheckpointError),
    Kind("failed", HTTPStatus.INTERNAL_SERVER_ERROR),
)
# What a server says by itself.
REFUSALS = (
    Kind("malformed", HTTPStatus.BAD_REQUEST, InvalidInput),
    Kind("unauthorized", HTTPStatus.UNAUTHORIZED),
    Kind("forbidden", HTTPStatus.FORBIDDEN),
    Kind("no-such-page", HTTPStatus.NOT_FOUND, NotFound),
    Kind("method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED),
    Kind("too-slow", HTTPStatus.REQUEST_TIMEOUT),
    Kind("too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, InvalidInput),
    Kind("unsupported-media", HTTPStatus.UNSUPPORTED_MEDIA_TYPE, InvalidInput),
    Kind("bad-range", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, InvalidInput),
    Kind("misdirected", HTTPStatus.MISDIRECTED_REQUEST),
    Kind("too-many-requests", HTTPStatus.TOO_MANY_REQUESTS, retry_after=1),
    Kind("not-installed", HTTPStatus.NOT_IMPLEMENTED, NotFound),
    Kind("stopping", HTTPStatus.SERVICE_UNAVAILABLE, retry_after=5),
    Kind("busy", HTTPStatus.SERVICE_UNAVAILABLE, Conflict, retry_after=2),
    Kind("disk-full", HTTPStatus.INSUFFICIENT_STORAGE),
    Kind("unexpected", HTTPStatus.INTERNAL_SERVER_ERROR),
)
KINDS = {kind.name: kind for kind in (*REFUSALS, *ERRORS)}
