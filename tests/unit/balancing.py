"""What the tests of core.balancers share: endpoints, picks and shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from gatewayd.core.addresses import Address
from gatewayd.core.balancers import Balancer
from gatewayd.core.endpoints import Endpoint, Member


def endpoints(weights: Iterable[int], first: int = 0) -> list[Endpoint]:
    """Endpoints 10.0.0.0:80, 10.0.0.1:80 and so on, of these weights."""
    return [
        Endpoint(Member(Address("tcp", f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}", 80), weight))
        for at, weight in enumerate(weights, first)
    ]


def counted(balancer: Balancer, picks: int, keys: Sequence[bytes | None] = (None,)) -> Counter[str]:
    """How often each endpoint is picked, by label."""
    found: Counter[str] = Counter()
    for number in range(picks):
        found[balancer.pick(keys[number % len(keys)]).label] += 1
    return found


def within(found: Counter[str], of: Sequence[Endpoint], sigmas: float = 5.0) -> list[str]:
    """Labels whose share of independent picks is off their weight's by more than chance explains."""
    picks, total = sum(found.values()), sum(endpoint.weight for endpoint in of)
    off = []
    for endpoint in of:
        share = endpoint.weight / total
        spread = (picks * share * (1 - share)) ** 0.5
        if abs(found[endpoint.label] - picks * share) > sigmas * spread + 1:
            off.append(endpoint.label)
    return off


def use(balancer: Balancer, key: bytes | None = None) -> Any:
    """Pick as an upstream does: the endpoint has one request more in flight."""
    endpoint = balancer.pick(key)
    endpoint.in_flight += 1
    return endpoint


def release(
    balancer: Balancer, endpoint: Endpoint, seconds: float = 0.1, failed: bool = False
) -> None:
    """Its request is over."""
    endpoint.in_flight -= 1
    balancer.released(endpoint, seconds, failed)
