"""Waiting for what another process does, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], timeout: float = 5.0, what: str = "") -> T:
    """Answer with the first true result of *probe*.

    Only for what no event of ours announces (a file, /proc, a port that another process opens);
    everything that passes through the harness has a condition to wait on.

    Args:
        probe: asked again and again until its result is true.
        timeout: seconds.
        what: what was waited for, for the message.

    Raises:
        AssertionError: the deadline has passed.
    """
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or probe}; last: {result!r}")
        pause.wait(0.01)
