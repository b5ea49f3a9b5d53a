"""Work outside of the event loop: so much at once, so much waiting, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from muomni_search.server.problems import Refused

__all__ = ["Workers"]

T = TypeVar("T")


class Workers:
    """Threads for one kind of work.

    Args:
        name: What they do, in a word.
        running: How many work at once.
        waiting: How many requests may wait for one of them.
        deadline: How many seconds a request waits.
    """

    def __init__(self, name: str, *, running: int, waiting: int, deadline: float) -> None:
        self.name = name
        self.waiting = 0
        self._most = waiting
        self._deadline = deadline
        self._free = asyncio.Semaphore(running)
        self._pool = ThreadPoolExecutor(running, f"muomni-{name}")

    async def run(self, work: Callable[[], T], *, turn: asyncio.Lock | None = None) -> T:
        """Do it in a thread; wait for one as long as the deadline says.

        Args:
            work: What to do.
            turn: A lock that is taken before a thread is, and held until the work is done: those
                who do the same in turn wait here, and take no thread from others.

        Raises:
            Refused: Too many are waiting already, or it took too long until one was free.
        """
        must_wait = self._free.locked() or (turn is not None and turn.locked())
        if must_wait and self.waiting >= self._most:
            raise self._busy()
        with ExitStack() as places:
            self.waiting += 1
            try:
                async with asyncio.timeout(self._deadline):
                    for place in (turn, self._free):
                        if place is not None:
                            await place.acquire()
                            places.callback(place.release)
            except TimeoutError as error:
                raise self._busy() from error
            finally:
                self.waiting -= 1
            future = asyncio.get_running_loop().run_in_executor(self._pool, work)
            # Not when whoever asked has left: the thread works on till the end.
            held = places.pop_all()
            future.add_done_callback(lambda _: held.close())
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Whoever asked has left. The thread still reads what goes with the request.
            await asyncio.wait([future])
            raise

    def _busy(self) -> Refused:
        return Refused(
            "too-many-requests",
            f"more requests for {self.name} than this server can answer in time",
            hint="send fewer at once, and this one again in a second",
        )

    def close(self) -> None:
        """Let the threads end when their work is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
