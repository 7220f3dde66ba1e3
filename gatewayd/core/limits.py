"""How much of a thing a client, a route or an upstream may have at once or over time."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from math import sqrt
from typing import Final, NamedTuple

_MEMO: Final = 65_536


class Verdict(NamedTuple):
    """A rate limit's answer."""

    allowed: bool
    remaining: int  # whole requests that could come at once
    wait: float  # seconds until the next one may come; 0 if it may come now


class RateLimit:
    """A token bucket for each key.

    Kept as the one time at which a bucket would be full again (GCRA, ITU-T I.371): a float a key. The
    keys that were idle for longest go first when there are too many; a bucket that is full again is no
    loss, and an attacker with a million addresses costs no more memory than max_keys.
    """

    def __init__(self, *, rate: float, burst: int, max_keys: int) -> None:
        """Args: rate: tokens a second. burst: of a full bucket. max_keys: buckets kept."""
        self.rate = rate
        self.burst = burst
        self.max_keys = max_keys
        self._step = 1.0 / rate
        self._depth = burst / rate
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> Verdict:
        """Take a token, if there is one."""
        full_at = self._full_at.get(key, 0.0)
        after = max(full_at, now) + self._step
        wait = after - now - self._depth
        if wait > 1e-9:
            self._full_at.move_to_end(key)
            return Verdict(False, 0, wait)
        self._full_at[key] = after
        self._full_at.move_to_end(key)
        if len(self._full_at) > self.max_keys:
            self._full_at.popitem(last=False)
        remaining = int((self._depth - (after - now)) * self.rate + 1e-9)
        return Verdict(True, remaining, 0.0)

    def adopt(self, former: RateLimit) -> None:
        """Take over the buckets of a limit that this one replaces: a reload forgives nobody."""
        self._full_at = former._full_at
        while len(self._full_at) > self.max_keys:
            self._full_at.popitem(last=False)


_networks: dict[str, str] = {}


def client_key(address: str) -> str:
    """Who shares a bucket: an IPv4 address, or an IPv6 /64, which is one customer's."""
    if ":" not in address:
        return address
    known = _networks.get(address)
    if known is None:
        if len(_networks) >= _MEMO:
            _networks.clear()
        known = _networks[address] = _network_of(address)
    return known


def _network_of(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"


class AdaptiveLimit:
    """How many requests an upstream serves well at once, found from its response times.

    A gradient as in Netflix's concurrency-limits (Gradient2): while responses take no longer than they
    use to, the limit grows by about its square root; as queues build up behind the upstream they take
    longer, and the limit shrinks in proportion. Samples of a round are averaged, a round being about as
    many responses as the limit.
    """

    _TOLERANCE: Final = 1.5  # a response may take so much longer than the floor before we shrink
    _SMOOTHING: Final = 0.2
    _DRIFT: Final = 1.002  # a round: the floor rises slowly, so that a slower upstream is believed

    def __init__(self, *, least: int, most: int) -> None:
        """Args: least, most: bounds of the limit."""
        self.least = least
        self.most = most
        self.limit = float(min(most, max(least, 20)))
        self._floor = 0.0  # seconds of an unloaded response
        self._sum = 0.0
        self._count = 0
        self._failed = 0
        self._peak = 0  # requests in flight at most in this round

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.limit:.1f} floor={self._floor:.4f}>"

    def has_room(self, in_flight: int) -> bool:
        """Whether one more may go."""
        return in_flight < int(self.limit)

    def released(self, seconds: float, failed: bool, in_flight: int) -> None:
        """A response has come.

        Args:
            seconds: from the request to the response's head.
            failed: it was none.
            in_flight: that still are.
        """
        self._peak = max(self._peak, in_flight + 1)
        if failed:
            self._failed += 1
        else:
            self._sum += seconds
        self._count += 1
        if self._count >= max(10, int(self.limit)):
            self._round()

    def _round(self) -> None:
        good = self._count - self._failed
        if self._failed * 10 > self._count:  # over a tenth failed: AIMD's multiplicative decrease
            target = self.limit * 0.9
        else:
            mean = self._sum / good
            self._floor = min(mean, self._floor * self._DRIFT) if self._floor else mean
            gradient = max(0.5, min(1.0, self._TOLERANCE * self._floor / max(mean, 1e-9)))
            target = self.limit * gradient
            if self._peak * 2 >= self.limit:  # an idle upstream teaches nothing of its limit
                target += sqrt(self.limit)
        moved = self.limit + self._SMOOTHING * (target - self.limit)
        self.limit = min(float(self.most), max(float(self.least), moved))
        self._sum = 0.0
        self._count = self._failed = self._peak = 0
