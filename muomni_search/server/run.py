"""One process that serves until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn

from muomni_search.errors import Conflict, InvalidInput, MuomniError
from muomni_search.server.app import create_app
from muomni_search.server.settings import Settings

__all__ = ["bind", "make_server", "serve"]

# How long requests may go on after the server was told to stop.
GRACE_SECONDS = 30


class _Server(uvicorn.Server):
    """A server that says when it is ready, and for which being stopped is no accident.

    Args:
        config: uvicorn's.
        ready: Called when requests are answered.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop at Ctrl-C and SIGTERM; a second one does not wait for requests."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears of signals
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 is any that is free.

    Raises:
        Conflict: The address is taken.
        InvalidInput: This machine has no such address, or the port is for others.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"no address {host!r}: {error}", hint="give another --host") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{where} is taken by another program",
                hint="stop it, or give another --port; 0 takes any that is free",
            ) from error
        raise InvalidInput(
            f"cannot listen at {where}: {error.strerror}", hint="give another --host or --port"
        ) from error
    return listener


def serve(
    settings: Settings, *, port: int = 8765, ready: Callable[[str], None] = lambda _: None
) -> None:
    """Serve until Ctrl-C or SIGTERM; then finish the requests that are there.

    Args:
        settings: What the server is asked for.
        port: Where it listens; 0 for any port that is free.
        ready: Told of the address when requests are answered.

    Raises:
        Conflict: The address is taken.
        InvalidInput: This machine has no such address.
    """
    listener = bind(settings.host, port)
    server = make_server(settings, listener, ready)
    try:
        asyncio.run(server.serve([listener]))
    finally:
        listener.close()
    if not server.started:
        raise MuomniError("the server could not start", hint="--debug shows more")


def make_server(
    settings: Settings, listener: socket.socket, ready: Callable[[str], None]
) -> uvicorn.Server:
    """Return a server for a socket that listens; ``serve`` runs it."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=True,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="none",
    )
    server = _Server(config, lambda: ready(url))
    app.state.server = server
    return server
