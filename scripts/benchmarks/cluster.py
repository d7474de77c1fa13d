"""P8: what many hubs over RabbitMQ cost against a program that uses RabbitMQ itself."""

from statistics import median

from scripts.benchmarks.plan import Plan
from scripts.benchmarks.processes import Server, Stage
from scripts.benchmarks.report import MICROSECONDS, THOUSANDS_A_SECOND, Row, Target

_BATCH = 512
_EVENTS = {"hubs": 400_000, "aio-pika": 12_000}
_PEER = "aio-pika, an event a message"
_ONE_BY_ONE = "publish → deliver on another node, one at a time, p50"
_ROUND_TRIP = "aio-pika, publish → consume"


async def run(plan: Plan) -> list[Row]:
    """Measures events a second and the median latency, published on one node, delivered on another.

    Which of the two numbers them is theirs to settle; each publishes in turn.
    """
    rate = Row(
        "P8",
        "publish → deliver on another node",
        THOUSANDS_A_SECOND,
        _PEER,
        Target("at least", 30),
    )
    async with Stage() as stage:
        url = await stage.rabbitmq()
        settings = {
            "SWITCHBOARD_BACKEND": "cluster",
            "RABBITMQ_URL": url,
            "REDIS_URL": f"redis://127.0.0.1:{(await stage.redis()).port}/0",
        }
        hubs = [await stage.hub(**settings), await stage.hub(**settings)]
        for turn, order in enumerate(plan.turns(list(_EVENTS))):
            nodes = hubs[turn % 2], hubs[1 - turn % 2]
            rates = {side: await _rate(stage, plan, side, nodes, url) for side in order}
            rate.add(rates["hubs"], rates["aio-pika"])
        ways = [
            await _latencies(stage, plan, nodes, url)
            for nodes in ((hubs[0], hubs[1]), (hubs[1], hubs[0]))
        ]
    return [rate, *_rows(ways)]


def _rows(ways: list[Row]) -> list[Row]:
    """All latencies together, and those of either way by itself.

    What is published on the node that numbers goes through RabbitMQ once, else twice: that node is
    told by its figures, since a hub does not tell which it is.
    """
    together = Row("P8", _ONE_BY_ONE, MICROSECONDS, _ROUND_TRIP, Target("at most", 2))
    ways.sort(key=lambda row: median(row.ours))
    for row, name in zip(ways, ("from the node that numbers", "from another"), strict=True):
        row.work = f"  {name}"
        for ours, peer in zip(row.ours, row.peer, strict=True):
            together.add(ours, peer)
    return [together, *ways]


async def _rate(
    stage: Stage, plan: Plan, side: str, nodes: tuple[Server, Server], url: str
) -> float:
    """Events a second, from the first publish to the last delivery."""
    events = plan.events(_EVENTS[side], _BATCH)
    if side == "hubs":
        subscriber = await stage.worker(
            "hub_clients:subscribe", port=nodes[1].port, events=events, subscriptions=1, warm=0
        )
        publisher = await stage.worker(
            "hub_clients:build_and_publish", port=nodes[0].port, events=events, batch=_BATCH
        )
    else:
        subscriber = await stage.worker("amqp_clients:consume", url=url, events=events)
        await subscriber.expect("ready")
        publisher = await stage.worker("amqp_clients:publish", url=url, events=events)
    if side == "hubs":
        await subscriber.expect("ready")
        await subscriber.expect("warm")
    await publisher.expect("ready")
    published = await publisher.run()
    received = await subscriber.expect("done")
    subscriber.finish()
    publisher.finish()
    return events / float(received["ended"] - published["began"])


async def _latencies(stage: Stage, plan: Plan, nodes: tuple[Server, Server], url: str) -> Row:
    row = Row("P8", _ONE_BY_ONE, MICROSECONDS, _ROUND_TRIP, None)
    events = plan.events(500)
    ports = {"port": nodes[0].port, "deliver_port": nodes[1].port}
    workers = {
        "hubs": await stage.worker("call_clients:hub_latency", events=events, **ports),
        "aio-pika": await stage.worker("amqp_clients:latency", url=url, events=events),
    }
    for worker in workers.values():
        await worker.expect("ready")
    for order in plan.turns(list(workers), each_round=3):
        seconds = {side: (await workers[side].run())["seconds"] for side in order}
        row.add(seconds["hubs"], seconds["aio-pika"])
    for worker in workers.values():
        worker.finish()
    return row
