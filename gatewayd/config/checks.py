"""What no single key can show: references, contradictions, and what is legal but surely not meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gatewayd.config.document import Problem
from gatewayd.config.kinds import Reader, did_you_mean
from gatewayd.config.schema import (
    Config,
    EndpointEntry,
    HeaderEdits,
    Listener,
    Route,
    Upstream,
    WorkerRange,
)
from gatewayd.core import routes
from gatewayd.core.messages import FRAMING, HOP_BY_HOP

_UNEDITABLE: Final = HOP_BY_HOP | (FRAMING - {b"host"}) | {b"via", b"trailer"}
_MANY_CONDITIONS: Final = 50
_REDIRECTS: Final = (301, 302, 303, 307, 308)


def check(config: Config, reader: Reader) -> None:
    """Find contradictions; each goes to the reader.

    Args:
        config: read, though perhaps with errors.
        reader: that read it; what failed there is not complained of again.
    """
    if "" in reader.failed:
        return
    if not config.listeners and "listeners" not in reader.failed:
        reader.complain(
            "listeners", "at least one listener is needed, such as web: {address: 0.0.0.0:2000}"
        )
    _check_listeners(config, reader)
    _check_routes(config, reader)
    for name, upstream in config.upstreams.items():
        if upstream is not None:
            _check_upstream(f"upstreams.{name}", upstream, reader)
    _check_zookeeper(config, reader)
    _check_admin(config, reader)
    workers = config.workers
    if isinstance(workers, WorkerRange) and workers.max and workers.min > workers.max:
        reader.complain("workers.min", f"is more than max, {workers.max}")


def _check_listeners(config: Config, reader: Reader) -> None:
    seen: dict[str, str] = {}
    admin = config.admin.address if config.admin is not None else None
    if admin is not None and admin.port:
        seen[str(admin)] = "the admin interface"
    for name, listener in config.listeners.items():
        if not isinstance(listener, Listener) or listener.address is None:
            continue
        address = str(listener.address)
        if address in seen and not address.endswith(":0"):
            reader.complain(
                f"listeners.{name}.address", f"{address} is taken by {seen[address]} already"
            )
        seen[address] = f"listener {name}"


def _check_routes(config: Config, reader: Reader) -> None:
    if not config.routes:
        if len(config.upstreams) != 1 and not {"routes", "upstreams"} & reader.failed:
            reader.complain(
                "routes" if "routes" in reader.places else "upstreams",
                f"without routes there must be exactly one upstream, here are {len(config.upstreams)}; "
                "write a route for each",
            )
        return
    names: dict[str, int] = {}
    for index, route in enumerate(config.routes):
        path = f"routes[{index}]"
        if route.name in names and route.name:
            reader.complain(
                f"{path}.name", f"routes[{names[route.name]}] is called {route.name} too"
            )
        names.setdefault(route.name, index)
        for number, listener in enumerate(route.listeners):
            if listener not in config.listeners:
                reader.complain(
                    f"{path}.listeners[{number}]",
                    f"no listener is called {listener!r}"
                    + did_you_mean(listener, config.listeners),
                )
        _check_route(path, route, config, reader)


def _check_route(path: str, route: Route, config: Config, reader: Reader) -> None:
    if path in reader.failed:
        return
    given = [
        name
        for name in ("upstream", "redirect", "respond")
        if getattr(route, name) or f"{path}.{name}" in reader.failed
    ]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        reader.complain(path, f"a route has one of upstream, redirect and respond, here: {found}")
    split = {route.upstream: 1} if isinstance(route.upstream, str) else route.upstream
    for name in split:
        if name and name not in config.upstreams:
            below = (
                f"{path}.upstream" if isinstance(route.upstream, str) else f"{path}.upstream.{name}"
            )
            reader.complain(
                below, f"no upstream is called {name!r}" + did_you_mean(name, config.upstreams)
            )
    if route.upstream and not any(split.values()):
        reader.complain(f"{path}.upstream", "all weights are 0")
    match = route.match
    if match is not None:
        paths = [n for n in ("path", "path_prefix", "path_regex") if getattr(match, n)]
        if len(paths) > 1:
            reader.complain(f"{path}.match", f"only one of {' and '.join(paths)} can be given")
    rewrite = route.rewrite
    if rewrite is not None:
        if rewrite.strip_prefix and rewrite.regex is not None:
            reader.complain(f"{path}.rewrite", "either strip_prefix or regex, not both")
        if rewrite.regex is not None:
            try:
                rewrite.regex.sub(rewrite.replace.encode(), b"/", count=1)
            except Exception as error:  # re.error and IndexError, by version
                reader.complain(f"{path}.rewrite.replace", f"not for this regex: {error}")
        elif rewrite.replace:
            reader.complain(f"{path}.rewrite.replace", "needs a regex beside it")
    burst = f"{path}.rate_limit.burst"
    if route.rate_limit is not None and burst in reader.places and not route.rate_limit.burst:
        reader.complain(burst, "must be more than 0")
    _check_redirect(path, route, reader)
    for name in ("request_headers", "response_headers"):
        edits = getattr(route, name)
        if edits is not None:
            _check_edits(f"{path}.{name}", edits, reader)


def _check_redirect(path: str, route: Route, reader: Reader) -> None:
    redirect = route.redirect
    if redirect is None:
        return
    if redirect.status not in _REDIRECTS and f"{path}.redirect.status" not in reader.failed:
        reader.complain(f"{path}.redirect.status", "a redirect is 301, 302, 303, 307 or 308")
    to = redirect.to
    same_place = to.startswith("https://{host}") and "{path}" in to
    if same_place and (route.match is None or route.match.scheme != "http"):
        reader.complain(
            f"{path}.redirect",
            "a redirect to https without match.scheme: http sends https clients in circles",
        )
    left = to
    for known in ("{host}", "{port}", "{path}", "{query}"):
        left = left.replace(known, "")
    if "{" in left or "}" in left:
        reader.complain(f"{path}.redirect.to", "only {host}, {port}, {path} and {query} are known")
    if not left.isascii() or " " in left:
        reader.complain(f"{path}.redirect.to", "a URL is ASCII without spaces; write them as %XX")


def _check_edits(path: str, edits: HeaderEdits, reader: Reader) -> None:
    named = [(f"{path}.set.{name}", name) for name in edits.set]
    named += [(f"{path}.add.{name}", name) for name in edits.add]
    named += [(f"{path}.remove[{index}]", name) for index, name in enumerate(edits.remove)]
    for below, name in named:
        if name.lower().encode() in _UNEDITABLE:
            reader.complain(below, f"{name} belongs to the connection or the message's framing")


def _check_upstream(path: str, upstream: Upstream, reader: Reader) -> None:
    known = upstream.endpoints or f"{path}.endpoints" in reader.failed
    if not known and upstream.zookeeper is None and f"{path}.zookeeper" not in reader.places:
        reader.complain(
            path,
            "no members; name at least one, such as endpoints: [127.0.0.1:8080], or a zookeeper path",
        )
    seen: dict[str, int] = {}
    for index, entry in enumerate(upstream.endpoints):
        address = entry.address if isinstance(entry, EndpointEntry) else entry
        if address is None:
            continue
        if str(address) in seen:
            reader.complain(
                f"{path}.endpoints[{index}]", f"endpoints[{seen[str(address)]}] is {address} too"
            )
        seen.setdefault(str(address), index)

    limit = upstream.adaptive_limit
    if limit is not None and limit.min > limit.max:
        reader.complain(f"{path}.adaptive_limit.min", f"is more than max, {limit.max}")


def _check_zookeeper(config: Config, reader: Reader) -> None:
    for name, upstream in config.upstreams.items():
        source = upstream.zookeeper
        if source is None:
            continue
        if config.zookeeper is None and "zookeeper" not in reader.places:
            reader.complain(
                f"upstreams.{name}.zookeeper",
                "needs a section zookeeper: {hosts: ...} that says where ZooKeeper is",
            )
        if source.endpoint and source.format != "serverset":
            reader.complain(f"upstreams.{name}.zookeeper.endpoint", "is for format: serverset")


def _check_admin(config: Config, reader: Reader) -> None:
    admin = config.admin
    if admin is None or admin.address is None or admin.token or "admin.token" in reader.failed:
        return
    if not admin.address.is_loopback:
        reader.complain(
            "admin.address",
            f"{admin.address} can be reached by others: admin.token is required, such as "
            "${file:/etc/gatewayd/admin.token}; or listen on 127.0.0.1 or unix:/path",
        )


def lint(config: Config, reader: Reader) -> Iterator[Problem]:
    """Find what is legal and wrong.

    Args:
        config: without errors.
        reader: that read it, for places.
    """

    def warn(path: str, message: str) -> Problem:
        return Problem(reader.place_of(path), path, f"warning: {message}")

    used: set[str] = set() if config.routes else set(config.upstreams)
    for index, route in enumerate(config.routes):
        names = [route.upstream] if isinstance(route.upstream, str) else list(route.upstream)
        used.update(names)
        for name in names:
            upstream = config.upstreams.get(name)
            limit = route.timeouts.request
            if upstream is not None and limit and limit < (upstream.timeouts.connect or limit + 1):
                yield warn(
                    f"routes[{index}].timeouts.request",
                    f"shorter than upstream {name}'s timeouts.connect: that can never be reached",
                )
    for name in config.upstreams:
        if name not in used:
            yield warn(f"upstreams.{name}", "no route leads here")
    for name, listener in config.listeners.items():
        yield from _lint_listener(name, listener, config, warn)


def _lint_listener(
    name: str, listener: Listener, config: Config, warn: Callable[[str, str], Problem]
) -> Iterator[Problem]:
    compiled = [
        routes.Route(route.name, route.match.compiled(), priority=route.priority, order=index)
        for index, route in enumerate(config.routes)
        if not route.listeners or name in route.listeners
    ]
    if config.routes and not compiled:
        yield warn(f"listeners.{name}", "no route is for this listener: it answers 404 to all")
    for route, above in routes.hidden(compiled):
        yield warn(
            f"routes[{route.order}]",
            f"can never match on listener {name}: {above.name} always comes first",
        )
    for host, count in routes.tried_in_order(compiled):
        if count > _MANY_CONDITIONS:
            yield warn(
                "routes",
                f"{count} regexes and conditions are tried in order for {host or 'any host'} on "
                f"listener {name}: each costs time with every request",
            )
    if listener.limits.max_headers and listener.limits.max_header_bytes < 1024:
        yield warn(
            f"listeners.{name}.limits.max_header_bytes", "under 1KiB most browsers are refused"
        )
