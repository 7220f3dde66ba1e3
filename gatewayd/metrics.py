"""The counters as Prometheus metrics.

Figures are taken in the reactor's thread, quickly; the text is made of them in another one, since
thirty thousand series take a third of a second. A worker takes its figures and sends them to the
supervisor, which adds up those of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

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

from gatewayd.core.breaker import CLOSED, HALF_OPEN, OPEN
from gatewayd.core.counters import BUCKETS, Counters, Histogram
from gatewayd.core.endpoints import STATES
from gatewayd.core.figures import Figures, Labels
from gatewayd.discovery.service import ZooKeeperService
from gatewayd.discovery.session import STATES as STATES_OF_SESSION
from gatewayd.upstreams.upstream import Upstream

_BOUNDS: Final = [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
_BREAKER: Final = {CLOSED: 0.0, HALF_OPEN: 1.0, OPEN: 2.0}
_COUNTER: Final = "counter"
_GAUGE: Final = "gauge"
_HISTOGRAM: Final = "histogram"
_EXCHANGE: Final = ("listener", "route", "upstream")
_UPSTREAM: Final = ("upstream",)

# Every metric: kind, what it says, labels.
METRICS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "requests": (
        _COUNTER,
        "Requests by answer; a client that left is code 499",
        (*_EXCHANGE, "code"),
    ),
    "request_duration_seconds": (
        _HISTOGRAM,
        "From a request's first byte to its answer's last",
        _EXCHANGE,
    ),
    "requests_in_flight": (_GAUGE, "Requests being served", ("route",)),
    "tunnels": (_GAUGE, "Open tunnels, such as WebSockets", ("route",)),
    "request_bytes": (_COUNTER, "Bytes of request bodies", _EXCHANGE),
    "response_bytes": (_COUNTER, "Bytes of response bodies", _EXCHANGE),
    "gateway_answers": (
        _COUNTER,
        "Answers of the gateway's own, by reason",
        ("listener", "route", "reason"),
    ),
    "client_connections": (_GAUGE, "Open client connections", ("listener",)),
    "client_connections_total": (_COUNTER, "Accepted connections", ("listener",)),
    "accept_paused": (_GAUGE, "1 while accepting is paused; with workers, how many", ("listener",)),
    "retries": (
        _COUNTER,
        "Further tries, by the failure before and how they went",
        ("route", "reason", "result"),
    ),
    "rate_limited": (_COUNTER, "Requests over their rate", ("route",)),
    "upstream_requests": (_COUNTER, "Responses of an upstream's endpoints", ("upstream", "code")),
    "upstream_picks": (_COUNTER, "Requests sent to an endpoint", ("upstream", "endpoint")),
    "upstream_errors": (_COUNTER, "Failures of an endpoint", ("upstream", "endpoint", "reason")),
    "upstream_endpoints": (_GAUGE, "Endpoints by state", ("upstream", "state")),
    "membership_source": (_GAUGE, "Endpoints by where they came from", ("upstream", "source")),
    "membership_changes": (_COUNTER, "Changes of a membership", _UPSTREAM),
    "membership_age_seconds": (_GAUGE, "Since the last change of a membership", _UPSTREAM),
    "upstream_response_header_seconds": (_HISTOGRAM, "To a response's head", _UPSTREAM),
    "upstream_queue_seconds": (
        _HISTOGRAM,
        "Waiting for a slot or a first membership",
        _UPSTREAM,
    ),
    "upstream_panic": (_GAUGE, "1 while all members are used", _UPSTREAM),
    "circuit_breaker_state": (_GAUGE, "0 closed, 1 half-open, 2 open", _UPSTREAM),
    "health_checks": (_COUNTER, "Active checks", ("upstream", "result")),
    "upstream_pending": (_GAUGE, "Requests that wait", _UPSTREAM),
    "upstream_in_flight": (_GAUGE, "Requests at an upstream's endpoints", _UPSTREAM),
    "upstream_concurrency_limit": (
        _GAUGE,
        "Requests that may be in flight at once; absent where nothing limits them",
        _UPSTREAM,
    ),
    "upstream_recommended_endpoints": (
        _GAUGE,
        "Endpoints that would serve the present load at 70% of their limit (Little's law)",
        _UPSTREAM,
    ),
    "pool_connections": (_GAUGE, "Connections to endpoints", ("upstream", "state")),
    "pool_acquires": (_COUNTER, "How requests came by their connection", ("upstream", "result")),
    "zookeeper_state": (_GAUGE, "1 for the session's state", ("state",)),
    "zookeeper_events": (_COUNTER, "What ZooKeeper told, and what it did not", ("type",)),
    "membership_held": (_GAUGE, "Members that are held", _UPSTREAM),
    "workers": (_GAUGE, "Worker processes by state", ("state",)),
    "worker_restarts": (_COUNTER, "Workers that were replaced, by why", ("cause",)),
    "busy_ratio": (_GAUGE, "Share of a CPU that a process used of late", ("process",)),
    "log_lines_dropped": (_COUNTER, "Lines that could not be written", ("log",)),
    "build_info": (_GAUGE, "The version that runs", ("version",)),
    "config_info": (_GAUGE, "The configuration that runs", ("digest",)),
    "config_last_reload_success": (_GAUGE, "Whether the last load worked", ()),
    "config_last_reload_timestamp_seconds": (_GAUGE, "When it was loaded", ()),
    "reactor_lag_seconds": (_HISTOGRAM, "How late the reactor called", ("process",)),
}
BY_ENDPOINT: Final = ("upstream_picks", "upstream_errors")


def traffic(counters: Counters, upstreams: Iterable[Upstream], now: float) -> Figures:
    """What a process that serves has counted; add up those of all workers.

    Args:
        counters: of the process.
        upstreams: all of them.
        now: on the gateway's clock.
    """
    found = Figures()
    for key, exchange in counters.exchanges.items():
        found.count("requests", [((*key, c), n) for c, n in _by_code(exchange.statuses).items()])
        _observe(found, "request_duration_seconds", key, exchange.duration)
        found.count("request_bytes", [(key, float(exchange.bytes_in))])
        found.count("response_bytes", [(key, float(exchange.bytes_out))])
    routes = counters.routes.items()
    found.gauge("requests_in_flight", [((name,), float(each.in_flight)) for name, each in routes])
    found.gauge("tunnels", [((name,), float(each.tunnels)) for name, each in routes])
    found.count("rate_limited", [((name,), float(each.rate_limited)) for name, each in routes])
    for name, each in routes:
        found.count("retries", [((name, *key), float(n)) for key, n in each.retries.items()])
    found.count("gateway_answers", [(key, float(n)) for key, n in counters.answers.items()])
    listeners = counters.listeners.items()
    found.gauge("client_connections", [((name,), float(each.open)) for name, each in listeners])
    found.count(
        "client_connections_total", [((name,), float(each.accepted)) for name, each in listeners]
    )
    found.gauge("accept_paused", [((name,), float(each.paused)) for name, each in listeners])
    for upstream in upstreams:
        _traffic_of(upstream, found, now)
    return found


def _traffic_of(upstream: Upstream, found: Figures, now: float) -> None:
    counters = upstream.counters
    ledger = upstream.pool.ledger
    name = (upstream.name,)
    found.count(
        "upstream_requests", [((*name, c), n) for c, n in _by_code(counters.counts()).items()]
    )
    _observe(found, "upstream_response_header_seconds", name, counters.response_header)
    _observe(found, "upstream_queue_seconds", name, counters.queue)
    found.gauge("upstream_pending", [(name, float(counters.pending))])
    found.gauge("upstream_in_flight", [(name, float(upstream.in_flight))])
    limit = upstream.concurrency_limit
    if limit:
        found.gauge("upstream_concurrency_limit", [(name, float(limit))])
    busy = ledger.open - ledger.idle
    found.gauge(
        "pool_connections",
        [((*name, "idle"), float(ledger.idle)), ((*name, "busy"), float(busy))],
    )
    acquires = {
        "hit": ledger.hits,
        "miss": ledger.misses,
        "wait": counters.waited,
        "reject": counters.rejected,
    }
    found.count("pool_acquires", [((*name, result), float(n)) for result, n in acquires.items()])
    if upstream.breaker is not None:
        # The worse, the higher.
        found.gauge("circuit_breaker_state", [(name, _BREAKER[upstream.breaker.state])])
    for each in [*upstream.endpoints, *upstream.departed(now)]:
        found.count("upstream_picks", [((*name, each.label), float(each.picks))])
        if each.errors:
            found.count(
                "upstream_errors",
                [((*name, each.label, reason), float(n)) for reason, n in each.errors.items()],
            )


def memberships(
    upstreams: Iterable[Upstream], zookeeper: ZooKeeperService | None, now: float
) -> Figures:
    """What is known of members and their health: of the process that finds it out.

    Args:
        upstreams: all of them.
        zookeeper: None where there is none.
        now: on the gateway's clock.
    """
    found = Figures()
    for upstream in upstreams:
        name = (upstream.name,)
        states = dict.fromkeys(STATES, 0)
        sources: dict[str, int] = {}
        for endpoint in upstream.endpoints:
            states[endpoint.state] += 1
            sources[endpoint.source] = sources.get(endpoint.source, 0) + 1
        found.gauge("upstream_endpoints", [((*name, s), float(n)) for s, n in states.items()])
        found.gauge("membership_source", [((*name, s), float(n)) for s, n in sources.items()])
        found.count("membership_changes", [(name, float(upstream.counters.changes))])
        if upstream.known:
            found.gauge("membership_age_seconds", [(name, now - upstream.changed_at)])
        found.gauge("upstream_panic", [(name, float(upstream.health.panic))])
        checks = upstream.counters.checks
        found.count("health_checks", [((*name, result), float(n)) for result, n in checks.items()])
    if zookeeper is not None:
        state = zookeeper.session.state
        found.gauge(
            "zookeeper_state", [((each,), float(each == state)) for each in STATES_OF_SESSION]
        )
        found.count(
            "zookeeper_events", [((each,), float(n)) for each, n in zookeeper.events.items()]
        )
        found.gauge(
            "membership_held",
            [((n,), float(each.membership.held)) for n, each in zookeeper.discoveries.items()],
        )
    return found


def process_figures(counters: Counters, process: str, busy: float | None = None) -> Figures:
    """What there is of a process by itself.

    Args:
        counters: of the process.
        process: its label: `0` alone, `supervisor`, or a worker's number.
        busy: share of a CPU that it used of late; None = not known.
    """
    found = Figures()
    _observe(found, "reactor_lag_seconds", (process,), counters.lag)
    dropped = counters.log_lines_dropped
    found.count("log_lines_dropped", [((log,), float(n)) for log, n in dropped.items()])
    if busy is not None:
        found.gauge("busy_ratio", [((process,), busy)])
    unregistered: Any = None
    for collector in (
        ProcessCollector(registry=unregistered),
        GCCollector(registry=CollectorRegistry()),
        PlatformCollector(registry=unregistered),
    ):
        for metric in collector.collect():
            family = (metric.name, metric.type, metric.documentation)
            found.samples[family] = [
                (sample.name, {**sample.labels, "process": process}, sample.value)
                for sample in metric.samples
            ]
    return found


def of_gateway(version: str, digest: str, loaded: float, reloaded: bool) -> Figures:
    """What there is once, however many processes there are.

    Args:
        version: that runs.
        digest, loaded: of the configuration, and when it was loaded, in seconds since 1970.
        reloaded: whether the last reload worked.
    """
    found = Figures()
    found.gauge("build_info", [((version,), 1.0)])
    found.gauge("config_info", [((digest,), 1.0)])
    found.gauge("config_last_reload_success", [((), float(reloaded))])
    found.gauge("config_last_reload_timestamp_seconds", [((), loaded)])
    return found


def recommend(found: Figures, usable: dict[str, int], limits: dict[str, int]) -> None:
    """Say how many endpoints each upstream would need for the load of now.

    By Little's law the requests in flight and waiting are arrivals times their time; endpoints that each
    serve so many at once should do so with 70% of it, which leaves room for bursts and for a loss.

    Args:
        found: with `upstream_in_flight` and `upstream_pending` of all workers; gets one more.
        usable: endpoints that are picked, by upstream.
        limits: requests that one endpoint serves at once, by upstream; 0 = it is to be found from the
            upstream's limit.
    """
    in_flight = found.gauges.get("upstream_in_flight", {})
    pending = found.gauges.get("upstream_pending", {})
    whole = found.gauges.get("upstream_concurrency_limit", {})
    for labels, flying in in_flight.items():
        name = labels[0]
        each = limits.get(name) or whole.get(labels, 0.0) / (usable.get(name) or 1)
        if each:
            load = flying + pending.get(labels, 0.0)
            wanted = max(1, -int(-load // (_FILLED * each)))
            found.gauge("upstream_recommended_endpoints", [(labels, float(wanted))])


_FILLED: Final = 0.7


def render(found: Figures, accept: str) -> tuple[str, bytes]:
    """Metrics as text.

    Args:
        found: of now.
        accept: the request's Accept, which may ask for OpenMetrics.

    Returns:
        (content type, text).
    """
    encoder, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(found, "openmetrics" in content_type))
    return content_type, encoder(registry)


class _Collector:
    """Names the figures."""

    def __init__(self, found: Figures, openmetrics: bool) -> None:
        self._found = found
        self._openmetrics = openmetrics

    def collect(self) -> Iterator[Metric]:
        """prometheus_client: all metrics."""
        for name, (kind, text, labels) in METRICS.items():
            if kind == _HISTOGRAM:
                if name in self._found.histograms:
                    yield self._histogram(name, text, labels)
                continue
            rows = (self._found.counters if kind == _COUNTER else self._found.gauges).get(name)
            if rows is not None:
                yield self._plain(name, kind, text, labels, rows)
        for (name, kind, text), samples in self._found.samples.items():
            metric = Metric(name, text, kind)
            for sample, sample_labels, value in samples:
                metric.add_sample(sample, sample_labels, value)
            yield metric

    def _plain(
        self, name: str, kind: str, text: str, labels: tuple[str, ...], rows: dict[Labels, float]
    ) -> Metric:
        maker: Any = CounterMetricFamily if kind == _COUNTER else GaugeMetricFamily
        if name == "client_connections_total" and self._openmetrics:
            # OpenMetrics knows a counter by its name without _total, and that one is the gauge's.
            maker = UnknownMetricFamily
        family: Metric = maker(f"gatewayd_{name}", text, labels=labels)
        for values, value in rows.items():
            family.add_metric(values, value)  # type: ignore[attr-defined]
        return family

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> HistogramMetricFamily:
        family = HistogramMetricFamily(f"gatewayd_{name}", text, labels=labels)
        for values, (buckets, total) in self._found.histograms[name].items():
            running = 0
            cumulative: list[Any] = []
            for bound, count in zip(_BOUNDS, buckets, strict=True):
                running += count
                cumulative.append((bound, running))
            family.add_metric(values, cumulative, total)
        return family


def _observe(found: Figures, metric: str, labels: Labels, histogram: Histogram) -> None:
    found.observed(metric, labels, histogram.buckets, histogram.total)


def _by_code(codes: dict[int, int]) -> dict[str, float]:
    """Counts by status code; all that are none together."""
    found: dict[str, float] = {}
    for code, count in codes.items():
        name = str(code) if 100 <= code <= 599 else "other"
        found[name] = found.get(name, 0) + count
    return found
