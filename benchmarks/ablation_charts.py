"""Charts of ablations as SVG files: a line for each arm with its single seeds behind it, or a dot for each arm's end.

Readable on a light page and on a dark one: grey text, no background, and names beside what they name.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from rlvr.evaluation.report.charts import nice_ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 736, 320, 74, 250, 16, 42
COLOURS = ("#7a8190", "#2a9d5c", "#d1495b", "#3b7dd8", "#c58a1c", "#8e5bb5", "#1fa3a3", "#8a5a3c")
LINE_HEIGHT = 16


@dataclass(frozen=True, slots=True)
class Curve:
    """An arm: its mean over seeds, and every seed; points are (x, y), at least one."""

    name: str
    mean: tuple[tuple[float, float], ...]
    seeds: tuple[tuple[tuple[float, float], ...], ...]

    @property
    def points(self) -> list[tuple[float, float]]:
        return [*self.mean, *(point for seed in self.seeds for point in seed)]


@dataclass(frozen=True, slots=True)
class _Plot:
    x_ticks: list[float]
    y_ticks: list[float]

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low), 1)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    def line(self, points: Sequence[tuple[float, float]], colour: str, style: str) -> str:
        path = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-linejoin="round" {style}/>'

    def dot(self, point: tuple[float, float], colour: str, style: str) -> str:
        return f'<circle cx="{self.x(point[0])}" cy="{self.y(point[1])}" fill="{colour}" {style}/>'


def chart(curves: Sequence[Curve], title: str, x_words: str, y_words: str) -> str:
    """An SVG document. Curves of one point are drawn as a large dot with the seeds as small ones."""
    plot = _plot(curves)
    marks = _axes(plot, x_words, y_words)
    is_scatter = all(len(curve.mean) == 1 for curve in curves)
    for curve, colour in _coloured(curves):
        for seed in curve.seeds:
            if is_scatter:
                marks.append(plot.dot(seed[0], colour, 'r="2.5" opacity="0.5"'))
            else:
                marks.append(plot.line(seed, colour, 'stroke-width="1" opacity="0.4"'))
    for curve, colour in _coloured(curves):
        if is_scatter:
            marks.append(plot.dot(curve.mean[0], colour, 'r="6"'))
        else:
            marks.append(plot.line(curve.mean, colour, 'stroke-width="2.5"'))
    marks += _names(plot, curves)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="#8a8f98"><title>{html.escape(title)}</title>'
        + "".join(marks)
        + "</svg>\n"
    )


def _coloured(curves: Sequence[Curve]) -> list[tuple[Curve, str]]:
    return [(curve, COLOURS[index % len(COLOURS)]) for index, curve in enumerate(curves)]


def _plot(curves: Sequence[Curve]) -> _Plot:
    xs, ys = zip(*(point for curve in curves for point in curve.points), strict=True)
    return _Plot(nice_ticks(min(xs), max(xs), 5), nice_ticks(min(ys), max(ys), 5))


def _axes(plot: _Plot, x_words: str, y_words: str) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    marks = []
    for tick in plot.y_ticks:
        marks.append(f'<line x1="{LEFT}" x2="{right}" y1="{plot.y(tick)}" y2="{plot.y(tick)}" stroke="#8884"/>')
        marks.append(f'<text x="{LEFT - 8}" y="{plot.y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    for tick in plot.x_ticks:
        text = f"{tick / 1000:g}k" if plot.x_ticks[-1] >= 10_000 and tick else f"{tick:g}"
        marks.append(f'<text x="{plot.x(tick)}" y="{bottom + 18}" text-anchor="middle">{text}</text>')
    marks.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_words)}</text>')
    middle = (TOP + bottom) / 2
    marks.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_words)}</text>')
    return marks


def _names(plot: _Plot, curves: Sequence[Curve]) -> list[str]:
    """Beside the plot, as near as they can be to the height of their ends without lying on one another."""
    placed = sorted(_coloured(curves), key=lambda pair: plot.y(pair[0].mean[-1][1]))
    heights: list[float] = []
    for curve, _ in placed:
        wanted = plot.y(curve.mean[-1][1]) + 4
        heights.append(max(wanted, heights[-1] + LINE_HEIGHT) if heights else wanted)
    overflow = max(0.0, heights[-1] - (HEIGHT - BOTTOM + 4))
    for index in reversed(range(len(heights))):
        limit = heights[index + 1] - LINE_HEIGHT if index + 1 < len(heights) else heights[index] - overflow
        heights[index] = min(heights[index], limit)
    return [
        f'<text x="{WIDTH - RIGHT + 10}" y="{height:.1f}" fill="{colour}" font-weight="600">{html.escape(curve.name)}</text>'
        for (curve, colour), height in zip(placed, heights, strict=True)
    ]
