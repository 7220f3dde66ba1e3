"""Watches one path in ZooKeeper: its children, and what each of them says.

Children's watches do not see data, so each child is watched as well. A child's data is read once and again
only when it changes: one member's change costs no reading of the others'. After a reconnect everything
is read anew, since watches were dropped. A read that takes too long is given up, counted and tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.defer import TimeoutError
from twisted.python.failure import Failure

from gatewayd.core.addresses import Address
from gatewayd.core.tracing import SILENT, Trace
from gatewayd.discovery.client import Away, Client, NoNode
from gatewayd.discovery.formats import Unreadable, read_member, reads_data

_AT_ONCE: Final = 100  # reads of data in flight; to begin so many takes a few milliseconds
_SOON: Final = 0.05  # seconds in which changes gather: a thousand registrations are a few reads
_BACKOFF: Final = (0.2, 5.0)  # seconds after a failed read: first, most


class Watcher:
    """One path; made by the service for an upstream."""

    def __init__(
        self,
        path: str,
        form: str,
        endpoint: str,
        client: Client,
        clock: Any,
        random: Random,
        *,
        watch_timeout: float,
        found: Callable[[dict[Address, int]], None],
        count: Callable[[str], None],
        warn: Callable[[str], None],
        trace: Trace = SILENT,
    ) -> None:
        """Args:
        path, form, endpoint: as in the configuration.
        client: of the ensemble.
        clock: Twisted's IReactorTime.
        random: for jitter.
        watch_timeout: seconds for a read.
        found: told the whole list, after every change.
        count: told each kind of event.
        warn: takes a message for people.
        trace: debug output.
        """
        self.path = path
        self.missing = False  # the path does not exist
        self.unreadable = 0
        self._form = form
        self._endpoint = endpoint
        self._client = client
        self._clock = clock
        self._random = random
        self._watch_timeout = watch_timeout
        self._found = found
        self._count = count
        self._warn = warn
        self._trace = trace
        self._nodes: dict[str, tuple[Address, int] | None] = {}  # None: no member can be read there
        self._round = 0  # answers of an earlier one are ignored
        self._timer: Any = None
        self._failures = 0
        self._queue: list[str] = []
        self._reading: set[str] = set()  # nodes whose data is on its way
        self._pumping = False
        self._stale: set[str] = (
            set()
        )  # nodes to be read again: their watches were dropped, or no answer
        self._complained: set[str] = set()
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Watcher {self.path} nodes={len(self._nodes)} reading={len(self._reading)}>"

    @property
    def failing(self) -> bool:
        """Whether the path cannot be read just now."""
        return self._failures > 0

    def start_over(self, jitter: float) -> None:
        """Read everything, within `jitter` seconds: the session is new, or was away."""
        self._round += 1
        self._queue = []
        self._reading = set()
        self._stale = set(self._nodes)
        self._read_soon(self._random.random() * jitter)

    def stop(self) -> None:
        """Watch no more."""
        self._stopped = True
        self._round += 1
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _read_soon(self, seconds: float) -> None:
        if self._stopped:
            return
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._clock.seconds() + seconds:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(seconds, self._read_children)

    def _read_children(self) -> None:
        this_round = self._round
        answer, watch = self._client.get_children_and_watch(self.path)
        answer.addTimeout(self._watch_timeout, self._clock)
        watch.addCallback(self._children_changed, this_round)
        answer.addCallbacks(
            self._children,
            self._failed,
            callbackArgs=(this_round,),
            errbackArgs=(this_round,),
        )

    def _children_changed(self, event: str, this_round: int) -> None:
        self._count("children")
        if this_round == self._round:
            self._read_soon(_SOON)

    def _failed(self, failure: Failure, this_round: int) -> None:
        if this_round != self._round:
            return
        if failure.check(NoNode) is not None:
            self._wait_for_path(this_round)
        elif failure.check(Away) is None:  # after a reconnect all is read anyway
            error = failure.value
            timed_out = failure.check(TimeoutError) is not None
            self._count("watch_timeout" if timed_out else "read_failed")
            why = "no answer within zookeeper.watch_timeout" if timed_out else str(error)
            self._complain("", f"{self.path} cannot be read: {why}")
            self._failures += 1
            self._read_soon(self._pause(self._failures))

    def _pause(self, failures: int) -> float:
        first, most = _BACKOFF
        return min(most, first * 2.0 ** min(failures, 10)) * (0.5 + self._random.random())

    def _wait_for_path(self, this_round: int) -> None:
        """The path does not exist; after it existed, that is an empty list like any other."""
        self._failures = 0
        if not self.missing:
            self.missing = True
            self._warn(f"{self.path} does not exist in ZooKeeper: waiting for it")
        if self._nodes:
            self._nodes = {}
            self._found({})
        answer, watch = self._client.exists_and_watch(self.path)
        answer.addTimeout(self._watch_timeout, self._clock)
        watch.addCallback(self._children_changed, this_round)
        answer.addCallbacks(
            lambda exists: self._read_soon(_SOON) if exists and this_round == self._round else None,
            self._failed,
            errbackArgs=(this_round,),
        )

    def _children(self, names: list[str], this_round: int) -> None:
        if this_round != self._round:
            return
        self.missing = False
        self._failures = 0
        self._complained.discard("")
        present = set(names)
        for name in [each for each in self._nodes if each not in present]:
            del self._nodes[name]
            self._complained.discard(name)
        self._stale &= present
        wanted = [
            name
            for name in names
            if (name not in self._nodes or name in self._stale) and name not in self._reading
        ]
        if self._trace.on:
            self._trace.write(f"{self.path}: {len(names)} children, {len(wanted)} to read")
        if not reads_data(self._form):
            for name in wanted:
                self._take(name, b"")
            self._stale.clear()
            wanted = []
        self._queue = wanted
        if wanted:
            self._read_more(this_round)
        elif not self._reading:
            self._publish()

    def _read_more(self, this_round: int) -> None:
        if self._pumping:
            return  # an answer that came at once: the loop below goes on
        self._pumping = True
        while self._queue and len(self._reading) < _AT_ONCE:
            self._read_node(self._queue.pop(), this_round)
        self._pumping = False

    def _read_node(self, name: str, this_round: int) -> None:
        if name in self._reading:
            return
        self._reading.add(name)
        answer, watch = self._client.get_and_watch(f"{self.path.rstrip('/')}/{name}")
        answer.addTimeout(self._watch_timeout, self._clock)
        watch.addCallback(self._data_changed, name, this_round)
        answer.addCallbacks(
            lambda node: self._read(name, node.data, this_round),
            lambda failure: self._unread(name, failure, this_round),
        )

    def _data_changed(self, event: str, name: str, this_round: int) -> None:
        if this_round != self._round or name not in self._nodes:
            return
        if event == "deleted":
            # The children's watch's business; but if it is there again by then, it is another one.
            self._stale.add(name)
            return
        self._count("data")
        self._read_node(name, this_round)

    def _read(self, name: str, data: bytes, this_round: int) -> None:
        if this_round == self._round:
            self._take(name, data)
            self._stale.discard(name)
            self._done_one(name, this_round)

    def _unread(self, name: str, failure: Failure, this_round: int) -> None:
        if this_round != self._round:
            return
        if failure.check(Away) is not None:
            self._reading.discard(name)  # after a reconnect all is read anyway
            return
        if failure.check(TimeoutError) is not None:
            # No answer is no news: what it said before counts on, and it is asked again.
            self._count("watch_timeout")
            self._complain(name, f"{self.path}/{name}: no answer within zookeeper.watch_timeout")
            self._stale.add(name)
            self._done_one(name, this_round)
            self._read_soon(self._pause(1))
            return
        if failure.check(NoNode) is not None:
            self._stale.discard(name)
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = None
            self._stale.add(name)  # it has no watch; an ACL may be mended
            self._read_soon(self._pause(10))
            self._count("unreadable")
            self._complain(name, f"{self.path}/{name} cannot be read: {failure.value}; skipped")
        self._done_one(name, this_round)

    def _take(self, name: str, data: bytes) -> None:
        try:
            self._nodes[name] = read_member(self._form, name, data, self._endpoint)
            self._complained.discard(name)
        except Unreadable as error:
            self._nodes[name] = None
            self._count("unreadable")
            self._complain(name, f"{self.path}/{name[:200]} is skipped: {error}")

    def _done_one(self, name: str, this_round: int) -> None:
        self._reading.discard(name)
        if self._queue:
            self._read_more(this_round)
        elif not self._reading:
            self._publish()

    def _publish(self) -> None:
        """Tell the whole list; where nothing could be read, that is no list."""
        members = [member for member in self._nodes.values() if member is not None]
        self.unreadable = len(self._nodes) - len(members)
        nodes = self._nodes.keys() | self._stale
        if nodes and not members:
            self._count("read_failed")
            self._complain(
                "", f"{self.path}: none of {len(nodes)} nodes can be read; kept as it was"
            )
            return
        self._found(dict(members))

    def _complain(self, about: str, message: str) -> None:
        """Warn, once for each cause until it is over."""
        if about not in self._complained and (len(self._complained) < 1000 or not about):
            self._complained.add(about)
            self._warn(message)
