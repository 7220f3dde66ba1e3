"""What a supervisor and a worker say to each other.

AMP carries it. A value of AMP ends at 64 KiB, so a message goes in numbered pieces and counts when the
last one is there; that one is answered when the message has been acted on. Listening sockets go beside
them as descriptors. Both ends are processes of ours, of one version, so messages are pickled.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.protocols import amp
from twisted.python.failure import Failure

from gatewayd.config.loader import Loaded
from gatewayd.core.limits import Share
from gatewayd.workers.membership import News

_PIECE: Final = 60_000  # bytes; AMP takes 65,535

# Supervisor to worker
CONFIGURE: Final = (
    "configure"  # a configuration, whose sockets have come before; answered when it serves
)
MEMBERS: Final = "members"  # what has changed of memberships, health marks and breakers
SHARE: Final = "share"  # its part of the gateway's limits
REST: Final = "rest"  # end keep-alive, or take that back
LEAVE: Final = "leave"  # finish and end
LOGGING: Final = "logging"  # level and debug
REOPEN: Final = "reopen"  # log files
FIGURES: Final = "figures"  # send them now; both ways
STATUS: Final = "status"  # send it now; both ways
BUCKETS: Final = "buckets"  # when the rate limits' buckets are full again
# Worker to supervisor
HELLO: Final = "hello"  # its version
BEAT: Final = "beat"  # once a second: it lives
VERDICTS: Final = "verdicts"  # endpoints and upstreams that it takes out for a while
PROVEN: Final = "proven"  # endpoints that have served well, by upstream
TROUBLE: Final = "trouble"  # an endpoint that its source does not list has failed
SPENT: Final = "spent"  # tokens by client


LINK_FD: Final = 3  # of a worker
BOARD_FD: Final = 4

Spent = dict[str, dict[str, tuple[int, float]]]
"""Tokens by route and client, and when the first of them was taken."""


class Configuration(NamedTuple):
    """All that a worker needs to begin, or to go on after a reload."""

    loaded: Loaded
    number: int  # its own
    via: str  # the daemon's id
    members: dict[str, News]
    share: Share
    draining: bool


class Piece(amp.Command):
    """A part of a message."""

    arguments = [
        (b"topic", amp.Unicode()),
        (b"last", amp.Boolean()),
        (b"number", amp.Integer()),
        (b"data", amp.String()),
    ]
    errors = {Exception: b"FAILED"}


class Socket(amp.Command):
    """A listening socket, by its listener's name."""

    arguments = [(b"listener", amp.Unicode()), (b"fd", amp.Descriptor())]


class Link(amp.AMP):
    """One end; made by the supervisor for each worker, and by a worker once."""

    def __init__(
        self, handlers: Mapping[str, Callable[[Any], Any]], lost: Callable[[], None]
    ) -> None:
        """Args:
        handlers: act on a message, by its topic; may return a Deferred.
        lost: told when the other end is gone.
        """
        super().__init__()
        self.sockets: dict[str, int] = {}  # that have come, by listener
        self._handlers = handlers
        self._lost = lost
        self._pieces: dict[str, list[bytes]] = {}

    def send(self, topic: str, value: Any = None) -> Deferred[Any]:
        """Say something.

        Returns:
            A Deferred that fires when the other end has acted on it; fails if it could not, or is gone.
        """
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        starts = range(0, len(data), _PIECE)
        answered: Deferred[Any] = Deferred()
        for number, start in enumerate(starts):
            last = number == len(starts) - 1
            answered = self.callRemote(
                Piece, topic=topic, last=last, number=number, data=data[start : start + _PIECE]
            )
            if not last:
                answered.addErrback(lambda failure: None)  # the last one tells
        return answered

    def tell(self, topic: str, value: Any = None) -> None:
        """Say something, and go on whatever becomes of it: who is gone is noticed otherwise."""
        self.send(topic, value).addErrback(lambda failure: None)

    def send_socket(self, listener: str, fd: int) -> None:
        """Hand over a listening socket; the descriptor stays the caller's."""
        self.callRemote(Socket, listener=listener, fd=fd).addErrback(lambda failure: None)

    @Piece.responder
    def _piece(self, topic: str, last: bool, number: int, data: bytes) -> Any:
        if number == 0:
            self._pieces[topic] = []
        pieces = self._pieces[topic]
        if number != len(pieces):
            raise ValueError(f"piece {number} of {topic} came for {len(pieces)}")
        pieces.append(data)
        if not last:
            return {}
        value = pickle.loads(b"".join(self._pieces.pop(topic)))
        acted = maybeDeferred(self._handlers[topic], value)
        return acted.addCallback(lambda ignored: {})

    @Socket.responder
    def _socket(self, listener: str, fd: int) -> dict[str, Any]:
        former = self.sockets.pop(listener, None)
        if former is not None:
            os.close(former)
        self.sockets[listener] = fd
        return {}

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Twisted: the other end is gone."""
        super().connectionLost(reason)
        self._lost()
