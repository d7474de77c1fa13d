"""Events on several nodes that share a RabbitMQ, and on programs that speak AMQP."""

import asyncio
import json

import aio_pika

from switchboard.v1 import event_pb2, subscription_pb2
from switchboard_server.backends.rabbitmq.inlet import Inlet
from switchboard_server.backends.rabbitmq.tail import BACK
from switchboard_server.core.clock import SECOND_NS, wall_clock
from switchboard_server.core.events import AfterSequence
from switchboard_server.core.filters import EVERYTHING
from switchboard_server.core.records import Extra
from switchboard_server.core.tail import Chunk
from switchboard_server.wire.codec import DeliveryCodec
from tests.integration.cluster_hubs import hubs
from tests.support.brokers import RabbitServer
from tests.support.events import a_route, some


async def test_what_is_published_on_any_node_comes_to_all_in_the_same_order(
    rabbit: RabbitServer,
) -> None:
    async with hubs(rabbit, 3) as nodes:
        subscriptions = [await hub.events.subscribe(EVERYTHING) for hub in nodes]
        await asyncio.gather(
            *(
                hub.events.publish(some(f"{number}.{call}"))
                for call in range(20)
                for number, hub in enumerate(nodes)
            )
        )
        seen = [await hub.texts(each, 60) for hub, each in zip(nodes, subscriptions, strict=True)]
        assert seen[0] == seen[1] == seen[2]
        for number in range(3):
            mine = [text for text in seen[0] if text.startswith(f"{number}.")]
            assert mine == [f"{number}.{call}" for call in range(20)]
        assert len({hub.node.log.log_id for hub in nodes}) == 1


async def test_a_subscriber_goes_on_at_another_node_where_it_was(rabbit: RabbitServer) -> None:
    async with hubs(rabbit, 2) as (one, other):
        subscription = await one.events.subscribe(EVERYTHING)
        for number in range(30):
            await other.events.publish(some(str(number)))
        seen = await one.texts(subscription, 10)
        again = await other.events.subscribe(EVERYTHING, AfterSequence(subscription.position))
        seen += await other.texts(again, 30 - len(seen))
        assert seen == list(map(str, range(30)))
        async with hubs(rabbit, 1, one.node.topology.prefix) as (late,):
            from_the_first = await late.events.subscribe(EVERYTHING, AfterSequence(0))
            assert await late.texts(from_the_first, 30) == list(map(str, range(30)))


async def test_a_node_that_comes_long_after_a_term_began_publishes_at_once(
    rabbit: RabbitServer,
) -> None:
    async with hubs(rabbit, 1) as (one,):
        # More records than a node reads back when it begins: it never reads the term's marker.
        for number in range(2 * BACK):
            await one.events.publish(some(str(number)))
        async with hubs(rabbit, 1, one.node.topology.prefix, first=1) as (late,):
            # Before the seat of who numbers may move to it, by which a new term would begin.
            async with asyncio.timeout(5):
                assert (await late.events.publish(some("late"))).first == 2 * BACK + 1


async def test_an_event_that_comes_to_both_nodes_at_once_is_stored_once(
    rabbit: RabbitServer,
) -> None:
    async with hubs(rabbit, 2) as nodes:
        drafts = [
            [some(f"{hub.node.name} {number}", ids=[str(number)]) for number in range(50)]
            for hub in nodes
        ]
        outcomes = await asyncio.gather(
            *(
                hub.events.publish(each)
                for hub, calls in zip(nodes, drafts, strict=True)
                for each in calls
            )
        )
        for one, other in zip(outcomes[:50], outcomes[50:], strict=True):
            assert sorted([one.accepted, other.accepted]) == [0, 1]
            stored, told = (one, other) if one.accepted else (other, one)
            assert told.duplicates == {0: stored.first}
            assert told.time_ns == stored.time_ns
        assert nodes[0].node.log.window.last == nodes[1].node.log.window.last == 50
        later = await nodes[0].events.publish(some("again", "new", ids=["7", "new"]))
        assert (later.accepted, list(later.duplicates)) == (1, [0])


async def test_scheduled_events_enter_once_though_the_node_that_kept_them_is_gone(
    rabbit: RabbitServer,
) -> None:
    async with hubs(rabbit, 2) as nodes:
        keeper = next(hub for hub in nodes if hub.node.numbers)
        other = next(hub for hub in nodes if hub is not keeper)
        subscription = await other.events.subscribe(EVERYTHING)
        due = {0: Extra(deliver_at_ns=wall_clock() + 3 * SECOND_NS)}
        first = await other.events.publish(some("later", ids=["1"], extras=due))
        again = await keeper.events.publish(some("later", ids=["1"], extras=due))
        assert (list(first.scheduled), list(again.scheduled)) == ([0], [])
        assert again.duplicates == {0: 0}
        keeper.node.link.reset("the test says so")
        await other.events.publish(some("now"))
        assert await other.texts(subscription, 2) == ["now", "later"]
        last = await other.events.publish(some("later", ids=["1"]))
        assert last.duplicates == {0: 2}
        assert other.node.log.window.last == 2


# --- programs that speak AMQP --------------------------------------------------------------------


async def test_a_program_reads_events_with_the_published_protos_alone(
    rabbit: RabbitServer,
) -> None:
    codec = DeliveryCodec()
    async with hubs(rabbit, 1, codec=codec) as (hub,):
        connection = await aio_pika.connect(rabbit.url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(hub.node.topology.prefix)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "order.*")
            body = event_pb2.Event(type="order.paid", source_service="shop", text="a")
            routes = [a_route("user.login"), a_route("order.paid")]
            drafts = some("x", "y", routes=routes)
            drafts.bodies = [body.SerializeToString()] * 2
            await hub.events.publish(some("nothing for it", routes=a_route("user.login")))
            await hub.events.publish(drafts)
            async with queue.iterator(timeout=10) as messages:
                message = await anext(messages)
            assert message.content_type == "application/vnd.switchboard.events+protobuf"
            assert message.type == "events"
            response = subscription_pb2.SubscribeResponse.FromString(message.body)
            assert [each.event.sequence for each in response.deliveries] == [2, 3]
            assert [each.event.text for each in response.deliveries] == ["a", "a"]
            assert response.WhichOneof("control") is None


async def test_a_program_publishes_events_each_once_and_gets_back_what_is_none(
    rabbit: RabbitServer,
) -> None:
    async with hubs(rabbit, 1, codec=DeliveryCodec()) as (hub,):
        topology = hub.node.topology
        inlet = Inlet(hub.node.link, topology, hub.events)
        await inlet.start()
        subscription = await hub.events.subscribe(EVERYTHING)
        connection = await aio_pika.connect(rabbit.url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(f"{topology.prefix}.in")
            refused = await channel.get_queue(f"{topology.prefix}.v1.refused")
            event = event_pb2.Event(type="order.paid", source_service="shop", id="2", text="b")
            json_form = json.dumps({"data": {"n": 1}, "attributes": {"k": "v"}}).encode()
            messages = [
                aio_pika.Message(
                    json_form, content_type="application/json", app_id="shop", message_id="1"
                ),
                aio_pika.Message(event.SerializeToString(), content_type="application/x-protobuf"),
                aio_pika.Message(event.SerializeToString(), content_type="application/x-protobuf"),
                aio_pika.Message(b"{", content_type="application/json"),
                aio_pika.Message(b"\xff", content_type="application/x-protobuf"),
                aio_pika.Message(b"text", content_type="text/plain"),
                aio_pika.Message(b'{"text": "no source"}', content_type="application/json"),
            ]
            for message in messages:
                await exchange.publish(message, "order.created")
            reasons = []
            async with refused.iterator(timeout=10) as returned:
                async for each in returned:
                    await each.ack()
                    reasons.append(each.headers["reason"])
                    if len(reasons) == 4:
                        break
            assert reasons == [*["MALFORMED_REQUEST"] * 3, "FIELD_MISSING"]
        found: list[event_pb2.Event] = []
        while len(found) < 2:
            item = await subscription.next()
            if isinstance(item, Chunk):
                response = subscription_pb2.SubscribeResponse.FromString(item.frames)
                found += [each.event for each in response.deliveries]
        assert [(each.id, each.type) for each in found] == [
            ("1", "order.created"),
            ("2", "order.paid"),
        ]
        assert found[0].data["n"] == 1
        assert found[0].publisher == "amqp"
        assert hub.node.log.window.last == 2
        assert inlet.refused == 4
        await inlet.close()
