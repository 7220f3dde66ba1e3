"""`gatewayd simulate`: the scenarios of this directory hold, whatever the seed, and mistakes are named."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from gatewayd.config.loader import parse
from gatewayd.config.schema import Config
from gatewayd.testing import Behaviour, Report, Simulator
from gatewayd.testing.scenario import broken, load_scenario, play

SCENARIOS = Path(__file__).parent / "scenarios"
CAPACITY = 8 / 0.02040  # a second: eight at once, 20 ms median, log-normal sigma 0.2
UNLOADED_P99 = 0.0325  # seconds, measured by test_overload_has_a_measure


def simulate(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "gatewayd", "simulate", str(SCENARIOS / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def played(name: str, seed: int) -> tuple[Report, list[str]]:
    """What came out of a scenario, and what was expected otherwise."""
    scenario, config = load_scenario(str(SCENARIOS / f"{name}.yaml"))
    report = play(scenario, config, seed)
    return report, broken(scenario.expect, report)


def config(text: str) -> Config:
    """A configuration with the only upstream's keys."""
    document = f"listeners: {{web: {{address: 127.0.0.1:2000}}}}\nupstreams:\n  u:\n{text}"
    return parse(document, "test.yaml", {}, lambda name: "").config


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", ["three_of_five_die", "partition", "hang", "errors"])
def test_faults(name: str, seed: int) -> None:
    """Fewer than one in a thousand fails, and nobody gets more than 120% of its share."""
    report, wrong = played(name, seed)
    assert wrong == []
    assert report.sent > 7000


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", ["overload_adaptive", "overload_limited"])
def test_overload(name: str, seed: int) -> None:
    """At three times capacity: goodput above 90% of it, p99 under twice its unloaded value."""
    report, wrong = played(name, seed)
    assert wrong == []
    assert set(report.statuses) == {200, 503}
    assert report.statuses[200] / 20 > 0.9 * CAPACITY
    assert report.quantile(0.99) < 2 * UNLOADED_P99


def test_overload_has_a_measure() -> None:
    """What the goals of test_overload are measured by."""
    scenario, gateway = load_scenario(str(SCENARIOS / "overload_limited.yaml"))
    simulator = Simulator(gateway, seed=1, behaviour=scenario.manner.behaviour())
    simulator.traffic(50.0, until=60.0)
    report = simulator.run(60.0)
    assert report.failed == 0
    assert abs(report.quantile(0.99) - UNLOADED_P99) < 0.0015


def test_who_is_refused_is_refused_at_once() -> None:
    """Shedding costs a client nothing but the way there."""
    scenario, gateway = load_scenario(str(SCENARIOS / "overload_adaptive.yaml"))
    simulator = Simulator(gateway, seed=1, behaviour=scenario.manner.behaviour())
    refused: list[float] = []
    add = simulator.report.add

    def note(status: int, seconds: float, endpoint: str, now: float) -> None:
        if status == 503:
            refused.append(seconds)
        add(status, seconds, endpoint, now)

    simulator.report.add = note  # type: ignore[method-assign]
    simulator.traffic(1200.0, until=5.0)
    simulator.run(5.0)
    assert len(refused) > 2000
    assert max(refused) < 0.001


def test_the_hanging_one_is_out_within_its_passive_limit() -> None:
    """After consecutive_failures timeouts nothing more is sent there but what checks ask."""
    scenario, gateway = load_scenario(str(SCENARIOS / "hang.yaml"))
    simulator = Simulator(gateway, seed=1)
    for event in scenario.events[:1]:
        simulator.at(event.at, simulator.endpoint(event.endpoints[0]).hang)
    simulator.traffic(200.0, until=20.0)
    simulator.run(20.0)
    out = [moment for moment, message in simulator.messages if "10.0.0.1:80 is" in message]
    # The third timeout of 500 ms, on a wheel of 100 ms, after at most 5 picks a 40th of a second apart.
    assert 10.5 < out[0] < 10.8


def test_a_breaker_spares_a_dead_upstream() -> None:
    """Open it answers without asking; it asks once each open_for, and closes when all is well."""
    simulator = Simulator(
        config(
            "    endpoints: [10.0.0.1:80]\n"
            "    passive_health: false\n"
            "    circuit_breaker: {window: 2s, min_requests: 5, open_for: 1s}\n"
        ),
        seed=1,
    )
    endpoint = simulator.endpoint("10.0.0.1:80")
    endpoint.behaviour = Behaviour(errors=1.0)
    simulator.at(5.0, lambda: setattr(endpoint, "behaviour", Behaviour()))
    asked: list[int] = []
    for second in range(1, 6):
        simulator.at(float(second), lambda: asked.append(endpoint.received))
    simulator.traffic(100.0, until=10.0)
    report = simulator.run(10.0)
    assert asked[0] < 10
    assert [after - before for before, after in pairwise(asked)] == [1] * 4
    assert report.failures[-1][0] < 6.5


def test_a_retry_storm() -> None:
    """Where all fails, retries add the budget's share of load and no more."""
    text = """
listeners: {web: {address: 127.0.0.1:2000}}
routes:
  - {name: all, upstream: u, retries: {attempts: 5, when: ["503"], budget: 20%}}
upstreams:
  u: {endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], passive_health: false}
"""
    simulator = Simulator(
        parse(text, "storm.yaml", {}, lambda name: "").config,
        seed=1,
        behaviour=Behaviour(errors=1.0),
    )
    simulator.traffic(300.0, until=30.0)
    report = simulator.run(30.0)
    assert set(report.statuses) == {503}
    assert 0.18 < report.retry_share <= 0.205
    assert sum(report.received.values()) == report.sent + report.retries


def test_names() -> None:
    """Endpoints that are names are played as well, each its own, and a scenario calls them so."""
    simulator = Simulator(config("    endpoints: [web-12:80, web-21:80, '[fd00::1]:80']\n"), seed=1)
    simulator.endpoint("web-12:80").crash()
    simulator.traffic(50.0, until=5.0)
    simulator.run(5.0)
    assert len(simulator.endpoints) == 3
    assert simulator.endpoint("web-12:80").received == 0
    assert simulator.endpoint("web-21:80").received > 0
    assert simulator.endpoint("[fd00::1]:80").received > 0


def test_a_crash_ends_what_was_served() -> None:
    """A process that is back has all its places and no more."""
    simulator = Simulator(
        config("    endpoints: [10.0.0.1:80]\n    passive_health: false\n"),
        seed=1,
        behaviour=Behaviour(latency=0.5, spread=0.0, capacity=2),
    )
    endpoint = simulator.endpoint("10.0.0.1:80")
    simulator.at(5.0, endpoint.crash)
    simulator.at(5.1, endpoint.heal)
    simulator.traffic(20.0, until=6.0)
    simulator.run(40.0)
    assert (endpoint._serving, endpoint._queue) == (0, [])


def test_command_one_run() -> None:
    """Prints the report; the same seed is the same one, another another."""
    found = [simulate("hang.yaml", *more) for more in ((), (), ("--seed", "2"))]
    assert [each.returncode for each in found] == [0, 0, 0]
    assert found[0].stdout == found[1].stdout != found[2].stdout
    text, last = found[0].stdout.rsplit("}\n", 1)
    report = json.loads(text + "}")
    assert last == "1 of 1 runs as expected\n"
    assert sorted(report) == sorted(
        ("sent", "statuses", "failed", "retries", "p50_ms", "p99_ms", "most_loaded", "served")
    )
    assert report["statuses"] == {"200": report["sent"]}


def test_command_runs(tmp_path: Path) -> None:
    """With seeds upwards; each that does not hold is named, and the exit status is 1."""
    scenario = tmp_path / "strict.yaml"
    (tmp_path / "five.yaml").write_text((SCENARIOS / "five.yaml").read_text())
    text = (SCENARIOS / "partition.yaml").read_text().replace("40s", "14s")
    scenario.write_text(text.replace("failed: 0.1%, share: 120%, retries: 20%", "retries: 0.01%"))
    found = simulate(str(scenario), "--seed", "7", "--runs", "3")
    assert found.returncode == 1
    assert found.stdout == "0 of 3 runs as expected\n"
    assert [line.split(":")[:2] for line in found.stderr.splitlines()] == [
        [f"seed {seed}", " retries"] for seed in (7, 8, 9)
    ]
    assert "is more than 0.010%" in found.stderr


def test_mistakes() -> None:
    """Each is named with file, line, column and key; the exit status is 78, as check's."""
    found = simulate("broken.yaml")
    assert found.returncode == 78
    assert "Traceback" not in found.stderr
    file = SCENARIOS / "broken.yaml"
    lines = found.stderr.splitlines() + found.stdout.splitlines()
    for start in (
        f"{file}:2:11: duration: ",
        f"{file}:3:25: traffic[0].form: ",
        f"{file}:5:46: events[0].do: ",
    ):
        assert any(line.startswith(start) for line in lines), lines


def test_unknown_endpoints() -> None:
    """Are named where they are written."""
    found = simulate("unknown_endpoint.yaml")
    assert found.returncode == 78
    file = SCENARIOS / "unknown_endpoint.yaml"
    lines = found.stderr.splitlines() + found.stdout.splitlines()
    assert any(line.startswith(f"{file}:3:") and "10.0.0.9:80" in line for line in lines), lines
    assert any(line.startswith(f"{file}:5:") and "10.0.0.8:80" in line for line in lines), lines


def test_a_mistake_in_the_gateway(tmp_path: Path) -> None:
    """Is named in its own file; so is one that is not there."""
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("gateway: gateway.yaml\ntraffic: [{rate: 1/s}]\n")
    missing = simulate(str(scenario))
    assert (missing.returncode, "Traceback" in missing.stderr) == (78, False)
    (tmp_path / "gateway.yaml").write_text("listeners: {web: {adress: 127.0.0.1:2000}}\n")
    wrong = simulate(str(scenario))
    assert wrong.returncode == 78
    assert f"{tmp_path / 'gateway.yaml'}:1:" in wrong.stderr + wrong.stdout
    assert simulate(str(tmp_path / "nowhere.yaml")).returncode == 78
