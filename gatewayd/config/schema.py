"""Every key of the configuration: kind, default, and what it means.

The only list of keys. Values are in seconds, bytes and fractions whatever the file's units are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from gatewayd.config.document import Scalar
from gatewayd.config.kinds import (
    Bool,
    Choice,
    Either,
    Int,
    Kind,
    ListOf,
    MapOf,
    Parsed,
    Text,
    Unit,
)
from gatewayd.config.sections import SectionOf, key, later
from gatewayd.config.units import (
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
    show_duration,
    show_rate,
    show_share,
    show_size,
)
from gatewayd.core import routes
from gatewayd.core.addresses import Address, parse_host_port, parse_listen
from gatewayd.core.balancers import BALANCERS, Balancer, balancer_named, policy_name
from gatewayd.core.regexes import compile_safe
from gatewayd.core.retries import CONNECT_FAILURE, KINDS, RESET
from gatewayd.core.targets import normal_path

AUTO: Final = 0  # workers: as many as there are cores
FORMATS: Final = ("plain", "serverset", "curator", "nerve", "dubbo")
_LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*\Z")
_HOST: Final = re.compile(
    r"(?:\*\.)?(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\Z"
)
_CREDENTIAL: Final = re.compile(r"auth|cookie|token|secret|key|pass", re.IGNORECASE)
_HASH_KEY: Final = re.compile(
    r"(?:client_ip|path|header:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|cookie:[^=;\s]+)\Z"
)


def _label(text: str) -> None:
    if _LABEL.match(text) is None:
        raise ValueError("a name is 1 to 64 letters, digits, dots, dashes and underscores")


def _token(text: str) -> None:
    if _TOKEN.match(text) is None:
        raise ValueError(f"{text!r} is no name of a header field or method")


def _value(text: str) -> None:
    if _VALUE.match(text) is None:
        raise ValueError("a header value may hold no control characters")


def _condition(text: str) -> None:
    if text.startswith("~"):
        compile_safe(text[1:])


def _compiled(name: str, value: str) -> routes.Condition:
    if value.startswith("~"):
        return routes.Condition(name, "", compile_safe(value[1:]))
    return routes.Condition(name, value, None)


def _host(text: str) -> None:
    if _HOST.match(text.removesuffix(".")) is None and not re.match(r"\[[0-9a-fA-F:.]+\]\Z", text):
        raise ValueError(f"{text!r} is no host name; write api.example.com or *.example.com")


def _path(text: str) -> None:
    if not text.startswith("/"):
        raise ValueError(f"a path begins with /, found {text!r}")
    try:
        normal = normal_path(text.encode("ascii"), merge_slashes=False).decode()
    except UnicodeEncodeError:
        raise ValueError("a path is ASCII; write other characters as %XX") from None
    except Exception as error:
        raise ValueError(f"{text!r} is no path: {error}") from error
    if normal != text:
        raise ValueError(f"requests never have this path; its normal form is {normal}")


def _base_path(text: str) -> None:
    if text:
        _path(text)


def _cidr(text: str) -> None:
    if text != "unix":
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise ValueError(
                f"{text!r} is no network; write 10.0.0.0/8, 192.0.2.7 or fd00::/8"
            ) from None


def _hash_key(text: str) -> None:
    if _HASH_KEY.match(text) is None:
        raise ValueError("expected client_ip, path, header:NAME or cookie:NAME")


def _node_path(text: str) -> None:
    if (
        re.match(r"(?:/[^/\x00-\x1f]+)+\Z", text) is None
        or "/../" in text + "/"
        or "/./" in text + "/"
    ):
        raise ValueError(f"{text!r} is no path of a node, such as /services/users")


def _ensemble(text: str) -> None:
    hosts, slash, chroot = text.partition("/")
    if slash:
        _node_path(slash + chroot)
    for host in hosts.split(","):
        parse_host_port(host.strip())


def _zookeeper_auth(text: str) -> None:
    if re.match(r"digest:[^:]+:.+\Z", text) is None:
        raise ValueError("expected digest:user:password")


def _rate_key(text: str) -> None:
    if text == "api_key":
        raise ValueError("api_key is not yet supported")
    kind, _, name = text.partition(":")
    if text not in ("client_ip", "route") and not (kind == "header" and _TOKEN.match(name)):
        raise ValueError("expected client_ip, header:NAME or route")


def _target(text: str) -> None:
    if re.match(r"/[\x21-\x7e]*\Z", text) is None:
        raise ValueError("a path begins with / and holds no blanks")


def _statuses(text: str) -> range:
    match = re.match(r"([1-5]\d\d)(?:-([1-5]\d\d))?\Z", text)
    if match is None:
        raise ValueError(f"expected a status or a range such as 200-399, found {text!r}")
    return range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1)


def _show_statuses(statuses: range) -> str:
    return f"{statuses.start}-{statuses.stop - 1}" if len(statuses) > 1 else str(statuses.start)


class _Off(Bool):
    """false alone."""

    name = "false, or a mapping"

    def take(self, node: Scalar) -> bool:
        """As Kind."""
        if super().take(node):
            raise ValueError("it is on by itself; write false, or what it should do")
        return False


def _address_or_none(text: str) -> Address | None:
    return None if text == "none" else parse_listen(text)


def _stream(text: str) -> float | None:
    return None if text == "inherit" else parse_duration(text)


class _Balancers(Kind[type[Balancer]]):
    """A balancer's name, or `package.module:Class`."""

    fallback = BALANCERS["round_robin"]

    def take(self, node: Any) -> type[Balancer]:
        """As Kind."""
        return balancer_named(node.text)

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {
            "anyOf": [{"enum": list(BALANCERS)}, {"type": "string", "pattern": "^[\\w.]+:\\w+$"}]
        }

    def show(self, value: type[Balancer]) -> Any:
        """As Kind."""
        return policy_name(value)


class _HeaderValues(MapOf[str]):
    """Header fields with values; those that look like credentials are never shown."""

    def show(self, value: dict[str, str]) -> Any:
        """As Kind."""
        return {
            name: "***" if _CREDENTIAL.search(name) is not None else each
            for name, each in value.items()
        }


class _Processes(Int):
    """A number of processes, or `auto`: as many as there are cores, found at the start."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{super().name}, or auto"

    def take(self, node: Scalar) -> int:
        """As Kind."""
        return AUTO if node.text == "auto" else super().take(node)

    def schema(self) -> dict[str, Any]:
        """As Kind."""
        return {"anyOf": [super().schema(), {"const": "auto"}]}

    def show(self, value: int) -> Any:
        """As Kind."""
        return value or "auto"


DURATION: Final = Unit(parse_duration, show_duration, r"^(0|\d+(\.\d+)?(ms|s|m|h))$")
POSITIVE_DURATION: Final = Unit(
    parse_duration, show_duration, r"^\d+(\.\d+)?(ms|s|m|h)$", positive=True
)
SIZE: Final = Unit(parse_size, show_size, r"^\d+(KiB|MiB|GiB)?$")
POSITIVE_SIZE: Final = Unit(parse_size, show_size, r"^\d+(KiB|MiB|GiB)?$", positive=True)
RATE: Final = Unit(parse_rate, show_rate, r"^(0|\d+(\.\d+)?/(s|m|h))$")
POSITIVE_RATE: Final = Unit(parse_rate, show_rate, r"^\d+(\.\d+)?/(s|m|h)$", positive=True)
SHARE: Final = Unit(parse_share, show_share, r"^\d+(\.\d+)?%$")
COUNT: Final = Int()
PROCESSES: Final = _Processes(1, 1024)
CIDRS: Final = ListOf(Text(_cidr))
SOME_CIDRS: Final = ListOf(Text(_cidr), some=True)
HEADER_VALUES: Final = _HeaderValues(Text(_value), _token)
HEADER_CONDITIONS: Final = _HeaderValues(Text(_condition), _token)
PATH: Final = Text(_path)


def _regex_text(pattern: re.Pattern[bytes]) -> str:
    return pattern.pattern.decode()


REGEX: Final[Kind[re.Pattern[bytes]]] = Parsed(compile_safe, show=_regex_text)


@dataclass(frozen=True, kw_only=True)
class PathRules:
    """How paths are normalised."""

    merge_slashes: bool = key(Bool(), True, "runs of slashes count as one")
    encoded_slash: str = key(Choice("keep", "reject"), "keep", "what to do with %2F")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may cost."""

    max_connections: int = key(COUNT, 10_000, "over it accepting pauses; 0 = any")
    max_header_bytes: int = key(POSITIVE_SIZE, 1 << 20, "of a whole head; over it 431")
    max_header_memory: int = key(SIZE, 64 << 20, "all unfinished heads together; 0 = any")
    max_headers: int = key(Int(1, 65536), 256, "fields of a request; over it 431")
    max_body_bytes: int = key(SIZE, 0, "over it 413; 0 = any")
    min_body_rate: float = key(RATE, 240.0, "bytes, over 10 s of waiting; below it 408; 0 = off")


@dataclass(frozen=True, kw_only=True)
class ClientTimeouts:
    """How long a client may take."""

    header: float = key(POSITIVE_DURATION, 30.0, "from the first byte to the end of the head: 408")
    read: float = key(DURATION, 30.0, "between two pieces of a body: 408")
    write: float = key(DURATION, 30.0, "a client that takes no byte for so long is cut off")
    idle: float = key(DURATION, 120.0, "keep-alive between requests")


@dataclass(frozen=True, kw_only=True)
class ProxyProtocol:
    """Who begins connections with a PROXY header."""

    from_: tuple[str, ...] = key(CIDRS, doc="networks where it is required", name="from")


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A listening socket."""

    address: Address = key(
        Parsed(parse_listen), doc="host:port, [v6]:port, unix:/path, or fd:NAME from systemd"
    )
    protocol: str = key(Choice("http", later=["tcp"]), "http", "what is spoken there")
    trusted_proxies: tuple[str, ...] = key(CIDRS, (), "whose X-Forwarded-* are believed")
    proxy_protocol: bool | ProxyProtocol = key(
        Either(Bool(), SectionOf(ProxyProtocol)), False, "PROXY v1 or v2 is required"
    )
    path: PathRules = key(SectionOf(PathRules), PathRules, "how paths are normalised")
    host_fallthrough: bool = key(
        Bool(), True, "a named host without a matching path goes on to wildcard and none"
    )
    limits: Limits = key(SectionOf(Limits), Limits, "what a client may cost")
    timeouts: ClientTimeouts = key(
        SectionOf(ClientTimeouts), ClientTimeouts, "how long it may take"
    )
    tls: None = later()


@dataclass(frozen=True, kw_only=True)
class Match:
    """What a route asks of a request; an empty one takes everything."""

    hosts: tuple[str, ...] = key(ListOf(Text(_host), some=True), (), "exact, or *.example.com")
    path: str = key(PATH, "", "exactly this path")
    path_prefix: str = key(PATH, "", "this path and all below it, on segment borders")
    path_regex: re.Pattern[bytes] | None = key(REGEX, None, "re.search on the path")
    methods: tuple[str, ...] = key(ListOf(Text(_token), some=True), (), "else 405 with Allow")
    scheme: str = key(Choice("http", "https"), "", "by a trusted X-Forwarded-Proto too")
    headers: dict[str, str] = key(
        HEADER_CONDITIONS, dict, 'all must hold; "" = present, ~re = regex'
    )
    query: dict[str, str] = key(MapOf(Text(_condition)), dict, "as headers")

    def compiled(self) -> routes.Match:
        """As the router takes it."""
        return routes.Match(
            hosts=self.hosts,
            path=self.path,
            prefix=self.path_prefix,
            regex=self.path_regex,
            methods=self.methods,
            scheme=self.scheme,
            headers=[_compiled(name, value) for name, value in self.headers.items()],
            query=[_compiled(name, value) for name, value in self.query.items()],
        )


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """What becomes of the path."""

    strip_prefix: str = key(PATH, "", "taken off the path")
    regex: re.Pattern[bytes] | None = key(REGEX, None, "its first match is replaced")
    replace: str = key(Text(), "", r"with this; \1 is a group")


@dataclass(frozen=True, kw_only=True)
class HeaderEdits:
    """Changes to header fields, in the order remove, set, add."""

    set: dict[str, str] = key(HEADER_VALUES, dict, "replaces all fields of that name")
    add: dict[str, str] = key(HEADER_VALUES, dict, "one more field")
    remove: tuple[str, ...] = key(ListOf(Text(_token)), (), "names")


@dataclass(frozen=True, kw_only=True)
class Redirect:
    """Sends the client elsewhere."""

    to: str = key(Text(_value), doc="with {host}, {port}, {path} and {query}")
    status: int = key(Int(301, 308), 308, "301, 302, 303, 307 or 308")


@dataclass(frozen=True, kw_only=True)
class Respond:
    """Answers at once."""

    status: int = key(Int(200, 599), 200, "the code")
    body: str = key(Text(), "", "the text")


@dataclass(frozen=True, kw_only=True)
class RouteTimeouts:
    """How long a proxied request may take."""

    request: float = key(DURATION, 25.0, "from the request's last byte to the response's head: 504")
    tunnel: float = key(DURATION, 3600.0, "after 101: silence in both directions")
    stream: float | None = key(
        Parsed(_stream, show=show_duration, none="inherit"),
        None,
        "silence in a response's body; inherit = the upstream's read",
    )


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Further tries of a request that failed."""

    attempts: int = key(Int(0, 10), 1, "further tries after the first")
    when: tuple[str, ...] = key(
        ListOf(Choice(*KINDS)), (CONNECT_FAILURE, RESET), "which failures are tried again"
    )
    methods: tuple[str, ...] = key(
        ListOf(Text(_token)),
        ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"),
        "others only while no byte went out",
    )
    budget: float = key(SHARE, 0.2, "of the route's requests; 3 a second are always allowed")
    buffer: int = key(SIZE, 65536, "a body up to this size is held to be sent again")


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """How often a client may come."""

    by: str = key(Text(_rate_key), "client_ip", "client_ip, header:NAME or route", name="key")
    rate: float = key(POSITIVE_RATE, doc="such as 100/s or 600/m")
    burst: int = key(Int(0), 0, "requests at once; default: a second's worth")
    max_keys: int = key(Int(0), 100_000, "clients that are remembered; 0 = any number")
    store: str = key(Choice("local", later=["redis"]), "local", "where buckets are kept")


@dataclass(frozen=True, kw_only=True)
class Route:
    """A named way from a request to its answer."""

    name: str = key(Text(_label), doc="unique: the label in logs and metrics")
    listeners: tuple[str, ...] = key(ListOf(Text(), some=True), (), "default: all")
    match: Match = key(SectionOf(Match), Match, "what it asks of a request")
    priority: int = key(Int(-1_000_000, 1_000_000), 0, "higher first, before all other rules")
    rewrite: Rewrite = key(SectionOf(Rewrite), Rewrite, "what becomes of the path")
    request_headers: HeaderEdits = key(SectionOf(HeaderEdits), HeaderEdits, "for the upstream")
    response_headers: HeaderEdits = key(SectionOf(HeaderEdits), HeaderEdits, "for the client")
    upstream: str | dict[str, int] = key(
        Either(Text(), MapOf(Int(0, 1_000_000))), "", "a name, or a weighted split"
    )
    redirect: Redirect | None = key(SectionOf(Redirect), None, "instead of an upstream")
    respond: Respond | None = key(SectionOf(Respond), None, "instead of an upstream")
    preserve_host: bool = key(Bool(), True, "false: Host becomes the endpoint's")
    timeouts: RouteTimeouts = key(SectionOf(RouteTimeouts), RouteTimeouts, "of a proxied request")
    retries: Retries = key(SectionOf(Retries), Retries, "further tries of a failed request")
    rate_limit: RateLimit | None = key(SectionOf(RateLimit), None, "over it 429 with Retry-After")
    max_concurrent: int = key(COUNT, 0, "requests in flight; over it 503; 0 = any")
    allow: tuple[str, ...] = key(SOME_CIDRS, (), "networks; if given, all others get 403")
    deny: tuple[str, ...] = key(CIDRS, (), "networks that get 403; wins over allow")
    cache: None = later()
    auth: None = later()
    cors: None = later()
    compress: None = later()


@dataclass(frozen=True, kw_only=True)
class EndpointEntry:
    """A static member with a weight."""

    address: Address = key(Parsed(parse_host_port), doc="host:port or [v6]:port")
    weight: int = key(Int(0, 256), 1, "0 = no new requests")


@dataclass(frozen=True, kw_only=True)
class Dns:
    """How endpoints that are names are looked up."""

    refresh: float = key(POSITIVE_DURATION, 30.0, "how often")
    timeout: float = key(DURATION, 2.0, "of one look-up; a failed one keeps the last")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Connections to the endpoints, per process."""

    max_idle: int = key(COUNT, 512, "kept in all; 0 = no reuse")
    max_idle_per_endpoint: int = key(COUNT, 64, "kept for one endpoint; 0 = no reuse")
    idle_timeout: float = key(DURATION, 90.0, "an idle one is kept so long")
    read_ahead: int = key(POSITIVE_SIZE, 65536, "bytes held per direction for a slow reader")
    max_connections_per_endpoint: int = key(COUNT, 0, "at the limit requests wait; 0 = any")
    max_pending: int = key(COUNT, 1024, "requests that may wait; over it 503")
    pending_timeout: float = key(DURATION, 5.0, "that one may wait: 503")


@dataclass(frozen=True, kw_only=True)
class UpstreamTimeouts:
    """How long an endpoint may take, each try."""

    connect: float = key(DURATION, 5.0, "to connect: 504")
    response_header: float = key(DURATION, 20.0, "from the request's last byte to the head: 504")
    read: float = key(DURATION, 30.0, "between two pieces of a body")
    write: float = key(DURATION, 30.0, "to take a byte of a body")


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Where an upstream's members register themselves."""

    path: str = key(Text(_node_path), doc="the node whose children are members")
    format: str = key(Choice(*FORMATS), doc="what the children say")
    endpoint: str = key(Text(), "", "serverset: one of additionalEndpoints instead")
    removal_grace: float = key(
        DURATION, 15.0, "after a session's trouble a vanished member is a last resort for so long"
    )
    max_shrink: float = key(SHARE, 0.5, "a greater loss at once is held until it is confirmed")
    hold_for: float = key(DURATION, 3600.0, "held members leave after that")


@dataclass(frozen=True, kw_only=True)
class Register:
    """This gateway's own node."""

    path: str = key(Text(_node_path), doc="below which gateways register")


@dataclass(frozen=True, kw_only=True)
class ZooKeeper:
    """The ensemble."""

    hosts: str = key(Text(_ensemble), doc="host:port, several with commas, maybe with a /chroot")
    session_timeout: float = key(POSITIVE_DURATION, 10.0, "after which ephemeral nodes go")
    connect_timeout: float = key(POSITIVE_DURATION, 10.0, "after which a start without it is noted")
    watch_timeout: float = key(POSITIVE_DURATION, 10.0, "a read that takes longer is tried again")
    auth: tuple[str, ...] = key(
        ListOf(Text(_zookeeper_auth, secret=True)), (), "digest:user:password"
    )
    journal: str = key(
        Text(), "/var/lib/gatewayd/membership.json", "last known members, for a start without it"
    )
    journal_max_age: float = key(POSITIVE_DURATION, 86400.0, "an older one is ignored")
    register: Register | None = key(SectionOf(Register), None, "this gateway's own node")


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """How an endpoint is asked whether it is well."""

    tcp: bool = key(Bool(), False, "a connection is enough")
    path: str = key(Text(_target), "/healthz", "asked for with GET")
    interval: float = key(POSITIVE_DURATION, 5.0, "between two checks")
    timeout: float = key(DURATION, 2.0, "of one; 0 = for ever")
    healthy: int = key(Int(1, 1000), 2, "good ones in a row until it is used again")
    unhealthy: int = key(Int(1, 1000), 3, "bad ones in a row until it is not")
    expect: tuple[range, ...] = key(
        ListOf(Parsed(_statuses, show=_show_statuses), some=True), (range(200, 400),), "statuses"
    )
    body: str = key(Text(), "", "text that must occur in the answer's first 64 KiB")
    host: str = key(Text(_value), "", "the Host field; default: the endpoint's own")
    headers: dict[str, str] = key(HEADER_VALUES, dict, "further fields")
    port: int = key(Int(0, 65535), 0, "instead of the endpoint's; 0 = that")


@dataclass(frozen=True, kw_only=True)
class PassiveHealth:
    """When failures of requests eject an endpoint."""

    consecutive_failures: int = key(Int(1), 5, "in a row")
    eject_for: float = key(POSITIVE_DURATION, 30.0, "longer each time, up to ten times")
    max_ejected: float = key(SHARE, 0.5, "of the members; rounds up, never the last usable one")


@dataclass(frozen=True, kw_only=True)
class CircuitBreaker:
    """When an upstream or endpoint is left alone for a while."""

    error_rate: float = key(SHARE, 0.5, "of the requests of a window")
    window: float = key(POSITIVE_DURATION, 10.0, "that is looked at")
    min_requests: int = key(Int(1), 20, "of a window, below which nothing opens")
    open_for: float = key(POSITIVE_DURATION, 5.0, "then one request at a time probes")


@dataclass(frozen=True, kw_only=True)
class AdaptiveLimit:
    """Concurrency found from response times."""

    min: int = key(Int(1), 4, "at least")
    max: int = key(Int(1), 1000, "at most")


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A group of endpoints."""

    endpoints: tuple[Address | EndpointEntry, ...] = key(
        ListOf(Either(Parsed(parse_host_port), SectionOf(EndpointEntry))), (), "static members"
    )
    zookeeper: Registered | None = key(SectionOf(Registered), None, "members from ZooKeeper")
    members_allow: tuple[str, ...] = key(CIDRS, (), "networks that members may be in; none = any")
    dns: Dns = key(SectionOf(Dns), Dns, "for endpoints that are names")
    base_path: str = key(Text(_base_path), "", "put in front of the path with exactly one slash")
    balancer: type[Balancer] = key(_Balancers(), BALANCERS["round_robin"], "how one is chosen")
    hash_key: str = key(Text(_hash_key), "client_ip", "for consistent_hash")
    protocol: str = key(Choice("http/1.1", later=["h2", "auto"]), "http/1.1", "spoken to endpoints")
    tls: None = later()
    pool: Pool = key(SectionOf(Pool), Pool, "connections to the endpoints")
    max_header_bytes: int = key(POSITIVE_SIZE, 65536, "of a response's head; over it 502")
    via: str = key(Choice("both", "response", "none"), "both", "which way our Via is added")
    timeouts: UpstreamTimeouts = key(SectionOf(UpstreamTimeouts), UpstreamTimeouts, "each try")
    health_check: HealthCheck | None = key(SectionOf(HealthCheck), None, "asks each endpoint")
    passive_health: bool | PassiveHealth = key(
        Either(_Off(), SectionOf(PassiveHealth)), PassiveHealth, "learns from requests; false = off"
    )
    circuit_breaker: CircuitBreaker | None = key(
        SectionOf(CircuitBreaker), None, "of the upstream, and of each endpoint"
    )
    adaptive_limit: AdaptiveLimit | None = key(
        SectionOf(AdaptiveLimit), None, "requests in flight, found from response times"
    )
    panic_threshold: float = key(SHARE, 0.2, "with fewer usable members all are used; 0% = never")
    slow_start: float = key(DURATION, 0.0, "a new or returning endpoint's share grows for so long")


@dataclass(frozen=True, kw_only=True)
class Admin:
    """The admin interface."""

    address: Address | None = key(
        Parsed(_address_or_none, none="none"),
        Address("tcp", "127.0.0.1", 9901),
        "host:port, unix:/path, or none",
    )
    token: str = key(Text(_value, secret=True), "", "required unless only this machine can come")
    open: tuple[str, ...] = key(
        ListOf(Choice("healthz", "readyz", "metrics")), ("healthz", "readyz"), "without the token"
    )
    ready: str = key(Choice("all", "any", "listeners"), "all", "which upstreams must have members")


@dataclass(frozen=True, kw_only=True)
class AccessLog:
    """A line for every request."""

    to: str = key(Text(), "-", "- (stdout), a file, or none")
    format: str = key(Choice("combined", "json"), "combined", "of a line")
    omit: tuple[str, ...] = key(
        ListOf(Choice("query", "user_agent", "referer", "client_ip")), (), "what is left out"
    )


@dataclass(frozen=True, kw_only=True)
class Logging:
    """What is written where."""

    level: str = key(
        Choice("info", "debug", "warning", "error"), "info", "the least that is written"
    )
    debug: tuple[str, ...] = key(
        ListOf(Choice("balancers", "zookeeper", "pool", "health", "routes")),
        (),
        "subsystems at debug alone",
    )
    to: str = key(Text(), "stderr", "stderr or a file")
    format: str = key(Choice("text", "json"), "text", "of a line")
    access: AccessLog = key(SectionOf(AccessLog), AccessLog, "a line for every request")


@dataclass(frozen=True, kw_only=True)
class WorkerRange:
    """How many processes there may be, by load."""

    min: int = key(PROCESSES, 1, "at least")
    max: int = key(PROCESSES, AUTO, "at most; auto = as many as there are cores")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole file."""

    workers: int | WorkerRange = key(
        Either(PROCESSES, SectionOf(WorkerRange)),
        1,
        "processes on the same listeners: a number, auto, or a range to move in by load",
    )
    listeners: dict[str, Listener] = key(
        MapOf(SectionOf(Listener), _label), doc="where clients connect; at least one"
    )
    routes: tuple[Route, ...] = key(
        ListOf(SectionOf(Route)),
        (),
        "which request goes where; without any, all to the only upstream",
    )
    upstreams: dict[str, Upstream] = key(MapOf(SectionOf(Upstream), _label), dict, "where to")
    zookeeper: ZooKeeper | None = key(
        SectionOf(ZooKeeper), None, "required once an upstream names a path there"
    )
    admin: Admin = key(SectionOf(Admin), Admin, "the admin interface")
    logging: Logging = key(SectionOf(Logging), Logging, "what is written where")
    drain_timeout: float = key(DURATION, 25.0, "on a stop requests in flight may take so long")
    drain_delay: float = key(DURATION, 0.0, "/readyz says 503 for so long before listeners close")


CONFIG: Final = SectionOf(Config)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gatewayd.yaml",
        **CONFIG.schema(),
    }
