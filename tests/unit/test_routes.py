"""core.routes: which route a request takes, by the order of precedence in decisions.md, Routes."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.regexes import LIMIT
from gatewayd.core.routes import Condition, Match, Route, below, hidden, tried_in_order
from tests.unit.routing import asked, pattern, table, taken


class HostTests(SynchronousTestCase):
    """Exact, then the longest matching wildcard, then none."""

    ROUTES: tuple[tuple[str, dict[str, Any]], ...] = (
        ("none", {}),
        ("wide", {"hosts": ["*.example.com"]}),
        ("deep", {"hosts": ["*.b.example.com"]}),
        ("exact", {"hosts": ["a.b.example.com", "WWW.Example.ORG."]}),
        ("org", {"hosts": ["*.org"]}),
    )

    def test_hosts(self) -> None:
        """A wildcard is any depth below, never the apex, and never a part of a label."""
        expected = {
            "a.b.example.com": "exact",
            "www.example.org": "exact",
            "c.b.example.com": "deep",
            "d.c.b.example.com": "deep",
            "b.example.com": "wide",
            "x.example.com": "wide",
            "z.y.x.example.com": "wide",
            "example.com": "none",
            "notexample.com": "none",
            "a.example.com.evil.net": "none",
            "example.org": "org",
            "org": "none",
            "[::1]": "none",
            "": "none",
        }
        routes = table(*self.ROUTES)
        self.assertEqual({host: taken(routes, asked(host=host)) for host in expected}, expected)

    def test_remembered(self) -> None:
        """What one table found for a host is nothing to another, whoever is asked how often."""
        head = asked(host="www.example.com")
        tables = {
            name: table((name, {"hosts": ["www.example.com"], **more}), ("rest", {}))
            for name, more in (("one", {}), ("two", {}), ("strict", {"methods": ["PUT"]}))
        }
        tables["none"] = table(("none", {}))
        expected = {"one": "one", "two": "two", "strict": "rest", "none": "none"}
        for name in ("one", "one", "two", "two", "one", "strict", "one", "none", "strict", "two"):
            self.assertEqual(expected[name], taken(tables[name], head))

    def test_explained_alike(self) -> None:
        """What explain says of hosts is what find does."""
        for name, match in self.ROUTES[1:]:
            alone = table((name, match))
            hosts = ["a.b.example.com", "b.example.com", "notexample.com", "example.com", "org"]
            for host in [*hosts, ".example.com", "xb.example.com", "www.example.org"]:
                found = taken(alone, asked(host=host)) == name
                self.assertEqual(alone.routes[0].match.covers_host(host), found, (name, host))

    def test_fallthrough(self) -> None:
        """A host without a match goes on to its wildcards and to none, unless it must not."""
        entries: list[tuple[str, dict[str, Any]]] = [
            ("none", {"prefix": "/n"}),
            ("wide", {"hosts": ["*.example.com"], "prefix": "/w"}),
            ("deep", {"hosts": ["*.b.example.com"], "prefix": "/d"}),
            ("exact", {"hosts": ["a.b.example.com"], "prefix": "/e"}),
        ]
        expected = {
            ("/e", "a.b.example.com"): ("exact", "exact"),
            ("/d", "a.b.example.com"): ("deep", "404"),
            ("/w", "a.b.example.com"): ("wide", "404"),
            ("/n", "a.b.example.com"): ("none", "404"),
            ("/x", "a.b.example.com"): ("404", "404"),
            ("/w", "c.b.example.com"): ("wide", "404"),
            ("/n", "elsewhere"): ("none", "none"),
        }
        on, off = table(*entries), table(*entries, fallthrough=False)
        found = {
            (path, host): (taken(on, asked(path, host)), taken(off, asked(path, host)))
            for path, host in expected
        }
        self.assertEqual(found, expected)

    def test_host_before_path(self) -> None:
        """A better host wins though another's path is longer, or its priority higher."""
        routes = table(
            ("none", {"path": "/a/b", "priority": 9}),
            ("wide", {"hosts": ["*.example.com"], "path": "/a/b"}),
            ("exact", {"hosts": ["www.example.com"]}),
        )
        self.assertEqual(taken(routes, asked("/a/b", "www.example.com")), "exact")


class PathTests(SynchronousTestCase):
    """Priority, exact path, regex in file order, longest prefix."""

    def test_order(self) -> None:
        """Each rung before the next."""
        entries: dict[str, dict[str, Any]] = {
            "root": {},
            "short": {"prefix": "/a"},
            "long": {"prefix": "/a/b"},
            "late regex": {"regex": pattern("^/a/b/.")},
            "early regex": {"regex": pattern("^/a/b/c")},
            "exact": {"path": "/a/b/c"},
            "low": {"path": "/a/b/c", "priority": -1},
            "high": {"priority": 1, "prefix": "/a/b/c"},
        }
        names = ["high", "exact", "late regex", "early regex", "long", "short", "root", "low"]
        order = list(entries)
        while names[:-1]:
            routes = table(*((name, entries[name]) for name in order))
            self.assertEqual(taken(routes, asked("/a/b/c")), names[0])
            order.remove(names.pop(0))

    def test_before_the_root(self) -> None:
        """A route that takes everything comes after whatever else matches."""
        others: list[dict[str, Any]] = [{"path": "/a"}, {"regex": pattern("a")}, {"prefix": "/a"}]
        for other in others:
            routes = table(("root", {}), ("other", other))
            found = [taken(routes, asked(path)) for path in ("/a", "/b")]
            self.assertEqual(found, ["other", "root"], other)

    def test_lowest_priority(self) -> None:
        """A route of lower priority is found where no other's path holds."""
        routes = table(("low", {"path": "/x", "priority": -1}), ("zero", {"path": "/y"}))
        self.assertEqual([taken(routes, asked(path)) for path in ("/x", "/y")], ["low", "zero"])

    def test_borders(self) -> None:
        """A prefix ends on a segment's border: `/`, `;` or the end."""
        expected = {
            ("/api", "/api"): True,
            ("/api", "/api/"): True,
            ("/api", "/api/x"): True,
            ("/api", "/api;v=1"): True,
            ("/api", "/api;v=1/x"): True,
            ("/api", "/apis"): False,
            ("/api", "/ap"): False,
            ("/api", "/x/api"): False,
            ("/api", "/API"): False,
            ("/api", "/api%2Fx"): False,
            ("/api/", "/api/"): True,
            ("/api/", "/api/x"): True,
            ("/api/", "/api"): False,
            ("/api/", "/api;v=1"): False,
            ("/api/v1", "/api/v1/x"): True,
            ("/api/v1", "/api;x/v1"): False,
            ("/api/v1", "/api"): False,
            ("/api;v=1", "/api;v=1"): True,
            ("/api;v=1", "/api;v=1/x"): True,
            ("/api;v=1", "/api;v=1;w"): True,
            ("/api;v=1", "/api;v=12"): False,
            ("/api;v=1", "/api"): False,
            ("/api;v=1/", "/api;v=1/x"): True,
            ("/api;v=1/", "/api;v=1"): False,
            ("/", "/"): True,
            ("/", "/x"): True,
            ("/", "*"): True,
            ("", "/x"): True,
            ("/x", "*"): False,
            ("/a//b", "/a//b/c"): True,
            ("/a//b", "/a/b"): False,
            ("/a//", "/a//b"): True,
        }
        found = {
            (prefix, path): taken(table(("it", {"prefix": prefix})), asked(path)) == "it"
            for prefix, path in expected
        }
        self.assertEqual(found, expected)
        plain = {
            (prefix, path): below(path.encode(), (prefix or "/").encode())
            for prefix, path in expected
        }
        self.assertEqual(plain, expected, "rewrites and explain go by the same borders")

    def test_slash_is_longer(self) -> None:
        """`/api/` is longer than `/api`, and comes back to it where it does not hold."""
        routes = table(("bare", {"prefix": "/api"}), ("slash", {"prefix": "/api/"}))
        paths = ["/api", "/api/", "/api/x", "/api;v", "/x"]
        self.assertEqual(
            [taken(routes, asked(path)) for path in paths],
            ["bare", "slash", "slash", "bare", "404"],
        )

    def test_exact_is_exact(self) -> None:
        """A path is neither a prefix nor anything but itself."""
        routes = table(("it", {"path": "/a"}), ("star", {"path": "*"}))
        paths = ["/a", "/a/", "/a;x", "/", "*"]
        found = [taken(routes, asked(path)) for path in paths]
        self.assertEqual(found, ["it", "404", "404", "404", "star"])

    def test_long_path(self) -> None:
        """A regex never matches over 4 KiB, but prefixes do."""
        routes = table(("regex", {"regex": pattern(".")}), ("prefix", {"prefix": "/a"}))
        longest = "/a/" + "a" * (LIMIT - 3)
        self.assertEqual(
            [taken(routes, asked(path)) for path in (longest, longest + "a")], ["regex", "prefix"]
        )


class ConditionTests(SynchronousTestCase):
    """Methods, scheme, header fields and query parameters."""

    def test_conditions(self) -> None:
        """Present, equal or matching; one value of several is enough."""
        present = Condition("X-A", "", None)
        equal = Condition("X-A", "yes", None)
        like = Condition("X-A", "", pattern("^y"))
        values = [[], [b""], [b"yes"], [b"no", b"yes"], [b"no"], [b"YES"], [b"y" * (LIMIT + 1)]]
        self.assertEqual(
            [[each.holds(value) for value in values] for each in (present, equal, like)],
            [
                [False, True, True, True, True, True, True],
                [False, False, True, True, False, False, False],
                [False, False, True, True, False, False, False],
            ],
        )
        self.assertEqual(
            [repr(each) for each in (present, equal, like)], ["X-A=(present)", "X-A=yes", "X-A~^y"]
        )

    def test_headers(self) -> None:
        """All must hold; names know no case."""
        routes = table(
            ("it", {"headers": [Condition("X-Canary", "yes", None), Condition("x-b", "", None)]})
        )
        expected = [
            ([], "404"),
            ([b"x-canary: yes"], "404"),
            ([b"x-canary: yes", b"X-B:"], "it"),
            ([b"X-CANARY:no", b"X-Canary:yes", b"X-B: 1"], "it"),
            ([b"X-Canary: yes, no", b"X-B: 1"], "404"),
        ]
        found = [(lines, taken(routes, asked(lines=lines))) for lines, _ in expected]
        self.assertEqual(found, expected)

    def test_query(self) -> None:
        """Parameters are decoded, whatever bytes they decode to; names know case."""
        debug = table(("it", {"query": [Condition("debug", "1", None)]}))
        accent = table(("it", {"query": [Condition("ü b", "é", None)]}))
        present = table(("it", {"query": [Condition("a", "", None)]}))
        expected = {
            (debug, ""): "404",
            (debug, "?debug=1"): "it",
            (debug, "?a=b&debug=1&c"): "it",
            (debug, "?debug=0&debug=1"): "it",
            (debug, "?d%65bug=%31"): "it",
            (debug, "?debug=11"): "404",
            (debug, "?Debug=1"): "404",
            (debug, "?debug"): "404",
            (debug, "?x=%C3%A9&debug=1"): "it",
            (debug, "?x=%ff%00%&debug=1"): "it",
            (debug, "?a;debug=1"): "404",
            (accent, "?%C3%BC+b=%C3%A9"): "it",
            (accent, "?%C3%BC%20b=%E9"): "404",
            (present, "?a"): "it",
            (present, "?a="): "it",
            (present, "?&&a"): "it",
            (present, "?=a"): "404",
        }
        found = {(each, query): taken(each, asked(query=query)) for each, query in expected}
        self.assertEqual(found, expected)

    def test_query_regex(self) -> None:
        """A pattern sees the decoded value."""
        routes = table(("it", {"query": [Condition("v", "", pattern("^a b$"))]}))
        self.assertEqual(
            [taken(routes, asked(query=query)) for query in ("?v=a+b", "?v=a%20b", "?v=ab")],
            ["it", "it", "404"],
        )

    def test_scheme(self) -> None:
        """As the client used it."""
        routes = table(("it", {"scheme": "https"}))
        self.assertEqual(
            [taken(routes, asked(), scheme) for scheme in ("http", "https")], ["404", "it"]
        )

    def test_methods(self) -> None:
        """If only the method failed: 405 with what is allowed, in file order, each once."""
        canary = [Condition("X-C", "", None)]
        routes = table(
            ("one", {"prefix": "/a", "methods": ["POST", "PUT"]}),
            ("two", {"prefix": "/a", "methods": ["PUT", "DELETE"]}),
            ("other path", {"prefix": "/b", "methods": ["PATCH"]}),
            ("other too", {"prefix": "/a", "methods": ["TRACE"], "headers": canary}),
            ("secure", {"prefix": "/a", "methods": ["LOCK"], "scheme": "https"}),
        )
        expected = {
            ("GET", "/a"): "405 POST, PUT, DELETE",
            ("PUT", "/a"): "one",
            ("DELETE", "/a"): "two",
            ("GET", "/b"): "405 PATCH",
            ("TRACE", "/a"): "405 POST, PUT, DELETE",
            ("get", "/b"): "405 PATCH",
            ("GET", "/c"): "404",
        }
        found = {
            (method, path): taken(routes, asked(path, method=method)) for method, path in expected
        }
        self.assertEqual(found, expected)

    def test_methods_across_hosts(self) -> None:
        """Who falls through to another host may still be served there, and 405 counts all."""
        entries: list[tuple[str, dict[str, Any]]] = [
            ("exact", {"hosts": ["a.example.com"], "methods": ["PUT"]}),
            ("none", {"methods": ["GET", "PUT"]}),
        ]
        on, off = table(*entries), table(*entries, fallthrough=False)
        found = [
            taken(each, asked("/", "a.example.com", method=method))
            for each in (on, off)
            for method in ("GET", "PUT", "POST")
        ]
        self.assertEqual(found, ["none", "exact", "405 PUT, GET", "405 PUT", "exact", "405 PUT"])

    def test_more_conditions_first(self) -> None:
        """One for methods and scheme each, one per header and query entry; then file order."""
        header = Condition("X-A", "", None)
        query = Condition("a", "", None)
        entries: dict[str, dict[str, Any]] = {
            "nothing": {},
            "one": {"methods": ["GET", "HEAD", "PUT"]},
            "one too": {"scheme": "http"},
            "two": {"methods": ["GET"], "scheme": "http"},
            "three": {"headers": [header, header], "query": [query]},
            "three too": {"headers": [header], "query": [query], "methods": ["GET"]},
            "four": {"headers": [header, header], "query": [query, query]},
        }
        for where in ({"prefix": "/a"}, {"prefix": "/a/"}, {"path": "/a/"}, {"prefix": "/"}):
            order = list(entries)
            found = []
            while order:
                routes = table(*((name, {**where, **entries[name]}) for name in order))
                found.append(taken(routes, asked("/a/", query="?a", lines=[b"X-A: 1"])))
                order.remove(found[-1])
            expected = ["four", "three", "three too", "two", "one", "one too", "nothing"]
            self.assertEqual(found, expected, where)

    def test_rung_hands_on(self) -> None:
        """A rung whose routes' conditions all fail hands on to the next."""
        canary = {"headers": [Condition("X-C", "", None)]}
        names = ["high", "exact", "regex", "long", "short"]
        wheres: list[dict[str, Any]] = [
            {"priority": 1},
            {"path": "/a/b"},
            {"regex": pattern("b$")},
            {"prefix": "/a/b"},
            {"prefix": "/a"},
        ]
        entries = [(name, {**where, **canary}) for name, where in zip(names, wheres, strict=True)]
        routes = table(*entries, ("last", {}))
        self.assertEqual(taken(routes, asked("/a/b")), "last")
        self.assertEqual(taken(routes, asked("/a/b", lines=[b"X-C: 1"])), "high")


class ExplainTests(SynchronousTestCase):
    """Why a route was passed over."""

    def test_reasons(self) -> None:
        """Each route in file order with its reason, empty for the one taken."""
        routes = table(
            ("host", {"hosts": ["b.com", "*.b.com"]}),
            ("exact", {"path": "/x"}),
            ("regex", {"regex": pattern("^/x")}),
            ("prefix", {"prefix": "/x"}),
            ("scheme", {"scheme": "https"}),
            ("header", {"headers": [Condition("X-A", "1", None)]}),
            ("query", {"query": [Condition("a", "", pattern("b"))]}),
            ("method", {"methods": ["PUT"]}),
            ("taken", {"prefix": "/a"}),
            ("shorter", {}),
        )
        found = [(route.name, why) for route, why in routes.explain(asked("/a"), "http")]
        self.assertEqual(
            found,
            [
                ("host", "its hosts are b.com, *.b.com"),
                ("exact", "its path is /x"),
                ("regex", "its path is ^/x"),
                ("prefix", "its path is /x"),
                ("scheme", "it is for https only"),
                ("header", "header X-A=1 does not hold"),
                ("query", "query a~b does not hold"),
                ("method", "its methods do not include this one"),
                ("taken", ""),
                ("shorter", "taken comes first"),
            ],
        )

    def test_nobody(self) -> None:
        """With host_fallthrough off, who would have matched is told what stood before it."""
        routes = table(
            ("named", {"hosts": ["a.com"], "path": "/x"}), ("any", {}), fallthrough=False
        )
        found = [why for _, why in routes.explain(asked("/", "a.com"), "http")]
        self.assertEqual(
            found,
            ["its path is /x", "a more specific host has routes of its own (host_fallthrough)"],
        )
        refused = table(("put", {"methods": ["PUT"]}))
        self.assertEqual(
            [why for _, why in refused.explain(asked(), "http")],
            ["its methods do not include this one"],
        )

    def test_repr(self) -> None:
        """A route shows its name."""
        self.assertEqual(repr(Route("api", Match())), "<Route api>")


class LintTests(SynchronousTestCase):
    """What `check` warns of."""

    def hidden_in(self, *entries: tuple[str, dict[str, Any]]) -> list[tuple[str, str]]:
        """Hidden routes, each with what hides it."""
        return [(one.name, other.name) for one, other in hidden(table(*entries).routes)]

    def test_hidden(self) -> None:
        """The same path twice, or one that a higher priority covers."""
        canary = [Condition("X-C", "", None)]
        cases: dict[str, tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, str]]]] = {
            "twice": ([("a", {}), ("b", {"prefix": "/"})], [("b", "a")]),
            "twice exact": ([("a", {"path": "/x"}), ("b", {"path": "/x"})], [("b", "a")]),
            "with a condition": ([("a", {}), ("b", {"headers": canary})], []),
            "behind a condition": ([("a", {"headers": canary}), ("b", {})], []),
            "longer": ([("a", {}), ("b", {"prefix": "/b"})], []),
            "priority": ([("a", {"prefix": "/b"}), ("b", {"priority": 1})], [("a", "b")]),
            "priority, narrower": (
                [
                    ("a", {"prefix": "/b", "headers": canary}),
                    ("b", {"prefix": "/b/c", "priority": 1}),
                ],
                [],
            ),
            "priority, wider": (
                [("a", {"path": "/b/c"}), ("b", {"prefix": "/b", "priority": 1})],
                [("a", "b")],
            ),
            "priority, regex": (
                [("a", {"regex": pattern("^/b")}), ("b", {"prefix": "/b", "priority": 1})],
                [],
            ),
            "priority, exact": (
                [("a", {"path": "/b"}), ("b", {"path": "/b", "priority": 1})],
                [("a", "b")],
            ),
            "priority, same regex": (
                [("a", {"regex": pattern("b")}), ("b", {"regex": pattern("b"), "priority": 1})],
                [("a", "b")],
            ),
            "other host": ([("a", {"hosts": ["a.com"]}), ("b", {"hosts": ["b.com"]})], []),
            "one host of two": (
                [("a", {"hosts": ["a.com"]}), ("b", {"hosts": ["a.com", "b.com"]})],
                [],
            ),
            "the other host of two": (
                [("a", {"hosts": ["a.com"]}), ("b", {"hosts": ["b.com", "a.com"]})],
                [],
            ),
            "priority, another exact": (
                [("a", {"path": "/c"}), ("b", {"path": "/b", "priority": 1})],
                [],
            ),
            "priority, below an exact": (
                [("a", {"prefix": "/b"}), ("b", {"path": "/b", "priority": 1})],
                [],
            ),
            "priority, another regex": (
                [("a", {"path": "/b"}), ("b", {"regex": pattern("b"), "priority": 1})],
                [],
            ),
            "both hosts": (
                [("a", {"hosts": ["a.com", "b.com"]}), ("b", {"hosts": ["b.com", "a.com"]})],
                [("b", "a")],
            ),
        }
        self.assertEqual(
            {what: self.hidden_in(*entries) for what, (entries, _) in cases.items()},
            {what: expected for what, (_, expected) in cases.items()},
        )

    def test_tried_in_order(self) -> None:
        """Regexes and conditions by host: their cost is not flat."""
        routes = table(
            ("a", {"regex": pattern("x"), "methods": ["GET"]}),
            ("b", {"hosts": ["a.com", "*.b.com"], "scheme": "http"}),
            ("c", {"hosts": ["a.com"], "query": [Condition("a", "", None)] * 3}),
            ("d", {}),
        )
        self.assertEqual(dict(tried_in_order(routes.routes)), {"": 2, "a.com": 4, "*.b.com": 1})
