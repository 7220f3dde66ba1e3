"""An endpoint in a process of its own, so that it can be killed and stopped.

`python -m tests.live.endpoint NAME` prints its port, answers every request with its name, and /served
with how many others it has got.
"""

from __future__ import annotations

import asyncio
import sys

served = 0


class Endpoint(asyncio.Protocol):
    """One connection; requests have no bodies."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        global served
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if head.startswith(b"GET /served "):
                body = b"%d" % served
            else:
                served += 1
                body = sys.argv[1].encode()
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Endpoint, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
