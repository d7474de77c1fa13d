"""Subscriptions and listings that ask for what cannot be, and rpcs that are not served."""

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from switchboard.v1 import (
    event_service_pb2,
    group_service_pb2,
    realtime_service_pb2,
    registry_service_pb2,
)
from switchboard.v1.event_pb2 import Filter
from switchboard.v1.subscription_pb2 import (
    DELIVERY_MODE_FAN_OUT,
    DELIVERY_MODE_KEY_SHARED,
    DELIVERY_MODE_QUEUE,
)
from tests.integration.client import Client, an_event, failing, numbered, texts
from tests.integration.hubs import MEMORY, connect, running, suspected
from tests.support.hub import HubProcess

INVALID = grpc.StatusCode.INVALID_ARGUMENT

BAD_FILTERS: dict[str, tuple[Filter, list[str], str]] = {
    "star in the middle": (Filter(types=["order.*.eu"]), ["filter.types"], "INVALID_FIELD"),
    "star at the beginning": (Filter(types=["*.created"]), ["filter.types"], "INVALID_FIELD"),
    "two stars": (Filter(types=["order.**"]), ["filter.types"], "INVALID_FIELD"),
    "empty entry": (Filter(types=["order.created", ""]), ["filter.types"], "INVALID_FIELD"),
    "long entry": (Filter(types=["x" * 256]), ["filter.types"], "INVALID_FIELD"),
    "star in a source": (
        Filter(source_services=["a*b"]),
        ["filter.source_services"],
        "INVALID_FIELD",
    ),
    "star in a target": (
        Filter(target_services=["a*b"]),
        ["filter.target_services"],
        "INVALID_FIELD",
    ),
    "several at once": (
        Filter(types=["a*b"], source_services=[""], target_services=["*."]),
        ["filter.types", "filter.source_services", "filter.target_services"],
        "INVALID_FIELD",
    ),
    "long attribute": (
        Filter(attributes={"k": "v" * 1025}),
        ["filter.attributes"],
        "INVALID_FIELD",
    ),
    "unknown priority": (Filter(min_priority=99), ["filter.min_priority"], "INVALID_FIELD"),  # type: ignore[arg-type]
    "negative priority": (Filter(min_priority=-1), ["filter.min_priority"], "INVALID_FIELD"),  # type: ignore[arg-type]
    "257 types": (Filter(types=[str(n) for n in range(257)]), ["filter"], "TOO_LARGE"),
    "257 entries": (
        Filter(types=[str(n) for n in range(256)], attributes={"a": "b"}),
        ["filter"],
        "TOO_LARGE",
    ),
    "a hundred thousand sources": (
        Filter(source_services=[str(n) for n in range(100_000)]),
        ["filter"],
        "TOO_LARGE",
    ),
    "a million times the same": (Filter(types=["a"] * 1_000_000), ["filter"], "TOO_LARGE"),
}

BAD_TIMES = {
    "before year 1": Timestamp(seconds=-62_135_596_801),
    "after 9999": Timestamp(seconds=253_402_300_800),
    "the last of all": Timestamp(seconds=2**63 - 1, nanos=2**31 - 1),
    "negative nanos": Timestamp(seconds=1, nanos=-1),
    "many nanos": Timestamp(seconds=1, nanos=1_000_000_000),
}

BAD_HEARTBEATS = {
    "zero": Duration(),
    "short": Duration(nanos=999_999_999),
    "long": Duration(seconds=3600, nanos=1),
    "ever": Duration(seconds=2**63 - 1),
    "negative": Duration(seconds=-15),
    "two signs": Duration(seconds=15, nanos=-1),
    "many nanos": Duration(seconds=15, nanos=1_000_000_000),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
async def client(hub: HubProcess, kind: str) -> AsyncIterator[Client]:
    async with suspected(hub, kind) as client:
        yield client


async def assert_refused(
    client: Client, fields: list[str], reason: str = "INVALID_FIELD", **request: Any
) -> None:
    """Checks that a subscription is refused."""
    failure = await failing(client.subscribe(**request).next())
    assert (failure.code, failure.reason, failure.fields) == (INVALID, reason, fields)


async def assert_not_listed(
    client: Client, fields: list[str], reason: str = "INVALID_FIELD", **request: Any
) -> None:
    """Checks that a listing is refused."""
    failure = await failing(client.list_events(**request))
    assert (failure.code, failure.reason, failure.fields) == (INVALID, reason, fields)


@pytest.mark.parametrize("name", BAD_FILTERS)
async def test_a_filter_that_cannot_be_is_refused(client: Client, name: str) -> None:
    wish, fields, reason = BAD_FILTERS[name]
    await assert_refused(client, fields, reason, filter=wish)
    await assert_not_listed(client, fields, reason, filter=wish)


async def test_a_filter_may_have_256_entries(client: Client, kind: str) -> None:
    wish = Filter(types=[kind, *(str(n) for n in range(255))])
    async with client.subscribe(filter=wish) as subscriber:
        await client.publish_batch([an_event("255"), *numbered(kind, 1)])
        assert texts(await subscriber.events(1)) == ["0"]


async def test_a_filter_of_a_million_entries_is_refused_where_requests_may_be_large(
    tmp_path: Path,
) -> None:
    settings = {**MEMORY, "SWITCHBOARD_MAX_MESSAGE_BYTES": str(16 * 1024 * 1024)}
    wish = Filter(types=[f"t{number}" for number in range(1_000_000)])
    with running(tmp_path, settings) as hub:
        async with connect(hub) as client:
            await assert_refused(client, ["filter"], "TOO_LARGE", filter=wish)
            await client.publish(an_event())


async def test_a_filter_of_a_million_entries_is_too_large_a_request(client: Client) -> None:
    wish = Filter(types=[f"t{number}" for number in range(1_000_000)])
    failure = await failing(client.subscribe(filter=wish).next())
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", BAD_TIMES)
async def test_a_time_that_cannot_be_is_refused(client: Client, name: str) -> None:
    moment = BAD_TIMES[name]
    await assert_refused(client, ["after_time"], after_time=moment)
    await assert_not_listed(client, ["start_time"], start_time=moment)
    await assert_not_listed(client, ["end_time"], end_time=moment)


async def test_a_start_after_a_time_to_come_is_refused(client: Client) -> None:
    await client.publish(an_event())
    await assert_refused(client, ["after_time"], after_time=Timestamp(seconds=253_402_300_799))


@pytest.mark.parametrize("name", BAD_HEARTBEATS)
async def test_a_heartbeat_out_of_range_is_refused(client: Client, name: str) -> None:
    interval = BAD_HEARTBEATS[name]
    await assert_refused(client, ["heartbeat_interval"], heartbeat_interval=interval)


async def test_an_end_before_the_start_is_refused(client: Client) -> None:
    await assert_not_listed(
        client, ["end_time"], start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1)
    )


@pytest.mark.parametrize("number", [99, -1, 4])
async def test_an_unknown_enum_value_is_refused(client: Client, number: int) -> None:
    await assert_refused(client, ["start_at"], start_at=number)
    await assert_refused(client, ["mode"], mode=number)
    await assert_not_listed(client, ["order"], order=number)


async def test_a_page_size_out_of_range_is_refused(client: Client) -> None:
    await assert_not_listed(client, ["page_size"], page_size=1001)
    # -1 as a client without unsigned numbers sends it.
    await assert_not_listed(client, ["page_size"], page_size=2**32 - 1)


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "é",
        "=" * 22,
        "A" * 22,
        "A" * 100_000,
        "../../etc/passwd",
        base64.urlsafe_b64encode(b"\xff" * 16).decode().rstrip("="),
    ],
    ids=lambda token: token[:22],
)
async def test_a_page_token_that_is_none_is_refused(client: Client, token: str) -> None:
    await assert_not_listed(client, ["page_token"], "INVALID_PAGE_TOKEN", page_token=token)


async def test_a_page_token_of_another_query_or_hub_is_refused(
    client: Client, kind: str, tmp_path: Path
) -> None:
    await client.publish_batch(numbered(kind, 5))
    token = (await client.list_events(kind, page_size=2)).next_page_token
    assert token
    for other in (
        {"kinds": f"{kind}*"},
        {"kinds": kind, "order": event_service_pb2.LIST_ORDER_OLDEST_FIRST},
        {"kinds": kind, "start_time": Timestamp(seconds=1)},
        {"kinds": kind, "end_time": Timestamp(seconds=253_402_300_799)},
        {"filter": Filter(types=[kind], attributes={"a": "b"})},
    ):
        await assert_not_listed(
            client, ["page_token"], "INVALID_PAGE_TOKEN", page_token=token, **other
        )
    for changed in (token[:-1], token + "A", token[1:] + token[0], token.swapcase()):
        await assert_not_listed(
            client, ["page_token"], "INVALID_PAGE_TOKEN", kinds=kind, page_token=changed
        )
    with running(tmp_path, MEMORY) as hub:
        async with connect(hub) as elsewhere:
            await elsewhere.publish_batch(numbered(kind, 5))
            await assert_not_listed(
                elsewhere, ["page_token"], "INVALID_PAGE_TOKEN", kinds=kind, page_token=token
            )


async def test_modes_of_groups_need_a_group(client: Client) -> None:
    for mode in (DELIVERY_MODE_QUEUE, DELIVERY_MODE_KEY_SHARED):
        await assert_refused(client, ["group"], "FIELD_MISSING", mode=mode)


async def test_fan_out_may_be_asked_for_by_name(client: Client, kind: str) -> None:
    async with client.subscribe(kind, mode=DELIVERY_MODE_FAN_OUT) as subscriber:
        await client.publish(an_event(kind))
        assert len(await subscriber.events(1)) == 1


async def test_every_service_of_the_api_is_served(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    served = (await health.List(health_pb2.HealthListRequest(), timeout=30)).statuses
    modules = (group_service_pb2, realtime_service_pb2, registry_service_pb2, event_service_pb2)
    for module in modules:
        for service in module.DESCRIPTOR.services_by_name.values():
            assert service.full_name in served


@pytest.mark.parametrize(
    "path", ["/switchboard.v1.EventService/Nope", "/no.such.Service/Publish", "/", "/x"]
)
async def test_an_unknown_rpc_is_unimplemented(client: Client, path: str) -> None:
    # gRPC itself answers it: there are no details.
    failure = await failing(client.raw(path, b""))
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
