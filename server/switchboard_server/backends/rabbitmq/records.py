"""What a message of the log holds, and how drafts travel to the node that numbers them.

The stream `<prefix>.v1.log` holds messages of two types (AMQP property `type`).

**`events`** is a *record*: numbered events that were stored together. It comes through the topic
exchange `<prefix>`, with the type of its events as routing key (255 bytes of it); where they have
several, the others are in the header `CC`, so that a queue that is bound for any of them gets the
message once.
Property `content_type` is `application/vnd.switchboard.events+protobuf`, and the body is a valid
`switchboard.v1.SubscribeResponse`: any program that has the published protos can parse it. Every
`deliveries` entry in it is one event, in the order of their sequences. What the nodes need besides
follows as field 1000, which is reserved and which parsers skip:

    deliveries (field 1), repeated
    field 1000, length-delimited: columns, then their length in four bytes, lowest first

So the last four bytes of the body tell where the columns begin. They are MessagePack, an array:

    0  version of this layout, 1
    1  id of the log
    2  epoch: the term of the node that numbered the events
    3  when they entered the log, Unix time in nanoseconds
    4  batches, each an array: sequence of its first event; where each event ends in the batch's
       part of the deliveries (four bytes each); its routes, each [type, source service, target
       service, priority]; for each event the index of its route (two bytes each; empty: all have
       the first);
       and by index of the event what only some have: id that the publisher gave, attributes,
       ordering key, expiry (Unix time in nanoseconds, as text from 2^63 on), correlation id
    5  calls that the events answer, each an array: id of the node, number of its first request, for
       each request in turn how many of the events are its own, and by index of the request those
       of its events that were accepted before ({index: sequence})
    6  numbers of the scheduled events that these are

**`term`** is a *marker*: a node begins to number. It is published to the queue itself, so that no
other queue gets it. The body is a MessagePack array: version, id of the log, epoch, a name of the
term that no other has, sequence of the last event known then, its time, and the number of the term
among those of the seat. Whatever record of an
earlier epoch stands after a marker was not stored: all who read drop it.
"""

from collections.abc import Iterable, Sequence

import msgspec

from switchboard_server.backends.arrays import from_little, to_little
from switchboard_server.core.filters import Route
from switchboard_server.core.records import Batch, Drafts, Extra
from switchboard_server.wire.codec import varint

EVENTS = "events"
"""AMQP type of a record."""
TERM = "term"
"""AMQP type of a marker."""
CONTENT_TYPE = "application/vnd.switchboard.events+protobuf"
"""AMQP content type of a record."""
MARKER_CONTENT_TYPE = "application/msgpack"
"""AMQP content type of a marker."""

VERSION = 1
"""Of the layout."""
_FIELD = b"\xc2\x3e"
"""Field 1000, length-delimited."""
_LENGTH = 4
_LONGEST_KEY = 255
"""Bytes of a routing key."""
_SHORT = _LONGEST_KEY // 4
"""Up to so many characters a name needs no look at its bytes."""


class RecordError(ValueError):
    """A message is not what a node of this version writes."""


class BatchColumns(msgspec.Struct, array_like=True):
    """A batch but for its deliveries."""

    first: int
    ends: bytes
    routes: list[Route]
    route_of: bytes = b""
    ids: dict[int, str] = {}
    attributes: dict[int, dict[str, str]] = {}
    ordering_keys: dict[int, str] = {}
    expiries: dict[int, int | str] = {}
    correlation_ids: dict[int, str] = {}

    def route(self, index: int) -> Route:
        """The route of one event."""
        at = self.route_of[2 * index : 2 * index + 2]
        return self.routes[int.from_bytes(at, "little")]


class Answers(msgspec.Struct, array_like=True):
    """Consecutive requests of a node that events answer."""

    node: str
    number: int
    counts: list[int]
    duplicates: dict[int, dict[int, int]] = {}


class Columns(msgspec.Struct, array_like=True):
    """What a record holds beside deliveries."""

    version: int
    log_id: str
    epoch: int
    time_ns: int
    batches: list[BatchColumns]
    answers: list[Answers] = []
    released: list[int] = []

    @property
    def first(self) -> int:
        """Sequence of the first event."""
        return self.batches[0].first

    @property
    def last(self) -> int:
        """Sequence of the last event."""
        newest = self.batches[-1]
        return newest.first + len(newest.ends) // 4 - 1


class Marker(msgspec.Struct, array_like=True):
    """Begins a term."""

    version: int
    log_id: str
    epoch: int
    nonce: str
    last: int
    time_ns: int
    term: int


_encode = msgspec.msgpack.Encoder().encode
_columns = msgspec.msgpack.Decoder(Columns)
_marker = msgspec.msgpack.Decoder(Marker)


def encode_record(
    batches: Sequence[Batch],
    *,
    log_id: str,
    epoch: int,
    answers: Sequence[Answers] = (),
    released: Sequence[int] = (),
) -> bytes:
    """The body of a record.

    Args:
        batches: Consecutive batches of one moment.
        log_id: Id of the log.
        epoch: The term.
        answers: The requests that the events are of, in order.
        released: Numbers of the scheduled events that they are.
    """
    columns = _encode(
        Columns(
            VERSION,
            log_id,
            epoch,
            batches[0].time_ns,
            [_batch_columns(batch) for batch in batches],
            list(answers),
            list(released),
        )
    )
    return b"".join(
        [
            *(batch.frames for batch in batches),
            _FIELD,
            varint(len(columns) + _LENGTH),
            columns,
            len(columns).to_bytes(_LENGTH, "little"),
        ]
    )


def decode_columns(body: bytes) -> Columns:
    """What a record holds beside its deliveries.

    Raises:
        RecordError: It is none.
    """
    length = int.from_bytes(body[-_LENGTH:], "little")
    view = memoryview(body)[len(body) - _LENGTH - length : len(body) - _LENGTH]
    try:
        columns = _columns.decode(view)
    except (msgspec.MsgspecError, ValueError) as error:
        raise RecordError(f"the columns cannot be read: {error}") from error
    if columns.version != VERSION or not columns.batches:
        raise RecordError(f"version {columns.version} is not known")
    return columns


def decode_batches(body: bytes, columns: Columns) -> list[Batch]:
    """The batches of a record.

    Raises:
        RecordError: Columns and deliveries do not fit.
    """
    batches, start = [], 0
    try:
        for each in columns.batches:
            ends = from_little("I", each.ends)
            stop = start + ends[-1]
            batches.append(
                Batch(
                    first=each.first,
                    time_ns=columns.time_ns,
                    frames=body[start:stop],
                    ends=ends,
                    routes=tuple(each.routes),
                    route_of=from_little("H", each.route_of) if each.route_of else None,
                    ids=each.ids,
                    attributes=each.attributes,
                    ordering_keys=each.ordering_keys,
                    expiries={index: int(at) for index, at in each.expiries.items()},
                    correlation_ids=each.correlation_ids,
                )
            )
            start = stop
    except (ValueError, LookupError) as error:
        raise RecordError(f"the columns do not fit: {error}") from error
    if body[start : start + len(_FIELD)] != _FIELD:
        raise RecordError("the columns do not fit the deliveries")
    return batches


def encode_marker(marker: Marker) -> bytes:
    """The body of a marker."""
    return _encode(marker)


def decode_marker(body: bytes) -> Marker:
    """A marker from its body.

    Raises:
        RecordError: It is none.
    """
    try:
        marker = _marker.decode(body)
    except msgspec.MsgspecError as error:
        raise RecordError(f"the marker cannot be read: {error}") from error
    if marker.version != VERSION:
        raise RecordError(f"version {marker.version} is not known")
    return marker


def routing_keys(batches: Iterable[Batch]) -> list[str]:
    """The types of all events of some batches, each once, as far as AMQP can hold them."""
    types = dict.fromkeys(route.type for batch in batches for route in batch.routes)
    return [each if len(each) <= _SHORT else _cut(each) for each in types]


def _cut(name: str) -> str:
    return name.encode()[:_LONGEST_KEY].decode(errors="ignore")


def _batch_columns(batch: Batch) -> BatchColumns:
    return BatchColumns(
        batch.first,
        to_little(batch.ends),
        list(batch.routes),
        b"" if batch.route_of is None else to_little(batch.route_of),
        dict(batch.ids),
        {index: dict(each) for index, each in batch.attributes.items()},
        dict(batch.ordering_keys),
        {index: _integer(at) for index, at in batch.expiries.items()},
        dict(batch.correlation_ids),
    )


def _integer(number: int) -> int | str:
    """A number as MessagePack can hold it: of nanoseconds in 10,000 years only the digits."""
    return number if number < 1 << 63 else str(number)


# --- drafts ---------------------------------------------------------------------------------------


class ExtraColumns(msgspec.Struct, array_like=True):
    """An `Extra`, with the names of its fields left out."""

    attributes: dict[str, str]
    ordering_key: str
    ttl_ns: int | str
    deliver_at_ns: int
    correlation_id: str


class DraftColumns(msgspec.Struct, array_like=True):
    """Drafts of one call."""

    bodies: list[bytes]
    routes: list[Route]
    route_of: bytes
    ids: list[str]
    extras: dict[int, ExtraColumns]
    publisher: str


def drafts_to_columns(drafts: Drafts) -> DraftColumns:
    """Drafts as they travel. Refused ones must not be among them."""
    routes, route_of = [drafts.routes], b""
    if not isinstance(drafts.routes, Route):
        table: dict[Route, int] = {}
        indexes = [table.setdefault(route, len(table)) for route in drafts.routes]
        routes = list(table)
        if len(routes) > 1:
            route_of = b"".join([index.to_bytes(2, "little") for index in indexes])
    return DraftColumns(
        drafts.bodies,
        routes,  # type: ignore[arg-type]
        route_of,
        drafts.ids or [],
        {
            index: ExtraColumns(
                dict(each.attributes),
                each.ordering_key,
                _integer(each.ttl_ns),
                each.deliver_at_ns,
                each.correlation_id,
            )
            for index, each in drafts.extras.items()
        },
        drafts.publisher,
    )


def columns_to_drafts(columns: DraftColumns) -> Drafts:
    """Drafts as they were sent."""
    routes: Route | list[Route] = columns.routes[0]
    if columns.route_of:
        table = columns.routes
        routes = [table[index] for index in from_little("H", columns.route_of)]
    return Drafts(
        columns.bodies,
        routes,
        columns.ids or None,
        {
            index: Extra(
                each.attributes,
                each.ordering_key,
                int(each.ttl_ns),
                each.deliver_at_ns,
                each.correlation_id,
            )
            for index, each in columns.extras.items()
        },
        publisher=columns.publisher,
    )
