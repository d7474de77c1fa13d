"""kill -9 of the hub in the middle of a pipelined load, over and over."""

import random
from pathlib import Path

import click

from tests.e2e.killing import Assassin, check_everything, publish_until_killed
from tests.e2e.load import Publisher, started

_COLUMNS = "{:>6} {:>6} {:>10} {:>6} {:>6} {:>9} {:>9} {:>7} {:>10}"


class _Folder:
    """A data folder that several rounds share, with those who publish into it."""

    def __init__(self, path: Path, choice: random.Random) -> None:
        self.path = path
        self.assassin = Assassin()
        self.batch = choice.choice((1, 4, 16, 64))
        self.size = choice.choice((32, 200, 1000, 4000))
        self.publishers = [
            Publisher(
                f"publisher-{number}",
                batch=self.batch,
                size=self.size,
                answered=self.assassin.answered,
            )
            for number in range(choice.randint(1, 6))
        ]

    @property
    def answered(self) -> int:
        """Events that the hub has answered so far."""
        return sum(len(each.sequences) for each in self.publishers)

    @property
    def unanswered(self) -> int:
        """Events that were on their way when the hub was killed last."""
        return sum(each.sent - len(each.sequences) for each in self.publishers)


async def kill(folder: Path, rounds: int, seed: int, rounds_per_folder: int) -> None:
    """Kills a hub so many times, and checks its log after each.

    Args:
        folder: Where to put the data folders.
        rounds: How often to kill.
        seed: Chooses the number of publishers, the size of batches and events, and the moments.
        rounds_per_folder: After how many rounds to go on with an empty log.

    Raises:
        AssertionError: The log is not what the answers said.
    """
    choice = random.Random(seed)
    print(
        _COLUMNS.format(
            "round", "folder", "publishers", "batch", "bytes", "answered", "on way", "stored", "log"
        )
    )
    killed = answered = stored_unanswered = 0
    place = _Folder(folder / "0", choice)
    for number in range(rounds):
        if number and number % rounds_per_folder == 0:
            place = _Folder(folder / str(number // rounds_per_folder), choice)
        before = place.answered
        with started(place.path) as hub:
            place.assassin.aim(hub, choice.randint(1, 8000))
            await publish_until_killed(hub, place.publishers)
        on_way = place.unanswered
        with started(place.path) as hub:
            place.assassin.aim(None)
            events = await check_everything(hub, place.publishers)
        killed += 1
        answered += place.answered - before
        stored = events - place.answered
        stored_unanswered += stored
        print(
            _COLUMNS.format(
                number + 1,
                place.path.name,
                len(place.publishers),
                place.batch,
                place.size,
                place.answered - before,
                on_way,
                stored,
                events,
            ),
            flush=True,
        )
    click.echo(
        f"\n{killed} times killed, {answered} events answered: all there, in order, once. "
        f"{stored_unanswered} more were stored before their answer, and none of them twice."
    )
