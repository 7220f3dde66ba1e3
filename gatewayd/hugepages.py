"""Has the kernel keep the heap in huge pages.

What a request touches among thousands of routes, hosts or connections comes from far memory, and with
small pages from far page tables besides. Linux 6.1 gathers small pages into huge ones when it is asked
(MADV_COLLAPSE, madvise(2)); an older one refuses, and nothing is lost.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from io import RawIOBase
from pathlib import Path
from threading import Thread
from typing import Any, Final

SIZE: Final = 2 << 20
_PAGE: Final = 4096
_DENSE: Final = SIZE // _PAGE * 3 // 4  # pages in use that make a place worth it; stacks have few
_MADV_COLLAPSE: Final = 25
_SWITCH: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS: Final = Path("/proc/self/maps")
# Tells what mincore(2) would, which is in none of systemd's sets of system calls.
_PAGEMAP: Final = Path("/proc/self/pagemap")
_ABSENT: Final = bytes(range(0x80))  # last bytes of pages that are not present: proc(5)


def gather() -> Thread | None:
    """Begin to gather what is dense, in a thread: a place takes one to three milliseconds.

    Returns:
        The thread, which ends by itself; None where the administrator or the system has no huge pages,
        a user was taken on after the start, who may not see what is where, or a descriptor or a thread
        is not to be had.
    """
    try:
        if "[never]" in _SWITCH.read_text():
            return None
        places = list(candidates(_MAPS.read_text().splitlines()))
        pages = _PAGEMAP.open("rb", buffering=0)
        madvise = ctypes.CDLL(None).madvise
        thread = Thread(target=_collapse, args=(madvise, pages, places), daemon=True)
        thread.start()
    except (OSError, RuntimeError):
        return None
    return thread


def candidates(maps: Iterable[str]) -> Iterator[int]:
    """Where a huge page could be: the aligned addresses in private anonymous memory.

    Args:
        maps: the lines of /proc/PID/maps, proc(5).
    """
    for line in maps:
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access == "rw-p" and inode == "0" and (not name or name == ["[heap]"]):
            start, end = (int(each, 16) for each in span.split("-"))
            yield from range(-(-start // SIZE) * SIZE, end - SIZE + 1, SIZE)


def _collapse(madvise: Any, pages: RawIOBase, places: Iterable[int]) -> None:
    with pages:
        for place in places:
            pages.seek(place // _PAGE * 8)
            entries = pages.read(SIZE // _PAGE * 8) or b""
            present = entries[7::8].translate(None, _ABSENT)
            if len(present) >= _DENSE:
                # Where it fails, no huge page is free or the memory is gone: then it stays as it is.
                madvise(ctypes.c_void_p(place), ctypes.c_size_t(SIZE), _MADV_COLLAPSE)
