"""`muomni serve` as a process: it says when it is ready, and finishes what it has when stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from server_helpers import wait_until

from muomni_search import Collection

MUOMNI = [sys.executable, "-m", "muomni_search"]
HASTY = """
from muomni_search.cli.main import cli
from muomni_search.server import jobs

jobs.CLOSE_SECONDS = 0.0
cli()
"""


@contextmanager
def serving(
    *args: str | Path, program: Sequence[str] = MUOMNI, **env: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*program, "serve", "--port", "0", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_finishes_what_it_has_and_ends_well(root: Path, number: signal.Signals) -> None:
    with serving("--root", root) as (process, url):
        port = int(url.rpartition(":")[2])
        body = b'{"parts": [{"kind": "text", "value": "a dog"}]}'
        with socket.create_connection(("127.0.0.1", port), timeout=30) as wire:
            wire.sendall(
                b"POST /v1/collections/small/search HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body[:10])
            )
            assert httpx.get(f"{url}/v1/health").status_code == 200
            process.send_signal(number)
            wire.sendall(body[10:])
            assert b" 200 OK" in wire.recv(65536)
        code, errors = ended(process)
    assert code == 0
    assert "Traceback" not in errors


def test_a_second_signal_waits_for_no_client_and_ends_a_watch(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    with serving("-c", root / "empty", "--watch", folder) as (process, url):
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as wire:
            wire.sendall(
                b"POST /v1/collections/empty/search HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            assert httpx.get(f"{url}/v1/health").status_code == 200
            process.send_signal(signal.SIGINT)
            # It listens no more when it has heard the first one.
            wait_until(lambda: not is_open(port))
            process.send_signal(signal.SIGINT)
            code, errors = ended(process)
    assert code == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.3])
def test_it_ends_well_while_a_job_loads_its_model(tmp_path: Path, delay: float) -> None:
    with Collection.create(tmp_path / "c", model="base-offline") as collection:
        collection.add([{"key": "a", "text": "a dog"}])
    rows = b'{"text": "a cat"}\n' * 500
    with serving("-c", tmp_path / "c", program=[sys.executable, "-c", HASTY]) as (process, url):
        files = {"queries": ("q.jsonl", rows)}
        assert httpx.post(f"{url}/v1/collections/c/batch", files=files).status_code == 202
        # Somewhere in the loading; it has no second to end in, as with a slower disk.
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        code, errors = ended(process)
    assert code == 0, errors


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_collection_by_its_directory(root: Path) -> None:
    with serving("-c", root / "small", "-c", root / "empty") as (_, url):
        told = httpx.get(f"{url}/v1/collections").json()["collections"]
        assert [one["name"] for one in told] == ["empty", "small"]
        made = httpx.post(f"{url}/v1/collections", json={"name": "new", "model": "hashing"})
        assert made.status_code == 422


def test_the_token_may_come_from_the_environment(root: Path) -> None:
    with serving("--root", root, "--host", "0.0.0.0", MUOMNI_TOKEN="secret") as (_, url):
        port = url.rpartition(":")[2]
        here = f"http://127.0.0.1:{port}/v1/collections"
        assert httpx.get(here).status_code == 401
        assert httpx.get(here, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_what_cannot_be_served_is_told_in_one_line(root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for args, word in (
            (["--port", str(port)], "--port"),
            (["--host", "0.0.0.0"], "--token"),
            (["--host", "192.0.2.1", "--token", "x"], "192.0.2.1"),
            (["--host", "bad..host", "--token", "x"], "--host"),
            (["--token", ""], "token"),
            (["-c", str(tmp_path / "none")], "no collection"),
        ):
            done = subprocess.run(
                [*MUOMNI, "serve", "--root", root, *args],
                capture_output=True, text=True, check=False, timeout=60,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (1, "")
            [line] = done.stderr.splitlines()
            assert line.startswith("muomni: error: ")
            assert word in line


def test_other_commands_do_not_load_the_server(root: Path) -> None:
    code = (
        "import sys; from muomni_search.cli.main import cli\n"
        f"cli(['search', 'dog', '-c', {str(root / 'small')!r}], standalone_mode=False)\n"
        "assert not {'fastapi', 'uvicorn', 'pydantic', 'httpx', 'starlette'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
