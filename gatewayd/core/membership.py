"""What a gateway believes of a membership whose source can be wrong, late or away.

A registry's list is not a command. After an outage the members' own registrations may be gone although
every one of them is healthy, so a member that vanishes is doubted before it is dropped:

| standing | meaning | becomes |
| --- | --- | --- |
| listed | the source names it | last_resort or held or gone, when it is no longer named |
| last_resort | gone while the source was in trouble: picked only when no other is | listed; gone after removal_grace, or by its first failure |
| held | gone with too many others at once: picked as before | listed; gone when confirmed, accepted, or after hold_for |

Every transition is a pure function of (what was known, what happened, when). Nothing here ever empties a
membership whose members answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from gatewayd.core.addresses import Address

LISTED: Final = "listed"
LAST_RESORT: Final = "last_resort"
HELD: Final = "held"

_FLAPS: Final = 3  # joins within _FLAP_SECONDS that make a member a flapping one
_FLAP_SECONDS: Final = 60.0
_DAMPED_SECONDS: Final = 10.0  # that it is a last resort for, after each further join


class Rules:
    """How much is believed at once."""

    def __init__(
        self, *, removal_grace: float = 15.0, max_shrink: float = 0.5, hold_for: float = 3600.0
    ) -> None:
        """Args: removal_grace, hold_for: seconds. max_shrink: share of the members, 0 to 1."""
        self.removal_grace = removal_grace
        self.max_shrink = max_shrink
        self.hold_for = hold_for


class Known(NamedTuple):
    """What is known of one member."""

    weight: int
    standing: str = LISTED
    until: float = 0.0  # last_resort, held: when it leaves at the latest; listed: damped until then
    joins: tuple[float, ...] = ()  # of late


class Membership(NamedTuple):
    """All that is known; replaced, never changed."""

    members: Mapping[Address, Known] = {}
    accepted: frozenset[Address] = frozenset()  # the last list that was believed as it was
    accepted_at: float = 0.0
    read_at: float = 0.0  # when the source last answered; 0 = never

    @property
    def held(self) -> int:
        """How many are held."""
        return sum(known.standing == HELD for known in self.members.values())


def restored(members: Mapping[Address, int], now: float) -> Membership:
    """A membership from the journal: what was last known, before the source has said anything."""
    known = {address: Known(weight) for address, weight in members.items()}
    return Membership(known, frozenset(members), now, 0.0)


def listed(
    was: Membership, names: Mapping[Address, int], rules: Rules, now: float, *, steady: bool
) -> Membership:
    """The source has answered with a whole list.

    Args:
        was: known so far.
        names: addresses with weights; 0 = it says itself that it takes nothing, believed at once.
        rules: of the upstream.
        now: monotonic seconds.
        steady: the session has been without trouble for removal_grace.
    """
    gone = was.accepted - names.keys()
    fresh = names.keys() - was.accepted
    loss = len(gone) - len(fresh)
    too_much = bool(was.accepted) and (not names or loss > rules.max_shrink * len(was.accepted))
    members: dict[Address, Known] = {}
    for address, weight in names.items():
        members[address] = _named(was.members.get(address), weight, now, first=not was.members)
    for address, known in was.members.items():
        if address in names:
            continue
        left = _vanished(known, rules, now, steady=steady, too_much=too_much)
        if left is not None:
            members[address] = left
    if too_much:
        return was._replace(members=members, read_at=now)
    if (steady and now - was.accepted_at >= rules.removal_grace) or not gone:
        return Membership(members, frozenset(names), now, now)
    # Within one grace period losses add up: many small ones are as bad as a large one.
    return was._replace(members=members, accepted=was.accepted | names.keys(), read_at=now)


def _named(known: Known | None, weight: int, now: float, *, first: bool) -> Known:
    """A member that the list names: at once what it says, but that a flapping one is damped."""
    if known is not None and known.standing == LISTED:
        return known if known.weight == weight else known._replace(weight=weight)
    if known is None and first:
        return Known(weight)
    joins = known.joins if known is not None else ()
    recent = (*(each for each in joins if now - each < _FLAP_SECONDS), now)
    until = now + _DAMPED_SECONDS if len(recent) > _FLAPS else 0.0
    return Known(weight, LISTED, until, recent[-_FLAPS - 1 :])


def _vanished(
    known: Known, rules: Rules, now: float, *, steady: bool, too_much: bool
) -> Known | None:
    """A member that the list names no longer."""
    if not known.weight:
        return None  # it had said itself that it takes nothing
    if too_much:
        if known.standing == HELD:
            return known
        return known._replace(standing=HELD, until=now + rules.hold_for)
    if known.standing == LAST_RESORT:
        return known if known.until > now else None
    if known.standing == LISTED and steady and not _flaps(known, now):
        return None
    return known._replace(standing=LAST_RESORT, until=now + rules.removal_grace)


def _flaps(known: Known, now: float) -> bool:
    """Whether a member has come and gone too often of late to be believed gone."""
    return sum(now - each < _FLAP_SECONDS for each in known.joins) >= _FLAPS


def doubted(was: Membership, address: Address, *, last_usable: bool) -> Membership:
    """A member that is not listed has failed: a last resort is gone, a held one confirmed.

    Args:
        was: known so far.
        address: of the member.
        last_usable: nobody else could be picked; then it stays.
    """
    known = was.members.get(address)
    if known is None or known.standing == LISTED or last_usable:
        return was
    return was._replace(members={a: k for a, k in was.members.items() if a != address})


def accepted(was: Membership, now: float) -> Membership:
    """An operator takes the list as it is."""
    members = {a: k for a, k in was.members.items() if k.standing != HELD}
    return was._replace(members=members, accepted=frozenset(members), accepted_at=now)


def passed(
    was: Membership,
    now: float,
    *,
    away: bool,
    usable: Callable[[Address], bool] = lambda address: True,
) -> Membership:
    """Time has gone by.

    Args:
        was: known so far.
        now: monotonic seconds.
        away: the source cannot be reached; then nobody leaves who is held.
        usable: whether a member could be picked now.
    """
    over = [
        address
        for address, known in was.members.items()
        if (known.standing == LAST_RESORT and known.until <= now)
        or (known.standing == HELD and known.until <= now and not away)
    ]
    if not over:
        return was
    left = {address: known for address, known in was.members.items() if address not in set(over)}
    if not any(usable(address) and known.weight for address, known in left.items()):
        # Somebody must serve: of those whose time is over, the ones that could stay on.
        left |= {address: was.members[address] for address in over if usable(address)}
    return was._replace(members=left) if len(left) != len(was.members) else was


def next_change(membership: Membership, now: float) -> float:
    """When time alone will change something; infinity if never."""
    times = [k.until for k in membership.members.values() if k.until > now]
    return min(times, default=float("inf"))


def is_last_resort(known: Known, now: float) -> bool:
    """Whether a member is picked only when no other is."""
    return known.standing == LAST_RESORT or (known.standing == LISTED and known.until > now)


class Refused(NamedTuple):
    """A member that may not be one, and why."""

    address: Address
    because: str


def permitted(
    members: Iterable[tuple[Address, int]],
    allowed: Callable[[str], bool],
    is_own: Callable[[Address], bool],
) -> tuple[dict[Address, int], list[Refused]]:
    """Leave out members that would make the gateway a way into a network, or into itself.

    Args:
        members: addresses, with IPs, and weights.
        allowed: whether an IP may be a member.
        is_own: whether an address is the gateway's own.
    """
    good: dict[Address, int] = {}
    refused: list[Refused] = []
    for address, weight in members:
        if is_own(address):
            refused.append(Refused(address, "it is the gateway's own address"))
        elif not allowed(address.host):
            refused.append(Refused(address, "it is not in members_allow"))
        else:
            good.setdefault(address, weight)
    return good, refused
