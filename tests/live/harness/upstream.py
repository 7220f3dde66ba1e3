"""An upstream that records every byte it gets and plays what its test wrote."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from tests.live.harness.client import values

# Of a chunked body so much is kept as it came.
KEPT = 1 << 20


class Gone(Exception):
    """The gateway has ended the connection."""


@dataclass
class Recorded:
    """One request as the upstream got it, from the end of its head on."""

    raw_head: bytes
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    connection: UpstreamConnection
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    raw_body: bytes = b""
    complete: bool = False
    body_done: bool = False

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.split("?", 1)[0]

    def all(self, name: str) -> list[str]:
        """All values of a field, in order."""
        return values(self.headers, name)

    def get(self, name: str) -> str | None:
        """The value of a field that may stand once."""
        found = self.all(name)
        assert len(found) <= 1, f"{name} stands {len(found)} times: {self.raw_head!r}"
        return found[0] if found else None


class UpstreamConnection:
    """One accepted connection; made and ended by ScriptedUpstream, driven by its handler."""

    def __init__(self, upstream: ScriptedUpstream, sock: socket.socket, number: int) -> None:
        self.upstream = upstream
        self.socket = sock
        self.number = number
        self.received = 0
        self.buffer = b""
        self.ended: str | None = None
        self.open = True

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self.number} received={self.received} ended={self.ended}>"

    def _note_end(self, how: str) -> None:
        with self.upstream.changed:
            self.ended = self.ended or how
            self.upstream.changed.notify_all()

    def recv(self, count: int = 65536) -> bytes:
        """Read what is there; empty at FIN, Gone at RST or at the upstream's own end."""
        try:
            data = self.socket.recv(count)
        except OSError as error:
            self._note_end("reset")
            raise Gone from error
        if not data:
            self._note_end("closed")
        with self.upstream.changed:
            self.received += len(data)
            self.upstream.changed.notify_all()
        return data

    def _more(self) -> None:
        data = self.recv()
        if not data:
            raise Gone
        self.buffer += data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self._more()
        data, _, self.buffer = self.buffer.partition(mark)
        return data

    def read_exactly(self, count: int) -> bytes:
        """Read *count* bytes."""
        pieces = [self.buffer[:count]]
        left = count - len(pieces[0])
        self.buffer = self.buffer[count:]
        while left:
            data = self.recv(min(left, 1 << 20))
            if not data:
                raise Gone
            pieces.append(data)
            left -= len(data)
        return b"".join(pieces)

    def read_head(self) -> Recorded:
        """Read a head and record it."""
        raw = self._until(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        parts = first.split(" ")
        fields = [tuple(line.split(":", 1)) for line in lines]
        recorded = Recorded(
            raw_head=raw + b"\r\n\r\n",
            method=parts[0],
            target=parts[1] if len(parts) > 1 else "",
            version=parts[-1],
            headers=[(item[0], item[-1].strip(" \t")) for item in fields],
            connection=self,
        )
        recorded.complete = recorded.body_done = not recorded.all(
            "transfer-encoding"
        ) and recorded.all("content-length") in ([], ["0"])
        with self.upstream.changed:
            self.upstream.requests.append(recorded)
            self.upstream.changed.notify_all()
        return recorded

    def body_pieces(self, recorded: Recorded) -> Iterator[bytes]:
        """Read the body piece by piece; marks the request complete after the last."""
        if recorded.body_done:
            return
        if recorded.all("transfer-encoding"):
            while True:
                line = self._until(b"\r\n")
                recorded.raw_body += line + b"\r\n"
                size = int(line, 16)
                if size == 0:
                    break
                data = self.read_exactly(size)
                end = self.read_exactly(2)
                if len(recorded.raw_body) < KEPT:
                    recorded.raw_body += data + end
                yield data
            while line := self._until(b"\r\n"):
                recorded.raw_body += line + b"\r\n"
                name, _, value = line.decode("latin-1").partition(":")
                recorded.trailers.append((name, value.strip()))
            recorded.raw_body += b"\r\n"
        else:
            left = int(recorded.all("content-length")[0])
            while left:
                data = self.buffer[:left] or self.recv(min(left, 1 << 18))
                self.buffer = self.buffer[len(data) :]
                if not data:
                    raise Gone
                left -= len(data)
                yield data
        with self.upstream.changed:
            recorded.complete = recorded.body_done = True
            self.upstream.changed.notify_all()

    def read_body(self, recorded: Recorded) -> bytes:
        """Read the whole body and keep it in the record."""
        for piece in self.body_pieces(recorded):
            recorded.body += piece
        return recorded.body

    def send(self, data: bytes) -> None:
        """Send everything; Gone where the gateway takes no more."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            self._note_end("reset")
            raise Gone from error

    def wait_end(self, timeout: float = 10.0) -> str:
        """Read and drop until the gateway ends the connection; says how."""
        self.socket.settimeout(timeout)
        try:
            while self.recv():
                pass
        except Gone:
            pass
        return self.ended or "?"

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with RST."""
        self.open = False
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    def close(self) -> None:
        """Leave with FIN."""
        self.open = False
        with contextlib.suppress(OSError):
            self.socket.close()


Handler = Callable[[UpstreamConnection, Recorded], None]


def answer(
    body: bytes = b"ok",
    *,
    status: str = "200 OK",
    headers: Sequence[tuple[str, str]] = (),
    close: bool = False,
) -> Handler:
    """A whole answer with Content-Length after the whole request."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return raw_answer(head + body, close=close)


def raw_answer(data: bytes, *, close: bool = False, read: bool = True) -> Handler:
    """Any bytes.

    Args:
        data: what to send.
        close: close afterwards.
        read: read the whole request first.
    """

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        if read:
            connection.read_body(request)
        connection.send(data)
        if close:
            connection.close()

    return play


def late_body(release: threading.Event) -> Handler:
    """A handler that sends its head at once, and the body `ok` when it is told to."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        release.wait(20)
        connection.send(b"ok")

    return play


class ScriptedUpstream:
    """A threaded server on a free loopback port; made and stopped by a fixture.

    Args:
        name: stands in `X-Upstream` of the answers that no test scripted.
        receive_buffer: SO_RCVBUF of accepted connections.
    """

    def __init__(self, name: str = "u", *, receive_buffer: int | None = None) -> None:
        self.name = name
        self.changed = threading.Condition()
        self.requests: list[Recorded] = []
        self.connections: list[UpstreamConnection] = []
        self.handlers: dict[str, Handler] = {}
        self.default: Handler = answer(headers=[("X-Upstream", name)])
        self.stopping = threading.Event()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer is not None:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(256)
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self) -> ScriptedUpstream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return (
            f"<ScriptedUpstream {self.name} :{self.port} requests={len(self.requests)} "
            f"connections={len(self.connections)}>"
        )

    @property
    def endpoint(self) -> str:
        """As the configuration writes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def received(self) -> int:
        """Bytes got over all connections."""
        with self.changed:
            return sum(connection.received for connection in self.connections)

    def on(self, path: str, handler: Handler) -> None:
        """Let *handler* play for requests whose path is *path*."""
        self.handlers[path] = handler

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                connection = UpstreamConnection(self, sock, len(self.connections))
                self.connections.append(connection)
                self.changed.notify_all()
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: UpstreamConnection) -> None:
        try:
            while connection.open and not self.stopping.is_set():
                request = connection.read_head()
                handler = self.handlers.get(request.path, self.default)
                handler(connection, request)
        except (Gone, TimeoutError):
            pass
        finally:
            connection.close()

    def stop(self) -> None:
        """Close everything and wait for the threads."""
        self.stopping.set()
        for sock in [self.listener, *(item.socket for item in self.connections)]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                sock.close()
        for thread in self.threads:
            thread.join(5)

    def wait_until(self, probe: Callable[[], bool], timeout: float = 5.0, what: str = "") -> None:
        """Wait until *probe* holds; it is asked after everything that happens here."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while not probe():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"upstream: not within {timeout} s: {what or probe}")
                self.changed.wait(left)

    def find(self, path: str) -> list[Recorded]:
        """The recorded requests to *path*."""
        with self.changed:
            return [request for request in self.requests if request.path == path]

    def wait_request(self, path: str, timeout: float = 5.0, nth: int = 0) -> Recorded:
        """Wait for the head of the *nth* request to *path*."""
        self.wait_until(lambda: len(self.find(path)) > nth, timeout, f"request {nth} to {path}")
        return self.find(path)[nth]

    def wait_complete(self, request: Recorded, timeout: float = 5.0) -> Recorded:
        """Wait until the request's last byte is here."""
        self.wait_until(lambda: request.complete, timeout, f"the end of {request.target}")
        return request

    def wait_ended(self, request: Recorded, timeout: float = 5.0) -> str:
        """Wait until the gateway has ended the request's connection; says how.

        Somebody has to read there, which handlers do with `wait_end`.
        """
        connection = request.connection
        self.wait_until(lambda: connection.ended is not None, timeout, f"end of {connection}")
        return connection.ended or "?"


class Blackhole:
    """A port whose queue of connections is full: further ones get no answer at all."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port: int = self.listener.getsockname()[1]
        self.fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)

    @property
    def endpoint(self) -> str:
        """As the configuration writes it."""
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Free the port."""
        for sock in [*self.fillers, self.listener]:
            sock.close()


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port that is taken, so nobody else gets it, and refuses connections."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
