"""The daemon as its clients and upstreams see it: a subprocess, raw sockets on both sides.

Every line of the list of behaviours that the first release covers has a test here. The lines
below belong to other issues and get their live tests there; they are named so that nobody
believes them covered.
"""

LEFT_TO_OTHER_ISSUES = (
    # After the first release.
    "TCP listeners: half-close kept in both directions (tunnels after 101 are tested here)",
)
