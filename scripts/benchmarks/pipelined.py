"""P1: a publisher and a subscriber in Python, durable on our side, as fast as they go."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Server, Stage
from scripts.benchmarks.report import THOUSANDS_A_SECOND, Row, Target

_BATCH = 512
_EVENTS = {"hub": 400_000, "core": 200_000, "jetstream": 40_000}


async def run(plan: Plan) -> list[Row]:
    """Measures events a second, from the first publish to the last delivery."""
    work = "durable publish → deliver"
    unit = THOUSANDS_A_SECOND
    rows = {
        "core": Row("P1", work, unit, "nats-py, core", Target("at least", 3)),
        "jetstream": Row("P1", work, unit, "nats-py, JetStream", Target("at least", 10)),
    }
    for order in plan.turns(list(_EVENTS)):
        rates = {side: await _rate(side, plan.events(_EVENTS[side], _BATCH)) for side in order}
        for side, row in rows.items():
            row.add(rates["hub"], rates[side])
    return list(rows.values())


async def _rate(side: str, events: int) -> float:
    async with Stage() as stage:
        server: Server = await (stage.hub() if side == "hub" else stage.nats())
        if side == "hub":
            roles = "hub_clients:subscribe", "hub_clients:build_and_publish"
            more = {"subscriptions": 1, "warm": 0}, {"batch": _BATCH}
        else:
            roles = f"nats_clients:subscribe_{side}", f"nats_clients:publish_{side}"
            more = {}, {}
        subscriber = await stage.worker(roles[0], port=server.port, events=events, **more[0])
        await subscriber.expect("ready")
        if side == "hub":
            await subscriber.expect("warm")
        publisher = await stage.worker(roles[1], port=server.port, events=events, **more[1])
        await publisher.expect("ready")
        published = await publisher.run()
        received = await subscriber.expect("done")
        return events / float(received["ended"] - published["began"])
