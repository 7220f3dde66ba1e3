"""gatewayd itself, as a user runs it: access log to a file, metrics and admin interface on."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.machine import CHECKOUT, python
from benchmarks.peers import HOST, PREFIX, Peer, Site

NAME: Final = "gatewayd"
COMPILED: Final = "compiled"
NO_LOG: Final = " no log"  # ends the name of one without an access log


class Gatewayd(Peer):
    """`gatewayd run`, one worker, nothing switched off; the checkout's source, or the wheel in dist/."""

    routes = True

    def __init__(
        self,
        *,
        name: str = NAME,
        command: str = "",
        compiled: bool = False,
        log: bool = True,
        prefix: tuple[str, ...] = (),
        workers: int = 1,
    ) -> None:
        """Choose which.

        Args:
            name: in the tables.
            command: how to start another build of it, up to `run`.
            compiled: the newest compiled wheel in dist/.
            log: whether it writes an access log.
            prefix: put in front of `-m gatewayd`: Python options of a profiler.
            workers: processes that serve.
        """
        self.name = name if log else name + NO_LOG
        self._command = shlex.split(command)
        self._compiled = compiled
        self._log = log
        self._prefix = prefix
        self._workers = workers

    def prepare(self, directory: Path) -> str:
        """Unpack the wheel, where it is that."""
        if not self._compiled:
            return ""
        wheels = sorted(
            (CHECKOUT / "dist").glob("gatewayd-*-cp*.whl"), key=lambda path: path.stat().st_mtime
        )
        if not wheels:
            return "no compiled wheel in dist/; `make build-optimized` makes one"
        place = directory / self.name.replace(" ", "-")
        shutil.unpack_archive(wheels[-1], place, "zip")
        self.environment = {"PYTHONPATH": str(place)}
        self._prefix = ("-P", *self._prefix)  # not the checkout, where we are
        return ""

    def command(self, site: Site) -> list[str]:
        """As Peer."""
        configuration = site.directory / "gatewayd.yaml"
        document = {**configured(site, log=self._log), "workers": self._workers}
        configuration.write_text(yaml.dump(document, Dumper=_Dumper))
        start = self._command or [python(), *self._prefix, "-m", "gatewayd"]
        return [*start, "run", "--config", str(configuration)]


_Dumper: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def configured(site: Site, *, log: bool = True) -> dict[str, Any]:
    """The configuration for a site; what is not said has gatewayd's default."""
    main = {"upstream": "main"}
    routes: list[dict[str, Any]] = [
        {"name": "sink", "match": {"path_prefix": "/sink"}, "upstream": "sink"}
    ]
    routes += [
        {"name": f"h{number}", "match": {"hosts": [HOST.format(number)]}, **main}
        for number in range(site.hosts)
    ]
    routes += [
        {"name": f"p{number}", "match": {"path_prefix": PREFIX.format(number)[:-1]}, **main}
        for number in range(site.prefixes)
    ]
    routes.append({"name": "rest", **main})
    pool: dict[str, Any] = {}
    if site.idle > 512:
        pool = {"pool": {"max_idle": site.idle, "max_idle_per_endpoint": site.idle}}
    access = {"to": str(site.directory / "access.log") if log else "none"}
    return {
        "listeners": {
            "web": {
                "address": f"127.0.0.1:{site.port}",
                "limits": {"max_connections": site.connections},
                "timeouts": {"idle": "1h"},
            }
        },
        "routes": routes,
        "upstreams": {
            "main": {"endpoints": [f"{host}:{port}" for host, port in site.endpoints], **pool},
            "sink": {"endpoints": [f"127.0.0.1:{site.sink_port}"]},
        },
        "admin": {"address": f"unix:{site.directory / 'admin.sock'}"},
        "logging": {"access": access},
        "drain_timeout": "1s",
    }
