"""The upstream: nginx, which costs a load core less per request than any proxy costs its own.

It listens on all of 127.0.0.0/8, so that one process stands for ten thousand endpoints. Uploads,
tunnels and streams go to the sink (benchmarks.sink) instead, which reads bodies to their end before
it answers.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.machine import CHECKOUT, tool
from benchmarks.processes import Child, free_port, listening, wait_until

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
FILES: Final = {"64k": 64 * KIB, "1m": MIB, "10m": 10 * MIB, "1g": GIB}

_CONFIGURATION: Final = """
daemon off;
user {user};
pid {directory}/upstream.pid;
error_log {directory}/upstream-errors.log warn;
worker_processes 1;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {connections}; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_body_temp_path {directory}/upstream-bodies;
    proxy_temp_path {directory}/upstream-proxy;
    fastcgi_temp_path {directory}/upstream-fastcgi;
    uwsgi_temp_path {directory}/upstream-uwsgi;
    scgi_temp_path {directory}/upstream-scgi;
    default_type application/json;
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        location / {{
            add_header Cache-Control "private, max-age=0";
            add_header Vary "Accept-Encoding";
            return 200 "{body}";
        }}
        location /varied/ {{  # no two answers have the same head
            add_header Cache-Control "private, max-age=0";
            add_header Set-Cookie "session=$request_id; Path=/; HttpOnly";
            add_header X-Trace-Id "$request_id";
            add_header ETag '"$request_id"';
            return 200 "{body}";
        }}
        location /rich/ {{
            add_header Strict-Transport-Security "max-age=31536000; includeSubDomains; preload";
            add_header Content-Security-Policy "{policy}";
            add_header X-Frame-Options DENY;
            add_header X-Content-Type-Options nosniff;
            add_header Referrer-Policy same-origin;
            add_header Cache-Control "no-store, max-age=0";
            add_header Vary "Accept-Encoding, Origin";
            add_header Access-Control-Allow-Origin "https://app.example.com";
            add_header Set-Cookie "session=$request_id; Path=/; HttpOnly; Secure; SameSite=Lax";
            add_header Set-Cookie "csrf=$request_id$request_id; Path=/";
            add_header X-Trace-Id "$request_id";
            add_header X-Runtime "$msec";
            add_header Server-Timing "db;dur=$msec";
            add_header ETag '"$request_id"';
            return 200 "{body}";
        }}
        location /closing/ {{
            keepalive_timeout 0;
            return 200 "{body}";
        }}
        location /files/ {{ alias {directory}/files/; }}
        location /chunked/ {{  # add_after_body takes the length away; without sendfile: 64 KiB chunks
            alias {directory}/files/;
            sendfile off;
            output_buffers 4 64k;
            addition_types *;
            add_after_body /files/empty;
        }}
        location = /served {{ stub_status; }}
    }}
}}
"""


class Upstream:
    """nginx and the sink; made by the stage, ended by it."""

    def __init__(self, directory: Path, cores: Iterable[int], descriptors: int) -> None:
        """Start both.

        Args:
            directory: for configuration and files; gone with the stage.
            cores: where they run.
            descriptors: open files allowed.
        """
        program = tool("nginx")
        if program is None:
            raise RuntimeError("nginx is missing: it is the upstream of every measurement")
        self.port = free_port()
        self.sink_port = free_port()
        self._counter: socket.socket | None = None
        self._counted = 0
        cores = set(cores)
        _make_files(directory / "files")
        configuration = directory / "upstream.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                directory=directory,
                user="root" if os.geteuid() == 0 else "nobody",
                port=self.port,
                body="x" * KIB,
                policy="img-src 'self' https://cdn.example.com; " * 25,
                descriptors=descriptors,
                connections=descriptors - 16,
            )
        )
        self.nginx = Child(
            [program, "-c", str(configuration), "-e", str(directory / "upstream-errors.log")],
            cores=cores,
            output=directory / "upstream.out",
        )
        self.sink = Child(
            [sys.executable, "-m", "benchmarks.sink", "--port", str(self.sink_port)],
            cores=cores,
            output=directory / "sink.out",
            cwd=CHECKOUT,
        )
        for port, child in ((self.port, self.nginx), (self.sink_port, self.sink)):
            wait_until(
                lambda port=port, child=child: listening(port) or not child.running,  # type: ignore[misc]
                10,
                f"{child!r} does not listen",
            )
            if not child.running:
                raise RuntimeError(f"{child!r} ended: {child.said()}")

    def endpoints(self, count: int) -> list[tuple[str, int]]:
        """So many addresses that all lead to nginx."""
        return [
            (f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}", self.port)
            for number in range(count)
        ]

    def served(self) -> int:
        """Requests answered so far, this question not counted."""
        if self._counter is None:
            self._counter = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        self._counter.sendall(b"GET /served HTTP/1.1\r\nHost: upstream\r\n\r\n")
        answer = b""
        while b"Waiting" not in answer:
            piece = self._counter.recv(4096)
            if not piece:
                raise RuntimeError("the upstream closed while it was asked for its count")
            answer += piece
        self._counted += 1
        # stub_status: "server accepts handled requests\n 7 7 31 \n"
        return int(answer.partition(b"requests\n")[2].split()[2]) - self._counted

    def close(self) -> None:
        """End both."""
        if self._counter is not None:
            self._counter.close()
        self.nginx.stop()
        self.sink.stop()


def _make_files(directory: Path) -> None:
    directory.mkdir()
    (directory / "empty").touch()
    for name, size in FILES.items():
        with (directory / name).open("wb") as file:
            file.truncate(size)  # sparse: its pages come from the page cache all the same
