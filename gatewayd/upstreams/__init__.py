"""Floor 3: groups of endpoints, their pools, and the client's side of HTTP/1.1."""

from gatewayd.upstreams.pool import HTTPConnectionPool
from gatewayd.upstreams.standalone import make_upstream
from gatewayd.upstreams.upstream import Upstream

__all__ = ["HTTPConnectionPool", "Upstream", "make_upstream"]
