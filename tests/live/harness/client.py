"""A client that sends any bytes and reads answers strictly."""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType

Address = tuple[str, int]

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([\t \x21-\x7e\x80-\xff]*)")
FIELD_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*"
    rb"((?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})")


class Closed(AssertionError):
    """The peer closed where an answer's first byte was due."""


class Reset(AssertionError):
    """The peer reset the connection."""


class Truncated(AssertionError):
    """The peer closed in the middle of an answer."""

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial


class Malformed(AssertionError):
    """What the peer sent is not HTTP/1.1 as RFC 9112 writes it."""


def parse_fields(lines: list[bytes]) -> list[tuple[str, str]]:
    """Read field lines strictly; values as latin-1, which keeps every byte."""
    fields = []
    for line in lines:
        match = FIELD_LINE.fullmatch(line)
        if match is None:
            raise Malformed(f"field line {line!r}")
        fields.append((match[1].decode("latin-1"), match[2].decode("latin-1")))
    return fields


def values(fields: list[tuple[str, str]], name: str) -> list[str]:
    """All values of a field, in order."""
    return [value for key, value in fields if key.lower() == name.lower()]


@dataclass
class Response:
    """One answer as it came."""

    version: str
    status: int
    reason: str
    headers: list[tuple[str, str]]
    raw_head: bytes
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: list[Response] = field(default_factory=list)
    framing: str = "none"

    def all(self, name: str) -> list[str]:
        """All values of a field, in order."""
        return values(self.headers, name)

    def get(self, name: str) -> str | None:
        """The value of a field that may stand once."""
        found = self.all(name)
        assert len(found) <= 1, f"{name} stands {len(found)} times"
        return found[0] if found else None

    @property
    def closes(self) -> bool:
        """Whether the answer announces the connection's end."""
        tokens = ",".join(self.all("connection")).lower().replace(" ", "").split(",")
        if self.version == "1.0":
            return "keep-alive" not in tokens
        return "close" in tokens


class RawClient:
    """A blocking socket with a deadline for every read; made and closed by its test.

    Args:
        address: where to connect.
        timeout: seconds that one read or write may take.
        receive_buffer: SO_RCVBUF, for a client that wants the pressure felt early.
    """

    def __init__(
        self, address: Address, *, timeout: float = 5.0, receive_buffer: int | None = None
    ) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self.name: Address = self.socket.getsockname()[:2]
        self.buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Sending.

    def send(self, data: bytes) -> None:
        """Send everything."""
        self.socket.sendall(data)

    def send_anyway(self, data: bytes, *, piecewise: bool = False) -> None:
        """Send as much as the peer takes: it may answer and close before all has gone.

        Args:
            data: what to send.
            piecewise: one byte per segment.
        """
        try:
            if piecewise:
                for index in range(len(data)):
                    self.socket.sendall(data[index : index + 1])
            else:
                self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Leave with FIN (RST if something is unread)."""
        self.socket.close()

    # Reading.

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError as error:
            raise Reset(f"reset; unread: {self.buffer[:200]!r}") from error
        self.buffer += data
        return bool(data)

    def read_exactly(self, count: int) -> bytes:
        """Read *count* bytes."""
        pieces = [self.buffer[:count]]
        left = count - len(pieces[0])
        self.buffer = self.buffer[count:]
        while left:
            try:
                data = self.socket.recv(min(left, 1 << 20))
            except ConnectionResetError as error:
                raise Reset(f"reset with {left} of {count} bytes missing") from error
            if not data:
                raise Truncated(f"closed with {left} of {count} missing", b"".join(pieces))
            pieces.append(data)
            left -= len(data)
        return b"".join(pieces)

    def read_some(self) -> bytes:
        """Read what is there, at least one byte."""
        if not self.buffer and not self._more():
            raise Closed("closed")
        data, self.buffer = self.buffer, b""
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            had = self.buffer
            if not self._more():
                raise Truncated(f"closed after {had[-200:]!r}", had) if had else Closed("closed")
        data, _, self.buffer = self.buffer.partition(mark)
        return data

    def read_head(self) -> Response:
        """Read one head, interim ones not skipped."""
        raw = self._until(b"\r\n\r\n")
        first, *lines = raw.split(b"\r\n")
        match = STATUS_LINE.fullmatch(first)
        if match is None:
            raise Malformed(f"status line {first!r}")
        return Response(
            version="1." + match[1].decode(),
            status=int(match[2]),
            reason=match[3].decode("latin-1"),
            headers=parse_fields(lines),
            raw_head=raw + b"\r\n\r\n",
        )

    def read_chunk(self) -> bytes:
        """Read one chunk without extensions; empty at the last, whose trailers stay unread."""
        line = self._until(b"\r\n")
        match = CHUNK_LINE.fullmatch(line)
        if match is None:
            raise Malformed(f"chunk line {line!r}")
        size = int(match[1], 16)
        if size == 0:
            return b""
        data = self.read_exactly(size)
        if self.read_exactly(2) != b"\r\n":
            raise Malformed("no CRLF after a chunk")
        return data

    def read_trailers(self) -> list[tuple[str, str]]:
        """Read what follows the last chunk."""
        lines = []
        while line := self._until(b"\r\n"):
            lines.append(line)
        return parse_fields(lines)

    def read_body(self, response: Response, method: str = "GET") -> None:
        """Read the body that the head announces."""
        lengths = response.all("content-length")
        codings = response.all("transfer-encoding")
        if len(lengths) > 1 or (lengths and codings) or (lengths and not lengths[0].isdigit()):
            raise Malformed(f"ambiguous framing: {response.headers}")
        if response.status in (204, 304) or response.status < 200:
            if codings or (lengths and response.status != 304):
                raise Malformed(f"{response.status} with framing: {response.headers}")
            return
        if method == "HEAD":
            return
        if codings:
            if codings != ["chunked"] or response.version == "1.0":
                raise Malformed(f"transfer coding {codings} in HTTP/{response.version}")
            response.framing = "chunked"
            pieces: list[bytes] = []
            try:
                while chunk := self.read_chunk():
                    pieces.append(chunk)
                response.trailers = self.read_trailers()
            except Closed as error:
                raise Truncated("closed between chunks", b"".join(pieces)) from error
            except Truncated as error:
                raise Truncated(str(error), b"".join(pieces) + error.partial) from error
            response.body = b"".join(pieces)
        elif lengths:
            response.framing = "length"
            response.body = self.read_exactly(int(lengths[0]))
        else:
            response.framing = "close"
            if not response.closes:
                raise Malformed(f"a body until close without saying so: {response.headers}")
            response.body, ended = self.read_until_close()
            if ended == "reset":
                raise Reset(f"reset in a body until close after {len(response.body)} bytes")

    def read_response(self, method: str = "GET") -> Response:
        """Read one final answer; 1xx before it stand in its `interim`."""
        interim = []
        while True:
            response = self.read_head()
            if 100 <= response.status < 200 and response.status != 101:
                self.read_body(response)
                interim.append(response)
                continue
            if response.status != 101:
                self.read_body(response, method)
            response.interim = interim
            return response

    def ask(self, request: bytes, method: str | None = None) -> Response:
        """Send a request and read its answer."""
        self.send(request)
        return self.read_response(method or request.split(b" ", 1)[0].decode("latin-1"))

    def read_until_close(self) -> tuple[bytes, str]:
        """Read to the end: all that came, and whether it ended as `closed` or `reset`."""
        pieces = [self.buffer]
        self.buffer = b""
        while True:
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionResetError:
                return b"".join(pieces), "reset"
            if not data:
                return b"".join(pieces), "closed"
            pieces.append(data)

    def expect_end(self) -> str:
        """Assert that nothing more comes and the connection ends; says how."""
        rest, how = self.read_until_close()
        assert rest == b"", f"unexpected bytes before the end: {rest[:300]!r}"
        return how

    def expect_silence(self, seconds: float) -> None:
        """Assert that for so long neither a byte nor an end comes."""
        assert self.buffer == b""
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return
        finally:
            self.socket.settimeout(before)
        raise AssertionError(f"not silent: {data!r}")
