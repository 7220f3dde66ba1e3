"""A gateway in virtual time: the very objects that serve, on a Clock, with endpoints in memory.

Everything is built by gatewayd.assembly from a real configuration; only sockets, time and chance are
stand-ins. The same seed is the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from gatewayd.assembly import (
    Shared,
    build_checker,
    build_listener,
    build_members,
    build_routes,
    build_upstream,
)
from gatewayd.config import schema
from gatewayd.core.addresses import Address
from gatewayd.core.counters import Counters
from gatewayd.core.deadlines import Wheel
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.forwarded import RequestIds, Via
from gatewayd.core.tracing import SILENT, SUBSYSTEMS
from gatewayd.proxy.context import Context
from gatewayd.proxy.listener import Listener
from gatewayd.testing.actors import Behaviour, SimClient, SimEndpoint
from gatewayd.testing.memory import MemoryDialer, connect
from gatewayd.testing.report import Report
from gatewayd.upstreams.checker import Check
from gatewayd.upstreams.upstream import Upstream

_TICK: Final = 0.1
_NETWORK: Final = 0.0002
_BEGINNING: Final = 1000.0  # a time of 0 means "not yet" in an exchange


class _Resolver:
    """Answers for names at once, each with an address of its own."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}

    def resolve(self, name: str, answered: Callable[[list[str]], None]) -> None:
        """As upstreams.names.Resolver."""
        count = len(self.addresses) + 1
        address = self.addresses.setdefault(name, f"10.99.{count >> 8}.{count & 255}")
        answered([address])


class Simulator:
    """One gateway, its endpoints and its clients."""

    def __init__(
        self, config: schema.Config, *, seed: int, behaviour: Behaviour | None = None
    ) -> None:
        """Build it.

        Args:
            config: of the gateway.
            seed: of all chance.
            behaviour: of every endpoint, until `endpoints[label].behaviour` is set.
        """
        self.clock = Clock()
        self.clock.advance(_BEGINNING)
        self.random = Random(seed)
        self.report = Report()
        self.messages: list[tuple[float, str]] = []
        self._behaviour = behaviour if behaviour is not None else Behaviour()
        self.endpoints: dict[str, SimEndpoint] = {}
        self._idle: list[SimClient] = []
        self._pending = 0
        seconds = self.clock.seconds
        self.context = Context(
            clock=seconds,
            wall=seconds,
            wheel=Wheel(seconds(), tick=_TICK),
            counters=Counters(),
            via=Via(b"gatewayd-simulated"),
            ids=RequestIds(b"sim"),
        )
        self._resolver = _Resolver()
        resolver: Any = self._resolver
        self._shared = Shared(
            reactor=self.clock,
            context=self.context,
            random=self.random,
            resolver=resolver,
            inherited={},
            traces=dict.fromkeys(SUBSYSTEMS, SILENT),
            warn=self._note,
            notice=self._note,
            dialer=MemoryDialer(self.clock, self._answers),
            check_of=self._check_of,
        )
        self.upstreams: dict[str, Upstream] = {}
        self._build(config)
        self._sweep()

    def _build(self, config: schema.Config) -> None:
        services: list[Any] = []
        for name, upstream_config in config.upstreams.items():
            upstream = build_upstream(name, upstream_config, self._shared)
            self.upstreams[name] = upstream
            services.append(build_members(upstream, upstream_config, self._shared))
            checker = build_checker(upstream, upstream_config, self._shared)
            if checker is not None:
                services.append(checker)
        for service in services:
            service.startService()
        routes = build_routes(config, self.upstreams, self._shared)
        listeners = [route.listeners for route in config.routes] or [()]
        name, listener_config = next(iter(config.listeners.items()))
        self.listener: Listener = build_listener(
            name, listener_config, list(zip(routes, listeners, strict=True)), self._shared
        )
        for upstream in self.upstreams.values():
            for endpoint in upstream.endpoints:
                self._answers(endpoint.host, endpoint.port)

    def endpoint(self, label: str) -> SimEndpoint:
        """The endpoint that a configuration calls so: by its address, or by name and port."""
        host, _, port = label.rpartition(":")
        return self.endpoints[f"{self._resolver.addresses.get(host, host)}:{port}"]

    def _note(self, message: str) -> None:
        self.messages.append((round(self.now, 6), message))
        if "is in panic" in message:
            self.report.panics += 1

    def _answers(self, host: str, port: int) -> SimEndpoint:
        label = str(Address("tcp", host, port))
        found = self.endpoints.get(label)
        if found is None:
            found = SimEndpoint(label, self._behaviour, self.clock, self.random)
            self.endpoints[label] = found
        return found

    def _check_of(self, wanted: schema.HealthCheck) -> Check:
        def check(endpoint: Endpoint) -> Deferred[bool]:
            asked: Deferred[bool] = Deferred()
            played = self._answers(endpoint.host, endpoint.port)
            if played.refuses:
                self.clock.callLater(_NETWORK, asked.callback, False)
            elif played.well:
                self.clock.callLater(played.behaviour.latency, _answer, asked)
            return asked

        return check

    def _sweep(self) -> None:
        self.context.wheel.sweep(self.clock.seconds())
        self.clock.callLater(_TICK, self._sweep)

    # --- playing

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return float(self.clock.seconds()) - _BEGINNING

    def at(self, seconds: float, act: Callable[[], Any]) -> None:
        """Do something at a time."""
        self.clock.callLater(max(0.0, seconds - self.now), act)

    def traffic(
        self,
        rate: float,
        *,
        until: float,
        begin: float = 0.0,
        method: str = "GET",
        path: str = "/",
        host: str = "sim.example",
        body: int = 0,
    ) -> None:
        """Let clients ask at random times.

        Args:
            rate: requests a second on average.
            begin, until: seconds.
            method, path, host: of each.
            body: its bytes.
        """
        length = f"Content-Length: {body}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n"
        data = head.encode() + b"x" * body

        def ask() -> None:
            if self.now < until:
                self._ask(method.encode(), data)
                self.clock.callLater(self.random.expovariate(rate), ask)

        self.at(begin + self.random.expovariate(rate), ask)

    def _ask(self, method: bytes, data: bytes) -> None:
        self.report.sent += 1
        self._count_fair_shares()
        client = self._idle.pop() if self._idle else self._new_client()
        self._pending += 1
        client.ask(method, data, self._answered)

    def _answered(self, status: int, seconds: float, endpoint: str) -> None:
        self._pending -= 1
        self.report.add(status, seconds, endpoint, self.now)

    def _new_client(self) -> SimClient:
        client = SimClient(self.clock, self._idle.append)
        channel = self.listener.buildProtocol(IPv4Address("TCP", "192.0.2.7", 40000))
        connect(self.clock, _NETWORK, client, channel, near_host="192.0.2.7", far_host="127.0.0.1")
        return client

    def _count_fair_shares(self) -> None:
        fair = self.report.fair
        for upstream in self.upstreams.values():
            well = [each for each in upstream.endpoints if self.endpoints[each.label].well]
            total = sum(each.weight for each in well)
            for each in well:
                fair[each.label] = fair.get(each.label, 0.0) + each.weight / total

    def run(self, seconds: float, *, rest: float = 30.0) -> Report:
        """Let time pass.

        Args:
            seconds: virtual ones.
            rest: at most so long afterwards for requests in flight to end.

        Returns:
            What came out; requests without an end count as cut.
        """
        clock: Any = self.clock
        end = _BEGINNING + seconds
        while clock.seconds() < end + rest:
            due = min(call.getTime() for call in clock.getDelayedCalls())
            if due > end and not self._pending:
                break
            clock.advance(max(0.0, due - clock.seconds()))
        for _ in range(self._pending):
            self.report.add(0, seconds, "", self.now)
        self.report.received = {each.label: each.received for each in self.endpoints.values()}
        self.report.retries = sum(
            n
            for route in self.context.counters.routes.values()
            for (_, result), n in route.retries.items()
            if result != "refused"
        )
        return self.report


def _answer(asked: Deferred[bool]) -> None:
    if not asked.called:
        asked.callback(True)
