"""A person with a shell: the real grpcurl against a hub that scripts/serve started."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.e2e.shell import (
    EVENTS,
    GROUPS,
    GRPCURL,
    PATIENCE,
    REALTIME,
    REGISTRY,
    Listener,
    call,
    grpcurl,
    listening,
    publish,
    refused,
    subscribed,
)
from tests.integration.credentials import SECRET
from tests.integration.hubs import MEMORY, assert_no_defect, running
from tests.support.hub import HubProcess

SERVE = Path(__file__).parents[2] / "scripts" / "serve"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub"), command=(str(SERVE),)) as hub:
        yield hub
        assert hub.terminate() == 0
    assert_no_defect(hub.text)


def test_list_names_the_services(hub: HubProcess) -> None:
    assert set(grpcurl(hub, "list").split()) == {
        EVENTS,
        GROUPS,
        REALTIME,
        REGISTRY,
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
    method = grpcurl(hub, "describe", f"{EVENTS}.Publish")
    assert "rpc Publish ( .switchboard.v1.PublishRequest )" in method
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


def test_a_shell_stands_in_rooms_that_others_send_to(hub: HubProcess) -> None:
    wish = {"client_id": "shell", "user": "ann", "rooms": [{"room": "general"}]}
    with listening(hub, f"{REALTIME}/Connect", wish) as listener:
        assert listener.next()["started"]["client_id"] == "shell"
        assert listener.next()["joined"]["room"] == "general"
        message = {"message_type": "chat", "data": {"message": "hi", "n": 1.5}}
        sent = call(hub, f"{REALTIME}/Broadcast", {**message, "rooms": ["general"]})
        assert sent["connections"] == 1
        (received,) = listener.next()["messages"]
        assert received["data"] == message["data"]
        assert received["message_id"] == sent["message_id"]
        join = {"client_id": "shell", "join": {"room": "lobby", "presence_notices": True}}
        joined = call(hub, f"{REALTIME}/JoinRoom", join)["joined"]
        assert listener.next() == {"joined": joined}
        call(hub, f"{REALTIME}/Broadcast", {"message_type": "system", "rooms": ["lobby"]})
        (received,) = listener.next()["messages"]
        assert (received["message_type"], received["data"]) == ("system", {})
        rooms = call(hub, f"{REALTIME}/ListRooms")["rooms"]
        assert [room["name"] for room in rooms] == ["general", "lobby"]
        call(hub, f"{REALTIME}/Disconnect", {"users": ["ann"], "reason": "done"})
        with pytest.raises(AssertionError, match="the stream has ended"):
            listener.next()


def test_a_mistake_is_explained_with_its_reason_and_field(hub: HubProcess) -> None:
    told = refused(hub, f"{EVENTS}/Publish", {"event": {}})
    assert "InvalidArgument" in told
    assert "FIELD_MISSING" in told
    assert "event.type" in told


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
