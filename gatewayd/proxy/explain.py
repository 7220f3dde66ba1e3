"""Which way a request would take, told by the very functions that serve; nothing is picked or counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gatewayd.core.addresses import is_ip
from gatewayd.core.errors import BadRequest, GatewayError, Loop, NoMethod, NoRoute
from gatewayd.core.exchange import Exchange, Origin
from gatewayd.core.forwarded import RequestIds, introduce, request_key
from gatewayd.core.routes import Route
from gatewayd.http1.requests import read_request
from gatewayd.proxy.filters import Filters
from gatewayd.proxy.forward import ReverseProxyResource
from gatewayd.proxy.listener import Listener
from gatewayd.proxy.resource import RedirectResource, RespondResource
from gatewayd.upstreams.split import Split
from gatewayd.upstreams.upstream import Upstream

_NAMED = 20  # candidates and passed-over routes that are listed one by one
_PORTS = {"http": 80, "https": 443}


def explain(
    listeners: Mapping[str, Listener],
    method: str,
    url: str,
    headers: list[str],
    listener_name: str,
    client: str,
) -> dict[str, Any]:
    """Follow a request without sending it.

    Args:
        listeners: by name.
        method: of the request.
        url: absolute, or a path.
        headers: `Name: value` each.
        listener_name: where it comes in; empty for the first.
        client: its address; empty for 127.0.0.1.

    Returns:
        As JSON: listener, request, route, passed_over, rewrite, upstream, endpoints, or the answer.

    Raises:
        ValueError: the question makes no sense, and why.
    """
    if listener_name and listener_name not in listeners:
        raise ValueError(
            f"no listener is called {listener_name!r}; there are {', '.join(listeners)}"
        )
    if client and not is_ip(client) and client != "unix":
        raise ValueError(f"{client!r} is no IP address")
    listener = listeners[listener_name] if listener_name else next(iter(listeners.values()))
    parts = urlsplit(url if "://" in url else f"http://-/{url.removeprefix('/')}")
    if parts.scheme not in _PORTS or not (url.startswith("/") or "://" in url or url == "*"):
        raise ValueError("write a URL such as https://api.example.com/v1/x, or a path")
    host = "localhost" if parts.netloc == "-" else parts.netloc.rpartition("@")[2]
    origin = Origin(
        listener=listener.label,
        peer=client or "127.0.0.1",
        scheme=parts.scheme,
        port=parts.port or _PORTS[parts.scheme],
        trusted=bool(client) and client in listener.trusted,
    )
    found: dict[str, Any] = {"listener": {"name": listener.name, "address": listener.bound}}
    try:
        path = url if url == "*" else parts.path or "/"
        exchange = _asked(listener, origin, method, host, path, parts.query, headers)
    except GatewayError as error:
        return {**found, "answer": _answer(error)}
    head = exchange.head
    found["request"] = {
        "method": method,
        "scheme": exchange.scheme,
        "host": head.host,
        "path": head.path.decode(),
        "query": head.query.decode(),
        "client_ip": exchange.client_ip,
    }
    passed: list[dict[str, str]] = []
    for route, why in listener.terms.root.table.explain(head, exchange.scheme):
        if why:
            passed.append({"route": route.name, "because": why})
        else:
            found["route"] = route.name
            found.update(_leaf(route, exchange, listener))
    found["passed_over"] = passed[:_NAMED]
    found["passed_over_in_all"] = len(passed)
    if "route" not in found:
        try:
            listener.terms.root.table.find(head, exchange.scheme)
        except (NoRoute, NoMethod) as error:
            found["answer"] = _answer(error)
    return found


def _asked(
    listener: Listener,
    origin: Origin,
    method: str,
    host: str,
    path: str,
    query: str,
    headers: list[str],
) -> Exchange:
    """The exchange that the request would be."""
    target = path + (f"?{query}" if query else "")
    named = {line.partition(":")[0].lower() for line in headers}
    lines = [
        f"{method} {target} HTTP/1.1",
        *([] if "host" in named else [f"Host: {host}"]),
        *headers,
    ]
    data = "\r\n".join([*lines, "", ""]).encode("utf-8")
    head = read_request(data, listener.terms.path_rules, listener.terms.limits.max_headers)
    if head is None or head.size != len(data):
        raise BadRequest("a malformed header field")
    exchange = Exchange(head, None, origin, 0.0)
    introduce(exchange, listener.trusted, RequestIds(b"explain"))
    if listener.context.via.is_in(head.via):
        raise Loop("the request carries our own Via")
    return exchange


def _leaf(route: Route, exchange: Exchange, listener: Listener) -> dict[str, Any]:
    leaf = route.leaf
    filters: Filters | None = route.filters
    refusal = filters.verdict_of(exchange.client_ip) if filters is not None else ""
    if refusal:
        return {"answer": {"status": 403, "reason": "denied", "detail": refusal}}
    if isinstance(leaf, RedirectResource):
        location = leaf.redirect.location(exchange.head, exchange.origin.port)
        return {"redirect": {"status": leaf.redirect.status, "location": location.decode()}}
    if isinstance(leaf, RespondResource):
        return {"respond": {"status": leaf.status}}
    assert isinstance(leaf, ReverseProxyResource)
    found: dict[str, Any] = {}
    split = leaf.upstream
    if isinstance(split, Split):
        total = sum(weight for _, weight in split.shares) or 1
        found["split"] = {each.name: round(weight / total, 4) for each, weight in split.shares}
    upstreams = [each for each, _ in split.shares] if isinstance(split, Split) else [split]
    try:
        target = leaf.target_of(exchange, upstreams[0])
    except GatewayError as error:
        return {**found, "answer": _answer(error)}
    found["rewrite"] = {"from": exchange.head.path.decode(), "to": target.decode()}
    found["upstreams"] = [_upstream(upstream, exchange) for upstream in upstreams]
    return found


def _upstream(upstream: Upstream, exchange: Exchange) -> dict[str, Any]:
    key = request_key(exchange, upstream.hash_key) if upstream.hash_key else None
    candidates = sorted(upstream.balancer.peek(key), key=lambda each: -each[1])
    unusable = [each for each in upstream.endpoints if not each.usable]
    return {
        "name": upstream.name,
        "balancer": upstream.policy,
        "candidates": [
            {"endpoint": endpoint.label, "share": round(share, 4)}
            for endpoint, share in candidates[:_NAMED]
        ],
        "candidates_in_all": len(candidates),
        "panic": upstream.health.panic,
        "circuit_breaker": upstream.breaker.state if upstream.breaker is not None else None,
        "passed_over": [
            {"endpoint": each.label, "because": f"weight {each.weight}, {each.state}"}
            for each in unusable[:_NAMED]
        ],
    }


def _answer(error: GatewayError) -> dict[str, Any]:
    return {"status": error.answer_status, "reason": error.reason, "detail": error.detail}
