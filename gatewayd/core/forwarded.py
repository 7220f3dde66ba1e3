"""The fields that tell an upstream whom it serves: X-Forwarded-*, X-Request-Id, Via.

What untrusted peers say of themselves is replaced; what trusted proxies say is believed and
appended to (decisions.md, The client's address).
"""

from __future__ import annotations

import re
from typing import Final

from gatewayd.core.addresses import Networks, client_of
from gatewayd.core.exchange import Exchange
from gatewayd.core.messages import name_of, value_of

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z").match


class RequestIds:
    """Ids unique to this process: a random prefix and a count (a uuid4 costs ten times as much)."""

    def __init__(self, prefix: bytes) -> None:
        """Args: prefix: random, of this process's own."""
        self._prefix = prefix
        self._count = 0

    def next(self) -> bytes:
        """A new id."""
        self._count += 1
        return b"%b-%x" % (self._prefix, self._count)


def introduce(exchange: Exchange, trusted: Networks, ids: RequestIds) -> bytes:
    """Settle who the client is, and say so to the upstream.

    Args:
        exchange: its client_ip, scheme and request_id are set.
        trusted: the listener's trusted_proxies.
        ids: for requests that bring none that is believed.

    Returns:
        The field lines for the upstream.
    """
    origin = exchange.origin
    head = exchange.head
    if not origin.trusted:
        exchange.client_ip = origin.peer
        exchange.scheme = origin.scheme
        exchange.request_id = request_id = ids.next()
        if not origin.forwarded:
            origin.forwarded = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (
                _node(origin.peer),
                origin.scheme.encode(),
            )
        if not head.authority:  # HTTP/1.0 may come without
            return b"%bX-Request-Id: %b\r\n" % (origin.forwarded, request_id)
        return b"%bX-Forwarded-Host: %b\r\nX-Request-Id: %b\r\n" % (
            origin.forwarded,
            head.authority,
            request_id,
        )
    return _introduce_trusted(exchange, trusted, ids)


def _introduce_trusted(exchange: Exchange, trusted: Networks, ids: RequestIds) -> bytes:
    origin = exchange.origin
    head = exchange.head
    hops: list[bytes] = []
    proto = origin.scheme.encode()
    host = head.authority
    others: list[bytes] = []
    for line in head.forwarded:
        name = name_of(line)
        value = value_of(line)
        if name == b"x-forwarded-for":
            hops.append(value)
        elif name == b"x-forwarded-proto":
            said = value.rpartition(b",")[2].strip().lower()
            # Rubbish must not uncover an earlier value, which a stranger may have sent.
            proto = said if said in (b"http", b"https") else origin.scheme.encode()
        elif name == b"x-forwarded-host":
            host = value.rpartition(b",")[2].strip() or head.authority
        elif b"_" not in name:
            others.append(line)
    joined = b", ".join(hops)
    exchange.client_ip = client_of(origin.peer, joined.decode("latin-1"), trusted)
    exchange.scheme = proto.decode()
    kept = head.request_id
    exchange.request_id = kept if kept and _REQUEST_ID(kept) is not None else ids.next()
    hops.append(_node(origin.peer))
    fields = [
        b"X-Forwarded-For: %b\r\n" % b", ".join(hop for hop in hops if hop),
        b"X-Forwarded-Proto: %b\r\n" % proto,
        b"X-Forwarded-Host: %b\r\n" % host if host else b"",
        *others,
        b"X-Request-Id: %b\r\n" % exchange.request_id,
    ]
    return b"".join(fields)


def _node(peer: str) -> bytes:
    """A peer as X-Forwarded-For writes it; a Unix socket's peer has no address (RFC 7239 §6.2)."""
    return b"unknown" if peer == "unix" else peer.encode()


def request_key(exchange: Exchange, source: str) -> bytes | None:
    """What consistent hashing goes by.

    Args:
        exchange: introduced.
        source: `client_ip`, `path`, `header:NAME` or `cookie:NAME`.

    Returns:
        The key, or None where the request has no such thing.
    """
    kind, _, name = source.partition(":")
    if kind == "client_ip":
        return exchange.client_ip.encode()
    if kind == "path":
        return exchange.head.path
    if kind == "header":
        return exchange.head.get(name.lower().encode())
    wanted = name.encode() + b"="
    for cookies in exchange.head.get_all(b"cookie"):
        for pair in cookies.split(b";"):
            if pair.strip().startswith(wanted):
                return pair.strip()[len(wanted) :]
    return None


class Via:
    """Our Via, both ways, and how we know it again (RFC 9110 §7.6.3)."""

    def __init__(self, pseudonym: bytes) -> None:
        """Args: pseudonym: `gatewayd-` and eight hex digits, one a daemon."""
        self.pseudonym = pseudonym
        self.line = b"Via: 1.1 %b\r\n" % pseudonym

    def is_in(self, lines: tuple[bytes, ...]) -> bool:
        """Whether the request has been here before."""
        return any(
            self.pseudonym in member.split()
            for line in lines
            for member in value_of(line).split(b",")
        )
