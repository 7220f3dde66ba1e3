"""Long work in slices: a generator yields between them, so that the reactor has its turn.

Ten thousand members are compiled, reconciled and sorted this way while requests go on.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeVar

SLICE: Final = 500  # endpoints between two yields: about a millisecond of work

T = TypeVar("T")
Slices = Generator[None, None, T]
"""Work that yields between slices and returns its result."""


def finish(slices: Slices[T]) -> T:
    """Run sliced work to its end at once."""
    while True:
        try:
            next(slices)
        except StopIteration as stop:
            result: T = stop.value
            return result
