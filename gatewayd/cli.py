"""The `gatewayd` command: runs a gateway, checks its configuration, and talks to a running one."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlencode

from gatewayd import __version__
from gatewayd.config.document import ConfigError
from gatewayd.config.loader import Loaded, load
from gatewayd.config.schema import json_schema
from gatewayd.core.addresses import Address, parse_listen

DEFAULT_CONFIG: Final = "/etc/gatewayd/gatewayd.yaml"
EX_CONFIG: Final = 78
EX_NO_ROUTE: Final = 2
_TIMEOUT: Final = 65.0  # seconds: longer than any answer of the admin interface takes


class Refused(Exception):
    """A command that cannot be done; says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; default: the process's own.

    Returns:
        The exit code (contract, Commands).
    """
    options = _parser().parse_args(arguments)
    act: Callable[[argparse.Namespace], int] = options.act
    try:
        return act(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except Refused as error:
        print(f"gatewayd: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0  # `gatewayd status | head`


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gatewayd", description="An event-driven reverse proxy and API gateway."
    )
    parser.add_argument("--version", action="version", version=f"gatewayd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a gateway in the foreground")
    run.add_argument("--config", "-c", default=DEFAULT_CONFIG, metavar="FILE")
    run.set_defaults(act=_run)

    check = commands.add_parser("check", help="read a configuration and say all that is wrong")
    check.add_argument("file", nargs="?", default=DEFAULT_CONFIG, metavar="FILE")
    check.add_argument("--strict", action="store_true", help="warnings are errors")
    check.set_defaults(act=_check)

    schema = commands.add_parser("schema", help="print the configuration's JSON Schema")
    schema.set_defaults(act=_schema)

    demo = commands.add_parser("demo", help="three small upstreams and a gateway on 127.0.0.1:2000")
    demo.set_defaults(act=_demo)

    status = commands.add_parser("status", help="how a running gateway fares")
    status.add_argument("--json", action="store_true", help="everything, as JSON")
    status.add_argument("--fleet", action="store_true", help="the gateways that ZooKeeper knows")
    _talks(status, _status)

    explain = commands.add_parser("explain", help="which way a request would take, and why")
    explain.add_argument("method", metavar="METHOD")
    explain.add_argument("url", metavar="URL")
    explain.add_argument("-H", "--header", action="append", default=[], metavar="'K: V'")
    explain.add_argument("--listener", default="", metavar="L")
    explain.add_argument("--client", default="", metavar="IP")
    explain.add_argument("--json", action="store_true", help="as JSON")
    _talks(explain, _explain)

    drain = commands.add_parser(
        "drain",
        help="end keep-alive and be unready; with UPSTREAM ENDPOINT, no requests to that one",
    )
    drain.add_argument("upstream", nargs="?", metavar="UPSTREAM")
    drain.add_argument("endpoint", nargs="?", metavar="ENDPOINT")
    _talks(drain, _drain)
    undrain = commands.add_parser("undrain", help="take a drain of the gateway back")
    _talks(undrain, _drain_all)
    enable = commands.add_parser("enable", help="requests to an endpoint again")
    enable.add_argument("upstream", metavar="UPSTREAM")
    enable.add_argument("endpoint", metavar="ENDPOINT")
    _talks(enable, _drain)

    simulate = commands.add_parser("simulate", help="play a scenario in virtual time")
    simulate.add_argument("file", metavar="SCENARIO")
    simulate.add_argument("--seed", type=int, default=None)
    simulate.add_argument("--runs", type=int, default=1, help="with seeds from --seed upwards")
    simulate.set_defaults(act=_simulate)

    accept = commands.add_parser("accept", help="take a held membership as it is")
    accept.add_argument("upstream", metavar="UPSTREAM")
    _talks(accept, _accept)

    reload = commands.add_parser("reload", help="serve the configuration file as it is now")
    reload.add_argument("--plan", action="store_true", help="only print what would change")
    reload.add_argument("--json", action="store_true", help="as JSON")
    _talks(reload, _reload)

    upgrade = commands.add_parser("upgrade", help="have the installed version take over")
    _talks(upgrade, _upgrade)
    return parser


def _talks(parser: argparse.ArgumentParser, act: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--admin", default="", metavar="ADDRESS", help="host:port or unix:/path")
    parser.add_argument("--config", "-c", default=DEFAULT_CONFIG, metavar="FILE")
    parser.add_argument("--token-file", default="", metavar="FILE")
    parser.set_defaults(act=act)


# --- running


def _run(options: argparse.Namespace) -> int:
    from gatewayd.upgrade import detach

    detach()
    return run_gateway(load(options.config), command=sys.orig_argv)


def run_gateway(
    loaded: Loaded, *, command: Sequence[str] = (), also: Callable[[Any], Any] | None = None
) -> int:
    """Run a gateway until it is asked to stop.

    Args:
        loaded: its configuration.
        command: as the process was started, for an upgrade; none = it cannot be upgraded.
        also: given the reactor, starts something beside it before it binds.

    Returns:
        0 after a clean stop, 1 if it could not start.
    """
    from gatewayd.net.reactor import install

    install()
    from twisted.internet import reactor as installed
    from twisted.internet.error import CannotListenError
    from twisted.logger import globalLogBeginner

    from gatewayd.service import Gateway, why_not_bound

    reactor: Any = installed
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    try:
        gateway = Gateway(loaded, reactor, begin_logging=True, command=command)
        if also is not None:
            also(reactor)
        gateway.privilegedStartService()
        gateway.startService()
    except (CannotListenError, KeyError, OSError) as error:
        raise Refused(why_not_bound(error)) from error
    reactor.addSystemEventTrigger("before", "shutdown", gateway.stopService)
    reactor.run()
    return 0


def _demo(options: argparse.Namespace) -> int:
    from gatewayd.demo import CONFIG, start_upstreams

    return run_gateway(load(str(CONFIG)), also=start_upstreams)


# --- configuration


def _check(options: argparse.Namespace) -> int:
    loaded = load(options.file)
    for warning in loaded.warnings:
        print(warning.show(loaded.file), file=sys.stderr)
    if loaded.warnings and options.strict:
        return EX_CONFIG
    print(f"{loaded.file}: fine")
    return 0


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(json_schema(), indent=2))
    return 0


def _simulate(options: argparse.Namespace) -> int:
    from gatewayd.testing.scenario import broken, load_scenario, play

    scenario, config = load_scenario(options.file)
    first = scenario.seed if options.seed is None else options.seed
    wrong = 0
    for seed in range(first, first + options.runs):
        report = play(scenario, config, seed)
        found = broken(scenario.expect, report)
        wrong += bool(found)
        if options.runs == 1:
            print(json.dumps(report.shown(), indent=2))
        for each in found:
            print(f"seed {seed}: {each}", file=sys.stderr)
    print(f"{options.runs - wrong} of {options.runs} runs as expected")
    return 1 if wrong else 0


# --- talking to a running gateway


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """http.client: connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._path)


def ask(options: argparse.Namespace, method: str, path: str) -> tuple[int, bytes]:
    """Ask a running gateway's admin interface.

    Returns:
        (status, body).

    Raises:
        Refused: it cannot be reached, or wants a token.
    """
    address, token = _admin_of(options)
    connection = (
        _UnixConnection(address.host)
        if address.kind == "unix"
        else http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    )
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"no gateway answers at {address}: {reason}; is it running?") from error
    finally:
        connection.close()
    if response.status == 401:
        raise Refused(f"{address} wants a token: --token-file FILE, or GATEWAYD_ADMIN_TOKEN")
    return response.status, body


def _admin_of(options: argparse.Namespace) -> tuple[Address, str]:
    token = os.environ.get("GATEWAYD_ADMIN_TOKEN", "")
    if options.token_file:
        try:
            token = Path(options.token_file).read_text().strip()
        except OSError as error:
            raise Refused(f"{options.token_file}: {error.strerror}") from error
    if options.admin:
        try:
            return parse_listen(options.admin), token
        except ValueError as error:
            raise Refused(f"--admin: {error}") from error
    if not Path(options.config).exists():
        return Address("tcp", "127.0.0.1", 9901), token
    admin = load(options.config).config.admin
    if admin.address is None:
        raise Refused(
            f"{options.config} has admin.address: none; a running gateway cannot be asked"
        )
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(admin.address.host, admin.address.host)
    return admin.address._replace(host=host), token or admin.token


def _reload(options: argparse.Namespace) -> int:
    status, body = ask(options, "POST", "/reload?plan=1" if options.plan else "/reload")
    if status == 504:
        raise Refused(body.decode().strip())
    if status not in (200, 409):
        raise Refused(f"the gateway answered {status}: {body.decode().strip()}")
    found = json.loads(body)
    if status == 409:
        raise Refused("nothing has changed:\n" + "\n".join(found["errors"]))
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for change in found["changes"]:
        print(change["text"])
    if not found["changes"]:
        print("nothing changes")
    return 0


def _upgrade(options: argparse.Namespace) -> int:
    status, body = ask(options, "POST", "/upgrade")
    if status == 409:
        raise Refused("\n".join(json.loads(body)["errors"]))
    if status != 202:
        raise Refused(body.decode().strip())
    found = json.loads(body)
    print(
        f"gatewayd {found['version']}, pid {found['pid']}, serves; the former one drains and leaves"
    )
    return 0


def _drain_all(options: argparse.Namespace) -> int:
    status, body = ask(options, "POST", f"/{options.command}")
    if status != 202:
        raise Refused(body.decode().strip())
    print(
        "unready, and keep-alive ends; `gatewayd undrain` takes it back"
        if options.command == "drain"
        else "ready again"
    )
    return 0


def _drain(options: argparse.Namespace) -> int:
    if options.upstream is None:
        return _drain_all(options)
    if options.endpoint is None:
        raise Refused("drain what? name UPSTREAM and ENDPOINT, or nothing for the whole gateway")
    upstream, endpoint = quote(options.upstream, safe=""), quote(options.endpoint, safe="")
    path = f"/upstreams/{upstream}/endpoints/{endpoint}/{options.command}"
    status, body = ask(options, "POST", path)
    if status != 202:
        raise Refused(body.decode().strip())
    gets = "gets no new requests" if options.command == "drain" else "is used again"
    print(f"{options.endpoint} of upstream {options.upstream} {gets}")
    return 0


def _accept(options: argparse.Namespace) -> int:
    status, body = ask(options, "POST", f"/upstreams/{quote(options.upstream, safe='')}/accept")
    if status != 202:
        raise Refused(body.decode().strip())
    print(f"upstream {options.upstream}: {json.loads(body)['left']} held members left")
    return 0


def _fleet(options: argparse.Namespace) -> int:
    status, body = ask(options, "GET", "/fleet")
    if status != 200:
        raise Refused(body.decode().strip())
    found = json.loads(body)
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    rows = [["HOST", "PID", "VERSION", "LISTENS", "ADMIN"]]
    for each in found:
        listens = " ".join(each.get("address", ()))
        rows.append([each.get(name, "-") for name in ("host", "pid", "version")])
        rows[-1] += [listens, each.get("admin") or "-"]
    print("\n".join(_columns(rows)))
    return 0


def _status(options: argparse.Namespace) -> int:
    if options.fleet:
        return _fleet(options)
    status, body = ask(options, "GET", "/status")
    if status != 200:
        raise Refused(f"the gateway answered {status}: {body.decode().strip()}")
    found = json.loads(body)
    print(json.dumps(found, indent=2) if options.json else status_table(found))
    return 0


def status_table(found: dict[str, Any]) -> str:
    """/status as a table that a person likes to read."""
    draining = ", draining" if found["draining"] else ""
    lines = [
        f"gatewayd {found['version']}, pid {found['pid']}, up {_age(found['uptime'])}{draining}",
        f"configuration {found['config']['file']} ({found['config']['digest']})",
        "",
    ]
    if isinstance(found["workers"], list):
        rows = [["WORKER", "PID", "STATE", "UP", "BUSY", "CLIENTS"]]
        for each in found["workers"]:
            row = [each["number"], each["pid"], each["state"], _age(each["uptime"])]
            rows.append([*row, f"{each['busy']:.0%}", each["connections"]])
        lines += [*_columns(rows), ""]
    rows = [["LISTENER", "ADDRESS", "CLIENTS", "OF", "ACCEPTED", ""]]
    for name, each in found["listeners"].items():
        paused = "accepting is paused" if each["accept_paused"] else ""
        limit = each["max_connections"] or "any"
        rows.append([name, each["address"], each["connections"], limit, each["accepted"], paused])
    lines += [*_columns(rows), ""]
    for name, each in found["upstreams"].items():
        times = each["response_times"]
        seen = (
            f"last {times['count']}: mean {_ms(times['mean'])}, p50 {_ms(times['p50'])}, "
            f"p90 {_ms(times['p90'])}, p99 {_ms(times['p99'])}, max {_ms(times['max'])}"
            if times
            else "no response yet"
        )
        pool = each["pool"]
        lines.append(f"upstream {name} ({each['balancer']}): {seen}")
        lines.append(
            f"  connections {pool['open']}, idle {pool['idle']}, reused {_percent(pool)}, "
            f"waiting {each['pending']}" + ("" if each["known"] else ", NO MEMBERS YET")
        )
        membership = each["membership"]
        if membership:
            lines.append(f"  {_membership(membership)}")
        rows = [["  ENDPOINT", "WEIGHT", "STATE", "SOURCE", "IN FLIGHT", "PICKS", "ERRORS"]]
        for endpoint in each["endpoints"]:
            errors = " ".join(f"{reason}={n}" for reason, n in endpoint["errors"].items()) or "-"
            rows.append(
                [
                    f"  {endpoint['address']}",
                    endpoint["weight"],
                    endpoint["state"],
                    endpoint["source"],
                    endpoint["in_flight"],
                    endpoint["picks"],
                    errors,
                ]
            )
        lines += [*_columns(rows), ""]
    return "\n".join(lines).rstrip()


def _membership(found: dict[str, Any]) -> str:
    """In one look: live or stale since when, from the journal, held and what would release it."""
    text = f"ZooKeeper {found['path']} ({found['format']}): {found['state']}"
    if found["state"] == "stale":
        text += f" for {_age(found['stale_for'])}"
    if found["origin"] == "journal":
        text += ", from the journal"
    if found["path_missing"]:
        text += ", the path does not exist"
    if found["unreadable"]:
        text += f", {found['unreadable']} nodes cannot be read"
    if found["held"]:
        text += f", {found['held']} HELD; released by {found['released_by']}"
    return text


def _columns(rows: Sequence[Sequence[Any]]) -> list[str]:
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def _percent(pool: dict[str, int]) -> str:
    taken = pool["hits"] + pool["misses"]
    return f"{100 * pool['hits'] / taken:.1f}%" if taken else "-"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    named = [f"{number}{unit}" for number, unit in parts if number]
    return " ".join(named[:2]) or "0s"


def _explain(options: argparse.Namespace) -> int:
    query = urlencode(
        [
            ("method", options.method.upper()),
            ("url", options.url),
            ("listener", options.listener),
            ("client", options.client),
            *(("header", header) for header in options.header),
        ]
    )
    status, body = ask(options, "GET", f"/explain?{query}")
    if status != 200:
        raise Refused(body.decode().strip())
    found = json.loads(body)
    print(json.dumps(found, indent=2) if options.json else explained(found))
    if "route" in found:
        return 0
    return EX_NO_ROUTE if found["answer"]["reason"] in ("no_route", "no_method") else 1


def explained(found: dict[str, Any]) -> str:
    """/explain in sentences."""
    lines = [f"listener   {found['listener']['name']} ({found['listener']['address']})"]
    request = found.get("request")
    if request:
        target = f"{request['scheme']}://{request['host']}{request['path']}{request['query']}"
        lines.append(f"request    {request['method']} {target} from {request['client_ip']}")
    lines.append(f"route      {found.get('route', 'none')}")
    for each in found.get("passed_over", ()):
        lines.append(f"             not {each['route']}: {each['because']}")
    more = found.get("passed_over_in_all", 0) - len(found.get("passed_over", ()))
    if more > 0:
        lines.append(f"             and {more} more")
    if "redirect" in found:
        lines.append(f"redirect   {found['redirect']['status']} to {found['redirect']['location']}")
    if "respond" in found:
        lines.append(f"respond    {found['respond']['status']}")
    if "rewrite" in found:
        before, after = found["rewrite"]["from"], found["rewrite"]["to"]
        lines.append(f"path       {after}" + (f" (was {before})" if before != after else ""))
    for name, share in found.get("split", {}).items():
        lines.append(f"split      {share:.1%} to {name}")
    for upstream in found.get("upstreams", ()):
        lines.append(f"upstream   {upstream['name']} ({upstream['balancer']})")
        for each in upstream["candidates"]:
            lines.append(f"endpoint     {each['endpoint']}  {each['share']:.1%}")
        more = upstream["candidates_in_all"] - len(upstream["candidates"])
        if more > 0:
            lines.append(f"             and {more} more")
        for each in upstream["passed_over"]:
            lines.append(f"             not {each['endpoint']}: {each['because']}")
    if "answer" in found:
        answer = found["answer"]
        detail = f": {answer['detail']}" if answer["detail"] else ""
        lines.append(f"answer     {answer['status']} {answer['reason']}{detail}")
    return "\n".join(lines)


def run() -> NoReturn:
    """The console script."""
    raise SystemExit(main())
