"""Runs a target: under atheris where it is installed, else with random mutations of its seeds.

A target is a function of bytes that raises where an invariant does not hold. What raised is printed
as a Python literal, made as small as it can be, and the exit status is 1; `--input LITERAL` runs it
again.
"""

from __future__ import annotations

import argparse
import ast
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random, SystemRandom
from types import FrameType
from typing import Any

Check = Callable[[bytes], None]

MAX_BYTES = 4096  # of an input; longer ones find nothing more and take longer
HANGS = 5.0  # seconds that an input may take
SHRINKS = 10.0  # seconds for making a finding small


class Hangs(Exception):
    """An input takes far too long."""


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all targets have."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long")
    parser.add_argument("--runs", type=int, default=0, help="stop after so many inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices; 0 = draw one")
    parser.add_argument("--engine", choices=("auto", "atheris", "random"), default="auto")
    return parser


def chosen_engine(wanted: str) -> str:
    """`atheris` or `random`."""
    if wanted == "auto":
        return "atheris" if find_spec("atheris") else "random"
    return wanted


def instrumented() -> AbstractContextManager[Any]:
    """Let atheris see into what is imported within."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--engine", default="auto")
    wanted = parser.parse_known_args()[0].engine
    if chosen_engine(wanted) != "atheris":
        return nullcontext()
    instruments: AbstractContextManager[Any] = import_module("atheris").instrument_imports(
        include=["gatewayd"]
    )
    return instruments


def main(name: str, doc: str | None, check: Check, seeds: list[bytes], tokens: list[bytes]) -> int:
    """Run a target by the command line.

    Args:
        name: of the target.
        doc: its module's docstring.
        check: raises where an invariant does not hold.
        seeds: good and bad inputs to begin with.
        tokens: what is worth inserting.

    Returns:
        The exit status.
    """
    parser = arguments(doc)
    parser.add_argument("--input", help="a bytes literal: run this input alone")
    options = parser.parse_args()
    if options.input is not None:
        check(ast.literal_eval(options.input))
        return 0
    seconds = options.seconds or (0.0 if options.runs else 10.0)
    seed = options.seed or SystemRandom().randrange(1, 2**31)
    engine = chosen_engine(options.engine)
    print(f"{name}: engine {engine}, seed {seed}", flush=True)
    if engine == "atheris":
        return _run_atheris(name, check, seeds, tokens, seconds, options.runs, seed)
    return run_random(name, check, seeds, tokens, seconds, options.runs, seed)


def run_random(
    name: str,
    check: Check,
    seeds: list[bytes],
    tokens: list[bytes],
    seconds: float,
    runs: int,
    seed: int,
) -> int:
    """Mutate seeds until time or runs are over; all seeds as they are come first."""
    random = Random(seed)
    until = time.monotonic() + seconds if seconds else float("inf")
    tried = 0
    while time.monotonic() < until and not (runs and tried >= runs):
        data = seeds[tried] if tried < len(seeds) else mutated(random, seeds, tokens)
        tried += 1
        if _failure(check, data) is not None:
            _report(name, _smaller(check, data), seed)
            _failure(check, data, show=True)
            return 1
    print(f"{name}: {tried} inputs, no finding", flush=True)
    return 0


def mutated(random: Random, seeds: list[bytes], tokens: list[bytes]) -> bytes:
    """A seed with some changes."""
    data = bytearray(random.choice(seeds))
    for _ in range(1 << random.randrange(4)):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + (1 << random.randrange(7)))
        kind = random.randrange(8)
        if kind == 0:
            data[at:end] = b""
        elif kind == 1:
            data[at:at] = data[at:end] * random.randrange(1, 4)
        elif kind == 2:
            data[at : at + 1] = bytes((random.randrange(256),))
        elif kind == 3:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            data[at:end] = other[start : start + (1 << random.randrange(9))]
        elif kind == 4:
            data[at:at] = bytes((random.randrange(256),))
        else:
            data[at : at if kind < 7 else end] = random.choice(tokens)
    return bytes(data[:MAX_BYTES])


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def raises(number: int, frame: FrameType | None) -> None:
        raise Hangs(f"over {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, raises)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _failure(check: Check, data: bytes, *, show: bool = False) -> type[BaseException] | None:
    try:
        with _no_longer_than(HANGS):
            check(data)
    except Exception as error:
        if show:
            traceback.print_exc()
        return type(error)
    return None


def _smaller(check: Check, data: bytes) -> bytes:
    """Leave out what is not needed for the same error."""
    wanted = _failure(check, data)
    until = time.monotonic() + SHRINKS
    size = len(data) // 2
    while size and wanted is not Hangs:
        at = 0
        while at < len(data) and time.monotonic() < until:
            less = data[:at] + data[at + size :]
            if _failure(check, less) is wanted:
                data = less
            else:
                at += size
        size //= 2
    return data


def _report(name: str, data: bytes, seed: int) -> None:
    print(f"{name}: FINDING (seed {seed}), run again with\n  --input {str(data)!r}", flush=True)
    print(f"  input = {data!r}", flush=True)


def _run_atheris(
    name: str,
    check: Check,
    seeds: list[bytes],
    tokens: list[bytes],
    seconds: float,
    runs: int,
    seed: int,
) -> int:
    atheris = import_module("atheris")

    def one(data: bytes) -> None:
        try:
            check(data)
        except Exception:
            _report(name, _smaller(check, data), seed)
            raise

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    words = ["".join(f"\\x{byte:02x}" for byte in token) for token in tokens if token]
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
    options = [
        f"-max_total_time={max(1, int(seconds))}" if seconds else "",
        f"-runs={runs}" if runs else "",
        f"-seed={seed}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={int(HANGS)}",
        f"-dict={folder / 'words'}",
        f"-artifact_prefix={folder}/",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *filter(None, options), str(corpus)], one)
    atheris.Fuzz()  # ends the process: 0, or another status on a finding
    return 0
