"""Request targets and paths, normalised once: what is matched is what is forwarded.

Routing on one reading of a path and forwarding another is how access rules are walked around, so
there is one normal form (RFC 3986 §6.2.2): unreserved escapes decoded, hex in upper case, dot
segments resolved, slashes merged. `%2F` stays `%2F` and never splits. A segment ends at `/`, `;`
or the end, so `/a/..;x/b` is `/b` here as it is for a servlet container behind us.
"""

from __future__ import annotations

import re

from gatewayd.core.errors import BadRequest

_PLAIN = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,=:@/;]*\Z").match
_VISIBLE = re.compile(rb"[\x21-\x7e]*\Z").match
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH_BYTES = _UNRESERVED | frozenset(b"!$&'()*+,=:@/;%")
_ESCAPE = re.compile(rb"%(..?)?", re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]{2}\Z").match
_NAMED_DOTS = re.compile(rb"/\.{1,2}(?:[/;]|\Z)")


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
    if _VISIBLE(target) is None or b"#" in target:
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
    if _PLAIN(path) is not None and b"/." not in path and b"//" not in path:
        return path
    if path == b"*":
        return path
    if b"\\" in path or b"\0" in path:
        raise BadRequest("a backslash or a NUL in the path")
    if b"%" in path:
        path = _ESCAPE.sub(_unescape, path)
        if reject_slash and b"%2F" in path:
            raise BadRequest("an encoded slash in the path")
    if any(byte not in _PATH_BYTES for byte in path):
        path = b"".join(bytes((c,)) if c in _PATH_BYTES else b"%%%02X" % c for c in path)
    if merge_slashes:
        while b"//" in path:
            path = path.replace(b"//", b"/")
    if _NAMED_DOTS.search(path) is not None:
        path = _without_dots(path)
    return path


def _unescape(match: re.Match[bytes]) -> bytes:
    digits = match.group(1) or b""
    if _HEX(digits) is None:
        raise BadRequest("a bad escape in the path")
    byte = int(digits, 16)
    if byte in (0x00, 0x5C):
        raise BadRequest("an escaped NUL or backslash in the path")
    return bytes((byte,)) if byte in _UNRESERVED else b"%" + digits.upper()


def _without_dots(path: bytes) -> bytes:
    """RFC 3986 §5.2.4, but that going above the root is refused and parameters of dots are dropped."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        name = segment.partition(b";")[0]
        if name == b"..":
            if not kept:
                raise BadRequest("the path leads above the root")
            kept.pop()
        elif name != b".":
            kept.append(segment)
    if segments[-1].partition(b";")[0] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
