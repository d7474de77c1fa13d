"""P9: Discover among many instances."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Stage
from scripts.benchmarks.registry_clients import INSTANCES
from scripts.benchmarks.report import THOUSANDS_A_SECOND, Row, Target


async def run(plan: Plan) -> list[Row]:
    """Measures calls a second beside those of a unary echo."""
    row = Row(
        "P9",
        f"Discover with {INSTANCES} instances, 64 in flight",
        THOUSANDS_A_SECOND,
        "empty unary echo",
        Target("at least", 0.8),
    )
    calls = plan.events(1600)
    async with Stage() as stage:
        hub, echo = await stage.hub(SWITCHBOARD_LOG="memory"), await stage.echo()
        workers = {
            "hub": await stage.worker("registry_clients:hub_discover", port=hub.port, calls=calls),
            "echo": await stage.worker("call_clients:echo_unary", port=echo.port, events=calls),
        }
        for worker in workers.values():
            await worker.expect("ready")
        for order in plan.turns(list(workers), each_round=5):
            rates = {side: calls / (await workers[side].run())["seconds"] for side in order}
            row.add(rates["hub"], rates["echo"])
        for worker in workers.values():
            worker.finish()
            await worker.expect("checked")
    return [row]
