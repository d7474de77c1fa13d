"""What the registry tells, as messages: joined from bytes, split where it would be too much."""

from dataclasses import replace
from typing import Any

import pytest

from switchboard.v1.registry_service_pb2 import DiscoverResponse
from switchboard.v1.service_instance_pb2 import ServiceInstance
from switchboard.v1.watch_pb2 import WatchResponse
from switchboard_server.core.registry.directory import Directory
from switchboard_server.core.registry.discovery import Discovered
from switchboard_server.core.registry.entries import Declared
from switchboard_server.core.registry.model import Change, HealthCheck, Probe, ProbeKind, Status
from switchboard_server.core.registry.watching import Delta, SnapshotPart
from switchboard_server.wire import registry as wire
from tests.support.registries import a_spec, at

LARGE = {f"{number:02}": "x" * 512 for number in range(64)}
"""Metadata that take 33 KB."""


class Town:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.directory = Directory(lambda change, _: self.changes.append(change))

    def fill(self, count: int) -> None:
        for number in range(count):
            self.directory.put(a_spec(number, metadata=LARGE), "", at(0))


def test_many_large_changes_are_told_in_several_responses_in_order() -> None:
    town = Town()
    town.fill(100)
    raw = wire.delta_responses(Delta(town.changes, 123), all_statuses=True)
    assert len(raw) > 1
    assert all(len(each) < 2 * wire.MAX_RESPONSE_BYTES for each in raw)
    responses = [WatchResponse.FromString(each) for each in raw]
    told = [change.instance.revision for each in responses for change in each.changes]
    assert told == list(range(1, 101))
    # Who goes on after one of them misses nothing of the next.
    for each in responses[:-1]:
        assert each.revision == each.changes[-1].instance.revision
    assert responses[-1].revision == 123


def test_a_large_part_of_a_snapshot_is_split_and_has_no_revision() -> None:
    town = Town()
    town.fill(100)
    raw = wire.watch_responses(SnapshotPart(list(town.directory)))
    responses = [WatchResponse.FromString(each) for each in raw]
    assert len(responses) > 1
    assert sum(len(each.changes) for each in responses) == 100
    assert {each.revision for each in responses} == {0}


def test_discover_answers_with_fewer_instances_rather_than_too_many_bytes() -> None:
    town = Town()
    town.fill(200)
    raw = wire.discovered(Discovered(list(town.directory), 200, 7))
    assert len(raw) < wire.MAX_DISCOVER_BYTES + 100
    response = DiscoverResponse.FromString(raw)
    assert 50 < len(response.instances) < 200
    assert (response.candidates, response.revision) == (200, 7)


def test_a_change_is_encoded_once_for_each_that_is_told_the_same() -> None:
    town = Town()
    entry, _ = town.directory.put(a_spec(1), "", at(0))
    town.directory.declare(entry, Declared(Status.DRAINING, ""), at(1))
    change = town.changes[-1]
    everything = wire.change_bytes(change, all_statuses=True)
    assert wire.change_bytes(change, all_statuses=True) is everything
    assert wire.change_bytes(change, all_statuses=False) != everything


def test_an_instance_is_encoded_again_only_when_it_is_another() -> None:
    town = Town()
    entry, _ = town.directory.put(a_spec(1), "", at(0))
    first = wire.entry_field(entry)
    assert wire.entry_field(entry) is first
    entry.load = 2.5
    loaded = wire.entry_field(entry)
    assert DiscoverResponse.FromString(loaded).instances[0].load == 2.5
    town.directory.put(a_spec(1), "", at(9))
    assert wire.entry_field(entry) != loaded


@pytest.mark.parametrize(
    "check",
    [
        HealthCheck(),
        HealthCheck(Probe(ProbeKind.HTTP, "/up")),
        HealthCheck(Probe(ProbeKind.GRPC, "10.0.0.1:9", "users", tls=True), unhealthy_threshold=7),
        HealthCheck(Probe(ProbeKind.TCP)),
    ],
)
def test_what_is_told_of_an_instance_registers_the_same_again(check: HealthCheck) -> None:
    town = Town()
    fields: dict[str, Any] = {"version": "1.2.3", "zone": "z", "weight": 3, "metadata": {"a": "b"}}
    spec = a_spec(1, url="http://10.0.0.1:1001/", check=check, **fields)
    entry, _ = town.directory.put(spec, "me", at(0))
    told = ServiceInstance.FromString(wire.instance_bytes(entry.instance, entry.vital))
    again = wire.decode_instance(told)
    if check.probe is None:
        # There is no interval to tell where nothing is checked.
        again = replace(again, check=spec.check)
    assert again == spec
