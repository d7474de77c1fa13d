"""How many subscriptions are woken at a time."""

from switchboard_server.core.waking import MAX_AT_ONCE, MAX_REST, SLICE, Waking
from tests.support.loop import manual_loop, passing, turns


class Sleeper:
    """A `Waiter` that tells when it is woken."""

    def __init__(self, number: int, woken: list[int]) -> None:
        self.number = number
        self._woken = woken

    def wake(self) -> None:
        self._woken.append(self.number)


def sleepers(count: int, woken: list[int]) -> list[Sleeper]:
    return [Sleeper(number, woken) for number in range(count)]


async def test_up_to_a_hundred_are_woken_at_once() -> None:
    woken: list[int] = []
    Waking().add(dict.fromkeys(sleepers(MAX_AT_ONCE, woken)))
    assert woken == list(range(MAX_AT_ONCE))


async def test_more_are_woken_a_few_in_each_turn_and_in_order() -> None:
    woken: list[int] = []
    waking, total = Waking(), MAX_AT_ONCE + 3 * SLICE
    everybody = sleepers(total, woken)
    waking.add(dict.fromkeys(everybody[:-SLICE]))
    assert woken == list(range(SLICE))
    waking.add(dict.fromkeys(everybody[-SLICE:]))
    assert woken == list(range(SLICE)), "whoever comes later waits for the next wave"
    await turns(1)
    assert woken == list(range(2 * SLICE))
    await turns(1)
    assert woken == list(range(total - SLICE))
    await turns(1)
    assert woken == list(range(total))


async def test_after_a_wave_calls_have_the_loop_for_as_long_as_it_took() -> None:
    woken: list[int] = []
    waking, total = Waking(), MAX_AT_ONCE + SLICE
    everybody = sleepers(total + 1, woken)
    waking.add(dict.fromkeys(everybody[:total]))
    manual_loop().advance(0.05)
    await turns(2)
    assert woken == list(range(total))
    waking.add({everybody[-1]: None})
    await passing(0.04)
    assert len(woken) == total
    await passing(0.02)
    assert woken == list(range(total + 1))
    await passing(0.02)
    assert not waking.busy
    waking.add({everybody[0]: None})
    assert woken[-1] == 0


async def test_nobody_waits_long_because_a_wave_took_long() -> None:
    woken: list[int] = []
    waking, total = Waking(), MAX_AT_ONCE + SLICE
    waking.add(dict.fromkeys(sleepers(total, woken)))
    manual_loop().advance(10)
    await turns(2)
    await passing(MAX_REST)
    assert not waking.busy


async def test_one_that_left_meanwhile_is_not_woken() -> None:
    woken: list[int] = []
    waking = Waking()
    everybody = sleepers(MAX_AT_ONCE + SLICE, woken)
    waking.add(dict.fromkeys(everybody))
    waking.forget(everybody[0])
    waking.forget(everybody[-1])
    await turns(2)
    assert woken == list(range(MAX_AT_ONCE + SLICE - 1))
