"""Trailers, answers without a body, HTTP/1.0 clients, bodies until close, stray bytes."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    Recorded,
    Response,
    ScriptedUpstream,
    UpstreamConnection,
    configuration,
    raw_answer,
)

TRAILING = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Sum: 2\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n"
    b"Host: i\r\nConnection: X-Sum\r\n\r\n"
)


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream

    def relay(
        self, path: str, data: bytes, request: bytes = b"", *, close: bool = False
    ) -> Response:
        """GET a path whose answer is *data*."""
        self.upstream.on(path, raw_answer(data, close=close))
        with self.daemon.client() as client:
            return client.ask(request or get(path))

    def reused(self, path: str) -> bool:
        """Whether the connection that served *path* serves the next request too."""
        before = self.upstream.wait_request(path).connection
        assert self.daemon.get(path + "/next").status == 200
        return self.upstream.wait_request(path + "/next").connection is before


def get(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request as bytes."""
    head = [f"{method} {path} HTTP/{version}", "Host: h", *lines, "", ""]
    return "\r\n".join(head).encode()


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    return Pair(module_daemon(configuration({"u": [upstream.endpoint]})), upstream)


# Trailers.


def test_response_trailers_go_to_those_who_can_take_them(pair: Pair) -> None:
    """And framing fields in them stop here, as RFC 9110 §6.5.1 says."""
    response = pair.relay("/t/te", TRAILING, get("/t/te", "TE: trailers", "Connection: TE"))
    assert response.body == b"hello"
    assert [item for item in response.trailers if item[0] == "X-Sum"] == [
        ("X-Sum", "1"),
        ("X-Sum", "2"),
    ]
    assert {name for name, _ in response.trailers} == {"X-Sum"}
    assert response.all("X-Sum") == [], "never merged into the head"


def test_response_trailers_never_break_a_client_that_did_not_ask(pair: Pair) -> None:
    response = pair.relay("/t/none", TRAILING)
    assert response.body == b"hello"
    assert {name for name, _ in response.trailers} <= {"X-Sum"}


def test_http_1_0_gets_no_trailers(pair: Pair) -> None:
    response = pair.relay("/t/old", TRAILING, get("/t/old", version="1.0"))
    assert (response.body, response.framing, response.trailers) == (b"hello", "close", [])


@pytest.mark.parametrize("announced", [True, False])
def test_request_trailers_are_forwarded_or_dropped_never_merged(
    pair: Pair, announced: bool
) -> None:
    path = f"/t/request/{announced}"
    lines = ["Transfer-Encoding: chunked", *(["Trailer: X-Sum"] if announced else [])]
    with pair.daemon.client() as client:
        client.send(
            get(path, *lines, method="POST")
            + b"2\r\nab\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: i\r\nX-Forwarded-For: 6.6.6.6\r\n"
            b"Authorization: x\r\n\r\n"
        )
        assert client.read_response("POST").status == 200
        assert client.ask(get(path + "/next")).status == 200
    request = pair.upstream.wait_complete(pair.upstream.wait_request(path))
    assert request.body == b"ab"
    assert request.all("X-Sum") == []
    assert request.get("Host") == "h"
    assert request.get("X-Forwarded-For") == "127.0.0.1"
    assert {name for name, _ in request.trailers} <= {"X-Sum"}


@pytest.mark.parametrize(
    "trailer",
    [
        b"X-A\r\n",
        b"X A: b\r\n",
        b": b\r\n",
        b"X-A : b\r\n",
        b" x\r\n",
        b"X-A: a\r\n b\r\n",
        b"X-A: \0\r\n",
    ],
)
def test_bad_trailers_of_a_response_cut_the_client(pair: Pair, trailer: bytes) -> None:
    """A clean end would say that the message was whole."""
    path = f"/t/bad/{trailer.hex()}"
    begun = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        begun.wait(5)
        connection.send(b"0\r\n" + trailer + b"\r\n")

    pair.upstream.on(path, play)
    with pair.daemon.client() as client:
        client.send(get(path, "TE: trailers", "Connection: TE"))
        assert client.read_head().status == 200
        assert client.read_chunk() == b"hello"
        begun.set()
        data, _ = client.read_until_close()
    assert data == b""


# Bodiless.


def test_head_waits_for_no_body(pair: Pair) -> None:
    path = "/head"
    pair.upstream.on(path, raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"))
    with pair.daemon.client() as client:
        response = client.ask(get(path, method="HEAD"))
        assert response.get("Content-Length") == "1000"
        assert client.ask(get(path + "/x")).status == 200
    assert pair.reused(path)


def test_head_of_a_chunked_answer(pair: Pair) -> None:
    path = "/head/chunked"
    pair.upstream.on(path, raw_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
    with pair.daemon.client() as client:
        assert client.ask(get(path, method="HEAD")).status == 200
        assert client.ask(get(path + "/x")).status == 200
    assert pair.reused(path)


def test_head_without_any_framing_keeps_the_client(pair: Pair) -> None:
    path = "/head/bare"
    pair.upstream.on(path, raw_answer(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"))
    with pair.daemon.client() as client:
        assert client.ask(get(path, method="HEAD")).status == 200
        assert client.ask(get(path + "/x")).status == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["204", "304", "304 with CL", "304 with TE"],
)
def test_204_and_304_have_no_body(pair: Pair, data: bytes, version: str) -> None:
    path = f"/bodiless/{version}/{data[9:].hex()}"
    pair.upstream.on(path, raw_answer(data))
    with pair.daemon.client() as client:
        response = client.ask(get(path, "Connection: keep-alive", version=version))
        assert response.status == int(data[9:12])
        assert client.ask(get(path + "/x")).status == 200
    assert pair.reused(path)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["CL 5", "CL 0", "TE"],
)
def test_204_with_framing_is_made_plain_or_refused(pair: Pair, data: bytes) -> None:
    """RFC 9110 §8.6, RFC 9112 §6.1: such fields must not stand in it."""
    response = pair.relay(f"/framed-204/{data[9:].hex()}", data)
    assert response.status in (204, 502)


def test_a_body_after_204_is_not_the_next_answer(pair: Pair) -> None:
    path = "/204/body"
    response = pair.relay(path, b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil")
    assert response.status == 204
    assert not pair.reused(path)


def test_a_body_after_head_is_not_the_next_answer(pair: Pair) -> None:
    path = "/head/body"
    pair.upstream.on(path, raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
    with pair.daemon.client() as client:
        assert client.ask(get(path, method="HEAD")).status == 200
        assert client.ask(get(path + "/x")).body == b"ok"
    assert not pair.reused(path)


def test_205_and_cl_0(pair: Pair) -> None:
    response = pair.relay("/205", b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")
    assert (response.status, response.body) == (205, b"")


def test_empty_chunked_answer(pair: Pair) -> None:
    response = pair.relay(
        "/empty", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert response.body == b""
    assert pair.reused("/empty")


# HTTP/1.0 clients and upstreams; bodies until close.


def test_http_1_0_never_gets_chunked(pair: Pair) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    path = "/old/chunked"
    response = pair.relay(path, data, get(path, "Connection: keep-alive", version="1.0"))
    assert response.body == b"hello"
    assert response.framing in ("close", "length")
    assert response.all("Transfer-Encoding") == []


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("upstream", ["1.0", "1.1"])
def test_a_body_until_close_is_reframed(pair: Pair, version: str, upstream: str) -> None:
    """Chunked for HTTP/1.1, whose connection goes on; until close for HTTP/1.0."""
    path = f"/until-close/{version}/{upstream}"
    data = f"HTTP/{upstream} 200 OK\r\nX-A: b\r\n\r\n".encode() + b"x" * 50000
    pair.upstream.on(path, raw_answer(data, close=True))
    with pair.daemon.client() as client:
        response = client.ask(get(path, version=version))
        assert response.body == b"x" * 50000
        assert response.framing == ("chunked" if version == "1.1" else "close")
        if version == "1.1":
            assert client.ask(get(path + "/x")).status == 200


def test_an_empty_body_until_close(pair: Pair) -> None:
    path = "/until-close/empty"
    response = pair.relay(path, b"HTTP/1.1 200 OK\r\n\r\n", close=True)
    assert response.body == b""


def test_an_http_1_0_upstream_is_not_reused_unless_it_says_so(pair: Pair) -> None:
    for number, (line, reused) in enumerate([(b"", False), (b"Connection: keep-alive\r\n", True)]):
        path = f"/old-upstream/{number}"
        response = pair.relay(path, b"HTTP/1.0 200 OK\r\n" + line + b"Content-Length: 2\r\n\r\nok")
        assert response.body == b"ok"
        assert response.version == "1.1"
        assert pair.reused(path) is reused


def test_connection_close_of_the_upstream_is_honoured(pair: Pair) -> None:
    path = "/closing"
    response = pair.relay(
        path, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    )
    assert not response.closes
    assert not pair.reused(path)


def test_the_upstream_is_always_asked_in_1_1(pair: Pair) -> None:
    pair.relay(
        "/asked", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", get("/asked", version="1.0")
    )
    assert pair.upstream.wait_request("/asked").version == "HTTP/1.1"


# Stray bytes.


@pytest.mark.parametrize(
    "stray",
    [b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"],
    ids=["a byte", "an empty line", "an answer"],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_stray_bytes_end_a_connections_use(pair: Pair, stray: bytes, framing: str) -> None:
    """Nobody gets them for an answer."""
    path = f"/stray/{framing}/{stray.hex()}"
    whole = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
    }[framing]
    with pair.daemon.client() as client:
        pair.upstream.on(path, raw_answer(whole + stray))
        assert client.ask(get(path)).body == b"good"
        assert client.ask(get(path + "/x")).body == b"ok"
    assert not pair.reused(path)


def test_stray_bytes_that_come_later_end_a_connections_use(pair: Pair) -> None:
    """While it is idle in the pool, too."""

    def play(connection: object, request: Recorded) -> None:
        raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")(request.connection, request)

    pair.upstream.on("/stray/later", play)
    assert pair.daemon.get("/stray/later").body == b"good"
    connection = pair.upstream.wait_request("/stray/later").connection
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    pair.upstream.wait_until(lambda: connection.ended is not None, what="the connection's end")
    assert pair.daemon.get("/stray/after").body == b"ok"


def test_an_early_answer_is_not_mistaken_for_a_request_that_comes_later(pair: Pair) -> None:
    """An upstream that answers twice to one request spoils no pipelined neighbour."""
    path = "/twice"
    twice = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    pair.upstream.on(path, raw_answer(twice + b"good" + twice + b"evil"))
    with pair.daemon.client() as client:
        client.send(get(path) + get(path + "/b") + get(path + "/c"))
        assert [client.read_response().body for _ in range(3)] == [b"good", b"ok", b"ok"]
