"""serving: a configuration is put in place of another in one step, and what did not change stays."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd import assembly
from gatewayd import serving as servings
from gatewayd.core.addresses import Address
from gatewayd.core.deadlines import Wheel
from gatewayd.core.limits import Share
from gatewayd.core.tracing import SUBSYSTEMS, Trace
from gatewayd.proxy import listener as listeners
from gatewayd.proxy.context import Context
from gatewayd.serving import Serving
from gatewayd.upstreams.names import Resolver
from tests.heads import request_of
from tests.unit.config_cases import fine
from tests.unit.upstream_fakes import FakeDialer

FILE = """
listeners:
  web: {address: 127.0.0.1:2000}
  internal: {address: 127.0.0.1:2001}
routes:
  - {name: api, match: {path_prefix: /api}, upstream: users, rate_limit: {rate: 1/s, burst: 5}}
  - {name: rest, upstream: canary, max_concurrent: 4}
upstreams:
  users: {endpoints: [10.0.0.1:80, 10.0.0.2:80], pool: {max_connections_per_endpoint: 8}}
  canary: {endpoints: [10.0.0.3:80]}
"""


class FakePort:
    """A listening socket that is none."""

    def __init__(self, address: Address, fd: int | None) -> None:
        self.address = address
        self.fd = fd
        self.open = True
        self.accepting = True
        self.yielded = False

    def fileno(self) -> int:
        """Its descriptor; each address has its own."""
        return self.address.port

    def getHost(self) -> Address:
        """Twisted: where it listens."""
        return self.address

    def stopListening(self) -> None:
        """Twisted: close it."""
        self.open = False

    def pauseProducing(self) -> None:
        """Twisted: accept nobody."""
        self.accepting = False

    def resumeProducing(self) -> None:
        """Twisted: accept again."""
        self.accepting = True

    def yield_path(self, yielded: bool = True) -> None:
        """As of a Unix socket."""
        self.yielded = True


class ServingTestCase(SynchronousTestCase):
    """Makes what serves, on a clock and without sockets."""

    def setUp(self) -> None:
        self.ports: list[FakePort] = []
        self.taken: set[int] = set()  # ports that somebody else listens on
        self.patch(listeners, "listen", self.listen)
        self.patch(servings, "room_for_clients", dict)  # this machine may have few descriptors

    def listen(self, address: Address, factory: Any, reactor: Any, fd: int | None = None) -> Any:
        """As net.ports.listen."""
        if address.port in self.taken:
            raise CannotListenError(address.host, address.port, OSError(98, "in use"))
        self.ports.append(FakePort(address, fd))
        return self.ports[-1]

    def serve(self, text: str = FILE, **options: Any) -> Serving:
        """Started."""
        self.reactor: Any = MemoryReactorClock()
        self.said: list[str] = []
        self.dialer = FakeDialer()
        shared = assembly.Shared(
            reactor=self.reactor,
            context=Context.standalone(self.reactor.seconds, Wheel(0.0)),
            random=Random(1),
            resolver=Resolver(lambda *call: None, lambda name: []),
            inherited={},
            traces={name: Trace(name) for name in SUBSYSTEMS},
            warn=self.said.append,
            notice=self.said.append,
            dialer=self.dialer,
            check_of=lambda wanted: None,  # type: ignore[arg-type, return-value]
        )
        serving = Serving(fine(text).config, shared, **options)
        serving.privilegedStartService()
        serving.startService()
        return serving

    def reload(self, serving: Serving, text: str) -> None:
        """Another configuration."""
        serving.switch(serving.plan(fine(text).config))

    def listening(self) -> list[int]:
        """Open ports."""
        return sorted(each.address.port for each in self.ports if each.open)

    def labels(self, serving: Serving, name: str) -> list[str]:
        """Of an upstream's members."""
        return [each.label for each in serving.upstreams[name].endpoints]


class Listeners(ServingTestCase):
    """Sockets stay where their address does."""

    def test_nothing_changes(self) -> None:
        """All objects are the same ones, and no socket is touched."""
        serving = self.serve()
        before = (dict(serving.listeners), dict(serving.upstreams), list(serving))
        self.reload(serving, FILE)
        self.assertEqual(before, (serving.listeners, serving.upstreams, list(serving)))
        self.assertEqual(2, len(self.ports))
        self.assertTrue(all(each.open and each.accepting for each in self.ports))

    def test_settings(self) -> None:
        """Of a listener that stays, from the next request on; new routes are its as well."""
        serving = self.serve()
        web = serving.listeners["web"]
        root = web.terms.root
        self.reload(
            serving,
            FILE.replace("127.0.0.1:2000}", "127.0.0.1:2000, limits: {max_connections: 7}}"),
        )
        self.assertIs(web, serving.listeners["web"])
        self.assertEqual(7, web.terms.limits.max_connections)
        self.assertIsNot(root, web.terms.root)
        self.assertEqual(2, len(self.ports))

    def test_added_and_removed(self) -> None:
        """The new one opens before; the old one closes after its last client."""
        serving = self.serve()
        old = serving.listeners["internal"]
        client: Any = old.buildProtocol(Address("tcp", "192.0.2.1", 5))
        old._channels.add(client)
        old.counters.open += 1
        client.rested_at = 1e9
        self.reload(
            serving,
            FILE.replace("internal: {address: 127.0.0.1:2001}", "more: {address: 127.0.0.1:2002}"),
        )
        self.assertEqual([2000, 2002], self.listening())
        self.assertEqual(["web", "more"], list(serving.listeners))
        self.assertNotIn(old, list(serving))
        self.assertTrue(old.terms.draining)
        done = serving.drain()
        self.assertNoResult(done)
        old.lost(client)
        self.successResultOf(done)

    def test_another_name(self) -> None:
        """The same socket is handed on, and its file, where it has one, stays."""
        serving = self.serve()
        self.reload(serving, FILE.replace("internal:", "private:"))
        (successor,) = self.ports[2:]
        self.assertEqual((2001, 2001), (successor.address.port, successor.fd))
        self.assertEqual((False, True), (self.ports[1].open, self.ports[1].yielded))
        self.assertIs(successor, serving.listeners["private"].port)

    def test_draining(self) -> None:
        """A listener that comes while the gateway rests does so as well."""
        serving = self.serve()
        serving.rest(True)
        self.reload(serving, FILE.replace("internal:", "private:"))
        self.assertEqual([True, True], [each.terms.draining for each in serving.listeners.values()])


class Plans(ServingTestCase):
    """Nothing is changed before all can be had."""

    def test_cannot_listen(self) -> None:
        """What was opened for it is closed again; everything serves as before."""
        serving = self.serve()
        before = (serving.config, dict(serving.listeners), dict(serving.upstreams), serving.routes)
        self.taken.add(2003)
        wanted = (
            FILE.replace(
                "listeners:",
                "listeners:\n  a: {address: 127.0.0.1:2002}\n  b: {address: 127.0.0.1:2003}",
            )
            .replace("canary:", "canary2:")
            .replace("upstream: canary", "upstream: canary2")
        )
        self.assertRaises(CannotListenError, serving.plan, fine(wanted).config)
        self.assertEqual([2000, 2001], self.listening())
        after = (serving.config, serving.listeners, serving.upstreams, serving.routes)
        self.assertEqual(before, after)
        self.taken.clear()
        self.reload(serving, wanted)
        self.assertEqual([2000, 2001, 2002, 2003], self.listening())

    def test_abandoned(self) -> None:
        """A plan that is not switched to leaves nothing behind."""
        serving = self.serve()
        plan = serving.plan(
            fine(FILE.replace("internal:", "more: {address: 127.0.0.1:2002}\n  internal:")).config
        )
        self.assertEqual([2000, 2001, 2002], self.listening())
        self.assertEqual(["more"], plan.opened)
        serving.abandon(plan)
        self.assertEqual([2000, 2001], self.listening())
        self.assertEqual(["web", "internal"], list(serving.listeners))


class Upstreams(ServingTestCase):
    """Members, health and connections stay."""

    def test_members(self) -> None:
        """Another list; who stays is the same object."""
        serving = self.serve()
        users = serving.upstreams["users"]
        first = users.endpoints[0]
        first.drained = True
        self.reload(serving, FILE.replace("10.0.0.2:80", "10.0.0.4:80"))
        self.assertIs(users, serving.upstreams["users"])
        self.assertEqual(["10.0.0.1:80", "10.0.0.4:80"], self.labels(serving, "users"))
        self.assertIs(first, users.endpoints[0])
        self.assertTrue(first.drained)

    def test_added(self) -> None:
        """With its members at once."""
        serving = self.serve()
        self.reload(serving, FILE + "  more: {endpoints: [10.0.0.9:80]}\n")
        self.assertEqual(["10.0.0.9:80"], self.labels(serving, "more"))

    def test_removed(self) -> None:
        """It is retired: nothing is kept idle, and what it serves goes on."""
        serving = self.serve()
        canary = serving.upstreams["canary"]
        picked: Any = canary.pick(None)
        self.reload(
            serving,
            FILE.replace("  canary: {endpoints: [10.0.0.3:80]}\n", "").replace(
                "upstream: canary", "upstream: users"
            ),
        )
        self.assertEqual(["users"], list(serving.upstreams))
        self.assertTrue(canary.pool._closed)
        canary.released(picked, 0.1, False)
        self.assertEqual(0, canary.in_flight)

    def test_checks(self) -> None:
        """Begin, change and end with their section, and with nothing else."""
        serving = self.serve()
        services = len(list(serving))
        checked = FILE.replace(
            "canary: {", "canary: {health_check: {path: /, interval: 9s, timeout: 1s}, "
        )
        self.reload(serving, checked)
        self.assertEqual(services + 1, len(list(serving)))
        (checker,) = serving._checkers.values()
        self.reload(serving, checked.replace("10.0.0.3", "10.0.0.5"))
        self.assertIs(checker, serving._checkers["canary"])
        self.reload(serving, checked.replace("9s", "8s"))
        self.assertIsNot(checker, serving._checkers["canary"])
        self.assertEqual(services + 1, len(list(serving)))
        self.reload(serving, FILE)
        self.assertEqual((services, {}), (len(list(serving)), serving._checkers))

    def test_told(self) -> None:
        """A worker's have no members of their own, before and after a reload."""
        serving = self.serve(decides=False)
        self.assertFalse(serving.upstreams["users"].known)
        self.reload(serving, FILE.replace("10.0.0.2:80", "10.0.0.4:80"))
        self.assertFalse(serving.upstreams["users"].known)


class Routes(ServingTestCase):
    """What has been counted goes on to count."""

    def filters(self, serving: Serving, name: str) -> Any:
        """Of a route."""
        return next(each.filters for each in serving.routes if each.name == name)

    def test_buckets(self) -> None:
        """A reload forgives nobody."""
        serving = self.serve()
        now = self.reactor.seconds()
        for _ in range(5):
            self.filters(serving, "api").rate.limit.take("a", now)
        self.reload(serving, FILE.replace("path_prefix: /api", "path_prefix: /v2"))
        self.assertFalse(self.filters(serving, "api").rate.limit.take("a", now).allowed)
        self.assertTrue(self.filters(serving, "api").rate.limit.take("b", now).allowed)

    def test_retries(self) -> None:
        """Budgets stay with a route of the same name."""
        serving = self.serve()
        before = [each.counters for each in serving.routes]
        self.reload(serving, FILE.replace("max_concurrent: 4", "retries: {budget: 10%}"))
        after = [each.counters for each in serving.routes]
        self.assertEqual(list(map(id, before)), list(map(id, after)))
        self.assertEqual([0.2, 0.1], [each.leaf.route.retries.budget for each in serving.routes])

    def test_alike(self) -> None:
        """Routes that forward alike share their leaf, and nothing that is counted; others share none."""
        settings = (
            "",
            ", priority: 5, max_concurrent: 3",  # not how they forward
            ", upstream: {users: 1, canary: 1}",
            ", upstream: {users: 1, canary: 2}",
            ", rewrite: {strip_prefix: /x}",
            ", request_headers: {set: {X-A: b}}",
            ", request_headers: {add: {X-A: b}}",
            ", request_headers: {remove: [X-A]}",
            ", response_headers: {add: {X-A: b}}",
            ", preserve_host: false",
            ", timeouts: {request: 9s}",
            ", retries: {attempts: 2}",
            ", upstream: canary",
        )
        lines = [
            f"  - {{name: r{at}, match: {{path_prefix: /x{at}}}{text}"
            + ("}" if "upstream:" in text else ", upstream: users}")
            for at, text in enumerate(settings)
        ]
        before, after = FILE.index("  - {name: api"), FILE.index("upstreams:")
        routes = self.serve(FILE[:before] + "\n".join(lines) + "\n" + FILE[after:]).routes
        self.assertIs(routes[0].leaf, routes[1].leaf)
        self.assertEqual(len(settings) - 1, len({id(each.leaf) for each in routes}))
        self.assertEqual(len(settings), len({id(each.counters) for each in routes}))
        self.assertEqual([None], list({each.filters for each in routes if each.name != "r1"}))
        self.assertIsNotNone(routes[1].filters)

    def test_forgotten(self) -> None:
        """Nothing that is remembered of hosts keeps a former configuration in memory."""
        serving = self.serve()
        head = request_of(b"GET / HTTP/1.1\r\nHost: a.example")
        head.asked.table = serving
        self.reload(serving, FILE.replace("/api", "/v2"))
        again = request_of(b"GET / HTTP/1.1\r\nHost: a.example")
        self.assertIsNone(again.asked.table)

    def test_gates(self) -> None:
        """Who is inside stays so, and leaves the same gate."""
        serving = self.serve()
        gate = self.filters(serving, "rest")._gate
        gate.inside = 3
        self.reload(serving, FILE.replace("max_concurrent: 4", "max_concurrent: 9"))
        self.assertIs(gate, self.filters(serving, "rest")._gate)
        self.assertEqual(9, self.filters(serving, "rest").max_concurrent)


class Shares(ServingTestCase):
    """A worker's part of the limits that are the whole gateway's."""

    def found(self, serving: Serving) -> list[int]:
        """Limits of connections, to endpoints, of requests."""
        (rest,) = [each.filters for each in serving.routes if each.name == "rest"]
        return [
            serving.listeners["web"].terms.limits.max_connections,
            serving.upstreams["users"].pool.ledger.max_open,
            serving.upstreams["canary"].pool.ledger.max_open,
            rest.max_concurrent,
        ]

    def test_taken(self) -> None:
        """And kept by a reload."""
        text = FILE.replace("2000}", "2000, limits: {max_connections: 30}}")
        serving = self.serve(text, decides=False)
        self.assertEqual([30, 8, 0, 4], self.found(serving))
        serving.take_share(Share(0, 3))
        self.assertEqual([10, 3, 0, 2], self.found(serving))
        self.reload(serving, text.replace("max_concurrent: 4", "max_concurrent: 7"))
        self.assertEqual([10, 3, 0, 3], self.found(serving))
        serving.take_share(Share(2, 3))
        self.assertEqual([10, 2, 0, 2], self.found(serving))
        serving.take_share(Share(0, 1))
        self.assertEqual([30, 8, 0, 7], self.found(serving))


class Ends(ServingTestCase):
    """Everybody finishes, or is cut."""

    def test_drained(self) -> None:
        """At once where there is nobody."""
        serving = self.serve()
        self.successResultOf(serving.drain())
        self.assertEqual([], self.listening())
        self.assertEqual(0, serving.abort())
        serving.close()

    def test_leaving(self) -> None:
        """Clients of a listener that a reload has removed count as well."""
        serving = self.serve()
        old = serving.listeners["internal"]

        class Client:
            """A client that rests for no time at all."""

            rested_at = 1e9
            idle = False
            cut = 0

            @property
            def transport(self) -> Client:
                """Itself."""
                return self

            def close(self) -> bool:
                """It has a request."""
                return False

            def abortConnection(self) -> None:
                """Twisted: cut it."""
                self.cut += 1

        client: Any = Client()
        old._channels.add(client)
        self.reload(serving, FILE.replace("  internal: {address: 127.0.0.1:2001}\n", ""))
        done = serving.drain()
        self.assertNoResult(done)
        self.assertEqual((1, 1), (serving.abort(), client.cut))
        old.lost(client)
        self.successResultOf(done)


class Moved(ServingTestCase):
    """Listeners whose address changes."""

    def test_another_address(self) -> None:
        """The same name on another socket."""
        serving = self.serve()
        old = serving.listeners["web"]
        self.reload(serving, FILE.replace("127.0.0.1:2000", "127.0.0.1:2005"))
        self.assertEqual([2001, 2005], self.listening())
        self.assertIsNot(old, serving.listeners["web"])
        self.assertNotIn(old, list(serving))

    def test_swapped(self) -> None:
        """Two listeners that change places: each goes on where the other was."""
        serving = self.serve()
        swapped = FILE.replace(":2000", ":x").replace(":2001", ":2000").replace(":x", ":2001")
        self.reload(serving, swapped)
        self.assertEqual([2000, 2001], self.listening())
        self.assertEqual([2001, 2000], [e.port.address.port for e in serving.listeners.values()])
