"""Configurations for tests: short ones, complete ones, and wrong ones with what is said of them."""

from __future__ import annotations

from collections.abc import Mapping

from gatewayd.config.document import ConfigError
from gatewayd.config.loader import Loaded, parse

LISTENERS = "listeners: {web: {address: 127.0.0.1:2000}}\n"
UPSTREAMS = "upstreams: {u: {endpoints: [127.0.0.1:1]}}\n"
BASE = LISTENERS + UPSTREAMS
ENVIRON = {"WORD": "word", "EMPTY": ""}


def lines(form: str, *values: str, numbered: bool = True) -> str:
    """A line for each value."""
    made = [form.format(*((n, value) if numbered else (value,))) for n, value in enumerate(values)]
    return "".join(f"{line}\n" for line in made)


def keys(**values: object) -> list[str]:
    """Keys below a section, a line each."""
    return [f"  {name}: {value}" for name, value in values.items()]


def listener(*more: str) -> str:
    """A document whose listener has more keys, from line 5 on."""
    head = UPSTREAMS + "listeners:\n  web:\n    address: 127.0.0.1:2000\n"
    return head + "".join(f"    {line}\n" for line in more)


def upstream(*more: str) -> str:
    """A document whose upstream has more keys, from line 5 on."""
    head = LISTENERS + "upstreams:\n  u:\n    endpoints: [127.0.0.1:1]\n"
    return head + "".join(f"    {line}\n" for line in more)


def routes(*entries: str) -> str:
    """A document with routes r0, r1, …, from line 4 on."""
    made = [f"  - {{name: r{n}, {entry}}}\n" for n, entry in enumerate(entries)]
    return BASE + "routes:\n" + "".join(made)


def read_file(name: str) -> str:
    """There is none."""
    raise FileNotFoundError(2, "No such file or directory")


def fine(text: str, environ: Mapping[str, str] = ENVIRON) -> Loaded:
    """A document without errors."""
    return parse(text, "f", environ, read_file)


def wrong(text: str) -> list[str]:
    """What `gatewayd check` prints of a document."""
    try:
        fine(text)
    except ConfigError as error:
        return str(error).split("\n")
    return []


# Every key of the first release with its default, as the contract has them.
DEFAULTS = """
workers: 1
listeners:
  web:
    address: 0.0.0.0:2000
    protocol: http
    trusted_proxies: []
    proxy_protocol: false
    path: {merge_slashes: true, encoded_slash: keep}
    host_fallthrough: true
    limits:
      max_connections: 10000
      max_header_bytes: 1MiB
      max_header_memory: 64MiB
      max_headers: 256
      max_body_bytes: 0
      min_body_rate: 240/s
    timeouts:
      header: 30s
      read: 30s
      write: 30s
      idle: 120s
routes:
  - name: api
    match: {headers: {}, query: {}}
    priority: 0
    rewrite: {replace: ""}
    request_headers: {set: {}, add: {}, remove: []}
    response_headers: {set: {}, add: {}, remove: []}
    upstream: users
    preserve_host: true
    timeouts:
      request: 25s
      tunnel: 1h
      stream: inherit
    retries:
      attempts: 1
      when: [connect-failure, reset]
      methods: [GET, HEAD, OPTIONS, TRACE, PUT, DELETE]
      budget: 20%
      buffer: 64KiB
    max_concurrent: 0
    deny: []
upstreams:
  users:
    endpoints: [127.0.0.1:2003]
    dns: {refresh: 30s, timeout: 2s}
    base_path: ""
    balancer: round_robin
    hash_key: client_ip
    protocol: http/1.1
    pool:
      max_idle: 512
      max_idle_per_endpoint: 64
      idle_timeout: 90s
      read_ahead: 64KiB
      max_connections_per_endpoint: 0
      max_pending: 1024
      pending_timeout: 5s
    max_header_bytes: 64KiB
    via: both
    timeouts: {connect: 5s, response_header: 20s, read: 30s, write: 30s}
    passive_health: {consecutive_failures: 5, eject_for: 30s, max_ejected: 50%}
    panic_threshold: 20%
    slow_start: 0s
admin:
  address: 127.0.0.1:9901
  token: ""
  open: [healthz, readyz]
  ready: all
logging:
  level: info
  debug: []
  to: stderr
  format: text
  access: {to: "-", format: combined, omit: []}
drain_timeout: 25s
drain_delay: 0s
"""
WITHOUT = """
listeners: {web: {address: 0.0.0.0:2000}}
routes: [{name: api, upstream: users}]
upstreams: {users: {endpoints: [127.0.0.1:2003]}}
"""
# Keys that are off, empty or required until written, with the contract's examples.
EXAMPLES = r"""
workers: {min: 1, max: auto}
listeners:
  web: {address: 0.0.0.0:2000, proxy_protocol: {from: [10.0.0.0/8]}}
routes:
  - name: api
    listeners: [web]
    match:
      hosts: [api.example.com, "*.example.com"]
      path_prefix: /api
      methods: [GET, POST]
      scheme: https
      headers: {x-canary: "yes"}
      query: {debug: "1"}
    rewrite: {strip_prefix: /api}
    request_headers: {set: {X-Env: prod}, add: {}, remove: []}
    response_headers: {set: {}, add: {}, remove: [Server]}
    upstream: {users: 95, users-canary: 5}
    rate_limit: {key: client_ip, rate: 100/s, burst: 200, max_keys: 100000, store: local}
    allow: [10.0.0.0/8]
  - name: exact
    match: {path: /exact}
    redirect: {to: "https://other.example{path}{query}", status: 308}
  - name: regex
    match: {path_regex: '^/v\d+/', scheme: http}
    rewrite: {regex: ^/dir(.*), replace: \1}
    respond: {status: 404, body: "no such page\n"}
upstreams:
  users:
    endpoints: [127.0.0.1:2003, {address: "127.0.0.1:2004", weight: 3}]
    health_check: {path: /healthz, interval: 5s, timeout: 2s, healthy: 2, unhealthy: 3, expect: [200-399], body: "", host: "", headers: {}, port: 0, tcp: false}
    circuit_breaker: {error_rate: 50%, window: 10s, min_requests: 20, open_for: 5s}
    adaptive_limit: {min: 4, max: 1000}
    zookeeper: {path: /services/users, format: plain, endpoint: "", removal_grace: 15s, max_shrink: 50%, hold_for: 1h}
    members_allow: [10.0.0.0/8]
  users-canary:
    endpoints: [127.0.0.1:2005]
zookeeper:
  hosts: 127.0.0.1:2181
  session_timeout: 10s
  connect_timeout: 10s
  watch_timeout: 10s
  auth: []
  journal: /var/lib/gatewayd/membership.json
  journal_max_age: 24h
  register: {path: /gateways}
"""

# Forms that are easily refused by mistake.
LEGAL = [
    BASE,
    "---\n" + BASE + "...\n",
    "\ufeff" + BASE,
    BASE.replace("\n", "\r\n"),
    UPSTREAMS + "listeners: {a: {address: '[::1]:0'}, b: {address: unix:/run/x}}\n",
    UPSTREAMS + "listeners: {a: {address: fd:web}, b: {address: localhost:80}}\n",
    UPSTREAMS + "listeners: {A-b_c.1: {address: h:0}, d: {address: h:0}}\n",
    listener("proxy_protocol: true", "limits:", "timeouts:", "path:"),
    listener("proxy_protocol: {from: [10.0.0.0/8, unix]}"),
    listener("limits: {max_headers: 0o20, max_connections: 0x10}"),
    routes("upstream: u, match: {hosts: [EXAMPLE.com, '*.a.b', localhost, 'x.', '[::1]']}"),
    routes("upstream: u, match: {path: /a//b}", "upstream: {u: 1}"),
    routes("match: {scheme: http}, redirect: {to: 'https://{host}{path}{query}'}"),
    routes("redirect: {to: 'https://other.example/', status: 301}", "respond: {}"),
    routes(r"upstream: u, rewrite: {regex: '^/(?P<a>x)', replace: '/\g<a>'}"),
    routes("upstream: u, request_headers: {set: {Host: other}, remove: [Host]}"),
    upstream("passive_health: false", "health_check:", "circuit_breaker:"),
    upstream("health_check: {expect: [200, 204-299], tcp: true}"),
    upstream("balancer: gatewayd.core.balancers:RoundRobin"),
    BASE + "admin: {address: none}\n",
    BASE + "admin: {address: '0.0.0.0:9901', token: t}\n",
    BASE + "admin: {address: unix:/run/gatewayd/admin.sock}\n",
    BASE + "admin: {address: '[::1]:9901'}\n",
]

# Zero: a max_* of 0 is unlimited, a timeout of 0 never fires. What follows from it is its user's.
ZEROES = {
    "max_connections": listener("limits: {max_connections: 0}"),
    "max_header_memory": listener("limits: {max_header_memory: 0}"),
    "max_body_bytes": listener("limits: {max_body_bytes: 0}"),
    "min_body_rate": listener("limits: {min_body_rate: 0}"),
    "read": listener("timeouts: {read: 0}"),
    "write": listener("timeouts: {write: 0}"),
    "idle": listener("timeouts: {idle: 0}"),
    "request": routes("upstream: u, timeouts: {request: 0, tunnel: 0, stream: 0}"),
    "max_concurrent": routes("upstream: u, max_concurrent: 0"),
    "buffer": routes("upstream: u, retries: {buffer: 0, attempts: 0, budget: 0%}"),
    "max_idle": upstream("pool: {max_idle: 0, max_idle_per_endpoint: 0}"),
    "max_connections_per_endpoint": upstream("pool: {max_connections_per_endpoint: 0}"),
    "max_pending": upstream("pool: {max_pending: 0, pending_timeout: 0, idle_timeout: 0}"),
    "timeouts": upstream("timeouts: {connect: 0, response_header: 0, read: 0, write: 0}"),
    "dns": upstream("dns: {timeout: 0}"),
    "panic_threshold": upstream("panic_threshold: 0%", "slow_start: 0"),
    "drain_timeout": BASE + "drain_timeout: 0\ndrain_delay: 0\n",
}

# What is wrong -> a document, and the lines of `gatewayd check`.
GOLDEN: dict[str, dict[str, tuple[str, list[str]]]] = {
    "TopLevel": {
        "nothing at all": (
            "",
            [
                "f:1:1: listeners: required",
                "f:1:1: upstreams: without routes there must be exactly one upstream, here are 0; write a route for each",
            ],
        ),
        "a list": (
            "[]\n",
            [
                "f:1:1: expected a mapping of keys to values",
            ],
        ),
        "a word": (
            "x\n",
            [
                "f:1:1: expected a mapping of keys to values",
            ],
        ),
        "keys that are nearly right": (
            "listners: {}\nupstream: {}\nrotes: []\nxyz: 1\n",
            [
                "f:1:1: listeners: required",
                "f:1:1: listners: no such key; did you mean listeners?",
                "f:1:1: upstreams: without routes there must be exactly one upstream, here are 0; write a route for each",
                "f:2:1: upstream: no such key; did you mean upstreams?",
                "f:3:1: rotes: no such key; did you mean routes?",
                "f:4:1: xyz: no such key",
            ],
        ),
        "no listener": (
            UPSTREAMS + "listeners: {}\n",
            [
                "f:2:1: listeners: at least one listener is needed, such as web: {address: 0.0.0.0:2000}",
            ],
        ),
        "listeners without a value": (
            UPSTREAMS + "listeners:\n",
            [
                "f:2:11: listeners: expected a mapping of names to values",
            ],
        ),
        "a list of listeners": (
            UPSTREAMS + "listeners: [web]\n",
            [
                "f:2:12: listeners: expected a mapping of names to values",
            ],
        ),
        "no upstream": (
            LISTENERS,
            [
                "f:1:1: upstreams: without routes there must be exactly one upstream, here are 0; write a route for each",
            ],
        ),
        "two upstreams and no route": (
            LISTENERS + "upstreams: {a: {endpoints: [h:1]}, b: {endpoints: [h:1]}}\n",
            [
                "f:2:1: upstreams: without routes there must be exactly one upstream, here are 2; write a route for each",
            ],
        ),
        "two upstreams and an empty list of routes": (
            LISTENERS + "upstreams: {a: {endpoints: [h:1]}, b: {endpoints: [h:1]}}\nroutes: []\n",
            [
                "f:3:1: routes: without routes there must be exactly one upstream, here are 2; write a route for each",
            ],
        ),
        "a key written twice": (
            BASE + "drain_delay: 1s\ndrain_delay: 2s\n",
            [
                "f:4:1: drain_delay: written twice",
            ],
        ),
        "durations without a unit and below nothing": (
            BASE + "drain_timeout: 5\ndrain_delay: -1s\n",
            [
                "f:3:16: drain_timeout: expected a duration such as 250ms, 5s, 2m or 1h, found '5'",
                "f:4:14: drain_delay: expected a duration such as 250ms, 5s, 2m or 1h, found '-1s'",
            ],
        ),
        "what is filled in is not there": (
            BASE + "drain_delay: ${D}\nadmin:\n  token: Bearer ${file:/none}\n",
            [
                "f:3:14: drain_delay: the environment has no D; set it, or write ${D:-default}",
                "f:5:10: admin.token: /none cannot be read: No such file or directory",
            ],
        ),
        "what is filled in is wrong": (
            BASE + "drain_delay: ${WORD}\nlogging:\n  level: ${EMPTY}\n  access: ${EMPTY}\n",
            [
                "f:3:14: drain_delay: expected a duration such as 250ms, 5s, 2m or 1h, found 'word'",
                "f:5:10: logging.level: expected one of info, debug, warning, error, found ''",
                "f:6:11: logging.access: expected a mapping of keys to values",
            ],
        ),
        "many mistakes at once, each told": (
            "listeners: {web: {adress: 127.0.0.1:2000}}\nupstreams: {u: {endpoints: [127.0.0.1]}}\nroutes:\n  - {name: r, upstream: uu, timeouts: {request: 5}}\nadmin: {adress: x}\n",
            [
                "f:1:18: listeners.web.address: required",
                "f:1:19: listeners.web.adress: no such key; did you mean address?",
                "f:2:29: upstreams.u.endpoints[0]: '127.0.0.1' has no port; write host:port, or [v6]:port",
                "f:4:15: routes[0].upstream: no upstream is called 'uu'; did you mean u?",
                "f:4:49: routes[0].timeouts.request: expected a duration such as 250ms, 5s, 2m or 1h, found '5'",
                "f:5:9: admin.adress: no such key; did you mean address?",
            ],
        ),
    },
    "Listeners": {
        "no section, no address, no name": (
            UPSTREAMS
            + "listeners: {web: 5, x: [], y: {}, z: , 'a b': {address: h:1}, %s: {address: h:2}}\n"
            % ("l" * 65),
            [
                "f:2:18: listeners.web: expected a mapping of keys to values",
                "f:2:24: listeners.x: expected a mapping of keys to values",
                "f:2:31: listeners.y.address: required",
                "f:2:37: listeners.z.address: required",
                "f:2:40: listeners.a b: a name is 1 to 64 letters, digits, dots, dashes and underscores",
                "f:2:63: listeners.lllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll: a name is 1 to 64 letters, digits, dots, dashes and underscores",
            ],
        ),
        "addresses": (
            UPSTREAMS
            + "listeners:\n"
            + lines(
                "  l{}: {{address: {}}}",
                "2000",
                "localhost",
                "':80'",
                "h:65536",
                "h:-1",
                "h:x",
                "'::1:80'",
                "'[x]:80'",
                "unix:relative",
                "'fd:'",
                "a b:80",
                "1.2.3:80",
                "true",
                "[]",
                "''",
            ),
            [
                "f:3:17: listeners.l0.address: '2000' has no port; write host:port, or [v6]:port",
                "f:4:17: listeners.l1.address: 'localhost' has no port; write host:port, or [v6]:port",
                "f:5:17: listeners.l2.address: ':80' has no port; write host:port, or [v6]:port",
                "f:6:17: listeners.l3.address: 'h:65536': the port must be 1 to 65535",
                "f:7:17: listeners.l4.address: 'h:-1': the port must be 1 to 65535",
                "f:8:17: listeners.l5.address: 'h:x': the port must be 1 to 65535",
                "f:9:17: listeners.l6.address: '::1:80': write an IPv6 address in brackets, [::1]:80",
                "f:10:17: listeners.l7.address: '[x]:80': between [ and ] stands an IPv6 address",
                "f:11:17: listeners.l8.address: 'unix:relative': write unix:/absolute/path, of at most 107 bytes",
                "f:12:17: listeners.l9.address: 'fd:': write fd:NAME, the socket's name in systemd",
                "f:13:18: listeners.l10.address: 'a b:80': 'a b' is neither an address nor a host name",
                "f:14:18: listeners.l11.address: '1.2.3:80': '1.2.3' is neither an address nor a host name",
                "f:15:18: listeners.l12.address: expected text, found 'true'",
                "f:16:18: listeners.l13.address: expected text, found a list",
                "f:17:18: listeners.l14.address: '' has no port; write host:port, or [v6]:port",
            ],
        ),
        "an address taken": (
            UPSTREAMS
            + "listeners:\n"
            + lines("  l{}: {{address: {}}}", "h:2000", "h:2000", "127.0.0.1:9901", "h:0", "h:0"),
            [
                "f:4:8: listeners.l1.address: h:2000 is taken by listener l0 already",
                "f:5:8: listeners.l2.address: 127.0.0.1:9901 is taken by the admin interface already",
            ],
        ),
        "limits": (
            listener(
                "limits:",
                *keys(
                    max_connections="x",
                    max_headers=0,
                    max_header_bytes=0,
                    max_body_bytes="1KB",
                    min_body_rate=5,
                    max_header_memory=-1,
                ),
            ),
            [
                "f:6:24: listeners.web.limits.max_connections: expected a whole number from 0 to 2147483647, found 'x'",
                "f:7:20: listeners.web.limits.max_headers: expected a whole number from 1 to 65536, found 0",
                "f:8:25: listeners.web.limits.max_header_bytes: must be more than 0",
                "f:9:23: listeners.web.limits.max_body_bytes: expected a size such as 512, 64KiB or 1MiB, found '1KB'",
                "f:10:22: listeners.web.limits.min_body_rate: expected a rate such as 100/s or 600/m, found '5'",
                "f:11:26: listeners.web.limits.max_header_memory: expected a size such as 512, 64KiB or 1MiB, found '-1'",
            ],
        ),
        "timeouts": (
            listener("timeouts: {header: 0, read: 5, write: 1d, idle: [], idel: 1s, zzz: 1s}"),
            [
                "f:5:24: listeners.web.timeouts.header: must be more than 0",
                "f:5:33: listeners.web.timeouts.read: expected a duration such as 250ms, 5s, 2m or 1h, found '5'",
                "f:5:43: listeners.web.timeouts.write: expected a duration such as 250ms, 5s, 2m or 1h, found '1d'",
                "f:5:53: listeners.web.timeouts.idle: expected a value, found a list",
                "f:5:57: listeners.web.timeouts.idel: no such key; did you mean idle?",
                "f:5:67: listeners.web.timeouts.zzz: no such key",
            ],
        ),
        "words that YAML 1.1 took for truth": (
            listener("host_fallthrough: on", "path: {merge_slashes: 'true', encoded_slash: kep}"),
            [
                "f:5:23: listeners.web.host_fallthrough: expected true or false, found 'on'; YAML 1.2 knows no yes, no, on or off",
                "f:6:27: listeners.web.path.merge_slashes: expected true or false, found 'true'; YAML 1.2 knows no yes, no, on or off",
                "f:6:50: listeners.web.path.encoded_slash: expected one of keep, reject, found 'kep'; did you mean keep?",
            ],
        ),
        "networks": (
            listener("trusted_proxies: [10.0.0.0/33, localhost, 10, 10.0.0.1/8, unix, 'fd00::/8']"),
            [
                "f:5:23: listeners.web.trusted_proxies[0]: '10.0.0.0/33' is no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8",
                "f:5:36: listeners.web.trusted_proxies[1]: 'localhost' is no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8",
                "f:5:47: listeners.web.trusted_proxies[2]: expected text, found 10; put it in quotes",
            ],
        ),
        "no list": (
            listener("trusted_proxies: 10.0.0.0/8", "proxy_protocol: [x]"),
            [
                "f:5:22: listeners.web.trusted_proxies: expected a list, such as [a, b]",
                "f:6:21: listeners.web.proxy_protocol: expected a mapping of keys to values",
            ],
        ),
        "who speaks the PROXY protocol": (
            listener("proxy_protocol: {from: [x], to: []}"),
            [
                "f:5:29: listeners.web.proxy_protocol.from[0]: 'x' is no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8",
                "f:5:33: listeners.web.proxy_protocol.to: no such key",
            ],
        ),
        "the PROXY protocol from nobody named": (
            listener("proxy_protocol: {}"),
            [
                "f:5:21: listeners.web.proxy_protocol.from: required",
            ],
        ),
        "a protocol that is none": (
            listener("protocol: htp"),
            [
                "f:5:15: listeners.web.protocol: expected one of http, found 'htp'; did you mean http?",
            ],
        ),
    },
    "Routes": {
        "no list": (
            BASE + "routes: {a: 1}\n",
            [
                "f:3:9: routes: expected a list, such as [a, b]",
            ],
        ),
        "names": (
            BASE
            + "routes:\n"
            + lines(
                "  - {}",
                "{upstream: u}",
                "{name: '', upstream: u}",
                "{name: a, upstream: u}",
                "{name: a, upstream: u}",
                "5",
                "{name: 5, upstream: u}",
                numbered=False,
            ),
            [
                "f:4:5: routes[0].name: required",
                "f:5:12: routes[1].name: a name is 1 to 64 letters, digits, dots, dashes and underscores",
                "f:7:6: routes[3].name: routes[2] is called a too",
                "f:8:5: routes[4]: expected a mapping of keys to values",
                "f:9:12: routes[5].name: expected text, found 5; put it in quotes",
            ],
        ),
        "one action each": (
            routes(
                "",
                "upstream: u, redirect: {to: /x}",
                "redirect: {}, respond: {}",
                "upstream: ''",
                "upstream: {}",
                "upstream: [u]",
            ),
            [
                "f:4:5: routes[0]: a route has one of upstream, redirect and respond, here: none",
                "f:5:5: routes[1]: a route has one of upstream, redirect and respond, here: upstream and redirect",
                "f:6:5: routes[2]: a route has one of upstream, redirect and respond, here: redirect and respond",
                "f:6:26: routes[2].redirect.to: required",
                "f:7:5: routes[3]: a route has one of upstream, redirect and respond, here: none",
                "f:8:5: routes[4]: a route has one of upstream, redirect and respond, here: none",
                "f:9:26: routes[5].upstream: expected a mapping of names to values",
            ],
        ),
        "splits": (
            routes("upstream: {u: 0}", "upstream: {u: 1, v: 1, uu: -1}", "upstream: {u: x}"),
            [
                "f:4:16: routes[0].upstream: all weights are 0",
                "f:5:33: routes[1].upstream.v: no upstream is called 'v'",
                "f:5:39: routes[1].upstream.uu: no upstream is called 'uu'; did you mean u?",
                "f:5:43: routes[1].upstream.uu: expected a whole number from 0 to 1000000, found -1",
                "f:6:30: routes[2].upstream.u: expected a whole number from 0 to 1000000, found 'x'",
            ],
        ),
        "references that dangle": (
            routes(
                "upstream: uu",
                "upstream: u, listeners: [web, wob, x]",
                "upstream: u, listeners: []",
            ),
            [
                "f:4:16: routes[0].upstream: no upstream is called 'uu'; did you mean u?",
                "f:5:46: routes[1].listeners[1]: no listener is called 'wob'; did you mean web?",
                "f:5:51: routes[1].listeners[2]: no listener is called 'x'",
                "f:6:40: routes[2].listeners: an empty list; leave the key out, or name something",
            ],
        ),
        "hosts": (
            routes(
                "upstream: u, match: {hosts: [a_b.example, 'a b', '*', '*.x.*', -x, x., '[::1]', '']}",
                "upstream: u, match: {hosts: []}",
            ),
            [
                "f:4:58: routes[0].match.hosts[1]: 'a b' is no host name; write api.example.com or *.example.com",
                "f:4:65: routes[0].match.hosts[2]: '*' is no host name; write api.example.com or *.example.com",
                "f:4:70: routes[0].match.hosts[3]: '*.x.*' is no host name; write api.example.com or *.example.com",
                "f:4:79: routes[0].match.hosts[4]: '-x' is no host name; write api.example.com or *.example.com",
                "f:4:96: routes[0].match.hosts[7]: '' is no host name; write api.example.com or *.example.com",
                "f:5:44: routes[1].match.hosts: an empty list; leave the key out, or name something",
            ],
        ),
        "paths": (
            routes(
                *(
                    f"upstream: u, match: {{path: {path}}}"
                    for path in (
                        "a",
                        "/a/../b",
                        "/a/%2e",
                        "/%zz",
                        "/\u00e4",
                        "/a%2fb",
                        "'/a b'",
                        "/..",
                        "''",
                        "5",
                    )
                )
            ),
            [
                "f:4:43: routes[0].match.path: a path begins with /, found 'a'",
                "f:5:43: routes[1].match.path: requests never have this path; its normal form is /b",
                "f:6:43: routes[2].match.path: requests never have this path; its normal form is /a/",
                "f:7:43: routes[3].match.path: '/%zz' is no path: a bad escape in the path",
                "f:8:43: routes[4].match.path: a path is ASCII; write other characters as %XX",
                "f:9:43: routes[5].match.path: requests never have this path; its normal form is /a%2Fb",
                "f:10:43: routes[6].match.path: requests never have this path; its normal form is /a%20b",
                "f:11:43: routes[7].match.path: '/..' is no path: the path leads above the root",
                "f:12:43: routes[8].match.path: a path begins with /, found ''",
                "f:13:43: routes[9].match.path: expected text, found 5; put it in quotes",
            ],
        ),
        "two paths": (
            routes("upstream: u, match: {path: /a, path_prefix: /b, path_regex: ^/c}"),
            [
                "f:4:29: routes[0].match: only one of path and path_prefix and path_regex can be given",
            ],
        ),
        "conditions": (
            routes(
                "upstream: u, match: {methods: [GET, 'a b'], scheme: ftp}",
                "upstream: u, match: {headers: {'a b': x, ok: '~(', n: 5}, query: {q: '~['}}",
            ),
            [
                "f:4:52: routes[0].match.methods[1]: 'a b' is no name of a header field or method",
                "f:4:68: routes[0].match.scheme: expected one of http, https, found 'ftp'",
                "f:5:47: routes[1].match.headers.a b: 'a b' is no name of a header field or method",
                "f:5:61: routes[1].match.headers.ok: no regular expression: missing ), unterminated subpattern at position 0",
                "f:5:70: routes[1].match.headers.n: expected text, found 5; put it in quotes",
                "f:5:85: routes[1].match.query.q: no regular expression: unterminated character set at position 0",
            ],
        ),
        "a regex": (
            routes(
                "upstream: u, match: {path_regex: '('}", "upstream: u, match: {path_regex: 1.5}"
            ),
            [
                "f:4:49: routes[0].match.path_regex: no regular expression: missing ), unterminated subpattern at position 0",
                "f:5:49: routes[1].match.path_regex: expected text, found '1.5'",
            ],
        ),
        "rewrites": (
            routes(
                r"upstream: u, rewrite: {strip_prefix: /a, regex: ^/b, replace: \2}",
                "upstream: u, rewrite: {replace: x}",
                r"upstream: u, rewrite: {regex: ^/(a), replace: '\1\2'}",
            ),
            [
                "f:4:29: routes[0].rewrite: either strip_prefix or regex, not both",
                "f:4:69: routes[0].rewrite.replace: not for this regex: invalid group reference 2 at position 1",
                "f:5:39: routes[1].rewrite.replace: needs a regex beside it",
                "f:6:53: routes[2].rewrite.replace: not for this regex: invalid group reference 2 at position 3",
            ],
        ),
        "a redirect in circles": (
            routes("upstream: u", "redirect: {to: 'https://{host}{path}{query}'}"),
            [
                "f:5:16: routes[1].redirect: a redirect to https without match.scheme: http sends https clients in circles",
            ],
        ),
        "redirects": (
            routes(
                "redirect: {to: '/{x}'}",
                "redirect: {to: /\u00e4}",
                "redirect: {to: /a b}",
                "redirect: {to: /x, status: 304}",
                "redirect: {to: /x, status: 200}",
                "redirect: {status: 301}",
            ),
            [
                "f:4:27: routes[0].redirect.to: only {host}, {port}, {path} and {query} are known",
                "f:5:27: routes[1].redirect.to: a URL is ASCII without spaces; write them as %XX",
                "f:6:27: routes[2].redirect.to: a URL is ASCII without spaces; write them as %XX",
                "f:7:35: routes[3].redirect.status: a redirect is 301, 302, 303, 307 or 308",
                "f:8:43: routes[4].redirect.status: expected a whole number from 301 to 308, found 200",
                "f:9:26: routes[5].redirect.to: required",
            ],
        ),
        "own answers": (
            routes("respond: {status: 100, body: 5}", "respond: {satus: 404}"),
            [
                "f:4:34: routes[0].respond.status: expected a whole number from 200 to 599, found 100",
                "f:4:45: routes[0].respond.body: expected text, found 5; put it in quotes",
                "f:5:26: routes[1].respond.satus: no such key; did you mean status?",
            ],
        ),
        "header edits": (
            routes(
                "upstream: u, request_headers: {set: {Connection: x, 'a b': y, C: \"a\\nb\"}, add: {Content-Length: '5'}, remove: [Via, 'x y']}",
                "upstream: u, response_headers: {append: {}}",
            ),
            [
                "f:4:53: routes[0].request_headers.set.Connection: Connection belongs to the connection or the message's framing",
                "f:4:68: routes[0].request_headers.set.a b: 'a b' is no name of a header field or method",
                "f:4:81: routes[0].request_headers.set.C: a header value may hold no control characters",
                "f:4:96: routes[0].request_headers.add.Content-Length: Content-Length belongs to the connection or the message's framing",
                "f:4:127: routes[0].request_headers.remove[0]: Via belongs to the connection or the message's framing",
                "f:4:132: routes[0].request_headers.remove[1]: 'x y' is no name of a header field or method",
                "f:5:48: routes[1].response_headers.append: no such key",
            ],
        ),
        "retries": (
            routes(
                "upstream: u, retries: {attempts: 11, when: [resett], budget: 120%, methods: ['a b'], buffer: x}"
            ),
            [
                "f:4:49: routes[0].retries.attempts: expected a whole number from 0 to 10, found 11",
                "f:4:60: routes[0].retries.when[0]: expected one of connect-failure, reset, timeout, 502, 503, 504, found 'resett'; did you mean reset?",
                "f:4:77: routes[0].retries.budget: expected a share such as 50%, from 0% to 100%, found '120%'",
                "f:4:93: routes[0].retries.methods[0]: 'a b' is no name of a header field or method",
                "f:4:109: routes[0].retries.buffer: expected a size such as 512, 64KiB or 1MiB, found 'x'",
            ],
        ),
        "rate limits": (
            routes(
                "upstream: u, rate_limit: {}",
                "upstream: u, rate_limit: {key: client, rate: 100}",
                "upstream: u, rate_limit: {key: 'header:a b', rate: 1/s}",
            ),
            [
                "f:4:41: routes[0].rate_limit.rate: required",
                "f:5:47: routes[1].rate_limit.key: expected client_ip, header:NAME or route",
                "f:5:61: routes[1].rate_limit.rate: expected a rate such as 100/s or 600/m, found '100'",
                "f:6:47: routes[2].rate_limit.key: expected client_ip, header:NAME or route",
            ],
        ),
        "who may come": (
            routes(
                "upstream: u, allow: []", "upstream: u, allow: [x], deny: [y], max_concurrent: -1"
            ),
            [
                "f:4:36: routes[0].allow: an empty list; leave the key out, or name something",
                "f:5:37: routes[1].allow[0]: 'x' is no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8",
                "f:5:48: routes[1].deny[0]: 'y' is no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8",
                "f:5:68: routes[1].max_concurrent: expected a whole number from 0 to 2147483647, found -1",
            ],
        ),
    },
    "Upstreams": {
        "nobody in them": (
            LISTENERS + "upstreams: {u: {endpoints: []}}\n",
            [
                "f:2:13: upstreams.u: no members; name at least one, such as endpoints: [127.0.0.1:8080], or a zookeeper path",
            ],
        ),
        "no list": (
            LISTENERS + "upstreams: {u: {endpoints: 127.0.0.1:1}}\n",
            [
                "f:2:28: upstreams.u.endpoints: expected a list, such as [a, b]",
            ],
        ),
        "endpoints": (
            LISTENERS
            + "upstreams:\n  u:\n    endpoints:\n"
            + lines(
                "      - {}",
                "127.0.0.1",
                "{address: h:1, weight: 257}",
                "{weight: 1}",
                "h:2",
                "h:2",
                "{address: h:3, wieght: 1}",
                "h:0",
                "[x]",
                numbered=False,
            ),
            [
                "f:5:9: upstreams.u.endpoints[0]: '127.0.0.1' has no port; write host:port, or [v6]:port",
                "f:6:32: upstreams.u.endpoints[1].weight: expected a whole number from 0 to 256, found 257",
                "f:7:9: upstreams.u.endpoints[2].address: required",
                "f:9:9: upstreams.u.endpoints[4]: endpoints[3] is h:2 too",
                "f:10:24: upstreams.u.endpoints[5].wieght: no such key; did you mean weight?",
                "f:11:9: upstreams.u.endpoints[6]: 'h:0': the port must be 1 to 65535",
                "f:12:9: upstreams.u.endpoints[7]: expected a mapping of keys to values",
            ],
        ),
        "words": (
            upstream("balancer: round_robbin", "hash_key: 'cookie:'", "base_path: a", "via: botj"),
            [
                "f:5:15: upstreams.u.balancer: no balancer is called 'round_robbin'; did you mean round_robin? (there are round_robin, weighted_round_robin, random, consistent_hash, least_connections, power_of_two, peak_ewma, or package.module:Class)",
                "f:6:15: upstreams.u.hash_key: expected client_ip, path, header:NAME or cookie:NAME",
                "f:7:16: upstreams.u.base_path: a path begins with /, found 'a'",
                "f:8:10: upstreams.u.via: expected one of both, response, none, found 'botj'; did you mean both?",
            ],
        ),
        "balancers of one's own": (
            LISTENERS
            + "upstreams:\n"
            + lines(
                "  u{}: {{endpoints: [h:1], balancer: '{}'}}",
                "no.such:Thing",
                "collections:OrderedDict",
                "gatewayd.core.balancers:Nobody",
            )
            + "routes: [{name: r, upstream: {u0: 1, u1: 1, u2: 1}}]\n",
            [
                "f:3:36: upstreams.u0.balancer: no.such:Thing cannot be imported: No module named 'no'",
                "f:4:36: upstreams.u1.balancer: collections:OrderedDict is no subclass of gatewayd.core.balancers.Balancer",
                "f:5:36: upstreams.u2.balancer: gatewayd.core.balancers:Nobody cannot be imported: module 'gatewayd.core.balancers' has no attribute 'Nobody'",
            ],
        ),
        "numbers": (
            upstream(
                "max_header_bytes: 0",
                "panic_threshold: 20",
                "slow_start: x",
                "pool: {max_idle: -1, read_ahead: 0, idle_timeout: 1}",
                "timeouts: {connect: '', read: null}",
                "dns: {refresh: 0, timeout: x}",
            ),
            [
                "f:5:23: upstreams.u.max_header_bytes: must be more than 0",
                "f:6:22: upstreams.u.panic_threshold: expected a share such as 50%, from 0% to 100%, found '20'",
                "f:7:17: upstreams.u.slow_start: expected a duration such as 250ms, 5s, 2m or 1h, found 'x'",
                "f:8:22: upstreams.u.pool.max_idle: expected a whole number from 0 to 2147483647, found -1",
                "f:8:38: upstreams.u.pool.read_ahead: must be more than 0",
                "f:8:55: upstreams.u.pool.idle_timeout: expected a duration such as 250ms, 5s, 2m or 1h, found '1'",
                "f:9:25: upstreams.u.timeouts.connect: expected a duration such as 250ms, 5s, 2m or 1h, found ''",
                "f:9:35: upstreams.u.timeouts.read: expected a duration such as 250ms, 5s, 2m or 1h, found 'null'",
                "f:10:20: upstreams.u.dns.refresh: must be more than 0",
                "f:10:32: upstreams.u.dns.timeout: expected a duration such as 250ms, 5s, 2m or 1h, found 'x'",
            ],
        ),
        "health checks": (
            upstream(
                "health_check:",
                *keys(path="x", interval=0, expect="[600, 200-]", healthy=0, port=70000, tcp=1),
            ),
            [
                "f:6:13: upstreams.u.health_check.path: a path begins with / and holds no blanks",
                "f:7:17: upstreams.u.health_check.interval: must be more than 0",
                "f:8:16: upstreams.u.health_check.expect[0]: expected a status or a range such as 200-399, found '600'",
                "f:8:21: upstreams.u.health_check.expect[1]: expected a status or a range such as 200-399, found '200-'",
                "f:9:16: upstreams.u.health_check.healthy: expected a whole number from 1 to 1000, found 0",
                "f:10:13: upstreams.u.health_check.port: expected a whole number from 0 to 65535, found 70000",
                "f:11:12: upstreams.u.health_check.tcp: expected true or false, found '1'",
            ],
        ),
        "passive health": (
            upstream("passive_health: true"),
            [
                "f:5:21: upstreams.u.passive_health: it is on by itself; write false, or what it should do",
            ],
        ),
        "breakers and limits": (
            upstream(
                "circuit_breaker: {error_rate: 1, min_requests: 0}",
                "adaptive_limit: {min: 5, max: 4}",
            ),
            [
                "f:5:35: upstreams.u.circuit_breaker.error_rate: expected a share such as 50%, from 0% to 100%, found '1'",
                "f:5:52: upstreams.u.circuit_breaker.min_requests: expected a whole number from 1 to 2147483647, found 0",
                "f:6:22: upstreams.u.adaptive_limit.min: is more than max, 4",
            ],
        ),
    },
    "AdminAndLogs": {
        "open to others without a token": (
            BASE + "admin: {address: 0.0.0.0:9901}\n",
            [
                "f:3:9: admin.address: 0.0.0.0:9901 can be reached by others: admin.token is required, such as ${file:/etc/gatewayd/admin.token}; or listen on 127.0.0.1 or unix:/path",
            ],
        ),
        "words of admin": (
            BASE + "admin: {address: nowhere, token: 5, open: [healthz, metric], ready: al}\n",
            [
                "f:3:18: admin.address: 'nowhere' has no port; write host:port, or [v6]:port",
                "f:3:34: admin.token: expected text, found 5; put it in quotes",
                "f:3:53: admin.open[1]: expected one of healthz, readyz, metrics, found 'metric'; did you mean metrics?",
                "f:3:69: admin.ready: expected one of all, any, listeners, found 'al'; did you mean all?",
            ],
        ),
        "a token with a line break": (
            BASE + 'admin: {address: 0.0.0.0:9901, token: "a\\nb"}\n',
            [
                "f:3:39: admin.token: a header value may hold no control characters",
            ],
        ),
        "words of logging": (
            BASE
            + "logging:\n"
            + "\n".join(keys(level="warn", debug="[pools]", to=5, format="jsn"))
            + "\n  access: {to: null, format: x, omit: [querry]}\n",
            [
                "f:4:10: logging.level: expected one of info, debug, warning, error, found 'warn'; did you mean warning?",
                "f:5:11: logging.debug[0]: expected one of balancers, zookeeper, pool, health, routes, found 'pools'; did you mean pool?",
                "f:6:7: logging.to: expected text, found 5; put it in quotes",
                "f:7:11: logging.format: expected one of text, json, found 'jsn'; did you mean json?",
                'f:8:16: logging.access.to: expected text, found nothing; write "" for an empty one',
                "f:8:30: logging.access.format: expected one of combined, json, found 'x'",
                "f:8:40: logging.access.omit[0]: expected one of query, user_agent, referer, client_ip, found 'querry'; did you mean query?",
            ],
        ),
    },
    "ZooKeeper": {
        "nowhere": (
            upstream("zookeeper: {path: /x, format: plain}"),
            [
                "f:5:5: upstreams.u.zookeeper: needs a section zookeeper: {hosts: ...} that says where ZooKeeper is",
            ],
        ),
        "no format": (
            upstream("zookeeper: {path: /x}") + "zookeeper: {hosts: h:2181}\n",
            [
                "f:5:16: upstreams.u.zookeeper.format: required",
            ],
        ),
        "words of an upstream": (
            upstream(
                "zookeeper: {path: x, format: plan, endpoint: http, removal_grace: 5, max_shrink: 5, hold_for: x}",
                "members_allow: [x]",
            )
            + "zookeeper: {hosts: h:2181}\n",
            [
                "f:5:23: upstreams.u.zookeeper.path: 'x' is no path of a node, such as /services/users",
                "f:5:34: upstreams.u.zookeeper.format: expected one of plain, serverset, curator, nerve, dubbo, found 'plan'; did you mean plain?",
                "f:5:40: upstreams.u.zookeeper.endpoint: is for format: serverset",
                "f:5:71: upstreams.u.zookeeper.removal_grace: expected a duration such as 250ms, 5s, 2m or 1h, found '5'",
                "f:5:86: upstreams.u.zookeeper.max_shrink: expected a share such as 50%, from 0% to 100%, found '5'",
                "f:5:99: upstreams.u.zookeeper.hold_for: expected a duration such as 250ms, 5s, 2m or 1h, found 'x'",
                "f:6:21: upstreams.u.members_allow[0]: 'x' is no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8",
            ],
        ),
        "an endpoint of what has none": (
            upstream("zookeeper: {path: /x, format: plain, endpoint: http}")
            + "zookeeper: {hosts: h:2181}\n",
            [
                "f:5:42: upstreams.u.zookeeper.endpoint: is for format: serverset",
            ],
        ),
        "words of the ensemble": (
            BASE
            + "zookeeper: {hosts: 'h:2181,h', session_timeout: 0, auth: [user], journal_max_age: x, register: {}, regster: {path: /x}}\n",
            [
                "f:3:20: zookeeper.hosts: 'h' has no port; write host:port, or [v6]:port",
                "f:3:49: zookeeper.session_timeout: must be more than 0",
                "f:3:59: zookeeper.auth[0]: expected digest:user:password",
                "f:3:83: zookeeper.journal_max_age: expected a duration such as 250ms, 5s, 2m or 1h, found 'x'",
                "f:3:96: zookeeper.register.path: required",
                "f:3:100: zookeeper.regster: no such key; did you mean register?",
            ],
        ),
        "chroots": (
            BASE + "zookeeper: {hosts: 'h:2181/../x', register: {path: x/}}\n",
            [
                "f:3:20: zookeeper.hosts: '/../x' is no path of a node, such as /services/users",
                "f:3:52: zookeeper.register.path: 'x/' is no path of a node, such as /services/users",
            ],
        ),
    },
}
