"""workers.supervisor: whatever becomes of its workers, there are as many as there should be."""

from __future__ import annotations

import os
import signal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from gatewayd import __version__
from gatewayd.core.figures import Figures
from gatewayd.net import link as ends
from gatewayd.workers import link as topics
from gatewayd.workers import supervisor as supervisors
from gatewayd.workers.link import Configuration, Link
from gatewayd.workers.supervisor import Supervisor, WorkerProcess

quick = settings(deadline=None, database=None, max_examples=60)


class Hand:
    """A worker's process, as far as its supervisor sees it."""

    def __init__(self, world: World, protocol: WorkerProcess, pid: int) -> None:
        self.protocol = protocol
        self.pid = pid
        self.environment: dict[str, str] = {}
        self.told: list[tuple[str, Any]] = []
        self.silent: set[str] = set()  # topics that it never answers
        self.serving = False
        self._world = world
        self.link = Link(
            {
                topic: lambda value, topic=topic: self._hear(topic, value)
                for topic in (
                    topics.CONFIGURE,
                    topics.MEMBERS,
                    topics.SHARE,
                    topics.REST,
                    topics.LEAVE,
                    topics.LOGGING,
                    topics.FIGURES,
                    topics.BUCKETS,
                )
            },
            lambda: None,
        )
        self.figures = Figures()

    def _hear(self, topic: str, value: Any) -> Any:
        self.told.append((topic, value))
        if topic in self.silent:
            return Deferred()
        if topic == topics.FIGURES:
            self.link.tell(topics.FIGURES, self.figures)
        return None

    def heard(self, topic: str) -> list[Any]:
        """What it was told of that."""
        return [value for each, value in self.told if each == topic]

    def hello(self, version: str = __version__) -> None:
        """It runs."""
        self.link.tell(topics.HELLO, version)
        self._world.settle()

    def beat(self, busy: float = 0.1) -> None:
        """It lives."""
        self.link.tell(topics.BEAT, (busy, 0.0))
        self._world.settle()

    def end(self, by: int | None = None) -> None:
        """The process ends, of itself or by a signal."""
        self._world.hands.remove(self)
        why = ProcessDone(0) if by is None else ProcessTerminated(None, by)
        self.protocol.processEnded(Failure(why))
        self._world.settle()


class World(MemoryReactorClock):
    """A reactor whose processes are hands."""

    def __init__(self) -> None:
        super().__init__()
        self.hands: list[Hand] = []
        self.spawned = 0
        self.full = False
        self.pumps: list[IOPump] = []
        self.next_link: Any = None

    def spawnProcess(
        self, protocol: Any, executable: str, args: Any, env: dict[str, str], childFDs: Any
    ) -> None:
        """Twisted: begin one."""
        if self.full:
            raise OSError(11, "Resource temporarily unavailable")
        self.spawned += 1
        hand = Hand(self, protocol, 1000 + self.spawned)
        hand.environment = env
        protocol.transport = hand
        self.hands.append(hand)
        self.pumps.append(
            connect(
                protocol.link,
                FakeTransport(protocol.link, True),
                hand.link,
                FakeTransport(hand.link, False),
            )
        )

    def settle(self) -> None:
        """Deliver what is under way."""
        while any(pump.pump() for pump in self.pumps):
            pass


class Fake:
    """Of the process, and of what serves: as much as a supervisor asks of them."""

    def __init__(self, reactor: World) -> None:
        self.reactor = reactor
        self.via = "via"
        self.said: list[str] = []
        self.warn = self.notice = self.said.append
        self.context = self
        self.clock = reactor.seconds
        self.upstreams: dict[str, Any] = {}
        self.listeners: dict[str, Any] = {}
        self.routes: list[Any] = []


class SupervisorTestCase(SynchronousTestCase):
    """Makes one on a clock, with hands for processes."""

    def setUp(self) -> None:
        self.world = World()
        self.killed: list[int] = []
        self.loaded = "first"
        self.patch(supervisors, "monotonic", self.world.seconds)
        self.patch(ends, "attach", lambda fd, protocol, reactor: None)
        self.patch(os, "kill", self.kill)

    def made(self, least: int = 2, most: int = 2) -> Supervisor:
        """Started, and its workers with it."""
        self.world.advance(1000.0)
        self.process: Any = Fake(self.world)
        found = Supervisor(
            self.process,
            self.process,
            lambda: self.loaded,
            least=least,
            most=most,
        )
        found.startService()
        self.world.run()
        return found

    def kill(self, pid: int, number: int) -> None:
        """As of os: the hand ends by it."""
        self.assertEqual(signal.SIGKILL, number)
        self.killed.append(pid)

    def up(self, least: int = 2, most: int = 2) -> Supervisor:
        """All serve."""
        found = self.made(least, most)
        for hand in self.world.hands:
            hand.hello()
        self.assertEqual(["up"] * least, self.states(found))
        return found

    def states(self, supervisor: Supervisor) -> list[str]:
        """Of the workers, by number."""
        return [each["state"] for each in supervisor.shown()]

    def live(self, seconds: float, *, but: tuple[Hand, ...] = (), busy: float = 0.1) -> None:
        """Time passes, and who lives says so."""
        for _ in range(round(seconds)):
            for hand in self.world.hands:
                if hand not in but:
                    hand.beat(busy)
            self.world.advance(1.0)
            self.world.settle()


class Beginning(SupervisorTestCase):
    """From a process to one that serves."""

    def test_begins(self) -> None:
        """Each is told everything once it says hello, and serves when it has acted on that."""
        supervisor = self.made()
        self.assertEqual(["starting", "starting"], self.states(supervisor))
        self.assertEqual(["2 of 2 workers"], supervisor.missing())
        first, second = self.world.hands
        self.assertEqual([], first.told)
        first.silent.add(topics.CONFIGURE)
        first.hello()
        (given,) = first.heard(topics.CONFIGURE)
        self.assertIsInstance(given, Configuration)
        self.assertEqual(("first", 1, "via", False), (*given[:3], given.draining))
        self.assertEqual((0, 2), tuple(given.share))  # the other one is about to serve
        self.assertEqual(["starting", "starting"], self.states(supervisor))
        self.assertFalse(supervisor.alive)
        second.hello()
        self.assertEqual(["starting", "up"], self.states(supervisor))
        self.assertEqual((["1 of 2 workers"], True), (supervisor.missing(), supervisor.alive))

    def test_environment(self) -> None:
        """A worker does not speak for the service, nor take its sockets."""
        os.environ["LISTEN_FDS"] = os.environ["NOTIFY_SOCKET"] = "x"
        self.addCleanup(os.environ.pop, "LISTEN_FDS")
        self.addCleanup(os.environ.pop, "NOTIFY_SOCKET")
        self.made()
        environment = self.world.hands[0].environment
        self.assertEqual(set(), {"LISTEN_FDS", "NOTIFY_SOCKET"} & set(environment))
        self.assertIn("PATH", environment)

    def test_another_version(self) -> None:
        """Is said aloud: a package was changed under a running gateway."""
        self.made()
        self.world.hands[0].hello("9.9.9")
        self.assertIn("version 9.9.9", self.process.said[0])
        self.assertIn("gatewayd upgrade", self.process.said[0])

    def test_no_process(self) -> None:
        """Tried again, with back-off."""
        supervisor = self.made()
        for hand in list(self.world.hands):
            self.world.full = True
            hand.end(signal.SIGKILL)
        self.world.advance(0.0)
        self.live(3)
        self.assertEqual([], supervisor.shown())
        self.assertTrue(4 <= supervisor.restarts["start"] <= 12)
        self.world.full = False
        self.live(30)
        self.assertEqual(2, len(supervisor.shown()))

    def test_one_that_cannot(self) -> None:
        """Is killed, for it would never serve."""
        self.made()
        hand = self.world.hands[0]
        hand.link._handlers = {topics.CONFIGURE: self.refuse}
        hand.hello()
        self.assertEqual([hand.pid], self.killed)
        self.assertIn("worker 1 cannot serve: no room", self.process.said)

    def refuse(self, given: Any) -> None:
        """As a worker that finds no room for its logs."""
        raise OSError("no room")

    def test_one_that_never_serves(self) -> None:
        """Is killed and replaced after START."""
        supervisor = self.made()
        self.world.hands[0].hello()
        slow = self.world.hands[1]
        self.live(29, but=(slow,))
        self.assertEqual([], self.killed)
        self.live(3, but=(slow,))
        self.assertEqual([slow.pid], self.killed)
        slow.end(signal.SIGKILL)
        self.assertEqual(1, supervisor.restarts["start"])


class Dying(SupervisorTestCase):
    """Who dies is replaced, and who hangs."""

    def test_causes(self) -> None:
        """Counted by what it was; what serves for long is replaced at once."""
        supervisor = self.up()
        for by, cause in ((None, "exit"), (signal.SIGSEGV, "signal")):
            self.live(20)
            self.world.hands[0].end(by)
            self.world.advance(0.0)
            self.assertEqual(2, len(self.world.hands), cause)
            self.assertEqual(1, supervisor.restarts[cause])
            self.world.hands[-1].hello()
        self.assertEqual([1, 2], [each["number"] for each in supervisor.shown()])

    def test_back_off(self) -> None:
        """One that dies again and again is begun ever more seldom, at most half a minute apart."""
        self.up(1, 1)
        waits = []
        for _ in range(12):
            self.world.hands[0].end()
            began = self.world.seconds()
            while not self.world.hands:
                self.world.advance(0.05)
            waits.append(self.world.seconds() - began)
            self.world.hands[0].hello()
        due = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30]
        for found, expected in zip(waits, due, strict=True):
            self.assertTrue(expected - 0.01 <= found <= expected + 0.11, waits)
        self.live(11)
        self.world.hands[0].end()
        self.world.advance(0.0)
        self.assertEqual(1, len(self.world.hands))

    def test_hangs(self) -> None:
        """No heartbeat for HANG seconds; killed once, and the other one is left alone."""
        supervisor = self.up()
        hung = self.world.hands[0]
        self.live(5, but=(hung,))
        self.assertEqual([], self.killed)
        self.live(4, but=(hung,))
        self.assertEqual([hung.pid], self.killed)
        self.assertEqual(["hung", "up"], self.states(supervisor))
        hung.end(signal.SIGKILL)
        self.assertEqual({"exit": 0, "signal": 0, "hung": 1, "start": 0}, supervisor.restarts)

    def test_the_supervisor_stood_still(self) -> None:
        """Stopped and continued, it has heard nobody, and blames nobody."""
        supervisor = self.up()
        self.live(3)
        self.world.advance(60.0)
        self.live(10)
        self.assertEqual(([], ["up", "up"]), (self.killed, self.states(supervisor)))

    def test_figures_stay(self) -> None:
        """What a dead one had counted stays counted; what it had open does not."""
        supervisor = self.up()
        for number, hand in enumerate(self.world.hands, 1):
            hand.figures.count("requests", [(("all",), 10.0 * number)])
            hand.figures.gauge("client_connections", [(("web",), 3.0)])
        before = self.figures(supervisor)
        self.assertEqual(({("all",): 30.0}, {("web",): 6.0}), before)
        self.world.hands[0].end(signal.SIGKILL)
        self.assertEqual(({("all",): 30.0}, {("web",): 3.0}), self.figures(supervisor))

    def figures(self, supervisor: Supervisor) -> tuple[Any, Any]:
        """Requests and connections of all."""
        done = supervisor.figures()
        self.world.settle()
        found = self.successResultOf(done)
        return found.counters["requests"], found.gauges["client_connections"]

    def test_one_that_does_not_answer(self) -> None:
        """Does not hold up the others' figures: what it said last counts."""
        supervisor = self.up()
        for hand in self.world.hands:
            hand.figures.count("requests", [(("all",), 10.0)])
        self.figures_or_none(supervisor)
        self.world.hands[0].silent.add(topics.FIGURES)
        self.world.hands[1].figures = Figures()
        self.world.hands[1].figures.count("requests", [(("all",), 15.0)])
        done = supervisor.figures()
        self.world.settle()
        self.assertNoResult(done)
        self.world.advance(2.0)
        self.assertEqual({("all",): 25.0}, self.successResultOf(done).counters["requests"])

    def figures_or_none(self, supervisor: Supervisor) -> None:
        """Have all say theirs."""
        done = supervisor.figures()
        self.world.settle()
        self.successResultOf(done)


class Ruling(SupervisorTestCase):
    """What all are told."""

    def test_shares(self) -> None:
        """Limits are divided among those that serve or are about to."""
        self.up(3, 3)

        def shares() -> list[tuple[int, int]]:
            return [tuple(hand.heard(topics.SHARE)[-1]) for hand in self.world.hands]

        self.assertEqual([(0, 3), (1, 3), (2, 3)], shares())
        self.world.hands[1].end(signal.SIGKILL)
        self.assertEqual([(0, 2), (1, 2)], shares())
        self.world.advance(0.2)
        self.world.hands[2].hello()
        self.assertEqual([(0, 3), (2, 3), (1, 3)], shares())

    def test_leave(self) -> None:
        """All are asked to, nobody is replaced, and it is over when the last one is gone."""
        supervisor = self.up()
        done = supervisor.leave(7.0)
        self.assertIs(done, supervisor.leave(1.0))
        self.world.settle()
        self.assertEqual([[7.0], [7.0]], [hand.heard(topics.LEAVE) for hand in self.world.hands])
        self.world.hands[0].end()
        self.world.advance(1.0)
        self.assertNoResult(done)
        self.assertEqual(1, len(self.world.hands))
        self.world.hands[0].end()
        self.successResultOf(done)
        self.assertEqual([0], list({*supervisor.restarts.values()}))

    def test_leave_by_force(self) -> None:
        """Who has not left in that time is killed."""
        supervisor = self.up()
        supervisor.leave(7.0)
        self.live(11)
        self.assertEqual([], self.killed)
        self.live(2)
        self.assertEqual([hand.pid for hand in self.world.hands], self.killed)

    def test_reload(self) -> None:
        """Those who do not confirm it are named; who died meanwhile begins with it anyway."""
        supervisor = self.up(3, 3)
        self.loaded = "second"
        good, silent, dies = self.world.hands
        silent.silent.add(topics.CONFIGURE)
        dies.silent.add(topics.CONFIGURE)
        done = supervisor.configure([])
        self.world.settle()
        self.assertNoResult(done)
        self.assertEqual({2, 3}, supervisor.lagging)
        assert dies.link.transport is not None
        dies.link.transport.abortConnection()
        dies.end(signal.SIGKILL)
        self.assertEqual({2}, supervisor.lagging)
        self.world.advance(0.2)
        self.world.hands[-1].hello()
        for hand in (good, silent, self.world.hands[-1]):
            self.assertEqual("second", hand.heard(topics.CONFIGURE)[-1].loaded)

    def test_who_comes_later(self) -> None:
        """Learns what the others were told before."""
        supervisor = self.up()
        supervisor.rest(True)
        supervisor.set_logging("debug", ["pool"])
        self.world.hands[0].end(signal.SIGKILL)
        self.world.advance(0.2)
        late = self.world.hands[-1]
        late.hello()
        self.assertTrue(late.heard(topics.CONFIGURE)[-1].draining)
        self.assertEqual([("debug", ["pool"])], late.heard(topics.LOGGING))

    def test_by_load(self) -> None:
        """One more under load, one fewer after it; who leaves is not replaced."""
        supervisor = self.up(1, 2)
        self.live(4, busy=0.9)
        self.assertEqual(1, len(self.world.hands))
        self.live(8, busy=0.9)
        self.assertEqual(2, len(self.world.hands))
        self.world.hands[1].hello()
        self.live(80, busy=0.1)
        self.assertEqual([[], [None]], [hand.heard(topics.LEAVE) for hand in self.world.hands])
        self.world.hands[1].end()
        self.live(60)
        self.assertEqual((["up"], 1), (self.states(supervisor), len(self.world.hands)))
        self.assertIn("load is high: 2 workers", self.process.said)

    def test_load_comes_back(self) -> None:
        """While one is leaving: it is replaced when it is gone, and not before."""
        supervisor = self.up(1, 2)
        self.live(12, busy=0.9)
        self.world.hands[1].hello()
        self.live(80, busy=0.1)
        leaving = self.world.hands[1]
        self.live(15, busy=0.9)
        self.assertEqual(["up", "leaving"], self.states(supervisor))
        leaving.end()
        self.world.advance(0.0)
        self.assertEqual(["up", "starting"], self.states(supervisor))

    EVENTS = st.lists(
        st.tuples(
            st.sampled_from(("hello", "beat", "die", "stop", "time", "time", "full", "room")),
            st.integers(0, 3),
        ),
        max_size=80,
    )

    @quick
    @given(EVENTS)
    def test_any_order(self, events: list[tuple[str, int]]) -> None:
        """There are never too many, and in the end, with peace, there are as many as there should be."""
        self.world = World()
        self.killed.clear()
        supervisors.monotonic = self.world.seconds
        supervisor = self.made(3, 3)
        for what, which in events:
            hands = self.world.hands
            hand = hands[which % len(hands)] if hands else None
            if what == "time":
                self.world.advance((0.1, 1.0, 6.0, 40.0)[which])
            elif what in ("full", "room"):
                self.world.full = what == "full"
            elif hand is None:
                continue
            elif what == "hello" and not hand.serving:
                hand.serving = True
                hand.hello()
            elif what == "beat":
                hand.beat()
            elif what == "die":
                hand.end(signal.SIGKILL)
            self.bury()
            self.assertTrue(len(self.world.hands) <= 3)
            self.assertEqual(len(self.world.hands), len(supervisor.workers))
        self.world.full = False
        for _ in range(100):
            for hand in list(self.world.hands):
                if not hand.serving:
                    hand.serving = True
                    hand.hello()
            self.live(1)
            self.bury()
        self.assertEqual(["up"] * 3, self.states(supervisor))
        self.assertEqual(self.world.spawned - 3, sum(supervisor.restarts.values()) - self.refused())

    def bury(self) -> None:
        """Who was killed ends."""
        for hand in list(self.world.hands):
            if hand.pid in self.killed:
                hand.end(signal.SIGKILL)

    def refused(self) -> int:
        """How often there was no process to be had."""
        return sum("cannot be started" in each for each in self.process.said)
