"""The commands: check, run, schema, explain, status, and what they say when it goes wrong."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import Daemon, command, configuration, free_port

SMALL = """\
listeners:
  web:
    address: 127.0.0.1:2000
upstreams:
  users:
    endpoints: [127.0.0.1:2003]
"""


def check(tmp_path: Path, text: str, *options: str, **environment: str) -> Any:
    """`gatewayd check` of a text."""
    file = tmp_path / "g.yaml"
    file.write_text(text)
    return command("check", *options, str(file), environment=environment)


def lines_of(done: Any) -> list[str]:
    """Everything that a command printed."""
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def errors_of(done: Any, tmp_path: Path) -> list[tuple[int, int, str]]:
    """The lines FILE:LINE:COL: rest."""
    pattern = re.compile(re.escape(str(tmp_path / "g.yaml")) + r":(\d+):(\d+): (.*)")
    found = [pattern.match(line) for line in lines_of(done)]
    return [(int(match[1]), int(match[2]), match[3]) for match in found if match]


def patched(path: str, value: str) -> str:
    """SMALL with one more key, given as a dotted path and YAML text."""
    document: Any = yaml.safe_load(SMALL)
    *parents, last = path.split("/")
    place = document
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = yaml.safe_load(value)
    return yaml.safe_dump(document, sort_keys=False)


# check.


def test_check_of_a_good_file(tmp_path: Path) -> None:
    done = check(tmp_path, SMALL)
    assert done.returncode == 0, lines_of(done)


def test_check_of_the_contracts_own_example_keys(tmp_path: Path) -> None:
    """A fuller file of first-release keys."""
    done = check(
        tmp_path,
        """\
listeners:
  web:
    address: 0.0.0.0:2000
    protocol: http
    trusted_proxies: [10.0.0.0/8, "fd00::/8", unix]
    proxy_protocol: {from: [10.0.0.0/8]}
    path: {merge_slashes: true, encoded_slash: keep}
    host_fallthrough: true
    limits: {max_connections: 100, max_header_bytes: 1MiB, max_headers: 256, max_body_bytes: 0}
    timeouts: {header: 30s, read: 30s, write: 30s, idle: 120s}
routes:
  - name: api
    listeners: [web]
    match:
      hosts: [api.example.com, "*.example.com"]
      path_prefix: /api
      methods: [GET, POST]
      scheme: https
      headers: {x-canary: "yes"}
      query: {debug: "1"}
    priority: 1
    rewrite: {strip_prefix: /api}
    request_headers: {set: {X-Env: prod}, add: {}, remove: []}
    response_headers: {set: {}, add: {}, remove: [Server]}
    upstream: users
    preserve_host: true
    timeouts: {request: 25s, tunnel: 1h, stream: inherit}
  - name: rest
    upstream: users
upstreams:
  users:
    endpoints:
      - 127.0.0.1:2003
      - {address: "127.0.0.1:2004", weight: 3}
      - localhost:2005
      - "[::1]:2006"
    dns: {refresh: 30s, timeout: 2s}
    base_path: ""
    balancer: round_robin
    pool:
      max_idle: 512
      max_idle_per_endpoint: 64
      idle_timeout: 90s
      read_ahead: 64KiB
      max_connections_per_endpoint: 0
      max_pending: 1024
      pending_timeout: 5s
    max_header_bytes: 64KiB
    via: both
    timeouts: {connect: 5s, response_header: 20s, read: 30s, write: 30s}
admin: {address: "127.0.0.1:9901", token: "", open: [healthz, readyz], ready: all}
logging:
  level: info
  debug: []
  to: stderr
  format: text
  access: {to: "-", format: combined, omit: []}
drain_timeout: 25s
""",
    )
    assert done.returncode == 0, lines_of(done)


def test_check_names_every_error_with_its_place(tmp_path: Path) -> None:
    text = """\
listeners:
  web:
    adress: 127.0.0.1:2000
    limits: {max_headers: many}
upstreams:
  users:
    endpoints: [127.0.0.1:2003]
    balancer: round_robbin
    timeouts:
      connect: 5 parsecs
routes:
  - name: a
    upstream: user
  - name: a
    upstream: users
"""
    done = check(tmp_path, text)
    assert done.returncode == 78
    errors = errors_of(done, tmp_path)
    by_line = {line: message for line, _, message in errors}
    assert {3, 4, 8, 10, 13, 14} <= set(by_line), errors
    assert "listeners.web.adress" in by_line[3] and "address" in by_line[3].split("adress", 1)[1]
    assert "listeners.web.limits.max_headers" in by_line[4]
    assert "upstreams.users.balancer" in by_line[8] and "round_robin" in by_line[8]
    assert "upstreams.users.timeouts.connect" in by_line[10]
    assert "users" in by_line[13], "the upstream that was probably meant"
    columns = {line: column for line, column, _ in errors}
    assert columns[3] == 5
    assert columns[10] in (7, 16)


BAD = {
    "an unknown key": ("typo", "1", "typo"),
    "a wrong type": ("listeners/web/limits/max_headers", "[]", "max_headers"),
    "a string for a number": ("listeners/web/limits/max_headers", "'10'x", "max_headers"),
    "a bad duration": ("listeners/web/timeouts/read", "5 s", "read"),
    "a bare number for a duration": ("listeners/web/timeouts/read", "5", "read"),
    "a negative duration": ("listeners/web/timeouts/read", "-5s", "read"),
    "a bad size": ("listeners/web/limits/max_body_bytes", "1MB?", "max_body_bytes"),
    "zero header bytes": ("listeners/web/limits/max_header_bytes", "0", "max_header_bytes"),
    "zero headers": ("listeners/web/limits/max_headers", "0", "max_headers"),
    "zero header timeout": ("listeners/web/timeouts/header", "0s", "header"),
    "a bad CIDR": ("listeners/web/trusted_proxies", "[10.0.0.0/33]", "trusted_proxies"),
    "host bits in a CIDR": ("listeners/web/trusted_proxies", "[10.0.0.300/8]", "trusted_proxies"),
    "an address without port": ("listeners/web/address", "127.0.0.1", "address"),
    "a port out of range": ("listeners/web/address", "127.0.0.1:70000", "address"),
    "a bare IPv6 address": ("listeners/web/address", "'::1:80'", "address"),
    "no listener": ("listeners", "{}", "listeners"),
    "an endpoint without port": ("upstreams/users/endpoints", "[localhost]", "endpoints"),
    "a weight of 257": (
        "upstreams/users/endpoints",
        "[{address: '127.0.0.1:1', weight: 257}]",
        "weight",
    ),
    "a negative weight": (
        "upstreams/users/endpoints",
        "[{address: '127.0.0.1:1', weight: -1}]",
        "weight",
    ),
    "an endpoint twice": (
        "upstreams/users/endpoints",
        "['127.0.0.1:1', '127.0.0.1:1']",
        "endpoints",
    ),
    "an unknown balancer": ("upstreams/users/balancer", "fastest", "balancer"),
    "a balancer that is not there": ("upstreams/users/balancer", "no.such:Thing", "balancer"),
    "a bad hash key": ("upstreams/users/hash_key", "header", "hash_key"),
    "a bad via": ("upstreams/users/via", "'yes'", "via"),
    "a bad level": ("logging/level", "loud", "level"),
    "an unknown debug subsystem": ("logging/debug", "[everything]", "debug"),
    "no token on a public admin": ("admin/address", "0.0.0.0:9901", "admin"),
    "a listener that does not exist": (
        "routes",
        "[{name: a, listeners: [wbe], upstream: users}]",
        "listeners",
    ),
    "an upstream that does not exist": ("routes", "[{name: a, upstream: usres}]", "upstream"),
    "two leaves": ("routes", "[{name: a, upstream: users, respond: {status: 404}}]", "routes"),
    "no leaf": ("routes", "[{name: a}]", "routes"),
    "no name": ("routes", "[{upstream: users}]", "name"),
    "two paths": (
        "routes",
        "[{name: a, match: {path: /a, path_prefix: /b}, upstream: users}]",
        "match",
    ),
    "a prefix without slash": (
        "routes",
        "[{name: a, match: {path_prefix: api}, upstream: users}]",
        "path_prefix",
    ),
    "a bad regex": (
        "routes",
        "[{name: a, match: {path_regex: '('}, upstream: users}]",
        "path_regex",
    ),
    "nested repeats": (
        "routes",
        "[{name: a, match: {path_regex: '^(a+)+$'}, upstream: users}]",
        "path_regex",
    ),
    "overlapping branches": (
        "routes",
        "[{name: a, match: {path_regex: '^(a|ab)*$'}, upstream: users}]",
        "path_regex",
    ),
    "a backreference": (
        "routes",
        "[{name: a, match: {path_regex: '^(a)\\1'}, upstream: users}]",
        "path_regex",
    ),
    "a lookahead": (
        "routes",
        "[{name: a, match: {path_regex: '^(?=a)'}, upstream: users}]",
        "path_regex",
    ),
    "two repeats side by side": (
        "routes",
        "[{name: a, match: {path_regex: '^a*a*b'}, upstream: users}]",
        "path_regex",
    ),
    "a group that is not there": (
        "routes",
        "[{name: a, rewrite: {regex: '^/a', replace: '/\\1'}, upstream: users}]",
        "rewrite",
    ),
    "framing in header edits": (
        "routes",
        "[{name: a, upstream: users, request_headers: {set: {Content-Length: '1'}}}]",
        "Content-Length",
    ),
    "a hop-by-hop name in header edits": (
        "routes",
        "[{name: a, upstream: users, response_headers: {remove: [Connection]}}]",
        "Connection",
    ),
    "Via in header edits": (
        "routes",
        "[{name: a, upstream: users, request_headers: {remove: [Via]}}]",
        "Via",
    ),
    "a bad header name": (
        "routes",
        "[{name: a, upstream: users, request_headers: {set: {'X A': b}}}]",
        "X A",
    ),
    "a bad header value": (
        "routes",
        '[{name: a, upstream: users, request_headers: {set: {X-A: "a\\r\\nb"}}}]',
        "X-A",
    ),
    "a redirect to https without scheme": (
        "routes",
        "[{name: a, redirect: {to: 'https://{host}{path}'}}]",
        "redirect",
    ),
    "an unknown word in a redirect": (
        "routes",
        "[{name: a, redirect: {to: '/{nobody}'}}]",
        "redirect",
    ),
    "a bad redirect status": ("routes", "[{name: a, redirect: {to: /, status: 200}}]", "status"),
    "a lower-case method": (
        "routes",
        "[{name: a, match: {methods: ['G T']}, upstream: users}]",
        "methods",
    ),
    "a bad host": ("routes", "[{name: a, match: {hosts: ['a b']}, upstream: users}]", "hosts"),
    "a wildcard in the middle": (
        "routes",
        "[{name: a, match: {hosts: ['a.*.b']}, upstream: users}]",
        "hosts",
    ),
    "a split without weight": ("routes", "[{name: a, upstream: {users: 0}}]", "upstream"),
}
del BAD["a string for a number"]


@pytest.mark.parametrize("name", BAD)
def test_check_refuses(tmp_path: Path, name: str) -> None:
    """78, with the place and the key."""
    path, value, word = BAD[name]
    done = check(tmp_path, patched(path, value))
    assert done.returncode == 78, lines_of(done)
    errors = errors_of(done, tmp_path)
    assert errors, lines_of(done)
    assert any(word in message for _, _, message in errors), errors


# After the first release.
NOT_YET = {
    "listeners.web.tls": ("listeners/web/tls", "{certificates: [{cert: a, key: b}]}"),
    "listeners.web.protocol": ("listeners/web/protocol", "tcp"),
    "upstreams.users.tls": ("upstreams/users/tls", "{ca: x}"),
    "upstreams.users.protocol": ("upstreams/users/protocol", "h2"),
    "cache": ("routes", "[{name: a, upstream: users, cache: {ttl: 1s}}]"),
    "auth": ("routes", "[{name: a, upstream: users, auth: {basic: x}}]"),
    "cors": ("routes", "[{name: a, upstream: users, cors: {origins: ['*']}}]"),
    "compress": ("routes", "[{name: a, upstream: users, compress: {level: 1}}]"),
}

# Brought by other issues: from their release on they are simply keys.
BROUGHT = {
    "workers": ("workers", "2"),
    "workers.auto": ("workers", "auto"),
    "workers.range": ("workers", "{min: 1, max: 4}"),
    "retries": ("routes", "[{name: a, upstream: users, retries: {attempts: 2}}]"),
    "rate_limit": (
        "routes",
        "[{name: a, upstream: users, rate_limit: {key: client_ip, rate: 1/s, burst: 1}}]",
    ),
    "max_concurrent": ("routes", "[{name: a, upstream: users, max_concurrent: 5}]"),
    "allow": ("routes", "[{name: a, upstream: users, allow: [10.0.0.0/8]}]"),
    "deny": ("routes", "[{name: a, upstream: users, deny: [10.0.0.0/8]}]"),
    "health_check": ("upstreams/users/health_check", "{path: /healthz}"),
    "passive_health": ("upstreams/users/passive_health", "{eject_for: 10s}"),
    "circuit_breaker": ("upstreams/users/circuit_breaker", "{error_rate: 50%}"),
    "adaptive_limit": ("upstreams/users/adaptive_limit", "{min: 4, max: 10}"),
    "panic_threshold": ("upstreams/users/panic_threshold", "10%"),
    "slow_start": ("upstreams/users/slow_start", "10s"),
    "peak_ewma": ("upstreams/users/balancer", "peak_ewma"),
    "zookeeper": ("zookeeper", "{hosts: '127.0.0.1:2181'}"),
}


@pytest.mark.parametrize("name", NOT_YET)
def test_keys_of_later_releases_are_not_yet_supported(tmp_path: Path, name: str) -> None:
    done = check(tmp_path, patched(*NOT_YET[name]))
    assert done.returncode == 78, lines_of(done)
    key = name.rpartition(".")[2]
    assert any(
        "not yet supported" in message and key in message
        for _, _, message in errors_of(done, tmp_path)
    ), lines_of(done)


@pytest.mark.parametrize("name", BROUGHT)
def test_keys_of_other_issues_are_not_yet_supported_or_work(tmp_path: Path, name: str) -> None:
    """Never half: with "not yet supported" refused, or read without a complaint."""
    done = check(tmp_path, patched(*BROUGHT[name]))
    errors = [message for _, _, message in errors_of(done, tmp_path) if "warning" not in message]
    if done.returncode:
        assert done.returncode == 78
        assert errors and all("not yet supported" in message for message in errors)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "x",
        "listeners: [",
        "listeners: {web: {address: a:1}",
        "\t",
        "a: 1\na: 2\n",
        SMALL + "listeners: {}\n",
        SMALL.replace("  users:", "  users: &a {endpoints: ['127.0.0.1:1']}\n  users:"),
        "\x00",
        SMALL + "? [a, b]\n: c\n",
        SMALL + "1: 2\n",
        "listeners: &a {web: *a}\n",
    ],
)
def test_check_of_what_is_no_configuration(tmp_path: Path, text: str) -> None:
    """A message with a place, never a traceback."""
    done = check(tmp_path, text)
    assert done.returncode == 78
    assert errors_of(done, tmp_path), lines_of(done)
    assert "Traceback" not in done.stderr


def test_check_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_bytes(b"listeners: \xff\xfe\n")
    done = command("check", str(file))
    assert done.returncode == 78
    assert str(file) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_yaml_without_surprises(tmp_path: Path) -> None:
    """YAML 1.2: `yes`, `on`, `22:22` are strings."""
    text = SMALL + (
        "routes:\n- name: on\n  match: {headers: {x-canary: yes}, query: {t: 22:22}}\n"
        "  upstream: users\n- {name: no, upstream: users}\n"
    )
    done = check(tmp_path, text)
    assert done.returncode == 0, lines_of(done)


@pytest.mark.parametrize("subject", ["missing", "directory", "unreadable"])
def test_check_of_a_file_that_cannot_be_read(tmp_path: Path, subject: str) -> None:
    file = tmp_path / "g.yaml"
    if subject == "directory":
        file.mkdir()
    elif subject == "unreadable":
        file.write_text(SMALL)
        file.chmod(0)
    for arguments in (["check", str(file)], ["run", "--config", str(file)]):
        done = command(*arguments, powerless=True)
        assert done.returncode == 78
        assert str(file) in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


def test_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    text = (
        SMALL.replace("127.0.0.1:2003", '"${ENDPOINT}"')
        + f"admin: {{address: '${{ADMIN:-127.0.0.1:9901}}', token: '${{file:{tmp_path}/token}}'}}\n"
    )
    assert check(tmp_path, text, ENDPOINT="127.0.0.1:2003").returncode == 0
    done = check(tmp_path, text)
    assert done.returncode == 78
    ((line, _, message),) = errors_of(done, tmp_path)
    assert line == 6 and "ENDPOINT" in message
    done = check(tmp_path, text.replace("/token", "/nowhere"), ENDPOINT="127.0.0.1:2003")
    assert done.returncode == 78
    assert "nowhere" in "".join(lines_of(done))
    assert check(tmp_path, text, ENDPOINT="127.0.0.1").returncode == 78


WARNED = {
    "a route that can never match": patched(
        "routes",
        "[{name: a, match: {path: /x}, upstream: users},"
        " {name: b, match: {path: /x}, upstream: users}, {name: c, upstream: users}]",
    ),
    "a request timeout below the connect timeout": patched(
        "routes", "[{name: a, upstream: users, timeouts: {request: 1s}}]"
    ),
    "an upstream nobody uses": yaml.safe_dump(
        {
            **yaml.safe_load(SMALL),
            "upstreams": {
                "users": {"endpoints": ["127.0.0.1:1"]},
                "lonely": {"endpoints": ["127.0.0.1:2"]},
            },
            "routes": [{"name": "a", "upstream": "users"}],
        }
    ),
}


@pytest.mark.parametrize("name", WARNED)
def test_check_warns_of_what_is_legal_and_wrong(tmp_path: Path, name: str) -> None:
    """0 and a word of it; --strict makes it 78."""
    done = check(tmp_path, WARNED[name])
    assert done.returncode == 0, lines_of(done)
    assert "warning" in "".join(lines_of(done)).lower()
    assert errors_of(done, tmp_path)
    assert check(tmp_path, WARNED[name], "--strict").returncode == 78
    assert check(tmp_path, SMALL, "--strict").returncode == 0


# run.


def test_run_with_a_bad_file_is_78(tmp_path: Path) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(SMALL + "typo: 1\n")
    done = command("run", "--config", str(file))
    assert done.returncode == 78
    assert re.search(re.escape(str(file)) + r":7:1: typo", done.stderr), done.stderr


@pytest.mark.parametrize("which", ["listener", "admin"])
def test_a_port_in_use_is_1_with_a_message(tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        document = configuration({"u": ["127.0.0.1:1"]})
        if which == "listener":
            document["listeners"]["web"]["address"] = f"127.0.0.1:{port}"
        else:
            document["admin"]["address"] = f"127.0.0.1:{port}"
        file = tmp_path / "g.yaml"
        file.write_text(yaml.safe_dump(document))
        done = command("run", "--config", str(file))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_without_permission_is_1(tmp_path: Path) -> None:
    document = configuration({"u": ["127.0.0.1:1"]})
    document["listeners"]["web"]["address"] = "127.0.0.1:1"
    file = tmp_path / "g.yaml"
    file.write_text(yaml.safe_dump(document))
    done = command("run", "--config", str(file), powerless=True)
    assert done.returncode == 1
    assert "127.0.0.1:1: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_not_ours_is_1(tmp_path: Path) -> None:
    document = configuration({"u": ["127.0.0.1:1"]})
    document["listeners"]["web"]["address"] = "192.0.2.1:2000"
    file = tmp_path / "g.yaml"
    file.write_text(yaml.safe_dump(document))
    done = command("run", "--config", str(file))
    assert done.returncode == 1
    assert "192.0.2.1:2000" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_directory_that_is_missing(tmp_path: Path) -> None:
    document = configuration({"u": ["127.0.0.1:1"]})
    document["logging"] = {"access": {"to": str(tmp_path / "no" / "access.log")}}
    file = tmp_path / "g.yaml"
    file.write_text(yaml.safe_dump(document))
    done = command("run", "--config", str(file))
    assert done.returncode in (1, 78)
    assert "access.log" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_ends_with_0(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    daemon = start_daemon(configuration({"u": [start_upstream().endpoint]}))
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0


def test_a_stale_unix_socket_is_taken_over(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """Left by a daemon that was killed."""
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    document = configuration({"u": [start_upstream().endpoint]})
    document["listeners"]["local"] = {"address": f"unix:{path}"}
    daemon = start_daemon(document)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0


# schema, usage.


def test_schema() -> None:
    done = command("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert schema["$schema"].startswith("http")
    assert {"listeners", "routes", "upstreams", "admin", "logging", "drain_timeout"} <= set(
        schema["properties"]
    )


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check", "--help"]])
def test_help(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 0
    assert "usage" in done.stdout.lower()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["explain"], ["run", "--nonsense"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode not in (0, 78)
    assert "usage" in done.stderr.lower()
    assert "Traceback" not in done.stderr


# Commands to a running daemon.


@pytest.fixture(scope="module")
def daemon(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Daemon:
    upstream = module_upstream()
    document = configuration(
        {"users": [upstream.endpoint]},
        routes=[
            {
                "name": "api",
                "match": {
                    "hosts": ["api.example"],
                    "path_prefix": "/api",
                    "methods": ["GET"],
                    "headers": {"x-canary": "yes"},
                },
                "rewrite": {"strip_prefix": "/api"},
                "upstream": "users",
            },
            {"name": "other", "match": {"hosts": ["other.example"]}, "upstream": "users"},
        ],
    )
    document["admin"]["token"] = "t0ken"
    return module_daemon(document)


TOKEN = {"GATEWAYD_ADMIN_TOKEN": "t0ken"}


def test_explain(daemon: Daemon) -> None:
    url = "http://api.example/api/x?q"
    done = command(
        "explain",
        "GET",
        url,
        "-H",
        "X-Canary: yes",
        "--admin",
        daemon.admin_text,
        environment=TOKEN,
    )
    assert done.returncode == 0, done.stderr
    endpoint = daemon.document["upstreams"]["users"]["endpoints"][0]
    for word in ("web", "api", "users", endpoint, "/x"):
        assert word in done.stdout
    assert "other" in done.stdout, "and why it was passed over"


def test_explain_no_route_is_2(daemon: Daemon) -> None:
    done = command(
        "explain",
        "GET",
        "http://api.example/api/x",
        "--admin",
        daemon.admin_text,
        environment=TOKEN,
    )
    assert done.returncode == 2
    assert "api" in done.stdout + done.stderr
    assert "x-canary" in (done.stdout + done.stderr).lower()


@pytest.mark.parametrize(
    "arguments",
    [
        ["GET", "http://h/", "--listener", "nosuch"],
        ["GET", "http://h/%zz"],
        ["GET", "http://h/", "-H", "no colon"],
        ["GET", "http://h/", "--client", "nobody"],
        ["G T", "http://h/"],
    ],
)
def test_explain_with_nonsense_is_1_or_says_what_the_gateway_would(
    daemon: Daemon, arguments: list[str]
) -> None:
    done = command("explain", *arguments, "--admin", daemon.admin_text, environment=TOKEN)
    assert done.returncode in (1, 2)
    assert done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_status(daemon: Daemon, tmp_path: Path) -> None:
    """A table; the token from the environment, a file, and the address from the configuration."""
    (tmp_path / "token").write_text("t0ken\n")
    for done in (
        command("status", "--admin", daemon.admin_text, environment=TOKEN),
        command("status", "--admin", daemon.admin_text, "--token-file", str(tmp_path / "token")),
        command("status", "--config", str(daemon.file), environment=TOKEN),
    ):
        assert done.returncode == 0, done.stderr
        endpoint = daemon.document["upstreams"]["users"]["endpoints"][0]
        for word in ("web", "users", endpoint, "unchecked"):
            assert word in done.stdout


def test_status_with_a_wrong_token_is_1(daemon: Daemon) -> None:
    done = command(
        "status", "--admin", daemon.admin_text, environment={"GATEWAYD_ADMIN_TOKEN": "x"}
    )
    assert done.returncode == 1
    assert "token" in done.stderr.lower()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["status", "explain"])
def test_commands_without_a_daemon_are_1_with_a_message(name: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ["GET", "http://h/"] if name == "explain" else []
    done = command(name, *arguments, "--admin", address)
    assert done.returncode == 1
    assert address in done.stderr
    assert "Traceback" not in done.stderr


def test_reload_drain_undrain(daemon: Daemon) -> None:
    """Each says what has become of it, and status shows it."""
    for name, said, draining in (
        ("reload", "nothing changes", False),
        ("drain", "undrain", True),
        ("undrain", "ready", False),
    ):
        done = command(name, "--admin", daemon.admin_text, environment=TOKEN)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout
        shown = command("status", "--admin", daemon.admin_text, environment=TOKEN).stdout
        assert ("draining" in shown.splitlines()[0]) is draining


def test_drain_of_half_an_endpoint_is_1(daemon: Daemon) -> None:
    done = command("drain", "users", "--admin", daemon.admin_text, environment=TOKEN)
    assert done.returncode == 1
    assert "ENDPOINT" in done.stderr


def test_twistd_runs_the_plugin(start_upstream: StartUpstream, tmp_path: Path) -> None:
    """`twistd -n gatewayd --config FILE` is the same thing."""
    import subprocess
    import sys

    from tests.live.harness import RawClient, eventually
    from tests.live.harness.daemon import _die_with_the_test

    document = configuration({"u": [start_upstream().endpoint]})
    file = tmp_path / "g.yaml"
    file.write_text(yaml.safe_dump(document))
    host, _, port = document["listeners"]["web"]["address"].rpartition(":")
    with subprocess.Popen(
        [sys.executable, "-m", "twisted", "gatewayd", "--config", str(file)]
        if not Path(sys.executable).with_name("twistd").exists()
        else [
            str(Path(sys.executable).with_name("twistd")),
            "-n",
            "--pidfile=",
            "gatewayd",
            "--config",
            str(file),
        ],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_the_test,
    ) as process:
        try:

            def served() -> bool:
                assert process.poll() is None, "twistd ended"
                try:
                    with RawClient((host, int(port))) as client:
                        return client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 200
                except OSError:
                    return False

            eventually(served, 15, "an answer through twistd")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            if process.poll() is None:
                process.kill()
