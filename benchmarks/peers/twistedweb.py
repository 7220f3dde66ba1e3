"""Stock twisted.web: a Site whose resource asks an Agent with a pool.

As a program, `python -m benchmarks.peers.twistedweb`, it is that proxy: what one gets by following
Twisted's documentation.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.peers import Peer, Site


class TwistedWeb(Peer):
    """Site + Agent + HTTPConnectionPool, on Twisted's own reactor; it writes no access log."""

    name = "twisted.web"
    tunnels = False

    def prepare(self, directory: Path) -> str:
        """It needs nothing but to be there."""
        return "" if importlib.util.find_spec("twisted") else "Twisted is not installed"

    def command(self, site: Site) -> list[str]:
        """As Peer."""
        table = site.directory / "endpoints"
        table.write_text("".join(f"{host}:{port}\n" for host, port in site.endpoints))
        return [
            *(sys.executable, "-m", "benchmarks.peers.twistedweb", "--port", str(site.port)),
            *("--endpoints", str(table), "--sink", f"127.0.0.1:{site.sink_port}"),
        ]


def main() -> None:
    """Serve until ended."""
    from twisted.internet import reactor as global_reactor
    from twisted.internet.protocol import Protocol
    from twisted.web import client as stock_client
    from twisted.web import server as stock_server
    from twisted.web.resource import Resource

    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.twistedweb")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--endpoints", type=Path, required=True)
    parser.add_argument("--sink", required=True)
    options = parser.parse_args()

    # Twisted's web has no types.
    reactor: Any = global_reactor
    client: Any = stock_client
    server: Any = stock_server
    pool = client.HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = 20_000
    pool.cachedConnectionTimeout = 3600
    agent = client.Agent(reactor, pool=pool)
    addresses = cycle(
        [b"http://" + line.encode() for line in options.endpoints.read_text().split()]
    )
    sink = b"http://" + options.sink.encode()
    dropped = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade"}

    class Relay(Protocol):
        """Hands a response's body on; the client's transport slows the endpoint's."""

        def __init__(self, request: Any) -> None:
            self.request = request

        def connectionMade(self) -> None:
            self.request.registerProducer(self.transport, True)

        def dataReceived(self, data: bytes) -> None:
            self.request.write(data)

        def connectionLost(self, reason: Any = None) -> None:
            if not self.request._disconnected:
                self.request.unregisterProducer()
                self.request.finish()

    class Forward(Resource):
        """Forwards everything."""

        isLeaf = True

        def render(self, request: Any) -> Any:
            headers = request.requestHeaders.copy()
            for name in dropped:
                headers.removeHeader(name)
            headers.addRawHeader(b"X-Forwarded-For", request.getClientAddress().host.encode())
            address = sink if request.path.startswith(b"/sink/") else next(addresses)
            length = request.getHeader(b"content-length")
            has_body = length not in (None, b"0") or request.getHeader(b"transfer-encoding")
            body = client.FileBodyProducer(request.content) if has_body else None
            asked = agent.request(request.method, address + request.uri, headers, body)
            asked.addCallback(answered, request).addErrback(failed, request)
            return server.NOT_DONE_YET

    def answered(response: Any, request: Any) -> None:
        request.setResponseCode(response.code, response.phrase)
        for name, values in response.headers.getAllRawHeaders():
            if name.lower() not in dropped:
                request.responseHeaders.setRawHeaders(name, values)
        if isinstance(response.length, int):
            request.setHeader(b"content-length", b"%d" % response.length)
        response.deliverBody(Relay(request))

    def failed(failure: Any, request: Any) -> None:
        if not request._disconnected:
            request.setResponseCode(502)
            request.finish()

    resource: Any = Forward
    reactor.listenTCP(options.port, server.Site(resource()), backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
