"""Encryption of both ports, from one set of files."""

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from switchboard_server.security.errors import CredentialsError

LOOK_SECONDS = 10.0
"""How often the files are looked at, in seconds."""
WARN_SECONDS = 24 * 3600.0
"""How often it is said that a certificate is about to expire, in seconds."""
EXPIRES_SOON = timedelta(days=7)
"""How long before its end a certificate is said to be about to expire."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where certificates are.

    Args:
        cert: PEM file with the server's certificate, then those of its issuers.
        key: PEM file with its private key, not encrypted.
        client_ca: PEM file with the authorities of clients, whose certificate is then asked for;
            None: clients need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def by_name(self) -> dict[str, Path]:
        """The files that there are, by the names of their settings."""
        files = {"cert_file": self.cert, "key_file": self.key, "client_ca_file": self.client_ca}
        return {name: file for name, file in files.items() if file is not None}

    def stamps(self) -> list[tuple[int, ...]]:
        """Differs when a file was written or replaced. Of one that is missing nothing is known."""
        found: list[tuple[int, ...]] = []
        for file in self.by_name().values():
            try:
                state = file.stat()
            except OSError:
                found.append(())
            else:
                found.append((state.st_ino, state.st_size, state.st_mtime_ns))
        return found


class Tls:
    """Encryption of both ports. New connections get what the files hold by now, see `follow`.

    Of authorities that are taken out of the file, the bridge lets clients in until it is started
    anew: an `ssl.SSLContext` only learns more of them.

    Args:
        files: Where the certificates are.

    Attributes:
        context: For the bridge.
        credentials: For gRPC.

    Raises:
        CredentialsError: Names every file that cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamps = files.stamps()
        contents = _read(files)
        self.context = _load(files, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self.context.set_alpn_protocols(["http/1.1"])
        self._expires = _expiry(contents)
        self._changed: grpc.ServerCertificateConfiguration | None = None
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(contents),
            self._take_changed,  # type: ignore[arg-type]  # The stubs leave out None.
            require_client_authentication=files.client_ca is not None,
        )

    async def follow(self) -> None:
        """Has what is put into the files used for new connections, until it is cancelled.

        What cannot be used is told in the log, and what there was before is used.
        """
        self._warn()
        warned = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.refresh() or time.monotonic() > warned + WARN_SECONDS:
                self._warn()
                warned = time.monotonic()

    def refresh(self) -> bool:
        """Reads the files again if they have changed.

        Returns:
            Whether there are other certificates now.
        """
        stamps = self._files.stamps()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            contents = _read(self._files)
            # Tried out first: one that fails would leave half of it behind.
            _load(self._files, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
            _load(self._files, self.context)
        except (CredentialsError, OSError) as error:
            _logger.warning("other certificates cannot be used, those before are: %s", error)
            return False
        self._changed = _configuration(contents)
        self._expires = _expiry(contents)
        _logger.info("new connections get the certificate that expires %s", self._expires)
        return True

    def _take_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC for each connection, in a thread of its own; None: nothing is new."""
        changed, self._changed = self._changed, None
        return changed

    def _warn(self) -> None:
        left = self._expires - datetime.now(UTC)
        if left < EXPIRES_SOON:
            verb = "expired" if left < timedelta(0) else "expires"
            _logger.warning("the certificate in %s %s %s", self._files.cert, verb, self._expires)


def _read(files: TlsFiles) -> dict[str, bytes]:
    problems = []
    contents = {}
    for name, file in files.by_name().items():
        try:
            contents[name] = file.read_bytes()
            _check(name, contents[name])
        except OSError as error:
            problems.append((name, f"cannot be read: {error.strerror}"))
        except ValueError as error:
            problems.append((name, str(error)))
    if problems:
        raise CredentialsError(*problems)
    return contents


def _load(files: TlsFiles, context: ssl.SSLContext) -> ssl.SSLContext:
    try:
        context.load_cert_chain(files.cert, files.key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"does not belong to the certificate in {files.cert}"
            raise CredentialsError(("key_file", text)) from None
        raise CredentialsError(("cert_file", f"cannot be used: {error}")) from None
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _configuration(contents: Mapping[str, bytes]) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(contents["key_file"], contents["cert_file"])], contents.get("client_ca_file")
    )


def _expiry(contents: Mapping[str, bytes]) -> datetime:
    return x509.load_pem_x509_certificates(contents["cert_file"])[0].not_valid_after_utc


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
