"""How much of a thing a client, a route or an upstream may have at once or over time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address
from math import sqrt
from typing import Final, NamedTuple

_MEMO: Final = 65_536


class Verdict(NamedTuple):
    """A rate limit's answer."""

    allowed: bool
    remaining: int  # whole requests that could come at once
    wait: float  # seconds until the next one may come; 0 if it may come now


class Share(NamedTuple):
    """A worker's part in what the whole gateway may do."""

    number: int
    of: int  # workers

    def part(self, count: int) -> int:
        """Of a limit: the parts of all workers add up to it, but nobody has less than 1; 0 stays 0."""
        if not count:
            return 0
        return max(1, count // self.of + (self.number < count % self.of))


ALONE: Final = Share(0, 1)


class RateLimit:
    """A token bucket for each key.

    Kept as the one time at which a bucket would be full again (GCRA, ITU-T I.371): a float a key. The
    keys that were idle for longest go first when there are too many; a bucket that is full again is no
    loss, and an attacker with a million addresses costs no more memory than max_keys.
    """

    def __init__(self, *, rate: float, burst: int, max_keys: int) -> None:
        """Args: rate: tokens a second. burst: of a full bucket. max_keys: buckets kept, 0 = any."""
        self.rate = rate
        self.burst = burst
        self.max_keys = max_keys
        self._step = 1.0 / rate
        self._depth = burst / rate
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._told: Callable[[str, float], None] | None = None

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
        self._keep(key, after)
        if self._told is not None:
            self._told(key, now)
        remaining = int((self._depth - (after - now)) / self._step + 1e-9)
        return Verdict(True, remaining, 0.0)

    def _keep(self, key: str, full_at: float) -> None:
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self.max_keys > 0:
            self._full_at.popitem(last=False)

    # One bucket for several processes: each takes from its own at once and tells of it. What all have
    # taken is known a moment later, so a client within its rate is never refused, and one that is not
    # gets at most a further burst out of each other process before that.

    def on_spent(self, told: Callable[[str, float], None]) -> None:
        """Tell somebody of every token that is taken: whose, and when."""
        self._told = told

    def spend(self, key: str, tokens: int, since: float) -> float:
        """Take what another process has given away since then; when the bucket will be full again.

        By the time of the first one: to count them from when we hear of them would refuse a client that
        comes just in time.
        """
        full_at = max(self._full_at.get(key, 0.0), since) + tokens * self._step
        self._keep(key, full_at)
        return full_at

    def learn(self, key: str, full_at: float, untold: int) -> None:
        """The bucket that all share is full at that time, without tokens taken here and not told of."""
        full_at += untold * self._step
        if full_at > self._full_at.get(key, 0.0):
            self._keep(key, full_at)

    def divide(self, of: int) -> None:
        """Allow only so great a part of the rate; a request at a time always has room."""
        self._step = of / self.rate
        self._depth = max(self.burst / self.rate, self._step)

    def adopt(self, former: RateLimit, now: float) -> None:
        """Take over the buckets of a limit that this one replaces: a reload forgives nobody.

        A bucket keeps the tokens that are missing in it, at most all that it holds from now on.
        """
        self._full_at = former._full_at
        if (self.rate, self.burst) != (former.rate, former.burst):
            share = former.rate / self.rate
            self._full_at = OrderedDict(
                (key, now + min((full_at - now) * share, self._depth))
                for key, full_at in former._full_at.items()
                if full_at > now
            )
        while len(self._full_at) > self.max_keys > 0:
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
        parsed = IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:  # else all of IPv4 would share a /64
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> 64 << 64)) + "/64"


class AdaptiveLimit:
    """How many requests an upstream serves well at once, found from its response times.

    A gradient as in Netflix's concurrency-limits (Gradient2): while responses take no longer than those
    of an unloaded upstream, the floor, the limit grows by about its square root; as queues build up
    behind the upstream they take longer, and the limit shrinks in proportion. Samples of a round are
    averaged, a round being about as many responses as the limit.

    Under lasting overload no response is unloaded, and a floor that followed them would rise with the
    queue and the limit with it, without end. So the floor is probed, as Envoy does for its minRTT:
    every hundred rounds, and when the limit has collapsed, the limit is halved for some fifty responses,
    and again as long as they become faster. How long they take then is the new floor.
    """

    _TOLERANCE: Final = 1.2  # a response may take so much longer than the floor before we shrink
    _SMOOTHING: Final = 0.5
    _GROWTH: Final = 0.5  # of the square root, a round
    _SAMPLES: Final = 20  # a round's responses at least: fewer say little where times vary
    _EVERY: Final = 100  # rounds between probes
    _PROBES: Final = 50  # a probe's responses, as Envoy's request_count
    _FASTER: Final = 0.85  # of the time before: a queue was still there
    _DRIFT: Final = 0.1  # of the way to what an upstream takes that is not busy

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
        self._wanted = max(self._SAMPLES, int(self.limit))
        self._until_probe = 2  # rounds; in the first one, a queue may only be forming
        self._probing = 0.0  # the limit before a probe; 0 = no probe
        self._loaded = 0.0  # seconds at that limit
        self._before = 0.0  # seconds ere the limit was halved last
        self._stale = 0  # responses to come that were sent before that
        self._proven = 0.0  # the limit at the last probe

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
        if self._stale:
            self._stale -= 1
            return
        if in_flight >= self._peak:
            self._peak = in_flight + 1
        if failed:
            self._failed += 1
        else:
            self._sum += seconds
        self._count += 1
        if self._count >= self._wanted:
            self._round(in_flight)

    def _round(self, in_flight: int) -> None:
        if self._failed * 10 > self._count:  # over a tenth failed: AIMD's multiplicative decrease
            self.limit, self._probing = self._probing or self.limit, 0.0
            self._move(self.limit * 0.9)
        else:
            mean = max(1e-9, self._sum / (self._count - self._failed))
            if self._probing:
                self._probed(mean, in_flight)
            else:
                self._judge(mean, in_flight)
        self._wanted = self._PROBES if self._probing else max(self._SAMPLES, int(self.limit))
        self._sum = 0.0
        self._count = self._failed = self._peak = 0

    def _judge(self, mean: float, in_flight: int) -> None:
        busy = self._peak * 2 >= self.limit  # an idle upstream teaches nothing of its limit
        if not self._floor:
            self._floor = mean
        elif not busy:
            self._floor += self._DRIFT * (mean - self._floor)
        gradient = max(0.5, min(1.0, self._TOLERANCE * self._floor / mean))
        self._move(self.limit * gradient + (self._GROWTH * sqrt(self.limit) if busy else 0.0))
        if not busy:
            return
        self._until_probe -= 1
        collapsed = self.limit <= self.least or self.limit < self._proven / 2
        if self._until_probe <= 0 or (gradient < 1.0 and collapsed):
            self._probing = self.limit
            self._loaded = mean
            self._halve(mean, in_flight)

    def _probed(self, mean: float, in_flight: int) -> None:
        if mean < self._FASTER * self._before and self.limit > self.least:
            self._halve(mean, in_flight)
            return
        self._floor = mean
        # By Little's law, what kept the upstream busy without the queue that has come to light.
        share = min(1.0, self._TOLERANCE * mean / self._loaded)
        self.limit = self._proven = max(float(self.least), self._probing * share)
        self._probing = 0.0
        self._until_probe = self._EVERY

    def _halve(self, mean: float, in_flight: int) -> None:
        self._before = mean
        self._stale = in_flight
        self.limit = max(float(self.least), self.limit / 2)

    def _move(self, target: float) -> None:
        moved = self.limit + self._SMOOTHING * (target - self.limit)
        self.limit = min(float(self.most), max(float(self.least), moved))
