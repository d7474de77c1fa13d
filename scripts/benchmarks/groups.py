"""P11: a consumer group of eight members, each event acknowledged, and one publisher."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import BenchmarkError, Server, Stage, Worker
from scripts.benchmarks.report import MICROSECONDS, THOUSANDS_A_SECOND, Row, Target

_MEMBERS = 8
_WORKERS = 2
"""Processes that share the members: with one each, the machine would mostly switch between them."""
_CREDIT = 1024
_BATCH = 512
_EVENTS = {"hub": 400_000, "jetstream": 40_000}


async def run(plan: Plan) -> list[Row]:
    """Measures events a second, from the first publish to the last acknowledgement."""
    work = f"group of {_MEMBERS}, published, delivered, settled"
    rows = [
        Row(
            "P11",
            work,
            THOUSANDS_A_SECOND,
            "nats-py, JetStream pull consumer",
            Target("at least", 5),
        ),
        Row("P11", work, THOUSANDS_A_SECOND, None, Target("at least", 50)),
        Row("P11", f"{work}: server CPU an event", MICROSECONDS, "JetStream", None),
    ]
    for order in plan.turns(list(_EVENTS)):
        found = {side: await _measure(side, plan.events(_EVENTS[side], _BATCH)) for side in order}
        rows[0].add(found["hub"][0], found["jetstream"][0])
        rows[1].add(found["hub"][0])
        rows[2].add(found["hub"][1], found["jetstream"][1])
    return rows


async def _measure(side: str, events: int) -> tuple[float, float]:
    """Measures one side.

    Returns:
        Events settled a second, and the server's processor time an event in seconds.
    """
    async with Stage() as stage:
        server: Server = await (stage.hub() if side == "hub" else stage.nats())
        shared: dict[str, object] = {"port": server.port}
        if side == "hub":
            roles = "group_clients:work", "group_clients:watch", "hub_clients:build_and_publish"
            more: dict[str, object] = {"batch": _BATCH}
        else:
            roles = (
                "nats_clients:pull",
                "nats_clients:watch_pulled",
                "nats_clients:publish_jetstream",
            )
            more = {}
        workers = []
        for _ in range(_WORKERS):
            workers.append(
                await stage.worker(roles[0], **shared, members=_MEMBERS // _WORKERS, credit=_CREDIT)
            )
            await workers[-1].expect("ready")
        publisher = await stage.worker(roles[2], **shared, **more, events=events)
        await publisher.expect("ready")
        before = server.cpu_seconds()
        began = float((await publisher.run())["began"])
        watcher = await stage.worker(roles[1], **shared, events=events)
        await watcher.expect("done")
        cost = (server.cpu_seconds() - before) / events
        return events / (await _ended(workers, events) - began), cost


async def _ended(workers: list[Worker], events: int) -> float:
    """When the last event was settled, each having been settled once."""
    ended, settled = [], []
    for worker in workers:
        report = await worker.run("settled")
        ended.append(float(report["ended"]))
        for _ in range(report["parts"]):
            settled += (await worker.expect("part"))["sequences"]
    if sorted(settled) != list(range(1, events + 1)):
        raise BenchmarkError("the events settled are not those published, each once")
    return max(ended)
