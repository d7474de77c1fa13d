"""Consumer groups and calls over the bridge."""

from typing import Any

from switchboard_server.bridge import session
from switchboard_server.core.principal import ANONYMOUS
from tests.integration.bridge import BridgeClient, bridge, principal

ORDER = {"type": "order.created", "source_service": "shop"}


async def join(client: BridgeClient, group: str = "work", **more: Any) -> dict[str, Any]:
    """Joins a group."""
    return await client.done("subscribe", {"subscription": "s", "group": group, **more})


async def delivery(client: BridgeClient) -> dict[str, Any]:
    """The next delivery, which comes alone."""
    (one,) = (await client.until_type("event"))["deliveries"]
    found: dict[str, Any] = one
    return found


async def settle(client: BridgeClient, word: str, *names: str, **more: Any) -> list[str]:
    """Settles deliveries; what became of each."""
    done = await client.done(word, {"group": "work", "ack_ids": names, **more})
    return [each["outcome"].removeprefix("SETTLE_OUTCOME_") for each in done["results"]]


async def test_a_browser_works_in_a_group_like_any_member() -> None:
    async with bridge() as hub, hub.member() as ann, hub.member() as bob:
        told = await join(ann, max_in_flight=1)
        assert told["member_id"]
        await ann.done("publish", {"events": [{**ORDER, "text": "a"}, {**ORDER, "text": "b"}]})
        first = await delivery(ann)
        assert (first["event"]["text"], first["attempt"]) == ("a", 1)
        assert await settle(ann, "extend", first["ack_id"]) == ["OK"]
        assert await settle(bob, "acknowledge", first["ack_id"], "no-such-id") == ["OK", "UNKNOWN"]
        second = await delivery(ann)
        done = await settle(ann, "reject", second["ack_id"], dead_letter=True, reason="bad")
        assert done == ["OK"]
        (group,) = (await bob.done("list", {"what": "groups"}))["groups"]
        assert (group["name"], group["progress"]["dead_letters"]) == ("work", "1")


async def test_what_a_browser_holds_returns_when_its_connection_ends() -> None:
    async with bridge() as hub, hub.member() as bob:
        async with hub.member() as ann:
            await join(ann)
            await bob.done("publish", ORDER)
            held = await delivery(ann)
        await join(bob)
        again = await delivery(bob)
        assert (again["event"]["sequence"], again["attempt"]) == (held["event"]["sequence"], 2)
        assert await settle(bob, "acknowledge", held["ack_id"], again["ack_id"]) == [
            "EXPIRED",
            "OK",
        ]


async def test_a_member_that_leaves_is_told_how_far_its_group_has_come() -> None:
    async with bridge() as hub, hub.member() as ann:
        await join(ann, max_in_flight=2)
        await ann.done("publish", {"events": [ORDER, ORDER]})
        first, second = (await ann.until_type("event"))["deliveries"]
        assert await settle(ann, "acknowledge", second["ack_id"]) == ["OK"]
        left = await ann.done("unsubscribe", {"subscription": "s"})
        # The first one is not settled, though more has been received.
        assert int(left["position"]) == int(first["event"]["sequence"]) - 1


async def test_a_member_that_differs_is_told_how() -> None:
    async with bridge() as hub, hub.member() as ann, hub.member() as bob:
        await join(ann)
        wish = {"group": "work", "mode": "DELIVERY_MODE_KEY_SHARED"}
        assert await bob.refused("subscribe", wish) == "GROUP_MISMATCH"


async def test_browsers_call_and_answer() -> None:
    async with bridge() as hub, hub.member() as ann, hub.member() as bob:
        request = {"source_service": "page", "target_service": "desk", "text": "how much?"}
        assert await ann.refused("call", {"event": request}) == "NO_RESPONDERS"
        await join(bob, "desk", filter={"target_services": ["desk"]})
        late = await ann.refused("call", {"event": request, "timeout_seconds": 0.1})
        assert late == "NO_RESPONSE"
        await delivery(bob)
        await ann.send("call", {"event": request}, id=1)
        asked = (await delivery(bob))["event"]
        response = {
            "type": "service_response",
            "source_service": "desk",
            "correlation_id": asked["correlation_id"],
            "text": "twelve",
        }
        await bob.done("publish", response)
        answer = await ann.until_type("ack")
        assert answer["data"]["event"]["text"] == "twelve"


async def test_what_there_is_is_listed_to_those_who_may_see_it() -> None:
    tokens = {"some": principal("page", "rooms.join"), "all": ANONYMOUS}
    async with bridge(tokens=tokens) as hub:
        async with hub.member(query="?token=all") as client:
            for what in ("rooms", "connections", "events", "groups", "services"):
                assert await client.done("list", {"what": what})
        async with hub.member(query="?token=some") as client:
            for what in ("rooms", "room", "connections", "events", "groups", "services"):
                assert await client.refused("list", {"what": what}) == "PERMISSION_DENIED"


async def test_calls_that_wait_hold_up_no_other_frame_and_are_only_so_many() -> None:
    async with (
        bridge(frames_per_second=1000) as hub,
        hub.member() as ann,
        hub.member() as bob,
    ):
        await join(bob, "desk", filter={"target_services": ["desk"]}, max_in_flight=1)
        request = {"source_service": "page", "target_service": "desk"}
        for number in range(session.MAX_CALLS):
            await ann.send("call", {"event": request, "timeout_seconds": 20}, id=1000 + number)
        assert (await ann.ask("heartbeat"))["type"] == "heartbeat"
        assert await ann.refused("call", {"event": request}) == "LIMIT_REACHED"
