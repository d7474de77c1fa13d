"""Waiting for the broker, whatever the driver fails with; see backends/rabbitmq/waiting.py."""

import asyncio

import aiormq
import pytest
from aiormq.exceptions import ChannelInvalidStateError, ConnectionClosed

from switchboard_server.backends.rabbitmq.link import parse_urls
from switchboard_server.backends.rabbitmq.topology import Topology
from switchboard_server.backends.rabbitmq.waiting import Backoff, answered
from switchboard_server.core.errors import UnavailableError

FAILURES: list[BaseException] = [
    ConnectionClosed(320, "CONNECTION_FORCED"),
    aiormq.AMQPConnectionError("reset"),
    ChannelInvalidStateError("closed"),
    ConnectionResetError(104, "reset by peer"),
    RuntimeError("closed"),
    asyncio.CancelledError(),
    StopAsyncIteration(),
    Exception(),
]
"""What the driver ends a wait with."""


@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: type(each).__name__)
async def test_every_failure_of_the_driver_says_that_it_is_unavailable(
    failure: BaseException,
) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(failure)
    with pytest.raises(UnavailableError, match="RabbitMQ: a test failed") as caught:
        await answered(future, "a test")
    assert caught.value.reason == "LOG_UNAVAILABLE"


async def test_a_defect_is_no_failure_of_the_broker() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(KeyError("a defect"))
    with pytest.raises(KeyError):
        await answered(future, "a test")


async def test_who_is_cancelled_is_cancelled() -> None:
    task = asyncio.create_task(answered(asyncio.Event().wait(), "a test"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_answer_takes_its_time_and_no_more() -> None:
    with pytest.raises(UnavailableError, match=r"not answered within 0\.01 s"):
        await answered(asyncio.Event().wait(), "a test", 0.01)


def test_waits_grow_and_are_spread() -> None:
    backoff = Backoff(0.2, 5.0)
    waits = [backoff.next() for _ in range(200)]
    assert 0 <= waits[0] <= 0.2
    assert max(waits) <= 5.0
    assert max(waits[10:]) > 2.5
    assert min(waits[10:]) < 1.0
    backoff.reset()
    assert backoff.next() <= 0.2


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("amqp://guest:guest@one:5672/", ["one"]),
        ("amqp://a:b,c@one/,amqps://two:5671/v%2Fh", ["one", "two"]),
        ("amqp://one, amqp://two", ["one", "two"]),
    ],
)
def test_hosts_are_read(text: str, hosts: list[str]) -> None:
    assert [url.host for url in parse_urls(text)] == hosts


@pytest.mark.parametrize("text", ["", "http://one", "amqp://", "amqp://u:sesame@one,two"])
def test_what_is_no_host_is_refused_without_telling_a_password(text: str) -> None:
    with pytest.raises(ValueError, match="amqp://host") as caught:
        parse_urls(text)
    assert "sesame" not in str(caught.value)


def test_names_tell_what_they_are_for() -> None:
    topology = Topology("hub")
    assert [
        topology.events,
        topology.log,
        topology.inlet,
        topology.incoming,
        topology.refused,
        topology.nodes,
        topology.node("a.1"),
        topology.seat("sequencer"),
        topology.journal("groups.0", "index"),
    ] == [
        "hub",
        "hub.v1.log",
        "hub.in",
        "hub.v1.in",
        "hub.v1.refused",
        "hub.v1.nodes",
        "hub.v1.node.a.1",
        "hub.v1.seat.sequencer",
        "hub.v1.journal.groups.0.index",
    ]
