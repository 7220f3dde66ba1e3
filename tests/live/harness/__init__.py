"""Raw clients, scripted upstreams and the daemon as a subprocess."""

from tests.live.harness.client import (
    Closed,
    Malformed,
    RawClient,
    Reset,
    Response,
    Truncated,
)
from tests.live.harness.daemon import Daemon, command, configuration, free_port
from tests.live.harness.upstream import (
    Blackhole,
    Handler,
    Recorded,
    ScriptedUpstream,
    UpstreamConnection,
    answer,
    raw_answer,
    refused_port,
)
from tests.live.harness.waiting import eventually

__all__ = [
    "Blackhole",
    "Closed",
    "Daemon",
    "Handler",
    "Malformed",
    "RawClient",
    "Recorded",
    "Reset",
    "Response",
    "ScriptedUpstream",
    "Truncated",
    "UpstreamConnection",
    "answer",
    "command",
    "configuration",
    "eventually",
    "free_port",
    "raw_answer",
    "refused_port",
]
