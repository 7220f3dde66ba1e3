"""Requests that flow while a test does its worst, and what became of each."""

from __future__ import annotations

import contextlib
import threading
import time
from types import TracebackType

from tests.live.harness import Daemon, RawClient, eventually

PER_SECOND = 200
_THREADS = 2
_REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Traffic:
    """About 200 requests a second on kept connections, until its test is done."""

    def __init__(self, daemon: Daemon) -> None:
        """Args: daemon: whose first listener gets them."""
        self._daemon = daemon
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answers: list[tuple[float, str]] = []  # when begun, the upstream's name or what failed
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(_THREADS)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.answers) > PER_SECOND / 10, 10, "the first answers")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self) -> None:
        client: RawClient | None = None
        due = time.monotonic()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                client = client or self._daemon.client(timeout=10)
                response = client.ask(_REQUEST)
                ok = response.status == 200
                outcome = response.get("X-Upstream") if ok else None
                said = outcome or f"FAILED: {response.status} {response.body!r}"
                if response.closes:
                    client.close()
                    client = None
            except (OSError, AssertionError) as error:
                said = f"FAILED: {error!r}"
                if client is not None:
                    client.close()
                client = None
            with self._lock:
                self.answers.append((began, said))
            due = max(due + _THREADS / PER_SECOND, time.monotonic() - 1.0)
            self._stop.wait(max(0.0, due - time.monotonic()))
        if client is not None:
            with contextlib.suppress(OSError):
                client.close()

    def since(self, moment: float) -> list[str]:
        """Outcomes of requests that began after that."""
        with self._lock:
            return [said for began, said in self.answers if began >= moment]

    def failed(self) -> list[str]:
        """All failures so far."""
        return [said for said in self.since(0.0) if said.startswith("FAILED")]

    def flow(self, seconds: float) -> list[str]:
        """Let it flow for some time; the outcomes."""
        moment = time.monotonic()
        threading.Event().wait(seconds)
        return self.since(moment)

    def check(self) -> None:
        """Not one has failed, and there were as many as there should be."""
        with self._lock:
            first, last = self.answers[0][0], self.answers[-1][0]
            count = len(self.answers)
        failed = self.failed()
        assert not failed, f"{len(failed)} of {count} failed, the first: {failed[:3]}"
        assert count > (last - first) * PER_SECOND / 2, f"{count} requests in {last - first:.1f} s"
