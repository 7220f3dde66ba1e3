"""Where measurements happen: cores, a temporary directory, the upstream and the running proxies."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks import machine
from benchmarks.peers import Peer, Site
from benchmarks.processes import Child, free_port, listening, wait_until
from benchmarks.upstream import Upstream

_START = 180.0  # seconds: ten thousand routes take some proxies long to read


class Proxy:
    """A proxy that runs; made by the stage."""

    def __init__(self, peer: Peer, site: Site, child: Child) -> None:
        """Args: peer: which. site: what it serves. child: its process."""
        self.peer = peer
        self.name = peer.name
        self.port = site.port
        self.child = child


@dataclass
class Stage:
    """Owns all that runs; a context manager, so that nothing is left behind."""

    peers: list[Peer]
    missing: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Stage:
        """Start the upstream and leave out the peers that cannot be had."""
        self.descriptors = machine.raise_descriptors()
        self.proxy_cores, self.load_cores = machine.cores()
        self.directory = Path(tempfile.mkdtemp(prefix="gatewayd-benchmarks-"))
        self.directory.chmod(0o755)  # nginx's workers may be another user
        self._running: list[Proxy] = []
        self._count = 0
        try:
            self.upstream = Upstream(self.directory, self.load_cores, self.descriptors)
            for peer in self.peers:
                lack = peer.prepare(self.directory)
                if lack:
                    self.missing[peer.name] = lack
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.peers = [peer for peer in self.peers if peer.name not in self.missing]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all and remove the directory."""
        for proxy in list(self._running):
            self.end(proxy)
        if hasattr(self, "upstream"):
            self.upstream.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, peer: Peer, site: Site | None = None) -> Proxy | None:
        """Start a proxy and wait until it forwards.

        Args:
            peer: which.
            site: what it serves; by default three endpoints and no further routes.

        Returns:
            The proxy, or None: then `missing` says why.
        """
        self._count += 1
        site = site or Site()
        site.port = free_port()
        site.endpoints = site.endpoints or self.upstream.endpoints(3)
        site.sink_port = self.upstream.sink_port
        site.directory = self.directory / f"{self._count}-{peer.name.replace(' ', '-')}"
        site.directory.mkdir()
        child = Child(
            peer.command(site),
            cores=self.proxy_cores,
            output=site.directory / "output",
            environment=peer.environment,
            cwd=machine.CHECKOUT,
        )
        proxy = Proxy(peer, site, child)
        self._running.append(proxy)
        try:
            wait_until(lambda: listening(site.port) or not child.running, _START, peer.name)
        except TimeoutError as error:
            self.missing[peer.name] = str(error)
        if not child.running:
            self.missing[peer.name] = f"did not start: {child.said()[-300:]}"
        if peer.name in self.missing:
            self.end(proxy)
            return None
        return proxy

    def run_all(self, site: Site | None = None) -> list[Proxy]:
        """Start every peer there is, with the same site."""
        found = [self.run(peer, site.copy() if site else None) for peer in self.peers]
        self.peers = [peer for peer in self.peers if peer.name not in self.missing]
        return [proxy for proxy in found if proxy is not None]

    def end(self, proxy: Proxy) -> None:
        """End a proxy."""
        self._running.remove(proxy)
        proxy.child.stop()
