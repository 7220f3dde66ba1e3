"""The ledger of a connection pool: who may have which connection, decided without touching one.

Connections are opaque here. Two kinds live under one set of limits and are never mixed: FAST ones,
which the data path drives itself, and STOCK ones, which Twisted's Agent or treq drive. The ledger
answers with what to use, open or close, and the pool does it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

FAST: Final = 0
STOCK: Final = 1

Connection = Any


class Slot:
    """One endpoint's connections, in one ledger: that of its upstream's pool.

    Mostly there is but one idle connection, or none: the newest stands by itself, and how many there
    are spares a look at the others.
    """

    __slots__ = ("idle", "newest", "older", "open", "stock")

    def __init__(self) -> None:
        self.newest: Connection | None = None  # the idle FAST one that was used last
        self.idle = 0  # of both kinds
        self.open = 0  # of both kinds: idle, busy and connecting
        self.older: list[Connection] = []  # the other idle FAST ones, the latest last
        self.stock: list[Connection] = []  # idle STOCK ones, likewise

    def idle_of(self, kind: int) -> list[Connection]:
        """The idle ones of a kind, the latest last."""
        if kind == STOCK:
            return list(self.stock)
        return [] if self.newest is None else [*self.older, self.newest]

    def add(self, kind: int, connection: Connection) -> None:
        """One is idle from now on."""
        self.idle += 1
        if kind == STOCK:
            self.stock.append(connection)
        else:
            if self.newest is not None:
                self.older.append(self.newest)
            self.newest = connection

    def take(self, kind: int) -> Connection | None:
        """The idle one that was used last, no longer idle; or None."""
        if kind == STOCK:
            found = self.stock.pop() if self.stock else None
        else:
            found = self.newest
            if found is not None:
                self.newest = self.older.pop() if self.idle > 1 and self.older else None
        if found is not None:
            self.idle -= 1
        return found

    def take_oldest(self, kind: int) -> Connection | None:
        """The idle one that was used first, likewise."""
        others = self.stock if kind == STOCK else self.older
        if not others:
            return self.take(kind)
        self.idle -= 1
        return others.pop(0)

    def remove(self, kind: int, connection: Connection) -> bool:
        """No longer count one as idle; whether it was."""
        if kind == FAST and connection is self.newest:
            self.take(FAST)
            return True
        others = self.stock if kind == STOCK else self.older
        if connection not in others:
            return False
        others.remove(connection)
        self.idle -= 1
        return True

    def clear(self) -> list[tuple[int, Connection]]:
        """All idle ones, as (kind, connection), no longer idle."""
        found = [(kind, connection) for kind in (FAST, STOCK) for connection in self.idle_of(kind)]
        self.newest = None
        self.idle = 0
        self.older.clear()
        self.stock.clear()
        return found


class Ledger:
    """Counts what is open and keeps what is idle.

    Args of the methods: `key` is the endpoint: its Slot, or whatever else stands for it, and then a
    Slot is kept here for as long as a connection is open; `kind` FAST or STOCK.
    """

    def __init__(self, *, max_idle: int, max_idle_per_endpoint: int, max_open: int) -> None:
        """Args: max_idle, max_idle_per_endpoint: 0 = no reuse. max_open: per endpoint, 0 = any."""
        self.max_idle = max_idle
        self.max_idle_per_endpoint = max_idle_per_endpoint
        self.max_open = max_open
        self.slots: dict[Hashable, Slot] = {}  # with open connections
        self.idle = 0
        self.open = 0
        self.hits = 0
        self.misses = 0

    def __repr__(self) -> str:
        return f"<Ledger open={self.open} idle={self.idle} hits={self.hits} misses={self.misses}>"

    def _slot(self, key: Hashable) -> Slot | None:
        return key if isinstance(key, Slot) else self.slots.get(key)

    def take(self, key: Hashable, kind: int) -> Connection | None:
        """The idle connection that was used last, now busy; or None."""
        slot = self._slot(key)
        found = slot.take(kind) if slot is not None else None
        if found is not None:
            self.idle -= 1
            self.hits += 1
        return found

    def newest(self, key: Hashable) -> Connection | None:
        """The FAST connection that `take` would give."""
        slot = self._slot(key)
        return slot.newest if slot is not None else None

    def has_room(self, key: Hashable) -> bool:
        """Whether a request can have a connection: an idle one, or room to open one."""
        if not self.max_open:
            return True
        slot = self._slot(key)
        return slot is None or slot.open < self.max_open or slot.idle > 0

    def opening(self, key: Hashable, kind: int) -> Connection | None:
        """Count a connection about to be opened.

        Returns:
            An idle one, preferably of the other kind, that must be closed to keep the limit, already
            forgotten.
        """
        slot = self._slot(key)
        if slot is None:
            slot = Slot()
        self.slots[key] = slot
        self.misses += 1
        evicted: Connection | None = None
        if self.max_open and slot.open >= self.max_open and slot.idle:
            evicted = slot.take_oldest(1 - kind)
            if evicted is None:
                evicted = slot.take_oldest(kind)
            self.idle -= 1
            slot.open -= 1  # not by `closed`, which forgets the slot with its last connection
            self.open -= 1
        slot.open += 1
        self.open += 1
        return evicted

    def keep(self, key: Hashable, kind: int, connection: Connection) -> Connection | None:
        """Offer a connection that is no longer busy.

        Where enough are idle, it takes the place of the endpoint's longest idle one of its kind: else
        what a burst has left, too old for a request that cannot be sent twice, would keep new ones out.

        Returns:
            None, or which must be closed instead, no longer idle, and `closed` called: that one, or
            the offered.
        """
        slot = self._slot(key)
        assert slot is not None and slot.open
        if slot.idle < self.max_idle_per_endpoint and self.idle < self.max_idle:
            slot.add(kind, connection)
            self.idle += 1
            return None
        if slot.idle > self.max_idle_per_endpoint or self.idle > self.max_idle:
            return connection  # the limits have become lower
        oldest = slot.take_oldest(kind)
        if oldest is None:
            return connection
        slot.add(kind, connection)
        return oldest

    def drop(self, key: Hashable, kind: int, connection: Connection) -> None:
        """An idle connection is no longer to be used; `closed` follows."""
        slot = self._slot(key)
        if slot is not None and slot.remove(kind, connection):
            self.idle -= 1

    def closed(self, key: Hashable) -> None:
        """Count a connection that is no more."""
        slot = self.slots[key]
        slot.open -= 1
        self.open -= 1
        if not slot.open:
            del self.slots[key]

    def forget(self, key: Hashable) -> list[tuple[int, Connection]]:
        """All idle connections of an endpoint, as (kind, connection), to be closed."""
        slot = self._slot(key)
        if slot is None:
            return []
        found = slot.clear()
        self.idle -= len(found)
        return found
