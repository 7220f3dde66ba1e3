"""Plots as SVG, drawn by hand: bars for a case's peers, lines for growth."""

from __future__ import annotations

from html import escape
from typing import Final

from benchmarks.figures import UNITS, Figures

_COLOURS: Final = ("#1f6feb", "#8b949e", "#57606a", "#bf8700", "#d4a72c", "#a475f9", "#79b8ff")
_OTHERS: Final = ("nginx", "haproxy", "go", "go GOGC=400", "twisted.web", "gatewayd no log")
_BAR: Final = 18
_WIDTH: Final = 720
_LEFT: Final = 190
_RIGHT: Final = 110
_STYLE: Final = (
    "<style>text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:14px}"
    ".n{fill:#57606a}line{stroke:#d0d7de}.w{stroke:#24292f;stroke-width:1.5}@media(prefers-color-scheme:dark)"
    "{text{fill:#e6edf3}.n{fill:#8b949e}line{stroke:#30363d}.w{stroke:#e6edf3}}</style>"
)

BARS: Final = {  # file -> (part, figure, cases or all, title)
    "small-cpu.svg": ("small", "cpu", ("same", "varied", "answers"), "CPU per small request"),
    "bodies-down.svg": (
        "bodies",
        "cpu_gib",
        ("64 KiB down", "1 MiB down", "10 MiB down", "1 GiB down", "1 GiB down, chunked"),
        "CPU per GiB, down",
    ),
    "bodies-up.svg": (
        "bodies",
        "cpu_gib",
        ("1 MiB up", "10 MiB up", "1 GiB up", "10 MiB up, chunked", "1 GiB tunnel"),
        "CPU per GiB, up and through tunnels",
    ),
    "latency-p99.svg": ("latency", "p99", ("500/s", "2000/s", "5000/s"), "99th percentile"),
    "idle.svg": ("idle", "connection_kib", (), "Memory per idle connection"),
    "picks.svg": (
        "picks",
        "ns",
        tuple(
            f"{policy}, 3 endpoints"
            for policy in ("round_robin", "weighted_round_robin", "consistent_hash", "random")
        ),
        "Time per pick, 3 endpoints",
    ),
}
LINES: Final = {  # file -> (part, figure, case prefix, title)
    "scaling-hosts.svg": ("scaling", "cpu", "hosts", "CPU per request as hosts grow"),
    "scaling-prefixes.svg": ("scaling", "cpu", "prefixes", "CPU per request as prefixes grow"),
    "scaling-endpoints.svg": ("scaling", "cpu", "endpoints", "CPU per request as endpoints grow"),
    "scaling-connections.svg": (
        "scaling",
        "cpu",
        "connections",
        "CPU per request as busy connections grow",
    ),
}


def names(part: str) -> list[tuple[str, str]]:
    """Files of a part's plots, with what they show."""
    found = [(file, title) for file, (whose, _, _, title) in BARS.items() if whose == part]
    return found + [(file, title) for file, (whose, _, _, title) in LINES.items() if whose == part]


def draw(part: str, figures: Figures) -> dict[str, str]:
    """All plots of a part, by file."""
    drawn: dict[str, str] = {}
    for file, (whose, figure, cases, title) in BARS.items():
        if whose == part:
            wanted = list(cases or figures.cases(figure))
            drawn[file] = bars(figures, figure, wanted, title)
    for file, (whose, figure, prefix, title) in LINES.items():
        if whose == part:
            drawn[file] = lines(figures, figure, prefix, title)
    return drawn


def bars(figures: Figures, figure: str, cases: list[str], title: str) -> str:
    """A group of bars for each case, a bar for each peer, with a whisker for the noise."""
    peers = figures.peers(figure)
    rows: list[tuple[str, str, float, float]] = []
    for case in cases:
        for peer in peers:
            series = figures.get(case, figure, peer)
            if series is not None and series.median is not None:
                rows.append((case, peer, series.median, series.noise or 0.0))
    most = max((value for *_, value, _ in rows), default=1.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    out: list[str] = []
    y = 44
    last = None
    for case, peer, value, noise in rows:
        if case != last:
            y += 10 if last else 0
            out.append(_text(12, y + 13, case, "t"))
            y += 22
            last = case
        width = max(1.0, value * scale)
        out.append(_text(_LEFT - 8, y + 13, peer, anchor="end"))
        out.append(
            f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 4}" rx="2" '
            f'fill="{_colour(peer)}"/>'
        )
        middle = y + (_BAR - 4) / 2
        out.append(
            _line(_LEFT + width * (1 - noise), middle, _LEFT + width * (1 + noise), middle, "w")
        )
        after = _LEFT + width * (1 + noise) + 6
        out.append(_text(after, y + 12, f"{value:,.0f}" if value >= 10 else f"{value:.1f}", "n"))
        y += _BAR
    return _svg(y + 16, f"{title}, {UNITS[figure]} (less is better)", out)


def lines(figures: Figures, figure: str, prefix: str, title: str) -> str:
    """A line for each peer over the sizes of `PREFIX: SIZE` cases, evenly spaced."""
    cases = [case for case in figures.cases(figure) if case.startswith(prefix + ":")]
    cases.sort(key=lambda case: int(case.rpartition(" ")[2].replace(",", "")))
    series = {
        peer: [figures.median(case, figure, peer) for case in cases]
        for peer in figures.peers(figure)
    }
    series = {peer: values for peer, values in series.items() if any(values)}
    most = max((value for values in series.values() for value in values if value), default=1.0)
    top, bottom, left, right = 50, 260, 60, _WIDTH - 130
    step = (right - left) / max(1, len(cases) - 1)
    out = [_line(left, bottom, right, bottom)]
    for tick in range(5):
        value = most * tick / 4
        y = bottom - (bottom - top) * tick / 4
        out += [_line(left, y, right, y), _text(left - 8, y + 4, f"{value:.0f}", "n", "end")]
    for number, case in enumerate(cases):
        out.append(_text(left + number * step, bottom + 20, case.rpartition(" ")[2], "n", "middle"))
    taken: list[float] = []
    for peer, values in sorted(series.items(), key=lambda one: one[1][-1] or 0.0):
        points = [
            (left + number * step, bottom - (bottom - top) * value / most)
            for number, value in enumerate(values)
            if value is not None
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{_colour(peer)}" stroke-width="2.5"/>'
        )
        out += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_colour(peer)}"/>' for x, y in points
        ]
        place = _clear(points[-1][1], taken)
        out.append(_text(right + 10, place + 4, peer))
    return _svg(bottom + 36, f"{title}, {UNITS[figure]} (less is better)", out)


def _clear(y: float, taken: list[float]) -> float:
    """Where a label can stand without covering another."""
    while any(abs(y - other) < 14 for other in taken):
        y -= 4
    taken.append(y)
    return y


def _colour(peer: str) -> str:
    if peer in _OTHERS:
        return _COLOURS[1 + _OTHERS.index(peer)]
    return _COLOURS[0] if peer.startswith("gatewayd") else "#6e7781"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<line{style} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _svg(height: float, title: str, body: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
            f'width="{_WIDTH}" height="{height:.0f}" role="img" aria-label="{escape(title)}">',
            _STYLE,
            _text(12, 24, title, "t"),
            *body,
            "</svg>\n",
        ]
    )
