"""What /status says of listeners and upstreams; reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from gatewayd.core.breaker import CLOSED, HALF_OPEN, OPEN
from gatewayd.core.counters import Summary, summary_of
from gatewayd.core.endpoints import Endpoint
from gatewayd.discovery.service import ZooKeeperService
from gatewayd.proxy.listener import Listener
from gatewayd.upstreams.upstream import Upstream

_WORST_FIRST: Final = (OPEN, HALF_OPEN)


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


def traffic_of(listeners: Iterable[Listener], upstreams: Iterable[Upstream]) -> dict[str, Any]:
    """What a worker tells its supervisor, which knows the rest itself; for `add_traffic`."""
    return {
        "listeners": {listener.name: _listener(listener) for listener in listeners},
        "upstreams": {
            upstream.name: {
                **_traffic(upstream),
                "times": upstream.counters.window.times().tolist(),
                "endpoints": {each.label: _endpoint_traffic(each) for each in upstream.endpoints},
            }
            for upstream in upstreams
        },
    }


def add_traffic(status: dict[str, Any], workers: list[dict[str, Any]]) -> None:
    """Put what workers serve into a supervisor's status."""
    for name, listener in status["listeners"].items():
        theirs = [each["listeners"][name] for each in workers if name in each["listeners"]]
        for figure in ("connections", "max_connections", "accepted", "accept_pauses"):
            listener[figure] = sum(each[figure] for each in theirs)
        listener["accept_paused"] = any(each["accept_paused"] for each in theirs)
    for name, upstream in status["upstreams"].items():
        _add_upstream_traffic(
            upstream, [each["upstreams"][name] for each in workers if name in each["upstreams"]]
        )


def _add_upstream_traffic(upstream: dict[str, Any], theirs: list[dict[str, Any]]) -> None:
    for figure in ("pending", "in_flight"):
        upstream[figure] = sum(each[figure] for each in theirs)
    for figure in upstream["pool"]:
        upstream["pool"][figure] = sum(each["pool"][figure] for each in theirs)
    if upstream["circuit_breaker"] is not None:
        states = {each["circuit_breaker"] for each in theirs}
        upstream["circuit_breaker"] = next((s for s in _WORST_FIRST if s in states), CLOSED)
    if upstream["adaptive_limit"] is not None:
        upstream["adaptive_limit"] = sum(each["adaptive_limit"] or 0 for each in theirs)
    upstream["response_times"] = _window(
        summary_of(seconds for each in theirs for seconds in each["times"])
    )
    for endpoint in upstream["endpoints"]:
        known = [each["endpoints"].get(endpoint["address"]) for each in theirs]
        found = [each for each in known if each is not None]
        endpoint["in_flight"] = sum(each["in_flight"] for each in found)
        endpoint["picks"] = sum(each["picks"] for each in found)
        for each in found:
            for reason, count in each["errors"].items():
                endpoint["errors"][reason] = endpoint["errors"].get(reason, 0) + count


def _listener(listener: Listener) -> dict[str, Any]:
    counters = listener.counters
    return {
        "address": listener.bound,
        "connections": counters.open,
        "max_connections": listener.terms.limits.max_connections,
        "accepted": counters.accepted,
        "accept_paused": counters.paused,
        "accept_pauses": counters.accept_paused,
        "draining": listener.terms.draining,
    }


def _upstream(upstream: Upstream, zookeeper: ZooKeeperService | None, now: float) -> dict[str, Any]:
    return {
        "balancer": upstream.policy,
        "known": upstream.known,
        "membership": (
            zookeeper.discoveries[upstream.name].shown(now)
            if zookeeper is not None and upstream.name in zookeeper.discoveries
            else None
        ),
        "membership_age": round(now - upstream.changed_at, 3) if upstream.known else None,
        "panic": upstream.health.panic,
        **_traffic(upstream),
        "response_times": _window(upstream.counters.window.summary()),
        "endpoints": [
            {
                "address": endpoint.label,
                "name": endpoint.name,
                "weight": endpoint.weight,
                "source": endpoint.source,
                **_endpoint_traffic(endpoint),
            }
            for endpoint in upstream.endpoints
        ],
    }


def _traffic(upstream: Upstream) -> dict[str, Any]:
    ledger = upstream.pool.ledger
    return {
        "pending": upstream.counters.pending,
        "in_flight": upstream.in_flight,
        "circuit_breaker": upstream.breaker.state if upstream.breaker is not None else None,
        "adaptive_limit": int(upstream.adaptive.limit) if upstream.adaptive is not None else None,
        "pool": {
            "open": ledger.open,
            "idle": ledger.idle,
            "hits": ledger.hits,
            "misses": ledger.misses,
        },
    }


def _endpoint_traffic(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "state": endpoint.state,
        "in_flight": endpoint.in_flight,
        "picks": endpoint.picks,
        "errors": dict(endpoint.errors),
    }


def _window(summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    figures = {name: round(value, 6) for name, value in summary._asdict().items()}
    return {"count": figures.pop("size"), **figures}
