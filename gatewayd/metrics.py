"""The counters as Prometheus metrics.

A snapshot is taken in the reactor's thread, quickly; the text is made of it in another one, since
thirty thousand series take a third of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from gatewayd import __version__
from gatewayd.core.breaker import CLOSED, HALF_OPEN, OPEN
from gatewayd.core.counters import BUCKETS, Counters, Histogram
from gatewayd.core.endpoints import STATES
from gatewayd.discovery.service import ZooKeeperService
from gatewayd.discovery.session import STATES as STATES_OF_SESSION
from gatewayd.upstreams.upstream import Upstream

_PROCESS = {"process": "0"}
_BOUNDS = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]

_BREAKER = {CLOSED: 0, HALF_OPEN: 1, OPEN: 2}

Labelled = Sequence[tuple[tuple[str, ...], float]]


class Snapshot:
    """Figures of one moment; copied, so that a thread may read them while requests go on."""

    def __init__(
        self,
        counters: Counters,
        upstreams: Iterable[Upstream],
        zookeeper: ZooKeeperService | None = None,
        *,
        digest: str,
        loaded: float,
        reloaded: bool = True,
        now: float,
    ) -> None:
        """Copy what changes.

        Args:
            counters: of the process.
            upstreams: all of them.
            zookeeper: None where there is none.
            digest, loaded: of the configuration, and when it was loaded, in seconds since 1970.
            reloaded: whether the last reload worked.
            now: on the gateway's clock.
        """
        self.digest = digest
        self.loaded = loaded
        self.reloaded = reloaded
        self.requests: list[tuple[tuple[str, ...], float]] = []
        self.durations: list[tuple[tuple[str, ...], list[int], float]] = []
        self.bytes_in: list[tuple[tuple[str, ...], float]] = []
        self.bytes_out: list[tuple[tuple[str, ...], float]] = []
        for key, exchange in counters.exchanges.items():
            self.requests += [((*key, code), n) for code, n in _by_code(exchange.codes).items()]
            self.durations.append((key, *_copied(exchange.duration)))
            self.bytes_in.append((key, exchange.bytes_in))
            self.bytes_out.append((key, exchange.bytes_out))
        self.in_flight = [
            ((name,), float(each.in_flight)) for name, each in counters.routes.items()
        ]
        self.tunnels = [((name,), float(each.tunnels)) for name, each in counters.routes.items()]
        self.rate_limited = [
            ((name,), float(each.rate_limited)) for name, each in counters.routes.items()
        ]
        self.retries = [
            ((name, *key), float(n))
            for name, each in counters.routes.items()
            for key, n in each.retries.items()
        ]
        self.answers = [(key, float(n)) for key, n in counters.answers.items()]
        listeners = counters.listeners.items()
        self.connections = [((name,), float(each.open)) for name, each in listeners]
        self.accepted = [((name,), float(each.accepted)) for name, each in listeners]
        self.paused = [((name,), float(each.paused)) for name, each in listeners]
        self.lag = _copied(counters.lag)
        self.dropped = [((log,), float(n)) for log, n in counters.log_lines_dropped.items()]
        self.session = zookeeper.session.state if zookeeper is not None else None
        self.events = dict(zookeeper.events) if zookeeper is not None else {}
        self.held = (
            [((name,), float(each.membership.held)) for name, each in zookeeper.discoveries.items()]
            if zookeeper is not None
            else []
        )
        self.upstreams = [_UpstreamSnapshot(upstream, now) for upstream in upstreams]


class _UpstreamSnapshot:
    """One upstream's figures."""

    def __init__(self, upstream: Upstream, now: float) -> None:
        counters = upstream.counters
        ledger = upstream.pool.ledger
        self.name = upstream.name
        self.codes = [((self.name, code), float(n)) for code, n in _by_code(counters.codes).items()]
        self.response_header = _copied(counters.response_header)
        self.queue = _copied(counters.queue)
        self.pending = counters.pending
        self.changes = counters.changes
        self.age = now - upstream.changed_at if upstream.known else None
        self.pool = {"idle": ledger.idle, "busy": ledger.open - ledger.idle}
        self.acquires = {
            "hit": ledger.hits,
            "miss": ledger.misses,
            "wait": counters.waited,
            "reject": counters.rejected,
        }
        self.checks = dict(counters.checks)
        self.panic = int(upstream.health.panic)
        # 0 closed, 1 half-open, 2 open: the worse, the higher
        self.breaker = _BREAKER[upstream.breaker.state] if upstream.breaker is not None else None
        self.states = dict.fromkeys(STATES, 0)
        self.sources: dict[str, int] = {}
        for endpoint in upstream.endpoints:
            self.states[endpoint.state] += 1
            self.sources[endpoint.source] = self.sources.get(endpoint.source, 0) + 1
        seen = [*upstream.endpoints, *upstream.departed(now)]
        self.picks = [((upstream.name, each.label), float(each.picks)) for each in seen]
        self.errors = [
            ((upstream.name, each.label, reason), float(n))
            for each in seen
            for reason, n in each.errors.items()
        ]


def render(snapshot: Snapshot, accept: str) -> tuple[str, bytes]:
    """Metrics as text.

    Args:
        snapshot: of now.
        accept: the request's Accept, which may ask for OpenMetrics.

    Returns:
        (content type, text).
    """
    encoder, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot, "openmetrics" in content_type))
    return content_type, encoder(registry)


class _Collector:
    """Names the figures of a snapshot."""

    def __init__(self, snapshot: Snapshot, openmetrics: bool) -> None:
        self._snapshot = snapshot
        self._openmetrics = openmetrics

    def collect(self) -> Iterator[Metric]:
        """prometheus_client: all metrics."""
        shot = self._snapshot
        exchange = ("listener", "route", "upstream")
        yield _counter(
            "requests",
            "Requests by answer; a client that left is code 499",
            (*exchange, "code"),
            shot.requests,
        )
        duration = _histogram(
            "request_duration_seconds", "From a request's first byte to its answer's last", exchange
        )
        for key, buckets, total in shot.durations:
            _add(duration, key, buckets, total)
        yield duration
        yield _gauge("requests_in_flight", "Requests being served", ("route",), shot.in_flight)
        yield _gauge("tunnels", "Open tunnels, such as WebSockets", ("route",), shot.tunnels)
        yield _counter("request_bytes", "Bytes of request bodies", exchange, shot.bytes_in)
        yield _counter("response_bytes", "Bytes of response bodies", exchange, shot.bytes_out)
        yield _counter(
            "gateway_answers",
            "Answers of the gateway's own, by reason",
            ("listener", "route", "reason"),
            shot.answers,
        )
        yield _gauge(
            "client_connections", "Open client connections", ("listener",), shot.connections
        )
        # OpenMetrics knows a counter by its name without _total, and that one is the gauge's.
        accepted = _unknown if self._openmetrics else _counter
        yield accepted(
            "client_connections_total", "Accepted connections", ("listener",), shot.accepted
        )
        yield _gauge("accept_paused", "1 while accepting is paused", ("listener",), shot.paused)
        yield _counter(
            "retries",
            "Further tries, by the failure before and how they went",
            ("route", "reason", "result"),
            shot.retries,
        )
        yield _counter("rate_limited", "Requests over their rate", ("route",), shot.rate_limited)
        yield from self._upstreams(shot.upstreams)
        yield from self._zookeeper(shot)
        yield from self._process(shot)

    def _upstreams(self, shots: list[_UpstreamSnapshot]) -> Iterator[Metric]:
        by = ("upstream",)

        def each(name: str) -> Labelled:
            return [((shot.name,), float(getattr(shot, name))) for shot in shots]

        def spread(name: str) -> Labelled:
            return [
                ((shot.name, key), float(n))
                for shot in shots
                for key, n in getattr(shot, name).items()
            ]

        def joined(name: str) -> Labelled:
            return [entry for shot in shots for entry in getattr(shot, name)]

        yield _counter(
            "upstream_requests",
            "Responses of an upstream's endpoints",
            ("upstream", "code"),
            joined("codes"),
        )
        yield _counter(
            "upstream_picks",
            "Requests sent to an endpoint",
            ("upstream", "endpoint"),
            joined("picks"),
        )
        yield _counter(
            "upstream_errors",
            "Failures of an endpoint",
            ("upstream", "endpoint", "reason"),
            joined("errors"),
        )
        yield _gauge(
            "upstream_endpoints", "Endpoints by state", ("upstream", "state"), spread("states")
        )
        yield _gauge(
            "membership_source",
            "Endpoints by where they came from",
            ("upstream", "source"),
            spread("sources"),
        )
        yield _counter("membership_changes", "Changes of a membership", by, each("changes"))
        yield _gauge(
            "membership_age_seconds",
            "Since the last change of a membership",
            by,
            [((shot.name,), shot.age) for shot in shots if shot.age is not None],
        )
        for name, attribute, text in (
            ("upstream_response_header_seconds", "response_header", "To a response's head"),
            ("upstream_queue_seconds", "queue", "Waiting for a slot or a first membership"),
        ):
            family = _histogram(name, text, by)
            for shot in shots:
                _add(family, (shot.name,), *getattr(shot, attribute))
            yield family
        yield _gauge("upstream_panic", "1 while all members are used", by, each("panic"))
        yield _gauge(
            "circuit_breaker_state",
            "0 closed, 1 half-open, 2 open",
            by,
            [((shot.name,), float(shot.breaker)) for shot in shots if shot.breaker is not None],
        )
        yield _counter("health_checks", "Active checks", ("upstream", "result"), spread("checks"))
        yield _gauge("upstream_pending", "Requests that wait", by, each("pending"))
        yield _gauge(
            "pool_connections", "Connections to endpoints", ("upstream", "state"), spread("pool")
        )
        yield _counter(
            "pool_acquires",
            "How requests came by their connection",
            ("upstream", "result"),
            spread("acquires"),
        )

    def _zookeeper(self, shot: Snapshot) -> Iterator[Metric]:
        if shot.session is None:
            return
        yield _gauge(
            "zookeeper_state",
            "1 for the session's state",
            ("state",),
            [((state,), float(state == shot.session)) for state in STATES_OF_SESSION],
        )
        yield _counter(
            "zookeeper_events",
            "What ZooKeeper told, and what it did not",
            ("type",),
            [((event,), float(n)) for event, n in shot.events.items()],
        )
        yield _gauge("membership_held", "Members that are held", ("upstream",), shot.held)

    def _process(self, shot: Snapshot) -> Iterator[Metric]:
        yield _counter(
            "log_lines_dropped", "Lines that could not be written", ("log",), shot.dropped
        )
        yield _gauge("build_info", "The version that runs", ("version",), [((__version__,), 1.0)])
        yield _gauge(
            "config_info", "The configuration that runs", ("digest",), [((shot.digest,), 1.0)]
        )
        yield _gauge(
            "config_last_reload_success",
            "Whether the last load worked",
            (),
            [((), float(shot.reloaded))],
        )
        yield _gauge(
            "config_last_reload_timestamp_seconds", "When it was loaded", (), [((), shot.loaded)]
        )
        lag = _histogram("reactor_lag_seconds", "How late the reactor called", ("process",))
        _add(lag, ("0",), *shot.lag)
        yield lag
        unregistered: Any = None
        for collector in (
            ProcessCollector(registry=unregistered),
            GCCollector(registry=CollectorRegistry()),
            PlatformCollector(registry=unregistered),
        ):
            for metric in collector.collect():
                metric.samples = [
                    sample._replace(labels={**sample.labels, **_PROCESS})
                    for sample in metric.samples
                ]
                yield metric


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Labelled) -> Metric:
    family = CounterMetricFamily(f"gatewayd_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _unknown(name: str, text: str, labels: tuple[str, ...], rows: Labelled) -> Metric:
    family = UnknownMetricFamily(f"gatewayd_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Labelled) -> Metric:
    family = GaugeMetricFamily(f"gatewayd_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(name: str, text: str, labels: tuple[str, ...]) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"gatewayd_{name}", text, labels=labels)


def _add(
    family: HistogramMetricFamily, labels: tuple[str, ...], buckets: list[int], total: float
) -> None:
    running = 0
    cumulative: list[Any] = []
    for bound, count in zip(_BOUNDS, buckets, strict=True):
        running += count
        cumulative.append((bound, running))
    family.add_metric(labels, cumulative, total)


def _copied(histogram: Histogram) -> tuple[list[int], float]:
    return list(histogram.buckets), histogram.total


def _by_code(codes: dict[int, int]) -> dict[str, int]:
    """Counts by status code; all that are none together."""
    found: dict[str, int] = {}
    for code, count in codes.items():
        name = str(code) if 100 <= code <= 599 else "other"
        found[name] = found.get(name, 0) + count
    return found
