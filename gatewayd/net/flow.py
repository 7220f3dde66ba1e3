"""Back-pressure between two connections, in Twisted's terms of producers and transports."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import classImplements


class Flow:
    """Bytes that go from a source to a sink: while the sink is full, the source is not read.

    Registered with the sink's transport as its producer. Both sides learn of it: the source stops its
    own timers, the sink starts to watch that its peer takes something.
    """

    def __init__(self, source: Any, sink: Any) -> None:
        """Args: source: has pause and resume. sink: has blocked and unblocked."""
        self._source = source
        self._sink = sink

    def pauseProducing(self) -> None:
        """Twisted: the sink's transport holds enough."""
        self._source.pause()
        self._sink.blocked()

    def resumeProducing(self) -> None:
        """Twisted: the sink's transport is empty."""
        self._sink.unblocked()
        self._source.resume()

    def stopProducing(self) -> None:
        """Twisted: the sink is gone; its own connectionLost tells whoever must know."""


classImplements(Flow, IPushProducer)
