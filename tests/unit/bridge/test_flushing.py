"""Writes to clients in rounds: at once where a message comes alone, together where many come."""

from switchboard_server.bridge.flushing import LARGE, Flusher
from tests.support.loop import manual_loop, passing, run, turns


class Client:
    """Somebody who is written to, which takes time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.flushed = 0

    def flush(self) -> None:
        self.flushed += 1
        manual_loop().advance(self.seconds)


def test_a_message_that_comes_alone_is_written_in_the_next_turn() -> None:
    async def scenario() -> None:
        flusher, client = Flusher(), Client(seconds=0.1)
        for number in range(3):
            flusher.add(client.flush)
            assert client.flushed == number
            await turns(2)
            assert client.flushed == number + 1

    run(scenario())


def test_after_a_large_round_messages_gather_for_half_as_long_as_it_took() -> None:
    async def scenario() -> None:
        flusher, clients = Flusher(), [Client(seconds=0.001) for _ in range(LARGE)]
        for client in clients:
            flusher.add(client.flush)
        await turns(2)
        took = 0.001 * LARGE
        for client in clients:
            client.seconds = 0
            flusher.add(client.flush)
        await passing(took * 0.49)
        assert {each.flushed for each in clients} == {1}
        await passing(took * 0.02)
        assert {each.flushed for each in clients} == {2}

    run(scenario())


def test_long_after_a_large_round_nothing_waits() -> None:
    async def scenario() -> None:
        flusher, clients = Flusher(), [Client(seconds=0.001) for _ in range(LARGE)]
        for client in clients:
            flusher.add(client.flush)
        await turns(2)
        await passing(0.001 * LARGE + 0.001)
        flusher.add(clients[0].flush)
        await turns(2)
        assert clients[0].flushed == 2

    run(scenario())
