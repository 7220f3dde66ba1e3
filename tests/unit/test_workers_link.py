"""workers.link and workers.board: what a supervisor and its workers say, and what all of them see."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.workers.board import Board, new_board
from gatewayd.workers.link import Link


class Said(SynchronousTestCase):
    """Messages of any size arrive whole, in order, and are answered when they have been acted on."""

    def setUp(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.answer: Any = None
        self.lost: list[str] = []
        handlers = {
            "x": lambda value: self.hear("x", value),
            "y": lambda value: self.hear("y", value),
        }
        self.here = Link({}, lambda: self.lost.append("here"))
        self.there = Link(handlers, lambda: self.lost.append("there"))
        self.pump = connect(
            self.here, FakeTransport(self.here, False), self.there, FakeTransport(self.there, True)
        )

    def hear(self, topic: str, value: Any) -> Any:
        """The other end acts."""
        self.heard.append((topic, value))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def test_sizes(self) -> None:
        """AMP's values end at 64 KiB; a message does not."""
        for size in (0, 1, 59_000, 60_000, 65_535, 65_536, 1_000_000):
            value = {"members": os.urandom(size)}
            done = self.here.send("x", value)
            self.assertNoResult(done)
            self.pump.flush()
            self.successResultOf(done)
            self.assertEqual([("x", value)], self.heard)
            self.heard.clear()

    def test_order(self) -> None:
        """Of what was said one after the other."""
        for topic, size in (("x", 200_000), ("y", 1), ("x", 2), ("y", 130_000)):
            self.here.tell(topic, b"." * size)
        self.pump.flush()
        found = [(topic, len(value)) for topic, value in self.heard]
        self.assertEqual([("x", 200_000), ("y", 1), ("x", 2), ("y", 130_000)], found)

    def test_answered_when_acted_on(self) -> None:
        """Not when it has come."""
        self.answer = Deferred()
        done = self.here.send("x")
        self.pump.flush()
        self.assertEqual([("x", None)], self.heard)
        self.assertNoResult(done)
        self.answer.callback(None)
        self.pump.flush()
        self.successResultOf(done)

    def test_refused(self) -> None:
        """Who said it learns why it could not be done, unless it only told; the link lives on."""
        self.answer = OSError("no such socket")
        why: list[str] = []
        done = self.here.send("x", b"." * 100_000)
        done.addErrback(lambda failure: why.append(failure.getErrorMessage()))
        self.here.tell("x")
        self.pump.flush()
        self.assertEqual(["no such socket"], why)
        self.answer = None
        done = self.here.send("y")
        self.pump.flush()
        self.successResultOf(done)
        self.assertEqual([], self.lost)

    def test_gone(self) -> None:
        """Both ends notice, and who waits for an answer waits no longer."""
        self.answer = Deferred()
        done = self.here.send("x")
        self.here.tell("y")
        self.pump.flush()
        assert self.there.transport is not None
        self.there.transport.abortConnection()
        self.pump.flush()
        self.assertEqual(["here", "there"], sorted(self.lost))
        self.assertIsInstance(self.failureResultOf(done), Failure)
        self.failureResultOf(self.here.send("x"))
        self.here.tell("x")

    def test_a_piece_is_missing(self) -> None:
        """Half a message is none."""
        for number, last in ((1, True), (0, False), (2, True)):
            if number == 0:
                self.there._piece("x", last, number, b"")
            else:
                with self.assertRaises((ValueError, KeyError)):
                    self.there._piece("x", last, number, b"")
        self.assertEqual([], self.heard)

    def test_a_socket_takes_the_place_of_another(self) -> None:
        """Of the same listener; the former is closed."""
        first, second = os.pipe()
        self.there._socket("web", first)
        self.there._socket("web", second)
        self.assertEqual({"web": second}, self.there.sockets)
        self.assertRaises(OSError, os.fstat, first)
        os.close(second)


class Counted(SynchronousTestCase):
    """Who has most clients lets the others go first."""

    def test_ahead(self) -> None:
        """Compared with all that serve; the supervisor and the dead do not count."""
        fd = new_board()
        self.addCleanup(os.close, fd)
        supervisor, one = Board(fd), Board(fd, 1)
        one.count(5)
        self.assertFalse(one.is_ahead())
        three = Board(fd, 3)
        self.assertEqual((True, False), (one.is_ahead(), three.is_ahead()))
        three.count(5)
        self.assertEqual((False, False), (one.is_ahead(), three.is_ahead()))
        three.count(1)
        one.count(-1)
        self.assertEqual((False, True), (one.is_ahead(), three.is_ahead()))
        supervisor.gone(1)
        self.assertFalse(three.is_ahead())
        again = Board(fd, 1)
        self.assertEqual((True, False), (three.is_ahead(), again.is_ahead()))
        self.assertEqual("<Board [0, -1, 6]>", repr(supervisor))
