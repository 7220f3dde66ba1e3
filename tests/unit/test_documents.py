"""What the documents say of the code is what the code says."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.core import breaker, exchange
from gatewayd.core.errors import REASONS
from gatewayd.discovery import session

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


class DocumentTests(SynchronousTestCase):
    """Diagrams and reasons."""

    def test_diagrams(self) -> None:
        """Each diagram is the one that its table generates."""
        for file, diagram in (
            ("architecture.md", exchange.diagram()),
            ("resilience.md", breaker.diagram()),
            ("zookeeper.md", session.diagram()),
        ):
            self.assertIn(f"```mermaid\n{diagram}\n```", (DOCS / file).read_text(), file)

    def test_reasons(self) -> None:
        """Every reason is explained, and no other."""
        lines = (DOCS / "troubleshooting.md").read_text().splitlines()
        explained = [line.split("`")[1] for line in lines if line.startswith("| `")]
        self.assertEqual(sorted(explained), sorted(REASONS))
