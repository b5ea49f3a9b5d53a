"""One process that serves until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from muomni_search.errors import Conflict, InvalidInput, MuomniError
from muomni_search.server.app import create_app
from muomni_search.server.settings import Settings

__all__ = ["bind", "make_server", "serve"]

# How long requests may go on after the server was told to stop.
GRACE_SECONDS = 30
# How long a client may take for the head of a request, and say nothing between two.
HEAD_SECONDS = 10.0
KEEP_SECONDS = 30


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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; what a second signal cuts off is no error that anybody looks for."""
        await super().shutdown(sockets)
        if self.force_exit:
            logging.getLogger("uvicorn.error").disabled = True

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


class _Connection(H11Protocol):
    """A connection that is closed when its client takes too long to ask something."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Run a timer as long as a request has begun, and its head is not here."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._head_timer is None and self.timeout_keep_alive_task is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _unwatch(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


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
    # Named by its protocol, or asyncio does not take it for TCP and leaves Nagle's algorithm on,
    # which holds the second half of an answer back for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
    port = listener.getsockname()[1]
    url = f"http://{host}:{port}"
    # What is wrong with a form is told to whoever sent it.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    app = create_app(settings, port)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=True,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="none",
        http=_Connection,
    )
    server = _Server(config, lambda: ready(url))
    app.state.server = server
    return server
