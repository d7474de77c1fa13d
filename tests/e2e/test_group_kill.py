"""kill -9 of a group's members and of the hub, under load: all is settled, nothing comes back."""

from pathlib import Path

from tests.e2e.group_killing import HELD_KILLS, Scene, run


async def test_every_event_is_settled_though_members_and_the_hub_are_killed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "DELIVERY_MODE_QUEUE")
    verdict = await run(scene, total=24_000, hub_kills=[12_000])
    print(f"{scene.member_kills} members killed: {verdict}")
    assert scene.held_kills >= HELD_KILLS
    assert verdict.by_member, "what the members held that were killed came to nobody else"
    assert verdict.by_hub, "what was held when the hub was killed did not come again"


async def test_the_order_of_keys_outlives_members_and_the_hub_that_are_killed(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, "DELIVERY_MODE_KEY_SHARED", keys=500)
    verdict = await run(scene, total=16_000, hub_kills=[8_000])
    print(f"{scene.member_kills} members killed: {verdict}")
    assert scene.held_kills >= HELD_KILLS
    assert verdict.by_member, "what the members held that were killed came to nobody else"
