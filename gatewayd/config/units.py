"""Durations, sizes, shares and rates as people write them."""

from __future__ import annotations

import re
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PER: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)\Z")
_SIZE: Final = re.compile(r"([0-9]{1,15})(KiB|MiB|GiB|)\Z")
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%\Z")
_RATE: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)/(s|m|h)\Z")


def parse_duration(text: str) -> float:
    """Seconds of `250ms`, `5s`, `2m`, `1h`, or `0`.

    Raises:
        ValueError: with what is expected.
    """
    if text == "0":
        return 0.0
    match = _DURATION.match(text)
    if match is None:
        raise ValueError("expected a duration such as 250ms, 5s, 2m or 1h")
    return float(match.group(1)) * _SECONDS[match.group(2)]


def parse_size(text: str) -> int:
    """Bytes of `512`, `64KiB`, `1MiB` or `1GiB`.

    Raises:
        ValueError: with what is expected.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ValueError("expected a size such as 512, 64KiB or 1MiB")
    return int(match.group(1)) * _BYTES[match.group(2)]


def parse_share(text: str) -> float:
    """The fraction, 0 to 1, of `50%`.

    Raises:
        ValueError: with what is expected.
    """
    match = _SHARE.match(text)
    if match is None or float(match.group(1)) > 100:
        raise ValueError("expected a share such as 50%, from 0% to 100%")
    return float(match.group(1)) / 100


def parse_rate(text: str) -> float:
    """How many a second of `100/s`, `600/m`, `36000/h`, or `0`.

    Raises:
        ValueError: with what is expected.
    """
    if text == "0":
        return 0.0
    match = _RATE.match(text)
    if match is None:
        raise ValueError("expected a rate such as 100/s or 600/m")
    return float(match.group(1)) / _PER[match.group(2)]


def show_duration(seconds: float) -> str:
    """A duration as people write it, exact to the millisecond."""
    if seconds == 0:
        return "0s"
    for unit, size in (("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= size and round(seconds % size, 6) == 0:
            return f"{round(seconds / size)}{unit}"
    return f"{seconds * 1000:.12g}ms" if seconds < 1 else f"{seconds:.12g}s"


def show_size(size: int) -> str:
    """A size as people write it."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)


def show_share(share: float) -> str:
    """A share as people write it."""
    return f"{share * 100:.12g}%"


def show_rate(rate: float) -> str:
    """A rate as people write it, by the second."""
    return f"{rate:.12g}/s"
