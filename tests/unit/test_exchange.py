"""The table of an exchange's life, and what is known of one."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.addresses import Address
from gatewayd.core.endpoints import Endpoint, Member
from gatewayd.core.exchange import TRANSITIONS, Exchange, Origin
from gatewayd.core.messages import RequestHead


def exchange() -> Exchange:
    """One that has just been received."""
    origin = Origin(listener="web", peer="192.0.2.7", scheme="http", port=80, trusted=False)
    head = RequestHead([])
    head.method, head.path = b"GET", b"/x"
    return Exchange(head, None, origin, 1.0)


class LifeTests(SynchronousTestCase):
    """Whole event lists."""

    def walk(self, *events: str) -> str:
        """The state after some events."""
        walking = exchange()
        for event in events:
            walking.advance(event)
        return walking.state

    def test_lives(self) -> None:
        """What can happen to a request, from its head to its end."""
        lives = {
            ("finished",): "done",  # refused at the door
            ("picked", "connected", "head", "finished"): "done",
            ("pick", "picked", "connected", "head", "finished"): "done",
            ("picked", "connected", "repeat", "connected", "head"): "relaying",
            ("picked", "retry", "picked", "connected", "retry", "pick"): "picking",
            ("picked", "connected", "switched"): "tunnel",
        }
        self.assertEqual({events: self.walk(*events) for events in lives}, lives)

    def test_what_cannot_happen(self) -> None:
        """After the head has gone nothing is tried again; after the end nothing happens."""
        for events in (
            ("picked", "connected", "head", "retry"),
            ("picked", "connected", "head", "repeat"),
            ("picked", "repeat"),
            ("finished", "pick"),
        ):
            self.assertRaises(KeyError, self.walk, *events)

    def test_every_state_can_end(self) -> None:
        """A client may leave at any time."""
        unending = [
            state for state, row in TRANSITIONS.items() if "finished" not in row and state != "done"
        ]
        self.assertEqual(unending, [])


class KnownTests(SynchronousTestCase):
    """What the log and the wheel ask."""

    def test_names(self) -> None:
        """Where there is no upstream yet, its label is a dash."""
        asked = exchange()
        names = [asked.upstream_name, repr(asked)]

        asked.upstream_name = "users"
        asked.endpoint = Endpoint(Member(Address("tcp", "10.0.0.1", 80)))
        names += [asked.upstream_name, repr(asked)]
        self.assertEqual(
            names,
            [
                "-",
                "<Exchange GET /x received at ->",
                "users",
                "<Exchange GET /x received at 10.0.0.1:80>",
            ],
        )

    def test_expired(self) -> None:
        """The wheel's call goes to whoever answers."""
        asked = exchange()
        told: list[Any] = []

        class Way:
            def request_timeout(self, late: Exchange) -> None:
                told.append(late)

        asked.way = Way()
        asked.expired(5.0)
        self.assertEqual(told, [asked])
