"""P3: how long an event takes from its publisher to a subscriber, one at a time."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Stage
from scripts.benchmarks.report import MICROSECONDS, Row, Target

_WORK = "publish → deliver, one at a time, p50"
_PEER = "empty stream echo"


async def run(plan: Plan) -> list[Row]:
    """Measures the median latency beside that of a stream that echoes.

    The memory log shows what of it is not the disk's.
    """
    rows = {
        "sqlite": Row("P3", _WORK, MICROSECONDS, _PEER, Target("at most", 1.5)),
        "memory": Row("P3", f"{_WORK}, memory log", MICROSECONDS, _PEER, None),
    }
    events = plan.events(500)
    async with Stage() as stage:
        servers = {log: await stage.hub(SWITCHBOARD_LOG=log) for log in rows}
        servers["echo"] = await stage.echo()
        workers = {
            side: await stage.worker(
                f"call_clients:{'echo' if side == 'echo' else 'hub'}_latency",
                port=server.port,
                events=events,
            )
            for side, server in servers.items()
        }
        for worker in workers.values():
            await worker.expect("ready")
        for order in plan.turns(list(workers), each_round=5):
            seconds = {side: (await workers[side].run())["seconds"] for side in order}
            for log, row in rows.items():
                row.add(seconds[log], seconds["echo"])
    return list(rows.values())
