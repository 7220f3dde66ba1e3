"""What a request's path becomes on its way to the upstream, and where a redirect leads."""

from __future__ import annotations

import re
from typing import Final

from gatewayd.core.errors import BadRequest, BadRewrite
from gatewayd.core.messages import RequestHead
from gatewayd.core.regexes import LIMIT
from gatewayd.core.routes import below
from gatewayd.core.targets import normal_path

_SLASHES: Final = re.compile(r"^[/\\]+")


class Rewrite:
    """What a route does to paths."""

    def __init__(
        self,
        *,
        strip_prefix: str = "",
        regex: re.Pattern[bytes] | None = None,
        replace: str = "",
    ) -> None:
        """Args: strip_prefix, or regex with replace, or neither."""
        self._strip = strip_prefix.rstrip("/").encode()
        self._regex = regex
        self._replace = replace.encode()

    def __bool__(self) -> bool:
        return bool(self._strip or self._regex)

    def apply(self, path: bytes, base: bytes = b"") -> bytes:
        """The path that the upstream sees.

        Args:
            path: in its one form (core.targets).
            base: the upstream's base_path without a slash at its end; put in front with one slash.

        Raises:
            BadRewrite: the result is no path, or leads above the root.
        """
        if path == b"*":
            return path
        if self._strip and below(path, self._strip):
            path = path[len(self._strip) :]
        elif self._regex is not None and len(path) <= LIMIT:
            path = self._regex.sub(self._replace, path, count=1)
        try:
            path = normal_path(b"/" + path.lstrip(b"/"))
        except BadRequest as error:
            raise BadRewrite(f"the rewritten path is none: {error.detail}") from error
        return base + path


class Redirect:
    """A redirect's target with `{host}`, `{port}`, `{path}` and `{query}` filled in."""

    def __init__(self, to: str, status: int) -> None:
        """Args: to: the template. status: 301, 302, 303, 307 or 308."""
        self.to = to
        self.status = status

    def location(self, head: RequestHead, port: int) -> bytes:
        """The Location for a request.

        Args:
            head: of the request.
            port: that the client connected to.
        """
        host = head.host
        path = _SLASHES.sub(
            "/", head.path.decode("ascii")
        )  # `//evil.example` would be another host
        place = (
            self.to.replace("{query}", "\0")
            .replace("{host}", host)
            .replace("{port}", str(port))
            .replace("{path}", path)
            .replace("\0", head.query.decode("ascii"))
        )
        return place.encode("ascii")
