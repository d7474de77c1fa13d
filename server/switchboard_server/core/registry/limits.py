"""How the registry works, and how much it takes on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """How the registry works, and how much it takes on.

    Args:
        check_interval: Seconds between checks, where a registration names none; also the interval
            of self-preservation.
        reap_after: Seconds after which an unhealthy instance is removed.
        max_checks: Most checks at the same time.
        max_instances: Most instances.
        max_watchers: Most watchers at a time.
    """

    check_interval: float = 10.0
    reap_after: float = 30.0
    max_checks: int = 256
    max_instances: int = 100_000
    max_watchers: int = 10_000
