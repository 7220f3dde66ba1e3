"""net.pipes: so many at once, and none is given to two."""

from __future__ import annotations

import errno
import fcntl
import os
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from gatewayd.net import pipes

MIB = 1 << 20


def is_open(descriptor: int) -> bool:
    """Whether a descriptor is somebody's."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class Lending(SynchronousTestCase):
    """borrow and give_back."""

    def setUp(self) -> None:
        self.pipes = pipes.Pipes()
        self.lent: list[pipes.Pipe] = []
        self.addCleanup(self.end)

    def end(self) -> None:
        """Close all that is open."""
        for pipe in self.lent:
            self.pipes.give_back(pipe, is_empty=False)
        while self.pipes._idle:
            self.pipes.give_back(self.pipes.borrow(), is_empty=False)

    def borrow(self) -> pipes.Pipe:
        """One more."""
        pipe = self.pipes.borrow()
        self.lent.append(pipe)
        return pipe

    def give_back(self, pipe: pipes.Pipe, is_empty: bool) -> None:
        """One less."""
        self.lent.remove(pipe)
        self.pipes.give_back(pipe, is_empty=is_empty)

    def test_kept(self) -> None:
        """An empty one is lent again, with its size; what is left in another goes with it."""
        first = self.borrow()
        self.assertEqual(MIB, first[2])
        self.give_back(first, True)
        self.assertEqual(first, self.borrow())
        os.write(first[1], b"left")
        self.give_back(first, False)
        self.assertFalse(is_open(first[0]) or is_open(first[1]))
        with self.assertRaises(BlockingIOError):
            os.read(self.borrow()[0], 1)

    def test_so_many(self) -> None:
        """Whoever comes then has to copy, until one is back."""
        with patch.object(pipes, "MOST", 3):
            lent = [self.borrow() for _ in range(3)]
            self.assertEqual(6, len({end for pipe in lent for end in pipe[:2]}))
            self.assertEqual(errno.EMFILE, self.assertRaises(OSError, self.borrow).errno)
            self.give_back(lent[0], False)
            self.borrow()
            self.give_back(lent[1], True)
            self.borrow()
            self.assertRaises(OSError, self.borrow)

    def test_too_small(self) -> None:
        """Over the user's share of pipe memory the kernel gives 8 KiB: none at all is better."""

        def poor(descriptor: int, command: int, size: int = 0) -> int:
            if command == fcntl.F_SETPIPE_SZ:
                raise PermissionError(errno.EPERM, "over pipe-user-pages-soft")
            tried.append(descriptor)
            return 8192

        tried: list[int] = []
        with patch.object(pipes, "MOST", 1), patch.object(fcntl, "fcntl", poor):
            for _ in range(2):
                self.assertEqual(errno.ENOBUFS, self.assertRaises(OSError, self.borrow).errno)
        self.assertEqual([], [each for each in tried if is_open(each)])
        self.borrow()
