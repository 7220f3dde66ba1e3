"""A server with so many places and a queue, in virtual time, behind a limit."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

from gatewayd.core.limits import AdaptiveLimit

Service = Callable[[Random], float]


def steady(random: Random) -> float:
    """Always 20 ms."""
    return 0.02


def varied(random: Random) -> float:
    """About 20 ms, as most servers."""
    return 0.02 * random.lognormvariate(0.0, 0.2)


def exponential(random: Random) -> float:
    """20 ms on average, memoryless: the M of M/M/c."""
    return random.expovariate(50.0)


class Figures:
    """What came out of the part of a run that counts."""

    def __init__(self, limits: list[float], times: list[float], goodput: float) -> None:
        self.limits = limits
        self.times = sorted(times)
        self.goodput = goodput  # of what the server could have done

    def quantile(self, share: float) -> float:
        """Of response times, in seconds."""
        return self.times[int(share * len(self.times))]


def serve(
    limit: AdaptiveLimit,
    *,
    places: int,
    load: float,
    service: Service,
    seconds: float = 40.0,
    counted: float = 10.0,
    slower: tuple[float, float] = (0.0, 1.0),
    failing: float = 0.0,
    seed: int = 1,
) -> Figures:
    """Offer requests at random times; who finds no room is refused.

    Args:
        limit: decides who comes in.
        places: requests served at once.
        load: offered, as a multiple of what the server can do.
        service: seconds of one.
        seconds: of the run.
        counted: from when on it counts.
        slower: from when on everything takes so many times as long.
        failing: share of requests that fail.
        seed: of all chance.
    """
    random = Random(seed)
    rate = load * places / 0.02
    now, arrival, number, inside, busy = 0.0, random.expovariate(rate), 0, 0, 0
    ends: list[tuple[float, int, float]] = []
    queue: deque[float] = deque()
    limits: list[float] = []
    times: list[float] = []

    def begin(came: float) -> None:
        nonlocal number
        number += 1
        takes = service(random) * (slower[1] if slower[0] and now >= slower[0] else 1.0)
        heapq.heappush(ends, (now + takes, number, came))

    while now < seconds:
        if ends and ends[0][0] <= arrival:
            now, _, came = heapq.heappop(ends)
            inside -= 1
            if now >= counted:
                times.append(now - came)
                limits.append(limit.limit)
            limit.released(now - came, failing > random.random(), inside)
            if queue:
                begin(queue.popleft())
            else:
                busy -= 1
        else:
            now = arrival
            arrival = now + random.expovariate(rate)
            if limit.has_room(inside):
                inside += 1
                if busy < places:
                    busy += 1
                    begin(now)
                else:
                    queue.append(now)
    most = places / (0.02 * slower[1]) * (seconds - counted)
    return Figures(limits, times, len(times) / most)
