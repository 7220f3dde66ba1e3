"""`python -m gatewayd.workers`: a worker, as its supervisor starts it."""

from __future__ import annotations

from typing import Any

from gatewayd.net.reactor import install


def main() -> None:
    """Serve until the supervisor says otherwise, or is gone."""
    install()
    from twisted.internet import reactor as installed
    from twisted.logger import globalLogBeginner

    from gatewayd.workers.link import BOARD_FD, LINK_FD
    from gatewayd.workers.worker import Worker

    reactor: Any = installed
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    worker = Worker(LINK_FD, BOARD_FD, reactor)
    reactor.callWhenRunning(worker.take_signals)
    reactor.run()


if __name__ == "__main__":
    main()
