"""Consumer groups as messages, for every door."""

import uuid
from collections.abc import Sequence

from switchboard.v1 import (
    event_pb2,
    event_service_pb2,
    group_pb2,
    group_service_pb2,
    subscription_pb2,
)
from switchboard_server.core.calls import REQUEST
from switchboard_server.core.errors import invalid_field
from switchboard_server.core.events import AfterSequence, AfterTime, Begin, Start
from switchboard_server.core.filters import Filter
from switchboard_server.core.groups.changes import DeadLetter
from switchboard_server.core.groups.config import DEFAULT_CREDIT, GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import Identity, Outcome, Rejection
from switchboard_server.core.groups.hub import GroupWish
from switchboard_server.core.groups.reports import GroupReport, MemberReport
from switchboard_server.core.records import Drafts
from switchboard_server.wire.codec import event_field, tagged, varint
from switchboard_server.wire.decode import (
    decode_duration,
    decode_event,
    decode_filter,
    decode_time,
)

_DEAD_LETTER = b"\x0a"
_RESULT = b"\x0a"
_ACK_ID = b"\x0a"
_OUTCOME = {each: b"\x10" + varint(each.value) for each in Outcome}


def decode_group(request: subscription_pb2.SubscribeRequest, peer: str) -> GroupWish | None:
    """What a request asks of a consumer group; None: it is of none.

    Args:
        request: The request.
        peer: The caller's network address.

    Raises:
        InvalidArgumentError: A field is not allowed.
    """
    modes = subscription_pb2.DeliveryMode
    if request.mode not in modes.values():
        raise invalid_field("mode", f"{request.mode} is unknown; see DeliveryMode")
    fan_out = request.mode == subscription_pb2.DELIVERY_MODE_FAN_OUT
    if fan_out or not (request.group or request.mode):
        _refuse_group_fields(request, fan_out=fan_out)
        return None
    if not request.group:
        raise invalid_field(
            "group", f"is required with {modes.Name(request.mode)}", reason="FIELD_MISSING"
        )
    keyed = request.mode == subscription_pb2.DELIVERY_MODE_KEY_SHARED
    defaults = GroupConfig()
    return GroupWish(
        group=request.group,
        config=GroupConfig(
            filter=decode_filter(request.filter),
            mode=Mode.KEY_SHARED if keyed else Mode.QUEUE,
            ack_deadline_ns=decode_duration(request.ack_deadline, "ack_deadline")
            if request.HasField("ack_deadline")
            else defaults.ack_deadline_ns,
            retry=_retry_policy(request.retry_policy),
        ),
        max_in_flight=request.max_in_flight or DEFAULT_CREDIT,
        instance=request.instance,
        peer=peer,
    )


def decode_seek(request: group_service_pb2.SeekGroupRequest) -> Start:
    """Where a group is to go on.

    Raises:
        InvalidArgumentError: The request does not say so.
    """
    chosen = request.WhichOneof("target")
    if chosen == "after_sequence":
        return AfterSequence(request.after_sequence)
    if chosen == "after_time":
        return AfterTime(decode_time(request.after_time, "after_time"))
    if request.start_at == subscription_pb2.START_AT_EARLIEST:
        return Begin.EARLIEST
    if request.start_at == subscription_pb2.START_AT_LATEST:
        return Begin.LATEST
    raise invalid_field(
        "target",
        "is required: one of start_at (START_AT_EARLIEST, START_AT_LATEST), after_sequence and "
        "after_time",
        reason="FIELD_MISSING",
    )


def decode_call(request: event_service_pb2.CallRequest, publisher: str) -> tuple[Drafts, str]:
    """The request of a call, with what the hub adds to it, and its correlation id.

    Args:
        request: The request. Is changed.
        publisher: Subject of the caller.

    Raises:
        InvalidArgumentError: It has no event.
    """
    if not request.HasField("event"):
        raise invalid_field("event", "is required", reason="FIELD_MISSING")
    event = request.event
    event.type = event.type or REQUEST
    event.correlation_id = event.correlation_id or uuid.uuid4().hex
    return decode_event(event, publisher), event.correlation_id


def decode_rejection(request: event_service_pb2.RejectRequest) -> Rejection:
    """How deliveries are given back.

    Raises:
        InvalidArgumentError: The time until the next attempt is no valid duration.
    """
    wait_ns = None
    if request.HasField("retry_after"):
        wait_ns = decode_duration(request.retry_after, "retry_after")
    return Rejection(wait_ns, request.dead_letter, request.reason)


def decode_extension(request: event_service_pb2.ExtendDeadlineRequest) -> int | None:
    """Nanoseconds from now to the new deadline; None: the group's.

    Raises:
        InvalidArgumentError: It is no valid duration.
    """
    if not request.HasField("extension"):
        return None
    return decode_duration(request.extension, "extension")


def outcomes(names: Sequence[str], found: Sequence[Outcome]) -> bytes:
    """What became of deliveries, as `results` of each of the three responses.

    Made by joining: a call settles up to ten thousand.
    """
    length = len(names[0]) if names else 0
    if found.count(Outcome.OK) == len(names) and set(map(len, names)) == {length}:
        # All alike but for the ids, which are letters and digits.
        end = _OUTCOME[Outcome.OK]
        head = tagged(_RESULT, tagged(_ACK_ID, bytes(length)) + end)[: -length - len(end)]
        return head + (end + head).decode("ascii").join(names).encode() + end
    return b"".join(
        [
            tagged(_RESULT, tagged(_ACK_ID, name.encode()) + _OUTCOME[outcome])
            for name, outcome in zip(names, found, strict=True)
        ]
    )


def group(told: GroupReport) -> group_pb2.Group:
    """A group as a message."""
    config = told.record.config
    message = group_pb2.Group(
        name=told.record.name,
        filter=_filter(config.filter),
        mode=subscription_pb2.DeliveryMode.ValueType(config.mode.value),
        retry_policy=subscription_pb2.RetryPolicy(max_attempts=config.retry.max_attempts),
        progress=progress(told),
    )
    message.ack_deadline.FromNanoseconds(config.ack_deadline_ns)
    message.retry_policy.min_backoff.FromNanoseconds(config.retry.min_backoff_ns)
    message.retry_policy.max_backoff.FromNanoseconds(config.retry.max_backoff_ns)
    message.create_time.FromNanoseconds(told.record.create_ns)
    if told.idle_since_ns:
        message.idle_since.FromNanoseconds(told.idle_since_ns)
    return message


def progress(told: GroupReport) -> group_pb2.GroupProgress:
    """How far a group has come, as a message."""
    message = group_pb2.GroupProgress(
        position=told.position,
        last_sequence=told.last_sequence,
        lag_events=told.lag_events,
        lag_is_upper_bound=not told.exact,
        ready=told.ready,
        in_flight=told.in_flight,
        retrying=told.retrying,
        dead_letters=told.dead_letters,
        members=len(told.members),
    )
    message.lag_time.FromNanoseconds(told.lag_ns)
    return message


def member(told: MemberReport) -> group_pb2.GroupMember:
    """A member as a message."""
    message = group_pb2.GroupMember(
        identity=_identity(told.identity),
        max_in_flight=told.max_in_flight,
        in_flight=told.in_flight,
        draining=told.draining,
    )
    message.join_time.FromNanoseconds(told.join_ns)
    return message


def dead_letters(letters: Sequence[DeadLetter]) -> bytes:
    """Dead letters as `dead_letters` of a response; the events are copied as they are."""
    return b"".join(tagged(_DEAD_LETTER, _dead_letter(each)) for each in letters)


def _dead_letter(letter: DeadLetter) -> bytes:
    message = group_pb2.DeadLetter(
        cause=group_pb2.DeadLetterCause.ValueType(letter.cause.value),
        reason=letter.reason,
        attempts=letter.attempts,
        last_member=_identity(letter.holder),
        redrives=letter.redrives,
    )
    message.dead_letter_time.FromNanoseconds(letter.time_ns)
    return event_field(letter.frame) + message.SerializeToString()


def _identity(identity: Identity) -> group_pb2.MemberIdentity:
    return group_pb2.MemberIdentity(
        member_id=identity.member_id,
        subject=identity.subject,
        instance=identity.instance,
        peer=identity.peer,
        node=identity.node,
    )


def _filter(wish: Filter) -> event_pb2.Filter:
    return event_pb2.Filter(
        types=wish.types,
        source_services=wish.source_services,
        target_services=wish.target_services,
        min_priority=event_pb2.Priority.ValueType(wish.min_priority),
        attributes=wish.attributes,
    )


def _retry_policy(policy: subscription_pb2.RetryPolicy) -> RetryPolicy:
    defaults = RetryPolicy()
    shortest = defaults.min_backoff_ns
    if policy.HasField("min_backoff"):
        shortest = decode_duration(policy.min_backoff, "retry_policy.min_backoff")
    longest = max(defaults.max_backoff_ns, shortest)
    if policy.HasField("max_backoff"):
        longest = decode_duration(policy.max_backoff, "retry_policy.max_backoff")
    return RetryPolicy(policy.max_attempts or defaults.max_attempts, shortest, longest)


def _refuse_group_fields(request: subscription_pb2.SubscribeRequest, *, fan_out: bool) -> None:
    """Refuses what means something in a group only: it would be ignored silently."""
    given = {
        "group": bool(request.group),
        "max_in_flight": bool(request.max_in_flight),
        "ack_deadline": request.HasField("ack_deadline"),
        "retry_policy": request.HasField("retry_policy"),
        "instance": bool(request.instance),
    }
    for name, present in given.items():
        if present:
            remedy = (
                "leave it out, or set mode to DELIVERY_MODE_QUEUE or DELIVERY_MODE_KEY_SHARED"
                if fan_out
                else "leave it out, or name a group"
            )
            raise invalid_field(name, f"is for consumer groups only; {remedy}")
