"""Encryption of both ports, from one set of files."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from switchboard_server.security.errors import CredentialsError


@dataclass(frozen=True, slots=True)
class Tls:
    """What the two ports need to encrypt."""

    context: ssl.SSLContext
    """For the bridge."""

    credentials: grpc.ServerCredentials = field(repr=False)
    """For gRPC."""


def load_tls(cert_file: Path, key_file: Path, client_ca_file: Path | None = None) -> Tls:
    """Reads certificates and makes them ready for use.

    Args:
        cert_file: PEM file with the server's certificate, then those of its issuers.
        key_file: PEM file with its private key, not encrypted.
        client_ca_file: PEM file with the authorities of clients, whose certificate is then asked
            for; None: clients need none.

    Raises:
        CredentialsError: Names every file that cannot be used.
    """
    problems = []
    contents = {}
    files = {"cert_file": cert_file, "key_file": key_file, "client_ca_file": client_ca_file}
    for name, file in files.items():
        if file is None:
            continue
        try:
            contents[name] = file.read_bytes()
            _check(name, contents[name])
        except OSError as error:
            problems.append((name, f"cannot be read: {error.strerror}"))
        except ValueError as error:
            problems.append((name, str(error)))
    if problems:
        raise CredentialsError(*problems)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert_file, key_file)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"does not belong to the certificate in {cert_file}"
            raise CredentialsError(("key_file", text)) from None
        raise CredentialsError(("cert_file", f"cannot be used: {error}")) from None
    client_ca = contents.get("client_ca_file")
    if client_ca is not None:
        context.load_verify_locations(client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    credentials = grpc.ssl_server_credentials(
        [(contents["key_file"], contents["cert_file"])], client_ca, client_ca is not None
    )
    return Tls(context, credentials)


def _check(name: str, pem: bytes) -> None:
    """Parses a file's content, for a message that says more than OpenSSL's."""
    if name != "key_file":
        try:
            x509.load_pem_x509_certificates(pem)
        except ValueError:
            text = "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
            raise ValueError(text) from None
        return
    try:
        load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError("is encrypted; 'openssl pkey -in FILE' decrypts it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)") from None
