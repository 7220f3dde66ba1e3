"""What is counted on the way of a request: plain slots, read by whoever asks.

Counting must cost next to nothing, so nothing here has locks, labels or a library; `metrics`, the
status page and the logs read these and give them names.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

from gatewayd.core.retries import Budget

BUCKETS: Final[tuple[float, ...]] = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    25.0,
    60.0,
)
WINDOW: Final = 1000
_PLACES: Final = 32  # for the buckets of a status code
_UNTIMED: Final = 31


class Tally:
    """Counts by a number: a status code, a bucket.

    Mostly the number is the last one again. That is counted apart and the rest left untouched, for
    among thousands of routes memory is cold, and whatever is touched has to come from afar.
    """

    __slots__ = ("_counts", "_last", "_run")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._last = -1
        self._run = 0  # of the last number, not in _counts yet

    def count(self, number: int) -> None:
        """Count one."""
        if number != self._last:
            self.counts()
            self._last = number
        self._run += 1

    def counts(self) -> dict[int, int]:
        """All of them."""
        if self._run:
            self._counts[self._last] = self._counts.get(self._last, 0) + self._run
            self._run = 0
        return self._counts


def _bucket_of(seconds: float) -> int:
    at = 0
    for bound in BUCKETS:  # most times end early, and compiled this costs less than bisect
        if seconds <= bound:
            break
        at += 1
    return at


class Histogram(Tally):
    """Counts by bucket of seconds; the last one is everything above."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    @property
    def buckets(self) -> list[int]:
        """The count of each bucket."""
        counts = self.counts()
        return [counts.get(at, 0) for at in range(len(BUCKETS) + 1)]

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.count(_bucket_of(seconds))
        self.total += seconds


class Summary(NamedTuple):
    """A window's figures, in seconds."""

    size: int  # how many response times there are
    min: float
    mean: float
    max: float
    p50: float
    p90: float
    p99: float


class Window:
    """The last 1,000 response times."""

    __slots__ = ("_at", "_full", "_times")

    def __init__(self) -> None:
        self._times = array("d", bytes(8 * WINDOW))
        self._at = 0
        self._full = False

    def add(self, seconds: float) -> None:
        """Take one in; the oldest goes."""
        at = self._at
        self._times[at] = seconds
        if at == WINDOW - 1:
            self._at = 0
            self._full = True
        else:
            self._at = at + 1

    def times(self) -> array[float]:
        """All of them, in no order."""
        return self._times if self._full else self._times[: self._at]

    def summary(self) -> Summary | None:
        """The figures now, or None while there is nothing."""
        return summary_of(self.times())


def summary_of(unsorted: Iterable[float]) -> Summary | None:
    """The figures of some response times, None if there are none (nearest-rank percentiles)."""
    times = sorted(unsorted)
    count = len(times)
    if not count:
        return None

    def rank(share: float) -> float:
        return times[max(0, -(-int(share * count * 1000) // 1000) - 1)]

    mean = sum(times) / count
    return Summary(count, times[0], mean, times[-1], rank(0.5), rank(0.9), rank(0.99))


def _outcome(status: int, seconds: float) -> int:
    """A status code and the bucket of its seconds in one number, so that a request counts once."""
    return status * _PLACES + (_bucket_of(seconds) if seconds >= 0.0 else _UNTIMED)


class ExchangeCounters:
    """Requests of one listener, route and upstream."""

    __slots__ = ("_outcomes", "bytes_in", "bytes_out", "place", "seconds")

    def __init__(self, listener: str, route: str, upstream: str) -> None:
        """Args: as they label it."""
        self._outcomes: dict[int, int] = {}
        self.seconds = 0.0
        self.bytes_in = 0
        self.bytes_out = 0
        # As the access log writes them
        self.place = f"listener={listener} route={route} upstream={upstream}".encode()

    def add(self, outcome: int, count: int, seconds: float, bytes_in: int, bytes_out: int) -> None:
        """Count some that ended alike, with the sums of the rest."""
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + count
        self.seconds += seconds
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out

    def ended(self, status: int, seconds: float, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Count one that took so many seconds; a tunnel, which takes as long as it likes, none: -1."""
        self.add(_outcome(status, seconds), 1, max(0.0, seconds), bytes_in, bytes_out)

    @property
    def statuses(self) -> dict[int, int]:
        """How many ended with each status code."""
        found: dict[int, int] = {}
        for outcome, count in self._outcomes.items():
            status = outcome // _PLACES
            found[status] = found.get(status, 0) + count
        return found

    @property
    def duration(self) -> Histogram:
        """How long they took."""
        found = Histogram()
        counts = found.counts()
        for number, count in self._outcomes.items():
            at = number % _PLACES
            if at != _UNTIMED:
                counts[at] = counts.get(at, 0) + count
        found.total = self.seconds
        return found


class RouteCounters(Budget):
    """What a route counts, and the budget of its retries; outlives a reload.

    All that a request counts of its route is in this one object. Requests that end as the last one did,
    of its listener and at its upstream, are counted apart as in a Tally, and their ExchangeCounters are
    told when that changes or somebody asks.
    """

    __slots__ = (
        "_account",
        "_bytes_in",
        "_bytes_out",
        "_listener",
        "_outcome",
        "_place",
        "_ran",
        "_seconds",
        "_upstream",
        "in_flight",
        "name",
        "rate_limited",
        "retries",
        "tunnels",
    )

    def __init__(self, name: str) -> None:
        """Args: name: of the route."""
        super().__init__()
        self.in_flight = 0
        self._listener = ""  # of the last request
        self._upstream = ""
        self._place = b""
        self._outcome = -1
        self._ran = 0  # requests of these that ended so, in a row, and their sums
        self._seconds = 0.0
        self._bytes_in = 0
        self._bytes_out = 0
        self._account: ExchangeCounters | None = None  # of that listener and upstream
        self.name = name
        self.tunnels = 0
        self.rate_limited = 0
        self.retries: dict[tuple[str, str], int] = {}  # by kind of failure and result

    def began(self, counters: Counters, listener: str, upstream: str, now: float) -> bytes:
        """Count a request in flight, and for the retries' budget.

        Args:
            counters: which these are among.
            listener, upstream: whose it is.
            now: when it began, in seconds.

        Returns:
            Listener, route and upstream as the access log writes them. Asked for here, where the rest
            comes from far memory, it comes along.
        """
        self.in_flight += 1
        self.request(now)
        if listener != self._listener or upstream != self._upstream:
            self._turn_to(counters, listener, upstream)
        return self._place

    def _turn_to(self, counters: Counters, listener: str, upstream: str) -> None:
        self.settle()
        self._listener, self._upstream = listener, upstream
        account = self._account = counters.exchange(listener, self.name, upstream)
        self._place = account.place

    def ended(
        self,
        counters: Counters,
        listener: str,
        upstream: str,
        status: int,
        seconds: float,
        bytes_in: int,
        bytes_out: int,
    ) -> None:
        """Count a request that began, and is over.

        Args:
            counters: which these are among.
            listener, upstream, status: whose it was, and how it ended.
            seconds: that it took; a tunnel, which takes as long as it likes, none: -1.
            bytes_in, bytes_out: of its bodies.
        """
        self.in_flight -= 1
        if listener != self._listener or upstream != self._upstream:
            self._turn_to(counters, listener, upstream)
        outcome = _outcome(status, seconds)
        if outcome != self._outcome:
            self.settle()
            self._outcome = outcome
        self._ran += 1
        if seconds > 0.0:
            self._seconds += seconds
        self._bytes_in += bytes_in
        self._bytes_out += bytes_out

    def settle(self) -> None:
        """Tell the ExchangeCounters what they have not been told."""
        if self._ran and self._account is not None:
            self._account.add(
                self._outcome, self._ran, self._seconds, self._bytes_in, self._bytes_out
            )
            self._ran = self._bytes_in = self._bytes_out = 0
            self._seconds = 0.0

    def retried(self, kind: str, result: str) -> None:
        """Count a retry: `success`, `failure`, or `refused` by the budget."""
        self.retries[kind, result] = self.retries.get((kind, result), 0) + 1


class ListenerCounters:
    """A listener's connections."""

    __slots__ = ("accept_paused", "accepted", "open", "paused")

    def __init__(self) -> None:
        self.accepted = 0
        self.open = 0
        self.paused = False  # accepting, now
        self.accept_paused = 0  # how often it was


class UpstreamCounters(Tally):
    """An upstream's requests by status code, however its members come and go."""

    __slots__ = (
        "changes",
        "checks",
        "pending",
        "queue",
        "rejected",
        "response_header",
        "waited",
        "window",
    )

    def __init__(self) -> None:
        super().__init__()
        self.response_header = Histogram()
        self.queue = Histogram()
        self.window = Window()
        self.pending = 0
        self.waited = 0
        self.rejected = 0
        self.changes = 0
        self.checks = {"good": 0, "bad": 0}


class Counters:
    """All counters of a process, by the names that label them.

    Made once by the service and handed to whoever counts; survives every reload.
    """

    def __init__(self) -> None:
        self._exchanges: dict[tuple[str, str, str], ExchangeCounters] = {}
        self.routes: dict[str, RouteCounters] = {}
        self.listeners: dict[str, ListenerCounters] = {}
        self.upstreams: dict[str, UpstreamCounters] = {}
        self.answers: dict[tuple[str, str, str], int] = {}  # listener, route, reason
        self.lag = Histogram()
        self.log_lines_dropped: dict[str, int] = {}

    @property
    def exchanges(self) -> dict[tuple[str, str, str], ExchangeCounters]:
        """Those of all combinations, up to date."""
        for route in self.routes.values():
            route.settle()
        return self._exchanges

    def exchange(self, listener: str, route: str, upstream: str) -> ExchangeCounters:
        """The counters of that combination."""
        key = (listener, route, upstream)
        found = self._exchanges.get(key)
        if found is None:
            found = self._exchanges[key] = ExchangeCounters(listener, route, upstream)
        return found

    def route(self, name: str) -> RouteCounters:
        """A route's counters."""
        found = self.routes.get(name)
        if found is None:
            found = self.routes[name] = RouteCounters(name)
        return found

    def listener(self, name: str) -> ListenerCounters:
        """A listener's counters."""
        return self.listeners.setdefault(name, ListenerCounters())

    def upstream(self, name: str) -> UpstreamCounters:
        """An upstream's counters."""
        return self.upstreams.setdefault(name, UpstreamCounters())

    def answered(self, listener: str, route: str, reason: str) -> None:
        """Count an answer of the gateway's own."""
        key = (listener, route, reason)
        self.answers[key] = self.answers.get(key, 0) + 1
