"""Metrics in Prometheus' text format.

Counting is plain arithmetic on the event loop's thread, and Prometheus' classes come in only when
somebody asks: its own counter and histogram take locks, and five times as long for each call.
"""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from switchboard_server.core.groups.reports import GroupStats
from switchboard_server.core.realtime.stats import RealtimeStats
from switchboard_server.core.registry.stats import RegistryStats
from switchboard_server.core.stats import EventStats
from switchboard_server.telemetry.bridge_metrics import BridgeMetrics
from switchboard_server.telemetry.event_metrics import EventCollector
from switchboard_server.telemetry.group_metrics import GroupCollector
from switchboard_server.telemetry.realtime_metrics import RealtimeCollector
from switchboard_server.telemetry.registry_metrics import RegistryCollector
from switchboard_server.telemetry.rpc_metrics import RpcMetrics
from switchboard_server.telemetry.xds_metrics import XdsMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `Metrics.render` returns; every version of Prometheus reads it."""


class _BuildInfo(Collector):
    def __init__(self, version: str) -> None:
        self._version = version

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "switchboard_build_info", "Always 1; says which version runs.", labels=("version",)
        )
        info.add_metric((self._version,), 1)
        yield info


class Metrics:
    """All metrics of a process, in a registry of their own.

    Args:
        version: Version of the hub.

    Attributes:
        rpc: Counts calls over gRPC.
        bridge: Counts what the WebSocket bridge does.
    """

    def __init__(self, version: str) -> None:
        self.rpc = RpcMetrics()
        self.bridge = BridgeMetrics()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_BuildInfo(version))
        self._registry.register(self.rpc)
        self._registry.register(self.bridge)

    def watch_hub(self, stats: Callable[[], EventStats]) -> None:
        """Adds what the hub counts of events; see `EventCollector`."""
        self._registry.register(EventCollector(stats))

    def watch_groups(self, stats: Callable[[], Sequence[GroupStats]]) -> None:
        """Adds what consumer groups count; see `GroupCollector`."""
        self._registry.register(GroupCollector(stats))

    def watch_registry(self, stats: Callable[[], RegistryStats]) -> None:
        """Adds what the registry counts; see `RegistryCollector`."""
        self._registry.register(RegistryCollector(stats))

    def watch_xds(self) -> XdsMetrics:
        """Adds counters for xDS, and returns them to be counted on."""
        metrics = XdsMetrics()
        self._registry.register(metrics)
        return metrics

    def watch_realtime(self, stats: Callable[[], RealtimeStats]) -> None:
        """Adds what the hub counts of connections and rooms; see `RealtimeCollector`."""
        self._registry.register(RealtimeCollector(stats))

    def render(self) -> bytes:
        """Returns all metrics as they are now, of the type `CONTENT_TYPE`."""
        return generate_latest(self._registry)
