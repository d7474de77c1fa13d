"""Calls that wait for their transaction."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from switchboard_server.backends.embedded.store import Commit, GroupWork, SaveChange
from switchboard_server.core.ports import Lane
from switchboard_server.core.records import Codec, Drafts, build_batches


@dataclass(slots=True)
class Waiting:
    """A call that waits for its transaction.

    Args:
        future: Answers the call.
        drafts: Events that enter the log, or wait for their time.
        scheduled: They wait for it.
        released: Rows of scheduled events that the drafts are.
        group: What becomes of a group.
        lane: With what it fails.

    Attributes:
        size: Bytes of the events in it.
    """

    future: asyncio.Future[Any]
    drafts: Drafts = field(default_factory=lambda: Drafts([], []))
    scheduled: bool = False
    released: Sequence[int] = ()
    group: GroupWork | None = None
    lane: Lane | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        """Measures it."""
        self.size = self.group.size() if isinstance(self.group, SaveChange) else self.drafts.size()


def commit_of(taken: Sequence[Waiting], first: int, time_ns: int, codec: Codec) -> Commit:
    """The transaction of some calls.

    Args:
        taken: The calls, in order.
        first: Sequence of the first event that enters the log.
        time_ns: When all this happens, Unix time in nanoseconds.
        codec: How events look as bytes.
    """
    entering = [each.drafts for each in taken if each.group is None and not each.scheduled]
    return Commit(
        build_batches(entering, first, time_ns, codec),
        [each.drafts for each in taken if each.scheduled],
        [row for each in taken for row in each.released],
        time_ns,
        [each.group for each in taken if each.group is not None],
    )


def fail(taken: Iterable[Waiting], error: BaseException) -> None:
    """Tells those who have not heard yet what went wrong."""
    for each in taken:
        if each.lane is not None:
            each.lane.fail(error)
        if not each.future.done():
            each.future.set_exception(error)
