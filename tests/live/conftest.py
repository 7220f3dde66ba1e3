"""Fixtures: daemons and upstreams that end with whoever asked for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.harness import Daemon, ScriptedUpstream

StartDaemon = Callable[..., Daemon]
StartUpstream = Callable[..., ScriptedUpstream]


def _daemons(directory: Callable[[], Path]) -> Iterator[StartDaemon]:
    running: list[Daemon] = []

    def start(document: Any, **options: Any) -> Daemon:
        daemon = Daemon(directory(), document, **options)
        running.append(daemon)
        return daemon

    yield start
    failures = []
    for daemon in running:
        try:
            daemon.stop()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


@pytest.fixture
def start_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    """Daemons of one test."""
    yield from _daemons(lambda: tmp_path_factory.mktemp("daemon"))


@pytest.fixture(scope="module")
def module_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartDaemon]:
    """Daemons that the tests of a file share."""
    yield from _daemons(lambda: tmp_path_factory.mktemp("daemon"))


@pytest.fixture
def start_upstream() -> Iterator[StartUpstream]:
    """Upstreams of one test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(ScriptedUpstream(*args, **options))


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[StartUpstream]:
    """Upstreams that the tests of a file share; each test scripts paths of its own."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(ScriptedUpstream(*args, **options))
