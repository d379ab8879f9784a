"""Which address a name means, and whether this machine may connect to it: for downloads and for webhooks.

A name is resolved once. What is checked here is what is connected to, so a second, different answer of a name server
changes nothing. One bad address among several is enough to refuse the name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tam_edge.runtime.errors import TamEdgeError, UsageError

_PORTS = {"http": 80, "https": 443}
_PLAIN = range(0x21, 0x7F)  # characters that may stand in the target of a request
_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out to the internet
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NoAddressError(TamEdgeError):
    """A name has no address now."""


class AddressRefusedError(TamEdgeError):
    """A name leads to where this machine was not told to connect."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect to."""

    address: str
    """A number, never a name."""
    port: int
    """TCP port."""


def checked_url(url: str) -> tuple[SplitResult, str, int]:
    """The parts of a URL, its host and its port.

    Raises: UsageError.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("a URL cannot be read") from None
    if parts.scheme.lower() not in _PORTS or not host or parts.username is not None or parts.password is not None:
        raise UsageError("a URL must be http(s)://host/path, without a user or a password")
    if any(ord(c) not in _PLAIN for c in f"{parts.netloc}{parts.path}{parts.query}"):
        raise UsageError("a URL has characters that must be written as %xx")
    return parts, host, _PORTS[parts.scheme.lower()] if port is None else port


def request_target(parts: SplitResult) -> str:
    """What stands in the first line of an HTTP request."""
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def endpoints(host: str, port: int, allowed_hosts: Collection[str]) -> list[Endpoint]:
    """Addresses of a host, which may be private ones only where it is among `allowed_hosts`.

    Raises: NoAddressError, AddressRefusedError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise no_address(host) from None
    return checked_endpoints(host, port, found, allowed_hosts)


def no_address(host: str) -> NoAddressError:
    """What to raise where a name server knows nothing of a host."""
    return NoAddressError(f"{host} has no address")


def checked_endpoints(host: str, port: int, found: Iterable[Any], allowed_hosts: Collection[str]) -> list[Endpoint]:
    """Those that `getaddrinfo` has found for a host.

    Raises: AddressRefusedError.
    """
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if host.lower() not in allowed_hosts and not all(is_public(address) for address in addresses):
        text = f"{host} is on a private, local or special network: it was not said to be used (--allow-host)"
        raise AddressRefusedError(text)
    return [Endpoint(address, port) for address in addresses]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet: not private, local, shared, multicast, reserved or translated."""
    try:
        meant = _meant(ipaddress.ip_address(address))
    except ValueError:
        return False
    return all(one.is_global and not one.is_multicast and (one.version == 4 or one in _UNICAST) for one in meant)


def _meant(address: Address) -> tuple[Address, ...]:
    """The address and those that it wraps."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    wrapped = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        wrapped.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        return tuple(one for one in wrapped if one is not None)
    return (address, *(one for one in wrapped if one is not None))
