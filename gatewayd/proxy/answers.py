"""The answers that the gateway makes itself."""

from __future__ import annotations

import json
import re

from gatewayd.core.errors import (
    CapacityFault,
    ClientFault,
    GatewayError,
    NoMethod,
    RateLimited,
    RoutingFault,
)
from gatewayd.core.exchange import Exchange
from gatewayd.core.messages import ResponseHead
from gatewayd.http1.serialising import REASONS

_NEVER = re.compile(rb"(?:^|;)\s*q=0(?:\.0*)?\s*(?:;|\Z)").search


def error_answer(exchange: Exchange, error: GatewayError) -> tuple[ResponseHead, bytes]:
    """What a client is told of an error: its own faults in words, an upstream's only by name.

    Args:
        exchange: its request may accept JSON (RFC 9457).
        error: what happened.
    """
    status = error.answer_status
    phrase = REASONS.get(status, b"Error").decode()
    detail = error.detail if isinstance(error, ClientFault | RoutingFault) else ""
    if _accepts_json(exchange.head.get(b"accept") or b""):
        problem = {
            "type": "about:blank",
            "title": phrase,
            "status": status,
            "reason": error.reason,
            "request_id": exchange.request_id.decode(),
        }
        if detail:
            problem["detail"] = detail
        kind, body = b"application/problem+json", json.dumps(problem).encode() + b"\n"
    else:
        text = f"{status} {phrase}: {detail or error.reason}\n"
        kind, body = b"text/plain; charset=utf-8", text.encode()
    fields = []
    if isinstance(error, NoMethod):
        fields.append(b"Allow: %b\r\n" % ", ".join(error.allowed).encode())
    if isinstance(error, CapacityFault | RateLimited):
        fields.append(b"Retry-After: %d\r\n" % error.retry_after)
    if isinstance(error, RateLimited):
        fields += error.fields
    return own_answer(exchange, status, kind, body, fields)


def _accepts_json(accept: bytes) -> bool:
    """Whether a client asks for JSON by name (RFC 9110 §12.5.1)."""
    for member in accept.lower().split(b","):
        kind, _, parameters = member.partition(b";")
        if kind.strip() in (b"application/json", b"application/problem+json"):
            return _NEVER(parameters) is None
    return False


def own_answer(
    exchange: Exchange, status: int, kind: bytes, body: bytes, fields: list[bytes]
) -> tuple[ResponseHead, bytes]:
    """A complete response.

    Args:
        exchange: whose request a HEAD may be.
        status: its code.
        kind: the Content-Type, empty for none.
        body: what a GET sees.
        fields: further lines.
    """
    lines = list(fields)
    if kind and body:
        lines.append(b"Content-Type: %b\r\n" % kind)
    if status not in (204, 304):
        lines.append(b"Content-Length: %d\r\n" % len(body))
    head = ResponseHead(lines)
    head.status = status
    head.reason = REASONS.get(status, b"")
    if exchange.head.method == b"HEAD" or status in (204, 304):
        body = b""
    head.length = len(body)
    return head, body
