"""Processes started for a measurement: pinned, watched, and ended by pid whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)
# Below the ephemeral range, so that no connection of ours takes a port before its listener does.
_ports: Final = iter(range(20_000 + os.getpid() % 4000, 32_000))
_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Child:
    """A program, with all that it starts; made by the stage, ended by it.

    If we die, however that is, the kernel sends the program a SIGTERM, so nothing stays behind.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: Iterable[int],
        output: Path,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            command: program and arguments.
            cores: it may run on these only.
            output: file that takes its stdout and stderr.
            environment: added to ours.
            cwd: where it runs.
        """
        self.command = list(command)
        self.output = output
        mask = set(cores)
        parent = os.getpid()

        def prepare() -> None:
            os.sched_setaffinity(0, mask)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # we died before the kernel was told
                os._exit(1)

        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=cwd,
                preexec_fn=prepare,
                # A group of its own: an interrupt from the terminal comes to us alone, and we end it.
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __repr__(self) -> str:
        return f"<Child {self.pid} {self.command[0]}>"

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def said(self) -> str:
        """The end of its output, for an error message."""
        with contextlib.suppress(OSError):
            return self.output.read_text(errors="replace")[-2000:].strip()
        return ""

    def wait(self, seconds: float) -> int:
        """Its exit status.

        Raises:
            TimeoutError: it still runs.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.command[0]} still runs after {seconds:.0f} s") from error

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs; it alone, not its family."""
        if self.running:
            self._process.send_signal(number)

    def stop(self) -> None:
        """End it and what it started: politely, then not."""
        family = tree(self.pid)
        if self.running:
            self._process.terminate()
        try:
            self.wait(5)
        except TimeoutError:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()

    def cpu_ns(self) -> int:
        """Processor time of the whole family in nanoseconds, user and system."""
        return sum(self.each_cpu_ns().values())

    def each_cpu_ns(self) -> dict[int, int]:
        """The same by process."""
        return {pid: _cpu_ns(pid) for pid in tree(self.pid)}

    def resident(self) -> int:
        """Resident memory of the whole family in bytes; shared pages are shared out."""
        return sum(_resident(pid) for pid in tree(self.pid))


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_ns(pid: int) -> int:
    # utime and stime are ticks of 10 ms; schedstat is in nanoseconds, but a task at a time.
    exact = 0
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            exact += int((task / "schedstat").read_text().split()[0])
    if exact:
        return exact
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) * _TICK if fields else 0


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def free_port() -> int:
    """A TCP port that nobody has now, and that this function has not given before."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise RuntimeError("no free port below the ephemeral ones")


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Look every 20 ms until a condition holds.

    Raises:
        TimeoutError: it does not hold in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.02)


def listening(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
