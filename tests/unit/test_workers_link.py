"""workers.link: messages of any size between a supervisor and a worker, each answered when acted on."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.net.link import pair
from gatewayd.workers import link as topics
from gatewayd.workers.link import Link

quick = settings(deadline=None, database=None, max_examples=50)


class LinkTestCase(SynchronousTestCase):
    """Two ends over a connection in memory."""

    def failures(self, answered: Deferred[Any]) -> list[str]:
        """What it fails with; whoever sends has to be there when the answer comes."""
        found: list[str] = []
        answered.addErrback(lambda failure: found.append(failure.getErrorMessage()))
        return found

    def make(self, **handlers: Callable[[Any], Any]) -> None:
        """`self.near` speaks, `self.far` has the handlers."""
        self.lost: list[str] = []
        self.near = Link({}, lambda: self.lost.append("near"))
        self.far = Link(handlers, lambda: self.lost.append("far"))
        self.far_transport = iosim.FakeTransport(self.far, isServer=True)
        self.near_transport = iosim.FakeTransport(self.near, isServer=False)
        self.pump = iosim.connect(self.far, self.far_transport, self.near, self.near_transport)


class Messages(LinkTestCase):
    """What is said arrives, as it was said."""

    def test_small(self) -> None:
        """Answered when it has been acted on."""
        heard: list[Any] = []
        self.make(share=heard.append)
        answered = self.near.send(topics.SHARE, {"a": (1, None)})
        self.assertNoResult(answered)
        self.pump.flush()
        self.assertEqual([{"a": (1, None)}], heard)
        self.successResultOf(answered)

    def test_nothing(self) -> None:
        """A topic is a message too."""
        heard: list[Any] = []
        self.make(leave=heard.append)
        self.near.tell(topics.LEAVE)
        self.pump.flush()
        self.assertEqual([None], heard)

    def test_large(self) -> None:
        """In pieces, for AMP takes 64 KiB; acted on once, when the last is there."""
        heard: list[Any] = []
        self.make(configure=heard.append)
        large = os.urandom(200_000)
        answered = self.near.send(topics.CONFIGURE, large)
        self.pump.flush()
        self.assertEqual([large], heard)
        self.successResultOf(answered)

    def test_one_behind_the_other(self) -> None:
        """Large and small ones of several topics, in order."""
        heard: list[Any] = []
        self.make(
            configure=lambda value: heard.append(("configure", len(value))),
            members=lambda value: heard.append(("members", len(value))),
        )
        self.near.tell(topics.CONFIGURE, b"a" * 200_000)
        self.near.tell(topics.MEMBERS, b"b")
        self.near.tell(topics.MEMBERS, b"c" * 130_000)
        self.near.tell(topics.CONFIGURE, b"d")
        self.pump.flush()
        self.assertEqual(
            [("configure", 200_000), ("members", 1), ("members", 130_000), ("configure", 1)], heard
        )

    @quick
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("figures", "status")),
                st.one_of(st.integers(0, 300), st.integers(59_900, 60_100), st.just(180_000)),
            ),
            max_size=6,
        )
    )
    def test_any(self, messages: list[tuple[str, int]]) -> None:
        """Of any length, also those that end where a piece does."""
        heard: list[tuple[str, int]] = []
        self.make(
            figures=lambda value: heard.append(("figures", len(value))),
            status=lambda value: heard.append(("status", len(value))),
        )
        answers = [self.near.send(topic, b"x" * length) for topic, length in messages]
        self.pump.flush()
        self.assertEqual(messages, heard)
        for each in answers:
            self.successResultOf(each)

    def test_pieces_of_several_topics(self) -> None:
        """They may come by turns."""
        heard: list[Any] = []
        self.make(members=heard.append, share=heard.append)
        take = self.far._piece
        one, other = pickle.dumps("one"), pickle.dumps("other")
        take("members", False, 0, one[:5])
        take("share", False, 0, other[:5])
        take("members", True, 1, one[5:])
        take("share", True, 1, other[5:])
        self.assertEqual(["one", "other"], heard)


class Answers(LinkTestCase):
    """Whether it was acted on."""

    def test_later(self) -> None:
        """Not before the handler's own Deferred has fired."""
        acting: Deferred[Any] = Deferred()
        self.make(configure=lambda value: acting)
        answered = self.near.send(topics.CONFIGURE, b"")
        self.pump.flush()
        self.assertNoResult(answered)
        acting.callback("what it gives is its own affair")
        self.pump.flush()
        self.successResultOf(answered)

    def test_failed(self) -> None:
        """An error over there is a failure here, of small and of large ones; the link stays."""

        def refuse(value: Any) -> None:
            raise ValueError("no such address")

        heard: list[Any] = []
        self.make(configure=refuse, share=heard.append)
        for value in (b"", b"x" * 200_000):
            found = self.failures(self.near.send(topics.CONFIGURE, value))
            self.pump.flush()
            self.assertEqual(["no such address"], found)
            self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.near.tell(topics.CONFIGURE, b"")  # whatever becomes of it
        self.near.tell(topics.SHARE, 1)
        self.pump.flush()
        self.assertEqual([1], heard)
        self.assertEqual([], self.lost)

    def test_failed_later(self) -> None:
        """The same."""
        acting: Deferred[Any] = Deferred()
        self.make(configure=lambda value: acting)
        found = self.failures(self.near.send(topics.CONFIGURE, b""))
        self.pump.flush()
        acting.errback(OSError(98, "Address already in use"))
        self.pump.flush()
        self.assertEqual(["[Errno 98] Address already in use"], found)

    def test_a_piece_that_does_not_fit(self) -> None:
        """A message that lacks one is none; the next one is whole again."""
        heard: list[Any] = []
        self.make(share=heard.append)
        self.far._piece("share", False, 0, b"torn")
        self.assertRaises(ValueError, self.far._piece, "share", True, 2, b"torn")
        self.near.tell(topics.SHARE, 1)
        self.pump.flush()
        self.assertEqual([1], heard)

    def test_gone(self) -> None:
        """Both learn of it; who waits for an answer too, and what is said later fails."""
        acting: Deferred[Any] = Deferred()
        self.make(configure=lambda value: acting)
        answered = self.near.send(topics.CONFIGURE, b"x" * 200_000)
        self.pump.flush()
        self.near_transport.loseConnection()
        self.pump.flush()
        self.failureResultOf(answered)
        self.assertEqual(["far", "near"], sorted(self.lost))
        self.failureResultOf(self.near.send(topics.SHARE, 1))
        self.near.tell(topics.SHARE, 1)

    def test_another_command(self) -> None:
        """Only what both know is spoken."""
        self.make()
        self.assertIsNone(self.far.locateResponder(b"rubbish"))


class Sockets(LinkTestCase):
    """Descriptors that come beside the messages."""

    def test_a_newer_one(self) -> None:
        """The former of the same listener is closed; others stay."""
        self.make()
        first, other = os.pipe()
        newer = os.dup(first)
        self.far._socket("web", first)
        self.far._socket("internal", other)
        self.far._socket("web", newer)
        self.assertEqual({"web": newer, "internal": other}, self.far.sockets)
        self.assertRaises(OSError, os.fstat, first)
        for fd in (newer, other):
            os.close(fd)

    def test_pair(self) -> None:
        """Two ends of one stream that hold nobody up."""
        ours, theirs = pair()
        try:
            os.write(ours, b"to a worker")
            self.assertEqual(b"to a worker", os.read(theirs, 100))
            self.assertRaises(BlockingIOError, os.read, theirs, 1)
            self.assertRaises(BlockingIOError, os.read, ours, 1)
        finally:
            os.close(ours)
            os.close(theirs)
