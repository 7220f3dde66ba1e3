"""What came out of a simulation."""

from __future__ import annotations

from typing import Any


class Report:
    """Counts and times of a run; two runs of one seed have equal ones."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}  # 0 = cut
        self.times: list[float] = []  # of requests that were answered below 500
        self.served: dict[str, int] = {}  # by endpoint
        self.fair: dict[str, float] = {}  # what each well endpoint's share would have been
        self.received: dict[str, int] = {}  # by endpoint, further tries included
        self.retries = 0
        self.sent = 0
        self.panics = 0
        self.failures: list[tuple[float, int]] = []  # when, and the status

    def __repr__(self) -> str:
        return f"<Report sent={self.sent} failed={self.failed} retries={self.retries}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def add(self, status: int, seconds: float, endpoint: str, now: float) -> None:
        """A request is over."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status and status < 500:
            self.times.append(seconds)
            self.served[endpoint] = self.served.get(endpoint, 0) + 1
        else:
            self.failures.append((round(now, 6), status))

    @property
    def failed(self) -> int:
        """Requests that were cut, or answered 500 and above."""
        return sum(n for status, n in self.statuses.items() if not status or status >= 500)

    @property
    def failed_share(self) -> float:
        """The same as a share of all."""
        return self.failed / max(1, sum(self.statuses.values()))

    @property
    def retry_share(self) -> float:
        """Further tries as a share of the requests."""
        return self.retries / max(1, self.sent)

    def quantile(self, share: float) -> float:
        """A quantile of response times in seconds; 0 where nothing was answered."""
        times = sorted(self.times)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0

    @property
    def most_loaded(self) -> float:
        """The largest load of an endpoint that was well, as a multiple of its fair share."""
        loads = [
            self.received.get(label, 0) / fair for label, fair in self.fair.items() if fair >= 20
        ]
        return max(loads, default=0.0)

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "sent": self.sent,
            "statuses": {str(status or "cut"): n for status, n in sorted(self.statuses.items())},
            "failed": f"{self.failed_share:.3%}",
            "retries": f"{self.retry_share:.3%}",
            "p50_ms": round(self.quantile(0.5) * 1000, 1),
            "p99_ms": round(self.quantile(0.99) * 1000, 1),
            "most_loaded": f"{self.most_loaded:.0%}",
            "served": dict(sorted(self.served.items())),
        }
