"""Endpoints that die, hang, fail and come back; clients that ask too much or may not ask at all."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.endpoint import __name__ as ENDPOINT
from tests.live.harness import (
    Daemon,
    RawClient,
    Recorded,
    ScriptedUpstream,
    UpstreamConnection,
    answer,
    command,
    configuration,
    eventually,
    free_port,
    refused_port,
)
from tests.live.open_load import Load

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Process:
    """An endpoint process; ended by its fixture."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", ENDPOINT, name], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def endpoint(self) -> str:
        """As the configuration writes it."""
        return f"127.0.0.1:{self.port}"

    @property
    def served(self) -> int:
        """Requests that it got."""
        with RawClient(("127.0.0.1", self.port)) as client:
            return int(client.ask(b"GET /served HTTP/1.1\r\nHost: h\r\n\r\n").body)

    def end(self) -> None:
        """Kill it, stopped or not."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Three endpoints, each a process."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in "abc":
            made.append(Process(name))
            stack.callback(made[-1].end)
        yield made


def test_one_dies_and_one_hangs(start_daemon: StartDaemon, processes: list[Process]) -> None:
    """No request fails, retries stay within their budget, and the hanging one is out in time."""
    dies, hangs, stays = processes
    daemon = start_daemon(
        configuration(
            {
                "u": {
                    "endpoints": [each.endpoint for each in processes],
                    "timeouts": {"connect": "1s", "response_header": "1s"},
                    "passive_health": {"consecutive_failures": 5, "eject_for": "60s"},
                }
            },
            routes=[
                {
                    "name": "all",
                    "upstream": "u",
                    "retries": {"attempts": 2, "when": ["connect-failure", "reset", "timeout"]},
                }
            ],
        )
    )
    out: dict[str, float] = {}

    def note(endpoint: str) -> None:
        daemon.stderr.wait_for(lambda line: f"{endpoint} is ejected" in line, 10)
        out[endpoint] = time.monotonic()

    watchers = [threading.Thread(target=note, args=(each.endpoint,)) for each in (dies, hangs)]
    for watcher in watchers:
        watcher.start()
    load = Load(daemon.address, 400.0)
    stopped: list[float] = []

    def stop() -> None:
        os.kill(hangs.process.pid, signal.SIGSTOP)
        stopped.append(time.monotonic())

    timers = [
        threading.Timer(2.5, os.kill, (dies.process.pid, signal.SIGKILL)),
        threading.Timer(4.5, stop),
    ]
    for timer in timers:
        timer.start()
    answers = load.run(8.0)
    for thread in [*timers, *watchers]:
        thread.join(5)
    failed = [each for each in answers if each.status != 200]
    assert len(answers) == 3200
    assert failed == []
    states = {
        each["address"]: each["state"] for each in daemon.status()["upstreams"]["u"]["endpoints"]
    }
    assert states == {
        dies.endpoint: "ejected",
        hangs.endpoint: "ejected",
        stays.endpoint: "healthy",
    }
    # Five timeouts of 1 s in a row, on a wheel of 100 ms; requests come every few milliseconds.
    took = out[hangs.endpoint] - stopped[0]
    retries = daemon.sample("retries_total", route="all")
    print(f"\nout after {took:.2f} s, {retries:.0f} retries, {stays.served} at the one that stays")
    assert took < 1.6
    assert daemon.sample("retries_total", route="all", result="refused") == 0
    assert 0 < retries <= 0.2 * len(answers)
    # Whoever stays gets what the others cannot do, once each.
    by_others = sum(each.body != stays.name.encode() for each in answers)
    assert stays.served <= len(answers) - by_others + retries


# --- a daemon that most tests share


@pytest.fixture(scope="module")
def pair(module_upstream: StartUpstream) -> list[ScriptedUpstream]:
    """Two endpoints."""
    return [module_upstream("a"), module_upstream("b")]


CHECK = {"interval": "200ms", "timeout": "300ms", "healthy": 2, "unhealthy": 2}


@pytest.fixture(scope="module")
def checked(module_upstream: StartUpstream) -> dict[str, ScriptedUpstream]:
    """Endpoints of upstreams with checks."""
    return {name: module_upstream(name) for name in ("good", "bad", "endless", "text")}


@pytest.fixture(scope="module")
def dead() -> Iterator[int]:
    """A port that refuses."""
    with refused_port() as port:
        yield port


@pytest.fixture(scope="module")
def daemon(
    module_daemon: StartDaemon,
    pair: list[ScriptedUpstream],
    checked: dict[str, ScriptedUpstream],
    dead: int,
) -> Daemon:
    """Routes by first segment."""
    ends = [each.endpoint for each in pair]
    plain: dict[str, Any] = {"endpoints": ends, "passive_health": False}
    kinds = ["connect-failure", "reset", "timeout", "502", "503"]
    retries = {"attempts": 1, "when": kinds, "budget": "100%"}  # so few requests have no other
    routes: dict[str, dict[str, Any]] = {
        "retried": {"retries": retries},
        "breaker": {"upstream": "dead", "retries": {"attempts": 0}},
        "http": {"upstream": "http"},
        "text": {"upstream": "text"},
        "endless": {"upstream": "endless"},
        "tcp": {"upstream": "tcp"},
        "by-client": {"rate_limit": {"key": "client_ip", "rate": "2/m", "burst": 2}},
        "by-header": {"rate_limit": {"key": "header:X-Key", "rate": "2/m", "burst": 2}},
        "by-route": {"rate_limit": {"key": "route", "rate": "2/s", "burst": 3}},
        "lists": {"allow": ["10.0.0.0/8", "2001:db8::/32"], "deny": ["10.9.0.0/16"]},
        "few": {"max_concurrent": 2},
        "drained": {"upstream": "drained"},
    }
    document = configuration(
        {
            "u": plain,
            "dead": {
                "endpoints": [f"127.0.0.1:{dead}"],
                "passive_health": False,
                "circuit_breaker": {"window": "10s", "min_requests": 5, "open_for": "30s"},
            },
            "http": {
                "endpoints": [checked["good"].endpoint, checked["bad"].endpoint],
                "health_check": {"path": "/healthz", **CHECK},
            },
            "text": {
                "endpoints": [checked["good"].endpoint, checked["text"].endpoint],
                "health_check": {"path": "/text", "body": "all is well", **CHECK},
            },
            "endless": {
                "endpoints": [checked["good"].endpoint, checked["endless"].endpoint],
                "health_check": {"path": "/endless", **CHECK},
            },
            "tcp": {
                "endpoints": [checked["good"].endpoint, f"127.0.0.1:{dead}"],
                "health_check": {"tcp": True, **CHECK},
            },
            "drained": plain,
        },
        routes=[
            {"name": name, "match": {"path_prefix": f"/{name}"}, "upstream": "u", **more}
            for name, more in routes.items()
        ],
        listener={"trusted_proxies": ["127.0.0.0/8"]},
    )
    return module_daemon(document)


def both(pair: list[ScriptedUpstream], path: str, handler: Callable[..., None]) -> None:
    """Let both endpoints play that."""
    for each in pair:
        each.on(path, handler)


def seen(pair: list[ScriptedUpstream], path: str) -> list[Recorded]:
    """What both got."""
    return [request for each in pair for request in each.find(path)]


def first_resets(pair: list[ScriptedUpstream], path: str) -> None:
    """Whoever is asked first reads all and resets; whoever is asked then answers."""
    turn = iter([True])
    lock = threading.Lock()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_body(request)
        with lock:
            is_first = next(turn, False)
        if is_first:
            connection.reset()
        else:
            connection.send(OK)

    both(pair, path, play)


class TestRetries:
    """Further tries."""

    def test_get_is_repeated_elsewhere(self, daemon: Daemon, pair: list[ScriptedUpstream]) -> None:
        """Once; the log counts the tries."""
        first_resets(pair, "/retried/get")
        assert daemon.get("/retried/get").status == 200
        assert [len(each.find("/retried/get")) for each in pair] == [1, 1]
        assert daemon.access(lambda entry: entry["path"] == "/retried/get")["tries"] == 2
        assert (
            daemon.sample("retries_total", route="retried", reason="reset", result="success") >= 1
        )

    def test_post_is_not_once_bytes_are_out(
        self, daemon: Daemon, pair: list[ScriptedUpstream]
    ) -> None:
        """502, and one endpoint saw it, once."""
        first_resets(pair, "/retried/post")
        response = daemon.ask(
            b"POST /retried/post HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
        )
        assert response.status == 502
        assert len(seen(pair, "/retried/post")) == 1

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    @pytest.mark.parametrize("size", [0, 1000, 65536])
    def test_a_body_that_is_held_is_sent_again(
        self, daemon: Daemon, pair: list[ScriptedUpstream], size: int, framing: str
    ) -> None:
        """Whole, as it was."""
        path = f"/retried/held-{size}-{framing}"
        first_resets(pair, path)
        assert daemon.ask(_put(path, size, framing)).status == 200
        found = seen(pair, path)
        assert [request.body for request in found] == [_body(size)] * 2
        assert all(request.complete for request in found)

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    def test_a_body_over_the_buffer_is_not(
        self, daemon: Daemon, pair: list[ScriptedUpstream], framing: str
    ) -> None:
        """502: what went out is no longer there."""
        path = f"/retried/over-{framing}"
        first_resets(pair, path)
        assert daemon.ask(_put(path, 65537, framing)).status == 502
        assert len(seen(pair, path)) == 1

    def test_the_last_answer_is_relayed(self, daemon: Daemon, pair: list[ScriptedUpstream]) -> None:
        """When tries are spent: the endpoint's own 503, not one of ours."""
        for each in pair:
            each.on(
                "/retried/503",
                answer(each.name.encode(), status="503 Away", headers=[("X-E", "1")]),
            )
        response = daemon.get("/retried/503")
        assert (response.status, response.reason, response.get("X-E")) == (503, "Away", "1")
        assert response.body in (b"a", b"b")
        assert [len(each.find("/retried/503")) for each in pair] == [1, 1]

    def test_one_503_is_not_seen(self, daemon: Daemon, pair: list[ScriptedUpstream]) -> None:
        """The other endpoint answers instead."""
        pair[0].on("/retried/one", answer(status="503 Away"))
        pair[1].on("/retried/one", answer(b"fine"))
        assert {daemon.get("/retried/one").body for _ in range(4)} == {b"fine"}


def _body(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


def _put(path: str, size: int, framing: str) -> bytes:
    head = f"PUT {path} HTTP/1.1\r\nHost: h\r\n".encode()
    body = _body(size)
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % size + body
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for piece in (body[at : at + 10_000] for at in range(0, size, 10_000))
    )
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


class TestBreaker:
    """circuit_breaker."""

    def test_open_answers_fast(self, daemon: Daemon) -> None:
        """503 with Retry-After, in less than 5 ms where the machine is not busy with others."""
        for _ in range(5):
            assert daemon.get("/breaker").status == 502
        times = []
        with daemon.client() as client:
            for _ in range(300):
                began = time.perf_counter()
                response = client.ask(b"GET /breaker HTTP/1.1\r\nHost: h\r\n\r\n")
                times.append(time.perf_counter() - began)
                assert response.status == 503
        assert 25 <= int(response.get("retry-after") or 0) <= 30
        assert b"breaker_open" in response.body
        print(f"\nbreaker open: median {statistics.median(times) * 1e6:.0f} us")
        assert statistics.median(times) < 0.005
        assert daemon.status()["upstreams"]["dead"]["circuit_breaker"] == "open"
        assert daemon.sample("gateway_answers_total", route="breaker", reason="breaker_open") == 300
        assert daemon.samples("circuit_breaker_state", upstream="dead")
        explained = json.loads(daemon.ask_admin("GET", "/explain?method=GET&url=/breaker").body)
        assert explained["upstreams"][0]["circuit_breaker"] == "open"


def state_of(daemon: Daemon, upstream: str, endpoint: str) -> str:
    """As /status says."""
    members = daemon.status()["upstreams"][upstream]["endpoints"]
    return str(next(each["state"] for each in members if each["address"] == endpoint))


class TestChecks:
    """health_check."""

    def test_http(self, daemon: Daemon, checked: dict[str, ScriptedUpstream]) -> None:
        """Out, told everywhere, and back."""
        bad = checked["bad"]
        bad.on("/healthz", answer(status="500 Ill"))
        eventually(lambda: state_of(daemon, "http", bad.endpoint) == "unhealthy")
        assert {daemon.get("/http").get("X-Upstream") for _ in range(6)} == {"good"}
        assert daemon.sample("upstream_endpoints", upstream="http", state="unhealthy") == 1
        assert daemon.sample("health_checks_total", upstream="http", result="bad") >= 2
        explained = json.loads(daemon.ask_admin("GET", "/explain?method=GET&url=/http").body)
        assert explained["upstreams"][0]["passed_over"] == [
            {"endpoint": bad.endpoint, "because": "weight 1, unhealthy"}
        ]
        bad.on("/healthz", answer(status="204 Well"))
        eventually(lambda: state_of(daemon, "http", bad.endpoint) == "healthy")
        assert {daemon.get("/http").get("X-Upstream") for _ in range(6)} == {"good", "bad"}
        request = bad.find("/healthz")[-1]
        assert (request.method, request.get("host")) == ("GET", bad.endpoint)
        assert request.get("user-agent") == "gatewayd-health-check"

    def test_body(self, daemon: Daemon, checked: dict[str, ScriptedUpstream]) -> None:
        """The text must be there."""
        checked["good"].on("/text", answer(b"we hear that all is well today"))
        checked["text"].on("/text", answer(b"all is lost"))
        eventually(lambda: state_of(daemon, "text", checked["good"].endpoint) == "healthy")
        eventually(lambda: state_of(daemon, "text", checked["text"].endpoint) == "unhealthy")
        checked["text"].on("/text", answer(b"all is well"))
        eventually(lambda: state_of(daemon, "text", checked["text"].endpoint) == "healthy")

    def test_an_endless_answer(self, daemon: Daemon, checked: dict[str, ScriptedUpstream]) -> None:
        """Is left after its head: never more than one connection of checks is open."""
        upstream = checked["endless"]
        open_now: list[int] = []
        count = 0
        lock = threading.Lock()

        def play(connection: UpstreamConnection, request: Recorded) -> None:
            nonlocal count
            with lock:
                count += 1
                open_now.append(count)
            try:
                connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                connection.socket.settimeout(0.02)
                deadline = time.monotonic() + 3
                while time.monotonic() < deadline:
                    connection.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                    try:
                        if not connection.socket.recv(1):
                            break
                    except TimeoutError:
                        continue
                    except OSError:
                        break
            finally:
                with lock:
                    count -= 1
                connection.close()

        upstream.on("/endless", play)
        eventually(lambda: len(open_now) >= 6)
        assert max(open_now) == 1
        assert state_of(daemon, "endless", upstream.endpoint) == "healthy"

    def test_tcp(self, daemon: Daemon, checked: dict[str, ScriptedUpstream], dead: int) -> None:
        """Who refuses is out."""
        eventually(lambda: state_of(daemon, "tcp", f"127.0.0.1:{dead}") == "unhealthy")
        assert {daemon.get("/tcp").get("X-Upstream") for _ in range(6)} == {"good"}

    def test_tcp_and_back(self, start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
        """Who accepts again is in again."""
        port = free_port()
        other = start_upstream("other")
        daemon = start_daemon(
            configuration(
                {
                    "u": {
                        "endpoints": [other.endpoint, f"127.0.0.1:{port}"],
                        "health_check": {"tcp": True, **CHECK},
                    }
                }
            )
        )
        eventually(lambda: state_of(daemon, "u", f"127.0.0.1:{port}") == "unhealthy")
        with socket.create_server(("127.0.0.1", port), backlog=64):
            eventually(lambda: state_of(daemon, "u", f"127.0.0.1:{port}") == "healthy")


def limited(daemon: Daemon, path: str, *lines: str) -> tuple[int, str, str]:
    """Status, Retry-After and RateLimit of a GET."""
    response = daemon.get(path, "h", *lines)
    return response.status, response.get("retry-after") or "", response.get("ratelimit") or ""


class TestRateLimits:
    """rate_limit."""

    def test_by_client(self, daemon: Daemon) -> None:
        """The client is whom a trusted proxy names; a /64 is one."""
        one, other = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2"
        assert [limited(daemon, "/by-client", one) for _ in range(3)] == [
            (200, "", '"default";r=1;t=30'),
            (200, "", '"default";r=0;t=30'),
            (429, "30", '"default";r=0;t=30'),
        ]
        assert limited(daemon, "/by-client", other)[0] == 200
        networks = [f"X-Forwarded-For: 2001:db8::{n}" for n in (1, 2, 3)]
        assert [limited(daemon, "/by-client", each)[0] for each in networks] == [200, 200, 429]
        response = daemon.get("/by-client", "h", one)
        assert response.get("ratelimit-policy") == '"default";q=2;w=60'
        assert daemon.sample("rate_limited_total", route="by-client") == 3
        entry = daemon.access(lambda entry: entry["status"] == 429)
        assert (entry["reason"], entry["route"]) == ("rate_limited", "by-client")

    def test_by_header(self, daemon: Daemon) -> None:
        """By its value."""
        found = [limited(daemon, "/by-header", f"X-Key: {key}")[0] for key in "aaabba"]
        assert found == [200, 200, 429, 200, 200, 429]

    def test_by_route(self, daemon: Daemon) -> None:
        """For all together, and it comes back."""
        clients = [f"X-Forwarded-For: 192.0.2.{n}" for n in range(5)]
        found = [limited(daemon, "/by-route", client)[:2] for client in clients]
        assert found[:3] == [(200, "")] * 3
        assert found[4] == (429, "1")
        eventually(lambda: limited(daemon, "/by-route")[0] == 200, 2.0)


class TestLists:
    """allow and deny."""

    @pytest.mark.parametrize(
        ("client", "status"),
        [
            ("10.1.2.3", 200),
            ("10.9.2.3", 403),
            ("::ffff:10.1.2.3", 200),
            ("::ffff:10.9.2.3", 403),
            ("192.0.2.1", 403),
            ("2001:db8::7", 200),
            ("2001:db9::7", 403),
            ("[2001:db8::7]:4711", 200),
            ("10.1.2.3, 192.0.2.1", 403),
            ("192.0.2.1, 10.1.2.3", 200),
        ],
    )
    def test_by_forwarded_client(self, daemon: Daemon, client: str, status: int) -> None:
        """As a trusted proxy names it."""
        assert daemon.get("/lists", "h", f"X-Forwarded-For: {client}").status == status

    def test_by_peer(self, daemon: Daemon) -> None:
        """Without the field; explain says the same."""
        response = daemon.get("/lists", "h", "Accept: application/json")
        assert (response.status, json.loads(response.body)["reason"]) == (403, "denied")
        found = json.loads(
            daemon.ask_admin("GET", "/explain?method=GET&url=/lists&client=10.9.0.1").body
        )
        assert found["answer"] == {
            "status": 403,
            "reason": "denied",
            "detail": "10.9.0.1 is denied",
        }

    def test_ipv6_and_untrusted(
        self, start_daemon: StartDaemon, start_upstream: StartUpstream
    ) -> None:
        """A peer that is not trusted is who it is, whatever it says."""
        document = configuration(
            {"u": [start_upstream("u").endpoint]},
            routes=[
                {"name": "in", "match": {"path_prefix": "/in"}, "upstream": "u", "allow": ["::1"]},
                {
                    "name": "out",
                    "match": {"path_prefix": "/out"},
                    "upstream": "u",
                    "deny": ["::/64"],
                },
            ],
        )
        document["listeners"]["web"]["address"] = f"[::1]:{free_port()}"
        daemon = start_daemon(document)
        assert daemon.get("/in", "h", "X-Forwarded-For: 10.0.0.1").status == 200
        assert daemon.get("/out", "h", "X-Forwarded-For: 10.0.0.1").status == 403


class TestConcurrency:
    """max_concurrent."""

    def test_over_it(self, daemon: Daemon, pair: list[ScriptedUpstream]) -> None:
        """503 with Retry-After at once; who leaves makes room."""
        release = threading.Event()

        def play(connection: UpstreamConnection, request: Recorded) -> None:
            release.wait(10)
            connection.send(OK)

        both(pair, "/few/slow", play)
        clients = [daemon.client() for _ in range(2)]
        for client in clients:
            client.send(b"GET /few/slow HTTP/1.1\r\nHost: h\r\n\r\n")
        eventually(lambda: len(seen(pair, "/few/slow")) == 2)
        response = daemon.get("/few")
        assert (response.status, response.get("retry-after")) == (503, "1")
        assert b"max_concurrent" in response.body
        release.set()
        for client in clients:
            assert client.read_response().status == 200
            client.close()
        assert daemon.get("/few").status == 200


class TestDrain:
    """`gatewayd drain` and `enable`."""

    def test_out_and_back(self, daemon: Daemon, pair: list[ScriptedUpstream]) -> None:
        """No new requests, those in flight finish; told in /status, explain and metrics."""
        release = threading.Event()

        def play(connection: UpstreamConnection, request: Recorded) -> None:
            release.wait(10)
            connection.send(OK)

        both(pair, "/drained/slow", play)
        clients = [daemon.client() for _ in range(4)]
        for client in clients:
            client.send(b"GET /drained/slow HTTP/1.1\r\nHost: h\r\n\r\n")
        eventually(lambda: len(seen(pair, "/drained/slow")) == 4)
        one, other = pair
        assert one.find("/drained/slow")
        found = command("drain", "drained", one.endpoint, "--admin", daemon.admin_text)
        assert found.returncode == 0, found
        assert state_of(daemon, "drained", one.endpoint) == "draining"
        assert {daemon.get("/drained").get("X-Upstream") for _ in range(6)} == {other.name}
        assert daemon.sample("upstream_endpoints", upstream="drained", state="draining") == 1
        explained = json.loads(daemon.ask_admin("GET", "/explain?method=GET&url=/drained").body)
        assert explained["upstreams"][0]["passed_over"] == [
            {"endpoint": one.endpoint, "because": "weight 1, draining"}
        ]
        release.set()
        for client in clients:
            assert client.read_response().status == 200
            client.close()
        found = command("enable", "drained", one.endpoint, "--admin", daemon.admin_text)
        assert found.returncode == 0, found
        assert {daemon.get("/drained").get("X-Upstream") for _ in range(6)} == {"a", "b"}

    def test_unknown(self, daemon: Daemon) -> None:
        """Exit 1 with a message."""
        for upstream, endpoint in (("drained", "127.0.0.1:1"), ("nobody", "127.0.0.1:1")):
            found = command("drain", upstream, endpoint, "--admin", daemon.admin_text)
            assert found.returncode == 1
            assert "127.0.0.1:1" in found.stderr or "nobody" in found.stderr
            assert "Traceback" not in found.stderr
