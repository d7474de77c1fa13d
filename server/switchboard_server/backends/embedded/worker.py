"""One thing done after the other for an event loop: in a thread, or at once."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Worker(Protocol):
    """Does one thing after the other."""

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Does something.

        Returns:
            Answers with what it returns or raises. Cancelling it does not keep the work from being
            done.
        """
        ...

    async def close(self) -> None:
        """Ends when everything is done."""


class Inline:
    """A worker that does at once what never waits."""

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """See `Worker.call`."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        return future

    async def close(self) -> None:
        """See `Worker.close`."""


class Thread:
    """A worker with a thread of its own. Calls come from one event loop.

    Leaner than an executor: an append's way to the disk and back is what publishing waits for.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """See `Worker.call`."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, future))
        return future

    async def close(self) -> None:
        """See `Worker.close`."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            work, future = job
            try:
                result = work()
            except BaseException as error:  # Handed to whoever waits for it.
                self._loop.call_soon_threadsafe(_fail, future, error)
            else:
                self._loop.call_soon_threadsafe(_answer, future, result)


def _answer(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
