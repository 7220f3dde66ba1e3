"""An upstream: a group of endpoints, the balancer over them, and the pool to them.

`pick` answers at once where it can. Where it cannot, because no membership has come yet, all slots are
taken, or the balancer itself has to wait, it answers with a Deferred that waits in a bounded queue for
at most pending_timeout. A change of membership compiles a new balancer in slices while the old one
serves; requests in flight notice nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred

from gatewayd.core.balancers import Balancer, compile_balancer, policy_name
from gatewayd.core.breaker import CLOSED, OPEN, Breaker, BreakerRules
from gatewayd.core.counters import UpstreamCounters
from gatewayd.core.deadlines import INFINITY, Wheel
from gatewayd.core.endpoints import (
    EJECTED,
    HELD,
    LAST_RESORT,
    LEAVING,
    UNCHECKED,
    Endpoint,
    Marks,
    Member,
    reconciled,
)
from gatewayd.core.errors import BreakerOpen, NoEndpoint, PendingTimeout, QueueFull
from gatewayd.core.health import Health, PassiveRules
from gatewayd.core.limits import AdaptiveLimit
from gatewayd.core.slices import Slices, finish
from gatewayd.core.tracing import SILENT, Trace
from gatewayd.upstreams.pool import HTTPConnectionPool

_AT_ONCE: Final = 256  # endpoints up to which a balancer is compiled in one go
_REMEMBERED: Final = 600.0  # seconds that an endpoint's series outlive it (decisions.md, Labels)
_ATTEMPTS: Final = 3  # picks that may fall on a full endpoint before the others are looked at


class _Waiter:
    """A request that waits for a slot or for the first membership."""

    wakes: float = INFINITY

    def __init__(self, upstream: Upstream, key: bytes | None, since: float) -> None:
        self.deadline = INFINITY
        self.key = key
        self.since = since
        self._upstream = upstream
        self.asked: Deferred[Any] | None = None  # a balancer that has to wait itself
        self.deferred: Deferred[Endpoint] = Deferred(lambda _: upstream.forget(self))

    def expired(self, now: float) -> None:
        """pending_timeout is over."""
        self._upstream.forget(self)
        self.deferred.errback(PendingTimeout("no slot within pool.pending_timeout"))


class _Alarm:
    """Reviews an upstream when time alone changes an endpoint's state."""

    deadline: float = INFINITY
    wakes: float = INFINITY

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def expired(self, now: float) -> None:
        """The wheel: it is time."""
        self._upstream.review()


def _rules_of(breaker: Breaker | None) -> BreakerRules | None:
    return breaker.rules if breaker is not None else None


def _bounds_of(adaptive: AdaptiveLimit | None) -> tuple[int, int] | None:
    return (adaptive.least, adaptive.most) if adaptive is not None else None


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
        clock: Callable[[], float],
        wheel: Wheel,
        later: Callable[[Callable[[], None]], Any],
        max_pending: int = 1024,
        pending_timeout: float = 5.0,
        hash_key: str = "client_ip",
        base_path: str = "",
        via: str = "both",
        health: Health | None = None,
        breaker: Breaker | None = None,
        adaptive: AdaptiveLimit | None = None,
        notice: Callable[[str], None] | None = None,
        trace: Trace = SILENT,
    ) -> None:
        """Make one without members.

        Args:
            name: its label.
            balancer: the policy.
            pool: connections to its endpoints.
            counters, random: figures and chance.
            clock, wheel: monotonic seconds, and the deadlines on them.
            later: calls something in the reactor's next turn.
            max_pending: requests that may wait, 0 = none.
            pending_timeout: seconds that one may wait, 0 = none.
            hash_key: what `pick` is given (consistent_hash).
            base_path: put in front of every path.
            via: which way our Via is added: `both`, `response` or `none`.
            health: which endpoints may be picked; default: passive health with its defaults.
            breaker: of the upstream as a whole.
            adaptive: bounds requests in flight by response times.
            notice: takes a message when an endpoint's state changes.
            trace: debug output.
        """
        self.name = name
        self.policy = policy_name(balancer)
        self.pool = pool
        self.counters = counters
        self.hash_key = hash_key if balancer.__name__ == "ConsistentHash" else ""
        self.base_path = base_path.rstrip("/").encode()
        self.via_out = via == "both"
        self.via_back = via != "none"
        self.clock = clock
        self.wheel = wheel
        self.endpoints: tuple[Endpoint, ...] = ()
        self.known = False  # a first membership has come
        # To `endpoints`, of a membership that is being taken.
        self._joining: Sequence[Endpoint] = ()
        self.changed_at = 0.0
        self._departed: dict[Endpoint, float] = {}  # until when their series are shown
        self.health = health if health is not None else Health(passive=PassiveRules())
        self.breaker = breaker
        self.adaptive = adaptive
        self.in_flight = 0
        self.balancer: Balancer = balancer((), random=random)
        self._next = self.balancer.next
        self._kind = balancer
        self._random = random
        self._trace = trace
        self._later = later
        self._max_pending = max_pending
        self._pending_timeout = pending_timeout
        self._waiting: deque[_Waiter] = deque()
        self._compiling: Slices[Balancer] | None = None
        self._wanted: Sequence[Member] = ()
        self._taken: Sequence[Member] = ()
        self._taking: Slices[None] | None = None
        self._on_trouble: Callable[[Endpoint], None] | None = None
        self._on_verdict: Callable[[str, float], None] | None = None
        self._on_change: Callable[[], None] | None = None
        self._on_close: Callable[[Deferred[None]], Deferred[None]] | None = None
        self._guarded = False  # picks have to look twice: core.health
        self._alarm = _Alarm(self)
        self._watchers: list[Callable[[Sequence[Endpoint]], None]] = []
        self._notice = notice
        self._limited = False
        self._limits_changed()

    def __repr__(self) -> str:
        return (
            f"<Upstream {self.name} endpoints={len(self.endpoints)} waiting={len(self._waiting)}>"
        )

    def become(self, planned: Upstream) -> None:
        """Work from now on as an upstream that was made of a new configuration.

        Members, their health, connections and requests that wait stay, and a circuit or limit whose
        rules have not changed.
        """
        self.pool.become(planned.pool)
        self.health.become(planned.health, (*self.endpoints, *self._joining), self.clock())
        self.policy, self._kind = planned.policy, planned._kind
        self.hash_key, self.base_path = planned.hash_key, planned.base_path
        self.via_out, self.via_back = planned.via_out, planned.via_back
        self._max_pending = planned._max_pending
        self._pending_timeout = planned._pending_timeout
        if _rules_of(self.breaker) != _rules_of(planned.breaker):
            self.breaker = planned.breaker
        if _bounds_of(self.adaptive) != _bounds_of(planned.adaptive):
            self.adaptive = planned.adaptive
        self._limits_changed()
        self.recompile()

    def limit(self, connections: int) -> None:
        """Open so many connections to an endpoint at most, 0 = any number."""
        if connections != self.pool.ledger.max_open:
            self.pool.ledger.max_open = connections
            self._limits_changed()

    def _limits_changed(self) -> None:
        limited = bool(self.pool.ledger.max_open)
        self._limited = limited or self.adaptive is not None
        self.pool.freed = self._slot_freed if limited else None
        self._slot_freed()

    # --- picking

    def choose(self) -> Upstream:
        """The upstream that a request goes to: this one (Split chooses among several)."""
        return self

    @property
    def concurrency_limit(self) -> int:
        """Requests that may be in flight at once; 0 = any number."""
        limits = []
        if self.adaptive is not None:
            limits.append(int(self.adaptive.limit))
        if self.pool.ledger.max_open:
            limits.append(self.pool.ledger.max_open * len(self.balancer.endpoints))
        return min(limits, default=0)

    @property
    def is_usable(self) -> bool:
        """Whether a request has a chance: a member is usable, or a first membership may come."""
        return self._awaited or bool(self.balancer.endpoints)

    def pick(self, key: bytes | None) -> Endpoint | Deferred[Endpoint]:
        """Choose an endpoint, and count a request in flight there until `released`.

        Args:
            key: for consistent_hash.

        Returns:
            The endpoint, or a Deferred that fires with one.

        Raises:
            BreakerOpen: too much failed lately.
            NoEndpoint: there were members and none is usable.
            QueueFull: max_pending requests wait already.
            PendingTimeout: it would have to wait, and pending_timeout is 0.
        """
        balancer = self.balancer
        breaker = self.breaker
        if breaker is not None and breaker.state != CLOSED:
            self._ask_breaker(breaker)
        if self._limited:
            if self._waiting:
                return self._wait(key)
            endpoint = self._pick_with_room(key)
            if endpoint is None and balancer.endpoints:
                return self._wait(key)
        else:
            endpoint = self._next() if self._next is not None else balancer.pick(key)
        if isinstance(endpoint, Endpoint):
            if self._guarded:
                endpoint = self._look_twice(endpoint, key)
            endpoint.picks += 1
            endpoint.in_flight += 1
            self.in_flight += 1
            if self._trace.on:
                self._trace.write(f"{self.name} picks {endpoint!r}")
            return endpoint
        if endpoint is None:
            if self._awaited:
                return self._wait(key)
            raise NoEndpoint(f"upstream {self.name} has no usable endpoint")
        return endpoint.addCallback(self._picked)  # type: ignore[no-any-return]

    @property
    def _awaited(self) -> bool:
        """Whether endpoints are on their way: no membership has come, or its balancer is being made."""
        return not self.known or (self._compiling is not None and not self.balancer.endpoints)

    def _picked(self, endpoint: Endpoint | None) -> Endpoint:
        if endpoint is None:
            raise NoEndpoint(f"upstream {self.name}'s balancer found no endpoint")
        endpoint.picks += 1
        endpoint.in_flight += 1
        self.in_flight += 1
        return endpoint

    def _ask_breaker(self, breaker: Breaker) -> None:
        now = self.clock()
        if not breaker.allows(now):
            wait = breaker.retry_after(now)
            raise BreakerOpen(f"upstream {self.name} failed too much: open for {wait} s more", wait)

    def _look_twice(self, endpoint: Endpoint, key: bytes | None) -> Endpoint:
        """Pass over an endpoint that starts slowly or is probed, where there is another."""
        now = self.clock()
        admits = self.health.admits
        has_room = self.pool.ledger.has_room
        first = endpoint
        for _ in range(_ATTEMPTS):
            if has_room(endpoint) and admits(endpoint, self._random.random(), now):
                return endpoint
            self.balancer.released(endpoint, 0.0, False)
            other = self.balancer.pick(key)
            if not isinstance(other, Endpoint) or other is endpoint:
                break
            endpoint = other
        others = self.balancer.endpoints
        start = self._random.randrange(len(others))
        for offset in range(len(others)):
            other = others[start - offset]
            if has_room(other) and admits(other, 0.0, now):
                return other
        return first

    def pick_other(self, tried: Collection[Endpoint]) -> Endpoint | None:
        """Choose for a request that failed elsewhere: none of those it tried, if there is another.

        Args:
            tried: endpoints that failed it.

        Returns:
            An endpoint whose connection can be had at once, or None.
        """
        others = self.balancer.endpoints
        if not others or (self.breaker is not None and self.breaker.state != CLOSED):
            return None
        if self.adaptive is not None and not self.adaptive.has_room(self.in_flight):
            return None
        has_room = self.pool.ledger.has_room
        now = self.clock()
        start = self._random.randrange(len(others))
        found: Endpoint | None = None
        for offset in range(len(others)):
            other = others[start - offset]
            if self._guarded and not self.health.admits(other, 0.0, now):
                continue
            if has_room(other):
                found = other
                if other not in tried:
                    break
        return self._picked(found) if found is not None else None

    def _pick_with_room(self, key: bytes | None) -> Any:
        """A pick that can have a connection at once; None if none can."""
        if self.adaptive is not None and not self.adaptive.has_room(self.in_flight):
            return None
        has_room = self.pool.ledger.has_room
        endpoint: Any = None
        for _ in range(_ATTEMPTS):
            endpoint = self.balancer.pick(key)
            if not isinstance(endpoint, Endpoint) or has_room(endpoint):
                return endpoint
            self.balancer.released(endpoint, 0.0, False)
        return next((other for other in self.balancer.endpoints if has_room(other)), None)

    def released(
        self, endpoint: Endpoint, seconds: float, failed: bool, *, told: bool = True
    ) -> None:
        """A picked endpoint's request is over.

        Args:
            endpoint: as picked.
            seconds: to the response's head.
            failed: by the endpoint's fault.
            told: it came to a verdict; False where a client left before.
        """
        endpoint.in_flight -= 1
        self.in_flight -= 1
        self.balancer.released(endpoint, seconds, failed)
        if self._departed and endpoint in self._departed:
            self.pool.forget(endpoint)  # it has left: what it was still busy with is done
        if told:
            now = self.clock()
            if self.health.served(endpoint, failed, self.endpoints, now):
                self._settled(endpoint)
            if self.breaker is not None and self.breaker.done(failed, now):
                if self.breaker.state == OPEN and self._on_verdict is not None:
                    self._on_verdict("", self.breaker.until)
                self._say(f"the circuit breaker of upstream {self.name} is {self.breaker.state}")
            if self.adaptive is not None:
                self.adaptive.released(seconds, failed, self.in_flight)
        if self.adaptive is not None and self._waiting:
            self._slot_freed()

    # --- health

    def checked(self, endpoint: Endpoint, good: bool) -> None:
        """An active check is over."""
        self.counters.checks["good" if good else "bad"] += 1
        was_down = endpoint.down
        if self.health.checked(endpoint, good, self.clock()):
            self._settled(endpoint)
        elif endpoint.down != was_down:
            self.recompile()  # a last resort: its state is the same
        if endpoint.down and endpoint.standing:
            self._doubt(endpoint)

    def drain(self, label: str, drained: bool) -> None:
        """Take an endpoint out, or put it back.

        Raises:
            LookupError: there is no such endpoint.
        """
        for endpoint in self.endpoints:
            if endpoint.label == label:
                if self.health.drain(endpoint, drained, self.clock()):
                    self._settled(endpoint)
                return
        raise LookupError(f"upstream {self.name} has no endpoint {label}")

    def review(self) -> None:
        """Time has changed a state: an ejection is over, a slow start done."""
        now = self.clock()
        changed = [each for each in self.endpoints if self.health.settle(each, now)]
        for endpoint in changed:
            self._say(f"upstream {self.name}: {endpoint.label} is {endpoint.state}")
        self.recompile()

    def on_verdict(self, told: Callable[[str, float], None]) -> None:
        """Tell somebody who is taken out by failures: an endpoint's label, or "" for all; until when."""
        self._on_verdict = told

    def on_change(self, told: Callable[[], None]) -> None:
        """Tell somebody of every change of the members, or of an endpoint's state."""
        self._on_change = told

    def mark(self, marks: Mapping[Endpoint, Marks]) -> None:
        """Believe what another process found out of endpoints."""
        now = self.clock()
        changed = False
        for endpoint, each in marks.items():
            if endpoint.marks != each:
                before = endpoint.usable, endpoint.down  # which no state may show
                endpoint.take_marks(each)
                changed = self.health.settle(endpoint, now) or changed
                changed = changed or before != (endpoint.usable, endpoint.down)
        if changed:
            self.recompile()

    def eject(self, label: str, until: float) -> None:
        """Another process takes an endpoint out until then."""
        for endpoint in self.endpoints:
            if endpoint.label == label and endpoint.ejected_until < until:
                self.mark({endpoint: endpoint.marks._replace(ejected_until=until)})

    def prove(self, labels: Collection[str]) -> None:
        """Requests to these endpoints were good in another process."""
        now = self.clock()
        news = [
            each
            for each in self.endpoints
            if each.label in labels and not (each.known_good or each.down or each.awaits_check)
        ]
        for endpoint in news:
            endpoint.known_good = True
            if endpoint.state == UNCHECKED:
                self.health.settle(endpoint, now)
        if news:
            self._changed()

    def open_circuit(self, until: float) -> None:
        """Another process's circuit to this upstream is open until then."""
        breaker = self.breaker
        if breaker is not None and until > max(self.clock(), breaker.until):
            breaker.open_until(until)
            self._changed()

    def fail(self, label: str) -> None:
        """An endpoint that its source does not list has failed in another process."""
        for endpoint in self.endpoints:
            if endpoint.label == label and endpoint.standing:
                endpoint.connect_failures += 1
                self._doubt(endpoint)

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _settled(self, endpoint: Endpoint) -> None:
        if endpoint.state == EJECTED and self._on_verdict is not None:
            breaker = endpoint.breaker
            opened = breaker.until if breaker is not None and breaker.state == OPEN else 0.0
            self._on_verdict(endpoint.label, max(endpoint.ejected_until, opened))
        self._say(f"upstream {self.name}: {endpoint.label} is {endpoint.state}")
        self.recompile()

    def _say(self, message: str) -> None:
        if self._notice is not None:
            self._notice(message)

    # --- waiting

    def _wait(self, key: bytes | None) -> Deferred[Endpoint]:
        if not self._pending_timeout:
            self.counters.rejected += 1
            raise PendingTimeout(f"upstream {self.name}: pool.pending_timeout is 0")
        if len(self._waiting) >= self._max_pending:
            self.counters.rejected += 1
            raise QueueFull(f"upstream {self.name}: {len(self._waiting)} requests wait already")
        waiter = _Waiter(self, key, self.clock())
        self._waiting.append(waiter)
        self.counters.waited += 1
        self.counters.pending += 1
        self.wheel.arm(waiter, self.wheel.now + self._pending_timeout)
        return waiter.deferred

    def forget(self, waiter: _Waiter) -> None:
        """A waiter has given up."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            self.counters.pending -= 1
            waiter.deadline = INFINITY
        elif waiter.asked is not None:
            waiter.asked.cancel()

    def _slot_freed(self) -> None:
        latest = self.clock() - self._pending_timeout
        while self._waiting:
            waiter = self._waiting[0]
            if waiter.since < latest:  # the wheel is coarse: it would come a tick too late
                waiter.expired(latest)
                continue
            endpoint = self._pick_with_room(waiter.key)
            if endpoint is None:
                return
            self._waiting.popleft()
            self.counters.pending -= 1
            waiter.deadline = INFINITY
            self.counters.queue.observe(self.clock() - waiter.since)
            if isinstance(endpoint, Deferred):
                waiter.asked = endpoint
                endpoint.addCallback(self._picked).chainDeferred(waiter.deferred)
            else:
                if self._guarded:
                    endpoint = self._look_twice(endpoint, waiter.key)
                waiter.deferred.callback(self._picked(endpoint))

    def _refuse_waiters(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            self.counters.pending -= 1
            waiter.deadline = INFINITY
            waiter.deferred.errback(NoEndpoint(f"upstream {self.name} has no usable endpoint"))

    # --- membership

    def set_members(self, members: Iterable[Member]) -> None:
        """Take a new membership; a large one in slices, and of several the newest.

        It is in effect when the balancer is compiled.
        """
        self._wanted = tuple(members)
        if self._taking is not None:
            return  # goes on with the newest when it is done
        self._taking = self._take_members(self._wanted)
        if len(self._wanted) + len(self.endpoints) <= 2 * _AT_ONCE:
            try:
                finish(self._taking)
            finally:
                self._taking = None
        else:
            self._take_on()

    def _take_on(self) -> None:
        assert self._taking is not None
        taken = self._wanted
        try:
            next(self._taking)
        except StopIteration:
            self._taking = self._take_members(self._wanted) if taken is not self._taken else None
        except Exception:
            self._taking = None  # a balancer of one's own failed: the next change counts again
            raise
        if self._taking is not None:
            self._later(self._take_on)

    def _take_members(self, wanted: Sequence[Member]) -> Slices[None]:
        self._taken = wanted
        now = self.clock()
        change = yield from reconciled(self.endpoints, wanted, self.departed(now))
        first = not self.known
        self._joining = change.joined
        for done, endpoint in enumerate(change.joined):
            self._departed.pop(endpoint, None)
            self.health.joined(endpoint, now, first=first)
            if done % _AT_ONCE == _AT_ONCE - 1:
                yield
        for done, endpoint in enumerate(change.members):
            if endpoint.state == LEAVING and not endpoint.standing:
                endpoint.state = UNCHECKED  # a last resort no more: its source names it again
            if endpoint.standing or endpoint.state in (HELD, UNCHECKED):
                self.health.settle(endpoint, now)
            if done % _AT_ONCE == _AT_ONCE - 1:
                yield
        self.known = True
        self.endpoints, self._joining = change.members, ()
        if change.altered or first:
            for told in self._watchers:
                told(change.joined)
        for done, endpoint in enumerate(change.left):
            endpoint.standing = ""
            endpoint.state = LEAVING
            self._departed[endpoint] = now + _REMEMBERED
            self.pool.forget(endpoint)
            if done % _AT_ONCE == _AT_ONCE - 1:
                yield
        if change.altered:
            self.counters.changes += 1
        if change.altered or first:
            self.changed_at = now
            self.recompile()

    def on_trouble(self, told: Callable[[Endpoint], None]) -> None:
        """Tell somebody of endpoints that are no longer listed and fail."""
        self._on_trouble = told

    def failed_connect(self, endpoint: Endpoint) -> None:
        """A connection to it failed, or was reset before an answer."""
        endpoint.connect_failures += 1
        twice = endpoint.connect_failures >= 2
        if endpoint.standing == LAST_RESORT or (endpoint.standing == HELD and twice):
            self._doubt(endpoint)

    def _doubt(self, endpoint: Endpoint) -> None:
        if self._on_trouble is not None:
            self._on_trouble(endpoint)

    def watch_members(self, told: Callable[[Sequence[Endpoint]], None]) -> None:
        """Call somebody after each change of the membership, with those who joined."""
        self._watchers.append(told)

    def departed(self, now: float) -> list[Endpoint]:
        """Endpoints that have left not long ago; their figures are still shown."""
        for endpoint in [each for each, until in self._departed.items() if until <= now]:
            del self._departed[endpoint]
        return list(self._departed)

    def recompile(self) -> None:
        """Build the balancer anew: a membership, a weight or a state has changed."""
        panic = self.health.panic
        usable = self.health.usable(self.endpoints)
        if panic != self.health.panic:
            state = (
                "is in panic: too few members are usable, all are used" if not panic else "is calm"
            )
            self._say(f"upstream {self.name} {state}")
        self._changed()
        now = self.clock()
        self._guarded = self.health.guarded(self.endpoints)
        self.wheel.arm(self._alarm, self.health.wakes(self.endpoints, now))
        slices = compile_balancer(self._kind, usable, self._random, self.balancer, self.clock)
        started = self._compiling is not None
        self._compiling = slices
        if max(len(usable), len(self.balancer.endpoints)) <= _AT_ONCE:
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
        except Exception as error:
            self._compiling = None  # a balancer of one's own may fail: the last one serves on
            if not isinstance(error, StopIteration):
                raise
            self.balancer = error.value
            self._next = self.balancer.next
            if self._trace.on:
                self._trace.write(f"{self!r} picks among {len(self.balancer.endpoints)}")
            if self.balancer.endpoints:
                self._slot_freed()
            else:
                self._refuse_waiters()

    def retire(self) -> None:
        """No route leads here any more: who waits or is served goes on, and nothing is kept for others."""
        self.pool.close()

    def close(self) -> Deferred[None]:
        """The end: nobody waits on.

        Returns:
            A Deferred that fires when the idle connections are closed, and what `on_close` asks for is
            done.
        """
        self._refuse_waiters()
        closed = self.pool.close()
        return closed if self._on_close is None else self._on_close(closed)

    def on_close(self, asked: Callable[[Deferred[None]], Deferred[None]]) -> None:
        """Have somebody else end with it, who is given when the idle connections are closed."""
        self._on_close = asked
