"""Endpoints, and what becomes of them when a membership changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from gatewayd.core.addresses import Address
from gatewayd.core.breaker import Breaker
from gatewayd.core.pooling import Slot
from gatewayd.core.slices import SLICE, Slices, finish

MAX_WEIGHT: Final = 256

HEALTHY: Final = "healthy"
UNCHECKED: Final = "unchecked"  # nothing is known of it, or its first check is awaited
UNHEALTHY: Final = "unhealthy"  # active checks say so
EJECTED: Final = "ejected"  # it failed too many requests
SLOW_START: Final = "slow_start"  # new or back, with a growing share
LEAVING: Final = "leaving"  # no longer a member, finishing what it has
HELD: Final = "held"  # gone from its source, which is not believed yet
DRAINING: Final = "draining"  # taken out by an operator
LAST_RESORT: Final = "last_resort"  # a standing, shown as leaving: picked when no other is
STATES: Final = (HEALTHY, UNCHECKED, UNHEALTHY, EJECTED, SLOW_START, LEAVING, HELD, DRAINING)
_PICKABLE: Final = frozenset((HEALTHY, UNCHECKED, SLOW_START, HELD))


class Member(NamedTuple):
    """What a source of membership says of one endpoint."""

    address: Address
    weight: int = 1
    source: str = "static"
    name: str = ""  # as written: the host name that stands for this address
    standing: str = ""  # HELD or LAST_RESORT where its source no longer names it


class Marks(NamedTuple):
    """What health says of an endpoint, as one process tells another; times on the monotonic clock."""

    awaits_check: bool
    down: bool
    drained: bool
    known_good: bool
    ejected_until: float
    slow_until: float


class Endpoint(Slot):
    """One member of an upstream: who it is, how it fares, and its connections' slot.

    Made by `reconcile`, owned by its upstream, whose pool alone may be asked for it; the same address
    stays the same object through every change, so that whoever holds it while a request is in flight
    sees the truth.
    """

    __slots__ = (
        "address",
        "awaits_check",
        "bad_checks",
        "breaker",
        "connect_failures",
        "down",
        "drained",
        "ejected_until",
        "ejections",
        "errors",
        "failures",
        "good_checks",
        "host",
        "in_flight",
        "known_good",
        "label",
        "latency",
        "latency_at",
        "logged",
        "name",
        "picks",
        "port",
        "slow_until",
        "source",
        "standing",
        "state",
        "weight",
    )

    def __init__(self, member: Member) -> None:
        """Args: member: as its source describes it."""
        super().__init__()
        # First what every request asks for: compiled, it lies together.
        self.in_flight = 0
        self.picks = 0
        self.breaker: Breaker | None = None
        self.failures = 0  # of requests, in a row
        self.state = UNCHECKED
        self.connect_failures = 0  # in a row
        self.label = str(member.address)
        self.logged = self.label.encode()
        self.address = member.address
        self.host = member.address.host
        self.port = member.address.port
        self.name = member.name or self.label
        self.weight = member.weight
        self.source = member.source
        self.standing = member.standing
        self.errors: dict[str, int] = {}
        # Marks of core.health
        self.awaits_check = False
        self.down = False
        self.drained = False
        self.known_good = False
        self.good_checks = 0  # in a row
        self.bad_checks = 0  # in a row
        self.ejections = 0
        self.ejected_until = 0.0
        self.slow_until = 0.0
        # What peak_ewma learns
        self.latency = 0.0
        self.latency_at = 0.0

    def __repr__(self) -> str:
        return (
            f"<Endpoint {self.label} {self.state} weight={self.weight} in_flight={self.in_flight}>"
        )

    @property
    def authority(self) -> bytes:
        """The Host that is its own: as written, `:80` left out."""
        return self.name.removesuffix(":80").encode()

    @property
    def marks(self) -> Marks:
        """For other processes."""
        return Marks(
            self.awaits_check,
            self.down,
            self.drained,
            self.known_good,
            self.ejected_until,
            self.slow_until,
        )

    def take_marks(self, marks: Marks) -> None:
        """Be as another process found; who is ejected in either is ejected."""
        self.awaits_check = marks.awaits_check
        self.down = marks.down
        self.drained = marks.drained
        self.known_good = marks.known_good or (self.known_good and not marks.down)
        self.ejected_until = max(self.ejected_until, marks.ejected_until)
        self.slow_until = marks.slow_until

    @property
    def usable(self) -> bool:
        """Whether it may be picked."""
        return (
            self.weight > 0
            and self.state in _PICKABLE
            and not self.awaits_check
            and self.standing != LAST_RESORT
        )


class Change(NamedTuple):
    """The difference that a new membership makes."""

    members: tuple[Endpoint, ...]
    joined: tuple[Endpoint, ...]
    left: tuple[Endpoint, ...]
    altered: bool  # somebody joined, left, or changed weight


def reconcile(
    current: Iterable[Endpoint], wanted: Iterable[Member], former: Iterable[Endpoint] = ()
) -> Change:
    """Bring a membership to what its sources want, at once; see `reconciled`."""
    return finish(reconciled(current, wanted, former))


def reconciled(
    current: Iterable[Endpoint], wanted: Iterable[Member], former: Iterable[Endpoint] = ()
) -> Slices[Change]:
    """Bring a membership to what its sources want, yielding between slices of the work.

    Args:
        current: the endpoints now; those that stay keep their identity.
        wanted: all members; of two with one address the first counts.
        former: that have left and, coming back, are the same again, with their figures.
    """
    known = {endpoint.address: endpoint for endpoint in current}
    returning = {endpoint.address: endpoint for endpoint in former}
    members: dict[Address, Endpoint] = {}
    joined: list[Endpoint] = []
    altered = False
    for done, member in enumerate(wanted):
        if done % SLICE == SLICE - 1:
            yield
        if member.address in members:
            continue
        endpoint = known.get(member.address)
        if endpoint is None:
            endpoint = returning.get(member.address) or Endpoint(member)
            endpoint.weight = member.weight
            endpoint.state = UNCHECKED
            joined.append(endpoint)
        elif endpoint.weight != member.weight or endpoint.standing != member.standing:
            endpoint.weight = member.weight
            altered = True
        endpoint.standing = member.standing
        endpoint.source = member.source
        endpoint.name = member.name or endpoint.label
        members[member.address] = endpoint
    left = tuple(endpoint for address, endpoint in known.items() if address not in members)
    return Change(tuple(members.values()), tuple(joined), left, altered or bool(joined or left))
