"""The registry as a whole: what it saves, checks, announces and tells."""

import asyncio
import logging
from collections.abc import Sequence
from itertools import pairwise

import pytest

from switchboard_server.core.errors import (
    AbortedError,
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SwitchboardError,
    UnavailableError,
)
from switchboard_server.core.principal import Principal
from switchboard_server.core.registry import announcing, overview, watching
from switchboard_server.core.registry.discovery import Selection
from switchboard_server.core.registry.entries import Entry
from switchboard_server.core.registry.leases import Lease
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.local import RESTART_REVISIONS
from switchboard_server.core.registry.model import Change, Key, RemovalCause, Status
from switchboard_server.core.registry.overview import ServicesQuery
from switchboard_server.core.registry.ports import StoredRegistry
from switchboard_server.core.registry.registry import Registry
from tests.support.loop import manual_loop, passing, turns
from tests.support.registries import (
    FAILED,
    OWN_WORD,
    TCP,
    Bench,
    ScriptedStore,
    a_registration,
    open_registry,
    status_of,
)

USERS = Key("users", "i1")


def ids(registry: Registry) -> list[str]:
    return sorted(
        each.instance.spec.id for each in registry.discover(Selection("users", limit=99)).entries
    )


def problem_of(bench: Bench) -> str | None:
    return bench.registry.problem


async def test_what_is_answered_is_saved() -> None:
    async with open_registry() as bench:
        bench.store.held = True
        registering = asyncio.ensure_future(bench.register(1))
        await turns()
        # Found at once, answered when it is durable.
        assert ids(bench.registry) == ["i1"]
        assert not registering.done()
        again = asyncio.ensure_future(bench.register(1))
        await turns()
        assert not again.done()
        bench.store.release()
        await asyncio.gather(registering, again)
        assert list(bench.store.kept) == [USERS]
        await bench.registry.set_status(USERS, Status.DRAINING, "soon")
        assert bench.store.kept[USERS].declared is not None
        revision = await bench.registry.deregister(USERS)
        assert (bench.store.kept, bench.store.revision) == ({}, revision)
    assert bench.store.complete is True
    assert bench.prober.closed


async def test_a_renewal_that_changes_nothing_saves_nothing() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        saves = bench.store.saves
        await bench.register(1)
        lease = await bench.registry.keep_alive(USERS, 1.0)
        lease.renew(2.0)
        await turns()
        assert bench.store.saves == saves


async def test_what_could_not_be_saved_is_told_and_saved_later() -> None:
    async with open_registry() as bench:
        bench.registry.availability.clear()
        bench.store.problem = "the disk is full"
        registering = asyncio.ensure_future(bench.register(1))
        cancelled = asyncio.ensure_future(bench.register(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(UnavailableError, match="the disk is full"):
            await registering
        assert problem_of(bench) == "the disk is full"
        assert bench.registry.availability.is_set()
        bench.store.problem = None
        await passing(1)
        assert problem_of(bench) is None
        assert len(bench.store.kept) == 2


async def test_a_registry_that_closes_unsaved_says_so() -> None:
    async with open_registry() as bench:
        bench.store.problem = "the disk is full"
        with pytest.raises(UnavailableError):
            await bench.register(1)
    assert bench.store.complete is False


async def test_a_registry_goes_on_where_it_was() -> None:
    async with open_registry() as before:
        await before.register(1, check=TCP)
        await turns()
        await before.register(2)
    for complete, revision in ((True, 3), (False, 3 + RESTART_REVISIONS)):
        found = StoredRegistry(list(before.store.kept.values()), 3, complete=complete)
        async with open_registry(ScriptedStore(found)) as bench:
            assert bench.registry.revision == revision
            assert ids(bench.registry) == ["i1", "i2"]
            assert bench.registry.stats().unconfirmed == 2
            # The first check comes somewhere within the interval.
            assert bench.prober.probed == []
            await passing(10)
            assert len(bench.prober.probed) == 1
            assert bench.registry.stats().unconfirmed == 1
            await passing(20)
            assert ids(bench.registry) == ["i1"]


async def test_instances_are_checked_at_their_interval_more_or_less() -> None:
    async with open_registry() as bench:
        entry = await bench.register(1, check=TCP)
        await turns()
        assert status_of(entry) is Status.SERVING
        began = manual_loop().time()
        times = []
        for _ in range(400):
            before = len(bench.prober.probed)
            await passing(0.25)
            if len(bench.prober.probed) > before:
                times.append(manual_loop().time() - began)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(8.7 <= gap <= 11.3 for gap in gaps)
        assert len(set(gaps)) > 2
        await bench.registry.deregister(USERS)
        probed = len(bench.prober.probed)
        await passing(12)
        assert len(bench.prober.probed) == probed


async def test_only_so_many_checks_run_at_once() -> None:
    async with open_registry(limits=RegistryLimits(max_checks=3)) as bench:
        bench.prober.held = True
        for number in range(1, 9):
            await bench.register(number, check=TCP)
        await turns()
        stats = bench.registry.stats()
        assert (stats.checks_running, stats.checks_waiting) == (3, 5)
        # One of those that wait has another check meanwhile, and one is gone.
        await bench.registry.deregister(Key("users", "i8"))
        bench.prober.release()
        await turns()
        stats = bench.registry.stats()
        assert (stats.checks_running, stats.checks_waiting) == (0, 0)
        assert len(bench.prober.probed) == 7
        ((kind, status),) = stats.checks
        assert (kind.value, status) == ("tcp", Status.SERVING)
        assert sum(stats.checks[kind, status].counts) == 7


async def test_what_a_check_of_before_finds_does_not_count() -> None:
    async with open_registry() as bench:
        bench.prober.held = True
        bench.prober.verdict = OWN_WORD
        entry = await bench.register(1, check=TCP)
        await turns()
        await bench.register(1)
        bench.prober.release()
        await turns()
        assert status_of(entry) is Status.SERVING
        await passing(20)
        assert len(bench.prober.probed) == 1


async def test_a_defect_of_a_prober_is_told_and_ends_no_checks() -> None:
    async with open_registry() as bench:
        told: list[object] = []
        manual_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        bench.prober.verdict = None  # type: ignore[assignment]
        await bench.register(1, check=TCP)
        await turns()
        assert isinstance(told[0], AttributeError)
        bench.prober.verdict = FAILED
        await passing(12)
        assert len(bench.prober.probed) == 2


async def test_addresses_are_admitted_before_anything_is_registered() -> None:
    async with open_registry() as bench:
        bench.prober.refusal = PermissionDeniedError("ADDRESS_NOT_ALLOWED", "not there")
        with pytest.raises(PermissionDeniedError):
            await bench.register(1, check=TCP)
        assert bench.registry.stats().services == 0
        await bench.register(1)


async def test_checks_that_run_are_given_up_at_the_end() -> None:
    async with open_registry() as bench:
        bench.prober.held = True
        await bench.register(1, check=TCP)
        await turns()
        await bench.registry.begin_shutdown()
        assert bench.registry.stats().checks_running == 1
    assert bench.registry.stats().checks_running == 0
    bench.registry._checker.begin(bench.registry._directory.get(USERS))
    assert len(bench.prober.probed) == 1


async def test_a_verdict_after_the_shutdown_changes_nothing() -> None:
    async with open_registry() as bench:
        bench.prober.held = True
        entry = await bench.register(1, check=TCP)
        await turns()
        await bench.registry.begin_shutdown()
        bench.prober.release()
        await turns()
        assert status_of(entry) is Status.STARTING


async def statuses(lease: Lease, count: int) -> list[Status]:
    return [
        standing.instance.status
        for standing in [await lease.next() for _ in range(count)]
        if standing
    ]


async def test_each_request_and_each_new_status_is_answered() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        lease = await bench.registry.keep_alive(USERS, None)
        lease.renew(1.0)
        assert await statuses(lease, 2) == [Status.SERVING] * 2
        waiting = asyncio.ensure_future(lease.next())
        await turns(3)
        assert not waiting.done()
        await bench.register(1, zone="b")  # Nothing that the holder is told of.
        await turns(3)
        assert not waiting.done()
        await bench.registry.set_status(USERS, Status.DRAINING, "")
        standing = await waiting
        assert standing is not None
        assert standing.instance.status is Status.DRAINING
        lease.renew(None)
        lease.finish()
        assert await statuses(lease, 1) == [Status.DRAINING]
        assert await lease.next() is None
        bench.registry.let_go(lease, broken=False)
        await passing(29)
        assert bench.registry.stats().services == 1
        await passing(1)
        assert bench.registry.stats().removed == {RemovalCause.LEASE_EXPIRED: 1}


async def test_a_lease_ends_with_its_stream_its_instance_or_its_hub() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        first = await bench.registry.keep_alive(USERS, None)
        second = await bench.registry.keep_alive(USERS, None)
        with pytest.raises(AbortedError):
            await first.next()
        first.renew(5.0)
        bench.registry._renew(first, 5.0)
        assert second.entry.load is None
        bench.registry.let_go(first, broken=True)
        await passing(1)
        assert not second.ended
        await bench.registry.deregister(USERS)
        with pytest.raises(NotFoundError):
            await second.next()
        second.end(UnavailableError("SHUTTING_DOWN", ""))
        with pytest.raises(NotFoundError):
            await second.next()
        bench.registry.let_go(second, broken=True)
        await bench.register(1)
        third = await bench.registry.keep_alive(USERS, None)
        bench.registry.let_go(third, broken=True)
        await passing(0.5)
        assert bench.registry.stats().services == 0
        await bench.register(1)
        fourth = await bench.registry.keep_alive(USERS, None)
        assert bench.registry.stats().leases == 1
        await bench.registry.begin_shutdown()
        with pytest.raises(UnavailableError):
            await fourth.next()
        # A hub that shuts down removes nobody for it.
        bench.registry.let_go(fourth, broken=True)
        await passing(100)
        assert bench.registry.stats().services == 1


async def test_holding_the_lease_of_a_checked_instance_is_saved() -> None:
    async with open_registry() as bench:
        await bench.register(1, check=TCP)
        assert not bench.store.kept[USERS].leased
        await bench.registry.keep_alive(USERS, None)
        await turns()
        assert bench.store.kept[USERS].leased


async def test_one_that_moves_takes_the_lease_from_the_stream_of_before() -> None:
    async with open_registry() as bench:
        bench.prober.verdict = FAILED
        entry = await bench.register(1, check=TCP)
        lease = await bench.registry.keep_alive(USERS, None)
        with pytest.raises(AlreadyExistsError):
            await bench.register(1, port=9)
        for _ in range(3):
            lease.renew(None)
            await passing(11)
        assert status_of(entry) is Status.UNHEALTHY
        await bench.register(1, port=9)
        with pytest.raises(AbortedError):
            await lease.next()


async def test_after_the_hub_was_away_itself_leases_are_extended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_registry() as bench:
        await bench.register(1)
        await passing(60)
        assert ids(bench.registry) == ["i1"]
        assert "the hub was away" in caplog.text
        await passing(1)
        assert bench.registry.stats().services == 0


async def test_self_preservation_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_registry() as bench:
        for number in range(1, 13):
            await bench.register(number)
        assert bench.registry.preservation() == (0, 0, 12)
        await passing(30)
        since, withheld, registered = bench.registry.preservation()
        assert (since, withheld, registered) == (manual_loop().clock(), 12, 12)
        stats = bench.registry.stats()
        assert (stats.preserving, stats.withheld, stats.unconfirmed) == (True, 12, 12)
        for number in range(1, 13):
            await bench.register(number)
        await passing(1)
        assert bench.registry.preservation() == (0, 0, 12)
        assert "too many instances run out at once" in caplog.text
        assert "instances that run out are removed again" in caplog.text


async def test_whether_an_instance_drains_can_be_asked_and_is_told() -> None:
    async with open_registry() as bench:
        await bench.register(1)
        told: list[tuple[str, bool]] = []
        stop = bench.registry.on_draining(lambda name, drains: told.append((name, drains)))
        assert not bench.registry.draining("users/i1")
        await bench.registry.set_status(USERS, Status.DRAINING, "")
        assert bench.registry.draining("users/i1")
        assert not bench.registry.draining("users/i2")
        assert not bench.registry.draining("users")
        await bench.registry.set_status(USERS, None, "")
        await bench.registry.set_status(USERS, Status.DRAINING, "")
        await bench.registry.deregister(USERS)
        assert told == [("users/i1", drains) for drains in (True, False, True, False)]
        stop()
        stop()
        await bench.register(1)
        await bench.registry.set_status(USERS, Status.DRAINING, "")
        assert len(told) == 4


async def test_doors_can_follow_services_as_they_change() -> None:
    async with open_registry() as bench:
        told: list[int] = []
        stop = bench.registry.on_change(lambda change: told.append(change.revision))
        assert bench.registry.service("users") == (0, [])
        entry = await bench.register(1)
        assert bench.registry.service("users") == (1, [entry.instance])
        assert list(bench.registry.service_names()) == ["users"]
        stop()
        stop()
        await bench.register(2)
        assert told == [1]


async def test_who_may_not_is_refused() -> None:
    nobody = Principal("nobody", ["services.view:b"])
    async with open_registry() as bench:
        registry = bench.registry
        await bench.register(1)
        with pytest.raises(PermissionDeniedError):
            await registry.register(a_registration(2), nobody)
        with pytest.raises(PermissionDeniedError):
            await registry.keep_alive(USERS, None, nobody)
        with pytest.raises(PermissionDeniedError):
            await registry.deregister(USERS, nobody)
        with pytest.raises(PermissionDeniedError):
            await registry.set_status(USERS, None, "", nobody)
        with pytest.raises(PermissionDeniedError):
            registry.discover(Selection("users"), nobody)
        with pytest.raises(PermissionDeniedError):
            registry.list_services(ServicesQuery(), lambda _: 0, Principal("", []))
        assert registry.list_services(ServicesQuery(), lambda _: 0, nobody).services == []


async def test_what_is_not_there_or_not_allowed_is_told() -> None:
    async with open_registry() as bench:
        registry = bench.registry
        with pytest.raises(NotFoundError):
            await registry.keep_alive(USERS, None)
        with pytest.raises(NotFoundError):
            await registry.deregister(USERS)
        with pytest.raises(NotFoundError):
            await registry.set_status(USERS, None, "")
        with pytest.raises(InvalidArgumentError):
            await registry.set_status(USERS, Status.DRAINING, "x" * 1025)
        await registry.begin_shutdown()
        with pytest.raises(UnavailableError):
            await bench.register(1)


def weigh(entry: Entry) -> int:
    return 1000


async def test_services_are_listed_in_pages_that_stay_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_registry() as bench:
        for service in ("b", "a", "c", "other"):
            for number, version in ((2, "1.10.0"), (1, "1.9.0"), (3, "")):
                await bench.register(number, service, version=version, zone="z")
        await bench.registry.set_status(Key("a", "i1"), Status.NOT_SERVING, "")

        def page(**query: object) -> overview.ServicesPage:
            return bench.registry.list_services(ServicesQuery(**query), weigh)  # type: ignore[arg-type]

        first = page(page_size=2)
        assert [each.name for each in first.services] == ["a", "b"]
        assert first.services[0].counts == {Status.SERVING: 2, Status.NOT_SERVING: 1}
        assert first.services[0].versions == ["1.9.0", "1.10.0"]
        assert first.services[0].zones == ["z"]
        assert first.services[0].entries == ()
        second = page(page_size=2, page_token=first.next_page_token)
        assert [each.name for each in second.services] == ["c", "other"]
        assert second.next_page_token == ""
        monkeypatch.setattr(overview, "MAX_PAGE_BYTES", 3000)
        full = page(with_instances=True)
        assert [each.instance.spec.id for each in full.services[0].entries] == ["i1", "i2", "i3"]
        assert (len(full.services), bool(full.next_page_token)) == (1, True)
        assert [each.name for each in page(name_prefix="o").services] == ["other"]
        for query in (
            {"page_size": 1001},
            {"page_token": "?"},
            {"page_token": "abcd"},
            {"page_token": first.next_page_token, "name_prefix": "b"},
        ):
            with pytest.raises(InvalidArgumentError):
                page(**query)


class Paper:
    """Takes changes as events, or does not."""

    def __init__(self) -> None:
        self.printed: list[int] = []
        self.problem: SwitchboardError | None = None

    async def publish(self, changes: Sequence[Change]) -> None:
        if self.problem is not None:
            raise self.problem
        self.printed += [change.revision for change in changes]


async def test_every_change_is_announced_in_order_whatever_the_log_does() -> None:
    paper = Paper()
    async with open_registry(publish=paper.publish) as bench:
        await bench.register(1)
        await turns()
        assert paper.printed == [1]
        for problem in (UnavailableError("LOG_UNAVAILABLE", ""), ResourceExhaustedError("X", "")):
            paper.problem = problem
            await bench.register(len(paper.printed) + 1)
            await passing(1)
        paper.problem = None
        await passing(1)
        assert paper.printed == [1, 2]
        await bench.register(9)
        await bench.registry.begin_shutdown()
        assert paper.printed == [1, 2, 3]


async def test_what_is_forgotten_before_it_is_announced_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("switchboard_server.core.registry.local.HISTORY", 3)
    monkeypatch.setattr(announcing, "MOST", 2)
    paper = Paper()
    async with open_registry(publish=paper.publish) as bench:
        paper.problem = UnavailableError("LOG_UNAVAILABLE", "")
        for number in range(1, 8):
            await bench.register(number)
        stopping = asyncio.ensure_future(bench.registry.begin_shutdown())
        await passing(0.5)
        paper.problem = None
        await passing(0.5)
        await stopping
        assert paper.printed == [5, 6, 7]
        assert bench.registry.stats().unannounced == 4
    assert watching.HISTORY > 3


async def test_a_shutdown_does_not_wait_long_for_announcements(
    caplog: pytest.LogCaptureFixture,
) -> None:
    paper = Paper()
    async with open_registry(publish=paper.publish) as bench:
        paper.problem = UnavailableError("LOG_UNAVAILABLE", "")
        await bench.register(1)
        stopping = asyncio.ensure_future(bench.registry.begin_shutdown())
        await passing(1)
        await passing(1)
        await stopping
        assert "changes of the registry were not published" in caplog.text


async def test_the_time_until_a_watcher_is_told_is_measured() -> None:
    async with open_registry() as bench:
        bench.registry.told([])
        await bench.register(1)
        manual_loop().advance(0.3)
        bench.registry.told(bench.registry._watchers.history.after(0) or [])
        propagation = bench.registry.stats().propagation
        assert (sum(propagation.counts), round(propagation.total, 1)) == (1, 0.3)
