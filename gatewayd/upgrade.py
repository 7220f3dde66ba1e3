"""The version that is installed now takes over from the one that runs.

The running gateway starts the same command anew and hands it the listening sockets. The new one accepts
only when it knows its members; once it is ready the old one stops accepting, finishes what it has, and
leaves.
The sockets are the same all the time, so no new connection is refused or reset.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from gatewayd.admin.site import Refused
from gatewayd.net.ports import HANDED

READY_FD: Final = "GATEWAYD_READY_FD"  # where a successor says that it is ready
FORMER_FD: Final = "GATEWAYD_FORMER_FD"  # where it sees the end of the version before
_PATIENCE: Final = 60.0  # seconds that it may take until then
_READY: Final = 3  # these in the successor
_FORMER: Final = 4
_FIRST: Final = 5  # of the sockets


def detach() -> None:
    """Have the system's first process as parent, if this process is a successor.

    systemd waits for a main process only if it is its own child, and the parent, the version before, is
    about to leave. Done before there are threads, for a fork loses them.
    """
    if READY_FD in os.environ and os.fork():
        os._exit(0)


class Successor(ProcessProtocol):
    """The new version's process, until it is ready."""

    def __init__(self) -> None:
        self.ready: Deferred[dict[str, Any]] = Deferred()
        self._said = b""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Twisted: it says that it is ready."""
        self._said += data
        if self._said.endswith(b"\n") and not self.ready.called:
            self.ready.callback(json.loads(self._said))

    def childConnectionLost(self, childFD: int) -> None:
        """Twisted: nobody holds the pipe any more; too early, if that comes before it was ready."""
        if childFD == _READY and not self.ready.called:
            self.ready.errback(
                Refused(["the new version ended before it was ready; its messages are in the log"])
            )


def start_successor(
    command: Sequence[str], sockets: Mapping[str, int], reactor: Any
) -> Deferred[dict[str, Any]]:
    """Start the installed version beside this one.

    Args:
        command: as this process was started.
        sockets: that listen, by address.
        reactor: Twisted's.

    Returns:
        A Deferred of its version and pid, once it is ready; fails with Refused.
    """
    successor = Successor()
    handed = dict(enumerate(sockets.items(), _FIRST))
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LISTEN_") and name != "WATCHDOG_PID"
    }
    environment[HANDED] = "\n".join(f"{fd}={address}" for fd, (address, _) in handed.items())
    environment[READY_FD] = str(_READY)
    environment[FORMER_FD] = str(_FORMER)
    fds: dict[int, int | str] = {0: 0, 1: 1, 2: 2, _READY: "r", _FORMER: "w"}
    fds.update({fd: ours for fd, (_, ours) in handed.items()})
    try:
        process = reactor.spawnProcess(
            successor, sys.executable, list(command), env=environment, childFDs=fds
        )
    except OSError as error:
        raise Refused([f"{command[0]} cannot be started: {error.strerror}"]) from error

    def too_late(result: Any, seconds: float) -> Any:
        process.loseConnection()
        raise Refused([f"the new version was not ready after {seconds:g} s, and leaves again"])

    return successor.ready.addTimeout(_PATIENCE, reactor, onTimeoutCancel=too_late)


class Handover:
    """This process's side, where it is the successor of another; made by the gateway's service."""

    def __init__(self) -> None:
        """Take what the former one left in the environment."""
        self.fd = int(os.environ.pop(READY_FD, "-1"))
        self._former = int(os.environ.pop(FORMER_FD, "-1"))
        if self._former >= 0:
            os.set_blocking(self._former, False)
        handed = os.environ.pop(HANDED, "")
        self._sockets = [int(line.partition("=")[0]) for line in handed.splitlines()]
        self._until = monotonic() + _PATIENCE

    @property
    def pending(self) -> bool:
        """Whether the former one still serves."""
        return self.fd >= 0

    @property
    def too_late(self) -> bool:
        """Whether the former one waits no longer."""
        return self.pending and monotonic() > self._until

    @property
    def former_drains(self) -> bool:
        """Whether the former one still finishes what it has."""
        if self._former < 0 or self.pending:
            return False
        try:
            os.read(self._former, 1)
        except BlockingIOError:
            return True
        self.forget()
        return False

    def forget(self) -> None:
        """Care for the former one no longer."""
        if self._former >= 0:
            os.close(self._former)
            self._former = -1

    def close_sockets(self) -> None:
        """Those that were wanted are duplicated by now; one left open would listen for nobody."""
        for fd in self._sockets:
            os.close(fd)
        self._sockets = []

    def done(self, version: str) -> None:
        """Say that this process serves from now on."""
        if self.pending:
            said = json.dumps({"version": version, "pid": os.getpid()}).encode() + b"\n"
            with suppress(OSError):  # the former one is gone already: so much the better
                os.write(self.fd, said)
            os.close(self.fd)
            self.fd = -1
