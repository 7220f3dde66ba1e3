"""The proxies that are compared, each set up as its own documentation advises for speed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final


@dataclass
class Site:
    """What a proxy is to serve; the stage fills in ports, addresses and the directory."""

    endpoints: list[tuple[str, int]] = field(default_factory=list)
    hosts: int = 0  # further routes by host: h0.example.com, h1.example.com, …
    prefixes: int = 0  # further routes by path: /p0/, /p1/, …
    idle: int = 512  # upstream connections that may be kept
    connections: int = 1024  # clients that may be connected at once
    port: int = 0
    sink_port: int = 0  # where /sink/ goes
    directory: Path = Path()

    def copy(self) -> Site:
        """The same site for another proxy."""
        return replace(self)


class Peer:
    """A proxy that can be started; one that lacks something says so and is left out."""

    name: str = ""
    environment: dict[str, str] | None = None
    routes = False  # whether it can have ten thousand routes
    pooled = True  # whether it can be told how many upstream connections to keep
    tunnels = True  # whether it forwards an Upgrade

    def prepare(self, directory: Path) -> str:
        """Build what has to be built, once.

        Args:
            directory: for it; gone after the run.

        Returns:
            What is missing, or nothing.
        """
        return ""

    def command(self, site: Site) -> list[str]:
        """Write the configuration for a site and say how to start with it."""
        raise NotImplementedError


HOST: Final = "h{}.example.com"
PREFIX: Final = "/p{}/"
