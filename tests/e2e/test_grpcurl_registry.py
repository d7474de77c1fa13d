"""A person with a shell registers, finds and watches services: the real grpcurl against a hub."""

from collections.abc import Iterator

import pytest

from tests.e2e.shell import REGISTRY, call, listening
from tests.integration.hubs import MEMORY, running
from tests.support.hub import HubProcess


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with running(tmp_path_factory.mktemp("hub"), MEMORY) as hub:
        yield hub


def test_an_instance_is_registered_found_watched_drained_and_removed(hub: HubProcess) -> None:
    request = {"service_names": ["users"], "all_statuses": True}
    with listening(hub, f"{REGISTRY}/Watch", request) as watch:
        assert "snapshot_begin" in watch.next()
        assert "snapshot_end" in watch.next()
        key = {"service_name": "users", "instance_id": "one"}
        registered = call(
            hub,
            f"{REGISTRY}/Register",
            {"instance": {**key, "service_url": "http://127.0.0.1:8010"}},
        )
        assert registered["created"]
        found = call(hub, f"{REGISTRY}/Discover", {"service_name": "users"})
        assert found["instances"][0]["instance_id"] == "one"
        drained = {**key, "status": "INSTANCE_STATUS_DRAINING", "reason": "deploying"}
        call(hub, f"{REGISTRY}/SetStatus", drained)
        listed = call(hub, f"{REGISTRY}/ListServices", {"include_instances": True})
        assert listed["services"][0]["instances"][0]["status_reason"] == "deploying"
        call(hub, f"{REGISTRY}/Deregister", key)
        seen = [change for _ in range(3) for change in watch.next()["changes"]]
    assert [change["kind"].removeprefix("INSTANCE_CHANGE_KIND_") for change in seen] == [
        "PUT",
        "PUT",
        "REMOVE",
    ]
    assert seen[2]["removal_cause"] == "REMOVAL_CAUSE_DEREGISTERED"


def test_a_keep_alive_of_one_request_is_answered_and_ends_well(hub: HubProcess) -> None:
    key = {"service_name": "kept", "instance_id": "one"}
    address = {"host": "127.0.0.1", "port": 1}
    call(hub, f"{REGISTRY}/Register", {"instance": {**key, **address}})
    answer = call(hub, f"{REGISTRY}/KeepAlive", {**key, "load": 3})
    assert answer == {
        "status": "INSTANCE_STATUS_SERVING",
        "status_reason": "registered",
        "lease_ttl": "30s",
    }
    found = call(hub, f"{REGISTRY}/Discover", {"service_name": "kept"})
    assert found["instances"][0]["load"] == 3
