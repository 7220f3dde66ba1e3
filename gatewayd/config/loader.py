"""From a file to a configuration, with everything that is wrong in it found at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from gatewayd.config.checks import check, lint
from gatewayd.config.document import ConfigError, Place, Problem, read_document
from gatewayd.config.kinds import Reader
from gatewayd.config.schema import CONFIG, Config

_MAX_FILE: Final = 16 << 20  # a file that a value is taken from


class Loaded(NamedTuple):
    """A configuration that can be used."""

    config: Config
    file: str
    digest: str  # of the file and all that was filled in
    warnings: list[Problem]
    written: dict[str, str]  # by path: references as they stand in the file

    def shown(self) -> Any:
        """As JSON with defaults filled in; secrets masked, references not filled in."""
        return _with_references(CONFIG.show(self.config), "", self.written)


def load(file: str, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read a configuration file.

    Args:
        file: its path.
        environ: for ${NAME}.

    Raises:
        ConfigError: with all that is wrong.
    """
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(Place(1, 1), "", f"cannot be read: {reason}")
        raise ConfigError(file, [problem]) from error
    return parse(text, file, environ, read_text)


def parse(
    text: str, file: str, environ: Mapping[str, str], read_file: Callable[[str], str]
) -> Loaded:
    """Read a configuration from text.

    Args:
        text: YAML.
        file: its name, for messages.
        environ: for ${NAME}.
        read_file: for ${file:PATH}.

    Raises:
        ConfigError: with all that is wrong.
    """
    problems: list[Problem] = []
    root = read_document(text, environ, read_file, problems)
    if root is None:
        raise ConfigError(file, problems)
    reader = Reader(problems)
    config = CONFIG.read(root, "", reader)
    check(config, reader)
    if problems:
        raise ConfigError(file, problems)
    # Of all values as they are, secrets too: one that was rotated makes another configuration.
    digest = sha256(f"{text}\0{config!r}".encode()).hexdigest()[:16]
    return Loaded(config, file, digest, sorted(lint(config, reader)), reader.written)


def read_text(name: str) -> str:
    """A file's text.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or not UTF-8.
    """
    path = Path(name)
    if path.stat().st_size > _MAX_FILE:
        raise ValueError("it is over 16 MiB")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from error


def _with_references(value: Any, path: str, written: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: _with_references(each, f"{path}.{name}" if path else name, written)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [
            _with_references(each, f"{path}[{index}]", written) for index, each in enumerate(value)
        ]
    return written.get(path, value) if value != "***" else value
