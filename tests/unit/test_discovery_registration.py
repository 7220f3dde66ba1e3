"""discovery.registration: the gateway's own node stands while it runs, and is its own."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.discovery.client import NotAllowed
from gatewayd.discovery.registration import Registration
from gatewayd.testing.zookeeper import MemoryClient, MemoryZooKeeper

NODE = "/gateways/gw-1"


class Registers(SynchronousTestCase):
    """One gateway's node in an ensemble in memory."""

    def setUp(self) -> None:
        self.zookeeper = MemoryZooKeeper()
        self.client = MemoryClient(self.zookeeper)
        self.clock = Clock()
        self.warnings: list[str] = []
        self.says: dict[str, Any] = {"address": ["127.0.0.1:80"], "pid": 7}
        self.registration = Registration(
            "/gateways/", "gw-1", lambda: self.says, self.client, self.clock, self.warnings.append
        )
        self.client.start(self.told)

    def told(self, state: str) -> None:
        """As the service does."""
        if state == "connected":
            self.registration.renew()

    def stands(self) -> tuple[int, Any]:
        """Who owns the node, and what it says."""
        node = self.zookeeper.nodes[NODE]
        return node.owner, json.loads(node.data)

    def test_first(self) -> None:
        """Ephemeral, with nodes above it, and known to us."""
        self.assertEqual("<Registration none>", repr(self.registration))
        self.client.connect()
        self.assertEqual((1, self.says), self.stands())
        self.assertEqual(f"<Registration {NODE}>", repr(self.registration))

    def test_the_same_session(self) -> None:
        """After a short break the node still stands and is ours."""
        self.client.connect()
        self.client.suspend()
        self.client.connect()
        self.assertEqual((NODE, 1), (self.registration.node, self.stands()[0]))
        self.assertEqual([], self.warnings)

    def test_a_new_session(self) -> None:
        """It is made anew, and says what is true now."""
        self.client.connect()
        self.client.lose()
        self.assertNotIn(NODE, self.zookeeper.nodes)
        self.says = {"pid": 8}
        self.client.connect()
        self.assertEqual((2, {"pid": 8}), self.stands())

    def test_an_old_sessions_node(self) -> None:
        """It still stands when we are back: replaced when it goes, and not before."""
        former = MemoryClient(self.zookeeper)
        former.start(lambda state: None)
        former.connect()
        former.create(NODE, b"{}")
        self.client.connect()
        self.assertEqual((None, (1, {})), (self.registration.node, self.stands()))
        self.clock.advance(60)
        self.assertEqual((1, {}), self.stands())
        former.lose()
        self.assertEqual((2, self.says), self.stands())
        self.assertEqual((NODE, []), (self.registration.node, self.warnings))

    def test_gone_between_two_questions(self) -> None:
        """The old node goes just before it is looked at."""
        self.zookeeper.set(NODE, b"{}", owner=99)
        get = self.client.get_and_watch

        def gone(path: str) -> Any:
            self.zookeeper.delete(path)
            return get(path)

        self.patch(self.client, "get_and_watch", gone)
        self.client.connect()
        self.assertIsNone(self.registration.node)
        self.clock.advance(5)
        self.assertEqual((1, self.says), self.stands())

    def test_refused(self) -> None:
        """It is said, and tried again; a new session's try takes the old one's place."""
        self.zookeeper.forbidden.add(NODE)
        self.client.connect()
        self.clock.advance(4)
        self.client.suspend()
        self.client.connect()
        said = (
            f"this gateway could not register at {NODE}: "
            "the node's ACL refuses us; set zookeeper.auth"
        )
        self.assertEqual([said] * 2, self.warnings)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.zookeeper.forbidden.clear()
        self.clock.advance(5)
        self.assertEqual((1, self.says), self.stands())

    def test_stopped(self) -> None:
        """The node goes with the session, and nothing is tried any more."""
        self.client.connect()
        self.registration.stop()
        self.client.stop()
        self.assertNotIn(NODE, self.zookeeper.nodes)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stopped_while_waiting(self) -> None:
        """Neither the timer nor the old node's end brings it back."""
        self.zookeeper.set(NODE, b"{}", owner=99)
        self.client.connect()
        self.registration.stop()
        self.zookeeper.delete(NODE)
        self.assertNotIn(NODE, self.zookeeper.nodes)

    def test_stopped_while_refused(self) -> None:
        """No timer is left."""
        self.zookeeper.forbidden.add(NODE)
        self.client.connect()
        self.registration.stop()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.patch(self.client, "create", lambda path, data: fail(NotAllowed("no")))
        self.registration.renew()
        self.assertEqual((1, []), (len(self.warnings), self.clock.getDelayedCalls()))
