"""P13: a message to WebSockets on two nodes of a cluster."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Server, Stage, Worker
from scripts.benchmarks.report import MICROSECONDS, MILLISECONDS, THOUSANDS_A_SECOND, Row
from scripts.benchmarks.websocket_clients import TOGETHER
from tests.support.servers import free_port

_EACH = 1000
# The clients are raw sockets that answer no pings.
_SETTINGS = {"WEBSOCKET_MAX_CONNECTIONS": "20000", "WEBSOCKET_PING_INTERVAL": "3600"}


_PEER = "one hub alone"


async def run(plan: Plan) -> list[Row]:
    """Measures the time from Broadcast on one node to the last delivery on both, and the cost.

    One message at a time, then many in flight; beside a hub that has all the connections itself.
    """
    work = f"Broadcast to 2 x {_EACH} WebSockets on two nodes"
    last = Row("P13", f"{work}, until the last has it", MILLISECONDS, _PEER, None)
    rate = Row("P13", f"deliveries, {TOGETHER} in flight", THOUSANDS_A_SECOND, _PEER, None)
    cost = Row("P13", "CPU a delivery, both hubs and Redis", MICROSECONDS, _PEER, None)
    messages = TOGETHER if plan.quick else 10 * TOGETHER
    deliveries = messages * 2 * _EACH
    async with Stage() as stage:
        servers: dict[str, list[Server]] = {}
        workers: dict[str, Worker] = {}
        for side, count in (("nodes", 2), ("alone", 1)):
            redis = await stage.redis()
            settings = _SETTINGS | ({} if side == "alone" else await _cluster(stage, redis))
            ports = [free_port() for _ in range(count)]
            hubs = [await stage.hub(PORT=str(port), **settings) for port in ports]
            servers[side] = [*hubs, redis]
            workers[side] = await stage.worker(
                "websocket_clients:spread",
                ports=ports,
                grpc_port=hubs[0].port,
                connections=2 * _EACH // count,
                messages=messages,
            )
            await workers[side].expect("ready")
        for order in plan.turns(list(workers)):
            # The workers send one message at a time, then many, by turns.
            seconds = {side: (await workers[side].run())["seconds"] / messages for side in order}
            last.add(seconds["nodes"], seconds["alone"])
            spent, rates = {}, {}
            for side in order:
                before = _spent(servers[side])
                rates[side] = deliveries / (await workers[side].run())["seconds"]
                spent[side] = (_spent(servers[side]) - before) / deliveries
            rate.add(rates["nodes"], rates["alone"])
            cost.add(spent["nodes"], spent["alone"])
    return [last, rate, cost]


async def _cluster(stage: Stage, redis: Server) -> dict[str, str]:
    return {
        "SWITCHBOARD_BACKEND": "cluster",
        "RABBITMQ_URL": await stage.rabbitmq(),
        "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
    }


def _spent(servers: list[Server]) -> float:
    return sum(each.cpu_seconds() for each in servers)
