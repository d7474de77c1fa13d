"""What the registry counts, as metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from switchboard_server.core.registry.model import RemovalCause, Status
from switchboard_server.core.registry.stats import RegistryStats
from switchboard_server.telemetry.families import StatsCollector, buckets, counters, gauges


class RegistryCollector(StatsCollector[RegistryStats]):
    """Turns what the registry counts into metrics."""

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        stats = self._stats()
        yield from gauges(_GAUGES, stats)
        yield from counters(_COUNTERS, stats)
        instances = GaugeMetricFamily(
            "switchboard_registry_instances", "Registered instances by status.", labels=("status",)
        )
        for status in Status:
            instances.add_metric((status.name.lower(),), stats.instances.get(status, 0))
        removed = CounterMetricFamily(
            "switchboard_registry_removed", "Instances removed, by the cause.", labels=("cause",)
        )
        for cause in RemovalCause:
            if cause is not RemovalCause.STATUS:  # Watchers are told it of one that is still there.
                removed.add_metric((cause.name.lower(),), stats.removed.get(cause, 0))
        checks = HistogramMetricFamily(
            "switchboard_health_check_duration_seconds",
            "Duration of health checks, by kind and by what they found.",
            labels=("kind", "result"),
        )
        for (kind, status), durations in stats.checks.items():
            labels = (kind.value, _RESULTS[status])
            checks.add_metric(labels, buckets(durations), durations.total)
        propagation = HistogramMetricFamily(
            "switchboard_registry_propagation_seconds",
            "Time from a change to the moment a watcher was handed it.",
            labels=(),
        )
        propagation.add_metric((), buckets(stats.propagation), stats.propagation.total)
        yield from (instances, removed, checks, propagation)


_RESULTS = {
    Status.SERVING: "passed",
    Status.NOT_SERVING: "not_serving",
    Status.UNHEALTHY: "failed",
}

_GAUGES = (
    ("switchboard_registry_services", "Services with an instance.", "services"),
    (
        "switchboard_registry_unconfirmed",
        "Instances not heard of since a restart, or whose eviction is withheld.",
        "unconfirmed",
    ),
    ("switchboard_registry_revision", "Revision of the registry.", "revision"),
    (
        "switchboard_registry_self_preservation",
        "1 while eviction is withheld because too many instances ran out at once, else 0.",
        "preserving",
    ),
    ("switchboard_registry_withheld", "Instances that stand and would else be gone.", "withheld"),
    ("switchboard_registry_leases_held", "Open KeepAlive streams.", "leases"),
    ("switchboard_registry_watchers", "Open Watch streams.", "watchers"),
    ("switchboard_health_checks_running", "Health checks that run now.", "checks_running"),
    (
        "switchboard_registry_writable",
        "1 while anything can be changed; 0: what keeps the registry takes nothing.",
        "writable",
    ),
    ("switchboard_health_checked_instances", "Instances that this hub checks.", "checked"),
    (
        "switchboard_health_checks_waiting",
        "Health checks that wait because too many run.",
        "checks_waiting",
    ),
)

_COUNTERS = (
    ("switchboard_registry_changes", "Changes of the registry.", "changes"),
    (
        "switchboard_registry_compactions",
        "Times that a watcher that did not read was given a new snapshot.",
        "compactions",
    ),
    (
        "switchboard_registry_unannounced",
        "Changes that could not be published as events.",
        "unannounced",
    ),
)
