"""An upstream: a group of endpoints, the balancer over them, and the pool to them.

`pick` answers at once where it can. Where it cannot, because no membership has come yet, all slots are
taken, or the balancer itself has to wait, it answers with a Deferred that waits in a bounded queue for
at most pending_timeout. A change of membership compiles a new balancer in slices while the old one
serves; requests in flight notice nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred

from gatewayd.core.balancers import Balancer, Slices, compile_balancer
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.deadlines import INFINITY, Wheel
from gatewayd.core.endpoints import Endpoint, Member, reconcile
from gatewayd.core.errors import NoEndpoint, PendingTimeout, QueueFull
from gatewayd.upstreams.pool import HTTPConnectionPool

_AT_ONCE: Final = 256  # endpoints up to which a balancer is compiled in one go
_ATTEMPTS: Final = 3  # picks that may fall on a full endpoint before the others are looked at


class _Waiter:
    """A request that waits for a slot or for the first membership."""

    wakes: float = INFINITY

    def __init__(self, upstream: "Upstream", key: bytes | None, since: float) -> None:
        self.deadline = INFINITY
        self.key = key
        self.since = since
        self._upstream = upstream
        self.deferred: Deferred[Endpoint] = Deferred(lambda _: upstream.forget(self))

    def expired(self, now: float) -> None:
        """pending_timeout is over."""
        self._upstream.forget(self)
        self.deferred.errback(PendingTimeout("no slot within pool.pending_timeout"))


class Upstream:
    """A group of endpoints; made by the service, ended with it."""

    def __init__(
        self,
        name: str,
        *,
        balancer: type[Balancer],
        pool: HTTPConnectionPool,
        counters: UpstreamCounters,
        random: Random,
        wheel: Wheel,
        later: Callable[[Callable[[], None]], Any],
        max_pending: int = 1024,
        pending_timeout: float = 5.0,
        hash_key: str = "client_ip",
    ) -> None:
        """Make one without members.

        Args:
            name: its label.
            balancer: the policy.
            pool: connections to its endpoints.
            counters, random, wheel: figures, chance and time.
            later: calls something in the reactor's next turn.
            max_pending: requests that may wait, 0 = none.
            pending_timeout: seconds that one may wait, 0 = none.
            hash_key: what `pick` is given (consistent_hash).
        """
        self.name = name
        self.pool = pool
        self.counters = counters
        self.hash_key = hash_key if balancer.__name__ == "ConsistentHash" else ""
        self.endpoints: tuple[Endpoint, ...] = ()
        self.known = False  # a first membership has come
        self.balancer: Balancer = balancer((), random=random)
        self._kind = balancer
        self._random = random
        self._wheel = wheel
        self._later = later
        self._max_pending = max_pending
        self._pending_timeout = pending_timeout
        self._waiting: deque[_Waiter] = deque()
        self._compiling: Slices[Balancer] | None = None
        self._limited = bool(pool.ledger.max_open)
        if self._limited:
            pool.freed = self._slot_freed

    def __repr__(self) -> str:
        return f"<Upstream {self.name} endpoints={len(self.endpoints)} waiting={len(self._waiting)}>"

    # --- picking

    def pick(self, key: bytes | None) -> "Endpoint | Deferred[Endpoint]":
        """Choose an endpoint, and count a request in flight there until `released`.

        Args:
            key: for consistent_hash.

        Returns:
            The endpoint, or a Deferred that fires with one.

        Raises:
            NoEndpoint: there were members and none is usable.
            QueueFull: max_pending requests wait already.
        """
        balancer = self.balancer
        if self._limited:
            if self._waiting:
                return self._wait(key)
            endpoint = self._pick_with_room(key)
            if endpoint is None and balancer.endpoints:
                return self._wait(key)
        else:
            endpoint = balancer.next() if balancer.next is not None else balancer.pick(key)
        if isinstance(endpoint, Endpoint):
            endpoint.picks += 1
            endpoint.in_flight += 1
            return endpoint
        if endpoint is None:
            if not self.known:
                return self._wait(key)
            raise NoEndpoint(f"upstream {self.name} has no usable endpoint")
        return endpoint.addCallback(self._picked)  # type: ignore[no-any-return]

    def _picked(self, endpoint: Endpoint | None) -> Endpoint:
        if endpoint is None:
            raise NoEndpoint(f"upstream {self.name}'s balancer found no endpoint")
        endpoint.picks += 1
        endpoint.in_flight += 1
        return endpoint

    def _pick_with_room(self, key: bytes | None) -> Any:
        """A pick that can have a connection at once; None if none can."""
        has_room = self.pool.ledger.has_room
        endpoint: Any = None
        for _ in range(_ATTEMPTS):
            endpoint = self.balancer.pick(key)
            if not isinstance(endpoint, Endpoint) or has_room(endpoint):
                return endpoint
            self.balancer.released(endpoint, 0.0, False)
        return next((other for other in self.balancer.endpoints if has_room(other)), None)

    def released(self, endpoint: Endpoint, seconds: float, failed: bool) -> None:
        """A picked endpoint's request is over."""
        endpoint.in_flight -= 1
        self.balancer.released(endpoint, seconds, failed)

    # --- waiting

    def _wait(self, key: bytes | None) -> "Deferred[Endpoint]":
        if len(self._waiting) >= self._max_pending or not self._pending_timeout:
            self.counters.rejected += 1
            raise QueueFull(f"upstream {self.name}: {len(self._waiting)} requests wait already")
        waiter = _Waiter(self, key, self._wheel.now)
        self._waiting.append(waiter)
        self.counters.waited += 1
        self.counters.pending += 1
        self._wheel.arm(waiter, self._wheel.now + self._pending_timeout)
        return waiter.deferred

    def forget(self, waiter: _Waiter) -> None:
        """A waiter has given up."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            self.counters.pending -= 1
            waiter.deadline = INFINITY

    def _slot_freed(self) -> None:
        while self._waiting:
            waiter = self._waiting[0]
            endpoint = self._pick_with_room(waiter.key)
            if endpoint is None:
                return
            self._waiting.popleft()
            self.counters.pending -= 1
            waiter.deadline = INFINITY
            self.counters.queue.observe(max(0.0, self._wheel.now - waiter.since))
            if isinstance(endpoint, Deferred):
                endpoint.addCallback(self._picked).chainDeferred(waiter.deferred)
            else:
                waiter.deferred.callback(self._picked(endpoint))

    def _refuse_waiters(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            self.counters.pending -= 1
            waiter.deadline = INFINITY
            waiter.deferred.errback(NoEndpoint(f"upstream {self.name} has no usable endpoint"))

    # --- membership

    def set_members(self, members: Iterable[Member]) -> None:
        """Take a new membership; it is in effect when the balancer is compiled."""
        change = reconcile(self.endpoints, members)
        first = not self.known
        self.known = True
        self.endpoints = change.members
        for endpoint in change.left:
            self.pool.forget(endpoint)
        if change:
            self.counters.changes += 1
        if change or first:
            self.recompile()

    def recompile(self) -> None:
        """Build the balancer anew: a membership, a weight or a state has changed."""
        usable = [endpoint for endpoint in self.endpoints if endpoint.usable]
        slices = compile_balancer(self._kind, usable, self._random, self.balancer)
        started = self._compiling is not None
        self._compiling = slices
        if len(usable) <= _AT_ONCE:
            while self._compiling is slices:
                self._compile_slice()
        elif not started:
            self._later(self._compile_on)

    def _compile_on(self) -> None:
        self._compile_slice()
        if self._compiling is not None:
            self._later(self._compile_on)

    def _compile_slice(self) -> None:
        slices = self._compiling
        if slices is None:
            return
        try:
            next(slices)
        except StopIteration as stop:
            self._compiling = None
            self.balancer = stop.value
            if self.balancer.endpoints:
                self._slot_freed()
            else:
                self._refuse_waiters()

    def close(self) -> None:
        """The end: nobody waits on."""
        self._refuse_waiters()
        self.pool.close()

