"""Errands are run until they are done, and one under the same name takes the place of another."""

from collections.abc import AsyncIterator

import pytest

from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.registry.errands import RETRY_SECONDS, Errands
from tests.support.loop import passing, turns


@pytest.fixture
async def errands() -> AsyncIterator[Errands]:
    made = Errands()
    yield made
    await made.close()
    await made.close()


class Log:
    """What was run, and how it goes."""

    def __init__(self) -> None:
        self.run: list[str] = []
        self.away = False
        self.refuses = False

    async def _errand(self, name: str) -> bool:
        self.run.append(name)
        if self.away:
            raise UnavailableError("REGISTRY_UNAVAILABLE", "away")
        return not self.refuses

    def give(self, errands: Errands, name: str, text: str = "") -> None:
        errands.give(name, lambda: self._errand(text or name))


async def test_what_is_given_is_run_once(errands: Errands) -> None:
    log = Log()
    log.give(errands, "a")
    log.give(errands, "b")
    await turns()
    log.give(errands, "a")
    await errands.settle(1)
    assert log.run == ["a", "b", "a"]


@pytest.mark.parametrize("fault", ["away", "refuses"])
async def test_what_cannot_be_done_is_tried_again(errands: Errands, fault: str) -> None:
    log = Log()
    setattr(log, fault, True)
    log.give(errands, "a", "old")
    await turns()
    log.give(errands, "a", "new")
    log.give(errands, "b")
    errands.cancel("b")
    setattr(log, fault, False)
    await turns()
    assert log.run == ["old"]
    await passing(RETRY_SECONDS)
    assert log.run == ["old", "new"]


async def test_a_nudge_makes_it_try_at_once(errands: Errands) -> None:
    log = Log()
    log.away = True
    log.give(errands, "a")
    await turns()
    log.away = False
    errands.nudge()
    await turns()
    assert log.run == ["a", "a"]
    await errands.settle(0)


async def test_one_that_fails_for_good_is_told_and_keeps_no_other(
    errands: Errands, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> bool:
        raise ZeroDivisionError

    log = Log()
    errands.give("broken", broken)
    log.give(errands, "a")
    await errands.settle(1)
    assert log.run == ["a"]
    assert "an errand has failed" in caplog.text
