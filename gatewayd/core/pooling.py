"""The ledger of a connection pool: who may have which connection, decided without touching one.

Connections are opaque here. Two kinds live under one set of limits and are never mixed: FAST ones,
which the data path drives itself, and STOCK ones, which Twisted's Agent or treq drive. The ledger
answers with what to use, open or close, and the pool does it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

FAST: Final = 0
STOCK: Final = 1

C = TypeVar("C")


class Slot(Generic[C]):
    """One endpoint's connections."""

    __slots__ = ("idle", "open")

    def __init__(self) -> None:
        self.open = 0  # of both kinds: idle, busy and connecting
        self.idle: tuple[list[C], list[C]] = ([], [])  # by kind; the latest is used first


class Ledger(Generic[C]):
    """Counts what is open and keeps what is idle.

    Args of the methods: `key` is the endpoint; `kind` FAST or STOCK.
    """

    def __init__(self, *, max_idle: int, max_idle_per_endpoint: int, max_open: int) -> None:
        """Args: max_idle, max_idle_per_endpoint: 0 = no reuse. max_open: per endpoint, 0 = any."""
        self.max_idle = max_idle
        self.max_idle_per_endpoint = max_idle_per_endpoint
        self.max_open = max_open
        self.slots: dict[Hashable, Slot[C]] = {}
        self.idle = 0
        self.open = 0
        self.hits = 0
        self.misses = 0

    def __repr__(self) -> str:
        return f"<Ledger open={self.open} idle={self.idle} hits={self.hits} misses={self.misses}>"

    def take(self, key: Hashable, kind: int) -> C | None:
        """The idle connection that was used last, now busy; or None."""
        slot = self.slots.get(key)
        if slot is None:
            return None
        idle = slot.idle[kind]
        if not idle:
            return None
        self.idle -= 1
        self.hits += 1
        return idle.pop()

    def newest(self, key: Hashable, kind: int) -> C | None:
        """The connection that `take` would give."""
        slot = self.slots.get(key)
        return slot.idle[kind][-1] if slot is not None and slot.idle[kind] else None

    def has_room(self, key: Hashable) -> bool:
        """Whether a request can have a connection: an idle one, or room to open one."""
        if not self.max_open:
            return True
        slot = self.slots.get(key)
        return (
            slot is None or slot.open < self.max_open or bool(slot.idle[FAST] or slot.idle[STOCK])
        )

    def opening(self, key: Hashable, kind: int) -> C | None:
        """Count a connection about to be opened.

        Returns:
            An idle one of the other kind that must be closed to keep the limit, already forgotten.
        """
        slot = self.slots.get(key)
        if slot is None:
            slot = self.slots[key] = Slot()
        self.misses += 1
        evicted: C | None = None
        if self.max_open and slot.open >= self.max_open:
            others = slot.idle[1 - kind] or slot.idle[kind]
            if others:
                evicted = others.pop(0)
                self.idle -= 1
                slot.open -= 1  # not by `closed`, which forgets the slot with its last connection
                self.open -= 1
        slot.open += 1
        self.open += 1
        return evicted

    def keep(self, key: Hashable, kind: int, connection: C) -> bool:
        """Offer a connection that is no longer busy.

        Returns:
            Whether it is kept; if not it must be closed, and `closed` called.
        """
        slot = self.slots[key]
        fast, stock = slot.idle
        if len(fast) + len(stock) >= self.max_idle_per_endpoint or self.idle >= self.max_idle:
            return False
        slot.idle[kind].append(connection)
        self.idle += 1
        return True

    def drop(self, key: Hashable, kind: int, connection: C) -> None:
        """An idle connection is no longer to be used; `closed` follows."""
        slot = self.slots.get(key)
        if slot is not None and connection in slot.idle[kind]:
            slot.idle[kind].remove(connection)
            self.idle -= 1

    def closed(self, key: Hashable) -> None:
        """Count a connection that is no more."""
        slot = self.slots[key]
        slot.open -= 1
        self.open -= 1
        if not slot.open:
            del self.slots[key]

    def forget(self, key: Hashable) -> list[tuple[int, C]]:
        """All idle connections of an endpoint, as (kind, connection), to be closed."""
        slot = self.slots.get(key)
        if slot is None:
            return []
        found = [(kind, connection) for kind in (FAST, STOCK) for connection in slot.idle[kind]]
        for idle in slot.idle:
            idle.clear()
        self.idle -= len(found)
        return found
