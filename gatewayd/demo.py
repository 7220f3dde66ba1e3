"""The demo: three small upstreams that say who they are, and a gateway in front."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

CONFIG: Final = Path(__file__).with_name("demo.yaml")
_PORTS: Final = (2003, 2004, 2005)
_SLOW: Final = 2.0
_TRY: Final = """
gatewayd's demo: a gateway on http://127.0.0.1:2000, its admin on http://127.0.0.1:9901
Three upstreams behind it on 127.0.0.1:2003, 2004 and 2005. Ctrl-C ends all. Try:

  curl 127.0.0.1:2000/                          three endpoints in turn
  curl -b user=anna 127.0.0.1:2000/sticky       the same cookie, the same endpoint
  curl 127.0.0.1:2000/weighted                  2003 takes three of five
  curl 127.0.0.1:2000/canary                    one in five goes to 2005
  curl -H 'X-Canary: yes' 127.0.0.1:2000/       a condition on a header
  curl 127.0.0.1:2000/api/v1/users              the prefix is stripped
  curl 127.0.0.1:2000/old/books                 a regex rewrites it to /new/books
  curl -i 127.0.0.1:2000/edited                 header edits, both ways
  curl -i 127.0.0.1:2000/slow                   too slow: 504
  curl -N 127.0.0.1:2000/events                 server-sent events
  curl -i 127.0.0.1:2000/failing                nobody there: 502
  curl -i 127.0.0.1:2000/post-only              wrong method: 405 with Allow
  curl -i 127.0.0.1:2000/moved                  a redirect
  curl -i 127.0.0.1:2000/teapot                 an answer of the gateway's own
  wrk -c 64 -d 3 http://127.0.0.1:2000/crowded  a bounded queue: some 503
  gatewayd status                               how it fares
  gatewayd explain GET http://127.0.0.1:2000/api/v1/users
  curl 127.0.0.1:9901/metrics                   for Prometheus

The configuration: {config}
"""


class _Upstream(Resource):
    """Says who it is and what it was asked."""

    isLeaf = True

    def __init__(self, port: int, reactor: Any) -> None:
        super().__init__()
        self._port = port
        self._reactor = reactor

    def render(self, request: Request) -> Any:
        """Twisted: answer."""
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        if request.path.startswith(b"/slow"):
            call = self._reactor.callLater(_SLOW, self._finish, request)
            request.notifyFinish().addErrback(lambda _: call.active() and call.cancel())
            return NOT_DONE_YET
        if request.path.startswith(b"/events"):
            return self._events(request)
        return self._page(request)

    def _page(self, request: Request) -> bytes:
        lines = [
            f"endpoint 127.0.0.1:{self._port}",
            f"{request.method.decode()} {request.uri.decode()}",
        ]
        for name, values in sorted(request.requestHeaders.getAllRawHeaders()):
            lines += [f"  {name.decode('latin-1')}: {value.decode('latin-1')}" for value in values]
        return "\n".join(lines).encode() + b"\n"

    def _finish(self, request: Request) -> None:
        request.write(self._page(request))
        request.finish()

    def _events(self, request: Request) -> int:
        request.setHeader(b"content-type", b"text/event-stream")
        ticks = LoopingCall(lambda: request.write(b"data: a second has passed\n\n"))
        ticks.clock = self._reactor
        request.notifyFinish().addErrback(lambda _: ticks.stop())
        ticks.start(1.0)
        return NOT_DONE_YET


class _QuietSite(Site):
    """The gateway's access log is enough."""

    noisy = False

    def log(self, request: Any) -> None:
        """Twisted: a request was served."""


def start_upstreams(reactor: Any) -> None:
    """Start the three upstreams and say what to try.

    Raises:
        CannotListenError: one of their ports is in use.
    """
    for port in _PORTS:
        reactor.listenTCP(port, _QuietSite(_Upstream(port, reactor)), interface="127.0.0.1")
    print(_TRY.format(config=CONFIG), flush=True)
