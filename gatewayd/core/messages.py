"""The form of a head, from the socket to the access log; HTTP/2 will fill the same one.

A head is an ordered list of raw field lines with their CRLF, kept as the sender wrote them, beside the
few facts that the gateway acts on. Values are looked for only when somebody asks (`Head.get`). What a
field means to a proxy, its kind, depends on its name alone and is decided once per name, here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# Kinds of request and response fields. Small ones go on to the other side as they came.
KEEP: Final = 0
HOST: Final = 1
USER_AGENT: Final = 2
REFERER: Final = 3
VIA: Final = 4
DATE: Final = 5
LAST_KEPT: Final = 5
DROP: Final = 6
CONTENT_LENGTH: Final = 7
TRANSFER_ENCODING: Final = 8
CONNECTION: Final = 9
TE: Final = 10
UPGRADE: Final = 11
EXPECT: Final = 12
FORWARDED: Final = 13
REQUEST_ID: Final = 14
KEEP_ALIVE: Final = 15

# RFC 9110 §7.6.1 and the fields that RFC 2616 §13.5.1 counted; `Proxy` is the httpoxy attack.
HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    )
)
FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"host"))

_SHARED = {
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"via": VIA,
}
REQUEST_KINDS: Final = {
    **_SHARED,
    b"host": HOST,
    b"user-agent": USER_AGENT,
    b"referer": REFERER,
    b"keep-alive": DROP,
    b"proxy": DROP,
    b"http2-settings": DROP,
    b"te": TE,
    b"expect": EXPECT,
    b"x-request-id": REQUEST_ID,
    b"x-real-ip": FORWARDED,
    b"forwarded": FORWARDED,
}
RESPONSE_KINDS: Final = {
    **_SHARED,
    b"date": DATE,
    b"keep-alive": KEEP_ALIVE,
    b"x-request-id": DROP,
    b"te": DROP,
}


def request_kind(name: bytes) -> int:
    """The kind of a request field; `name` in lower case.

    Underscore spellings of fields that matter are dropped: many servers behind us read
    `Content_Length` as `Content-Length` (nginx drops all names with underscores).
    """
    kind = REQUEST_KINDS.get(name, KEEP)
    if kind == KEEP:
        if name.startswith(b"x-forwarded-"):
            return FORWARDED
        if b"_" in name and request_kind(name.replace(b"_", b"-")) != KEEP:
            return DROP
    return kind


def response_kind(name: bytes) -> int:
    """The kind of a response field; `name` in lower case."""
    return RESPONSE_KINDS.get(name, KEEP)


_AROUND: Final = b" \t\r\n"  # a value: blanks, and its line's end


def name_of(line: bytes) -> bytes:
    """A field line's name in lower case."""
    return line[: line.index(b":")].lower()


def value_of(line: bytes) -> bytes:
    """A field line's value without the blanks around it."""
    return line[line.index(b":") + 1 :].strip(_AROUND)


class Head:
    """Field lines of a request or a response, in order."""

    size: int = 0  # bytes that it came in

    def __init__(self, lines: list[bytes]) -> None:
        """Args: lines: raw `Name: value` lines with CRLF, hop-by-hop fields already left out."""
        self.lines = lines

    def get_all(self, name: bytes) -> list[bytes]:
        """All values of a field in order.

        Args:
            name: in lower case.
        """
        size = len(name)
        return [
            line[size + 1 :].strip(_AROUND)
            for line in self.lines
            if line[size : size + 1] == b":" and line[:size].lower() == name
        ]

    def get(self, name: bytes) -> bytes | None:
        """All values of a field joined with `, ` (RFC 9110 §5.3), or None."""
        values = self.get_all(name)
        return b", ".join(values) if values else None


class Host:
    """A host name that is asked for, with what the table of routes that looked it up last found.

    Reading remembers it by the Host line, so that the next request for it finds name and route at one
    place: among thousands of hosts memory is cold.
    """

    __slots__ = ("name", "route", "table")

    def __init__(self, name: str) -> None:
        """Args: name: lower case, without port and trailing dot."""
        self.table: Any = None
        self.route: Any = None
        self.name = name


_NO_HOST: Final = Host("")


class RequestHead(Head):
    """A request as the gateway understood it."""

    asked: Host = _NO_HOST  # for: what routes match
    method: bytes = b"GET"
    path: bytes = b"/"  # in its one form (core.targets)
    query: bytes = b""  # with its ?, untouched
    version: int = 11  # 10 or 11
    authority: bytes = b""  # as sent: what goes on in Host
    length: int = 0  # of the body in bytes; CHUNKED if it says so as it goes
    close: bool = False  # the client wants no further request on this connection
    keep_alive: bool = False  # an HTTP/1.0 client asked for it
    upgrade: bytes = b""  # the protocol asked for, e.g. websocket
    expects: bool = False  # Expect: 100-continue
    trailers: bool = False  # TE: trailers
    forwarded: tuple[bytes, ...] = ()  # X-Forwarded-*, X-Real-IP, Forwarded: believed from some
    request_id: bytes = b""  # as the client sent it
    user_agent: bytes = b""  # the whole line
    referer: bytes = b""  # the whole line
    via: tuple[bytes, ...] = ()  # the whole lines

    @property
    def host(self) -> str:
        """The name that is asked for: lower case, without port and trailing dot."""
        return self.asked.name


class ResponseHead(Head):
    """A response as the gateway understood it."""

    status: int = 200
    reason: bytes = b"OK"
    version: int = 11
    length: int = -2  # of the body in bytes; CHUNKED, or UNTIL_CLOSE
    close: bool = False  # the connection ends with this response
    idle_timeout: int = 0  # seconds the endpoint promises to keep an idle connection, 0 = unsaid
    upgrade: bytes = b""
    dated: bool = False  # it has a Date


CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2


class Edits:
    """Header edits of a route, in the order remove, set, add."""

    def __init__(
        self,
        *,
        set: Iterable[tuple[str, str]] = (),
        add: Iterable[tuple[str, str]] = (),
        remove: Iterable[str] = (),
    ) -> None:
        """Args: set: replaces all of that name. add: one more. remove: names."""
        replaced = list(set)
        self.removed = frozenset(name.lower().encode("latin-1") for name in remove) | frozenset(
            name.lower().encode("latin-1") for name, _ in replaced
        )
        self.added = [f"{name}: {value}\r\n".encode() for name, value in [*replaced, *add]]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)

    def apply(self, lines: list[bytes]) -> list[bytes]:
        """The edited lines; `lines` itself stays as it is."""
        removed = self.removed
        kept = [line for line in lines if name_of(line) not in removed] if removed else lines
        return kept + self.added


def without_named(lines: list[bytes], named: Iterable[bytes]) -> list[bytes]:
    """Leave out the fields that a Connection field names (RFC 9110 §7.6.1).

    Args:
        lines: of a head.
        named: in lower case; Host and what frames the message cannot be named away.
    """
    dropped = frozenset(named) - FRAMING
    return [line for line in lines if name_of(line) not in dropped]
