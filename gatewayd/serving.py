"""What a configuration makes: upstreams with their members, routes and listeners, under one service.

A reload changes it in two steps. `plan` builds and binds what is new, and may fail with nothing changed;
`switch` then puts it in place within one turn of the reactor. Requests hold the leaf that they began
with, so streams and tunnels go on as they were; what did not change is the same object as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList

from gatewayd.assembly import (
    Shared,
    build_checker,
    build_listener,
    build_members,
    build_routes,
    build_upstream,
    build_zookeeper,
    change_members,
    follow,
)
from gatewayd.config.schema import Config
from gatewayd.core.limits import ALONE, Share
from gatewayd.core.routes import Route
from gatewayd.discovery.service import ZooKeeperService
from gatewayd.http1.requests import forget_hosts
from gatewayd.process import lowered, room_for_clients
from gatewayd.proxy.filters import Filters
from gatewayd.proxy.listener import Listener
from gatewayd.upstreams.checker import HealthChecker
from gatewayd.upstreams.members import Members
from gatewayd.upstreams.upstream import Upstream


class Plan:
    """What is ready to be switched to; made by `Serving.plan`."""

    def __init__(
        self,
        config: Config,
        upstreams: dict[str, Upstream],
        routes: list[Route],
        listeners: dict[str, Listener],
        opened: list[str],
    ) -> None:
        """Args: opened: names of the listeners whose sockets are new, or another's before."""
        self.config = config
        self.upstreams = upstreams
        self.routes = routes
        self.listeners = listeners
        self.opened = opened


class Serving(MultiService):
    """Everything that serves, of one process; made by the gateway's service or by a worker."""

    def __init__(
        self,
        config: Config,
        shared: Shared,
        *,
        says: Callable[[], Mapping[str, Any]] = dict,
        decides: bool = True,
    ) -> None:
        """Build it; nothing is opened yet.

        Args:
            config: without errors.
            shared: what everything is built with.
            says: what the gateway's own node in ZooKeeper tells.
            decides: it finds out itself who the members are and how they fare; False = it is told.
        """
        super().__init__()
        self.config = config
        self.upstreams: dict[str, Upstream] = {}
        self.listeners: dict[str, Listener] = {}
        self.zookeeper: ZooKeeperService | None = None
        self.draining = False
        self._shared = shared
        self._says = says
        self._decides = decides
        self._members: dict[str, Members] = {}
        self._checkers: dict[str, HealthChecker] = {}
        self._leaving: set[Listener] = set()
        self._share = ALONE
        self._room: dict[str, int] = {}  # for connections, by listener
        for name, each in config.upstreams.items():
            self._add_upstream(name, build_upstream(name, each, shared), config)
        if decides:
            self._add_zookeeper()
        self.routes = build_routes(config, self.upstreams, shared)
        for name, listener in self._build_listeners(config, self.routes).items():
            self.listeners[name] = listener
            self.addService(listener)

    # --- putting together

    def _build_listeners(self, config: Config, routes: list[Route]) -> dict[str, Listener]:
        meant_for = [route.listeners for route in config.routes] or [()]
        routed = list(zip(routes, meant_for, strict=True))
        return {
            name: build_listener(name, each, routed, self._shared)
            for name, each in config.listeners.items()
        }

    def _add_upstream(self, name: str, upstream: Upstream, config: Config) -> None:
        self.upstreams[name] = upstream
        if self._decides:
            members = build_members(upstream, config.upstreams[name], self._shared)
            self._members[name] = members
            self.addService(members)
            self._add_checker(name, config)

    def _add_checker(self, name: str, config: Config) -> None:
        checker = build_checker(self.upstreams[name], config.upstreams[name], self._shared)
        if checker is not None:
            self._checkers[name] = checker
            self.addService(checker)

    def _add_zookeeper(self) -> None:
        self.zookeeper = build_zookeeper(self.config, self._members, self._shared, self._says)
        if self.zookeeper is not None:
            self.addService(self.zookeeper)

    def privilegedStartService(self) -> None:
        """Twisted: sockets are bound while we may still be root."""
        self.take_share(self._share)
        super().privilegedStartService()

    # --- another configuration

    def plan(self, config: Config) -> Plan:
        """Build and bind what is new in a configuration; nothing that serves is changed.

        Raises:
            CannotListenError, KeyError, OSError: a listener's address cannot be had.
        """
        upstreams = {
            name: self.upstreams.get(name) or build_upstream(name, each, self._shared)
            for name, each in config.upstreams.items()
        }
        routes = build_routes(config, upstreams, self._shared)
        listeners = self._build_listeners(config, routes)
        opened: list[str] = []
        try:
            for name, listener in listeners.items():
                current = self.listeners.get(name)
                if current is None or current.address != listener.address:
                    self._bind(listener)
                    opened.append(name)
        except Exception:
            for name in opened:
                listeners[name].drain()
            raise
        return Plan(config, upstreams, routes, listeners, opened)

    def _bind(self, listener: Listener) -> None:
        for current in self.listeners.values():
            if current.address == listener.address:
                listener.succeed_to(current)
                return
        listener.privilegedStartService()

    def abandon(self, plan: Plan) -> None:
        """Close what was opened for a plan."""
        for name in plan.opened:
            plan.listeners[name].drain()

    def switch(self, plan: Plan) -> None:
        """Serve what was planned, from the next request on."""
        former, self.config = self.config, plan.config
        self._switch_upstreams(plan, former)
        if self._decides:
            self._switch_zookeeper(former)
        self._adopt_routes(plan.routes)
        self._switch_listeners(plan)
        forget_hosts()
        self.take_share(self._share)

    def take_share(self, share: Share) -> None:
        """Keep this process's part of the limits that are the whole gateway's."""
        self._share = share
        config = self.config
        connections = {
            n: share.part(each.limits.max_connections) for n, each in config.listeners.items()
        }
        room = room_for_clients(connections)
        if room != self._room and self._shared.accepts:
            for message in lowered(connections, room):
                self._shared.warn(message)
        self._room = room
        for name, listener in self.listeners.items():
            listener.admit(room[name])
        for name, upstream in self.upstreams.items():
            upstream.limit(share.part(config.upstreams[name].pool.max_connections_per_endpoint))
        for wanted, route in zip(config.routes, self.routes, strict=False):
            if route.filters is not None:
                route.filters.divide(share, wanted.max_concurrent)

    def _switch_upstreams(self, plan: Plan, former: Config) -> None:
        for name in [each for each in self.upstreams if each not in plan.upstreams]:
            self._remove(self._members.pop(name, None))
            self._remove(self._checkers.pop(name, None))
            self.upstreams.pop(name).retire()
        for name, wanted in plan.config.upstreams.items():
            if name not in self.upstreams:
                self._add_upstream(name, plan.upstreams[name], plan.config)
                continue
            was = former.upstreams[name]
            if was == wanted:
                continue
            upstream = self.upstreams[name]
            upstream.become(build_upstream(name, wanted, self._shared))
            if not self._decides:
                continue
            if (was.endpoints, was.dns, was.members_allow) != (
                wanted.endpoints,
                wanted.dns,
                wanted.members_allow,
            ):
                change_members(self._members[name], wanted)
            if was.health_check != wanted.health_check:
                self._remove(self._checkers.pop(name, None))
                self._add_checker(name, plan.config)

    def _switch_zookeeper(self, former: Config) -> None:
        current = self.zookeeper
        if current is not None and self.config.zookeeper == former.zookeeper:
            follow(current, self.config, self._members)
            return
        self._add_zookeeper_after(current)

    def _add_zookeeper_after(self, current: ZooKeeperService | None) -> None:
        """Begin another session; what the former one knows stays until the first answer."""
        config, running = self.config, self.running
        self.zookeeper = build_zookeeper(config, self._members, self._shared, self._says)
        if current is not None:
            for name in current.discoveries:
                if config.upstreams.get(name) is None or config.upstreams[name].zookeeper is None:
                    current.discoveries[name].end()
            if self.zookeeper is not None:
                self.zookeeper.take_over(current)
            self._remove(current)
        if self.zookeeper is not None and running:
            self.addService(self.zookeeper)

    def _adopt_routes(self, routes: list[Route]) -> None:
        """What routes have counted goes on to count in those of the same name."""
        former = {route.name: route.filters for route in self.routes}
        now = self._shared.context.clock()
        for route in routes:
            was: Filters | None = former.get(route.name)
            filters: Filters | None = route.filters
            if was is not None and filters is not None:
                filters.adopt(was, now)
        self.routes = routes

    def _switch_listeners(self, plan: Plan) -> None:
        kept = {
            name: planned if name in plan.opened else self.listeners[name]
            for name, planned in plan.listeners.items()
        }
        # First who goes: one that moves leaves its name to its successor.
        for listener in self.listeners.values():
            if listener not in kept.values():
                if any(each.address == listener.address for each in kept.values()):
                    listener.yield_path()
                self._remove(listener)
                self._leaving.add(listener)
                listener.drain().addCallback(self._left, listener)
        for name, planned in plan.listeners.items():
            if name in plan.opened:
                if planned.address.kind == "unix":
                    planned.yield_path(False)
                planned.rest(self.draining)
                self.addService(planned)
            else:
                kept[name].become(planned)
        self.listeners = kept

    def _left(self, ignored: None, listener: Listener) -> None:
        self._leaving.discard(listener)
        forget_hosts()

    def _remove(self, service: Any) -> None:
        if service is not None:
            self.removeService(service)

    # --- ends

    def rest(self, draining: bool) -> None:
        """End keep-alive by `Connection: close`, or take that back."""
        self.draining = draining
        for listener in self.listeners.values():
            listener.rest(draining)

    def drain(self) -> Deferred[Any]:
        """Accept nobody else, and let everybody finish.

        Returns:
            A Deferred that fires when the last client has left.
        """
        self.draining = True
        return DeferredList([each.drain() for each in self._everybody()])

    def abort(self) -> int:
        """Cut whoever is left, but for those who only rest: they are closed.

        Returns:
            How many are cut.
        """
        return sum(listener.abort() for listener in self._everybody())

    def _everybody(self) -> list[Listener]:
        return [*self.listeners.values(), *self._leaving]

    def close(self) -> None:
        """The end: nobody waits on, and idle connections close."""
        for upstream in self.upstreams.values():
            upstream.close()
