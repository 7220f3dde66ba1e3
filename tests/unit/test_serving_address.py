from __future__ import annotations

from tests.unit.test_serving import FILE, ServingTestCase


class Moved(ServingTestCase):
    """Listeners whose address changes."""

    def test_another_address(self) -> None:
        """The same name on another socket."""
        serving = self.serve()
        old = serving.listeners["web"]
        self.reload(serving, FILE.replace("127.0.0.1:2000", "127.0.0.1:2005"))
        self.assertEqual([2001, 2005], self.listening())
        self.assertIsNot(old, serving.listeners["web"])
        self.assertNotIn(old, list(serving))

    def test_swapped(self) -> None:
        """Two listeners that change places: each goes on where the other was."""
        serving = self.serve()
        swapped = FILE.replace(":2000", ":x").replace(":2001", ":2000").replace(":x", ":2001")
        self.reload(serving, swapped)
        self.assertEqual([2000, 2001], self.listening())
        self.assertEqual([2001, 2000], [e.port.address.port for e in serving.listeners.values()])
