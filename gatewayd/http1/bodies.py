"""Where a body ends: by length, by chunks, or with the connection (RFC 9112 §6, §7).

A decoder is fed what came from the socket and hands out the body's bytes, free of framing; it never
holds more than an unfinished chunk-size line or the trailers. Chunk extensions are dropped: nothing
behind us needs them, and they have carried smuggled requests.
"""

from __future__ import annotations

import re
from typing import Final

from gatewayd.core.errors import BadRequest, BadResponse, GatewayError
from gatewayd.core.messages import HOP_BY_HOP, KEEP, request_kind, response_kind
from gatewayd.http1.grammar import LineMemo
from gatewayd.http1.requests import MAX_LENGTH

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\Z").match
_MAX_SIZE_LINE: Final = 4096  # with extensions: HAProxy and Go allow about as much
_MAX_EXTENSIONS: Final = 65536  # of a whole body: a byte of data in each costs a line (Go: 16 KiB)
_MAX_TRAILERS: Final = 16384  # bytes of trailer lines, and how many of them go on
_MAX_TRAILER_LINES: Final = 128
# RFC 9110 §6.5.1 (RFC 7230 §4.1.2 has the list): what frames, routes, authenticates or controls a
# message has no place behind it, since many a recipient merges trailers into the header. What we act
# on in a header (core.messages) is as little believed here.
_NO_TRAILER: Final = HOP_BY_HOP | frozenset(
    b"authorization cookie set-cookie www-authenticate authentication-info proxy-authentication-info "
    b"content-encoding content-type content-range trailer max-forwards range "
    b"if-match if-none-match if-modified-since if-unmodified-since if-range "
    b"age cache-control expires location pragma retry-after vary warning".split()
)


def _trailer_kind(name: bytes) -> int:
    unfit = (
        name in _NO_TRAILER
        or b"_" in name
        or request_kind(name) != KEEP
        or response_kind(name) != KEEP
    )
    return 1 if unfit else 0


_trailers: Final = LineMemo(_trailer_kind)

# Most chunks are of a size that was met before, and what their plain lines say is soon looked up.
_sizes: dict[bytes, int] = {}
_SIZES: Final = 1024
_SHORT_LINE: Final = 18  # bytes: sixteen digits and the line's end

_ENDS: Final = frozenset((b"", b"\r", b"\r\n", b"\n"))  # of data: unfinished, whole, and bare
_SIZE_LINE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)

Piece = bytes | memoryview


class Length:
    """A body of so many bytes."""

    def __init__(self, length: int) -> None:
        """Args: length: in bytes."""
        self.left = length
        self.ended = length == 0
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes from the socket.

        Returns:
            (body, rest): rest belongs to the next message and is empty before the end.
        """
        size = len(data)
        if size < self.left:
            self.left -= size
            return data, b""
        left = self.left
        self.left = 0
        self.ended = True
        return (data, b"") if size == left else (data[:left], data[left:])


class UntilClose:
    """A response's body that the end of its connection ends (RFC 9112 §6.3, 8)."""

    left = -1
    ended = False

    def __init__(self) -> None:
        """Nothing is known of its length."""
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes from the socket; all of them are the body's."""
        return data, b""


class Chunked:
    """A chunked body."""

    left = -1

    def __init__(self, fault: type[BadRequest] | type[BadResponse]) -> None:
        """Args: fault: what to raise where the coding is broken: whose fault it is."""
        self.ended = False
        self.trailers: list[bytes] = []
        self._fault: type[GatewayError] = fault
        self._state = _SIZE_LINE
        self._left = 0  # of the current chunk
        self._line = b""  # an unfinished line
        self._extensions = 0
        self._relays = False  # the chunk that goes out is the one that comes in

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes from the socket.

        Returns:
            (body, rest): rest belongs to the next message and is empty before the end.

        Raises:
            BadRequest, BadResponse: as given to the constructor; nothing after it can be trusted.
        """
        pieces: list[bytes] = []
        at = 0
        size = len(data)
        while at < size or self._state == _DONE:
            state = self._state
            if state == _DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._state = _DATA_END
            elif state == _DONE:
                self.ended = True
                return b"".join(pieces), data[at:]
            else:
                line, at = self._take_line(data, at)
                if line is None:
                    break
                self._line_read(state, line)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), b""

    def relay(self, data: bytes) -> tuple[list[Piece], int, bytes]:
        """Take bytes from the socket, and frame them for the other side in the chunks that they came in.

        Plain chunks, which most are, go on as they came, without a copy; of others the size line is
        written anew. The last chunk is kept back for whoever knows what trailers may follow.

        Returns:
            (pieces, size, rest): what to send on; how many bytes of the body are in it; rest as `feed`.

        Raises:
            BadRequest, BadResponse: as `feed`.
        """
        pieces: list[Piece] = []
        at = 0
        if not self._relays:
            if self._state == _DATA_END:  # of a chunk that went out with an end of its own
                line, at = self._take_line(data, at)
                if line is None:
                    return pieces, 0, b""
                self._state = _SIZE_LINE
            elif self._state == _DATA:
                pieces.append(b"%x\r\n" % self._left)
            self._relays = True
        began = at  # of what goes on as it came
        whole = 0
        size = len(data)
        while at < size and self._state < _TRAILERS:
            state = self._state
            if state == _DATA:
                taken = min(self._left, size - at)
                at += taken
                whole += taken
                self._left -= taken
                if self._left == 0:
                    self._state = _DATA_END
                continue
            if not self._line:
                if state == _DATA_END:
                    if data.startswith(b"\r\n", at):
                        at += 2
                        self._state = _SIZE_LINE
                        continue
                else:
                    end = data.find(b"\n", at, at + _SHORT_LINE) + 1
                    known = _sizes.get(data[at:end], 0) if end else 0
                    if known:
                        at = end
                        self._left = known
                        self._state = _DATA
                        continue
            before = at
            held = len(self._line)
            line, at = self._take_line(data, at)
            if state == _DATA_END:
                if line is not None:
                    self._state = _SIZE_LINE
                continue
            if line is not None:
                self._line_read(state, line)
                plain = b"%x" % self._left
                if self._state == _DATA and not held and line.lower() == plain:
                    if len(_sizes) >= _SIZES:
                        _sizes.clear()
                    _sizes[line + b"\r\n"] = self._left
                    continue
                _pass_on(pieces, data, began, before)
                if self._state == _DATA:
                    pieces.append(plain + b"\r\n")
            else:
                _pass_on(pieces, data, began, before)
            began = at
        if self._state < _TRAILERS:
            _pass_on(pieces, data, began, at)
            return pieces, whole, b""
        _, rest = self.feed(data[at:])
        return pieces, whole, rest

    def _take_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        end = data.find(b"\n", at)
        stop = end + 1 if end >= 0 else len(data)
        limit = 2 if self._state == _DATA_END else _MAX_SIZE_LINE
        if len(self._line) + stop - at > limit:
            raise self._fault("a chunk's line is too long or its data has no end")
        self._line += data[at:stop]
        if self._state == _DATA_END and self._line not in _ENDS:
            raise self._fault("a chunk's line is too long or its data has no end")
        if end < 0:
            return None, stop
        line = self._line
        self._line = b""
        if line[-2:] != b"\r\n":
            raise self._fault("a bare LF in the chunked coding")
        return line[:-2], stop

    def _line_read(self, state: int, line: bytes) -> None:
        if state == _SIZE_LINE:
            match = _SIZE(line)
            if match is None:
                raise self._fault("a malformed chunk size")
            self._extensions += len(line) - len(match.group(1))
            if self._extensions > _MAX_EXTENSIONS:
                raise self._fault("too many chunk extensions")
            self._left = int(match.group(1), 16)
            if self._left > MAX_LENGTH:
                raise self._fault("a chunk size over 2^63")
            if self._left:
                self._state = _DATA
            else:
                self._state = _TRAILERS
                self._extensions = 0  # from here on it counts the trailers
        elif state == _DATA_END:
            self._state = _SIZE_LINE  # _take_line let pass nothing but its CRLF
        elif line:
            field = line + b"\r\n"
            kind = _trailers.known.get(field, -1)
            if kind < 0:
                kind = _trailers.classify(field)
            if kind < 0:
                raise self._fault("a malformed trailer field")
            if kind == 0:
                self.trailers.append(field)
            self._extensions += len(line)
            if self._extensions > _MAX_TRAILERS or len(self.trailers) > _MAX_TRAILER_LINES:
                raise self._fault("too many trailer fields")
        else:
            self._state = _DONE


def _pass_on(pieces: list[Piece], data: bytes, began: int, ended: int) -> None:
    """Add a part of data, uncopied."""
    if ended > began:
        whole = ended - began == len(data)
        pieces.append(data if whole else memoryview(data)[began:ended])


Body = Length | UntilClose | Chunked
