"""A person with two shells works for a consumer group: grpcurl alone is a member."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.shell import (
    EVENTS,
    GROUPS,
    GRPCURL,
    PATIENCE,
    Listener,
    call,
    publish,
    refused,
    subscribed,
)
from tests.integration.hubs import assert_no_defect
from tests.support.hub import HubProcess


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as hub:
        yield hub
        assert hub.terminate() == 0
    assert_no_defect(hub.text)


def join(hub: HubProcess, group: str, **request: Any) -> Listener:
    """A grpcurl that is a member of a group, which it makes for the events of the group's name."""
    return subscribed(hub, {"group": group, "filter": {"types": [f"{group}.*"]}, **request})


def settle(hub: HubProcess, method: str, group: str, *ack_ids: str, **request: Any) -> list[str]:
    """Calls Acknowledge, Reject or ExtendDeadline; what became of each delivery."""
    request = {"group": group, "ack_ids": list(ack_ids), **request}
    results = call(hub, f"{EVENTS}/{method}", request)["results"]
    assert [each["ack_id"] for each in results] == list(ack_ids)
    return [each["outcome"].removeprefix("SETTLE_OUTCOME_") for each in results]


def test_one_shell_subscribes_and_another_acknowledges(hub: HubProcess) -> None:
    with join(hub, "ack") as member:
        member_id = member.next()["started"]["member_id"]
        for number in range(3):
            publish(hub, "ack.created", data={"order": number})
        held = member.deliveries(3)
        assert [(each["event"]["data"]["order"], each["attempt"]) for each in held] == [
            (0, 1),
            (1, 1),
            (2, 1),
        ]
        first, second, third = (each["ack_id"] for each in held)
        shown = call(hub, f"{GROUPS}/GetGroup", {"group": "ack"})
        assert shown["group"]["mode"] == "DELIVERY_MODE_QUEUE"
        assert shown["group"]["retry_policy"]["max_attempts"] == 5
        assert shown["group"]["progress"]["in_flight"] == "3"
        (told,) = shown["members"]
        assert told["identity"]["member_id"] == member_id
        assert (told["max_in_flight"], told["in_flight"]) == (64, 3)

        assert settle(hub, "ExtendDeadline", "ack", third, extension="60s") == ["OK"]
        outcomes = settle(hub, "Acknowledge", "ack", first, second, "no-such-id")
        assert outcomes == ["OK", "OK", "UNKNOWN"]
        assert settle(hub, "Acknowledge", "ack", first, third) == ["ALREADY_SETTLED", "OK"]
        progress = call(hub, f"{GROUPS}/GetGroup", {"group": "ack"})["group"]["progress"]
        assert progress["position"] == held[2]["event"]["sequence"]
        assert "in_flight" not in progress


def test_what_a_shell_leaves_when_it_is_closed_goes_to_the_next_one(hub: HubProcess) -> None:
    with join(hub, "leave") as gone:
        gone.next()
        answer = publish(hub, "leave.created")
        (held,) = gone.deliveries(1)
    with join(hub, "leave") as heir:
        heir.next()
        (again,) = heir.deliveries(1)
        assert (again["event"]["id"], again["attempt"]) == (answer["id"], 2)
        outcomes = settle(hub, "Acknowledge", "leave", held["ack_id"], again["ack_id"])
        assert outcomes == ["EXPIRED", "OK"]


def test_a_rejected_event_is_tried_again_then_a_dead_letter_listed_and_redriven(
    hub: HubProcess,
) -> None:
    with join(hub, "reject") as member:
        member_id = member.next()["started"]["member_id"]
        publish(hub, "reject.created", text="no customer")
        (held,) = member.deliveries(1)
        wait = {"retry_after": "0s", "reason": "the database is away"}
        assert settle(hub, "Reject", "reject", held["ack_id"], **wait) == ["OK"]
        (again,) = member.deliveries(1)
        assert (again["event"], again["attempt"]) == (held["event"], 2)
        give_up = {"dead_letter": True, "reason": "no such customer"}
        assert settle(hub, "Reject", "reject", again["ack_id"], **give_up) == ["OK"]

        (letter,) = call(hub, f"{GROUPS}/ListDeadLetters", {"group": "reject"})["dead_letters"]
        assert letter["event"] == held["event"]
        assert letter["cause"] == "DEAD_LETTER_CAUSE_REJECTED"
        assert (letter["reason"], letter["attempts"]) == ("no such customer", 2)
        assert letter["last_member"]["member_id"] == member_id

        chosen = {"group": "reject", "sequences": [letter["event"]["sequence"]]}
        assert call(hub, f"{GROUPS}/RedriveDeadLetters", chosen) == {"redriven": "1"}
        (back,) = member.deliveries(1)
        assert (back["event"], back["attempt"]) == (held["event"], 1)
        assert settle(hub, "Acknowledge", "reject", back["ack_id"]) == ["OK"]
        assert call(hub, f"{GROUPS}/ListDeadLetters", {"group": "reject"}) == {}


def test_a_group_is_listed_set_back_and_deleted(hub: HubProcess) -> None:
    with join(hub, "seek") as member:
        member.next()
        publish(hub, "seek.created", text="once more")
        (held,) = member.deliveries(1)
        assert settle(hub, "Acknowledge", "seek", held["ack_id"]) == ["OK"]
        call(hub, f"{GROUPS}/SeekGroup", {"group": "seek", "start_at": "START_AT_EARLIEST"})
        (again,) = member.deliveries(1)
        assert (again["event"], again["attempt"]) == (held["event"], 1)
        (listed,) = call(hub, f"{GROUPS}/ListGroups", {"name_prefix": "see"})["groups"]
        assert (listed["name"], listed["progress"]["members"]) == ("seek", 1)
        in_use = refused(
            hub, f"{GROUPS}/DeleteGroup", {"group": "seek", "require_no_members": True}
        )
        assert "GROUP_IN_USE" in in_use
        call(hub, f"{GROUPS}/DeleteGroup", {"group": "seek"})
    assert "GROUP_NOT_FOUND" in refused(hub, f"{GROUPS}/GetGroup", {"group": "seek"})


def test_a_shell_that_asks_for_another_group_of_the_name_is_told_the_difference(
    hub: HubProcess,
) -> None:
    with join(hub, "same") as member:
        member.next()
        told = refused(hub, f"{EVENTS}/Subscribe", {"group": "same", "ack_deadline": "5s"})
    assert "FailedPrecondition" in told
    assert "GROUP_MISMATCH" in told
    assert '"ack_deadline":"30s / 5s"' in told
    assert '"filter.types":"same.* / (any)"' in told


def test_one_shell_calls_and_another_answers(hub: HubProcess) -> None:
    request = {"event": {"source_service": "shop", "target_service": "desk", "text": "how much?"}}
    assert "NO_RESPONDERS" in refused(hub, f"{EVENTS}/Call", request)
    wish = {"types": ["service_request"], "target_services": ["desk"]}
    with join(hub, "desk", filter=wish) as desk:
        desk.next()
        caller = subprocess.Popen(
            [GRPCURL, "-plaintext", "-d", json.dumps(request), hub.address, f"{EVENTS}/Call"],
            stdout=subprocess.PIPE,
            text=True,
        )
        (asked,) = desk.deliveries(1)
        correlation_id = asked["event"]["correlation_id"]
        publish(hub, "service_response", correlation_id=correlation_id, text="12.50")
        answer = json.loads(caller.communicate(timeout=PATIENCE)[0])["event"]
        assert caller.returncode == 0
        assert settle(hub, "Acknowledge", "desk", asked["ack_id"]) == ["OK"]
    assert (asked["event"]["text"], answer["text"]) == ("how much?", "12.50")
    assert answer["correlation_id"] == correlation_id
