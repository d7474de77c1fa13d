"""P12: how soon the last of many watchers hears of a change, and what one costs that few watch."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Stage
from scripts.benchmarks.registry_clients import INSTANCES
from scripts.benchmarks.report import MICROSECONDS, MILLISECONDS, Row, Target

_WATCHERS = 500


async def run(plan: Plan) -> list[Row]:
    """Measures changes of a service that all watch, then of one that nobody watches."""
    delay = Row(
        "P12",
        f"change → last of {_WATCHERS} watchers, p99",
        MILLISECONDS,
        None,
        Target("at most", 250),
    )
    cost = Row(
        "P12",
        f"CPU a change, {INSTANCES} instances, {_WATCHERS} watch others",
        MICROSECONDS,
        "nobody there",
        None,
    )
    changes = 20 if plan.quick else 200
    unwatched = plan.events(3200)
    async with Stage() as stage:
        hubs = {side: await stage.hub(SWITCHBOARD_LOG="memory") for side in ("full", "empty")}
        watching = await stage.worker(
            "registry_clients:watch", port=hubs["full"].port, watchers=_WATCHERS, changes=changes
        )
        await watching.expect("ready")
        changing = {
            side: await stage.worker("registry_clients:change", port=hub.port, changes=unwatched)
            for side, hub in hubs.items()
        }
        for worker in changing.values():
            await worker.expect("ready")
        for order in plan.turns(list(hubs)):
            delay.add((await watching.run())["p99"])
            spent = {}
            for side in order:
                before = hubs[side].cpu_seconds()
                await changing[side].run()
                spent[side] = (hubs[side].cpu_seconds() - before) / unwatched
            cost.add(spent["full"], spent["empty"])
        watching.finish()
        await watching.expect("checked")
    return [delay, cost]
