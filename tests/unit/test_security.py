"""Tokens: who is let in as whom, and who is not."""

import base64
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from switchboard_server.core.errors import InvalidArgumentError, UnauthenticatedError
from switchboard_server.security.errors import CredentialsError
from switchboard_server.security.keys import Keys, PrivateKey, load_keys
from switchboard_server.security.tls import Tls, TlsFiles
from switchboard_server.security.tokens import TokenVerifier, mint
from tests.support.pem import write_key_pair, write_private_key

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def secret_keys(secret: str = SECRET) -> Keys:
    keys = load_keys("HS256", secret=secret)
    assert keys is not None
    return keys


def sign(claims: dict[str, Any], *, secret: str = SECRET, algorithm: str = "HS256") -> str:
    return jwt.encode({"sub": "alice", "exp": NOW + 60} | claims, secret, algorithm=algorithm)


def refusal(token: str, **options: Any) -> UnauthenticatedError:
    with pytest.raises(UnauthenticatedError) as caught:
        TokenVerifier(secret_keys(), clock=Clock(), **options).verify(token)
    assert token[:20] not in caught.value.message or not token
    return caught.value


def encode(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def test_a_minted_token_is_verified_as_its_subject_with_its_permissions_until_it_expires() -> None:
    clock = Clock()
    keys = secret_keys()
    token = mint(keys, "alice", ["events.publish:order.*", "events.view"], 2, clock=clock)
    principal = TokenVerifier(keys, clock=clock).verify(token)
    assert principal.subject == "alice"
    assert principal.expires_at == NOW + 120
    assert dict(principal.scopes) == {"events.publish": ("order.*",), "events.view": ("*",)}


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("RS256", lambda: rsa.generate_private_key(65537, 2048)),
        ("ES256", lambda: ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate),
        ("EdDSA", ed448.Ed448PrivateKey.generate),
    ],
)
def test_tokens_are_signed_and_verified_with_key_files(
    algorithm: str, make: Callable[[], PrivateKey], tmp_path: Path
) -> None:
    private, public = write_key_pair(tmp_path, make())
    both = load_keys(algorithm, public_key_file=public, private_key_file=private)
    verifying = load_keys(algorithm, public_key_file=public)
    assert both is not None
    assert verifying is not None
    token = mint(both, "bob", [], 1)
    assert TokenVerifier(verifying).verify(token).subject == "bob"
    with pytest.raises(InvalidArgumentError, match="no private key"):
        mint(verifying, "bob", [], 1)


@pytest.mark.parametrize(("algorithm", "length"), [("HS384", 48), ("HS512", 64)])
def test_longer_hashes_work_with_their_longer_secrets(algorithm: str, length: int) -> None:
    keys = load_keys(algorithm, secret="k" * length)
    assert keys is not None
    assert TokenVerifier(keys).verify(mint(keys, "bob", [], 1)).subject == "bob"
    assert "k" * length not in repr(keys)


def test_an_expired_token_is_told_from_a_bad_one() -> None:
    assert refusal(sign({"exp": NOW})).reason == "TOKEN_EXPIRED"
    assert refusal(sign({"exp": NOW - 1})).reason == "TOKEN_EXPIRED"
    expired_and_forged = sign({"exp": NOW - 1}, secret=SECRET[::-1])
    assert refusal(expired_and_forged).reason == "TOKEN_INVALID"


def test_a_remembered_token_is_refused_from_the_moment_that_it_expires() -> None:
    clock = Clock()
    verifier = TokenVerifier(secret_keys(), clock=clock)
    token = sign({"exp": NOW + 10})
    first = verifier.verify(token)
    clock.now = NOW + 9.9
    assert verifier.verify(token) is first
    clock.now = NOW + 10
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token)
    assert caught.value.reason == "TOKEN_EXPIRED"


def test_a_verifier_remembers_no_more_tokens_than_it_may_and_forgets_the_least_used() -> None:
    verifier = TokenVerifier(secret_keys(), clock=Clock(), cache_size=2)
    tokens = [sign({"sub": name}) for name in "abc"]
    a, b = verifier.verify(tokens[0]), verifier.verify(tokens[1])
    assert verifier.verify(tokens[0]) is a
    verifier.verify(tokens[2])
    assert verifier.verify(tokens[0]) is a
    assert verifier.verify(tokens[1]) is not b


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"sub": None}, "Web Token"),
        ({"sub": ""}, "sub"),
        ({"sub": "x" * 256}, "sub"),
        ({"sub": 7}, "a subject (sub) that is no string"),
        ({"sub": ["alice"]}, "a subject (sub) that is no string"),
        ({"exp": "soon"}, "'exp'"),
        ({"exp": True}, "'exp'"),
        ({"exp": float("inf")}, "'exp'"),
        ({"exp": float("nan")}, "'exp'"),
        ({"exp": -1}, "'exp'"),
        ({"exp": NOW * 1000}, "'exp'"),
        ({"nbf": NOW + 1}, "not valid yet"),
        ({"nbf": []}, "'nbf'"),
        ({"aud": "somebody"}, "JWT_AUDIENCE"),
        ({"permissions": "events.publish"}, "list of strings"),
        ({"permissions": [1]}, "list of strings"),
        ({"permissions": None}, "list of strings"),
        ({"scope": ["events.publish"]}, "'scope'"),
        # JSON can hold halves of surrogate pairs, and an event cannot.
        ({"sub": "\ud800"}, "surrogate"),
        ({"permissions": ["events.publish:\udfff"]}, "surrogate"),
    ],
)
def test_claims_that_are_wrong_are_named(claims: dict[str, Any], says: str) -> None:
    error = refusal(sign(claims))
    assert error.reason == "TOKEN_INVALID"
    assert says in error.message or "lacks the claim 'sub'" in error.message


@pytest.mark.parametrize("claim", ["exp", "sub"])
def test_a_token_needs_an_end_and_a_subject(claim: str) -> None:
    claims = {"sub": "alice", "exp": NOW + 60}
    del claims[claim]
    assert f"lacks the claim '{claim}'" in refusal(jwt.encode(claims, SECRET)).message


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b",
        "a.b.c",
        "..",
        "clé.b.c",
        "\udc80.b.c",
        "a." * 20_000,
        encode("no object") + ".e30.x",
        # The parser of a header recurses before any signature is looked at.
        base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + ".e30.x",
        encode({"alg": "HS256", "crit": ["x"]}) + ".e30.x",
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token).reason == "TOKEN_INVALID"


def test_the_algorithm_of_a_token_does_not_choose_how_it_is_verified(tmp_path: Path) -> None:
    claims = {"sub": "alice", "exp": NOW + 60}
    unsigned = f"{encode({'alg': 'none', 'typ': 'JWT'})}.{encode(claims)}."
    assert refusal(unsigned).reason == "TOKEN_INVALID"
    assert "HS256" in refusal(sign({}, secret=SECRET * 2, algorithm="HS512")).message

    _, public = write_key_pair(tmp_path, rsa.generate_private_key(65537, 2048))
    keys = load_keys("RS256", public_key_file=public)
    assert keys is not None
    # The classic: the public key, which anybody may have, used as the secret of an HMAC.
    head, body = encode({"alg": "HS256", "typ": "JWT"}), encode(claims)
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    mac = algorithm.sign(f"{head}.{body}".encode(), public.read_bytes())
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    with pytest.raises(UnauthenticatedError, match="another algorithm than RS256"):
        TokenVerifier(keys, clock=Clock()).verify(forged)


def test_audience_and_issuer_are_checked_where_they_are_set() -> None:
    options: dict[str, Any] = {"audience": "hub", "issuer": "https://issuer"}
    clock = Clock()
    good = sign({"aud": ["other", "hub"], "iss": "https://issuer"})
    assert TokenVerifier(secret_keys(), clock=clock, **options).verify(good).subject == "alice"
    minted = mint(secret_keys(), "alice", [], 1, clock=clock, **options)
    assert TokenVerifier(secret_keys(), clock=clock, **options).verify(minted).subject == "alice"
    wrong_audience = sign({"aud": "other", "iss": "https://issuer"})
    assert "another audience" in refusal(wrong_audience, **options).message
    assert "'aud'" in refusal(sign({"iss": "https://issuer"}), **options).message
    assert "another issuer" in refusal(sign({"aud": "hub", "iss": "x"}), **options).message
    assert "'iss'" in refusal(sign({"aud": "hub"}), **options).message


def test_an_issuer_whose_clock_is_ahead_is_believed() -> None:
    token = sign({"iat": NOW + 5})
    assert TokenVerifier(secret_keys(), clock=Clock()).verify(token).subject == "alice"


def test_permissions_come_from_both_claims_and_an_empty_scope_permits_nothing() -> None:
    token = sign(
        {"permissions": ["events.view", "events.publish:"], "scope": "openid rooms.join:a*"}
    )
    principal = TokenVerifier(secret_keys(), clock=Clock()).verify(token)
    assert principal.may("events.view")
    assert not principal.may("events.publish")
    assert principal.scopes["rooms.join"] == ("a*",)


@pytest.mark.parametrize(
    ("subject", "permissions", "minutes", "field", "says"),
    [
        ("", [], 1, "subject", "1 to 255"),
        ("x" * 256, [], 1, "subject", "1 to 255"),
        ("\udcff", [], 1, "subject", "UTF-8"),
        ("a", ["events.publish:\udcff"], 1, "permission", "scope"),
        ("a", ["events.publish", "publish"], 1, "permission", "groups.manage"),
        ("a", ["events.publish:"], 1, "permission", "scope"),
        ("a", ["events.publish:*.x"], 1, "permission", "prefix"),
        ("a", [], 0, "expires_minutes", "at least 1"),
    ],
)
def test_a_token_that_could_not_work_is_not_minted(
    subject: str, permissions: list[str], minutes: int, field: str, says: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        mint(secret_keys(), subject, permissions, minutes)
    (violation,) = caught.value.violations
    assert violation.field == field
    assert says in violation.description


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    write_private_key(key_file, key)
    return cert_file, key_file


def test_client_certificates_are_asked_for_where_an_authority_is_set(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "hub")
    assert Tls(TlsFiles(cert, key)).context.verify_mode == ssl.CERT_NONE
    assert Tls(TlsFiles(cert, key, cert)).context.verify_mode == ssl.CERT_REQUIRED


def test_each_file_of_tls_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "hub")
    other_cert, other_key = write_certificate(tmp_path, "other")
    with pytest.raises(CredentialsError, match="key_file does not belong to the certificate"):
        Tls(TlsFiles(cert, other_key))
    with pytest.raises(CredentialsError) as caught:
        Tls(TlsFiles(key, other_cert, tmp_path / "missing"))
    assert dict(caught.value.problems) == {
        "cert_file": "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        "key_file": "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)",
        "client_ca_file": "cannot be read: No such file or directory",
    }
