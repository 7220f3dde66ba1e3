"""Balancer picks: nanoseconds and allocations, beside a Go implementation of the same policies.

As a program, `python -m benchmarks.picks`, it measures gatewayd's balancers once; the part runs it and
Go's benchmark (peers/balancers_test.go) in turn on the proxy's core.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from random import Random
from time import perf_counter_ns
from typing import Any, Final

from benchmarks.load import last_json
from benchmarks.machine import CHECKOUT, tool
from benchmarks.plan import Plan
from benchmarks.processes import Child
from benchmarks.stage import Stage

TITLE: Final = "Balancer picks"
COUNTS: Final = (3, 100)
_KEYS: Final = 1024
_TAKES: Final = 5
_LINE: Final = re.compile(r"BenchmarkPick/(\w+)/(\d+)\s+\d+\s+([\d.]+) ns/op\s+(\d+) B/op")


def run(plan: Plan) -> None:
    """Both in every round, in changing order."""
    with Stage([]) as stage:
        program = stage.directory / "balancers"
        lack = _build(str(program))
        if lack:
            plan.missing["go balancers"] = lack
        names = ["gatewayd"] if lack else ["gatewayd", "go"]
        for number in range(plan.rounds):
            for name in plan.order(names, number):
                try:
                    found = _ours(stage) if name == "gatewayd" else _gos(stage, str(program), plan)
                except (RuntimeError, OSError) as error:
                    plan.failures.append(f"picks of {name}: {error}")
                    continue
                for case, figures in found.items():
                    plan.figures.add(case, name, number, **figures)
            plan.say(f"  round {number + 1} of {plan.rounds}")


def _build(program: str) -> str:
    compiler = tool("go")
    if compiler is None:
        return "go is not installed"
    source = CHECKOUT / "benchmarks" / "peers" / "balancers_test.go"
    done = subprocess.run(
        [compiler, "test", "-c", "-o", program, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr.strip()[:500] if done.returncode else ""


def _finish(stage: Stage, command: list[str]) -> Child:
    child = Child(
        command, cores=stage.proxy_cores, output=stage.directory / "picks.out", cwd=CHECKOUT
    )
    try:
        status = child.wait(120)
    except TimeoutError:
        child.stop()
        raise
    if status:
        raise RuntimeError(child.said()[-300:])
    return child


def _ours(stage: Stage) -> dict[str, dict[str, float]]:
    found: dict[str, Any] = last_json(_finish(stage, [sys.executable, "-m", __name__]).output)
    return found


def _gos(stage: Stage, program: str, plan: Plan) -> dict[str, dict[str, float]]:
    time = "20ms" if plan.quick else "100ms"
    command = [program, "-test.bench", ".", "-test.cpu", "1", "-test.benchtime", time]
    said = _finish(stage, command).output.read_text()
    return {
        f"{policy}, {count} endpoints": {"ns": float(ns), "bytes": float(size)}
        for policy, count, ns, size in _LINE.findall(said)
    }


# --- the measuring program


def picker(policy: str, count: int) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """A balancer's pick, and what gives the pick back where it has to be."""
    from gatewayd.core.addresses import Address
    from gatewayd.core.balancers import BALANCERS
    from gatewayd.core.endpoints import Member, reconcile

    weights = [1 + i % 3 if policy == "weighted_round_robin" else 1 for i in range(count)]
    members = [
        Member(Address("tcp", f"10.0.{i // 250}.{i % 250}", 8080), weight=weight)
        for i, weight in enumerate(weights)
    ]
    balancer = BALANCERS[policy](reconcile((), members).members, random=Random(1))
    released = balancer.released if policy == "least_connections" else None
    pick = balancer.next if balancer.next is not None else balancer.pick
    return pick, released


def _timed(policy: str, count: int, number: int) -> tuple[float, float]:
    """Nanoseconds per pick, the loop around it included, and bytes that stay allocated."""
    pick, released = picker(policy, count)
    keys = [b"10.%d.%d.7" % (i // 250, i % 250) for i in range(_KEYS)]

    def loop(turns: int) -> None:
        if policy == "consistent_hash":
            for _ in range(turns):
                for key in keys:
                    pick(key)
        elif released is None:
            for _ in range(turns):
                for _ in keys:
                    pick()
        else:  # picks are counted by the upstream, which tells the balancer when one is over
            for _ in range(turns):
                for _ in keys:
                    endpoint = pick()
                    endpoint.in_flight += 1
                    endpoint.in_flight -= 1
                    released(endpoint, 0.001, False)

    loop(4)
    turns = max(1, number // _KEYS)
    best = []
    for _ in range(_TAKES):
        began = perf_counter_ns()
        loop(turns)
        best.append((perf_counter_ns() - began) / turns / _KEYS)
    tracemalloc.start()
    loop(1)
    before, _ = tracemalloc.get_traced_memory()
    loop(turns)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return sorted(best)[_TAKES // 2], max(0.0, round((after - before) / turns / _KEYS, 3))


def main() -> None:
    """Measure every policy once."""
    from gatewayd.core.balancers import BALANCERS

    gc.collect()
    gc.freeze()
    found: dict[str, dict[str, float]] = {}
    for policy in BALANCERS:
        for count in COUNTS:
            ns, size = _timed(policy, count, 100_000)
            found[f"{policy}, {count} endpoints"] = {"ns": ns, "bytes": size}
    print("result", json.dumps(found))


if __name__ == "__main__":
    main()
