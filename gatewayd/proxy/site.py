"""The client's side of an exchange where a stock `twisted.web.server.Site` has read the request."""

from __future__ import annotations

from typing import Any

from gatewayd.core.errors import BadRequest, GatewayError
from gatewayd.core.exchange import Exchange, Origin
from gatewayd.core.messages import RequestHead, ResponseHead, name_of, value_of
from gatewayd.http1.requests import PathRules, read_request
from gatewayd.net.flow import Flow
from gatewayd.proxy.context import Context

_SITES_OWN = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade"))


class SiteClient:
    """Answers through a `twisted.web` request; made by a leaf's `render`."""

    def __init__(self, request: Any, context: Context) -> None:
        """Args: request: Twisted's, whole. context: of the leaf that serves it."""
        self._request = request
        request.defaultContentType = None  # what an upstream does not say, nobody says for it
        self._gone = False
        self.error: GatewayError | None = None
        now = context.clock()
        body = request.content.read()
        peer = request.getClientAddress()
        origin = Origin(
            listener="-",
            peer=getattr(peer, "host", "unix"),
            scheme="https" if request.isSecure() else "http",
            port=getattr(request.getHost(), "port", 0),
            trusted=False,
        )
        self.exchange = Exchange(self._head(request, len(body)), self, origin, now)
        self.exchange.received = now
        self.exchange.held = body
        self.exchange.bytes_in = len(body)
        request.notifyFinish().addErrback(self._lost)

    def _head(self, request: Any, length: int) -> RequestHead:
        """Read the head again, as strictly as our own channel does."""
        lines = [
            b"%b: %b" % (name, value)
            for name, values in request.requestHeaders.getAllRawHeaders()
            if name.lower() not in _SITES_OWN
            for value in values
        ]
        if length:
            lines.append(b"Content-Length: %d" % length)
        version = request.clientproto.upper()
        first = b"%b %b %b" % (request.method, request.uri, version)
        try:
            head = read_request(b"\r\n".join([first, *lines, b"", b""]), PathRules(), 0)
        except BadRequest as error:
            self.error = error
            return RequestHead([])
        assert head is not None  # it has its blank line
        return head

    def _lost(self, reason: Any) -> None:
        self._gone = True
        if self.exchange.client is self:
            self.exchange.way.client_gone(self.exchange, "it closed the connection")

    def respond(self, exchange: Exchange, head: ResponseHead, body: bytes, ended: bool) -> None:
        """Send a response's head, with what there is of its body."""
        request = self._request
        request.setResponseCode(head.status, head.reason)
        for line in head.lines:
            name = name_of(line)
            if name in (b"date", b"server"):
                request.responseHeaders.removeHeader(name)
            request.responseHeaders.addRawHeader(line[: len(name)], value_of(line))
        if body:
            request.write(body)
        if not ended:
            request.registerProducer(Flow(exchange.connection, self), True)

    takes_chunks = False  # Site frames the body itself

    def respond_body(self, data: bytes) -> None:
        """Send a piece of the response's body."""
        if not self._gone:
            self._request.write(data)

    def respond_end(self, trailers: list[bytes]) -> None:
        """The body is whole; Site has no trailers."""
        if not self._gone:
            self._request.unregisterProducer()

    def interim(self, head: ResponseHead) -> None:
        """Site sends no 1xx of others."""

    def finished(self) -> None:
        """The answer is whole."""
        if not self._gone:
            self._request.finish()

    def cut(self) -> None:
        """End the connection so that the client can tell that the answer is not whole."""
        if not self._gone:
            self._request.transport.abortConnection()

    def unwatch(self) -> None:
        """Only spliced bodies need it."""

    def splice_sink(self) -> None:
        """Site frames the body itself."""

    def pause(self) -> None:
        """The request is whole: there is nothing to read."""

    def resume(self) -> None:
        """The request is whole: there is nothing to read."""

    def blocked(self) -> None:
        """Site has timeouts of its own."""

    def unblocked(self) -> None:
        """Site has timeouts of its own."""
