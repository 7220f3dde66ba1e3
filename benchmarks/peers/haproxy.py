"""HAProxy: one thread, access log on, upstream connections shared, bodies spliced."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.machine import tool
from benchmarks.peers import HOST, PREFIX, Peer, Site

# The log goes to stdout, which is a file here: as for the others, a write for each request.
_CONFIGURATION: Final = """
global
    nbthread 1
    maxconn {connections}
    no strict-limits  # it wants a quarter more descriptors than it uses here
    log stdout format raw local0 info
defaults
    mode http
    log global
    option httplog
    option dontlognull
    option forwardfor
    {splice}
    http-reuse always
    timeout connect 5s
    timeout client 3600s
    timeout server 3600s
    timeout tunnel 3600s
    timeout http-keep-alive 3600s
    retries 1
frontend web
    bind 127.0.0.1:{port} backlog 4096
    http-request set-header X-Forwarded-Proto http
    unique-id-format %[uuid()]
    unique-id-header X-Request-Id
    use_backend sink if {{ path_beg /sink/ }}
{rules}
    default_backend main
backend main
    balance roundrobin
    default-server pool-purge-delay 3600s
{servers}
backend sink
    option http-no-delay  # else a stream's events wait to be sent together
    server sink 127.0.0.1:{sink}
"""


class HAProxy(Peer):
    """HAProxy as Debian packs it."""

    routes = True

    def __init__(self, *, splice: bool = True) -> None:
        """Args: splice: move bodies between sockets inside of the kernel."""
        self.name = "haproxy" if splice else "haproxy no splice"
        self._splice = splice

    def prepare(self, directory: Path) -> str:
        """It needs nothing but to be there."""
        return "" if tool("haproxy") else "haproxy is not installed"

    def command(self, site: Site) -> list[str]:
        """As Peer."""
        rules = []
        for kind, pattern, count, match in (
            ("hosts", HOST, site.hosts, "req.hdr(host),lower,map_str"),
            ("prefixes", PREFIX, site.prefixes, "path,map_beg"),
        ):
            if count:
                table = site.directory / f"{kind}.map"
                table.write_text("".join(f"{pattern.format(n)} main\n" for n in range(count)))
                rules.append(f"    use_backend %[{match}({table},main)]")
        configuration = site.directory / "haproxy.cfg"
        configuration.write_text(
            _CONFIGURATION.format(
                connections=site.connections,
                port=site.port,
                sink=site.sink_port,
                splice="option splice-request\n    option splice-response" if self._splice else "",
                rules="\n".join(rules),
                servers="\n".join(
                    f"    server s{number} {host}:{port}"
                    for number, (host, port) in enumerate(site.endpoints)
                ),
            )
        )
        return [tool("haproxy") or "haproxy", "-db", "-f", str(configuration)]
