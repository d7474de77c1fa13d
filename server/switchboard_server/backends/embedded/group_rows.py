"""Groups, what happens to them, and their dead letters as the rows of their tables, and back."""

import zlib
from collections.abc import Mapping
from typing import Any

import orjson

from switchboard_server.backends.embedded.rows import DAMAGE
from switchboard_server.core.filters import Filter, Route
from switchboard_server.core.groups.changes import Change, DeadLetter, Open, Snapshot
from switchboard_server.core.groups.config import GroupConfig, Mode, RetryPolicy
from switchboard_server.core.groups.entries import Cause, Identity
from switchboard_server.core.groups.ports import GroupRecord


def checksum(text: str, *facts: object, data: bytes = b"") -> int:
    """The CRC-32 of a row.

    Args:
        text: Its JSON.
        facts: What else of it must not change: numbers and names.
        data: Its bytes.
    """
    return zlib.crc32(data, zlib.crc32(text.encode(), zlib.crc32(repr(facts).encode())))


LetterRow = tuple[int, int, int, int, int, str, bytes]
"""Of the table `dead_letters`: group, sequence, time, redriven, crc, header and frame."""
GroupRow = tuple[int, str, int, int, int, str]
"""Of the table `groups`: number, name, created, secret, config_crc and config."""


def from_config(config: GroupConfig) -> str:
    """What the members of a group agreed on."""
    wish = config.filter
    return _json(
        {
            "types": wish.types,
            "source_services": wish.source_services,
            "target_services": wish.target_services,
            "min_priority": wish.min_priority,
            "attributes": dict(wish.attributes),
            "mode": config.mode.name,
            "ack_deadline_ns": config.ack_deadline_ns,
            "max_attempts": config.retry.max_attempts,
            "min_backoff_ns": config.retry.min_backoff_ns,
            "max_backoff_ns": config.retry.max_backoff_ns,
        }
    )


def to_config(text: str) -> GroupConfig:
    """What the members of a group agreed on."""
    held = orjson.loads(text)
    return GroupConfig(
        Filter(
            tuple(held["types"]),
            tuple(held["source_services"]),
            tuple(held["target_services"]),
            held["min_priority"],
            held["attributes"],
        ),
        Mode[held["mode"]],
        held["ack_deadline_ns"],
        RetryPolicy(held["max_attempts"], held["min_backoff_ns"], held["max_backoff_ns"]),
    )


def to_group(row: GroupRow) -> GroupRecord | None:
    """A group; None: the row is not as it was written."""
    number, name, created_ns, secret, crc, config = row
    try:
        if checksum(config, name, created_ns, secret) != crc:
            return None
        return GroupRecord(number, name, to_config(config), secret, created_ns)
    except DAMAGE:
        return None


def from_snapshot(snapshot: Snapshot) -> str:
    """The state of a group."""
    return _json(_snapshot(snapshot))


def to_snapshot(text: str, crc: int) -> Snapshot | None:
    """The state of a group; None: the row is not as it was written."""
    try:
        return _to_snapshot(orjson.loads(text)) if checksum(text) == crc else None
    except DAMAGE:
        return None


def has_row(change: Change) -> bool:
    """Whether anything has happened that is neither in the snapshot nor in another table."""
    known = change.snapshot.nonce if change.snapshot is not None else 0
    return (
        any((change.cursors, change.opened, change.leased, change.retried, change.settled))
        or change.nonce > known
    )


def from_change(change: Change) -> str:
    """What has happened to a group since its snapshot, but for what is in tables of its own."""
    held: dict[str, Any] = {"nonce": change.nonce}
    if change.cursors:
        held["cursors"] = list(change.cursors.items())
    if change.leased:
        held["leased"] = [
            (_identity(holder), sequences, attempts)
            for holder, sequences, attempts in change.leased
        ]
    for name in ("opened", "retried", "settled"):
        if column := getattr(change, name):
            held[name] = column
    return _json(held)


def to_change(number: int, text: str, crc: int) -> Change | None:
    """What has happened to a group; None: the row is not as it was written."""
    try:
        if checksum(text, number) != crc:
            return None
        held = orjson.loads(text)
        return Change(
            cursors=dict(held.get("cursors", ())),
            opened=held.get("opened", []),
            leased=[
                (Identity(*holder), sequences, attempts)
                for holder, sequences, attempts in held.get("leased", ())
            ],
            retried=[tuple(each) for each in held.get("retried", ())],
            settled=held.get("settled", []),
            nonce=held["nonce"],
        )
    except DAMAGE:
        return None


def from_letter(number: int, letter: DeadLetter) -> LetterRow:
    """The row of a dead letter.

    Args:
        number: The group.
        letter: The dead letter.
    """
    header = _json(
        {
            "route": tuple(letter.route),
            "attributes": dict(letter.attributes),
            "ordering_key": letter.ordering_key,
            "event_ns": letter.event_ns,
            "cause": letter.cause.name,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "holder": _identity(letter.holder),
            "redrives": letter.redrives,
        }
    )
    place, frame = (number, letter.sequence, letter.time_ns), letter.frame
    crc = checksum(header, *place, data=frame)
    return (*place, int(letter.redriven), crc, header, frame)


def to_letter(row: LetterRow) -> DeadLetter | None:
    """A dead letter; None: the row is not as it was written."""
    number, sequence, time_ns, redriven, crc, header, frame = row
    try:
        if checksum(header, number, sequence, time_ns, data=frame) != crc:
            return None
        held: Mapping[str, Any] = orjson.loads(header)
        return DeadLetter(
            sequence=sequence,
            frame=frame,
            route=Route(*held["route"]),
            attributes=held["attributes"],
            ordering_key=held["ordering_key"],
            event_ns=held["event_ns"],
            cause=Cause[held["cause"]],
            reason=held["reason"],
            attempts=held["attempts"],
            holder=Identity(*held["holder"]),
            time_ns=time_ns,
            redrives=held["redrives"],
            redriven=bool(redriven),
        )
    except DAMAGE:
        return None


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    holders: dict[Identity | None, int] = {}
    return {
        "cursors": list(snapshot.cursors.items()),
        "open": [
            (
                each.sequence,
                each.attempts,
                each.due_ns,
                holders.setdefault(each.holder, len(holders)),
            )
            for each in snapshot.open
        ],
        "holders": [None if each is None else _identity(each) for each in holders],
        "floor": snapshot.floor,
        "nonce": snapshot.nonce,
    }


def _to_snapshot(held: Mapping[str, Any]) -> Snapshot:
    holders = [None if each is None else Identity(*each) for each in held["holders"]]
    return Snapshot(
        dict(held["cursors"]),
        [
            Open(sequence, attempts, due_ns, holders[holder])
            for sequence, attempts, due_ns, holder in held["open"]
        ],
        held["floor"],
        held["nonce"],
    )


def _identity(identity: Identity) -> tuple[str, str, str, str, str]:
    return (
        identity.member_id,
        identity.subject,
        identity.instance,
        identity.peer,
        identity.node,
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
