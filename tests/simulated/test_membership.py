"""A million events of one membership: registries fail and lie, members die, operators accept."""

from __future__ import annotations

from random import Random

from gatewayd.core.addresses import Address
from gatewayd.core.membership import Membership, Rules, accepted, doubted, listed, passed

RULES = Rules(removal_grace=15.0, max_shrink=0.5, hold_for=3600.0)
EVENTS = 1_000_000
ALL = [Address("tcp", f"10.0.0.{number}", 80) for number in range(7)]


class Outcome:
    """A random run of the pure functions beside a world in which members live and die."""

    def __init__(self, seed: int, events: int) -> None:
        """Args: seed: of chance. events: how many."""
        self.random = Random(seed)
        self.now = 0.0
        self.steady_since = 0.0
        self.alive: set[Address] = set(ALL[:5])
        self.known = listed(Membership(), dict.fromkeys(ALL[:5], 1), RULES, 0.0, steady=False)
        self.taken = 0  # by a steady session's list, by their own weight, by an operator
        self.most_held = 0
        for _ in range(events):
            self.event()

    def usable(self, address: Address) -> bool:
        """Whether a request to it would be answered."""
        return address in self.alive

    def serving(self) -> bool:
        """Whether some member would answer one."""
        alive = self.alive
        return any(known.weight and a in alive for a, known in self.known.members.items())

    def event(self) -> None:
        """One thing happens; who could serve before can serve after."""
        chance = self.random.random()
        self.now += chance * 5
        if chance < 0.12:
            # A member dies or lives on: not the membership's doing.
            self.alive ^= {self.random.choice(ALL)}
            return
        if chance < 0.16:
            self.steady_since = self.now + 15 * self.random.random()  # trouble
            return
        was, could_serve = self.known, self.serving()
        by_right = False
        if chance < 0.5:
            by_right = self.read()
        elif chance < 0.75:
            address = self.random.choice(ALL)
            others = any(
                k.weight and a in self.alive and a != address for a, k in was.members.items()
            )
            if address not in self.alive or not self.random.random() < 0.9:
                self.known = doubted(was, address, last_usable=not others)
        elif chance < 0.998:
            if chance > 0.97:
                self.now += 1800.0
            self.known = passed(was, self.now, away=self.random.random() < 0.2, usable=self.usable)
        else:
            self.known, by_right = accepted(was), True
        if could_serve and not self.serving():
            if not by_right:
                raise AssertionError(f"{was} became {self.known} at {self.now}")
            self.taken += 1
        self.most_held = max(self.most_held, self.known.held)

    def read(self) -> bool:
        """A list comes; whether it may take the last healthy one away."""
        draw = self.random.random
        kind = draw()
        if kind < 0.15:
            found: dict[Address, int] = {}
        else:
            share = 0.9 if kind < 0.7 else draw()
            found = {a: 0 if draw() < 0.03 else 1 for a in ALL if draw() < share}
        steady = self.now > self.steady_since
        was = self.known
        self.known = listed(was, found, RULES, self.now, steady=steady, serves=self.usable)
        if not all(found.values()):
            return True  # they say themselves that they take nothing
        return steady and bool(found) and not self.known.held


def test_never_empty() -> None:
    """Whoever is healthy serves on, and the same seed brings the same end."""
    run = Outcome(20240601, EVENTS)
    assert run.taken > 0  # by right
    assert run.most_held == 7
    once, again = Outcome(7, 20_000), Outcome(7, 20_000)
    assert once.known == again.known
    assert list(once.known.members) == list(again.known.members)
