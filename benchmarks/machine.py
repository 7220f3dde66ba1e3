"""What the figures were measured on, and which cores are whose."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_DESCRIPTORS: Final = 65_536
CHECKOUT: Final = Path(__file__).resolve().parent.parent


def cores() -> tuple[set[int], set[int]]:
    """The proxy's core and those of load and upstream; the same one where there is no other."""
    ours = sorted(os.sched_getaffinity(0))
    if len(ours) == 1:
        return set(ours), set(ours)
    return {ours[0]}, set(ours[1:])


def raise_descriptors() -> int:
    """Allow as many open files as we may have; children inherit it.

    Returns:
        How many that are.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(_DESCRIPTORS, hard), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (ValueError, OSError):
            continue
        return wanted
    return soft


def tool(name: str) -> str | None:
    """The path of a program, looked for in sbin too: Debian keeps nginx and haproxy there."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which(name, path=path)


def commit() -> str:
    """The checkout's commit, `+` where files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def now() -> str:
    """Date and time, to the second, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def describe() -> dict[str, str]:
    """Machine, versions and date, for the head of a report."""
    proxy, load = cores()
    return {
        "date": now(),
        "commit": commit(),
        "build": build(),
        "processor": _processor(),
        "cores": f"proxy on {_listed(proxy)}, load and upstream on {_listed(load)}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "congestion control": _congestion_control(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "twisted": _package("Twisted"),
        "nginx": _says("nginx", "-v", r"nginx/(\S+)"),
        "haproxy": _says("haproxy", "-v", r"version (\S+)"),
        "go": _says("go", "version", r"go(\d\S*)"),
        "wrk": _says("wrk", "-v", r"wrk \S*?(\d+\.\d[^\s\[]*)"),
    }


def build() -> str:
    """Whether gatewayd's hot rooms are compiled."""
    try:
        import gatewayd.http1.requests as hot
    except ImportError:
        return "not importable"
    return "pure Python" if str(hot.__file__).endswith(".py") else "compiled"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return f"{found.group(1) if found else platform.machine()}, {os.cpu_count()} cores"


def _congestion_control() -> str:
    """What connections are paced by, if at all: a body's cost depends on it more than on the proxy."""
    try:
        return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except OSError:
        return "unknown"


def _listed(numbers: set[int]) -> str:
    return ("core " if len(numbers) == 1 else "cores ") + ", ".join(map(str, sorted(numbers)))


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _says(name: str, option: str, pattern: str) -> str:
    path = tool(name)
    if path is None:
        return "missing"
    said = subprocess.run([path, option], capture_output=True, text=True, check=False)
    found = re.search(pattern, said.stdout + said.stderr)
    return found.group(1) if found else "unknown"


def python() -> str:
    """The interpreter that runs gatewayd and stock twisted.web."""
    return sys.executable
