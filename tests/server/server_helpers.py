"""What the tests of the server share: a server that runs, and answers that are problems."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from muomni_search.server.run import bind, make_server
from muomni_search.server.served import Served
from muomni_search.server.settings import Settings

C = "/v1/collections/small"


@dataclass
class Running:
    """A server that answers."""

    url: str
    app: Any
    server: Any
    loop: asyncio.AbstractEventLoop

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def served(self) -> Served:
        return self.app.state.served

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    """Run a server in a thread; it stops as it does at Ctrl-C."""
    listener = bind("127.0.0.1", 0)
    urls: list[str] = []
    is_ready = threading.Event()

    def ready(url: str) -> None:
        urls.append(url)
        is_ready.set()

    server = make_server(settings, listener, ready)
    loops: list[asyncio.AbstractEventLoop] = []

    async def live() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([listener])

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert is_ready.wait(30)
        yield Running(urls[0], server.config.app, server, loops[0])
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for something that another thread does, and not for ever."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


PATH = re.compile(r"/(tmp|home|root|work|usr|var|etc)\b")


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Return a problem after a look at what every one has to be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert (told["type"], told["status"]) == (f"urn:muomni:{kind}", status)
    assert told["detail"]
    assert not PATH.search(response.text), response.text
    assert "Traceback" not in response.text
    return told


def sent(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return the form of an upload."""
    return {"file": (path.name, path.read_bytes())}


def events(text: str) -> list[tuple[str, str]]:
    """Return the names and data of server-sent events."""
    return re.findall(r"event: (\w+)\ndata: (.*)\n", text)
