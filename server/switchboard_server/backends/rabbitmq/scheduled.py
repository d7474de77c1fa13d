"""What the journal of the seat of who numbers says of events that are not due yet."""

from dataclasses import dataclass

import msgspec

from switchboard_server.backends.rabbitmq.records import DraftColumns, drafts_to_columns
from switchboard_server.core.idempotency import Key
from switchboard_server.core.records import Drafts


class Scheduled(msgspec.Struct, array_like=True, tag="scheduled"):
    """Events of one call.

    Args:
        row: Number of the first; the others follow.
        accepted_ns: When they were accepted, Unix time in nanoseconds.
        node: Id of the node whose request it was.
        number: Number of the request.
        drafts: The events.
        duplicates: Which events of the request were accepted before.
    """

    row: int
    accepted_ns: int
    node: str
    number: int
    drafts: DraftColumns
    duplicates: dict[int, int]


class Begun(msgspec.Struct, array_like=True, tag="begun"):
    """Events are about to enter the log, after this sequence."""

    rows: list[int]
    last: int


class Gone(msgspec.Struct, array_like=True, tag="gone"):
    """Events have entered the log."""

    rows: list[int]


class Rows(msgspec.Struct, array_like=True, tag="rows"):
    """The rows that come next begin with this number."""

    row: int


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Scheduled | Begun | Gone | Rows).decode


@dataclass(slots=True)
class Row:
    """An event that waits."""

    row: int
    due_ns: int
    drafts: Drafts
    origin: Scheduled

    @property
    def key(self) -> Key | None:
        """Its idempotency key, if it has one."""
        given = self.drafts.ids[0] if self.drafts.ids else ""
        return (self.drafts.route(0).source_service, given) if given else None


def rows_of(scheduled: Scheduled, drafts: Drafts) -> list[Row]:
    """The events of a record.

    Args:
        scheduled: The record.
        drafts: Its events.
    """
    return [
        Row(
            scheduled.row + index,
            drafts.extras[index].deliver_at_ns,
            drafts.select([index]),
            scheduled,
        )
        for index in range(len(drafts))
    ]


def record_of(row: Row) -> bytes:
    """The record of one event that waits."""
    origin, drafts = row.origin, drafts_to_columns(row.drafts)
    return encode(
        Scheduled(
            row.row,
            origin.accepted_ns,
            origin.node,
            origin.number,
            drafts,
            origin.duplicates,
        )
    )
