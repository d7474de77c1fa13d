"""What becomes of dead letters that were redriven."""

import pytest

from switchboard_server.backends.embedded.store import Retention
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.events import Begin
from switchboard_server.core.principal import ANONYMOUS
from tests.support.loop import passing, turns
from tests.unit.core.groups.world import GIVE_UP, Worker, World, a_world

SHORT = Retention(age_ns=10 * 10**9)


async def buried(world: World, worker: Worker, *texts: str) -> None:
    """Makes dead letters."""
    await world.publish(*texts)
    got = await worker.take(len(texts))
    await world.groups.reject("g", [each.ack_id for each in got], how=GIVE_UP)


async def dead(world: World) -> list[int]:
    """The dead letters, the latest first."""
    return [each.sequence for each in (await world.letters.page("g")).letters]


async def test_a_redriven_event_that_is_tried_again_is_read_from_its_dead_letter() -> None:
    async with a_world(tail_bytes=0, retention=SHORT) as world:
        worker = await world.join()
        await buried(world, worker, "old")
        await passing(20)
        await world.letters.redrive("g")
        (first,) = await worker.take(1)
        await world.groups.reject("g", [first.ack_id])
        (again,) = await worker.take(1)
        assert (again.body, again.attempt) == ("old", 2)
        await world.groups.reject("g", [again.ack_id], how=GIVE_UP)
        assert await dead(world) == [1]
        worker.member.close()


async def test_a_seek_shelves_what_is_about_to_be_buried() -> None:
    async with a_world() as world:
        worker = await world.join()
        await buried(world, worker, "a")
        await world.letters.redrive("g")
        (got,) = await worker.take(1)
        world.fail("dead_letters_of")
        with pytest.raises(UnavailableError):
            await world.groups.reject("g", [got.ack_id], how=GIVE_UP)
        world.heal()
        await world.groups.seek("g", Begin.LATEST, ANONYMOUS)
        await turns()
        assert await dead(world) == [1]
        assert world.groups.find("g").burial.dead_letters == 1
        worker.member.close()
