"""Waiting for the broker: never without a time limit, and with one kind of failure."""

import asyncio
import random
from collections.abc import Awaitable
from typing import TypeVar

import aiormq
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError, PublishError

from switchboard_server.core.errors import UnavailableError

T = TypeVar("T")

CALL_SECONDS = 10.0
"""How long the broker may take for a call or a confirm."""


def unavailable(text: str) -> UnavailableError:
    """The error of everything that RabbitMQ does not do now."""
    return UnavailableError("LOG_UNAVAILABLE", f"RabbitMQ: {text.removeprefix('RabbitMQ: ')}")


def failed(error: BaseException) -> asyncio.Future[None]:
    """An answer that is a failure, and of which nobody has to take notice."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    future.exception()
    return future


class UnroutableError(UnavailableError):
    """A message reached no queue: none is bound for it, so that it is certain to be nowhere."""


async def answered(call: Awaitable[T], what: str, seconds: float = CALL_SECONDS) -> T:
    """Waits for an answer of the broker.

    The driver fails what waits on a connection that ends with errors of many kinds, a plain
    CancelledError among them, which must not look as if the caller had been cancelled.

    Args:
        call: What to wait for.
        what: What it is, for the message.
        seconds: How long to wait.

    Raises:
        UnavailableError: There was no answer, or it is a refusal. What was asked may be done.
        UnroutableError: A mandatory message came back.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise unavailable(f"{what} was not answered within {seconds:g} s") from None
    except PublishError as error:
        raise UnroutableError(
            "LOG_UNAVAILABLE", f"RabbitMQ: {what} came back: no queue takes it"
        ) from error
    except asyncio.CancelledError as error:
        if task is None or task.cancelling() > before:
            raise
        raise unavailable(f"{what} failed: the connection ended") from error
    except (aiormq.AMQPError, ChannelInvalidStateError, OSError, RuntimeError) as error:
        raise unavailable(f"{what} failed: {describe(error)}") from error
    except StopAsyncIteration as error:
        # What the driver makes of a peer that has closed before it is first read from.
        raise unavailable(f"{what} failed: the connection was closed") from error
    except Exception as error:
        # An exception without a class of its own is how the driver ends what waits when it closes.
        if type(error) is not Exception:
            raise
        raise unavailable(f"{what} failed: the connection ended") from error


def describe(error: BaseException) -> str:
    """An error of the driver in words."""
    if isinstance(error, DeliveryError):
        return "it was refused"
    if isinstance(error, asyncio.CancelledError):
        # What the driver ends a connection with that gave no sign of life for too long.
        return "there was no answer"
    words = ", ".join(str(each) for each in error.args if each not in (None, ""))
    return words or type(error).__name__


class Backoff:
    """How long to wait before the next attempt: full jitter, so that nodes do not come in step.

    Args:
        least: Upper bound of the first wait, in seconds; it doubles with each.
        most: Upper bound of all waits, in seconds.
    """

    def __init__(self, least: float = 0.2, most: float = 5.0) -> None:
        self._least = least
        self._most = most
        self._bound = least

    def reset(self) -> None:
        """Begins anew, after a success."""
        self._bound = self._least

    def next(self) -> float:
        """The next wait, in seconds."""
        bound, self._bound = self._bound, min(self._bound * 2, self._most)
        return random.uniform(0, bound)  # noqa: S311 - nothing secret
