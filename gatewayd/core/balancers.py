"""Choosing an endpoint: each policy compiled on change, so that a pick is one call.

A balancer is rebuilt whenever a membership, a weight or a state changes, and the old one serves until
the new one is ready: `compile_balancer` is a generator that yields between slices of work, so that ten
thousand members hold nobody up. Picks in flight hold their endpoint and notice nothing.

Weights count in every balancer. Where chance or a cycle decides, a balancer walks a schedule: a list
in which an endpoint stands as often as its weight says, evenly spread. Schedules are bounded, weights
quantised to fit. Measured prices are in docs/performance.md.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from heapq import heapify, heappop, heappush
from importlib import import_module
from itertools import chain, cycle
from math import exp, gcd
from random import Random
from time import monotonic
from typing import Any, Final

from gatewayd.core.endpoints import Endpoint
from gatewayd.core.rings import Ring, grown, hash_of
from gatewayd.core.slices import SLICE, Slices, finish

MAX_SCHEDULE: Final = 65536
_MEMO: Final = 65_536
_MEMO_KEY: Final = 256  # bytes of a key that is remembered: strangers choose keys, at any length
_SHORT: Final = 8  # endpoints' places that one random byte chooses among
_LONG: Final = 2048  # places of which two random bytes would favour some by over 3%
_DRAWN: Final = 4096  # random bytes at a time


class Balancer:
    """The interface of every balancer, and of one's own.

    A balancer of one's own is named `package.module:Class` in the configuration. It is constructed
    anew on every change and may keep what it learns in the endpoints' own figures or in itself.
    """

    next: Callable[[], Endpoint] | None = None  # set where a pick needs no key: it is then called

    def __init__(self, endpoints: Sequence[Endpoint], *, random: Random) -> None:
        """Args: endpoints: the usable ones, weight 1 to 256 each, maybe none. random: chance."""
        self.endpoints = endpoints
        self.random = random

    def pick(self, key: bytes | None) -> Any:
        """Choose an endpoint.

        Args:
            key: what consistent hashing goes by; None where there is no such thing.

        Returns:
            An Endpoint, a Deferred that fires with one, or None if there is none.
        """
        return self.next() if self.next is not None else None

    def peek(self, key: bytes | None) -> list[tuple[Endpoint, float]]:
        """Which endpoints a pick might choose, with their shares; for `explain`, picks nothing."""
        total = sum(endpoint.weight for endpoint in self.endpoints) or 1
        return [(endpoint, endpoint.weight / total) for endpoint in self.endpoints]

    def released(self, endpoint: Endpoint, seconds: float, failed: bool) -> None:
        """A pick's exchange is over; endpoint.in_flight is one less already."""


def quantised(weights: Sequence[int], most: int = MAX_SCHEDULE) -> list[int]:
    """The smallest whole weights in the same proportions that together stay within `most`.

    Everybody keeps one place at least, so more than `most` members have as many places as they are.
    """
    divisor = gcd(*weights) if weights else 1
    reduced = [weight // divisor for weight in weights]
    total = sum(reduced)
    if total <= most:
        return reduced
    room = max(0, most - len(reduced))  # the rest, once everybody has one
    return [1 + weight * room // total for weight in reduced]


def spread(weights: Sequence[int]) -> Slices[list[int]]:
    """An evenly spread cycle of indices in which each stands as often as its weight says.

    Index i's k-th place is wanted within the slots [k * total / weight, (k + 1) * total / weight); the
    one with the earliest end comes first. One taker of unit jobs that ends them by earliest deadline
    keeps all of them (Baruah et al., Proportionate progress, 1996): counted from the beginning nobody
    is ever one whole place ahead of or behind his share, so over any stretch less than two.
    """
    total = sum(weights)
    ready = [(-(-total // weight), index, 0) for index, weight in enumerate(weights) if weight]
    heapify(ready)
    later: list[tuple[int, int, int]] = []  # by the first slot of the place
    order: list[int] = []
    for slot in range(total):
        if slot % (SLICE * 2) == 0:
            yield
        while later and later[0][0] <= slot:
            _, index, place = heappop(later)
            heappush(ready, (-(-(place + 1) * total // weights[index]), index, place))
        _, index, place = heappop(ready)
        order.append(index)
        if place + 1 < weights[index]:
            heappush(later, ((place + 1) * total // weights[index], index, place + 1))
    return order


def _schedule(endpoints: Sequence[Endpoint]) -> Slices[list[Endpoint]]:
    if len({endpoint.weight for endpoint in endpoints}) <= 1:
        return list(endpoints)
    order = yield from spread(quantised([endpoint.weight for endpoint in endpoints]))
    return [endpoints[index] for index in order]


class _Scheduled(Balancer):
    """Walks or draws from a schedule."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        random: Random,
        schedule: Sequence[Endpoint] | None = None,
    ) -> None:
        """Args: schedule: from `_schedule` if it was made in slices."""
        super().__init__(endpoints, random=random)
        self.schedule = finish(_schedule(endpoints)) if schedule is None else schedule


class RoundRobin(_Scheduled):
    """A plain cycle; evenly spread by weight where weights differ."""

    def __init__(self, endpoints: Sequence[Endpoint], *, random: Random, **made: Any) -> None:
        """As Balancer; begins anywhere, so that a fleet of gateways does not march in step."""
        super().__init__(endpoints, random=random, **made)
        if self.schedule:
            start = random.randrange(len(self.schedule))
            self.next = cycle([*self.schedule[start:], *self.schedule[:start]]).__next__


class RandomChoice(_Scheduled):
    """Chance, by weight.

    Random bytes choose from a table that holds the schedule over and over, so that a pick runs in C from end
    to end: drawing an index with `random()` costs three times as much. One byte is enough for a short
    schedule, whose shares are then within 3% of what the weights say; two bytes' table fits no near cache.
    A long schedule is no table's size: there four bytes choose, by their remainder.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, random: Random, **made: Any) -> None:
        """As Balancer."""
        super().__init__(endpoints, random=random, **made)
        if self.schedule:
            size = len(self.schedule)
            if size > _LONG:
                self.next = chain.from_iterable(_drawn(self.schedule, random)).__next__
                return
            width = "B" if size <= _SHORT else "H"
            places = 256 ** array(width).itemsize
            table = (list(self.schedule) * (places // size + 1))[:places]
            self.next = chain.from_iterable(_draws(table, width, random)).__next__


def _draws(table: list[Endpoint], width: str, random: Random) -> Iterator[Iterator[Endpoint]]:
    while True:
        yield map(table.__getitem__, array(width, random.randbytes(_DRAWN)))


def _drawn(schedule: Sequence[Endpoint], random: Random) -> Iterator[Iterator[Endpoint]]:
    remainder = len(schedule).__rmod__
    while True:
        yield map(schedule.__getitem__, map(remainder, array("I", random.randbytes(_DRAWN))))


class PowerOfTwo(RandomChoice):
    """The less loaded of two drawn by weight (Mitzenmacher, 2001; nginx `random two`, Envoy)."""

    def __init__(self, endpoints: Sequence[Endpoint], *, random: Random, **made: Any) -> None:
        """As Balancer."""
        super().__init__(endpoints, random=random, **made)
        if self.next is not None:
            self._chance = self.next
            self.next = self._draw

    def _draw(self) -> Endpoint:
        first = self._chance()
        second = self._chance()
        # Equal chances already follow the weights, so the load alone is compared, per weight.
        if second.in_flight * first.weight < first.in_flight * second.weight:
            return second
        return first


class PeakEwma(PowerOfTwo):
    """Of two drawn by weight the one that promises the sooner answer (Finagle's Peak EWMA).

    What an endpoint promises is its response time, which jumps up at once and decays as time goes by,
    times the requests that would be waiting there. Since it decays also where nothing is sent, an
    endpoint that was slow once is tried again.
    """

    _DECAY: Final = 10.0  # seconds in which an old response time loses two thirds of its weight

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        random: Random,
        clock: Callable[[], float] = monotonic,
        **made: Any,
    ) -> None:
        """As Balancer. clock: in seconds."""
        super().__init__(endpoints, random=random, **made)
        self._clock = clock

    def _draw(self) -> Endpoint:
        first = self._chance()
        second = self._chance()
        if first is second:
            return first
        now = self._clock()
        # Equal chances already follow the weights (PowerOfTwo).
        if self._cost(second, now) * first.weight < self._cost(first, now) * second.weight:
            return second
        return first

    def _cost(self, endpoint: Endpoint, now: float) -> float:
        faded = endpoint.latency * exp((endpoint.latency_at - now) / self._DECAY)
        # An endpoint of which nothing is known costs next to nothing, but not with requests on it.
        return (faded + 1e-6) * (endpoint.in_flight + 1)

    def released(self, endpoint: Endpoint, seconds: float, failed: bool) -> None:
        """Learn from a response; a failure counts as a second, lest a fast failure attract more."""
        if not seconds:
            return
        seen = max(seconds, 1.0) if failed else seconds
        now = self._clock()
        kept = exp((endpoint.latency_at - now) / self._DECAY)
        average = endpoint.latency * kept + seen * (1.0 - kept)
        endpoint.latency = seen if seen > endpoint.latency else average
        endpoint.latency_at = now


class LeastConnections(_Scheduled):
    """The endpoint with the fewest requests in flight per weight; among equals the turn goes by weight.

    Endpoints lie in buckets by that load; a pick takes one of the lowest bucket and moves it up, a
    release moves it down. Nothing is ever scanned: loads that have a bucket lie in a heap.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, random: Random, **made: Any) -> None:
        """As Balancer; counts on from each endpoint's requests in flight."""
        super().__init__(endpoints, random=random, **made)
        # An OrderedDict finds its first key at once; a dict skips all that were deleted before it.
        self._buckets: dict[float, OrderedDict[Endpoint, None]] = {}
        self._load: dict[Endpoint, float] = {}
        self._loads: list[float] = []  # a heap of those that had a bucket; empty ones go when met
        self._heaped: set[float] = set()  # what lies in it, once each
        for endpoint in endpoints:
            self._place(endpoint, _load(endpoint, endpoint.in_flight))
        if self.schedule:
            start = random.randrange(len(self.schedule))
            self._turn = cycle([*self.schedule[start:], *self.schedule[:start]]).__next__
            self.next = self._least

    def _place(self, endpoint: Endpoint, load: float) -> None:
        bucket = self._buckets.get(load)
        if bucket is None:
            bucket = self._buckets[load] = OrderedDict()
            if load not in self._heaped:
                self._heaped.add(load)
                heappush(self._loads, load)
        bucket[endpoint] = None
        self._load[endpoint] = load

    def _least(self) -> Endpoint:
        loads = self._loads
        while loads[0] not in self._buckets:
            self._heaped.remove(heappop(loads))
        bucket = self._buckets[loads[0]]
        endpoint = self._turn()
        if endpoint not in bucket:
            endpoint = next(iter(bucket))
        self._move(endpoint, _load(endpoint, endpoint.in_flight + 1))
        return endpoint

    def _move(self, endpoint: Endpoint, load: float) -> None:
        old = self._load[endpoint]
        bucket = self._buckets[old]
        del bucket[endpoint]
        if not bucket:
            del self._buckets[old]
        self._place(endpoint, load)

    def released(self, endpoint: Endpoint, seconds: float, failed: bool) -> None:
        """Move it down."""
        load = _load(endpoint, endpoint.in_flight)
        if self._load.get(endpoint, load) != load:
            self._move(endpoint, load)


def _load(endpoint: Endpoint, in_flight: int) -> float:
    """Requests per weight; a weight may become 0 while the balancer made before still serves."""
    return in_flight / (endpoint.weight or 1)


class ConsistentHash(Balancer):
    """A ring of virtual nodes: a key stays with its endpoint while that is a member.

    Each endpoint owns points at hashes of its address, as many as its weight asks for and the bound
    on the whole ring allows; a key belongs to the first point at or after its own hash (Karger et
    al., 1997). The ring is cut into buckets by the hash's top byte, so that building it goes in
    slices. The answer to a key is remembered, so that a pick is one look-up; the memo is bounded.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        random: Random,
        ring: Ring | None = None,
    ) -> None:
        """Args: ring: if it was made in slices."""
        super().__init__(endpoints, random=random)
        self.ring = finish(grown(Ring(), endpoints)) if ring is None else ring
        self._memo: dict[bytes | None, Endpoint] = {}

    def pick(self, key: bytes | None) -> Endpoint | None:
        """The key's endpoint; without a key anyone."""
        try:
            return self._memo[key]
        except KeyError:
            pass
        if not self.endpoints:
            return None
        if key is None:
            return self.ring.find(self.random.getrandbits(64))  # a chance by weight, as points are
        endpoint = self.ring.find(hash_of(key))
        if len(key) <= _MEMO_KEY:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[key] = endpoint
        return endpoint

    def peek(self, key: bytes | None) -> list[tuple[Endpoint, float]]:
        """The very endpoint."""
        if key is None or not self.endpoints:
            return super().peek(key)
        return [(self.ring.find(hash_of(key)), 1.0)]


BALANCERS: Final[dict[str, type[Balancer]]] = {
    "round_robin": RoundRobin,
    "weighted_round_robin": RoundRobin,
    "random": RandomChoice,
    "consistent_hash": ConsistentHash,
    "least_connections": LeastConnections,
    "power_of_two": PowerOfTwo,
    "peak_ewma": PeakEwma,
}


def policy_name(kind: type[Balancer]) -> str:
    """What a balancer is called in the configuration."""
    names = [name for name, each in BALANCERS.items() if each is kind]
    return names[0] if names else f"{kind.__module__}:{kind.__qualname__}"


def balancer_named(name: str) -> type[Balancer]:
    """The balancer of a name, or one's own by `package.module:Class`.

    Raises:
        ValueError: there is none, with what to write instead.
    """
    if name in BALANCERS:
        return BALANCERS[name]
    module_name, colon, class_name = name.partition(":")
    if not colon:
        near = get_close_matches(name, BALANCERS, n=1)
        raise ValueError(
            f"no balancer is called {name!r}"
            + (f"; did you mean {near[0]}?" if near else "")
            + f" (there are {', '.join(BALANCERS)}, or package.module:Class)"
        )
    try:
        kind = getattr(import_module(module_name), class_name)
    except Exception as error:  # whatever a stranger's module does when imported
        raise ValueError(f"{name} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Balancer)):
        raise ValueError(f"{name} is no subclass of gatewayd.core.balancers.Balancer")
    return kind


def compile_balancer(
    kind: type[Balancer],
    endpoints: Iterable[Endpoint],
    random: Random,
    previous: Balancer | None = None,
    clock: Callable[[], float] = monotonic,
) -> Slices[Balancer]:
    """Build a balancer in slices.

    Args:
        kind: the policy, one of BALANCERS or one's own.
        endpoints: the usable ones.
        random: the source of chance.
        previous: the balancer that serves now; what it built is used again.
        clock: for those that learn over time.

    Returns:
        A generator that yields between slices of about a millisecond and returns the balancer.
    """
    usable = tuple(endpoints)
    if issubclass(kind, _Scheduled):
        schedule = yield from _schedule(usable)
        if issubclass(kind, PeakEwma):
            return kind(usable, random=random, schedule=schedule, clock=clock)
        return kind(usable, random=random, schedule=schedule)
    if kind is ConsistentHash:
        old = previous.ring if isinstance(previous, ConsistentHash) else Ring()
        return ConsistentHash(usable, random=random, ring=(yield from grown(old, usable)))
    return kind(usable, random=random)
