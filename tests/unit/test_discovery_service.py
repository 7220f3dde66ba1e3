"""discovery.service: memberships live through every fault of ZooKeeper, and say what they are worth."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.health import ActiveRules, Health, PassiveRules
from gatewayd.discovery.journal import Journal
from gatewayd.discovery.session import (
    CONNECTED,
    CONNECTING,
    DOWN,
    EXPIRED,
    GONE,
    LATE,
    STATES,
    SUSPENDED,
    TRANSITIONS,
    UP,
    Session,
    diagram,
)
from tests.unit.discovering import PATH, DiscoveryTestCase, address, label, labels

DIAGRAM = """stateDiagram-v2
    [*] --> connecting
    connecting --> connected: up
    connected --> suspended: down
    connected --> expired: gone
    suspended --> connected: up
    suspended --> expired: gone
    suspended --> expired: late
    expired --> connected: up"""


class SessionTable(SynchronousTestCase):
    """The session as whole lists of events."""

    def run_events(self, *events: str) -> list[str]:
        """The states after each event."""
        session, states = Session(0.0), []
        for number, event in enumerate(events, 1):
            before = session.state
            self.assertEqual(before != TRANSITIONS[before][event], session.advance(event, number))
            states.append(session.state)
        return states

    def test_whole_lives(self) -> None:
        """As they were measured against real servers."""
        table = {
            # A start without ZooKeeper; kazoo may say what it likes.
            (DOWN, GONE, LATE, UP): [CONNECTING, CONNECTING, CONNECTING, CONNECTED],
            # The connected one of three killed.
            (UP, DOWN, UP): [CONNECTED, SUSPENDED, CONNECTED],
            # A server stopped for longer than the session: LOST comes when it answers again.
            (UP, DOWN, LATE, GONE, UP): [CONNECTED, SUSPENDED, EXPIRED, EXPIRED, CONNECTED],
            # Restarted after our own clock had given it up: the session lives.
            (UP, DOWN, LATE, UP, DOWN): [CONNECTED, SUSPENDED, EXPIRED, CONNECTED, SUSPENDED],
            (UP, DOWN, GONE, DOWN, UP): [CONNECTED, SUSPENDED, EXPIRED, EXPIRED, CONNECTED],
            (UP, GONE, LATE, UP): [CONNECTED, EXPIRED, EXPIRED, CONNECTED],
            (UP, UP, LATE): [CONNECTED, CONNECTED, CONNECTED],
        }
        for events, states in table.items():
            self.assertEqual(states, self.run_events(*events), events)

    def test_complete(self) -> None:
        """Every state knows every event, and the diagram is the table."""
        self.assertEqual([{UP, DOWN, GONE, LATE}] * 4, [set(TRANSITIONS[s]) for s in STATES])
        self.assertEqual(DIAGRAM, diagram())

    def test_steady(self) -> None:
        """Connected, and for so long without a break; a second UP begins anew."""
        session = Session(0.0)
        self.assertFalse(session.steady(15.0, 100.0))
        session.advance(UP, 100.0)
        self.assertEqual([False, True], [session.steady(15.0, now) for now in (114.9, 115.0)])
        session.advance(UP, 120.0)
        self.assertFalse(session.steady(15.0, 134.0))
        session.advance(DOWN, 140.0)
        self.assertFalse(session.steady(15.0, 999.0))
        session.advance(LATE, 150.0)
        self.assertEqual((150.0, 140.0), (session.since, session.away_since))
        self.assertEqual("<Session expired>", repr(session))


class Starts(DiscoveryTestCase):
    """With ZooKeeper, with a journal, with neither."""

    def test_with_zookeeper(self) -> None:
        """The first list is there with the session."""
        self.register(1, 2, 3)
        gateway = self.gateway().start()
        self.assertEqual(labels(1, 2, 3), gateway.standings())
        self.assertEqual({label(n) for n in (1, 2, 3)}, gateway.picked())
        shown = gateway.shown()
        self.assertEqual(
            {
                "path": PATH,
                "format": "plain",
                "origin": "zookeeper",
                "state": "live",
                "stale_for": None,
                "read_ago": 0.0,
                "path_missing": False,
                "unreadable": 0,
                "held": 0,
                "released_by": None,
            },
            shown,
        )

    def test_with_the_journal(self) -> None:
        """It serves from it at once, says so, and how old that is."""
        self.steady(1, 2).stop()
        self.clock.advance(60)
        gateway = self.gateway().start(connected=False)
        self.assertEqual({label(1), label(2)}, gateway.picked())
        self.assertEqual(
            ["upstream users: 2 members from the journal, to begin with"], gateway.said
        )
        shown = gateway.shown()
        self.assertEqual(("journal", "stale"), (shown["origin"], shown["state"]))
        self.assertEqual([160.0, 160.0], [shown["stale_for"], shown["read_ago"]])
        self.clock.advance(10)
        self.assertEqual(
            [
                "ZooKeeper did not answer within zookeeper.connect_timeout; "
                "serving without it, and trying on"
            ],
            gateway.said[1:],
        )
        self.assertEqual({"connect_timeout": 1}, gateway.service.events)
        gateway.client.connect()
        self.clock.advance(0)
        self.assertEqual(
            ("zookeeper", "live"), tuple(gateway.shown()[k] for k in ("origin", "state"))
        )

    def test_the_journals_members_are_gone(self) -> None:
        """An empty list after the start is held: the journal's members serve on."""
        self.steady(1, 2).stop()
        self.vanish(1, 2)
        gateway = self.gateway().start()
        self.assertEqual(labels(1, 2, standing="held"), gateway.standings())
        self.assertEqual({label(1), label(2)}, gateway.picked())

    def test_reading_the_journal_writes_none(self) -> None:
        """What was read of one upstream is not written before the others are."""
        self.steady(1, 2).stop()
        written: list[bytes] = []
        self.patch(Journal, "_put", lambda journal, data: written.append(data))
        gateway = self.gateway().start(connected=False)
        self.assertEqual([], written)
        gateway.client.connect()
        self.clock.advance(0)
        self.register(3)
        self.clock.advance(0.05)
        self.assertEqual(1, len(written))

    def test_written_while_away(self) -> None:
        """A failure that takes a held member away makes nobody's knowledge newer."""
        gateway = self.steady(1, 2, 3)
        self.vanish(1, 2, 3)
        self.clock.advance(0.05)
        gateway.client.suspend()
        self.clock.advance(500)
        gateway.discovery.doubted(address(1), False)
        gateway.stop()
        known = self.gateway().start(connected=False)
        self.assertEqual(
            ({label(2), label(3)}, 500.0), (known.picked(), known.shown()["stale_for"])
        )

    def test_a_journal_of_another_path(self) -> None:
        """The configuration has changed: its members are others."""
        self.steady(1, 2).stop()
        gateway = self.gateway(path="/elsewhere").start(connected=False)
        self.assertEqual(({}, False), (gateway.standings(), gateway.upstream.known))

    def test_without_anything(self) -> None:
        """Requests wait for the first membership; static members serve at once."""
        gateway = self.gateway().start(connected=False)
        self.assertFalse(gateway.upstream.known)
        self.assertEqual("unknown", gateway.shown()["state"])
        static = self.gateway(static=[("10.9.9.9:80", 1)]).start(connected=False)
        self.assertEqual({"10.9.9.9:80"}, static.picked())

    def test_nobody_has_registered_yet(self) -> None:
        """An empty path at first is no membership; the first who registers is."""
        self.zookeeper.set(PATH)
        gateway = self.gateway().start()
        self.assertFalse(gateway.upstream.known)
        self.register(1)
        self.clock.advance(0.05)
        self.assertEqual({label(1)}, gateway.picked())

    def test_the_journal_stays_young(self) -> None:
        """A day without a change makes no old journal, unless ZooKeeper was away all the while."""
        gateway = self.steady(1, 2)
        for _ in range(10):
            self.clock.advance(600)
        gateway.client.suspend()
        self.clock.advance(600)
        gateway.stop()
        known = self.gateway().start(connected=False)
        self.assertEqual({label(1), label(2)}, known.picked())
        self.assertLess(known.shown()["stale_for"], 1300)
        known.stop()
        self.clock.advance(3100)
        old = self.gateway().start(connected=False)
        self.assertFalse(old.upstream.known)
        self.assertIn("h old: ignored (journal_max_age)", old.said[0])


class Away(DiscoveryTestCase):
    """Trouble with the session changes nothing."""

    def test_suspended_and_lost(self) -> None:
        """Members stay as they are, however long; what is shown gets older."""
        gateway = self.steady(1, 2, 3)
        before = gateway.discovery.membership
        gateway.client.suspend()
        self.assertEqual((SUSPENDED, before), (gateway.service.session.state, before))
        self.clock.advance(4)
        shown = gateway.shown()
        self.assertEqual(
            ["stale", 4.0, 104.0], [shown[k] for k in ("state", "stale_for", "read_ago")]
        )
        self.clock.advance(6)
        self.assertEqual(EXPIRED, gateway.service.session.state)
        self.assertEqual(10.0, gateway.shown()["stale_for"])
        gateway.client.lose()
        self.clock.advance(7200)
        self.assertIs(before, gateway.discovery.membership)
        self.assertEqual({label(n) for n in (1, 2, 3)}, gateway.picked())
        self.assertEqual(7210.0, gateway.shown()["stale_for"])
        self.assertEqual(
            [
                "ZooKeeper session is suspended; memberships stay as they are known",
                "ZooKeeper has been away for longer than session_timeout",
            ],
            gateway.said,
        )
        self.assertEqual(
            {"connected": 1, "suspended": 1, "late": 1, "lost": 1}, gateway.service.events
        )

    def test_back_in_time(self) -> None:
        """No alarm is left of a short break."""
        gateway = self.steady(1)
        gateway.client.suspend()
        self.clock.advance(9)
        gateway.client.connect()
        self.clock.advance(60)
        self.assertEqual(CONNECTED, gateway.service.session.state)
        self.assertNotIn("late", gateway.service.events)

    def test_empty_after_an_outage(self) -> None:
        """Every publisher's session has expired although it is healthy: all are held."""
        gateway = self.steady(1, 2, 3)
        gateway.client.suspend()
        self.vanish(1, 2, 3)
        self.clock.advance(8)
        gateway.client.connect()
        self.clock.advance(1)
        self.assertEqual(labels(1, 2, 3, standing="held"), gateway.standings())
        self.assertEqual({label(n) for n in (1, 2, 3)}, gateway.picked())
        shown = gateway.shown()
        self.assertEqual(("live", 3), (shown["state"], shown["held"]))
        self.assertIn("`gatewayd accept users`", shown["released_by"])
        self.assertEqual(
            "upstream users: 3 of 3 members are gone from /services/users at once; they are held "
            "until health checks confirm it, or `gatewayd accept users` does",
            gateway.said[-1],
        )
        self.register(1, 2, 3)
        self.clock.advance(0.05)
        self.assertEqual(labels(1, 2, 3), gateway.standings())
        self.assertEqual((0, None), tuple(gateway.shown()[k] for k in ("held", "released_by")))

    def test_some_gone_after_an_outage(self) -> None:
        """They are picked only when no other is, and leave in their time."""
        gateway = self.steady(1, 2, 3)
        gateway.client.suspend()
        self.vanish(1)
        gateway.client.connect()
        self.clock.advance(1)
        self.assertEqual(labels(2, 3) | labels(1, standing="last_resort"), gateway.standings())
        self.assertEqual({label(2), label(3)}, gateway.picked())
        self.clock.advance(15)
        self.assertEqual(labels(2, 3), gateway.standings())

    def test_lost_while_connected(self) -> None:
        """A new session is no steady one, whatever its list says."""
        gateway = self.steady(1, 2, 3)
        gateway.client.lose()
        gateway.client.connect()
        self.clock.advance(1)
        self.vanish(1)
        self.clock.advance(0.05)
        self.assertEqual(labels(2, 3) | labels(1, standing="last_resort"), gateway.standings())

    def test_jitter(self) -> None:
        """After a reconnect the gateways of a fleet read over half a second, each all of it."""
        self.register(1, 2)
        fleet = [self.gateway(journal=None, seed=seed).start() for seed in range(20)]
        for each in fleet:
            each.reads()
            each.client.suspend()
        for each in fleet:
            each.client.connect()
        began: dict[int, float] = {}
        for _ in range(60):
            self.clock.advance(0.01)
            for number, each in enumerate(fleet):
                if each.client.reads:
                    began.setdefault(number, round(self.clock.seconds() - 1000, 2))
        self.assertEqual(20, len(began))
        self.assertLessEqual(max(began.values()), 0.51)
        self.assertGreater(len(set(began.values())), 10)
        paths = [PATH, f"{PATH}/{label(1)}", f"{PATH}/{label(2)}"]
        self.assertEqual([paths] * 20, [sorted(each.reads()) for each in fleet])


class Steady(DiscoveryTestCase):
    """In a session without trouble ZooKeeper's word counts."""

    def test_changes(self) -> None:
        """A join and a removal are in effect after the gathering time."""
        gateway = self.steady(1, 2, 3)
        self.register(4)
        self.vanish(1)
        self.clock.advance(0.05)
        self.assertEqual(labels(2, 3, 4), gateway.standings())
        self.assertEqual({label(n) for n in (2, 3, 4)}, gateway.picked())

    def test_a_great_loss(self) -> None:
        """Held; accept takes it as it is."""
        gateway = self.steady(1, 2, 3)
        self.vanish(1, 2)
        self.clock.advance(0.05)
        self.assertEqual(labels(1, 2, standing="held") | labels(3), gateway.standings())
        self.assertEqual(
            ["held", "held"], [e.state for e in gateway.upstream.endpoints if e.standing]
        )
        self.assertEqual((2, 0), (gateway.discovery.accept(), gateway.discovery.accept()))
        self.assertEqual({label(3)}, gateway.picked())

    def test_weights(self) -> None:
        """Changed without anybody's leaving; 0 at once."""
        gateway = self.steady(1, 2)
        first = gateway.upstream.endpoints[0]
        self.zookeeper.set(f"{PATH}/{label(1)}", f"{label(1)} weight=9".encode())
        self.assertEqual({label(1): 9, label(2): 1}, gateway.endpoints())
        self.zookeeper.set(f"{PATH}/{label(1)}", f"{label(1)} weight=0".encode())
        self.assertEqual({label(2)}, gateway.picked())
        self.assertIs(first, gateway.upstream.endpoints[0])

    def test_hold_for(self) -> None:
        """It ends by itself, but not while ZooKeeper is away."""
        gateway = self.steady(1, 2, 3)
        self.vanish(1, 2)
        self.clock.advance(0.05)
        gateway.client.suspend()
        self.clock.advance(4000)
        self.assertEqual(2, gateway.shown()["held"])
        gateway.client.connect()
        self.clock.advance(0.6)
        for weight in range(12):  # lists that come and come put nothing off
            self.zookeeper.set(f"{PATH}/{label(3)}", f"{label(3)} weight={weight}".encode())
            self.clock.advance(0.1)
        self.assertEqual(labels(3), gateway.standings())

    def test_replaced_at_once(self) -> None:
        """The old ones serve until the new ones do; then they leave."""
        health = Health(passive=PassiveRules(), active=ActiveRules(healthy=1))
        gateway = self.steady(1, 2, health=health)
        self.register(3, 4)
        self.vanish(1, 2)
        self.clock.advance(0.05)
        self.assertEqual(labels(3, 4) | labels(1, 2, standing="held"), gateway.standings())
        self.assertEqual({label(1), label(2)}, gateway.picked())
        read = gateway.discovery.membership.read_at
        self.clock.advance(5)
        self.assertEqual(2, gateway.shown()["held"])
        for endpoint in gateway.upstream.endpoints:
            gateway.upstream.checked(endpoint, True)
        self.clock.advance(1)
        self.assertEqual({label(3), label(4)}, gateway.picked())
        self.assertEqual(read, gateway.discovery.membership.read_at)
        self.clock.advance(15)
        self.assertEqual(labels(3, 4), gateway.standings())


class Doubts(DiscoveryTestCase):
    """What is no longer listed and fails."""

    def endpoint(self, gateway: Any, number: int) -> Any:
        """The upstream's endpoint of a member."""
        return next(e for e in gateway.upstream.endpoints if e.label == label(number))

    def test_held(self) -> None:
        """Two failed connects running confirm it, of all but the last."""
        gateway = self.steady(1, 2, 3)
        self.vanish(1, 2, 3)
        self.clock.advance(0.05)
        gateway.upstream.failed_connect(self.endpoint(gateway, 1))
        self.assertEqual(labels(1, 2, 3, standing="held"), gateway.standings())
        for number in (1, 2, 3):
            endpoint = self.endpoint(gateway, number)
            gateway.upstream.failed_connect(endpoint)
            gateway.upstream.failed_connect(endpoint)
        self.assertEqual(labels(3, standing="held"), gateway.standings())
        self.assertEqual({label(3)}, gateway.picked())
        self.assertIn("upstream users: 10.0.0.1:80 is gone, its failure confirms it", gateway.said)

    def test_held_and_checked(self) -> None:
        """An active check that finds it down confirms it."""
        health = Health(passive=None, active=ActiveRules(unhealthy=2))
        gateway = self.steady(1, 2, 3, health=health)
        self.vanish(1, 2, 3)
        self.clock.advance(0.05)
        gone = self.endpoint(gateway, 1)
        gateway.upstream.checked(gone, False)
        self.assertEqual(3, gateway.shown()["held"])
        gateway.upstream.checked(gone, False)
        self.assertEqual(labels(2, 3, standing="held"), gateway.standings())

    def test_last_resort(self) -> None:
        """Its first failure is enough, but not of the last who can serve."""
        gateway = self.steady(1, 2, 3, 4)
        gateway.client.suspend()
        self.vanish(1, 2)
        gateway.client.connect()
        self.clock.advance(1)
        gateway.upstream.failed_connect(self.endpoint(gateway, 1))
        self.assertEqual(labels(3, 4) | labels(2, standing="last_resort"), gateway.standings())
        for number in (3, 4):
            gateway.upstream.drain(label(number), True)
        self.assertEqual({label(2)}, gateway.picked())
        gateway.upstream.failed_connect(self.endpoint(gateway, 2))
        self.clock.advance(60)
        self.assertEqual({label(2)}, gateway.picked())
        gateway.upstream.drain(label(3), False)
        self.clock.advance(1)
        self.assertEqual(labels(3, 4), gateway.standings())

    def test_one_of_two_last_resorts(self) -> None:
        """The one that fails goes: the other can serve."""
        gateway = self.steady(1, 2, 3, 4)
        gateway.client.suspend()
        self.vanish(1, 2)
        gateway.client.connect()
        self.clock.advance(1)
        for number in (3, 4):
            gateway.upstream.drain(label(number), True)
        gateway.upstream.failed_connect(self.endpoint(gateway, 1))
        self.assertEqual({label(2)}, gateway.picked())

    def test_listed(self) -> None:
        """Not the membership's business."""
        gateway = self.steady(1, 2)
        for _ in range(5):
            gateway.upstream.failed_connect(self.endpoint(gateway, 1))
        self.assertEqual(labels(1, 2), gateway.standings())


class Fleet(DiscoveryTestCase):
    """Who is registered as a gateway."""

    def test_list(self) -> None:
        """All of them by name; what is no JSON object, or goes meanwhile, is left out."""
        gateway = self.gateway(register="/gateways").start()
        self.zookeeper.set("/gateways/a", json.dumps({"pid": 1}).encode())
        self.zookeeper.set("/gateways/b", b"rubbish")
        self.zookeeper.set("/gateways/c", b"[]")
        self.zookeeper.set("/gateways/z", json.dumps({"pid": 9}).encode())
        self.zookeeper.forbidden.add("/gateways/z")
        self.assertEqual(
            [{"pid": 1}, {"pid": 7}], self.successResultOf(gateway.service.fleet("/gateways"))
        )
        self.assertEqual("/gateways/gw-1", gateway.service.shown()["registered"])

    def test_no_answer(self) -> None:
        """It fails in time, and with a reason."""
        gateway = self.gateway(register="/gateways").start()
        self.zookeeper.silent = True
        asked = gateway.service.fleet("/gateways")
        self.clock.advance(10)
        self.failureResultOf(asked)
        gateway.client.suspend()
        self.zookeeper.silent = False
        self.failureResultOf(gateway.service.fleet("/gateways"))


class Shown(DiscoveryTestCase):
    """The session in /status."""

    def test_session(self) -> None:
        """State, since when, id, and what happened by its type."""
        gateway = self.steady(1)
        self.assertEqual(
            {
                "state": "connected",
                "since": 100.0,
                "session": "0x1",
                "events": {"connected": 1},
                "registered": None,
            },
            gateway.service.shown(),
        )
        self.register(2)
        self.clock.advance(0.05)
        self.zookeeper.set(f"{PATH}/{label(2)}", b"rubbish")
        events = gateway.service.shown()["events"]
        self.assertEqual({"connected": 1, "children": 1, "data": 1, "unreadable": 1}, events)
        gateway.client.lose()
        shown = gateway.service.shown()
        self.assertEqual(("expired", None), (shown["state"], shown["session"]))

    def test_reprs(self) -> None:
        """Status lines."""
        gateway = self.steady(1)
        self.assertEqual(
            [
                "<ZooKeeperService <Session connected> upstreams=1>",
                "<Discovery users /services/users members=1>",
                "<Watcher /services/users nodes=1 reading=0>",
                "<Members users static=0 found=1>",
            ],
            [
                repr(each)
                for each in (
                    gateway.service,
                    gateway.discovery,
                    gateway.discovery.watcher,
                    gateway.members,
                )
            ],
        )

    def test_stopped(self) -> None:
        """Nothing runs on, and nothing that comes late counts."""
        gateway = self.steady(1, 2, 3)
        self.vanish(1, 2)
        self.clock.advance(0.05)
        told = gateway.service._told
        gateway.stop()
        told("connected")
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual({}, {p: n for p, n in self.zookeeper.nodes.items() if n.owner})
