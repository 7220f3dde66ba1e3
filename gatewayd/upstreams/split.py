"""Several upstreams that share a route by weight: a canary beside the old ones."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from gatewayd.upstreams.upstream import Upstream


class Split:
    """Several upstreams that share a route by weight; drawn anew for each request."""

    def __init__(self, shares: Sequence[tuple[Upstream, int]], random: Random) -> None:
        """Args: shares: upstreams with their weights, 0 = none. random: chance."""
        self.shares = tuple(shares)
        self._random = random

    def __repr__(self) -> str:
        return "<Split " + " ".join(f"{each.name}={weight}" for each, weight in self.shares) + ">"

    def choose(self) -> Upstream:
        """One of those that have a usable member; where none has, one of all."""
        able = [share for share in self.shares if share[1] and share[0].is_usable]
        shares = able or [share for share in self.shares if share[1]] or self.shares
        drawn = self._random.random() * sum(weight for _, weight in shares)
        for upstream, weight in shares:
            drawn -= weight
            if drawn < 0:
                return upstream
        return shares[-1][0]
