"""A certificate that this machine makes for itself: browsers give a page the webcam on localhost or over https only.

Nobody vouches for it, so a browser asks once whether to go on; its fingerprint can be compared. It names this machine's
names and addresses, and is kept in the user's cache folder until it is about to end or the names have changed.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from secrets import token_hex

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tam_edge.apps.web.listening import Tls
from tam_edge.runtime.device import cache_folder
from tam_edge.runtime.errors import TamEdgeError

VALID_DAYS = 397
"""What browsers accept without a complaint of its own."""
SPARE_DAYS = 7
"""A certificate that ends sooner is made anew."""
_OTHERS = 0o077  # bits of a file's mode that let others at it


@dataclass(frozen=True, slots=True)
class SelfMade:
    """A certificate of this machine's own."""

    tls: Tls
    """Its files."""
    names: tuple[str, ...]
    """Names and addresses that it is good for."""
    fingerprint: str
    """SHA-256, as browsers show it."""


def self_made(host: str, folder: Path | None = None) -> SelfMade:
    """The certificate for a server at `host`, made where there is none that fits.

    Raises: TamEdgeError if it cannot be kept.
    """
    names = machine_names(host)
    folder = cache_folder() / "tls" if folder is None else folder
    tls = Tls(folder / "certificate.pem", folder / "key.pem")
    try:
        certificate = _kept(tls, names)
        if certificate is None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            certificate = _make(tls, names)
    except OSError as error:
        raise TamEdgeError(f"a certificate cannot be kept in {folder}: {error.strerror}") from None
    return SelfMade(tls, _names_of(certificate), certificate.fingerprint(hashes.SHA256()).hex(":").upper())


def machine_names(host: str) -> tuple[str, ...]:
    """By what others may call a server at `host`: as it is written, this machine's name, and its addresses."""
    own = socket.gethostname().lower()
    addresses = [
        str(address.address).partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    names = ["localhost", "127.0.0.1", "::1", host.lower(), own, f"{own}.local", *addresses]
    return tuple(dict.fromkeys(name for name in names if _may_be_named(name)))


def _may_be_named(name: str) -> bool:
    address = _address(name)
    if address is not None:
        return not address.is_unspecified
    return bool(name) and name.isascii() and not any(c in " :/\0" for c in name)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _kept(tls: Tls, names: Iterable[str]) -> x509.Certificate | None:
    """The one that was made before, if it is still good for all of `names` and nobody else could read its key."""
    try:
        if os.name == "posix" and tls.key.stat().st_mode & _OTHERS:
            return None
        certificate = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
        key = serialization.load_pem_private_key(tls.key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    soon = datetime.now(timezone.utc) + timedelta(days=SPARE_DAYS)
    fits = key.public_key() == certificate.public_key() and set(names) <= set(_names_of(certificate))
    return certificate if fits and certificate.not_valid_after_utc > soon else None


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _make(tls: Tls, names: Iterable[str]) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tam-edge live, self-made")])
    now = datetime.now(timezone.utc)
    alternatives = [
        x509.DNSName(name) if (address := _address(name)) is None else x509.IPAddress(address) for name in names
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks of phones and boards differ
        .not_valid_after(now + timedelta(days=VALID_DAYS - 1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    _write(tls.key, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    _write(tls.certificate, certificate.public_bytes(pem))
    return certificate


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and for this user alone from its first byte on."""
    draft = path.with_name(f".{path.name}-{token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
