"""Keys in PEM files."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


def write_private_key(
    file: Path, key: CertificateIssuerPrivateKeyTypes, password: bytes | None = None
) -> None:
    """Writes a private key, encrypted where there is a password."""
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def write_key_pair(
    folder: Path, key: CertificateIssuerPrivateKeyTypes, password: bytes | None = None
) -> tuple[Path, Path]:
    """Writes a private and a public key; the files of both."""
    private, public = folder / "private.pem", folder / "public.pem"
    write_private_key(private, key, password)
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public
