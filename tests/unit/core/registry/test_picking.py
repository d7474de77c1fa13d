"""Picking instances by policy."""

import random
from collections import Counter
from typing import Any

import pytest

from switchboard_server.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from switchboard_server.core.registry import discovery
from switchboard_server.core.registry.directory import Directory
from switchboard_server.core.registry.discovery import Discovery, Selection
from switchboard_server.core.registry.entries import Declared, Entry
from switchboard_server.core.registry.model import Status
from switchboard_server.core.registry.picking import Policy, Pool
from tests.support.registries import a_spec, at


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(7)


class Town:
    """A directory and what is discovered in it."""

    def __init__(self, *weights: int) -> None:
        self.directory = Directory(lambda *_: None)
        self.discovery = Discovery(self.directory)
        self.entries: list[Entry] = []
        for weight in weights:
            self.add(weight=weight)

    def add(self, **fields: Any) -> Entry:
        spec = a_spec(len(self.entries) + 1, **fields)
        self.entries.append(self.directory.put(spec, "", at(0))[0])
        return self.entries[-1]

    def pick(self, policy: Policy = Policy.ROUND_ROBIN, **wish: object) -> list[str]:
        selection = Selection("users", policy, **wish)  # type: ignore[arg-type]
        return [each.instance.spec.id for each in self.discovery.discover(selection).entries]


def test_turns_are_taken_evenly_by_weight() -> None:
    town = Town(1, 2, 5)
    picks = [town.pick()[0] for _ in range(80)]
    assert Counter(picks) == {"i1": 10, "i2": 20, "i3": 50}
    # Never long in a row: the heavy one comes five times of eight.
    assert max(len(run) for run in "".join(picks).replace("i", "").split("1")) < 12


def test_turns_go_on_when_the_service_changes() -> None:
    town = Town(1, 1)
    picks = Counter(town.pick()[0] for _ in range(1000))
    town.add(weight=1)
    town.pick(Policy.RANDOM)
    town.add(weight=1)
    later = Counter(town.pick()[0] for _ in range(40))
    assert picks == {"i1": 500, "i2": 500}
    # The new ones neither come all at once nor make up for what they missed.
    assert all(9 <= count <= 11 for count in later.values())


def test_pools_that_nobody_took_turns_in_are_not_kept() -> None:
    first = Pool([])
    second = Pool([], Pool([], first))
    assert second._before is None


def test_at_random_is_by_weight() -> None:
    town = Town(1, 3)
    picks = Counter(town.pick(Policy.RANDOM)[0] for _ in range(4000))
    assert 2850 < picks["i2"] < 3150
    firsts = Counter(town.pick(Policy.RANDOM, limit=2)[0] for _ in range(4000))
    assert 2850 < firsts["i2"] < 3150


def test_the_less_loaded_of_two_is_picked() -> None:
    town = Town(1, 1, 1)
    for entry, load in zip(town.entries, (9.0, 5.0, 1.0), strict=True):
        entry.load = load
    picks = Counter(town.pick(Policy.LEAST_LOADED)[0] for _ in range(3000))
    # The most loaded is in no pair the lesser; the least loaded is in two pairs of three.
    assert picks["i1"] == 0
    assert 1900 < picks["i3"] < 2100
    assert town.pick(Policy.LEAST_LOADED, limit=3)[2] == "i1"


def test_load_is_weighed_and_taken_as_the_mean_where_unknown() -> None:
    town = Town(1, 10)
    town.entries[0].load, town.entries[1].load = 2.0, 10.0
    assert town.pick(Policy.LEAST_LOADED) == ["i2"]
    town.entries[1].load = None  # Taken as 2 by a weight of 10.
    assert town.pick(Policy.LEAST_LOADED) == ["i2"]
    town.entries[0].load, town.entries[1].load = None, 200.0
    assert town.pick(Policy.LEAST_LOADED) == ["i2"]
    town.entries[1].load = None
    assert town.pick(Policy.LEAST_LOADED) == ["i2"]
    assert Town(1).pick(Policy.LEAST_LOADED) == ["i1"]


def test_only_the_keys_of_one_that_leaves_move_and_go_where_was_told() -> None:
    town = Town(*[1] * 10)
    keys = [f"user-{number}" for number in range(2000)]
    hashed = Policy.CONSISTENT_HASH
    before = {key: town.pick(hashed, hash_key=key, limit=2) for key in keys}
    town.directory.declare(town.entries[3], Declared(Status.DRAINING, ""), at(1))
    after = {key: town.pick(hashed, hash_key=key)[0] for key in keys}
    moved = [key for key in keys if after[key] != before[key][0]]
    assert all(before[key][0] == "i4" for key in moved)
    assert all(after[key] == before[key][1] for key in moved)
    assert 150 < len(moved) < 250
    town.directory.declare(town.entries[3], None, at(2))
    assert {key: town.pick(hashed, hash_key=key)[0] for key in keys} == {
        key: picked[0] for key, picked in before.items()
    }


def test_an_instance_has_as_many_keys_as_its_weight_says() -> None:
    town = Town(1, 3)
    picks = Counter(
        town.pick(Policy.CONSISTENT_HASH, hash_key=str(number))[0] for number in range(4000)
    )
    assert 2850 < picks["i2"] < 3150


def test_the_zone_comes_first_and_others_when_it_has_no_more() -> None:
    town = Town()
    town.add(zone="a")
    town.add(zone="b")
    town.add(zone="b")
    for policy in Policy:
        picked = town.pick(policy, zone="b", hash_key="x", limit=3)
        assert picked[2] == "i1", policy
        assert town.pick(policy, zone="b", hash_key="x")[0] != "i1"
        assert town.pick(policy, zone="c", hash_key="x", limit=9) != []


def test_candidates_are_all_that_serve_and_match() -> None:
    town = Town(1, 1, 1)
    town.directory.declare(town.entries[0], Declared(Status.NOT_SERVING, ""), at(1))
    assert town.discovery.discover(Selection("users")).candidates == 2
    found = town.discovery.discover(Selection("users", zone="x", limit=5))
    assert (found.candidates, len(found.entries)) == (2, 2)
    assert found.revision == town.directory.revision == 4


def test_pools_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "MAX_POOLS", 3)
    town = Town()
    town.add(metadata={"a": "b"}, version="1.0.0")
    for number in range(10):
        town.pick(version_range=f">={0}.{number}.0")
    assert len(town.discovery._pools) == 3
    assert town.pick(metadata={"a": "b"}) == ["i1"]
    with pytest.raises(UnavailableError):
        town.pick(metadata={"a": "c"})


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"limit": 1001}, "max_instances"),
        ({"policy": Policy.CONSISTENT_HASH}, "hash_key"),
        ({"policy": Policy.CONSISTENT_HASH, "hash_key": "x" * 1025}, "hash_key"),
        ({"metadata": {"": ""}}, "metadata"),
        ({"version_range": "nonsense"}, "version_range"),
        ({"version_range": "1" * 256}, "version_range"),
    ],
)
def test_a_wish_that_is_not_allowed_is_refused(wish: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Town(1).pick(**wish)  # type: ignore[arg-type]
    assert [each.field for each in caught.value.violations] == [field]


def test_why_none_serves_is_told() -> None:
    town = Town()
    with pytest.raises(NotFoundError):
        town.pick()
    first = town.add(version="1.0.0")
    town.directory.declare(first, Declared(Status.NOT_SERVING, "down for today"), at(1))
    with pytest.raises(UnavailableError, match=r"1 not_serving; i1: down for today") as caught:
        town.pick()
    assert caught.value.metadata == {
        "registered": "1",
        "matching": "1",
        "not_serving": "1",
        "cause": "down for today",
    }
    with pytest.raises(UnavailableError) as caught:
        town.pick(version_range="2.x")
    assert caught.value.metadata == {"registered": "1", "matching": "0"}
    town.directory.declare(first, Declared(Status.NOT_SERVING, ""), at(1))
    with pytest.raises(UnavailableError, match=r"\(1 not_serving\)"):
        town.pick()
