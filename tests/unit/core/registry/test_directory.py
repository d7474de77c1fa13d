"""Leases, thresholds, conflicts and self-preservation, with the time passed in."""

import math
from typing import Any

import pytest

from switchboard_server.core.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError
from switchboard_server.core.registry.directory import Directory
from switchboard_server.core.registry.entries import Declared, Entry
from switchboard_server.core.registry.model import (
    Change,
    HealthCheck,
    Key,
    Probe,
    ProbeKind,
    RemovalCause,
    Status,
)
from tests.support.registries import FAILED, OWN_WORD, PASSED, TCP, a_spec, at, status_of

HOLDER = object()
DRAINS = Declared(Status.DRAINING, "deploying")


class Town:
    """A directory and the changes that it told."""

    def __init__(self, **limits: float) -> None:
        self.changes: list[Change] = []
        self.directory = Directory(lambda change, _: self.changes.append(change), **limits)  # type: ignore[arg-type]

    def add(self, number: int = 1, seconds: float = 0, **fields: Any) -> Entry:
        return self.directory.put(a_spec(number, **fields), "", at(seconds))[0]

    def left(self) -> list[str]:
        return sorted(entry.instance.spec.id for entry in self.directory)

    def expire(self, seconds: float) -> list[str]:
        """What is left at a time."""
        self.directory.expire(at(seconds))
        return self.left()


def test_a_lease_runs_out_unless_it_is_renewed() -> None:
    town = Town()
    entry = town.add()
    assert status_of(entry) is Status.SERVING
    assert town.directory.next_deadline(at(0)) == 30
    town.directory.put(a_spec(), "", at(20))
    assert town.expire(30) == ["i1"]
    assert town.directory.next_deadline(at(30)) == 50
    assert town.expire(50) == []
    assert town.changes[-1].cause is RemovalCause.LEASE_EXPIRED
    assert town.changes[-1].previous is Status.SERVING
    assert town.directory.next_deadline(at(50)) == math.inf
    with pytest.raises(NotFoundError):
        town.directory.get(Key("users", "i1"))


def test_a_lease_tells_when_it_ends_while_nobody_holds_it() -> None:
    town = Town()
    entry = town.add()
    assert lease_end(entry) == at(30).wall_ns
    town.directory.hold(entry, HOLDER, at(10))
    assert lease_end(entry) is None
    town.directory.release(entry)
    assert lease_end(entry) == at(40).wall_ns
    checked = town.add(2, check=TCP)
    assert lease_end(checked) is None


def test_a_held_lease_ends_when_nothing_comes_for_its_time() -> None:
    town = Town()
    entry = town.add()
    town.directory.hold(entry, HOLDER, at(0))
    town.directory.renew(entry, at(25), 3.0)
    assert entry.load == 3.0
    town.directory.renew(entry, at(26))
    assert entry.load == 3.0
    assert town.expire(55) == ["i1"]
    assert town.expire(56) == []


def test_an_instance_goes_within_a_second_of_the_break_of_its_stream() -> None:
    town = Town()
    entry = town.add()
    town.directory.hold(entry, HOLDER, at(0))
    town.directory.lose(entry, at(7))
    assert town.directory.next_deadline(at(7)) <= 8
    assert town.expire(7.4) == ["i1"]
    assert town.expire(7.5) == []


def test_a_check_alone_decides_where_no_stream_ever_held_the_lease() -> None:
    town = Town(reap_after=30)
    entry = town.add(check=TCP)
    assert status_of(entry) is Status.STARTING
    assert town.directory.next_deadline(at(0)) == math.inf
    town.directory.judge(entry, PASSED, at(1))
    assert town.expire(1000) == ["i1"]
    town.directory.hold(entry, HOLDER, at(1000))
    town.directory.release(entry)
    assert town.expire(1029) == ["i1"]
    # Registering once more, without a stream, leaves it to the check again.
    town.directory.put(a_spec(check=TCP), "", at(1029))
    assert town.expire(2000) == ["i1"]


def test_thresholds_are_checks_in_a_row() -> None:
    town = Town()
    check = HealthCheck(Probe(ProbeKind.TCP), healthy_threshold=2, unhealthy_threshold=3)
    entry = town.add(check=check)
    seen = []
    for verdict in (PASSED, FAILED, PASSED, PASSED, FAILED, FAILED, PASSED, FAILED, FAILED, FAILED):
        town.directory.judge(entry, verdict, at(1))
        seen.append(entry.instance.status.name[:2])
    assert " ".join(seen) == "ST ST ST SE SE SE SE SE SE UN"
    assert entry.instance.status_reason == "failed"
    assert [change.instance.status for change in town.changes] == [
        Status.STARTING,
        Status.SERVING,
        Status.UNHEALTHY,
    ]


def test_its_own_word_counts_at_once_and_is_not_reaped() -> None:
    town = Town(reap_after=5)
    entry = town.add(check=TCP)
    town.directory.judge(entry, PASSED, at(1))
    town.directory.judge(entry, OWN_WORD, at(2))
    assert status_of(entry) is Status.NOT_SERVING
    assert town.expire(1000) == ["i1"]
    town.directory.judge(entry, PASSED, at(1000))
    assert status_of(entry) is Status.SERVING


def test_what_stays_unhealthy_is_removed() -> None:
    town = Town(reap_after=5)
    entry = town.add(check=TCP)
    for _ in range(3):
        town.directory.judge(entry, FAILED, at(1))
    town.directory.judge(entry, PASSED, at(5))
    assert town.expire(6) == ["i1"]
    for _ in range(3):
        town.directory.judge(entry, FAILED, at(7))
    town.directory.judge(entry, FAILED, at(11))
    assert town.expire(12) == []
    assert town.changes[-1].cause is RemovalCause.UNHEALTHY


def test_set_status_stays_over_checks_and_registering_but_not_over_the_lease() -> None:
    town = Town(reap_after=5)
    entry = town.add(check=TCP)
    town.directory.judge(entry, PASSED, at(1))
    town.directory.declare(entry, DRAINS, at(1))
    for _ in range(5):
        town.directory.judge(entry, FAILED, at(2))
    town.directory.put(a_spec(check=TCP), "", at(3))
    assert status_of(entry) is Status.DRAINING
    assert entry.instance.status_reason == "deploying"
    assert town.expire(500) == ["i1"]
    town.directory.declare(entry, None, at(500))
    assert status_of(entry) is Status.UNHEALTHY
    assert town.expire(505) == []
    leased = town.add(2, 1000)
    town.directory.declare(leased, DRAINS, at(1000))
    assert town.expire(1030) == []


def test_saying_the_same_again_is_no_change_but_another_reason_is() -> None:
    town = Town()
    entry = town.add()
    town.directory.declare(entry, DRAINS, at(1))
    revision, since = town.directory.revision, entry.instance.status_time_ns
    town.directory.declare(entry, DRAINS, at(2))
    town.directory.put(a_spec(), "", at(2))
    assert town.directory.revision == revision
    town.directory.declare(entry, Declared(Status.DRAINING, "still"), at(3))
    assert town.directory.revision == revision + 1
    assert (entry.instance.status_reason, entry.instance.status_time_ns) == ("still", since)


def test_the_same_id_elsewhere_is_a_conflict_while_the_instance_stands() -> None:
    town = Town(reap_after=100)
    town.add(1, check=TCP)
    with pytest.raises(AlreadyExistsError) as caught:
        town.add(1, port=99)
    assert caught.value.metadata == {"address": "10.0.0.1:1001"}
    entry = town.directory.get(Key("users", "i1"))
    town.directory.hold(entry, HOLDER, at(0))
    town.directory.renew(entry, at(0), 5.0)
    for _ in range(3):
        town.directory.judge(entry, FAILED, at(1))
    generation = entry.generation
    assert town.add(1, 2, port=99, check=TCP) is entry
    assert status_of(entry) is Status.STARTING
    assert (entry.holder, entry.load) == (None, None)
    assert entry.generation > generation


def test_an_instance_that_has_run_out_yields_its_id() -> None:
    town = Town()
    entry = town.add(1)
    assert town.add(1, 30, port=99) is entry


def test_another_check_begins_anew_and_the_same_goes_on() -> None:
    town = Town()
    entry = town.add(check=TCP)
    town.directory.judge(entry, PASSED, at(1))
    town.directory.put(a_spec(check=TCP, zone="b"), "", at(2))
    assert status_of(entry) is Status.SERVING
    generation = entry.generation
    town.directory.put(a_spec(check=HealthCheck(Probe(ProbeKind.HTTP))), "", at(3))
    assert status_of(entry) is Status.STARTING
    assert entry.generation == generation + 1
    town.directory.put(a_spec(), "", at(4))
    assert status_of(entry) is Status.SERVING


def test_instances_are_limited() -> None:
    town = Town(max_instances=1)
    town.add()
    town.add()
    with pytest.raises(ResourceExhaustedError) as caught:
        town.add(2)
    assert caught.value.metadata["setting"] == "SWITCHBOARD_MAX_INSTANCES"


def lease_end(entry: Entry) -> int | None:
    return entry.vital.lease_expire_ns


def preserving(town: Town) -> bool:
    return town.directory.preserving


def unconfirmed(entry: Entry) -> bool:
    return entry.unconfirmed


def crowd(count: int = 20) -> Town:
    town = Town()
    for number in range(count):
        town.add(number)
    return town


def test_when_too_many_run_out_at_once_none_goes() -> None:
    town = crowd()
    assert len(town.expire(30)) == 20
    assert preserving(town)
    assert town.directory.withheld == 20
    assert town.directory.preservation.since_ns == at(30).wall_ns
    assert all(entry.unconfirmed for entry in town.directory)
    assert town.directory.next_deadline(at(30)) == 31
    assert len(town.expire(500)) == 20
    assert town.directory.preservation.since_ns == at(30).wall_ns


def test_it_ends_when_enough_are_heard_of() -> None:
    town = crowd()
    town.expire(30)
    for number in range(17):
        town.add(number, 40)
    assert town.directory.withheld == 3
    assert sum(entry.unconfirmed for entry in town.directory) == 3
    # Three of twenty are not more than 15 %.
    assert len(town.expire(41)) == 17
    assert not preserving(town)
    assert len(town.expire(69)) == 17


def test_what_goes_one_after_the_other_within_the_interval_counts_together() -> None:
    town = Town(interval=10)
    for number in range(20):
        town.add(number, number if number < 5 else 0)
        if number >= 5:
            town.directory.hold(town.directory.get(Key("users", f"i{number}")), HOLDER, at(50))
    assert [len(town.expire(30 + second)) for second in range(5)] == [19, 18, 17, 17, 17]
    assert town.directory.withheld == 2
    # Ten seconds later the first three are history.
    assert len(town.expire(43)) == 15


def test_of_few_instances_all_may_go() -> None:
    town = crowd(9)
    assert town.expire(30) == []


def test_a_check_that_passes_again_withdraws_an_instance_from_eviction() -> None:
    town = Town(reap_after=5)
    entries = [town.add(number, check=TCP) for number in range(10)]
    for entry in entries:
        for _ in range(3):
            town.directory.judge(entry, FAILED, at(0))
    assert len(town.expire(5)) == 10
    assert town.directory.withheld == 10
    town.directory.judge(entries[0], FAILED, at(6))
    assert unconfirmed(entries[0])
    town.directory.judge(entries[0], PASSED, at(6))
    assert not unconfirmed(entries[0])
    assert town.directory.withheld == 9
    town.directory.remove(entries[1], RemovalCause.DEREGISTERED, at(6))
    assert town.directory.withheld == 8


def test_a_check_does_not_bring_back_a_lease() -> None:
    town = Town()
    entries = [town.add(number, check=TCP) for number in range(10)]
    for entry in entries:
        town.directory.judge(entry, PASSED, at(0))
        town.directory.hold(entry, HOLDER, at(0))
    town.expire(30)
    town.directory.judge(entries[0], PASSED, at(31))
    assert unconfirmed(entries[0])
    town.directory.forgive(100)
    assert len(town.expire(32)) == 10
    assert town.directory.withheld == 0
    town.directory.judge(entries[0], PASSED, at(33))
    assert not unconfirmed(entries[0])


def test_time_that_the_hub_was_away_is_given_back() -> None:
    town = Town()
    town.add()
    town.directory.forgive(60)
    assert town.expire(89) == ["i1"]
    assert town.expire(90) == []


def test_instances_come_back_as_they_were_with_all_their_time() -> None:
    before = Town(reap_after=5)
    kept = [before.add(1), before.add(2, check=TCP), before.add(3, check=TCP), before.add(4)]
    for _ in range(3):
        before.directory.judge(kept[1], FAILED, at(1))
    before.directory.judge(kept[2], PASSED, at(1))
    before.directory.declare(kept[3], DRAINS, at(1))
    town = Town(reap_after=5, revision=100)
    town.directory.restore(
        [(entry.instance, entry.declared, entry.leased) for entry in kept], at(1000)
    )
    assert town.changes == []
    entries = list(town.directory)
    assert [entry.instance.status for entry in entries] == [
        Status.SERVING,
        Status.UNHEALTHY,
        Status.SERVING,
        Status.DRAINING,
    ]
    assert all(entry.unconfirmed for entry in entries)
    town.directory.judge(entries[2], FAILED, at(1001))
    assert unconfirmed(entries[2])
    town.directory.judge(entries[2], PASSED, at(1002))
    assert not unconfirmed(entries[2])
    town.directory.declare(entries[3], None, at(1002))
    assert status_of(entries[3]) is Status.SERVING
    assert entries[3].instance.revision == 101
    assert town.expire(1005) == ["i1", "i3", "i4"]
    assert town.expire(1030) == ["i3"]
