"""How often a stream says that it lives."""

from switchboard_server.core.errors import invalid_field

DEFAULT_HEARTBEAT = 15.0
"""Seconds of silence after which a stream says so, unless told otherwise."""
HEARTBEAT_BOUNDS = (1.0, 3600.0)
"""What a client may ask for, in seconds."""


def check_heartbeat(heartbeat: float) -> None:
    """Checks how often a stream is to say that it lives.

    Args:
        heartbeat: Seconds.

    Raises:
        InvalidArgumentError: It is not allowed.
    """
    low, high = HEARTBEAT_BOUNDS
    if not low <= heartbeat <= high:
        raise invalid_field("heartbeat_interval", f"must be {low:g} to {high:g} seconds")
