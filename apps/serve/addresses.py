"""Which address a name means, and whether a stranger may have this machine connect to it.

A name is resolved once. What is checked here is what is connected to, so a second, different answer of a name server
changes nothing. One bad address among several is enough to refuse the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass

from tam_edge.apps.web.problem import ServeError

_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out to the internet
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect to."""

    address: str
    """A number, never a name."""
    port: int
    """TCP port."""


async def endpoints(host: str, port: int, allowed_hosts: Collection[str]) -> list[Endpoint]:
    """Addresses of a host, which may be private ones only where it is among `allowed_hosts`.

    Raises: ServeError 403 or 422.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ServeError(422, f"{host} has no address", code="not_fetched") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if host.lower() not in allowed_hosts and not all(is_public(address) for address in addresses):
        text = f"{host} is on a private, local or special network: the server was not told to use it (--allow-host)"
        raise ServeError(403, text, code="address_refused")
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
