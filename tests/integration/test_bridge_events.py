"""Events over the bridge."""

import asyncio
import gc
from typing import Any

import pytest

from switchboard.v1 import event_service_pb2
from switchboard_server.core.principal import ANONYMOUS
from switchboard_server.core.tail import Chunk
from switchboard_server.wire.decode import decode_event
from tests.integration.bridge import BridgeClient, Running, bridge, narrow, principal, settled

ORDER = {"type": "order.created", "source_service": "shop", "data": {"order": 1}}


async def publish(hub: Running, count: int, kind: str = "order.created", **more: Any) -> None:
    for number in range(count):
        request = event_service_pb2.PublishRequest()
        event = request.event
        event.type, event.source_service = kind, "shop"
        event.data.update({"n": number, **more})
        await hub.events.publish(decode_event(event, ""), ANONYMOUS)


async def numbers(client: BridgeClient, subscription: str, count: int) -> list[int]:
    """What the next events of a subscription hold, so many."""
    found: list[int] = []
    while len(found) < count:
        frame = await client.until_type("event")
        assert frame["subscription"] == subscription
        found += [each["event"]["data"]["n"] for each in frame.get("deliveries", [])]
    return found


async def test_an_event_that_a_browser_publishes_comes_to_those_who_subscribe() -> None:
    async with bridge() as hub, hub.member() as ann, hub.member() as bob:
        subscribed = await bob.done(
            "subscribe", {"subscription": "orders", "filter": {"types": ["order.*"]}}
        )
        assert subscribed == {"subscription": "orders", "position": "0", "member_id": ""}
        published = await ann.done("publish", {**ORDER, "id": "one"})
        assert published["id"] == "one"
        assert published["sequence"] == "1"
        again = await ann.done("publish", {**ORDER, "id": "one"})
        assert again["duplicate"] is True
        frame = await bob.read()
        assert (frame["type"], frame["subscription"]) == ("event", "orders")
        (delivery,) = frame["deliveries"]
        assert delivery["event"]["data"] == {"order": 1}
        assert delivery["event"]["sequence"] == "1"


@pytest.mark.parametrize(("query", "publisher"), [("?user=ann", ""), ("?token=t", "ann")])
async def test_the_publisher_of_an_event_is_who_a_token_names_and_nobody_else(
    query: str, publisher: str
) -> None:
    permissions = ("rooms.join", "events.publish", "events.subscribe", "messaging.broadcast")
    tokens = {"t": principal("ann", *permissions)} if publisher else None
    async with bridge(tokens=tokens) as hub, hub.member(query=query) as client:
        await client.done("subscribe", {"subscription": "orders"})
        await client.send("publish", ORDER)
        await client.send("publish", {"events": [ORDER]})
        found: list[dict[str, Any]] = []
        while len(found) < 2:
            found += (await client.until_type("event"))["deliveries"]
        assert [each["event"].get("publisher", "") for each in found] == [publisher] * 2
        # Messages and presence tell of the user all the same.
        await client.send("chat", {"room": "r"})
        assert (await client.until_type("chat"))["sender_user"] == "ann"


async def test_several_events_are_published_by_one_frame_each_with_its_result() -> None:
    async with bridge() as hub, hub.member() as client:
        done = await client.done("publish", {"events": [ORDER, {"type": "x"}, ORDER]})
        first, second, third = done["results"]
        assert (first["sequence"], third["sequence"]) == ("1", "2")
        # As the error frame has it, which answers an event that is published by itself.
        assert second["error"]["reason"] == "FIELD_MISSING"
        assert await client.refused("publish", {"type": "x"}) == "FIELD_MISSING"
        assert await client.refused("publish", {"events": []}) == "FIELD_MISSING"
        assert await client.refused("publish", {"type": "x"}) == "FIELD_MISSING"
        assert await client.refused("publish", {**ORDER, "colour": 1}) == "MALFORMED_REQUEST"


async def test_history_comes_first_and_then_the_word_that_it_is_over() -> None:
    async with bridge() as hub, hub.member() as client:
        await publish(hub, 200)
        await client.done("subscribe", {"subscription": "s", "start_at": "START_AT_EARLIEST"})
        assert await numbers(client, "s", 200) == list(range(200))
        control = await client.until_type("event")
        assert control["control"] == {"caught_up": {"position": "200"}}
        await publish(hub, 1)
        assert await numbers(client, "s", 1) == [0]


async def test_a_subscription_goes_on_from_a_position() -> None:
    async with bridge() as hub, hub.member() as client:
        await publish(hub, 10)
        await client.done("subscribe", {"subscription": "s", "after_sequence": "7"})
        assert await numbers(client, "s", 3) == [7, 8, 9]
        stopped = await client.done("unsubscribe", {"subscription": "s"})
        assert stopped == {"subscription": "s", "position": "10"}
        assert await client.refused("unsubscribe", {"subscription": "s"}) == "INVALID_FIELD"
        assert hub.events.stats().subscribers == 0


async def test_bad_wishes_are_refused_as_the_rpc_refuses_them() -> None:
    async with bridge() as hub, hub.member() as client:
        refused = client.refused
        assert await refused("subscribe", {"after_sequence": 99}) == "SEQUENCE_OUT_OF_RANGE"
        assert await refused("subscribe", {"filter": {"types": ["a*b"]}}) == "INVALID_FIELD"
        assert await refused("subscribe", {"filter": []}) == "MALFORMED_REQUEST"
        assert await refused("subscribe", {"heartbeat_interval": "0.1s"}) == "INVALID_FIELD"
        assert await refused("subscribe", {"subscription": 5}) == "INVALID_FIELD"
        assert await refused("subscribe", {"subscription": "x" * 256}) == "INVALID_FIELD"
        await client.done("subscribe", {"subscription": "s"})
        assert await refused("subscribe", {"subscription": "s"}) == "INVALID_FIELD"
        assert await refused("unsubscribe", {}) == "FIELD_MISSING"
        assert await refused("list", {"what": "nothing"}) == "INVALID_FIELD"
        assert await refused("list", {"what": []}) == "INVALID_FIELD"
        assert await refused("list", {"what": "events", "page_size": 5000}) == "INVALID_FIELD"


async def test_a_connection_has_at_most_64_subscriptions() -> None:
    async with bridge() as hub, hub.member() as client:
        names = {(await client.done("subscribe"))["subscription"] for _ in range(64)}
        assert len(names) == 64
        assert await client.refused("subscribe") == "LIMIT_REACHED"
        await client.socket.close()
        await settled(lambda: not hub.events.stats().subscribers)


async def test_a_quiet_subscription_says_that_it_lives() -> None:
    async with bridge() as hub, hub.member() as client:
        await client.done("subscribe", {"subscription": "s", "heartbeat_interval": "1s"})
        frame = await client.until_type("event")
        assert frame["control"] == {"heartbeat": {}}


async def test_the_log_is_listed_a_page_at_a_time() -> None:
    async with bridge() as hub, hub.member() as client:
        await publish(hub, 150)
        page = await client.done("list", {"what": "events", "page_size": 100})
        assert [each["data"]["n"] for each in page["events"]] == list(range(149, 49, -1))
        token = page["next_page_token"]
        page = await client.done("list", {"what": "events", "page_token": token})
        assert len(page["events"]) == 50
        assert page["next_page_token"] == ""


async def test_numbers_that_json_does_not_have_do_not_stop_a_subscription() -> None:
    async with bridge() as hub, hub.member() as client:
        await client.done("subscribe", {"subscription": "s"})
        await publish(hub, 1, bad=float("nan"), worse=float("-inf"))
        (delivery,) = (await client.until_type("event"))["deliveries"]
        assert delivery["event"]["data"] == {"n": 0, "bad": "NaN", "worse": "-Infinity"}


async def test_a_scope_says_which_events_a_frame_may_name() -> None:
    tokens = {
        "t": principal("ann", "rooms.join", "events.publish:order.*", "events.subscribe:order.*"),
        "n": principal("bob", "rooms.join"),
    }
    async with bridge(tokens=tokens) as hub:
        async with hub.member(query="?token=t") as client:
            await client.done("publish", ORDER)
            assert await client.refused("publish", {**ORDER, "type": "x"}) == "PERMISSION_DENIED"
            await client.done("subscribe", {"filter": {"types": ["order.created"]}})
            assert await client.refused("subscribe", {}) == "PERMISSION_DENIED"
            assert await client.refused("list", {"what": "events"}) == "PERMISSION_DENIED"
        async with hub.member(query="?token=n") as client:
            assert await client.refused("publish", ORDER) == "PERMISSION_DENIED"
            assert await client.refused("subscribe", {}) == "PERMISSION_DENIED"


@pytest.mark.parametrize("count", [40])
async def test_frames_published_one_after_the_other_keep_their_order(count: int) -> None:
    async with bridge() as hub, hub.member() as client:
        for number in range(count):
            await client.send("publish", {**ORDER, "data": {"n": number}}, id=f"p{number}")
        answers: dict[str, int] = {}
        while len(answers) < count:
            answer = await client.until_type("ack")
            answers[answer["id"]] = int(answer["data"]["sequence"])
        assert [answers[f"p{number}"] for number in range(count)] == list(range(1, count + 1))


async def test_a_page_that_does_not_read_loses_no_event_and_holds_up_nobody() -> None:
    async with bridge() as hub, hub.member() as slow, hub.member() as quick:
        for client in (slow, quick):
            await client.done("subscribe", {"subscription": "s"})
        slow.socket.transport.pause_reading()
        reading = asyncio.create_task(numbers(quick, "s", 3000))
        await publish(hub, 3000, padding="x" * 3000)
        assert await reading == list(range(3000))
        slow.socket.transport.resume_reading()
        assert await numbers(slow, "s", 3000) == list(range(3000))


def chunks() -> list[Chunk]:
    return [each for each in gc.get_objects() if isinstance(each, Chunk)]


async def test_a_page_that_goes_away_without_reading_leaves_no_events_in_the_memory() -> None:
    async with bridge() as hub, hub.member() as other:
        await publish(hub, 200, padding="x" * 10_000)
        gc.collect()
        gc.disable()
        try:
            async with hub.member(sock=narrow(hub.server.port), max_queue=1) as slow:
                for number in range(4):
                    wish = {"subscription": f"{number}", "start_at": "START_AT_EARLIEST"}
                    await slow.send("subscribe", wish | {"filter": {"types": ["*", f"{number}"]}})
                await settled(lambda: any(each.behind() for each in hub.server.connections))
                assert chunks()
                slow.socket.transport.abort()
            await settled(lambda: not hub.events.stats().subscribers)
            assert (await other.ask("heartbeat"))["type"] == "heartbeat"
            assert not chunks()
        finally:
            gc.enable()
