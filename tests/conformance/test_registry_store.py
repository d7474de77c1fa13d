"""What every `RegistryStore` promises."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from switchboard_server.backends.embedded.registry import (
    FILE_NAME,
    MemoryRegistryStore,
    SqliteRegistryStore,
)
from switchboard_server.core.errors import UnavailableError
from switchboard_server.core.registry.entries import Declared
from switchboard_server.core.registry.model import (
    HealthCheck,
    Instance,
    Key,
    Probe,
    ProbeKind,
    Registration,
    Status,
)
from switchboard_server.core.registry.ports import RegistryStore, StoredInstance, StoredRegistry
from tests.support.registries import a_spec

STORES = {"memory": MemoryRegistryStore.capabilities, "sqlite": SqliteRegistryStore.capabilities}


class Bench:
    """Stores of one kind over one place."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.opened: list[RegistryStore] = []

    def make(self) -> RegistryStore:
        made: RegistryStore = (
            MemoryRegistryStore() if self.name == "memory" else SqliteRegistryStore(self.folder)
        )
        self.opened.append(made)
        return made

    def disturb(self, statement: str) -> None:
        """Does something to the file behind the store's back."""
        with closing(sqlite3.connect(self.folder / FILE_NAME)) as db, db:
            db.execute(statement)

    async def open(self) -> tuple[RegistryStore, StoredRegistry]:
        """Opens a store, and what it holds."""
        store = self.make()
        return store, await store.open()


@pytest.fixture(params=sorted(STORES))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(request.param, tmp_path / "data")
    yield made
    for store in made.opened:
        await store.close(complete=False)


@pytest.fixture
def surviving(bench: Bench) -> Bench:
    if not STORES[bench.name].survives_restart:
        pytest.skip(f"{bench.name}: a restart empties it (RegistryCapabilities.survives_restart)")
    return bench


def stored(spec: Registration, **fields: object) -> StoredInstance:
    instance = Instance(spec, Status.SERVING, "fine", 1, 2, "me", 3)
    return StoredInstance(instance, **{"declared": None, "leased": True, **fields})  # type: ignore[arg-type]


def as_text(each: StoredInstance) -> str:
    """All that is told of an instance, to compare."""
    return repr(each)


async def test_a_new_store_is_empty_and_complete(bench: Bench) -> None:
    store, found = await bench.open()
    assert (list(found.instances), found.revision, found.complete) == ([], 0, True)
    assert store.capabilities.name == bench.name


async def test_saves_are_answered_and_closing_twice_does_no_harm(bench: Bench) -> None:
    store, _ = await bench.open()
    await store.save([stored(a_spec(1))], [], 1)
    await store.save([], [Key("users", "i1"), Key("no", "such")], 2)
    await store.close(complete=True)
    await store.close(complete=True)


async def test_instances_come_back_as_they_were_saved(surviving: Bench) -> None:
    checks = [
        HealthCheck(Probe(kind, where, "users.v1", tls=True), 5_000_000_000, 1_000_000_000, 2, 4)
        for kind, where in (
            (ProbeKind.HTTP, "/up"),
            (ProbeKind.GRPC, "10.0.0.1:9"),
            (ProbeKind.TCP, ""),
        )
    ]
    saved = [
        stored(a_spec(1, version="1.2.3", zone="é", weight=7, metadata={"a": "b\0'\""})),
        stored(a_spec(2, url="http://10.0.0.1:1002/x"), leased=False),
        stored(a_spec(3), declared=Declared(Status.DRAINING, "soon")),
        *(stored(a_spec(4 + number, check=check)) for number, check in enumerate(checks)),
    ]
    store, _ = await surviving.open()
    await store.save(saved, [], 17)
    await store.close(complete=True)
    _, found = await surviving.open()
    assert sorted(map(as_text, found.instances)) == sorted(map(as_text, saved))
    assert (found.revision, found.complete) == (17, True)


async def test_the_last_save_of_an_instance_stands(surviving: Bench) -> None:
    store, _ = await surviving.open()
    await store.save([stored(a_spec(1)), stored(a_spec(2))], [], 2)
    await store.save([stored(a_spec(1, zone="b"))], [Key("users", "i2")], 4)
    await store.close(complete=True)
    _, found = await surviving.open()
    (left,) = found.instances
    assert (left.instance.key, left.instance.spec.zone) == (Key("users", "i1"), "b")


async def test_one_that_was_not_closed_in_order_says_so(surviving: Bench) -> None:
    first, _ = await surviving.open()
    await first.save([stored(a_spec(1))], [], 5)
    await first.close(complete=False)
    second, found = await surviving.open()
    assert (found.revision, found.complete) == (5, False)
    await second.close(complete=True)
    third, found = await surviving.open()
    assert found.complete
    # The one that is open now has not been closed in order either.
    await third.close(complete=False)
    _, found = await surviving.open()
    assert not found.complete


async def test_a_save_that_fails_keeps_nothing_of_itself(surviving: Bench) -> None:
    store, _ = await surviving.open()
    await store.save([stored(a_spec(1))], [], 1)
    surviving.disturb("ALTER TABLE state RENAME TO elsewhere")
    with pytest.raises(UnavailableError, match="cannot be written to") as caught:
        await store.save([stored(a_spec(2))], [Key("users", "i1")], 3)
    assert caught.value.reason == "REGISTRY_UNAVAILABLE"
    # Nor can it say that all was saved; the next start takes it that the hub died.
    await store.close(complete=True)
    surviving.disturb("ALTER TABLE elsewhere RENAME TO state")
    _, found = await surviving.open()
    assert [each.instance.key.id for each in found.instances] == ["i1"]
    assert (found.revision, found.complete) == (1, False)


async def test_a_damaged_instance_is_left_out_and_told(
    surviving: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    store, _ = await surviving.open()
    await store.save([stored(a_spec(1)), stored(a_spec(2))], [], 2)
    await store.close(complete=True)
    surviving.disturb("UPDATE instances SET content = replace(content, '1', '2') WHERE id = 'i2'")
    _, found = await surviving.open()
    assert [each.instance.key.id for each in found.instances] == ["i1"]
    assert "users/i2" in caplog.text


async def test_a_file_of_another_version_or_kind_is_refused(surviving: Bench) -> None:
    store, _ = await surviving.open()
    await store.close(complete=True)
    surviving.disturb("PRAGMA user_version=99")
    with pytest.raises(UnavailableError, match="is of version 99"):
        await surviving.open()
    (surviving.folder / FILE_NAME).write_bytes(b"this is no database, whatever its name says" * 99)
    with pytest.raises(UnavailableError, match="file is not a database; put a good copy"):
        await surviving.open()
