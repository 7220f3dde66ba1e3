"""Everything that can go wrong with an exchange, as a tree by fault.

Each error has one `reason`, the same word in the access log, the metrics and the documents, and
the status that the client is answered with. `detail` is for the operator's log; a client sees it
only where the fault is the client's own.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar


class GatewayError(Exception):
    """An exchange that the gateway answers itself."""

    reason: ClassVar[str]
    status: ClassVar[int]

    def __init__(self, detail: str = "", *, status: int = 0) -> None:
        """Describe the fault.

        Args:
            detail: what happened to what, for a person.
            status: overrides the class's status where one reason covers several (413, 414, 431).
        """
        super().__init__(detail)
        self.detail = detail
        self.answer_status = status or self.status


class ClientFault(GatewayError):
    """The request cannot be served as it was sent."""


class BadRequest(ClientFault):
    """Malformed or ambiguous; the connection's framing can no longer be trusted."""

    reason = "bad_request"
    status = 400


class SlowRequest(ClientFault):
    """The head or the body arrived too slowly."""

    reason = "slow_request"
    status = 408


class TooLarge(ClientFault):
    """Over one of the listener's limits: 411, 413, 414 or 431."""

    reason = "too_large"
    status = 413


class Loop(ClientFault):
    """The request carries our own Via: it has been here before (RFC 9110 §7.6.3)."""

    reason = "loop"
    status = 508


class ClientGone(ClientFault):
    """The client left before its answer; nobody is answered, the log says 499 as nginx does."""

    reason = "client_gone"
    status = 499


class Denied(ClientFault):
    """The client's address is denied, or not among those allowed."""

    reason = "denied"
    status = 403


class RateLimited(ClientFault):
    """The client is over its rate; it may come again."""

    reason = "rate_limited"
    status = 429

    def __init__(self, wait: float, fields: tuple[bytes, ...]) -> None:
        """Args: wait: seconds until the next request may come. fields: RateLimit lines."""
        super().__init__("too many requests")
        self.retry_after = max(1, ceil(wait))
        self.fields = fields


class RoutingFault(GatewayError):
    """The configuration has no way for this request."""


class NoRoute(RoutingFault):
    """No route matches."""

    reason = "no_route"
    status = 404


class NoMethod(RoutingFault):
    """A route matches but for its methods."""

    reason = "no_method"
    status = 405

    def __init__(self, allowed: tuple[str, ...]) -> None:
        """Args: allowed: the methods for the Allow field (RFC 9110 §10.2.1)."""
        super().__init__("allowed here: " + ", ".join(allowed))
        self.allowed = allowed


class BadRewrite(RoutingFault):
    """A rewrite's result is no path, or leads above the root."""

    reason = "bad_rewrite"
    status = 500


class CapacityFault(GatewayError):
    """The upstream cannot take the request now; 503, and the client may come again."""

    retry_after = 1  # seconds


class NoEndpoint(CapacityFault):
    """No member is usable."""

    reason = "no_endpoint"
    status = 503


class QueueFull(CapacityFault):
    """All slots are taken and max_pending requests wait already."""

    reason = "queue_full"
    status = 503


class PendingTimeout(CapacityFault):
    """No slot or no first membership within pending_timeout."""

    reason = "pending_timeout"
    status = 503


class MaxConcurrent(CapacityFault):
    """The route has as many requests in flight as it may."""

    reason = "max_concurrent"
    status = 503


class BreakerOpen(CapacityFault):
    """Too much failed at the upstream lately: it is left alone for a while."""

    reason = "breaker_open"
    status = 503

    def __init__(self, detail: str, retry_after: int) -> None:
        """Args: retry_after: whole seconds."""
        super().__init__(detail)
        self.retry_after = retry_after


class UpstreamFault(GatewayError):
    """The endpoint failed the request; what it said of its inside is never shown."""

    status = 502


class ConnectFailed(UpstreamFault):
    """The endpoint refused or could not be reached."""

    reason = "connect_failed"


class Reset(UpstreamFault):
    """The endpoint closed or reset before its response's head was complete."""

    reason = "reset"


class BadResponse(UpstreamFault):
    """The endpoint broke the protocol."""

    reason = "bad_response"


class BodyCut(UpstreamFault):
    """The endpoint's body ended early; the client is cut, never given a clean end."""

    reason = "body_cut"


class UpstreamTimeout(UpstreamFault):
    """The endpoint did not do its part in time."""

    status = 504


class ConnectTimeout(UpstreamTimeout):
    """No connection within timeouts.connect."""

    reason = "connect_timeout"


class HeaderTimeout(UpstreamTimeout):
    """No head within timeouts.response_header of the request's last byte."""

    reason = "header_timeout"


class RequestTimeout(UpstreamTimeout):
    """All tries together took longer than the route's timeouts.request."""

    reason = "request_timeout"


def _leaves(kind: type[GatewayError]) -> list[type[GatewayError]]:
    below = [leaf for child in kind.__subclasses__() for leaf in _leaves(child)]
    return below or [kind]


REASONS: tuple[str, ...] = tuple(sorted(leaf.reason for leaf in _leaves(GatewayError)))
"""Every reason, for the documents and the metrics' tests."""
