"""Who the members of an upstream are: static ones, and those that a registry names.

The same address counts once, and the configuration wins over the registry. Names are looked up, and what they
stand for becomes members; a registry can never make the gateway forward to itself, or to networks that
members_allow leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from twisted.application.service import Service

from gatewayd.core.addresses import Address, Networks, is_ip, parse_host_port, unmapped
from gatewayd.core.endpoints import Endpoint, Member
from gatewayd.core.membership import HELD, LAST_RESORT, LISTED, permitted
from gatewayd.upstreams.names import Names, Resolver
from gatewayd.upstreams.upstream import Upstream


class StaticMember(NamedTuple):
    """An endpoint as the configuration has it."""

    address: Address
    weight: int = 1


class Discovered(NamedTuple):
    """A member as a registry names it, and what is thought of that."""

    address: Address
    weight: int
    standing: str = LISTED


class Members(Service):
    """An upstream's members; made by the service for each upstream."""

    def __init__(
        self,
        upstream: Upstream,
        members: Sequence[StaticMember],
        resolver: Resolver,
        clock: Any,
        *,
        refresh: float,
        timeout: float,
        warn: Callable[[str], None],
        allowed: Networks | None = None,
        is_own: Callable[[Address], bool] = lambda address: False,
    ) -> None:
        """Args:
        upstream: gets the members.
        members: static ones, in order.
        resolver: for those that are names.
        clock: Twisted's IReactorTime.
        refresh: seconds between look-ups.
        timeout: seconds for one, 0 = for ever.
        warn: takes a message for people.
        allowed: networks that discovered members may be in; None = any.
        is_own: whether an address is the gateway's own; no discovered member may have it.
        """
        self._upstream = upstream
        self._static = tuple(members)
        self._discovered: dict[Address, Discovered] = {}
        self._allowed = allowed
        self._is_own = is_own
        self._warn = warn
        self._refused: set[Address] = set()
        self._literal: dict[str, bool] = {}  # hosts of all members: whether each is an IP
        self._indexed: Sequence[Endpoint] | None = None  # whose names the index has
        self._index: dict[str, list[Endpoint]] = {}
        self.doubts: Callable[[Address, bool], None] | None = None  # told of failing unlisted ones
        self._names = Names(
            resolver,
            clock,
            refresh=refresh,
            timeout=timeout,
            changed=self._publish,
            warn=lambda message: warn(f"upstream {upstream.name}: {message}"),
        )
        upstream.on_trouble(self._trouble)

    def __repr__(self) -> str:
        return f"<Members {self._upstream.name} static={len(self._static)} found={len(self._discovered)}>"

    def startService(self) -> None:
        """Twisted: begin; members that need no look-up are there at once."""
        super().startService()
        self._update()

    def stopService(self) -> None:
        """Twisted: end."""
        super().stopService()
        self._names.stop()

    def become(
        self,
        members: Sequence[StaticMember],
        *,
        refresh: float,
        timeout: float,
        allowed: Networks | None,
    ) -> None:
        """Have other static members and rules from now on; Args: as those of the constructor."""
        self._static = tuple(members)
        self._allowed = allowed
        self._refused.clear()
        self._names.pace(refresh, timeout)
        self._update()

    def set_discovered(self, members: Iterable[Discovered]) -> None:
        """Take what a registry names, beside the static members."""
        self._discovered = {each.address: each for each in members}
        if self.running:
            self._update()

    def is_usable(self, address: Address) -> bool:
        """Whether one of a discovered member's endpoints could be picked."""
        return any(
            each.weight and not each.down and not each.drained for each in self._named(address)
        )

    def is_serving(self, address: Address) -> bool:
        """Whether one of a discovered member's endpoints is among those that are picked."""
        return any(each.usable for each in self._named(address))

    def _named(self, address: Address) -> Sequence[Endpoint]:
        endpoints = self._upstream.endpoints
        if self._indexed is not endpoints:
            self._indexed = endpoints
            self._index = {}
            for each in endpoints:
                self._index.setdefault(each.name, []).append(each)
        return self._index.get(str(address), ())

    def _update(self) -> None:
        hosts = {each.address.host for each in self._static}
        hosts.update(address.host for address in self._discovered)
        known = self._literal  # reading an address takes long where there are ten thousand
        self._literal = {host: known[host] if host in known else is_ip(host) for host in hosts}
        self._names.watch({host for host, literal in self._literal.items() if not literal})
        self._publish()

    def _publish(self) -> None:
        members: dict[Address, Member] = {}
        for address, weight in self._static:
            for found in self._addresses(address):
                members.setdefault(found, Member(found, weight, "static", str(address)))
        for found, entry in self._permitted():
            if found not in members:
                name, standing = str(entry.address), _STANDING[entry.standing]
                members[found] = Member(found, entry.weight, "zookeeper", name, standing)
        if members or (self._upstream.known and not self._awaits_names()):
            self._upstream.set_members(members.values())

    def _awaits_names(self) -> bool:
        """Whether somebody is a member whose name has not been looked up yet."""
        everybody = [*(each.address for each in self._static), *self._discovered]
        return any(not self._addresses(each) for each in everybody)

    def _addresses(self, address: Address) -> list[Address]:
        if self._literal[address.host]:
            return [address]
        return [Address("tcp", each, address.port) for each in self._names.addresses(address.host)]

    def _permitted(self) -> Iterable[tuple[Address, Discovered]]:
        """Where discovered members are, each place by itself: of one name some may be refused."""
        if not self._discovered:
            return ()
        allowed = self._allowed
        pairs: dict[Address, Discovered] = {}
        for entry in self._discovered.values():
            for found in self._addresses(entry.address):
                pairs.setdefault(found, entry)
        good, refused = permitted(
            ((found, entry.weight) for found, entry in pairs.items()),
            lambda host: allowed is None or host in allowed,
            lambda address: self._is_own(_plain(address)),
        )
        for address, because in refused:
            if address not in self._refused and len(self._refused) < 10_000:
                self._refused.add(address)
                self._warn(f"upstream {self._upstream.name}: {address} is no member: {because}")
        return [(found, pairs[found]) for found in good]

    def _trouble(self, endpoint: Endpoint) -> None:
        """An endpoint that its registry does not list has failed, or is down."""
        if self.doubts is None or endpoint.source != "zookeeper":
            return
        others = any(
            each.usable or _could_serve(each)
            for each in self._upstream.endpoints
            if each is not endpoint
        )
        self.doubts(parse_host_port(endpoint.name), not others)


def _plain(address: Address) -> Address:
    """An IPv4-mapped IPv6 address is the same place as the IPv4 one."""
    return address._replace(host=unmapped(address.host)) if ":" in address.host else address


def _could_serve(endpoint: Endpoint) -> bool:
    """Whether it is a last resort that has not failed lately."""
    return bool(
        endpoint.standing == LAST_RESORT
        and endpoint.weight
        and not (endpoint.down or endpoint.drained or endpoint.connect_failures)
    )


_STANDING = {LISTED: "", HELD: HELD, LAST_RESORT: LAST_RESORT}
