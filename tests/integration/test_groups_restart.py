"""What a group knows survives a hub that is killed."""

from pathlib import Path

import pytest

from switchboard.v1.group_pb2 import DEAD_LETTER_CAUSE_REJECTED
from switchboard.v1.subscription_pb2 import DELIVERY_MODE_KEY_SHARED, DELIVERY_MODE_QUEUE
from tests.integration.client import an_event, failing, numbered, texts
from tests.integration.group_client import Groups, at_once, events_of, ids_of, seconds
from tests.integration.hubs import connect, running


@pytest.mark.parametrize("mode", [DELIVERY_MODE_QUEUE, DELIVERY_MODE_KEY_SHARED])
async def test_only_what_was_not_acknowledged_comes_again(tmp_path: Path, mode: int) -> None:
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            groups = Groups(client)
            async with groups.join("work", mode=mode, max_in_flight=20) as member:
                events = numbered("order.created", 30)
                for number, event in enumerate(events):
                    event.ordering_key = f"k{number}"
                await client.publish_batch(events)
                held = await member.deliveries(20)
                by_text = {each.event.text: each for each in held}
                # Every other one, so that what is settled has holes.
                odd = [each for each in held if int(each.event.text) % 2]
                await groups.acknowledge("work", odd)
                assert await groups.reject(
                    "work", by_text["0"].ack_id, dead_letter=True, reason="bad"
                ) == ["OK"]
                assert await groups.reject(
                    "work", by_text["2"].ack_id, retry_after=seconds(3600)
                ) == ["OK"]
                hub.kill()
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            groups = Groups(client)
            told, members = await groups.get("work")
            assert not members
            assert told.mode == mode
            assert (told.progress.retrying, told.progress.dead_letters) == (1, 1)
            async with groups.join("work", mode=mode) as member:
                again = await member.deliveries(18)
                came = {int(each.event.text): each.attempt for each in again}
                assert sorted(came) == [*range(4, 20, 2), *range(20, 30)]
                assert {came[number] for number in range(4, 20, 2)} == {2}
                # What was handed out just before the kill may count anew, but is not lost.
                assert {came[number] for number in range(20, 30)} <= {1, 2}
                assert await groups.outcomes("work", [*ids_of(odd[:1]), by_text["4"].ack_id]) == [
                    "ALREADY_SETTLED",
                    "EXPIRED",
                ]
                await groups.acknowledge("work", again)
                (letter,) = await groups.dead_letters("work")
                assert (letter.event.text, letter.cause) == ("0", DEAD_LETTER_CAUSE_REJECTED)
                assert (await groups.redrive("work", all=True)).redriven == 1
                back = await member.delivery()
                assert back.event.text == "0"
                hub.kill()
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            groups = Groups(client)
            async with groups.join("work", mode=mode) as member:
                back = await member.delivery()
                assert back.event.text == "0"
                await groups.acknowledge("work", [back])
                progress = (await groups.get("work"))[0].progress
                assert (progress.lag_events, progress.retrying, progress.dead_letters) == (1, 1, 0)


async def test_a_group_keeps_its_terms_and_its_place_over_a_clean_stop(tmp_path: Path) -> None:
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            groups = Groups(client)
            async with groups.join("terms", "order.*", retry_policy=at_once(7)) as member:
                await client.publish_batch([an_event(text="a"), an_event("other", text="b")])
                await groups.acknowledge("terms", [await member.delivery()])
            before = (await groups.get("terms"))[0]
        hub.terminate()
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            groups = Groups(client)
            after = (await groups.get("terms"))[0]
            assert after.progress.position == before.progress.position == 2
            for told in (before, after):
                told.ClearField("progress")
            assert after == before
            failure = await failing(groups.join("terms", "order.*").next())
            assert failure.metadata == {
                "retry_policy.max_attempts": "7 / 5",
                "retry_policy.min_backoff": "0s / 1s",
                "retry_policy.max_backoff": "0s / 60s",
            }


async def test_a_deleted_group_stays_deleted_and_its_ids_mean_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            groups = Groups(client)
            async with groups.join("gone") as member:
                await client.publish(an_event(text="a"))
                held = await member.delivery()
            await groups.delete("gone")
            hub.kill()
    with running(tmp_path) as hub:
        async with connect(hub) as client:
            groups = Groups(client)
            assert (await failing(groups.get("gone"))).reason == "GROUP_NOT_FOUND"
            async with groups.join("gone", start_at=2) as member:
                assert texts(events_of([await member.delivery()])) == ["a"]
                assert await groups.outcomes("gone", [held.ack_id]) == ["UNKNOWN"]
