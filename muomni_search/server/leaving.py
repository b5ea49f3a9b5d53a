"""Requests whose clients have left are given up, so that they keep no place in a queue."""

from __future__ import annotations

import asyncio
from typing import cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Leaving"]

EMPTY = {"type": "http.request", "body": b"", "more_body": False}


class Leaving:
    """The layer that cancels a request, as long as nothing was answered, when its client leaves.

    Args:
        app: The application. What it has begun in a thread, it waits for all the same.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, and listen whether its client is there."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_answered = has_left = False
        is_received = asyncio.Event()
        # Of these the application may ask for the body, or not: so it is given here.
        has_body = _has_body(Headers(scope=scope))
        if not has_body:
            is_received.set()

        async def receive_noting() -> Message:
            nonlocal has_body
            if not has_body:
                has_body = True
                return dict(EMPTY)
            message = await receive()
            if not message.get("more_body", False):
                is_received.set()
            return message

        async def send_noting(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        async def listen() -> None:
            nonlocal has_left
            await is_received.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            if not is_answered:
                has_left = True
                answering.cancel()

        answering = asyncio.ensure_future(self._app(scope, receive_noting, send_noting))
        listening = asyncio.ensure_future(listen())
        try:
            await answering
        except asyncio.CancelledError:
            if not has_left or cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
        finally:
            listening.cancel()


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
