"""The seams for other people's programs: a resource for a stock Site, a pool for a stock Agent or treq.

In this process, on its own reactor, over real sockets. No trial.TestCase here: pytest-twisted and an
asynchronous one break each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import treq
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from gatewayd.core.addresses import parse_host_port
from gatewayd.core.endpoints import Endpoint, Member
from gatewayd.core.errors import QueueFull
from gatewayd.proxy import ReverseProxyResource
from gatewayd.upstreams import HTTPConnectionPool, Upstream, make_upstream
from gatewayd.upstreams.connection import Timeouts, UpstreamConnection

pytest_twisted = pytest.importorskip("pytest_twisted")
reactor: Any = installed
PATIENCE = 10.0  # seconds, for what should come at once
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Served(Protocol):
    """A connection to the server; keeps what comes, and tells its test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""
        self.lost: Deferred[Any] = Deferred()

    def connectionMade(self) -> None:
        """Twisted: a client."""
        self.server.connections.append(self)
        self.server.open += 1
        self.server.most = max(self.server.most, self.server.open)

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes; a request is complete by its Content-Length."""
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, rest = self.buffer.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            size = int(length.group(1)) if length else 0
            if len(rest) < size:
                return
            self.buffer = rest[size:]
            request = Request(self, head, rest[:size])
            self.server.requests.append(request)
            self.server.answer(request)

    def connectionLost(self, reason: Any = None) -> None:
        """Twisted: the end."""
        self.server.open -= 1
        self.lost.callback(None)


class Request:
    """One request as the server got it."""

    def __init__(self, connection: Served, head: bytes, body: bytes) -> None:
        self.connection = connection
        self.head = head
        self.body = body

    @property
    def line(self) -> bytes:
        """Its first line."""
        return self.head.partition(b"\r\n")[0]

    def get(self, name: bytes) -> list[bytes]:
        """All values of a field."""
        return [
            value.strip()
            for field, _, value in (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
            if field.lower() == name.lower()
        ]

    def send(self, data: bytes) -> None:
        """Answer with these bytes."""
        self.connection.transport.write(data)  # type: ignore[union-attr]


class Server(Factory):
    """An HTTP server that answers as its test says."""

    noisy = False

    def __init__(self) -> None:
        self.connections: list[Served] = []
        self.open = self.most = 0
        self.requests: list[Request] = []
        self.answer: Callable[[Request], None] = lambda request: request.send(OK)
        self.port: Any = reactor.listenTCP(0, self, interface="127.0.0.1")

    def buildProtocol(self, addr: Any) -> Served:
        """Twisted: a client."""
        return Served(self)

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port.getHost().port}"

    def url(self, path: str = "/") -> str:
        """A URL here."""
        return f"http://{self.address}{path}"


class Client(Protocol):
    """A raw client."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed: Deferred[Any] = Deferred()
        self._wanted: list[tuple[bytes, Deferred[Any]]] = []

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes."""
        self.received += data
        for entry in list(self._wanted):
            if entry[0] in self.received:
                self._wanted.remove(entry)
                entry[1].callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        """Twisted: the end, clean or not."""
        self.closed.callback(None)

    def until(self, wanted: bytes) -> Deferred[Any]:
        """A Deferred that fires when these bytes have come."""
        came: Deferred[Any] = Deferred()
        if wanted in self.received:
            came.callback(None)
        else:
            self._wanted.append((wanted, came))
        return in_time(came)


def in_time(awaited: Deferred[Any]) -> Deferred[Any]:
    """The same, but that it fails rather than waits for ever."""
    return awaited.addTimeout(PATIENCE, reactor)


def turn(seconds: float = 0.01) -> Deferred[None]:
    """The reactor goes on."""
    passed: Deferred[None] = Deferred()
    reactor.callLater(seconds, passed.callback, None)
    return passed


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that nobody tells of."""
    end = reactor.seconds() + PATIENCE
    while not holds():
        assert reactor.seconds() < end, "it never came"
        await turn()


class Stage:
    """What a test made, so that it ends."""

    def __init__(self) -> None:
        self.ports: list[Any] = []
        self.clients: list[Client] = []
        self.upstreams: list[Upstream] = []
        self.pools: list[HTTPConnectionPool] = []

    def server(self) -> Server:
        """A server."""
        made = Server()
        self.ports.append(made.port)
        return made

    def upstream(self, endpoints: Any, **options: Any) -> Upstream:
        """An upstream of these endpoints."""
        made = make_upstream(reactor, endpoints, **options)
        self.upstreams.append(made)
        return made

    def site(self, resource: Any) -> Any:
        """A stock Site with this resource; its port."""
        port = reactor.listenTCP(0, Site(resource), interface="127.0.0.1")
        self.ports.append(port)
        return port

    def front(self, *servers: Server, **options: Any) -> Any:
        """A stock Site that forwards to these servers; its port."""
        upstream = self.upstream([each.address for each in servers], **options)
        return self.site(ReverseProxyResource(upstream))

    def pool(self, **options: Any) -> HTTPConnectionPool:
        """A pool."""
        made = HTTPConnectionPool(reactor, **options)
        self.pools.append(made)
        return made

    async def connect(self, port: Any) -> Client:
        """A client of a Site."""
        factory = Factory.forProtocol(Client)
        client: Client = await TCP4ClientEndpoint(
            reactor, "127.0.0.1", port.getHost().port
        ).connect(factory)
        self.clients.append(client)
        return client

    async def ask(self, port: Any, request: bytes) -> bytes:
        """All that comes for one request on a connection of its own."""
        client = await self.connect(port)
        client.transport.write(request)  # type: ignore[union-attr]
        await in_time(client.closed)
        return bytes(client.received)

    async def get(self, port: Any, path: str = "/", *fields: str, method: str = "GET") -> bytes:
        """A request without a body, and its answer."""
        lines = [f"{method} {path} HTTP/1.1", "Host: a.example", "Connection: close", *fields]
        return await self.ask(port, "\r\n".join([*lines, "", ""]).encode())

    async def end(self) -> None:
        """Nothing goes on."""
        for client in self.clients:
            client.transport.abortConnection()  # type: ignore[union-attr]
        ends = [port.stopListening() for port in self.ports]
        ends += [upstream.close() for upstream in self.upstreams]
        for pool in self.pools:
            pool.abort()
        await in_time(DeferredList([end for end in ends if end is not None]))


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage of one test."""
    made = Stage()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.end()))


def head_and_body(answer: bytes | bytearray) -> tuple[list[bytes], bytes]:
    """The lines of an answer's head, Server, Date and ids left out, and its body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    own = (b"server:", b"date:", b"x-request-id:", b"via:", b"connection:")
    lines = [bytes(line) for line in head.split(b"\r\n") if not line.lower().startswith(own)]
    return lines, bytes(body)


# A resource in somebody else's Site.


@pytest_twisted.ensureDeferred
async def test_get(stage: Stage) -> None:
    """The request as it came, with the gateway's fields; the answer as it was given."""
    server = stage.server()
    server.answer = lambda request: request.send(
        b"HTTP/1.1 203 Fine\r\nContent-Length: 5\r\nX-A: 1\r\nX-A: 2\r\nServer: theirs\r\n\r\nhello"
    )
    answer = await stage.get(
        stage.front(server), "/a%2fb//c?q=%20", "X-B: 3", "X-Forwarded-For: 9.9.9.9"
    )
    lines, body = head_and_body(answer)
    assert (lines, body) == (
        [b"HTTP/1.1 203 Fine", b"Content-Length: 5", b"X-A: 1", b"X-A: 2"],
        b"hello",
    )
    assert answer.count(b"Server: theirs") == 1
    assert answer.lower().count(b"\r\nserver:") == 1
    assert re.search(rb"\r\nVia: 1\.1 gatewayd-[0-9a-f]{8}\r\n", answer)
    (request,) = server.requests
    assert request.line == b"GET /a%2Fb/c?q=%20 HTTP/1.1"
    assert request.get(b"host") == [b"a.example"]
    assert request.get(b"x-b") == [b"3"]
    assert request.get(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.get(b"x-forwarded-proto") == [b"http"]
    assert request.get(b"x-forwarded-host") == [b"a.example"]
    assert request.get(b"connection") == []
    (identity,) = request.get(b"x-request-id")
    assert b"X-Request-Id: " + identity in answer


@pytest_twisted.ensureDeferred
async def test_post(stage: Stage) -> None:
    """Site holds an upload until it is whole; the upstream gets it with its length."""
    server = stage.server()
    front = stage.front(server)
    body = b"x" * 300_000
    head = b"POST /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    for sent in (
        b"Content-Length: 300000\r\n\r\n" + body,
        b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    ):
        assert (await stage.ask(front, head + sent)).endswith(b"\r\n\r\nok")
        request = server.requests.pop()
        assert (request.line, request.get(b"content-length")) == (b"POST /up HTTP/1.1", [b"300000"])
        assert request.get(b"transfer-encoding") == []
        assert request.body == body


@pytest_twisted.ensureDeferred
async def test_expect_continue(stage: Stage) -> None:
    """Site says 100 itself; the upstream is not asked."""
    server = stage.server()
    client = await stage.connect(stage.front(server))
    client.transport.write(  # type: ignore[union-attr]
        b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    )
    await client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.transport.write(b"abc")  # type: ignore[union-attr]
    await client.until(b"\r\n\r\nok")
    (request,) = server.requests
    assert (request.body, request.get(b"expect")) == (b"abc", [])


@pytest_twisted.ensureDeferred
async def test_without_a_body(stage: Stage) -> None:
    """HEAD, 204 and 304 end with their head, and keep what it says."""
    server = stage.server()
    front = stage.front(server)
    for method, sent, expected in (
        ("HEAD", b"200 OK\r\nContent-Length: 7", [b"HTTP/1.1 200 OK", b"Content-Length: 7"]),
        ("GET", b"204 No Content\r\nX-A: 1", [b"HTTP/1.1 204 No Content", b"X-A: 1"]),
        ("GET", b'304 Not Modified\r\nETag: "x"', [b"HTTP/1.1 304 Not Modified", b'ETag: "x"']),
    ):
        server.answer = lambda request, sent=sent: request.send(b"HTTP/1.1 %b\r\n\r\n" % sent)  # type: ignore[misc]
        assert head_and_body(await stage.get(front, method=method)) == (expected, b"")
    assert [request.line[:4] for request in server.requests] == [b"HEAD", b"GET ", b"GET "]


@pytest_twisted.ensureDeferred
async def test_streaming(stage: Stage) -> None:
    """Each piece is at the client before the next one is sent."""
    server = stage.server()
    started: Deferred[Request] = Deferred()

    def begin(request: Request) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        started.callback(request)

    server.answer = begin
    client = await stage.connect(stage.front(server))
    client.transport.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # type: ignore[union-attr]
    request = await in_time(started)
    await client.until(b"first")
    request.send(b"6\r\nsecond\r\n")
    await client.until(b"second")
    request.send(b"5\r\nthird\r\n0\r\n\r\n")
    await client.until(b"0\r\n\r\n")
    assert head_and_body(client.received) == (
        [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"],
        b"5\r\nfirst\r\n6\r\nsecond\r\n5\r\nthird\r\n0\r\n\r\n",
    )


class Source:
    """Sends as much as its connection takes."""

    def __init__(self, request: Request, size: int) -> None:
        self.sent = 0
        self._size = size
        self._transport: Any = request.connection.transport
        self._paused = False
        request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        self._transport.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        """Twisted: enough for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Twisted: go on."""
        self._paused = False
        while not self._paused and self.sent < self._size:
            self.sent += len(PIECE)
            self._transport.write(PIECE)
        if self.sent == self._size:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """Twisted: the connection is no more."""


PIECE = bytes(range(256)) * 256


@pytest_twisted.ensureDeferred
async def test_a_long_answer(stage: Stage) -> None:
    """64 MiB, each byte once; while the client does not read, the upstream cannot send."""
    server = stage.server()
    sources: list[Source] = []
    size = 64 << 20
    server.answer = lambda request: sources.append(Source(request, size))
    client = await stage.connect(stage.front(server))
    client.transport.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")  # type: ignore[union-attr]
    await client.until(b"\r\n\r\n")
    client.transport.pauseProducing()  # type: ignore[union-attr]
    await turn(0.5)
    held = sources[0].sent
    await turn(0.2)
    assert sources[0].sent == held < size
    client.transport.resumeProducing()  # type: ignore[union-attr]
    await in_time(client.closed)
    assert head_and_body(client.received)[1] == PIECE * (size // len(PIECE))


@pytest_twisted.ensureDeferred
async def test_keep_alive_on_both_sides(stage: Stage) -> None:
    """Ten requests, pipelined too, by one connection each; the answers in order."""
    server = stage.server()
    server.answer = lambda request: request.send(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + request.line[5:7]
    )
    client = await stage.connect(stage.front(server))
    requests = [b"GET /%02d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(10)]
    client.transport.write(requests[0])  # type: ignore[union-attr]
    await client.until(b"\r\n\r\n00")
    client.transport.write(b"".join(requests[1:]))  # type: ignore[union-attr]
    await client.until(b"\r\n\r\n09")
    bodies = re.findall(rb"\r\n\r\n(\d\d)", client.received)
    assert bodies == [b"%02d" % number for number in range(10)]
    assert len(server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_an_old_client(stage: Stage) -> None:
    """HTTP/1.0 gets no chunks; its connection's end is the body's."""
    server = stage.server()
    server.answer = lambda request: request.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\nX-T: 1\r\n\r\n"
    )
    answer = await stage.ask(stage.front(server), b"GET / HTTP/1.0\r\n\r\n")
    lines, body = head_and_body(answer)
    assert (lines[0].partition(b" ")[2], body) == (b"200 OK", b"abcdef")
    assert b"ransfer-" not in answer
    assert b"X-T" not in answer


@pytest_twisted.ensureDeferred
async def test_what_a_site_cannot_do(stage: Stage) -> None:
    """No upgrade is asked for, and no interim answer relayed; what Connection names stops here."""
    server = stage.server()
    server.answer = lambda request: request.send(
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nConnection: x-hop\r\n"
        b"X-Hop: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    answer = await stage.get(
        stage.front(server),
        "/",
        "Upgrade: websocket",
        "Connection: upgrade, x-secret",
        "X-Secret: 1",
    )
    assert head_and_body(answer) == ([b"HTTP/1.1 200 OK", b"Content-Length: 2"], b"ok")
    (request,) = server.requests
    assert request.get(b"upgrade") == []
    assert request.get(b"x-secret") == []
    assert request.get(b"connection") == []


@pytest_twisted.ensureDeferred
async def test_below_a_path(stage: Stage) -> None:
    """As a child among others; the path stays whole."""
    server = stage.server()
    root = Resource()
    root.putChild(b"api", ReverseProxyResource(stage.upstream([server.address], base_path="/v2")))
    front = stage.site(root)
    assert (await stage.get(front, "/api/x?y")).endswith(b"ok")
    assert (await stage.get(front, "/other")).startswith(b"HTTP/1.1 404 ")
    assert [request.line for request in server.requests] == [b"GET /v2/api/x?y HTTP/1.1"]


@pytest_twisted.ensureDeferred
async def test_several_endpoints(stage: Stage) -> None:
    """By their weights; a name is looked up."""
    first, second = stage.server(), stage.server()
    named = first.address.replace("127.0.0.1", "localhost")
    upstream = stage.upstream({named: 3, second.address: 1})
    assert isinstance(upstream, Upstream)
    front = stage.site(ReverseProxyResource(upstream))
    # The name's address comes from a thread.
    await until(lambda: len(upstream.endpoints) == 2)
    for _ in range(8):
        assert (await stage.get(front)).endswith(b"ok")
    assert (len(first.requests), len(second.requests)) == (6, 2)


@pytest_twisted.ensureDeferred
async def test_nobody_there(stage: Stage) -> None:
    """502 for one that refuses, 503 without any; nothing of the inside is told."""
    server = stage.server()
    address = server.address
    await server.port.stopListening()
    stage.ports.remove(server.port)
    refusing = stage.site(ReverseProxyResource(stage.upstream([address])))
    lines, body = head_and_body(await stage.get(refusing))
    assert lines[0] == b"HTTP/1.1 502 Bad Gateway"
    assert body == b"502 Bad Gateway: connect_failed\n"
    answer = await stage.get(refusing, "/", "Accept: application/json")
    problem = json.loads(head_and_body(answer)[1])
    assert (problem["status"], problem["reason"]) == (502, "connect_failed")
    assert address.encode() not in answer
    empty = stage.upstream([address])
    empty.set_members([])
    answer = await stage.get(stage.site(ReverseProxyResource(empty)))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer


@pytest_twisted.ensureDeferred
async def test_deadlines_are_swept(stage: Stage) -> None:
    """An upstream that says nothing is 504, one that stops within its answer is cut."""
    server = stage.server()
    timeouts = Timeouts(connect=5.0, response_header=0.2, read=0.2, write=5.0)
    front = stage.front(server, timeouts=timeouts)
    server.answer = lambda request: None
    answer = await stage.get(front)
    assert head_and_body(answer)[1] == b"504 Gateway Timeout: header_timeout\n"
    await in_time(server.connections[0].lost)
    server.answer = lambda request: request.send(OK[:-1])
    answer = await stage.get(front)
    assert answer.endswith(b"\r\n\r\no")
    await in_time(server.connections[1].lost)


@pytest_twisted.ensureDeferred
async def test_waiting_for_a_slot(stage: Stage) -> None:
    """At the limit requests wait, pending_timeout at most; then 503."""
    server = stage.server()
    held: list[Request] = []
    server.answer = held.append
    front = stage.front(server, max_connections_per_endpoint=1, pending_timeout=0.2)
    first = Deferred.fromCoroutine(stage.get(front))
    answer = await stage.get(front)
    assert head_and_body(answer)[1] == b"503 Service Unavailable: pending_timeout\n"
    held[0].send(OK)
    assert (await first).endswith(b"ok")
    assert server.most == 1


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_cut(stage: Stage) -> None:
    """The client can tell: its connection breaks before the length, or the last chunk, is there."""
    server = stage.server()
    front = stage.front(server)

    def cut(request: Request, sent: bytes) -> None:
        request.send(sent)
        request.connection.transport.loseConnection()  # type: ignore[union-attr]

    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    for sent in (OK[:-1], chunked):
        server.answer = lambda request, sent=sent: cut(request, sent)  # type: ignore[misc]
        answer = await stage.get(front)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not answer.endswith((b"ok", b"0\r\n\r\n"))


@pytest_twisted.ensureDeferred
async def test_rubbish_from_the_upstream(stage: Stage) -> None:
    """502, and none of it."""
    server = stage.server()
    front = stage.front(server)
    for rubbish in (b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n"):
        server.answer = lambda request, sent=rubbish: request.send(sent)  # type: ignore[misc]
        answer = await stage.get(front)
        assert head_and_body(answer)[1] == b"502 Bad Gateway: bad_response\n"


@pytest_twisted.ensureDeferred
async def test_loops(stage: Stage) -> None:
    """A Site before itself: 508, not for ever."""
    upstream = stage.upstream(["127.0.0.1:1"])
    front = stage.site(ReverseProxyResource(upstream))
    upstream.set_members([Member(parse_host_port(f"127.0.0.1:{front.getHost().port}"))])
    answer = await stage.get(front)
    assert answer.startswith(b"HTTP/1.1 508 ")
    assert head_and_body(answer)[1].startswith(b"508 Loop Detected: ")


@pytest_twisted.ensureDeferred
async def test_the_client_goes(stage: Stage) -> None:
    """Before the answer, and within it: the upstream's connection ends too."""
    server = stage.server()
    front = stage.front(server)
    for sent in (b"", OK[:-1]):
        asked: Deferred[Request] = Deferred()

        def begin(request: Request, sent: bytes = sent, asked: Deferred[Request] = asked) -> None:
            request.send(sent)
            asked.callback(request)

        server.answer = begin
        client = await stage.connect(front)
        client.transport.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # type: ignore[union-attr]
        request = await in_time(asked)
        if sent:
            await client.until(b"\r\n\r\no")
        client.transport.abortConnection()  # type: ignore[union-attr]
        await in_time(request.connection.lost)


@pytest_twisted.ensureDeferred
async def test_the_end_of_an_upstream(stage: Stage) -> None:
    """close: told when the last connection is gone; those in use finish first."""
    server = stage.server()
    held: list[Request] = []
    server.answer = lambda request: (
        held.append(request) if b"/held" in request.line else request.send(OK)
    )
    upstream = make_upstream(reactor, [server.address])
    front = stage.site(ReverseProxyResource(upstream))
    waiting = Deferred.fromCoroutine(stage.get(front, "/held"))
    assert (await stage.get(front)).endswith(b"ok")
    assert len(server.connections) == 2
    ended = upstream.close()
    await in_time(server.connections[1].lost)
    assert not ended.called
    held[0].send(OK)
    assert (await waiting).endswith(b"ok")
    await in_time(ended)
    assert (upstream.pool.ledger.open, server.open) == (0, 0)
    await in_time(upstream.close())


def test_what_cannot_be_understood() -> None:
    """Is said at once."""
    for endpoints, options, message in (
        (["nowhere"], {}, "'nowhere' has no port"),
        (["h:1"], {"balancer": "round_robbin"}, "did you mean round_robin?"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            make_upstream(reactor, endpoints, **options)


# A pool for somebody else's Agent.


@implementer(IAgentEndpointFactory)
class ToOnePlace:
    """Sends an Agent to one address, whatever the URL says."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._endpoint = TCP4ClientEndpoint(reactor, host, int(port))

    def endpointForURI(self, uri: Any) -> TCP4ClientEndpoint:
        """Twisted: where to."""
        return self._endpoint


async def fetch(agent: Any, url: str) -> bytes:
    """A GET by an Agent, read to its end."""
    response = await in_time(agent.request(b"GET", url.encode(), Headers({b"User-Agent": [b"t"]})))
    body: bytes = await in_time(treq.content(response))
    return body


@pytest_twisted.ensureDeferred
async def test_agent_reuses_connections(stage: Stage) -> None:
    """One for all that come one after another; hits and misses stand in the ledger."""
    server, pool = stage.server(), stage.pool()
    agent = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    for _ in range(5):
        assert await fetch(agent, server.url()) == b"ok"
    assert len(server.connections) == 1
    assert repr(pool) == "<HTTPConnectionPool <Ledger open=1 idle=1 hits=4 misses=1>>"
    assert server.requests[0].get(b"connection") == []


@pytest_twisted.ensureDeferred
async def test_agent_with_an_endpoint_factory(stage: Stage) -> None:
    """By scheme, host and port of the URL, wherever that leads."""
    server, pool = stage.server(), stage.pool()
    agent: Any = Agent.usingEndpointFactory(reactor, ToOnePlace(server.address), pool=pool)  # type: ignore[arg-type]
    for host in ("a.example", "b.example", "a.example", "b.example"):
        assert await fetch(agent, f"http://{host}/") == b"ok"
    assert len(server.connections) == 2
    assert [request.get(b"host") for request in server.requests] == [
        [b"a.example"],
        [b"b.example"],
        [b"a.example"],
        [b"b.example"],
    ]


@pytest_twisted.ensureDeferred
async def test_treq(stage: Stage) -> None:
    """With an Agent, or with the pool alone."""
    server, pool = stage.server(), stage.pool()
    agent: Any = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    response = await in_time(treq.get(server.url("/one"), agent=agent))
    assert await in_time(treq.text_content(response)) == "ok"
    response = await in_time(treq.post(server.url("/two"), data=b"abc", agent=agent))
    assert await in_time(treq.content(response)) == b"ok"
    response = await in_time(treq.get(server.url("/three"), pool=pool))
    assert await in_time(treq.content(response)) == b"ok"
    assert [request.line for request in server.requests] == [
        b"GET /one HTTP/1.1",
        b"POST /two HTTP/1.1",
        b"GET /three HTTP/1.1",
    ]
    assert len(server.connections) == 1
    assert (pool.ledger.hits, pool.ledger.misses) == (2, 1)


@pytest_twisted.ensureDeferred
async def test_agent_at_the_limit(stage: Stage) -> None:
    """Never more connections than allowed: the others wait, and all are served."""
    server, pool = stage.server(), stage.pool(max_connections_per_endpoint=2)
    agent: Any = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    answers = await gatherResults(
        [Deferred.fromCoroutine(fetch(agent, server.url(f"/{number}"))) for number in range(20)]
    )
    assert answers == [b"ok"] * 20
    assert (server.most, len(server.connections)) == (2, 2)
    assert (pool.ledger.open, pool.ledger.idle) == (2, 2)


@pytest_twisted.ensureDeferred
async def test_agent_over_the_line(stage: Stage) -> None:
    """max_pending wait; whoever comes then is told."""
    server, pool = stage.server(), stage.pool(max_connections_per_endpoint=1, max_pending=1)
    held: list[Request] = []
    server.answer = held.append
    agent: Any = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    first, second = (Deferred.fromCoroutine(fetch(agent, server.url())) for _ in range(2))
    with pytest.raises(QueueFull):
        await agent.request(b"GET", server.url().encode())
    await until(lambda: bool(held))
    server.answer = lambda request: request.send(OK)
    held[0].send(OK)
    assert await gatherResults([first, second]) == [b"ok", b"ok"]


@pytest_twisted.ensureDeferred
async def test_agents_idle_timeout(stage: Stage) -> None:
    """The connection closes after it."""
    server, pool = stage.server(), stage.pool(idle_timeout=0.1)
    agent = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    assert await fetch(agent, server.url()) == b"ok"
    await in_time(server.connections[0].lost)
    await until(lambda: not pool.ledger.open)
    assert await fetch(agent, server.url()) == b"ok"
    assert len(server.connections) == 2


@pytest_twisted.ensureDeferred
async def test_agent_where_nothing_is_kept(stage: Stage) -> None:
    """It says so."""
    server, pool = stage.server(), stage.pool(max_idle=0)
    agent = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    for _ in range(2):
        assert await fetch(agent, server.url()) == b"ok"
    assert len(server.connections) == 2
    assert [request.get(b"connection") for request in server.requests] == [[b"close"]] * 2


@pytest_twisted.ensureDeferred
async def test_stray_bytes_behind_an_agents_answer(stage: Stage) -> None:
    """The connection is not used again, and nobody gets them."""
    server, pool = stage.server(), stage.pool()
    server.answer = lambda request: request.send(OK + OK)
    agent = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    for number in range(3):
        assert await fetch(agent, server.url()) == b"ok"
        await in_time(server.connections[number].lost)
    assert len(server.connections) == 3


@pytest_twisted.ensureDeferred
async def test_cached_connections_closed(stage: Stage) -> None:
    """Told when they are gone, as Twisted's own pool does: a test's reactor is clean then."""
    server, pool = stage.server(), stage.pool()
    agent: Any = Agent(reactor, pool=pool)  # type: ignore[arg-type]
    await gatherResults([Deferred.fromCoroutine(fetch(agent, server.url())) for _ in range(3)])
    assert pool.ledger.idle == 3
    await in_time(pool.closeCachedConnections())
    assert (pool.ledger.open, pool.ledger.idle) == (0, 0)
    assert await fetch(agent, server.url()) == b"ok"


@pytest_twisted.ensureDeferred
async def test_fast_and_stock_are_never_mixed(stage: Stage) -> None:
    """One endpoint, one ledger, one limit; each door gives its own kind."""
    server, pool = stage.server(), stage.pool(max_connections_per_endpoint=1)
    endpoint = Endpoint(Member(parse_host_port(server.address)))
    dialled = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port.getHost().port)
    waiting = pool.acquire(endpoint)
    assert isinstance(waiting, Deferred)
    fast = await in_time(waiting)
    assert isinstance(fast, UpstreamConnection)
    stock = pool.getConnection(endpoint, dialled)
    assert not stock.called  # the only slot is busy
    fast._sent = True
    pool.release(fast)
    protocol = await in_time(stock)
    assert not isinstance(protocol, UpstreamConnection)
    assert (pool.ledger.open, pool.ledger.idle) == (1, 0)
    await in_time(server.connections[0].lost)
    assert server.open == 1
    assert pool.ledger.open == 1
