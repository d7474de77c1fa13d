"""`scripts/torture`: chooses a campaign, and ends with exit code 1 where it found something."""

import asyncio
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import click

from scripts.campaigns.backlog import backlog
from scripts.campaigns.churn import churn
from scripts.campaigns.cluster import cluster
from scripts.campaigns.frames import frames
from scripts.campaigns.groups import groups
from scripts.campaigns.kill import kill
from scripts.campaigns.sleeper import sleep


@click.group()
def main() -> None:
    """Torture a hub of its own, on free ports and in a folder that is removed afterwards."""


def _run(campaign: Awaitable[None]) -> None:
    async def run() -> None:
        await campaign

    try:
        asyncio.run(run())
    except* AssertionError as found:
        for error in found.exceptions:
            click.echo(f"found something: {error}", err=True)
        raise SystemExit(1) from found


@main.command("kill")
@click.option("--rounds", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the load.")
@click.option(
    "--rounds-per-folder",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How often one data folder is killed; each round reads all of it twice.",
)
def kill_command(rounds: int, seed: int, rounds_per_folder: int) -> None:
    """Kill the hub under pipelined load, start it again, and compare its log with its answers."""
    with tempfile.TemporaryDirectory(prefix="switchboard-") as folder:
        _run(kill(Path(folder), rounds, seed, rounds_per_folder))


@main.command("sleeper")
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True)
def sleeper_command(seconds: float) -> None:
    """Let one subscriber stop reading for so long under full load, while others keep reading."""
    with tempfile.TemporaryDirectory(prefix="switchboard-") as folder:
        _run(sleep(Path(folder), seconds))


@main.command("churn")
@click.option("--rounds", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--streams", type=click.IntRange(min=100), default=2000, show_default=True)
def churn_command(rounds: int, streams: int) -> None:
    """Open and leave so many streams a round, and watch the memory of the hub."""
    with tempfile.TemporaryDirectory(prefix="switchboard-") as folder:
        _run(churn(Path(folder), rounds, streams))


@main.command("frames")
@click.option("--count", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the frames.")
def frames_command(count: int, seed: int) -> None:
    """Throw random and mutated frames at the bridge's translation."""
    _run(frames(count, seed))


@main.command("groups")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the load.")
@click.option("--events", type=click.IntRange(min=1000), default=50_000, show_default=True)
def groups_command(rounds: int, seed: int, events: int) -> None:
    """Kill members of groups, and the hub, while they work, and check what became of each event."""
    with tempfile.TemporaryDirectory(prefix="switchboard-") as folder:
        _run(groups(Path(folder), rounds, seed, events))


@main.command("backlog")
@click.option("--events", type=click.IntRange(min=10_000), default=1_000_000, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=1), default=30.0, show_default=True)
def backlog_command(events: int, seconds: float) -> None:
    """Leave so many events to a group without a member, then to one that reads slowly."""
    with tempfile.TemporaryDirectory(prefix="switchboard-") as folder:
        _run(backlog(Path(folder), events, seconds))


@main.command("cluster")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--frozen",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Seconds that a hub is frozen for, once a round.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Events a second of each of the three publishers.",
)
@click.option("--single", is_flag=True, help="Kill an embedded hub over and over instead.")
def cluster_command(rounds: int, frozen: float, rate: float, single: bool) -> None:
    """Let all that a loaded cluster is made of fail in turn, and check its promises."""
    with tempfile.TemporaryDirectory(prefix="switchboard-") as folder:
        _run(cluster(Path(folder), rounds, frozen, rate, single))


if __name__ == "__main__":
    main(prog_name="scripts/torture")
