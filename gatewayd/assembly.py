"""From configuration to objects: the only place that turns keys into constructor arguments."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from random import Random
from socket import gethostname
from typing import Any

from gatewayd.config import schema
from gatewayd.core.addresses import Address, Networks
from gatewayd.core.breaker import Breaker, BreakerRules
from gatewayd.core.counters import Counters
from gatewayd.core.health import ActiveRules, Health, PassiveRules
from gatewayd.core.limits import AdaptiveLimit, RateLimit
from gatewayd.core.membership import Rules
from gatewayd.core.messages import Edits
from gatewayd.core.retries import RetryPolicy
from gatewayd.core.rewrites import Redirect, Rewrite
from gatewayd.core.routes import Match, Route, Table
from gatewayd.core.tracing import Trace
from gatewayd.discovery.client import Client, KazooZooKeeper
from gatewayd.discovery.journal import Journal
from gatewayd.discovery.registration import Registration
from gatewayd.discovery.service import Source, ZooKeeperService
from gatewayd.http1.requests import PathRules
from gatewayd.proxy.context import Context
from gatewayd.proxy.filters import Filters, RateRule
from gatewayd.proxy.forward import Forwarding, ReverseProxyResource
from gatewayd.proxy.listener import Listener
from gatewayd.proxy.resource import Leaf, RedirectResource, RespondResource, Root
from gatewayd.proxy.terms import ClientTimeouts, Limits, Terms
from gatewayd.upstreams.checker import Check, HealthChecker, HttpCheck, TcpCheck
from gatewayd.upstreams.connection import Timeouts
from gatewayd.upstreams.members import Members, StaticMember
from gatewayd.upstreams.names import Resolver
from gatewayd.upstreams.pool import HTTPConnectionPool
from gatewayd.upstreams.split import Split
from gatewayd.upstreams.upstream import Upstream

EVERYBODY = ("0.0.0.0/0", "::/0", "unix")


class Shared:
    """What everything in a process is built with."""

    def __init__(
        self,
        *,
        reactor: Any,
        context: Context,
        random: Random,
        resolver: Resolver,
        inherited: dict[str, int],
        traces: Mapping[str, Trace],
        warn: Callable[[str], None],
        notice: Callable[[str], None],
        accepts: int = 1024,
        board: Any = None,
        dialer: Any = None,
        check_of: Callable[[schema.HealthCheck], Check] | None = None,
        zookeeper_of: Callable[[schema.ZooKeeper], Client] | None = None,
        is_own: Callable[[Address], bool] = lambda address: False,
    ) -> None:
        """Args:
        reactor: Twisted's.
        context: of all exchanges.
        random: chance.
        resolver: of endpoints that are names.
        inherited: sockets that listen already (net.ports.inherited_sockets).
        accepts, board: of listeners.
        traces: debug output by subsystem.
        warn, notice: take messages for people.
        dialer: opens connections to endpoints; None = over the network.
        check_of: makes health checks; None = over the network.
        zookeeper_of: makes a client of ZooKeeper; None = over the network.
        is_own: whether an address is the gateway's own.
        """
        self.reactor = reactor
        self.context = context
        self.random = random
        self.resolver = resolver
        self.inherited = inherited
        self.accepts = accepts
        self.board = board
        self.traces = traces
        self.warn = warn
        self.notice = notice
        self.dialer = dialer
        self.check_of = check_of if check_of is not None else self._network_check

        self.zookeeper_of = zookeeper_of if zookeeper_of is not None else self._kazoo
        self.is_own = is_own

    def _kazoo(self, wanted: schema.ZooKeeper) -> Client:
        return KazooZooKeeper(
            wanted.hosts, self.reactor, session_timeout=wanted.session_timeout, auth=wanted.auth
        )

    def _network_check(self, wanted: schema.HealthCheck) -> Check:
        if wanted.tcp:
            return TcpCheck(self.reactor, wanted.port)
        return HttpCheck(
            self.reactor,
            path=wanted.path,
            expect=wanted.expect,
            body=wanted.body,
            host=wanted.host,
            headers=wanted.headers,
            port=wanted.port,
            timeout=wanted.timeout,
        )

    @property
    def counters(self) -> Counters:
        """All figures."""
        return self.context.counters


def build_upstream(name: str, config: schema.Upstream, shared: Shared) -> Upstream:
    """An upstream without members, with its pool."""
    timeouts = config.timeouts
    breaker = _build_breaker(config)
    pool = HTTPConnectionPool(
        shared.reactor,
        max_idle=config.pool.max_idle,
        max_idle_per_endpoint=config.pool.max_idle_per_endpoint,
        idle_timeout=config.pool.idle_timeout,
        max_connections_per_endpoint=config.pool.max_connections_per_endpoint,
        max_header_bytes=config.max_header_bytes,
        read_ahead=config.pool.read_ahead,
        timeouts=Timeouts(
            connect=timeouts.connect,
            response_header=timeouts.response_header,
            read=timeouts.read,
            write=timeouts.write,
        ),
        wheel=shared.context.wheel,
        dialer=shared.dialer,
        trace=shared.traces["pool"],
    )
    return Upstream(
        name,
        balancer=config.balancer,
        pool=pool,
        counters=shared.counters.upstream(name),
        random=shared.random,
        clock=shared.context.clock,
        wheel=shared.context.wheel,
        later=lambda call: shared.reactor.callLater(0, call),
        max_pending=config.pool.max_pending,
        pending_timeout=config.pool.pending_timeout,
        hash_key=config.hash_key,
        base_path=config.base_path,
        via=config.via,
        health=_build_health(config, breaker),
        breaker=Breaker(breaker) if breaker is not None else None,
        adaptive=(
            AdaptiveLimit(least=config.adaptive_limit.min, most=config.adaptive_limit.max)
            if config.adaptive_limit is not None
            else None
        ),
        notice=shared.notice,
        trace=shared.traces["balancers"],
    )


def _build_breaker(config: schema.Upstream) -> BreakerRules | None:
    rules = config.circuit_breaker
    if rules is None:
        return None
    return BreakerRules(
        error_rate=rules.error_rate,
        window=rules.window,
        min_requests=rules.min_requests,
        open_for=rules.open_for,
    )


def _build_health(config: schema.Upstream, breaker: BreakerRules | None) -> Health:
    passive, check = config.passive_health, config.health_check
    return Health(
        passive=(
            PassiveRules(
                consecutive_failures=passive.consecutive_failures,
                eject_for=passive.eject_for,
                max_ejected=passive.max_ejected,
            )
            if isinstance(passive, schema.PassiveHealth)
            else None
        ),
        active=(
            ActiveRules(healthy=check.healthy, unhealthy=check.unhealthy)
            if check is not None
            else None
        ),
        breaker=breaker,
        slow_start=config.slow_start,
        panic_threshold=config.panic_threshold,
    )


def build_checker(
    upstream: Upstream, config: schema.Upstream, shared: Shared
) -> HealthChecker | None:
    """The service that checks an upstream's endpoints, where that is configured."""
    wanted = config.health_check
    if wanted is None:
        return None
    return HealthChecker(
        upstream,
        shared.check_of(wanted),
        shared.reactor,
        shared.random,
        interval=wanted.interval,
        timeout=wanted.timeout,
        trace=shared.traces["health"],
    )


def build_members(upstream: Upstream, config: schema.Upstream, shared: Shared) -> Members:
    """The service that gives an upstream its static members."""
    return Members(
        upstream,
        _static_members(config),
        shared.resolver,
        shared.reactor,
        refresh=config.dns.refresh,
        timeout=config.dns.timeout,
        warn=shared.warn,
        allowed=_allowed_members(config),
        is_own=shared.is_own,
    )


def change_members(members: Members, config: schema.Upstream) -> None:
    """Have an upstream's members be those of a new configuration."""
    members.become(
        _static_members(config),
        refresh=config.dns.refresh,
        timeout=config.dns.timeout,
        allowed=_allowed_members(config),
    )


def _static_members(config: schema.Upstream) -> list[StaticMember]:
    return [
        StaticMember(entry.address, entry.weight)
        if isinstance(entry, schema.EndpointEntry)
        else StaticMember(entry)
        for entry in config.endpoints
    ]


def _allowed_members(config: schema.Upstream) -> Networks | None:
    return Networks(config.members_allow) if config.members_allow else None


def build_zookeeper(
    config: schema.Config,
    members: Mapping[str, Members],
    shared: Shared,
    says: Callable[[], Mapping[str, Any]],
) -> ZooKeeperService | None:
    """The service that takes members from ZooKeeper, where that is configured.

    Args:
        config: of everything.
        members: by upstream.
        shared: what it is built with.
        says: what the gateway's own node tells.
    """
    ensemble = config.zookeeper
    if ensemble is None:
        return None
    client = shared.zookeeper_of(ensemble)
    registration: Registration | None = None
    if ensemble.register is not None:
        first = next(iter(config.listeners.values()))
        name = f"{gethostname()}-{str(first.address).replace('/', '-')}"
        registration = Registration(
            ensemble.register.path, name, says, client, shared.reactor, shared.warn
        )
    service = ZooKeeperService(
        client,
        shared.reactor,
        shared.random,
        now=shared.context.clock,
        session_timeout=ensemble.session_timeout,
        connect_timeout=ensemble.connect_timeout,
        watch_timeout=ensemble.watch_timeout,
        journal=Journal(
            ensemble.journal,
            max_age=ensemble.journal_max_age,
            wall=shared.context.wall,
            call_from_thread=shared.reactor.callFromThread,
            warn=shared.warn,
        ),
        registration=registration,
        warn=shared.warn,
        notice=shared.notice,
        trace=shared.traces["zookeeper"],
    )
    follow(service, config, members)
    return service


def follow(
    service: ZooKeeperService, config: schema.Config, members: Mapping[str, Members]
) -> None:
    """Have upstreams take their members from ZooKeeper as a configuration says, and no others."""
    for name, upstream in config.upstreams.items():
        source = upstream.zookeeper
        if source is not None:
            rules = Rules(
                removal_grace=source.removal_grace,
                max_shrink=source.max_shrink,
                hold_for=source.hold_for,
            )
            service.follow(
                name, Source(source.path, source.format, source.endpoint, rules), members[name]
            )
    for name in list(service.discoveries):
        if name not in config.upstreams or config.upstreams[name].zookeeper is None:
            service.unfollow(name)


def build_routes(
    config: schema.Config, upstreams: Mapping[str, Upstream], shared: Shared
) -> list[Route]:
    """All routes with their leaves, in file order; without any, one to the only upstream."""
    if not config.routes:
        upstream = next(iter(upstreams.values()))
        leaf = ReverseProxyResource(upstream, route=Forwarding(shared.context))
        return [Route("default", Match(), leaf=leaf, counters=shared.counters.route("default"))]
    leaves: dict[Hashable, Leaf] = {}
    return [
        Route(
            route.name,
            route.match.compiled(),
            priority=route.priority,
            order=index,
            leaf=_build_leaf(route, upstreams, shared, leaves),
            filters=_build_filters(route, shared),
            counters=shared.counters.route(route.name) if route.upstream else None,
        )
        for index, route in enumerate(config.routes)
    ]


def _build_filters(route: schema.Route, shared: Shared) -> Filters | None:
    limit = route.rate_limit
    rate: RateRule | None = None
    if limit is not None:
        burst = limit.burst or max(1, int(limit.rate))
        rate = RateRule(RateLimit(rate=limit.rate, burst=burst, max_keys=limit.max_keys), limit.by)
    if not (route.allow or route.deny or rate is not None or route.max_concurrent):
        return None
    return Filters(
        shared.counters.route(route.name),
        allow=Networks(route.allow) if route.allow else None,
        deny=Networks(route.deny) if route.deny else None,
        rate=rate,
        max_concurrent=route.max_concurrent,
    )


def _build_leaf(
    route: schema.Route,
    upstreams: Mapping[str, Upstream],
    shared: Shared,
    leaves: dict[Hashable, Leaf],
) -> Leaf:
    """A route's leaf; of `leaves`, which forward, where one does so alike: it is in a near cache."""
    response_edits = _build_edits(route.response_headers)
    if route.redirect is not None:
        redirect = Redirect(route.redirect.to, route.redirect.status)
        return RedirectResource(shared.context, redirect, response_edits=response_edits)
    if route.respond is not None:
        body = route.respond.body.encode()
        return RespondResource(
            shared.context, route.respond.status, body, response_edits=response_edits
        )
    alike = (
        route.upstream if isinstance(route.upstream, str) else tuple(route.upstream.items()),
        route.rewrite,
        _hashable(route.request_headers),
        _hashable(route.response_headers),
        route.preserve_host,
        route.timeouts,
        route.retries,
    )
    if alike in leaves:
        return leaves[alike]
    to: Upstream | Split
    if isinstance(route.upstream, str):
        to = upstreams[route.upstream]
    else:
        shares = [(upstreams[name], weight) for name, weight in route.upstream.items()]
        to = Split(shares, shared.random)
    rewrite = Rewrite(
        strip_prefix=route.rewrite.strip_prefix,
        regex=route.rewrite.regex,
        replace=route.rewrite.replace,
    )
    leaf = leaves[alike] = ReverseProxyResource(
        to,
        route=Forwarding(
            shared.context,
            rewrite=rewrite if rewrite else None,
            request_edits=_build_edits(route.request_headers),
            response_edits=response_edits,
            preserve_host=route.preserve_host,
            request_timeout=route.timeouts.request,
            tunnel_timeout=route.timeouts.tunnel,
            stream_timeout=route.timeouts.stream,
            retries=RetryPolicy(
                attempts=route.retries.attempts,
                when=route.retries.when,
                methods=route.retries.methods,
                budget=route.retries.budget,
                buffer=route.retries.buffer,
            ),
        ),
    )
    return leaf


def _hashable(edits: schema.HeaderEdits) -> Hashable:
    return tuple(edits.set.items()), tuple(edits.add.items()), edits.remove


def _build_edits(config: schema.HeaderEdits) -> Edits | None:
    edits = Edits(set=config.set.items(), add=config.add.items(), remove=config.remove)
    return edits if edits else None


def build_listener(
    name: str, config: schema.Listener, routes: list[tuple[Route, tuple[str, ...]]], shared: Shared
) -> Listener:
    """A listener with its tree.

    Args:
        name: its label.
        config: of the listener.
        routes: each with the listeners that it is for, none = all.
        shared: what it is built with.
    """
    own = [route for route, listeners in routes if not listeners or name in listeners]
    trusted = Networks(config.trusted_proxies)
    root = Root(
        shared.context,
        Table(own, host_fallthrough=config.host_fallthrough),
        trusted,
        trace=shared.traces["routes"],
    )
    limits = config.limits
    timeouts = config.timeouts
    proxied: Networks | None = None
    if isinstance(config.proxy_protocol, schema.ProxyProtocol):
        proxied = Networks(config.proxy_protocol.from_)
    elif config.proxy_protocol:
        proxied = Networks(EVERYBODY)
    return Listener(
        name,
        config.address,
        terms=Terms(
            root,
            limits=Limits(
                max_connections=limits.max_connections,
                max_header_bytes=limits.max_header_bytes,
                max_header_memory=limits.max_header_memory,
                max_headers=limits.max_headers,
                max_body_bytes=limits.max_body_bytes,
                min_body_rate=limits.min_body_rate,
            ),
            timeouts=ClientTimeouts(
                header=timeouts.header, read=timeouts.read, write=timeouts.write, idle=timeouts.idle
            ),
            path_rules=PathRules(
                merge_slashes=config.path.merge_slashes,
                reject_slash=config.path.encoded_slash == "reject",
            ),
        ),
        context=shared.context,
        counters=shared.counters.listener(name),
        reactor=shared.reactor,
        inherited=shared.inherited,
        accepts=shared.accepts,
        board=shared.board,
        trusted=trusted,
        proxy_protocol=proxied,
        on_full=shared.warn,
    )
