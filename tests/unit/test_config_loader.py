"""config.loader: a file is read whole, and everything that is wrong in it is told at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.config import loader, schema
from gatewayd.config.document import ConfigError
from gatewayd.config.kinds import LATER
from gatewayd.config.loader import load
from tests.unit.config_cases import (
    BASE,
    DEFAULTS,
    EXAMPLES,
    GOLDEN,
    LEGAL,
    LISTENERS,
    UPSTREAMS,
    WITHOUT,
    ZEROES,
    fine,
    listener,
    routes,
    upstream,
    wrong,
)


class Golden(SynchronousTestCase):
    """Each mistake is told with file, line, column, path, and what to write instead."""

    maxDiff = None

    def compare(self, group: str) -> None:
        """All documents of a group."""
        table = GOLDEN[group]
        self.assertEqual(
            {intent: problems for intent, (_, problems) in table.items()},
            {intent: wrong(text) for intent, (text, _) in table.items()},
        )

    def test_top_level(self) -> None:
        """The file as a whole."""
        self.compare("TopLevel")

    def test_listeners(self) -> None:
        """Where clients connect."""
        self.compare("Listeners")

    def test_routes(self) -> None:
        """Which request goes where."""
        self.compare("Routes")

    def test_upstreams(self) -> None:
        """Where to."""
        self.compare("Upstreams")

    def test_zookeeper(self) -> None:
        """Members from there."""
        self.compare("ZooKeeper")

    def test_admin_and_logs(self) -> None:
        """What operators see."""
        self.compare("AdminAndLogs")

    def test_what_is_legal(self) -> None:
        """Forms that are easily refused by mistake."""
        self.assertEqual({}, {text: found for text in LEGAL if (found := wrong(text))})

    def test_values_from_the_environment(self) -> None:
        """They are read as if they stood there; text may look like anything."""
        text = BASE + "drain_delay: ${SECONDS}s\nadmin:\n  token: ${TOKEN}\n  open: ['${OPEN}']\n"
        for token in ("5", "true", "null", "~", "1.5", "a: b", "", "[x]", "on"):
            config = fine(text, {"SECONDS": "5", "TOKEN": token, "OPEN": "metrics"}).config
            self.assertEqual(
                (5.0, token, ("metrics",)),
                (config.drain_delay, config.admin.token, config.admin.open),
            )


def places(described: Any, path: str = "") -> Iterator[str]:
    """The paths of all keys that a JSON Schema knows; `*` is any name, `[]` any item."""
    for name, below in described.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from places(below, f"{path}.{name}")
    if isinstance(described.get("additionalProperties"), dict):
        yield from places(described["additionalProperties"], f"{path}.*")
    if "items" in described:
        yield from places(described["items"], f"{path}[]")
    for either in described.get("anyOf", ()):
        yield from places(either, path)


def written(described: Any, value: Any, path: str = "") -> Iterator[str]:
    """The paths of those of them that a document has."""
    if isinstance(value, dict):
        for name, below in described.get("properties", {}).items():
            if name in value:
                yield f"{path}.{name}"
                yield from written(below, value[name], f"{path}.{name}")
        if isinstance(described.get("additionalProperties"), dict):
            for below in value.values():
                yield from written(described["additionalProperties"], below, f"{path}.*")
    if isinstance(value, list):
        for below in value:
            yield from written(described.get("items", {}), below, f"{path}[]")
    for either in described.get("anyOf", ()):
        yield from written(either, value, path)


class Keys(SynchronousTestCase):
    """The contract's keys, all of them, and their defaults."""

    maxDiff = None

    def test_defaults(self) -> None:
        """A file with all defaults written out is the file without them."""
        self.assertEqual(fine(WITHOUT).config, fine(DEFAULTS).config)
        self.assertEqual([], fine(DEFAULTS).warnings)

    def test_defaults_of_what_is_off(self) -> None:
        """A section that is off has its defaults once it is written."""
        config = fine(EXAMPLES).config
        users = config.upstreams["users"]
        self.assertEqual(
            (schema.HealthCheck(), schema.CircuitBreaker(), schema.AdaptiveLimit()),
            (users.health_check, users.circuit_breaker, users.adaptive_limit),
        )
        self.assertEqual(schema.RateLimit(rate=100.0, burst=200), config.routes[0].rate_limit)
        self.assertEqual(schema.Registered(path="/services/users", format="plain"), users.zookeeper)
        self.assertEqual(
            schema.ZooKeeper(hosts="127.0.0.1:2181", register=schema.Register(path="/gateways")),
            config.zookeeper,
        )
        self.assertEqual(schema.Redirect(to="/", status=308), schema.Redirect(to="/"))
        off = fine(WITHOUT).config
        self.assertEqual(
            [None] * 6,
            [
                off.routes[0].rate_limit,
                off.routes[0].redirect,
                off.routes[0].respond,
                off.upstreams["users"].health_check,
                off.upstreams["users"].circuit_breaker,
                off.upstreams["users"].adaptive_limit,
            ],
        )

    def test_every_key_is_here(self) -> None:
        """A key that joins the schema joins one of the documents above."""
        described = schema.json_schema()
        found = {
            path
            for text in (DEFAULTS, EXAMPLES)
            for path in written(described, yaml.safe_load(text))
        }
        self.assertEqual(sorted(set(places(described))), sorted(found))

    def test_shown(self) -> None:
        """/config has every key with a value, in the units that people write."""
        shown = fine(EXAMPLES).shown()
        self.assertEqual(
            {
                "path": "/healthz",
                "interval": "5s",
                "timeout": "2s",
                "healthy": 2,
                "unhealthy": 3,
                "expect": ["200-399"],
                "body": "",
                "host": "",
                "headers": {},
                "port": 0,
                "tcp": False,
            },
            shown["upstreams"]["users"]["health_check"],
        )
        self.assertEqual(
            ["127.0.0.1:2003", {"address": "127.0.0.1:2004", "weight": 3}],
            shown["upstreams"]["users"]["endpoints"],
        )
        self.assertEqual({"from": ["10.0.0.0/8"]}, shown["listeners"]["web"]["proxy_protocol"])
        self.assertEqual(r"^/v\d+/", shown["routes"][2]["match"]["path_regex"])
        self.assertEqual({"users": 95, "users-canary": 5}, shown["routes"][0]["upstream"])
        self.assertEqual(
            {"request": "25s", "tunnel": "1h", "stream": "inherit"}, shown["routes"][0]["timeouts"]
        )
        self.assertEqual(
            {
                "max_connections": 10000,
                "max_header_bytes": "1MiB",
                "max_header_memory": "64MiB",
                "max_headers": 256,
                "max_body_bytes": "0",
                "min_body_rate": "240/s",
            },
            shown["listeners"]["web"]["limits"],
        )
        self.assertEqual(fine(DEFAULTS).shown(), fine(WITHOUT).shown())


NO_ZEROES = {
    "max_header_bytes": listener("limits: {max_header_bytes: 0}"),
    "max_header_bytes of a response": upstream("max_header_bytes: 0"),
    "max_headers": listener("limits: {max_headers: 0}"),
    "timeouts.header": listener("timeouts: {header: 0s}"),
    "rate": routes("upstream: u, rate_limit: {rate: 0/s}"),
    "burst": routes("upstream: u, rate_limit: {rate: 1/s, burst: 0}"),
}


class Zero(SynchronousTestCase):
    """The contract's head comment."""

    def test_taken(self) -> None:
        """As unlimited, never, off or at once."""
        self.assertEqual(
            {}, {name: found for name, text in ZEROES.items() if (found := wrong(text))}
        )

    def test_refused(self) -> None:
        """Where it would let nothing through."""
        self.assertEqual([], [name for name, text in NO_ZEROES.items() if len(wrong(text)) != 1])

    def test_a_stream_that_never_ends(self) -> None:
        """0 is never, `inherit` the upstream's own."""
        found = [
            fine(routes(f"upstream: u, timeouts: {{stream: {text}}}")).config.routes[0].timeouts
            for text in ("0", "inherit", "1h")
        ]
        self.assertEqual([0.0, None, 3600.0], [each.stream for each in found])


# What comes after the first release, or with another issue: by section and key.
NOT_YET = {
    ("Listener", "tls"): [listener("tls: {}"), listener("tls:"), listener("tls: {alpn: [h2]}")],
    ("Route", "cache"): [routes("upstream: u, cache: {}")],
    ("Route", "auth"): [routes("upstream: u, auth: {}")],
    ("Route", "cors"): [routes("upstream: u, cors: {}")],
    ("Route", "compress"): [routes("upstream: u, compress: {}")],
    ("Upstream", "tls"): [upstream("tls: {}")],
}
# Values of keys that are there already.
NOT_YET_VALUES = {
    "f:5:15: listeners.web.protocol: tcp is not yet supported": listener("protocol: tcp"),
    "f:5:15: upstreams.u.protocol: h2 is not yet supported": upstream("protocol: h2"),
    "f:5:15: upstreams.u.protocol: auto is not yet supported": upstream("protocol: auto"),
    "f:4:58: routes[0].rate_limit.key: api_key is not yet supported": routes(
        "upstream: u, rate_limit: {rate: 1/s, key: api_key}"
    ),
    "f:4:60: routes[0].rate_limit.store: redis is not yet supported": routes(
        "upstream: u, rate_limit: {rate: 1/s, store: redis}"
    ),
}


class NotYet(SynchronousTestCase):
    """A key whose function is not there is refused when written, and never when not."""

    maxDiff = None

    def test_keys(self) -> None:
        """Whatever they say, `not yet supported` and no other word."""
        for (_, name), documents in NOT_YET.items():
            for text in documents:
                (problem,) = wrong(text)
                self.assertTrue(problem.endswith(f"{name}: not yet supported"), problem)

    def test_values(self) -> None:
        """Named, so that nobody looks for a typing error."""
        self.assertEqual(
            {line: [line] for line in NOT_YET_VALUES},
            {line: wrong(text) for line, text in NOT_YET_VALUES.items()},
        )

    def test_there_are_no_others(self) -> None:
        """The schema's own marks are the ones above."""
        marked = {
            (section.__name__, declared.name)
            for section in vars(schema).values()
            if dataclasses.is_dataclass(section) and isinstance(section, type)
            for declared in dataclasses.fields(section)
            if declared.metadata["kind"] is LATER
        }
        self.assertEqual(set(NOT_YET), marked)


def warnings(text: str) -> list[str]:
    """What `gatewayd check` warns of."""
    return [problem.show("f") for problem in fine(text).warnings]


class Lint(SynchronousTestCase):
    """What is legal and surely not meant."""

    maxDiff = None

    def test_nothing_to_say(self) -> None:
        """Of the shortest file, nor of the examples but for what they do not serve."""
        self.assertEqual([], warnings(BASE))
        self.assertEqual([], warnings(EXAMPLES))

    def test_hidden_routes(self) -> None:
        """Behind the same path, behind everything at a higher priority; not behind conditions."""
        text = routes(
            "upstream: u, match: {path: /a, methods: [GET]}",
            "upstream: u, match: {path: /a}",
            "upstream: u, match: {path: /a}",
            "upstream: u, match: {path: /b}",
            "upstream: u, match: {path_prefix: /c}, priority: 1",
            "upstream: u, match: {path: /c/d}",
            "upstream: u, match: {hosts: [x.example], path: /a}",
        )
        never = "can never match on listener web"
        self.assertEqual(
            [
                f"f:6:5: routes[2]: warning: {never}: r1 always comes first",
                f"f:9:5: routes[5]: warning: {never}: r4 always comes first",
            ],
            warnings(text),
        )

    def test_a_hidden_route_of_one_listener(self) -> None:
        """Each listener has its own routes."""
        listeners = "listeners: {a: {address: h:1}, b: {address: h:2}}\n"
        text = routes("upstream: u, listeners: [a]", "upstream: u").replace(LISTENERS, listeners)
        self.assertEqual(
            ["f:5:5: routes[1]: warning: can never match on listener a: r0 always comes first"],
            warnings(text),
        )

    def test_a_request_timeout_below_the_connect_timeout(self) -> None:
        """Of any upstream of a split; 0 is never, on both sides."""
        slow = (
            "upstreams: {u: {endpoints: [h:1], timeouts: {connect: 3s}}, v: {endpoints: [h:1]}}\n"
        )

        def found(entry: str) -> list[str]:
            return warnings(routes(entry).replace(UPSTREAMS, slow))

        def line(column: int, name: str) -> str:
            return (
                f"f:4:{column}: routes[0].timeouts.request: warning: shorter than upstream {name}'s "
                "timeouts.connect: that can never be reached"
            )

        split = "upstream: {u: 1, v: 1}, timeouts: {request: %s}"
        self.assertEqual([line(51, "v")], found(split % "4s"))
        self.assertEqual([line(51, "u"), line(51, "v")], found(split % "2s"))
        self.assertEqual([], found(split % "5s"))
        self.assertEqual([], found(split % "0"))

    def test_an_upstream_that_nobody_uses(self) -> None:
        """Beside those of routes and splits."""
        upstreams = (
            "upstreams: {u: {endpoints: [h:1]}, v: {endpoints: [h:1]}, w: {endpoints: [h:1]}}\n"
        )
        text = routes("upstream: u", "upstream: {v: 1}, match: {path: /v}")
        self.assertEqual(
            ["f:2:59: upstreams.w: warning: no route leads here"],
            warnings(text.replace(UPSTREAMS, upstreams)),
        )

    def test_a_listener_without_routes(self) -> None:
        """It answers 404 to all."""
        listeners = "listeners: {a: {address: h:1}, b: {address: h:2}}\n"
        text = routes("upstream: u, listeners: [a]").replace(LISTENERS, listeners)
        self.assertEqual(
            ["f:1:32: listeners.b: warning: no route is for this listener: it answers 404 to all"],
            warnings(text),
        )

    def test_many_conditions(self) -> None:
        """Those of one host are tried in order; over 50 of them it is said what that costs."""
        tried = [f"upstream: u, match: {{path_regex: ^/{n}x}}" for n in range(50)]
        self.assertEqual([], warnings(routes(*tried)))
        tried.append("upstream: u, match: {hosts: [x.example], path_regex: ^/y}")
        self.assertEqual([], warnings(routes(*tried)))
        tried.append("upstream: u, match: {path: /z, headers: {a: b}}")
        self.assertEqual(
            [
                "f:3:1: routes: warning: 51 regexes and conditions are tried in order for any host "
                "on listener web: each costs time with every request"
            ],
            warnings(routes(*tried)),
        )

    def test_heads_smaller_than_browsers_send(self) -> None:
        """Under 1 KiB."""
        self.assertEqual(
            [
                "f:5:14: listeners.web.limits.max_header_bytes: warning: "
                "under 1KiB most browsers are refused"
            ],
            warnings(listener("limits: {max_header_bytes: 1023}")),
        )
        self.assertEqual([], warnings(listener("limits: {max_header_bytes: 1024}")))

    def test_warnings_come_by_place(self) -> None:
        """As errors do."""
        upstreams = (
            "upstreams: {z: {endpoints: [h:1]}, u: {endpoints: [h:1]}, a: {endpoints: [h:1]}}\n"
        )
        found = warnings(routes("upstream: u", "upstream: u").replace(UPSTREAMS, upstreams))
        self.assertEqual(
            ["upstreams.z", "upstreams.a", "routes[1]"], [line.split(": ")[1] for line in found]
        )


class Files(SynchronousTestCase):
    """What a configuration points to."""

    def write(self, data: str | bytes) -> str:
        """A file of this text; its path."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = Path(directory.name, "file")
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    def problem(self, file: str) -> str:
        """What is wrong with a file, without its name."""
        error = self.assertRaises(ConfigError, load, file)
        (problem,) = error.problems
        self.assertEqual(
            f"{file}:{problem.place.line}:{problem.place.column}: {problem.message}", str(error)
        )
        return problem.message

    def test_loaded(self) -> None:
        """A file, with its name and the process's environment."""
        file = self.write(BASE + "drain_delay: ${D}s\n")
        loaded = load(file, {"D": "3"})
        self.assertEqual((file, 3.0), (loaded.file, loaded.config.drain_delay))

    def test_unreadable(self) -> None:
        """In the system's words."""
        self.assertEqual("cannot be read: No such file or directory", self.problem("/no/such"))
        self.assertEqual("cannot be read: Is a directory", self.problem("/"))
        self.assertEqual(
            "cannot be read: it is not UTF-8 at byte 3", self.problem(self.write(b"a: \xff"))
        )

    def test_too_large(self) -> None:
        """Nobody's configuration is."""
        self.patch(loader, "_MAX_FILE", 100)
        self.assertEqual("cannot be read: it is over 16 MiB", self.problem(self.write("#" * 101)))

    def test_a_secret_from_a_file(self) -> None:
        """It serves, and is shown by nobody."""
        secret = self.write("s3cret\n")
        text = (
            BASE
            + "admin: {token: '${file:PATH}'}\nroutes: [{name: r, upstream: u, request_headers: "
        )
        text += "{set: {X-Api-Key: '${file:PATH}', X-Env: '${E}', X-Plain: p}}}]\n"
        loaded = load(self.write(text.replace("PATH", secret)), {"E": "from the environment"})
        self.assertEqual("s3cret", loaded.config.admin.token)
        self.assertEqual(
            {"X-Api-Key": "s3cret", "X-Env": "from the environment", "X-Plain": "p"},
            loaded.config.routes[0].request_headers.set,
        )
        shown = loaded.shown()
        self.assertEqual("***", shown["admin"]["token"])
        self.assertEqual(
            {"X-Api-Key": "***", "X-Env": "${E}", "X-Plain": "p"},
            shown["routes"][0]["request_headers"]["set"],
        )

    def test_digest(self) -> None:
        """It changes with the text and with what is filled in, and with nothing else."""
        text = BASE + "drain_delay: ${D}\n"
        one = fine(text, {"D": "1s", "X": "1"})
        again = fine(text, {"D": "1s", "X": "2"})
        other = fine(text, {"D": "2s", "X": "1"})
        self.assertEqual(one.digest, again.digest)
        self.assertNotEqual(one.digest, other.digest)
        self.assertNotEqual(one.digest, fine(text + "# changed\n", {"D": "1s"}).digest)
        self.assertRegex(one.digest, r"^[0-9a-f]{16}$")
