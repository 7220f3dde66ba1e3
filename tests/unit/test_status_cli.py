"""cli: what `gatewayd status` and `gatewayd explain` print, to the letter."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from twisted.trial.unittest import SynchronousTestCase

from gatewayd import cli
from gatewayd.cli import explained, main, status_table
from gatewayd.proxy.explain import explain
from gatewayd.status import status_of
from tests.unit.assembled import Assembled
from tests.unit.config_cases import BASE

STATUS = """
listeners:
  web: {address: 0.0.0.0:2000}
  internal: {address: unix:/run/gatewayd/in.sock, limits: {max_connections: 0}}
routes: [{name: r, upstream: users}]
upstreams:
  users:
    endpoints: [127.0.0.1:2003, {address: "127.0.0.1:2004", weight: 3}, "[::1]:2005"]
    balancer: least_connections
  canary:
    endpoints: [canary.example:80]
"""
TABLE = """\
gatewayd 0.1.0, pid 4711, up 2d 3h
configuration /etc/gatewayd/gatewayd.yaml (0123456789abcdef)

LISTENER  ADDRESS                     CLIENTS  OF     ACCEPTED
web       0.0.0.0:2000                7        10000  1234      accepting is paused
internal  unix:/run/gatewayd/in.sock  0        any    0

upstream users (least_connections): last 4: mean 26.5 ms, p50 2.0 ms, p90 100.0 ms, p99 100.0 ms, max 100.0 ms
  connections 5, idle 2, reused 90.0%, waiting 1
  ENDPOINT        WEIGHT  STATE      SOURCE  IN FLIGHT  PICKS  ERRORS
  127.0.0.1:2003  1       unchecked  static  2          40     connect_failed=1 reset=2
  127.0.0.1:2004  3       ejected    static  0          120    -
  [::1]:2005      1       unchecked  static  0          0      -

upstream canary (round_robin): no response yet
  connections 0, idle 0, reused -, waiting 0, NO MEMBERS YET
  ENDPOINT  WEIGHT  STATE  SOURCE  IN FLIGHT  PICKS  ERRORS"""


class Status(SynchronousTestCase):
    """`gatewayd status`."""

    maxDiff = None

    def found(self) -> dict[str, Any]:
        """/status of a gateway that has been busy, through JSON as over the wire."""
        gateway = Assembled(STATUS)
        web = gateway.listeners["web"].counters
        web.open, web.accepted, web.paused = 7, 1234, True
        users = gateway.upstreams["users"]
        users.counters.pending = 1
        for seconds in (0.002, 0.001, 0.003, 0.1):
            users.counters.window.add(seconds)
        ledger = users.pool.ledger
        ledger.open, ledger.idle, ledger.hits, ledger.misses = 5, 2, 90, 10
        first, second, _ = users.endpoints
        first.in_flight, first.picks, first.errors = 2, 40, {"connect_failed": 1, "reset": 2}
        second.picks, second.state = 120, "ejected"
        shown = {
            "version": "0.1.0",
            "pid": 4711,
            "uptime": 2 * 86400 + 3 * 3600 + 59.9,
            "workers": 1,
            "draining": False,
            "config": {"file": "/etc/gatewayd/gatewayd.yaml", "digest": "0123456789abcdef"},
            **status_of(gateway.listeners.values(), gateway.upstreams.values(), None, 9.0),
        }
        document: dict[str, Any] = json.loads(json.dumps(shown))
        return document

    def test_table(self) -> None:
        """Columns as wide as they must be, nothing behind the last word of a line."""
        self.assertEqual(TABLE, status_table(self.found()))

    def test_draining(self) -> None:
        """It is in the first line."""
        first = status_table({**self.found(), "draining": True}).partition("\n")[0]
        self.assertEqual("gatewayd 0.1.0, pid 4711, up 2d 3h, draining", first)

    def test_ages(self) -> None:
        """The two largest units."""
        self.assertEqual(
            ["0s", "0s", "59s", "1m", "1m 1s", "1h", "1h 1m", "1d", "1d 23h"],
            [cli._age(s) for s in (0, 0.9, 59.9, 60, 61, 3600, 3661, 86400, 86400 * 2 - 1)],
        )

    def test_what_it_is_made_of(self) -> None:
        """The JSON's window has names and seconds; an upstream without answers has none."""
        upstreams = self.found()["upstreams"]
        self.assertEqual(
            {
                "count": 4,
                "min": 0.001,
                "mean": 0.0265,
                "max": 0.1,
                "p50": 0.002,
                "p90": 0.1,
                "p99": 0.1,
            },
            upstreams["users"]["response_times"],
        )
        self.assertEqual(
            (None, False, None, []),
            tuple(
                upstreams["canary"][key]
                for key in ("response_times", "known", "membership_age", "endpoints")
            ),
        )
        self.assertEqual(9.0, upstreams["users"]["membership_age"])
        self.assertEqual(
            {
                "address": "127.0.0.1:2004",
                "name": "127.0.0.1:2004",
                "weight": 3,
                "state": "ejected",
                "source": "static",
                "in_flight": 0,
                "picks": 120,
                "errors": {},
            },
            upstreams["users"]["endpoints"][1],
        )


ROUTES = """
listeners:
  web: {address: 0.0.0.0:2000, trusted_proxies: [10.0.0.0/8]}
  admin: {address: 127.0.0.1:2001}
routes:
  - name: api
    listeners: [web]
    match: {hosts: [api.example.com], path_prefix: /api, methods: [GET]}
    rewrite: {strip_prefix: /api}
    upstream: {users: 95, canary: 5}
  - name: posts
    match: {path_prefix: /api, methods: [POST]}
    upstream: users
  - name: secret
    match: {path_prefix: /secret}
    allow: [192.168.0.0/16]
    upstream: users
  - name: sticky
    match: {path_prefix: /sticky, headers: {x-canary: "yes"}}
    upstream: sticky
  - name: moved
    match: {path_prefix: /old, scheme: http}
    redirect: {to: "https://{host}{path}{query}", status: 301}
  - name: bad
    match: {path_prefix: /up}
    rewrite: {regex: ^/up, replace: /..}
    upstream: users
  - name: teapot
    match: {path: /teapot}
    respond: {status: 418, body: short}
upstreams:
  users:
    endpoints: [127.0.0.1:2003, {address: "127.0.0.1:2004", weight: 3}, {address: "127.0.0.1:9", weight: 0}]
    base_path: /v2
  canary: {endpoints: [127.0.0.1:2005]}
  sticky: {endpoints: [127.0.0.1:2003, 127.0.0.1:2004], balancer: consistent_hash, hash_key: "cookie:id"}
"""
# A question, and the sentences that answer it.
EXPLAINED = {
    ("GET", "http://api.example.com/api/x?q=1"): """\
listener   web (0.0.0.0:2000)
request    GET http://api.example.com/api/x?q=1 from 127.0.0.1
route      api
             not posts: its methods do not include this one
             not secret: its path is /secret
             not sticky: its path is /sticky
             not moved: its path is /old
             not bad: its path is /up
             not teapot: its path is /teapot
path       /v2/x (was /api/x)
split      95.0% to users
split      5.0% to canary
upstream   users (round_robin)
endpoint     127.0.0.1:2004  75.0%
endpoint     127.0.0.1:2003  25.0%
             not 127.0.0.1:9: weight 0, unchecked
upstream   canary (round_robin)
endpoint     127.0.0.1:2005  100.0%""",
    ("POST", "/api"): """\
listener   web (0.0.0.0:2000)
request    POST http://localhost/api from 127.0.0.1
route      posts
             not api: its hosts are api.example.com
             not secret: its path is /secret
             not sticky: its path is /sticky
             not moved: its path is /old
             not bad: its path is /up
             not teapot: its path is /teapot
path       /v2/api (was /api)
upstream   users (round_robin)
endpoint     127.0.0.1:2004  75.0%
endpoint     127.0.0.1:2003  25.0%
             not 127.0.0.1:9: weight 0, unchecked""",
    ("GET", "/secret"): """\
listener   web (0.0.0.0:2000)
request    GET http://localhost/secret from 127.0.0.1
route      secret
             not api: its hosts are api.example.com
             not posts: its path is /api
             not sticky: its path is /sticky
             not moved: its path is /old
             not bad: its path is /up
             not teapot: its path is /teapot
answer     403 denied: 127.0.0.1 is not among those allowed""",
    ("GET", "/old/%7Ex?q", "--listener", "admin"): """\
listener   admin (127.0.0.1:2001)
request    GET http://localhost/old/~x?q from 127.0.0.1
route      moved
             not posts: its path is /api
             not secret: its path is /secret
             not sticky: its path is /sticky
             not bad: its path is /up
             not teapot: its path is /teapot
redirect   301 to https://localhost/old/~x?q""",
    ("GET", "https://h/old", "--client", "10.1.2.3"): """\
listener   web (0.0.0.0:2000)
request    GET https://h/old from 10.1.2.3
route      none
             not api: its hosts are api.example.com
             not posts: its path is /api
             not secret: its path is /secret
             not sticky: its path is /sticky
             not moved: it is for http only
             not bad: its path is /up
             not teapot: its path is /teapot
answer     404 no_route""",
    ("PUT", "/api"): """\
listener   web (0.0.0.0:2000)
request    PUT http://localhost/api from 127.0.0.1
route      none
             not api: its hosts are api.example.com
             not posts: its methods do not include this one
             not secret: its path is /secret
             not sticky: its path is /sticky
             not moved: its path is /old
             not bad: its path is /up
             not teapot: its path is /teapot
answer     405 no_method: allowed here: POST""",
    ("GET", "/up/x", "--listener", "admin"): """\
listener   admin (127.0.0.1:2001)
request    GET http://localhost/up/x from 127.0.0.1
route      bad
             not posts: its path is /api
             not secret: its path is /secret
             not sticky: its path is /sticky
             not moved: its path is /old
             not teapot: its path is /teapot
answer     500 bad_rewrite: the rewritten path is none: the path leads above the root""",
    ("GET", "/teapot", "--listener", "admin"): """\
listener   admin (127.0.0.1:2001)
request    GET http://localhost/teapot from 127.0.0.1
route      teapot
             not posts: its path is /api
             not secret: its path is /secret
             not sticky: its path is /sticky
             not moved: its path is /old
             not bad: its path is /up
respond    418""",
    ("GET", "/../x"): """\
listener   web (0.0.0.0:2000)
route      none
answer     400 bad_request: the path leads above the root""",
}


class Explain(SynchronousTestCase):
    """`gatewayd explain`."""

    maxDiff = None

    def setUp(self) -> None:
        self.gateway = Assembled(ROUTES)

    def explain(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        """/explain of a question, through JSON as over the wire."""
        found = explain(
            self.gateway.listeners,
            method,
            url,
            more.get("headers", []),
            more.get("listener", ""),
            more.get("client", ""),
        )
        document: dict[str, Any] = json.loads(json.dumps(found))
        return document

    def ask(self, options: Any, method: str, path: str) -> tuple[int, bytes]:
        """Stands for cli.ask: the admin interface's answer."""
        asked = parse_qs(urlsplit(path).query, keep_blank_values=True)
        found = self.explain(
            asked["method"][0],
            asked["url"][0],
            headers=asked.get("header", []),
            listener=asked["listener"][0],
            client=asked["client"][0],
        )
        return 200, json.dumps(found).encode()

    def command(self, *arguments: str) -> tuple[int, str]:
        """The exit code, and what is printed."""
        self.patch(cli, "ask", self.ask)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = main(["explain", *arguments])
        return code, printed.getvalue().rstrip("\n")

    def test_sentences(self) -> None:
        """Each question's answer, from the configuration to the letter."""
        self.assertEqual(
            EXPLAINED, {question: self.command(*question)[1] for question in EXPLAINED}
        )

    def test_exit_codes(self) -> None:
        """0 a route, 2 none, 1 anything else."""
        self.assertEqual(
            {
                ("GET", "http://api.example.com/api/x?q=1"): 0,
                ("POST", "/api"): 0,
                ("GET", "/secret"): 0,
                ("GET", "/old/%7Ex?q", "--listener", "admin"): 0,
                ("GET", "https://h/old", "--client", "10.1.2.3"): 2,
                ("PUT", "/api"): 2,
                ("GET", "/up/x", "--listener", "admin"): 0,
                ("GET", "/teapot", "--listener", "admin"): 0,
                ("GET", "/../x"): 1,
            },
            {question: self.command(*question)[0] for question in EXPLAINED},
        )

    def test_json(self) -> None:
        """As the admin interface said it."""
        code, printed = self.command("get", "/teapot", "--json")
        self.assertEqual((0, self.explain("GET", "/teapot")), (code, json.loads(printed)))

    def test_the_very_endpoint(self) -> None:
        """consistent_hash is asked with the request's key; without one all may be."""
        headers = ["X-Canary: yes", "Cookie: id=ann"]
        _, printed = self.command("GET", "/sticky", "-H", headers[0], "-H", headers[1])
        *_, upstream, endpoint = printed.splitlines()
        self.assertEqual("upstream   sticky (consistent_hash)", upstream)
        picked: Any = self.gateway.upstreams["sticky"].pick(b"ann")
        self.assertEqual(f"endpoint     {picked.label}  100.0%", endpoint)
        _, printed = self.command("GET", "/sticky", "-H", headers[0])
        self.assertEqual(
            ["endpoint     127.0.0.1:2003  50.0%", "endpoint     127.0.0.1:2004  50.0%"],
            printed.splitlines()[-2:],
        )

    def test_nothing_is_picked_or_counted(self) -> None:
        """However often it is asked."""
        for question in EXPLAINED:
            self.command(*question)
        endpoints = [e for u in self.gateway.upstreams.values() for e in u.endpoints]
        self.assertEqual({(0, 0)}, {(each.picks, each.in_flight) for each in endpoints})
        counters = self.gateway.context.counters
        self.assertEqual(({}, {}), (counters.exchanges, counters.answers))

    def test_trusted_clients(self) -> None:
        """What a trusted proxy says of its client is believed, what others say is not."""
        said = ["X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https"]
        for client, expected in (
            ("10.1.1.1", "https://h/teapot from 192.0.2.9"),
            ("192.0.2.1", "http://h/teapot from 192.0.2.1"),
        ):
            found = self.explain("GET", "http://h/teapot", headers=said, client=client)
            self.assertEqual(f"request    GET {expected}", explained(found).splitlines()[1])

    def test_many(self) -> None:
        """Twenty are named, the others counted."""
        endpoints = ", ".join(f"10.0.0.{n}:80" for n in range(30))
        routes = "\n".join(
            f"  - {{name: r{n}, match: {{path: /{n}}}, upstream: u}}" for n in range(30)
        )
        text = BASE.replace("[127.0.0.1:1]", f"[{endpoints}]") + f"routes:\n{routes}\n"
        self.gateway = Assembled(text)
        lines = explained(self.explain("GET", "/29")).splitlines()
        self.assertEqual(
            ["             not r19: its path is /19", "             and 9 more"], lines[22:24]
        )
        self.assertEqual("             and 10 more", lines[-1])
        self.assertEqual(20, sum(line.startswith("endpoint ") for line in lines))

    def test_questions_that_make_no_sense(self) -> None:
        """Each is told why."""
        questions: dict[str, dict[str, Any]] = {
            "write a URL such as https://api.example.com/v1/x, or a path": {"url": "ftp://h/x"},
            "no listener is called 'wob'; there are web, admin": {"url": "/", "listener": "wob"},
            "'nobody' is no IP address": {"url": "/", "client": "nobody"},
            "Port out of range 0-65535": {"url": "http://h:99999/"},
        }
        for message, question in questions.items():
            error = self.assertRaises(ValueError, self.explain, "GET", **question)
            self.assertEqual(message, str(error))
        for url in ("x", "api.example.com/x", ""):
            self.assertRaises(ValueError, self.explain, "GET", url)

    def test_the_asterisk(self) -> None:
        """OPTIONS *, as a client may ask."""
        found = self.explain("OPTIONS", "*")
        self.assertEqual("*", found["request"]["path"])


class Talking(SynchronousTestCase):
    """What the commands say when the gateway says no."""

    def command(self, status: int, body: bytes, *arguments: str) -> tuple[int, str]:
        """The exit code and stderr, the admin interface having answered so."""
        self.patch(cli, "ask", lambda options, method, path: (status, body))
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = main(list(arguments))
        return code, said.getvalue()

    def test_refused(self) -> None:
        """Exit 1 with its words."""
        self.assertEqual(
            (1, "gatewayd: the gateway answered 500: oh\n"), self.command(500, b"oh\n", "status")
        )
        self.assertEqual(
            (1, "gatewayd: write a URL\n"),
            self.command(400, b"write a URL\n", "explain", "GET", "x"),
        )

    def test_status(self) -> None:
        """The table, or everything."""
        found = Status("test_table").found()
        document = json.dumps(found).encode()
        self.assertEqual((0, TABLE + "\n"), self.command(200, document, "status"))
        code, printed = self.command(200, document, "status", "--json")
        self.assertEqual((0, found), (code, json.loads(printed)))
