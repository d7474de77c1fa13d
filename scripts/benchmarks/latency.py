"""P3: how long an event takes from its publisher to a subscriber, one at a time."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Stage
from scripts.benchmarks.report import MICROSECONDS, Row, Target


async def run(plan: Plan) -> list[Row]:
    """Measures the median latency beside that of a stream that echoes."""
    row = Row(
        "P3",
        "publish → deliver, one at a time, p50",
        MICROSECONDS,
        "empty stream echo",
        Target("at most", 1.5),
    )
    events = plan.events(2000)
    async with Stage() as stage:
        hub, echo = await stage.hub(), await stage.echo()
        workers = {
            "hub": await stage.worker("call_clients:hub_latency", port=hub.port, events=events),
            "echo": await stage.worker("call_clients:echo_latency", port=echo.port, events=events),
        }
        for worker in workers.values():
            await worker.expect("ready")
        for order in plan.turns(list(workers)):
            seconds = {side: (await workers[side].run())["seconds"] for side in order}
            row.add(seconds["hub"], seconds["echo"])
    return [row]
