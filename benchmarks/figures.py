"""Figures of many rounds, and what can be said of them: medians, spread, ratios."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

T = TypeVar("T")

UNITS: Final = {
    "cpu": "µs/request",
    "pace": "µs/request",
    "rate": "requests/s",
    "busy": "share of its core",
    "load_busy": "share of the load's cores",
    "idle_mib": "MiB",
    "load_mib": "MiB",
    "cpu_gib": "CPU-ms/GiB",
    "mbs": "MB/s",
    "p50": "µs",
    "p99": "µs",
    "p999": "µs",
    "late99": "µs",
    "connection_kib": "KiB/connection",
    "ttfb": "µs",
    "event": "µs",
    "event99": "µs",
    "ns": "ns/pick",
    "bytes": "bytes/pick",
}


@dataclass
class Series:
    """One figure of one peer in one case, round by round; None where a round failed."""

    case: str
    figure: str
    peer: str
    rounds: list[float | None] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """Of the rounds that went well."""
        return [value for value in self.rounds if value is not None]

    @property
    def median(self) -> float | None:
        """Of the rounds that went well."""
        return median(self.values) if self.values else None

    @property
    def noise(self) -> float | None:
        """Half the distance of the quartiles, as a share of the median."""
        values = sorted(self.values)
        middle = self.median
        if len(values) < 3 or not middle:
            return None
        quarter = (len(values) - 1) / 4
        return (_at(values, 3 * quarter) - _at(values, quarter)) / 2 / middle


class Figures:
    """All series of one part of a run."""

    def __init__(self, series: Sequence[Series] = ()) -> None:
        """Args: series: to begin with."""
        self._series = {(one.case, one.figure, one.peer): one for one in series}
        self._order: dict[str, int] = {}

    def __iter__(self) -> Iterator[Series]:
        """In the order they came."""
        return iter(self._series.values())

    def expect(self, cases: Iterable[str]) -> None:
        """Say in which order cases are shown; without it, it is that in which they came."""
        for case in cases:
            self._order.setdefault(case, len(self._order))

    def add(self, case: str, peer: str, number: int, **figures: float | None) -> None:
        """Take figures of one round.

        Args:
            case: what was asked of the peer.
            peer: who.
            number: of the round, from 0; rounds that were left out count as failed.
            figures: by the names in UNITS.
        """
        for figure, value in figures.items():
            key = (case, figure, peer)
            series = self._series.setdefault(key, Series(case, figure, peer))
            series.rounds += [None] * (number + 1 - len(series.rounds))
            series.rounds[number] = value

    def get(self, case: str, figure: str, peer: str) -> Series | None:
        """One series."""
        return self._series.get((case, figure, peer))

    def median(self, case: str, figure: str, peer: str) -> float | None:
        """A series' median, None if there is none."""
        series = self.get(case, figure, peer)
        return series.median if series else None

    def ratio(self, case: str, figure: str, peer: str, other: str, base: str = "") -> Series | None:
        """One peer's figure against another's, formed in each round, so that slow rounds cancel.

        Args:
            base: the other's case if it is a different one.
        """
        one, two = self.get(case, figure, peer), self.get(base or case, figure, other)
        if one is None or two is None:
            return None
        quotients = [
            a / b if a is not None and b else None
            for a, b in zip(one.rounds, two.rounds, strict=False)
        ]
        found = Series(case, f"{figure} ratio", f"{peer}/{other}", list(quotients))
        return found if found.values else None

    def cases(self, figure: str) -> list[str]:
        """Cases that have a figure, in the order they came."""
        return list(dict.fromkeys(one.case for one in self if one.figure == figure))

    def peers(self, figure: str = "") -> list[str]:
        """Peers that have a figure, in the order of the tables."""
        found = {one.peer for one in self if not figure or one.figure == figure}
        return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else 99, name))

    def dump(self) -> list[dict[str, Any]]:
        """For a file."""
        return [
            {
                "case": one.case,
                "figure": one.figure,
                "unit": UNITS.get(one.figure, ""),
                "peer": one.peer,
                "median": one.median,
                "noise": one.noise,
                "rounds": one.rounds,
            }
            for one in sorted(self, key=lambda one: self._order.get(one.case, len(self._order)))
        ]

    @classmethod
    def load(cls, dumped: list[dict[str, Any]]) -> Figures:
        """From a file."""
        return cls([Series(o["case"], o["figure"], o["peer"], o["rounds"]) for o in dumped])


ORDER: Final = (
    "gatewayd",
    "gatewayd no log",
    "nginx",
    "haproxy",
    "haproxy no splice",
    "go",
    "go GOGC=400",
    "twisted.web",
)


def shuffled(things: Sequence[T], seed: int, number: int) -> list[T]:
    """An order of its own for each round, the same in every run with that seed."""
    order = list(things)
    random.Random(f"{seed} {number}").shuffle(order)
    return order


def _at(ordered: Sequence[float], place: float) -> float:
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def read(path: Path) -> dict[str, Any]:
    """A results file, or an empty one."""
    if not path.exists():
        return {"parts": {}}
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write(path: Path, results: dict[str, Any]) -> None:
    """Write a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
