"""proxy.filters: deny, allow, rate, concurrency, in this order; who is refused spends nothing further on."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Networks
from gatewayd.core.counters import RouteCounters
from gatewayd.core.errors import Denied, GatewayError, MaxConcurrent, RateLimited
from gatewayd.core.exchange import Exchange, Origin
from gatewayd.core.limits import RateLimit
from gatewayd.proxy.filters import Filters, RateRule
from tests.heads import request_of

ORIGIN = Origin(listener="web", peer="192.0.2.1", scheme="http", port=80, trusted=False)


def exchange(client: str = "192.0.2.1", *lines: bytes) -> Exchange:
    """A request of a client."""
    block = b"\r\n".join((b"GET / HTTP/1.1", b"Host: h", *lines))
    made = Exchange(request_of(block), None, ORIGIN, 0.0)
    made.client_ip = client
    return made


class Route:
    """A route's filters, and what becomes of requests."""

    def __init__(
        self, *, rate: float = 0.0, burst: int = 2, key: str = "client_ip", **options: Any
    ):
        self.counters = RouteCounters("api")
        self.limit = RateLimit(rate=rate or 1.0, burst=burst, max_keys=100)
        self.rule = RateRule(self.limit, key) if rate else None
        self.filters = Filters(
            self.counters,
            allow=Networks(options["allow"]) if "allow" in options else None,
            deny=Networks(options["deny"]) if "deny" in options else None,
            rate=self.rule,
            max_concurrent=options.get("max_concurrent", 0),
        )
        self.inside: list[Exchange] = []

    def ask(self, client: str = "192.0.2.1", *lines: bytes, now: float = 10.0) -> str:
        """The reason of its refusal, empty if it came in."""
        made = exchange(client, *lines)
        refusal = self.filters.refusal(made, now)
        if refusal is None:
            self.inside.append(made)
        return refusal.reason if refusal is not None else ""

    def leave(self) -> None:
        """The first that came in is over."""
        self.inside.pop(0).gate.leave()


class Addresses(SynchronousTestCase):
    """allow and deny."""

    def test_table(self) -> None:
        """Deny wins; IPv6 and mapped addresses count as what they are."""
        both: Any = {
            "allow": ["10.0.0.0/8", "2001:db8::/32", "unix"],
            "deny": ["10.9.0.0/16", "2001:db8:9::/48"],
        }
        table = {
            "10.1.2.3": "",
            "::ffff:10.1.2.3": "",
            "10.9.2.3": "denied",
            "::ffff:10.9.2.3": "denied",
            "192.0.2.1": "denied",
            "2001:db8::1": "",
            "2001:db8:9::1": "denied",
            "2001:db9::1": "denied",
            "unix": "",
            "": "denied",
            "rubbish": "denied",
        }
        route = Route(**both)
        self.assertEqual(table, {client: route.ask(client) for client in table})
        told = {client: bool(route.filters.verdict_of(client)) for client in table}
        self.assertEqual({client: bool(reason) for client, reason in table.items()}, told)

    def test_one_alone(self) -> None:
        """Without allow everybody else may come, without deny nobody else."""
        self.assertEqual(
            ["denied", ""],
            [Route(deny=["10.0.0.0/8"]).ask(each) for each in ("10.0.0.1", "11.0.0.1")],
        )
        self.assertEqual(
            ["", "denied"], [Route(allow=["::/0"]).ask(each) for each in ("fd00::1", "11.0.0.1")]
        )
        self.assertEqual("", Route().ask())
        self.assertEqual("", Route().filters.verdict_of("192.0.2.1"))

    def test_words_for_explain(self) -> None:
        """Which of the two lists it was."""
        filters = Route(allow=["10.0.0.0/8"], deny=["10.9.0.0/16"]).filters
        self.assertEqual(
            ["10.9.0.1 is denied", "11.0.0.1 is not among those allowed", ""],
            [filters.verdict_of(each) for each in ("10.9.0.1", "11.0.0.1", "10.0.0.1")],
        )


class Order(SynchronousTestCase):
    """Who is refused by one filter has not been to the next."""

    def test_deny_before_rate(self) -> None:
        """No token, no bucket."""
        route = Route(rate=1.0, deny=["10.0.0.0/8"], max_concurrent=9)
        self.assertEqual(["denied"] * 5, [route.ask("10.0.0.1") for _ in range(5)])
        self.assertEqual((0, 0, []), (len(route.limit), route.counters.rate_limited, route.inside))

    def test_allow_before_rate(self) -> None:
        """Likewise."""
        route = Route(rate=1.0, allow=["10.0.0.0/8"])
        self.assertEqual(["denied"] * 5, [route.ask("11.0.0.1") for _ in range(5)])
        self.assertEqual(0, len(route.limit))

    def test_rate_before_concurrency(self) -> None:
        """Who comes too often takes no place; who finds no place has spent its token."""
        route = Route(rate=1.0, burst=2, max_concurrent=1)
        self.assertEqual(
            ["", "max_concurrent", "rate_limited", "rate_limited"], [route.ask() for _ in range(4)]
        )
        self.assertEqual(2, route.counters.rate_limited)
        route.leave()
        self.assertEqual(["", "max_concurrent"], [route.ask("192.0.2.2") for _ in range(2)])

    def test_kinds(self) -> None:
        """Each refusal with its status and what the client is told."""
        found: list[GatewayError | None] = [
            Route(deny=["::/0", "0.0.0.0/0"]).filters.refusal(exchange(), 1.0)
        ]
        route = Route(rate=0.25, burst=1, max_concurrent=1)
        found += [
            route.filters.refusal(exchange(client), 1.0)
            for client in ("10.0.0.1", "10.0.0.2", "10.0.0.2")
        ]
        denied, none, full, limited = found
        assert isinstance(denied, Denied)
        assert isinstance(full, MaxConcurrent)
        assert isinstance(limited, RateLimited)
        self.assertIsNone(none)
        self.assertEqual([403, 503, 429], [each.answer_status for each in (denied, full, limited)])
        self.assertEqual((1, 4), (full.retry_after, limited.retry_after))
        self.assertEqual("1 requests of this route are in flight", full.detail)
        self.assertEqual(
            (b'RateLimit-Policy: "default";q=1;w=4\r\n', b'RateLimit: "default";r=0;t=4\r\n'),
            limited.fields,
        )


class Concurrency(SynchronousTestCase):
    """max_concurrent."""

    def test_places(self) -> None:
        """So many at once; who leaves makes room."""
        route = Route(max_concurrent=2)
        self.assertEqual(["", "", "max_concurrent"], [route.ask() for _ in range(3)])
        route.leave()
        self.assertEqual(["", "max_concurrent"], [route.ask() for _ in range(2)])

    def test_any(self) -> None:
        """Without it nobody has a gate to leave by."""
        made = exchange()
        self.assertIsNone(Route().filters.refusal(made, 1.0))
        self.assertIsNone(made.gate)

    def test_adopted(self) -> None:
        """Those inside count under the new filters, and leave them too."""
        former, latter = Route(max_concurrent=2), Route(max_concurrent=2)
        former.ask()
        former.ask()
        latter.filters.adopt(former.filters, 10.0)
        self.assertEqual("max_concurrent", latter.ask())
        former.leave()
        self.assertEqual(["", "max_concurrent"], [latter.ask() for _ in range(2)])
        former.leave()
        latter.leave()
        self.assertEqual(["", "", "max_concurrent"], [latter.ask() for _ in range(3)])


class Rates(SynchronousTestCase):
    """rate_limit."""

    def test_by_client(self) -> None:
        """A bucket for each; an IPv6 /64 is one."""
        route = Route(rate=1.0, burst=1)
        clients = [
            "10.0.0.1",
            "10.0.0.2",
            "10.0.0.1",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8:0:1::1",
        ]
        expected = ["", "", "rate_limited", "", "rate_limited", ""]
        self.assertEqual(expected, [route.ask(client) for client in clients])

    def test_by_route(self) -> None:
        """One for all."""
        route = Route(rate=1.0, burst=2, key="route")
        self.assertEqual(["", "", "rate_limited"], [route.ask(f"10.0.0.{n}") for n in range(3)])

    def test_by_header(self) -> None:
        """A bucket for each value; who sends none is known by address, and nobody can pose as one."""
        route = Route(rate=1.0, burst=1, key="header:X-Key")
        asked = [
            ("10.0.0.1", b"X-Key: one"),
            ("10.0.0.2", b"x-key: one"),
            ("10.0.0.1", b"X-Key: two"),
            ("10.0.0.1",),
            ("10.0.0.1", b"X-Key: "),
            ("10.0.0.2", b"X-Key: 10.0.0.1"),
            ("10.0.0.2",),
        ]
        expected = ["", "rate_limited", "", "", "rate_limited", "", ""]
        self.assertEqual(expected, [route.ask(client, *lines) for client, *lines in asked])  # type: ignore[arg-type]

    def test_long_values(self) -> None:
        """Are told apart though only a digest is kept."""
        route = Route(rate=1.0, burst=1, key="header:X-Key")
        values = [b"X-Key: " + b"k" * 5000 + end for end in (b"1", b"2", b"1")]
        self.assertEqual(["", "", "rate_limited"], [route.ask("10.0.0.1", each) for each in values])
        self.assertLess(max(len(key) for key in route.limit._full_at), 70)

    def test_fields(self) -> None:
        """What is left, and in how many whole seconds there is more, never too few."""
        route = Route(rate=0.5, burst=3)
        seen = []
        for now in (10.0, 10.0, 10.0, 10.0, 11.5, 12.0):
            made = exchange()
            refusal = route.filters.refusal(made, now)
            line = refusal.fields[1] if isinstance(refusal, RateLimited) else made.limit_field
            seen.append((getattr(refusal, "retry_after", 0), line))
        self.assertEqual(
            [
                (0, b'RateLimit: "default";r=2;t=2\r\n'),
                (0, b'RateLimit: "default";r=1;t=2\r\n'),
                (0, b'RateLimit: "default";r=0;t=2\r\n'),
                (2, b'RateLimit: "default";r=0;t=2\r\n'),
                (1, b'RateLimit: "default";r=0;t=2\r\n'),
                (0, b'RateLimit: "default";r=0;t=2\r\n'),
            ],
            seen,
        )

    def test_adopted(self) -> None:
        """By the same key the buckets stay, by another they are new."""
        former = Route(rate=1.0, burst=1)
        former.ask("10.0.0.1")
        for key, expected in (("client_ip", "rate_limited"), ("header:X-Key", "")):
            latter = Route(rate=1.0, burst=1, key=key)
            latter.filters.adopt(former.filters, 10.0)
            self.assertEqual(expected, latter.ask("10.0.0.1"))
        free = Route()
        free.filters.adopt(former.filters, 10.0)
        self.assertEqual(["", ""], [free.ask() for _ in range(2)])
        new = Route(rate=1.0, burst=1)
        new.filters.adopt(free.filters, 10.0)
        self.assertEqual("", new.ask())
