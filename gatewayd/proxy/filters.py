"""Who may take a route now: deny, allow, rate limit, concurrency, in this order.

Each is a pure verdict; who is refused spends nothing further on.
"""

from __future__ import annotations

from hashlib import blake2b
from math import ceil
from typing import Final

from gatewayd.core.addresses import Networks
from gatewayd.core.counters import RouteCounters
from gatewayd.core.errors import Denied, GatewayError, MaxConcurrent, RateLimited
from gatewayd.core.exchange import Exchange
from gatewayd.core.limits import RateLimit, Share, Verdict, client_key

_LONG_KEY: Final = 64  # bytes; longer ones are kept by their digest, so that memory is bounded


class RateRule:
    """A rate limit and what it goes by."""

    def __init__(self, limit: RateLimit, key: str) -> None:
        """Args: limit: its buckets. key: `client_ip`, `route`, or `header:NAME`."""
        self.limit = limit
        self.key = key
        self._header = key.partition(":")[2].lower().encode()
        self._by_client = key == "client_ip"
        window = max(1, round(limit.burst / limit.rate))
        self._policy = b'RateLimit-Policy: "default";q=%d;w=%d\r\n' % (limit.burst, window)

    @property
    def is_shared(self) -> bool:
        """Whether workers have to share its buckets: by client; one for a route is divided."""
        return self.key != "route"

    def key_of(self, exchange: Exchange) -> str:
        """Whose bucket a request takes from; a client without the header has that of its address."""
        if self._header:
            value = exchange.head.get(self._header)
            if value:
                return "h" + (
                    blake2b(value, digest_size=16).hexdigest()
                    if len(value) > _LONG_KEY
                    else value.decode("latin-1")
                )
        elif not self._by_client:
            return ""
        return client_key(exchange.client_ip)

    def fields(self, verdict: Verdict) -> tuple[bytes, bytes]:
        """The lines that tell a client (draft-ietf-httpapi-ratelimit-headers-10)."""
        wait = max(verdict.wait, 1.0 / self.limit.rate)
        left, seconds = verdict.remaining, max(1, ceil(wait - 1e-6))
        return self._policy, b'RateLimit: "default";r=%d;t=%d\r\n' % (left, seconds)


class Gate:
    """Counts a route's requests in flight; outlives its filters, for those inside leave by it."""

    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside = 0

    def leave(self) -> None:
        """A request that was let in is over."""
        self.inside -= 1


class Filters:
    """The filters of one route; made by the service."""

    def __init__(
        self,
        counters: RouteCounters,
        *,
        allow: Networks | None = None,
        deny: Networks | None = None,
        rate: RateRule | None = None,
        max_concurrent: int = 0,
    ) -> None:
        """Args:
        counters: of the route.
        allow: None = everybody.
        deny: wins over allow.
        rate: None = any.
        max_concurrent: requests in flight, 0 = any.
        """
        self.allow = allow
        self.deny = deny
        self.rate = rate
        self.max_concurrent = max_concurrent
        self._counters = counters
        self._gate = Gate()

    def refusal(self, exchange: Exchange, now: float) -> GatewayError | None:
        """Why a request may not go on; None if it may, and then it is inside until its gate's `leave`."""
        if self.deny is not None and exchange.client_ip in self.deny:
            return Denied()
        if self.allow is not None and exchange.client_ip not in self.allow:
            return Denied()
        rate = self.rate
        if rate is not None:
            verdict = rate.limit.take(rate.key_of(exchange), now)
            fields = rate.fields(verdict)
            if not verdict.allowed:
                self._counters.rate_limited += 1
                return RateLimited(verdict.wait, fields)
            exchange.limit_field = fields[1]
        if self.max_concurrent:
            gate = self._gate
            if gate.inside >= self.max_concurrent:
                return MaxConcurrent(f"{self.max_concurrent} requests of this route are in flight")
            gate.inside += 1
            exchange.gate = gate
        return None

    def verdict_of(self, client_ip: str) -> str:
        """What `explain` says of a client; spends nothing."""
        if self.deny is not None and client_ip in self.deny:
            return f"{client_ip} is denied"
        if self.allow is not None and client_ip not in self.allow:
            return f"{client_ip} is not among those allowed"
        return ""

    def divide(self, share: Share, max_concurrent: int) -> None:
        """Allow a worker's part of what the whole gateway does; buckets by client are shared instead."""
        self.max_concurrent = share.part(max_concurrent)
        if self.rate is not None and not self.rate.is_shared:
            self.rate.limit.divide(share.of)

    def adopt(self, former: Filters, now: float) -> None:
        """Take over what the filters that these replace have counted."""
        self._gate = former._gate
        if self.rate is not None and former.rate is not None and self.rate.key == former.rate.key:
            self.rate.limit.adopt(former.rate.limit, now)
