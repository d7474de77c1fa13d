"""What a hub is made of besides its doors, whatever backend it stands on."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from switchboard_server.backends.probes.prober import NetworkProber
from switchboard_server.config import Settings
from switchboard_server.core.clock import SECOND_NS
from switchboard_server.core.cluster.groups import SpreadGroups
from switchboard_server.core.events import EventHub, Limits
from switchboard_server.core.groups.hub import GroupHub, GroupLimits
from switchboard_server.core.principal import HUB
from switchboard_server.core.publishing import PublishLimits
from switchboard_server.core.realtime.hub import RealtimeHub, RealtimeLimits
from switchboard_server.core.realtime.outbox import OutboxLimits
from switchboard_server.core.registry.announcing import Publish
from switchboard_server.core.registry.limits import RegistryLimits
from switchboard_server.core.registry.model import Change
from switchboard_server.core.registry.networks import AllowedNetworks
from switchboard_server.core.registry.registry import Registry
from switchboard_server.core.use_cases import UseCases
from switchboard_server.telemetry.metrics import Metrics
from switchboard_server.wire.registry_events import registry_events


@dataclass(frozen=True, slots=True)
class Parts:
    """A hub without its doors.

    Args:
        does: What it does.
        kept: Where events are kept, to be told at the start.
    """

    does: UseCases
    kept: str


def event_limits(settings: Settings) -> Limits:
    """How much publishing and subscribing the hub takes on."""
    storage, limits = settings.storage, settings.limits
    return Limits(
        publish=PublishLimits(
            max_event_bytes=limits.max_event_bytes,
            max_pending_bytes=storage.max_pending_bytes,
            idempotency_ns=limits.idempotency_seconds * SECOND_NS,
            idempotency_keys=limits.idempotency_max_keys,
            subject_events_per_second=limits.subject_events_per_second,
        ),
        max_subscriptions=limits.max_subscriptions,
        subject_subscriptions=limits.subject_subscriptions,
        tail_bytes=storage.tail_bytes,
    )


def group_limits(settings: Settings) -> GroupLimits:
    """How many groups the hub takes on, and what of them it lets go of."""
    groups = settings.groups
    return GroupLimits(
        max_groups=groups.max_groups,
        idle_ns=groups.idle_seconds * SECOND_NS,
        dead_letter_ns=groups.dead_letter_seconds * SECOND_NS,
    )


def realtime_limits(settings: Settings) -> RealtimeLimits:
    """How many connections the hub takes on, and how much may wait for one."""
    realtime = settings.realtime
    return RealtimeLimits(
        max_connections=realtime.max_connections,
        max_message_bytes=realtime.max_message_bytes,
        outbox=OutboxLimits(realtime.outbox_messages, realtime.outbox_bytes),
    )


def registry_limits(settings: Settings) -> RegistryLimits:
    """How the directory works."""
    registry = settings.registry
    return RegistryLimits(
        check_interval=registry.check_interval,
        reap_after=registry.reap_seconds,
        max_checks=registry.max_checks,
        max_instances=registry.max_instances,
        max_watchers=registry.max_watchers,
    )


def prober(settings: Settings) -> NetworkProber:
    """Who tries the instances."""
    networks = settings.registry.allowed_networks.split(",")
    return NetworkProber(AllowedNetworks(ipaddress.ip_network(each.strip()) for each in networks))


def announcing(events: EventHub) -> Publish:
    """Has changes of the directory published as events."""

    async def publish(changes: Sequence[Change]) -> None:
        await events.publish(registry_events(changes), HUB)

    return publish


def connect(
    metrics: Metrics,
    events: EventHub,
    groups: GroupHub | SpreadGroups,
    realtime: RealtimeHub,
    registry: Registry,
) -> None:
    """Has groups spare instances that drain, and metrics show what each part counts."""
    groups.follow_draining(registry.draining)
    registry.on_draining(lambda instance, _: groups.drain(instance))
    metrics.watch_hub(events.stats)
    metrics.watch_groups(groups.stats)
    metrics.watch_realtime(realtime.stats)
    metrics.watch_registry(registry.stats)
