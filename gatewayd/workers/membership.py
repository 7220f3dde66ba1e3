"""Members and their health, as the supervisor finds them out and as workers follow.

The supervisor watches ZooKeeper, looks up names and runs the health checks; a worker is told the outcome.
What has changed since the last time is sent, and a worker that begins is told everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gatewayd.core.addresses import Address
from gatewayd.core.breaker import OPEN
from gatewayd.core.endpoints import Endpoint, Marks, Member
from gatewayd.upstreams.upstream import Upstream

Entries = dict[Address, tuple[Member, Marks]]


class News(NamedTuple):
    """What a worker has to know of one upstream."""

    whole: bool  # these are all members; else those that are new or different
    known: bool  # a first membership has come
    entries: Entries
    gone: tuple[Address, ...] = ()
    open_until: float = 0.0  # of the upstream's circuit, on the monotonic clock; 0 = it is not open


class Teller:
    """Knows what workers have been told; made by the supervisor."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[bool, Entries, float]] = {}

    def everything(self, upstreams: Mapping[str, Upstream]) -> dict[str, News]:
        """For a worker that begins, or after a reload."""
        return {
            name: News(True, each.known, _entries(each), (), _open_until(each))
            for name, each in upstreams.items()
        }

    def news(self, upstreams: Mapping[str, Upstream]) -> dict[str, News]:
        """What has changed since the last call."""
        found: dict[str, News] = {}
        for name in [each for each in self._told if each not in upstreams]:
            del self._told[name]
        for name, upstream in upstreams.items():
            was_known, were, was_open = self._told.get(name, (False, {}, 0.0))
            entries, opened = _entries(upstream), _open_until(upstream)
            changed = {a: entry for a, entry in entries.items() if were.get(a) != entry}
            gone = tuple(address for address in were if address not in entries)
            if changed or gone or upstream.known != was_known or opened != was_open:
                self._told[name] = (upstream.known, entries, opened)
                found[name] = News(False, upstream.known, changed, gone, opened)
        return found


class Follower:
    """Keeps one upstream of a worker as the supervisor says; made by the worker."""

    def __init__(self, upstream: Upstream) -> None:
        """Args: upstream: has no members of its own."""
        self._upstream = upstream
        self._entries: Entries = {}
        upstream.watch_members(self._mark)

    def take(self, news: News) -> None:
        """Believe it."""
        entries, upstream = self._entries, self._upstream
        altered = False
        gone = entries.keys() - news.entries.keys() if news.whole else news.gone
        for address in gone:
            altered = entries.pop(address, None) is not None or altered
        for address, entry in news.entries.items():
            former = entries.get(address)
            altered = altered or former is None or former[0] != entry[0]
            entries[address] = entry
        try:
            if news.known and (altered or not upstream.known):
                upstream.set_members([member for member, _ in entries.values()])
        finally:  # a balancer of one's own may fail
            self._mark(each for each in upstream.endpoints if each.address in news.entries)
        if news.open_until:
            upstream.open_circuit(news.open_until)

    def proven(self) -> list[str]:
        """Labels of endpoints that have served well, which the supervisor cannot know yet."""
        entries = self._entries
        found = []
        for endpoint in self._upstream.endpoints:
            if endpoint.known_good and endpoint.address in entries:
                marks = entries[endpoint.address][1]
                if not (marks.known_good or marks.down or marks.awaits_check):
                    found.append(endpoint.label)
        return found

    def _mark(self, endpoints: Iterable[Endpoint]) -> None:
        """Bring what has joined, or is told anew, to what the supervisor says of it."""
        entries = self._entries
        self._upstream.mark(
            {each: entries[each.address][1] for each in endpoints if each.address in entries}
        )


def _entries(upstream: Upstream) -> Entries:
    return {each.address: (_member(each), each.marks) for each in upstream.endpoints}


def _member(endpoint: Endpoint) -> Member:
    return Member(
        endpoint.address, endpoint.weight, endpoint.source, endpoint.name, endpoint.standing
    )


def _open_until(upstream: Upstream) -> float:
    breaker = upstream.breaker
    return breaker.until if breaker is not None and breaker.state == OPEN else 0.0
