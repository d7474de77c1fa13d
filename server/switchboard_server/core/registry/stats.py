"""What the registry counts, as plain numbers for whoever shows them."""

from collections.abc import Mapping
from dataclasses import dataclass

from switchboard_server.core.registry.checking import Outcome
from switchboard_server.core.registry.model import RemovalCause, Status
from switchboard_server.core.stats import Histogram

PROPAGATION_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds of the buckets for the time from a change to a watcher, in seconds."""


@dataclass(frozen=True, slots=True)
class RegistryStats:
    """The registry at one moment. Counts are since the start of the process.

    Args:
        instances: How many have each status.
        services: How many services have an instance.
        unconfirmed: Instances whose status is from before a restart, or withheld.
        revision: The registry's revision.
        changes: How many changes there were.
        removed: How many instances were removed, by the cause.
        preserving: Whether eviction is withheld.
        withheld: How many instances stand that would else be gone.
        leases: Open KeepAlive streams.
        watchers: Open Watch streams.
        compactions: How often a watcher that did not read was given a new snapshot.
        checks: Duration of checks in seconds, by kind and result.
        checks_running: Checks that run now.
        checks_waiting: Checks that wait for their turn.
        propagation: From a change to the moment a watcher was handed it, in seconds.
        unannounced: Changes that could not be published as events.
        checked: Instances that this hub checks.
        writable: Whether anything can be changed.
    """

    instances: Mapping[Status, int]
    services: int
    unconfirmed: int
    revision: int
    changes: int
    removed: Mapping[RemovalCause, int]
    preserving: bool
    withheld: int
    leases: int
    watchers: int
    compactions: int
    checks: Mapping[Outcome, Histogram]
    checks_running: int
    checks_waiting: int
    propagation: Histogram
    unannounced: int
    checked: int
    writable: bool
