"""Reading a response's head: what an endpoint sends is no more trusted than what a client sends."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Final

from gatewayd.core.errors import BadResponse
from gatewayd.core.messages import (
    CHUNKED,
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    KEEP,
    KEEP_ALIVE,
    LAST_KEPT,
    TRANSFER_ENCODING,
    UNTIL_CLOSE,
    UPGRADE,
    ResponseHead,
    name_of,
    response_kind,
    value_of,
    without_named,
)
from gatewayd.http1.grammar import LONGEST_KNOWN, LineMemo, is_token
from gatewayd.http1.requests import MAX_CONNECTION, read_length

_STATUS: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n\Z"
).match  # RFC 9112 §4; the blank before an empty reason is left out by enough servers to bear it
_TIMEOUT: Final = re.compile(rb"(?:.*[\s,])?timeout=(\d{1,6})").match
_STATUSES: Final = 256
_STATUS_LINE: Final = 66  # bytes
_MAX_FIELDS: Final = 1024
_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b""))  # name no field

_KEEPS_ALIVE: Final = frozenset(
    (b"Connection: keep-alive\r\n", b"Connection: Keep-Alive\r\n", b"connection: keep-alive\r\n")
)

_memo: Final = LineMemo(response_kind)
_known: Final = _memo.known
_statuses: dict[bytes, tuple[int, int, bytes]] = {}


def read_response(data: bytes, method: bytes) -> ResponseHead | None:
    """Read the head that data begins with.

    Args:
        data: from the status line on.
        method: of the request, which decides whether there is a body (RFC 9112 §6.3).

    Returns:
        The head, None if its end has not come; hop-by-hop fields are gone from its lines.

    Raises:
        BadResponse: malformed or ambiguous; nothing more can be read from this connection.
    """
    lines = BytesIO(data)
    line = lines.readline()
    if line[-1:] != b"\n":
        return None
    kept: list[bytes] = []
    head = ResponseHead(kept)
    status, version, reason = _statuses.get(line) or _read_status(line)
    head.status = status
    head.reason = reason
    length = -1
    chunked = False
    connection = b""
    known = _known
    for number, line in enumerate(lines):
        kind = known.get(line, -1) if len(line) <= LONGEST_KNOWN else -1
        if kind < 0:
            if number > _MAX_FIELDS:
                raise BadResponse(f"more than {_MAX_FIELDS} header fields")
            if line == b"\r\n":
                break
            kind = _memo.classify(line)
            if kind < 0:
                if line[-1:] != b"\n":
                    return None
                raise BadResponse("a malformed header field")
        if kind == KEEP:
            kept.append(line)
        elif kind == CONTENT_LENGTH:
            if length >= 0:
                raise BadResponse("more than one Content-Length")
            length, line = read_length(line)
            if length < 0:
                raise BadResponse("a Content-Length that is no number")
            kept.append(line)
        elif kind <= LAST_KEPT:
            if kind == DATE:
                head.dated = True
            kept.append(line)
        elif kind == TRANSFER_ENCODING:
            if chunked or value_of(line).lower() != b"chunked" or version != 11:
                raise BadResponse("a transfer coding other than chunked")
            chunked = True
        elif kind == CONNECTION:
            if line in _KEEPS_ALIVE and version == 11:
                continue
            connection = connection + b"," + line[11:-2] if connection else line[11:-2]
            if len(connection) > MAX_CONNECTION:
                raise BadResponse(f"Connection is over {MAX_CONNECTION} bytes")
        elif kind == KEEP_ALIVE:
            promised = _TIMEOUT(value_of(line).lower())
            if promised is not None:
                head.idle_timeout = int(promised.group(1))
        elif kind == UPGRADE:
            head.upgrade = value_of(line)
    else:
        return None
    head.size = lines.tell()
    if chunked and length >= 0:
        raise BadResponse("Content-Length beside Transfer-Encoding")
    if version != 11:
        head.version = version
        head.close = True
    if connection:
        _read_connection(head, connection)
    if status < 200 or status == 204:
        head.length = 0
        if chunked or length >= 0:
            _unframe(head, chunked or length > 0)
    elif status == 304 or method == b"HEAD":
        head.length = 0
    elif chunked:
        head.length = CHUNKED
    elif length >= 0:
        head.length = length
    else:
        head.length = UNTIL_CLOSE
        head.close = True
    return head


def _unframe(head: ResponseHead, announced: bool) -> None:
    """Take the framing from a 1xx or 204: sent on, it would make the client wait for a body.

    RFC 9110 §8.6 and RFC 9112 §6.1 forbid it there. Where it announces bytes, some server thinks that
    they follow: they must not be taken for the next response.
    """
    if announced:
        if head.status < 200:
            raise BadResponse("a body announced by a 1xx")
        head.close = True
    head.lines = [line for line in head.lines if name_of(line) != b"content-length"]


def _read_status(line: bytes) -> tuple[int, int, bytes]:
    match = _STATUS(line)
    if match is None:
        raise BadResponse("a malformed status line")
    parsed = (int(match.group(2)), 11 if match.group(1) == b"1" else 10, match.group(3) or b"")
    if len(_statuses) >= _STATUSES:
        _statuses.clear()
    if len(line) <= _STATUS_LINE:
        _statuses[line] = parsed
    return parsed


def _read_connection(head: ResponseHead, value: bytes) -> None:
    named = [token.strip(b" \t") for token in value.lower().split(b",")]
    if b"close" in named:
        head.close = True
    elif b"keep-alive" in named:
        head.close = False
    beyond = frozenset(named) - _OPTIONS
    if beyond:
        if not all(is_token(token) for token in beyond):
            raise BadResponse("a malformed Connection")
        head.lines = without_named(head.lines, beyond)
        head.dated = head.dated and b"date" not in beyond
