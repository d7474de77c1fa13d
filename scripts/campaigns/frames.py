"""Random and mutated frames for the bridge's translation, without sockets."""

import time
from collections import Counter

import click
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from scripts.campaigns import require
from tests.unit.bridge.frame_strategies import MESSAGES
from tests.unit.bridge.translation import translate

_COLUMNS = "{:>24} {:>9}"


async def frames(count: int, seed: int) -> None:
    """Sends frames through the translation, and lists what became of them.

    Args:
        count: How many.
        seed: Chooses them.

    Raises:
        AssertionError: One was neither taken nor refused properly; hypothesis shows the smallest
            such.
    """
    outcomes: Counter[str] = Counter()

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(MESSAGES)
    def send(message: str | bytes) -> None:
        outcomes[translate(message)] += 1

    began = time.monotonic()
    send()
    click.echo(_COLUMNS.format("outcome", "frames"))
    for outcome, times in outcomes.most_common():
        click.echo(_COLUMNS.format(outcome, times))
    click.echo(f"\n{outcomes.total()} frames in {time.monotonic() - began:.0f} s.")
    require(outcomes.total() >= count, "hypothesis ran out of frames")
