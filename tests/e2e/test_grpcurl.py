"""A person with a shell: the real grpcurl against a hub that scripts/serve started."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from tests.integration.credentials import SECRET
from tests.integration.hubs import MEMORY, assert_no_defect, running
from tests.support.hub import HubProcess

SERVE = Path(__file__).parents[2] / "scripts" / "serve"
GRPCURL = Path(sys.executable).with_name("grpcurl")
EVENTS = "switchboard.v1.EventService"
PATIENCE = 60.0
"""Seconds after which a program that must end has not."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub"), command=(str(SERVE),)) as hub:
        yield hub
        assert hub.terminate() == 0
    assert_no_defect(hub.text)


def grpcurl(hub: HubProcess, *arguments: str, flags: tuple[str, ...] = ()) -> str:
    """Runs grpcurl, which must succeed, and returns what it prints."""
    done = subprocess.run(
        [GRPCURL, "-plaintext", *flags, hub.address, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(hub: HubProcess, method: str, request: Any = None) -> Any:
    """Calls an rpc with one response."""
    flags = () if request is None else ("-d", json.dumps(request))
    return json.loads(grpcurl(hub, method, flags=flags))


def publish(hub: HubProcess, kind: str, **fields: Any) -> Any:
    event = {"type": kind, "source_service": "shell", **fields}
    return call(hub, f"{EVENTS}/Publish", {"event": event})


class Listener:
    """A program that subscribes, and prints what it receives as JSON.

    Args:
        command: The program and its arguments.
        env: Its environment; None: this process's.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def next(self) -> Any:
        """Reads the next response, which grpcurl prints over several lines."""
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                return json.loads(text)
        raise AssertionError(f"the stream has ended:\n{text}")

    def events(self, count: int) -> list[Any]:
        """Reads responses until so many events have come."""
        events: list[Any] = []
        while len(events) < count:
            events += [each["event"] for each in self.next().get("deliveries", ())]
        return events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # All of its session, since a shell may stand between.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


def subscribed(hub: HubProcess, request: Any) -> Listener:
    """A grpcurl that subscribes."""
    limit = ("-max-time", str(PATIENCE))
    flags = ("-plaintext", *limit, "-d", json.dumps(request))
    return Listener([str(GRPCURL), *flags, hub.address, f"{EVENTS}/Subscribe"])


def test_list_names_the_services(hub: HubProcess) -> None:
    assert set(grpcurl(hub, "list").split()) == {
        EVENTS,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    methods = grpcurl(hub, "list", EVENTS).split()
    assert {f"{EVENTS}.Publish", f"{EVENTS}.Subscribe", f"{EVENTS}.ListEvents"} <= set(methods)


def test_describe_shows_services_and_messages(hub: HubProcess) -> None:
    service = grpcurl(hub, "describe", EVENTS)
    assert "rpc Publish ( .switchboard.v1.PublishRequest )" in service
    assert "returns ( stream .switchboard.v1.SubscribeResponse )" in service
    assert 'option (.switchboard.v1.permission) = "events.publish";' in service
    message = grpcurl(hub, "describe", "switchboard.v1.Event")
    for field in ("string source_service = 3;", "oneof payload", "uint64 sequence = 15;"):
        assert field in message
    template = grpcurl(hub, "describe", "switchboard.v1.Filter", flags=("-msg-template",))
    assert '"min_priority"' in template


def test_describe_needs_no_name(hub: HubProcess) -> None:
    described = grpcurl(hub, "describe")
    assert "service EventService {" in described
    assert "service Health {" in described


def test_health_is_asked_by_its_own_name(hub: HubProcess) -> None:
    assert call(hub, "grpc.health.v1.Health/Check") == {"status": "SERVING"}
    answer = call(hub, "grpc.health.v1.Health/Check", {"service": EVENTS})
    assert answer == {"status": "SERVING"}


def test_an_event_is_published_received_and_listed(hub: HubProcess) -> None:
    data = {"order": 7, "lines": [{"sku": "a"}], "note": "é"}
    with subscribed(hub, {"filter": {"types": ["shell.*"]}}) as listener:
        assert "started" in listener.next()
        answer = publish(
            hub, "shell.created", data=data, attributes={"tenant": "a"}, priority="PRIORITY_HIGH"
        )
        publish(hub, "other.created")
        publish(hub, "shell.text", text="second")
        event, second = listener.events(2)
    assert event["data"] == data
    assert (event["type"], event["source_service"]) == ("shell.created", "shell")
    assert (event["attributes"], event["priority"]) == ({"tenant": "a"}, "PRIORITY_HIGH")
    assert (event["id"], event["sequence"]) == (answer["id"], answer["sequence"])
    assert event["publish_time"] == answer["publish_time"]
    assert second["text"] == "second"
    listing = {"filter": {"types": ["shell.*"]}, "order": "LIST_ORDER_OLDEST_FIRST"}
    listed = call(hub, f"{EVENTS}/ListEvents", listing)
    assert listed["events"] == [event, second]


def test_a_subscription_from_the_beginning_catches_up(hub: HubProcess) -> None:
    for number in range(3):
        publish(hub, "past.created", text=str(number))
    request = {"filter": {"types": ["past.created"]}, "start_at": "START_AT_EARLIEST"}
    with subscribed(hub, request) as listener:
        assert "started" in listener.next()
        received: list[str] = []
        while "caught_up" not in (response := listener.next()):
            received += [each["event"]["text"] for each in response["deliveries"]]
    assert received == ["0", "1", "2"]


def test_batches_and_streams_of_batches_are_published(hub: HubProcess) -> None:
    events = [{"type": "batch.created", "source_service": "shell", "text": n} for n in "abc"]
    answer = call(hub, f"{EVENTS}/PublishBatch", {"events": [*events, {"type": ""}]})
    assert [bool(result.get("sequence")) for result in answer["results"]] == [True] * 3 + [False]
    assert answer["results"][3]["error"]["reason"] == "ERROR_REASON_FIELD_MISSING"
    streamed = call(hub, f"{EVENTS}/PublishStream", {"request_id": 7, "events": events})
    assert streamed["acks"][0]["request_id"] == "7"
    assert streamed["acks"][0]["sequences"][0]["count"] == 3


def test_a_mistake_is_explained_with_its_reason_and_field(hub: HubProcess) -> None:
    done = subprocess.run(
        [GRPCURL, "-plaintext", "-d", '{"event": {}}', hub.address, f"{EVENTS}/Publish"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert "InvalidArgument" in done.stderr
    assert "FIELD_MISSING" in done.stderr
    assert "event.type" in done.stderr


def printed(hub: HubProcess, method: str) -> list[str]:
    """The line of shell that the hub printed at its start for an rpc, as a command."""
    (line,) = (each.strip() for each in hub.text.splitlines() if each.endswith(f"/{method}"))
    assert line.startswith("grpcurl ")
    return ["sh", "-c", line]


def shell(**variables: str) -> dict[str, str]:
    """The environment of a shell in which grpcurl and the hub's Python are found."""
    path = f"{GRPCURL.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **variables}


def output(command: Sequence[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_lines_that_the_hub_prints_at_its_start_work_as_they_stand(hub: HubProcess) -> None:
    answer = json.loads(output(printed(hub, "Publish"), shell()))
    (event,) = call(hub, f"{EVENTS}/ListEvents", {"filter": {"types": ["order.created"]}})["events"]
    assert event["id"] == answer["id"]
    assert event["data"] == {"order": 1}
    with Listener(printed(hub, "Subscribe"), shell()) as listener:
        assert event in listener.events(int(event["sequence"]))


def test_the_lines_work_with_the_token_that_the_hub_says_how_to_make(tmp_path: Path) -> None:
    with running(tmp_path, {**MEMORY, "JWT_SECRET_KEY": SECRET}) as hub:
        env = shell(JWT_SECRET_KEY=SECRET)
        command = hub.text.partition("make one with: ")[2].splitlines()[0]
        token = output(["sh", "-c", command], env).strip()
        answer = json.loads(output(printed(hub, "Publish"), shell(TOKEN=token)))
        with Listener(printed(hub, "Subscribe"), shell(TOKEN=token)) as listener:
            (event,) = listener.events(1)
    assert (event["id"], event["publisher"]) == (answer["id"], "me")
