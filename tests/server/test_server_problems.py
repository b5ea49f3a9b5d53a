"""Which error is which status, and that no path gets out."""

from __future__ import annotations

import errno
import json
import sqlite3

import pytest

from muomni_search import (
    CheckpointError,
    Conflict,
    CorruptData,
    InvalidInput,
    MuomniError,
    NotFound,
    UnreadableFile,
)
from muomni_search.server.problems import Refused, answer, kind_of, without_paths


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/home/ada/a.jpg: no such file", "a.jpg: no such file"),
        ("/home/ada/My Photos/a b.jpg: no such file", "a b.jpg: no such file"),
        ("no item x in /srv/indexes/birds", "no item x in birds"),
        ("the key 'a' is taken by /home/ada/a.jpg", "the key 'a' is taken by a.jpg"),
        ("'/home/ada/a.jpg' is no name", "'a.jpg' is no name"),
        ("cannot be read (/tmp/x/y.db)", "cannot be read (y.db)"),
        ("text/plain and notes/a.txt and 3/4", "text/plain and notes/a.txt and 3/4"),
        ("send it to POST /v1/uploads", "send it to POST /v1/uploads"),
        ("use and/or, or a / b", "use and/or, or a / b"),
        ("no item x in /srv/o'brien/private/c", "no item x in c"),
        ("it's in '/srv/o'brien/a b.jpg', or 'x'", "it's in 'a b.jpg', or 'x'"),
        ("/a/b/c.txt|/d/e f/g.txt\n/h/i.txt", "c.txt|g.txt\ni.txt"),
        ("/ / / /", "/ / / /"),
    ],
)
def test_folders_are_taken_off_paths(said: str, told: str) -> None:
    assert without_paths(said) == told


def test_a_long_text_is_looked_through_once() -> None:
    # From each slash anew, the work would grow with the square of their number.
    told = without_paths("no item " + "/ " * 200_000 + "in /srv/indexes/birds")
    assert told.startswith("no item ")
    assert told.endswith("birds")
    assert "srv" not in told


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def locked() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


@pytest.mark.parametrize(
    ("error", "name", "status"),
    [
        (UnreadableFile("x"), "unreadable-file", 422),
        (InvalidInput("x"), "invalid-input", 422),
        (NotFound("x"), "not-found", 404),
        (Conflict("x"), "conflict", 409),
        (CorruptData("x"), "corrupt-data", 500),
        (CheckpointError("x"), "checkpoint", 503),
        (MuomniError("x"), "failed", 500),
        (Refused("too-slow", "x"), "too-slow", 408),
        (OSError(errno.ENOSPC, "full"), "disk-full", 507),
        (caused(MuomniError("x"), OSError(errno.EDQUOT, "full")), "disk-full", 507),
        (caused(Conflict("x"), locked()), "busy", 503),
        (OSError(errno.EIO, "x"), "unexpected", 500),
        (ValueError("x"), "unexpected", 500),
    ],
)
def test_each_error_has_its_status(error: Exception, name: str, status: int) -> None:
    kind = kind_of(error)
    assert (kind.name, kind.status) == (name, status)


def test_a_lock_is_not_called_a_full_disk() -> None:
    told = json.loads(answer(locked()).body)
    assert (told["status"], told["detail"]) == (503, "another process writes there")
    told = json.loads(answer(OSError(errno.ENOSPC, "full")).body)
    assert (told["status"], told["hint"]) == (507, "free some space and try again")


def test_what_to_do_in_a_shell_is_done_where_the_server_runs() -> None:
    told = json.loads(answer(CorruptData("x", hint="run: muomni verify --repair")).body)
    assert told["hint"] == "run: muomni verify --repair, where the server runs"
