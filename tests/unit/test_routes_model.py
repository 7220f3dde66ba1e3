"""core.routes against a model that reads the rules one by one, and what a lookup costs."""

from __future__ import annotations

import re
from random import Random
from time import process_time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.messages import RequestHead
from gatewayd.core.routes import Condition, Match, Route, Table
from tests.unit.routing import asked, pattern, table, taken

quick = settings(deadline=None, database=None, max_examples=300)

HOSTS = ["a.example.com", "*.example.com", "*.com", "b.com"]
WHERES = [
    *(("prefix", text) for text in ("", "/", "/a", "/a/", "/a/b", "/ab", "/a;v")),
    *(("path", text) for text in ("/a", "/a/b", "/")),
    *(("regex", text) for text in ("^/a", "b$", "^/$")),
]
ASKED_HOSTS = ["a.example.com", "b.a.example.com", "example.com", "b.com", "x"]
ASKED_PATHS = ["/", "/a", "/a/", "/a/b", "/ab", "/a;v", "/a;v/b", "/a/b/c", "/b"]
Given = dict[str, Any]


def expected_of(routes: list[Given], head: RequestHead, scheme: str, fallthrough: bool) -> str:
    """The answer by the letter of decisions.md."""
    path, host = head.path.decode(), head.host

    def rung(route: Given) -> tuple[int, ...] | None:
        kind, text = route["where"]
        if kind == "path":
            return (0,) if path == text else None
        if kind == "regex":
            return (1, route["order"]) if re.search(text, path) else None
        text = text or "/"
        border = text.endswith("/") or path[len(text) :][:1] in ("", "/", ";")
        return (2, -len(text)) if path.startswith(text) and border else None

    def conditions(route: Given) -> int:
        return bool(route["methods"]) + bool(route["scheme"]) + bool(route["canary"])

    levels = [[route for route in routes if host in route["hosts"]]]
    for at in range(len(host)):
        if host[at] == ".":
            levels.append([route for route in routes if "*" + host[at:] in route["hosts"]])
    levels = [level for level in levels if level]
    if not levels or fallthrough:
        levels.append([route for route in routes if not route["hosts"]])
    else:
        levels = levels[:1]
    allowed: set[str] = set()
    for level in levels:
        ranked = sorted(
            (
                (-route["priority"], rung(route), -conditions(route), route["order"], route)
                for route in level
                if rung(route) is not None
            ),
            key=lambda entry: entry[:4],
        )
        for *_, route in ranked:
            if route["scheme"] not in ("", scheme) or (route["canary"] and not head.lines):
                continue
            if route["methods"] and head.method.decode() not in route["methods"]:
                allowed |= set(route["methods"])
                continue
            return str(route["order"])
    return f"405 {sorted(allowed)}" if allowed else "404"


def some_routes(random: Random) -> list[Given]:
    """A table with a bit of everything, but mostly without conditions, so that routes meet."""

    def now_and_then(values: list[Any], otherwise: Any) -> Any:
        return random.choice(values) if random.random() < 0.25 else otherwise

    return [
        {
            "hosts": now_and_then([random.sample(HOSTS, 2), [random.choice(HOSTS)]], []),
            "where": random.choice(WHERES),
            "methods": now_and_then([["PUT"], ["POST"], ["GET", "PUT"]], []),
            "scheme": now_and_then(["http", "https"], ""),
            "canary": now_and_then([True], False),
            "priority": now_and_then([1], 0),
            "order": order,
        }
        for order in range(random.randint(1, 8))
    ]


class ModelTests(SynchronousTestCase):
    """Any table, any request."""

    @quick
    @given(st.integers(), st.booleans())
    def test_by_the_letter(self, seed: int, fallthrough: bool) -> None:
        """The compiled table answers as the rules do when read one by one."""
        random = Random(seed)
        routes = some_routes(random)
        compiled = []
        for route in routes:
            kind, text = route["where"]
            where: Given = {kind: pattern(text) if kind == "regex" else text}
            match = Match(
                hosts=route["hosts"],
                methods=route["methods"],
                scheme=route["scheme"],
                headers=[Condition("X-C", "", None)] if route["canary"] else [],
                **where,
            )
            name = str(route["order"])
            compiled.append(Route(name, match, priority=route["priority"], order=route["order"]))
        tested = Table(compiled, host_fallthrough=fallthrough)
        for _ in range(8):
            head = asked(
                random.choice(ASKED_PATHS),
                random.choice(ASKED_HOSTS),
                method=random.choice(["GET", "PUT"]),
                lines=random.choice([[], [b"X-C: 1"]]),
            )
            scheme = random.choice(["http", "https"])
            found = taken(tested, head, scheme)
            if found.startswith("405"):
                found = f"405 {sorted(found[4:].split(', '))}"
            self.assertEqual(found, expected_of(routes, head, scheme, fallthrough))
            explained = [route.name for route, why in tested.explain(head, scheme) if not why]
            self.assertEqual(explained, [] if found[:3] in ("404", "405") else [found])


class CostTests(SynchronousTestCase):
    """Flat in hosts, exact paths and prefixes."""

    def test_flat(self) -> None:
        """Ten thousand of each cost a lookup no more than a hundred, within the noise of a clock."""

        def best(size: int) -> float:
            routes = table(
                *((f"h{n}", {"hosts": [f"h{n}.example.com"]}) for n in range(size)),
                *((f"w{n}", {"hosts": [f"*.w{n}.example.com"]}) for n in range(size)),
                *((f"e{n}", {"path": f"/e/{n}"}) for n in range(size)),
                *((f"p{n}", {"prefix": f"/p/{n}/x"}) for n in range(size)),
            )
            last = size - 1
            heads = [
                (asked("/", f"h{last}.example.com"), f"h{last}"),
                (asked("/", f"a.w{last}.example.com"), f"w{last}"),
                (asked(f"/e/{last}"), f"e{last}"),
                (asked(f"/p/{last}/x/y"), f"p{last}"),
            ]
            times = []
            for _ in range(20):
                began = process_time()
                for head, name in heads * 25:
                    assert routes.find(head, "http").name == name
                times.append(process_time() - began)
            return min(times)

        few, many = best(100), best(10_000)
        self.assertLess(many, 10 * few + 0.001, "a scan would cost a hundred times as much")
