"""The daemon as its clients and upstreams see it: a subprocess, raw sockets on both sides.

Every line of the list of behaviours that the first release covers has a test here. The lines
below belong to other issues and get their live tests there; they are named so that nobody
believes them covered.
"""

LEFT_TO_OTHER_ISSUES = (
    # Production daemon.
    "reload under load: no request fails",
    "a bad new configuration is refused and the old one serves on",
    "reload --plan, upgrade, gatewayd drain and undrain",
    "workers: a killed worker costs its own requests alone and comes back",
    "workers: limits divided over live workers, metrics of all together",
    # After the first release.
    "TCP listeners: half-close kept in both directions (tunnels after 101 are tested here)",
)
