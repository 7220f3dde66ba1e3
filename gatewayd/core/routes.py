"""Which route a request takes, and why it takes no other.

A `Table` is compiled once from a listener's routes. Its order of precedence (decisions.md, Routes):

1. host: exact, then the longest matching wildcard, then routes without hosts;
2. within a host: higher priority first;
3. within a priority: exact path, then regexes in file order, then the longest prefix;
4. within such a rung: more conditions first, then file order.

A rung whose routes' conditions all fail hands on to the next. Hosts, exact paths and prefixes are
found by dictionaries, prefixes by walking a tree of segments, so that the cost of a lookup depends
on the request's own path and not on how many routes there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gatewayd.core.counters import RouteCounters
from gatewayd.core.errors import NoMethod, NoRoute
from gatewayd.core.messages import RequestHead
from gatewayd.core.regexes import LIMIT, search

METHOD: Final = "its methods do not include this one"
_PIECES: Final = re.compile(rb"/([^/;]*)|(;[^/;]*)").finditer


class Condition:
    """What a header field or a query parameter must be: present, equal, or matching."""

    def __init__(self, name: str, value: str, pattern: re.Pattern[bytes] | None) -> None:
        """Args: name: of the field or parameter. value: to equal, "" = present. pattern: instead."""
        self.name = name
        self.key = name.lower().encode("latin-1")
        self.value = value.encode()
        self.pattern = pattern

    def __repr__(self) -> str:
        wanted = self.pattern.pattern.decode() if self.pattern else self.value.decode()
        return f"{self.name}{'~' if self.pattern else '='}{wanted or '(present)'}"

    def holds(self, values: list[bytes]) -> bool:
        """Whether one of the values satisfies it."""
        if self.pattern is not None:
            return any(search(self.pattern, value) is not None for value in values)
        return self.value in values if self.value else bool(values)


class Match:
    """What a route asks of a request."""

    def __init__(
        self,
        *,
        hosts: Iterable[str] = (),
        path: str = "",
        prefix: str = "",
        regex: re.Pattern[bytes] | None = None,
        methods: Iterable[str] = (),
        scheme: str = "",
        headers: Iterable[Condition] = (),
        query: Iterable[Condition] = (),
    ) -> None:
        """Args: at most one of path, prefix and regex; an empty match takes everything."""
        self.hosts = tuple(host.lower().removesuffix(".") for host in hosts)
        self.path = path.encode()
        self.prefix = (prefix or "/").encode()
        self.regex = regex
        self.methods = tuple(methods)
        self.method_set = frozenset(method.encode() for method in self.methods)
        self.scheme = scheme
        self.headers = tuple(headers)
        self.query = tuple(query)
        self.weight = len(self.headers) + len(self.query) + bool(self.methods) + bool(self.scheme)

    def failing(self, head: RequestHead, scheme: str) -> str:
        """The first condition besides host and path that does not hold, methods last.

        Returns:
            For a person; empty if all hold; METHOD if only the method failed.
        """
        if self.scheme and self.scheme != scheme:
            return f"it is for {self.scheme} only"
        for condition in self.headers:
            if not condition.holds(head.get_all(condition.key)):
                return f"header {condition!r} does not hold"
        if self.query:
            given = _parameters(head.query[1:])
            for condition in self.query:
                if not condition.holds(given.get(condition.name.encode(), [])):
                    return f"query {condition!r} does not hold"
        if self.methods and head.method not in self.method_set:
            return METHOD
        return ""

    def covers_host(self, host: str) -> bool:
        """Whether one of the hosts is, or is a wildcard above, this one."""
        return not self.hosts or any(
            (host.endswith(wanted[1:]) and len(host) >= len(wanted))
            if wanted[0] == "*"
            else host == wanted
            for wanted in self.hosts
        )

    def covers_path(self, path: bytes) -> bool:
        """Whether the path is the exact one, matches the regex, or lies below the prefix."""
        if self.path:
            return path == self.path
        if self.regex is not None:
            return search(self.regex, path) is not None
        return below(path, self.prefix)


def below(path: bytes, prefix: bytes) -> bool:
    """Whether a prefix ends on one of the path's segment borders.

    A prefix that itself ends with a slash wants the slash: `/api/` is above `/api/` but not `/api`.
    """
    if not path.startswith(prefix):
        return path == b"*" and prefix == b"/"
    rest = path[len(prefix) :]
    return prefix[-1:] == b"/" or not rest or rest[:1] in (b"/", b";")


def _parameters(query: bytes) -> dict[bytes, list[bytes]]:
    """The values of a query's parameters; urllib's parse_qs fails on bytes that are no ASCII."""
    given: dict[bytes, list[bytes]] = {}
    for pair in query.replace(b"+", b" ").split(b"&"):
        name, _, value = pair.partition(b"=")
        given.setdefault(unquote_to_bytes(name), []).append(unquote_to_bytes(value))
    return given


class Route:
    """A named way from a match to a leaf."""

    def __init__(
        self,
        name: str,
        match: Match,
        *,
        priority: int = 0,
        order: int = 0,
        leaf: Any = None,
        filters: Any = None,
        counters: RouteCounters | None = None,
    ) -> None:
        """Make one.

        Args:
            name: unique.
            match: what it asks of a request.
            priority: higher first.
            order: its place in the file.
            leaf: serves it, and others that are served alike.
            filters: who may take it (proxy.filters), None = everybody.
            counters: its own, where it leads to an upstream.
        """
        # First what a request asks for
        self.leaf = leaf
        self.filters = filters
        self.counters = counters
        self.name = name
        self.match = match
        self.priority = priority
        self.order = order

    def __repr__(self) -> str:
        return f"<Route {self.name}>"


def _pieces(path: bytes, most: int = -1) -> list[bytes]:
    """A path's segments, and its parameters with their `;`; beyond `most` they need not be parted."""
    if not path.partition(b";")[1]:
        return path.split(b"/", most)[1:]
    return [piece[1] if piece[2] is None else piece[2] for piece in _PIECES(path)]


class _Node:
    """A piece of the tree of prefixes: a segment, or a parameter with its `;`."""

    def __init__(self) -> None:
        self.below: dict[bytes, _Node] = {}
        self.routes: list[Route] = []  # whose prefix ends here
        self.slashed: list[Route] = []  # whose prefix ends here with a slash
        # What a walk asks of it, so that it need not look into the above
        self.steps: dict[bytes, _Node | Route] = {}  # as below, but for a node that is but a route
        self.decides = False
        self.only: Route | None = None  # if nothing but the prefix counts

    def settle(self) -> None:
        """All routes are there, and what is below is settled."""
        _by_conditions(self.routes)
        _by_conditions(self.slashed)
        self.decides = bool(self.routes or self.slashed)
        if not self.slashed and self.routes and not self.routes[0].match.weight:
            self.only = self.routes[0]
        for piece, child in self.below.items():
            only = child.only
            self.steps[piece] = only if only is not None and not child.below else child


class _Rungs:
    """The routes of one host and one priority."""

    def __init__(self) -> None:
        self.exact: dict[bytes, list[Route]] = {}
        self.regexes: list[Route] = []
        self.root = _Node()
        self.depth = 0  # of the tree of prefixes

    def add(self, route: Route) -> None:
        match = route.match
        if match.path:
            self.exact.setdefault(match.path, []).append(route)
        elif match.regex is not None:
            self.regexes.append(route)
        else:
            node = self.root
            slashed = match.prefix[-1:] == b"/"
            pieces = _pieces(match.prefix)
            for piece in pieces[:-1] if slashed else pieces:
                node = node.below.setdefault(piece, _Node())
            (node.slashed if slashed and len(pieces) > 1 else node.routes).append(route)
            self.depth = max(self.depth, len(pieces))

    def sort(self) -> None:
        for routes in self.exact.values():
            _by_conditions(routes)
        nodes = [self.root]
        for node in nodes:
            nodes.extend(node.below.values())
        for node in reversed(nodes):
            node.settle()

    def sure(self, path: bytes) -> Route | None:
        """The route of a path, where nothing but its prefix has to be looked at; else None."""
        if self.exact or self.regexes:
            return None
        node = self.root
        found = node.only
        if node.steps:
            for piece in _pieces(path, self.depth + 1):
                step = node.steps.get(piece)
                if step is None:
                    break
                if isinstance(step, Route):
                    return step
                node = step
                if node.decides:
                    found = node.only
        return found

    def candidates(self, path: bytes) -> Iterable[Route]:
        """Routes whose path part holds, best first."""
        if self.exact or self.regexes:
            return self._each(path)
        return self._prefixes(path)

    def _each(self, path: bytes) -> Iterator[Route]:
        """One by one, for a regex is dear."""
        yield from self.exact.get(path, ())
        if len(path) <= LIMIT:
            for route in self.regexes:
                regex = route.match.regex
                if regex is not None and regex.search(path) is not None:
                    yield route
        yield from self._prefixes(path)

    def _prefixes(self, path: bytes) -> list[Route]:
        """Walk down as long as a prefix goes on; what is found deeper is better."""
        node = self.root
        found = node.routes
        if not node.below:
            return found
        pieces = _pieces(path, self.depth + 1)
        last = len(pieces) - 1
        for number, piece in enumerate(pieces):
            child = node.below.get(piece)
            if child is None:
                break
            node = child
            if node.routes:
                found = node.routes + found
            if node.slashed and number < last and pieces[number + 1][:1] != b";":
                found = node.slashed + found
        return found


def _by_conditions(routes: list[Route]) -> None:
    routes.sort(key=lambda route: (-route.match.weight, route.order))


class _Host:
    """The routes of one host name, wildcard, or of none."""

    def __init__(self) -> None:
        self.by_priority: dict[int, _Rungs] = {}
        self.rungs: list[_Rungs] = []
        self.only: Route | None = None  # the one route that takes all: most gateways' case

    def add(self, route: Route) -> None:
        self.by_priority.setdefault(route.priority, _Rungs()).add(route)

    def compile(self) -> None:
        self.rungs = [self.by_priority[priority] for priority in sorted(self.by_priority)[::-1]]
        for rungs in self.rungs:
            rungs.sort()
        if len(self.rungs) == 1:
            root = self.rungs[0].root
            plain = not (self.rungs[0].exact or self.rungs[0].regexes or root.below)
            if plain and len(root.routes) == 1 and not root.routes[0].match.weight:
                self.only = root.routes[0]

    def find(self, head: RequestHead, scheme: str, allowed: list[str]) -> Route | None:
        if self.only is not None:
            return self.only
        for rungs in self.rungs:
            sure = rungs.sure(head.path)
            if sure is not None:
                return sure
            for route in rungs.candidates(head.path):
                match = route.match
                if not match.weight:
                    return route
                failing = match.failing(head, scheme)
                if not failing:
                    return route
                if failing is METHOD:
                    allowed.extend(match.methods)
        return None


def hidden(routes: Sequence[Route]) -> Iterator[tuple[Route, Route]]:
    """Routes of a listener that can never match, each with one that always comes before it.

    Only the sure cases are found: an unconditional route for the same hosts whose path is the same,
    or covers it from a higher priority.
    """
    by_host: dict[str, list[Route]] = {}
    for route in routes:
        for host in route.match.hosts or ("",):
            by_host.setdefault(host, []).append(route)
    for route in routes:
        above = None
        for host in route.match.hosts or ("",):
            above = next((each for each in by_host[host] if _hides(each, route)), None)
            if above is None:
                break
        if above is not None:
            yield route, above


def _hides(above: Route, below_it: Route) -> bool:
    first, second = above.match, below_it.match
    if first.weight or above is below_it or above.priority < below_it.priority:
        return False
    same = (first.path, first.prefix, first.regex) == (second.path, second.prefix, second.regex)
    if above.priority == below_it.priority:
        return same and not second.weight and above.order < below_it.order
    if first.path or first.regex is not None:
        return same
    return first.prefix == b"/" or (
        second.regex is None and below(second.path or second.prefix, first.prefix)
    )


def tried_in_order(routes: Iterable[Route]) -> Iterator[tuple[str, int]]:
    """How many regexes and conditions each host's requests may have to try one by one."""
    counts: dict[str, int] = {}
    for route in routes:
        for host in route.match.hosts or ("",):
            counts[host] = (
                counts.get(host, 0) + (route.match.regex is not None) + route.match.weight
            )
    yield from counts.items()


class Table:
    """A listener's routes, compiled."""

    def __init__(self, routes: Iterable[Route], *, host_fallthrough: bool = True) -> None:
        """Args: host_fallthrough: a host without a matching path goes on to wildcard and none."""
        self.routes = tuple(routes)
        self._fallthrough = host_fallthrough
        self._exact: dict[str, _Host] = {}
        self._wildcards: dict[str, _Host] = {}  # by `.example.com`
        self._any = _Host()
        self._only: dict[str, Route] = {}  # of hosts that have but one, which takes all
        for route in self.routes:
            for host in route.match.hosts:
                if host.startswith("*"):
                    self._wildcards.setdefault(host[1:], _Host()).add(route)
                else:
                    self._exact.setdefault(host, _Host()).add(route)
            if not route.match.hosts:
                self._any.add(route)
        for table in (*self._exact.values(), *self._wildcards.values(), self._any):
            table.compile()
        for host, table in self._exact.items():
            if table.only is not None:
                self._only[host] = table.only

    def find(self, head: RequestHead, scheme: str) -> Route:
        """The route that a request takes.

        Args:
            head: its host and path in their one form.
            scheme: `http` or `https`, as the client used it.

        Raises:
            NoRoute: none matches.
            NoMethod: some would, but for the method.
        """
        asked = head.asked
        if asked.table is self:
            found: Route = asked.route
            return found
        only = self._only.get(asked.name) if self._only else None
        if only is not None:
            asked.table, asked.route = self, only
            return only
        allowed: list[str] = []
        if self._exact or self._wildcards:
            for table in self._named(head.host):
                route = table.find(head, scheme, allowed)
                if route is not None:
                    return route
                if not self._fallthrough:
                    raise NoMethod(tuple(dict.fromkeys(allowed))) if allowed else NoRoute()
        route = self._any.find(head, scheme, allowed)
        if route is not None:
            return route
        raise NoMethod(tuple(dict.fromkeys(allowed))) if allowed else NoRoute()

    def _named(self, host: str) -> Iterator[_Host]:
        table = self._exact.get(host)
        if table is not None:
            yield table
        if self._wildcards:
            dot = host.find(".", 1)
            while dot > 0:
                table = self._wildcards.get(host[dot:])
                if table is not None:
                    yield table
                dot = host.find(".", dot + 1)

    def explain(self, head: RequestHead, scheme: str) -> Iterator[tuple[Route, str]]:
        """Each route in file order, and why it was passed over; empty for the one taken."""
        try:
            taken = self.find(head, scheme)
        except (NoRoute, NoMethod):
            taken = None
        for route in self.routes:
            yield route, "" if route is taken else self._why_not(route, head, scheme, taken)

    def _why_not(self, route: Route, head: RequestHead, scheme: str, taken: Route | None) -> str:
        match = route.match
        if not match.covers_host(head.host):
            return f"its hosts are {', '.join(match.hosts)}"
        if not match.covers_path(head.path):
            wanted = match.path or (match.regex.pattern if match.regex else match.prefix)
            return f"its path is {wanted.decode()}"
        failing = match.failing(head, scheme)
        if failing or taken is None:
            return failing or "a more specific host has routes of its own (host_fallthrough)"
        return f"{taken.name} comes first"
