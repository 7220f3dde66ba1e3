"""core.retries: what is tried again, and how much of it at most."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.retries import (
    ANSWERS,
    CONNECT_FAILURE,
    KINDS,
    RESET,
    TIMEOUT,
    Budget,
    RetryPolicy,
)

ALL = RetryPolicy(attempts=2, when=KINDS)


class Refusals(SynchronousTestCase):
    """Why a request is not tried again."""

    def test_table(self) -> None:
        """The first reason that holds is named."""
        plain = RetryPolicy()
        none = RetryPolicy(attempts=0)
        posts = RetryPolicy(methods=("GET", "POST"))
        rows = [
            # policy, kind, method, tries, sent, held -> refusal
            (plain, CONNECT_FAILURE, b"GET", 1, False, True, ""),
            (plain, CONNECT_FAILURE, b"POST", 1, False, True, ""),  # nothing of it went out
            (plain, RESET, b"GET", 1, True, True, ""),
            (plain, RESET, b"PUT", 1, True, True, ""),
            (plain, RESET, b"POST", 1, True, True, "method"),
            (plain, RESET, b"PATCH", 1, True, True, "method"),
            (posts, RESET, b"POST", 1, True, True, ""),
            (posts, RESET, b"PUT", 1, True, True, "method"),
            (plain, RESET, b"PUT", 1, True, False, "body"),
            (plain, CONNECT_FAILURE, b"PUT", 1, False, False, "body"),
            (plain, TIMEOUT, b"GET", 1, True, True, "kind"),
            (plain, "503", b"GET", 1, True, True, "kind"),
            (plain, "", b"GET", 1, True, True, "kind"),
            (plain, RESET, b"GET", 2, True, True, "attempts"),
            (none, CONNECT_FAILURE, b"GET", 1, False, True, "attempts"),
            (ALL, RESET, b"GET", 2, True, True, ""),
            (ALL, RESET, b"GET", 3, True, True, "attempts"),
            (ALL, RESET, b"POST", 3, True, False, "attempts"),
            (ALL, TIMEOUT, b"POST", 1, True, False, "method"),
            *((ALL, kind, b"GET", 1, True, True, "") for kind in KINDS),
        ]
        found = [
            policy.refusal(kind, method, tries=tries, sent=sent, held=held)
            for policy, kind, method, tries, sent, held, _ in rows
        ]
        self.assertEqual([row[-1] for row in rows], found)

    def test_kinds(self) -> None:
        """As the configuration names them."""
        self.assertEqual(("connect-failure", "reset", "timeout", "502", "503", "504"), KINDS)
        self.assertEqual([502, 503, 504], list(ANSWERS))


class NaiveBudget:
    """Keeps the second of everything."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.requests: list[int] = []
        self.retries: list[int] = []

    def has_room(self, now: float) -> bool:
        """As Budget."""
        second = int(now)
        retries = [each for each in self.retries if each > second - 10]
        requests = [each for each in self.requests if each > second - 10]
        return retries.count(second) < 3 or len(retries) < self.share * len(requests)


class Budgets(SynchronousTestCase):
    """A share of the last ten seconds' requests."""

    @given(
        st.sampled_from((0.0, 0.2, 0.5, 1.0)),
        st.lists(
            st.tuples(
                st.sampled_from((0.0, 0.1, 0.9, 3.0, 12.0)), st.integers(0, 20), st.integers(0, 9)
            ),
            max_size=25,
        ),
    )
    def test_naive(self, share: float, steps: list[tuple[float, int, int]]) -> None:
        """Says the same as a model that forgets nothing."""
        budget, model = Budget(), NaiveBudget(share)
        now = 1000.0
        for passed, requests, retries in steps:
            now += passed
            for _ in range(requests):
                budget.request(now)
                model.requests.append(int(now))
            for _ in range(retries):
                self.assertEqual(model.has_room(now), budget.has_room(share, now))
                if budget.has_room(share, now):
                    budget.retry(now)
                    model.retries.append(int(now))

    def test_three_a_second_always(self) -> None:
        """Also where the share is 0 and nothing was asked."""
        budget = Budget()
        made = 0
        for tenth in range(50):
            now = 7.0 + tenth / 10
            for _ in range(5):
                if budget.has_room(0.0, now):
                    budget.retry(now)
                    made += 1
        self.assertEqual(5 * 3, made)

    def test_a_storm(self) -> None:
        """Where all fails, retries add a fifth of the requests and no more."""
        budget = Budget()
        requests = retries = 0
        for thousandth in range(30_000):
            now = 100 + thousandth / 1000
            budget.request(now)
            requests += 1
            if budget.has_room(0.2, now):
                budget.retry(now)
                retries += 1
        self.assertEqual(6000, retries)
        self.assertEqual(30_000, requests)

    def test_who_began_long_ago(self) -> None:
        """Counts still, and turns no time back."""
        budget = Budget()
        for _ in range(4):
            budget.request(50.0)
        budget.request(42.0)  # its head took eight seconds
        for _ in range(5):
            self.assertTrue(budget.has_room(1.0, 50.5))
            budget.retry(50.5)
        self.assertFalse(budget.has_room(1.0, 50.9))
        self.assertTrue(budget.has_room(1.0, 51.0))
