"""RegistryService over a real connection: registering, finding, listing, watching."""

import asyncio
from collections import Counter
from itertools import count
from typing import Any

import grpc
import pytest

from switchboard.v1.registry_service_pb2 import (
    DISCOVER_POLICY_CONSISTENT_HASH,
    DISCOVER_POLICY_LEAST_LOADED,
    DISCOVER_POLICY_RANDOM,
    KeepAliveRequest,
)
from switchboard.v1.service_instance_pb2 import (
    INSTANCE_STATUS_DRAINING,
    INSTANCE_STATUS_SERVING,
    HealthCheck,
    HeartbeatProbe,
    HttpProbe,
    ServiceInstance,
)
from switchboard.v1.watch_pb2 import (
    INSTANCE_CHANGE_KIND_PUT,
    INSTANCE_CHANGE_KIND_REMOVE,
    REMOVAL_CAUSE_DEREGISTERED,
    REMOVAL_CAUSE_LEASE_EXPIRED,
    REMOVAL_CAUSE_STATUS,
)
from tests.integration.client import Client, failing, failure_of
from tests.integration.registry_client import RegistryClient, an_instance, answered

_numbers = count(1)


@pytest.fixture
def registry(client: Client) -> RegistryClient:
    return RegistryClient(client)


@pytest.fixture
def service() -> str:
    return f"service{next(_numbers)}"


async def test_a_registered_instance_is_found_as_it_registered(
    registry: RegistryClient, service: str
) -> None:
    given = ServiceInstance(
        service_name=service,
        service_url="http://127.0.0.1:8010/api",
        version="1.4.2",
        zone="eu-1a",
        weight=3,
        metadata={"team": "users"},
    )
    answer = await registry.register(given)
    assert answer.created
    told = answer.instance
    assert (told.instance_id, told.host, told.port) == ("127.0.0.1:8010", "127.0.0.1", 8010)
    assert told.status == INSTANCE_STATUS_SERVING
    assert told.lease_ttl.seconds == 30
    assert told.health_check.HasField("heartbeat")
    assert told.register_time.seconds == told.status_time.seconds > 0
    assert told.lease_expire_time.seconds >= told.register_time.seconds + 29
    found = await registry.discover(service)
    (instance,) = found.instances
    assert (instance.version, instance.zone, instance.weight) == ("1.4.2", "eu-1a", 3)
    assert (instance.service_url, dict(instance.metadata)) == (
        given.service_url,
        {"team": "users"},
    )
    assert found.candidates == 1
    assert found.revision >= instance.revision == told.revision


async def test_registering_again_renews_and_replaces_the_fields(
    registry: RegistryClient, service: str
) -> None:
    first = (await registry.register(an_instance(service, version="1.0.0"))).instance
    same = await registry.register(an_instance(service, version="1.0.0"))
    assert not same.created
    assert same.instance.revision == first.revision
    other = await registry.register(an_instance(service, zone="b"))
    assert (other.instance.version, other.instance.zone) == ("", "b")
    assert other.instance.revision > first.revision
    assert other.instance.register_time == first.register_time


async def test_the_same_id_at_another_address_is_a_conflict(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(service))
    failure = await failing(registry.register(an_instance(service, port=9)))
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "INSTANCE_CONFLICT",
    )
    assert failure.metadata == {"address": "127.0.0.1:20001"}
    await registry.deregister(service, "i1")
    assert (await registry.register(an_instance(service, port=9))).created


async def test_what_is_deregistered_is_gone_and_cannot_be_again(
    registry: RegistryClient, service: str
) -> None:
    registered = (await registry.register(an_instance(service))).instance
    assert await registry.deregister(service, "i1") > registered.revision
    failure = await failing(registry.deregister(service, "i1"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "INSTANCE_NOT_FOUND")
    failure = await failing(registry.discover(service))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"host": ""}, "instance.host", "FIELD_MISSING"),
        ({"port": 0}, "instance.port", "FIELD_MISSING"),
        ({"port": 70000}, "instance.port", "INVALID_FIELD"),
        ({"service_url": "nonsense"}, "instance.service_url", "INVALID_FIELD"),
        ({"service_url": "http://other:80"}, "instance.host", "INVALID_FIELD"),
        ({"version": "1.4"}, "instance.version", "INVALID_FIELD"),
        ({"weight": 10_001}, "instance.weight", "INVALID_FIELD"),
        ({"metadata": {f"k{n}": "" for n in range(65)}}, "instance.metadata", "TOO_LARGE"),
        ({"metadata": {"k" * 129: ""}}, "instance.metadata", "INVALID_FIELD"),
        ({"metadata": {"k": "v" * 513}}, "instance.metadata", "INVALID_FIELD"),
        ({"lease_ttl": {"seconds": 0}}, "instance.lease_ttl", "INVALID_FIELD"),
        ({"lease_ttl": {"seconds": 86401}}, "instance.lease_ttl", "INVALID_FIELD"),
        (
            {"health_check": HealthCheck(http=HttpProbe(url="ftp://127.0.0.1/"))},
            "instance.health_check.http.url",
            "INVALID_FIELD",
        ),
        (
            {"health_check": HealthCheck(heartbeat=HeartbeatProbe(), unhealthy_threshold=101)},
            "instance.health_check.unhealthy_threshold",
            "INVALID_FIELD",
        ),
    ],
)
async def test_a_bad_registration_is_refused_by_its_field(
    registry: RegistryClient, service: str, fields: dict[str, Any], field: str, reason: str
) -> None:
    failure = await failing(registry.register(an_instance(service, **fields)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert failure.fields == [field]


async def test_the_largest_metadata_are_taken(registry: RegistryClient, service: str) -> None:
    metadata = {f"{n:02}".ljust(128, "é"): "ü" * 512 for n in range(64)}
    await registry.register(an_instance(service, metadata=metadata))
    (found,) = (await registry.discover(service)).instances
    assert dict(found.metadata) == metadata


async def test_round_robin_takes_turns_by_weight(registry: RegistryClient, service: str) -> None:
    for number, weight in ((1, 1), (2, 3)):
        await registry.register(an_instance(service, number, weight=weight))
    picks = Counter(
        [(await registry.discover(service)).instances[0].instance_id for _ in range(40)]
    )
    assert 29 <= picks["i2"] <= 31


async def test_several_instances_are_different(registry: RegistryClient, service: str) -> None:
    for number in range(5):
        await registry.register(an_instance(service, number))
    for policy in (0, DISCOVER_POLICY_RANDOM, DISCOVER_POLICY_LEAST_LOADED):
        found = await registry.discover(service, policy=policy, max_instances=3)
        assert len({each.instance_id for each in found.instances}) == 3
        assert found.candidates == 5


async def test_the_least_loaded_is_picked_by_what_keep_alive_reports(
    registry: RegistryClient, service: str
) -> None:
    calls = []
    for number, load in ((1, 10.0), (2, 1.0)):
        await registry.register(an_instance(service, number))
        calls.append(await registry.kept(service, f"i{number}", load=load))
    found = await registry.discover(service, policy=DISCOVER_POLICY_LEAST_LOADED)
    assert (found.instances[0].instance_id, found.instances[0].load) == ("i2", 1.0)
    assert not found.instances[0].HasField("lease_expire_time")
    await calls[1].write(KeepAliveRequest(load=20.0))
    await calls[1].read()
    found = await registry.discover(service, policy=DISCOVER_POLICY_LEAST_LOADED)
    assert found.instances[0].instance_id == "i1"
    for call in calls:
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK


async def test_a_key_stays_with_its_instance_and_needs_to_be_named(
    registry: RegistryClient, service: str
) -> None:
    for number in range(4):
        await registry.register(an_instance(service, number))

    async def pick(key: str, limit: int = 1) -> list[str]:
        found = await registry.discover(
            service,
            policy=DISCOVER_POLICY_CONSISTENT_HASH,
            hash_key=key,
            max_instances=limit,
        )
        return [each.instance_id for each in found.instances]

    first, second = await pick("user-7", 2)
    assert await pick("user-7") == [first]
    await registry.deregister(service, first)
    assert await pick("user-7") == [second]
    failure = await failing(registry.discover(service, policy=DISCOVER_POLICY_CONSISTENT_HASH))
    assert (failure.reason, failure.fields) == ("FIELD_MISSING", ["hash_key"])


async def test_discover_filters_by_metadata_version_and_zone(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(service, 1, version="1.4.0", metadata={"tier": "gold"}))
    await registry.register(an_instance(service, 2, version="2.0.0", zone="a"))
    await registry.register(an_instance(service, 3, version="2.1.0-rc.1", zone="a"))
    await registry.register(an_instance(service, 4))
    assert await registry.discovered(service, metadata={"tier": "gold"}) == ["i1"]
    assert await registry.discovered(service, version_range="^1.2 || 2.x") == ["i1", "i2"]
    assert await registry.discovered(service, version_range=">=2.1.0-rc.0") == ["i3"]
    near = await registry.discover(service, prefer_zone="a", max_instances=3)
    assert {each.instance_id for each in near.instances[:2]} == {"i2", "i3"}
    assert (len(near.instances), near.candidates) == (3, 4)
    failure = await failing(registry.discover(service, version_range="one"))
    assert (failure.reason, failure.fields) == ("INVALID_FIELD", ["version_range"])


async def test_when_none_serves_it_says_how_many_there_are_and_why(
    registry: RegistryClient, service: str
) -> None:
    for number in (1, 2):
        await registry.register(an_instance(service, number))
        await registry.set_status(service, f"i{number}", "DRAINING", "a new version comes")
    await registry.register(an_instance(service, 3, version="1.0.0"))
    failure = await failing(registry.discover(service, metadata={"no": "such"}))
    assert failure.metadata == {"registered": "3", "matching": "0"}
    await registry.deregister(service, "i3")
    failure = await failing(registry.discover(service))
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "NO_INSTANCE_SERVING",
    )
    assert failure.metadata == {
        "registered": "2",
        "matching": "2",
        "draining": "2",
        "cause": "a new version comes",
    }


async def test_what_drains_leaves_discover_and_watch_and_comes_back(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(service, 1))
    await registry.register(an_instance(service, 2))
    async with (
        registry.followed(service) as serving,
        registry.followed(service, all_statuses=True) as everything,
    ):
        told = await registry.set_status(service, "i1", "DRAINING", "deploying")
        assert (told.status, told.status_reason) == (INSTANCE_STATUS_DRAINING, "deploying")
        assert await registry.discovered(service) == ["i2"]
        change = await serving.change()
        assert (change.kind, change.removal_cause) == (
            INSTANCE_CHANGE_KIND_REMOVE,
            REMOVAL_CAUSE_STATUS,
        )
        change = await everything.change()
        assert (change.kind, change.instance.status) == (
            INSTANCE_CHANGE_KIND_PUT,
            INSTANCE_STATUS_DRAINING,
        )
        # What was said stays when it registers again.
        await registry.register(an_instance(service, 1))
        assert await registry.discovered(service) == ["i2"]
        await registry.set_status(service, "i1", "SERVING")
        assert (await serving.change()).instance.instance_id == "i1"
        assert await registry.discovered(service) == ["i1", "i2"]


async def test_an_unknown_status_cannot_be_set(registry: RegistryClient, service: str) -> None:
    await registry.register(an_instance(service))
    for status in ("UNSPECIFIED", "STARTING", "UNHEALTHY"):
        failure = await failing(registry.set_status(service, "i1", status))
        assert (failure.reason, failure.fields) == ("INVALID_FIELD", ["status"])
    failure = await failing(registry.set_status(service, "i1", "DRAINING", "x" * 1025))
    assert (failure.reason, failure.fields) == ("TOO_LARGE", ["reason"])


async def test_services_are_listed_a_page_at_a_time(registry: RegistryClient, service: str) -> None:
    names = [f"{service}.{letter}" for letter in "abcde"]
    for name in names:
        await registry.register(an_instance(name, 1, version="1.10.0", zone="b"))
        await registry.register(an_instance(name, 2, version="1.9.0", zone="a"))
    await registry.set_status(names[0], "i2", "NOT_SERVING")
    seen, token = [], ""
    while True:
        page = await registry.list_services(name_prefix=service, page_size=2, page_token=token)
        seen += [each.service_name for each in page.services]
        if not (token := page.next_page_token):
            break
    assert seen == names
    page = await registry.list_services(name_prefix=names[0], include_instances=True)
    (listed,) = page.services
    assert {each.status: each.count for each in listed.status_counts} == {2: 1, 4: 1}
    assert (list(listed.versions), list(listed.zones)) == (["1.9.0", "1.10.0"], ["a", "b"])
    assert [each.instance_id for each in listed.instances] == ["i1", "i2"]
    assert not page.self_preservation.active
    assert page.self_preservation.registered >= 10
    failure = await failing(registry.list_services(page_token="nonsense"))
    assert failure.reason == "INVALID_PAGE_TOKEN"


async def test_a_watch_shows_a_snapshot_and_then_changes_with_revisions(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(f"{service}.a"))
    await registry.register(an_instance(f"{service}x"))
    async with registry.watching(f"{service}.*") as watching:
        assert await watching.words(3) == ["snapshot_begin", None, "snapshot_end"]
        assert list(watching.known) == [f"{service}.a/i1"]
        await registry.register(an_instance(f"{service}x", 2))
        added = (await registry.register(an_instance(f"{service}.b"))).instance
        change = await watching.change()
        assert (change.kind, change.instance.revision) == (
            INSTANCE_CHANGE_KIND_PUT,
            added.revision,
        )
        assert watching.revision == added.revision
        revision = await registry.deregister(f"{service}.a", "i1")
        change = await watching.change()
        assert (change.kind, change.removal_cause) == (
            INSTANCE_CHANGE_KIND_REMOVE,
            REMOVAL_CAUSE_DEREGISTERED,
        )
        assert watching.revision == revision


async def test_a_watch_resumes_after_a_revision_or_is_compacted(
    registry: RegistryClient, service: str
) -> None:
    first = (await registry.register(an_instance(service, 1))).instance
    await registry.register(an_instance(service, 2))
    async with registry.watching(service, after_revision=first.revision) as watching:
        assert await watching.words(1) == ["resumed"]
        assert (await watching.change()).instance.instance_id == "i2"
    async with registry.watching(service, after_revision=1 << 60) as watching:
        words = ["compacted", "snapshot_begin", None, "snapshot_end"]
        assert await watching.words(4) == words
        assert len(watching.known) == 2


async def test_a_silent_watch_has_a_heartbeat(registry: RegistryClient, service: str) -> None:
    async with registry.followed(service, heartbeat_interval={"seconds": 1}) as watching:
        assert await watching.words(1) == ["heartbeat"]
    async with registry.watching(service, heartbeat_interval={"nanos": 1}) as watching:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching.next()
        assert failure_of(caught.value).fields == ["heartbeat_interval"]


async def test_an_instance_leaves_within_a_second_of_the_death_of_its_stream(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(service))
    async with registry.followed(service) as watching:
        call = await registry.kept(service, "i1")
        began = _now()
        call.cancel()
        change = await watching.change()
        assert _now() - began < 1.0
    assert change.removal_cause == REMOVAL_CAUSE_LEASE_EXPIRED
    failure = await failing(registry.discover(service))
    assert failure.reason == "SERVICE_NOT_FOUND"


async def test_a_lease_runs_on_when_its_stream_is_half_closed(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(service, lease_ttl={"seconds": 2}))
    call = await registry.kept(service, "i1")
    (held,) = (await registry.discover(service)).instances
    assert not held.HasField("lease_expire_time")
    async with registry.followed(service) as watching:
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        (found,) = (await registry.discover(service)).instances
        assert found.HasField("lease_expire_time")
        change = await watching.change()
        assert change.removal_cause == REMOVAL_CAUSE_LEASE_EXPIRED


async def test_a_lease_ends_when_its_stream_goes_silent(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(service, lease_ttl={"seconds": 1}))
    call = await registry.kept(service, "i1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).reason == "INSTANCE_NOT_FOUND"


async def test_each_request_and_each_new_status_is_answered(
    registry: RegistryClient, service: str
) -> None:
    await registry.register(an_instance(service))
    call = await registry.kept(service, "i1")
    for _ in range(3):
        await call.write(KeepAliveRequest(service_name=service))
        answer = await answered(call)
        assert (answer.status, answer.lease_ttl.seconds) == (INSTANCE_STATUS_SERVING, 30)
    await registry.set_status(service, "i1", "DRAINING", "soon gone")
    answer = await answered(call)
    assert (answer.status, answer.status_reason) == (INSTANCE_STATUS_DRAINING, "soon gone")
    await registry.deregister(service, "i1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "INSTANCE_NOT_FOUND")


async def test_another_stream_takes_the_lease_over(registry: RegistryClient, service: str) -> None:
    await registry.register(an_instance(service))
    first = await registry.kept(service, "i1")
    second = await registry.kept(service, "i1")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await first.read()
    failure = failure_of(caught.value)
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "LEASE_TAKEN_OVER")
    await second.write(KeepAliveRequest())
    assert (await answered(second)).status == INSTANCE_STATUS_SERVING
    assert await registry.discovered(service) == ["i1"]


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "FIELD_MISSING"),
        ([KeepAliveRequest(service_name="s")], "FIELD_MISSING"),
        ([KeepAliveRequest(instance_id="i")], "FIELD_MISSING"),
        ([KeepAliveRequest(service_name="no", instance_id="such")], "INSTANCE_NOT_FOUND"),
    ],
)
async def test_a_keep_alive_must_name_an_instance(
    registry: RegistryClient, requests: list[KeepAliveRequest], reason: str
) -> None:
    call = registry.keep_alive()
    for request in requests:
        await call.write(request)
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).reason == reason


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (KeepAliveRequest(instance_id="other"), "instance_id"),
        (KeepAliveRequest(load=-1), "load"),
        (KeepAliveRequest(load=float("nan")), "load"),
    ],
)
async def test_a_keep_alive_that_contradicts_itself_is_refused(
    registry: RegistryClient, service: str, request_: KeepAliveRequest, field: str
) -> None:
    await registry.register(an_instance(service))
    call = await registry.kept(service, "i1")
    await call.write(request_)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).fields == [field]


def _now() -> float:
    return asyncio.get_running_loop().time()
