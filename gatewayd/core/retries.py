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
    """What a route's retries may cost: a share of its requests over the last ten seconds."""

    __slots__ = ("_requests", "_retries", "_run", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._run = 0  # requests of this second, not in _requests yet: see counters.Tally
        self._requests = [0] * _SLOTS
        self._retries = [0] * _SLOTS

    def _turn(self, second: int) -> None:
        """Go on to a second, and forget those that are over."""
        self._requests[self._second % _SLOTS] += self._run
        self._run = 0
        for passed in range(min(second - self._second, _SLOTS)):
            slot = (second - passed) % _SLOTS
            self._requests[slot] = self._retries[slot] = 0
        self._second = second

    def request(self, now: float) -> None:
        """Count a request; one that began before the last one's second counts with it."""
        second = int(now)
        if second > self._second:
            self._turn(second)
        self._run += 1

    def has_room(self, share: float, now: float) -> bool:
        """Whether a retry may be made.

        Args:
            share: retries allowed per request, 0 to 1.
            now: in seconds, as for the others.
        """
        self._turn(max(int(now), self._second))
        if self._retries[self._second % _SLOTS] < _ALWAYS:
            return True
        return sum(self._retries) < share * sum(self._requests)

    def retry(self, now: float) -> None:
        """Count a retry."""
        self._turn(max(int(now), self._second))
        self._retries[self._second % _SLOTS] += 1


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
        self.budget = budget
        self.buffer = buffer

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
