"""Who is there and who holds what, as nodes say it; see backends/rabbitmq/roster.py."""

from switchboard_server.backends.rabbitmq.roster import (
    SILENT_BEATS,
    Alive,
    Holding,
    Node,
    Roster,
)


class World:
    """A roster of node "me", and what its listeners heard."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.nodes: list[tuple[str, bool]] = []
        self.seats: list[tuple[str, Holding | None]] = []
        self.roster.node_listeners[self] = self._node
        self.roster.seat_listeners[self] = lambda seat, term: self.seats.append((seat, term))
        self.roster.begin("me.1")
        self.beat = 0
        self.tick()

    def _node(self, node: Node, is_there: bool) -> None:
        self.nodes.append((node.session, is_there))

    def tick(self, count: int = 1) -> None:
        """Lets the node hear itself."""
        for _ in range(count):
            self.beat += 1
            self.hear("me", beat=self.beat)

    def hear(self, name: str, run: int = 1, **fields: object) -> bool:
        """Lets the node hear one."""
        return self.roster.hear(Alive(name, f"{name}.{run}", **fields), 0.0)  # type: ignore[arg-type]


def test_a_node_that_is_heard_is_there_until_it_says_that_it_goes() -> None:
    world = World()
    assert world.hear("a")
    assert world.hear("a", beat=2)
    assert world.nodes == [("me.1", True), ("a.1", True)]
    assert world.hear("a", leaving=True)
    assert world.nodes[2:] == [("a.1", False)]
    assert list(world.roster.nodes) == ["me.1"]


def test_a_silent_node_is_gone_and_is_told_so_when_it_speaks() -> None:
    world = World()
    world.hear("a")
    world.tick(SILENT_BEATS)
    assert "a.1" in world.roster.nodes
    world.tick()
    assert world.nodes[-1] == ("a.1", False)
    assert not world.hear("a")
    assert "a.1" not in world.roster.nodes
    assert world.hear("a", run=2)
    assert world.nodes[-1] == ("a.2", True)


def test_while_a_node_does_not_hear_itself_nobody_else_is_silent() -> None:
    world = World()
    world.hear("a")
    world.hear("b")
    for _ in range(10 * SILENT_BEATS):
        world.hear("b")
        world.hear("me", beat=world.beat)  # Said once more, for another reason.
    assert set(world.roster.nodes) == {"me.1", "a.1", "b.1"}


def test_what_a_node_hears_of_itself_too_late_counts_for_nothing() -> None:
    world = World()
    world.hear("a")
    for beat in range(10, 10 + 10 * SILENT_BEATS):
        world.roster.hear(Alive("me", "me.1", beat=beat), 0.0, late=True)
    assert "a.1" in world.roster.nodes


def test_a_node_under_a_new_address_has_lost_the_old_one() -> None:
    world = World()
    world.hear("a", holds={"s": 1})
    world.hear("a", run=2)
    assert world.nodes[1:] == [("a.1", True), ("a.1", False), ("a.2", True)]
    assert world.seats == [("s", Holding("a.1", 1)), ("s", None)]


def test_of_two_who_hold_a_seat_the_later_term_counts() -> None:
    world = World()
    world.hear("a", holds={"s": 4, "t": 1})
    world.hear("b", holds={"s": 7})
    world.hear("a", holds={"s": 4, "t": 1})
    assert world.roster.terms == {"s": Holding("b.1", 7), "t": Holding("a.1", 1)}
    world.hear("b")
    assert world.roster.terms["s"] == Holding("a.1", 4)
    world.roster.remove("a.1")
    assert world.roster.terms == {}
    assert world.seats == [
        ("s", Holding("a.1", 4)),
        ("t", Holding("a.1", 1)),
        ("s", Holding("b.1", 7)),
        ("s", Holding("a.1", 4)),
        ("s", None),
        ("t", None),
    ]


def test_a_node_that_begins_anew_knows_nobody() -> None:
    world = World()
    world.hear("a", holds={"s": 1})
    world.roster.begin("me.2")
    assert world.roster.nodes == {}
    assert world.roster.terms == {}
    assert world.nodes[-2:] == [("me.1", False), ("a.1", False)]
    # What was given up with the old address is not held against anybody.
    assert world.hear("a")


def test_candidates_are_those_who_stand() -> None:
    world = World()
    world.hear("a", stands=["s", "t"])
    world.hear("b", stands=["t"])
    assert set(world.roster.standing("s")) == {"a"}
    assert set(world.roster.standing("t")) == {"a", "b"}
    assert not world.roster.standing("u")
