"""Runs the benchmarks: `scripts/bench --help`."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import click

from scripts.benchmarks import (
    across,
    broadcast,
    cluster,
    cold_start,
    discover,
    fan_out,
    groups,
    idle_subscriptions,
    latency,
    pipelined,
    unary,
    watch,
)
from scripts.benchmarks.chart import write_svg
from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import OUTPUT, ROOT, BenchmarkError
from scripts.benchmarks.report import Others, Row, table, versions, write_json

_BENCHMARKS: dict[str, Callable[[Plan], Awaitable[list[Row]]]] = {
    "P1": pipelined.run,
    "P2": fan_out.run,
    "P3": latency.run,
    "P4": unary.run,
    "P5": idle_subscriptions.run,
    "P6": broadcast.run,
    "P7": broadcast.idle,
    "P8": cluster.run,
    "P13": across.run,
    "P11": groups.run,
    "P9": discover.run,
    "P12": watch.run,
    "P10": cold_start.run,
}
_ROUNDS = 5
_MOST_OTHERS = 0.1


@click.command()
@click.option(
    "--only",
    "keys",
    multiple=True,
    type=click.Choice(list(_BENCHMARKS), case_sensitive=False),
    help="Run this one; repeatable.  [default: all]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help=f"How often each side is measured.  [default: {_ROUNDS}, or 1 with --quick]",
)
@click.option("--quick", is_flag=True, help="See that all works; figures are too coarse to quote.")
def main(keys: tuple[str, ...], rounds: int | None, quick: bool) -> None:
    """Measure the hub beside its peers.

    Prints a table, and writes it to build/bench: results.json, with every sample, and results.svg.
    Both sides of a comparison run one after the other in every round, and the ratio is the median
    of the rounds' ratios. Ends with 1 where events did not arrive exactly once and in order, or a
    process failed; a target that is missed is told in the table only.
    """
    plan = Plan(rounds or (1 if quick else _ROUNDS), quick)
    about = {**versions(), "rounds": str(plan.rounds), **({"figures": "quick"} if quick else {})}
    click.echo(", ".join(f"{name} {value}" for name, value in about.items()), err=True)
    others = Others()
    rows: list[Row] = []
    failed = []
    for key in [key for key in _BENCHMARKS if key in keys or not keys]:
        began = time.monotonic()
        try:
            rows += asyncio.run(_run(key, plan))
        except BenchmarkError as error:
            failed.append(key)
            click.echo(f"{key}: {error}", err=True)
        click.echo(f"{key}: {time.monotonic() - began:.0f} s", err=True)
    share = others.share()
    about["other processes"] = f"{share:.0%} of the machine"
    if share > _MOST_OTHERS:
        click.echo(f"other processes took {about['other processes']}: do not quote this", err=True)
    if rows:
        click.echo(table(rows))
        write_json(OUTPUT / "results.json", rows, about)
        write_svg(OUTPUT / "results.svg", rows, about)
        click.echo(f"in {OUTPUT.relative_to(ROOT)}: results.json, results.svg", err=True)
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
        sys.exit(1)


async def _run(key: str, plan: Plan) -> list[Row]:
    return await _BENCHMARKS[key](plan)


if __name__ == "__main__":
    main()
