"""The gateway's own node in ZooKeeper: ephemeral, made anew with every session."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.python.failure import Failure

from gatewayd.discovery.client import Client, Node, NodeExists

_AGAIN: Final = 5.0  # seconds after which a failed registration is tried again


class Registration:
    """One node; made by the service where `register` is configured."""

    def __init__(
        self,
        path: str,
        name: str,
        says: Callable[[], Mapping[str, Any]],
        client: Client,
        clock: Any,
        warn: Callable[[str], None],
    ) -> None:
        """Args:
        path: below which gateways register.
        name: of our own node; the same after a restart.
        says: what the node tells: address, admin, version, pid.
        client: of the ensemble.
        clock: Twisted's IReactorTime.
        warn: takes a message for people.
        """
        self.path = path.rstrip("/")
        self.node: str | None = None  # once it stands
        self._name = name
        self._says = says
        self._client = client
        self._clock = clock
        self._warn = warn
        self._timer: Any = None
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Registration {self.node or 'none'}>"

    def stop(self) -> None:
        """Register no more; the node goes with the session."""
        self._stopped = True
        self._no_timer()

    def _no_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def renew(self) -> None:
        """The session is new, or was away: see that our node stands and is ours."""
        self._no_timer()
        self.node = None
        where = f"{self.path}/{self._name}"
        made = self._client.create(where, json.dumps(dict(self._says())).encode())
        made.addCallbacks(self._stands, self._failed, errbackArgs=(where,))

    def _stands(self, node: str) -> None:
        self.node = node

    def _failed(self, failure: Failure, where: str) -> None:
        if self._stopped:
            return
        if failure.check(NodeExists) is None:
            self._warn(f"this gateway could not register at {where}: {failure.value}")
            self._again_later()
            return
        answer, watch = self._client.get_and_watch(where)
        watch.addCallback(lambda event: self._again())
        answer.addCallbacks(self._whose, lambda failure: self._again_later(), (where,))

    def _whose(self, node: Node, where: str) -> None:
        """An old session's node may still stand; it goes with it, and its watch tells us."""
        if node.owner == self._client.session:
            self._stands(where)

    def _again_later(self) -> None:
        if not self._stopped:
            self._no_timer()
            self._timer = self._clock.callLater(_AGAIN, self._again)

    def _again(self) -> None:
        if self.node is None and not self._stopped:
            self.renew()
