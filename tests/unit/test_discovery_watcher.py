"""discovery.watcher: children and their data, each read as seldom as can be, and no silence believed."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.tracing import Trace
from gatewayd.discovery.client import Node, NotAllowed
from gatewayd.discovery.watcher import Watcher
from gatewayd.testing.zookeeper import MemoryClient, MemoryZooKeeper

PATH = "/services/users"


def member(number: int) -> str:
    """A node's path."""
    return f"{PATH}/m{number}"


def data(number: int, weight: int = 1) -> bytes:
    """What it says."""
    return f"10.0.{number >> 8}.{number & 255}:80 weight={weight}".encode()


class WatcherTestCase(SynchronousTestCase):
    """A watcher on an ensemble in memory."""

    def setUp(self) -> None:
        self.zookeeper = MemoryZooKeeper()
        self.client = MemoryClient(self.zookeeper)
        self.clock = Clock()
        self.lists: list[dict[str, int]] = []
        self.counts: dict[str, int] = {}
        self.warnings: list[str] = []
        self.traced: list[str] = []

    def make(self, form: str = "plain", path: str = PATH) -> Watcher:
        """A watcher that has begun."""
        trace = Trace("zookeeper", self.traced.append)
        trace.on = True
        self.client.start(lambda state: None)
        self.client.connect()

        def count(event: str) -> None:
            self.counts[event] = self.counts.get(event, 0) + 1

        watcher = Watcher(
            path,
            form,
            "",
            self.client,
            self.clock,
            Random(1),
            watch_timeout=10.0,
            found=lambda names: self.lists.append({str(a): w for a, w in names.items()}),
            count=count,
            warn=self.warnings.append,
            trace=trace,
        )
        self.addCleanup(watcher.stop)
        watcher.start_over(0.0)
        self.clock.advance(0)
        return watcher

    def register(self, *numbers: int, weight: int = 1) -> None:
        """Members say something."""
        for number in numbers:
            self.zookeeper.set(member(number), data(number, weight))

    def reads(self) -> list[str]:
        """Paths read since the last time."""
        found, self.client.reads = self.client.reads, []
        return found

    def told(self) -> list[dict[str, int]]:
        """Lists told since the last time."""
        found, self.lists = self.lists, []
        return found

    def go_by(self, seconds: float) -> None:
        """Time passes bit by bit."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)


def listing(*numbers: int, weight: int = 1) -> dict[str, int]:
    """A list as it is told."""
    return {f"10.0.{n >> 8}.{n & 255}:80": weight for n in numbers}


class Reads(WatcherTestCase):
    """Nothing is read twice."""

    def test_once(self) -> None:
        """The children, and each of them."""
        self.register(1, 2)
        self.make()
        self.assertEqual(([PATH, member(2), member(1)]), self.reads())
        self.assertEqual([listing(1, 2)], self.told())
        self.go_by(60)
        self.assertEqual(([], []), (self.reads(), self.told()))
        self.assertEqual(["/services/users: 2 children, 2 to read"], self.traced)

    def test_data(self) -> None:
        """A change re-reads that node alone, again and again."""
        self.register(*range(100))
        self.make()
        self.reads()
        for weight in (2, 3, 4):
            self.told()
            self.register(7, weight=weight)
            self.assertEqual([member(7)], self.reads())
            self.assertEqual([{**listing(*range(100)), "10.0.0.7:80": weight}], self.told())
        self.assertEqual({"data": 3}, self.counts)

    def test_children(self) -> None:
        """A join reads the list and the new one; a removal the list alone."""
        self.register(1, 2)
        self.make()
        self.reads()
        self.register(3)
        self.clock.advance(0.05)
        self.assertEqual([PATH, member(3)], self.reads())
        self.zookeeper.delete(member(1))
        self.clock.advance(0.05)
        self.assertEqual([PATH], self.reads())
        self.assertEqual([listing(1, 2), listing(1, 2, 3), listing(2, 3)], self.told())

    def test_the_same_name_again(self) -> None:
        """Gone and back within the gathering time: read anew, for it may say something else."""
        self.register(1, 2)
        self.make()
        self.told()
        self.zookeeper.delete(member(1))
        self.register(1, weight=5)
        self.clock.advance(0.05)
        self.assertEqual({**listing(2), **listing(1, weight=5)}, self.told()[-1])

    def test_a_mass_registration(self) -> None:
        """A thousand within the gathering time are one more reading of the list."""
        self.register(0)
        self.make()
        self.reads()
        for number in range(1, 1001):
            self.register(number)
            if number % 200 == 0:
                self.clock.advance(0.01)
        self.clock.advance(0.05)
        reads = self.reads()
        self.assertLessEqual(reads.count(PATH), 2)
        self.assertEqual(1000, len(set(reads) - {PATH}))
        self.assertEqual(1000, len(reads) - reads.count(PATH))
        self.assertEqual([listing(*range(1001))], self.told()[-1:])

    def test_names_alone(self) -> None:
        """dubbo: no data is fetched."""
        for number in (1, 2):
            self.zookeeper.set(f"{PATH}/http%3A%2F%2F10.0.0.{number}%3A80%2Fx%3Fweight%3D1")
        self.make("dubbo")
        self.assertEqual(([PATH], [listing(1, 2)]), (self.reads(), self.told()))

    def test_a_slash_at_the_end(self) -> None:
        """Of the path: never two."""
        self.zookeeper.set("/10.0.0.1:80")
        self.make(path="/")
        self.assertEqual(["/", "/10.0.0.1:80"], self.reads())

    def test_reconnected(self) -> None:
        """All is read anew; what is under way from before counts no more."""
        self.register(1, 2)
        watcher = self.make()
        self.reads()
        self.zookeeper.silent = True
        self.register(1, weight=2)
        self.client.suspend()
        self.zookeeper.silent = False
        self.client.connect()
        watcher.start_over(0.5)
        self.told()
        self.go_by(0.6)
        self.assertEqual([PATH, member(1), member(1), member(2)], sorted(self.reads()))
        self.go_by(60)
        self.assertEqual([{**listing(2), **listing(1, weight=2)}], self.told())
        self.register(1, 2, weight=7)
        self.assertEqual(listing(1, 2, weight=7), self.told()[-1])

    def test_an_answer_of_before(self) -> None:
        """It comes after all was read anew, and says what is no longer so."""
        self.register(1, 2)
        watcher = self.make()
        late: Deferred[Node] = Deferred()
        get = self.client.get
        self.patch(self.client, "get", lambda path: late)
        self.register(1, weight=2)
        self.patch(self.client, "get", get)
        watcher.start_over(0)
        self.clock.advance(0)
        self.told()
        late.callback(Node(data(1, weight=99), 0))
        self.register(2, weight=2)
        self.assertEqual([listing(1, 2, weight=2)], self.told())

    def test_joined_while_all_is_read_anew(self) -> None:
        """Whoever was not read anew yet still is, and is watched."""
        pending: list[tuple[str, Deferred[Node]]] = []
        asked: list[str] = []
        get = self.client.get

        def later(path: str) -> Deferred[Node]:
            answer: Deferred[Node] = Deferred()
            pending.append((path, answer))
            asked.append(path)
            return answer

        def answer_all() -> None:
            while pending:
                path, answer = pending.pop(0)
                get(path).chainDeferred(answer)

        self.register(*range(1000))
        watcher = self.make()
        self.patch(self.client, "get", later)
        watcher.start_over(0.0)
        self.clock.advance(0)
        self.assertEqual(100, len(pending))
        self.zookeeper.set(member(2000), data(2000))
        self.clock.advance(0.05)
        self.assertEqual(100, len(pending))
        read = {path for path, _ in pending}
        self.assertEqual([listing(*range(1000))], self.told())
        answer_all()
        self.assertEqual([listing(*range(1000), 2000)], self.told())
        self.assertEqual((1001, 1001), (len(asked), len(set(asked))))
        # All of them are watched once more: a change of any is seen.
        self.patch(self.client, "get", get)
        unread = [number for number in range(1000) if member(number) not in read]
        self.register(*unread, weight=3)
        self.assertEqual(
            3,
            self.told()[-1][
                "10.0.0.1:80" if 1 in unread else f"10.0.{unread[0] >> 8}.{unread[0] & 255}:80"
            ],
        )
        self.assertEqual(900, self.counts["data"])

    def test_stopped(self) -> None:
        """Nothing is read any more."""
        self.register(1)
        watcher = self.make()
        self.reads()
        self.register(2)
        watcher.stop()
        self.register(1, weight=4)
        watcher.start_over(0.0)
        self.go_by(60)
        self.assertEqual([], self.reads())
        self.assertEqual([], self.clock.getDelayedCalls())


class Missing(WatcherTestCase):
    """The path need not exist."""

    def test_created_deleted_created(self) -> None:
        """It is waited for; that it was deleted is an empty list."""
        watcher = self.make()
        self.assertTrue(watcher.missing)
        self.assertEqual([PATH, PATH], self.reads())
        self.assertEqual([], self.told())
        self.go_by(60)
        self.assertEqual([], self.reads())
        self.register(1)
        self.go_by(0.2)
        self.assertEqual(([listing(1)], False), (self.told(), watcher.missing))
        self.zookeeper.delete(PATH)
        self.go_by(0.2)
        self.assertEqual(([{}], True), (self.told(), watcher.missing))
        self.register(2, 3)
        self.go_by(0.2)
        self.assertEqual(([listing(2, 3)], False), (self.told()[-1:], watcher.missing))
        said = f"{PATH} does not exist in ZooKeeper: waiting for it"
        self.assertEqual([said, said], self.warnings)
        self.assertFalse(watcher.failing)

    def test_created_between_two_questions(self) -> None:
        """It was not there for the list and is there for the watch."""
        exists = self.client.exists_and_watch

        def created(path: str) -> Any:
            self.register(1)
            return exists(path)

        self.patch(self.client, "exists_and_watch", created)
        self.make()
        self.go_by(0.2)
        self.assertEqual([listing(1)], self.told())

    def test_the_watch_is_silent(self) -> None:
        """That is tried again as well."""
        self.patch(
            self.client, "exists_and_watch", lambda path: (Deferred(lambda _: None), Deferred())
        )
        watcher = self.make()
        self.go_by(12)
        self.assertEqual(1, self.counts["watch_timeout"])
        self.assertGreater(self.reads().count(PATH), 1)
        self.assertFalse(watcher.failing)
        watcher.start_over(0)


class Failing(WatcherTestCase):
    """Reads that are refused or not answered."""

    def test_refused(self) -> None:
        """An ACL: said once, tried again ever more slowly, and at once right when it is mended."""
        self.register(1)
        self.zookeeper.forbidden.add(PATH)
        watcher = self.make()
        self.assertTrue(watcher.failing)
        self.go_by(60)
        self.assertEqual(
            [f"{PATH} cannot be read: the node's ACL refuses us; set zookeeper.auth"],
            self.warnings,
        )
        self.assertTrue(8 < len(self.reads()) < 40)
        self.zookeeper.forbidden.clear()
        self.go_by(8)
        self.assertEqual(([listing(1)], False), (self.told(), watcher.failing))
        self.assertGreater(self.counts["read_failed"], 8)

    def test_refused_for_days(self) -> None:
        """It is tried for ever."""
        self.register(1)
        self.zookeeper.forbidden.add(PATH)
        self.make()
        for _ in range(3000):
            self.clock.advance(8)
        self.zookeeper.forbidden.clear()
        self.clock.advance(8)
        self.assertEqual([listing(1)], self.told())

    def test_silent_list(self) -> None:
        """Given up after watch_timeout, counted, and retried; the last list stands."""
        self.register(1)
        watcher = self.make()
        self.told()
        self.zookeeper.silent = True
        self.register(2)
        self.go_by(9.9)
        self.assertNotIn("watch_timeout", self.counts)
        self.go_by(0.4)
        self.assertEqual((1, True), (self.counts["watch_timeout"], watcher.failing))
        self.go_by(30)
        self.assertGreaterEqual(self.counts["watch_timeout"], 3)
        said = f"{PATH} cannot be read: no answer within zookeeper.watch_timeout"
        self.assertEqual([said], self.warnings)
        self.zookeeper.silent = False
        self.go_by(20)
        self.assertEqual([listing(1, 2)], self.told()[-1:])

    def test_silent_data(self) -> None:
        """What a member said before counts on, and it is asked again."""
        self.register(1, 2)
        self.make()
        self.told()
        self.reads()
        self.zookeeper.silent = True
        self.register(1, weight=4)
        self.zookeeper.silent = False
        self.go_by(9.9)
        self.assertEqual([], self.told())
        self.go_by(2)
        self.assertEqual([member(1), PATH, member(1)], self.reads())
        self.assertEqual({**listing(2), **listing(1, weight=4)}, self.told()[-1])
        self.assertEqual((1, None), (self.counts["watch_timeout"], self.counts.get("unreadable")))

    def test_silent_data_of_all(self) -> None:
        """A start where no member's data comes is no empty list."""
        self.register(1, 2)
        get = self.client.get
        self.patch(self.client, "get", lambda path: Deferred(lambda _: None))
        self.make()
        self.go_by(10.1)
        self.assertEqual([], self.told())
        self.assertEqual(2, self.counts["watch_timeout"])
        self.patch(self.client, "get", get)
        self.go_by(12)
        self.assertEqual([listing(1, 2)], self.told())

    def test_one_of_many_is_silent(self) -> None:
        """The others are members meanwhile."""
        self.register(1, 2, 3)
        get = self.client.get
        self.patch(
            self.client,
            "get",
            lambda path: Deferred(lambda _: None) if path == member(2) else get(path),
        )
        self.make()
        self.go_by(11)
        self.assertEqual(listing(1, 3), self.told()[0])
        self.patch(self.client, "get", get)
        self.go_by(12)
        self.assertEqual(listing(1, 2, 3), self.told()[-1])

    def test_away(self) -> None:
        """Nothing is tried until the service says that the session is back."""
        self.register(1)
        watcher = self.make()
        self.told()
        self.register(2)
        self.client.suspend()
        self.go_by(60)
        self.assertEqual([], self.told())
        self.assertEqual(({"children": 1}, []), (self.counts, self.warnings))
        self.client.connect()
        watcher.start_over(0)
        self.go_by(0.2)
        self.assertEqual([listing(1, 2)], self.told())

    def test_away_in_the_middle(self) -> None:
        """The list came, and then the connection went: that is no list."""
        self.register(1, 2)
        get_children = self.client.get_children_and_watch

        def then_away(path: str) -> Any:
            answer = get_children(path)
            self.client.suspend()
            return answer

        self.patch(self.client, "get_children_and_watch", then_away)
        watcher = self.make()
        self.go_by(60)
        self.assertEqual(([], []), (self.told(), self.warnings))
        self.assertEqual("<Watcher /services/users nodes=0 reading=0>", repr(watcher))


class Unreadable(WatcherTestCase):
    """Nodes that name no member."""

    def test_skipped(self) -> None:
        """By name, with the reason, once each; the others are members."""
        self.register(1)
        self.zookeeper.set(member(2), b"rubbish")
        self.zookeeper.set(member(3), b"x" * (1 << 20))
        watcher = self.make()
        self.assertEqual(([listing(1)], 2), (self.told(), watcher.unreadable))
        self.assertEqual({"unreadable": 2}, self.counts)
        self.zookeeper.set(member(2), b"other rubbish")
        self.assertEqual(
            [
                f"{member(3)} is skipped: 1048576 bytes of data, over 65536",
                f"{member(2)} is skipped: no plain member: 'rubbish' has no port; "
                "write host:port, or [v6]:port",
            ],
            self.warnings,
        )
        self.register(2)
        self.assertEqual((listing(1, 2), 1), (self.told()[-1], watcher.unreadable))
        self.zookeeper.set(member(2), b"rubbish again")
        self.assertEqual(3, len(self.warnings))

    def test_all_of_them(self) -> None:
        """That is a failed read, not an empty list."""
        self.register(1, 2)
        watcher = self.make()
        self.told()
        self.zookeeper.set(member(1), b"rubbish")
        self.assertEqual([listing(2)], self.told())
        self.zookeeper.set(member(2), b"rubbish")
        self.assertEqual(([], 2), (self.told(), watcher.unreadable))
        self.assertEqual(1, self.counts["read_failed"])
        self.assertEqual(f"{PATH}: none of 2 nodes can be read; kept as it was", self.warnings[-1])

    def test_refused(self) -> None:
        """A node whose ACL refuses us is skipped; mended, it is found without an event."""
        self.register(1, 2)
        self.zookeeper.forbidden.add(member(2))
        self.make()
        self.assertEqual([listing(1)], self.told())
        self.assertEqual(
            [f"{member(2)} cannot be read: the node's ACL refuses us; set zookeeper.auth; skipped"],
            self.warnings,
        )
        self.zookeeper.forbidden.clear()
        self.reads()
        self.go_by(8)
        self.assertEqual([PATH, member(2)], self.reads())
        self.assertEqual([listing(1, 2)], self.told())

    def test_gone_before_it_is_read(self) -> None:
        """It is no member, and nothing to speak of."""
        self.register(1, 2)
        get = self.client.get

        def gone(path: str) -> Any:
            self.zookeeper.delete(member(2))
            return get(path)

        self.patch(self.client, "get", gone)
        self.make()
        self.clock.advance(0.05)
        self.assertEqual((listing(1), []), (self.told()[-1], self.warnings))

    def test_a_flood_of_complaints(self) -> None:
        """A thousand nodes are named; that none can be read is always said."""
        for number in range(1200):
            self.zookeeper.set(member(number), b"rubbish")
        self.make()
        self.assertEqual(1001, len(self.warnings))
        self.assertIn("none of 1200 nodes can be read", self.warnings[-1])

    def test_another_failure(self) -> None:
        """Whatever ZooKeeper says of a node skips that node alone."""
        self.register(1, 2)
        get = self.client.get
        self.patch(
            self.client,
            "get",
            lambda path: fail(NotAllowed("no")) if path == member(1) else get(path),
        )
        self.make()
        self.assertEqual([listing(2)], self.told())
