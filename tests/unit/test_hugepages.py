"""hugepages: what is dense goes into huge pages, and nothing else is touched."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from gatewayd import hugepages
from gatewayd.hugepages import SIZE, candidates, gather

MAPS = """\
00400000-00c00000 r-xp 00000000 fe:00 26723                      /usr/bin/python3.11
00e00000-01000000 rw-p 00a00000 fe:00 26723                      /usr/bin/python3.11
01100000-01900000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 
7f0000400000-7f00005ff000 rw-p 00000000 00:00 0 
7f0000800000-7f0000c00000 ---p 00000000 00:00 0 
7f0001000000-7f0001400000 rw-s 00000000 00:01 77                 /dev/zero (deleted)
7f0001800000-7f0001c00000 r--p 00000000 00:00 0 
7fff00000000-7fff00400000 rw-p 00000000 00:00 0                  [stack]
7fff00600000-7fff00a00000 rw-p 00000000 fe:00 99                 /opt/with a blank.so
"""  # noqa: W291
PAGES = SIZE // mmap.PAGESIZE


class Memory:
    """Anonymous memory with one aligned place for a huge page."""

    def __init__(self, *, written: int, apart: int) -> None:
        """Args: apart: advice that no neighbour has, so that /proc tells them apart."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, 2 * SIZE - mmap.PAGESIZE, flags=flags)
        self._map.madvise(apart)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.place = -(-begin // SIZE) * SIZE
        self._at = self.place - begin
        for page in range(written):
            self._map[self._at + page * mmap.PAGESIZE] = page % 251

    def read(self, pages: int) -> list[int]:
        """What was written."""
        return [self._map[self._at + page * mmap.PAGESIZE] for page in range(pages)]

    def is_huge(self) -> bool:
        """Whether the kernel has it in a huge page."""
        found = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            first = line.split()[0]
            if "-" in first:
                start, end = (int(each, 16) for each in first.split("-"))
                found = start <= self.place < end
            elif found and first == "AnonHugePages:":
                return int(line.split()[1]) > 0
        return False


class HugePagesTests(SynchronousTestCase):
    """What is looked at, and what is done."""

    def test_candidates(self) -> None:
        """Aligned places in private anonymous memory that can be written, and in the heap."""
        self.assertEqual(
            [0x1200000, 0x1400000, 0x1600000, 0x7F0000000000],
            list(candidates(MAPS.splitlines())),
        )

    def test_what_is_dense(self) -> None:
        """From three quarters on, and what fails is left alone."""
        least = PAGES * 3 // 4
        memories = [Memory(written=n, apart=mmap.MADV_RANDOM) for n in (least, least - 1, PAGES)]
        asked: list[tuple[int | None, int, int]] = []

        def madvise(address: Any, size: Any, advice: int) -> int:
            asked.append((address.value, size.value, advice))
            return -1

        with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
            hugepages._collapse(madvise, pages, [memory.place for memory in memories])
        self.assertEqual([(memory.place, SIZE, 25) for memory in (memories[0], memories[2])], asked)

    def test_real_memory(self) -> None:
        """Nothing is lost, what is hardly used takes no more, and what is dense is huge if it can be."""
        dense = Memory(written=PAGES, apart=mmap.MADV_DONTDUMP)
        sparse = Memory(written=9, apart=mmap.MADV_SEQUENTIAL)
        probe = Memory(written=PAGES, apart=mmap.MADV_DONTFORK)
        possible = not ctypes.CDLL(None).madvise(
            ctypes.c_void_p(probe.place), ctypes.c_size_t(SIZE), 25
        )
        thread = gather()
        if thread is not None:
            thread.join()
        self.assertEqual([page % 251 for page in range(PAGES)], dense.read(PAGES))
        self.assertEqual([page % 251 for page in range(9)], sparse.read(9))
        self.assertEqual(possible and thread is not None, dense.is_huge())
        self.assertFalse(sparse.is_huge())

    def test_never(self) -> None:
        """Where the administrator wants none, or the system knows none, nothing is done."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        switch = Path(directory.name, "enabled")
        switch.write_text("always madvise [never]\n")
        with patch.object(hugepages, "_SWITCH", switch):
            self.assertIsNone(gather())
        with patch.object(hugepages, "_SWITCH", switch.with_name("missing")):
            self.assertIsNone(gather())

    def test_no_thread(self) -> None:
        """One that cannot be had ends nothing else."""

        def start(thread: Any) -> None:
            raise RuntimeError("can't start new thread")

        with patch.object(hugepages.Thread, "start", start):
            self.assertIsNone(gather())
