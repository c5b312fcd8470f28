"""Lines over time as SVG, readable on light and on dark ground; no library.

svg = draw([Panel("Memory", "MiB", [Line("supervisor", points)])], [Marks("kill worker", [12.5, 61.0])], seconds)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 960, 64, 132
PANEL, GAP, ROW = 150, 46, 15
COLOURS = ("#2a78d6", "#d9622b", "#2f9e5b", "#8d5bd0", "#b8860b")
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 } .small { font-size: 11px }
.grid { stroke: #ddd } .ground { fill: #fff } .mark { stroke: #c33 } .line { fill: none; stroke-width: 1.4 }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .grid { stroke: #3a3a3a } .ground { fill: #15171a } .mark { stroke: #f77 }
}
"""
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points of seconds and value; a gap where two are further apart than `hole` seconds."""

    name: str
    points: Sequence[Point]
    hole: float = 12.0


@dataclass(frozen=True)
class Panel:
    """Lines that share an axis, which begins at 0."""

    title: str
    unit: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Marks:
    """Moments, in a row of their own."""

    name: str
    at: Sequence[float]


def draw(panels: Sequence[Panel], rows: Sequence[Marks], seconds: float) -> str:
    """The whole picture."""
    inner = WIDTH - LEFT - RIGHT
    height = 8 + len(panels) * (PANEL + GAP) + len(rows) * ROW + 34

    def x(at: float) -> float:
        return LEFT + inner * at / max(seconds, 1e-9)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
    ]
    top = 8.0
    for panel in panels:
        out += _panel(panel, top, x)
        top += PANEL + GAP
    foot = top + len(rows) * ROW
    for number, row in enumerate(rows):
        middle = top + number * ROW + 4
        out.append(f'<text class="small" x="{LEFT + inner + 8}" y="{middle + 4:.0f}">{escape(row.name)}</text>')
        out.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + inner}" y1="{middle + 5:.1f}" y2="{middle + 5:.1f}"/>')
        path = "".join(f"M{x(at):.1f} {middle - 5:.1f}v10" for at in row.at)
        if path:
            out.append(f'<path class="mark" d="{path}"/>')
    out += [
        f'<text class="small" x="{x(at):.1f}" y="{foot + 16:.0f}" text-anchor="middle">{at / 60:g} min</text>'
        for at in _ticks(seconds, 6, (15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200))
    ]
    return "\n".join([*out, "</svg>", ""])


def _panel(panel: Panel, top: float, x) -> list[str]:
    values = [value for line in panel.lines for _, value in line.points]
    ticks = _nice(max(values, default=1.0))
    bottom, ceiling = top + 18 + PANEL, ticks[-1] or 1.0

    def y(value: float) -> float:
        return bottom - PANEL * value / ceiling

    right = WIDTH - RIGHT
    out = [f'<text class="title" x="{LEFT}" y="{top + 10:.0f}">{escape(panel.title)}, {escape(panel.unit)}</text>']
    for tick in ticks:
        out.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        out.append(f'<text class="small" x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for number, line in enumerate(panel.lines):
        colour = COLOURS[number % len(COLOURS)]
        path, before = "", -math.inf
        for at, value in line.points:
            path += f"{'M' if at - before > line.hole else 'L'}{x(at):.1f} {y(value):.1f}"
            before = at
        out.append(f'<path class="line" stroke="{colour}" d="{path}"/>')
        middle = top + 34 + number * 18
        out.append(f'<path class="line" stroke="{colour}" d="M{right + 8} {middle - 4:.0f}h14"/>')
        out.append(f'<text class="small" x="{right + 26}" y="{middle:.0f}">{escape(line.name)}</text>')
    return out


def _nice(most: float) -> list[float]:
    """Ticks from 0 to above `most`."""
    if most <= 0:
        return [0.0, 1.0]
    step = 10 ** math.floor(math.log10(most / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if most / (factor * step) <= 5)
    return [number * step for number in range(math.ceil(most / step - 1e-9) + 1)]


def _ticks(seconds: float, count: int, steps: Sequence[float]) -> list[float]:
    step = next((step for step in steps if seconds / step <= count), steps[-1])
    return [number * step for number in range(int(seconds / step) + 1)]
