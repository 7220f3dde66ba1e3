"""Whether a request that failed is tried again: the one decision, and the budget that bounds it.

A retry must do no harm twice over: not to the request, which may only be repeated if its method says so
or no byte of it went out, and not to the upstream, which a storm of failures must not load with more than
the budget's share on top.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

CONNECT_FAILURE: Final = "connect-failure"  # nothing of the request went out
RESET: Final = "reset"  # closed, reset or broke the protocol before its head
TIMEOUT: Final = "timeout"  # response_header
ANSWERS: Final = {502: "502", 503: "503", 504: "504"}
KINDS: Final = (CONNECT_FAILURE, RESET, TIMEOUT, *ANSWERS.values())

_SLOTS: Final = 10  # seconds that the budget looks back, as Finagle's and Linkerd's
_ALWAYS: Final = 3  # retries a second that are never refused (contract)


class Budget:
    """Retries of a route as a share of its requests over the last ten seconds."""

    def __init__(self, share: float) -> None:
        """Args: share: retries allowed per request, 0 to 1."""
        self.share = share
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS
        self._second = 0

    def _turn(self, now: float) -> int:
        """Forget the seconds that have gone by; the index of the current one."""
        second = int(now)
        for passed in range(min(second - self._second, _SLOTS)):
            slot = (second - passed) % _SLOTS
            self._requests[slot] = self._retries[slot] = 0
        self._second = max(second, self._second)
        return self._second % _SLOTS

    def request(self, now: float) -> None:
        """Count a request."""
        second = int(now)
        if second != self._second:
            self._turn(now)
        self._requests[second % _SLOTS] += 1

    def has_room(self, now: float) -> bool:
        """Whether a retry may be made."""
        slot = self._turn(now)
        if self._retries[slot] < _ALWAYS:
            return True
        return sum(self._retries) < self.share * sum(self._requests)

    def retry(self, now: float) -> None:
        """Count a retry."""
        self._retries[self._turn(now)] += 1


class RetryPolicy:
    """A route's retries."""

    def __init__(
        self,
        *,
        attempts: int = 1,
        when: Iterable[str] = (CONNECT_FAILURE, RESET),
        methods: Iterable[str] = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"),
        budget: float = 0.2,
        buffer: int = 65536,
    ) -> None:
        """Args:
        attempts: further tries after the first.
        when: of KINDS.
        methods: that may be repeated though bytes went out.
        budget: retries as a share of the route's requests.
        buffer: bytes of a body that are held to be sent again.
        """
        self.attempts = attempts
        self.when = frozenset(when)
        self.methods = frozenset(method.encode() for method in methods)
        self.budget = Budget(budget)
        self.buffer = buffer

    def adopt(self, former: RetryPolicy) -> None:
        """Go on with the budget of a policy that this one replaces: a reload forgives nothing."""
        former.budget.share = self.budget.share
        self.budget = former.budget

    def refusal(self, kind: str, method: bytes, *, tries: int, sent: bool, held: bool) -> str:
        """Why a failed request is not tried again; empty if it may be, budget permitting.

        Args:
            kind: of the failure, one of KINDS.
            method: of the request.
            tries: that were made already.
            sent: bytes of it have gone out.
            held: what went out of its body is still there.
        """
        if tries > self.attempts:
            return "attempts"
        if kind not in self.when:
            return "kind"
        if sent and method not in self.methods:
            return "method"
        if not held:
            return "body"
        return ""
