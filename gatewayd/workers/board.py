"""How many clients each worker has, in memory that all of them see.

All workers are woken when a client waits, and under load the one that runs takes it, and the next one: a
few workers would end up with most of the kept connections. So a worker that has more than another lets
the others go first for a moment (as nginx's accept_mutex and Envoy's exact balancing do); who waits is
taken after that moment at the latest.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

_CELLS: Final = 1025  # the highest number in use, then one for each worker
_SIZE: Final = 4 * _CELLS
_AWAY: Final = -1


class Board:
    """The counts; made by the supervisor, and by each worker on the same memory."""

    def __init__(self, fd: int, number: int = 0) -> None:
        """Look at it.

        Args:
            fd: from `new_board`; it is duplicated.
            number: the worker's own, 0 = the supervisor.
        """
        self._number = number
        self._cells = memoryview(mmap.mmap(fd, _SIZE)).cast("i")
        if number:
            self._cells[number] = 0
            self._cells[0] = max(self._cells[0], number)

    def __repr__(self) -> str:
        return f"<Board {self._cells[1 : self._cells[0] + 1].tolist()}>"

    def count(self, change: int) -> None:
        """Clients came or went."""
        self._cells[self._number] += change

    def gone(self, number: int) -> None:
        """A worker is no more."""
        self._cells[number] = _AWAY

    def is_ahead(self) -> bool:
        """Whether another worker has fewer clients than this one."""
        own = self._cells[self._number]
        return any(0 <= count < own for count in self._cells[1 : self._cells[0] + 1])


def new_board() -> int:
    """Memory for a board, as a descriptor that children can be given."""
    fd = os.memfd_create("gatewayd-board", os.MFD_CLOEXEC)
    os.ftruncate(fd, _SIZE)
    board = Board(fd)
    for number in range(1, _CELLS):
        board.gone(number)
    return fd
