"""A client of consumer groups, as tests want it."""

from collections.abc import Sequence
from typing import Any, Self

from google.protobuf.duration_pb2 import Duration

from switchboard.v1.event_pb2 import Event, Filter
from switchboard.v1.event_service_pb2 import (
    AcknowledgeRequest,
    ExtendDeadlineRequest,
    RejectRequest,
    SettleOutcome,
    SettleResult,
)
from switchboard.v1.group_pb2 import DeadLetter, Group, GroupMember
from switchboard.v1.group_service_pb2 import (
    DeleteGroupRequest,
    GetGroupRequest,
    ListDeadLettersRequest,
    RedriveDeadLettersRequest,
    RedriveDeadLettersResponse,
    SeekGroupRequest,
)
from switchboard.v1.group_service_pb2_grpc import GroupServiceStub
from switchboard.v1.subscription_pb2 import Delivery, RetryPolicy, SubscribeRequest
from tests.integration.client import Client, Subscriber

NOW = Duration()
"""No wait at all."""


def seconds(number: float) -> Duration:
    """A duration."""
    duration = Duration()
    duration.FromNanoseconds(round(number * 1_000_000_000))
    return duration


def at_once(attempts: int = 5) -> RetryPolicy:
    """A retry policy that does not wait."""
    return RetryPolicy(max_attempts=attempts, min_backoff=NOW, max_backoff=NOW)


class Member(Subscriber):
    """An open stream of a group; entering it waits for `started`.

    Attributes:
        group: The group's name.
        member_id: What `started` called it.
    """

    def __init__(self, client: Client, group: str, request: SubscribeRequest) -> None:
        super().__init__(client.stub.Subscribe(request, **client.options))
        self.group = group
        self.member_id = ""
        self._waiting: list[Delivery] = []

    async def deliveries(self, count: int) -> list[Delivery]:
        """The next deliveries, of which there may be more at once; the others come next time."""
        while len(self._waiting) < count:
            response = await self.next()
            assert response.deliveries, response
            self._waiting += response.deliveries
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def delivery(self) -> Delivery:
        """The next delivery."""
        (one,) = await self.deliveries(1)
        return one

    async def __aenter__(self) -> Self:
        first = await self.next()
        assert first.HasField("started"), first
        self.position = first.started.position
        self.member_id = first.started.member_id
        return self


class Groups:
    """Calls what concerns groups.

    Args:
        client: The connection.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stub = GroupServiceStub(client.channel)

    def join(self, group: str, kinds: str | Sequence[str] = (), **request: Any) -> Member:
        """Joins a group; the other arguments are fields of the request."""
        types = [kinds] if isinstance(kinds, str) else list(kinds)
        request.setdefault("filter", Filter(types=types))
        return Member(self.client, group, SubscribeRequest(group=group, **request))

    async def acknowledge(self, group: str, deliveries: Sequence[Delivery]) -> None:
        """Settles deliveries, which must succeed."""
        results = await self.settle(group, [each.ack_id for each in deliveries])
        assert {each.outcome for each in results} <= {SettleOutcome.SETTLE_OUTCOME_OK}, results

    async def settle(self, group: str, ack_ids: Sequence[str]) -> Sequence[SettleResult]:
        """Settles deliveries."""
        request = AcknowledgeRequest(group=group, ack_ids=ack_ids)
        return (await self.client.stub.Acknowledge(request, **self.client.options)).results

    async def outcomes(self, group: str, ack_ids: Sequence[str]) -> list[str]:
        """What becomes of deliveries that are acknowledged."""
        return [_name(each) for each in await self.settle(group, ack_ids)]

    async def reject(self, group: str, *ack_ids: str, **request: Any) -> list[str]:
        """Rejects deliveries; what became of them."""
        told = await self.client.stub.Reject(
            RejectRequest(group=group, ack_ids=ack_ids, **request), **self.client.options
        )
        return [_name(each) for each in told.results]

    async def extend(self, group: str, *ack_ids: str, **request: Any) -> list[str]:
        """Extends deadlines; what became of them."""
        told = await self.client.stub.ExtendDeadline(
            ExtendDeadlineRequest(group=group, ack_ids=ack_ids, **request), **self.client.options
        )
        return [_name(each) for each in told.results]

    async def get(self, group: str) -> tuple[Group, Sequence[GroupMember]]:
        """A group and its members."""
        told = await self.stub.GetGroup(GetGroupRequest(group=group), **self.client.options)
        return told.group, told.members

    async def seek(self, group: str, **request: Any) -> int:
        """Sets a group to another position; its position then."""
        told = await self.stub.SeekGroup(
            SeekGroupRequest(group=group, **request), **self.client.options
        )
        return told.progress.position

    async def delete(self, group: str, **request: Any) -> Group:
        """Removes a group."""
        told = await self.stub.DeleteGroup(
            DeleteGroupRequest(group=group, **request), **self.client.options
        )
        return told.group

    async def dead_letters(self, group: str, **request: Any) -> Sequence[DeadLetter]:
        """The first page of a group's dead letters."""
        told = await self.stub.ListDeadLetters(
            ListDeadLettersRequest(group=group, **request), **self.client.options
        )
        return told.dead_letters

    async def redrive(self, group: str, **request: Any) -> RedriveDeadLettersResponse:
        """Gives dead letters back."""
        return await self.stub.RedriveDeadLetters(
            RedriveDeadLettersRequest(group=group, **request), **self.client.options
        )


def events_of(deliveries: Sequence[Delivery]) -> list[Event]:
    """What was delivered."""
    return [each.event for each in deliveries]


def ids_of(deliveries: Sequence[Delivery]) -> list[str]:
    """How the deliveries are named."""
    return [each.ack_id for each in deliveries]


def _name(result: SettleResult) -> str:
    return SettleOutcome.Name(result.outcome).removeprefix("SETTLE_OUTCOME_")
