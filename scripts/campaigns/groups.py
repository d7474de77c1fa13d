"""kill -9 of a group's members, and of the hub, over and over."""

import random
from pathlib import Path

from tests.e2e.group_killing import Scene, run

_COLUMNS = "{:>5} {:>10} {:>6} {:>8} {:>13} {:>10} {:>8} {:>10} {:>7} {:>11}"
_QUEUE, _KEYED = "DELIVERY_MODE_QUEUE", "DELIVERY_MODE_KEY_SHARED"


async def groups(folder: Path, rounds: int, seed: int, events: int) -> None:
    """Has groups settle events while two of eight members are killed all the time.

    Args:
        folder: Where to put the data folders.
        rounds: How many groups, alternately QUEUE and KEY_SHARED.
        seed: Chooses the number of keys, and how often and when the hub is killed.
        events: How many events each settles.

    Raises:
        AssertionError: Something is not what a group promises.
    """
    choice = random.Random(seed)
    print(
        _COLUMNS.format(
            *("round", "mode", "keys", "events", "members dead", "hubs dead", "again"),
            *("by member", "by hub", "unanswered"),
        )
    )
    for number in range(rounds):
        mode = (_QUEUE, _KEYED)[number % 2]
        keys = choice.choice((10, 100, 1000)) if mode == _KEYED else 0
        place = folder / str(number)
        place.mkdir()
        scene = Scene(place, mode, keys)
        kills = sorted(choice.sample(range(1, events), choice.randint(1, 3)))
        verdict = await run(scene, events, kills)
        print(
            _COLUMNS.format(
                *(number + 1, mode.removeprefix("DELIVERY_MODE_"), keys, verdict.events),
                *(scene.member_kills, len(scene.hub_kills), verdict.again),
                *(verdict.by_member, verdict.by_hub, verdict.unanswered),
            ),
            flush=True,
        )
    print(
        f"\n{rounds} groups settled {events} events each: none was lost, none came again once its "
        "acknowledgement had been answered, and the order of keys held."
    )
