"""What systemd is told, over a real NOTIFY_SOCKET: sd_notify(3)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import StartDaemon
from tests.live.harness import Daemon, configuration
from tests.live.harness.systemd import Manager
from tests.live.harness.waiting import eventually


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager."""
    found = Manager(tmp_path / "notify")
    yield found
    found.socket.close()


@pytest.fixture(params=[1, 2], ids=["alone", "workers"])
def daemon(start_daemon: StartDaemon, manager: Manager, request: pytest.FixtureRequest) -> Daemon:
    """A daemon that systemd starts, with a watchdog of a second."""
    document = configuration({"u": ["127.0.0.1:9"]}, workers=request.param)
    environment = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"}
    return start_daemon(document, environment=environment)


def test_a_service_says_how_it_fares(daemon: Daemon, manager: Manager) -> None:
    """READY once it serves, RELOADING around a reload, STOPPING at the end; a status that tells."""
    ready = manager.wait("READY", "1")
    assert manager.said[ready]["MAINPID"] == str(daemon.pid)
    manager.wait("STATUS", "serv")
    daemon.signal(signal.SIGHUP)
    reloading = manager.wait("RELOADING", "1", since=ready + 1)
    assert 0 < int(manager.said[reloading]["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    again = manager.wait("READY", "1", since=reloading)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0
    manager.wait("STOPPING", "1", since=again)


def test_the_watchdog_hears_of_life_and_of_its_end(daemon: Daemon, manager: Manager) -> None:
    """At least twice in its time while the reactor turns; not while the process stands still."""
    before = manager.wait("WATCHDOG", "1")
    began = time.monotonic()
    eventually(lambda: len(manager.hear()) >= before + 5, 5, "four more")
    assert time.monotonic() - began <= 4 * 0.5 + 1
    daemon.signal(signal.SIGSTOP)
    try:
        heard = len(manager.hear())
        time.sleep(1.5)
        assert len(manager.hear()) <= heard + 1  # one may have been under way
    finally:
        daemon.signal(signal.SIGCONT)
    manager.wait("WATCHDOG", "1", since=len(manager.said))
