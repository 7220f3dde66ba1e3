"""The daemon as a subprocess of its test."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.live.harness.client import RawClient, Response
from tests.live.harness.waiting import eventually

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1

# Below the kernel's ephemeral range, so that no outgoing connection takes a port between the
# moment it is found free and the moment the daemon binds it.
_ports = itertools.cycle(random.SystemRandom().sample(range(20000, 32000), 12000))


def free_port() -> int:
    """A loopback port that nobody holds just now."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _die_with_the_test() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def command(
    *arguments: str,
    timeout: float = 20.0,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    powerless: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `gatewayd ARGUMENTS` to its end; `powerless`: without what root may do."""
    return subprocess.run(
        [sys.executable, "-m", "gatewayd", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        preexec_fn=_die_powerless if powerless else _die_with_the_test,
        check=False,
    )


def _die_powerless() -> None:
    """Root that may neither read everything nor bind everything, as any other user."""
    _die_with_the_test()
    for capability in (1, 2, 10):  # DAC_OVERRIDE, DAC_READ_SEARCH, NET_BIND_SERVICE
        LIBC.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def configuration(
    upstreams: Mapping[str, Any],
    *,
    routes: list[dict[str, Any]] | None = None,
    listener: Mapping[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """A configuration with one listener `web` and an admin interface, both on free ports.

    Args:
        upstreams: by name; a list stands for its endpoints alone.
        routes: left out where the only upstream gets everything.
        listener: more keys of the listener.
        top: more keys of the top level.
    """
    document: dict[str, Any] = {
        "listeners": {"web": {"address": f"127.0.0.1:{free_port()}", **(listener or {})}},
        "upstreams": {
            name: {"endpoints": value} if isinstance(value, list) else value
            for name, value in upstreams.items()
        },
        "admin": {"address": f"127.0.0.1:{free_port()}"},
        "logging": {"access": {"to": "-", "format": "json"}},
    }
    if routes is not None:
        document["routes"] = routes
    document.update(top)
    return document


class Lines:
    """The lines of a pipe, read by a thread, to be waited for."""

    def __init__(self, stream: Any) -> None:
        self.changed = threading.Condition()
        self.lines: list[str] = []
        self.ended = False
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for raw in self._stream:
            with self.changed:
                self.lines.append(raw.decode("utf-8", "backslashreplace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def join(self) -> None:
        """Wait for the pipe's end."""
        self._thread.join(5)
        self._stream.close()

    @property
    def text(self) -> str:
        """Everything so far."""
        with self.changed:
            return "\n".join(self.lines)

    def wait_for(self, wanted: Callable[[str], bool], timeout: float = 5.0, since: int = 0) -> str:
        """Wait for a line that *wanted* holds for."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                for line in self.lines[since:]:
                    if wanted(line):
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    tail = "\n".join(self.lines[-20:])
                    raise AssertionError(f"no such line within {timeout} s; last ones:\n{tail}")
                self.changed.wait(left)


class Daemon:
    """`gatewayd run --config FILE`; its test ends it with `stop`.

    Args:
        directory: for the configuration; also the working directory.
        document: the configuration, or its text.
        ready: wait until /readyz answers 200.
    """

    def __init__(
        self,
        directory: Path,
        document: Mapping[str, Any] | str,
        *,
        environment: Mapping[str, str] | None = None,
        ready: bool = True,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.directory = directory
        self.file = directory / "gatewayd.yaml"
        text = document if isinstance(document, str) else yaml.safe_dump(dict(document))
        self.file.write_text(text)
        self.document: dict[str, Any] = yaml.safe_load(text)

        def before_exec() -> None:
            _die_with_the_test()
            if preexec is not None:
                preexec()

        self.process = subprocess.Popen(
            [sys.executable, "-m", "gatewayd", "run", "--config", str(self.file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            preexec_fn=before_exec,
        )
        self.stdout = Lines(self.process.stdout)
        self.stderr = Lines(self.process.stderr)
        if ready:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    def __repr__(self) -> str:
        return f"<Daemon pid={self.pid} exit={self.process.poll()}>"

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    def address_of(self, listener: str) -> tuple[str, int]:
        """Where a listener listens."""
        host, _, port = self.document["listeners"][listener]["address"].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def address(self) -> tuple[str, int]:
        """Where the first listener listens."""
        return self.address_of(next(iter(self.document["listeners"])))

    @property
    def admin(self) -> tuple[str, int]:
        """Where the admin interface listens."""
        host, _, port = self.document["admin"]["address"].rpartition(":")
        return host, int(port)

    @property
    def admin_text(self) -> str:
        """The admin interface's address as the configuration writes it."""
        return str(self.document["admin"]["address"])

    def client(self, *, timeout: float = 5.0, receive_buffer: int | None = None) -> RawClient:
        """A new connection to the first listener."""
        return RawClient(self.address, timeout=timeout, receive_buffer=receive_buffer)

    def ask(self, request: bytes, *, timeout: float = 5.0) -> Response:
        """One request on a connection of its own."""
        with self.client(timeout=timeout) as client:
            return client.ask(request)

    def get(self, target: str = "/", host: str = "h", *lines: str) -> Response:
        """GET on a connection of its own."""
        head = [f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]
        return self.ask("\r\n".join(head).encode("latin-1"))

    def ask_admin(
        self, method: str, path: str, *lines: str, body: bytes = b"", host: str | None = None
    ) -> Response:
        """One request to the admin interface."""
        head = [f"{method} {path} HTTP/1.1", f"Host: {host or self.admin_text}", *lines]
        if body or method in ("PUT", "POST"):
            head.append(f"Content-Length: {len(body)}")
        head += ["Connection: close", "", ""]
        with RawClient(self.admin) as client:
            return client.ask("\r\n".join(head).encode("latin-1") + body)

    def post(self, path: str, *lines: str) -> Response:
        """POST to the admin interface, as it wants to be written to."""
        return self.ask_admin("POST", path, "Content-Type: application/json", *lines)

    def rewrite(self, document: Mapping[str, Any] | str) -> None:
        """Replace the configuration's file; what is in effect stays until a reload."""
        text = document if isinstance(document, str) else yaml.safe_dump(dict(document))
        self.file.write_text(text)

    def reload(self, document: Mapping[str, Any] | str | None = None) -> Response:
        """POST /reload, with another file where one is given."""
        if document is not None:
            self.rewrite(document)
        response = self.post("/reload")
        if response.status == 200:
            self.document = yaml.safe_load(self.file.read_text())
        return response

    def restore(self, document: Mapping[str, Any]) -> bool:
        """Serve *document* and traffic again, whatever a test has done; says whether it could."""
        if self.process.poll() is not None:
            return False
        try:
            return self.post("/undrain").status == 202 and self.reload(document).status == 200
        except (OSError, AssertionError):
            return False

    def status(self) -> dict[str, Any]:
        """GET /status."""
        response = self.ask_admin("GET", "/status")
        assert response.status == 200, response
        document: dict[str, Any] = json.loads(response.body)
        return document

    def metrics(self) -> str:
        """GET /metrics."""
        response = self.ask_admin("GET", "/metrics")
        assert response.status == 200, response
        return response.body.decode()

    def samples(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """The samples of a metric (`gatewayd_` left out) that have these labels."""
        return [
            (dict(sample.labels), sample.value)
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
            if sample.name == f"gatewayd_{name}" and labels.items() <= sample.labels.items()
        ]

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 where there is none."""
        return sum(value for _, value in self.samples(name, **labels))

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"exit {self.process.returncode}:\n{self.stderr.text}")
        try:
            return self.ask_admin("GET", "/readyz").status == 200
        except OSError:
            return False

    def wait_ready(self, timeout: float = 15.0) -> None:
        """Wait until /readyz answers 200."""
        try:
            eventually(self._is_ready, timeout, "readiness")
        except AssertionError as error:
            raise AssertionError(f"{error}; stderr:\n{self.stderr.text[-3000:]}") from error

    def access(
        self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 5.0
    ) -> dict[str, Any]:
        """Wait for an entry of the JSON access log."""

        def fits(line: str) -> bool:
            try:
                entry = json.loads(line)
            except ValueError:
                return False
            return isinstance(entry, dict) and wanted(entry)

        entry: dict[str, Any] = json.loads(self.stdout.wait_for(fits, timeout))
        return entry

    def resident(self) -> int:
        """VmRSS in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the daemon alone."""
        self.process.send_signal(number)

    def wait_exit(self, timeout: float = 10.0) -> int:
        """Wait for the end; the exit status."""
        code = self.process.wait(timeout)
        self.stdout.join()
        self.stderr.join()
        return code

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait_exit()

    def stop(self) -> None:
        """End it cleanly; a traceback in its log is a failure of whoever caused it."""
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
                # The second one cuts what a failed test left in flight.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)
                if self.process.poll() is None:
                    self.signal(signal.SIGTERM)
                self.wait_exit(5)
        finally:
            self.kill()
        text = self.stderr.text
        assert "Traceback" not in text and "Unhandled" not in text, (
            f"stderr:\n{text[:3000]}\n...\n{text[-3000:]}"
        )
