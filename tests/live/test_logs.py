"""The access log and the application log."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import StartDaemon, StartUpstream
from tests.live.harness import (
    Daemon,
    ScriptedUpstream,
    answer,
    configuration,
    eventually,
    raw_answer,
)

FIELDS = {
    "ts",
    "request_id",
    "listener",
    "client_ip",
    "peer_ip",
    "method",
    "host",
    "path",
    "query",
    "protocol",
    "status",
    "reason",
    "route",
    "upstream",
    "endpoint",
    "bytes_in",
    "bytes_out",
    "t_head",
    "t_total",
    "t_queue",
    "t_connect",
    "tries",
    "user_agent",
    "referer",
    "traceparent",
}


@dataclass
class Pair:
    """A gateway and the upstream behind it."""

    daemon: Daemon
    upstream: ScriptedUpstream


@pytest.fixture(scope="module")
def pair(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    return Pair(module_daemon(configuration({"u": [upstream.endpoint]})), upstream)


def ask(daemon: Daemon, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Any:
    """One request; its entry."""
    head = [f"{method} {path} HTTP/1.1", "Host: Example.com:81", *lines, "", ""]
    daemon.ask("\r\n".join(head).encode("latin-1") + body)
    return daemon.access(lambda item: item["path"] == path.partition("?")[0])


def test_json_fields(pair: Pair) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    pair.upstream.on("/json", answer(b"12345"))
    entry = ask(
        pair.daemon,
        "/json?a=b&c",
        "User-Agent: tester/1",
        "Referer: http://r/",
        f"traceparent: {traceparent}",
        "Content-Length: 3",
        method="PUT",
        body=b"abc",
    )
    assert set(entry) >= FIELDS
    wanted = {
        "listener": "web",
        "client_ip": "127.0.0.1",
        "peer_ip": "127.0.0.1",
        "method": "PUT",
        "path": "/json",
        "protocol": "HTTP/1.1",
        "status": 200,
        "route": "default",
        "upstream": "u",
        "endpoint": pair.upstream.endpoint,
        "tries": 1,
        "user_agent": "tester/1",
        "referer": "http://r/",
        "traceparent": traceparent,
    }
    assert {key: entry[key] for key in wanted} == wanted
    assert entry["query"].removeprefix("?") == "a=b&c"
    assert entry["host"].lower().startswith("example.com")
    assert entry["reason"] in (None, "", "-")
    assert entry["bytes_in"] >= 3
    assert entry["bytes_out"] >= 5
    assert entry["request_id"] == pair.upstream.wait_request("/json").get("X-Request-Id")
    assert 0 <= entry["t_head"] <= entry["t_total"] < 5
    assert 0 <= entry["t_queue"] < 1
    assert 0 <= entry["t_connect"] < 1


def test_one_line_per_request(pair: Pair) -> None:
    for number in range(5):
        assert pair.daemon.get(f"/once/{number}").status == 200
    for number in range(5):
        pair.daemon.access(lambda item, number=number: item["path"] == f"/once/{number}")
    assert pair.daemon.stdout.text.count('"/once/') == 5


@pytest.mark.parametrize(
    ("raw", "reason", "status"),
    [
        (b"BAD\r\n\r\n", "bad_request", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", "bad_request", 400),
        (b"GET /x HTTP/1.1\r\n\r\n", "bad_request", 400),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", "too_large", 414),
        (b"GET /x HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 300 + b"\r\n", "too_large", 431),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", None, 501),
    ],
)
def test_refusals_are_logged_with_their_reason(
    start_daemon: StartDaemon,
    start_upstream: StartUpstream,
    raw: bytes,
    reason: str | None,
    status: int,
) -> None:
    daemon = start_daemon(configuration({"u": [start_upstream().endpoint]}))
    with daemon.client() as client:
        client.send_anyway(raw)
        response = client.read_response()
    assert response.status in (status, 400)
    entry = daemon.access(lambda item: item["status"] == response.status)
    if reason is not None:
        assert entry["reason"] == reason
    assert entry["request_id"] == response.get("X-Request-Id")


def test_an_upstreams_own_error_has_no_reason(pair: Pair) -> None:
    pair.upstream.on("/theirs", answer(status="503 Theirs"))
    entry = ask(pair.daemon, "/theirs")
    assert entry["status"] == 503
    assert entry["reason"] in (None, "", "-")


ODD = '"\\\x7f\xe9\xff\t '


def test_json_escapes(pair: Pair) -> None:
    """Any byte that a field may have; every line stays one valid JSON document."""
    entry = ask(pair.daemon, "/json/odd?q=\"'<>`{|}", f"User-Agent: a{ODD[:2]}\xe9\xff\tb")
    assert entry["user_agent"].startswith('a"\\')
    for line in pair.daemon.stdout.lines:
        json.loads(line)


@pytest.fixture(scope="module")
def combined(module_daemon: StartDaemon, module_upstream: StartUpstream) -> Pair:
    upstream = module_upstream()
    document = configuration({"u": [upstream.endpoint]})
    document["logging"] = {"access": {"to": "-", "format": "combined"}}
    return Pair(module_daemon(document), upstream)


COMBINED = re.compile(
    r'(?P<client>\S+) - (?P<user>\S+) \[(?P<time>[^\]]+)\] "(?P<request>(?:[^"\\]|\\.)*)" '
    r'(?P<status>\d{3}) (?P<bytes>\d+|-) "(?P<referer>(?:[^"\\]|\\.)*)" '
    r'"(?P<agent>(?:[^"\\]|\\.)*)"(?P<rest>(?: [a-z_]+=(?:"(?:[^"\\]|\\.)*"|\S*))*)'
)


def test_combined_is_the_usual_line(combined: Pair) -> None:
    combined.upstream.on("/line", answer(b"12345"))
    combined.daemon.get("/line?a=b", "h", "User-Agent: tester/1", "Referer: http://r/")
    line = combined.daemon.stdout.wait_for(lambda line: "/line" in line)
    match = COMBINED.fullmatch(line)
    assert match, line
    assert match["client"] == "127.0.0.1"
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", match["time"])
    assert match["request"] == "GET /line?a=b HTTP/1.1"
    assert match["status"] == "200"
    assert (match["referer"], match["agent"]) == ("http://r/", "tester/1")
    pairs = dict(item.split("=", 1) for item in match["rest"].split())
    assert pairs["upstream"] == "u"
    assert pairs["endpoint"] == combined.upstream.endpoint
    assert pairs["route"] == "default"
    assert {"t_head", "t_total", "tries", "request_id"} <= set(pairs)


def test_combined_reason(combined: Pair) -> None:
    combined.upstream.on("/rubbish", raw_answer(b"rubbish\r\n\r\n"))
    combined.daemon.get("/rubbish")
    line = combined.daemon.stdout.wait_for(lambda line: "/rubbish" in line)
    assert " reason=bad_response" in line


def test_combined_escapes(combined: Pair) -> None:
    """Nothing a client sends ends a line, a quote or a field early."""
    combined.daemon.get("/escape", "h", 'User-Agent: a" 200 "b\\\xe9', "Referer: \tx=y\t\x80z")
    line = combined.daemon.stdout.wait_for(lambda line: "/escape" in line)
    match = COMBINED.fullmatch(line)
    assert match, line
    assert match["status"] == "200"
    assert all(character >= " " for character in line)


def test_combined_of_a_bad_request_is_one_safe_line(combined: Pair) -> None:
    before = len(combined.daemon.stdout.lines)
    combined.daemon.ask(b'G"T /\x01\x1b[31m HTTP/1.1\r\nHost: h\r\n\r\n')
    line = combined.daemon.stdout.wait_for(lambda line: " 400 " in line, since=before)
    assert COMBINED.fullmatch(line), line
    assert "\x1b" not in line and "\x01" not in line


def test_omit_query(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    for form in ("json", "combined"):
        document = configuration({"u": [start_upstream().endpoint]})
        document["logging"] = {"access": {"to": "-", "format": form, "omit": ["query"]}}
        daemon = start_daemon(document)
        daemon.get("/omit?s3cret=1")
        daemon.stdout.wait_for(lambda line: "/omit" in line)
        assert "s3cret" not in daemon.stdout.text + daemon.stderr.text


def test_access_none(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    document = configuration({"u": [start_upstream().endpoint]})
    document["logging"] = {"access": {"to": "none"}}
    daemon = start_daemon(document)
    daemon.get("/x")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0
    assert daemon.stdout.lines == []


# Files.


def test_files_and_sigusr1(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """Lines within a second, appended; after SIGUSR1 to the new file; the old one is whole."""
    access, application = tmp_path / "access.log", tmp_path / "gatewayd.log"
    access.write_text("kept\n")
    document = configuration({"u": [start_upstream().endpoint]})
    document["logging"] = {
        "to": str(application),
        "access": {"to": str(access), "format": "json"},
    }
    daemon = start_daemon(document)
    daemon.get("/before")
    eventually(lambda: "/before" in access.read_text(), 2, "the line in the file")
    assert access.read_text().startswith("kept\n")
    assert application.stat().st_size > 0
    old, old_application = tmp_path / "access.log.1", tmp_path / "gatewayd.log.1"
    access.rename(old)
    application.rename(old_application)
    daemon.get("/between")
    eventually(lambda: "/between" in old.read_text(), 2, "the line in the renamed file")
    daemon.signal(signal.SIGUSR1)
    eventually(lambda: access.exists() and application.exists(), 3, "both files anew")
    daemon.get("/after")
    eventually(lambda: "/after" in access.read_text(), 2, "the line in the new file")
    assert "/after" not in old.read_text()
    assert old.read_text().endswith("\n")
    for line in access.read_text().splitlines():
        json.loads(line)
    assert daemon.process.poll() is None


def test_sigusr1_with_a_directory_gone_keeps_the_daemon(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    document = configuration({"u": [start_upstream().endpoint]})
    document["logging"] = {"access": {"to": str(directory / "access.log")}}
    daemon = start_daemon(document)
    shutil.rmtree(directory)
    daemon.signal(signal.SIGUSR1)
    for number in range(5):
        assert daemon.get(f"/{number}").status == 200
    daemon.stderr.wait_for(lambda line: "access.log" in line, 3)
    directory.mkdir()
    daemon.signal(signal.SIGUSR1)
    eventually(lambda: (directory / "access.log").exists(), 3, "the file again")


def test_a_full_disk_stops_no_request(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """/dev/full says ENOSPC to every write: dropped lines are counted."""
    document = configuration({"u": [start_upstream().endpoint]})
    document["logging"] = {"access": {"to": "/dev/full", "format": "json"}}
    daemon = start_daemon(document)
    for number in range(50):
        assert daemon.get(f"/{number}").status == 200
    eventually(lambda: daemon.sample("log_lines_dropped_total") > 0, 5, "dropped lines")
    assert daemon.get("/still").status == 200


def test_a_log_nobody_reads_stops_no_request(
    start_daemon: StartDaemon, start_upstream: StartUpstream, tmp_path: Path
) -> None:
    """A full FIFO: lines wait in 4 MiB at most, then they are dropped and counted."""
    fifo = tmp_path / "access.fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        document = configuration({"u": [start_upstream().endpoint]})
        document["logging"] = {"access": {"to": str(fifo), "format": "json"}}
        daemon = start_daemon(document)
        with daemon.client() as client:
            request = b"GET /x HTTP/1.1\r\nHost: h\r\nUser-Agent: " + b"u" * 30000 + b"\r\n\r\n"
            for _ in range(300):
                assert client.ask(request).status == 200
        eventually(lambda: daemon.sample("log_lines_dropped_total") > 0, 5, "dropped lines")
        assert daemon.resident() < 150 << 20
    finally:
        os.close(reader)


# The application log.


def test_application_log_as_json(start_daemon: StartDaemon, start_upstream: StartUpstream) -> None:
    document = configuration({"u": [start_upstream().endpoint]})
    document["logging"]["format"] = "json"
    daemon = start_daemon(document)
    assert daemon.stderr.lines
    for line in daemon.stderr.lines:
        assert isinstance(json.loads(line), dict)


def test_what_upstreams_do_is_logged_with_the_inside(
    start_daemon: StartDaemon, start_upstream: StartUpstream
) -> None:
    """What clients may not see, operators do."""
    upstream = start_upstream()
    upstream.on("/rubbish", raw_answer(b"rubbish\r\n\r\n"))
    daemon = start_daemon(configuration({"u": [upstream.endpoint]}))
    response = daemon.get("/rubbish")
    assert response.status == 502
    daemon.stderr.wait_for(
        lambda line: "u" in line and str(response.get("X-Request-Id")) in line, 3
    )
