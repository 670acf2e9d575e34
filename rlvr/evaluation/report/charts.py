"""Small line and interval charts as inline SVG: no script, no font, no network. Colours come from the page's CSS."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 168
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 22
_MOST_POINTS = 300  # more than pixels show; longer series are averaged in buckets
_SMOOTH_FROM = 30  # points from which a trend line is drawn over the values


@dataclass(frozen=True, slots=True)
class Series:
    """y over x; both finite, x not decreasing."""

    x: tuple[float, ...]
    y: tuple[float, ...]


def line_chart(series: Series, label: str, number: Callable[[float], str], *, is_share: bool = False) -> str:
    """The values as a thin line and, where there are many, their moving average as a bold one.

    `number` formats the values on the y axis, which stays within [0, 1] for shares. `label` is for screen readers.
    """
    thinned = _thin(series)
    ticks = _share_ticks(thinned.y) if is_share else nice_ticks(min(thinned.y), max(thinned.y))
    plot = _Plot(thinned.x[0], thinned.x[-1], ticks[0], ticks[-1])
    marks = [plot.horizontal(tick, number(tick)) for tick in ticks]
    marks += [plot.step_label(step) for step in _step_ticks(thinned.x[0], thinned.x[-1])]
    if len(thinned.y) == 1:
        marks.append(f'<circle class="dot" cx="{plot.x(thinned.x[0])}" cy="{plot.y(thinned.y[0])}" r="3"/>')
    elif len(thinned.y) < _SMOOTH_FROM:
        marks.append(plot.path(thinned.x, thinned.y, "trend"))
    else:
        marks.append(plot.path(thinned.x, thinned.y, "values"))
        marks.append(plot.path(thinned.x, _smooth(thinned.y), "trend"))
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label, quote=True)}">'
        + "".join(marks)
        + "</svg>"
    )


def interval_bar(cells: Sequence[tuple[str, float, float | None, float | None]]) -> str:
    """(css class, mean, low, high) in [0, 1], each as a dot with a whisker on one common axis from 0 to 1."""
    width, height, pad = 260, 14 * len(cells) + 6, 6

    def x(share: float) -> float:
        return round(pad + (width - 2 * pad) * min(max(share, 0.0), 1.0), 1)

    marks = [f'<line class="grid" x1="{x(t)}" x2="{x(t)}" y1="0" y2="{height}"/>' for t in (0, 0.25, 0.5, 0.75, 1)]
    for index, (name, mean, low, high) in enumerate(cells):
        y = 10 + 14 * index
        if low is not None and high is not None:
            marks.append(f'<line class="whisker {name}" x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/>')
        marks.append(f'<circle class="mean {name}" cx="{x(mean)}" cy="{y}" r="4"/>')
    return f'<svg class="interval" viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(marks)}</svg>'


def histogram(shares: Sequence[float], label: str, *, bins: int = 10) -> str:
    """How many of the values in [0, 1] lie in each of `bins` equal parts; 1 lies in the last. `label` is for screen readers."""
    counts = [0] * bins
    for share in shares:
        counts[min(int(share * bins), bins - 1)] += 1
    ticks = nice_ticks(0.0, max(*counts, 1))
    plot = _Plot(0.0, 1.0, ticks[0], ticks[-1])
    marks = [plot.horizontal(tick, f"{tick:g}") for tick in ticks if tick == round(tick)]
    for index, count in enumerate(counts):
        left, right, top = plot.x(index / bins) + 1, plot.x((index + 1) / bins) - 1, plot.y(count)
        size = f'width="{right - left:.1f}" height="{plot.y(0.0) - top:.1f}"'
        marks.append(f'<rect class="bar" x="{left:.1f}" y="{top}" {size}/>')
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        marks.append(plot.label(share, f"{100 * share:.0f} %"))
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label, quote=True)}">'
        + "".join(marks)
        + "</svg>"
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers, equally spaced, that enclose [low, high]; about `count` of them.

    >>> nice_ticks(0.31, 0.94)
    [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(5.0, 5.0)
    [4.0, 4.5, 5.0, 5.5, 6.0]
    """
    low, high = (0.0 if abs(value) < 1e-300 else value for value in (low, high))  # a fifth of less may be nothing at all
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        margin = _round_up(abs(low) / 5) if low else 1.0
        low, high = low - margin, high + margin
    step = _round_up((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _share_ticks(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if high - low < 0.01:  # a share that hardly moves is shown as flat, not as noise
        low, high = max(0.0, low - 0.02), min(1.0, high + 0.02)
    return [tick for tick in nice_ticks(low, high) if 0.0 <= tick <= 1.0]


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * (1 - 1e-9))


def _step_ticks(first: float, last: float) -> list[int]:
    if last <= first:
        return [round(first)]
    inside = [round(tick) for tick in nice_ticks(first, last, 4) if first <= tick <= last and tick == round(tick)]
    return list(dict.fromkeys(inside)) or [round(first), round(last)]


def _thin(series: Series) -> Series:
    size = math.ceil(len(series.y) / _MOST_POINTS)
    if size <= 1:
        return series
    starts = range(0, len(series.y), size)
    means = [tuple(sum(values[s : s + size]) / len(values[s : s + size]) for s in starts) for values in (series.x, series.y)]
    return Series(*means)


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over about a fifteenth of the values; shorter at both ends."""
    reach = max(1, len(values) // 30)
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


class _Plot:
    """Maps values to pixels."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self._x_low, self._x_span = x_low, (x_high - x_low) or 1.0
        self._y_low, self._y_span = y_low, (y_high - y_low) or 1.0

    def x(self, value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - self._x_low) / self._x_span, 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self._y_low) / self._y_span, 1)

    def path(self, xs: Sequence[float], ys: Sequence[float], name: str) -> str:
        points = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in zip(xs, ys, strict=True))
        return f'<polyline class="{name}" points="{points}"/>'

    def horizontal(self, value: float, text: str) -> str:
        y = self.y(value)
        return (
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5}" text-anchor="end">{html.escape(text)}</text>'
        )

    def step_label(self, step: int) -> str:
        return self.label(step, str(step))

    def label(self, value: float, text: str) -> str:
        x = self.x(value)
        anchor = "end" if x + 4 * len(text) > WIDTH else "middle"  # a long word at the edge would be cut off
        x = WIDTH - 1 if anchor == "end" else x
        return f'<text class="tick" x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{html.escape(text)}</text>'


@dataclass(frozen=True, slots=True)
class Band:
    """The mean over several runs, and the lowest and highest of them, over x."""

    x: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, runs: Sequence[Series]) -> Band:
        """Over the values of x that every run has, so that the mean does not jump where one of them ends."""
        tables = [dict(zip(run.x, run.y, strict=True)) for run in runs]
        shared = tuple(x for x in tables[0] if all(x in table for table in tables))
        columns = [[table[x] for table in tables] for x in shared]
        mean = tuple(sum(column) / len(column) for column in columns)
        return cls(shared, tuple(map(min, columns)), mean, tuple(map(max, columns)))


def band_chart(band: Band, label: str, number: Callable[[float], str], *, is_share: bool = False) -> str:
    """The mean as a bold line in a band from the lowest to the highest run; `number` and `label` as in `line_chart`."""
    low, mean, high = (_thin(Series(band.x, values)) for values in (band.low, band.mean, band.high))
    every = (*low.y, *high.y)
    ticks = _share_ticks(every) if is_share else nice_ticks(min(every), max(every))
    plot = _Plot(mean.x[0], mean.x[-1], ticks[0], ticks[-1])
    marks = [plot.horizontal(tick, number(tick)) for tick in ticks]
    marks += [plot.step_label(step) for step in _step_ticks(mean.x[0], mean.x[-1])]
    if len(mean.x) == 1:
        marks.append(f'<circle class="dot" cx="{plot.x(mean.x[0])}" cy="{plot.y(mean.y[0])}" r="3"/>')
    else:
        edge = [*zip(low.x, low.y, strict=True), *reversed(list(zip(high.x, high.y, strict=True)))]
        points = " ".join(f"{plot.x(x)},{plot.y(y)}" for x, y in edge)
        marks.append(f'<polygon class="band" points="{points}"/>')
        marks.append(plot.path(mean.x, mean.y, "trend"))
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label, quote=True)}">'
        + "".join(marks)
        + "</svg>"
    )


def paired_histogram(before: Sequence[float], after: Sequence[float], label: str, *, bins: int = 16) -> str:
    """Two sets of values, not negative, side by side: the share of each that lies in each of `bins` equal parts from 0 up."""
    ticks = nice_ticks(0.0, max(*before, *after, 1.0))
    highest = ticks[-1]
    shares = [[0.0] * bins, [0.0] * bins]
    for row, values in zip(shares, (before, after), strict=True):
        for value in values:
            row[min(int(value / highest * bins), bins - 1)] += 1.0 / len(values)
    heights = _share_ticks([0.0, max(map(max, shares))])
    plot = _Plot(0.0, highest, heights[0], heights[-1])
    marks = [plot.horizontal(tick, f"{100 * tick:g} %") for tick in heights]
    width = (plot.x(highest) - plot.x(0.0)) / bins
    for place, (row, name) in enumerate(zip(shares, ("before", "after"), strict=True)):
        for index, share in enumerate(row):
            if share:
                left, top = plot.x(0.0) + width * (index + 0.06 + 0.44 * place), plot.y(share)
                size = f'width="{0.44 * width:.1f}" height="{plot.y(0.0) - top:.1f}"'
                marks.append(f'<rect class="bar {name}" x="{left:.1f}" y="{top}" {size}/>')
    marks += [plot.label(tick, f"{tick:g}") for tick in ticks]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label, quote=True)}">'
        + "".join(marks)
        + "</svg>"
    )
