"""Heads for tests, written without their line ends."""

from __future__ import annotations

from collections.abc import Iterable

from gatewayd.core.errors import BadRequest, BadResponse
from gatewayd.core.messages import RequestHead, ResponseHead
from gatewayd.http1.requests import PathRules, read_request
from gatewayd.http1.responses import read_response


def request_of(block: bytes, rules: PathRules | None = None, max_headers: int = 0) -> RequestHead:
    """A request's head, of a block that lacks the blank line."""
    data = block + b"\r\n\r\n"
    head = read_request(data, rules or PathRules(), max_headers)
    if head is None or head.size != len(data):
        raise BadRequest("an empty line among the fields")
    return head


def response_of(block: bytes, method: bytes) -> ResponseHead:
    """The same of a response."""
    data = block + b"\r\n\r\n"
    head = read_response(data, method)
    if head is None or head.size != len(data):
        raise BadResponse("an empty line among the fields")
    return head


def bare(lines: Iterable[bytes]) -> list[bytes]:
    """Lines without their ends, which all of them have."""
    assert all(line.endswith(b"\r\n") for line in lines), lines
    return [line[:-2] for line in lines]


def ended(lines: Iterable[bytes]) -> list[bytes]:
    """Lines with their ends."""
    return [line + b"\r\n" for line in lines]
