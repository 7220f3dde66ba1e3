"""Writing heads and chunks: the only place that joins lines."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus} | {
    508: b"Loop Detected"
}
LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def request_bytes(method: bytes, target: bytes, lines: list[bytes], added: bytes) -> bytes:
    """A request's head.

    Args:
        method: as the client sent it.
        target: path and query.
        lines: fields from the client.
        added: the gateway's own fields.
    """
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, b"".join(lines), added)


def response_bytes(status: int, reason: bytes, lines: list[bytes], added: bytes) -> bytes:
    """A response's head.

    Args:
        status, reason: of the status line.
        lines: fields from the endpoint.
        added: the gateway's own fields.
    """
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, reason, b"".join(lines), added)


def chunk(data: bytes) -> bytes:
    """One chunk (RFC 9112 §7.1); nothing for nothing, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def chunk_pieces(data: bytes) -> list[bytes]:
    """One chunk in pieces, so that a long one need not be copied."""
    return [b"%x\r\n" % len(data), data, b"\r\n"] if data else []


def last_chunk(trailers: Sequence[bytes]) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n%b\r\n" % b"".join(trailers) if trailers else LAST_CHUNK
