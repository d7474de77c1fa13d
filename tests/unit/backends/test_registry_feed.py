"""What Redis tells of the registry is passed on in order, and of one registry only."""

from unittest.mock import Mock

import orjson

from switchboard_server.backends.redis.link import RedisLink
from switchboard_server.backends.redis.registry_feed import Feed
from switchboard_server.backends.redis.registry_place import Place
from switchboard_server.core.registry.sharing import SharedHandler


class Following:
    """A feed, and what it has passed on and asked for."""

    def __init__(self) -> None:
        self.handler = Mock(spec=SharedHandler)
        self.missing = Mock()
        place = Place(RedisLink(["redis://nowhere"]), "node")
        self.feed = Feed(self.handler, place, self.missing, Mock())

    def hear(self, *stamps: int) -> None:
        """Hears of a lease that was renewed, so often."""
        for stamp in stamps:
            self.feed.hear(orjson.dumps(["renewed", str(stamp), "users/one", "5"]))

    @property
    def passed(self) -> list[int]:
        """The stamps of what was passed on."""
        return [each.args[2] for each in self.handler.renewed.call_args_list]


async def test_what_is_heard_while_something_is_missing_waits_for_it() -> None:
    following = Following()
    following.feed.hold()
    following.hear(3, 4, 5)
    following.feed.resume(3)
    following.hear(6, 8)
    following.missing.assert_called_once_with()
    assert not following.feed.complete
    following.hear(9)
    assert following.passed == [4, 5, 6]


async def test_what_was_heard_of_a_lost_registry_is_not_taken_for_the_next_ones() -> None:
    following = Following()
    following.feed.hold()
    following.hear(1_000_001, 1_000_002)
    # Redis is lost again, and a node that knew less begins the registry anew.
    following.feed.hold()
    following.feed.resume(1_000_000)
    assert following.feed.complete
    following.feed.hold()
    following.feed.resume(7)
    assert following.feed.complete
    following.hear(8)
    assert following.passed == [8]
    following.missing.assert_not_called()
