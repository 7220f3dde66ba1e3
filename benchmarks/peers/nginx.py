"""nginx: one worker, access log on, kept upstream connections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from benchmarks.machine import tool
from benchmarks.peers import HOST, PREFIX, Peer, Site

# Bodies stream both ways, as they do in all the others: with nginx's defaults large ones would pass
# through files on the disk, and this would measure the disk.
_CONFIGURATION: Final = """
daemon off;
user {user};
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
worker_processes 1;
events {{ worker_connections {connections}; }}
http {{
    access_log {directory}/access.log combined;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_max_body_size 0;
    client_body_temp_path {directory}/bodies;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server_names_hash_max_size 65536;
    server_names_hash_bucket_size 128;
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header Connection $upstream_connection;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Request-Id $request_id;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    map $http_upgrade $upstream_connection {{ default upgrade; '' ''; }}
    upstream main {{
{endpoints}
        keepalive {idle};
        keepalive_requests 1000000000;
        keepalive_timeout 3600s;
    }}
    upstream sink {{
        server 127.0.0.1:{sink};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} default_server backlog=4096;
        location / {{ proxy_pass http://main; }}
        location /sink/ {{ proxy_pass http://sink; proxy_buffering off; }}
{locations}
    }}
{servers}
}}
"""


class Nginx(Peer):
    """nginx as Debian packs it."""

    name = "nginx"
    routes = True

    def prepare(self, directory: Path) -> str:
        """It needs nothing but to be there."""
        return "" if tool("nginx") else "nginx is not installed"

    def command(self, site: Site) -> list[str]:
        """As Peer."""
        directory = site.directory
        configuration = directory / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                directory=directory,
                user="root" if os.geteuid() == 0 else "nobody",
                port=site.port,
                connections=2 * site.connections + site.idle + 64,
                sink=site.sink_port,
                idle=site.idle,
                endpoints="\n".join(
                    f"        server {host}:{port};" for host, port in site.endpoints
                ),
                locations="\n".join(
                    f"        location {PREFIX.format(number)} {{ proxy_pass http://main; }}"
                    for number in range(site.prefixes)
                ),
                servers="\n".join(
                    f"    server {{ listen 127.0.0.1:{site.port}; server_name "
                    f"{HOST.format(number)}; location / {{ proxy_pass http://main; }} }}"
                    for number in range(site.hosts)
                ),
            )
        )
        program = tool("nginx") or "nginx"
        return [program, "-c", str(configuration), "-e", str(directory / "error.log")]
