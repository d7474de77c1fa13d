"""Tokens, keys and certificates for a test, all thrown away after it."""

import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
)
from cryptography.x509.oid import NameOID

from tests.support.pem import write_key_pair, write_private_key

SECRET = "a secret of forty bytes, made for a test"
EVERYTHING = ["events.publish", "events.subscribe", "events.view"]
"""The permissions that EventService asks for."""


_KEPT = ("PATH", "PYTHONPATH")


def run_command(
    folder: Path, *arguments: str, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the hub's command, which is expected to end.

    Args:
        folder: Where it runs.
        *arguments: Its arguments.
        settings: Its environment, and next to nothing of this process's.
    """
    return subprocess.run(
        [sys.executable, "-m", "switchboard_server", *arguments],
        cwd=folder,
        env={name: os.environ[name] for name in _KEPT if name in os.environ} | dict(settings or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def mint(folder: Path, settings: Mapping[str, str], subject: str, *permissions: str) -> str:
    """A token made by the hub's command."""
    options = [part for each in permissions for part in ("--permission", each)]
    done = run_command(folder, "token", "--subject", subject, *options, settings=settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def token(
    *permissions: str,
    subject: str = "alice",
    seconds: float = 600,
    key: Any = SECRET,
    algorithm: str | None = "HS256",
    **claims: Any,
) -> str:
    """A token made without the hub.

    Args:
        *permissions: What it permits.
        subject: Whose it is.
        seconds: For how long.
        key: What it is signed with.
        algorithm: How it is signed.
        **claims: Further claims.
    """
    content = {
        "sub": subject,
        "exp": time.time() + seconds,
        "permissions": list(permissions),
        **claims,
    }
    return jwt.encode(content, key, algorithm=algorithm)


def write_keys(folder: Path, key: CertificateIssuerPrivateKeyTypes) -> dict[str, str]:
    """Writes a key pair, and returns the settings that name its files."""
    private, public = write_key_pair(folder, key)
    return {"JWT_PRIVATE_KEY_FILE": str(private), "JWT_PUBLIC_KEY_FILE": str(public)}


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, also in files."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    cert_file: Path
    key_file: Path


def certify(folder: Path, name: str, issuer: Certificate | None = None) -> Certificate:
    """Makes a certificate for 127.0.0.1.

    Args:
        folder: Where the files are written.
        name: Whose it is.
        issuer: Who signs it; None: it is an authority, and signs itself.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    addresses = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
        .add_extension(addresses, critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    made = Certificate(certificate, key, folder / f"{name}.crt", folder / f"{name}.key")
    made.cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    write_private_key(made.key_file, key)
    return made
