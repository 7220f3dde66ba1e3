"""Debug output by subsystem that costs one attribute while it is off.

Whoever has something to tell asks first: `if trace.on: trace.write(f"...")`, so that nothing is even
formatted for nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SUBSYSTEMS: Final = ("balancers", "zookeeper", "pool", "health", "routes")


class Trace:
    """One subsystem's debug output; made and switched by the service, asked on the way."""

    __slots__ = ("name", "on", "write")

    def __init__(self, name: str, write: Callable[[str], None] | None = None) -> None:
        """Args: name: of the subsystem. write: takes a line; without it nothing is ever on."""
        self.name = name
        self.on = False
        self.write: Callable[[str], None] = write if write is not None else _nowhere

    def __repr__(self) -> str:
        return f"<Trace {self.name} {'on' if self.on else 'off'}>"


def _nowhere(line: str) -> None:
    """Takes what nobody reads."""


SILENT: Final = Trace("silent")
