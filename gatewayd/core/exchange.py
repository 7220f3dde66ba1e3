"""A request and its answer: what is known of it, and the table of its life.

The exchange knows no protocol version: the client's side and the endpoint's side are whatever serves
and takes the form of core.messages. Time is the caller's: seconds on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gatewayd.core.counters import RouteCounters
from gatewayd.core.deadlines import INFINITY
from gatewayd.core.endpoints import Endpoint
from gatewayd.core.messages import RequestHead
from gatewayd.core.routes import Route

# States
RECEIVED: Final = "received"  # a head is there; filters and rewrite come next
PICKING: Final = "picking"  # waits for a slot, a first membership, or a slow balancer
CONNECTING: Final = "connecting"  # has an endpoint, waits for a connection
AWAITING: Final = "awaiting"  # the request goes out, no response yet
RELAYING: Final = "relaying"  # the response's head has gone to the client
TUNNEL: Final = "tunnel"  # after 101: bytes both ways
DONE: Final = "done"

# Events
PICK: Final = "pick"
PICKED: Final = "picked"
CONNECTED: Final = "connected"
REPEAT: Final = "repeat"  # a stale connection lost it: once more to the same endpoint
RETRY: Final = "retry"  # its try failed: on to another endpoint
HEAD: Final = "head"
SWITCHED: Final = "switched"
FINISHED: Final = "finished"

TRANSITIONS: Final[dict[str, dict[str, str]]] = {
    RECEIVED: {PICK: PICKING, PICKED: CONNECTING, FINISHED: DONE},
    PICKING: {PICKED: CONNECTING, FINISHED: DONE},
    CONNECTING: {CONNECTED: AWAITING, RETRY: RECEIVED, FINISHED: DONE},
    AWAITING: {
        REPEAT: CONNECTING,
        RETRY: RECEIVED,
        HEAD: RELAYING,
        SWITCHED: TUNNEL,
        FINISHED: DONE,
    },
    RELAYING: {FINISHED: DONE},
    TUNNEL: {FINISHED: DONE},
    DONE: {},
}


def diagram() -> str:
    """The table as a Mermaid state diagram, for docs/architecture.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {RECEIVED}"]
    for state, row in TRANSITIONS.items():
        lines += [f"    {state} --> {after}: {event}" for event, after in row.items()]
    return "\n".join([*lines, f"    {DONE} --> [*]"])


class Origin:
    """Where the requests of one connection come from; made by the listener, once a connection."""

    def __init__(
        self,
        *,
        listener: str,
        peer: str,
        scheme: str,
        port: int,
        trusted: bool,
    ) -> None:
        """Args: peer: address or `unix`. port: the client connected to. trusted: a proxy of ours."""
        self.listener = listener
        self.peer = peer
        self.scheme = scheme
        self.port = port
        self.trusted = trusted
        self.forwarded: bytes = b""  # memo: the field lines that say so (core.forwarded)


class Exchange:
    """One request on its way; made by the client's side, ended by `finished` exactly once."""

    state = RECEIVED
    client_ip: str = ""
    scheme: str = "http"
    request_id: bytes = b""
    route: Route | None = None  # that it takes
    upstream: Any = None  # once a route leads to one
    upstream_name: str = "-"
    endpoint: Endpoint | None = None
    status: int = 0
    reason: str = ""  # of an answer of the gateway's own, or of a cut
    answered: bool = False  # by the gateway itself
    bytes_in: int = 0  # of the request's body
    bytes_out: int = 0  # of the response's body
    received: float = 0.0  # when the request's last byte came; 0 while it has not
    waited_since: float = 0.0  # for a pick or a connection
    picked: float = 0.0  # when it got its endpoint, where it had to wait or was tried elsewhere
    queued: float = 0.0  # seconds that picks took
    dialled: float = 0.0  # seconds that connecting took
    headed: float = 0.0  # when the response's head came
    ended: float = 0.0
    counters: RouteCounters | None = None  # of its route, where that leads to an upstream
    place: bytes = b""  # where it is counted, as the access log writes it
    tries: int = 0
    tried: tuple[Endpoint, ...] = ()  # that failed it
    retried: str = ""  # the kind of the last failure that was tried again
    settled: bool = False  # its endpoint was told how the last try went
    gate: Any = None  # that it left when it is over (proxy.filters)
    limit_field: bytes = b""  # the RateLimit line for its response
    way: Any = None  # who answers: the leaf that `begin` was called on
    connection: Any = None  # of the endpoint's side, while there is one
    waiting: Any = None  # the Deferred that a pick or a connection will come by
    added: bytes = b""  # the gateway's own field lines for the upstream (core.forwarded)
    target: bytes = b""  # path and query as the upstream sees them
    held: bytes = b""  # body bytes that have not gone out yet
    streamed: bool = False  # body bytes have gone out that are no longer held
    trailers: Sequence[bytes] = ()  # of the request's body
    half_closed: bool = False  # one side of the tunnel has said its last word

    def __init__(self, head: RequestHead, client: Any, origin: Origin, started: float) -> None:
        """Args: client: the client's side, an answerer (proxy.channel). started: first byte's time."""
        self.head = head
        self.client = client
        self.origin = origin
        self.started = started
        self.deadline = INFINITY  # of the route's timeouts.request, once the request is complete
        self.wakes = INFINITY  # the wheel's

    def __repr__(self) -> str:
        head = self.head
        where = self.endpoint.label if self.endpoint else "-"
        return f"<Exchange {head.method.decode()} {head.path.decode()} {self.state} at {where}>"

    @property
    def route_name(self) -> str:
        """As figures and logs say it."""
        return self.route.name if self.route is not None else "-"

    def expired(self, now: float) -> None:
        """The wheel: the route's timeouts.request is over while it waits for an endpoint."""
        self.way.request_timeout(self)

    def advance(self, event: str) -> None:
        """Go on by the table.

        Raises:
            KeyError: the event cannot happen in this state: a bug, never the client's doing.
        """
        self.state = TRANSITIONS[self.state][event]
