"""The hub's main job on real input: every example of GitHub's webhooks, through it and back."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.json_format import MessageToDict

from switchboard.v1.event_pb2 import Event
from switchboard.v1.event_service_pb2 import (
    LIST_ORDER_OLDEST_FIRST,
    PublishStreamRequest,
)
from tests.integration.client import Client, an_event
from tests.integration.hubs import connect, running
from tests.support.hub import HubProcess

EXAMPLES = (
    Path(__file__).parents[1] / "node_modules/@octokit/webhooks-examples/api.github.com/index.json"
)
COUNT = 329
KINDS = ("data", "text", "binary")


class Webhook(NamedTuple):
    """A payload as GitHub sends it, and the name of its event."""

    name: str
    payload: dict[str, Any]

    @property
    def json(self) -> str:
        return json.dumps(self.payload, ensure_ascii=False)

    def event(self, kind: str) -> Event:
        """It as an event whose payload is of some kind."""
        event = an_event(f"github.{self.name}", "github", content_type="application/json")
        event.attributes["kind"] = kind
        if kind == "data":
            event.data.update(self.payload)
        elif kind == "text":
            event.text = self.json
        else:
            event.binary = self.json.encode()
        return event


def payload_of(event: Event) -> Any:
    """The payload as the JSON that a receiver parses.

    A Struct holds every number as a double. All of the examples' are exact in it, and 1 equals 1.0
    to Python, so equal means equal.
    """
    kind = event.WhichOneof("payload")
    if kind == "data":
        return MessageToDict(event.data)
    return json.loads(event.text if kind == "text" else event.binary)


def numbers(value: Any) -> Iterator[int | float]:
    """All numbers in some JSON."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.fixture(scope="module")
def webhooks() -> list[Webhook]:
    found = [
        Webhook(each["name"], payload)
        for each in json.loads(EXAMPLES.read_text(encoding="utf-8"))
        for payload in each["examples"]
    ]
    assert len(found) == COUNT
    return found


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
async def client(hub: HubProcess) -> AsyncIterator[Client]:
    async with connect(hub) as client:
        yield client


def test_doubles_hold_every_number_of_the_examples(webhooks: list[Webhook]) -> None:
    found = [number for webhook in webhooks for number in numbers(webhook.payload)]
    assert len(found) > COUNT
    assert all(float(number) == number for number in found)


async def listed(client: Client, kinds: str) -> list[Event]:
    """All events of some types, oldest first, page by page."""
    events: list[Event] = []
    token = None
    while token != "":
        page = await client.list_events(
            kinds, order=LIST_ORDER_OLDEST_FIRST, page_token=token or "", page_size=100
        )
        events += page.events
        token = page.next_page_token
    return events


def assert_same(events: list[Event], webhooks: list[Webhook], kind: str) -> None:
    """Checks that events are the webhooks, all of them, in order and once."""
    assert len(events) == len(webhooks)
    for event, webhook in zip(events, webhooks, strict=True):
        sent = webhook.event(kind)
        assert event.type == f"github.{webhook.name}"
        assert event.WhichOneof("payload") == kind
        assert getattr(event, kind) == getattr(sent, kind)
        assert payload_of(event) == webhook.payload
        assert (event.source_service, event.content_type) == ("github", "application/json")
        assert dict(event.attributes) == {"kind": kind}


@pytest.mark.parametrize("kind", KINDS)
async def test_webhooks_arrive_and_are_read_back_as_they_were_sent(
    client: Client, webhooks: list[Webhook], kind: str
) -> None:
    before = len(await listed(client, "github.*"))
    async with client.subscribe("github.*") as subscriber:
        answers = [await client.publish(webhook.event(kind)) for webhook in webhooks]
        events = await subscriber.events(COUNT)
    assert_same(events, webhooks, kind)
    assert [(event.id, event.sequence) for event in events] == [
        (answer.id, answer.sequence) for answer in answers
    ]
    assert (await listed(client, "github.*"))[before:] == events


async def test_webhooks_arrive_through_a_stream_of_batches(
    client: Client, webhooks: list[Webhook]
) -> None:
    async with client.subscribe("github.*") as subscriber:
        stream = client.publish_stream()
        for start in range(0, COUNT, 10):
            batch = [webhook.event("data") for webhook in webhooks[start : start + 10]]
            await stream.write(PublishStreamRequest(events=batch))
        await stream.done_writing()
        acknowledged = [
            place.count
            async for response in stream
            for ack in response.acks
            for place in ack.sequences
        ]
        assert sum(acknowledged) == COUNT
        assert_same(await subscriber.events(COUNT), webhooks, "data")


async def test_a_subscriber_to_one_kind_of_webhook_gets_that_kind_only(
    client: Client, webhooks: list[Webhook]
) -> None:
    wanted = [webhook for webhook in webhooks if webhook.name in ("push", "issues")]
    assert 0 < len(wanted) < COUNT
    async with client.subscribe(["github.push", "github.issues"]) as subscriber:
        await client.publish_batch(webhook.event("text") for webhook in webhooks)
        assert_same(await subscriber.events(len(wanted)), wanted, "text")
