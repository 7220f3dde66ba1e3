"""Requests at a steady rate, whatever becomes of those before: an open loop, as clients are."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

REQUEST = b"GET /%d HTTP/1.1\r\nHost: load\r\n\r\n"


@dataclass
class Answer:
    """What a request got; status 0 = a cut connection."""

    sent: float
    seconds: float
    status: int
    body: bytes


class Load:
    """A client of many connections; ends with its run."""

    def __init__(self, address: tuple[str, int], rate: float) -> None:
        """Args: rate: requests a second."""
        self.address = address
        self.rate = rate
        self.answers: list[Answer] = []
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def run(self, seconds: float) -> list[Answer]:
        """Ask for so long, and wait for all answers."""
        asyncio.run(self._run(seconds))
        return self.answers

    async def _run(self, seconds: float) -> None:
        began = time.monotonic()
        tasks = []
        for number in range(int(seconds * self.rate)):
            wait = began + number / self.rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._ask(number)))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, number: int) -> None:
        sent = time.monotonic()
        status, body = 0, b""
        try:
            if self._idle:
                reader, writer = self._idle.pop()
            else:
                reader, writer = await asyncio.open_connection(*self.address)
            writer.write(REQUEST % number)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            status = int(head.split(b" ", 2)[1])
            self._idle.append((reader, writer))
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
            pass
        self.answers.append(Answer(sent, time.monotonic() - sent, status, body))
