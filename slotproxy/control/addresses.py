"""Addresses as an operator writes them: where to listen, where the cluster is, which names stand for which.

Duty: text to value, and back for errors and logs. Nothing here resolves a name or opens a socket: names are
resolved when they are used, again each time. An address that can be read in two ways (an IPv6 address
followed by a port without brackets, an IPv4 address with a number too big) is refused, not guessed.

Parsers raise ValueError with what was expected.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

from slotproxy.cluster.topology import Address

_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_NUMERIC: Final = re.compile(r"[0-9.]+")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_UNIX_PATH_MAX: Final = 107  # sockaddr_un.sun_path on Linux, less the closing NUL

SEED_EXPECTED: Final = "HOST:PORT (an IPv6 address in brackets), port 1 to 65535"
TCP_EXPECTED: Final = "HOST:PORT (an IPv6 address in brackets), port 0 to 65535 (0: any free one)"
ENDPOINT_EXPECTED: Final = f"{TCP_EXPECTED}, or unix:PATH"
MAP_EXPECTED: Final = "FROM=TO, both HOST:PORT or both HOST"


@dataclass(frozen=True)
class TcpEndpoint:
    """A TCP address to listen on; port 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return shown_address((self.host, self.port))


@dataclass(frozen=True)
class UnixEndpoint:
    """A socket in the file system to listen on."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Endpoint = TcpEndpoint | UnixEndpoint


@dataclass(frozen=True)
class AddressMap:
    """What to dial instead of what the cluster announces (NAT, port forwarding).

    A rule for host and port beats a rule for the host alone. One step only: what a rule gives is not mapped
    again, so that two rules may swap two addresses.
    """

    addresses: dict[Address, Address] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)

    def apply(self, address: Address) -> Address:
        """The address to dial for the announced `address`."""
        host, port = address
        return self.addresses.get(address) or (self.hosts.get(host, host), port)

    def __str__(self) -> str:
        rules = [f"{shown_address(a)}={shown_address(b)}" for a, b in self.addresses.items()]
        return ",".join(rules + [f"{a}={b}" for a, b in self.hosts.items()])


def shown_address(address: Address) -> str:
    """`host:port`, brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_seed(text: str) -> Address:
    """HOST:PORT of a node to dial."""
    address = _split(text)
    if address is None or address[1] == 0:
        raise ValueError(SEED_EXPECTED)
    return address


def parse_tcp(text: str) -> TcpEndpoint:
    """HOST:PORT to listen on."""
    address = _split(text)
    if address is None:
        raise ValueError(TCP_EXPECTED)
    return TcpEndpoint(*address)


def parse_endpoint(text: str) -> Endpoint:
    """HOST:PORT or unix:PATH to listen on."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path or len(path.encode("utf-8", "surrogateescape")) > _UNIX_PATH_MAX:
            raise ValueError(f"unix:PATH with a path of 1 to {_UNIX_PATH_MAX} bytes")
        return UnixEndpoint(path)
    address = _split(text)
    if address is None:
        raise ValueError(ENDPOINT_EXPECTED)
    return TcpEndpoint(*address)


def parse_address_map(texts: list[str]) -> AddressMap:
    """FROM=TO rules. Raises ValueError with the rule in it, for one of several is wrong."""
    rules = AddressMap()
    for text in texts:
        left, equals, right = text.partition("=")
        source, target = _split(left), _split(right)
        if equals and source is not None and target is not None and target[1] and source[1]:
            if rules.addresses.setdefault(source, target) != target:
                raise ValueError(f"one target per address, but {left} has two")
            continue
        from_host, to_host = _host(left), _host(right)
        if not equals or from_host is None or to_host is None:
            raise ValueError(MAP_EXPECTED)
        if rules.hosts.setdefault(from_host, to_host) != to_host:
            raise ValueError(f"one target per address, but {left} has two")
    return rules


def _split(text: str) -> Address | None:
    """HOST:PORT as a pair, or None."""
    left, colon, digits = text.rpartition(":")
    bracketed = left.startswith("[") and left.endswith("]")
    host = _host(left)
    if host is None or not colon or (":" in host and not bracketed):
        return None
    if _PORT.fullmatch(digits) is None or int(digits) > 65535:
        return None
    return host, int(digits)


def _host(text: str) -> str | None:
    """A host name, an IPv4 address, or an IPv6 address with or without brackets (returned without); or
    None."""
    bracketed = text.startswith("[") and text.endswith("]")
    plain = text[1:-1] if bracketed else text
    if ":" in plain:
        try:
            return str(ipaddress.IPv6Address(plain))  # one spelling, so that rules match what nodes announce
        except ValueError:
            return None
    if bracketed or len(plain) > 253 or _NAME.fullmatch(plain) is None:
        return None
    if _NUMERIC.fullmatch(plain):
        try:
            ipaddress.IPv4Address(plain)
        except ValueError:
            return None
    return plain
