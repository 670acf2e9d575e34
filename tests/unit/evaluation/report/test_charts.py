from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlvr.evaluation.report.charts import HEIGHT, WIDTH, Series, interval_bar, line_chart, nice_ticks

reals = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9)


def number(value: float) -> str:
    return f"{value:.3g}"


def points(svg: str, name: str) -> list[tuple[float, float]]:
    found = re.search(rf'<polyline class="{name}" points="([^"]*)"', svg)
    assert found is not None
    pairs = (pair.split(",") for pair in found[1].split())
    return [(float(x), float(y)) for x, y in pairs]


@given(reals, reals)
def test_ticks_enclose_the_values_at_equal_steps(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    gaps = [b - a for a, b in pairwise(ticks)]
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-3)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=700))
@example([5e-324])
def test_every_chart_is_valid_xml_and_stays_inside_its_frame(values: list[float]) -> None:
    svg = line_chart(Series(tuple(map(float, range(len(values)))), tuple(values)), 'a "label" <b>', number)
    root = ET.fromstring(svg)
    assert root.attrib["aria-label"] == 'a "label" <b>'
    if len(values) > 1:
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points(svg, "trend"))


def test_a_rising_metric_is_drawn_rising() -> None:
    drawn = points(line_chart(Series((1.0, 2.0, 3.0), (0.1, 0.5, 0.9)), "reward", number), "trend")
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    assert [y for _, y in drawn] == sorted((y for _, y in drawn), reverse=True)


def test_long_series_are_averaged_not_cut() -> None:
    values = tuple(float(index >= 5000) for index in range(10_000))
    drawn = points(line_chart(Series(tuple(map(float, range(10_000))), values), "x", number), "values")
    assert len(drawn) <= 300
    assert (drawn[0][1], drawn[-1][1]) == (max(y for _, y in drawn), min(y for _, y in drawn))


@pytest.mark.parametrize("values", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3), (0.97, 1.0)])
def test_axes_of_shares_stay_between_0_and_100_percent(values: tuple[float, float]) -> None:
    svg = line_chart(Series((1.0, 2.0), values), "share", lambda value: f"{value:.4f}", is_share=True)
    labels = [float(text) for text in re.findall(r'text-anchor="end">([^<]*)<', svg)]
    assert min(labels) >= 0
    assert max(labels) <= 1
    assert len(labels) >= 2


def test_intervals_are_whiskers_around_their_means() -> None:
    root = ET.fromstring(interval_bar([("before", 0.3, 0.2, 0.4), ("after", 0.9, None, None)]))
    whiskers = [line for line in root.iter("line") if "whisker" in line.attrib["class"]]
    means = {circle.attrib["class"]: float(circle.attrib["cx"]) for circle in root.iter("circle")}
    assert len(whiskers) == 1
    assert float(whiskers[0].attrib["x1"]) < means["mean before"] < float(whiskers[0].attrib["x2"]) < means["mean after"]
