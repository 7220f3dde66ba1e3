"""Pipes for splicing: lent for as long as something is in them, and so many at once (HAProxy: maxpipes).

Each takes two descriptors of those that are spared for the process itself, and up to a megabyte of
kernel memory. Linux gives a user other than root 64 of that size (pipe-user-pages-soft, pipe(7)), and
beyond them only such as are too small to be worth it. Whoever gets none copies.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final

SIZE: Final = 1 << 20
MOST: Final = 64
_LEAST: Final = 65536  # bytes: through 8 KiB splicing costs twice what copying does
_F_SETPIPE_SZ: Final = 1031
_F_GETPIPE_SZ: Final = 1032

Pipe = tuple[int, int, int]  # its reading and its writing end, and the bytes it holds


class Pipes:
    """The pipes of a process."""

    def __init__(self) -> None:
        """None is open yet."""
        self._idle: list[Pipe] = []
        self._open = 0

    def borrow(self) -> Pipe:
        """Get an empty pipe.

        Raises:
            OSError: as many are lent as there may be, or the system has none that is large enough.
        """
        if self._idle:
            return self._idle.pop()
        if self._open >= MOST:
            raise OSError(errno.EMFILE, "all pipes are lent")
        source, sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # over the user's share of pipe memory
            fcntl.fcntl(sink, _F_SETPIPE_SZ, SIZE)
        size = fcntl.fcntl(sink, _F_GETPIPE_SZ)
        self._open += 1
        pipe = (source, sink, size)
        if size < _LEAST:
            self._close(pipe)
            raise OSError(errno.ENOBUFS, "the user's share of pipe memory is used up")
        return pipe

    def give_back(self, pipe: Pipe, *, is_empty: bool) -> None:
        """Return a pipe; what is in one that is not empty is lost."""
        if is_empty:
            self._idle.append(pipe)
        else:
            self._close(pipe)

    def _close(self, pipe: Pipe) -> None:
        self._open -= 1
        os.close(pipe[0])
        os.close(pipe[1])
