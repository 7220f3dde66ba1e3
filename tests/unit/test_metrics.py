"""metrics: the contract's names and labels, no others, and figures that are true."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text
from twisted.trial.unittest import SynchronousTestCase

from gatewayd import __version__
from gatewayd.core.endpoints import STATES
from gatewayd.discovery.session import STATES as STATES_OF_SESSION
from gatewayd.metrics import (
    memberships,
    of_gateway,
    process_figures,
    recommend,
    render,
    traffic,
)
from tests.unit.assembled import Assembled
from tests.unit.upstream_fakes import member

GATEWAY = """
listeners: {web: {address: 127.0.0.1:2000}}
routes: [{name: api, upstream: users}]
upstreams:
  users:
    endpoints: [127.0.0.1:2003, 127.0.0.1:2004]
    circuit_breaker: {}
    pool: {max_connections_per_endpoint: 4}
"""
# interfaces.md, Metrics: names with their labels (a histogram's besides `le`).
CONTRACT = {
    "requests_total": {"listener", "route", "upstream", "code"},
    "request_duration_seconds": {"listener", "route", "upstream"},
    "requests_in_flight": {"route"},
    "request_bytes_total": {"listener", "route", "upstream"},
    "response_bytes_total": {"listener", "route", "upstream"},
    "upstream_picks_total": {"upstream", "endpoint"},
    "upstream_errors_total": {"upstream", "endpoint", "reason"},
    "upstream_endpoints": {"upstream", "state"},
    "upstream_response_header_seconds": {"upstream"},
    "pool_connections": {"upstream", "state"},
    "pool_acquires_total": {"upstream", "result"},
    "retries_total": {"route", "reason", "result"},
    "circuit_breaker_state": {"upstream"},
    "rate_limited_total": {"route"},
    "client_connections": {"listener"},
    "zookeeper_state": {"state"},
    "zookeeper_events_total": {"type"},
    "membership_changes_total": {"upstream"},
    "gateway_answers_total": {"listener", "route", "reason"},
    "upstream_requests_total": {"upstream", "code"},
    "upstream_panic": {"upstream"},
    "upstream_pending": {"upstream"},
    "upstream_queue_seconds": {"upstream"},
    "health_checks_total": {"upstream", "result"},
    "membership_age_seconds": {"upstream"},
    "membership_held": {"upstream"},
    "membership_source": {"upstream", "source"},
    "accept_paused": {"listener"},
    "client_connections_total": {"listener"},
    "tunnels": {"route"},
    "log_lines_dropped_total": {"log"},
    "build_info": {"version"},
    "config_info": {"digest"},
    "config_last_reload_success": set(),
    "config_last_reload_timestamp_seconds": set(),
    "reactor_lag_seconds": {"process"},
    "workers": {"state"},
    "worker_restarts_total": {"cause"},
    # Beside the contract: what an autoscaler needs.
    "busy_ratio": {"process"},
    "upstream_in_flight": {"upstream"},
    "upstream_concurrency_limit": {"upstream"},
    "upstream_recommended_endpoints": {"upstream"},
}
HISTOGRAMS = {
    "request_duration_seconds",
    "upstream_response_header_seconds",
    "upstream_queue_seconds",
    "reactor_lag_seconds",
}


LABELS = [
    "listener",
    "route",
    "upstream",
    "endpoint",
    "state",
    "source",
    "type",
    "reason",
    "result",
    "code",
    "log",
    "cause",
    "version",
    "digest",
    "process",
    "le",
]


def place(label: tuple[str, str]) -> int:
    """Where a label comes in LABELS."""
    return LABELS.index(label[0])


class MetricsTestCase(SynchronousTestCase):
    """Scrapes a gateway that has been busy."""

    maxDiff = None

    def setUp(self) -> None:
        self.gateway = gateway = Assembled(GATEWAY)
        counters = gateway.context.counters
        exchange = counters.exchange("web", "api", "users")
        for seconds in (0.0005, 0.002, 0.3, 100.0, -1.0, -1.0, -1.0):
            exchange.ended(200, seconds)
        for status in (499, 503, 503):
            exchange.ended(status, -1.0)
        exchange.bytes_in, exchange.bytes_out = 100, 2_000
        for _ in range(3):
            counters.exchange("web", "-", "-").ended(404, -1.0)
        route = counters.route("api")
        route.in_flight, route.tunnels, route.rate_limited = 4, 1, 5
        route.retried("reset", "success")
        counters.answered("web", "api", "queue_full")
        counters.answered("web", "-", "no_route")
        web = counters.listener("web")
        web.open, web.accepted, web.paused = 6, 60, True
        counters.lag.observe(0.004)
        counters.log_lines_dropped = {"access": 9, "app": 0}
        users = gateway.upstreams["users"]
        users.counters.counts().update({200: 7, 503: 1})
        users.counters.pending = 2
        users.counters.waited, users.counters.rejected = 3, 1
        users.counters.response_header.observe(0.02)
        users.counters.queue.observe(0.0)
        ledger = users.pool.ledger
        ledger.open, ledger.idle, ledger.hits, ledger.misses = 5, 2, 90, 10
        first, second = users.endpoints
        first.picks, first.errors = 40, {"reset": 2}
        second.picks = 60
        self.zookeeper: Any = SimpleNamespace(
            session=SimpleNamespace(state=STATES_OF_SESSION[0]),
            events={"children": 3},
            discoveries={"users": SimpleNamespace(membership=SimpleNamespace(held=1))},
        )

    def scrape(self, accept: str = "", now: float = 8.0) -> tuple[str, str]:
        """The content type, and the text."""
        counters = self.gateway.context.counters
        upstreams = self.gateway.upstreams.values()
        found = of_gateway(__version__, "0123456789abcdef", 1_700_000_000.0, True)
        found.add(memberships(upstreams, self.zookeeper, now))
        found.add(process_figures(counters, "0", 0.25))
        found.add(traffic(counters, upstreams, now))
        found.gauge("workers", [(("up",), 1.0)])
        found.count("worker_restarts", [(("exit",), 0.0)])
        recommend(found, {"users": 2}, {"users": 4})
        content_type, text = render(found, accept)
        return content_type, text.decode()

    def samples(self, now: float = 8.0) -> dict[str, dict[tuple[str, ...], float]]:
        """Ours by name, and by the values of their labels in the order of LABELS; each only once."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in read_text(self.scrape(now=now)[1]):
            for sample in family.samples:
                if sample.name.startswith("gatewayd_"):
                    values = found.setdefault(sample.name.removeprefix("gatewayd_"), {})
                    key = tuple(value for _, value in sorted(sample.labels.items(), key=place))
                    self.assertNotIn(key, values, sample.name)
                    values[key] = sample.value
        return found


class Names(MetricsTestCase):
    """People build on them."""

    def test_names_and_labels(self) -> None:
        """All of the contract's, and no others."""
        found: dict[str, set[str]] = {}
        for family in read_text(self.scrape()[1]):
            self.assertTrue(family.documentation, family.name)
            for sample in family.samples:
                if sample.name.startswith("gatewayd_"):
                    name = re.sub(r"(_seconds)_(bucket|count|sum)$", r"\1", sample.name)
                    found.setdefault(name.removeprefix("gatewayd_"), set()).update(sample.labels)
        expected = {
            name: labels | {"le"} if name in HISTOGRAMS else labels
            for name, labels in CONTRACT.items()
        }
        self.assertEqual(expected, found)

    def test_types(self) -> None:
        """By their names: what counts ends on _total."""
        kinds = {
            family.name.removeprefix("gatewayd_"): family.type
            for family in read_text(self.scrape()[1])
            if family.name.startswith("gatewayd_")
        }
        for name in CONTRACT:
            if name == "client_connections":
                continue  # a gauge and a counter of that name: the parser keeps the last
            wanted = "histogram" if name in HISTOGRAMS else "gauge"
            if name.endswith("_total"):
                name, wanted = name.removesuffix("_total"), "counter"
            self.assertEqual(wanted, kinds[name], name)

    def test_the_process(self) -> None:
        """prometheus_client's own collectors, each sample told whose it is."""
        names = set()
        for family in read_text(self.scrape()[1]):
            for sample in family.samples:
                if not sample.name.startswith("gatewayd_"):
                    self.assertEqual("0", sample.labels.get("process"), sample)
                    names.add(sample.name)
        self.assertLessEqual(
            {
                "process_resident_memory_bytes",
                "process_cpu_seconds_total",
                "process_open_fds",
                "python_gc_objects_collected_total",
                "python_info",
            },
            names,
        )

    def test_without_zookeeper(self) -> None:
        """Nothing is said of it."""
        self.zookeeper = None
        self.assertEqual(
            {"zookeeper_state", "zookeeper_events_total", "membership_held"},
            set(CONTRACT) - {re.sub("_(bucket|count|sum)$", "", name) for name in self.samples()},
        )


class Formats(MetricsTestCase):
    """By the request's Accept."""

    def test_text(self) -> None:
        """Where nothing else is asked for."""
        for accept in ("", "*/*", "text/plain", "text/html"):
            content_type, text = self.scrape(accept)
            self.assertTrue(content_type.startswith("text/plain; version="), content_type)
            self.assertNotIn("# EOF", text)

    def test_openmetrics(self) -> None:
        """As Prometheus asks; valid by its own parser, and the same figures."""
        content_type, text = self.scrape(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
            "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        )
        self.assertTrue(content_type.startswith("application/openmetrics-text; version="))
        self.assertTrue(text.endswith("# EOF\n"))
        ours = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in read_openmetrics(text)
            for sample in family.samples
            if sample.name.startswith("gatewayd_")
        }
        plain = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in read_text(self.scrape()[1])
            for sample in family.samples
            if sample.name.startswith("gatewayd_")
        }
        self.assertEqual(plain, ours)


class Figures(MetricsTestCase):
    """Each where it belongs."""

    def test_requests(self) -> None:
        """By listener, route, upstream; a dash where there is none."""
        found = self.samples()
        self.assertEqual(
            {
                ("web", "api", "users", "200"): 7,
                ("web", "api", "users", "499"): 1,
                ("web", "api", "users", "503"): 2,
                ("web", "-", "-", "404"): 3,
            },
            found["requests_total"],
        )
        self.assertEqual(
            {("web", "api", "users"): 100, ("web", "-", "-"): 0}, found["request_bytes_total"]
        )
        self.assertEqual(
            {("web", "api", "users"): 2000, ("web", "-", "-"): 0}, found["response_bytes_total"]
        )
        self.assertEqual({("api",): 4}, found["requests_in_flight"])
        self.assertEqual({("api",): 1}, found["tunnels"])
        self.assertEqual({("api",): 5}, found["rate_limited_total"])
        self.assertEqual({("api", "reset", "success"): 1}, found["retries_total"])
        self.assertEqual(
            {("web", "api", "queue_full"): 1, ("web", "-", "no_route"): 1},
            found["gateway_answers_total"],
        )

    def test_durations(self) -> None:
        """Buckets add up, the last one is all."""
        found = self.samples()
        of_api = {
            key[3]: value
            for key, value in found["request_duration_seconds_bucket"].items()
            if key[1] == "api"
        }
        self.assertEqual(
            {"0.001": 1, "0.0025": 2, "0.25": 2, "0.5": 3, "60": 3, "+Inf": 4},
            {le: of_api[le] for le in ("0.001", "0.0025", "0.25", "0.5", "60", "+Inf")},
        )
        self.assertEqual(sorted(of_api.values()), list(of_api.values()))
        key = ("web", "api", "users")
        self.assertEqual(4, found["request_duration_seconds_count"][key])
        self.assertAlmostEqual(100.3025, found["request_duration_seconds_sum"][key])

    def test_listeners(self) -> None:
        """Open now, and ever."""
        found = self.samples()
        self.assertEqual({("web",): 6}, found["client_connections"])
        self.assertEqual({("web",): 60}, found["client_connections_total"])
        self.assertEqual({("web",): 1}, found["accept_paused"])

    def test_upstreams(self) -> None:
        """And their endpoints."""
        found = self.samples()
        self.assertEqual(
            {("users", "200"): 7, ("users", "503"): 1}, found["upstream_requests_total"]
        )
        self.assertEqual(
            {("users", "127.0.0.1:2003"): 40, ("users", "127.0.0.1:2004"): 60},
            found["upstream_picks_total"],
        )
        self.assertEqual({("users", "127.0.0.1:2003", "reset"): 2}, found["upstream_errors_total"])
        self.assertEqual(
            {("users", state): 2 if state == "unchecked" else 0 for state in STATES},
            found["upstream_endpoints"],
        )
        self.assertEqual({("users", "static"): 2}, found["membership_source"])
        self.assertEqual({("users",): 1}, found["membership_changes_total"])
        self.assertEqual({("users",): 8}, found["membership_age_seconds"])
        self.assertEqual({("users",): 2}, found["upstream_pending"])
        self.assertEqual({("users", "idle"): 2, ("users", "busy"): 3}, found["pool_connections"])
        self.assertEqual(
            {
                ("users", "hit"): 90,
                ("users", "miss"): 10,
                ("users", "wait"): 3,
                ("users", "reject"): 1,
            },
            found["pool_acquires_total"],
        )
        self.assertEqual({("users",): 0}, found["upstream_panic"])
        self.assertEqual({("users",): 0}, found["circuit_breaker_state"])

    def test_the_gateway(self) -> None:
        """Its version, its configuration, its log."""
        found = self.samples()
        self.assertEqual({(__version__,): 1}, found["build_info"])
        self.assertEqual({("0123456789abcdef",): 1}, found["config_info"])
        self.assertEqual({(): 1_700_000_000.0}, found["config_last_reload_timestamp_seconds"])
        self.assertEqual({("access",): 9, ("app",): 0}, found["log_lines_dropped_total"])
        self.assertEqual({("0",): 1}, found["reactor_lag_seconds_count"])

    def test_odd_codes(self) -> None:
        """Outside 100 to 599 they are `other`, all together."""
        odd = {99: 1, 100: 2, 599: 4, 600: 8, 799: 16, 999: 32}
        exchange = self.gateway.context.counters.exchange("web", "odd", "users")
        for code, times in odd.items():
            for _ in range(times):
                exchange.ended(code, 0.1)
        tally = self.gateway.upstreams["users"].counters.counts()
        tally.clear()
        tally.update(odd)
        expected = {"100": 2, "599": 4, "other": 57}
        found = self.samples()
        self.assertEqual(
            {("users", code): n for code, n in expected.items()}, found["upstream_requests_total"]
        )
        self.assertEqual(
            {("web", "odd", "users", code): n for code, n in expected.items()},
            {key: n for key, n in found["requests_total"].items() if key[1] == "odd"},
        )

    def test_an_endpoint_that_left(self) -> None:
        """Its series go on for ten minutes, its upstream's for ever."""
        users = self.gateway.upstreams["users"]
        users.set_members([member("127.0.0.1:2004")])
        both = {("users", "127.0.0.1:2003"): 40, ("users", "127.0.0.1:2004"): 60}
        self.assertEqual(both, self.samples(now=599.9)["upstream_picks_total"])
        self.assertIn("upstream_errors_total", self.samples(now=599.9))
        found = self.samples(now=600.0)
        self.assertEqual({("users", "127.0.0.1:2004"): 60}, found["upstream_picks_total"])
        self.assertNotIn("upstream_errors_total", found)
        self.assertEqual(
            {("users", "200"): 7, ("users", "503"): 1}, found["upstream_requests_total"]
        )
        self.assertEqual(1, found["upstream_endpoints"]["users", "unchecked"])

    def test_an_endpoint_that_came_back(self) -> None:
        """It goes on counting, once."""
        users = self.gateway.upstreams["users"]
        users.set_members([member("127.0.0.1:2004")])
        users.set_members(map(member, ["127.0.0.1:2003", "127.0.0.1:2004"]))
        self.assertEqual(
            {("users", "127.0.0.1:2003"): 40, ("users", "127.0.0.1:2004"): 60},
            self.samples()["upstream_picks_total"],
        )

    def test_before_the_first_membership(self) -> None:
        """There is no age of it."""
        self.gateway.upstreams["users"].known = False
        self.assertNotIn("membership_age_seconds", self.samples())

    def test_a_snapshot_is_of_one_moment(self) -> None:
        """What happens while the text is made is not in it."""
        counters = self.gateway.context.counters
        snapshot = traffic(counters, self.gateway.upstreams.values(), 8.0)
        snapshot.add(memberships(self.gateway.upstreams.values(), self.zookeeper, 8.0))
        snapshot.add(process_figures(counters, "0"))
        before = render(snapshot, "")[1]
        exchange = counters.exchange("web", "api", "users")
        exchange.ended(200, 1.0)
        counters.exchange("web", "new", "-").ended(200, -1.0)
        users = self.gateway.upstreams["users"]
        users.counters.count(200)
        users.counters.response_header.observe(1.0)
        users.endpoints[0].errors["reset"] += 1
        users.set_members([])
        counters.lag.observe(1.0)

        def ours(text: bytes) -> list[bytes]:
            return [line for line in text.splitlines() if line.startswith(b"gatewayd_")]

        self.assertEqual(ours(before), ours(render(snapshot, "")[1]))
