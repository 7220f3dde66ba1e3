"""Keep-alive, pipelining, and leaving without breaking anything."""

from __future__ import annotations

import signal
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
    answer,
    configuration,
    eventually,
)
from tests.live.harness.upstream import late_body

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


def echo_path(connection: UpstreamConnection, request: Recorded) -> None:
    """Answer with the target, so that a mistaken answer shows."""
    connection.read_body(request)
    body = request.target.encode() + b" " + request.body
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    upstream.default = echo_path
    return Pair(module_daemon(configuration({"u": [upstream.endpoint]})), upstream)


def get(path: str, *lines: str, version: str = "1.1") -> bytes:
    """A GET as bytes."""
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: h", *lines, "", ""]).encode()


def post(path: str, body: bytes) -> bytes:
    """A POST as bytes."""
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Gate:
    """A handler that answers when the test opens it."""

    def __init__(self, data: bytes = OK) -> None:
        self.data = data
        self.opened = threading.Event()

    def __call__(self, connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_body(request)
        if self.opened.wait(15):
            connection.send(self.data)


# Pipelining.


@pytest.mark.parametrize("count", [2, 50])
def test_pipelined_requests_are_answered_in_order(pair: Pair, count: int) -> None:
    with pair.daemon.client() as client:
        client.send(b"".join(get(f"/pipe/{number}") for number in range(count)))
        for number in range(count):
            assert client.read_response().body == f"/pipe/{number} ".encode()


def test_the_slow_one_first_included(pair: Pair) -> None:
    gate = Gate(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")
    pair.upstream.on("/slow-first", gate)
    with pair.daemon.client() as client:
        client.send(get("/slow-first") + get("/quick/1") + get("/quick/2"))
        pair.upstream.wait_request("/slow-first")
        client.expect_silence(0.1)
        gate.opened.set()
        bodies = [client.read_response().body for _ in range(3)]
    assert bodies == [b"slow", b"/quick/1 ", b"/quick/2 "]


def test_bodies_between_pipelined_requests(pair: Pair) -> None:
    chunked = (
        b"POST /b/2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    with pair.daemon.client() as client:
        client.send(post("/b/1", b"one") + chunked + get("/b/3") + post("/b/4", b"x" * 50000))
        bodies = [client.read_response().body for _ in range(4)]
    assert bodies == [b"/b/1 one", b"/b/2 abc", b"/b/3 ", b"/b/4 " + b"x" * 50000]


def test_pipelined_requests_cut_at_every_byte(pair: Pair) -> None:
    wire = post("/cut/1", b"abc") + get("/cut/2")
    for index in range(1, len(wire)):
        with pair.daemon.client() as client:
            client.send(wire[:index])
            client.send(wire[index:])
            assert client.read_response().body == b"/cut/1 abc"
            assert client.read_response().body == b"/cut/2 "


def test_head_among_pipelined_requests(pair: Pair) -> None:
    head = get("/h/2").replace(b"GET", b"HEAD")
    pair.upstream.on("/h/2", answer(b""))
    with pair.daemon.client() as client:
        client.send(get("/h/1") + head + get("/h/3"))
        assert client.read_response().body == b"/h/1 "
        assert client.read_response("HEAD").status == 200
        assert client.read_response().body == b"/h/3 "


def test_an_error_in_the_middle(pair: Pair) -> None:
    """Earlier ones are answered, then 400 and the end; later ones are never read."""
    with pair.daemon.client() as client:
        client.send_anyway(get("/mid/1") + get("/mid/2") + b"BAD\r\n\r\n" + get("/mid/4"))
        assert client.read_response().body == b"/mid/1 "
        assert client.read_response().body == b"/mid/2 "
        response = client.read_response()
        assert response.status == 400
        assert response.closes
        client.expect_end()
    assert pair.daemon.get("/mid/fence").status == 200
    assert pair.upstream.find("/mid/4") == []


def test_an_error_behind_a_slow_one(pair: Pair) -> None:
    gate = Gate()
    pair.upstream.on("/mid/slow", gate)
    with pair.daemon.client() as client:
        client.send_anyway(get("/mid/slow") + b"BAD\r\n\r\n")
        pair.upstream.wait_request("/mid/slow")
        client.expect_silence(0.1)
        gate.opened.set()
        assert client.read_response().body == b"ok"
        assert client.read_response().status == 400
        client.expect_end()


def test_own_answers_keep_their_place_and_the_connection(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """A 404 between two answers of the upstream."""
    upstream = start_upstream()
    upstream.default = echo_path
    daemon = start_daemon(
        configuration(
            {"u": [upstream.endpoint]},
            routes=[{"name": "a", "match": {"path_prefix": "/a"}, "upstream": "u"}],
        )
    )
    with daemon.client() as client:
        client.send(get("/a/1") + get("/nowhere") + get("/a/2"))
        got = [client.read_response() for _ in range(3)]
    assert [item.status for item in got] == [200, 404, 200]
    assert (got[0].body, got[2].body) == (b"/a/1 ", b"/a/2 ")


def test_a_404_reads_its_body_before_the_next_request(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Or closes: a body never becomes a request."""
    upstream = start_upstream()
    upstream.default = echo_path
    daemon = start_daemon(
        configuration(
            {"u": [upstream.endpoint]},
            routes=[{"name": "a", "match": {"path_prefix": "/a"}, "upstream": "u"}],
        )
    )
    smuggled = get("/a/smuggled")
    with daemon.client() as client:
        client.send_anyway(post("/nowhere", smuggled) + get("/a/next"))
        response = client.read_response("POST")
        assert response.status == 404
        if response.closes:
            client.expect_end()
        else:
            assert client.read_response().body == b"/a/next "
    assert daemon.get("/a/fence").status == 200
    assert upstream.find("/a/smuggled") == []


def test_nobody_gets_anothers_answer(pair: Pair) -> None:
    """Sixteen clients at once, pipelining, each with paths of its own."""
    failures: list[str] = []

    def run(who: int) -> None:
        with pair.daemon.client(timeout=10) as client:
            for turn in range(25):
                paths = [f"/who/{who}/{turn}/{number}" for number in range(4)]
                client.send(b"".join(get(path) for path in paths))
                for path in paths:
                    body = client.read_response().body
                    if body != path.encode() + b" ":
                        failures.append(f"{path}: {body!r}")

    threads = [threading.Thread(target=run, args=(who,)) for who in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


def test_a_flood_of_pipelined_requests_is_held_back(pair: Pair) -> None:
    """While the first waits the rest is not read into memory without end."""
    gate = Gate()
    pair.upstream.on("/flood", gate)
    before = pair.daemon.resident()
    with pair.daemon.client(timeout=0.5) as client:
        client.send(get("/flood"))
        pair.upstream.wait_request("/flood")
        piece = get("/flooded") * 1000
        sent = 0
        try:
            while sent < 64 << 20:
                sent += client.socket.send(piece)
        except TimeoutError:
            pass
        assert sent < 32 << 20
        assert pair.daemon.resident() - before < 8 << 20
        gate.opened.set()
        client.socket.settimeout(5)
        assert client.read_response().body == b"ok"


# Keep-alive.


def test_connection_close_is_honoured(pair: Pair) -> None:
    with pair.daemon.client() as client:
        response = client.ask(get("/close", "Connection: close"))
        assert response.status == 200
        assert response.closes
        assert client.expect_end() == "closed"


def test_what_follows_connection_close_is_not_served(pair: Pair) -> None:
    with pair.daemon.client() as client:
        client.send_anyway(get("/close/1", "Connection: close") + get("/close/2"))
        assert client.read_response().status == 200
        client.expect_end()
    assert pair.daemon.get("/close/fence").status == 200
    assert pair.upstream.find("/close/2") == []


@pytest.mark.parametrize("value", ["Close", "keep-alive, close", "x,close,y"])
def test_close_is_a_token_without_case(pair: Pair, value: str) -> None:
    with pair.daemon.client() as client:
        assert client.ask(get("/token", f"Connection: {value}")).closes
        client.expect_end()


def test_http_1_0_is_kept_only_if_asked(pair: Pair) -> None:
    with pair.daemon.client() as client:
        assert client.ask(get("/old", version="1.0")).closes
        assert client.expect_end() == "closed"
    with pair.daemon.client() as client:
        for _ in range(2):
            response = client.ask(get("/old", "Connection: keep-alive", version="1.0"))
            tokens = ",".join(response.all("Connection")).lower()
            assert "keep-alive" in tokens
        client.expect_silence(0.05)


def test_the_upstream_keeps_its_connection(pair: Pair) -> None:
    """Requests of many clients, one after another, share one."""
    for number in range(10):
        assert pair.daemon.get(f"/keep/{number}").status == 200
    used = {pair.upstream.find(f"/keep/{number}")[0].connection.number for number in range(10)}
    assert len(used) == 1


# Draining.


@pytest.fixture
def draining(start_daemon: StartDaemon, start_upstream: StartUpstream) -> Pair:
    upstream = start_upstream()
    upstream.default = echo_path
    return Pair(
        start_daemon(configuration({"u": [upstream.endpoint]}, drain_timeout="5s")), upstream
    )


def terminate(daemon: Daemon) -> None:
    """SIGTERM, and wait until it is felt: /readyz says so or the listener is gone."""
    daemon.signal(signal.SIGTERM)

    def felt() -> bool:
        try:
            RawClient(daemon.address).close()
        except OSError:
            return True
        return False

    eventually(felt, 3, "the listener's end")


def test_sigterm_lets_requests_in_flight_finish(draining: Pair) -> None:
    """They get their answers, with Connection: close, and the exit is 0."""
    gate = Gate()
    draining.upstream.on("/flight", gate)
    with draining.daemon.client() as client:
        client.send(get("/flight"))
        draining.upstream.wait_request("/flight")
        terminate(draining.daemon)
        gate.opened.set()
        response = client.read_response()
        assert (response.status, response.body) == (200, b"ok")
        assert response.closes
        assert client.expect_end() == "closed"
    assert draining.daemon.wait_exit() == 0


def test_sigterm_lets_bodies_flow_to_their_end(draining: Pair) -> None:
    upload, download = threading.Event(), Gate()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100000)
        download.opened.wait(5)
        connection.send(b"x" * 100000)

    draining.upstream.on("/down", play)
    with draining.daemon.client() as down, draining.daemon.client() as up:
        down.send(get("/down"))
        assert down.read_head().status == 200
        up.send(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf")
        draining.upstream.wait_request("/up")
        terminate(draining.daemon)
        download.opened.set()
        upload.set()
        assert down.read_exactly(200000) == b"x" * 200000
        up.send(b"done")
        assert up.read_response("POST").body == b"/up halfdone"
    assert draining.daemon.wait_exit() == 0


def test_keep_alive_that_was_promised_holds_for_a_moment(draining: Pair) -> None:
    """The head went out before the drain: the next request may be under way when the body ends."""
    finish = threading.Event()
    draining.upstream.on("/promised", late_body(finish))
    with draining.daemon.client() as client:
        client.send(get("/promised"))
        assert not client.read_head().closes
        terminate(draining.daemon)
        finish.set()
        assert client.read_exactly(2) == b"ok"
        response = client.ask(get("/next"))
        assert (response.status, response.closes) == (200, True)


def test_sigterm_closes_idle_connections(draining: Pair) -> None:
    with draining.daemon.client() as idle, draining.daemon.client() as fresh:
        assert idle.ask(get("/idle")).status == 200
        draining.daemon.signal(signal.SIGTERM)
        assert idle.expect_end() == "closed"
        assert fresh.expect_end() == "closed"
    assert draining.daemon.wait_exit(3) == 0


def test_sigint_is_the_same(draining: Pair) -> None:
    draining.daemon.signal(signal.SIGINT)
    assert draining.daemon.wait_exit(3) == 0


def test_a_head_that_has_begun_is_served(draining: Pair) -> None:
    """While draining every request received is still served; never a 503 for draining."""
    gate = Gate()
    draining.upstream.on("/holds", gate)
    with draining.daemon.client() as holder, draining.daemon.client() as client:
        holder.send(get("/holds"))
        draining.upstream.wait_request("/holds")
        client.send(b"GET /begun HTTP/1.1\r\nHo")
        # The fence: what went before it on another connection has been read.
        assert draining.daemon.get("/fence").status == 200
        terminate(draining.daemon)
        client.send(b"st: h\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.body) == (200, b"/begun ")
        assert response.closes
        gate.opened.set()
        assert holder.read_response().status == 200
    assert draining.daemon.wait_exit() == 0


def test_pipelined_requests_received_before_sigterm_are_served(draining: Pair) -> None:
    gate = Gate()
    draining.upstream.on("/pipe/slow", gate)
    with draining.daemon.client() as client:
        client.send(get("/pipe/slow") + get("/pipe/behind"))
        draining.upstream.wait_request("/pipe/slow")
        terminate(draining.daemon)
        gate.opened.set()
        assert client.read_response().body == b"ok"
        last = client.read_response()
        assert last.body == b"/pipe/behind "
        assert last.closes
        client.expect_end()
    assert draining.daemon.wait_exit() == 0


def test_a_second_sigterm_leaves_at_once(draining: Pair) -> None:
    gate = Gate()
    draining.upstream.on("/never", gate)
    with draining.daemon.client() as client:
        client.send(get("/never"))
        draining.upstream.wait_request("/never")
        terminate(draining.daemon)
        began = time.monotonic()
        draining.daemon.signal(signal.SIGTERM)
        draining.daemon.wait_exit(3)
        assert time.monotonic() - began < 2
        data, _ = client.read_until_close()
        assert b"200" not in data[:12]
    gate.opened.set()


def test_the_drains_deadline_holds(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """A request that never ends is cut after drain_timeout, and the exit is clean."""
    upstream = start_upstream()
    upstream.on("/never", Gate())
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}, drain_timeout="700ms"))
    with daemon.client() as client:
        client.send(get("/never"))
        request = upstream.wait_request("/never")
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        data, _ = client.read_until_close()
        assert daemon.wait_exit(5) == 0
        assert 0.5 < time.monotonic() - began < 3.5
        assert not data.startswith(b"HTTP/1.1 200")
    assert request.complete
    upstream.handlers["/never"].opened.set()  # type: ignore[attr-defined]


def test_tunnels_get_the_drains_time_and_no_more(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
        )
        while data := connection.recv():
            connection.send(data)

    upstream.on("/tunnel", play)
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}, drain_timeout="1s"))
    with daemon.client() as client:
        client.send(get("/tunnel", "Connection: Upgrade", "Upgrade: x"))
        assert client.read_head().status == 101
        terminate(daemon)
        client.send(b"still here")
        assert client.read_exactly(10) == b"still here"
        client.expect_end()
    assert daemon.wait_exit(5) == 0


def test_drain_delay_unreadies_before_listeners_close(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """/readyz says 503 while the listener still serves, with Connection: close."""
    upstream = start_upstream()
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}, drain_delay="1s"))
    daemon.signal(signal.SIGTERM)
    eventually(lambda: daemon.ask_admin("GET", "/readyz").status == 503, 1, "/readyz 503")
    response = daemon.get("/during")
    assert response.status == 200
    assert response.closes
    assert daemon.ask_admin("GET", "/healthz").status == 200
    assert daemon.wait_exit(5) == 0


def test_sigterm_under_load_breaks_no_answer(draining: Pair) -> None:
    """Every request that was taken is answered whole; refused or closed at once is the rest."""
    broken: list[str] = []
    served = [0]
    enough = threading.Event()

    def run() -> None:
        while True:
            try:
                client = draining.daemon.client()
            except OSError:
                return
            with client:
                while True:
                    try:
                        client.send(get("/load"))
                    except OSError:
                        break
                    try:
                        response = client.read_response()
                    except (Closed, Reset):
                        # Idle when the drain began: RFC 9112 §9.5 leaves the client to retry.
                        break
                    except AssertionError as error:
                        broken.append(repr(error))
                        break
                    if response.status != 200:
                        broken.append(str(response.status))
                    served[0] += 1
                    if served[0] > 200:
                        enough.set()
                    if response.closes:
                        break

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(10)
    draining.daemon.signal(signal.SIGTERM)
    for thread in threads:
        thread.join(10)
    assert draining.daemon.wait_exit(6) == 0
    assert broken == []
