"""Sets of octets, and the soonest way to tell that a value holds no other."""

from __future__ import annotations

from collections.abc import Iterable


def only(octets: Iterable[int]) -> bytes:
    """A table for bytes.translate that leaves these octets as they are and changes every other.

    `value.translate(table) == value` then says whether a value holds only these. It is sooner told
    than by a pattern or by deleting them: what did not change is not even copied, but the same object.
    """
    kept = frozenset(octets)
    return bytes(octet if octet in kept else octet ^ 1 for octet in range(256))
