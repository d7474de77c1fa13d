"""P6: what a message to five thousand WebSockets costs the server. P7: what an idle one costs."""

from collections.abc import Sequence

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Server, Stage, Worker
from scripts.benchmarks.report import KILOBYTES, MICROSECONDS, THOUSANDS_A_SECOND, Row, Target
from scripts.benchmarks.websocket_clients import TOGETHER
from tests.support.servers import free_port

_CONNECTIONS = 5000
_IDLE = 10_000
# The clients are raw sockets that answer no pings.
_SETTINGS = {"WEBSOCKET_MAX_CONNECTIONS": "20000", "WEBSOCKET_PING_INTERVAL": "3600"}
_SIDES = ("hub", "bare", "ws")


async def run(plan: Plan) -> list[Row]:
    """Measures processor time of the servers by delivery, one message at a time and many."""
    name = f"CPU a delivery, Broadcast to {_CONNECTIONS} WebSockets"
    cost = Row("P6", name, MICROSECONDS, "loop of socket.send", Target("at most", 1.5))
    rates = [
        Row(
            "P6",
            f"deliveries a CPU second, {together} in flight",
            THOUSANDS_A_SECOND,
            "Node ws",
            target,
        )
        # One at a time each delivery is a system call: the bare loop is the bound, and has not
        # twice the rate of ws itself. Many are written to a connection together.
        for together, target in ((1, None), (TOGETHER, Target("at least", 2)))
    ]
    messages = TOGETHER if plan.quick else 5 * TOGETHER
    deliveries = messages * _CONNECTIONS
    async with Stage() as stage:
        port, size = free_port(), 0
        servers: dict[str, Server] = {"hub": await stage.hub(PORT=str(port), **_SETTINGS)}
        workers: dict[str, Worker] = {}
        for side in _SIDES:
            shared: dict[str, object] = {"connections": _CONNECTIONS, "messages": messages}
            if side == "hub":
                ports = {"port": port, "grpc_port": servers["hub"].port}
                worker = await stage.worker("websocket_clients:hub", **ports, **shared)
            else:
                servers[side] = await (stage.bare_sockets() if side == "bare" else stage.node_ws())
                worker = await stage.worker(
                    "websocket_clients:peer",
                    port=servers[side].port,
                    size=size,
                    masked=side == "ws",
                    **shared,
                )
            size = (await worker.expect("ready"))["size"]
            workers[side] = worker
        for order in plan.turns(_SIDES):
            # The workers send one message at a time, then many, by turns.
            spent = [await _spent(servers, workers, order) for _ in rates]
            cost.add(spent[0]["hub"] / deliveries, spent[0]["bare"] / deliveries)
            for row, seconds in zip(rates, spent, strict=True):
                row.add(deliveries / seconds["hub"], deliveries / seconds["ws"])
    return [cost, *rates]


async def _spent(
    servers: dict[str, Server], workers: dict[str, Worker], order: Sequence[str]
) -> dict[str, float]:
    """Processor seconds of each server for the messages of its worker."""
    spent = {}
    for side in order:
        before = servers[side].cpu_seconds()
        await workers[side].run()
        spent[side] = servers[side].cpu_seconds() - before
    return spent


async def idle(plan: Plan) -> list[Row]:
    """Measures the hub's resident memory before and after they have opened."""
    row = Row(
        "P7", f"memory an idle WebSocket, {_IDLE} of them", KILOBYTES, None, Target("at most", 20)
    )
    for _ in range(plan.rounds):
        async with Stage() as stage:
            port = free_port()
            hub = await stage.hub(PORT=str(port), **_SETTINGS)
            # What the first ones bring with them is no part of what each costs.
            first = await stage.worker("websocket_clients:hold", port=port, connections=10)
            await first.expect("ready")
            before = hub.resident_bytes()
            holder = await stage.worker("websocket_clients:hold", port=port, connections=_IDLE)
            await holder.expect("ready")
            row.add((hub.resident_bytes() - before) / _IDLE)
    return [row]
