"""Scenarios: what `gatewayd simulate` plays and what it expects, read like a configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gatewayd.config.document import ConfigError, Place, Problem, read_document
from gatewayd.config.kinds import Choice, Int, ListOf, MapOf, Reader, Text, Unit
from gatewayd.config.loader import load, read_text
from gatewayd.config.schema import DURATION, POSITIVE_DURATION, POSITIVE_RATE, SHARE, SIZE
from gatewayd.config.schema import Config as GatewayConfig
from gatewayd.config.sections import SectionOf, key
from gatewayd.testing.actors import Behaviour, SimEndpoint
from gatewayd.testing.report import Report
from gatewayd.testing.simulator import Simulator

_FAULTS: Final = ("crash", "hang", "partition", "heal", "behave")


def _percent(text: str) -> float:
    if not text.endswith("%") or not text[:-1].replace(".", "", 1).isdigit():
        raise ValueError("expected a percentage such as 120%")
    return float(text[:-1]) / 100


PERCENT: Final = Unit(_percent, lambda value: f"{value * 100:g}%", r"^\d+(\.\d+)?%$")


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How an endpoint serves."""

    latency: float = key(DURATION, 0.02, "to answer, the median")
    spread: float = key(PERCENT, 0.2, "of latencies (log-normal)")
    errors: float = key(SHARE, 0.0, "answered 503")
    capacity: int = key(Int(), 0, "requests served at once; 0 = any")
    body: int = key(SIZE, 64, "of an answer")

    def behaviour(self) -> Behaviour:
        """For a simulated endpoint."""
        return Behaviour(
            latency=self.latency,
            spread=self.spread,
            errors=self.errors,
            capacity=self.capacity,
            body=self.body,
        )


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests at random times."""

    rate: float = key(POSITIVE_RATE, doc="on average")
    method: str = key(Text(), "GET", "of each")
    path: str = key(Text(), "/", "of each")
    host: str = key(Text(), "sim.example", "of each")
    body: int = key(SIZE, 0, "of each")
    begin: float = key(DURATION, 0.0, "when it begins", name="from")
    until: float = key(DURATION, 0.0, "when it ends; 0 = with the scenario")


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happens to endpoints."""

    at: float = key(DURATION, doc="when")
    endpoints: tuple[str, ...] = key(ListOf(Text(), some=True), doc="host:port each")
    do: str = key(Choice(*_FAULTS), doc="what")
    manner: Manner = key(SectionOf(Manner), Manner, "for behave: how they serve from then on")


@dataclass(frozen=True, kw_only=True)
class Expect:
    """What must hold in the end."""

    failed: float = key(PERCENT, 1.0, "requests cut or answered 500 and above, at most")
    share: float = key(PERCENT, 100.0, "an endpoint's load against its fair share, at most")
    retries: float = key(PERCENT, 1.0, "further tries against requests, at most")
    p99: float = key(DURATION, 0.0, "of response times, at most; 0 = any")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A whole scenario."""

    gateway: str = key(Text(), doc="the gateway's configuration file, relative to this one")
    seed: int = key(Int(), 1, "of all chance")
    duration: float = key(POSITIVE_DURATION, 60.0, "virtual seconds")
    traffic: tuple[Traffic, ...] = key(ListOf(SectionOf(Traffic), some=True), doc="who asks")
    manner: Manner = key(SectionOf(Manner), Manner, "of every endpoint")
    endpoints: dict[str, Manner] = key(MapOf(SectionOf(Manner)), dict, "of one, by host:port")
    events: tuple[Event, ...] = key(ListOf(SectionOf(Event)), (), "what happens")
    expect: Expect = key(SectionOf(Expect), Expect, "what must hold")


SCENARIO: Final = SectionOf(Scenario)


def load_scenario(
    file: str, environ: Mapping[str, str] = os.environ
) -> tuple[Scenario, GatewayConfig]:
    """Read a scenario and the configuration that it names.

    Raises:
        ConfigError: with all that is wrong in one of them.
    """
    problems: list[Problem] = []
    try:
        root = read_document(read_text(file), environ, read_text, problems)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(file, [Problem(Place(1, 1), "", f"cannot be read: {reason}")]) from error
    if root is None:
        raise ConfigError(file, problems)
    reader = Reader(problems)
    scenario = SCENARIO.read(root, "", reader)
    if problems:
        raise ConfigError(file, problems)
    config = load(str(Path(file).parent / scenario.gateway), environ).config
    members = {
        str(getattr(entry, "address", entry))
        for upstream in config.upstreams.values()
        for entry in upstream.endpoints
    }
    named = [(f"endpoints.{label}", label) for label in scenario.endpoints]
    named += [
        (f"events[{index}].endpoints[{number}]", label)
        for index, event in enumerate(scenario.events)
        for number, label in enumerate(event.endpoints)
    ]
    for path, label in named:
        if label not in members:
            reader.complain(path, f"no upstream has an endpoint {label}")
    if problems:
        raise ConfigError(file, problems)
    return scenario, config


def play(scenario: Scenario, config: GatewayConfig, seed: int) -> Report:
    """Run a scenario.

    Args:
        scenario, config: from load_scenario.
        seed: of all chance.
    """
    simulator = Simulator(config, seed=seed, behaviour=scenario.manner.behaviour())
    for label, manner in scenario.endpoints.items():
        simulator.endpoint(label).behaviour = manner.behaviour()
    for event in scenario.events:
        for label in event.endpoints:
            simulator.at(event.at, _act(simulator.endpoint(label), event))
    for each in scenario.traffic:
        simulator.traffic(
            each.rate,
            begin=each.begin,
            until=each.until or scenario.duration,
            method=each.method,
            path=each.path,
            host=each.host,
            body=each.body,
        )
    return simulator.run(scenario.duration)


def _act(endpoint: SimEndpoint, event: Event) -> Any:
    def behave() -> None:
        endpoint.behaviour = event.manner.behaviour()

    return behave if event.do == "behave" else getattr(endpoint, event.do)


def broken(expect: Expect, report: Report) -> list[str]:
    """What was expected and does not hold, in words."""
    found = [
        ("failed", report.failed_share, expect.failed),
        ("retries", report.retry_share, expect.retries),
        ("share", report.most_loaded, expect.share),
    ]
    wrong = [
        f"{name}: {value:.3%} is more than {most:.3%}"
        for name, value, most in found
        if value > most
    ]
    if expect.p99 and report.quantile(0.99) > expect.p99:
        wrong.append(f"p99: {report.quantile(0.99):.3f} s is more than {expect.p99:.3f} s")
    return wrong
