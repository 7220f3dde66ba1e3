"""The client leaves, stops reading, or resets."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    Recorded,
    ScriptedUpstream,
    UpstreamConnection,
    configuration,
    eventually,
)
from tests.live.harness.upstream import Gone

MIB = 1 << 20


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream(receive_buffer=65536)
    return Pair(module_daemon(configuration({"u": [upstream.endpoint]})), upstream)


def get(path: str) -> bytes:
    """A GET as bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def wait(connection: UpstreamConnection, request: Recorded) -> None:
    """Never answer."""
    connection.wait_end()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_leaving_before_the_response_cancels_the_upstreams_request(pair: Pair, how: str) -> None:
    """Within a second, and the log says 499 client_gone."""
    path = f"/gone/{how}"
    pair.upstream.on(path, wait)
    client = pair.daemon.client()
    client.send(get(path))
    request = pair.upstream.wait_request(path)
    began = time.monotonic()
    getattr(client, how)()
    pair.upstream.wait_ended(request, timeout=1)
    assert time.monotonic() - began < 1
    entry = pair.daemon.access(lambda item: item["path"] == path)
    assert (entry["status"], entry["reason"]) == (499, "client_gone")
    assert pair.daemon.sample("requests_total", code="499") >= 1


def test_a_half_closed_client_still_gets_its_answer_or_a_clear_end(pair: Pair) -> None:
    """FIN after a whole request is allowed by RFC 9112 §9.6; peers differ on what it means."""
    release = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        release.wait(2)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    pair.upstream.on("/half", play)
    with pair.daemon.client() as client:
        client.send(get("/half"))
        pair.upstream.wait_request("/half")
        client.half_close()
        release.set()
        data, _ = client.read_until_close()
    assert data == b"" or (data.startswith(b"HTTP/1.1 200 ") and data.endswith(b"ok"))


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_leaving_in_mid_body_stops_the_reading(pair: Pair, how: str, framing: str) -> None:
    """The upstream's connection ends; an endless answer is not read for nobody."""
    path = f"/endless/{framing}/{how}"

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        if framing == "length":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        else:
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n" if framing == "chunked" else b"x" * 65536
        while True:
            connection.send(piece)

    pair.upstream.on(path, play)
    client = pair.daemon.client()
    client.send(get(path))
    assert client.read_head().status == 200
    client.read_exactly(MIB)
    getattr(client, how)()
    request = pair.upstream.wait_request(path)
    pair.upstream.wait_ended(request, timeout=2)
    entry = pair.daemon.access(lambda item: item["path"] == path)
    assert entry["reason"] == "client_gone"
    assert pair.daemon.get("/after/endless").status == 200


@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_a_client_that_stops_reading_is_felt_by_the_upstream(pair: Pair, framing: str) -> None:
    """The gateway holds little; the rest waits in the upstream."""
    path = f"/pressure/{framing.replace(' ', '-')}"
    sent = [0]
    stalled = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        if framing == "length":
            head = b"Content-Length: 1000000000"
        elif framing == "chunked":
            head = b"Transfer-Encoding: chunked"
        else:
            head = b"Connection: close"
        connection.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        piece = b"4000\r\n" + b"x" * 16384 + b"\r\n" if framing == "chunked" else b"x" * 16384
        connection.socket.settimeout(0.5)
        try:
            while sent[0] < 200 * MIB:
                sent[0] += connection.socket.send(piece)
        except TimeoutError:
            stalled.set()
        except OSError as error:
            raise Gone from error
        connection.wait_end()

    pair.upstream.on(path, play)
    before = pair.daemon.resident()
    client = pair.daemon.client(receive_buffer=65536)
    try:
        client.send(get(path))
        assert stalled.wait(15), f"the upstream could send {sent[0]} bytes"
        # Socket buffers on the way are the kernel's: up to 6 MiB each; ours is a pipe or read_ahead.
        assert sent[0] < 32 * MIB
        assert pair.daemon.resident() - before < 8 * MIB
        assert pair.daemon.get("/beside/pressure").status == 200
    finally:
        client.close()
    pair.upstream.wait_ended(pair.upstream.wait_request(path))


def test_a_slow_upstream_is_felt_by_an_uploading_client(pair: Pair) -> None:
    """An upload that nobody reads stops the client, not the gateway's memory."""
    held = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        held.wait(20)
        for _ in connection.body_pieces(request):
            pass
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pair.upstream.on("/upload/held", play)
    before = pair.daemon.resident()
    total = 64 * MIB
    with pair.daemon.client(timeout=0.7) as client:
        client.send(
            f"POST /upload/held HTTP/1.1\r\nHost: h\r\nContent-Length: {total}\r\n\r\n".encode()
        )
        sent = 0
        piece = memoryview(b"x" * 65536)
        with contextlib.suppress(TimeoutError):
            while sent < total:
                sent += client.socket.send(piece[: total - sent])
        assert sent < 32 * MIB
        assert pair.daemon.resident() - before < 8 * MIB
        held.set()
        client.socket.settimeout(10)
        while sent < total:
            sent += client.socket.send(piece[: total - sent])
        assert client.read_response("POST").status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_leaving_in_an_upload_aborts_the_upstreams_request(
    pair: Pair, how: str, framing: str
) -> None:
    """The upstream never takes the half for a whole."""
    path = f"/upload/{framing}/{how}"
    field = "Content-Length: 1000000" if framing == "length" else "Transfer-Encoding: chunked"
    body = b"x" * 1000 if framing == "length" else b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    client = pair.daemon.client()
    client.send(f"POST {path} HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n".encode() + body)
    request = pair.upstream.wait_request(path)
    pair.upstream.wait_until(lambda: len(request.body) >= 1000, what="the first piece")
    getattr(client, how)()
    pair.upstream.wait_ended(request, timeout=1)
    assert not request.complete
    assert pair.daemon.access(lambda item: item["path"] == path)["reason"] in (
        "client_gone",
        "body_cut",
    )


def test_a_pipelined_request_of_a_client_that_left_is_never_served(pair: Pair) -> None:
    """What waits behind an unanswered one dies with its connection."""
    pair.upstream.on("/pipe/first", wait)
    client = pair.daemon.client()
    client.send(get("/pipe/first") + get("/pipe/second"))
    request = pair.upstream.wait_request("/pipe/first")
    client.reset()
    pair.upstream.wait_ended(request, timeout=2)
    assert pair.daemon.get("/pipe/fence").status == 200
    assert pair.upstream.find("/pipe/second") == []


def test_a_client_that_left_costs_nobody_anything(pair: Pair) -> None:
    """A hundred that come and go leave no connection and no request behind."""
    pair.upstream.on("/crowd", wait)
    clients = [pair.daemon.client() for _ in range(100)]
    for client in clients:
        client.send(get("/crowd"))
    pair.upstream.wait_until(lambda: len(pair.upstream.find("/crowd")) >= 100, 10)
    for client in clients:
        client.reset()
    pair.upstream.wait_until(
        lambda: all(
            item.connection.ended for item in pair.upstream.requests if item.path == "/crowd"
        ),
        10,
    )

    eventually(lambda: pair.daemon.sample("requests_in_flight") == 0, what="no request in flight")
    eventually(lambda: pair.daemon.sample("client_connections") == 0, what="no connection open")
