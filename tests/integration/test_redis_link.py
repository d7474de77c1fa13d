"""The way to Redis, with everything that can befall it."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from switchboard_server.backends.redis.addresses import parse_addresses
from switchboard_server.backends.redis.link import LinkError, RedisLink
from tests.integration.credentials import Certificate, certify
from tests.support.brokers import RedisServer
from tests.support.proxy import TcpProxy

PATIENCE = 20.0


class Watcher:
    """Notes what a link says of itself."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def link_up(self, life: str) -> None:
        self._say("up", life)

    def link_down(self, problem: str) -> None:
        self._say("down", problem)

    def refusal_changed(self) -> None:
        self._say("refusal", "")

    def _say(self, what: str, text: str) -> None:
        self.said.append((what, text))
        self._changed.set()

    async def until(self, *words: str) -> list[str]:
        """Waits until this was said, in this order; returns what came with it."""
        async with asyncio.timeout(PATIENCE):
            while len(self.said) < len(words):
                self._changed.clear()
                await self._changed.wait()
        assert [what for what, _ in self.said] == list(words)
        return [text for _, text in self.said]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that this test may kill."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def open_link(*urls: str, prefix: str = "link") -> AsyncIterator[tuple[RedisLink, Watcher]]:
    link, watcher = RedisLink(urls, prefix=prefix, name="a node", timeout=1.0, beat=0.1), Watcher()
    link.watch(watcher)
    await link.open()
    try:
        yield link, watcher
    finally:
        await link.close()


async def test_commands_are_done_in_the_order_in_which_they_are_asked_for(
    redis: RedisServer,
) -> None:
    async with open_link(redis.url, prefix="order") as (link, _):
        push = link.script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
        key = link.key("list")
        lengths = await asyncio.gather(*(link.run(push, [key], number) for number in range(2000)))
        assert lengths == list(range(1, 2001))
        assert await link.call("LRANGE", key, 0, -1) == [b"%d" % each for each in range(2000)]
        # A server that was told to forget its scripts learns them again.
        await link.call("SCRIPT", "FLUSH")
        more = await asyncio.gather(*(link.run(push, [key], number) for number in range(3)))
        assert sorted(more) == [2001, 2002, 2003]
        with pytest.raises(ResponseError, match="wrong kind"):
            await link.call("GET", key)
        assert (link.up, link.problem) == (True, None)


async def test_channels_are_heard_and_left(redis: RedisServer) -> None:
    async with open_link(redis.url, prefix="channels") as (link, _):
        heard: list[bytes] = []
        came = asyncio.Event()

        def received(data: bytes) -> None:
            heard.append(data)
            came.set()
            if data == b"bad":
                raise ValueError("made for a test")

        channel = link.channel("news")
        await link.subscribe(channel, received)
        for text in ("bad", "good"):
            assert await link.call("PUBLISH", channel, text) == 1
        async with asyncio.timeout(PATIENCE):
            while len(heard) < 2:
                came.clear()
                await came.wait()
        assert heard == [b"bad", b"good"]
        await link.unsubscribe(channel)
        async with asyncio.timeout(PATIENCE):
            while await link.call("PUBLISH", channel, "late"):
                pass
        assert link.up


async def test_what_was_under_way_fails_and_is_not_done_twice(server: RedisServer) -> None:
    async with open_link(server.url) as (link, watcher):
        await link.call("SET", link.key("n"), 0)
        server.freeze()
        with pytest.raises(LinkError, match="did not answer") as caught:
            await link.call("INCR", link.key("n"))
        # Told before anything else is done, so that nobody takes it for usable.
        assert not link.up
        with pytest.raises(LinkError) as refused:
            await link.call("INCR", link.key("n"))
        assert not refused.value.sent
        server.thaw()
        up, down, again = await watcher.until("up", "down", "up")
        assert up == again
        assert server.url.removeprefix("redis://").removesuffix("/0") in down
        # One that waited for an earlier one to be answered was not sent, and is not done.
        done = b"1" if caught.value.sent else b"0"
        assert await link.call("GET", link.key("n")) == done
        assert link.losses == 1


async def test_a_server_that_comes_back_is_another_life(server: RedisServer) -> None:
    async with open_link(server.url) as (link, watcher):
        heard = asyncio.Event()
        await link.subscribe(link.channel("news"), lambda _: heard.set())
        server.kill()
        await watcher.until("up", "down")
        assert link.problem is not None
        server.start()
        up, _, again = await watcher.until("up", "down", "up")
        assert up != again == link.life
        await link.call("PUBLISH", link.channel("news"), "x")
        async with asyncio.timeout(PATIENCE):
            await heard.wait()


async def test_a_restored_server_is_another_life_too(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", append_only=True) as server:
        async with open_link(server.url) as (link, watcher):
            await link.call("SET", link.key("kept"), "x")
            server.restart()
            up, _, again = await watcher.until("up", "down", "up")
            assert up != again
            assert await link.call("GET", link.key("kept")) == b"x"


async def test_an_emptied_server_is_another_life(server: RedisServer) -> None:
    async with (
        open_link(server.url) as (one, watcher),
        open_link(server.url) as (two, other),
    ):
        assert one.life == two.life
        await one.call("FLUSHALL")
        up, problem, again = await watcher.until("up", "down", "up")
        assert "was emptied" in problem
        assert up != again
        await other.until("up", "down", "up")
        assert one.life == two.life == again


async def test_a_link_that_swallows_everything_is_given_up(server: RedisServer) -> None:
    async with (
        TcpProxy(server.port) as proxy,
        open_link(server.url_at(proxy.port)) as (link, watcher),
    ):
        proxy.blackhole()
        await watcher.until("up", "down")
        await proxy.restore()
        await watcher.until("up", "down", "up")
        assert await link.call("PING") == b"PONG"


async def test_a_subscription_that_is_cut_alone_is_made_again(server: RedisServer) -> None:
    async with open_link(server.url) as (link, watcher):
        for line in (await link.call("CLIENT", "LIST", "TYPE", "pubsub")).decode().splitlines():
            number = dict(each.split("=", 1) for each in line.split())["id"]
            # The link that ends because of it may do so before the answer is there.
            with suppress(LinkError):
                await link.call("CLIENT", "KILL", "ID", number)
        await watcher.until("up", "down", "up")


async def test_the_first_server_that_takes_writes_is_used(
    server: RedisServer, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "second") as second:
        async with open_link(second.url) as (link, _):
            port = server.url.removeprefix("redis://127.0.0.1:").removesuffix("/0")
            await link.call("REPLICAOF", "127.0.0.1", port)
        nowhere = "redis://127.0.0.1:1/0"
        async with open_link(f"{nowhere},{second.url}", server.url) as (link, _):
            await link.wait_up(PATIENCE)
            assert await link.call("SET", link.key("x"), "y") == b"OK"
            assert (await link.call("INFO", "replication")).startswith(b"# Replication\r\nrole:ma")
        async with open_link(second.url) as (link, _):
            assert not link.up
            assert "is a replica" in str(link.problem)


async def test_a_server_that_becomes_a_replica_is_left(server: RedisServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "second") as second:
        async with open_link(server.url, second.url) as (link, watcher):
            port = second.url.removeprefix("redis://127.0.0.1:").removesuffix("/0")
            await link.call("REPLICAOF", "127.0.0.1", port)
            with pytest.raises((ResponseError, LinkError)):
                await link.call("SET", link.key("x"), "y")
            await watcher.until("up", "down", "up")
            assert await link.call("SET", link.key("x"), "y") == b"OK"


@pytest.mark.parametrize("wanting", ["maxmemory", "min-replicas-to-write"])
async def test_a_server_that_takes_no_writes_is_told_of_once_until_it_does(
    server: RedisServer, wanting: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_link(server.url) as (link, watcher):
        await link.call("CONFIG", "SET", wanting, "1")
        await watcher.until("up", "refusal")
        assert "takes no writes" in str(link.problem)
        assert await link.call("GET", link.key("x")) is None
        for _ in range(3):
            with pytest.raises(ResponseError):
                await link.call("SET", link.key("x"), "y")
        assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
            link.problem
        ]
        await link.call("CONFIG", "SET", wanting, "0")
        await watcher.until("up", "refusal", "refusal")
        assert link.problem is None
        assert await link.call("SET", link.key("x"), "y") == b"OK"


async def test_each_trouble_of_an_outage_is_told_once_whatever_servers_are_tried(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_link(server.url) as (link, _):
        await link.call("REPLICAOF", "127.0.0.1", "1")
    caplog.clear()
    async with open_link("redis://127.0.0.1:1/0", server.url) as (link, _):
        for _ in range(4):
            await link._changed.wait()
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(told) == 2
    assert "Connect call failed" in told[0]
    assert "is a replica" in told[1]


class TlsServer(RedisServer):
    """A Redis that speaks TLS only, and asks for a password.

    Args:
        folder: Where it keeps all its files.
        certificate: Its certificate.
        authority: Who has signed it.
    """

    def __init__(self, folder: Path, certificate: Certificate, authority: Certificate) -> None:
        super().__init__(folder)
        self._certificate = certificate
        self._authority = authority

    def command(self) -> Sequence[str | Path]:
        settings: dict[str, str | Path | int] = {
            "tls-port": self.port,
            "tls-cert-file": self._certificate.cert_file,
            "tls-key-file": self._certificate.key_file,
            "tls-ca-cert-file": self._authority.cert_file,
            "tls-auth-clients": "no",
            "requirepass": "open sesame",
        }
        words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
        return ["redis-server", "--port", "0", "--save", "", "--dir", str(self.folder), *words]


async def test_encrypted_links_check_who_is_there(tmp_path: Path) -> None:
    authority = certify(tmp_path, "authority")
    own = certify(tmp_path, "localhost", authority)
    with TlsServer(tmp_path / "redis", own, authority) as server:
        url = f"rediss://:open%20sesame@localhost:{server.port}/2"
        async with open_link(f"{url}?ssl_ca_certs={authority.cert_file}") as (link, watcher):
            await link.wait_up(PATIENCE)
            assert await link.call("SET", link.key("x"), "y") == b"OK"
            server.restart()
            await watcher.until("up", "down", "up")
            assert await link.call("SET", link.key("x"), "y") == b"OK"
        async with open_link(url) as (link, _):
            assert "CERTIFICATE_VERIFY_FAILED" in str(link.problem)
        wrong = url.replace("sesame", "barley")
        async with open_link(f"{wrong}?ssl_ca_certs={authority.cert_file}") as (link, _):
            assert "invalid username-password" in str(link.problem)
            assert "barley" not in str(link.problem)


async def test_no_message_has_a_password() -> None:
    url = "redis://user:secret@127.0.0.1:1/0"
    async with open_link(url) as (link, _):
        assert not link.up
        assert "127.0.0.1:1" in str(link.problem)
        assert "secret" not in str(link.problem)
        with pytest.raises(LinkError):
            await link.wait_up(0.01)


def test_addresses_are_read_with_what_stands_in_them() -> None:
    one, two = parse_addresses(["redis://localhost, rediss://:pw@[::1]:7000/3"])
    assert (one.text, one.db) == ("localhost:6379", 0)
    assert (two.text, two.db, two.arguments["password"]) == ("[::1]:7000", 3, "pw")
    for wrong in ("", "http://x", "amqp://x", "redis://x/events"):
        with pytest.raises(ValueError, match="address of Redis"):
            parse_addresses([wrong])


def test_what_an_address_may_not_say_is_refused_and_no_password_told() -> None:
    ours = "redis://:pw@x/1?protocol=3&decode_responses=yes&max_connections=9&client_name=me"
    assert parse_addresses([ours])[0].connection("mine", 1.0).client_name == "mine"
    for wrong, told in (
        ("redis://:pw@x/0?tiemout=3", "redis:// takes no parameter 'tiemout'"),
        ("redis://:pw@x/0?ssl_ca_certs=ca.pem", "redis:// takes no parameter 'ssl_ca_certs'"),
        ("rediss://:pw@x/0?ssl_cert_reqs=maybe", r"Redis at x:6379: Invalid SSL .*: maybe"),
    ):
        with pytest.raises(ValueError, match=told) as caught:
            parse_addresses([wrong])
        assert "pw" not in str(caught.value)


async def test_what_nobody_expects_of_a_server_is_told_and_ends_nothing() -> None:
    async with open_link("redis://no..name/0") as (link, _):  # which Python cannot encode
        assert "no..name:6379: " in str(link.problem)
        with pytest.raises(LinkError, match=r"no\.\.name"):
            await link.wait_up(0.01)
