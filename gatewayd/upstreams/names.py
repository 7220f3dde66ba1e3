"""Endpoints that are names: looked up anew from time to time, off the reactor.

Look-ups go to the system's resolver (so /etc/hosts and nsswitch.conf count) on a few threads of their
own, never on the reactor's shared ones: a resolver that hangs must hold up nobody else. Each look-up
has a time limit, and a failed or empty answer keeps the last addresses.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

_THREADS: Final = 4
_MAX_PENDING: Final = 1024
_MAX_ADDRESSES: Final = 256  # of one name: more than any DNS answer over UDP holds
_IMPATIENT: Final = 1.0  # seconds between tries while nothing is known yet


class Resolver:
    """Looks names up on threads of its own; made by the service, shared by all upstreams.

    The threads are daemons: one that hangs in the system's resolver does not keep the process alive.
    """

    def __init__(
        self,
        call_from_thread: Callable[..., Any],
        look_up: Callable[[str], list[str]] | None = None,
    ) -> None:
        """Args: call_from_thread: the reactor's. look_up: blocks; raises OSError."""
        self._call = call_from_thread
        self._look_up = look_up if look_up is not None else addresses_of
        self._jobs: SimpleQueue[tuple[str, Callable[[list[str]], None]]] = SimpleQueue()
        self._threads = 0
        self._pending = 0

    def resolve(self, name: str, answered: Callable[[list[str]], None]) -> None:
        """Look a name up.

        Args:
            name: a host name.
            answered: called in the reactor's thread with its addresses, none if it failed.
        """
        if self._pending >= _MAX_PENDING:
            answered([])  # the system's resolver hangs: what is known is kept
            return
        self._pending += 1
        if self._threads < min(self._pending, _THREADS):
            self._threads += 1
            Thread(target=self._work, name="gatewayd-resolver", daemon=True).start()
        self._jobs.put((name, answered))

    def _work(self) -> None:
        while True:
            name, answered = self._jobs.get()
            try:
                found = self._look_up(name)
            except (OSError, UnicodeError):
                found = []
            self._call(self._done, answered, found)

    def _done(self, answered: Callable[[list[str]], None], found: list[str]) -> None:
        self._pending -= 1
        answered(found)


def addresses_of(name: str) -> list[str]:
    """All addresses of a name by the system's resolver; blocks.

    Raises:
        OSError: there is no answer.
    """
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return sorted({str(each[4][0]) for each in found if "%" not in str(each[4][0])})


class Names:
    """Keeps the addresses of some names; made by an upstream's members."""

    def __init__(
        self,
        resolver: Resolver,
        clock: Any,
        *,
        refresh: float,
        timeout: float,
        changed: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        """Args:
        resolver: looks them up.
        clock: Twisted's IReactorTime.
        refresh: seconds between look-ups.
        timeout: seconds for one, 0 = for ever.
        changed: told after every round of look-ups that brought something.
        warn: takes a message for people.
        """
        self._resolver = resolver
        self._clock = clock
        self._refresh = refresh
        self._timeout = timeout
        self._changed = changed
        self._warn = warn
        self._names: list[str] = []
        self._known: dict[str, list[str]] = {}  # the last answers that were good
        self._failing: set[str] = set()
        self._waiting: set[str] = set()
        self._round = 0
        self._timer: Any = None

    def pace(self, refresh: float, timeout: float) -> None:
        """Look up as often, and wait as long, from the next round on."""
        self._refresh, self._timeout = refresh, timeout

    def watch(self, names: set[str]) -> None:
        """Look these names up from now on, and no others; what is new at once."""
        if names == set(self._names):
            return
        new = names - set(self._names)
        self._names = sorted(names)
        for name in set(self._known) - names:
            del self._known[name]
        self._failing &= names
        if new:
            self._look_up()
        elif not names:
            self.stop()

    def addresses(self, name: str) -> list[str]:
        """What a name stands for as far as is known."""
        return self._known.get(name, [])

    def stop(self) -> None:
        """Look nothing up any more; what is still under way is ignored."""
        self._round += 1
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _look_up(self) -> None:
        self._stop_timer()
        self._round += 1
        self._waiting = set(self._names)
        this_round = self._round
        for name in self._names:
            self._resolver.resolve(name, partial(self._answered, this_round, name))
        if self._timeout and self._waiting and this_round == self._round:
            self._timer = self._clock.callLater(self._timeout, self._timed_out)

    def _answered(self, this_round: int, name: str, found: list[str]) -> None:
        if this_round != self._round or name not in self._waiting:
            return
        self._waiting.discard(name)
        self._take(name, found, "has no address")
        if not self._waiting:
            self._end_round()

    def _timed_out(self) -> None:
        for name in sorted(self._waiting):
            self._take(name, [], "was not answered within dns.timeout")
        self._end_round()

    def _take(self, name: str, found: list[str], failure: str) -> None:
        if found:
            self._known[name] = found[:_MAX_ADDRESSES]
            self._failing.discard(name)
        elif name not in self._failing:
            self._failing.add(name)
            kept = ", ".join(self._known.get(name, ())) or "none"
            self._warn(f"{name} {failure}; kept addresses: {kept}")

    def _end_round(self) -> None:
        self._stop_timer()
        self._round += 1  # late answers count no more
        self._waiting = set()
        impatient = any(name not in self._known for name in self._names)
        seconds = min(self._refresh, _IMPATIENT) if impatient else self._refresh
        self._timer = self._clock.callLater(seconds, self._look_up)
        if self._known:
            self._changed()
