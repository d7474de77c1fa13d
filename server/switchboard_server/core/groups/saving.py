"""Keeps what happens to a group: what gathers while one change is on its way goes into the next."""

import asyncio
from collections.abc import Callable

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.groups.changes import Change
from switchboard_server.core.groups.ledger import Ledger
from switchboard_server.core.groups.moving import MovedError
from switchboard_server.core.groups.ports import GroupStore

SAVE_SECONDS = 0.05
"""How long what nobody waits for may wait for something to go along with: deliveries, mostly. A hub
that is killed meanwhile counts their attempts anew."""
RETRY_SECONDS = 1.0
"""How long to wait before trying again to save."""
CHANGES_A_SNAPSHOT = 512
"""After so many changes, or more where much is open, a snapshot takes their place."""


class Saver:
    """Saves a group's changes, one after the other.

    A change that could not be saved goes along with the next, so that none overtakes another.

    Args:
        ledger: Where changes gather.
        store: Keeps them.
        number: The group's.
        recovered: Is called when changes can be saved again.

    Attributes:
        failing: Whether the last change could not be saved.
    """

    def __init__(
        self, ledger: Ledger, store: GroupStore, number: int, recovered: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ledger = ledger
        self._store = store
        self._number = number
        self._recovered = recovered
        self._saving: Change | None = None
        self._in_flight: list[asyncio.Future[None]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._since_snapshot = 0
        self._cursors = ledger.settled_cursors()
        self._closed = False
        self._gone: Exception | None = None
        self.failing = False

    def save(self) -> asyncio.Future[None]:
        """Makes durable what has happened so far.

        Returns:
            Answers when it is. Fails with UnavailableError when it could not be stored; then it is
            tried again later. Cancelling it takes nothing back.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        future.add_done_callback(_heard)
        if self._closed:
            answer([future], self._gone)
        elif self._ledger.pending or self.failing:
            self._waiting.append(future)
            self._begin()
        elif self._saving is not None:
            self._in_flight.append(future)
        else:
            future.set_result(None)
        return future

    def save_later(self) -> None:
        """Makes durable what has happened so far, soon."""
        if self._ledger.pending and self._timer is None and not self._closed:
            self._timer = self._loop.call_later(
                RETRY_SECONDS if self.failing else SAVE_SECONDS, self._ring
            )

    @property
    def behind(self) -> int:
        """By how many events of the log the saved place lags behind the group's."""
        cursors = self._ledger.settled_cursors()
        return max(cursors[each] - self._cursors[each] for each in cursors)

    def save_place(self) -> asyncio.Future[None]:
        """Makes durable where the group stands, even if nothing else has happened. As `save`."""
        self._ledger.pending.cursors = self._ledger.settled_cursors()
        return self.save()

    def close(self) -> None:
        """Saves nothing any more: the group is deleted."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        answer(self._waiting, None)

    def let_go(self, error: Exception) -> None:
        """Saves nothing any more, because others do: what becomes of what is under way is unknown.

        Args:
            error: What those are told who wait for it to be durable.
        """
        self._gone = error
        waiting = self._waiting + self._in_flight
        self._waiting, self._in_flight = [], []
        self.close()
        answer(waiting, error)

    def _ring(self) -> None:
        self._timer = None
        self._begin()

    def _begin(self) -> None:
        if self._saving is not None or self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        change = self._ledger.take_pending()
        self._since_snapshot += 1
        if self._since_snapshot >= max(CHANGES_A_SNAPSHOT, len(self._ledger.open) // 16):
            change.absorb(Change(snapshot=self._ledger.snapshot()))
            self._since_snapshot = 0
        self._saving = change
        self._in_flight, self._waiting = self._waiting, []
        self._store.save(self._number, change).add_done_callback(self._saved)

    def _saved(self, done: asyncio.Future[None]) -> None:
        change, self._saving = self._saving, None
        error = done.exception()
        answered, self._in_flight = self._in_flight, []
        failed, self.failing = self.failing, error is not None
        if failed and not self.failing:
            self._recovered()
        if error is None and change is not None:
            self._cursors = change.cursors or self._cursors
        elif change is not None:
            change.absorb(self._ledger.pending)
            self._ledger.pending = change
        answer(answered, error)
        if error is None and self._waiting:
            self._begin()
        elif error is not None:
            answer(self._waiting, error)
            self._waiting = []
            self.save_later()


def _heard(done: asyncio.Future[None]) -> None:
    """Nobody need be waiting: then it is not an error left unheard."""
    if not done.cancelled():
        done.exception()


def answer(waiting: list[asyncio.Future[None]], error: BaseException | None) -> None:
    """Tells those who wait that it is done, or why it is not."""
    for each in waiting:
        if each.done():
            continue
        if error is None:
            each.set_result(None)
        elif isinstance(error, UnavailableError):
            # A new one each: who raises it adds its own traceback.
            each.set_exception(
                UnavailableError(error.reason, error.message, metadata=error.metadata)
            )
        elif isinstance(error, MovedError):
            each.set_exception(MovedError())
        else:
            each.set_exception(error)
