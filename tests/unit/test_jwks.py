"""Keys that an issuer publishes and changes: which are taken, and when they are fetched anew."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from switchboard_server.core.errors import SwitchboardError, UnauthenticatedError, UnavailableError
from switchboard_server.security import jwks
from switchboard_server.security.errors import CredentialsError
from switchboard_server.security.jwks import KeySet, check_place, fetch, parse_set
from switchboard_server.security.tokens import TokenVerifier

OLD, NEW, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))


def entry(key: Any, kid: str = "", **more: Any) -> dict[str, Any]:
    """A key of a set, as its issuer publishes it."""
    algorithm: Any = {
        rsa.RSAPublicKey: RSAAlgorithm,
        ec.EllipticCurvePublicKey: ECAlgorithm,
        ed25519.Ed25519PublicKey: OKPAlgorithm,
    }
    public = key.public_key()
    made = next(each for kind, each in algorithm.items() if isinstance(public, kind))
    found: dict[str, Any] = json.loads(made.to_jwk(public))
    return found | ({"kid": kid} if kid else {}) | more


def a_set(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def signed(key: Any, kid: str = "", algorithm: str = "ES256") -> str:
    claims = {"sub": "alice", "exp": time.time() + 60, "permissions": ["events.view"]}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Where the keys are fetched from: what it answers, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: bytes | Exception = a_set(entry(OLD, "old"))
        self.asked = asyncio.Semaphore(0)
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(jwks, "fetch", self._fetch)

    def _fetch(self, _place: str) -> bytes:
        self._loop.call_soon_threadsafe(self.asked.release)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def issuer(monkeypatch: pytest.MonkeyPatch) -> Issuer:
    return Issuer(monkeypatch)


@asynccontextmanager
async def opened(clock: Clock) -> AsyncIterator[KeySet]:
    keys = KeySet("https://issuer.example/jwks", "ES256", clock)
    await keys.open()
    try:
        yield keys
    finally:
        await keys.close()


def refusal(verifier: TokenVerifier, token: str) -> SwitchboardError:
    with pytest.raises(SwitchboardError) as caught:
        verifier.verify(token)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what a thread does."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", rsa.generate_private_key(65537, 2048)),
        ("ES256", OLD),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ],
)
def test_only_keys_that_fit_the_algorithm_are_taken(algorithm: str, key: Any) -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    text = a_set(
        entry(key, "good"),
        entry(key, "said", alg=algorithm, use="sig", key_ops=["verify"]),
        entry(key, "encrypts", use="enc"),
        entry(key, "signs", key_ops=["sign"]),
        entry(key, "other", alg="PS512"),
        entry(weak, "weak"),
        entry(ec.generate_private_key(ec.SECP384R1()), "curve"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {"kty": "RSA", "kid": "damaged"},
        entry(key, "uses", key_ops=7),
        {"kid": 7, **{k: v for k, v in entry(key).items() if k != "kid"}},
    )
    found = parse_set(text, algorithm)
    assert set(found) == {"good", "said"}
    assert found["good"] == key.public_key()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "is no JSON Web Key Set"),
        (b"[]", "is no JSON Web Key Set"),
        (b'{"keys": 1}', "is no JSON Web Key Set"),
        (b'{"keys": [1]}', "is no JSON Web Key Set"),
        (b"[" * 100_000, "is no JSON Web Key Set"),
        (b'{"keys": []}', "holds no key that ES256"),
        (a_set({"kty": "oct", "k": "c2VjcmV0"}), "holds no key that ES256"),
    ],
)
def test_what_is_no_set_of_use_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_set(text, "ES256")


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("https://issuer.example/jwks.json", None),
        ("http://localhost:8080/jwks", None),
        ("http://127.0.0.1/jwks", None),
        ("http://[::1]:1/jwks", None),
        ("http://issuer.example/jwks", "unencrypted"),
        ("https://issuer.example:x/jwks", "is no URL"),
        ("https://issuer.example:65536/jwks", "is no URL"),
        ("https://issuer.example/my keys", "escaped"),
        ("https://issuer.example/clés", "escaped"),
        ("ftp://issuer.example/jwks", "must be a file, or a URL"),
        ("file:///etc/passwd", "must be a file, or a URL"),
        ("https://", "must be a file, or a URL"),
        ("https://[::1/jwks", "is no URL"),
        ("keys.json", None),
    ],
)
def test_a_set_comes_encrypted_or_from_this_machine(place: str, problem: str | None) -> None:
    found = check_place(place)
    assert found is None if problem is None else problem in (found or "")


def test_a_file_is_checked_before_the_hub_starts(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    with pytest.raises(CredentialsError, match="No such file"):
        KeySet.check(str(file), "ES256")
    file.write_bytes(b"{}")
    with pytest.raises(CredentialsError, match="no JSON Web Key Set"):
        KeySet.check(str(file), "ES256")
    file.write_bytes(a_set(entry(OLD)))
    KeySet.check(str(file), "ES256")
    file.write_bytes(b" " * (jwks.MAX_BYTES + 1))
    with pytest.raises(ValueError, match="larger than"):
        fetch(str(file))


async def test_a_token_is_checked_with_the_key_that_it_names(issuer: Issuer) -> None:
    issuer.answer = a_set(entry(OLD, "old"), entry(NEW, "new"))
    async with opened(Clock()) as keys:
        verifier = TokenVerifier(keys)
        assert verifier.verify(signed(OLD, "old")).subject == "alice"
        assert verifier.verify(signed(NEW, "new")).subject == "alice"
        for forged in (signed(OTHER, "old"), signed(OLD, "new"), signed(OLD), "no token"):
            error = refusal(verifier, forged)
            assert isinstance(error, UnauthenticatedError)
            assert error.reason == "TOKEN_INVALID"


async def test_a_token_that_names_no_key_fits_the_only_one(issuer: Issuer) -> None:
    issuer.answer = a_set(entry(OLD))
    async with opened(Clock()) as keys:
        verifier = TokenVerifier(keys)
        assert verifier.verify(signed(OLD)).subject == "alice"
        assert refusal(verifier, signed(OTHER)).reason == "TOKEN_INVALID"


async def test_an_unknown_key_is_fetched_once_and_a_made_up_one_refused(issuer: Issuer) -> None:
    clock = Clock()
    async with opened(clock) as keys:
        await issuer.asked.acquire()
        verifier = TokenVerifier(keys)
        assert refusal(verifier, signed(NEW, "new")).reason == "TOKEN_INVALID"
        assert issuer.asked.locked(), "it was asked a moment ago"
        clock.now += jwks.COOL_DOWN_SECONDS
        issuer.answer = a_set(entry(OLD, "old"), entry(NEW, "new"))
        error = refusal(verifier, signed(NEW, "new"))
        assert isinstance(error, UnavailableError)
        assert error.reason == "KEYS_UNAVAILABLE"
        await issuer.asked.acquire()
        await until(lambda: keys.generation == 2)
        assert verifier.verify(signed(NEW, "new")).subject == "alice"
        assert refusal(verifier, signed(OTHER, "made up")).reason == "TOKEN_INVALID"
        assert issuer.asked.locked(), "a made-up key asks no more than once in a while"


async def test_a_key_that_was_withdrawn_is_good_no_more(issuer: Issuer) -> None:
    clock = Clock()
    async with opened(clock) as keys:
        await issuer.asked.acquire()
        verifier, token = TokenVerifier(keys), signed(OLD, "old")
        verifier.verify(token)
        issuer.answer = a_set(entry(NEW, "new"))
        clock.now += jwks.COOL_DOWN_SECONDS
        refusal(verifier, signed(NEW, "new"))
        await until(lambda: keys.generation == 2)
        assert refusal(verifier, token).reason == "TOKEN_INVALID"


async def test_an_issuer_that_is_away_costs_nothing_but_its_new_keys(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.01)
    caplog.set_level("INFO")
    async with opened(Clock()) as keys:
        verifier, token = TokenVerifier(keys), signed(OLD, "old")
        issuer.answer = OSError("the network is down")
        await until(lambda: "the network is down" in caplog.text)
        verifier.verify(token)
        issuer.answer = b"<html>maintenance</html>"
        issuer.answer = a_set(entry(OLD, "old"), entry(NEW, "new"))
        await until(lambda: keys.generation == 2)
        verifier.verify(signed(NEW, "new"))
        assert "those fetched before stay in use" in caplog.text
        assert "can be had again" in caplog.text


async def test_a_hub_starts_without_its_issuer_and_has_callers_try_again(issuer: Issuer) -> None:
    good = issuer.answer
    issuer.answer = OSError("no route")
    async with opened(Clock()) as keys:
        verifier = TokenVerifier(keys)
        error = refusal(verifier, signed(OLD, "old"))
        assert isinstance(error, UnavailableError)
        assert error.reason == "KEYS_UNAVAILABLE"
        issuer.answer = good
        await until(lambda: keys.generation == 1)
        assert verifier.verify(signed(OLD, "old")).subject == "alice"
