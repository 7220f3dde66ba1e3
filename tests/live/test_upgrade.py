"""`gatewayd upgrade`: another version takes the sockets over, and no client notices."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.live.harness.client import RawClient
from tests.live.harness.daemon import command, free_port
from tests.live.harness.systemd import Manager
from tests.live.harness.upstream import ScriptedUpstream, late_body
from tests.live.harness.waiting import eventually

ROOT = Path(__file__).parent.parent.parent


class Versions:
    """A gateway that runs from a copy of the tree behind a link, beside a copy with another version."""

    def __init__(self, folder: Path, upstream: ScriptedUpstream, workers: int) -> None:
        self.folder = folder
        self.upstream = upstream
        self.finish = threading.Event()  # what /slow waits for before its body
        self.port = free_port()
        self.admin = f"unix:{folder}/admin.sock"
        self.manager = Manager(folder / "notify")
        self.link = folder / "current"
        for version in ("1.0.0", "2.0.0"):
            package = folder / version / "gatewayd"
            shutil.copytree(ROOT / "gatewayd", package)
            for library in ROOT.glob("*__mypyc*.so"):  # where the compiled wheel is tested
                shutil.copy(library, package.parent)
            (package / "__init__.py").write_text(f'__version__ = "{version}"\n')
        self.install("1.0.0")
        self.config = folder / "gatewayd.yaml"
        document: dict[str, Any] = {
            "workers": workers,
            "listeners": {
                "web": {"address": f"127.0.0.1:{self.port}"},
                "local": {"address": f"unix:{folder}/web.sock"},
            },
            "upstreams": {"app": {"endpoints": [f"127.0.0.1:{upstream.port}"]}},
            "admin": {"address": self.admin},
            "logging": {"access": {"to": "none"}},
        }
        self.config.write_text(yaml.safe_dump(document))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gatewayd", "run", "--config", str(self.config)],
            env={
                **os.environ,
                "PYTHONPATH": str(self.link),
                "NOTIFY_SOCKET": self.manager.path,
            },
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        self.pids = {self.process.pid}

    def install(self, version: str) -> None:
        """Have the next start run that version."""
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self.folder / version)

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Ask the one that runs."""
        return command(*arguments, "--admin", self.admin, timeout=90)

    def status(self) -> dict[str, Any]:
        """Its version and pids; empty while nobody answers."""
        asked = self.ask("status", "--json")
        found: dict[str, Any] = yaml.safe_load(asked.stdout) if asked.returncode == 0 else {}
        if found:
            self.pids.add(found["pid"])
            workers = found["workers"] if isinstance(found["workers"], list) else []
            self.pids.update(each["pid"] for each in workers)
            found["up"] = all(each["state"] == "up" for each in workers)
        return found

    def close(self) -> None:
        """End all that were started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids:
                if is_alive(pid):
                    os.kill(pid, number)
            if number == signal.SIGTERM:
                try:
                    eventually(lambda: not any(map(is_alive, self.pids)), 5)
                except AssertionError:
                    continue
        self.process.wait()
        self.manager.socket.close()

    def successor(self) -> int:
        """The pid of a version that has not taken over yet; 0 if there is none."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in self.pids:
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if (
                    str(self.config).encode() in words
                    and b"run" in words
                    and parent(int(entry.name)) != self.process.pid  # which forks once more
                ):
                    self.pids.add(int(entry.name))
                    return int(entry.name)
        return 0


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    return _stat(pid)[0] != "Z"


def parent(pid: int) -> int:
    """The process that started it."""
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0"]


@pytest.fixture(params=[1, 2], ids=["alone", "workers"])
def versions(request: Any, start_upstream: Any, tmp_path: Path) -> Iterator[Versions]:
    """One that serves version 1.0.0."""
    found = Versions(tmp_path, start_upstream(), request.param)
    found.upstream.on("/slow", late_body(found.finish))
    try:
        eventually(lambda: found.status().get("up"), 20, "the first version")
        yield found
    finally:
        found.close()


def test_another_version_takes_over(versions: Versions) -> None:
    """Kept connections and new ones are served all the time; the old process leaves, with all workers."""
    before = set(versions.pids)
    failures: list[str] = []
    served = [0]
    ended = threading.Event()

    def ask() -> None:
        client: RawClient | None = None
        while not ended.is_set():
            try:
                client = client or RawClient(("127.0.0.1", versions.port), timeout=10)
                answer = client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                served[0] += answer.status == 200
                if answer.closes:
                    client.close()
                    client = None
            except Exception as error:
                failures.append(repr(error))
                client = None

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for each in asking:
        each.start()
    versions.install("2.0.0")
    upgraded = versions.ask("upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    assert upgraded.stdout.startswith("gatewayd 2.0.0, pid ")
    status = versions.status()
    assert status["version"] == "2.0.0"
    eventually(lambda: not any(map(is_alive, before)), 15, "the old one's end")
    ended.set()
    for each in asking:
        each.join()
    assert failures == []
    assert served[0] > 100
    mains = [each["MAINPID"] for each in versions.manager.hear() if "MAINPID" in each]
    assert mains == [str(versions.process.pid), str(status["pid"])]
    assert not any("STOPPING" in each for each in versions.manager.said)
    modes = [(versions.folder / name).stat().st_mode & 0o777 for name in ("admin.sock", "web.sock")]
    assert modes == [0o660, 0o666]
    assert (versions.folder / "web.sock").exists()
    assert versions.status()["pid"] == status["pid"]


def test_a_version_that_does_not_start(versions: Versions) -> None:
    """It is said, and the old one serves on."""
    (versions.folder / "2.0.0" / "gatewayd" / "service.py").write_text("raise SystemExit(3)\n")
    versions.install("2.0.0")
    refused = versions.ask("upgrade")
    assert refused.returncode == 1
    assert "ended before it was ready" in refused.stderr
    assert versions.status()["version"] == "1.0.0"
    with RawClient(("127.0.0.1", versions.port), timeout=5) as client:
        assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 200


def test_what_the_old_one_is_told_while_it_drains(versions: Versions) -> None:
    """It is the service no more: it refuses, tells systemd nothing, and the new one waits for it."""
    with RawClient(("127.0.0.1", versions.port), timeout=20) as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.read_head().status == 200
        versions.install("2.0.0")
        asked = [
            subprocess.Popen(
                [sys.executable, "-m", "gatewayd", "upgrade", "--admin", versions.admin],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        said = [each.communicate(timeout=60) for each in asked]
        assert sorted(each.returncode for each in asked) == [0, 1], said
        old, new = versions.process.pid, versions.status()["pid"]
        os.kill(old, signal.SIGHUP)
        os.kill(new, signal.SIGTERM)
        versions.manager.wait("STOPPING", "1")
        time.sleep(0.5)
        assert is_alive(new)
        assert is_alive(old)
        versions.finish.set()
        assert client.read_exactly(2) == b"ok"
    eventually(lambda: not is_alive(new) and not is_alive(old), 10, "the end of both")
    mains = [each["MAINPID"] for each in versions.manager.hear() if "MAINPID" in each]
    assert mains == [str(old), str(new)]


def test_a_version_that_waits_is_not_the_service(versions: Versions) -> None:
    """systemd would take its words, the last one above all, for the service's."""
    document = yaml.safe_load(versions.config.read_text())
    document["zookeeper"] = {"hosts": "127.0.0.1:1"}
    document["upstreams"]["app"] = {"zookeeper": {"path": "/app", "format": "plain"}}
    versions.config.write_text(yaml.safe_dump(document))
    heard = versions.manager.wait("STATUS", "serves") + 1
    refused = []
    upgrade = threading.Thread(target=lambda: refused.append(versions.ask("upgrade").stderr))
    upgrade.start()
    successor = eventually(versions.successor, 10, "another process")
    time.sleep(3)
    os.kill(successor, signal.SIGTERM)
    eventually(lambda: not is_alive(successor), 10, "its end")
    upgrade.join()
    assert "ended before it was ready" in refused[0]
    said = versions.manager.hear()[heard:]
    assert not any(key in each for each in said for key in ("STOPPING", "MAINPID", "STATUS")), said
    assert versions.status()["version"] == "1.0.0"
    assert (versions.folder / "web.sock").exists()  # it was not its own to take away
