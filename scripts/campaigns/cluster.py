"""A cluster under load, while all that it is made of fails in turn."""

from collections.abc import Iterator
from pathlib import Path

from tests.e2e.cluster import faults
from tests.e2e.cluster.faults import Fault
from tests.e2e.cluster.nodes import Cluster, alone
from tests.e2e.cluster.nodes import cluster as running_cluster
from tests.e2e.cluster.report import HEADING, line
from tests.e2e.cluster.trial import Row, Trial

_OUTAGE_SECONDS = 3.0
_CLOG_SECONDS = 12.0
"""Longer than RabbitMQ's heartbeats are waited for."""


def _round(cluster: Cluster, trial: Trial, number: int, frozen: float) -> Iterator[Fault]:
    """The faults of a round; the hubs that are killed and frozen change with the round."""
    nodes = cluster.nodes
    yield faults.kill_rabbitmq(cluster, trial)
    yield faults.kill_node(nodes[number % 3], _OUTAGE_SECONDS)
    yield faults.kill_redis(cluster, trial)
    yield faults.cut_link(cluster, _OUTAGE_SECONDS)
    yield faults.freeze_node(nodes[(number + 1) % 3], frozen)
    yield faults.clog_link(cluster, _CLOG_SECONDS)


async def cluster(folder: Path, rounds: int, frozen: float, rate: float, single: bool) -> None:
    """Lets faults fall on a cluster, and checks what it was trusted with.

    Args:
        folder: For all that is stored.
        rounds: How often each fault happens.
        frozen: Seconds that a hub is frozen for.
        rate: Events a second of each of the publishers, one a hub.
        single: Whether to kill an embedded hub over and over instead.

    Raises:
        AssertionError: An answered event was lost, came out of order, twice, or was not settled; or
            hubs do not agree on who is there.
    """
    rows: list[Row] = []
    print(f"{'round':<6}{HEADING}", flush=True)

    async def meet(number: int, fault: Fault) -> None:
        rows.append(await trial.meet(fault))
        print(f"{number + 1:<6}{line(rows[-1])}", flush=True)

    if single:
        async with alone(folder) as hub:
            trial = Trial(hub, rate)
            async with trial.running():
                for number in range(rounds):
                    await meet(number, faults.kill_node(hub.nodes[0], 1.0))
                await trial.finish()
    else:
        async with running_cluster(folder) as whole:
            trial = Trial(whole, rate)
            async with trial.running():
                for number in range(rounds):
                    for fault in _round(whole, trial, number, frozen):
                        await meet(number, fault)
                await trial.finish()
    print(f"{'':<6}{line(trial.totals)}")
    events, places = max(each.events for each in rows), max(each.places for each in rows)
    print(
        f"\n{len(rows)} faults. Every answered event reached every fan-out subscriber in order and "
        "once, and was settled by both groups, in the order of its key by one of them. After a "
        f"fault events passed again within {events:.1f} s, and all hubs agreed on who is there "
        f"within {places:.1f} s.\n"
        f"refused: {dict(trial.tally.refused)}\nlost: {dict(trial.tally.lost)}"
    )
