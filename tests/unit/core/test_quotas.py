"""What the callers of one subject may take: how fast, and how much at a time."""

import pytest

from switchboard_server.core.errors import ResourceExhaustedError
from switchboard_server.core.events import Limits
from switchboard_server.core.filters import EVERYTHING
from switchboard_server.core.principal import ANONYMOUS, Principal
from switchboard_server.core.publishing import PublishLimits
from switchboard_server.core.quotas import FORGET_AFTER, Rates, Shares
from tests.support.events import numbered
from tests.support.logs import memory_hub

ALICE = Principal("alice", ["events.publish", "events.subscribe"])
BOB = Principal("bob", ["events.publish", "events.subscribe"])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_second_s_worth_passes_at_once_and_then_as_much_as_runs_in() -> None:
    clock = Clock()
    rates = Rates(10, clock)
    passed = 0
    for _ in range(1000):
        while not rates.wait("alice"):
            rates.take("alice", 1)
            passed += 1
        clock.now += 0.01
    # Ten seconds at ten a second, and the burst.
    assert passed == pytest.approx(110, abs=1)


def test_a_batch_of_any_size_passes_and_is_paid_for_later() -> None:
    clock = Clock()
    rates = Rates(10, clock)
    rates.check("alice")
    rates.take("alice", 1000)
    assert rates.wait("alice") == pytest.approx(99.0)
    with pytest.raises(ResourceExhaustedError) as caught:
        rates.check("alice")
    assert caught.value.reason == "RATE_LIMITED"
    assert caught.value.metadata["limit"] == "10"
    assert int(caught.value.metadata["retry_after_ms"]) == pytest.approx(99_000, abs=1)
    rates.check("bob")
    clock.now += 99.01
    rates.check("alice")


@pytest.mark.parametrize(("per_second", "subject"), [(0, "alice"), (10, "")])
def test_without_a_limit_or_a_subject_nothing_is_counted(per_second: int, subject: str) -> None:
    rates = Rates(per_second, Clock())
    rates.take(subject, 10**9)
    rates.check(subject)


def test_subjects_that_owe_nothing_are_forgotten_and_others_are_not() -> None:
    clock = Clock()
    rates = Rates(10, clock)
    rates.take("alice", 1000)
    for number in range(3 * FORGET_AFTER):
        rates.take(f"passer-by-{number}", 1)
        clock.now += 0.001
    assert rates.wait("alice") > 0
    assert len(rates._full_at) <= FORGET_AFTER


def test_a_subject_has_so_many_and_another_has_its_own() -> None:
    shares = Shares(2)
    for _ in range(2):
        shares.check("alice")
        shares.add("alice")
    with pytest.raises(ResourceExhaustedError, match="alice") as caught:
        shares.check("alice")
    assert caught.value.reason == "LIMIT_REACHED"
    assert caught.value.metadata == {
        "limit": "2",
        "setting": "SWITCHBOARD_MAX_SUBSCRIPTIONS_PER_SUBJECT",
    }
    shares.check("bob")
    shares.check("")
    shares.remove("alice")
    shares.check("alice")


async def test_a_hub_refuses_what_is_over_its_subject_s_share() -> None:
    limits = Limits(PublishLimits(subject_events_per_second=5), subject_subscriptions=1)
    async with memory_hub(limits) as (hub, _):
        await hub.publish(numbered(50), ALICE)
        with pytest.raises(ResourceExhaustedError) as caught:
            await hub.publish(numbered(1), ALICE)
        assert caught.value.reason == "RATE_LIMITED"
        assert hub.stats().refused == {"RATE_LIMITED": 1}
        # Who has waited is let in, and pays later; others are not to blame.
        await hub.publish(numbered(1), ALICE, waited=True)
        await hub.publish(numbered(1), BOB)
        await hub.publish(numbered(1), ANONYMOUS)
        held = await hub.subscribe(EVERYTHING, principal=ALICE)
        with pytest.raises(ResourceExhaustedError):
            await hub.subscribe(EVERYTHING, principal=ALICE)
        hub.unsubscribe(await hub.subscribe(EVERYTHING, principal=BOB))
        hub.unsubscribe(held)
        hub.unsubscribe(held)
        hub.join(ALICE)
        with pytest.raises(ResourceExhaustedError):
            hub.admit(ALICE)
        hub.part(ALICE)
        hub.admit(ALICE)
