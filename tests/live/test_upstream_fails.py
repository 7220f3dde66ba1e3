"""The upstream refuses, hangs, breaks the protocol, dies."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Blackhole,
    Daemon,
    Handler,
    Malformed,
    Recorded,
    Response,
    ScriptedUpstream,
    Truncated,
    UpstreamConnection,
    answer,
    configuration,
    eventually,
    raw_answer,
    refused_port,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class House:
    """A gateway in front of one scripted upstream and several that cannot be reached."""

    daemon: Daemon
    upstream: ScriptedUpstream

    def entry(self, path: str) -> dict[str, object]:
        """The access log's entry of a path."""
        return self.daemon.access(lambda item: item["path"] == path)


@pytest.fixture(scope="module")
def house(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Iterator[House]:
    upstream = module_upstream()
    hole = Blackhole()
    with refused_port() as refused:
        timeouts = {
            "connect": "400ms",
            "response_header": "500ms",
            "read": "500ms",
            "write": "500ms",
        }
        document = configuration(
            {
                "u": {"endpoints": [upstream.endpoint], "timeouts": timeouts},
                "refused": [f"127.0.0.1:{refused}"],
                "hole": {"endpoints": [hole.endpoint], "timeouts": timeouts},
                "zero": {"endpoints": [{"address": upstream.endpoint, "weight": 0}]},
                "slow": {"endpoints": [upstream.endpoint]},
            },
            routes=[
                {"name": name, "match": {"path_prefix": f"/{name}"}, "upstream": name}
                for name in ("refused", "hole", "zero")
            ]
            + [
                {
                    "name": "slow",
                    "match": {"path_prefix": "/slow"},
                    "upstream": "slow",
                    "timeouts": {"request": "400ms"},
                },
                {"name": "u", "upstream": "u"},
            ],
        )
        yield House(module_daemon(document), upstream)
        hole.close()


def get(path: str, method: str = "GET") -> bytes:
    """A request as bytes."""
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


def hang(connection: UpstreamConnection, request: Recorded) -> None:
    """Never answer."""
    connection.wait_end()


def own(response: Response, status: int) -> None:
    """An answer of the gateway's own that shows nothing of the inside."""
    assert response.status == status
    assert response.get("Content-Type") == "text/plain; charset=utf-8"
    assert response.get("X-Request-Id")
    text = response.body.decode() + repr(response.headers)
    for secret in ("127.0.0.1", "Errno", "refused by", "Traceback", "twisted", "Connection was"):
        assert secret not in text


# Out of reach.


def test_refused_is_502(house: House) -> None:
    with house.daemon.client() as client:
        own(client.ask(get("/refused/a")), 502)
        own(client.ask(get("/refused/b")), 502)
    assert house.entry("/refused/a")["reason"] == "connect_failed"


def test_refused_upload_is_502(house: House) -> None:
    with house.daemon.client() as client:
        client.send(b"POST /refused/up HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
        own(client.read_response("POST"), 502)


def test_connect_timeout_is_504(house: House) -> None:
    began = time.monotonic()
    own(house.daemon.get("/hole/a"), 504)
    assert 0.3 < time.monotonic() - began < 3
    assert house.entry("/hole/a")["reason"] == "connect_timeout"


def test_nobody_available_is_503_at_once(house: House) -> None:
    began = time.monotonic()
    own(house.daemon.get("/zero/a"), 503)
    assert time.monotonic() - began < 0.5
    assert house.entry("/zero/a")["reason"] == "no_endpoint"


# Timeouts.


def test_head_timeout_is_504(house: House) -> None:
    house.upstream.on("/hang", hang)
    began = time.monotonic()
    own(house.daemon.get("/hang"), 504)
    assert 0.4 < time.monotonic() - began < 3
    assert house.entry("/hang")["reason"] == "header_timeout"
    house.upstream.wait_ended(house.upstream.wait_request("/hang"), 2)


def test_half_a_head_in_time_is_504_too(house: House) -> None:
    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nX-A: ")
        connection.wait_end()

    house.upstream.on("/hang/half", play)
    own(house.daemon.get("/hang/half"), 504)


def test_a_103_does_not_count_as_the_head(house: House) -> None:
    """It neither answers nor fails: 504 when nothing final follows."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        connection.wait_end()

    house.upstream.on("/hang/hints", play)
    response = house.daemon.get("/hang/hints")
    assert [item.status for item in response.interim] == [103]
    own(response, 504)


def test_request_timeout_is_504(house: House) -> None:
    house.upstream.on("/slow/hang", hang)
    began = time.monotonic()
    own(house.daemon.get("/slow/hang"), 504)
    assert 0.3 < time.monotonic() - began < 3
    assert house.entry("/slow/hang")["reason"] == "request_timeout"


def test_the_upstreams_timeouts_begin_after_the_upload(house: House) -> None:
    """A long upload lives as long as it moves."""
    pause = threading.Event()
    with house.daemon.client() as client:
        client.send(b"POST /slow-upload HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            pause.wait(0.15)
            client.send(b"x")
        assert client.read_response("POST").status == 200
    assert house.upstream.wait_request("/slow-upload").body == b"x" * 8


def test_a_body_that_stops_is_cut(house: House) -> None:
    """Silence in a body longer than read: the client can tell that it is not whole."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        connection.wait_end()

    house.upstream.on("/silent", play)
    with house.daemon.client() as client:
        client.send(get("/silent"))
        assert client.read_head().status == 200
        assert client.read_chunk() == b"hello"
        assert client.expect_end() in ("closed", "reset")
    house.upstream.wait_ended(house.upstream.wait_request("/silent"), 2)


def test_a_body_that_trickles_lives(house: House) -> None:
    """Longer than read in all, but never silent for so long."""
    pause = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            pause.wait(0.15)
            connection.send(b"x")

    house.upstream.on("/trickle", play)
    assert house.daemon.get("/trickle").body == b"x" * 8


# Broken heads.


def test_closed_before_the_head_is_502(house: House) -> None:
    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.close()

    house.upstream.on("/closed", play)
    with house.daemon.client() as client:
        own(client.ask(get("/closed", "POST")), 502)
        assert client.ask(get("/after-closed")).status == 200
    assert house.entry("/closed")["reason"] == "reset"


def test_reset_before_the_head_is_502(house: House) -> None:
    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.reset()

    house.upstream.on("/reset", play)
    own(house.daemon.ask(get("/reset", "POST")), 502)
    assert house.entry("/reset")["reason"] == "reset"


@pytest.mark.parametrize("part", [b"H", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nX-A: b\r\n"])
def test_closed_in_the_head_is_502(house: House, part: bytes) -> None:
    path = f"/closed/{part.hex()}"
    house.upstream.on(path, raw_answer(part, close=True))
    own(house.daemon.ask(get(path)), 502)


BROKEN = {
    "rubbish": b"rubbish\r\n\r\n",
    "binary": bytes(range(1, 256)) + b"\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.10": b"HTTP/1.10 200 OK\r\nContent-Length: 0\r\n\r\n",
    "lower case": b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ICY": b"ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "status with a sign": b"HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
    "a tab before the status": b"HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n",
    "a leading space": b" HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "a control in the reason": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
    "LF line ends": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "a LF line end": b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 0\r\n\r\n",
    "CL and TE": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two CLs": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "CL x": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
    "CL -1": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
    "CL +5": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "CL 0x5": b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "CL 5_0": b"HTTP/1.1 200 OK\r\nContent-Length: 5_0\r\n\r\nhello",
    "CL 5, 6": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
    "CL over 2^63": b"HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nhello",
    "CL empty": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
    "TE gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "TE gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE identity": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
    "TE twice": b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "TE in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE with VT": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "an empty name": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n: b\r\n\r\n",
    "a bad name": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX A: b\r\n\r\n",
    "obs-fold": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: b\r\n c\r\n\r\n",
    "a leading space in the first field": b"HTTP/1.1 200 OK\r\n X-A: b\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: a\x00b\r\n\r\n",
    "CR in a value": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: a\rSet-Cookie: x\r\n\r\n",
    "DEL in a value": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: \x7f\r\n\r\n",
    "an oversized field": b"HTTP/1.1 200 OK\r\nX-A: "
    + b"x" * 70000
    + b"\r\nContent-Length: 0\r\n\r\n",
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X-A: bbbbbbbbbb\r\n" * 8000 + b"\r\n",
    "an oversized reason": b"HTTP/1.1 200 " + b"O" * 70000 + b"\r\nContent-Length: 0\r\n\r\n",
    "an endless head": b"x" * 200000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_head_is_502(house: House, name: str) -> None:
    """And the connection that brought it serves nobody any more."""
    path = answered_by(house, "broken", name)
    with house.daemon.client() as client:
        own(client.ask(get(path)), 502)
        assert client.ask(get("/after-broken")).body == b"ok"
    house.upstream.wait_ended(house.upstream.wait_request(path), 2)


def test_a_broken_head_is_logged_as_one(house: House) -> None:
    """All of them sent before the first is looked for: the log comes in batches."""
    paths = [answered_by(house, "logged", name) for name in BROKEN]
    for path in paths:
        with house.daemon.client() as client:
            own(client.ask(get(path)), 502)
    for path in paths:
        assert house.entry(path)["reason"] in ("bad_response", "reset")


def answered_by(house: House, way: str, name: str) -> str:
    """A path that is answered by one of the broken heads."""
    path = f"/{way}/{name.encode().hex()}"

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_body(request)
        connection.send(BROKEN[name])
        connection.wait_end()

    house.upstream.on(path, play)
    return path


@pytest.mark.parametrize(
    "status",
    ["200 OK", "200 ", "200", "404 Not Found", "500 Oh", "599 x", "200 \xe9", "226 IM Used"],
)
def test_odd_but_valid_status_lines_are_relayed(house: House, status: str) -> None:
    """A missing reason, even its space, is common and harmless."""
    path = f"/status/{status.encode().hex()}"
    house.upstream.on(
        path, raw_answer(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode("latin-1"))
    )
    assert house.daemon.get(path).status == int(status[:3])


def test_equal_cls_of_an_upstream_are_one_or_502(house: House) -> None:
    house.upstream.on(
        "/equal", raw_answer(b"HTTP/1.1 200 OK\r\n" + b"Content-Length: 2\r\n" * 2 + b"\r\nok")
    )
    response = house.daemon.get("/equal")
    assert response.status in (200, 502)
    if response.status == 200:
        assert (response.all("Content-Length"), response.body) == (["2"], b"ok")


def test_a_smuggled_response_is_never_an_answer(house: House) -> None:
    """After CL+TE the rest of the connection is nobody's answer."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        )

    house.upstream.on("/smuggled", play)
    with house.daemon.client() as client:
        client.send(get("/smuggled") + get("/smuggled/a") + get("/smuggled/b"))
        assert client.read_response().status == 502
        assert [client.read_response().body for _ in range(2)] == [b"ok", b"ok"]


# Broken bodies.


def cut_short(data: bytes) -> Handler:
    """Send this and close."""
    return raw_answer(data, close=True)


CUT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "chunk's end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "in a trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n",
    "bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    "chunk without CRLF": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "LF chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\n\n",
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("name", CUT)
def test_an_early_end_of_a_body_is_never_a_clean_end(house: House, name: str, version: str) -> None:
    """HTTP/1.0 without a length can tell from a reset only."""
    path = f"/cut/{version}/{name.replace(' ', '-')}"
    house.upstream.on(path, cut_short(CUT[name]))
    with house.daemon.client() as client:
        client.send(f"GET {path} HTTP/{version}\r\nHost: h\r\n\r\n".encode())
        try:
            response = client.read_head()
        except AssertionError:
            # Cut with the head: nothing was taken for whole.
            return
        if response.status == 502:
            return
        assert response.status == 200
        data, ended = client.read_until_close()
        if response.all("Transfer-Encoding"):
            assert not data.endswith(b"0\r\n\r\n")
        elif response.get("Content-Length") is not None:
            assert len(data) < int(str(response.get("Content-Length")))
        else:
            assert ended == "reset"
    assert house.entry(path)["reason"] == "body_cut"


def test_a_reset_in_a_body_until_close_is_never_a_clean_end(house: House) -> None:
    sent = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        sent.wait(5)
        connection.reset()

    house.upstream.on("/reset/body", play)
    with house.daemon.client() as client:
        client.send(get("/reset/body"))
        response = client.read_head()
        assert client.read_chunk() == b"hello"
        sent.set()
        with pytest.raises((Truncated, AssertionError)):
            client.read_chunk()
        assert response.status == 200


# Keep-alive races and retries.


def dies_on_reuse(first: bytes = OK) -> tuple[Handler, list[Recorded]]:
    """Answer a connection's first request, then close when the next one has come."""
    seen: list[Recorded] = []
    used: set[int] = set()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_body(request)
        seen.append(request)
        if connection.number in used:
            connection.close()
            return
        used.add(connection.number)
        connection.send(first)

    return play, seen


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_a_stale_connection_is_retried_once_on_a_fresh_one(
    start_daemon: StartDaemon, start_upstream: StartUpstream, method: str
) -> None:
    upstream = start_upstream()
    play, seen = dies_on_reuse()
    upstream.on("/stale", play)
    upstream.default = play
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    with daemon.client() as client:
        assert client.ask(get("/stale")).status == 200
        client.send(get("/stale", method))
        assert client.read_response("HEAD" if method == "HEAD" else method).status == 200 or (
            method == "HEAD"
        )
    assert [item.method for item in seen] == ["GET", method, method]
    assert seen[0].connection is seen[1].connection
    assert seen[2].connection is not seen[1].connection


def test_a_post_is_never_sent_twice(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Once its bytes went out nobody knows whether it was done."""
    upstream = start_upstream()
    play, seen = dies_on_reuse()
    upstream.default = play
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    with daemon.client() as client:
        assert client.ask(get("/stale")).status == 200
        client.send(b"POST /stale HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
        own(client.read_response("POST"), 502)
    assert daemon.get("/fence").status == 200
    assert [item.method for item in seen][:2] == ["GET", "POST"]
    assert [item.method for item in seen].count("POST") == 1


def test_a_get_whose_fresh_connection_closes_too_is_502(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """One repeat for the stale connection, and one retry at most."""
    upstream = start_upstream()
    upstream.on("/first", answer())

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.close()

    upstream.on("/dies", play)
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    with daemon.client() as client:
        assert client.ask(get("/first")).status == 200
        own(client.ask(get("/dies")), 502)
    assert len(upstream.find("/dies")) <= 3


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("how", ["stray", "closed", "reset"])
def test_a_request_that_has_not_gone_out_yet(house: House, how: str, method: str) -> None:
    """The kept connection fails in the very turn in which it is taken: another one serves."""
    go, gone = threading.Event(), threading.Event()
    first, second = f"/before/{how}/{method}", f"/at-once/{how}/{method}"
    used: list[UpstreamConnection] = []

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(OK)
        go.wait(5)
        if how == "stray":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        elif how == "closed":
            connection.close()
        else:
            connection.reset()
        used.append(connection)
        gone.set()

    def stands() -> bool:
        return (
            Path(f"/proc/{house.daemon.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        )

    house.upstream.on(first, play)
    house.upstream.on(second, answer(b"good"))
    with house.daemon.client() as client:
        assert client.ask(get(first)).status == 200
        house.daemon.signal(signal.SIGSTOP)  # so that both are seen in one turn, the client's first
        try:
            eventually(stands, what="it has stopped")
            client.send(get(second, method))
            go.set()
            assert gone.wait(5)
        finally:
            house.daemon.signal(signal.SIGCONT)
        response = client.read_response(method)
        assert (response.status, response.body) == (200, b"good")
    (request,) = house.upstream.find(second)
    assert request.connection is not used[0]


def test_a_connection_that_closed_while_idle_is_not_used(house: House) -> None:
    """Its end was seen: a POST goes out on a fresh one."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(OK)
        connection.close()

    house.upstream.on("/idle-close", play)
    for number in range(5):
        assert house.daemon.get("/idle-close").status == 200
        with house.daemon.client() as client:
            client.send(
                f"POST /idle-post/{number} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi".encode()
            )
            assert client.read_response("POST").status in (200, 502)


# Early answers.


def test_an_early_413_in_an_upload_is_relayed(house: House) -> None:
    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(
            b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
        )
        connection.wait_end(3)

    house.upstream.on("/early", play)
    with house.daemon.client() as client:
        client.send(
            b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 1000
        )
        response = client.read_response("POST")
        assert (response.status, response.body) == (413, b"big")
        assert response.closes
        client.expect_end()


def test_an_early_413_and_a_reset_in_an_upload_under_way_is_relayed(house: House) -> None:
    """The upstream stops reading and leaves: its answer still reaches the client."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_exactly(10000)
        connection.send(
            b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
        )
        connection.close()

    house.upstream.on("/early/close", play)
    with house.daemon.client() as client:
        client.send_anyway(
            b"POST /early/close HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n"
            + b"x" * 3000000
        )
        response = client.read_response("POST")
        assert (response.status, response.body) == (413, b"big")


def test_an_early_200_does_not_spoil_the_pool(house: House) -> None:
    """The upstream's connection with a half-sent body is not reused."""

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(OK)
        connection.wait_end(3)

    house.upstream.on("/early/200", play)
    with house.daemon.client() as client:
        client.send(b"POST /early/200 HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nx")
        assert client.read_response("POST").body == b"ok"
    used = house.upstream.wait_request("/early/200").connection
    assert house.daemon.get("/early/next").status == 200
    assert house.upstream.wait_request("/early/next").connection is not used


def test_an_upstream_that_comes_back_is_used_again(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """One failure condemns nobody for ever."""
    upstream = start_upstream()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.reset()

    upstream.on("/down", play)
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    assert daemon.get("/down").status == 502
    assert daemon.get("/up").status == 200


def test_failures_are_counted_by_reason(house: House) -> None:
    house.daemon.get("/refused/count")
    sample = house.daemon.sample
    assert sample("upstream_errors_total", upstream="refused", reason="connect_failed") >= 1
    assert sample("gateway_answers_total", route="refused", reason="connect_failed") >= 1


def test_the_strict_reader_itself(house: House) -> None:
    """What these tests trust: the client refuses ambiguous answers."""
    with house.daemon.client() as client:
        client.buffer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"
        with pytest.raises(Malformed):
            client.read_response()
