"""A gateway's objects as its service makes them, on a clock and without sockets."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.testing import MemoryReactorClock

from gatewayd import assembly
from gatewayd.core.deadlines import Wheel
from gatewayd.core.tracing import SUBSYSTEMS, Trace
from gatewayd.proxy.context import Context
from gatewayd.proxy.listener import Listener
from gatewayd.upstreams.names import Resolver
from gatewayd.upstreams.upstream import Upstream
from tests.unit.config_cases import fine


class Assembled:
    """Listeners and upstreams of a configuration, with their static members."""

    def __init__(self, text: str) -> None:
        """Args: text: YAML."""
        config = fine(text).config
        self.reactor: Any = MemoryReactorClock()
        self.context = Context.standalone(self.reactor.seconds, Wheel(0.0))
        self.said: list[str] = []
        self.shared = assembly.Shared(
            reactor=self.reactor,
            context=self.context,
            random=Random(1),
            resolver=Resolver(lambda *call: None, lambda name: []),
            inherited={},
            traces={name: Trace(name) for name in SUBSYSTEMS},
            warn=self.said.append,
            notice=self.said.append,
        )
        self.upstreams: dict[str, Upstream] = {}
        for name, each in config.upstreams.items():
            self.upstreams[name] = assembly.build_upstream(name, each, self.shared)
            members = assembly.build_members(self.upstreams[name], each, self.shared)
            members.startService()
        routes = assembly.build_routes(config, self.upstreams, self.shared)
        meant_for = [route.listeners for route in config.routes] or [()]
        self.listeners: dict[str, Listener] = {
            name: assembly.build_listener(
                name, each, list(zip(routes, meant_for, strict=True)), self.shared
            )
            for name, each in config.listeners.items()
        }
