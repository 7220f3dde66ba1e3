"""net.dialer: what cannot even begin fails like any other attempt."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import tcp
from twisted.internet.error import ConnectBindError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.net.dialer import Dialer


class Dialling(SynchronousTestCase):
    """dial."""

    def test_no_socket(self) -> None:
        """No IPv6 in the kernel, or no descriptor left: told later, as a failed attempt."""

        def refuse(self: Any) -> None:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

        self.patch(tcp.BaseClient, "createInternetSocket", refuse)
        clock: Any = Clock()
        failures: list[Failure] = []
        Dialer(clock).dial("::1", 80, object(), 5.0, failures.append)
        self.assertEqual([], failures)
        clock.advance(0)
        self.assertEqual([ConnectBindError], [failure.type for failure in failures])
        self.assertEqual([], clock.getDelayedCalls())
