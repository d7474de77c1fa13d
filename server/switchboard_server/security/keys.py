"""The keys that tokens are signed and verified with."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeGuard

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

from switchboard_server.security.errors import CredentialsError

MIN_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Shortest secret of each HMAC algorithm: the size of its hash, RFC 7518 section 3.2."""

MIN_RSA_BITS = 2048
"""Shortest RSA key: RFC 7518 section 3.3."""

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey

_FITTING = {
    "RS256": f"an RSA key of at least {MIN_RSA_BITS} bits",
    "ES256": "a key on the curve P-256",
    "EdDSA": "an Ed25519 or Ed448 key",
}


class KeyRing(Protocol):
    """What tokens are verified with."""

    @property
    def algorithm(self) -> str:
        """The one algorithm that is accepted, by its name in RFC 7518 or RFC 8037."""
        ...

    @property
    def generation(self) -> int:
        """Changes when keys do: a token that was good before may not be any more."""
        ...

    def key_for(self, token: str) -> "jwt.PyJWK | PublicKey":
        """The key that a token has to be signed with.

        Raises:
            jwt.PyJWTError: It is no token.
            UnauthenticatedError: There is none.
            UnavailableError: It is not known yet.
        """
        ...

    async def open(self) -> None:
        """Begins to keep the keys up to date."""
        ...

    async def close(self) -> None:
        """Keeps them so no more."""
        ...


@dataclass(frozen=True, slots=True)
class Keys:
    """What tokens are signed and verified with, for as long as the hub runs; a `KeyRing`."""

    algorithm: str
    """See `KeyRing`."""

    verifying: jwt.PyJWK | PublicKey = field(repr=False)
    """The secret, made ready once, or the public key."""

    signing: jwt.PyJWK | PrivateKey | None = field(repr=False)
    """The secret, or the private key. None: this process can verify tokens only."""

    generation: int = 0
    """See `KeyRing`."""

    def key_for(self, _token: str) -> jwt.PyJWK | PublicKey:
        """See `KeyRing.key_for`."""
        return self.verifying

    async def open(self) -> None:
        """See `KeyRing.open`: they never change."""

    async def close(self) -> None:
        """See `KeyRing.close`."""


def load_keys(
    algorithm: str,
    *,
    secret: str | None = None,
    public_key_file: Path | None = None,
    private_key_file: Path | None = None,
) -> Keys | None:
    """Makes the keys ready for use.

    Args:
        algorithm: HS256, HS384, HS512, RS256, ES256 or EdDSA.
        secret: For HS*.
        public_key_file: PEM file, for the others.
        private_key_file: PEM file, for the others; only needed to sign.

    Returns:
        The keys, or None if none is given.

    Raises:
        CredentialsError: Names everything that is wrong.
    """
    if algorithm in MIN_SECRET_BYTES:
        files = {"public_key_file": public_key_file, "private_key_file": private_key_file}
        text = f"is not for {algorithm}, which signs with a secret"
        if problems := [(name, text) for name, file in files.items() if file]:
            raise CredentialsError(*problems)
        return None if secret is None else _secret_keys(algorithm, secret)
    problems = []
    if secret is not None:
        problems.append(("secret", f"is not for {algorithm}, which takes key files"))
    if public_key_file is None:
        text = f"is not set, and {algorithm} needs the public key to verify tokens"
        raise CredentialsError(*problems, ("public_key_file", text))
    if problems:
        raise CredentialsError(*problems)
    return _file_keys(algorithm, public_key_file, private_key_file)


def _secret_keys(algorithm: str, secret: str) -> Keys:
    # Bytes of the environment that are no UTF-8 come as lone surrogates.
    raw = secret.encode(errors="surrogateescape")
    shortest = MIN_SECRET_BYTES[algorithm]
    if len(raw) < shortest:
        text = (
            f"is {len(raw)} bytes long, and {algorithm} needs at least {shortest} random bytes; "
            f"'openssl rand -base64 {shortest}' makes some"
        )
        raise CredentialsError(("secret", text))
    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(raw)
    except jwt.InvalidKeyError:
        text = "is the content of a key file, and a secret that only signers know is needed"
        raise CredentialsError(("secret", text)) from None
    encoded = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    # As a JWK, because a bare secret is checked with every token, which takes longer than the
    # signature.
    key = jwt.PyJWK({"kty": "oct", "k": encoded}, algorithm)
    return Keys(algorithm, key, key)


def _file_keys(algorithm: str, public_file: Path, private_file: Path | None) -> Keys:
    problems = []
    public: PublicKey | None = None
    private: PrivateKey | None = None
    try:
        public = _public_key(algorithm, public_file.read_bytes())
    except (OSError, ValueError) as error:
        problems.append(("public_key_file", _text(error)))
    if private_file:
        try:
            private = _private_key(algorithm, private_file.read_bytes())
        except (OSError, ValueError) as error:
            problems.append(("private_key_file", _text(error)))
    if public and private and private.public_key() != public:
        problems.append(("private_key_file", f"does not belong to the key in {public_file}"))
    if problems or not public:
        raise CredentialsError(*problems)
    return Keys(algorithm, public, private)


def _text(error: OSError | ValueError) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def fits(key: object, algorithm: str) -> TypeGuard[PublicKey]:
    """Whether signatures of an algorithm can be verified with a key."""
    return (
        (algorithm == "RS256" and isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS)
        or (
            algorithm == "ES256"
            and isinstance(key, EllipticCurvePublicKey)
            and isinstance(key.curve, SECP256R1)
        )
        or (algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey | Ed448PublicKey))
    )


def _public_key(algorithm: str, pem: bytes) -> PublicKey:
    if b"PRIVATE KEY-----" in pem:
        raise ValueError(
            "holds a private key; 'openssl pkey -pubout -in FILE' prints the public one"
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if fits(key, algorithm):
        return key
    raise ValueError(f"holds another kind of key; {algorithm} needs {_FITTING[algorithm]}")


def _private_key(algorithm: str, pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError("is encrypted; 'openssl pkey -in FILE' decrypts it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)") from None
    if (
        (algorithm == "RS256" and isinstance(key, RSAPrivateKey) and key.key_size >= MIN_RSA_BITS)
        or (
            algorithm == "ES256"
            and isinstance(key, EllipticCurvePrivateKey)
            and isinstance(key.curve, SECP256R1)
        )
        or (algorithm == "EdDSA" and isinstance(key, Ed25519PrivateKey | Ed448PrivateKey))
    ):
        return key
    raise ValueError(f"holds another kind of key; {algorithm} needs {_FITTING[algorithm]}")
