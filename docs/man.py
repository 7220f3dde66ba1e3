"""gatewayd(1) and gatewayd.yaml(5), made from the command line's parser and the configuration's schema.

Run as `PYTHONPATH=. python3 docs/man.py OUTDIR`. Commands, options, keys, types and defaults are not
written here, so that they cannot drift; signals, files, units and examples are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from gatewayd import __version__, cli
from gatewayd.config import schema
from gatewayd.config.kinds import LATER
from gatewayd.config.loader import parse
from gatewayd.config.sections import key_name

_WIDTH: Final = 78  # mandoc's style check complains of lines over 80
_SHARED_BY: Final = 3  # commands with the same option, from which on it is described once
_ANY: Final = 2**31 - 1  # a whole number's upper bound where there is none to speak of

# Roff reads these as something else than what is typed.
_TYPED: Final = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)
_PROSE: Final = str.maketrans({"\\": r"\e", "^": r"\(ha", "~": r"\(ti"})

# Arguments that the parser gives no help for, because their names say it to who is at a prompt.
_WORDS: Final = {
    "FILE": "the configuration file",
    "--config": "the configuration file",
    "--header": "a header field of the request; may be given several times",
    "--listener": "the listener that the request comes to; default: the first",
    "--client": "the address that the request comes from",
    "--token-file": "a file with the admin interface's token; default: the configuration's",
    "--seed": "of the random numbers; the same seed is the same run",
}


# --- roff


def typed(text: str) -> str:
    """Something to be typed as it stands, in bold."""
    return rf"\fB{text.translate(_TYPED)}\fR"


def prose(text: str) -> str:
    """Sentences, each on lines of its own; what stands in backquotes is typed as it stands."""
    pieces = text.split("`")
    joined = "".join(
        typed(piece).replace(" ", r"\~") if index % 2 else piece.translate(_PROSE)
        for index, piece in enumerate(pieces)
    )
    lines: list[str] = []
    for sentence in re.split(r"(?<=[.?!]) +(?=\S)", " ".join(joined.split())):
        lines += textwrap.wrap(sentence, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(_plain, lines)) or r"\&"


def _plain(line: str) -> str:
    """A line that is no request, whatever it begins with."""
    return rf"\&{line}" if line.startswith((".", "'")) else line


def entry(tag: str, text: str) -> str:
    """A tagged paragraph."""
    return f".TP\n{_plain(tag)}\n{prose(text)}"


def example(text: str) -> str:
    """Lines as they stand."""
    lines = [_plain(line.translate(_TYPED)) for line in text.strip("\n").splitlines()]
    return "\n".join([".PP", ".RS 4", ".EX", *lines, ".EE", ".RE"])


def page(name: str, section: int, volume: str, body: Iterable[str]) -> str:
    """A whole page; its date is the build's, which a reproducible build sets."""
    made = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    date = time.strftime("%Y-%m-%d", made)
    head = [
        r".\" Made by docs/man.py; changes belong there, or into the parser and the schema.",
        f'.TH {name.upper()} {section} "{date}" "gatewayd {__version__}" "{volume}"',
        ".nh",  # an option broken in two is none that could be copied
        ".ad l",
    ]
    return "\n".join([*head, *body]) + "\n"


# --- gatewayd(1)


class Command(NamedTuple):
    """One of gatewayd's commands."""

    name: str
    help: str
    arguments: list[argparse.Action]


Option = tuple[str, ...]  # its flags and its help


def commands(parser: argparse.ArgumentParser) -> list[Command]:
    """All of them, in the parser's order."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            found += [
                Command(name, helps.get(name, ""), arguments(below))
                for name, below in action.choices.items()
            ]
    return found


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Of a command, without --help."""
    skipped = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in parser._actions if not isinstance(action, skipped)]


def value_of(action: argparse.Action) -> str:
    """What an argument's value is called; empty for a switch."""
    if action.nargs == 0:
        return ""
    return str(action.metavar or action.dest.upper())


def name_of(action: argparse.Action) -> str:
    """An argument's name: the longest of an option's flags, else what its value is called."""
    return max(action.option_strings, key=len, default=value_of(action))


def usage(command: Command) -> str:
    """A command with its arguments, those that may be left out in brackets."""
    parts = [typed(f"gatewayd {command.name}")]
    for action in command.arguments:
        value = rf"\fI{value_of(action).translate(_TYPED)}\fR"
        if action.option_strings:
            flag = typed(name_of(action))
            parts.append(rf"[{flag}\~{value}]" if value_of(action) else f"[{flag}]")
        else:
            many = {"*": rf"[{value}\~...]", "+": rf"{value}\~...", "?": f"[{value}]"}
            parts.append(many.get(str(action.nargs), value))
    return " ".join(parts)


def describe(action: argparse.Action) -> str:
    """An argument's paragraph."""
    flags = ", ".join(typed(flag) for flag in action.option_strings)
    value = value_of(action)
    shown = rf"\fI{value.translate(_TYPED)}\fR" if value else ""
    text = action.help or _WORDS.get(name_of(action), "")
    default = f"default: `{action.default}`" if has_default(action) else ""
    tag = " ".join(filter(None, (flags, shown)))
    return entry(tag, "; ".join(filter(None, (text, default))))


def has_default(action: argparse.Action) -> bool:
    """Whether an argument that is left out stands for something."""
    return action.default not in (None, "", False, [], argparse.SUPPRESS)


def shared(found: Iterable[Command]) -> dict[Option, argparse.Action]:
    """Options that many commands have and that mean the same in all of them."""
    seen: dict[Option, list[argparse.Action]] = {}
    for command in found:
        for action in command.arguments:
            if action.option_strings:
                seen.setdefault(option_of(action), []).append(action)
    return {option: actions[0] for option, actions in seen.items() if len(actions) >= _SHARED_BY}


def option_of(action: argparse.Action) -> Option:
    """What makes two options the same."""
    return (*action.option_strings, action.help or "")


def command_page(parser: argparse.ArgumentParser) -> str:
    """gatewayd(1)."""
    found = commands(parser)
    common = shared(found)
    body = [
        ".SH NAME",
        r"gatewayd \- event\-driven reverse proxy and API gateway",
        ".SH SYNOPSIS",
        r"\fBgatewayd\fR \fICOMMAND\fR [\fIOPTION\fR ...]",
        ".PP",
        r"\fBtwistd gatewayd\fR [\fB\-\-config\fR\~\fIFILE\fR]",
        ".SH DESCRIPTION",
        *_DESCRIPTION,
        ".SH COMMANDS",
    ]
    for command in found:
        body += [f".TP\n{usage(command)}", prose(command.help)]
        own = [
            action
            for action in command.arguments
            if option_of(action) not in common and is_worth_words(action)
        ]
        if own:
            body += [".RS", *(describe(action) for action in own), ".RE"]
    body += [".SH OPTIONS", *(describe(action) for action in common.values())]
    body += [describe(action) for action in arguments(parser) if action.help]
    body.append(entry(f"{typed('-h')}, {typed('--help')}", "of `gatewayd`, or of a command"))
    body += _AFTER_COMMANDS
    return page("gatewayd", 1, "User Commands", body)


def is_worth_words(action: argparse.Action) -> bool:
    """Whether there is more to say of an argument than its name in the synopsis."""
    return bool(action.option_strings or action.help) or has_default(action)


_DESCRIPTION: Final = [
    prose(
        "gatewayd accepts HTTP/1.1 requests, finds a route by host, path, method, header and query, picks an "
        "endpoint of the route's upstream, and streams bodies both ways. Endpoints are written down, looked "
        "up, or registered in ZooKeeper. What it does and where is said in one file, gatewayd.yaml(5)."
    ),
    ".PP",
    prose(
        "`gatewayd run` is the daemon in the foreground, as systemd(1) starts it. `twistd gatewayd` is the "
        "same under Twisted's runner, which Debian calls `twistd3`. Commands that talk to a running gateway "
        "use its admin interface: the address is taken from `--admin`, else from the configuration."
    ),
    ".PP",
    prose(
        "The admin interface answers `GET` of `/healthz`, `/readyz`, `/metrics` (for prometheus(1)), "
        "`/status`, `/explain`, `/config` and `/fleet`."
    ),
]

_AFTER_COMMANDS: Final = [
    ".SH SIGNALS",
    entry(
        rf"{typed('SIGTERM')}, {typed('SIGINT')}",
        "Drain and stop: listeners close, requests in flight have `drain_timeout` to finish. A second one "
        "leaves at once.",
    ),
    entry(
        typed("SIGHUP"),
        "Reload the configuration. A file with errors changes nothing and is logged with all of them.",
    ),
    entry(typed("SIGUSR1"), "Reopen the log files, for logrotate(8)."),
    ".SH EXIT STATUS",
    entry(typed("0"), "Done; of `run` and `demo`: after a clean stop."),
    entry(typed("1"), "Something else went wrong; a message says what."),
    entry(
        typed("2"),
        "Of `explain`: no route takes the request. Of any command: its arguments are wrong.",
    ),
    entry(
        typed("78"),
        "The configuration is in error. Every error found is printed on a line of its own, as "
        "`FILE:LINE:COLUMN: KEY: what is wrong`. With `--strict`, warnings are errors.",
    ),
    ".SH FILES",
    entry(r"\fI/etc/gatewayd/gatewayd.yaml\fR", "The configuration."),
    entry(
        r"\fI/etc/default/gatewayd\fR",
        "Variables for the configuration's `${NAME}`, where systemd(1) starts the daemon.",
    ),
    entry(
        r"\fI/var/lib/gatewayd/membership.json\fR",
        "The last members known from ZooKeeper, for a start while it is away.",
    ),
    ".SH ENVIRONMENT",
    entry(
        typed("GATEWAYD_ADMIN_TOKEN"),
        "The admin interface's token, for commands that talk to a running gateway. `--token-file` wins.",
    ),
    entry(
        typed("LISTEN_FDS"),
        "How many sockets systemd(1) passes, with `LISTEN_PID` and `LISTEN_FDNAMES`. A listener takes one "
        "by `address: fd:NAME`.",
    ),
    entry(
        typed("NOTIFY_SOCKET"),
        "Where systemd(1) is told of readiness, reloads and stopping.",
    ),
    entry(typed("WATCHDOG_USEC"), "How often systemd(1) wants a sign of life, in microseconds."),
    ".PP",
    prose("Any other variable may be used in the configuration as `${NAME}`."),
    ".SH EXAMPLES",
    prose("Every mistake in a configuration, then the daemon in the foreground:"),
    example("gatewayd check gatewayd.yaml\ngatewayd run --config gatewayd.yaml"),
    ".PP",
    prose("Which way a request would take, and why no other:"),
    example("gatewayd explain GET http://api.example.com/v1/users -H 'X-Canary: yes'"),
    ".PP",
    prose("An endpoint out of service for maintenance, and back:"),
    example("gatewayd drain users 10.0.0.11:8080\ngatewayd enable users 10.0.0.11:8080"),
    ".PP",
    prose("What to look at first when something is wrong:"),
    example("gatewayd status"),
    ".SH SEE ALSO",
    r"\fBgatewayd.yaml\fR(5), \fBsystemd.socket\fR(5), \fBlogrotate\fR(8)",
]


# --- gatewayd.yaml(5)

Described = dict[str, Any]  # a value in JSON Schema


_UNITS: Final = {
    kind.schema()["pattern"]: name
    for kind, name in (
        (schema.DURATION, "duration"),
        (schema.POSITIVE_DURATION, "duration, not 0"),
        (schema.SIZE, "size"),
        (schema.RATE, "rate"),
        (schema.POSITIVE_RATE, "rate, not 0"),
        (schema.SHARE, "share"),
    )
}


# What sections are for is their class's first line, and their keys are theirs alone.
_ABOUT: Final = {
    frozenset(
        key_name(each) for each in dataclasses.fields(found) if each.metadata["kind"] is not LATER
    ): (found.__doc__ or "").split("\n")[0]
    for found in vars(schema).values()
    if isinstance(found, type) and dataclasses.is_dataclass(found)
}


def sections_of(key: Described, path: str) -> Iterator[tuple[str, Described]]:
    """The sections that a key's value may be or hold, each with its path."""
    if "properties" in key:
        yield path, key
    for other in key.get("anyOf", ()):
        yield from sections_of(other, path)
    if isinstance(key.get("additionalProperties"), dict):
        yield from sections_of(key["additionalProperties"], f"{path}.NAME")
    if "items" in key:
        yield from sections_of(key["items"], f"{path}[]")


def type_of(key: Described) -> str:
    """What a value may be, in words."""
    kind = key.get("type", "")
    if "anyOf" in key:
        return ", or ".join(type_of(other) for other in key["anyOf"])
    if "enum" in key:
        return " | ".join(str(word) for word in key["enum"])
    if "const" in key:
        return str(key["const"])
    if "properties" in key:
        return "section"
    if isinstance(key.get("additionalProperties"), dict):
        return f"mapping of names to {_many(type_of(key['additionalProperties']))}"
    if kind == "array":
        return f"list of {_many(type_of(key['items']))}"
    if kind == "boolean":
        return "true | false"
    if kind == "integer":
        return _range(key.get("minimum", 0), key.get("maximum", _ANY))
    return _UNITS.get(key.get("pattern", ""), "text")


def _many(kind: str) -> str:
    if "|" in kind or ", or " in kind:
        return f"({kind})"
    name, comma, rest = kind.partition(",")
    return f"{name}s{comma}{rest}"


def _range(least: int, most: int) -> str:
    if most == _ANY:
        return "whole number" if least == 0 else f"whole number from {least}"
    return f"whole number, {least} to {most}"


def default_of(name: str, key: Described, section: Described) -> str:
    """What holds while a key is not written, in roff; empty where its text says it."""
    if name in section.get("required", ()):
        return "; required"
    if "default:" in key.get("description", ""):
        return ""
    value = key.get("default")
    if isinstance(value, dict) and value:
        return "; default: as below"
    if value in (None, "", [], {}):
        return "; default: none"
    return f"; default: {typed(_written(value))}"


def _written(value: Any) -> str:
    """A value as the file has it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def keys_of(section: Described) -> Iterator[str]:
    """A paragraph for each key of a section."""
    for name, key in section["properties"].items():
        kind = type_of(key).translate(_PROSE)
        tag = f"{typed(name)}: {kind}{default_of(name, key, section)}"
        yield entry(tag, key.get("description", ""))


def below(path: str, section: Described) -> Iterator[str]:
    """All sections that a section's keys lead to, each before those below it."""
    for name, key in section["properties"].items():
        for place, inner in sections_of(key, f"{path}.{name}"):
            yield f".SS {typed(place)}"
            yield prose(_ABOUT.get(frozenset(inner["properties"]), ""))
            yield from keys_of(inner)
            yield from below(place, inner)


def configuration_page(root: Described) -> str:
    """gatewayd.yaml(5)."""
    body = [
        ".SH NAME",
        r"gatewayd.yaml \- configuration of gatewayd",
        ".SH SYNOPSIS",
        r"\fI/etc/gatewayd/gatewayd.yaml\fR",
        ".SH DESCRIPTION",
        *_LANGUAGE,
        ".SH KEYS",
        prose(
            "A key is followed by what its value may be and what holds while it is not written. In paths, "
            "NAME stands for a name of your own and [] for each entry of a list."
        ),
        ".SS The top level",
        *keys_of(root),
    ]
    for name, key in root["properties"].items():
        for place, section in sections_of(key, name):
            body += [f".SH {name.upper()}"] + [f".SS {typed(place)}"] * (place != name)
            body.append(prose(_ABOUT.get(frozenset(section["properties"]), "")))
            body += [*keys_of(section), *below(place, section)]
    if parse(EXAMPLE, "the example in docs/man.py", {}, read_file=str).warnings:
        raise SystemExit("docs/man.py: gatewayd check warns of the example")
    body += [
        ".SH EXAMPLE",
        prose("Two services, one of them with members from ZooKeeper, and what most people set:"),
        example(EXAMPLE),
        ".SH SEE ALSO",
        r"\fBgatewayd\fR(1), \fBsystemd.socket\fR(5)",
    ]
    return page("gatewayd.yaml", 5, "File Formats", body)


_LANGUAGE: Final = [
    prose(
        "The file is YAML 1.2 with its core schema: `on`, `yes` and `22:22` are text, and so is every key. "
        "Unknown keys, wrong types, duplicate names and references that lead nowhere are errors; `gatewayd "
        "check` prints all of them with line and column. `gatewayd schema` prints a JSON Schema, with which "
        "editors complete and check."
    ),
    ".PP",
    prose(
        "One listener and one upstream are a complete file: without `routes` the only upstream gets "
        "everything."
    ),
    ".SS Units",
    entry(
        "duration",
        "`250ms`, `5s`, `2m`, `1h`. A timeout of `0` never fires; `pending_timeout`, `drain_timeout` and "
        "`removal_grace` of `0` are over at once.",
    ),
    entry("size", "`512` bytes, `64KiB`, `1MiB`, `1GiB`."),
    entry("share", "`20%`, from `0%` to `100%`."),
    entry("rate", "`100/s`, `600/m`, `36000/h`."),
    entry(
        "whole number",
        "Where it is a limit, `0` means any number; but `max_pending: 0` lets nobody wait, and a `max_idle` "
        "of `0` reuses no connection.",
    ),
    ".SS Values from elsewhere",
    prose(
        "They are filled in after parsing and in values alone, so that they cannot change the file's "
        "structure."
    ),
    entry(typed("${NAME}"), "An environment variable; it is an error if it is not set."),
    entry(typed("${NAME:-default}"), "The same, with a value for where it is not set."),
    entry(
        typed("${file:/path}"),
        "A file's content without its last line end, for secrets. The file is read anew by a reload, the "
        "environment is not.",
    ),
    entry(typed("$${"), "A literal `${`."),
]

EXAMPLE: Final = r"""
listeners:
  web:
    address: 0.0.0.0:${PORT:-2000}
    trusted_proxies: [10.0.0.0/8]
    limits: {max_body_bytes: 16MiB}

routes:
  - name: users
    match: {hosts: [api.example.com], path_prefix: /users}
    rewrite: {strip_prefix: /users}
    upstream: users
    retries: {attempts: 2, when: [connect-failure, reset, "503"]}
    rate_limit: {key: client_ip, rate: 100/s, burst: 200}
  - name: pages
    match: {hosts: ["*.example.com"]}
    upstream: {pages: 95, canary: 5}
    response_headers: {remove: [Server]}
    timeouts: {request: 10s}
  - name: elsewhere
    redirect: {to: "https://www.example.com{path}{query}", status: 302}

upstreams:
  users:
    zookeeper: {path: /services/users, format: serverset}
    members_allow: [10.0.0.0/8]
    balancer: peak_ewma
    circuit_breaker: {error_rate: 50%}
  pages:
    endpoints:
      - 10.0.0.11:8080
      - {address: "10.0.0.12:8080", weight: 3}
    health_check: {path: /healthz, interval: 5s}
    pool: {max_connections_per_endpoint: 100}
  canary:
    endpoints: [canary.internal:8080]

zookeeper:
  hosts: zk1:2181,zk2:2181,zk3:2181/prod

admin:
  address: 127.0.0.1:9901

logging:
  access: {to: /var/log/gatewayd/access.log, format: json, omit: [query]}

drain_timeout: 25s
"""


def main(arguments: list[str]) -> int:
    """Write both pages into a folder."""
    if len(arguments) != 1:
        print("usage: PYTHONPATH=. python3 docs/man.py OUTDIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "gatewayd.1": command_page(cli._parser()),
        "gatewayd.yaml.5": configuration_page(schema.json_schema()),
    }
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
