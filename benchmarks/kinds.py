"""Other small requests: longer heads, escapes, bodies, and connections that are not kept."""

from __future__ import annotations

from typing import Final

from benchmarks.load import Load, measure
from benchmarks.plan import QUICK_PEERS, Plan
from benchmarks.stage import Proxy

TITLE: Final = "Other kinds of requests"
CASES: Final = {
    "bearer token": Load("token"),
    "4 KiB cookie": Load("cookie"),
    "escapes in the path": Load("escapes"),
    "fourteen response headers": Load("rich"),
    "POST of 1 KiB": Load("post", number=1024),
    "POST of 8 KiB": Load("post", number=8192),
    "one request a connection": Load("once"),
    "endpoint that closes": Load("closing"),
}


def run(plan: Plan) -> None:
    """CPU per request and requests per second of each kind.

    The rounds' order lets every proxy rest between two kinds, and with it what it keeps.
    """
    with plan.stage(*QUICK_PEERS) as stage:

        def once(proxy: Proxy, case: str, number: int) -> dict[str, float | None]:
            window = measure(stage, proxy, CASES[case])
            plan.check(proxy, case, window.errors)
            return window.figures

        plan.interleave(stage.run_all(), list(CASES), once)
