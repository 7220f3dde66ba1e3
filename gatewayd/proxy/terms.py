"""What a listener asks of its clients, and who answers them."""

from __future__ import annotations

from gatewayd.http1.requests import PathRules
from gatewayd.proxy.resource import Root


class Limits:
    """What a client may cost; 0 = any."""

    def __init__(
        self,
        *,
        max_connections: int = 10_000,
        max_header_bytes: int = 1 << 20,
        max_header_memory: int = 64 << 20,
        max_headers: int = 256,
        max_body_bytes: int = 0,
        min_body_rate: float = 240.0,
    ) -> None:
        """Args: as in the configuration, in bytes and bytes a second."""
        self.max_connections = max_connections
        self.max_header_bytes = max_header_bytes
        self.max_header_memory = max_header_memory
        self.max_headers = max_headers
        self.max_body_bytes = max_body_bytes
        self.min_body_rate = min_body_rate


class ClientTimeouts:
    """How long a client may take, in seconds; 0 = for ever, but for `header`."""

    def __init__(
        self, *, header: float = 30.0, read: float = 30.0, write: float = 30.0, idle: float = 120.0
    ) -> None:
        """Args: as in the configuration."""
        self.header = header
        self.read = read
        self.write = write
        self.idle = idle


class Terms:
    """One object for all channels of a listener, so that a change holds for each of them at once."""

    def __init__(
        self, root: Root, *, limits: Limits, timeouts: ClientTimeouts, path_rules: PathRules
    ) -> None:
        """Args: root: finds the leaf of each request. limits, timeouts, path_rules: of clients."""
        self.root = root
        self.limits = limits
        self.timeouts = timeouts
        self.path_rules = path_rules
        self.draining = False  # keep-alive ends with the next answer

    def become(self, planned: Terms) -> None:
        """Hold from now on as those of a new configuration."""
        self.root = planned.root
        self.limits = planned.limits
        self.timeouts = planned.timeouts
        self.path_rules = planned.path_rules
