"""What gatewayd has to reach, and how far a run's figures are from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Figures, Series
from benchmarks.peers.gatewayd import COMPILED, NAME

US: Final = NAME
BUILDS: Final = (NAME, COMPILED)


@dataclass(frozen=True)
class Goal:
    """A ratio that must not be exceeded and one to reach for."""

    what: str
    part: str
    figure: str
    cases: tuple[str, ...]  # the worst of them counts
    other: str  # peer compared with; US where `base` is another case of our own
    must: float
    reach: float
    base: str = ""  # our own case compared with
    us: str = US  # who is compared; US stands for either build

    def judge(self, parts: dict[str, Figures], build: str) -> tuple[Series, str] | None:
        """The worst ratio of a build and its case, or None where it was not measured."""
        figures = parts.get(self.part)
        if figures is None:
            return None
        us, other = (build if name == US else name for name in (self.us, self.other))
        found = [
            (ratio, case)
            for case in self.cases
            if (ratio := figures.ratio(case, self.figure, us, other, self.base)) is not None
        ]
        return max(found, key=lambda pair: pair[0].median or 0.0, default=None)


_LENGTH = ("10 MiB down", "1 GiB down")
_SPLICED = (*_LENGTH, "1 MiB down", "1 MiB up", "10 MiB up", "1 GiB up", "1 GiB tunnel")
_OTHERS = (
    *("64 KiB down", "64 KiB up", "1 MiB down, chunked", "1 GiB down, chunked"),
    "10 MiB up, chunked",
)
_RANDOM = ("random, 3 endpoints",)


def _grown(what: str, part: str = "scaling") -> Goal:
    cases = tuple(f"{what}: {count}" for count in ("10,000", "19,500", "9,900"))
    return Goal(
        f"CPU with 10,000 {what} against 10", part, "cpu", cases, US, 1.1, 1.03, f"{what}: 10"
    )


GOALS: Final = (
    Goal("CPU per small request against Go", "small", "cpu", ("varied",), "go", 0.45, 0.3),
    Goal("the same against nginx", "small", "cpu", ("varied",), "nginx", 2.0, 1.3),
    Goal("the same against twisted.web", "small", "cpu", ("varied",), "twisted.web", 0.12, 0.08),
    Goal("CPU per GiB down against HAProxy", "bodies", "cpu_gib", _LENGTH, "haproxy", 1.15, 1.0),
    Goal("the same against nginx, spliced", "bodies", "cpu_gib", _SPLICED, "nginx", 0.6, 0.5),
    Goal("the same against nginx, others", "bodies", "cpu_gib", _OTHERS, "nginx", 1.3, 1.0),
    Goal("p99 at 2,000 requests/s against Go", "latency", "p99", ("2000/s",), "go", 1.0, 0.6),
    Goal(
        "memory per idle connection against Go",
        "idle",
        "connection_kib",
        ("10,000 connections", "2,000 connections"),
        "go",
        1.0,
        0.6,
    ),
    _grown("hosts"),
    _grown("prefixes"),
    _grown("endpoints"),
    Goal("pick, round robin", "picks", "ns", ("round_robin, 3 endpoints",), "go", 2.5, 2.0),
    Goal(
        "pick, weighted round robin",
        "picks",
        "ns",
        ("weighted_round_robin, 3 endpoints",),
        "go",
        2.5,
        2.0,
    ),
    Goal("pick, consistent hash", "picks", "ns", ("consistent_hash, 3 endpoints",), "go", 1.0, 0.5),
    Goal("pick, random", "picks", "ns", _RANDOM, "go", 4.0, 3.0),
    Goal(
        "the busiest of two workers against one alone",
        "workers",
        "pace",
        ("64 connections", "8 connections"),
        "1 worker",
        1 / 1.7,
        0.53,
        us="2 workers",
    ),
)
PUBLISHED: Final = {  # ns per pick, said of the Go gateway that this one follows
    "round_robin": 106.0,
    "weighted_round_robin": 86.0,
    "consistent_hash": 120.0,
    "random": 22.0,
}
LOG_MUST: Final = 0.12
LOG_REACH: Final = 0.06


def verdict(value: float, must: float, reach: float) -> str:
    """In a word."""
    if value <= reach:
        return "reached"
    return "met" if value <= must else "**missed**"
