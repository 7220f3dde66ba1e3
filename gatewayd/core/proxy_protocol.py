"""The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt, 2020).

Where a listener expects it, a connection must begin with it; it is never guessed, since a client
could then name any address as its own.
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from gatewayd.core.addresses import unmapped
from gatewayd.core.errors import BadRequest

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V1: Final = re.compile(rb"PROXY (TCP4|TCP6) (\S+) (\S+) (\d{1,5}) (\d{1,5})\Z").match
_V1_BYTES: Final = 107
_V2_BYTES: Final = 4096  # the address block with its TLVs; HAProxy's buffer holds about as much


class Proxied(NamedTuple):
    """What the header said; source and port are empty for a proxy's own checks (LOCAL, UNKNOWN)."""

    source: str
    port: int
    used: int  # bytes


def read_proxy_header(data: bytes) -> Proxied | None:
    """Read the header at the beginning of a connection.

    Args:
        data: what came so far.

    Returns:
        What it says, or None while it is incomplete.

    Raises:
        BadRequest: it is no PROXY header.
    """
    if data[:12] == _SIGNATURE[: len(data)]:
        return _read_v2(data) if len(data) >= 16 else None
    if data[:6] == b"PROXY "[: len(data)]:
        return _read_v1(data)
    raise BadRequest("the connection does not begin with a PROXY header")


def _read_v1(data: bytes) -> Proxied | None:
    end = data.find(b"\r\n", 0, _V1_BYTES)
    if end < 0:
        if len(data) >= _V1_BYTES:
            raise BadRequest("a PROXY line without an end")
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return Proxied("", 0, end + 2)
    match = _V1(line)
    if match is None:
        raise BadRequest("a malformed PROXY line")
    try:
        source = ip_address(match.group(2).decode("ascii"))
        target = ip_address(match.group(3).decode("ascii"))
    except ValueError as error:
        raise BadRequest("a PROXY line with a bad address") from error
    port = int(match.group(5))
    version = 4 if match.group(1) == b"TCP4" else 6
    if {source.version, target.version} != {version} or max(port, int(match.group(4))) > 65535:
        raise BadRequest("a PROXY line with an address of the other family, or a bad port")
    return Proxied(unmapped(str(source)), port, end + 2)


def _read_v2(data: bytes) -> Proxied | None:
    version, family, size = struct.unpack_from("!BBH", data, 12)
    if version not in (0x20, 0x21) or size > _V2_BYTES:
        raise BadRequest("a malformed PROXY version 2 header")
    if len(data) < 16 + size:
        return None
    used = 16 + size
    if version == 0x20:
        return Proxied("", 0, used)
    block = data[16:used]
    if family == 0x11 and size >= 12:
        return Proxied(str(IPv4Address(block[:4])), struct.unpack_from("!H", block, 10)[0], used)
    if family == 0x21 and size >= 36:
        source = unmapped(str(IPv6Address(block[:16])))
        return Proxied(source, struct.unpack_from("!H", block, 34)[0], used)
    if family in (0x11, 0x21):
        raise BadRequest("a PROXY version 2 header too short for its addresses")
    return Proxied("", 0, used)
