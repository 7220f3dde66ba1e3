"""core.figures: what several processes counted, added up."""

from __future__ import annotations

import pickle

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core.figures import Figures


def made(value: float, breaker: float = 0.0) -> Figures:
    """One process's figures."""
    found = Figures()
    found.count("requests", [(("web", "200"), value)])
    found.gauge("tunnels", [(("api",), value)])
    found.gauge("circuit_breaker_state", [(("users",), breaker)])
    found.observed("lag", ("1",), [1, 0], value)
    found.samples["process", "gauge", "text"] = [("process", {"process": "1"}, value)]
    return found


class Adding(SynchronousTestCase):
    """Counters, gauges and histograms are sums; of a circuit the worst state counts."""

    def test_two(self) -> None:
        """Also as they arrive from another process."""
        found = made(2.0, breaker=2.0)
        found.add(pickle.loads(pickle.dumps(made(3.0, breaker=1.0))))
        self.assertEqual({"requests": {("web", "200"): 5.0}}, found.counters)
        self.assertEqual({("api",): 5.0}, found.gauges["tunnels"])
        self.assertEqual({("users",): 2.0}, found.gauges["circuit_breaker_state"])
        self.assertEqual({"lag": {("1",): ([2, 0], 5.0)}}, found.histograms)
        self.assertEqual(2, len(found.samples["process", "gauge", "text"]))

    def test_to_nothing(self) -> None:
        """What is added is copied: the other one stays as it was."""
        other = made(1.0)
        found = Figures()
        found.add(other)
        found.add(other)
        self.assertEqual({("1",): ([1, 0], 1.0)}, other.histograms["lag"])
        self.assertEqual({("web", "200"): 1.0}, other.counters["requests"])

    def test_lasting(self) -> None:
        """A dead process's counters stay, its gauges vanish."""
        left = made(4.0).lasting()
        self.assertEqual(({}, {}), (left.gauges, left.samples))
        self.assertEqual({("web", "200"): 4.0}, left.counters["requests"])

    def test_keep(self) -> None:
        """Rows that nobody wants go; a metric that is not there is none."""
        found = made(1.0)
        found.keep("requests", lambda labels: labels[0] != "web")
        found.keep("picks", lambda labels: True)
        self.assertEqual({"requests": {}}, found.counters)
