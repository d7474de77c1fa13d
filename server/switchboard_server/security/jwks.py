"""Public keys that their issuer publishes and changes: a JSON Web Key Set (RFC 7517)."""

import asyncio
import json
import logging
import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import jwt

from switchboard_server.core.errors import UnauthenticatedError, UnavailableError
from switchboard_server.security.errors import CredentialsError
from switchboard_server.security.keys import PublicKey, fits

REFRESH_SECONDS = 300.0
"""How often the set is fetched anew."""
COOL_DOWN_SECONDS = 10.0
"""How long after a fetch an unknown key does not cause another one: anybody can name a key."""
MAX_RETRY_SECONDS = 60.0
"""The longest wait after fetches that failed; the first is a second, and each is twice the last."""
FETCH_SECONDS = 5.0
"""How long a fetch may take."""
MAX_BYTES = 1024 * 1024
"""Largest set that is taken."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts from which a set may come without encryption."""

_URL = re.compile(r"[!-~]+")
"""Printable ASCII, which is all that a URL may be made of: RFC 3986."""

_logger = logging.getLogger(__name__)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes no other place's word than that of the one that was configured."""

    def redirect_request(self, *_: Any) -> None:
        """See `HTTPRedirectHandler`; the answer counts as an error then."""


_opener = urllib.request.build_opener(_NoRedirects)


def is_url(place: str) -> bool:
    """Whether a set is to be fetched, not read from a file."""
    return "://" in place


def check_place(place: str) -> str | None:
    """What is wrong with where a set is; None: nothing."""
    if not is_url(place):
        return None
    try:
        parts = urlsplit(place)
        host, _ = parts.hostname, parts.port  # Reading the port fails where it is none.
    except ValueError:
        return "is no URL"
    if not _URL.fullmatch(place):
        return "is no URL: it has a character that has to be escaped in one, such as %20"
    if not host or parts.scheme not in ("https", "http"):
        return "must be a file, or a URL such as https://issuer.example/.well-known/jwks.json"
    if parts.scheme == "http" and host not in LOOPBACK:
        return "would come unencrypted, so that anybody on the way could put in a key; use https"
    return None


def parse_set(text: bytes, algorithm: str) -> dict[str, PublicKey]:
    """The keys of a set that verify signatures of an algorithm, by their id.

    Args:
        text: The set.
        algorithm: The one algorithm that is accepted; keys for others are passed over.

    Raises:
        ValueError: It is no set, or has no such key; the text says which.
    """
    try:
        found = json.loads(text)
        listed = found["keys"]
        keys = dict(each for entry in listed if (each := _key(entry, algorithm)) is not None)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError("is no JSON Web Key Set") from None
    if not keys:
        raise ValueError(f"holds no key that {algorithm} tokens can be verified with")
    return keys


def _key(entry: Mapping[str, Any], algorithm: str) -> tuple[str, PublicKey] | None:
    if entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    uses = entry.get("key_ops", ["verify"])
    if not isinstance(uses, list) or "verify" not in uses:
        return None
    try:
        key = jwt.PyJWK(dict(entry), algorithm).key
    except jwt.PyJWTError:  # Of another kind, or damaged: the others are not to blame.
        return None
    kid = entry.get("kid", "")
    return (kid, key) if isinstance(kid, str) and fits(key, algorithm) else None


def fetch(place: str) -> bytes:
    """Reads a set. Blocks for `FETCH_SECONDS` at most, about.

    Args:
        place: A URL, or the path of a file.

    Raises:
        OSError: It cannot be had.
        ValueError: It is too large.
    """
    if is_url(place):
        until = time.monotonic() + FETCH_SECONDS
        text = bytearray()
        try:
            with _opener.open(place, timeout=FETCH_SECONDS) as response:
                while (part := response.read1(64 * 1024)) and len(text) <= MAX_BYTES:
                    text += part
                    if time.monotonic() > until:
                        raise TimeoutError(f"took longer than {FETCH_SECONDS:g} seconds")
        except HTTPException as error:  # Which is no OSError, as all else is that goes wrong here.
            raise OSError(f"what answers there does not speak HTTP ({error!r})") from error
    else:
        with Path(place).open("rb") as file:
            text = bytearray(file.read(MAX_BYTES + 1))
    if len(text) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    return bytes(text)


class KeySet:
    """The keys of an issuer, kept up to date; a `KeyRing`.

    What was fetched stays in use for as long as the issuer cannot be reached. Fetching is done in a
    thread. Belongs to one event loop.

    Args:
        place: A URL, or the path of a file.
        algorithm: The one algorithm that is accepted.
        clock: Tells the time in seconds, evenly.

    Attributes:
        generation: Grows whenever the keys become others.
    """

    signing = None
    """Only the issuer makes tokens."""

    def __init__(
        self, place: str, algorithm: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.algorithm = algorithm
        self.generation = 0
        self._place = place
        self._clock = clock
        self._keys: dict[str, PublicKey] = {}
        self._fetched: float | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[NoReturn] | None = None

    @staticmethod
    def check(place: str, algorithm: str) -> None:
        """Checks what can be checked before there is a hub: a file, or the form of a URL.

        Raises:
            CredentialsError: It cannot be used.
        """
        problem = check_place(place)
        if problem is None and not is_url(place):
            try:
                parse_set(fetch(place), algorithm)
            except (OSError, ValueError) as error:
                problem = _text(error)
        if problem is not None:
            raise CredentialsError(("jwks", problem))

    async def open(self) -> None:
        """Fetches the set, if it can be had, and from now on again and again.

        A hub starts though its issuer is away, and has its callers try again until it is back.
        """
        failures = 0 if await self._refresh(0) else 1
        self._task = asyncio.create_task(self._keep(failures))

    async def close(self) -> None:
        """Fetches no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def key_for(self, token: str) -> PublicKey:
        """See `KeyRing.key_for`."""
        kid = jwt.get_unverified_header(token).get("kid", "")
        if not kid and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        key = self._keys.get(kid)
        if key is not None:
            return key
        if self._fetched is None or self._clock() >= self._fetched + COOL_DOWN_SECONDS:
            # Its issuer may have begun to use a new one.
            self._wanted.set()
            raise UnavailableError(
                "KEYS_UNAVAILABLE",
                "the key of the token is not known here yet, and is being fetched from its issuer; "
                "try again in a moment",
            )
        raise UnauthenticatedError(
            "TOKEN_INVALID", "the token is not signed with a key of its issuer's set (JWT_JWKS)"
        )

    async def _keep(self, failures: int) -> NoReturn:
        while True:
            if failures:
                await asyncio.sleep(min(2.0 ** (failures - 1), MAX_RETRY_SECONDS))
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), REFRESH_SECONDS)
            self._wanted.clear()
            failures = 0 if await self._refresh(failures) else min(failures + 1, 10)

    async def _refresh(self, failures: int) -> bool:
        """Fetches the set; False: it cannot be had, so that what there is stays.

        Args:
            failures: How often it could not be had lately; the first time is told in the log.
        """
        try:
            keys = parse_set(await asyncio.to_thread(fetch, self._place), self.algorithm)
        except (OSError, ValueError) as error:
            kept = "those fetched before stay in use" if self._keys else "no token can be checked"
            level = logging.DEBUG if failures else logging.WARNING
            _logger.log(level, "the keys at %s: %s; %s", self._place, _text(error), kept)
            return False
        if failures:
            _logger.info("the keys at %s can be had again", self._place)
        self._fetched = self._clock()
        if keys != self._keys:
            self._keys = keys
            self.generation += 1
        return True


def _text(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    return f"cannot be read: {error.strerror or getattr(error, 'reason', None) or error}"
