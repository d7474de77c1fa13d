"""JSON Web Tokens: from what a caller presents to a principal, and the other way round."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import jwt

from switchboard_server.core.errors import (
    InvalidArgumentError,
    UnauthenticatedError,
    Violation,
    invalid_field,
)
from switchboard_server.core.filters import MAX_NAME
from switchboard_server.core.principal import PERMISSIONS, Principal
from switchboard_server.security.keys import KeyRing, Keys

MAX_TOKEN = 16 * 1024
"""Longest token that is looked at, in characters. gRPC takes little more metadata either."""

CACHED_TOKENS = 10_000
"""Most tokens that a verifier remembers. An entry takes about a kilobyte."""

# RFC 7519 leaves "iat" to inform; a token of an issuer whose clock is ahead is no less valid. "exp"
# and "nbf" are checked here, by the verifier's own clock, and "sub", to say what is wrong with it.
_OPTIONS: Any = {
    "require": ["exp", "sub"],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
}


class TokenVerifier:
    """Turns tokens into principals.

    A token that was found good is remembered by its hash until it expires or keys change, for
    callers send the same one with every call. Not safe to share between threads.

    Args:
        keys: What tokens are verified with.
        audience: The audience that a token must be for. None: a token that names an audience is
            refused, RFC 7519 section 4.1.3.
        issuer: The issuer that a token must come from; None: any.
        clock: Tells the Unix time in seconds.
        cache_size: Most tokens that are remembered.
    """

    def __init__(
        self,
        keys: KeyRing,
        *,
        audience: str | None = None,
        issuer: str | None = None,
        clock: Callable[[], float] = time.time,
        cache_size: int = CACHED_TOKENS,
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._clock = clock
        self._cache_size = cache_size
        self._cache: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        self._generation = keys.generation

    def verify(self, token: str) -> Principal:
        """Checks a token.

        Args:
            token: The token in its compact form, without "Bearer ".

        Returns:
            Its subject with its permissions: the claim `permissions`, a list of strings, and the
            words of the claim `scope`.

        Raises:
            UnauthenticatedError: TOKEN_EXPIRED, or TOKEN_INVALID for anything else.
            UnavailableError: The key to check it with has to be fetched first.
        """
        try:
            raw = token.encode("ascii")
        except UnicodeEncodeError:
            raise _invalid("is no JSON Web Token") from None
        if self._keys.generation != self._generation:
            self._generation = self._keys.generation
            self._cache.clear()
        digest = sha256(raw).digest()
        known = self._cache.get(digest)
        if known is not None:
            expires_at, principal = known
            if expires_at > self._clock():
                self._cache.move_to_end(digest)
                return principal
            del self._cache[digest]
        principal, expires_at = self._check(token)
        self._cache[digest] = expires_at, principal
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return principal

    def _check(self, token: str) -> tuple[Principal, float]:
        claims = self._decode(token)
        expires_at, not_before = _time(claims, "exp"), _time(claims, "nbf")
        now = self._clock()
        if expires_at <= now:
            raise UnauthenticatedError("TOKEN_EXPIRED", "the token has expired; get a new one")
        if not_before > now:
            raise _invalid("is not valid yet")
        subject = claims["sub"]
        if not isinstance(subject, str):
            raise _invalid("has a subject (sub) that is no string")
        if not subject or len(subject) > MAX_NAME:
            raise _invalid(f"has a subject (sub) that is empty or longer than {MAX_NAME}")
        permissions = _permissions(claims)
        if not _is_text(subject, *permissions):
            raise _invalid("has a subject or a permission with half of a surrogate pair")
        return Principal(subject, permissions, expires_at), expires_at

    def _decode(self, token: str) -> Mapping[str, Any]:
        if len(token) > MAX_TOKEN:
            raise _invalid(f"is longer than {MAX_TOKEN} characters")
        try:
            return jwt.decode(
                token,
                self._keys.key_for(token),
                algorithms=[self._keys.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                options=_OPTIONS,
            )
        except jwt.InvalidSignatureError:
            raise _invalid("is not signed with a key of this hub") from None
        except jwt.InvalidAlgorithmError:
            text = f"is signed with another algorithm than {self._keys.algorithm}"
            raise _invalid(text) from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"lacks the claim {error.claim!r}") from None
        except jwt.InvalidAudienceError:
            text = "is for an audience (aud), and JWT_AUDIENCE is not set here"
            if self._audience:
                text = "is for another audience (aud)"
            raise _invalid(text) from None
        except jwt.InvalidIssuerError:
            raise _invalid("comes from another issuer (iss)") from None
        # RecursionError: the header is parsed before the signature is checked, and anybody can nest
        # brackets.
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _invalid("is no JSON Web Token that can be read") from None


def _invalid(problem: str) -> UnauthenticatedError:
    return UnauthenticatedError("TOKEN_INVALID", f"the token {problem}")


def _is_text(*strings: str) -> bool:
    """Whether strings can be told on: JSON can hold halves of surrogate pairs, an event cannot."""
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(claims: Mapping[str, Any], name: str) -> float:
    """Returns a claim that is a time, 0 if there is none."""
    value = claims.get(name, 0)
    # bool is an int to Python. The bound leaves out infinity and NaN, which its JSON takes, and
    # years beyond 9999.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2.5e11:
        raise _invalid(f"has a claim {name!r} that is no time")
    return float(value)


def _permissions(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what the claims permit.

    A name with an empty scope ("events.publish:") is left out: nobody can mean "everything" by it.
    """
    listed, scope = claims.get("permissions", []), claims.get("scope", "")
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise _invalid("has a claim 'permissions' that is no list of strings")
    if not isinstance(scope, str):
        raise _invalid("has a claim 'scope' that is no string")
    return tuple(each for each in (*listed, *scope.split()) if not each.endswith(":"))


def mint(
    keys: Keys,
    subject: str,
    permissions: Iterable[str],
    expires_minutes: int,
    *,
    audience: str | None = None,
    issuer: str | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """Makes a token.

    Args:
        keys: What it is signed with.
        subject: Name of the caller that it is for.
        permissions: What that caller may do: each a name of `PERMISSIONS`, or "name:scope" where
            the scope is an exact name or a prefix that ends in "*".
        expires_minutes: Minutes that it is valid; at least 1.
        audience: The audience that it is for; None: none.
        issuer: Who issues it; None: nobody in particular.
        clock: Tells the Unix time in seconds.

    Returns:
        The token in its compact form.

    Raises:
        InvalidArgumentError: Names everything that is not allowed, and what is.
    """
    if keys.signing is None:
        raise invalid_field("keys", "hold no private key to sign with")
    permissions = list(permissions)
    violations = list(_mint_violations(subject, permissions, expires_minutes))
    if violations:
        text = "; ".join(f"{each.field}: {each.description}" for each in violations)
        raise InvalidArgumentError("INVALID_FIELD", text, violations=violations)
    now = int(clock())
    claims: dict[str, object] = {
        "sub": subject,
        "permissions": permissions,
        "iat": now,
        "exp": now + 60 * expires_minutes,
    }
    if audience is not None:
        claims["aud"] = audience
    if issuer is not None:
        claims["iss"] = issuer
    return jwt.encode(claims, keys.signing, algorithm=keys.algorithm)


def _mint_violations(
    subject: str, permissions: Iterable[str], expires_minutes: int
) -> Iterable[Violation]:
    if not 1 <= len(subject) <= MAX_NAME:
        yield Violation("subject", f"must have 1 to {MAX_NAME} characters")
    if not _is_text(subject):
        yield Violation("subject", "is no UTF-8 text")
    if expires_minutes < 1:
        yield Violation("expires_minutes", "must be at least 1")
    for permission in permissions:
        name, colon, scope = permission.partition(":")
        if name not in PERMISSIONS:
            allowed = ", ".join(PERMISSIONS)
            yield Violation("permission", f"{name!r} does not exist; there are {allowed}")
        if colon and (not 1 <= len(scope) <= MAX_NAME or "*" in scope[:-1] or not _is_text(scope)):
            yield Violation(
                "permission",
                f"{permission!r} has no valid scope; after the colon comes a name of up to "
                f"{MAX_NAME} characters, or a prefix that ends in '*'",
            )
