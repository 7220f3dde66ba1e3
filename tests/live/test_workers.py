"""Several workers: they serve as one, and the death of one costs its own clients alone."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Closed,
    Daemon,
    RawClient,
    Recorded,
    Reset,
    ScriptedUpstream,
    Truncated,
    UpstreamConnection,
    configuration,
    eventually,
    free_port,
    refused_port,
)

Document = dict[str, Any]
GONE = (Closed, Reset, Truncated, BrokenPipeError, ConnectionResetError)


@dataclass
class Pair:
    """A gateway with two workers, and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


def two(upstreams: dict[str, Any], **more: Any) -> Document:
    """A configuration with two workers."""
    return configuration(upstreams, workers=2, **more)


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    """For tests that hurt nobody."""
    upstream = module_upstream()
    return Pair(module_daemon(two({"u": [upstream.endpoint]})), upstream)


@pytest.fixture(scope="module")
def running() -> list[Daemon]:
    """The daemon of the last test, for the next one."""
    return []


@pytest.fixture
def own(running: list[Daemon], module_daemon: StartDaemon, start_upstream: StartUpstream) -> Pair:
    """For tests that kill and change; another daemon only if the last test's cannot be restored."""
    upstream = start_upstream()
    document = two({"u": [upstream.endpoint]}, routes=[{"name": "all", "upstream": "u"}])
    if running:
        document["admin"] = running[0].document["admin"]
    if not (running and running[0].restore(document)):
        document["admin"] = {"address": f"127.0.0.1:{free_port()}"}
        running[:] = [module_daemon(document)]
    wait_for_both(running[0])
    return Pair(running[0], upstream)


def request(path: str = "/", *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: h", *lines, "", ""]).encode()


def workers_of(daemon: Daemon) -> dict[int, dict[str, Any]]:
    """As /status lists them, by number."""
    return {each["number"]: each for each in daemon.status()["workers"]}


def wait_for_both(daemon: Daemon, without: int = 0, timeout: float = 10.0) -> None:
    """Wait until two workers serve, none of which is the process *without*."""

    def up() -> bool:
        found = workers_of(daemon).values()
        pids = {each["pid"] for each in found if each["state"] == "up"}
        return len(pids) == 2 and without not in pids

    eventually(up, timeout, "two workers")


@contextlib.contextmanager
def many(daemon: Daemon, count: int, listener: str = "web") -> Iterator[list[RawClient]]:
    """So many connections that each worker has some."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(RawClient(daemon.address_of(listener))) for _ in range(count)]


def everywhere(daemon: Daemon, path: str = "/", *lines: str, count: int = 24) -> list[Any]:
    """The answers to requests on connections that are open side by side."""
    with many(daemon, count) as clients:
        for client in clients:
            client.send(request(path, *lines))
        return [client.read_response() for client in clients]


class Gate:
    """A handler that answers when it may."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, connection: UpstreamConnection, request: Recorded) -> None:
        self.opened.wait(15)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def stays(probe: Any, seconds: float = 0.3) -> None:
    """Assert that something holds, and goes on to."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert probe()
        threading.Event().wait(0.02)


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# As one.


def test_both_serve_and_status_lists_them(pair: Pair) -> None:
    daemon = pair.daemon
    listed = workers_of(daemon)
    assert set(listed) == {1, 2}
    assert all(each["state"] == "up" and is_alive(each["pid"]) for each in listed.values())
    assert daemon.pid not in {each["pid"] for each in listed.values()}
    with many(daemon, 16) as clients:
        for client in clients:
            assert client.ask(request()).status == 200

        def connections() -> list[int]:
            daemon.metrics()
            return [each["connections"] for each in workers_of(daemon).values()]

        eventually(lambda: sum(connections()) == 16)
        assert all(connections())
        assert daemon.status()["listeners"]["web"]["connections"] == 16
    assert daemon.sample("workers", state="up") == 2
    assert {item["process"] for item, _ in daemon.samples("reactor_lag_seconds_count")} >= {
        "1",
        "2",
    }


def test_one_id_in_via_and_loops_are_found(pair: Pair) -> None:
    """Whichever worker sent a request on, and whichever it comes back to."""
    everywhere(pair.daemon, "/via")
    ids = {each.get("Via") for each in pair.upstream.find("/via")}
    assert len(ids) == 1
    (via,) = ids
    assert {each.status for each in everywhere(pair.daemon, "/loop", f"Via: {via}")} == {508}
    assert pair.upstream.find("/loop") == []


def test_request_ids_differ(pair: Pair) -> None:
    ids = [each.get("X-Request-Id") for each in everywhere(pair.daemon, "/id")]
    assert len(set(ids)) == len(ids)


def test_access_log_lines_are_whole(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """Two processes append to one file, lines of 4 KiB."""
    log = tmp_path / "access.log"
    document = two({"u": [start_upstream().endpoint]})
    document["logging"]["access"]["to"] = str(log)
    daemon = start_daemon(document)
    with many(daemon, 8) as clients:
        for number in range(40):
            for client in clients:
                client.send(request(f"/{number}/{'x' * 4000}"))
            for client in clients:
                assert client.read_response().status == 200
    eventually(lambda: log.read_text().count("\n") == 320)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    numbers = Counter(entry["path"].split("/")[1] for entry in entries)
    assert numbers == {str(number): 8 for number in range(40)}


def test_a_good_request_anywhere_makes_an_endpoint_healthy(
    own: Pair, start_upstream: StartUpstream
) -> None:
    """In /metrics and /status alike, with the first look after it."""
    daemon = own.daemon
    another = start_upstream().endpoint
    unused = {"address": start_upstream().endpoint, "weight": 0}
    document = copy.deepcopy(daemon.document)
    document["upstreams"]["u"]["endpoints"] = [another, unused]
    assert daemon.reload(document).status == 200

    def states() -> dict[str, float]:
        found = daemon.samples("upstream_endpoints", upstream="u")
        return {labels["state"]: value for labels, value in found if value}

    assert states() == {"unchecked": 2}
    assert daemon.get().status == 200
    assert states() == {"unchecked": 1, "healthy": 1}
    endpoints = daemon.status()["upstreams"]["u"]["endpoints"]
    assert {each["address"]: each["state"] for each in endpoints} == {
        another: "healthy",
        unused["address"]: "unchecked",
    }


def test_metrics_of_all_never_go_backwards(own: Pair) -> None:
    """What a killed worker had told of stays counted."""
    daemon = own.daemon

    def total() -> float:
        return daemon.sample("requests_total", code="200")

    before = total()
    everywhere(daemon, count=30)
    eventually(lambda: total() == before + 30)
    victim = workers_of(daemon)[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    while victim in {each["pid"] for each in workers_of(daemon).values()}:
        assert total() == before + 30
    wait_for_both(daemon, without=victim)
    assert total() == before + 30
    everywhere(daemon, count=10)
    eventually(lambda: total() == before + 40)
    assert daemon.sample("request_duration_seconds_count") >= before + 40
    assert daemon.sample("client_connections") == 0


# Deaths.


def test_a_killed_worker_costs_its_own_clients_alone_and_comes_back(own: Pair) -> None:
    daemon = own.daemon
    restarts = daemon.sample("worker_restarts_total")
    signalled = daemon.sample("worker_restarts_total", cause="signal")
    with many(daemon, 16) as clients:
        for client in clients:
            assert client.ask(request()).status == 200

        def of_first() -> int:
            daemon.metrics()
            found = workers_of(daemon)
            return (
                found[1]["connections"]
                if sum(each["connections"] for each in found.values()) == 16
                else 0
            )

        lost = eventually(of_first)
        victim = workers_of(daemon)[1]["pid"]
        os.kill(victim, signal.SIGKILL)
        assert [daemon.get("/new").status for _ in range(10)] == [200] * 10
        served = 0
        for client in clients:
            with contextlib.suppress(*GONE):
                served += client.ask(request("/kept")).status == 200
        assert served == 16 - lost
    wait_for_both(daemon, without=victim)
    assert workers_of(daemon)[1]["pid"] != victim
    assert daemon.sample("worker_restarts_total", cause="signal") == signalled + 1
    assert daemon.sample("worker_restarts_total") == restarts + 1
    assert daemon.ask_admin("GET", "/readyz").status == 200


def test_a_hung_worker_is_replaced_and_the_other_serves_on(own: Pair) -> None:
    daemon = own.daemon
    victim = workers_of(daemon)[2]["pid"]
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    while is_alive(victim):
        assert daemon.get().status == 200
        assert time.monotonic() - began < 8
    wait_for_both(daemon, without=victim)
    assert daemon.sample("worker_restarts_total", cause="hung") == 1


def test_workers_leave_when_their_supervisor_is_killed(own: Pair) -> None:
    """Also the one that finishes a request; nobody holds the port then."""
    gate = Gate()
    own.upstream.on("/slow", gate)
    pids = [each["pid"] for each in workers_of(own.daemon).values()]
    with own.daemon.client() as client:
        client.send(request("/slow"))
        own.upstream.wait_request("/slow")
        own.daemon.signal(signal.SIGKILL)
        eventually(lambda: sum(map(is_alive, pids)) == 1, 5, "the idle worker's end")
        with pytest.raises(ConnectionRefusedError):
            own.daemon.client()
        gate.opened.set()
        assert client.read_response().status == 200
    eventually(lambda: not any(map(is_alive, pids)), 5, "the busy worker's end")


def test_a_second_sigterm_leaves_at_once(own: Pair) -> None:
    gate = Gate()
    own.upstream.on("/slow", gate)
    pids = [each["pid"] for each in workers_of(own.daemon).values()]
    with own.daemon.client() as client:
        client.send(request("/slow"))
        own.upstream.wait_request("/slow")
        own.daemon.signal(signal.SIGTERM)
        eventually(lambda: own.daemon.ask_admin("GET", "/readyz").status == 503)
        began = time.monotonic()
        own.daemon.signal(signal.SIGTERM)
        own.daemon.wait_exit(5)
        assert time.monotonic() - began < 2
    assert not any(map(is_alive, pids))
    gate.opened.set()


def test_sigterm_lets_both_finish(own: Pair) -> None:
    gate = Gate()
    own.upstream.on("/slow", gate)
    with many(own.daemon, 8) as clients:
        for client in clients:
            client.send(request("/slow"))
        own.upstream.wait_request("/slow", nth=7)
        own.daemon.signal(signal.SIGTERM)
        eventually(lambda: own.daemon.ask_admin("GET", "/readyz").status == 503)
        gate.opened.set()
        assert [client.read_response().status for client in clients] == [200] * 8
    assert own.daemon.wait_exit() == 0


# Limits of the whole gateway.


@pytest.fixture(scope="module")
def limited(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    pool = {"max_connections_per_endpoint": 4, "pending_timeout": "10s"}
    document = two(
        {"u": [upstream.endpoint], "slots": {"endpoints": [upstream.endpoint], "pool": pool}},
        routes=[
            {"name": "slots", "match": {"path_prefix": "/slots"}, "upstream": "slots"},
            {
                "name": "concurrent",
                "match": {"path_prefix": "/concurrent"},
                "upstream": "u",
                "max_concurrent": 4,
            },
            {
                "name": "by_route",
                "match": {"path": "/by_route"},
                "upstream": "u",
                "rate_limit": {"key": "route", "rate": "1/m", "burst": 6},
            },
            *(
                {
                    "name": name,
                    "match": {"path": f"/{name}"},
                    "upstream": "u",
                    "rate_limit": {"rate": "1/m", "burst": 5},
                }
                for name in ("at_once", "in_turn")
            ),
            {
                "name": "paced",
                "match": {"path": "/paced"},
                "upstream": "u",
                "rate_limit": {"rate": "25/s", "burst": 3},
            },
            {"name": "rest", "upstream": "u"},
        ],
    )
    document["listeners"]["narrow"] = {
        "address": f"127.0.0.1:{free_port()}",
        "limits": {"max_connections": 4},
    }
    return Pair(module_daemon(document), upstream)


def test_max_connections_holds_for_all_together(limited: Pair) -> None:
    gate = Gate()
    limited.upstream.on("/narrow", gate)
    with many(limited.daemon, 10, "narrow") as clients:
        for client in clients:
            client.send(request("/narrow"))
        limited.upstream.wait_request("/narrow", nth=3)
        stays(lambda: len(limited.upstream.find("/narrow")) == 4)
        assert limited.daemon.status()["listeners"]["narrow"]["max_connections"] == 4
        gate.opened.set()
        assert clients[0].read_response().status == 200


def test_max_concurrent_holds_for_all_together(limited: Pair) -> None:
    gate = Gate()
    limited.upstream.on("/concurrent", gate)
    with many(limited.daemon, 16) as clients:
        for client in clients:
            client.send(request("/concurrent"))
        eventually(
            lambda: (
                limited.daemon.sample("gateway_answers_total", reason="max_concurrent")
                + len(limited.upstream.find("/concurrent"))
                == 16
            )
        )
        assert len(limited.upstream.find("/concurrent")) == 4
        gate.opened.set()
        statuses = Counter(client.read_response().status for client in clients)
        assert statuses == {200: 4, 503: 12}


def test_max_connections_per_endpoint_holds_for_all_together(limited: Pair) -> None:
    gate = Gate()
    limited.upstream.on("/slots", gate)
    with many(limited.daemon, 12) as clients:
        for client in clients:
            client.send(request("/slots"))
        limited.upstream.wait_request("/slots", nth=3)
        eventually(lambda: limited.daemon.sample("upstream_pending", upstream="slots") == 8)
        assert len(limited.upstream.find("/slots")) == 4
        gate.opened.set()
        assert {client.read_response().status for client in clients} == {200}
    numbers = {each.connection.number for each in limited.upstream.find("/slots")}
    assert len(numbers) == 4


def test_a_routes_rate_holds_for_all_together(limited: Pair) -> None:
    statuses = Counter(each.status for each in everywhere(limited.daemon, "/by_route"))
    assert statuses == {200: 6, 429: 18}


def test_a_client_gets_one_burst_more_at_most(limited: Pair) -> None:
    """Its bucket is shared, but two workers cannot know of each other within the same moment."""
    statuses = Counter(each.status for each in everywhere(limited.daemon, "/at_once", count=30))
    assert set(statuses) == {200, 429}
    assert 5 <= statuses[200] <= 10


def test_a_client_that_has_spent_its_burst_is_refused_by_all(limited: Pair) -> None:
    with limited.daemon.client() as client:
        statuses = [client.ask(request("/in_turn")).status for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    threading.Event().wait(0.3)  # until the other worker has heard: asking it would spend tokens
    assert {each.status for each in everywhere(limited.daemon, "/in_turn")} == {429}


def test_a_client_within_its_rate_is_never_refused(limited: Pair) -> None:
    """20 requests a second where 25 may come, each on another connection."""
    pause = threading.Event()
    with many(limited.daemon, 6) as clients:
        statuses = []
        due = time.monotonic()
        for number in range(30):
            statuses.append(clients[number % 6].ask(request("/paced")).status)
            due += 0.05
            pause.wait(max(0.0, due - time.monotonic()))
    assert statuses == [200] * 30


# What one finds out, all know.


def test_an_ejection_in_one_worker_is_shared(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    good = start_upstream()
    passive = {"consecutive_failures": 3, "eject_for": "5m"}
    with refused_port() as port:
        dead = f"127.0.0.1:{port}"
        daemon = start_daemon(
            two({"u": {"endpoints": [good.endpoint, dead], "passive_health": passive}})
        )

        def state() -> str:
            endpoints = daemon.status()["upstreams"]["u"]["endpoints"]
            return {each["address"]: str(each["state"]) for each in endpoints}[dead]

        with daemon.client() as client:  # of one worker
            eventually(lambda: client.ask(request()) and state() == "ejected")

        def left_alone() -> bool:
            before = daemon.sample("upstream_picks_total", endpoint=dead)
            everywhere(daemon, count=12)
            return daemon.sample("upstream_picks_total", endpoint=dead) == before

        eventually(left_alone, 1, "the other worker's ejection")
        assert left_alone()


def test_an_endpoints_drain_reaches_all_and_outlives_a_worker(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    one, other = start_upstream("one"), start_upstream("other")
    daemon = start_daemon(two({"u": [one.endpoint, other.endpoint]}))

    def used() -> set[str]:
        return {str(each.get("X-Upstream")) for each in everywhere(daemon)}

    path = f"/upstreams/u/endpoints/{other.endpoint}"
    assert used() == {"one", "other"}
    assert daemon.post(f"{path}/drain").status == 202
    eventually(lambda: used() == {"one"}, 1)
    victim = workers_of(daemon)[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_for_both(daemon, without=victim)
    assert used() == {"one"}
    assert daemon.post(f"{path}/enable").status == 202
    eventually(lambda: used() == {"one", "other"}, 1)


# Reload and drain.


def saying(document: Document, text: str) -> Document:
    """The same, but its first route answers *text* itself."""
    changed = copy.deepcopy(document)
    changed["routes"][0] = {"name": "all", "respond": {"status": 200, "body": text}}
    return changed


def test_a_reload_is_answered_when_all_serve_the_new_configuration(own: Pair) -> None:
    daemon = own.daemon
    for number in range(5):
        text = f"new {number}"
        assert daemon.reload(saying(daemon.document, text)).status == 200
        assert {each.body for each in everywhere(daemon, count=12)} == {text.encode()}


def test_a_new_listener_is_served_by_all(own: Pair) -> None:
    """So it is when a worker has been replaced; a removed one is nobody's."""
    daemon = own.daemon
    document = copy.deepcopy(daemon.document)
    document["listeners"]["more"] = {"address": f"127.0.0.1:{free_port()}"}
    assert daemon.reload(document).status == 200

    def shares() -> list[int]:
        daemon.metrics()
        return [each["connections"] for each in workers_of(daemon).values()]

    for victim in (0, workers_of(daemon)[2]["pid"]):
        if victim:
            os.kill(victim, signal.SIGKILL)
            wait_for_both(daemon, without=victim)
        with many(daemon, 16, "more") as clients:
            for client in clients:
                assert client.ask(request()).status == 200
            eventually(lambda: sum(shares()) == 16)
            assert all(shares())
    address = daemon.address_of("more")
    document = copy.deepcopy(daemon.document)
    del document["listeners"]["more"]
    assert daemon.reload(document).status == 200
    with pytest.raises(ConnectionRefusedError):
        RawClient(address)


def test_a_listener_may_move(own: Pair) -> None:
    """To another address under the same name: 200, and every worker has left the former one."""
    daemon = own.daemon
    former = daemon.address
    document = copy.deepcopy(daemon.document)
    document["listeners"]["web"]["address"] = f"127.0.0.1:{free_port()}"
    assert daemon.reload(document).status == 200
    assert {each.status for each in everywhere(daemon)} == {200}
    with pytest.raises(ConnectionRefusedError):
        RawClient(former)


def test_a_refused_reload_changes_no_worker(own: Pair) -> None:
    daemon = own.daemon
    document = saying(daemon.document, "new")
    document["listeners"]["more"] = {"address": daemon.admin_text}
    assert daemon.reload(document).status == 409
    assert {each.get("X-Upstream") for each in everywhere(daemon)} == {"u"}


def test_a_worker_that_dies_while_it_reloads_is_no_failure(own: Pair) -> None:
    """Its successor begins with the new configuration."""
    daemon = own.daemon
    victim = workers_of(daemon)[1]["pid"]
    os.kill(victim, signal.SIGSTOP)  # so that it cannot answer
    daemon.rewrite(saying(daemon.document, "new"))
    statuses: list[int] = []
    asked = threading.Thread(target=lambda: statuses.append(daemon.post("/reload").status))
    asked.start()
    eventually(lambda: daemon.get().body == b"new", what="the other one serves it")
    os.kill(victim, signal.SIGKILL)
    asked.join()
    wait_for_both(daemon, without=victim)
    assert {each.body for each in everywhere(daemon)} == {b"new"}
    assert statuses == [200]
    assert daemon.sample("config_last_reload_success") == 1


def test_drain_and_undrain_reach_all(own: Pair) -> None:
    """And a worker that begins in between."""
    daemon = own.daemon
    assert daemon.post("/drain").status == 202
    eventually(lambda: all(each.closes for each in everywhere(daemon)), 1)
    victim = workers_of(daemon)[2]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_for_both(daemon, without=victim)
    assert all(each.closes and each.status == 200 for each in everywhere(daemon))
    assert daemon.post("/undrain").status == 202
    eventually(lambda: not any(each.closes for each in everywhere(daemon)), 1)


def test_put_logging_reaches_all(own: Pair) -> None:
    """And a worker that begins afterwards."""
    daemon = own.daemon
    body = b'{"debug": ["routes"]}'
    kind = "Content-Type: application/json"
    assert daemon.ask_admin("PUT", "/logging", kind, body=body).status == 202
    for path, victim in (("/both", 0), ("/again", workers_of(daemon)[2]["pid"])):
        if victim:
            os.kill(victim, signal.SIGKILL)
            wait_for_both(daemon, without=victim)
        everywhere(daemon, path, count=12)
        eventually(lambda path=path: daemon.stderr.text.count(f"GET {path} ") == 12, 2)  # type: ignore[misc]


# What happens while a worker begins.


@pytest.fixture
def beginning(start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path) -> Pair:
    """A worker has been told the configuration, and takes a second to serve it."""
    import tests

    one, other = start_upstream("one"), start_upstream("other")
    document = two(
        {
            "u": {
                "endpoints": [one.endpoint, other.endpoint],
                "balancer": "tests.live.own_balancer:Slow",
            }
        },
        routes=[{"name": "all", "upstream": "u"}],
    )
    flag = tmp_path / "slow"
    root = str(Path(next(iter(tests.__path__))).parent)
    daemon = start_daemon(document, environment={"PYTHONPATH": root, "SLOW": str(flag)})
    flag.touch()
    os.kill(workers_of(daemon)[1]["pid"], signal.SIGKILL)
    eventually(Path(f"{flag}.begun").exists, 10, "its begin")
    return Pair(daemon, other)


def test_ready_only_with_all_of_the_least_number(beginning: Pair) -> None:
    response = beginning.daemon.ask_admin("GET", "/readyz")
    assert response.status == 503
    assert b"worker" in response.body
    wait_for_both(beginning.daemon)
    assert beginning.daemon.ask_admin("GET", "/readyz").status == 200


def test_who_begins_learns_of_a_drained_endpoint(beginning: Pair) -> None:
    path = f"/upstreams/u/endpoints/{beginning.upstream.endpoint}/drain"
    assert beginning.daemon.post(path).status == 202
    wait_for_both(beginning.daemon)
    used = {each.get("X-Upstream") for each in everywhere(beginning.daemon)}
    assert used == {"one"}


def test_who_begins_learns_of_a_drain(beginning: Pair) -> None:
    assert beginning.daemon.post("/drain").status == 202
    wait_for_both(beginning.daemon)
    assert all(each.closes for each in everywhere(beginning.daemon))


def test_who_begins_learns_of_a_reload(beginning: Pair) -> None:
    """The answer waits for it."""
    daemon = beginning.daemon
    assert daemon.reload(saying(daemon.document, "new")).status == 200
    assert {each.body for each in everywhere(daemon)} == {b"new"}
    wait_for_both(daemon)
    assert {each.body for each in everywhere(daemon)} == {b"new"}
