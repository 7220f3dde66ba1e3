"""Who gets the next request, and what happens when nobody has room."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterator

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    RawClient,
    Recorded,
    ScriptedUpstream,
    UpstreamConnection,
    configuration,
    eventually,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def three(module_upstream: StartUpstream) -> list[ScriptedUpstream]:
    return [module_upstream(name) for name in "abc"]


@pytest.fixture(scope="module")
def daemon(module_daemon: StartDaemon, three: list[ScriptedUpstream]) -> Daemon:
    ends = [upstream.endpoint for upstream in three]
    weights = [
        {"address": end, "weight": weight} for end, weight in zip(ends, (5, 1, 1), strict=True)
    ]
    zero = [{"address": ends[0], "weight": 0}, *ends[1:]]
    upstreams = {
        "plain": ends,
        "weighted": {"endpoints": weights, "balancer": "weighted_round_robin"},
        "weights": {"endpoints": weights},
        "zero": {"endpoints": zero},
        "random": {"endpoints": ends, "balancer": "random"},
        "least": {"endpoints": ends, "balancer": "least_connections"},
        "two": {"endpoints": ends, "balancer": "power_of_two"},
        "ring": {"endpoints": ends, "balancer": "consistent_hash", "hash_key": "header:X-User"},
        "cookie": {"endpoints": ends, "balancer": "consistent_hash", "hash_key": "cookie:sid"},
        "path": {"endpoints": ends, "balancer": "consistent_hash", "hash_key": "path"},
        "client": {"endpoints": ends, "balancer": "consistent_hash"},
        "ring_zero": {
            "endpoints": zero,
            "balancer": "consistent_hash",
            "hash_key": "header:X-User",
        },
    }
    routes: list[dict[str, object]] = [
        {"name": name, "match": {"path_prefix": f"/{name}"}, "upstream": name} for name in upstreams
    ]
    routes.append(
        {
            "name": "split",
            "match": {"path_prefix": "/split"},
            "upstream": {"only_a": 3, "only_b": 1},
        }
    )
    upstreams["only_a"] = [ends[0]]
    upstreams["only_b"] = [ends[1]]
    return module_daemon(configuration(upstreams, routes=routes))


def who(daemon: Daemon, path: str, count: int, *lines: str) -> str:
    """The upstreams' names that answered, in order."""
    names = []
    with daemon.client() as client:
        for _ in range(count):
            head = [f"GET {path} HTTP/1.1", "Host: h", *lines, "", ""]
            response = client.ask("\r\n".join(head).encode())
            names.append(str(response.get("X-Upstream")))
    return "".join(names)


def test_round_robin_is_a_plain_cycle(daemon: Daemon) -> None:
    names = who(daemon, "/plain", 12)
    assert set(names[:3]) == set("abc")
    assert names == names[:3] * 4


def test_round_robin_is_one_cycle_for_all_clients(daemon: Daemon) -> None:
    names = "".join(who(daemon, "/plain", 1) for _ in range(9))
    assert names == names[:3] * 3
    assert set(names) == set("abc")


@pytest.mark.parametrize("upstream", ["weighted", "weights"])
def test_weights_are_smooth(daemon: Daemon, upstream: str) -> None:
    """5:1:1 as a a b a c a a, not a a a a a b c."""
    names = who(daemon, f"/{upstream}", 14)
    assert collections.Counter(names) == {"a": 10, "b": 2, "c": 2}
    assert "aaaaa" not in names[1:13]
    assert names[:7] == names[7:]


def test_weight_zero_gets_no_requests(daemon: Daemon) -> None:
    assert set(who(daemon, "/zero", 10)) == set("bc")


@pytest.mark.parametrize("balancer", ["random", "two"])
def test_chance_reaches_everybody(daemon: Daemon, balancer: str) -> None:
    counts = collections.Counter(who(daemon, f"/{balancer}", 150))
    assert set(counts) == set("abc")
    assert min(counts.values()) > 20


def test_least_connections_avoids_the_busy(daemon: Daemon, three: list[ScriptedUpstream]) -> None:
    """Of three, the two that hold a request get none of the next ones."""
    release = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        release.wait(10)
        connection.send(OK)

    for upstream in three:
        upstream.on("/least/hold", play)
    clients = [daemon.client() for _ in range(2)]
    for client in clients:
        client.send(b"GET /least/hold HTTP/1.1\r\nHost: h\r\n\r\n")
    eventually(
        lambda: sum(len(upstream.find("/least/hold")) for upstream in three) == 2,
        what="two held requests",
    )
    busy = {upstream.name for upstream in three if upstream.find("/least/hold")}
    assert len(busy) == 2
    assert set(who(daemon, "/least", 6)) == set("abc") - busy
    release.set()
    for client in clients:
        assert client.read_response().status == 200
        client.close()


@pytest.mark.parametrize(
    ("path", "line"),
    [("/ring", "X-User: {}"), ("/cookie", "Cookie: a=b; sid={}; c=d"), ("/path/{}", "X-A: b")],
)
def test_consistent_hash_is_sticky_and_spreads(daemon: Daemon, path: str, line: str) -> None:
    homes = {}
    for user in range(60):
        names = who(daemon, path.format(user), 3, line.format(user))
        assert len(set(names)) == 1
        homes[user] = names[0]
    counts = collections.Counter(homes.values())
    assert set(counts) == set("abc")
    assert min(counts.values()) >= 5


def test_consistent_hash_by_client_is_sticky(daemon: Daemon) -> None:
    assert len({who(daemon, "/client", 1) for _ in range(8)}) == 1


def test_consistent_hash_moves_only_the_lost_ones_keys(daemon: Daemon) -> None:
    """Without a, keys of b and c stay where they are."""
    for user in range(40):
        home = who(daemon, "/ring", 1, f"X-User: {user}")
        without = who(daemon, "/ring_zero", 1, f"X-User: {user}")
        assert without in "bc"
        if home != "a":
            assert without == home


def test_consistent_hash_without_its_key_still_serves(daemon: Daemon) -> None:
    assert set(who(daemon, "/ring", 6)) <= set("abc")


def test_a_split_keeps_its_shares(daemon: Daemon) -> None:
    counts = collections.Counter(who(daemon, "/split", 200))
    assert set(counts) == set("ab")
    assert 110 < counts["a"] < 185


def test_a_balancer_of_ones_own(start_daemon: StartDaemon, three: list[ScriptedUpstream]) -> None:
    """Named package.module:Class; built anew for every membership."""
    document = configuration(
        {
            "u": {
                "endpoints": [upstream.endpoint for upstream in three],
                "balancer": "tests.live.own_balancer:Last",
            }
        }
    )
    names = who(start_daemon(document, environment={"PYTHONPATH": _root()}), "/", 5)
    assert len(set(names)) == 1


def _root() -> str:
    import tests

    return str(next(iter(tests.__path__)) + "/..")


# Limits.


class Hold:
    """A handler that holds all requests until released, and counts them."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __call__(self, connection: UpstreamConnection, request: Recorded) -> None:
        connection.read_body(request)
        self.release.wait(15)
        connection.send(OK)


@pytest.fixture
def hold(start_upstream: StartUpstream) -> Iterator[tuple[ScriptedUpstream, Hold]]:
    upstream = start_upstream()
    holding = Hold()
    upstream.on("/hold", holding)
    yield upstream, holding
    holding.release.set()


def send(daemon: Daemon, path: str) -> RawClient:
    """A client that has sent its request."""
    client = daemon.client(timeout=8)
    client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    return client


def pending(daemon: Daemon) -> float:
    """Requests that wait at the upstream u."""
    return daemon.sample("upstream_pending", upstream="u")


def limited(upstream: ScriptedUpstream, **pool: object) -> dict[str, object]:
    """An upstream u with such a pool."""
    return configuration(
        {
            "u": {
                "endpoints": [upstream.endpoint],
                "pool": {"max_connections_per_endpoint": 2, **pool},
            }
        }
    )


def test_at_the_limit_requests_wait_in_order(
    start_daemon: StartDaemon, hold: tuple[ScriptedUpstream, Hold]
) -> None:
    upstream, holding = hold
    daemon = start_daemon(limited(upstream, max_connections_per_endpoint=1))
    first = [send(daemon, "/hold")]
    upstream.wait_request("/hold")
    waiting = []
    for number in range(4):
        waiting.append(send(daemon, f"/wait/{number}"))
        eventually(lambda count=number + 1: pending(daemon) == count, what="one more pending")
    assert len(upstream.requests) == 1
    holding.release.set()
    for client in [*first, *waiting]:
        assert client.read_response().status == 200
        client.close()
    assert [item.path for item in upstream.requests[1:]] == [f"/wait/{n}" for n in range(4)]
    assert len(upstream.connections) == 1


def test_a_full_queue_is_503_with_retry_after(
    start_daemon: StartDaemon, hold: tuple[ScriptedUpstream, Hold]
) -> None:
    upstream, holding = hold
    daemon = start_daemon(limited(upstream, max_pending=1))
    clients = [send(daemon, "/hold") for _ in range(2)]
    upstream.wait_until(lambda: len(upstream.find("/hold")) == 2, what="two in flight")
    clients.append(send(daemon, "/wait"))
    eventually(lambda: pending(daemon) == 1, what="one pending")
    began = time.monotonic()
    response = daemon.get("/full")
    assert time.monotonic() - began < 1
    assert response.status == 503
    assert str(response.get("Retry-After")).isdigit()
    assert daemon.access(lambda item: item["path"] == "/full")["reason"] == "queue_full"
    holding.release.set()
    for client in clients:
        assert client.read_response().status == 200
        client.close()


def test_no_waiting_at_all(start_daemon: StartDaemon, hold: tuple[ScriptedUpstream, Hold]) -> None:
    """max_pending 0 = no waiting."""
    upstream, _ = hold
    daemon = start_daemon(limited(upstream, max_pending=0))
    clients = [send(daemon, "/hold") for _ in range(2)]
    upstream.wait_until(lambda: len(upstream.find("/hold")) == 2, what="two in flight")
    assert daemon.get("/full").status == 503
    for client in clients:
        client.close()


def test_pending_timeout_is_503(
    start_daemon: StartDaemon, hold: tuple[ScriptedUpstream, Hold]
) -> None:
    upstream, holding = hold
    daemon = start_daemon(limited(upstream, pending_timeout="400ms"))
    clients = [send(daemon, "/hold") for _ in range(2)]
    upstream.wait_until(lambda: len(upstream.find("/hold")) == 2, what="two in flight")
    began = time.monotonic()
    assert daemon.get("/late").status == 503
    assert 0.2 < time.monotonic() - began < 2.5
    assert daemon.access(lambda item: item["path"] == "/late")["reason"] == "pending_timeout"
    holding.release.set()
    for client in clients:
        assert client.read_response().status == 200
        client.close()
    assert daemon.get("/after").status == 200
    assert upstream.find("/late") == []


def test_a_client_that_leaves_the_queue_leaves_its_place(
    start_daemon: StartDaemon, hold: tuple[ScriptedUpstream, Hold]
) -> None:
    upstream, holding = hold
    daemon = start_daemon(limited(upstream))
    clients = [send(daemon, "/hold") for _ in range(2)]
    upstream.wait_until(lambda: len(upstream.find("/hold")) == 2, what="two in flight")
    gone = send(daemon, "/gone")
    eventually(lambda: pending(daemon) == 1, what="one pending")
    gone.reset()
    eventually(lambda: pending(daemon) == 0, what="nobody pending")
    holding.release.set()
    for client in clients:
        assert client.read_response().status == 200
        client.close()
    assert daemon.get("/after").status == 200
    assert upstream.find("/gone") == []


def test_a_cancelled_request_gives_its_slot_to_the_next(
    start_daemon: StartDaemon, hold: tuple[ScriptedUpstream, Hold]
) -> None:
    """A connection that dies with its request frees its endpoint."""
    upstream, _ = hold
    upstream.on("/stuck", lambda connection, request: print(connection.wait_end(), end=""))
    daemon = start_daemon(limited(upstream))
    stuck = [send(daemon, "/stuck") for _ in range(2)]
    upstream.wait_until(lambda: len(upstream.find("/stuck")) == 2, what="two in flight")
    waiting = send(daemon, "/next")
    eventually(lambda: pending(daemon) == 1, what="one pending")
    stuck[0].reset()
    assert waiting.read_response().status == 200
    waiting.close()
    stuck[1].close()


def test_idle_connections_are_bounded(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """max_idle_per_endpoint: the rest closes after its request."""
    upstream = start_upstream()
    barrier = threading.Barrier(6)

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        barrier.wait(5)
        connection.send(OK)

    upstream.on("/together", play)
    daemon = start_daemon(
        configuration(
            {"u": {"endpoints": [upstream.endpoint], "pool": {"max_idle_per_endpoint": 2}}}
        )
    )
    clients = [send(daemon, "/together") for _ in range(6)]
    for client in clients:
        assert client.read_response().status == 200
    upstream.wait_until(
        lambda: sum(item.ended is None for item in upstream.connections) == 2, what="two kept"
    )
    for client in clients:
        client.close()


def test_idle_connections_time_out(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream()
    daemon = start_daemon(
        configuration({"u": {"endpoints": [upstream.endpoint], "pool": {"idle_timeout": "500ms"}}})
    )
    assert daemon.get("/a").status == 200
    upstream.wait_until(lambda: upstream.connections[0].ended == "closed", 4, "the idle one's end")


def test_no_reuse_at_all(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    """max_idle 0 = no reuse."""
    upstream = start_upstream()
    daemon = start_daemon(
        configuration({"u": {"endpoints": [upstream.endpoint], "pool": {"max_idle": 0}}})
    )
    for number in range(3):
        assert daemon.get(f"/{number}").status == 200
    assert len(upstream.connections) == 3


def test_keep_alive_of_the_endpoint_shortens_idleness(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Keep-Alive: timeout=2, less one second: gone well before the upstream would close."""
    upstream = start_upstream()
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        connection.send(
            b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2, max=100\r\nContent-Length: 2\r\n\r\nok"
        )

    upstream.on("/short", play)
    assert daemon.get("/short").status == 200
    upstream.wait_until(lambda: upstream.connections[0].ended == "closed", 3.5, "the end")


def test_pool_metrics(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    upstream = start_upstream()
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    for number in range(3):
        assert daemon.get(f"/{number}").status == 200
    assert daemon.sample("pool_acquires_total", upstream="u", result="hit") == 2
    assert daemon.sample("pool_acquires_total", upstream="u", result="miss") == 1
    assert daemon.sample("pool_connections", upstream="u", state="idle") == 1
    assert daemon.sample("pool_connections", upstream="u", state="busy") == 0
