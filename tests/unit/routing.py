"""What the tests of core.routes share: requests, tables, and what is taken."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gatewayd.core.errors import NoMethod, NoRoute
from gatewayd.core.messages import Host, RequestHead
from gatewayd.core.routes import Match, Route, Table


def asked(
    path: str = "/",
    host: str = "example.com",
    *,
    method: str = "GET",
    query: str = "",
    lines: Iterable[bytes] = (),
) -> RequestHead:
    """A request."""
    head = RequestHead(list(lines))
    head.method = method.encode()
    head.asked = Host(host)
    head.path = path.encode()
    head.query = query.encode()
    return head


def table(*entries: tuple[str, dict[str, Any]], fallthrough: bool = True) -> Table:
    """A table of routes given as (name, what matches and the priority)."""
    routes = [
        Route(name, Match(**match), priority=priority, order=order)
        for order, (name, match, priority) in enumerate(
            (name, {k: v for k, v in given_.items() if k != "priority"}, given_.get("priority", 0))
            for name, given_ in entries
        )
    ]
    return Table(routes, host_fallthrough=fallthrough)


def taken(routes: Table, head: RequestHead, scheme: str = "http") -> str:
    """The name of the route taken, `404`, or `405` with what is allowed."""
    try:
        return routes.find(head, scheme).name
    except NoRoute:
        return "404"
    except NoMethod as error:
        return f"405 {', '.join(error.allowed)}"


def pattern(text: str) -> re.Pattern[bytes]:
    """A compiled pattern."""
    return re.compile(text.encode())
