"""Groups and calls of a cluster over gRPC: any hub serves them, and none is lost with one."""

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import pytest

from switchboard.v1.event_pb2 import Event, Filter
from switchboard.v1.event_service_pb2 import CallRequest
from switchboard.v1.group_service_pb2 import ListGroupsRequest
from switchboard.v1.subscription_pb2 import DELIVERY_MODE_KEY_SHARED
from switchboard_server.core.cluster.seats import seat_of
from tests.integration.client import Client, an_event, failing, numbered, texts
from tests.integration.group_client import Groups, Member, at_once, events_of, ids_of
from tests.integration.hubs import cluster_settings, connect, running_two, seats_held
from tests.support.brokers import RabbitServer, RedisServer
from tests.support.hub import HubProcess


@pytest.fixture(scope="module")
def hubs(
    rabbit: RabbitServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[HubProcess]]:
    """Two hubs."""
    with running_two(tmp_path_factory.mktemp("hubs"), cluster_settings(rabbit, redis)) as hubs:
        yield hubs


async def test_members_of_two_hubs_share_a_group_and_settle_through_either(
    clients: list[Client], kind: str
) -> None:
    here, there = map(Groups, clients)
    async with here.join("shared", kind) as one, there.join("shared", kind) as two:
        await clients[0].publish_batch(numbered(kind, 20))
        mine, yours = await asyncio.gather(one.deliveries(10), two.deliveries(10))
        assert sorted(map(int, texts(events_of([*mine, *yours])))) == list(range(20))
        await there.acknowledge("shared", mine)
        await here.acknowledge("shared", yours)
        for each in (here, there):
            told, members = await each.get("shared")
            assert told.progress.lag_events == 0
            assert len({member.identity.node for member in members}) == 2
            listed = await each.stub.ListGroups(ListGroupsRequest(name_prefix="shared"))
            assert [group.name for group in listed.groups] == ["shared"]
    await here.delete("shared")
    assert (await failing(there.get("shared"))).reason == "GROUP_NOT_FOUND"


async def test_calls_are_answered_by_another_hub(clients: list[Client], kind: str) -> None:
    for caller, there in (clients, clients[::-1]):
        request = CallRequest(event=Event(source_service="shop", target_service=kind, text="?"))
        failure = await failing(caller.stub.Call(request, timeout=20))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_RESPONDERS")
        wish = Filter(types=["service_request"], target_services=[kind])
        groups = Groups(there)
        async with groups.join(kind, filter=wish) as responder:
            calling = asyncio.ensure_future(caller.stub.Call(request, timeout=20))
            asked = await responder.delivery()
            await there.publish(
                Event(
                    type="service_response",
                    source_service=kind,
                    correlation_id=asked.event.correlation_id,
                    text="!",
                )
            )
            assert (await calling).event.text == "!"
            await groups.acknowledge(kind, [asked])
        await groups.delete(kind)


async def _settle(groups: Groups, name: str, member: Member, count: int) -> list[str]:
    """Takes and settles so many events, each of which may come more than once."""
    settled: list[str] = []
    while len(settled) < count:
        held = await member.deliveries(1)
        for delivery, outcome in zip(held, await groups.outcomes(name, ids_of(held)), strict=True):
            if outcome in ("OK", "ALREADY_SETTLED") and delivery.event.text not in settled:
                settled.append(delivery.event.text)
    return settled


@pytest.mark.parametrize("politely", [False, True])
async def test_a_stream_goes_on_when_the_hub_that_has_its_group_ends(
    rabbit: RabbitServer, redis: RedisServer, tmp_path: Path, kind: str, politely: bool
) -> None:
    with running_two(tmp_path, cluster_settings(rabbit, redis)) as (holder, hub):
        held_there = seats_held(holder.text)
        name = next(name for name in map("work{}".format, count()) if seat_of(name) in held_there)
        async with connect(hub) as client:
            groups = Groups(client)
            async with groups.join(
                name, kind, mode=DELIVERY_MODE_KEY_SHARED, retry_policy=at_once()
            ) as member:
                await client.publish_batch(
                    [an_event(kind, text=str(number), ordering_key="k") for number in range(10)]
                )
                assert await _settle(groups, name, member, 5) == list("01234")
                held = await member.delivery()
                assert (held.event.text, held.attempt) == ("5", 1)
                if politely:
                    holder.terminate()
                else:
                    holder.kill()
                assert await _settle(groups, name, member, 5) == list("56789")
                assert (await groups.outcomes(name, [held.ack_id])) == ["ALREADY_SETTLED"]
                told, members = await groups.get(name)
                assert told.progress.lag_events == 0
                assert len(members) == 1
