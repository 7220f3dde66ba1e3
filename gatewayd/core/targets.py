"""Request targets and paths, normalised once: what is matched is what is forwarded.

Routing on one reading of a path and forwarding another is how access rules are walked around, so
there is one normal form (RFC 3986 §6.2.2): unreserved escapes decoded, hex in upper case, dot
segments resolved, slashes merged. `%2F` stays `%2F` and never splits. A segment ends at `/`, `;`
or the end, so `/a/..;x/b` is `/b` here as it is for a servlet container behind us.
"""

from __future__ import annotations

from itertools import product
from typing import Final

from gatewayd.core.errors import BadRequest
from gatewayd.core.octets import only

_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_PATH_BYTES: Final = frozenset(_UNRESERVED + b"!$&'()*+,=:@/;%")
_PATH: Final = only(_PATH_BYTES)
PLAIN_PATH: Final = only(_PATH_BYTES - frozenset(b"%"))
_TARGET: Final = only(byte for byte in range(0x21, 0x7F) if byte != ord("#"))


def _escapes() -> dict[bytes, bytes]:
    """What each two hex digits behind a `%` mean; empty for those that nobody may mean."""
    meant: dict[bytes, bytes] = {}
    for digits in product(b"0123456789abcdefABCDEF", repeat=2):
        byte = int(bytes(digits), 16)
        plain = bytes((byte,)) if byte in _UNRESERVED else b"%%%02X" % byte
        meant[bytes(digits)] = b"" if byte in (0x00, 0x5C) else plain
    return meant


_ESCAPES: Final = _escapes()


def split_target(target: bytes) -> tuple[bytes, bytes, bytes]:
    """Take a request target apart (RFC 9112 §3.2).

    Args:
        target: as it stood in the request line.

    Returns:
        (authority, path, query): authority empty but for the absolute form; query with its `?`,
        untouched, or empty. Asterisk form gives the path `*`.

    Raises:
        BadRequest: any other form, `#`, controls or raw non-ASCII.
    """
    if target.translate(_TARGET) != target:
        raise BadRequest("the target holds a byte that no URI may hold")
    path, mark, query = target.partition(b"?")
    query = mark + query
    if path[:1] == b"/" or target == b"*":
        return b"", path, query
    scheme, _, rest = path.partition(b"://")
    if scheme.lower() not in (b"http", b"https") or not rest:
        raise BadRequest("the target is neither a path nor an absolute http URI")
    authority, slash, below = rest.partition(b"/")
    if not authority:
        raise BadRequest("an absolute http URI without a host")  # RFC 9110 §4.2.1
    return authority, slash + below or b"/", query


def normal_path(path: bytes, *, merge_slashes: bool = True, reject_slash: bool = False) -> bytes:
    """Bring a path to its one form.

    Args:
        path: begins with `/`, or is `*`.
        merge_slashes: runs of slashes count as one.
        reject_slash: refuse `%2F` rather than keep it.

    Raises:
        BadRequest: a bad escape, `%00`, a backslash raw or escaped, or a way above the root.
    """
    if path == b"*":
        return path
    pieces = path.split(b"%")
    if len(pieces) > 1:
        path = _unescaped(pieces)
        if reject_slash and b"%2F" in path:
            raise BadRequest("an encoded slash in the path")
    if path.translate(_PATH) != path:
        path = _escaped(path)
    if merge_slashes:
        while path.partition(b"//")[1]:  # `in` asks first whether its left side is a number
            path = path.replace(b"//", b"/")
    if path.partition(b"/.")[1]:
        path = _without_dots(path)
    return path


def _unescaped(pieces: list[bytes]) -> bytes:
    """Decode what needs no escape, and write hex in upper case."""
    for index in range(1, len(pieces)):
        piece = pieces[index]
        meant = _ESCAPES.get(piece[:2])
        if meant is None:
            raise BadRequest("a bad escape in the path")
        if not meant:
            raise BadRequest("an escaped NUL or backslash in the path")
        pieces[index] = meant + piece[2:]
    return b"".join(pieces)


def _escaped(path: bytes) -> bytes:
    """Write as escapes what no path may hold raw."""
    if b"\\" in path or b"\0" in path:
        raise BadRequest("a backslash or a NUL in the path")
    return b"".join(bytes((c,)) if c in _PATH_BYTES else b"%%%02X" % c for c in path)


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 §5.2.4, but that going above the root is refused and parameters of dots are dropped."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    name = b""
    for segment in segments:
        name = segment if segment[:1] != b"." else segment.partition(b";")[0]
        if name == b"..":
            if not kept:
                raise BadRequest("the path leads above the root")
            kept.pop()
        elif name != b".":
            kept.append(segment)
    if name == b"." or name == b"..":
        kept.append(b"")
    return b"/" + b"/".join(kept)
