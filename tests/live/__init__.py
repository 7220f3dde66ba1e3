"""The daemon as its clients and upstreams see it: a subprocess, raw sockets on both sides.

Every line of the list of behaviours that the first release covers has a test here. The lines
below belong to other issues and get their live tests there; they are named so that nobody
believes them covered.
"""

LEFT_TO_OTHER_ISSUES = (
    # Resilience.
    "retries: a further try on another endpoint after connect-failure or reset",
    "retries: methods, budget and buffer; the last upstream's answer when tries are spent",
    "health checks: an endpoint that fails its check gets no requests",
    "passive health: ejection after consecutive failures, never the last usable endpoint",
    "panic_threshold and slow_start",
    "circuit breaker: open -> 503 breaker_open, half-open, closed",
    "rate limits: 429 with Retry-After; the map of keys is bounded by max_keys",
    "max_concurrent: 503 with Retry-After",
    "allow and deny: CIDRs of IPv4 and IPv6, 403 denied",
    "adaptive_limit and peak_ewma",
    "endpoint drain and enable",
    "all down: 503 at once from health (a refused connect is 502 in this release)",
    # Production daemon.
    "reload under load: no request fails",
    "a bad new configuration is refused and the old one serves on",
    "reload --plan, upgrade, gatewayd drain and undrain",
    "workers: a killed worker costs its own requests alone and comes back",
    "workers: limits divided over live workers, metrics of all together",
    # ZooKeeper membership.
    "a watch error or a lost session neither empties the pool nor blocks",
    "an empty upstream waits for its first membership, pending_timeout at most",
    "removal_grace, max_shrink, hold_for, the journal, status --fleet, accept",
    # After the first release.
    "TCP listeners: half-close kept in both directions (tunnels after 101 are tested here)",
)
