"""Which endpoints may be picked: what checks, failures, operators and membership say of each.

An endpoint bears independent marks, and its state is the first that holds:

| state | mark |
| --- | --- |
| leaving | it is no longer a member, or only a last resort (core.membership) |
| draining | an operator takes it out |
| unhealthy | active checks failed `unhealthy` times in a row |
| ejected | it failed too many requests; until `ejected_until` |
| unchecked | active checks are on, it joined later than the first membership, and none was good yet |
| held | its source no longer names it and is not believed yet |
| slow_start | back or new, it gets a growing share until `slow_until` |
| healthy | a check or a request was good |
| unchecked | nothing is known of it, and nothing has to be |

Everything here is pure: methods say whether the set of usable endpoints has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from gatewayd.core.breaker import CLOSED, OPEN, Breaker, BreakerRules
from gatewayd.core.endpoints import (
    DRAINING,
    EJECTED,
    HEALTHY,
    HELD,
    LAST_RESORT,
    LEAVING,
    SLOW_START,
    UNCHECKED,
    UNHEALTHY,
    Endpoint,
)

_MAX_GROWTH: Final = 10  # times eject_for at most, as Envoy's max_ejection_time 300 s for 30 s
_INFINITY: Final = float("inf")


class PassiveRules:
    """When failures of requests eject an endpoint."""

    def __init__(
        self,
        *,
        consecutive_failures: int = 5,
        eject_for: float = 30.0,
        max_ejected: float = 0.5,
    ) -> None:
        """Args: eject_for: seconds, longer each time. max_ejected: share of the members, 0 to 1."""
        self.consecutive_failures = consecutive_failures
        self.eject_for = eject_for
        self.max_ejected = max_ejected


class ActiveRules:
    """When checks change their mind."""

    def __init__(self, *, healthy: int = 2, unhealthy: int = 3) -> None:
        """Args: healthy, unhealthy: results in a row."""
        self.healthy = healthy
        self.unhealthy = unhealthy


class Health:
    """What is known of the endpoints of one upstream."""

    def __init__(
        self,
        *,
        passive: PassiveRules | None,
        active: ActiveRules | None = None,
        breaker: BreakerRules | None = None,
        slow_start: float = 0.0,
        panic_threshold: float = 0.2,
    ) -> None:
        """Args:
        passive, active, breaker: None = off.
        slow_start: seconds.
        panic_threshold: share of usable members below which all are used.
        """
        self.passive = passive
        self.active = active
        self.slow_start = slow_start
        self.panic_threshold = panic_threshold
        self._breaker = breaker
        self.panic = False

    def become(self, planned: Health, members: Sequence[Endpoint], now: float) -> None:
        """Go by other rules from now on; marks stay, but for those that nobody would lift any more."""
        if planned._breaker != self._breaker:
            self._breaker = planned._breaker
            for each in members:
                each.breaker = Breaker(self._breaker) if self._breaker is not None else None
        self.passive = planned.passive
        self.active = planned.active
        self.slow_start = planned.slow_start
        self.panic_threshold = planned.panic_threshold
        for each in members:
            if self.active is None:
                each.down = each.awaits_check = False
            if self.passive is None:
                each.ejected_until = 0.0
            if not self.slow_start:
                each.slow_until = 0.0
            self.settle(each, now)

    # --- what happens to an endpoint

    def joined(self, endpoint: Endpoint, now: float, *, first: bool) -> None:
        """It became a member; those of a first membership are used unchecked."""
        endpoint.awaits_check = self.active is not None and not first
        endpoint.known_good = False  # it may have been here before
        endpoint.down = endpoint.down and self.active is not None  # else nobody would lift it
        endpoint.breaker = Breaker(self._breaker) if self._breaker is not None else None
        endpoint.slow_until = now + self.slow_start if self.slow_start and not first else 0.0
        self.settle(endpoint, now)

    def served(
        self, endpoint: Endpoint, failed: bool, members: Sequence[Endpoint], now: float
    ) -> bool:
        """A request that was sent to it is over.

        Args:
            failed: by the endpoint's fault.
            members: of its upstream.

        Returns:
            Whether it was ejected, or is back.
        """
        changed = False
        breaker = endpoint.breaker
        if breaker is not None and breaker.done(failed, now):
            # One that has closed changes no state, but its picks need not look twice any more.
            changed = self.settle(endpoint, now) or breaker.state == CLOSED
        if not failed:
            endpoint.failures = 0
            if endpoint.state == UNCHECKED and not endpoint.awaits_check:
                endpoint.known_good = True  # also after a drain
                endpoint.state = HEALTHY
            return changed
        endpoint.failures += 1
        passive = self.passive
        if (
            passive is None
            or endpoint.failures < passive.consecutive_failures
            or endpoint.ejected_until > now
            or not self._may_eject(endpoint, members, now)
        ):
            return changed
        if now - endpoint.ejected_until > _MAX_GROWTH * passive.eject_for:
            endpoint.ejections = 0
        endpoint.ejections += 1
        endpoint.failures = 0
        seconds = passive.eject_for * min(endpoint.ejections, _MAX_GROWTH)
        endpoint.ejected_until = now + seconds
        return self.settle(endpoint, now) or changed

    def _may_eject(self, endpoint: Endpoint, members: Sequence[Endpoint], now: float) -> bool:
        assert self.passive is not None
        out = sum(each.ejected_until > now for each in members)
        if out >= ceil(self.passive.max_ejected * len(members)):
            return False
        return any(each.usable and each is not endpoint for each in members)

    def checked(self, endpoint: Endpoint, good: bool, now: float) -> bool:
        """An active check is over.

        Returns:
            Whether the endpoint's state has changed.
        """
        active = self.active
        if active is None:
            return False
        if good:
            endpoint.bad_checks = 0
            endpoint.good_checks += 1
            if endpoint.awaits_check or endpoint.good_checks >= active.healthy:
                was_down = endpoint.down or endpoint.awaits_check
                endpoint.down = endpoint.awaits_check = False
                endpoint.known_good = True
                if was_down and self.slow_start:
                    endpoint.slow_until = now + self.slow_start
        else:
            endpoint.good_checks = 0
            endpoint.bad_checks += 1
            if endpoint.bad_checks >= active.unhealthy:
                endpoint.down = True
                endpoint.known_good = False
        return self.settle(endpoint, now)

    def drain(self, endpoint: Endpoint, drained: bool, now: float) -> bool:
        """An operator takes it out, or puts it back.

        Returns:
            Whether its state has changed.
        """
        endpoint.drained = drained
        return self.settle(endpoint, now)

    # --- what follows

    def settle(self, endpoint: Endpoint, now: float) -> bool:
        """Bring its state to what its marks say.

        Returns:
            Whether it is another.
        """
        before = endpoint.state
        if before == LEAVING and not endpoint.standing:
            return False  # it has left: only what is in flight goes on
        endpoint.state = after = self._state(endpoint, now)
        if before == EJECTED and after != EJECTED and self.slow_start:
            endpoint.slow_until = now + self.slow_start
            endpoint.state = after = self._state(endpoint, now)
        return before != after

    def _state(self, endpoint: Endpoint, now: float) -> str:
        if endpoint.drained:
            return DRAINING
        if endpoint.standing == LAST_RESORT:
            return LEAVING
        if endpoint.down:
            return UNHEALTHY
        if endpoint.ejected_until > now or self._broken(endpoint, now):
            return EJECTED
        if endpoint.awaits_check:
            return UNCHECKED
        if endpoint.standing:
            return HELD
        if endpoint.slow_until > now:
            return SLOW_START
        if endpoint.known_good or endpoint.state in (HEALTHY, SLOW_START, EJECTED):
            return HEALTHY
        return UNCHECKED

    def _broken(self, endpoint: Endpoint, now: float) -> bool:
        breaker = endpoint.breaker
        return breaker is not None and breaker.state == OPEN and breaker.until > now

    def usable(self, members: Sequence[Endpoint]) -> list[Endpoint]:
        """Those that may be picked; in panic all but the drained and weightless.

        Where there is nobody else, the last resorts. Sets `panic`; those whose last connect failed come
        last then, where a balancer has an order.
        """
        weighty = [
            each for each in members if each.weight and each.state not in (DRAINING, LEAVING)
        ]
        usable = [each for each in weighty if each.usable]
        if not usable:
            weighty += [
                each
                for each in members
                if each.weight and each.standing == LAST_RESORT and not each.drained
            ]
            usable = [each for each in weighty if each.state == LEAVING and not each.down]
        self.panic = bool(weighty) and len(usable) < self.panic_threshold * len(weighty)
        if not self.panic:
            return usable
        return sorted(weighty, key=lambda each: each.connect_failures > 0)

    def wakes(self, members: Sequence[Endpoint], now: float) -> float:
        """When a state changes by time alone; infinity if never."""
        soonest = _INFINITY
        for each in members:
            if each.ejected_until or each.slow_until or each.breaker is not None:
                breaker = each.breaker
                opens = breaker.until if breaker is not None and breaker.state == OPEN else 0.0
                for moment in (each.ejected_until, each.slow_until, opens):
                    if now < moment < soonest:
                        soonest = moment
        return soonest

    def guarded(self, members: Sequence[Endpoint]) -> bool:
        """Whether picks have to look twice: somebody starts slowly, or is probed by a breaker."""
        return any(
            each.state == SLOW_START or (each.breaker is not None and each.breaker.state != CLOSED)
            for each in members
        )

    def admits(self, endpoint: Endpoint, chance: float, now: float) -> bool:
        """Whether a pick stands, of an endpoint that starts slowly or is probed.

        Args:
            endpoint: that was picked.
            chance: 0 to 1, drawn.
        """
        if endpoint.slow_until > now and self.slow_start:
            share = max(0.1, 1.0 - (endpoint.slow_until - now) / self.slow_start)
            if chance >= share:
                return False
        # Last, for it may spend the one probe: what is asked after it must not say no.
        breaker = endpoint.breaker
        return breaker is None or breaker.state == CLOSED or breaker.allows(now)
