"""Expect: 100-continue, other 1xx, upgrades and the tunnels behind them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    RawClient,
    Recorded,
    ScriptedUpstream,
    UpstreamConnection,
    configuration,
    raw_answer,
)
from tests.live.harness.upstream import Gone

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    routes = [
        {
            "name": "short",
            "match": {"path_prefix": "/short"},
            "upstream": "u",
            "timeouts": {"tunnel": "500ms"},
        },
        {"name": "all", "upstream": "u"},
    ]
    document = configuration(
        {
            "u": {
                "endpoints": [upstream.endpoint],
                "timeouts": {"read": "400ms", "write": "400ms", "response_header": "2s"},
            }
        },
        routes=routes,
        listener={"timeouts": {"idle": "400ms", "read": "400ms", "write": "400ms"}},
    )
    return Pair(module_daemon(document), upstream)


def expecting(path: str, body: bytes = b"hello", *, version: str = "HTTP/1.1") -> bytes:
    """The head of a POST that waits for 100."""
    return (
        f"POST {path} {version}\r\nHost: h\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()


def upgrading(path: str, *lines: str, protocol: str = "websocket") -> bytes:
    """The head of an upgrade."""
    head = [f"GET {path} HTTP/1.1", "Host: h", "Connection: Upgrade", f"Upgrade: {protocol}"]
    return "\r\n".join([*head, *lines, "", ""]).encode()


# Expect.


def test_100_continue_end_to_end(pair: Pair) -> None:
    """The client sends its body only after 100, and the upstream gets it then."""
    order: list[str] = []

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        order.append("head")
        connection.send(CONTINUE)
        connection.read_body(request)
        order.append("body")
        connection.send(OK)

    pair.upstream.on("/continue", play)
    with pair.daemon.client() as client:
        client.send(expecting("/continue"))
        interim = client.read_head()
        assert interim.status == 100
        client.send(b"hello")
        response = client.read_response("POST")
        assert (response.status, response.interim) == (200, [])
        assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
    assert order == ["head", "body"]
    request = pair.upstream.wait_request("/continue")
    assert request.body == b"hello"


def test_an_upstream_that_skips_100_still_gets_the_body(pair: Pair) -> None:
    """A client that does not wait sends its body anyway; one answer, no second one."""
    pair.upstream.on("/skip", raw_answer(OK))
    with pair.daemon.client() as client:
        client.send(expecting("/skip") + b"hello")
        response = client.read_response("POST")
        assert response.status == 200
    assert pair.upstream.wait_request("/skip").body == b"hello"


def test_a_final_answer_without_100_is_relayed_and_the_connection_closes(pair: Pair) -> None:
    """Its unread body can never become the next request."""
    pair.upstream.on(
        "/refuse", raw_answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", read=False)
    )
    with pair.daemon.client() as client:
        client.send(expecting("/refuse"))
        response = client.read_response("POST")
        assert (response.status, response.body, response.interim) == (403, b"no", [])
        assert response.closes
        client.expect_end()
    assert not pair.upstream.wait_request("/refuse").complete


def test_http_1_0_gets_no_100(pair: Pair) -> None:
    """RFC 9110 §10.1.1: an expectation in HTTP/1.0 is ignored."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(CONTINUE)
        connection.read_body(request)
        connection.send(OK)

    pair.upstream.on("/old", play)
    with pair.daemon.client() as client:
        client.send(expecting("/old", version="HTTP/1.0") + b"hello")
        response = client.read_response("POST")
    assert (response.status, response.interim) == (200, [])
    assert pair.upstream.wait_request("/old").body == b"hello"


@pytest.mark.parametrize("value", ["100-Continue", "100-CONTINUE"])
def test_expect_is_compared_without_case(pair: Pair, value: str) -> None:
    pair.upstream.on(f"/case/{value}", raw_answer(CONTINUE + OK))
    with pair.daemon.client() as client:
        client.send(expecting(f"/case/{value}").replace(b"100-continue", value.encode()) + b"hello")
        assert client.read_response("POST").status == 200


@pytest.mark.parametrize("value", ["nonsense", "200-ok", "100-continue; a=b", "continue"])
def test_unknown_expectation_is_417(pair: Pair, value: str) -> None:
    path = f"/expectation/{value.encode().hex()}"
    with pair.daemon.client() as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\nExpect: {value}\r\n\r\n".encode())
        assert client.read_response().status == 417
    assert pair.upstream.find(path) == []


# Other 1xx.


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_103_is_relayed_and_never_final(pair: Pair, version: str) -> None:
    """And an HTTP/1.0 client gets none (RFC 9110 §15.2)."""
    path = f"/hints/{version}"
    pair.upstream.on(path, raw_answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + OK))
    with pair.daemon.client() as client:
        response = client.ask(f"GET {path} HTTP/{version}\r\nHost: h\r\n\r\n".encode())
    assert (response.status, response.body) == (200, b"ok")
    wanted = [(103, ["</a>"])] * 2 if version == "1.1" else []
    assert [(item.status, item.all("Link")) for item in response.interim] == wanted


def test_103_comes_before_its_final_answer(pair: Pair) -> None:
    """It is not held back until the answer."""
    release = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        release.wait(5)
        connection.send(OK)

    pair.upstream.on("/hints/first", play)
    with pair.daemon.client() as client:
        client.send(b"GET /hints/first HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.read_head().status == 103
        release.set()
        assert client.read_response().status == 200


def test_100_that_nobody_waits_for_does_no_harm(pair: Pair) -> None:
    pair.upstream.on("/unasked-100", raw_answer(CONTINUE + OK))
    with pair.daemon.client() as client:
        response = client.ask(b"GET /unasked-100 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (response.status, response.body) == (200, b"ok")
        assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 200


# Upgrades.


def echo(connection: UpstreamConnection, request: Recorded) -> None:
    """Switch, then send back all that comes, and the end too."""
    connection.send(SWITCH + b"hello;")
    if connection.buffer:
        connection.send(connection.buffer)
    with contextlib.suppress(Gone):
        while data := connection.recv():
            connection.send(data)
    connection.send(b";bye")
    connection.close()


def switched(client: RawClient, path: str, first: bytes = b"") -> None:
    """Upgrade a connection."""
    client.send(upgrading(path) + first)
    head = client.read_head()
    assert head.status == 101
    assert str(head.get("Upgrade")).lower() == "websocket"
    assert str(head.get("Connection")).lower() == "upgrade"


def test_101_is_relayed_with_bytes_both_ways(pair: Pair) -> None:
    """Bytes at once with either head are not lost; the client's half-close is passed on."""
    pair.upstream.on("/ws", echo)
    with pair.daemon.client() as client:
        switched(client, "/ws", b"frame sent with the handshake;")
        assert client.read_exactly(36) == b"hello;frame sent with the handshake;"
        for size in (1, 1000, 200000):
            client.send(b"x" * size)
            assert client.read_exactly(size) == b"x" * size
        client.half_close()
        assert client.read_until_close() == (b";bye", "closed")
    request = pair.upstream.wait_request("/ws")
    assert str(request.get("Upgrade")).lower() == "websocket"
    assert "upgrade" in str(request.get("Connection")).lower()


def test_upgrade_fields_and_hop_by_hop_of_101(pair: Pair) -> None:
    """What the handshake needs passes, other hop-by-hop fields do not."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade, X-P\r\nX-P: 1\r\nKeep-Alive: 5\r\nSec-WebSocket-Accept: s\r\n\r\n"
        )
        connection.wait_end()

    pair.upstream.on("/ws/fields", play)
    with pair.daemon.client() as client:
        client.send(
            upgrading("/ws/fields", "Sec-WebSocket-Key: k", "Keep-Alive: 5", "Proxy-Connection: x")
        )
        head = client.read_head()
    assert head.status == 101
    assert head.all("Sec-WebSocket-Accept") == ["s"]
    assert head.all("X-P") == head.all("Keep-Alive") == []
    assert head.all("Content-Length") == head.all("Transfer-Encoding") == []
    request = pair.upstream.wait_request("/ws/fields")
    assert request.all("Sec-WebSocket-Key") == ["k"]
    assert request.all("Keep-Alive") == request.all("Proxy-Connection") == []


def test_any_other_protocol_is_a_tunnel_too(pair: Pair) -> None:
    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(SWITCH.replace(b"websocket", b"custom/1") + b"go")
        connection.wait_end()

    pair.upstream.on("/custom", play)
    with pair.daemon.client() as client:
        client.send(upgrading("/custom", protocol="custom/1"))
        assert client.read_head().get("Upgrade") == "custom/1"
        assert client.read_exactly(2) == b"go"


def test_the_upstreams_half_close_is_passed_on(pair: Pair) -> None:
    """The client may go on sending after the upstream's end."""
    got: list[bytes] = []
    done = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(SWITCH + b"last words")
        connection.half_close()
        try:
            got.append(connection.read_exactly(14))
            connection.wait_end()
        finally:
            done.set()

    pair.upstream.on("/ws/half", play)
    with pair.daemon.client() as client:
        switched(client, "/ws/half")
        assert client.read_until_close() == (b"last words", "closed")
        client.send(b"still speaking")
        client.half_close()
        assert done.wait(5)
    assert got == [b"still speaking"]


def test_bulk_through_a_tunnel_is_whole(pair: Pair) -> None:
    """It goes past the gateway after a while; small words, pauses, and both half-closes after it too."""
    pair.upstream.on("/ws/bulk", echo)
    size = 24 << 20
    data = hashlib.sha256(b"seed").digest() * (size // 32)
    with pair.daemon.client(timeout=20) as client:
        switched(client, "/ws/bulk")
        assert client.read_exactly(6) == b"hello;"
        for turn in range(2):
            sender = threading.Thread(target=client.send, args=(data,))
            sender.start()
            if turn:
                time.sleep(0.3)  # full everywhere, for a while
            got = client.read_exactly(size)
            sender.join()
            assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
            client.send(b"small")
            assert client.read_exactly(5) == b"small"
        client.half_close()
        assert client.read_until_close() == (b";bye", "closed")
    entry = pair.daemon.access(lambda item: item["path"] == "/ws/bulk")
    assert entry["bytes_in"] == 2 * size + 10
    assert entry["bytes_out"] == 2 * size + 10 + 10


@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_an_end_in_the_middle_of_bulk(pair: Pair, who: str, how: str) -> None:
    """Ends the other side as well, and nobody gets old bytes afterwards."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(SWITCH)
        connection.read_exactly(2 << 20)
        if who == "upstream":
            getattr(connection, how)()
        else:
            connection.wait_end()

    path = f"/ws/end/{who}/{how}"
    pair.upstream.on(path, play)
    for turn in range(3):
        with pair.daemon.client() as client:
            switched(client, path)
            client.send_anyway(b"x" * (3 << 20))
            if who == "client":
                getattr(client, how)()
                pair.upstream.wait_ended(pair.upstream.wait_request(path, nth=turn))
            else:
                client.send_anyway(b"x" * (8 << 20))
                assert client.expect_end() in ("closed", "reset")
    assert pair.daemon.get("/after-bulk").body == b"ok"


def test_the_clients_reset_ends_the_upstreams_side(pair: Pair) -> None:
    pair.upstream.on("/ws/reset", echo)
    client = pair.daemon.client()
    switched(client, "/ws/reset")
    assert client.read_exactly(6) == b"hello;"
    client.reset()
    pair.upstream.wait_ended(pair.upstream.wait_request("/ws/reset"))


def test_the_upstreams_reset_ends_the_clients_side(pair: Pair) -> None:
    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(SWITCH)
        connection.read_exactly(2)
        connection.reset()

    pair.upstream.on("/ws/broken", play)
    with pair.daemon.client() as client:
        switched(client, "/ws/broken")
        client.send(b"hi")
        assert client.expect_end() in ("closed", "reset")


def test_4xx_to_an_upgrade_is_relayed_and_both_connections_are_reusable(pair: Pair) -> None:
    pair.upstream.on("/ws/no", raw_answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"))
    with pair.daemon.client() as client:
        response = client.ask(upgrading("/ws/no"))
        assert (response.status, response.body) == (403, b"no")
        assert not response.closes
        assert client.ask(b"GET /after-no HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
    first, second = pair.upstream.find("/ws/no") + pair.upstream.find("/after-no")
    assert first.connection is second.connection


def test_426_keeps_its_upgrade_field_or_not_but_is_final(pair: Pair) -> None:
    pair.upstream.on(
        "/ws/426", raw_answer(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
    )
    with pair.daemon.client() as client:
        assert client.ask(upgrading("/ws/426")).status == 426


@pytest.mark.parametrize(
    "head",
    [
        b"GET /unasked HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /unasked HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n",
        b"GET /unasked HTTP/1.0\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=["plain", "Upgrade without Connection", "HTTP/1.0"],
)
def test_a_101_nobody_asked_for_is_502(pair: Pair, head: bytes) -> None:
    pair.upstream.on("/unasked", raw_answer(SWITCH + b"GET / HTTP/1.1\r\n\r\n"))
    with pair.daemon.client() as client:
        response = client.ask(head)
    assert response.status == 502
    assert (
        pair.daemon.access(lambda item: item["path"] == "/unasked" and item["status"] == 502)[
            "reason"
        ]
        == "bad_response"
    )


def test_a_101_to_another_protocol_is_502(pair: Pair) -> None:
    """RFC 9110 §7.8: the upstream switches only to what was asked for."""
    pair.upstream.on("/ws/other", raw_answer(SWITCH.replace(b"websocket", b"h2c")))
    with pair.daemon.client() as client:
        assert client.ask(upgrading("/ws/other")).status == 502


def test_an_upgrade_with_a_body_sends_the_body_first(pair: Pair) -> None:
    """RFC 9110 §7.8: the protocol switches after the whole request."""
    got: list[bytes] = []

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        got.append(connection.read_body(request))
        if not request.all("Upgrade"):
            # RFC 9110 §7.8: a server may ignore an upgrade, so the gateway may drop it.
            connection.send(OK)
            return
        connection.send(SWITCH)
        got.append(connection.read_exactly(3))
        connection.close()

    pair.upstream.on("/ws/body", play)
    with pair.daemon.client() as client:
        client.send(upgrading("/ws/body", "Content-Length: 4") + b"bodyabc")
        response = client.read_head()
        if response.status == 101:
            client.read_until_close()
            assert got == [b"body", b"abc"]
        else:
            assert response.status == 200
            assert got == [b"body"]


def test_a_client_that_takes_nothing_ends_its_tunnel(pair: Pair) -> None:
    """timeouts.write holds for bulk too, which goes past the gateway."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(SWITCH)
        with contextlib.suppress(Gone):
            while True:
                connection.send(bytes(1 << 20))

    pair.upstream.on("/ws/flood", play)
    with pair.daemon.client(receive_buffer=65536) as client:
        switched(client, "/ws/flood")
        pair.daemon.access(lambda item: item["path"] == "/ws/flood")
        client.read_until_close()


def test_a_tunnel_is_under_its_own_timeout(pair: Pair) -> None:
    """Silence longer than read, write and idle does not end it; its own limit does."""
    pair.upstream.on("/short/ws", echo)
    pair.upstream.on("/long/ws", echo)
    with pair.daemon.client() as short, pair.daemon.client() as long:
        switched(short, "/short/ws")
        switched(long, "/long/ws")
        assert short.read_exactly(6) == long.read_exactly(6) == b"hello;"
        began = time.monotonic()
        assert short.expect_end() in ("closed", "reset")
        assert 0.3 < time.monotonic() - began < 3
        long.send(b"alive")
        assert long.read_exactly(5) == b"alive"


def test_bytes_keep_a_tunnel_alive(pair: Pair) -> None:
    """Silence counts in both directions together: one of them moving is enough."""
    pause = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(SWITCH)
        for _ in range(6):
            pause.wait(0.2)
            connection.send(b".")
        connection.wait_end()

    pair.upstream.on("/short/alive", play)
    with pair.daemon.client() as client:
        switched(client, "/short/alive")
        assert client.read_exactly(6) == b"......"
        client.expect_end()


def test_a_tunnel_leaves_the_pool_alone(pair: Pair) -> None:
    """Its connection is never handed to a request."""
    pair.upstream.on("/ws/pool", echo)
    with pair.daemon.client() as client:
        switched(client, "/ws/pool")
        tunnel = pair.upstream.wait_request("/ws/pool").connection
        for number in range(3):
            assert pair.daemon.get(f"/beside/{number}").status == 200
            assert pair.upstream.wait_request(f"/beside/{number}").connection is not tunnel
        client.half_close()
        client.read_until_close()
    assert pair.daemon.get("/beside/after").status == 200
    assert pair.upstream.wait_request("/beside/after").connection is not tunnel


def test_a_tunnel_is_logged_at_its_end(pair: Pair) -> None:
    pair.upstream.on("/ws/log", echo)
    with pair.daemon.client() as client:
        switched(client, "/ws/log", b"12345")
        assert client.read_exactly(11) == b"hello;12345"
        client.half_close()
        client.read_until_close()
    entry = pair.daemon.access(lambda item: item["path"] == "/ws/log")
    assert entry["status"] == 101
    assert entry["bytes_in"] >= 5
    assert entry["bytes_out"] >= 15
