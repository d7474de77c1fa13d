"""P5: what ten thousand subscriptions that do not match add to the cost of a publish."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Stage
from scripts.benchmarks.report import MICROSECONDS, Row, Target

_IDLE = 10_000
_BATCH = 256


async def run(plan: Plan) -> list[Row]:
    """Measures two hubs side by side, one of which has the subscriptions."""
    peer, target = "with none", Target("at most", 1.1)
    cost = Row("P5", "CPU a publish, 10 000 idle filters", MICROSECONDS, peer, target)
    time = Row("P5", "time a publish, 10 000 idle filters", MICROSECONDS, peer, target)
    events = plan.events(300 * 1024, _BATCH)
    async with Stage() as stage:
        hubs = {"many": await stage.hub(), "none": await stage.hub()}
        holder = await stage.worker("hub_clients:idle", port=hubs["many"].port, subscriptions=_IDLE)
        await holder.expect("ready")
        publishers = {
            side: await stage.worker(
                "hub_clients:publish", port=hub.port, events=events, warm=64 * _BATCH, batch=_BATCH
            )
            for side, hub in hubs.items()
        }
        for publisher in publishers.values():
            await publisher.expect("ready")
        for order in plan.turns(list(hubs)):
            spent, seconds = {}, {}
            for side in order:
                before = hubs[side].cpu_seconds()
                seconds[side] = (await publishers[side].run())["seconds"] / events
                spent[side] = (hubs[side].cpu_seconds() - before) / events
            cost.add(spent["many"], spent["none"])
            time.add(seconds["many"], seconds["none"])
        await holder.run("checked")
        for hub in hubs.values():
            total = 64 * _BATCH + plan.rounds * events
            reader = await stage.worker("hub_clients:read_log", port=hub.port, events=total)
            await reader.expect("checked")
    return [cost, time]
