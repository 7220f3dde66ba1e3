"""What /status says of listeners and upstreams; reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gatewayd.core.counters import Summary
from gatewayd.discovery.service import ZooKeeperService
from gatewayd.proxy.listener import Listener
from gatewayd.upstreams.upstream import Upstream


def status_of(
    listeners: Iterable[Listener],
    upstreams: Iterable[Upstream],
    zookeeper: ZooKeeperService | None,
    now: float,
) -> dict[str, Any]:
    """The figures of now as JSON.

    Args:
        listeners, upstreams: all of them.
        zookeeper: None where there is none.
        now: on the gateway's clock.
    """
    return {
        "listeners": {listener.name: _listener(listener) for listener in listeners},
        "upstreams": {upstream.name: _upstream(upstream, zookeeper, now) for upstream in upstreams},
        "zookeeper": zookeeper.shown() if zookeeper is not None else None,
    }


def _listener(listener: Listener) -> dict[str, Any]:
    counters = listener.counters
    return {
        "address": listener.bound,
        "connections": counters.open,
        "max_connections": listener.limits.max_connections,
        "accepted": counters.accepted,
        "accept_paused": counters.paused,
        "accept_pauses": counters.accept_paused,
        "draining": listener.draining,
    }


def _upstream(upstream: Upstream, zookeeper: ZooKeeperService | None, now: float) -> dict[str, Any]:
    counters = upstream.counters
    ledger = upstream.pool.ledger
    return {
        "balancer": upstream.policy,
        "known": upstream.known,
        "membership": (
            zookeeper.discoveries[upstream.name].shown(now)
            if zookeeper is not None and upstream.name in zookeeper.discoveries
            else None
        ),
        "membership_age": round(now - upstream.changed_at, 3) if upstream.known else None,
        "pending": counters.pending,
        "in_flight": upstream.in_flight,
        "panic": upstream.health.panic,
        "circuit_breaker": upstream.breaker.state if upstream.breaker is not None else None,
        "adaptive_limit": int(upstream.adaptive.limit) if upstream.adaptive is not None else None,
        "pool": {
            "open": ledger.open,
            "idle": ledger.idle,
            "hits": ledger.hits,
            "misses": ledger.misses,
        },
        "response_times": _window(counters.window.summary()),
        "endpoints": [
            {
                "address": endpoint.label,
                "name": endpoint.name,
                "weight": endpoint.weight,
                "state": endpoint.state,
                "source": endpoint.source,
                "in_flight": endpoint.in_flight,
                "picks": endpoint.picks,
                "errors": dict(endpoint.errors),
            }
            for endpoint in upstream.endpoints
        ],
    }


def _window(summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    figures = {name: round(value, 6) for name, value in summary._asdict().items()}
    return {"count": figures.pop("size"), **figures}
