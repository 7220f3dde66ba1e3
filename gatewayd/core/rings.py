"""The ring of consistent hashing: points of the endpoints, in buckets by their top byte.

A key belongs to the first point at or after its own hash (Karger et al., 1997). A ring is grown from an
older one by the members that changed, in slices; the older one serves meanwhile and is left as it is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from gatewayd.core.endpoints import Endpoint
from gatewayd.core.slices import SLICE, Slices

_MAX_POINTS: Final = 262_144  # of a whole ring: 10,000 members have 25 each
_POINTS: Final = 128  # per unit of weight where there is room: shares within about 9% (ketama: 160)
_BUCKETS: Final = 256


def hash_of(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


class Ring:
    """Points in buckets by their top byte."""

    def __init__(self) -> None:
        self.buckets: list[list[int]] = [[] for _ in range(_BUCKETS)]
        self.owners: dict[int, Endpoint] = {}
        self.points: dict[Endpoint, int] = {}  # how many each owns

    def find(self, point: int) -> Endpoint:
        """The owner of the first point at or after this one."""
        number = point >> 56
        bucket = self.buckets[number]
        at = bisect_left(bucket, point)
        while at == len(bucket):
            number = (number + 1) % _BUCKETS
            bucket = self.buckets[number]
            at = 0
        return self.owners[bucket[at]]


def _points_of(endpoint: Endpoint, first: int, last: int) -> list[int]:
    """Points number `first` to `last` of an endpoint; eight to a digest."""
    label = endpoint.label.encode()
    points: list[int] = []
    for block in range(first // 8, (last + 7) // 8):
        digest = blake2b(b"%b#%d" % (label, block)).digest()
        points += [int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8)]
    return points[first % 8 : first % 8 + last - first]


def points_wanted(endpoints: Sequence[Endpoint]) -> dict[Endpoint, int]:
    """How many points each endpoint is to own.

    As many per weight as make shares even, whoever else is a member: then a change moves only the keys
    of those that changed. Where these would be too many in all, everybody has so much less; then a
    change of one in n moves about another n-th of the keys, never more at a time.
    """
    weights = sum(endpoint.weight for endpoint in endpoints)
    room = _MAX_POINTS - len(endpoints)
    if weights * _POINTS <= room:
        return {endpoint: endpoint.weight * _POINTS for endpoint in endpoints}
    return {endpoint: max(1, endpoint.weight * room // weights) for endpoint in endpoints}


def grown(old: Ring, endpoints: Sequence[Endpoint]) -> Slices[Ring]:
    """A new ring from an old one, changed by the members that changed."""
    ring = Ring()
    ring.points = wanted = points_wanted(endpoints)
    kept = sum(min(count, wanted.get(endpoint, 0)) for endpoint, count in old.points.items())
    if 2 * kept < sum(old.points.values()):
        old = Ring()  # to take out what goes costs as much as to make anew what stays
    yield
    gone: set[int] = set()
    fresh: list[tuple[int, Endpoint]] = []
    work = 0
    for endpoint, count in old.points.items():
        for first in range(min(count, wanted.get(endpoint, 0)), count, SLICE * 2):
            gone.update(_points_of(endpoint, first, min(count, first + SLICE * 2)))
            yield
        work += 1
        if work % SLICE == 0:
            yield
    made = 0
    for endpoint, count in wanted.items():
        for first in range(old.points.get(endpoint, 0), count, SLICE * 2):
            points = _points_of(endpoint, first, min(count, first + SLICE * 2))
            fresh += [(point, endpoint) for point in points]
            made += len(points) + 8  # a digest at least
            if made >= SLICE * 2:
                made = 0
                yield
        work += 1
        if work % SLICE == 0:
            yield
    for number in range(_BUCKETS):
        ring.buckets[number] = [point for point in old.buckets[number] if point not in gone]
        if number % 32 == 31:
            yield
    ring.owners = old.owners.copy()
    yield
    for point in gone:
        ring.owners.pop(point, None)
        work += 1
        if work % (SLICE * 8) == 0:
            yield
    sorted_in = len(fresh) > SLICE
    for point, endpoint in fresh:
        ring.owners[point] = endpoint
        if sorted_in:
            ring.buckets[point >> 56].append(point)
        else:
            insort(ring.buckets[point >> 56], point)
        work += 1
        if work % (SLICE * 4) == 0:
            yield
    if sorted_in:
        for number, bucket in enumerate(ring.buckets):
            bucket.sort()
            if number % 8 == 7:
                yield
    return ring
