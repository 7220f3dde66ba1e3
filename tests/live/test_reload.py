"""Reload, drain and undrain: what changes, what stays, and what nobody notices."""

from __future__ import annotations

import copy
import json
import re
import signal
import socket
import threading
from collections.abc import Callable
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
    Response,
    ScriptedUpstream,
    UpstreamConnection,
    answer,
    command,
    configuration,
    eventually,
    free_port,
    refused_port,
)

Document = dict[str, Any]
JSON = "Content-Type: application/json"


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


@pytest.fixture(scope="module")
def running() -> list[Daemon]:
    """The daemon of the last test, for the next one."""
    return []


@pytest.fixture
def pair(running: list[Daemon], module_daemon: StartDaemon, start_upstream: StartUpstream) -> Pair:
    """A fresh upstream; the daemon is another one only if the last test's cannot be restored."""
    upstream = start_upstream()
    document = configuration({"u": [upstream.endpoint]}, routes=[{"name": "all", "upstream": "u"}])
    if running:
        document["admin"] = running[0].document["admin"]
    if not (running and running[0].restore(document)):
        document["admin"] = {"address": f"127.0.0.1:{free_port()}"}
        running[:] = [module_daemon(document)]
    return Pair(running[0], upstream)


@pytest.fixture
def own(start_daemon: StartDaemon, start_upstream: StartUpstream) -> Pair:
    """A daemon that its test ends."""
    upstream = start_upstream()
    document = configuration({"u": [upstream.endpoint]}, routes=[{"name": "all", "upstream": "u"}])
    return Pair(start_daemon(document), upstream)


def copied(daemon: Daemon) -> Document:
    """The configuration in effect, to be changed."""
    return copy.deepcopy(daemon.document)


def saying(daemon: Daemon, text: str) -> Document:
    """The same, but its first route answers *text* itself."""
    document = copied(daemon)
    document["routes"][0] = {"name": "all", "respond": {"status": 200, "body": text}}
    return document


def changes_of(response: Response) -> list[str]:
    """The texts of what a reload changed."""
    assert response.status == 200, response.body
    return [each["text"] for each in json.loads(response.body)["changes"]]


def errors_of(response: Response) -> list[str]:
    """Why a reload was refused."""
    assert response.status == 409, response.body
    errors: list[str] = json.loads(response.body)["errors"]
    return errors


def request(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: h", *lines, "", ""]).encode()


class Halves:
    """A handler that sends half of its answer, and the rest when it may."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        self.may_end.wait(10)
        connection.send(b"later")


def tunnel(connection: UpstreamConnection, request: Recorded) -> None:
    """Switches protocols and sends everything back."""
    connection.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    while data := connection.recv():
        connection.send(data)


def states_of(daemon: Daemon, upstream: str = "u") -> dict[str, str]:
    """The state of each endpoint."""
    endpoints = daemon.status()["upstreams"][upstream]["endpoints"]
    return {each["address"]: each["state"] for each in endpoints}


# How it is asked for.


def test_a_signal_a_post_and_a_command_take_a_new_file(pair: Pair) -> None:
    daemon = pair.daemon
    assert daemon.get().get("X-Upstream") == "u"
    digest = daemon.status()["config"]["digest"]

    daemon.rewrite(saying(daemon, "by signal"))
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.get().body == b"by signal")

    assert changes_of(daemon.reload(saying(daemon, "by post"))) == [
        "route all: changed respond.body: from the next request on; buckets, budgets and counts stay"
    ]
    assert daemon.get().body == b"by post"

    daemon.rewrite(saying(daemon, "by command"))
    done = command("reload", "--config", str(daemon.file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "route all: changed" in done.stdout
    assert daemon.get().body == b"by command"

    shown = daemon.status()["config"]
    assert shown["digest"] != digest
    assert daemon.sample("config_info", digest=shown["digest"]) == 1
    assert daemon.sample("config_last_reload_success") == 1
    assert daemon.sample("config_last_reload_timestamp_seconds") == pytest.approx(shown["loaded"])


def test_a_plan_names_everything_and_changes_nothing(pair: Pair) -> None:
    daemon = pair.daemon
    document = saying(daemon, "planned")
    more = free_port()
    document["listeners"]["more"] = {"address": f"127.0.0.1:{more}"}
    document["routes"].append({"name": "second", "match": {"path": "/2"}, "upstream": "v"})
    document["upstreams"]["v"] = {"endpoints": ["127.0.0.1:1"]}
    document["upstreams"]["u"]["balancer"] = "least_connections"
    document["drain_timeout"] = "3s"
    daemon.rewrite(document)
    before = daemon.ask_admin("GET", "/config").body
    done = command("reload", "--plan", "--admin", daemon.admin_text)
    assert done.returncode == 0, done.stderr
    for named in (
        "listener more: added",
        "route all: changed",
        "route second: added",
        "upstream v: added",
        "upstream u: changed balancer",
        "drain_timeout: changed",
    ):
        assert named in done.stdout
    assert daemon.get().get("X-Upstream") == "u"
    assert daemon.ask_admin("GET", "/config").body == before
    with pytest.raises(ConnectionRefusedError):
        RawClient(("127.0.0.1", more))
    found = json.loads(command("reload", "--plan", "--json", "--admin", daemon.admin_text).stdout)
    assert {each["name"] for each in found["changes"]} >= {"more", "second", "v"}


def test_a_file_that_says_the_same_changes_nothing(pair: Pair) -> None:
    """Clients and upstreams keep their connections, however the file is formatted."""
    daemon = pair.daemon
    with daemon.client() as client:
        assert client.ask(request("/1")).status == 200
        assert changes_of(daemon.reload()) == []
        again = "# a comment\n" + json.dumps(daemon.document, indent=1)
        assert changes_of(daemon.reload(again)) == []
        assert client.ask(request("/2")).status == 200
    assert len(pair.upstream.connections) == 1


# Files that are refused.


def test_a_bad_file_is_refused_with_all_its_errors(pair: Pair) -> None:
    """FILE:LINE:COL each; what was in effect stays, and the metric tells."""
    daemon = pair.daemon
    good = daemon.file.read_text()
    assert daemon.sample("config_last_reload_success") == 1
    bad = "typo: 1\n" + good.replace("upstream: u\n", "upstream: nosuch\n")
    errors = errors_of(daemon.reload(bad))
    places = [re.match(re.escape(str(daemon.file)) + r":(\d+):\d+: (.*)", each) for each in errors]
    assert all(places), errors
    assert any(place and place[1] == "1" and "typo" in place[2] for place in places)
    assert any(place and "nosuch" in place[2] for place in places)
    assert daemon.sample("config_last_reload_success") == 0
    assert daemon.get().get("X-Upstream") == "u"

    done = command("reload", "--admin", daemon.admin_text)
    assert done.returncode == 1
    assert all(error in done.stderr for error in errors)

    logged = len(daemon.stderr.lines)
    daemon.signal(signal.SIGHUP)
    daemon.stderr.wait_for(lambda line: "typo" in line, since=logged)
    assert daemon.get().get("X-Upstream") == "u"

    assert changes_of(daemon.reload(good)) == []
    assert daemon.sample("config_last_reload_success") == 1


@pytest.mark.parametrize("what", ["not yaml", "gone", "not utf-8"])
def test_a_file_that_cannot_be_read_is_refused(pair: Pair, what: str) -> None:
    daemon = pair.daemon
    if what == "gone":
        daemon.file.unlink()
    else:
        daemon.file.write_bytes(b"listeners: [" if what == "not yaml" else b"listeners: \xff\n")
    assert str(daemon.file) in "".join(errors_of(daemon.reload()))
    assert daemon.get().status == 200


def test_a_taken_address_is_refused_and_nothing_has_changed(pair: Pair) -> None:
    daemon = pair.daemon
    more = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        document = saying(daemon, "new")
        document["listeners"].update(
            {"a": {"address": f"127.0.0.1:{more}"}, "b": {"address": address}}
        )
        (error,) = errors_of(daemon.reload(document))
    assert address in error and "in use" in error
    assert daemon.get().get("X-Upstream") == "u"
    with pytest.raises(ConnectionRefusedError):
        RawClient(("127.0.0.1", more))


def test_a_unix_socket_outlives_a_refused_rename(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """The new name was bound already when another listener's address proved taken."""
    path = tmp_path / "web.sock"
    document = configuration({"u": [start_upstream().endpoint]})
    document["listeners"]["local"] = {"address": f"unix:{path}"}
    daemon = start_daemon(document)

    def served() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            client.sendall(request("/", "Connection: close"))
            return client.recv(12) == b"HTTP/1.1 200"

    assert served()
    renamed = copied(daemon)
    renamed["listeners"]["other"] = renamed["listeners"].pop("local")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = copy.deepcopy(renamed)
        refused["listeners"]["zz"] = {"address": f"127.0.0.1:{taken.getsockname()[1]}"}
        errors_of(daemon.reload(refused))
    assert served()
    changes_of(daemon.reload(renamed))
    assert served()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0
    assert not path.exists()


@pytest.mark.parametrize("key", ["workers", "admin.address"])
def test_what_needs_a_restart_is_refused(pair: Pair, key: str) -> None:
    document = saying(pair.daemon, "new")
    if key == "workers":
        document["workers"] = 3
    else:
        document["admin"]["address"] = f"127.0.0.1:{free_port()}"
    (error,) = errors_of(pair.daemon.reload(document))
    assert key in error and "restart" in error
    assert pair.daemon.get().get("X-Upstream") == "u"


def test_a_log_that_cannot_be_opened_is_refused(pair: Pair, tmp_path: Path) -> None:
    document = saying(pair.daemon, "new")
    document["logging"]["access"]["to"] = str(tmp_path / "no" / "access.log")
    assert "access.log" in "".join(errors_of(pair.daemon.reload(document)))
    assert pair.daemon.get().get("X-Upstream") == "u"


# Listeners.


def test_listeners_come_go_and_are_renamed_without_a_refused_client(pair: Pair) -> None:
    daemon = pair.daemon
    address = daemon.address
    over = threading.Event()
    failures: list[str] = []
    served = []

    def connect() -> None:
        while not over.is_set():
            try:
                with RawClient(address) as client:
                    served.append(client.ask(request("/", "Connection: close")).status)
            except (AssertionError, OSError) as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=connect) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(5):
            document = copied(daemon)
            more = free_port()
            document["listeners"] = {
                f"web{number}": next(iter(document["listeners"].values())),
                "more": {"address": f"127.0.0.1:{more}"},
            }
            changes_of(daemon.reload(document))
            with RawClient(("127.0.0.1", more)) as client:
                assert client.ask(request("/")).status == 200
            assert set(daemon.status()["listeners"]) == {f"web{number}", "more"}
            count = len(served)
            eventually(lambda count=count: len(served) > count + 5 or failures)  # type: ignore[misc]
            document = copied(daemon)
            del document["listeners"]["more"]
            changes_of(daemon.reload(document))
            with (
                pytest.raises((ConnectionRefusedError, Closed, Reset)),
                RawClient(("127.0.0.1", more)) as client,
            ):
                client.ask(request("/"))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(served) == {200}


def test_addresses_may_be_swapped(pair: Pair) -> None:
    daemon = pair.daemon
    document = copied(daemon)
    document["listeners"]["more"] = {"address": f"127.0.0.1:{free_port()}"}
    changes_of(daemon.reload(document))
    one, other = daemon.address_of("web"), daemon.address_of("more")
    document = copied(daemon)
    listeners = document["listeners"]
    listeners["web"], listeners["more"] = listeners["more"], listeners["web"]
    changes_of(daemon.reload(document))
    for address, name in ((one, "more"), (other, "web")):
        with RawClient(address) as client:
            assert client.ask(request(f"/by/{name}")).status == 200
        assert (
            daemon.access(lambda item, name=name: item["path"] == f"/by/{name}")[  # type: ignore[misc]
                "listener"
            ]
            == name
        )


def test_a_removed_listeners_download_ends_well(pair: Pair) -> None:
    daemon = pair.daemon
    halves = Halves()
    pair.upstream.on("/slow", halves)
    document = copied(daemon)
    document["listeners"]["more"] = {"address": f"127.0.0.1:{free_port()}"}
    changes_of(daemon.reload(document))
    address = daemon.address_of("more")
    with RawClient(address) as client:
        client.send(request("/slow"))
        head = client.read_head()
        assert client.read_exactly(5) == b"first"
        document = copied(daemon)
        del document["listeners"]["more"]
        changes_of(daemon.reload(document))
        with pytest.raises(ConnectionRefusedError):
            RawClient(address)
        halves.may_end.set()
        assert client.read_exactly(5) == b"later"
        assert head.status == 200
        client.expect_end()
    assert set(daemon.status()["listeners"]) == {"web"}


def test_a_higher_cap_lets_waiting_clients_in(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream()
    halves = Halves()
    upstream.on("/slow", halves)
    daemon = start_daemon(
        configuration({"u": [upstream.endpoint]}, listener={"limits": {"max_connections": 1}})
    )
    with daemon.client() as one, daemon.client() as other:
        one.send(request("/slow"))
        upstream.wait_request("/slow")
        other.send(request("/other"))
        other.expect_silence(0.2)
        document = copied(daemon)
        document["listeners"]["web"]["limits"]["max_connections"] = 2
        changes_of(daemon.reload(document))
        assert other.read_response().status == 200
        halves.may_end.set()
        assert one.read_response().body == b"firstlater"


# Routes and upstreams, with requests in flight.


def test_streams_and_tunnels_go_on_under_what_they_began_with(pair: Pair) -> None:
    """Their route and their upstream are gone from the configuration."""
    daemon, upstream = pair.daemon, pair.upstream
    halves = Halves()
    upstream.on("/stream", halves)
    upstream.on("/ws", tunnel)
    with daemon.client() as stream, daemon.client() as switched:
        stream.send(request("/stream"))
        stream.read_head()
        assert stream.read_exactly(5) == b"first"
        switched.send(request("/ws", "Connection: Upgrade", "Upgrade: websocket"))
        assert switched.read_head().status == 101
        document = copied(daemon)
        document["upstreams"] = {"v": {"endpoints": ["127.0.0.1:1"]}}
        document["routes"] = [{"name": "new", "respond": {"status": 200, "body": "new"}}]
        changes_of(daemon.reload(document))
        assert daemon.get().body == b"new"
        switched.send(b"still here")
        assert switched.read_exactly(10) == b"still here"
        halves.may_end.set()
        assert stream.read_exactly(5) == b"later"
        assert stream.ask(request("/next")).body == b"new"
    entry = daemon.access(lambda item: item["path"] == "/stream")
    assert (entry["route"], entry["upstream"], entry["status"]) == ("all", "u", 200)
    assert daemon.access(lambda item: item["path"] == "/ws")["route"] == "all"
    assert daemon.access(lambda item: item["path"] == "/next")["route"] == "new"


def test_requests_that_wait_for_a_slot_are_served(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """A reload that allows more connections lets them go on at once."""
    upstream = start_upstream()
    halves = Halves()
    upstream.on("/slow", halves)
    pool = {"max_connections_per_endpoint": 1, "pending_timeout": "10s"}
    daemon = start_daemon(configuration({"u": {"endpoints": [upstream.endpoint], "pool": pool}}))
    with daemon.client() as busy, daemon.client() as waiting:
        busy.send(request("/slow"))
        upstream.wait_request("/slow")
        waiting.send(request("/waits"))
        eventually(lambda: daemon.sample("upstream_pending") == 1)
        document = copied(daemon)
        document["upstreams"]["u"]["pool"]["max_connections_per_endpoint"] = 2
        changes_of(daemon.reload(document))
        assert waiting.read_response().status == 200
        halves.may_end.set()
        assert busy.read_response().body == b"firstlater"


def test_a_changed_upstream_keeps_its_endpoints_health(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Who is ejected or drained stays so, with another policy and another member."""
    good, drained, late = start_upstream("good"), start_upstream("drained"), start_upstream("late")
    with refused_port() as port:
        dead = f"127.0.0.1:{port}"
        daemon = start_daemon(
            configuration(
                {
                    "u": {
                        "endpoints": [good.endpoint, drained.endpoint, dead],
                        "passive_health": {"consecutive_failures": 1, "eject_for": "5m"},
                    }
                }
            )
        )
        path = f"/upstreams/u/endpoints/{drained.endpoint}/drain"
        assert daemon.post(path).status == 202
        eventually(lambda: daemon.get() and states_of(daemon)[dead] == "ejected")
        document = copied(daemon)
        document["upstreams"]["u"]["balancer"] = "least_connections"
        document["upstreams"]["u"]["endpoints"].append(late.endpoint)
        document["upstreams"]["u"]["pool"] = {"max_idle": 7}
        changes_of(daemon.reload(document))
        states = states_of(daemon)
        assert (states[dead], states[drained.endpoint]) == ("ejected", "draining")
        picks = daemon.sample("upstream_picks_total", endpoint=dead)
        before = len(drained.requests)
        assert {daemon.get().get("X-Upstream") for _ in range(20)} == {"good", "late"}
        assert len(drained.requests) == before
        assert daemon.sample("upstream_picks_total", endpoint=dead) == picks
        enabled = daemon.post(path.replace("/drain", "/enable"))
        assert enabled.status == 202
        eventually(lambda: daemon.get().get("X-Upstream") == "drained")


def test_a_removed_endpoint_gets_no_request_more(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    one, other = start_upstream("one"), start_upstream("other")
    daemon = start_daemon(configuration({"u": [one.endpoint, other.endpoint]}))
    assert {daemon.get().get("X-Upstream") for _ in range(4)} == {"one", "other"}
    document = copied(daemon)
    document["upstreams"]["u"]["endpoints"] = [other.endpoint]
    changes_of(daemon.reload(document))
    assert {daemon.get().get("X-Upstream") for _ in range(6)} == {"other"}
    one.wait_until(lambda: all(each.ended for each in one.connections), what="idle ones closed")


def test_buckets_outlive_a_reload(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    """Of five requests a minute three were spent before it: two are left."""
    limit = {"rate": "1/m", "burst": 5}
    daemon = start_daemon(
        configuration(
            {"u": [start_upstream().endpoint]},
            routes=[
                {
                    "name": "by_client",
                    "match": {"path": "/c"},
                    "upstream": "u",
                    "rate_limit": limit,
                },
                {
                    "name": "by_route",
                    "match": {"path": "/r"},
                    "upstream": "u",
                    "rate_limit": {**limit, "key": "route"},
                },
            ],
        )
    )
    for path in ("/c", "/r"):
        assert [daemon.get(path).status for _ in range(3)] == [200] * 3
    document = copied(daemon)
    for route in document["routes"]:
        route["response_headers"] = {"set": {"X-New": "yes"}}
    changes_of(daemon.reload(document))
    for path in ("/c", "/r"):
        assert [daemon.get(path).status for _ in range(4)] == [200, 200, 429, 429]
    assert daemon.get("/c").get("X-New") == "yes"


def test_a_retry_budget_outlives_a_reload(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """What twenty good requests have earned is spent after it."""
    upstream = start_upstream()
    upstream.on("/bad", answer(status="503 No"))
    retries = {"attempts": 1, "when": ["503"], "budget": "50%"}
    daemon = start_daemon(
        configuration(
            {"u": {"endpoints": [upstream.endpoint], "passive_health": False}},
            routes=[{"name": "all", "upstream": "u", "retries": retries}],
        )
    )
    with daemon.client() as client:
        for _ in range(20):
            assert client.ask(request("/good")).status == 200
        document = copied(daemon)
        document["routes"][0]["request_headers"] = {"set": {"X-New": "yes"}}
        changes_of(daemon.reload(document))
        for _ in range(12):
            assert client.ask(request("/bad")).status == 503
    assert len(upstream.find("/bad")) == 24


def test_max_concurrent_counts_who_came_before_a_reload(pair: Pair) -> None:
    daemon = pair.daemon
    document = copied(daemon)
    document["routes"][0]["max_concurrent"] = 2
    changes_of(daemon.reload(document))
    halves = Halves()
    pair.upstream.on("/slow", halves)
    with daemon.client() as one, daemon.client() as other:
        one.send(request("/slow"))
        pair.upstream.wait_request("/slow")
        document = copied(daemon)
        document["routes"][0]["response_headers"] = {"set": {"X-New": "yes"}}
        changes_of(daemon.reload(document))
        other.send(request("/slow"))
        pair.upstream.wait_request("/slow", nth=1)
        assert daemon.get("/third").status == 503
        halves.may_end.set()
        assert one.read_response().status == other.read_response().status == 200
    assert daemon.get("/third").status == 200


def test_other_timeouts_want_other_connections(pair: Pair) -> None:
    """An idle connection closes at once, a busy one when it is done, and new ones are opened."""
    daemon, upstream = pair.daemon, pair.upstream
    halves = Halves()
    upstream.on("/slow", halves)
    with daemon.client() as busy:
        busy.send(request("/slow"))
        in_flight = upstream.wait_request("/slow")
        assert daemon.get("/quick").status == 200
        idle = upstream.wait_request("/quick")
        document = copied(daemon)
        document["upstreams"]["u"]["timeouts"] = {"read": "17s"}
        changes_of(daemon.reload(document))
        upstream.wait_ended(idle)
        assert in_flight.connection.ended is None
        halves.may_end.set()
        assert busy.read_response().body == b"firstlater"
        upstream.wait_ended(in_flight)
    assert daemon.get("/after").status == 200
    assert upstream.wait_request("/after").connection.number == 2


# Logs, the token, files.


def test_logs_move_with_a_reload(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """No line is lost, and none goes to the former file afterwards."""
    first, second, app = (tmp_path / name for name in ("first.log", "second.log", "app.log"))
    document = configuration({"u": [start_upstream().endpoint]})
    document["logging"]["access"]["to"] = str(first)
    daemon = start_daemon(document)
    assert daemon.get("/before").status == 200
    document = copied(daemon)
    document["logging"].update(to=str(app), access={"to": str(second), "format": "json"})
    changes_of(daemon.reload(document))
    assert daemon.get("/after").status == 200
    eventually(lambda: second.exists() and "/after" in second.read_text())
    assert "/before" not in second.read_text()
    assert "/before" in first.read_text() and "/after" not in first.read_text()
    eventually(lambda: "reloaded" in app.read_text())


def test_a_reload_opens_log_files_anew(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """Also where the file says the same, as logrotate's reload does."""
    log, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    document = configuration({"u": [start_upstream().endpoint]})
    document["logging"]["access"]["to"] = str(log)
    daemon = start_daemon(document)
    assert daemon.get("/before").status == 200
    log.rename(rotated)
    changes_of(daemon.reload())
    assert daemon.get("/after").status == 200
    eventually(lambda: log.exists() and "/after" in log.read_text())
    assert "/before" in rotated.read_text() and "/after" not in rotated.read_text()


@pytest.mark.parametrize("same", [True, False], ids=["same file", "other file"])
def test_put_logging_holds_until_a_reload(pair: Pair, same: bool) -> None:
    daemon = pair.daemon
    body = b'{"level": "debug", "debug": ["routes"]}'
    assert daemon.ask_admin("PUT", "/logging", JSON, body=body).status == 202
    logged = len(daemon.stderr.lines)
    daemon.get("/loud")
    daemon.stderr.wait_for(lambda line: "[routes]" in line, since=logged)
    document = copied(daemon)
    if not same:
        document["drain_timeout"] = "3s"
    changes_of(daemon.reload(document))
    daemon.stderr.wait_for(lambda line: "reloaded" in line, since=logged)
    logged = len(daemon.stderr.lines)
    for _ in range(3):
        daemon.get("/quiet")
    changes_of(daemon.reload())
    daemon.stderr.wait_for(lambda line: "reloaded" in line, since=logged)
    lines = daemon.stderr.lines[logged:]
    assert [line for line in lines if "[routes]" in line] == []


def test_another_token_and_secrets_from_files(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """Files are read anew; the environment is not."""
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("first")
    key.write_text("old")
    upstream = start_upstream()
    document = configuration(
        {"u": [upstream.endpoint]},
        routes=[
            {
                "name": "all",
                "upstream": "u",
                "request_headers": {"set": {"X-Key": f"${{file:{key}}}"}},
            }
        ],
    )
    document["admin"]["token"] = f"${{file:{token}}}"
    daemon = start_daemon(document)
    token.write_text("second")
    key.write_text("new")
    first, second = "Authorization: Bearer first", "Authorization: Bearer second"
    assert daemon.post("/reload").status == 401
    assert len(changes_of(daemon.post("/reload", first))) == 2
    assert daemon.ask_admin("GET", "/status", first).status == 401
    assert daemon.ask_admin("GET", "/status", second).status == 200
    daemon.get("/keyed")
    assert upstream.wait_request("/keyed").get("X-Key") == "new"


def test_reloads_one_after_another(pair: Pair) -> None:
    """Asked for at the same time; the last file is in effect, and all are answered."""
    daemon = pair.daemon
    daemon.rewrite(saying(daemon, "new"))
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(daemon.post("/reload").status))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 5
    assert daemon.get().body == b"new"


def test_a_reload_while_stopping_does_no_harm(own: Pair) -> None:
    """What is in flight ends, and the process leaves."""
    daemon = own.daemon
    halves = Halves()
    own.upstream.on("/slow", halves)
    with daemon.client() as client:
        client.send(request("/slow"))
        own.upstream.wait_request("/slow")
        document = copied(daemon)
        document["listeners"] = {
            "renamed": document["listeners"]["web"],
            "more": {"address": f"127.0.0.1:{free_port()}"},
        }
        daemon.rewrite(document)
        daemon.signal(signal.SIGTERM)
        eventually(lambda: daemon.ask_admin("GET", "/readyz").status == 503)
        daemon.signal(signal.SIGHUP)
        daemon.stderr.wait_for(lambda line: "reload" in line)
        halves.may_end.set()
        assert client.read_response().body == b"firstlater"
    assert daemon.wait_exit() == 0


# Drain and undrain.


def by_post(daemon: Daemon, name: str) -> None:
    assert daemon.post(f"/{name}").status == 202


def by_command(daemon: Daemon, name: str) -> None:
    assert command(name, "--admin", daemon.admin_text).returncode == 0


@pytest.mark.parametrize("do", [by_post, by_command], ids=["post", "command"])
def test_drain_and_undrain(pair: Pair, do: Callable[[Daemon, str], None]) -> None:
    """Unready, and keep-alive ends; the listener stays, and every request is served."""
    daemon = pair.daemon
    with daemon.client() as kept:
        assert not kept.ask(request("/1")).closes
        do(daemon, "drain")
        ready = daemon.ask_admin("GET", "/readyz")
        assert (ready.status, ready.body.strip()) == (503, b"draining")
        assert daemon.ask_admin("GET", "/healthz").status == 200
        last = kept.ask(request("/2"))
        assert (last.status, last.closes) == (200, True)
        kept.expect_end()
    fresh = daemon.get("/3")
    assert (fresh.status, fresh.closes) == (200, True)
    assert daemon.status()["draining"] is True
    do(daemon, "undrain")
    assert daemon.ask_admin("GET", "/readyz").status == 200
    with daemon.client() as kept:
        assert not kept.ask(request("/4")).closes
        assert not kept.ask(request("/5")).closes
    assert daemon.status()["draining"] is False


def test_a_drain_outlives_a_reload(pair: Pair) -> None:
    """A listener that it adds ends keep-alive as well."""
    daemon = pair.daemon
    by_post(daemon, "drain")
    document = saying(daemon, "new")
    document["listeners"]["more"] = {"address": f"127.0.0.1:{free_port()}"}
    changes_of(daemon.reload(document))
    assert daemon.ask_admin("GET", "/readyz").status == 503
    for name in ("web", "more"):
        with RawClient(daemon.address_of(name)) as client:
            response = client.ask(request("/"))
            assert (response.body, response.closes) == (b"new", True)
    by_post(daemon, "undrain")
    for name in ("web", "more"):
        with RawClient(daemon.address_of(name)) as client:
            assert not client.ask(request("/")).closes
