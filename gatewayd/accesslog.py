"""The access log's lines: what is written of an exchange when it is over.

Compiled with the hot rooms, for every request passes here. Lines go to a LineWriter in batches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from time import gmtime, strftime
from typing import Final

from gatewayd.core.exchange import Exchange
from gatewayd.core.messages import value_of
from gatewayd.core.octets import only

_SAID: Final = 4096
_EVEN: Final = only(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')
_ODD_BYTE: Final = re.compile(rb"[\x00-\x1f\"\\\x7f-\xff]")
# Most times are below 0.1 s.
_SHORT: Final = [b"%.4f" % (number / 10_000) for number in range(1000)]


def escaped(value: bytes) -> bytes:
    """A value for a quoted field: control bytes, quotes, backslashes and non-ASCII as \\xNN."""
    if value.translate(_EVEN) == value:
        return value
    return _ODD_BYTE.sub(lambda match: b"\\x%02x" % match.group()[0], value)


def _seconds(value: float) -> bytes:
    """A time with four places; formatting a float is dear."""
    tenths = int(value * 10_000 + 0.5)
    return _SHORT[tenths] if 0 <= tenths < 1000 else b"%.4f" % value


class AccessLog:
    """Formats finished exchanges; `combined` or `json`."""

    def __init__(
        self, write: Callable[[bytes, int], None], *, form: str, omit: Iterable[str], offset: float
    ) -> None:
        """Args:
        write: takes whole lines, and how many they are.
        form: `combined` or `json`.
        omit: query, user_agent, referer, client_ip are left out if named.
        offset: what an exchange's clock lacks to seconds since 1970.
        """
        self._write = write
        self._omit = frozenset(omit)
        self._as_json = form == "json"
        self._offset = offset
        self._second = -1
        self._stamp = b""
        self._said: dict[bytes, bytes] = {}  # by User-Agent and Referer lines
        self._combined_omit = bool(self._omit)

    def __call__(self, batch: list[Exchange]) -> None:
        """Write a line for each."""
        if self._as_json:
            lines = [self._json(exchange) for exchange in batch]
        else:
            lines = [self._combined(exchange) for exchange in batch]
        self._write(b"".join(lines), len(batch))

    def _combined(self, exchange: Exchange) -> bytes:
        head = exchange.head
        second = int(exchange.started + self._offset)
        if second != self._second:
            self._second = second
            self._stamp = strftime("%d/%b/%Y:%H:%M:%S +0000", gmtime(second)).encode()
        agent = self._said.get(head.user_agent)
        if agent is None:
            agent = self._remember(head.user_agent)
        referer = self._said.get(head.referer)
        if referer is None:
            referer = self._remember(head.referer)
        query = head.query
        client = exchange.client_ip
        if self._combined_omit:
            query, referer, agent, client = self._without(query, referer, agent, client)
        if query.translate(_EVEN) != query:
            query = escaped(query)
        endpoint = exchange.endpoint
        headed = exchange.headed
        return (
            b'%b - - [%b] "%b %b%b HTTP/1.%d" %d %d "%b" "%b" %b endpoint=%b reason=%b t_head=%b '
            b"t_total=%b t_queue=%b t_connect=%b tries=%d bytes_in=%d request_id=%b\n"
        ) % (
            client.encode(),
            self._stamp,
            head.method,
            head.path,
            query,
            head.version - 10,
            exchange.status,
            exchange.bytes_out,
            referer,
            agent,
            exchange.place,
            endpoint.logged if endpoint is not None else b"-",
            exchange.reason.encode() if exchange.reason else b"-",
            _seconds(headed - exchange.started) if headed else _SHORT[0],
            _seconds(exchange.ended - exchange.started),
            _seconds(exchange.queued),
            _seconds(exchange.dialled),
            exchange.tries,
            exchange.bytes_in,
            exchange.request_id,
        )

    def _remember(self, line: bytes) -> bytes:
        said = escaped(value_of(line)) if line else b"-"
        if len(self._said) >= _SAID:
            self._said.clear()
        if len(line) < 512:
            self._said[line] = said
        return said

    def _without(
        self, query: bytes, referer: bytes, agent: bytes, client: str
    ) -> tuple[bytes, bytes, bytes, str]:
        omit = self._omit
        return (
            b"" if "query" in omit else query,
            b"-" if "referer" in omit else referer,
            b"-" if "user_agent" in omit else agent,
            "-" if "client_ip" in omit else client,
        )

    def _json(self, exchange: Exchange) -> bytes:
        head = exchange.head
        endpoint = exchange.endpoint
        moment = datetime.fromtimestamp(exchange.started + self._offset, UTC)
        agent = value_of(head.user_agent) if head.user_agent else b""
        referer = value_of(head.referer) if head.referer else b""
        fields = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": exchange.request_id.decode("latin-1"),
            "listener": exchange.origin.listener,
            "client_ip": exchange.client_ip,
            "peer_ip": exchange.origin.peer,
            "method": head.method.decode("latin-1"),
            "host": head.host,
            "path": head.path.decode("latin-1"),
            "query": head.query.decode("latin-1"),
            "protocol": "HTTP/1.1" if head.version == 11 else "HTTP/1.0",
            "status": exchange.status,
            "reason": exchange.reason,
            "route": exchange.route_name,
            "upstream": exchange.upstream_name,
            "endpoint": endpoint.label if endpoint is not None else "-",
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "t_head": round(exchange.headed - exchange.started, 6) if exchange.headed else 0.0,
            "t_total": round(exchange.ended - exchange.started, 6),
            "t_queue": round(exchange.queued, 6),
            "t_connect": round(exchange.dialled, 6),
            "tries": exchange.tries,
            "user_agent": agent.decode("utf-8", "backslashreplace"),
            "referer": referer.decode("utf-8", "backslashreplace"),
            "traceparent": (head.get(b"traceparent") or b"").decode("latin-1"),
        }
        for name in self._omit:
            del fields[name]
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
