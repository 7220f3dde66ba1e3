"""Figures by metric: what one process has counted, or several together.

Rows are keyed by the values of a metric's labels. Nothing here names a library, so that figures can go
from worker to supervisor and be added up there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

WORST = ("circuit_breaker_state",)  # gauges of which the highest counts, not the sum
Labels = tuple[str, ...]
Buckets = tuple[list[int], float]  # counts by bucket, and the sum of what was observed


class Figures:
    """Counters, gauges and histograms of one moment; copied, so that a thread may read them."""

    def __init__(self) -> None:
        self.counters: dict[str, dict[Labels, float]] = {}
        self.gauges: dict[str, dict[Labels, float]] = {}
        self.histograms: dict[str, dict[Labels, Buckets]] = {}
        # What libraries say of a process: (name, kind, help) with (name, labels, value) each.
        self.samples: dict[tuple[str, str, str], list[tuple[str, dict[str, str], float]]] = {}

    def count(self, metric: str, rows: Iterable[tuple[Labels, float]]) -> None:
        """Add rows of a counter."""
        self.counters.setdefault(metric, {}).update(rows)

    def gauge(self, metric: str, rows: Iterable[tuple[Labels, float]]) -> None:
        """Add rows of a gauge."""
        self.gauges.setdefault(metric, {}).update(rows)

    def observed(self, metric: str, labels: Labels, buckets: list[int], total: float) -> None:
        """Add a row of a histogram."""
        self.histograms.setdefault(metric, {})[labels] = (list(buckets), total)

    def add(self, other: Figures) -> None:
        """Add up with another process's."""
        worst = {metric: dict(self.gauges.get(metric, {})) for metric in WORST}
        _add(self.counters, other.counters)
        _add(self.gauges, other.gauges)
        for metric, were in worst.items():
            for labels, value in other.gauges.get(metric, {}).items():
                self.gauges[metric][labels] = max(value, were.get(labels, 0.0))
        for metric, rows in other.histograms.items():
            mine = self.histograms.setdefault(metric, {})
            for labels, (buckets, total) in rows.items():
                known = mine.get(labels)
                if known is None:
                    mine[labels] = (list(buckets), total)
                else:
                    added = [a + b for a, b in zip(known[0], buckets, strict=True)]
                    mine[labels] = (added, known[1] + total)
        for family, samples in other.samples.items():
            self.samples.setdefault(family, []).extend(samples)

    def lasting(self) -> Figures:
        """What stays of a process that is no more: counters never go backwards, gauges vanish."""
        left = Figures()
        left.counters = self.counters
        left.histograms = self.histograms
        return left

    def keep(self, metric: str, wanted: Callable[[Labels], bool]) -> None:
        """Forget the rows of a counter that nobody asks for any more."""
        rows = self.counters.get(metric)
        if rows:
            self.counters[metric] = {labels: n for labels, n in rows.items() if wanted(labels)}


def _add(mine: dict[str, dict[Labels, float]], other: dict[str, dict[Labels, float]]) -> None:
    for metric, rows in other.items():
        to = mine.setdefault(metric, {})
        for labels, value in rows.items():
            to[labels] = to.get(labels, 0.0) + value
