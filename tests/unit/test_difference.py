"""config.difference: what a reload would do, by name; and how many workers a file may ask for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.config.difference import changed_keys, difference, refused
from gatewayd.config.document import ConfigError
from gatewayd.config.schema import AUTO, WorkerRange
from tests.unit.config_cases import BASE, fine, wrong

FILE = """
listeners:
  web: {address: 127.0.0.1:2000}
  internal: {address: 127.0.0.1:2001}
routes:
  - {name: api, match: {path_prefix: /api}, upstream: users}
  - {name: rest, upstream: users}
upstreams:
  users: {endpoints: [127.0.0.1:1]}
  canary: {endpoints: [127.0.0.1:2]}
zookeeper: {hosts: "zk:2181"}
admin: {address: 127.0.0.1:9901}
"""

# What of FILE is replaced by what, and what is said of it.
TABLE: list[tuple[str, str, list[str]]] = [
    ("no such thing", "drain_delay: 0s", []),
    ("no such thing", "drain_delay: 9s", ["drain_delay: changed: at the next stop"]),
    (
        "web: {address: 127.0.0.1:2000}",
        "web: {address: 127.0.0.1:2000, limits: {max_connections: 7}}",
        ["listener web: changed limits.max_connections: its socket and its clients stay"],
    ),
    (
        "web: {address: 127.0.0.1:2000}",
        "web: {address: 127.0.0.1:2002}",
        [
            "listener web: changed address: listens on 127.0.0.1:2002; closes 127.0.0.1:2000; "
            "its clients finish what they began"
        ],
    ),
    (
        "internal: {address: 127.0.0.1:2001}",
        "",
        ["listener internal: removed: closes 127.0.0.1:2001; its clients finish what they began"],
    ),
    (
        "internal: {address: 127.0.0.1:2001}",
        "private: {address: 127.0.0.1:2001}",
        [
            "listener internal: removed: hands its socket on; its clients finish what they began",
            "listener private: added: on the socket of internal",
        ],
    ),
    (
        "internal: {address: 127.0.0.1:2001}",
        "internal: {address: 127.0.0.1:2001}\n  more: {address: 127.0.0.1:2003}",
        ["listener more: added: opens 127.0.0.1:2003"],
    ),
    (
        "- {name: api, match: {path_prefix: /api}, upstream: users}",
        "- {name: api, match: {path_prefix: /api}, upstream: canary, priority: 3}",
        [
            "route api: changed priority, upstream: from the next request on; buckets, budgets and "
            "counts stay"
        ],
    ),
    (
        "- {name: rest, upstream: users}",
        "",
        ["route rest: removed: what it serves goes on to its end"],
    ),
    (
        "- {name: rest, upstream: users}",
        "- {name: rest, upstream: users}\n  - {name: last, upstream: canary}",
        ["route last: added: from the next request on"],
    ),
    (
        "canary: {endpoints: [127.0.0.1:2]}",
        "",
        ["upstream canary: removed: its idle connections close, busy ones when they are done"],
    ),
    (
        "canary: {endpoints: [127.0.0.1:2]}",
        "canary: {endpoints: [127.0.0.1:2]}\n  more: {endpoints: [127.0.0.1:3]}",
        ["upstream more: added: with a pool of its own"],
    ),
    (
        "canary: {endpoints: [127.0.0.1:2]}",
        "canary: {endpoints: [127.0.0.1:3], pool: {max_idle: 3}}",
        ["upstream canary: changed endpoints, pool.max_idle: members, health and connections stay"],
    ),
    (
        "canary: {endpoints: [127.0.0.1:2]}",
        "canary: {endpoints: [127.0.0.1:2], timeouts: {connect: 1s}}",
        [
            "upstream canary: changed timeouts.connect: members and health stay; idle connections "
            "close, busy ones when they are done"
        ],
    ),
    (
        "canary: {endpoints: [127.0.0.1:2]}",
        "canary: {endpoints: [127.0.0.1:2], max_header_bytes: 9KiB}",
        [
            "upstream canary: changed max_header_bytes: members and health stay; idle connections "
            "close, busy ones when they are done"
        ],
    ),
    (
        'zookeeper: {hosts: "zk:2181"}',
        'zookeeper: {hosts: "zk:2182"}',
        ["zookeeper: changed hosts: a new session; members stay"],
    ),
    (
        'zookeeper: {hosts: "zk:2181"}',
        "",
        ["zookeeper: changed: a new session; members stay"],
    ),
    (
        'zookeeper: {hosts: "zk:2181"}',
        'zookeeper: {hosts: "zk:2181"}\nlogging: {access: {format: json}, level: debug}',
        ["logging: changed level, access.format: from the next line on"],
    ),
]


def said(old: str, new: str) -> list[str]:
    """The changes as people read them."""
    return list(map(str, difference(fine(old).config, fine(new).config)))


class Differences(SynchronousTestCase):
    """The plan of a reload."""

    maxDiff = None

    def test_table(self) -> None:
        """Each thing by its name, with its keys and what becomes of clients."""
        for old, new, expected in TABLE:
            changed = FILE.replace(old, new) if old in FILE else FILE + new + "\n"
            self.assertEqual(expected, said(FILE, changed), new)

    def test_what_means_the_same(self) -> None:
        """Comments, order of keys, units, defaults that are written out: nothing."""
        same = """
# another hand
admin:
    address: "127.0.0.1:9901"
zookeeper: {hosts: "zk:2181"}
upstreams:
    canary: {endpoints: [{address: 127.0.0.1:2}], timeouts: {connect: 5000ms}}
    users: {balancer: round_robin, endpoints: ["127.0.0.1:1"]}
routes:
- name: api
  upstream: users
  match:
    path_prefix: /api
- {upstream: users, name: rest}
listeners:
    internal: {address: 127.0.0.1:2001}
    web: {address: 127.0.0.1:2000}
workers: 1
"""
        changes = said(FILE, same)
        # A weight that is written out is another entry, though it means the same.
        self.assertEqual(
            ["upstream canary: changed endpoints: members, health and connections stay"],
            changes,
        )
        same = same.replace("{address: 127.0.0.1:2}", "127.0.0.1:2")
        self.assertEqual(([], []), (said(FILE, same), said(same, FILE)))

    def test_order_of_routes(self) -> None:
        """Of two that match the first wins, so it counts."""
        one, other = [line for line in FILE.splitlines() if "- {name" in line]
        swapped = FILE.replace(one, "?").replace(other, one).replace("?", other)
        self.assertEqual(["routes: changed order: from the next request on"], said(FILE, swapped))

    def test_order_and_more(self) -> None:
        """Also where another thing changes beside it."""
        one, other = [line for line in FILE.splitlines() if "- {name" in line]
        swapped = FILE.replace(one, "?").replace(other, one).replace("?", other)
        changes = said(FILE, swapped + "drain_delay: 9s\n")
        self.assertEqual(
            [
                "routes: changed order: from the next request on",
                "drain_delay: changed: at the next stop",
            ],
            changes,
        )

    def test_there_and_back(self) -> None:
        """What one direction changes the other changes too; what it adds, the other removes."""
        turned = {"added": "removed", "removed": "added", "changed": "changed"}
        for old, new, _ in TABLE:
            changed = FILE.replace(old, new) if old in FILE else FILE + new + "\n"
            was, now = fine(FILE).config, fine(changed).config
            there = {(each.what, each.name, each.change) for each in difference(was, now)}
            back = {(each.what, each.name, turned[each.change]) for each in difference(now, was)}
            self.assertEqual(there, back, new)

    def test_as_json(self) -> None:
        """A list of keys, also where there are none."""
        (change,) = difference(
            fine(FILE).config, fine(FILE.replace("path_prefix: /api", "path_prefix: /v2")).config
        )
        self.assertEqual(
            {
                "what": "route",
                "name": "api",
                "change": "changed",
                "keys": ["match.path_prefix"],
                "effect": "from the next request on; buckets, budgets and counts stay",
            },
            change.shown(),
        )


class Refused(SynchronousTestCase):
    """What only the start of a process can do."""

    def test_table(self) -> None:
        """Key by key; the same value in other words is no change."""
        for old, new, expected in (
            ("", "workers: 1\n", []),
            ("workers: 2\n", "workers: 3\n", ["workers"]),
            ("workers: auto\n", "workers: auto\n", []),
            ("workers: auto\n", "workers: 1\n", ["workers"]),
            ("workers: {min: 1, max: 2}\n", "workers: {max: 3}\n", ["workers"]),
            ("workers: {min: 1, max: 2}\n", "workers: {max: 2}\n", []),
            (
                "admin: {address: 127.0.0.1:9}\n",
                "admin: {address: 127.0.0.1:8}\n",
                ["admin.address"],
            ),
            ("", "drain_delay: 1s\n", []),
        ):
            found = refused(fine(BASE + old).config, fine(BASE + new).config)
            self.assertEqual(expected, [each.split()[0] for each in found], new)
            self.assertTrue(all("gatewayd upgrade" in each for each in found))

    def test_keys(self) -> None:
        """Of values that are no sections, the whole key."""
        old, new = fine(BASE).config, fine(BASE + "drain_delay: 1s\n").config
        self.assertEqual(["drain_delay"], list(changed_keys(old, new)))
        self.assertEqual([], list(changed_keys(old, old)))
        self.assertEqual(["a"], list(changed_keys(1, 2, "a")))


class Workers(SynchronousTestCase):
    """How many processes a file asks for."""

    def test_read(self) -> None:
        """A number, as many as there are cores, or a range."""
        for text, expected in (
            ("", 1),
            ("workers: 1\n", 1),
            ("workers: 1024\n", 1024),
            ("workers: auto\n", AUTO),
            ("workers: {}\n", WorkerRange(min=1, max=AUTO)),
            ("workers: {min: 2}\n", WorkerRange(min=2, max=AUTO)),
            ("workers: {min: 2, max: 2}\n", WorkerRange(min=2, max=2)),
            ("workers: {min: auto, max: auto}\n", WorkerRange(min=AUTO, max=AUTO)),
            ("workers: {max: auto}\n", WorkerRange(min=1, max=AUTO)),
        ):
            self.assertEqual(expected, fine(BASE + text).config.workers, text)

    def test_refused(self) -> None:
        """Out of range, another word, or a range that is none."""
        for value in ("0", "1025", "-1", "1.5", "many", "[1]", "{min: 0}", "{max: no}", "{mni: 1}"):
            self.assertRaises(ConfigError, fine, BASE + f"workers: {value}\n")
        self.assertEqual(
            1, sum("workers.min: is more than max, 2" in line for line in self.range(3, 2))
        )
        self.assertEqual([], self.range(2, 2))

    def range(self, least: int, most: int) -> list[str]:
        """What is said of it."""
        return wrong(BASE + f"workers: {{min: {least}, max: {most}}}\n")

    def test_shown(self) -> None:
        """As they are written."""
        for value in (3, "auto", {"min": 1, "max": "auto"}, {"min": 2, "max": 4}):
            text = str(value).replace("'", "")
            shown = fine(BASE + f"workers: {text}\n").shown()
            self.assertEqual(value, shown["workers"])
