"""A balancer of a user's own, named in a configuration of test_balancing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gatewayd.core.balancers import Balancer


class Last(Balancer):
    """Always the last endpoint that is available."""

    def __init__(self, endpoints: Sequence[Any], *, random: Any) -> None:
        self.endpoints = list(endpoints)

    def pick(self, key: bytes | None) -> Any:
        """The last one."""
        return self.endpoints[-1] if self.endpoints else None
