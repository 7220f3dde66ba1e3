"""A listening socket and the clients that came by it.

A listener knows its limits and timeouts, counts its clients, and pauses accepting at its cap; the
channels do the rest. It stops in two steps: `drain` lets every client finish, `abort` does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from gatewayd.core.addresses import Address, Networks
from gatewayd.core.counters import ListenerCounters
from gatewayd.core.exchange import Origin
from gatewayd.net.ports import listen
from gatewayd.proxy.channel import ServerChannel
from gatewayd.proxy.context import Context
from gatewayd.proxy.terms import Terms

_TURN: Final = 0.001  # seconds that other workers get to take a client first
# Seconds, a long way's round trip; nginx closes at once, and a busy client sees a reset now and then.
_GRACE: Final = 1.0


class Listener(Service):
    """One listening socket; made by the service, a Twisted service and a protocol factory at once."""

    noisy = False
    numPorts = 0

    def __init__(
        self,
        name: str,
        address: Address,
        *,
        terms: Terms,
        context: Context,
        counters: ListenerCounters,
        reactor: Any,
        inherited: Mapping[str, int],
        accepts: int = 1024,
        board: Any = None,
        trusted: Networks,
        proxy_protocol: Networks | None = None,
        on_full: Callable[[str], None] | None = None,
    ) -> None:
        """Args:
        name, address: its label, and where it listens.
        terms: what clients may do, and who answers them.
        context, counters, reactor: shared things.
        inherited: sockets that listen already, by listener or address (net.ports.inherited_sockets).
        accepts: clients at a time; 1 where others accept there as well, so that each gets its part;
            0 = it only holds the socket, for others.
        board: shows whether another process has fewer clients (workers.board); None = there is none.
        trusted: peers whose X-Forwarded-* are believed.
        proxy_protocol: peers that begin with a PROXY header; None = nobody.
        on_full: told, with a message, when accepting pauses.
        """
        self.setName(name)
        self.label = name
        self.address = address
        self.terms = terms
        self.context = context
        self.counters = counters
        self.trusted = trusted
        self.heads = HeadMemory(terms.limits.max_header_memory)
        self.port: Any = None
        self._number = 0  # of a TCP port, as it is bound
        self._reactor = reactor
        self._inherited = inherited
        self._accepts = accepts
        self._board = board
        self._patient = False  # others have had their chance
        self._proxied = proxy_protocol
        self._on_full = on_full
        self._channels: set[ServerChannel] = set()
        self._idlest: list[ServerChannel] = []  # candidates to close, the longest idle last
        self._sorted_at = -1.0
        self._sorted_in = -1.0  # tick
        self._drained: Deferred[None] | None = None

    def __repr__(self) -> str:
        return f"<Listener {self.name} {self.bound} open={len(self._channels)}>"

    @property
    def bound_address(self) -> Address:
        """The address as it is bound, with the port that the kernel chose."""
        if self.port is None or self.address.kind != "tcp":
            return self.address
        return self.address._replace(port=self.port.getHost().port)

    @property
    def bound(self) -> str:
        """The same, as people write it."""
        return str(self.bound_address)

    # --- Twisted's side

    def privilegedStartService(self) -> None:
        """Twisted: bind, while we may still be root.

        Raises:
            CannotListenError: in use, not allowed, or no such address.
        """
        super().privilegedStartService()
        if self.port is None:
            fd = self._inherited.get(self.label, self._inherited.get(str(self.address)))
            self.port = self._listen(fd)
            if self._board is not None:
                self.yield_path()
            if not self._accepts:
                self.port.pauseProducing()

    def _listen(self, fd: int | None) -> Any:
        port = listen(self.address, self, self._reactor, fd)
        self._number = getattr(port.getHost(), "port", 0)
        return port

    def succeed_to(self, former: Listener) -> None:
        """Listen on the socket of a listener that goes; clients that wait there are not lost."""
        self.port = self._listen(former.port.fileno())
        if not self._accepts:
            self.port.pauseProducing()
        self.yield_path()  # until the switch: a plan may be given up

    def hold(self) -> None:
        """Accept nobody until `accept`; who connects waits in the socket's queue, which is another's."""
        self.port.pauseProducing()
        self.yield_path()

    def accept(self) -> None:
        """Accept, after `hold`; the socket is ours from now on, unless it is systemd's."""
        if self.address.kind != "fd":
            self.yield_path(False)
        if self._accepts:
            self.port.resumeProducing()

    def yield_path(self, yielded: bool = True) -> None:
        """Leave a Unix socket's file when the port closes, for somebody else listens there; or do not."""
        if hasattr(self.port, "yield_path"):
            # With workers the file is the supervisor's, which outlives each of them.
            self.port.yield_path(yielded or self._board is not None)

    def become(self, planned: Listener) -> None:
        """Serve from now on as a listener that was made of a new configuration; clients stay."""
        self.terms.become(planned.terms)
        self.trusted = planned.trusted
        self.heads.limit = planned.heads.limit
        self._proxied = planned._proxied
        self._resume()

    def startService(self) -> None:
        """Twisted: the service starts."""
        super().startService()
        if self.port is None:
            self.privilegedStartService()

    def doStart(self) -> None:
        """Twisted's factory: a port opens."""

    def doStop(self) -> None:
        """Twisted's factory: a port closes."""

    def buildProtocol(self, addr: Any) -> ServerChannel:
        """Twisted's factory: a client connects."""
        peer = getattr(addr, "host", "unix")
        if peer.startswith("::ffff:"):
            peer = peer[7:]
        origin = Origin(
            listener=self.label,
            peer=peer,
            scheme="http",
            port=self._number,
            trusted=bool(self.trusted) and peer in self.trusted,
        )
        return ServerChannel(self, origin)

    def room(self) -> int:
        """How many clients may be accepted now; room is made by closing those idle for longest."""
        limit = self.terms.limits.max_connections
        if self._board is not None and not self._patient and self._board.is_ahead():
            self._patient = True  # once: then whoever waits is taken
            self.hold()
            self._reactor.callLater(_TURN, self._after_others)
            return 0
        self._patient = False
        if not limit:
            return self._accepts
        room = limit - len(self._channels)
        if room <= 0 and not self._close_idlest():
            self._pause()
        return min(self._accepts, max(0, room))

    def _after_others(self) -> None:
        if self.port is not None and not self.counters.paused:
            self.accept()

    def _close_idlest(self) -> bool:
        tick = self.context.wheel.now
        if not self._idlest and self._sorted_in != tick:
            self._sorted_in = tick  # at most one sort a tick
            self._sorted_at = self.context.clock()
            idle = [channel for channel in self._channels if channel.idle]
            self._idlest = sorted(idle, key=lambda channel: -channel.rested_at)
        while self._idlest:
            channel = self._idlest.pop()
            if channel.idle and channel.rested_at <= self._sorted_at and channel.close():
                return True
        return False

    def _pause(self) -> None:
        if not self.counters.paused:
            self.counters.paused = True
            self.counters.accept_paused += 1
            self.port.pauseProducing()
            if self._on_full is not None:
                self._on_full(
                    f"listener {self.name} has {self.terms.limits.max_connections} connections and "
                    "accepts no more until one closes (limits.max_connections)"
                )

    # --- the channels' side

    def expects_proxy(self, peer: str) -> bool:
        """Whether this peer's connections begin with a PROXY header."""
        return self._proxied is not None and peer in self._proxied

    def opened(self, channel: ServerChannel) -> None:
        """A client is there."""
        self._channels.add(channel)
        self.counters.accepted += 1
        self.counters.open += 1
        if self._board is not None:
            self._board.count(1)

    def lost(self, channel: ServerChannel) -> None:
        """A client is no more."""
        self._channels.discard(channel)
        self.counters.open -= 1
        if self._board is not None:
            self._board.count(-1)
        self._resume()
        if self._drained is not None and not self._channels:
            drained, self._drained = self._drained, None
            drained.callback(None)

    # --- ends

    def rest(self, draining: bool) -> None:
        """Let keep-alive end by `Connection: close`, or go on as before."""
        self.terms.draining = draining

    def admit(self, most: int) -> None:
        """Take so many clients from now on, 0 = any number."""
        if most != self.terms.limits.max_connections:
            self.terms.limits.max_connections = most
            self._resume()

    def _resume(self) -> None:
        """Accept again, where that was paused for too many clients."""
        if self.counters.paused and self.port is not None:
            self.counters.paused = False
            self.port.resumeProducing()

    def drain(self) -> Deferred[None]:
        """Accept nobody else, and let everybody finish.

        Returns:
            A Deferred that fires when the last client has left.
        """
        self.terms.draining = True
        port, self.port = self.port, None
        if port is not None:
            port.stopListening()
        done: Deferred[None] = Deferred()
        self._close_rested()
        if self._channels:
            self._drained = done
        else:
            done.callback(None)
        return done

    def _close_rested(self) -> None:
        """Close who has rested for a while; another's next request may be on its way just now."""
        latest = self.context.clock() - _GRACE
        for channel in list(self._channels):
            if channel.rested_at <= latest:
                channel.close()
        if self._channels:
            self._reactor.callLater(_GRACE / 8, self._close_rested)

    def abort(self) -> int:
        """Cut whoever is left, but for those who only rest: they are closed.

        Returns:
            How many are cut.
        """
        busy = [channel for channel in list(self._channels) if not channel.close()]
        for channel in busy:
            channel.transport.abortConnection()
        return len(busy)


class HeadMemory:
    """Bounds all unfinished heads together: over the bound the largest is refused."""

    def __init__(self, limit: int) -> None:
        """Args: limit: bytes, 0 = any."""
        self.limit = limit
        self._held: dict[ServerChannel, int] = {}
        self._total = 0

    def hold(self, channel: ServerChannel, size: int) -> None:
        """A channel holds so many bytes of an unfinished head."""
        self._total += size - self._held.get(channel, 0)
        self._held[channel] = size
        while self.limit and self._total > self.limit:
            largest = max(self._held, key=self._held.__getitem__)
            self.release(largest)
            largest.refuse_head()

    def release(self, channel: ServerChannel) -> None:
        """A channel holds nothing any more."""
        self._total -= self._held.pop(channel, 0)
