"""P2: what a delivery costs the server, with 1, 10 and 100 subscribers and batches published."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Server, Stage
from scripts.benchmarks.report import MICROSECONDS, Row, Target

_BATCH = 1024
# So many that a clock tick, 10 ms, is at most 2 % of what the cheapest server spends on them.
_EVENTS = {1: 1024 * _BATCH, 10: 320 * _BATCH, 100: 64 * _BATCH}
_WARM = 4 * _BATCH
_SIDES = ("memory", "sqlite", "nats", "redis")
_PEERS = {"nats": "nats-server", "redis": "Redis"}


async def run(plan: Plan) -> list[Row]:
    """Measures processor time, user and system, of the server process by delivery."""
    rows: list[Row] = []
    for subscribers, full in _EVENTS.items():
        pairs = {
            (log, peer): Row(
                "P2",
                f"CPU a delivery, {subscribers} subscriber{'s'[: subscribers > 1]}, {log} log",
                MICROSECONDS,
                _PEERS[peer],
                _target(subscribers, log, peer),
            )
            for log in ("memory", "sqlite")
            for peer in _PEERS
        }
        for order in plan.turns(_SIDES):
            costs = {
                side: await _cost(side, subscribers, plan.events(full, _BATCH)) for side in order
            }
            for (log, peer), row in pairs.items():
                row.add(costs[log], costs[peer])
        rows += pairs.values()
    return rows


def _target(subscribers: int, log: str, peer: str) -> Target | None:
    """The peers store nothing, so what stores nothing either is held against them."""
    if log == "memory" and (peer == "nats" or subscribers == 100):
        return Target("at most", 1)
    return None


async def _cost(side: str, subscribers: int, events: int) -> float:
    async with Stage() as stage:
        server = await _server(stage, side)
        shared: dict[str, object] = {"port": server.port, "events": events, "warm": _WARM}
        if side in _PEERS:
            module = "raw_clients"
            shared["peer"] = side
            publishing: dict[str, object] = {"subscriptions": subscribers}
        else:
            module = "hub_clients"
            publishing = {"batch": _BATCH}
        receiver = await stage.worker(f"{module}:subscribe", subscriptions=subscribers, **shared)
        await receiver.expect("ready")
        publisher = await stage.worker(f"{module}:publish", **shared, **publishing)
        await publisher.expect("ready")
        await receiver.expect("warm")
        before = server.cpu_seconds()
        await publisher.run()
        await receiver.expect("done")
        return (server.cpu_seconds() - before) / (events * subscribers)


async def _server(stage: Stage, side: str) -> Server:
    if side == "nats":
        return await stage.nats()
    return await (stage.redis() if side == "redis" else stage.hub(SWITCHBOARD_LOG=side))
