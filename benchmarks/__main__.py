"""`python -m benchmarks [PART…] [--quick]`: measure, write results, show tables."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benchmarks import bodies, idle, kinds, latency, machine, picks, report, scaling, small, workers
from benchmarks.figures import read, write
from benchmarks.plan import Plan

PARTS: Final[dict[str, ModuleType]] = {
    "small": small,
    "kinds": kinds,
    "bodies": bodies,
    "latency": latency,
    "scaling": scaling,
    "idle": idle,
    "picks": picks,
    "workers": workers,
}
_QUICK: Final = ("small", "bodies", "latency", "picks")
_RESULTS: Final = machine.CHECKOUT / "build" / "benchmarks"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="less of everything: two minutes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the order and of arrivals")
    parser.add_argument("--peers", default="", help="only these, comma-separated")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another build of gatewayd to compare: its command line up to `run`",
    )
    parser.add_argument(
        "--results", type=Path, help="file; parts measured before stay in it (default: in build/)"
    )
    parser.add_argument("--publish", action="store_true", help="also write docs/performance.md")
    parser.add_argument("--show", action="store_true", help="measure nothing, use the results file")
    return parser


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part."""
    plan = Plan(
        quick=options.quick,
        rounds=options.rounds,
        seed=options.seed,
        wanted=[peer for peer in options.peers.split(",") if peer],
        also=dict(pair.split("=", 1) for pair in options.also),
    )
    plan.say(f"{name}: {PARTS[name].TITLE}")
    described = machine.describe()
    began = time.monotonic()
    PARTS[name].run(plan)
    for peer, why in plan.missing.items():
        plan.say(f"  missing: {peer}: {why}")
    return {
        "machine": described,
        "quick": plan.quick,
        "rounds": plan.rounds,
        "seed": plan.seed,
        "seconds": round(time.monotonic() - began, 1),
        "missing": plan.missing,
        "failures": plan.failures,
        "series": plan.figures.dump(),
    }


def main() -> int:
    """Measure the parts; each is saved as soon as it is done."""
    options = arguments().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended
    name = "quick.json" if options.quick else "latest.json"
    path = options.results or _RESULTS / name
    results = read(path)
    if not options.show:
        for part in options.parts or (_QUICK if options.quick else PARTS):
            results["parts"][part] = measure(part, options)
            write(path, results)
    print(report.markdown(results))
    if options.publish or not (options.quick or options.parts or options.show):
        report.publish(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
