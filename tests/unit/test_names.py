"""upstreams.names: names are looked up anew, off the reactor, and a bad answer takes nothing away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import parse_host_port
from gatewayd.core.balancers import RoundRobin
from gatewayd.core.counters import UpstreamCounters
from gatewayd.upstreams.members import Members, StaticMember
from gatewayd.upstreams.names import Names, Resolver, addresses_of
from gatewayd.upstreams.upstream import Upstream
from tests.unit.upstream_fakes import World


class FakeResolver:
    """Holds all questions back until the test answers them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Callable[[list[str]], None]]] = []

    def resolve(self, name: str, answered: Callable[[list[str]], None]) -> None:
        """As Resolver."""
        self.asked.append((name, answered))

    def names(self) -> list[str]:
        """Who was asked for since the last answer."""
        return [name for name, _ in self.asked]

    def answer(self, *found: list[str]) -> None:
        """Answer the oldest questions."""
        for addresses in found:
            self.asked.pop(0)[1](addresses)


class NamesTestCase(SynchronousTestCase):
    """Makes Names on a clock."""

    def make(self, *names: str, refresh: float = 30.0, timeout: float = 2.0) -> Names:
        """Some names that are watched."""
        self.clock = Clock()
        self.resolver = FakeResolver()
        self.warnings: list[str] = []
        self.changes = 0

        def changed() -> None:
            self.changes += 1

        resolver: Any = self.resolver
        made = Names(
            resolver,
            self.clock,
            refresh=refresh,
            timeout=timeout,
            changed=changed,
            warn=self.warnings.append,
        )
        made.watch(set(names))
        return made


class Rounds(NamesTestCase):
    """All names are asked for together, every so often."""

    def test_first_answers(self) -> None:
        """They are told of when all have answered."""
        names = self.make("b", "a")
        self.assertEqual(["a", "b"], self.resolver.names())
        self.resolver.answer(["10.0.0.1", "10.0.0.2"])
        self.assertEqual(0, self.changes)
        self.resolver.answer(["fd00::1"])
        self.assertEqual(1, self.changes)
        self.assertEqual(["10.0.0.1", "10.0.0.2"], names.addresses("a"))
        self.assertEqual(["fd00::1"], names.addresses("b"))
        self.assertEqual([], names.addresses("c"))
        self.assertEqual([], self.warnings)

    def test_again_after_refresh(self) -> None:
        """From the end of a round to the next one's beginning."""
        names = self.make("a")
        self.clock.advance(1.5)
        self.resolver.answer(["10.0.0.1"])
        self.clock.advance(29.9)
        self.assertEqual([], self.resolver.names())
        self.clock.advance(0.1)
        self.assertEqual(["a"], self.resolver.names())
        self.resolver.answer(["10.0.0.2"])
        self.assertEqual(["10.0.0.2"], names.addresses("a"))

    def test_a_bad_answer_keeps_the_last(self) -> None:
        """It is said once, and once again after it was good."""
        names = self.make("a")
        self.resolver.answer(["10.0.0.1"])
        for _ in range(3):
            self.clock.advance(30)
            self.resolver.answer([])
        self.assertEqual(["10.0.0.1"], names.addresses("a"))
        said = "a has no address; kept addresses: 10.0.0.1"
        self.assertEqual([said], self.warnings)
        self.clock.advance(30)
        self.resolver.answer(["10.0.0.3"])
        self.clock.advance(30)
        self.resolver.answer([])
        self.assertEqual([said, "a has no address; kept addresses: 10.0.0.3"], self.warnings)

    def test_no_answer_in_time(self) -> None:
        """Whoever has answered counts; the others keep what they had; late answers are ignored."""
        names = self.make("a", "b")
        self.resolver.answer(["10.0.0.1"], ["10.0.0.2"])
        self.clock.advance(30)
        self.resolver.answer(["10.0.0.11"])
        ((_, late),) = self.resolver.asked
        self.clock.advance(1.9)
        self.assertEqual(1, self.changes)
        self.clock.advance(0.1)
        self.assertEqual(2, self.changes)
        self.assertEqual(["10.0.0.11"], names.addresses("a"))
        self.assertEqual(["10.0.0.2"], names.addresses("b"))
        self.assertEqual(
            ["b was not answered within dns.timeout; kept addresses: 10.0.0.2"], self.warnings
        )
        late(["10.0.0.99"])
        self.assertEqual(["10.0.0.2"], names.addresses("b"))
        self.assertEqual(2, self.changes)
        self.clock.advance(30)
        late(["10.0.0.99"])
        self.resolver.asked.pop(0)
        self.resolver.answer(["10.0.0.12"], ["10.0.0.22"])
        self.assertEqual(["10.0.0.22"], names.addresses("b"))

    def test_without_a_limit(self) -> None:
        """dns.timeout 0 never fires."""
        names = self.make("a", timeout=0.0)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.clock.advance(1000)
        self.resolver.answer(["10.0.0.1"])
        self.assertEqual(["10.0.0.1"], names.addresses("a"))
        self.assertEqual([], self.warnings)

    def test_impatient_while_nothing_is_known(self) -> None:
        """Every second, or sooner where refresh is shorter."""
        self.make("a")
        self.resolver.answer([])
        self.assertEqual(0, self.changes)
        self.assertEqual(["a has no address; kept addresses: none"], self.warnings)
        self.clock.advance(0.9)
        self.assertEqual([], self.resolver.names())
        self.clock.advance(0.1)
        self.assertEqual(["a"], self.resolver.names())
        self.make("a", refresh=0.5)
        self.resolver.answer([])
        self.clock.advance(0.5)
        self.assertEqual(["a"], self.resolver.names())

    def test_no_more_addresses_than_sense(self) -> None:
        """The first 256 of a name count."""
        names = self.make("a")
        self.resolver.answer([f"10.0.{n >> 8}.{n & 255}" for n in range(1000)])
        self.assertEqual(256, len(names.addresses("a")))

    def test_answers_at_once(self) -> None:
        """A resolver that need not wait leaves one timer behind, the next round's."""
        names = self.make()

        def resolve(name: str, answered: Callable[[list[str]], None]) -> None:
            answered([f"10.0.0.{len(name)}"])

        self.patch(self.resolver, "resolve", resolve)
        names.watch({"a", "bb"})
        self.assertEqual(["10.0.0.2"], names.addresses("bb"))
        self.assertEqual([30.0], [call.getTime() for call in self.clock.getDelayedCalls()])


class Watching(NamesTestCase):
    """Names come and go with the members."""

    def test_a_new_name(self) -> None:
        """It is asked for at once; what is known of the others stays."""
        names = self.make("a")
        self.resolver.answer(["10.0.0.1"])
        names.watch({"a", "b"})
        self.assertEqual(["a", "b"], self.resolver.names())
        self.assertEqual(["10.0.0.1"], names.addresses("a"))
        self.resolver.answer([], ["10.0.0.2"])
        self.assertEqual(["10.0.0.1"], names.addresses("a"))
        self.assertEqual(["10.0.0.2"], names.addresses("b"))

    def test_a_name_that_is_gone(self) -> None:
        """It is forgotten, and asked for no more."""
        names = self.make("a", "b")
        self.resolver.answer(["10.0.0.1"], ["10.0.0.2"])
        names.watch({"b"})
        self.assertEqual([], names.addresses("a"))
        self.clock.advance(30)
        self.assertEqual(["b"], self.resolver.names())

    def test_no_change(self) -> None:
        """Nobody is asked."""
        names = self.make("a")
        self.resolver.answer(["10.0.0.1"])
        names.watch({"a"})
        self.assertEqual([], self.resolver.names())

    def test_no_names_left(self) -> None:
        """Nothing runs on."""
        names = self.make("a")
        self.resolver.answer(["10.0.0.1"])
        names.watch(set())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_the_end(self) -> None:
        """No timer is left, and what still comes is ignored."""
        names = self.make("a")
        names.stop()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.resolver.answer(["10.0.0.1"])
        self.assertEqual(([], 0), (names.addresses("a"), self.changes))


class Threads(SynchronousTestCase):
    """The resolver's own; each test ends those that it made hang."""

    def setUp(self) -> None:
        self.calls: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self.seen: SimpleQueue[threading.Thread] = SimpleQueue()
        self.release = threading.Event()
        self.addCleanup(self.release.set)

    def resolver(self, look_up: Callable[[str], list[str]]) -> Resolver:
        """One that calls back through a queue, as by callFromThread."""

        def seen(name: str) -> list[str]:
            self.seen.put(threading.current_thread())
            return look_up(name)

        return Resolver(lambda *call: self.calls.put(call), seen)

    def turn(self) -> None:
        """The reactor's thread runs the next call."""
        call, *arguments = self.calls.get(timeout=10)
        call(*arguments)

    def test_answers_come_in_the_reactors_thread(self) -> None:
        """Nothing is told before its turn."""
        answers: list[list[str]] = []
        self.resolver(lambda name: [f"{name}!"]).resolve("a", answers.append)
        thread = self.seen.get(timeout=10)
        self.assertEqual(("gatewayd-resolver", True), (thread.name, thread.daemon))
        self.assertEqual([], answers)
        self.turn()
        self.assertEqual([["a!"]], answers)

    def test_failures_are_no_addresses(self) -> None:
        """Whatever the system says."""
        errors = [
            socket.gaierror(-2, "Name or service not known"),
            TimeoutError(),
            UnicodeError("label too long"),
        ]

        def look_up(name: str) -> list[str]:
            raise errors[int(name)]

        resolver = self.resolver(look_up)
        answers: list[list[str]] = []
        for number in range(len(errors)):
            resolver.resolve(str(number), answers.append)
            self.turn()
        self.assertEqual([[]] * 3, answers)

    def test_one_thread_where_one_is_enough(self) -> None:
        """It is used again."""
        resolver = self.resolver(lambda name: [])
        for _ in range(5):
            resolver.resolve("a", lambda found: None)
            self.turn()
        threads = {self.seen.get(timeout=10) for _ in range(5)}
        self.assertEqual(1, len(threads))

    def test_four_at_most(self) -> None:
        """Where all hang, the next ones wait until one is back; nobody else's threads are taken."""

        def look_up(name: str) -> list[str]:
            self.release.wait(30)
            return [name]

        resolver = self.resolver(look_up)
        answers: list[list[str]] = []
        before = {thread for thread in threading.enumerate() if thread.name == "gatewayd-resolver"}
        for number in range(9):
            resolver.resolve(f"{number}", answers.append)
        working = {self.seen.get(timeout=10) for _ in range(4)}
        self.assertEqual({"gatewayd-resolver"}, {thread.name for thread in working})
        made = {thread for thread in threading.enumerate() if thread.name == "gatewayd-resolver"}
        self.assertEqual(4, len(made - before))
        self.assertTrue(self.seen.empty())
        self.release.set()
        for _ in range(9):
            self.turn()
        self.assertEqual([[str(number)] for number in range(9)], sorted(answers))

    def test_the_systems_resolver(self) -> None:
        """Sorted, each once, without link-local zones."""

        def getaddrinfo(host: str, port: None, *, type: int) -> list[Any]:
            self.assertEqual(("a.example", socket.SOCK_STREAM), (host, type))
            found = ["10.0.0.2", "fe80::1%eth0", "10.0.0.1", "10.0.0.2", "fd00::1"]
            return [(2, 1, 6, "", (address, 0)) for address in found]

        self.patch(socket, "getaddrinfo", getaddrinfo)
        self.assertEqual(["10.0.0.1", "10.0.0.2", "fd00::1"], addresses_of("a.example"))


class StaticMembers(SynchronousTestCase):
    """What names stand for becomes members."""

    def make(self, *members: tuple[str, int]) -> Members:
        """The service of an upstream, started."""
        world = World()
        self.clock = world.clock
        self.resolver: Any = FakeResolver()
        self.warnings: list[str] = []
        self.upstream = Upstream(
            "u",
            balancer=RoundRobin,
            pool=world.pool,
            counters=UpstreamCounters(),
            random=Random(1),
            clock=world.clock.seconds,
            wheel=world.wheel,
            later=lambda call: None,
        )
        service = Members(
            self.upstream,
            [StaticMember(parse_host_port(text), weight) for text, weight in members],
            self.resolver,
            world.clock,
            refresh=30.0,
            timeout=2.0,
            warn=self.warnings.append,
        )
        service.startService()
        return service

    def found(self) -> list[tuple[str, str, int]]:
        """The endpoints: address, name as written, weight."""
        return [(each.label, each.name, each.weight) for each in self.upstream.endpoints]

    def test_addresses_are_there_at_once(self) -> None:
        """Nothing is looked up."""
        self.make(("10.0.0.1:80", 1), ("[fd00::1]:80", 3))
        self.assertEqual(
            [("10.0.0.1:80", "10.0.0.1:80", 1), ("[fd00::1]:80", "[fd00::1]:80", 3)], self.found()
        )
        self.assertEqual(([], []), (self.resolver.asked, self.clock.getDelayedCalls()))

    def test_names_join_them(self) -> None:
        """In the order of the configuration, each address once, with the first's weight."""
        self.make(("a.example:80", 2), ("10.0.0.1:80", 5), ("10.0.0.9:80", 1))
        self.assertEqual(["10.0.0.1:80", "10.0.0.9:80"], [each[0] for each in self.found()])
        self.resolver.answer(["10.0.0.1", "10.0.0.2"])
        self.assertEqual(
            [
                ("10.0.0.1:80", "a.example:80", 2),
                ("10.0.0.2:80", "a.example:80", 2),
                ("10.0.0.9:80", "10.0.0.9:80", 1),
            ],
            self.found(),
        )

    def test_names_alone(self) -> None:
        """Until the first answer the upstream has had no membership: requests wait for it."""
        self.make(("a.example:80", 1))
        self.assertFalse(self.upstream.known)
        self.resolver.answer([])
        self.assertFalse(self.upstream.known)
        self.clock.advance(1)
        self.resolver.answer(["10.0.0.1"])
        self.assertTrue(self.upstream.known)
        self.assertEqual([("10.0.0.1:80", "a.example:80", 1)], self.found())
        self.assertEqual(
            ["upstream u: a.example has no address; kept addresses: none"], self.warnings
        )

    def test_addresses_that_change(self) -> None:
        """Who stays is the same endpoint."""
        self.make(("a.example:80", 1))
        self.resolver.answer(["10.0.0.1", "10.0.0.2"])
        _, second = self.upstream.endpoints
        self.clock.advance(30)
        self.resolver.answer(["10.0.0.2", "10.0.0.3"])
        self.assertEqual(["10.0.0.2:80", "10.0.0.3:80"], [each[0] for each in self.found()])
        self.assertIs(second, self.upstream.endpoints[0])

    def test_the_end(self) -> None:
        """Nothing runs on."""
        service = self.make(("a.example:80", 1))
        service.stopService()
        self.resolver.answer(["10.0.0.1"])
        self.assertEqual(([], []), (self.found(), self.clock.getDelayedCalls()))
