"""An upstream for somebody else's program: made in one call, its deadlines swept, ended by `close`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from gatewayd.core.addresses import parse_host_port
from gatewayd.core.balancers import balancer_named
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.deadlines import Wheel
from gatewayd.upstreams.members import Members, StaticMember
from gatewayd.upstreams.names import Resolver
from gatewayd.upstreams.pool import HTTPConnectionPool
from gatewayd.upstreams.upstream import Upstream

_TICK: Final = 0.1
_log: Final = Logger(namespace="gatewayd")


class _Keeper:
    """Keeps an upstream going: its members looked up, its deadlines swept until the last connection ends."""

    def __init__(self, upstream: Upstream, members: Members, reactor: Any) -> None:
        self._upstream = upstream
        self._members = members
        self._closing = False
        self._loop = LoopingCall(self._sweep)
        self._loop.clock = reactor
        self._ended = self._loop.start(_TICK, now=False)
        members.startService()
        upstream.on_close(self._close)

    def _sweep(self) -> None:
        try:
            self._upstream.wheel.sweep(self._upstream.clock())
        except Exception:
            _log.failure("a deadline of upstream {name} failed", name=self._upstream.name)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._closing and not self._upstream.pool.ledger.open and self._loop.running:
            self._loop.stop()

    def _close(self, closed: Deferred[None]) -> Deferred[None]:
        if not self._closing:
            self._closing = True
            self._members.stopService()
        closed.addCallback(lambda _: self._end_if_done())
        ended: Deferred[None] = Deferred()
        self._ended.addCallback(lambda loop: ended.callback(None))
        return ended


def make_upstream(
    reactor: Any,
    endpoints: Iterable[str] | Mapping[str, int],
    *,
    name: str = "upstream",
    balancer: str = "round_robin",
    hash_key: str = "client_ip",
    base_path: str = "",
    via: str = "both",
    max_pending: int = 1024,
    pending_timeout: float = 5.0,
    random: Random | None = None,
    **pool_options: Any,
) -> Upstream:
    """Make an upstream for a ReverseProxyResource in a Site of one's own.

    Args:
        reactor: Twisted's.
        endpoints: `host:port` each, as many as there are; a mapping gives weights. Names are looked
            up every 30 s, on threads of their own.
        name: its label.
        balancer: as in the configuration, `package.module:Class` too.
        hash_key: for consistent_hash, as in the configuration.
        base_path: put in front of every path.
        via: which way our Via is added: `both`, `response` or `none`.
        max_pending: requests that may wait for a connection or a first address.
        pending_timeout: seconds that one may wait.
        random: chance.
        pool_options: of HTTPConnectionPool: `timeouts`, `max_idle`, `idle_timeout`, ….

    Returns:
        An upstream with these members, whose deadlines are swept until its `close`.

    Raises:
        ValueError: an endpoint or a balancer cannot be understood, and why.
    """
    weights = endpoints if isinstance(endpoints, Mapping) else dict.fromkeys(endpoints, 1)
    members = [StaticMember(parse_host_port(text), weight) for text, weight in weights.items()]
    wheel = Wheel(reactor.seconds(), tick=_TICK)
    upstream = Upstream(
        name,
        pool=HTTPConnectionPool(reactor, wheel=wheel, **pool_options),
        counters=UpstreamCounters(),
        clock=reactor.seconds,
        wheel=wheel,
        later=lambda call: reactor.callLater(0, call),
        balancer=balancer_named(balancer),
        random=random if random is not None else Random(),
        max_pending=max_pending,
        pending_timeout=pending_timeout,
        hash_key=hash_key,
        base_path=base_path,
        via=via,
    )
    looked_up = Members(
        upstream,
        members,
        Resolver(lambda *call: reactor.callFromThread(*call)),
        reactor,
        refresh=30.0,
        timeout=2.0,
        warn=lambda message: _log.warn("{message}", message=message),
    )
    _Keeper(upstream, looked_up, reactor)
    return upstream
