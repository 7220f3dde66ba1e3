"""The admin interface: a small stock Twisted site that asks the gateway and changes little.

Closed by default: without a token only this machine can come, and a browser's page cannot be made to
write here, since writing wants a JSON content type and a Host that is the admin's own.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from urllib.parse import unquote

from twisted.application.service import Service
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from gatewayd.core.addresses import Address
from gatewayd.core.tracing import SUBSYSTEMS
from gatewayd.net.ports import listen_plainly

_LEVELS: Final = ("debug", "info", "warning", "error")
_MAX_BODY: Final = 65536
_IDLE_SECONDS: Final = 30
_LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")
_ACCEPT: Final = re.compile(r"/upstreams/([^/]+)/accept\Z").match
_ENDPOINT: Final = re.compile(r"/upstreams/([^/]+)/endpoints/([^/]+)/(drain|enable)\Z").match


class NotReady(Exception):
    """Traffic should not come yet, or no more; says why."""


class Refused(Exception):
    """What was asked cannot be done, and nothing has changed; `errors` say why."""

    def __init__(self, errors: list[str]) -> None:
        """Args: errors: for people."""
        super().__init__("; ".join(errors))
        self.errors = errors


class Lagging(Exception):
    """What was asked is under way, but somebody has not confirmed it in time; says who."""


class Asked(Protocol):
    """What the interface asks; the gateway's service answers."""

    def ready(self) -> None:
        """Raises NotReady."""

    def healthy(self) -> bool:
        """Whether somebody serves."""

    def status(self) -> Any:
        """A Deferred for /status."""

    def figures(self) -> Any:
        """A Deferred for `metrics`."""

    def metrics(self, found: Any, accept: str) -> tuple[str, bytes]:
        """For /metrics, as (content type, text); called in a thread."""

    def explain(
        self, method: str, url: str, headers: list[str], listener: str, client: str
    ) -> dict[str, Any]:
        """For /explain; raises ValueError."""

    def shown_config(self) -> Any:
        """For /config."""

    def accept(self, upstream: str) -> int:
        """Take a held membership as it is; raises LookupError."""

    def fleet(self) -> Any:
        """A Deferred of the gateways that ZooKeeper knows; raises LookupError."""

    def reload(self, *, only_plan: bool = False) -> Any:
        """A Deferred of the changes; fails with Refused or Lagging."""

    def upgrade(self) -> Any:
        """A Deferred of the new version and its pid; fails with Refused."""

    def drain(self, draining: bool) -> None:
        """Be unready and end keep-alive, or take that back."""

    def drain_endpoint(self, upstream: str, endpoint: str, drained: bool) -> None:
        """Take an endpoint out or put it back; raises LookupError."""

    def set_logging(self, level: str | None, debug: list[str] | None) -> None:
        """For PUT /logging."""


class AdminService(Service):
    """Serves the admin interface; made by the gateway's service."""

    def __init__(
        self,
        address: Address,
        asked: Asked,
        *,
        reactor: Any,
        token: str,
        open_paths: Iterable[str],
        fd: int | None = None,
    ) -> None:
        """Args:
        address: where.
        asked: the gateway.
        reactor: Twisted's.
        token: Bearer token; empty = none is needed.
        open_paths: names of what never needs it.
        fd: a socket that listens there already.
        """
        self.address = address
        self._fd = fd
        self._reactor = reactor
        self._root = _Root(asked, address, token.encode(), frozenset(open_paths))
        self._site = _QuietSite(self._root, timeout=_IDLE_SECONDS)
        self._port: Any = None

    def become(self, token: str, open_paths: Iterable[str]) -> None:
        """Let others in from now on; Args: as those of the constructor."""
        self._root.become(token.encode(), frozenset(open_paths))

    def privilegedStartService(self) -> None:
        """Twisted: bind.

        Raises:
            CannotListenError: in use, not allowed, or no such address.
        """
        super().privilegedStartService()
        if self._port is not None:
            return
        self._port = listen_plainly(self.address, self._site, self._reactor, self._fd)

    def startService(self) -> None:
        """Twisted: begin."""
        super().startService()
        self.privilegedStartService()

    def fileno(self) -> int:
        """Of the listening socket."""
        return int(self._port.fileno())

    def yield_path(self) -> None:
        """Leave a Unix socket's file when the port closes: somebody else listens there."""
        if hasattr(self._port, "yield_path"):
            self._port.yield_path()

    def stopService(self) -> Any:
        """Twisted: end."""
        super().stopService()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None


class _QuietSite(Site):
    """Leaves scrapes and probes out of the log."""

    noisy = False

    def log(self, request: Any) -> None:
        """Twisted: a request was served."""


class _Root(Resource):
    """Finds who answers, after asking whether the client may ask."""

    isLeaf = True

    def __init__(
        self, asked: Asked, address: Address, token: bytes, open_paths: frozenset[str]
    ) -> None:
        super().__init__()
        self._asked = asked
        self._address = address
        self._token = token
        self._open = open_paths
        self._gets: dict[str, Callable[[Request], Any]] = {
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._metrics,
            "/status": self._status,
            "/config": lambda request: self._json(request, asked.shown_config()),
            "/explain": self._explain,
            "/fleet": self._fleet,
        }
        self._posts: dict[str, Callable[[Request], Any]] = {
            "/reload": self._reload,
            "/upgrade": self._upgrade,
            "/drain": lambda request: self._drain(request, True),
            "/undrain": lambda request: self._drain(request, False),
        }

    def render(self, request: Request) -> Any:
        """Twisted: answer."""
        path = unquote(request.path.decode("latin-1"))
        request.setHeader(b"cache-control", b"no-store")
        request.setHeader(b"x-content-type-options", b"nosniff")
        request.setHeader(b"server", b"gatewayd")
        if path.lstrip("/") not in self._open and not self._may(request):
            request.setHeader(b"www-authenticate", b"Bearer")
            return self._say(request, 401, "a Bearer token is needed")
        method = request.method.decode("latin-1")
        if path in self._gets and method in ("GET", "HEAD"):
            return self._gets[path](request)
        if method in ("POST", "PUT"):
            return self._write(request, method, path)
        known = path in self._gets or path in self._posts or path == "/logging"
        return (
            self._say(request, 405, "not here")
            if known
            else self._say(request, 404, "no such page")
        )

    def _may(self, request: Request) -> bool:
        if not self._token:
            return True
        given = (request.getHeader(b"authorization") or b"").strip()
        return hmac.compare_digest(given, b"Bearer " + self._token)

    def become(self, token: bytes, open_paths: frozenset[str]) -> None:
        """Let others in from now on."""
        self._token, self._open = token, open_paths

    def _write(self, request: Request, method: str, path: str) -> Any:
        kind = (request.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != b"application/json" or not self._own_host(request):
            return self._say(
                request,
                403,
                "writing wants Content-Type: application/json and the admin's own Host",
            )
        if (method, path) == ("PUT", "/logging"):
            return self._logging(request)
        endpoint = _ENDPOINT(path)
        if method == "POST" and endpoint is not None:
            return self._drain_endpoint(request, *endpoint.groups())
        accept = _ACCEPT(path)
        if method == "POST" and accept is not None:
            return self._accept(request, accept.group(1))
        if method == "POST" and path in self._posts:
            return self._posts[path](request)
        return self._say(request, 404, "no such page")

    def _own_host(self, request: Request) -> bool:
        host = (request.getHeader(b"host") or b"").decode("latin-1").lower()
        if self._address.kind == "unix":
            return True
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return name in _LOCAL or name == str(self._address).rpartition(":")[0]

    # --- answers

    def _say(self, request: Request, status: int, text: str) -> bytes:
        request.setResponseCode(status)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return text.encode() + b"\n"

    def _json(self, request: Request, value: Any, status: int = 200) -> bytes:
        request.setResponseCode(status)
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(value, indent=2, default=str).encode() + b"\n"

    def _health(self, request: Request) -> bytes:
        if not self._asked.healthy():
            return self._say(request, 503, "no worker serves")
        return self._say(request, 200, "ok")

    def _status(self, request: Request) -> int:
        return self._later(
            request,
            self._asked.status(),
            lambda found: self._json(request, found),
            lambda failure: self._say(request, 503, failure.getErrorMessage()),
        )

    def _ready(self, request: Request) -> bytes:
        try:
            self._asked.ready()
        except NotReady as reason:
            return self._say(request, 503, str(reason))
        return self._say(request, 200, "ok")

    def _metrics(self, request: Request) -> int:
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)

        def made(answer: tuple[str, bytes]) -> None:
            if not gone:
                request.setHeader(b"content-type", answer[0].encode())
                request.write(answer[1])
                request.finish()

        def failed(failure: Failure) -> None:
            if not gone:
                request.processingFailed(failure)

        accept = request.getHeader("accept") or ""
        figures = self._asked.figures()
        figures.addCallback(lambda found: deferToThread(self._asked.metrics, found, accept))
        figures.addCallbacks(made, failed)
        return NOT_DONE_YET

    def _explain(self, request: Request) -> bytes:
        def one(name: bytes) -> str:
            given: list[bytes] = (request.args or {}).get(name, [b""])
            return given[0].decode("utf-8", "replace")

        headers = [
            each.decode("utf-8", "replace") for each in (request.args or {}).get(b"header", [])
        ]
        method, url = one(b"method") or "GET", one(b"url")
        if not url:
            return self._say(request, 400, "ask with ?method=GET&url=http://host/path")
        try:
            found = self._asked.explain(method, url, headers, one(b"listener"), one(b"client"))
        except ValueError as error:
            return self._say(request, 400, str(error))
        return self._json(request, found)

    def _accept(self, request: Request, upstream: str) -> bytes:
        try:
            left = self._asked.accept(upstream)
        except LookupError as error:
            return self._say(request, 404, str(error.args[0]))
        return self._json(request, {"upstream": upstream, "left": left}, 202)

    def _fleet(self, request: Request) -> Any:
        try:
            asked = self._asked.fleet()
        except LookupError as error:
            return self._say(request, 404, str(error.args[0]))
        return self._later(
            request,
            asked,
            lambda gateways: self._json(request, gateways),
            lambda failure: self._say(request, 503, f"ZooKeeper: {failure.getErrorMessage()}"),
        )

    def _later(
        self,
        request: Request,
        asked: Any,
        answer: Callable[[Any], bytes],
        failed: Callable[[Failure], bytes],
    ) -> int:
        """Answer when a Deferred fires, if the client is still there."""
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)

        def write(text: bytes) -> None:
            request.write(text)
            request.finish()

        asked.addCallbacks(
            lambda found: None if gone else write(answer(found)),
            lambda failure: None if gone else write(failed(failure)),
        )
        return NOT_DONE_YET

    def _refused(self, request: Request, failure: Failure) -> bytes:
        if isinstance(failure.value, Refused):
            return self._json(request, {"errors": failure.value.errors}, 409)
        return self._say(request, 504, failure.getErrorMessage())

    def _upgrade(self, request: Request) -> int:
        return self._later(
            request,
            self._asked.upgrade(),
            lambda successor: self._json(request, successor, 202),
            lambda failure: self._refused(request, failure),
        )

    def _reload(self, request: Request) -> int:
        only_plan = bool((request.args or {}).get(b"plan"))
        return self._later(
            request,
            self._asked.reload(only_plan=only_plan),
            lambda changes: self._json(
                request,
                {"changes": [{**each.shown(), "text": str(each)} for each in changes]},
            ),
            lambda failure: self._refused(request, failure),
        )

    def _drain(self, request: Request, draining: bool) -> bytes:
        self._asked.drain(draining)
        return self._json(request, {"draining": draining}, 202)

    def _drain_endpoint(self, request: Request, upstream: str, endpoint: str, do: str) -> bytes:
        try:
            self._asked.drain_endpoint(upstream, endpoint, do == "drain")
        except LookupError as error:
            return self._say(request, 404, str(error.args[0]))
        return self._json(request, {"upstream": upstream, "endpoint": endpoint, "done": do}, 202)

    def _logging(self, request: Request) -> bytes:
        try:
            wanted = json.loads(request.content.read(_MAX_BODY))  # type: ignore[union-attr]
            level = wanted.pop("level", None)
            debug = wanted.pop("debug", None)
        except (ValueError, AttributeError, TypeError, RecursionError):
            return self._say(request, 400, 'write {"level": "info", "debug": ["pool"]}')
        if level is not None and level not in _LEVELS:
            return self._say(request, 400, f"level is one of {', '.join(_LEVELS)}")
        known = isinstance(debug, list) and all(each in SUBSYSTEMS for each in debug)
        if debug is not None and not known:
            return self._say(request, 400, f"debug is a list of {', '.join(SUBSYSTEMS)}")
        if wanted:
            return self._say(request, 400, f"no such key: {', '.join(wanted)}")
        self._asked.set_logging(level, debug)
        return self._json(request, {"level": level, "debug": debug}, 202)
