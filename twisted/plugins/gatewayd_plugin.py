"""Tells twistd that there is a gatewayd; imports nothing of ours until it is asked for."""

from twisted.application.service import ServiceMaker

# The name stays for ever: a stale dropin.cache that names another breaks `twistd --help` for all.
gatewayd_service = ServiceMaker(
    "gatewayd",
    "gatewayd.service",
    "An event-driven reverse proxy and API gateway.",
    "gatewayd",
)
