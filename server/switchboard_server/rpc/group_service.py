"""`switchboard.v1.GroupService`: decodes, asks the hub, encodes."""

from switchboard.v1 import group_service_pb2
from switchboard_server.core.errors import invalid_field
from switchboard_server.core.groups.letters import LettersQuery
from switchboard_server.core.groups.serving import Groups, Letters
from switchboard_server.rpc.endpoints import Context, caller
from switchboard_server.wire import group_messages
from switchboard_server.wire.codec import tagged
from switchboard_server.wire.decode import decode_filter, parse

_NEXT_PAGE_TOKEN = b"\x12"


class GroupServicer:
    """Serves GroupService.

    Args:
        groups: Does the work.
        letters: Does the work with dead letters.
    """

    def __init__(self, groups: Groups, letters: Letters) -> None:
        self._groups = groups
        self._letters = letters

    async def ListGroups(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(group_service_pb2.ListGroupsRequest, raw)
        reports, token = await self._groups.page(
            request.name_prefix, request.page_size, request.page_token, caller.get()
        )
        return group_service_pb2.ListGroupsResponse(
            groups=map(group_messages.group, reports), next_page_token=token
        ).SerializeToString()

    async def GetGroup(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(group_service_pb2.GetGroupRequest, raw)
        told = await self._groups.view(request.group, caller.get())
        return group_service_pb2.GetGroupResponse(
            group=group_messages.group(told), members=map(group_messages.member, told.members)
        ).SerializeToString()

    async def SeekGroup(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(group_service_pb2.SeekGroupRequest, raw)
        told = await self._groups.seek(
            request.group,
            group_messages.decode_seek(request),
            caller.get(),
            require_no_members=request.require_no_members,
        )
        return group_service_pb2.SeekGroupResponse(
            progress=group_messages.progress(told)
        ).SerializeToString()

    async def DeleteGroup(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(group_service_pb2.DeleteGroupRequest, raw)
        told = await self._groups.delete(
            request.group, caller.get(), require_no_members=request.require_no_members
        )
        return group_service_pb2.DeleteGroupResponse(
            group=group_messages.group(told)
        ).SerializeToString()

    async def ListDeadLetters(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(group_service_pb2.ListDeadLettersRequest, raw)
        query = LettersQuery(decode_filter(request.filter), request.page_size, request.page_token)
        page = await self._letters.page(request.group, query, caller.get())
        found = group_messages.dead_letters(page.letters)
        if page.next_page_token:
            return found + tagged(_NEXT_PAGE_TOKEN, page.next_page_token.encode())
        return found

    async def RedriveDeadLetters(self, raw: bytes, _context: Context) -> bytes:
        """See the proto."""
        request = parse(group_service_pb2.RedriveDeadLettersRequest, raw)
        said = [bool(request.all), bool(request.sequences), request.HasField("filter")]
        if sum(said) != 1:
            raise invalid_field(
                "all", "set exactly one of all, sequences and filter", reason="FIELD_MISSING"
            )
        wish = decode_filter(request.filter) if request.HasField("filter") else None
        if wish is not None and not request.filter.ByteSize():
            raise invalid_field("filter", "is empty; set all instead")
        done = await self._letters.redrive(
            request.group, sequences=request.sequences, wish=wish, principal=caller.get()
        )
        return group_service_pb2.RedriveDeadLettersResponse(
            redriven=done.redriven, remaining=done.remaining, unknown_sequences=done.unknown
        ).SerializeToString()
