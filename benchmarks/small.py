"""Small requests: 1 KiB answers, nine request headers, 64 kept connections, three endpoints."""

from __future__ import annotations

from typing import Final

from benchmarks.load import Load, measure
from benchmarks.peers.gatewayd import COMPILED, NAME, NO_LOG
from benchmarks.plan import Plan
from benchmarks.stage import Proxy
from benchmarks.upstream import MIB

TITLE: Final = "Small requests"
CASES: Final = ("same", "varied", "answers")


def run(plan: Plan) -> None:
    """CPU per request, requests per second and memory of every peer."""
    warm, seconds = (0.3, 0.8) if plan.quick else (1.0, 2.0)
    names = [peer.name for peer in plan.peers()]
    with plan.stage(*names, NAME + NO_LOG, COMPILED + NO_LOG) as stage:
        proxies = stage.run_all()
        idle = {proxy.name: proxy.child.resident() for proxy in proxies}

        def once(proxy: Proxy, case: str, number: int) -> dict[str, float | None]:
            window = measure(stage, proxy, Load(mode=case, warm=warm, seconds=seconds))
            plan.check(proxy, case, window.errors)
            return {
                **window.figures,
                "idle_mib": idle[proxy.name] / MIB,
                "load_mib": window.resident / MIB,
            }

        plan.interleave(proxies, ["varied"] if plan.quick else list(CASES), once)
