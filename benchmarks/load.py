"""Load from wrk, and what a proxy spends while it lasts.

The first seconds warm the proxy up and do not count. Within the window that does, requests are
counted by the upstream, so that a proxy's own bookkeeping plays no part.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.machine import CHECKOUT, tool
from benchmarks.processes import Child
from benchmarks.stage import Proxy, Stage

_LONGEST: Final = 120  # seconds that a load may last
_LAST_ANSWERS: Final = 20.0


@dataclass(frozen=True)
class Window:
    """What happened between two looks."""

    requests: int
    seconds: float
    cpu_us: float  # of the proxy, per request
    pace_us: float  # the same of its busiest process alone
    busy: float  # share of its core that the proxy used
    load_busy: float  # share of their cores that load and upstream used
    resident: int  # of the proxy at the end, in bytes
    errors: int  # of the whole run, the warming up too

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def figures(self) -> dict[str, float | None]:
        """Its figures of CPU and throughput, by their names in tables."""
        return {
            "cpu": self.cpu_us,
            "rate": self.rate,
            "busy": self.busy,
            "load_busy": self.load_busy,
        }


@dataclass(frozen=True)
class Load:
    """How wrk asks; see wrk.lua for the modes."""

    mode: str = "varied"
    number: int = 1
    connections: int = 64
    warm: float = 1.0
    seconds: float = 2.0
    least: int = 0  # requests that must have passed before the window opens


def measure(stage: Stage, proxy: Proxy, load: Load) -> Window:
    """Put a proxy under load and look.

    Raises:
        RuntimeError: wrk did not do its work.
    """
    run = start(stage, proxy.port, load)
    try:
        time.sleep(load.warm)
        _await(stage, run, load.least)
        window = look(stage, proxy, run, load.seconds)
        run.signal(signal.SIGINT)  # wrk stops and reports
        run.wait(_LAST_ANSWERS)
    except BaseException:
        run.stop()
        raise
    result = last_json(run.output)
    if not result:
        raise RuntimeError(f"wrk said nothing: {run.said()}")
    return replace(window, errors=int(result["errors"]))


def start(stage: Stage, port: int, load: Load) -> Child:
    """Start wrk; it ends when it is interrupted, or by itself at last."""
    program = tool("wrk")
    if program is None:
        raise RuntimeError("wrk is missing: it makes the load")
    script = CHECKOUT / "benchmarks" / "wrk.lua"
    return Child(
        [
            *(program, "--threads", "1", "--connections", str(load.connections)),
            *("--duration", f"{_LONGEST}s", "--timeout", f"{_LONGEST}s"),
            *("--script", str(script), f"http://127.0.0.1:{port}/", "--"),
            *(load.mode, str(load.number)),
        ],
        cores=stage.load_cores,
        output=stage.directory / "wrk.out",
    )


def look(stage: Stage, proxy: Proxy, run: Child, seconds: float) -> Window:
    """What a proxy under load does in so many seconds."""
    others: Iterable[Child] = (run, stage.upstream.nginx)
    began = time.monotonic()
    served = stage.upstream.served()
    before = proxy.child.each_cpu_ns()
    others_spent = sum(child.cpu_ns() for child in others)
    time.sleep(seconds)
    requests = stage.upstream.served() - served
    each = [spent - before.get(pid, 0) for pid, spent in proxy.child.each_cpu_ns().items()]
    spent = sum(each)
    others_spent = sum(child.cpu_ns() for child in others) - others_spent
    passed = time.monotonic() - began
    if not proxy.child.running:
        raise RuntimeError(f"{proxy.name} ended under load: {proxy.child.said()[-300:]}")
    if requests < 10:
        raise RuntimeError(f"{proxy.name}: {requests} requests in {passed:.1f} s")
    return Window(
        requests=requests,
        seconds=passed,
        cpu_us=spent / 1000 / requests,
        pace_us=max(each) / 1000 / requests,
        busy=spent / 1e9 / passed,
        load_busy=others_spent / 1e9 / passed / len(stage.load_cores),
        resident=proxy.child.resident(),
        errors=0,
    )


def _await(stage: Stage, run: Child, least: int) -> None:
    first = stage.upstream.served()
    end = time.monotonic() + 50
    while least and stage.upstream.served() - first < least and time.monotonic() < end:
        if not run.running:
            raise RuntimeError(f"wrk ended: {run.said()}")
        time.sleep(0.2)


def last_json(output: Path) -> dict[str, float]:
    """The figures on the last line of a tool's output that has some."""
    for line in reversed(output.read_text(errors="replace").splitlines()):
        if line.startswith("result {"):
            found: dict[str, float] = json.loads(line.removeprefix("result "))
            return found
    return {}
