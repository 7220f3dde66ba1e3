"""Reading a request's head, strictly.

Where RFC 9112 lets a recipient be lenient and peers differ, the stricter reading is ours: whatever
two servers could read in two ways is refused, because we forward it to a second server.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Final

from gatewayd.core.addresses import is_ip
from gatewayd.core.errors import BadRequest, TooLarge
from gatewayd.core.messages import (
    CHUNKED,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    FORWARDED,
    HOST,
    KEEP,
    REFERER,
    REQUEST_ID,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    USER_AGENT,
    VIA,
    Host,
    RequestHead,
    request_kind,
    value_of,
    without_named,
)
from gatewayd.core.octets import only
from gatewayd.core.targets import PLAIN_PATH, normal_path, split_target
from gatewayd.http1.grammar import LONGEST_KNOWN, TOKEN, LineMemo, is_token

MAX_LINE: Final = 65536  # of the request line: nginx 8 KiB, HAProxy 16 KiB, Go 1 MiB
MAX_LENGTH: Final = 2**63 - 1  # nginx's off_t, Go's int64: nobody can mean more
MAX_CONNECTION: Final = 1024  # of all Connection values together: more costs us, and means nothing
_MAX_METHOD: Final = 64
_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")
)
_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))  # name no field
# An upgrade to HTTP/2 or TLS would carry requests past every rule of ours, whatever stands beside
# it in the list and whichever draft it names (h2c-14).
_PROTOCOL: Final = re.compile(
    rb"(?!(?i:h2|http|tls))" + TOKEN + rb"(?:/" + TOKEN + rb")?\Z"
).match  # RFC 9110 §7.8
_TRAILERS: Final = re.compile(rb"(?i:(?:.*,)?[ \t]*trailers[ \t]*(?:,|\Z))").match  # §10.1.4
_HOST: Final = re.compile(
    rb"([A-Za-z0-9\-._~]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{0,5}))?\Z"
).match  # RFC 3986 §3.2.2; escapes and sub-delims are in no host name that exists; DNS ends at 253
_HOSTS: Final = 16_384
_HOST_LINE: Final = 282  # bytes: the longest name and port, some blanks, and the end
_LENGTHS: Final = 4096
_LENGTH_LINE: Final = 66  # bytes

# A path of these, without empty segments and those that begin with a dot, is in its one form already
# (core.targets), so that nothing is left to normalise.
_PLAIN_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH"))
_PLAIN_QUERY: Final = only(byte for byte in range(0x21, 0x7F) if byte != ord("#"))
_SLASH: Final = 0x2F

_memo: Final = LineMemo(request_kind)
_known: Final = _memo.known
# What lines say that were read before. Looking a line up again costs little: it knows its hash.
_hosts: dict[bytes, Host] = {}
_lengths: dict[bytes, tuple[int, bytes]] = {}


class PathRules:
    """How a listener normalises paths."""

    def __init__(self, *, merge_slashes: bool = True, reject_slash: bool = False) -> None:
        """Args: merge_slashes: runs count as one. reject_slash: `%2F` is refused, not kept."""
        self.merge_slashes = merge_slashes
        self.reject_slash = reject_slash


def read_request(data: bytes, rules: PathRules, max_headers: int) -> RequestHead | None:
    """Read the head that data begins with.

    Args:
        data: from the request line on; one empty line before it is borne (RFC 9112 §2.2).
        rules: of the listener.
        max_headers: field lines allowed, 0 = any number.

    Returns:
        The head, None if its end has not come; hop-by-hop fields are gone from its lines, and of
        forwarded ones the caller decides.

    Raises:
        BadRequest: malformed or ambiguous; the connection must be closed.
        TooLarge: too many lines (431), or too long a first one (414).
    """
    lines = BytesIO(data)  # looks for the next LF as fast as memory is read
    line = lines.readline()
    if line == b"\r\n":
        line = lines.readline()
        if line == b"\r\n":
            raise BadRequest("empty lines instead of a request")
    if len(line) > MAX_LINE + 2:
        raise TooLarge(f"the request line is over {MAX_LINE} bytes", status=414)
    if line[-2:] != b"\r\n":
        if line[-1:] == b"\n":
            raise BadRequest("a bare LF as line end")
        return None
    kept: list[bytes] = []
    head = RequestHead(kept)
    _read_line(head, line[:-2], rules)
    host_line = b""
    asked: Host | None = None
    length = -1
    length_line = b""
    chunked = False
    upgrade = b""
    connection = b""
    known = _known
    hosts = _hosts
    for number, line in enumerate(lines):
        kind = known.get(line, -1) if len(line) <= LONGEST_KNOWN else -1
        if kind < 0 and not host_line:
            asked = hosts.get(line)  # so early that it comes from far memory while the rest is read
            if asked is not None:
                kind = HOST
        if kind < 0:
            if number > max_headers > 0:
                raise TooLarge(f"more than {max_headers} header fields", status=431)
            if line == b"\r\n":
                break
            kind = _memo.classify(line)
            if kind < 0:
                if line[-1:] != b"\n":
                    return None
                raise BadRequest("a malformed header field")
        if kind == KEEP:
            kept.append(line)
        elif kind == HOST:
            if host_line:
                raise BadRequest("more than one Host")
            host_line = line
            kept.append(line)
        elif kind == USER_AGENT:
            head.user_agent = line
            kept.append(line)
        elif kind == CONTENT_LENGTH:
            if length >= 0:
                raise BadRequest("more than one Content-Length")
            length, length_line = read_length(line)
            if length < 0:
                raise BadRequest("a Content-Length that is no number")
        elif kind == TRANSFER_ENCODING:
            if chunked:
                raise BadRequest("more than one Transfer-Encoding")
            _check_coding(value_of(line))
            chunked = True
        elif kind == CONNECTION:
            connection = connection + b"," + line[11:-2] if connection else line[11:-2]
            if len(connection) > MAX_CONNECTION:
                raise TooLarge(f"Connection is over {MAX_CONNECTION} bytes", status=431)
        elif kind == REFERER:
            head.referer = line
            kept.append(line)
        elif kind == VIA:
            head.via += (line,)
            kept.append(line)
        elif kind == FORWARDED:
            head.forwarded += (line,)
        elif kind == REQUEST_ID:
            head.request_id = value_of(line)
        elif kind == UPGRADE:
            upgrade = value_of(line) if len(line) <= MAX_CONNECTION else b""
        elif kind == TE:
            head.trailers = head.trailers or _TRAILERS(value_of(line)) is not None
        elif kind == EXPECT:
            if value_of(line).lower() != b"100-continue":
                raise BadRequest("an Expect other than 100-continue", status=417)
            head.expects = head.version == 11
        # and DROP, which goes no further
    else:
        return None
    head.size = lines.tell()
    if chunked:
        if length >= 0:
            raise BadRequest("Content-Length beside Transfer-Encoding")
        if head.version != 11:
            raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")
        head.length = CHUNKED
    elif length >= 0:
        head.length = length
        kept.append(length_line)
    _read_host(head, host_line, asked)
    if connection:
        _read_connection(head, connection, upgrade)
    elif head.version == 10:
        head.close = True
    return head


def check_beginning(held: bytes | bytearray, rules: PathRules) -> bool:
    """Judge an unfinished head by what there is of its request line, rather than wait for the rest.

    Args:
        held: what came so far, not empty.
        rules: of the listener.

    Returns:
        Whether the request line was there, and is good.

    Raises:
        BadRequest: it can be no request: HTTP/0.9, TLS, SSH, rubbish.
    """
    end = held.find(b"\r\n")
    if end >= 0:
        _read_line(RequestHead([]), bytes(held[:end]), rules)
        return True
    method = bytes(held[: _MAX_METHOD + 1]).partition(b" ")[0]
    method = method.rstrip(b"\r")
    if len(method) > _MAX_METHOD or (method and is_token(method) is None):
        raise BadRequest("this is no HTTP request")
    return False


def _read_line(head: RequestHead, line: bytes, rules: PathRules) -> None:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise BadRequest("a malformed request line")
    method, target, version = parts
    # Most lines are plain, which is soon told; all others go the long way.
    if version == b"HTTP/1.1" and method in _PLAIN_METHODS:
        path, mark, query = target.partition(b"?")
        if (
            path
            and path[0] == _SLASH
            and path.translate(PLAIN_PATH) == path
            and not path.partition(b"/.")[1]  # `in` asks first whether its left side is a number
            and not path.partition(b"//")[1]
            and query.translate(_PLAIN_QUERY) == query
        ):
            head.method = method
            head.path = path
            head.query = mark + query if mark else mark
            return
    if version == b"HTTP/1.0":
        head.version = 10
    elif version != b"HTTP/1.1":
        raise BadRequest("an HTTP version that is neither 1.1 nor 1.0")
    if method not in _METHODS:
        _check_method(method)
    authority, path, query = split_target(target)
    if path == b"*" and (method != b"OPTIONS" or query):
        raise BadRequest("the target * is for OPTIONS alone")
    head.method = method
    head.authority = authority
    head.path = normal_path(
        path, merge_slashes=rules.merge_slashes, reject_slash=rules.reject_slash
    )
    head.query = query


def _check_method(method: bytes) -> None:
    """Let pass any token but CONNECT and HTTP/2's PRI, in capitals or not: some servers fold case."""
    if is_token(method) is None or len(method) > _MAX_METHOD:
        raise BadRequest("a method that is no token")
    if method.upper() in (b"CONNECT", b"PRI"):
        raise BadRequest("a method that no gateway serves")


def read_length(line: bytes) -> tuple[int, bytes]:
    """Read a Content-Length line.

    Args:
        line: whose name has been looked at.

    Returns:
        The length in bytes, -1 if it is none (RFC 9110 §8.6: digits alone), and the line to send on, in
        one spelling: 010 is ten, but to those who read it as C does, eight.
    """
    found = _lengths.get(line)
    if found is None:
        value = value_of(line)
        if not value.isdigit() or len(value) > 19 or int(value) > MAX_LENGTH:
            return -1, line
        length = int(value)
        found = (length, b"Content-Length: %d\r\n" % length)
        if len(_lengths) >= _LENGTHS:
            _lengths.clear()
        if len(line) <= _LENGTH_LINE:
            _lengths[line] = found
    return found


def _check_coding(value: bytes) -> None:
    """Let pass exactly `chunked`; RFC 9112 §6.1 asks 501 for codings that we do not know."""
    if value.lower() == b"chunked":
        return
    if len(value) > MAX_CONNECTION:
        raise BadRequest("a malformed Transfer-Encoding")
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if b"identity" in codings or b"chunked" in codings[:-1]:
        raise BadRequest("chunked is not the last transfer coding")
    if all(is_token(coding) for coding in codings):
        raise BadRequest("a transfer coding that is not supported", status=501)
    raise BadRequest("a malformed Transfer-Encoding")


def _read_host(head: RequestHead, line: bytes, asked: Host | None) -> None:
    """RFC 9112 §3.2: exactly one Host; the absolute form wins over it and rewrites it.

    Args:
        head: to be completed.
        line: the Host line, or empty.
        asked: what is remembered of it, if that was looked up.
    """
    if not line:
        if head.version == 11:
            raise BadRequest("no Host")
        if not head.authority:
            return
    if not head.authority:
        head.authority = line[5:-2].strip(b" \t")
        if asked is None:
            asked = _hosts.get(line)
        head.asked = asked if asked is not None else _remember_host(line, head.authority)
        return
    if line:
        host_name(value_of(line))
        head.lines[head.lines.index(line)] = b"Host: %b\r\n" % head.authority
    else:
        head.lines.append(b"Host: %b\r\n" % head.authority)
    head.asked = Host(host_name(head.authority))


def forget_hosts() -> None:
    """The tables of routes that knew them are no more."""
    _hosts.clear()


def _remember_host(line: bytes, authority: bytes) -> Host:
    host = Host(host_name(authority))
    if len(_hosts) >= _HOSTS:
        _hosts.clear()
    if len(line) <= _HOST_LINE:
        _hosts[line] = host
    return host


def host_name(authority: bytes) -> str:
    """The host of an authority: lower case, without port and trailing dot.

    Raises:
        BadRequest: it is no host and port.
    """
    match = _HOST(authority)
    if match is None or int(match.group(2) or 0) > 65535:
        raise BadRequest("a malformed Host")
    name: str = match.group(1).decode("ascii").lower().removesuffix(".")
    if name[0:1] == "[":
        if ":" not in name or not is_ip(name[1:-1]):
            raise BadRequest("a Host in brackets that is no IPv6 address")
    elif "" in name.split("."):
        raise BadRequest("a Host with an empty label")
    return name


def _read_connection(head: RequestHead, value: bytes, upgrade: bytes) -> None:
    """What Connection says of this connection, and the fields that it names away.

    Those that tell who the client is (head.forwarded) are for us: whoever gets a proxy of ours to pass
    on `Connection: X-Forwarded-For` must not look like that proxy.
    """
    named = [token.strip(b" \t") for token in value.lower().split(b",")]
    head.close = b"close" in named or (head.version == 10 and b"keep-alive" not in named)
    head.keep_alive = head.version == 10 and not head.close
    # With a body there is no telling where the new protocol begins (RFC 9110 §7.8).
    if b"upgrade" in named and head.version == 11 and head.length == 0:
        protocols = [protocol.strip(b" \t") for protocol in upgrade.split(b",")]
        head.upgrade = b", ".join(protocol for protocol in protocols if _PROTOCOL(protocol))
    beyond = frozenset(named) - _OPTIONS
    if beyond:
        if not all(is_token(token) for token in beyond):
            raise BadRequest("a malformed Connection")
        head.lines = without_named(head.lines, beyond)
