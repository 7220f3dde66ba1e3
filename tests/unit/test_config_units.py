"""config.units: durations, sizes, shares and rates as people write them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from gatewayd.config.units import (
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
    show_duration,
    show_rate,
    show_share,
    show_size,
)

quick = settings(deadline=None, database=None, max_examples=150)

DURATION = "expected a duration such as 250ms, 5s, 2m or 1h"
SIZE = "expected a size such as 512, 64KiB or 1MiB"
SHARE = "expected a share such as 50%, from 0% to 100%"
RATE = "expected a rate such as 100/s or 600/m"

# What is no number of any unit.
RUBBISH = [
    "",
    " ",
    "x",
    "-",
    "-1",
    "+1",
    ".5",
    "1.",
    "1e3",
    "0x10",
    "1_000",
    "1,5",
    "\u0661",  # an Arabic-Indic 1, which str.isdigit takes
    "infinity",
    "nan",
]


def outcome(parse: Callable[[str], Any], text: str) -> Any:
    """The value, or what was expected."""
    try:
        return parse(text)
    except ValueError as error:
        return str(error)


class Reading(SynchronousTestCase):
    """What people write becomes seconds, bytes, fractions and numbers a second."""

    def read(self, parse: Callable[[str], Any], expected: dict[str, Any]) -> None:
        self.assertEqual(expected, {text: outcome(parse, text) for text in expected})

    def test_durations(self) -> None:
        """Four units, decimals to the thousandth, and a bare 0."""
        self.read(
            parse_duration,
            {
                "0": 0.0,
                "0s": 0.0,
                "0ms": 0.0,
                "250ms": 0.25,
                "5s": 5.0,
                "2m": 120.0,
                "1h": 3600.0,
                "1.5s": 1.5,
                "0.001s": 0.001,
                "007s": 7.0,
                "999999999h": 999999999 * 3600.0,
            },
        )

    def test_no_durations(self) -> None:
        """A number without a unit is none, lest seconds be taken for milliseconds."""
        texts = [*RUBBISH, "1", "5", "00", "1 s", " 1s", "1s ", "1s\n", "1d", "1S", "1Ms", "1us"]
        texts += ["1m30s", "-1s", "+1s", "1.2345s", "1.s", ".5s", "1000000000s", "1e3s", "\u0661s"]
        self.read(parse_duration, dict.fromkeys(texts, DURATION))

    def test_sizes(self) -> None:
        """Bytes, and powers of 1024 by their own names."""
        self.read(
            parse_size,
            {
                "0": 0,
                "512": 512,
                "1KiB": 1024,
                "64KiB": 65536,
                "1MiB": 1 << 20,
                "2GiB": 2 << 30,
                "0MiB": 0,
                "999999999999999": 999999999999999,
            },
        )

    def test_no_sizes(self) -> None:
        """KB may mean 1000 or 1024: it is refused, as is half a byte."""
        texts = [*RUBBISH, "1K", "1k", "1KB", "1kib", "1MB", "1TiB", "1.5KiB", "1 KiB", "1KiB\n"]
        texts += ["512B", "-1KiB", "1000000000000000"]
        self.read(parse_size, dict.fromkeys(texts, SIZE))

    def test_shares(self) -> None:
        """Percent, from none to all."""
        self.read(
            parse_share, {"0%": 0.0, "50%": 0.5, "100%": 1.0, "12.5%": 0.125, "0.001%": 0.00001}
        )

    def test_no_shares(self) -> None:
        """More than all, and a fraction, are none."""
        texts = [
            *RUBBISH,
            "0",
            "1",
            "0.5",
            "50",
            "50 %",
            "101%",
            "100.001%",
            "-1%",
            "1000%",
            "1%\n",
        ]
        self.read(parse_share, dict.fromkeys(texts, SHARE))

    def test_rates(self) -> None:
        """By the second, minute or hour; a bare 0 is off."""
        self.read(
            parse_rate,
            {"0": 0.0, "0/s": 0.0, "100/s": 100.0, "600/m": 10.0, "36000/h": 10.0, "0.5/s": 0.5},
        )

    def test_no_rates(self) -> None:
        """A number without its time is none."""
        texts = [*RUBBISH, "100", "100/", "/s", "100/d", "100/ms", "100/sec", "100 /s", "-1/s"]
        self.read(parse_rate, dict.fromkeys(texts, RATE))


class Showing(SynchronousTestCase):
    """Values are shown as people write them, and read back as they were."""

    def test_examples(self) -> None:
        """The largest unit without a remainder."""
        self.assertEqual(
            ["0s", "1ms", "250ms", "1.5s", "5s", "90s", "2m", "1h", "25h"],
            [show_duration(s) for s in (0, 0.001, 0.25, 1.5, 5, 90, 120, 3600, 90000)],
        )
        self.assertEqual(
            ["0", "512", "1000", "1KiB", "64KiB", "1MiB", "1GiB", "1025"],
            [show_size(b) for b in (0, 512, 1000, 1024, 65536, 1 << 20, 1 << 30, 1025)],
        )
        self.assertEqual(["0%", "20%", "12.5%", "100%"], [*map(show_share, (0, 0.2, 0.125, 1))])
        self.assertEqual(["0/s", "10000000/s", "0.5/s"], [*map(show_rate, (0, 10**7, 0.5))])

    @quick
    @given(st.integers(0, 10**9))
    def test_durations_come_back(self, milliseconds: int) -> None:
        """To the millisecond."""
        seconds = milliseconds / 1000
        self.assertAlmostEqual(seconds, parse_duration(show_duration(seconds)), places=6)

    @quick
    @given(st.integers(0, 2**40))
    def test_sizes_come_back(self, size: int) -> None:
        """To the byte."""
        self.assertEqual(size, parse_size(show_size(size)))

    @quick
    @given(st.integers(0, 1000))
    def test_shares_come_back(self, thousandths: int) -> None:
        """To the thousandth."""
        share = thousandths / 1000
        self.assertAlmostEqual(share, parse_share(show_share(share)))
