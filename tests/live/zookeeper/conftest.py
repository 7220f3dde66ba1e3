"""Fixtures: a real ZooKeeper, members that serve, and a daemon between them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import Daemon, ScriptedUpstream, configuration
from tests.live.zookeeper.server import (
    Ensemble,
    Publishers,
    Unavailable,
    class_path,
    in_ci,
    publishers,
)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def jars(request: pytest.FixtureRequest) -> str:
    """ZooKeeper's class path; without one there is a loud line, and in CI a failure."""
    try:
        return class_path()
    except Unavailable as error:
        message = f"THE TESTS WITH ZOOKEEPER ARE NOT RUN: {error}"
        if in_ci():
            pytest.fail(message)
        reporter = request.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("")
            reporter.write_line(message, yellow=True, bold=True)
        pytest.skip(message)


@pytest.fixture(scope="session")
def shared_zookeeper(jars: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    """One server for all tests."""
    with Ensemble(tmp_path_factory.mktemp("zookeeper"), jars, 1) as ensemble:
        yield ensemble


@pytest.fixture
def zookeeper(shared_zookeeper: Ensemble) -> Iterator[Ensemble]:
    """One server that runs, whatever the test before did to it."""
    shared_zookeeper.restore()
    yield shared_zookeeper
    shared_zookeeper.restore()


@pytest.fixture(scope="module")
def shared_ensemble(jars: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    """Three servers for the tests of a file."""
    with Ensemble(tmp_path_factory.mktemp("ensemble"), jars, 3) as ensemble:
        yield ensemble


@pytest.fixture
def ensemble(shared_ensemble: Ensemble) -> Iterator[Ensemble]:
    """Three servers that run."""
    shared_ensemble.restore()
    yield shared_ensemble


class Stage:
    """A ZooKeeper, three members that serve, and what a test starts between them."""

    def __init__(self, start: Callable[..., Daemon], directory: Path) -> None:
        """Args: start: makes daemons. directory: for the journal."""
        self.path = f"/services/{next(_numbers)}"
        self.journal = directory / "membership.json"
        self.stack = contextlib.ExitStack()
        self.members = [self.stack.enter_context(ScriptedUpstream(f"m{n}")) for n in range(3)]
        self._start = start

    def publishers(self, hosts: str, **options: Any) -> Publishers:
        """Sessions for members."""
        path = options.pop("path", self.path)
        return self.stack.enter_context(publishers(hosts, path, **options))

    def nodes(self, *numbers: int, suffix: str = "") -> dict[str, bytes]:
        """What members register: all of them, or some."""
        wanted = numbers or range(len(self.members))
        return {
            f"m{number}": (self.members[number].endpoint + suffix).encode() for number in wanted
        }

    def daemon(
        self,
        hosts: str,
        *,
        source: dict[str, Any] | None = None,
        upstream: dict[str, Any] | None = None,
        ready: bool = True,
        **ensemble: Any,
    ) -> Daemon:
        """A gateway whose upstream `users` takes its members from the path."""
        document = configuration(
            {
                "users": {
                    "zookeeper": {
                        "path": self.path,
                        "format": "plain",
                        "removal_grace": "1s",
                        **(source or {}),
                    },
                    **(upstream or {}),
                }
            },
            zookeeper={
                "hosts": hosts,
                "session_timeout": "3s",
                "connect_timeout": "1s",
                "watch_timeout": "2s",
                "journal": str(self.journal),
                **ensemble,
            },
        )
        # Requests flow for long: their log is not looked at.
        document["logging"] = {"access": {"to": "none"}}
        return self._start(document, ready=ready)


@pytest.fixture
def stage(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Iterator[Stage]:
    """Everything but ZooKeeper; the publishers end before the daemon is looked at."""
    made = Stage(start_daemon, tmp_path)
    with made.stack:
        yield made
