"""Who may ask, and what a request may bring: one layer around the whole application.

Host      an address, localhost, or a name this server was told: a page elsewhere cannot make
          its own name point here and read answers (DNS rebinding)
origin    a page of another origin may neither write nor read, whatever the browser allows
token     Authorization: Bearer, or the cookie that POST /v1/session gives for it
body      no more bytes than the path takes, and none that come too slowly
answer    headers that forbid a browser to guess, frame, or load from elsewhere
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from muomni_search.server.problems import Refused, answer
from muomni_search.server.settings import Settings

__all__ = ["SESSION_SECONDS", "Guard", "Sessions"]

SESSION_SECONDS = 7 * 86_400
# What needs no token: the page without any data, whether the server is there, and the way in.
OPEN = ("/", "/favicon.ico", "/v1/health", "/v1/session")
OPEN_BELOW = "/page/"
# Paths that bring files, and their limit is the one for uploads.
UPLOAD_PATHS = ("/items", "/batch", "/uploads")
SAFE = ("GET", "HEAD", "OPTIONS")

API_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "font-src 'self'",
        "worker-src 'self'",
        "manifest-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), interest-cohort=()",
}


class Sessions:
    """What stands for the token in a cookie: a date and its signature, so that none is stored.

    Args:
        token: The server's; None where everybody may ask.
        port: Where it listens. Browsers keep one cookie of a name for all ports of a host.
    """

    def __init__(self, token: str | None, port: int) -> None:
        self.cookie = f"muomni_session_{port}"
        self._key = None if token is None else token.encode(errors="surrogateescape")

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask."""
        return self._key is None

    def is_token(self, shown: bytes) -> bool:
        """Whether this is the token; how long the answer takes says nothing about it."""
        return self._key is None or hmac.compare_digest(_digest(shown), _digest(self._key))

    def begin(self) -> str:
        """Return the value of a cookie."""
        until = str(int(time.time()) + SESSION_SECONDS)
        return f"{until}.{self._sign(until)}"

    def is_session(self, cookie: str) -> bool:
        """Whether this is the value of a cookie that still counts."""
        until, _, signature = cookie.partition(".")
        is_ours = hmac.compare_digest(self._sign(until).encode(), signature.encode())
        return is_ours and until.isdecimal() and int(until) > time.time()

    def lets_in(self, headers: Headers) -> bool:
        """Whether a request shows the token, or a cookie that stands for it."""
        if self._key is None:
            return True
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(shown.strip().encode("latin-1"))  # as it came
        return self.is_session(cookie_parser(headers.get("cookie", "")).get(self.cookie, ""))

    def _sign(self, until: str) -> str:
        data = f"session until {until}".encode(errors="surrogateescape")
        return hmac.new(self._key or b"", data, "sha256").hexdigest()


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


class Guard:
    """The layer around the application.

    Args:
        app: The application.
        settings: What the server was asked for.
        sessions: Who is let in.
    """

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions) -> None:
        self._app = app
        self._settings = settings
        self._sessions = sessions
        self._names = {"localhost", settings.host.lower(), *map(str.lower, settings.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        is_page = path == "/" or path.startswith(OPEN_BELOW)

        is_answered = False

        async def send_safely(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["Content-Security-Policy"] = PAGE_POLICY if is_page else API_POLICY
                headers.setdefault("Cache-Control", "no-cache" if is_page else "no-store")
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(headers, scope["method"], is_page=is_page)
            is_open = path in OPEN or path.startswith(OPEN_BELOW)
            if not is_open and not self._sessions.lets_in(headers):
                raise Refused(
                    "unauthorized",
                    "this server wants a token",
                    hint="send the header Authorization: Bearer TOKEN",
                )
            limit = self._limit(path)
            if _length(headers) > limit:
                raise _too_large(limit)
            await self._app(scope, self._limited(receive, limit), send_safely)
        except ClientDisconnect:
            pass  # nobody waits for an answer
        except Exception as error:
            if is_answered:
                raise
            await answer(error)(scope, receive, send_safely)

    def _check_host(self, headers: Headers) -> None:
        host = _host_of(headers.get("host", ""))
        if host in self._names or _is_address(host):
            return
        raise Refused(
            "misdirected",
            f"this server is not called {host[:100]!r}",
            hint="call it by its address, or start it with --allow-host NAME",
        )

    def _check_origin(self, headers: Headers, method: str, *, is_page: bool) -> None:
        """Refuse what a page of another origin sends: forms and files need no permission."""
        site = headers.get("sec-fetch-site")
        # A link on another page may lead to ours.
        is_foreign = site not in (None, "same-origin", "none") and not (is_page and method == "GET")
        origin = headers.get("origin")
        if origin is not None and method not in SAFE:
            is_foreign |= _place_in(origin) != headers.get("host", "").lower()
        if is_foreign:
            raise Refused("forbidden", "the request comes from a page of another origin")

    def _limit(self, path: str) -> int:
        is_upload = path.endswith(UPLOAD_PATHS)
        return self._settings.max_upload if is_upload else self._settings.max_body

    def _limited(self, receive: Receive, limit: int) -> Receive:
        """Return what receives a request's body, within its limits of size and time."""
        received = 0
        is_whole = False

        async def receive_within() -> Message:
            nonlocal received, is_whole
            if is_whole:  # what comes now is that the client has left
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self._settings.idle)
            except TimeoutError as error:
                raise Refused(
                    "too-slow", f"nothing came for {self._settings.idle:g} seconds"
                ) from error
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                is_whole = not message.get("more_body", False)
                if received > limit:
                    raise _too_large(limit)
            return message

        return receive_within


def _too_large(limit: int) -> Refused:
    return Refused(
        "too-large",
        f"the request has more than {limit} bytes",
        hint="send less at once; --max-upload is the limit for what brings files",
    )


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _place_in(origin: str) -> str | None:
    """Return host and port of an Origin header; None of one that is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _host_of(header: str) -> str:
    """Return the name in a Host header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    """Whether this is an IP address: no name that could be made to point here."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
