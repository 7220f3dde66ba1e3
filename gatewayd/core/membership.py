"""What a gateway believes of a membership whose source can be wrong, late or away.

A registry's list is not a command. After an outage the members' own registrations may be gone although
every one of them is healthy, so a member that vanishes is doubted before it is dropped:

| standing | meaning | becomes |
| --- | --- | --- |
| listed | the source names it | last_resort or held or gone, when it is no longer named |
| last_resort | gone while the source was in trouble: picked only when no other is | listed; held; gone after removal_grace, or by its first failure |
| held | gone with too many others at once: picked as before | listed; last_resort when the loss is small again; gone when confirmed, accepted, or after hold_for |

Every transition is a pure function of (what was known, what happened, when). Nothing here ever empties a
membership whose members answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

from gatewayd.core.addresses import Address

LISTED: Final = "listed"
LAST_RESORT: Final = "last_resort"
HELD: Final = "held"

_FLAPS: Final = 3  # joins within _FLAP_SECONDS that make a member a flapping one
_FLAP_SECONDS: Final = 60.0
_DAMPED_SECONDS: Final = 10.0  # that it is a last resort for, after each further join
_AGAIN: Final = 1.0  # seconds until it is looked again at what could not leave in its time


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
    accepted: frozenset[Address] = frozenset()  # the last list that was believed, and who joined it
    gone: Mapping[Address, float] = {}  # of those, the ones lost, and when: within one grace period
    fresh: frozenset[Address] = frozenset()  # of those, who joined while others were being lost
    left: Mapping[Address, tuple[float, ...]] = {}  # joins of late of those who have left
    read_at: float = 0.0  # when the source last answered; 0 = never

    @property
    def held(self) -> int:
        """How many are held."""
        return sum(known.standing == HELD for known in self.members.values())


def restored(members: Mapping[Address, int], now: float, age: float = 0.0) -> Membership:
    """A membership from the journal, `age` seconds old: before the source has said anything."""
    known = {address: Known(weight) for address, weight in members.items()}
    return Membership(known, frozenset(members), read_at=now - age)


def listed(
    was: Membership,
    names: Mapping[Address, int],
    rules: Rules,
    now: float,
    *,
    steady: bool,
    serves: Callable[[Address], bool] = lambda address: True,
) -> Membership:
    """The source has answered with a whole list.

    Args:
        was: known so far.
        names: addresses with weights; 0 = it says itself that it takes nothing, believed at once.
        rules: of the upstream.
        now: monotonic seconds.
        steady: the session has been without trouble for removal_grace.
        serves: whether a member that was known before is picked now.
    """
    gone, believed = _losses(was, names, rules, now, steady=steady)
    fresh = (was.fresh & believed) | (names.keys() - believed) if gone else frozenset()
    serving = sum(a in names and a in was.members and serves(a) for a in fresh)
    base = len(believed - fresh) or len(believed)
    too_much = bool(believed) and (not names or len(gone) - serving > rules.max_shrink * base)
    joins = {a: at for a, at in was.left.items() if now - at[-1] < _FLAP_SECONDS}
    members: dict[Address, Known] = {}
    for address, weight in names.items():
        known = was.members.get(address)
        if known is None and was.members:
            # It joins later than the first ones; how often of late says whether it flaps.
            known = Known(weight, LAST_RESORT, joins=joins.pop(address, ()))
        members[address] = _named(known, weight, now)
    for address, known in was.members.items():
        if address in names:
            continue
        stays = _vanished(known, rules, now, steady=steady, too_much=too_much)
        if stays is not None:
            members[address] = stays
        elif known.joins:
            joins[address] = known.joins
    return Membership(members, believed | names.keys(), gone, fresh, joins, now)


def _losses(
    was: Membership, names: Mapping[Address, int], rules: Rules, now: float, *, steady: bool
) -> tuple[dict[Address, float], frozenset[Address]]:
    """Who is lost of the accepted list, since when, and that list.

    Losses add up: many small ones are as bad as a large one. A loss that is older than removal_grace is
    believed, unless it is held or the session was in trouble; one that had weight 0 is none.
    """
    gone: dict[Address, float] = {}
    believed = set(was.accepted)
    for address in was.accepted - names.keys():
        known = was.members.get(address)
        since = was.gone.get(address, now)
        held = known is not None and known.standing == HELD
        over = steady and not held and now - since >= rules.removal_grace
        if over or (known is not None and not known.weight):
            believed.discard(address)
        else:
            gone[address] = since
    return gone, frozenset(believed)


def _named(known: Known | None, weight: int, now: float) -> Known:
    """A member that the list names: at once what it says, but that a flapping one is damped."""
    if known is None:
        return Known(weight)
    if known.standing == LISTED:
        return known if known.weight == weight else known._replace(weight=weight)
    recent = (*(each for each in known.joins if now - each < _FLAP_SECONDS), now)
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
        return known  # `passed` takes it away, for that asks who else is usable
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
    return _without(was, {address})


def accepted(was: Membership) -> Membership:
    """An operator takes the list as it is."""
    after = _without(was, {a for a, k in was.members.items() if k.standing == HELD})
    named = frozenset(a for a, k in after.members.items() if k.standing == LISTED)
    return after._replace(accepted=named, gone={}, fresh=frozenset())


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
    over = {
        address
        for address, known in was.members.items()
        if (known.standing == LAST_RESORT and known.until <= now)
        or (known.standing == HELD and known.until <= now and not away)
    }
    if not over:
        return was
    if not any(
        known.weight and address not in over and usable(address)
        for address, known in was.members.items()
    ):
        # Somebody must serve: of those whose time is over, the ones that could stay on.
        over = {address for address in over if not usable(address)}
    return _without(was, over) if over else was


def _without(was: Membership, leaving: Collection[Address]) -> Membership:
    """What is known without some who are believed gone: they are no loss any more."""
    gone = {a: since for a, since in was.gone.items() if a not in leaving}
    joins = {a: was.members[a].joins for a in leaving if was.members[a].joins}
    return was._replace(
        members={a: k for a, k in was.members.items() if a not in leaving},
        accepted=was.accepted.difference(leaving),
        gone=gone,
        fresh=was.fresh.difference(leaving) if gone else frozenset(),
        left={**was.left, **joins},
    )


def next_change(membership: Membership, now: float) -> float:
    """When time alone may change something; infinity if never."""
    soonest = float("inf")
    for known in membership.members.values():
        if known.until > now:
            soonest = min(soonest, known.until)
        if known.standing == HELD and membership.fresh:
            soonest = min(soonest, now + _AGAIN)  # who is new may serve by then: `listed` again
        elif known.standing != LISTED and known.until <= now:
            soonest = min(soonest, now + _AGAIN)
    return soonest


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
