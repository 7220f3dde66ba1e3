"""A small ZooKeeper client of Deferreds, in txzookeeper's shape, over kazoo.

kazoo works in threads of its own; every answer and event crosses into the reactor's thread through one
mailbox, which is emptied in slices so that ten thousand answers hold nobody up. Watches are one-shot, and
a lost connection drops them: whoever watches reads anew after each reconnect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any, Final, NamedTuple, Protocol

from kazoo.client import KazooClient
from kazoo.exceptions import (
    ConnectionClosedError,
    ConnectionLoss,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    SessionExpiredError,
)
from kazoo.protocol.states import EventType
from kazoo.retry import KazooRetry
from twisted.internet.defer import Deferred

CONNECTED: Final = "connected"
SUSPENDED: Final = "suspended"  # the connection is lost; the session may live on
LOST: Final = "lost"  # the session is gone, and with it our ephemeral nodes

_SLICE: Final = 50  # answers handed over before the reactor has a turn: a few milliseconds
_STOP_SECONDS: Final = 2.0


class ZooKeeperError(Exception):
    """What ZooKeeper refused, or could not do."""


class NoNode(ZooKeeperError):
    """There is no such node."""


class NodeExists(ZooKeeperError):
    """There is one already."""


class NotAllowed(ZooKeeperError):
    """The node's ACL does not let us."""


class Away(ZooKeeperError):
    """The connection or the session is lost."""


class Node(NamedTuple):
    """A node's data and who owns it."""

    data: bytes
    owner: int  # session of an ephemeral node, 0 = a lasting one


class Client(Protocol):
    """What the rest of the room needs of a client; kazoo's and the one in memory have it."""

    def start(self, told: Callable[[str], None]) -> None:
        """Begin to connect, for ever; `told` hears CONNECTED, SUSPENDED and LOST."""

    def stop(self) -> Deferred[None]:
        """End the session; ephemeral nodes go."""

    @property
    def session(self) -> int:
        """The session's id, 0 = none."""

    def get_children_and_watch(self, path: str) -> tuple[Deferred[list[str]], Deferred[str]]:
        """Names below a node; the second Deferred fires once, when they change."""

    def get_and_watch(self, path: str) -> tuple[Deferred[Node], Deferred[str]]:
        """A node's data; the second Deferred fires once, when it changes."""

    def exists_and_watch(self, path: str) -> tuple[Deferred[bool], Deferred[str]]:
        """Whether a node is there; the second Deferred fires once, when that changes."""

    def get_children(self, path: str) -> Deferred[list[str]]:
        """Names below a node."""

    def get(self, path: str) -> Deferred[Node]:
        """A node's data."""

    def create(self, path: str, data: bytes) -> Deferred[str]:
        """Make an ephemeral node, and lasting ones above it."""


class KazooZooKeeper:
    """The client over kazoo; made by the service, one for an ensemble."""

    def __init__(
        self,
        hosts: str,
        reactor: Any,
        *,
        session_timeout: float,
        auth: Sequence[str] = (),
    ) -> None:
        """Args:
        hosts: comma-separated, maybe with a /chroot.
        reactor: whose thread everything is told in.
        session_timeout: seconds.
        auth: `digest:user:password` each.
        """
        self._reactor = reactor
        self._mail: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._called = False
        # kazoo waits longer after each failed try; beyond the session's timeout that would lose it.
        retry = KazooRetry(
            max_tries=-1, delay=0.1, backoff=2, max_delay=max(0.5, session_timeout / 4)
        )
        schemes = [each.partition(":") for each in auth]
        self._kazoo = KazooClient(
            hosts=hosts,
            timeout=session_timeout,
            connection_retry=retry,
            auth_data=[(scheme, credential) for scheme, _, credential in schemes] or None,
        )

    def __repr__(self) -> str:
        return f"<KazooZooKeeper session={self.session:#x}>"

    @property
    def session(self) -> int:
        """As Client."""
        found = self._kazoo.client_id
        return int(found[0]) if found else 0

    def start(self, told: Callable[[str], None]) -> None:
        """As Client."""
        self._kazoo.add_listener(lambda state: self._post(told, str(state).lower()))
        self._kazoo.start_async()

    def stop(self) -> Deferred[None]:
        """As Client; at most two seconds, since kazoo waits for its threads."""
        done: Deferred[None] = Deferred()

        def finish() -> None:
            if not done.called:
                done.callback(None)

        def end() -> None:
            try:
                self._kazoo.stop()
                self._kazoo.close()
            finally:
                self._post(finish)

        Thread(target=end, name="gatewayd-zookeeper-stop", daemon=True).start()
        self._reactor.callLater(_STOP_SECONDS, finish)
        return done

    def get_children_and_watch(self, path: str) -> tuple[Deferred[list[str]], Deferred[str]]:
        """As Client."""
        return self._watched(self._kazoo.get_children_async, path, list)

    def get_and_watch(self, path: str) -> tuple[Deferred[Node], Deferred[str]]:
        """As Client."""
        return self._watched(self._kazoo.get_async, path, _node)

    def exists_and_watch(self, path: str) -> tuple[Deferred[bool], Deferred[str]]:
        """As Client."""
        return self._watched(self._kazoo.exists_async, path, bool)

    def get_children(self, path: str) -> Deferred[list[str]]:
        """As Client."""
        return self._ask(lambda: self._kazoo.get_children_async(path), list)

    def get(self, path: str) -> Deferred[Node]:
        """As Client."""
        return self._ask(lambda: self._kazoo.get_async(path), _node)

    def create(self, path: str, data: bytes) -> Deferred[str]:
        """As Client."""
        return self._ask(
            lambda: self._kazoo.create_async(path, data, ephemeral=True, makepath=True), str
        )

    # --- between the threads

    def _watched(self, ask: Any, path: str, shape: Callable[[Any], Any]) -> tuple[Any, Any]:
        watch: Deferred[str] = Deferred()

        def fire(event: Any) -> None:
            # kazoo says NONE to every watch of a lost connection: no change, and read anew anyway.
            if not watch.called and event.type != EventType.NONE:
                watch.callback(str(event.type).lower())

        answer = self._ask(lambda: ask(path, watch=lambda event: self._post(fire, event)), shape)
        return answer, watch

    def _ask(self, begin: Callable[[], Any], shape: Callable[[Any], Any]) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred(lambda _: None)

        def settle(result: Any) -> None:
            if answer.called:
                return
            if result.successful():
                answer.callback(shape(result.value))
            else:
                answer.errback(_translated(result.exception))

        try:
            begin().rawlink(lambda result: self._post(settle, result))
        except Exception as error:  # kazoo raises at once where the connection is closed
            answer.errback(_translated(error))
        return answer

    def _post(self, act: Callable[..., None], *arguments: Any) -> None:
        """From any thread: have something done in the reactor's."""
        self._mail.append((act, arguments))
        if not self._called:
            self._called = True
            self._reactor.callFromThread(self._open_mail)

    def _open_mail(self) -> None:
        try:
            for _ in range(_SLICE):
                if not self._mail:
                    break
                act, arguments = self._mail.popleft()
                act(*arguments)
        finally:  # what fails must not stop the mail
            self._called = False
            if self._mail:
                self._called = True
                self._reactor.callLater(0, self._open_mail)


def _node(value: Any) -> Node:
    data, stat = value
    return Node(data or b"", int(stat.ephemeralOwner or 0))


def _translated(error: BaseException) -> ZooKeeperError:
    """kazoo's errors as ours."""
    if isinstance(error, NoNodeError):
        return NoNode("no such node")
    if isinstance(error, NodeExistsError):
        return NodeExists("the node exists")
    if isinstance(error, NoAuthError):
        return NotAllowed("the node's ACL refuses us; set zookeeper.auth")
    if isinstance(error, ConnectionLoss | ConnectionClosedError | SessionExpiredError):
        return Away("the connection is lost")
    return ZooKeeperError(f"{type(error).__name__}: {error}")
