"""P10: from the start of the command to health SERVING, and the memory of an idle hub."""

import asyncio

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import ROOT, Stage
from scripts.benchmarks.report import MEGABYTES, SECONDS, Row, Target
from tests.support.servers import free_port

_SETTLE_SECONDS = 1.0


async def run(plan: Plan) -> list[Row]:
    """Measures `scripts/serve`, whose first start does not count: it may have to install."""
    start = Row("P10", "cold start to SERVING", SECONDS, None, Target("at most", 1))
    memory = Row("P10", "resident memory, idle", MEGABYTES, None, Target("at most", 90))
    await _measure()
    for _ in range(plan.rounds):
        seconds, resident = await _measure()
        start.add(seconds)
        memory.add(resident)
    return [start, memory]


async def _measure() -> tuple[float, float]:
    async with Stage() as stage:
        port = free_port()
        # Ready before the hub is started, so that only the hub's own start is measured.
        probe = await stage.worker("hub_clients:probe", port=port)
        await probe.expect("ready")
        probe.go()
        hub = await stage.spawn_hub([str(ROOT / "scripts" / "serve")], port=port)
        serving = await probe.expect("done")
        await asyncio.sleep(_SETTLE_SECONDS)
        return serving["ended"] - hub.spawned, hub.resident_bytes()
