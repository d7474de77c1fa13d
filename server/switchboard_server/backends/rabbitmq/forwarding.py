"""Brings what this node wants stored to the node that numbers, and answers it."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from switchboard_server.backends.rabbitmq.appends import Requests
from switchboard_server.backends.rabbitmq.entries import Entry
from switchboard_server.backends.rabbitmq.messages import AtSeat, Received
from switchboard_server.backends.rabbitmq.peers import Peers
from switchboard_server.backends.rabbitmq.place import Place
from switchboard_server.backends.rabbitmq.records import (
    DraftColumns,
    columns_to_drafts,
    drafts_to_columns,
)
from switchboard_server.backends.rabbitmq.roster import Holding
from switchboard_server.backends.rabbitmq.sequencing import Sequencer
from switchboard_server.core.errors import SwitchboardError

SEAT = "sequencer"
"""The seat of who numbers."""
FORWARD_BYTES = 512 * 1024
"""A message to the sequencer takes no further call once it holds so many bytes."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppendCalls:
    """Asks the sequencer to number events; the body holds the calls.

    Args:
        node: Id of the node whose requests these are.
    """

    node: str


@dataclass(frozen=True, slots=True)
class AppendSettled:
    """Answers a request of which nothing was stored, or that was scheduled.

    Args:
        number: The request.
        duplicates: Which of its events were accepted before.
        error: Why it failed; empty: it did not.
    """

    number: int
    duplicates: dict[int, int]
    error: str = ""


class _Call(msgspec.Struct, array_like=True):
    """A request on its way to the sequencer."""

    number: int
    scheduled: bool
    drafts: DraftColumns


_encode_calls = msgspec.msgpack.Encoder().encode
_decode_calls = msgspec.msgpack.Decoder(list[_Call]).decode


class Scheduler(Protocol):
    """Keeps events until they are due, on the node that numbers."""

    def add(self, entry: Entry) -> None:
        """Takes events to keep."""


class Forwarder:
    """Sends the open requests of this node to the sequencer, again to each new one.

    Args:
        peers: The nodes.
        place: How far the log has been read here.
        requests: What is open.
        sequencer: Numbers, while this node holds the seat.
        scheduler: Keeps scheduled events, likewise.
    """

    def __init__(
        self,
        peers: Peers,
        place: Place,
        requests: Requests,
        sequencer: Sequencer,
        scheduler: Scheduler,
    ) -> None:
        self._peers = peers
        self._place = place
        self._requests = requests
        self._sequencer = sequencer
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._waking = False
        self._route: tuple[str, int] = ("", 0)
        peers.on_tell(AppendCalls, self._called)
        peers.on_tell(AppendSettled, self._settled)

    def wake(self) -> None:
        """Sends what has not been sent: at once to itself, where the sequencer gathers by itself.

        To another node in the next turn of the loop, with what else comes until then.
        """
        if self._sequencer.term is not None:
            self._send()
        elif not self._waking:
            self._waking = True
            self._loop.call_soon(self._send)

    def begin_anew(self) -> None:
        """Takes whatever term the log is in now for the first one that this node knows."""
        self._route = ("", 0)
        self.wake()

    def _send(self) -> None:
        self._waking = False
        term = self._peers.term(SEAT)
        if self._sequencer.term is not None:
            self._take_route("", self._place.epoch)
            self._send_to_self()
        elif term is not None and term.session != self._peers.session and self._may_be_new(term):
            self._take_route(f"{self._peers.session}>{term.session}", self._place.epoch)
            self._send_to_seat()

    def _may_be_new(self, term: Holding) -> bool:
        """Whether what is open is known not to be stored in an earlier term.

        What was open when a term began is only then when the marker of that term has been read. A
        node that came later, and began to read behind the marker, has sent nothing before.
        """
        place = self._place
        return place.term == term.epoch or (
            not place.term and place.epoch > 0 and self._route[1] in (0, place.epoch)
        )

    def _take_route(self, route: str, epoch: int) -> None:
        """Sends everything again where it goes another way now.

        The sequencer passes over what it has had in this term already.
        """
        if self._route != (route, epoch):
            self._route = (route, epoch)
            self._requests.send_again()

    def _send_to_self(self) -> None:
        for request in self._requests.take_unsent():
            entry = Entry(
                self._peers.id,
                request.number,
                request.drafts,
                partial(self._settle, request.number),
                partial(self._requests.fail, request.number),
            )
            self._take(entry, scheduled=request.scheduled)

    def _send_to_seat(self) -> None:
        calls: list[_Call] = []
        size = 0
        for request in self._requests.take_unsent():
            columns = drafts_to_columns(request.drafts)
            calls.append(_Call(request.number, request.scheduled, columns))
            size += request.size
            if size >= FORWARD_BYTES:
                self._tell_seat(calls)
                calls, size = [], 0
        if calls:
            self._tell_seat(calls)

    def _tell_seat(self, calls: Sequence[_Call]) -> None:
        try:
            self._peers.tell(AtSeat(SEAT), AppendCalls(self._peers.id), _encode_calls(calls))
        except SwitchboardError as error:
            for call in calls:
                self._requests.fail(call.number, error)

    def _take(self, entry: Entry, *, scheduled: bool) -> None:
        if not self._sequencer.sifter.is_new(entry):
            return
        if scheduled:
            self._scheduler.add(entry)
        else:
            self._sequencer.add(entry)

    def _called(self, received: Received[AppendCalls]) -> None:
        """Takes calls of another node."""
        if self._sequencer.term is None:
            return  # They come again with the next term.
        node, sender = received.message.node, received.sender
        for call in _decode_calls(received.body):
            entry = Entry(
                node,
                call.number,
                columns_to_drafts(call.drafts),
                partial(self._tell_settled, sender, call.number),
                partial(self._tell_failed, sender, call.number),
            )
            self._take(entry, scheduled=call.scheduled)

    def _tell_settled(self, session: str, number: int, duplicates: Mapping[int, int]) -> None:
        self._tell(session, AppendSettled(number, dict(duplicates)))

    def _tell_failed(self, session: str, number: int, error: Exception) -> None:
        _logger.error("events of another node cannot be numbered", exc_info=error)
        self._tell(session, AppendSettled(number, {}, f"{type(error).__name__}: {error}"))

    def _tell(self, session: str, message: AppendSettled) -> None:
        try:
            self._peers.tell(session, message)
        except SwitchboardError as error:
            _logger.warning("an answer was dropped: %s", error.message)

    def _settled(self, received: Received[AppendSettled]) -> None:
        message = received.message
        if message.error:
            error = RuntimeError(f"failed on another node: {message.error}")
            self._requests.fail(message.number, error)
        else:
            self._settle(message.number, message.duplicates)

    def _settle(self, number: int, duplicates: Mapping[int, int]) -> None:
        self._requests.settle(number, duplicates, self._place.last)
