"""A thousand seeded fault schedules: whatever breaks, every request ends and the gateway recovers.

A failing schedule prints its seed; `python -m tests.simulated.test_schedules SEED` plays it again.
"""

from __future__ import annotations

import sys
from random import Random

from gatewayd.config.loader import parse
from gatewayd.config.schema import Config
from gatewayd.testing import Behaviour, Report, Simulator

SCHEDULES = 1000
FAULTS_END = 14.0
SECONDS = 20.0
RATE = 10.0
QUIET = 3.0  # the last seconds, when all must be well again

CONFIG = """
listeners: {{web: {{address: 127.0.0.1:2000}}}}
routes:
  - name: all
    upstream: u
    retries: {{attempts: {attempts}, when: [connect-failure, reset, timeout, "503"]}}
    timeouts: {{request: 4s}}
upstreams:
  u:
    endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, 10.0.0.4:80]
    balancer: {balancer}
    timeouts: {{connect: 500ms, response_header: 1s}}
    passive_health: {{consecutive_failures: 3, eject_for: 1s}}
    panic_threshold: {panic}
    slow_start: {slow_start}
    pool: {{max_connections_per_endpoint: {most}, pending_timeout: 1s}}
    {more}
"""
BALANCERS = (
    "round_robin",
    "random",
    "consistent_hash",
    "least_connections",
    "power_of_two",
    "peak_ewma",
)


def config_of(chance: Random) -> Config:
    """A configuration drawn by chance."""
    more = [
        "circuit_breaker: {window: 2s, min_requests: 5, open_for: 1s}"
        if chance.random() < 0.5
        else "",
        "health_check: {interval: 500ms, timeout: 300ms}" if chance.random() < 0.5 else "",
        "adaptive_limit: {min: 4, max: 100}" if chance.random() < 0.3 else "",
    ]
    text = CONFIG.format(
        attempts=chance.choice((0, 1, 2)),
        balancer=chance.choice(BALANCERS),
        panic=chance.choice(("0%", "20%", "60%")),
        slow_start=chance.choice(("0s", "2s")),
        most=chance.choice((0, 0, 5)),
        more="\n    ".join(more),
    )
    return parse(text, "simulated.yaml", {}, lambda name: "").config


def play(seed: int) -> tuple[Simulator, Report]:
    """One schedule: faults come and go by chance until FAULTS_END, then all is healed."""
    chance = Random(seed)
    simulator = Simulator(
        config_of(chance), seed=seed, behaviour=Behaviour(latency=chance.choice((0.005, 0.05, 0.2)))
    )
    for _ in range(chance.randrange(1, 8)):
        endpoint = simulator.endpoints[chance.choice(sorted(simulator.endpoints))]
        begin = chance.uniform(1.0, FAULTS_END - 1)
        act = chance.choice((endpoint.crash, endpoint.hang, endpoint.partition))
        simulator.at(begin, act)
        simulator.at(min(FAULTS_END, begin + chance.expovariate(0.5)), endpoint.heal)
    for endpoint in simulator.endpoints.values():
        simulator.at(FAULTS_END, endpoint.heal)
    method = chance.choice(("GET", "POST"))
    simulator.traffic(RATE, until=SECONDS, method=method, body=100 if method == "POST" else 0)
    return simulator, simulator.run(SECONDS)


def wrong_with(simulator: Simulator, report: Report) -> list[str]:
    """What does not hold after a schedule."""
    upstream = simulator.upstreams["u"]
    route = simulator.context.counters.route("all")
    ledger = upstream.pool.ledger
    held = {
        "requests without an end": report.sent - sum(report.statuses.values()),
        "requests in flight at the route": route.in_flight,
        "requests in flight at the upstream": upstream.in_flight,
        "requests in flight at endpoints": sum(each.in_flight for each in upstream.endpoints),
        "requests that wait": upstream.counters.pending,
        "connections busy": ledger.open - ledger.idle,
    }
    found = [f"{count} {what}" for what, count in held.items() if count]
    late = [failure for failure in report.failures if failure[0] > SECONDS - QUIET]
    if late:
        found.append(f"failures though all is well again: {late}")
    strange = set(report.statuses) - {200, 502, 503, 504}
    if strange:
        found.append(f"answers that nobody gives: {strange}")
    return found


def test_a_thousand_schedules() -> None:
    """Every request ends, nothing is left behind, and health comes back."""
    survived = {"sent": 0, "failed": 0, "retries": 0, "panics": 0}
    broken: dict[int, list[str]] = {}
    for seed in range(SCHEDULES):
        simulator, report = play(seed)
        found = wrong_with(simulator, report)
        if found:
            broken[seed] = found
        survived["sent"] += report.sent
        survived["failed"] += report.failed
        survived["retries"] += report.retries
        survived["panics"] += report.panics
    print(f"\n{SCHEDULES} schedules: {survived}, broken: {len(broken)}")
    assert broken == {}


def test_the_same_seed_is_the_same_run() -> None:
    """A failure can be played again."""
    for seed in (1, 7, 23):
        assert play(seed)[1] == play(seed)[1]


if __name__ == "__main__":
    one, outcome = play(int(sys.argv[1]))
    for moment, message in one.messages:
        print(f"{moment:9.3f} {message}")
    print(outcome.shown(), outcome.failures, wrong_with(one, outcome))
