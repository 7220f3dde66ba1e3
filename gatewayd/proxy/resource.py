"""The leaves of a listener's tree, and its root, as Twisted resources.

`begin(exchange)` is the door of the gateway's own channel. `render(request)` is the door for a stock
`twisted.web.server.Site`: there Site holds an upload until it is whole, and responses stream.
"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import classImplements

from gatewayd.core.addresses import Networks
from gatewayd.core.errors import BadRequest, GatewayError, Loop
from gatewayd.core.exchange import Exchange
from gatewayd.core.forwarded import introduce
from gatewayd.core.messages import Edits
from gatewayd.core.rewrites import Redirect
from gatewayd.core.routes import Table
from gatewayd.core.tracing import SILENT, Trace
from gatewayd.proxy.answers import own_answer
from gatewayd.proxy.context import Context
from gatewayd.proxy.filters import Filters
from gatewayd.proxy.site import SiteClient
from gatewayd.proxy.way import Way

_NOBODY = Networks()


class Leaf(Way):
    """A resource that answers all below it itself."""

    isLeaf: ClassVar[bool] = True
    server: Any = None  # set by Twisted's putChild; a compiled class has to declare it

    def begin(self, exchange: Exchange) -> None:
        """Take an exchange whose client has been introduced, and answer it now or later."""
        raise LookupError(f"{self!r} answers nothing")

    def render(self, request: Any) -> int:
        """Twisted: serve a request of a stock Site."""
        client = SiteClient(request, self.context)
        exchange = client.exchange
        exchange.way = self
        exchange.added = introduce(exchange, _NOBODY, self.context.ids)
        if client.error is not None:
            self.refuse(exchange, client.error)
        elif self.context.via.is_in(exchange.head.via):
            self.refuse(exchange, Loop("the request carries our own Via"))
        else:
            self.begin(exchange)
        return NOT_DONE_YET

    def getChildWithDefault(self, name: bytes, request: Any) -> Leaf:
        """Twisted: never asked of a leaf."""
        return self

    def putChild(self, path: bytes, child: Any) -> None:
        """Twisted: a leaf has no children."""
        raise ValueError("routes are added in the configuration, not to a leaf")


classImplements(Leaf, IResource)


class Root(Leaf):
    """A listener's root: finds the leaf by the routes."""

    def __init__(
        self, context: Context, table: Table, trusted: Networks, *, trace: Trace = SILENT
    ) -> None:
        """Args:
        table: its routes carry the leaves.
        trusted: the listener's trusted_proxies.
        trace: debug output.
        """
        super().__init__(context)
        self.table = table
        self._trace = trace
        self._trusted = trusted

    def __repr__(self) -> str:
        return f"<Root routes={len(self.table.routes)}>"

    def begin(self, exchange: Exchange) -> None:
        """Find the exchange's leaf, and hand it over."""
        context = self.context
        exchange.added = introduce(exchange, self._trusted, context.ids)
        head = exchange.head
        try:
            if head.via and context.via.is_in(head.via):
                raise Loop("the request carries our own Via")
            route = self.table.find(head, exchange.scheme)
        except GatewayError as error:
            self.refuse(exchange, error)
            return
        if self._trace.on:
            self._trace.write(f"{exchange!r} of {exchange.client_ip} takes {route!r}")
        leaf: Leaf = route.leaf
        exchange.route = route
        exchange.way = leaf
        filters: Filters | None = route.filters
        if filters is not None:
            refusal = filters.refusal(exchange, context.clock())
            if refusal is not None:
                leaf.refuse(exchange, refusal)
                return
        leaf.begin(exchange)

    def refuse(self, exchange: Exchange, error: GatewayError) -> None:
        """Answer with an error, also what was never a request."""
        if not exchange.request_id:
            introduce(exchange, self._trusted, self.context.ids)
        if isinstance(error, BadRequest):
            exchange.head.close = True
        super().refuse(exchange, error)


class RedirectResource(Leaf):
    """Sends the client elsewhere."""

    def __init__(
        self, context: Context, redirect: Redirect, *, response_edits: Edits | None = None
    ):
        """Args: redirect: where to."""
        super().__init__(context, response_edits=response_edits)
        self.redirect = redirect

    def __repr__(self) -> str:
        return f"<RedirectResource {self.redirect.status} {self.redirect.to}>"

    def begin(self, exchange: Exchange) -> None:
        """Answer with the Location."""
        location = self.redirect.location(exchange.head, exchange.origin.port)
        fields = [b"Location: %b\r\n" % location]
        head, body = own_answer(
            exchange, self.redirect.status, b"text/plain; charset=utf-8", location + b"\n", fields
        )
        self.answer(exchange, head, body)


class RespondResource(Leaf):
    """Answers with what the configuration says."""

    def __init__(
        self, context: Context, status: int, body: bytes, *, response_edits: Edits | None = None
    ) -> None:
        """Args: status: its code. body: text in UTF-8."""
        super().__init__(context, response_edits=response_edits)
        self.status = status
        self._body = body

    def __repr__(self) -> str:
        return f"<RespondResource {self.status}>"

    def begin(self, exchange: Exchange) -> None:
        """Answer."""
        head, body = own_answer(exchange, self.status, b"text/plain; charset=utf-8", self._body, [])
        self.answer(exchange, head, body)
