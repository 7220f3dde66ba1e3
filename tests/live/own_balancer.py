"""Balancers of a user's own, named in configurations of test_balancing and test_workers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatewayd.core.balancers import Balancer, RoundRobin


class Last(Balancer):
    """Always the last endpoint that is available."""

    def __init__(self, endpoints: Sequence[Any], *, random: Any) -> None:
        self.endpoints = list(endpoints)

    def pick(self, key: bytes | None) -> Any:
        """The last one."""
        return self.endpoints[-1] if self.endpoints else None


class Slow(RoundRobin):
    """Takes its time in the first worker that builds it after the file $SLOW has been made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        flag = Path(os.environ["SLOW"])
        if "gatewayd.workers" in sys.orig_argv and flag.exists():
            flag.rename(f"{flag}.begun")
            time.sleep(1)
