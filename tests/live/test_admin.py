"""The admin interface: health, metrics, status, explain, configuration, logging."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    Recorded,
    ScriptedUpstream,
    UpstreamConnection,
    answer,
    configuration,
    eventually,
    refused_port,
)


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    document = configuration(
        {"users": [upstream.endpoint], "spare": [upstream.endpoint]},
        routes=[
            {
                "name": "api",
                "match": {"hosts": ["api.example"], "path_prefix": "/api"},
                "rewrite": {"strip_prefix": "/api"},
                "upstream": "users",
            },
            {
                "name": "posts",
                "match": {"path_prefix": "/posts", "methods": ["POST"]},
                "upstream": "users",
            },
            {"name": "spare", "match": {"path_prefix": "/spare"}, "upstream": "spare"},
        ],
    )
    upstream.on("/hello", answer(b"hello"))
    daemon = module_daemon(document)
    assert daemon.get("/api/hello", "api.example").status == 200
    assert daemon.get("/api/hello", "api.example").status == 200
    assert daemon.get("/nowhere").status == 404
    return Pair(daemon, upstream)


def test_healthz_and_readyz(pair: Pair) -> None:
    health = pair.daemon.ask_admin("GET", "/healthz")
    assert (health.status, health.body.strip()) == (200, b"ok")
    assert pair.daemon.ask_admin("GET", "/readyz").status == 200


def test_unknown_paths_and_methods(pair: Pair) -> None:
    assert pair.daemon.ask_admin("GET", "/nowhere").status == 404
    assert pair.daemon.ask_admin("DELETE", "/status").status == 405


# Metrics.

# As interfaces.md writes them; those of other issues are left out.
METRICS = {
    "requests_total": {"listener", "route", "upstream", "code"},
    "request_duration_seconds_bucket": {"listener", "route", "upstream", "le"},
    "requests_in_flight": {"route"},
    "request_bytes_total": None,
    "response_bytes_total": None,
    "upstream_picks_total": {"upstream", "endpoint"},
    "upstream_endpoints": {"upstream", "state"},
    "pool_connections": {"upstream", "state"},
    "pool_acquires_total": {"upstream", "result"},
    "client_connections": {"listener"},
    "client_connections_total": {"listener"},
    "gateway_answers_total": {"listener", "route", "reason"},
    "upstream_requests_total": {"upstream", "code"},
    "upstream_pending": {"upstream"},
    "upstream_response_header_seconds_count": {"upstream"},
    "membership_changes_total": {"upstream"},
    "membership_age_seconds": {"upstream"},
    "membership_source": {"upstream", "source"},
    "accept_paused": {"listener"},
    "log_lines_dropped_total": {"log"},
    "build_info": {"version"},
    "config_info": {"digest"},
    "config_last_reload_success": set(),
    "config_last_reload_timestamp_seconds": set(),
    "reactor_lag_seconds_bucket": {"le"},
    "tunnels": {"route"},
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_have_their_names_and_labels(pair: Pair, name: str) -> None:
    samples = pair.daemon.samples(name)
    assert samples, name
    labels = METRICS[name]
    if labels is not None:
        # process="…" is allowed on every one (decisions, Labels).
        assert {frozenset(set(item) - {"process"}) for item, _ in samples} == {frozenset(labels)}


def test_metrics_are_valid_prometheus_text(pair: Pair) -> None:
    response = pair.daemon.ask_admin("GET", "/metrics")
    assert str(response.get("Content-Type")).startswith("text/plain")
    families = list(text_string_to_metric_families(response.body.decode()))
    assert all(family.documentation and family.type for family in families)
    names = {family.name for family in families}
    assert {"process_resident_memory_bytes", "process_open_fds"} <= names
    assert any(name.startswith("python_gc_") for name in names)


def test_openmetrics_on_accept(pair: Pair) -> None:
    response = pair.daemon.ask_admin(
        "GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0"
    )
    assert str(response.get("Content-Type")).startswith("application/openmetrics-text")
    assert response.body.endswith(b"# EOF\n")


def test_metrics_count(pair: Pair) -> None:
    sample = pair.daemon.sample
    before = sample("requests_total", route="api", code="200")
    bytes_before = sample("response_bytes_total")
    for _ in range(5):
        assert pair.daemon.get("/api/hello", "api.example").status == 200
    eventually(lambda: sample("requests_total", route="api", code="200") == before + 5)
    ((labels, _),) = pair.daemon.samples("requests_total", route="api", code="200")
    assert (labels["listener"], labels["upstream"]) == ("web", "users")
    assert sample("response_bytes_total") >= bytes_before + 25
    assert sample("request_duration_seconds_count", route="api") == before + 5
    assert sample("upstream_requests_total", upstream="users", code="200") >= before + 5
    endpoint = pair.upstream.endpoint
    assert sample("upstream_picks_total", upstream="users", endpoint=endpoint) >= before + 5
    assert sample("requests_in_flight", route="api") == 0
    assert sample("gateway_answers_total", reason="no_route", route="-") >= 1
    assert sample("requests_total", route="-", upstream="-", code="404") >= 1


def test_labels_never_come_from_a_request(pair: Pair) -> None:
    secret = "zq7-secret"
    pair.daemon.get(f"/{secret}", f"{secret}.example", f"User-Agent: {secret}")
    pair.daemon.ask(f"{secret.upper()} /api/x HTTP/1.1\r\nHost: api.example\r\n\r\n".encode())
    assert secret.lower() not in pair.daemon.metrics().lower()


def test_odd_status_codes_are_other(pair: Pair) -> None:
    """Codes outside 100 to 599."""
    pair.upstream.on("/odd", answer(status="799 Odd"))
    status = pair.daemon.get("/api/odd", "api.example").status
    assert status in (799, 502)
    if status == 799:
        assert pair.daemon.sample("requests_total", route="api", code="other") >= 1
    assert pair.daemon.sample("requests_total", code="799") == 0


# Status.


def test_status(pair: Pair) -> None:
    document = pair.daemon.status()
    assert document["pid"] == pair.daemon.pid
    assert document["version"]
    assert document["uptime"] >= 0
    assert document["workers"]
    text = json.dumps(document)
    assert "digest" in text
    assert "web" in document["listeners"] or "web" in text
    upstreams = document["upstreams"]
    users = (
        upstreams["users"]
        if isinstance(upstreams, dict)
        else next(item for item in upstreams if item["name"] == "users")
    )
    (endpoint,) = users["endpoints"]
    assert endpoint["address"] == pair.upstream.endpoint
    assert endpoint["weight"] == 1
    assert endpoint["state"] in ("unchecked", "healthy")
    assert endpoint["source"] == "static"
    assert endpoint["in_flight"] == 0
    assert endpoint["picks"] >= 2


def test_status_has_the_window_of_response_times(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream()
    pause = threading.Event()

    def play(connection: UpstreamConnection, request: Recorded) -> None:
        pause.wait(0.2)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.on("/slow", play)
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    for _ in range(9):
        assert daemon.get("/quick").status == 200
    assert daemon.get("/slow").status == 200
    text = json.dumps(daemon.status()["upstreams"])
    for key in ("min", "mean", "max", "p50", "p90", "p99"):
        assert f'"{key}"' in text
    window = _find(daemon.status()["upstreams"], "p50")
    assert 0 <= window["min"] <= window["p50"] <= window["p90"] <= window["p99"] <= window["max"]
    # Seconds, or milliseconds by a name that says so; the slow one took a fifth of a second.
    assert window["max"] >= 0.15
    assert window["p50"] < window["max"] / 2


def _find(value: object, key: str) -> dict[str, float]:
    """The first object that has *key*."""
    if isinstance(value, dict):
        if key in value:
            return value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            if found := _find(item, key):
                return found
    return {}


def test_status_counts_open_connections(pair: Pair) -> None:
    with pair.daemon.client() as client:
        assert client.ask(b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n").status == 404
        assert pair.daemon.sample("client_connections", listener="web") >= 1


# Explain.


def explain(daemon: Daemon, query: str) -> str:
    """GET /explain as text, whatever its JSON looks like."""
    response = daemon.ask_admin("GET", f"/explain?{query}")
    assert response.status == 200, response.body
    json.loads(response.body)
    return response.body.decode()


def test_explain_says_where_and_why(pair: Pair) -> None:
    text = explain(pair.daemon, "method=GET&url=http://api.example/api/hello%3Fq")
    for word in ("web", "api", "users", pair.upstream.endpoint, "/hello"):
        assert word in text
    assert "posts" in text, "why the others were passed over"


def test_explain_no_route(pair: Pair) -> None:
    response = pair.daemon.ask_admin("GET", "/explain?method=GET&url=http://h/nowhere")
    assert response.status in (200, 404)
    assert "api" in response.body.decode()


@pytest.mark.parametrize("query", ["", "method=GET", "url=%ff", "method=GET&url="])
def test_explain_with_a_bad_question_is_400(pair: Pair, query: str) -> None:
    assert pair.daemon.ask_admin("GET", f"/explain?{query}").status == 400


def test_explain_picks_nobody(pair: Pair) -> None:
    before = pair.daemon.sample("upstream_picks_total", upstream="spare")
    explain(pair.daemon, "method=GET&url=http://h/spare")
    assert pair.daemon.sample("upstream_picks_total", upstream="spare") == before


# Configuration and access.


def test_config_masks_secrets(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    upstream = start_upstream()
    (tmp_path / "secret").write_text("from-a-file\n")
    document = configuration(
        {"u": [upstream.endpoint]},
        routes=[
            {
                "name": "r",
                "upstream": "u",
                "request_headers": {
                    "set": {"X-Key": f"${{file:{tmp_path}/secret}}", "X-Env": "${FROM_ENV}"}
                },
            }
        ],
    )
    document["admin"]["token"] = "admin-secret-token"
    daemon = start_daemon(document, environment={"FROM_ENV": "from-the-environment"})
    daemon.get("/x")
    request = upstream.wait_request("/x")
    assert request.get("X-Key") == "from-a-file"
    assert request.get("X-Env") == "from-the-environment"
    response = daemon.ask_admin("GET", "/config", "Authorization: Bearer admin-secret-token")
    assert response.status == 200
    shown = response.body.decode()
    assert upstream.endpoint in shown
    assert "admin-secret-token" not in shown
    assert "from-a-file" not in shown


def test_the_token(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    """Needed for all but healthz and readyz."""
    document = configuration({"u": [start_upstream().endpoint]})
    document["admin"]["token"] = "t0ken"
    daemon = start_daemon(document)
    for path in ("/status", "/metrics", "/config", "/explain?method=GET&url=/"):
        for lines in [
            (),
            ("Authorization: Bearer wrong",),
            ("Authorization: Bearer",),
            ("Authorization: Basic t0ken",),
            ("Authorization: t0ken",),
            ("Authorization: Bearer t0kenx",),
            ("Authorization: Bearer \xe9",),
        ]:
            assert daemon.ask_admin("GET", path, *lines).status in (401, 403)
        assert daemon.ask_admin("GET", path, "Authorization: Bearer t0ken").status == 200
    for path in ("/healthz", "/readyz"):
        assert daemon.ask_admin("GET", path).status == 200
    assert daemon.ask_admin(
        "PUT", "/logging", "Content-Type: application/json", body=b'{"level": "debug"}'
    ).status in (401, 403)


def test_open_paths_may_be_added(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    document = configuration({"u": [start_upstream().endpoint]})
    document["admin"].update(token="t0ken", open=["healthz", "readyz", "metrics"])
    daemon = start_daemon(document)
    assert daemon.ask_admin("GET", "/metrics").status == 200
    assert daemon.ask_admin("GET", "/status").status in (401, 403)


def test_an_admin_socket(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """0660, and the command talks to it."""
    from tests.live.harness import command

    path = tmp_path / "admin.sock"
    document = configuration({"u": [start_upstream().endpoint]})
    document["admin"]["address"] = f"unix:{path}"
    daemon = start_daemon(document, ready=False)
    try:
        eventually(path.exists, 10, "the socket")
        assert path.stat().st_mode & 0o777 == 0o660
        done = eventually(
            lambda: (
                (found := command("status", "--admin", f"unix:{path}")).returncode == 0 and found
            )
        )
        assert "u" in done.stdout
    finally:
        daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0


def test_admin_none(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    document = configuration({"u": [start_upstream().endpoint]})
    document["admin"]["address"] = "none"
    daemon = start_daemon(document, ready=False)

    def served() -> bool:
        try:
            return daemon.get("/").status == 200
        except OSError:
            return False

    eventually(served, 10, "service without an admin interface")


JSON = "Content-Type: application/json"


@pytest.mark.parametrize(
    ("lines", "host", "status"),
    [
        ((JSON,), None, 0),
        ((JSON,), "localhost", 0),
        ((JSON,), "localhost:1", 0),
        ((JSON + "; charset=utf-8",), None, 0),
        ((JSON,), "evil.example", 403),
        ((JSON,), "127.0.0.1.evil.example", 403),
        ((), None, 403),
        (("Content-Type: text/plain",), None, 403),
        (("Content-Type: application/x-www-form-urlencoded",), None, 403),
        (("Content-Type: text/plain; application/json",), None, 403),
    ],
)
def test_put_wants_json_and_its_own_host(
    pair: Pair, lines: tuple[str, ...], host: str | None, status: int
) -> None:
    """Against a browser that a page tells to write here."""
    response = pair.daemon.ask_admin(
        "PUT", "/logging", *lines, body=b'{"level": "info"}', host=host
    )
    if status:
        assert response.status == status
    else:
        assert response.status in (200, 202, 204)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b'"x"',
        b'{"level": "loud"}',
        b'{"debug": "pool"}',
        b'{"debug": ["nosuch"]}',
        b'{"levle": "info"}',
        b"\xff",
        b"[" * 10000,
    ],
)
def test_put_logging_refuses_nonsense(pair: Pair, body: bytes) -> None:
    response = pair.daemon.ask_admin("PUT", "/logging", JSON, body=body)
    assert response.status in (400, 409, 422)
    assert pair.daemon.ask_admin("GET", "/healthz").status == 200


def test_put_logging_changes_what_is_logged(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Debug lines of a subsystem appear, and vanish again."""
    daemon = start_daemon(configuration({"u": [start_upstream().endpoint]}))
    daemon.get("/quiet")
    debug = b'{"debug": ["pool", "routes"]}'

    def shown(path: str) -> str:
        return daemon.stderr.wait_for(lambda line: path in line)

    assert daemon.ask_admin("PUT", "/logging", JSON, body=debug).status in (200, 202, 204)
    for number in range(3):
        daemon.get(f"/loud/{number}")
    shown("/loud/2")
    daemon.ask_admin("PUT", "/logging", JSON, body=b'{"level": "info", "debug": []}')
    for number in range(3):
        daemon.get(f"/quiet/{number}")
    daemon.ask_admin("PUT", "/logging", JSON, body=debug)
    daemon.get("/again")
    shown("/again")
    assert "/quiet" not in daemon.stderr.text


def test_an_upstream_without_members_does_not_unready(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """Static members are a membership, reachable or not."""
    with refused_port() as port:
        daemon = start_daemon(configuration({"u": [f"127.0.0.1:{port}"]}))
        assert daemon.ask_admin("GET", "/readyz").status == 200


def test_admin_takes_broken_requests(pair: Pair) -> None:
    """It answers or closes, and lives."""
    from tests.live.harness import RawClient

    for data in (b"\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET /" + b"x" * 100000, b"\r\n" * 100):
        with RawClient(pair.daemon.admin) as client:
            client.send_anyway(data)
            with contextlib.suppress(OSError):
                client.half_close()
            client.read_until_close()
    assert pair.daemon.ask_admin("GET", "/healthz").status == 200


def test_admin_on_its_own_port_never_serves_routes(pair: Pair) -> None:
    assert pair.daemon.ask_admin("GET", "/api/hello", host="api.example").status in (403, 404)
    assert pair.daemon.get("/status").status == 404
