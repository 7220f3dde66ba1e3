"""core.errors: one reason and one status for each thing that can go wrong."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core import errors
from gatewayd.core.errors import REASONS, GatewayError

# behaviours and the contract's list of reasons: reason -> (status, whose fault)
EXPECTED = {
    "bad_request": (400, errors.ClientFault),
    "slow_request": (408, errors.ClientFault),
    "too_large": (413, errors.ClientFault),
    "no_route": (404, errors.RoutingFault),
    "no_method": (405, errors.RoutingFault),
    "denied": (403, errors.ClientFault),
    "rate_limited": (429, errors.ClientFault),
    "max_concurrent": (503, errors.CapacityFault),
    "queue_full": (503, errors.CapacityFault),
    "pending_timeout": (503, errors.CapacityFault),
    "no_endpoint": (503, errors.CapacityFault),
    "breaker_open": (503, errors.CapacityFault),
    "connect_failed": (502, errors.UpstreamFault),
    "connect_timeout": (504, errors.UpstreamFault),
    "header_timeout": (504, errors.UpstreamFault),
    "request_timeout": (504, errors.UpstreamFault),
    "reset": (502, errors.UpstreamFault),
    "bad_response": (502, errors.UpstreamFault),
    "body_cut": (502, errors.UpstreamFault),
    "client_gone": (499, errors.ClientFault),
    "bad_rewrite": (500, errors.RoutingFault),
    "loop": (508, errors.ClientFault),
}
FAULTS = {errors.ClientFault, errors.RoutingFault, errors.CapacityFault, errors.UpstreamFault}


def kinds() -> list[type[GatewayError]]:
    """All that can be raised: those with a reason."""
    found = [GatewayError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if hasattr(kind, "reason")]


class ErrorsTests(SynchronousTestCase):
    """The tree."""

    def test_reasons(self) -> None:
        """Every reason of the contract has one class, with its status and fault; there are no others."""
        found = {
            kind.reason: (kind.status, fault)
            for kind in kinds()
            for fault in FAULTS
            if issubclass(kind, fault)
        }
        self.assertEqual(found, EXPECTED)
        self.assertEqual(len(kinds()), len(EXPECTED), "one class each")

    def test_list(self) -> None:
        """The list for the documents is all of them, in order."""
        self.assertEqual(REASONS, tuple(sorted(EXPECTED)))

    def test_detail(self) -> None:
        """What happened is kept for the operator; the status is the class's."""
        error = errors.Reset("10.0.0.1:80 closed")
        self.assertEqual((error.detail, str(error)), ("10.0.0.1:80 closed", "10.0.0.1:80 closed"))
        self.assertEqual((error.answer_status, errors.Reset().detail), (502, ""))

    def test_other_status(self) -> None:
        """One reason may cover several statuses."""
        found = [
            errors.TooLarge("long", status=414).answer_status,
            errors.TooLarge("many", status=431).answer_status,
            errors.BadRequest("coding", status=501).answer_status,
            errors.TooLarge("big").answer_status,
        ]
        self.assertEqual(found, [414, 431, 501, 413])
        self.assertEqual(errors.TooLarge.status, 413, "the class's own stays")

    def test_no_method(self) -> None:
        """405 knows what Allow has to say."""
        error = errors.NoMethod(("GET", "HEAD"))
        self.assertEqual((error.allowed, error.answer_status), (("GET", "HEAD"), 405))
        self.assertEqual(error.detail, "allowed here: GET, HEAD")

    def test_come_again(self) -> None:
        """Who is refused for want of capacity is told when to come again, in whole seconds."""
        found = [
            errors.QueueFull().retry_after,
            errors.BreakerOpen("open", 5).retry_after,
            *(errors.RateLimited(wait, ()).retry_after for wait in (0.0, 0.2, 1.0, 1.1)),
        ]
        self.assertEqual(found, [1, 5, 1, 1, 1, 2])
        self.assertEqual(errors.RateLimited(1.0, (b"RateLimit: a",)).fields, (b"RateLimit: a",))

    def test_timeouts(self) -> None:
        """A timeout of an upstream's is an upstream's fault and a timeout."""
        timeouts = {kind.reason for kind in kinds() if issubclass(kind, errors.UpstreamTimeout)}
        self.assertEqual(timeouts, {"connect_timeout", "header_timeout", "request_timeout"})
