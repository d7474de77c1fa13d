"""Faults fall on hubs under load: what was answered is delivered, in order, and settled."""

from pathlib import Path

import pytest

from tests.e2e.cluster import faults
from tests.e2e.cluster.nodes import alone, cluster
from tests.e2e.cluster.report import endure
from tests.e2e.cluster.trial import Trial

RATE = 200.0
"""Events a second of each publisher: enough to have many on their way whenever a fault falls."""


@pytest.mark.timeout(300)  # RabbitMQ alone takes its time to start
async def test_a_cluster_keeps_its_word_when_a_hub_redis_and_rabbitmq_are_killed(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as whole:
        trial = Trial(whole, RATE, warm=100)
        await endure(
            trial,
            faults.kill_node(whole.nodes[0], 0.5),
            faults.kill_redis(whole, trial),
            faults.kill_rabbitmq(whole, trial),
        )


@pytest.mark.faults
async def test_an_embedded_hub_keeps_its_word_when_it_is_killed(tmp_path: Path) -> None:
    async with alone(tmp_path) as hubs:
        await endure(Trial(hubs, RATE), *[faults.kill_node(hubs.nodes[0], 0.5)] * 2)


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_cluster_keeps_its_word_whatever_fails(tmp_path: Path) -> None:
    async with cluster(tmp_path, {"MESSAGE_TIMEOUT": "5"}) as whole:
        trial = Trial(whole, RATE)
        await endure(
            trial,
            faults.kill_node(whole.nodes[0], 1.0),
            faults.kill_redis(whole, trial),
            # About as long as the log may take: what is too late is not overtaken.
            faults.cut_link(whole, 4.7),
            faults.kill_rabbitmq(whole, trial),
            faults.freeze_node(whole.nodes[1], 8.0),
            faults.kill_node_without_rabbitmq(whole, whole.nodes[2], trial),
        )
