"""A second reader of HTTP/1.1, as a server or client behind the gateway might be: tiny and strict.

It shares no line with gatewayd: bytes are looked at one at a time, without regular expressions and
without memory of earlier lines. What the gateway sends on must read here as the gateway read it; a
difference is what request smuggling is made of.
"""

from __future__ import annotations

from typing import NamedTuple

TCHAR = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
HEX = b"0123456789abcdef"


class Unreadable(Exception):
    """The bytes are not what the strictest reading of RFC 9112 allows."""


class Message(NamedTuple):
    """A message, read to its end."""

    first: tuple[bytes, bytes, bytes]  # of the first line
    fields: list[tuple[str, bytes]]  # names in lower case
    framing: str  # `none`, `length`, `chunked` or `close`
    body: bytes
    trailers: list[bytes]


def read_messages(data: bytes, methods: list[bytes] | None = None) -> list[Message]:
    """Read everything.

    Args:
        data: what the gateway sent on one connection.
        methods: of the requests that were answered, where these are responses; else requests.

    Raises:
        Unreadable: something is malformed, ambiguous or incomplete.
    """
    messages = []
    at = 0
    answered = 0
    while at < len(data):
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            raise Unreadable("a head without an end")
        first, fields = read_head(data[at:end], methods is not None)
        at = end + 4
        if methods is None:
            kind, size = framing_of(fields, "none")
        else:
            status = int(first[1])
            kind, size = framing_of(fields, "close")
            bodiless = status < 200 or status in (204, 304) or methods[answered] == b"HEAD"
            if bodiless:
                if status < 200 or status == 204:
                    _want(kind == "close", "a body's framing where no body can be")
                kind, size = "none", 0
            answered += status >= 200
        body, trailers, at = _read_body(data, at, kind, size)
        messages.append(Message(first, fields, kind, body, trailers))
    return messages


def read_head(
    block: bytes, response: bool
) -> tuple[tuple[bytes, bytes, bytes], list[tuple[str, bytes]]]:
    """Read a first line and field lines, without the blank line that ends them."""
    lines = block.split(b"\r\n")
    parts = lines[0].split(b" ", 2) if response else lines[0].split(b" ")
    _want(len(parts) == 3, "a first line that has not three parts")
    one, two, three = parts
    if response:
        _want(one == b"HTTP/1.1", "another version")
        _want(len(two) == 3 and all(0x30 <= c <= 0x39 for c in two) and two[0] > 0x30, "no status")
        _want(_is_value(three), "a bad reason")
    else:
        _want(three == b"HTTP/1.1", "another version")
        _want(bool(one) and all(c in TCHAR for c in one) and one != b"CONNECT", "a bad method")
        _want(all(0x21 <= c <= 0x7E and c != 0x23 for c in two), "a bad byte in the target")
        _want(two[:1] == b"/" or (one, two) == (b"OPTIONS", b"*"), "a target of another form")
    fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        _want(bool(colon) and bool(name) and all(c in TCHAR for c in name), "a bad field name")
        _want(_is_value(value), "a bad byte in a value")
        fields.append((name.lower().decode("ascii"), value.strip(b" \t")))
    return (one, two, three), fields


def framing_of(fields: list[tuple[str, bytes]], otherwise: str) -> tuple[str, int]:
    """What one reading alone is possible for, or Unreadable."""
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    _want(len(lengths) + len(codings) <= 1, "more than one framing")
    if codings:
        _want(codings == [b"chunked"], "a coding that is not chunked")
        return "chunked", 0
    if lengths:
        digits = lengths[0]
        _want(bool(digits) and all(0x30 <= c <= 0x39 for c in digits), "a length that is no number")
        _want(digits == b"0" or digits[0] != 0x30, "a length with leading zeros")
        _want(int(digits) < 2**63, "a length that nobody can mean")
        return "length", int(digits)
    return otherwise, 0


def doubts(block: bytes, response: bool) -> list[str]:
    """What the most careless of servers could read in another way in a head that came in.

    It ends lines at LF, folds lines, and looks through blanks, controls and case in names: if even so
    there is one framing and one Host, nobody can be made to see another.
    """
    first, *lines = block.replace(b"\r", b"").split(b"\n")
    found: dict[bytes, list[bytes]] = {b"content-length": [], b"transfer-encoding": [], b"host": []}
    for line in lines:
        name, _, value = line.partition(b":")
        name = bytes(c for c in name.lower() if 0x20 < c < 0x7F)
        if name in found:
            found[name].append(value)
    lengths, codings, hosts = found.values()
    modern = (first[:8] if response else first[-8:]) == b"HTTP/1.1"
    return [
        doubt
        for doubt, held in {
            "two framings": len(lengths) + len(codings) > 1,
            "a coding": any(value.strip().lower() != b"chunked" for value in codings),
            "a coding in HTTP/1.0": bool(codings) and not modern,
            "a length": any(not value.strip(b" \t").isdigit() for value in lengths),
            "hosts": not response and (len(hosts) > 1 or (modern and not hosts)),
        }.items()
        if held
    ]


def read_chunked(data: bytes, at: int) -> tuple[bytes, list[bytes], int]:
    """Read a chunked body without any extension, as the gateway writes it.

    Returns:
        (body, trailer lines, where the next message begins)
    """
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        digits = data[at:end].lower() if end >= 0 else b""
        _want(0 < len(digits) <= 16 and all(c in HEX for c in digits), "a bad chunk size")
        size = int(digits, 16)
        at = end + 2
        if size == 0:
            break
        _want(data[at + size : at + size + 2] == b"\r\n", "a chunk without an end")
        body += data[at : at + size]
        at += size + 2
    trailers: list[bytes] = []
    while True:
        end = data.find(b"\r\n", at)
        _want(end >= 0, "trailers without an end")
        line = data[at:end]
        at = end + 2
        if not line:
            return body, trailers, at
        name, colon, value = line.partition(b":")
        _want(bool(colon) and bool(name) and all(c in TCHAR for c in name), "a bad trailer name")
        _want(_is_value(value), "a bad byte in a trailer")
        trailers.append(line)


def _read_body(data: bytes, at: int, kind: str, size: int) -> tuple[bytes, list[bytes], int]:
    if kind == "chunked":
        return read_chunked(data, at)
    if kind == "close":
        return data[at:], [], len(data)
    _want(at + size <= len(data), "a body that ends early")
    return data[at : at + size], [], at + size


def _is_value(value: bytes) -> bool:
    return all(c == 0x09 or (c >= 0x20 and c != 0x7F) for c in value)


def _want(held: bool, otherwise: str) -> None:
    if not held:
        raise Unreadable(otherwise)
