"""Defects of the hub: the log gets the particulars, the caller a name to ask for them by."""

import logging
import secrets

from switchboard_server.core.errors import SwitchboardError

_logger = logging.getLogger(__name__)


class InternalError(SwitchboardError):
    """A defect of the hub; the log has the particulars under the incident's name."""


def as_switchboard_error(error: Exception, method: str) -> SwitchboardError:
    """What the caller is told of any exception; a defect goes to the log.

    Args:
        error: What was raised.
        method: Name of the rpc.
    """
    if isinstance(error, SwitchboardError):
        return error
    incident = secrets.token_hex(4)
    _logger.error("incident %s in %s", incident, method, exc_info=error)
    return InternalError(
        "INTERNAL",
        f"the hub has a defect; its log tells more of incident {incident}",
        metadata={"incident": incident},
    )
