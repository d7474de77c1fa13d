"""P13: a message to WebSockets on two nodes of a cluster."""

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Server, Stage, free_port
from scripts.benchmarks.report import MICROSECONDS, MILLISECONDS, THOUSANDS_A_SECOND, Row
from scripts.benchmarks.websocket_clients import TOGETHER

_EACH = 1000
# The clients are raw sockets that answer no pings.
_SETTINGS = {"WEBSOCKET_MAX_CONNECTIONS": "20000", "WEBSOCKET_PING_INTERVAL": "3600"}


async def run(plan: Plan) -> list[Row]:
    """Measures the time from Broadcast on one node to the last delivery on both, and the cost.

    One message at a time, then many in flight.
    """
    work = f"Broadcast to 2 x {_EACH} WebSockets on two nodes"
    last = Row("P13", f"{work}, until the last has it", MILLISECONDS, None, None)
    rate = Row("P13", f"deliveries, {TOGETHER} in flight", THOUSANDS_A_SECOND, None, None)
    cost = Row("P13", "CPU a delivery, both hubs and Redis", MICROSECONDS, None, None)
    messages = TOGETHER if plan.quick else 10 * TOGETHER
    deliveries = messages * 2 * _EACH
    async with Stage() as stage:
        redis = await stage.redis()
        settings = {
            "SWITCHBOARD_BACKEND": "cluster",
            "RABBITMQ_URL": await stage.rabbitmq(),
            "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            **_SETTINGS,
        }
        ports = [free_port(), free_port()]
        hubs = [await stage.hub(PORT=str(port), **settings) for port in ports]
        servers = [*hubs, redis]
        worker = await stage.worker(
            "websocket_clients:spread",
            ports=ports,
            grpc_port=hubs[0].port,
            connections=_EACH,
            messages=messages,
        )
        await worker.expect("ready")
        for _ in range(plan.rounds):
            alone = await worker.run()
            last.add(alone["seconds"] / messages)
            before = _spent(servers)
            together = await worker.run()
            cost.add((_spent(servers) - before) / deliveries)
            rate.add(deliveries / together["seconds"])
    return [last, rate, cost]


def _spent(servers: list[Server]) -> float:
    return sum(each.cpu_seconds() for each in servers)
