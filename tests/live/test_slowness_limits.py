"""Slow clients and the limits of a listener."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from dataclasses import dataclass

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Closed,
    Daemon,
    RawClient,
    Recorded,
    Reset,
    ScriptedUpstream,
    UpstreamConnection,
    configuration,
    eventually,
    free_port,
)

KIB = 1 << 10


@dataclass
class House:
    """A gateway with a listener for each limit."""

    daemon: Daemon
    upstream: ScriptedUpstream

    def connect(self, listener: str, timeout: float = 5.0) -> RawClient:
        """A new connection to a listener."""
        return RawClient(self.daemon.address_of(listener), timeout=timeout)

    def quiet(self, path: str) -> None:
        """The upstream has seen no request to *path*, and a later one comes through."""
        assert self.daemon.get("/fence").status == 200
        assert self.upstream.find(path) == []


@pytest.fixture(scope="module")
def house(module_daemon: StartDaemon, module_upstream: StartUpstream) -> House:
    upstream = module_upstream()

    def listener(**more: object) -> dict[str, object]:
        return {"address": f"127.0.0.1:{free_port()}", **more}

    document = configuration({"u": [upstream.endpoint]})
    document["listeners"].update(
        slow=listener(timeouts={"header": "400ms", "read": "400ms", "idle": "400ms"}),
        fields=listener(limits={"max_headers": 10}),
        head=listener(limits={"max_header_bytes": "8KiB"}),
        body=listener(limits={"max_body_bytes": 1000}),
        rate=listener(limits={"min_body_rate": "10000/s"}, timeouts={"read": "30s"}),
        memory=listener(limits={"max_header_memory": "256KiB"}),
        write=listener(timeouts={"write": "400ms"}),
    )
    return House(module_daemon(document), upstream)


GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


# Slowness.


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nX-A"])
def test_a_slow_head_is_408_and_others_are_served(house: House, part: bytes) -> None:
    with house.connect("slow") as slow:
        began = time.monotonic()
        slow.send(part)
        with house.connect("slow") as other:
            assert other.ask(GET).status == 200
        response = slow.read_response()
        assert response.status == 408
        assert response.closes
        slow.expect_end()
        assert 0.2 < time.monotonic() - began < 2.5


def test_a_trickled_head_is_408_too(house: House) -> None:
    """The deadline is for the whole head, not between two of its bytes."""
    pause = threading.Event()
    with house.connect("slow") as client:
        for byte in b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: aaaaaaaaaaaaaaa\r\n\r\n":
            try:
                client.send(bytes([byte]))
            except OSError:
                break
            pause.wait(0.1)
            client.socket.settimeout(0.001)
            with contextlib.suppress(TimeoutError):
                client.buffer += client.socket.recv(4096)
            client.socket.settimeout(5)
            if client.buffer:
                break
        assert client.read_response().status == 408


def test_silence_from_accept_on_is_closed_silently(house: House) -> None:
    with house.connect("slow") as client:
        began = time.monotonic()
        assert client.expect_end() == "closed"
        assert 0.2 < time.monotonic() - began < 2.5


def test_idle_keep_alive_is_closed_silently(house: House) -> None:
    with house.connect("slow") as client:
        assert client.ask(GET).status == 200
        began = time.monotonic()
        assert client.expect_end() == "closed"
        assert 0.2 < time.monotonic() - began < 2.5


def test_a_second_head_that_is_slow_is_408(house: House) -> None:
    with house.connect("slow") as client:
        assert client.ask(GET).status == 200
        client.send(b"GET /second")
        assert client.read_response().status == 408
        client.expect_end()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_slow_body_is_408(house: House, framing: str) -> None:
    """And the upstream's request is aborted, others are served."""
    path = f"/slow/{framing}"
    field = "Content-Length: 10" if framing == "length" else "Transfer-Encoding: chunked"
    body = b"x" if framing == "length" else b"5\r\nx"
    with house.connect("slow") as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n".encode() + body)
        with house.connect("slow") as other:
            assert other.ask(GET).status == 200
        response = client.read_response("POST")
        assert response.status == 408
        assert response.closes
        client.expect_end()
    request = house.upstream.wait_request(path)
    house.upstream.wait_ended(request, 2)
    assert not request.complete
    assert house.daemon.access(lambda item: item["path"] == path)["reason"] == "slow_request"


def test_a_body_that_moves_lives(house: House) -> None:
    """Longer than read in all, never silent for so long."""
    pause = threading.Event()
    with house.connect("slow") as client:
        client.send(b"POST /moves HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            pause.wait(0.15)
            client.send(b"x")
        assert client.read_response("POST").status == 200
    assert house.upstream.wait_request("/moves").body == b"x" * 8


def test_a_body_below_the_least_rate_is_408(house: House) -> None:
    """A byte a second keeps read's timer happy and holds a slot for ever: over 10 s it is not."""
    pause = threading.Event()
    with house.connect("rate", timeout=0.25) as client:
        client.send(b"POST /rate HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        began = time.monotonic()
        while time.monotonic() - began < 20 and not client.buffer:
            client.send_anyway(b"x" * 10)
            pause.wait(0.05)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                client.buffer += client.socket.recv(4096)
        client.socket.settimeout(5)
        assert client.read_response("POST").status == 408
        assert time.monotonic() - began > 8


def test_a_client_that_takes_nothing_is_cut(house: House) -> None:
    """After timeouts.write; the upstream's connection goes too."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        while True:
            connection.send(piece)

    house.upstream.on("/takes-nothing", play)
    address = house.daemon.address_of("write")
    with RawClient(address, receive_buffer=32768) as client:
        client.send(b"GET /takes-nothing HTTP/1.1\r\nHost: h\r\n\r\n")
        request = house.upstream.wait_request("/takes-nothing")
        house.upstream.wait_ended(request, 5)


# Heads.


@pytest.mark.parametrize("size", [65 * KIB, 200 * KIB])
def test_a_long_target_is_414(house: House, size: int) -> None:
    target = "/long-" + "x" * size
    with house.daemon.client() as client:
        client.send_anyway(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        response = client.read_response()
        assert response.status == 414
        assert response.closes
    house.quiet(target)


def test_a_request_line_without_end_is_414(house: House) -> None:
    """Refused at the limit, not at an end that never comes."""
    with house.daemon.client() as client:
        client.send_anyway(b"GET /" + b"x" * 70 * KIB)
        assert client.read_response().status == 414


def test_a_target_under_the_limit_is_served(house: House) -> None:
    target = "/long?" + "x" * 60 * KIB
    assert house.daemon.get(target).status == 200
    assert house.upstream.find("/long")[0].target == target


@pytest.mark.parametrize("count", [11, 1000])
def test_many_fields_are_431(house: House, count: int) -> None:
    lines = b"".join(b"X-%d: x\r\n" % number for number in range(count - 1))
    with house.connect("fields") as client:
        client.send_anyway(b"GET /many HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n")
        response = client.read_response()
        assert response.status == 431
        assert response.closes
    house.quiet("/many")


def test_as_many_fields_as_allowed_are_served(house: House) -> None:
    lines = b"".join(b"X-%d: x\r\n" % number for number in range(9))
    with house.connect("fields") as client:
        assert client.ask(b"GET /ten HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n").status == 200


@pytest.mark.parametrize("size", [8 * KIB, 100 * KIB])
def test_a_large_head_is_431(house: House, size: int) -> None:
    with house.connect("head") as client:
        client.send_anyway(b"GET /large HTTP/1.1\r\nHost: h\r\nX-A: " + b"x" * size + b"\r\n\r\n")
        response = client.read_response()
        assert response.status == 431
        assert response.closes
    house.quiet("/large")


def test_a_head_without_end_is_431(house: House) -> None:
    with house.connect("head") as client:
        client.send_anyway(b"GET /endless HTTP/1.1\r\nHost: h\r\nX-A: " + b"x" * 9 * KIB)
        assert client.read_response().status == 431


def test_a_head_under_the_limit_is_served(house: House) -> None:
    with house.connect("head") as client:
        request = b"GET /fits HTTP/1.1\r\nHost: h\r\nX-A: " + b"x" * 7 * KIB + b"\r\n\r\n"
        assert client.ask(request).status == 200


def test_unfinished_heads_have_a_limit_together(house: House) -> None:
    """Over it the largest get 431; the rest is served."""
    clients = [house.connect("memory") for _ in range(12)]
    try:
        for number, client in enumerate(clients):
            size = (16 + 3 * number) * KIB
            client.send_anyway(b"GET /m HTTP/1.1\r\nHost: h\r\nX-A: " + b"x" * size)
        largest = clients[-1]
        assert largest.read_response().status == 431
        with house.connect("memory") as other:
            assert other.ask(GET).status == 200
        clients[0].send(b"\r\n\r\n")
        assert clients[0].read_response().status == 200
    finally:
        for client in clients:
            client.close()


# Bodies.


def test_a_large_cl_is_413_before_the_body(house: House) -> None:
    with house.connect("body") as client:
        client.send(b"POST /big HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n")
        response = client.read_response("POST")
        assert response.status == 413
        assert response.closes
        client.expect_end()
    house.quiet("/big")


def test_a_large_cl_with_expect_is_413_without_100(house: House) -> None:
    with house.connect("body") as client:
        client.send(
            b"POST /big/expect HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        response = client.read_response("POST")
        assert (response.status, response.interim) == (413, [])
    house.quiet("/big/expect")


def test_chunked_over_the_limit_is_413_and_never_whole(house: House) -> None:
    with house.connect("body") as client:
        client.send_anyway(
            b"POST /big/chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"64\r\n" + b"x" * 100 + b"\r\n") * 11
            + b"0\r\n\r\n"
        )
        response = client.read_response("POST")
        assert response.status == 413
        assert response.closes
        client.expect_end()
    assert house.daemon.get("/fence").status == 200
    assert not any(request.complete for request in house.upstream.find("/big/chunked"))
    entry = house.daemon.access(lambda item: item["path"] == "/big/chunked")
    assert entry["reason"] == "too_large"


def test_one_chunk_over_the_limit_is_413(house: House) -> None:
    """However long it is said to be: the bytes count."""
    with house.connect("body") as client:
        client.send(
            b"POST /big/one HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n"
            + b"x" * 1001
        )
        assert client.read_response("POST").status == 413


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_of_just_the_limit_is_served(house: House, framing: str) -> None:
    field = b"Content-Length: 1000" if framing == "length" else b"Transfer-Encoding: chunked"
    body = b"x" * 1000
    wire = body if framing == "length" else b"3e8\r\n" + body + b"\r\n0\r\n\r\n"
    path = f"/limit/{framing}"
    with house.connect("body") as client:
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\n".encode()
        assert client.ask(head + field + b"\r\n\r\n" + wire).status == 200
    assert house.upstream.wait_request(path).body == body


# Connections and descriptors.


def test_the_connection_cap(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    """Over it accepting pauses: further clients wait, and are served when one leaves."""
    upstream = start_upstream()
    hold = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        hold.wait(10)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.on("/hold", play)
    daemon = start_daemon(
        configuration({"u": [upstream.endpoint]}, listener={"limits": {"max_connections": 3}})
    )
    clients = [daemon.client() for _ in range(3)]
    for client in clients:
        client.send(b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream.wait_until(lambda: len(upstream.find("/hold")) == 3, what="three in flight")
    with daemon.client() as late:
        late.send(b"GET /late HTTP/1.1\r\nHost: h\r\n\r\n")
        late.expect_silence(0.4)
        assert upstream.find("/late") == []
        assert daemon.sample("accept_paused", listener="web") >= 1
        hold.set()
        for client in clients:
            assert client.read_response().status == 200
            client.close()
        assert late.read_response().status == 200


def test_an_idle_connection_makes_room_at_the_cap(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """The longest idle kept one closes before accepting pauses."""
    upstream = start_upstream()
    daemon = start_daemon(
        configuration({"u": [upstream.endpoint]}, listener={"limits": {"max_connections": 3}})
    )
    clients = [daemon.client() for _ in range(3)]
    for number, client in enumerate(clients):
        assert client.ask(f"GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode()).status == 200
    with daemon.client() as late:
        assert late.ask(GET).status == 200
    assert clients[0].expect_end() in ("closed", "reset")
    for client in clients:
        client.close()


def test_out_of_descriptors_recovers(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Too many clients for the process: it lives, and serves when some have left."""
    upstream = start_upstream()

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    daemon = start_daemon(configuration({"u": [upstream.endpoint]}), preexec=few)
    assert daemon.get("/before").status == 200
    crowd = []
    for _ in range(150):
        client = daemon.client(timeout=1)
        client.send(b"GET /crowd HTTP/1.1\r\nHost: h\r\n\r\n")
        crowd.append(client)
    for client in crowd:
        with contextlib.suppress(TimeoutError, Closed, Reset, OSError):
            client.socket.settimeout(0.01)
            client.read_response()
        client.close()

    def served() -> bool:
        try:
            return daemon.ask(b"GET /after HTTP/1.1\r\nHost: h\r\n\r\n", timeout=1).status == 200
        except (TimeoutError, AssertionError, OSError):
            return False

    eventually(served, 10, "an answer after the crowd")
    assert daemon.process.poll() is None


def test_slow_clients_cost_little_memory(house: House) -> None:
    """Two hundred that send half a head."""
    before = house.daemon.resident()
    crowd = [house.daemon.client() for _ in range(200)]
    try:
        for client in crowd:
            client.send(b"GET /crowd HTTP/1.1\r\nHost: h\r\nX-A: " + b"x" * 1000)
        assert house.daemon.get("/beside/crowd").status == 200
        assert house.daemon.resident() - before < 8 << 20
    finally:
        for client in crowd:
            client.close()
