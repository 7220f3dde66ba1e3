"""A ZooKeeper in memory: one tree of nodes, and clients whose sessions come and go as a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from gatewayd.discovery.client import (
    CONNECTED,
    LOST,
    SUSPENDED,
    Away,
    Node,
    NodeExists,
    NoNode,
    NotAllowed,
)


class MemoryZooKeeper:
    """The ensemble; tests make nodes in it, and faults."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {"/": Node(b"", 0)}
        self.forbidden: set[str] = set()  # paths whose ACL refuses everybody
        self.silent = False  # reads are never answered
        self._watches: dict[tuple[str, str], list[Deferred[str]]] = {}
        self._sessions = 0

    def __repr__(self) -> str:
        return f"<MemoryZooKeeper nodes={len(self.nodes)}>"

    def new_session(self) -> int:
        """A session's id."""
        self._sessions += 1
        return self._sessions

    def set(self, path: str, data: bytes = b"", owner: int = 0) -> None:
        """Make a node, with those above it, or change its data."""
        above = path.rpartition("/")[0] or "/"
        if above not in self.nodes:
            self.set(above)
        existed = path in self.nodes
        self.nodes[path] = Node(data, owner)
        self._fire("data", path, "changed" if existed else "created")
        if not existed:
            self._fire("children", above, "child")

    def delete(self, path: str) -> None:
        """Take a node away, with those below it."""
        for below in [each for each in self.nodes if each.startswith(path + "/")]:
            self.delete(below)
        if self.nodes.pop(path, None) is not None:
            self._fire("data", path, "deleted")
            self._fire("children", path, "deleted")
            self._fire("children", path.rpartition("/")[0] or "/", "child")

    def end_session(self, session: int) -> None:
        """Its ephemeral nodes go."""
        for path in [path for path, node in self.nodes.items() if node.owner == session]:
            self.delete(path)

    def children(self, path: str) -> list[str]:
        """Names below a node."""
        prefix = path.rstrip("/") + "/"
        return [
            each[len(prefix) :]
            for each in self.nodes
            if each.startswith(prefix) and "/" not in each[len(prefix) :] and each != "/"
        ]

    def watch(self, kind: str, path: str) -> Deferred[str]:
        """Fires once, at the next event."""
        watch: Deferred[str] = Deferred()
        self._watches.setdefault((kind, path), []).append(watch)
        return watch

    def drop_watches(self) -> None:
        """A lost connection drops them all."""
        self._watches.clear()

    def _fire(self, kind: str, path: str, event: str) -> None:
        for watch in self._watches.pop((kind, path), []):
            watch.callback(event)


class MemoryClient:
    """A client of the ensemble in memory; has what gatewayd.discovery.client.Client has."""

    def __init__(self, zookeeper: MemoryZooKeeper) -> None:
        """Args: zookeeper: the ensemble."""
        self.zookeeper = zookeeper
        self.session = 0
        self.reads: list[str] = []  # paths, in order
        self._told: Callable[[str], None] | None = None
        self._up = False

    # --- what a test does

    def connect(self) -> None:
        """The connection is there; a lost session gets a new one."""
        if not self.session:
            self.session = self.zookeeper.new_session()
        self._up = True
        self._tell(CONNECTED)

    def suspend(self) -> None:
        """The connection is lost, the session may live."""
        self._up = False
        self.zookeeper.drop_watches()
        self._tell(SUSPENDED)

    def lose(self) -> None:
        """The session is gone, as a server says."""
        self._up = False
        self.zookeeper.end_session(self.session)
        self.session = 0
        self._tell(LOST)

    def _tell(self, state: str) -> None:
        if self._told is not None:
            self._told(state)

    # --- what Client has

    def start(self, told: Callable[[str], None]) -> None:
        """As Client; connects when the test says so."""
        self._told = told

    def stop(self) -> Deferred[None]:
        """As Client."""
        self._told = None
        if self.session:
            self.zookeeper.end_session(self.session)
        return succeed(None)

    def get_children_and_watch(self, path: str) -> tuple[Deferred[list[str]], Deferred[str]]:
        """As Client."""
        watch = self._watch("children", path)
        return self.get_children(path), watch

    def get_and_watch(self, path: str) -> tuple[Deferred[Node], Deferred[str]]:
        """As Client."""
        watch = self._watch("data", path)
        return self.get(path), watch

    def _watch(self, kind: str, path: str) -> Deferred[str]:
        """A read that fails leaves no watch behind."""
        zookeeper = self.zookeeper
        if self._up and path in zookeeper.nodes and path not in zookeeper.forbidden:
            return zookeeper.watch(kind, path)
        return Deferred()

    def exists_and_watch(self, path: str) -> tuple[Deferred[bool], Deferred[str]]:
        """As Client."""
        watch = self.zookeeper.watch("data", path)
        return self._answer(path, lambda: path in self.zookeeper.nodes), watch

    def get_children(self, path: str) -> Deferred[list[str]]:
        """As Client."""
        return self._answer(path, lambda: self.zookeeper.children(path), must_exist=True)

    def get(self, path: str) -> Deferred[Node]:
        """As Client."""
        return self._answer(path, lambda: self.zookeeper.nodes[path], must_exist=True)

    def create(self, path: str, data: bytes) -> Deferred[str]:
        """As Client."""
        if path in self.zookeeper.nodes:
            return fail(NodeExists("the node exists"))

        def make() -> str:
            self.zookeeper.set(path, data, self.session)
            return path

        return self._answer(path, make)

    def _answer(
        self, path: str, found: Callable[[], Any], *, must_exist: bool = False
    ) -> Deferred[Any]:
        self.reads.append(path)
        if self.zookeeper.silent:
            return Deferred(lambda _: None)
        if not self._up:
            return fail(Away("the connection is lost"))
        if path in self.zookeeper.forbidden:
            return fail(NotAllowed("the node's ACL refuses us; set zookeeper.auth"))
        if must_exist and path not in self.zookeeper.nodes:
            return fail(NoNode("no such node"))
        return succeed(found())
