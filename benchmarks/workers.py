"""Two workers beside one: what a second core brings.

On two cores the load takes what the second worker would need, so throughput shows nothing. What does is
the pace: the CPU that the busiest process spends per request. Where every process has a core of its own,
it is the pace that limits them all together.
"""

from __future__ import annotations

import os
from typing import Final

from benchmarks.load import Load, measure
from benchmarks.peers.gatewayd import Gatewayd
from benchmarks.plan import Plan
from benchmarks.stage import Proxy, Stage

TITLE: Final = "Workers"
NAMES: Final = {"1 worker": 1, "2 workers": 2}
CASES: Final = {"64 connections": 64, "8 connections": 8}


def run(plan: Plan) -> None:
    """CPU per request, of all processes and of the busiest."""
    peers = [Gatewayd(name=name, workers=count) for name, count in NAMES.items()]
    with Stage([*peers]) as stage:
        stage.proxy_cores = stage.load_cores = os.sched_getaffinity(0)
        proxies = stage.run_all()

        def once(proxy: Proxy, case: str, number: int) -> dict[str, float | None]:
            window = measure(stage, proxy, Load(connections=CASES[case]))
            plan.check(proxy, case, window.errors)
            return {"cpu": window.cpu_us, "pace": window.pace_us}

        plan.interleave(proxies, list(CASES), once)
