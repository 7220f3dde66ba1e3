"""Has the kernel keep the heap in huge pages.

What a request touches among thousands of routes, hosts or connections comes from far memory, and with
small pages from far page tables besides. Linux 6.1 gathers small pages into huge ones when it is asked
(MADV_COLLAPSE, madvise(2)); an older one refuses, and nothing is lost.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any, Final

SIZE: Final = 2 << 20
_PAGE: Final = 4096
_DENSE: Final = (
    SIZE // _PAGE * 3 // 4
)  # pages in use from which a place is worth it: stacks are not
_MADV_COLLAPSE: Final = 25
_SWITCH: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MAPS: Final = Path("/proc/self/maps")


def gather() -> Thread | None:
    """Begin to gather what is dense, in a thread: a place takes one to three milliseconds.

    Returns:
        The thread, which ends by itself; None where the administrator, or the system, has no huge pages.
    """
    try:
        if "[never]" in _SWITCH.read_text():
            return None
        places = list(candidates(_MAPS.read_text().splitlines()))
    except OSError:
        return None
    thread = Thread(target=_collapse, args=(ctypes.CDLL(None), places), daemon=True)
    thread.start()
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


def _collapse(libc: Any, places: Iterable[int]) -> None:
    resident = (ctypes.c_ubyte * (SIZE // _PAGE))()
    size = ctypes.c_size_t(SIZE)
    for place in places:
        address = ctypes.c_void_p(place)
        # Either fails where the memory is gone meanwhile, or no huge page is free: then it stays as it is.
        if libc.mincore(address, size, resident) == 0 and bytes(resident).count(1) >= _DENSE:
            libc.madvise(address, size, _MADV_COLLAPSE)
