"""Calls: who can answer, which response counts, and that nothing is left behind."""

import asyncio

import pytest

from switchboard_server.core.errors import InvalidArgumentError, UnavailableError
from switchboard_server.core.filters import Filter
from switchboard_server.core.records import Drafts, Extra
from tests.support.events import a_route, bodies, some
from tests.support.loop import turns
from tests.unit.core.groups.world import World, a_world

DESK = Filter(target_services=("desk",))


def request(correlation_id: str = "c", **fields: object) -> Drafts:
    """A request to the desk."""
    extra = Extra(correlation_id=correlation_id, **fields)  # type: ignore[arg-type]
    return some("how much?", routes=a_route("service_request", target="desk"), extras={0: extra})


async def respond(world: World, text: str, correlation_id: str = "c", kind: str = "") -> None:
    """Publishes a response."""
    extra = Extra(correlation_id=correlation_id)
    route = a_route(kind or "service_response", source="desk")
    await world.events.publish(some(text, routes=route, extras={0: extra}))


async def test_the_first_response_with_the_correlation_id_is_the_answer() -> None:
    async with a_world() as world:
        desk = await world.join(wish=DESK)
        calling = asyncio.create_task(world.calls.call(request(), "c"))
        alike = asyncio.create_task(world.calls.call(request(), "c"))
        assert len(await desk.take(2)) == 2
        assert len(world.calls) == 2
        await respond(world, "of another", "d")
        await respond(world, "no response", kind="service_request")
        await turns()
        assert not calling.done()
        await respond(world, "first")
        await respond(world, "second")
        assert bodies(await calling) == bodies(await alike) == ["first"]
        assert len(world.calls) == 0
        desk.member.close()


async def test_nobody_to_answer_is_told_at_once() -> None:
    async with a_world() as world:
        with pytest.raises(UnavailableError, match="'desk'") as caught:
            await world.calls.call(request(), "c")
        assert caught.value.reason == "NO_RESPONDERS"
        desk = await world.join(wish=DESK)
        desk.member.close()
        everything = await world.events.subscribe(Filter(target_services=("*",)))
        with pytest.raises(UnavailableError):
            await world.calls.call(request(), "c")
        listening = await world.events.subscribe(DESK)
        calling = asyncio.create_task(world.calls.call(request(), "c"))
        await turns()
        await respond(world, "here")
        assert bodies(await calling) == ["here"]
        for each in (everything, listening):
            world.events.unsubscribe(each)


async def test_a_draining_instance_is_nobody() -> None:
    draining = {"desk/1"}
    async with a_world() as world:
        world.groups.follow_draining(draining.__contains__)
        desk = await world.join(wish=DESK, instance="desk/1")
        with pytest.raises(UnavailableError):
            await world.calls.call(request(), "c")
        desk.member.close()


async def test_cancelling_leaves_nothing_behind() -> None:
    async with a_world() as world:
        desk = await world.join(wish=DESK)
        calling = asyncio.create_task(world.calls.call(request(), "c"))
        await desk.take(1)
        calling.cancel()
        await asyncio.wait([calling])
        assert len(world.calls) == 0
        await respond(world, "too late")
        desk.member.close()


async def test_shutting_down_ends_the_wait() -> None:
    async with a_world() as world:
        desk = await world.join(wish=DESK)
        calling = asyncio.create_task(world.calls.call(request(), "c"))
        await desk.take(1)
        world.calls.begin_shutdown(UnavailableError("SHUTTING_DOWN", "later"))
        with pytest.raises(UnavailableError, match="later"):
            await calling
        desk.member.close()


@pytest.mark.parametrize(
    ("field", "drafts"),
    [
        ("target_service", some("a", routes=a_route("service_request"))),
        ("source_service", some("a", routes=a_route("x", source="", target="desk"))),
        ("deliver_at", request(deliver_at_ns=1)),
    ],
)
async def test_what_is_no_call_is_refused(field: str, drafts: Drafts) -> None:
    async with a_world() as world:
        desk = await world.join(wish=DESK)
        with pytest.raises(InvalidArgumentError, match=field):
            await world.calls.call(drafts, "c")
        desk.member.close()


async def test_a_request_that_a_door_or_the_hub_refuses_is_refused() -> None:
    async with a_world() as world:
        desk = await world.join(wish=DESK)
        drafts = request()
        drafts.refused[0] = InvalidArgumentError("INVALID_FIELD", "nested too deep")
        with pytest.raises(InvalidArgumentError, match="too deep"):
            await world.calls.call(drafts, "c")
        long = some("a", routes=a_route("x", target="desk"), ids=["i" * 256])
        with pytest.raises(InvalidArgumentError, match="id"):
            await world.calls.call(long, "c")
        assert len(world.calls) == 0
        desk.member.close()
