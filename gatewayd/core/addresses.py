"""Addresses as people write them, networks, and who the client is.

Pure text and numbers: nothing is resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z){_LABEL}(?:\.{_LABEL})*\.?\Z")
_MEMO_ENTRIES = 16_384  # more than the members of a large upstream


class Address(NamedTuple):
    """Where to listen or to connect: kind is `tcp`, `unix` or `fd`."""

    kind: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        """The form that people write and that labels show."""
        if self.kind != "tcp":
            return f"{self.kind}:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.kind != "tcp":
            return True
        return self.host == "localhost" or (is_ip(self.host) and ip_address(self.host).is_loopback)


@lru_cache(maxsize=65_536)  # ten thousand members are asked about several times for each change
def is_ip(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 literal, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_host_port(text: str, *, least: int = 1) -> Address:
    """Read `host:port` or `[v6]:port`.

    Args:
        text: as people write it.
        least: the lowest port allowed.

    Raises:
        ValueError: with what is wrong and what is expected, for a person.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} has no port; write host:port, or [v6]:port")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and least <= int(port) < 65536):
        raise ValueError(f"{text!r}: the port must be 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not is_ip(host) or ":" not in host:
            raise ValueError(f"{text!r}: between [ and ] stands an IPv6 address")
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, [{host}]:{port}")
    elif not is_ip(host) and (_NAME.match(host) is None or host.replace(".", "").isdigit()):
        raise ValueError(f"{text!r}: {host!r} is neither an address nor a host name")
    return Address("tcp", str(ip_address(host)) if is_ip(host) else host.lower(), int(port))


def parse_listen(text: str) -> Address:
    """Read a listener's address: `host:port`, `[v6]:port`, `unix:/path` or `fd:NAME`.

    Raises:
        ValueError: with what is wrong and what is expected, for a person.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix":
        if not rest.startswith("/") or len(rest.encode()) > 107:
            raise ValueError(f"{text!r}: write unix:/absolute/path, of at most 107 bytes")
        return Address("unix", rest)
    if kind == "fd":
        if not rest:
            raise ValueError(f"{text!r}: write fd:NAME, the socket's name in systemd")
        return Address("fd", rest)
    return parse_host_port(text, least=0)  # 0: the kernel chooses; for tests and tools


def unmapped(address: str) -> str:
    """An IP literal in its one form: IPv4-mapped IPv6 as IPv4, a zone or port left out.

    Returns:
        The normal form, or an empty string if `address` is no IP literal.
    """
    text = address.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


class Networks:
    """A set of CIDRs that answers `address in networks`; `unix` stands for peers on Unix sockets."""

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        """Args: cidrs: networks or single addresses, as text; `unix` is allowed.

        Raises:
            ValueError: if one is neither.
        """
        self.texts = tuple(cidrs)
        self._unix = "unix" in self.texts
        self._networks = [_network(text) for text in self.texts if text != "unix"]
        self._memo: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self.texts)

    def __contains__(self, address: object) -> bool:
        known = self._memo.get(address)  # type: ignore[call-overload]
        if known is None:
            known = self._holds(str(address))
            if len(self._memo) >= _MEMO_ENTRIES:
                self._memo.clear()
            self._memo[str(address)] = known
        return bool(known)

    def _holds(self, address: str) -> bool:
        if address == "unix":
            return self._unix
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)


def _network(cidr: str) -> IPv4Network | IPv6Network:
    network = ip_network(cidr, strict=False)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None:
        return network
    return IPv4Network((mapped, network.prefixlen - 96))


def client_of(peer: str, forwarded_for: str, trusted: Networks) -> str:
    """Who the client is, seen through trusted proxies.

    Steps left through the joined X-Forwarded-For while the current address is trusted; stops at
    the first untrusted, unreadable or leftmost one (as nginx's real_ip_recursive).

    Args:
        peer: the connection's own source address, or `unix`.
        forwarded_for: all X-Forwarded-For values joined with commas, maybe empty.
        trusted: whose word about others is believed.
    """
    current = unmapped(peer) or peer if ":" in peer else peer
    for hop in reversed(forwarded_for.split(",")) if forwarded_for else ():
        if current not in trusted:
            break
        address = unmapped(hop)
        if not address:
            break
        current = address
    return current
