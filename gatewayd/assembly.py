"""From configuration to objects: the only place that turns keys into constructor arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from gatewayd.config import schema
from gatewayd.core.addresses import Networks
from gatewayd.core.counters import Counters
from gatewayd.core.messages import Edits
from gatewayd.core.rewrites import Redirect, Rewrite
from gatewayd.core.routes import Match, Route, Table
from gatewayd.core.tracing import Trace
from gatewayd.http1.requests import PathRules
from gatewayd.proxy.context import Context
from gatewayd.proxy.forward import Forwarding, ReverseProxyResource
from gatewayd.proxy.listener import ClientTimeouts, Limits, Listener
from gatewayd.proxy.resource import Leaf, RedirectResource, RespondResource, Root
from gatewayd.upstreams.connection import Timeouts
from gatewayd.upstreams.names import Resolver, StaticMember, StaticMembers
from gatewayd.upstreams.pool import HTTPConnectionPool
from gatewayd.upstreams.upstream import Split, Upstream

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
        inherited: Mapping[str, int],
        traces: Mapping[str, Trace],
        warn: Callable[[str], None],
    ) -> None:
        """Args:
        reactor: Twisted's.
        context: of all exchanges.
        random: chance.
        resolver: of endpoints that are names.
        inherited: sockets by name.
        traces: debug output by subsystem.
        warn: takes a message for people.
        """
        self.reactor = reactor
        self.context = context
        self.random = random
        self.resolver = resolver
        self.inherited = inherited
        self.traces = traces
        self.warn = warn

    @property
    def counters(self) -> Counters:
        """All figures."""
        return self.context.counters


def build_upstream(name: str, config: schema.Upstream, shared: Shared) -> Upstream:
    """An upstream without members, with its pool."""
    timeouts = config.timeouts
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
        trace=shared.traces["balancers"],
    )


def build_members(upstream: Upstream, config: schema.Upstream, shared: Shared) -> StaticMembers:
    """The service that gives an upstream its static members."""
    members = [
        StaticMember(entry.address, entry.weight)
        if isinstance(entry, schema.EndpointEntry)
        else StaticMember(entry)
        for entry in config.endpoints
    ]
    return StaticMembers(
        upstream,
        members,
        shared.resolver,
        shared.reactor,
        refresh=config.dns.refresh,
        timeout=config.dns.timeout,
        warn=shared.warn,
    )


def build_routes(
    config: schema.Config, upstreams: Mapping[str, Upstream], shared: Shared
) -> list[Route]:
    """All routes with their leaves, in file order; without any, one to the only upstream."""
    if not config.routes:
        upstream = next(iter(upstreams.values()))
        forwarding = Forwarding(shared.context, name="default")
        return [Route("default", Match(), leaf=ReverseProxyResource(upstream, route=forwarding))]
    return [
        Route(
            route.name,
            route.match.compiled(),
            priority=route.priority,
            order=index,
            leaf=_build_leaf(route, upstreams, shared),
        )
        for index, route in enumerate(config.routes)
    ]


def _build_leaf(route: schema.Route, upstreams: Mapping[str, Upstream], shared: Shared) -> Leaf:
    response_edits = _build_edits(route.response_headers)
    if route.redirect is not None:
        redirect = Redirect(route.redirect.to, route.redirect.status)
        return RedirectResource(shared.context, redirect, response_edits=response_edits)
    if route.respond is not None:
        body = route.respond.body.encode()
        return RespondResource(
            shared.context, route.respond.status, body, response_edits=response_edits
        )
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
    return ReverseProxyResource(
        to,
        route=Forwarding(
            shared.context,
            name=route.name,
            rewrite=rewrite if rewrite else None,
            request_edits=_build_edits(route.request_headers),
            response_edits=response_edits,
            preserve_host=route.preserve_host,
            request_timeout=route.timeouts.request,
            tunnel_timeout=route.timeouts.tunnel,
            stream_timeout=route.timeouts.stream,
        ),
    )


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
        root=root,
        context=shared.context,
        counters=shared.counters.listener(name),
        reactor=shared.reactor,
        inherited=shared.inherited,
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
        trusted=trusted,
        proxy_protocol=proxied,
        on_full=shared.warn,
    )
