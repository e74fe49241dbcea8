"""Line charts as inline SVG that takes its colours from the page, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

# In units of the view box; letters of 11 units stay legible at phone width.
_WIDTH, _HEIGHT = 400, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 38


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line.

    Attributes:
        style: the CSS class that gives its colour.
        points: (x, y); a NaN y leaves a gap.
        titles: what is said of each point on hovering, if anything.
        joined: whether the points are; not where several share an x.
    """

    style: str
    points: Sequence[tuple[float, float]]
    titles: Sequence[str] = ()
    joined: bool = True


def line_chart(
    lines: Sequence[Line],
    *,
    ticks: Sequence[tuple[float, str]],
    x_label: str,
    label: str,
    share: bool = True,
    whole: bool = True,
    x_range: tuple[float, float] | None = None,
) -> Markup:
    """An SVG of lines over one axis.

    Args:
        lines: drawn in this order.
        ticks: places on the x axis and what is written there.
        x_label: what x is.
        label: alt text: what the chart shows.
        share: whether y is a share, written in percent.
        whole: whether the axis of a share runs from 0 to 100%, else over what there is.
        x_range: first and last x; those of the points without.
    """
    known = [(x, y) for line in lines for x, y in line.points if not math.isnan(y)]
    low_x, high_x = x_range or (min((x for x, _ in known), default=0), max((x for x, _ in known), default=1))
    low_y, high_y = (0.0, 1.0) if share and whole else _round_range([y for _, y in known], from_zero=not share)
    if share and high_y > 1:  # no axis runs past 100%
        low_y, high_y = max(0.0, low_y - (high_y - 1)), 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x) if high_x > low_x else 0.5
        up = (y - low_y) / (high_y - low_y)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _TOP + (1 - up) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, _HEIGHT, label)
    ]
    for step in range(5):
        value = low_y + (high_y - low_y) * step / 4
        _, y = place(low_x, value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            _LEFT, _WIDTH - _RIGHT, y, y
        ))  # fmt: skip
        parts.append(_text(_LEFT - 6, y + 4, "end", f"{100 * value:.3g}%" if share else f"{value:.3g}"))
    for x_value, text in ticks:
        x, _ = place(x_value, low_y)
        # A word at the edge must not run out of the picture.
        anchor = "end" if len(text) > 3 and x > _WIDTH - 2 * _RIGHT else "middle"
        parts.append(_text(x, _HEIGHT - _BOTTOM + 16, anchor, text))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, "middle", x_label))
    for line in lines:
        parts += _drawn(line, [(*place(x, y), y) for x, y in line.points])
    return Markup("").join([*parts, Markup("</svg>")])


def _drawn(line: Line, points: Sequence[tuple[float, float, float]]) -> list[Markup]:
    path, move = "", True
    for x, y, value in points:
        if math.isnan(value):
            move = True
            continue
        path += f"{'M' if move else 'L'}{x:.1f} {y:.1f}"
        move = False
    parts = [Markup('<path class="line {}" d="{}"/>').format(line.style, path)] if line.joined else []
    for number, (x, y, value) in enumerate(points):
        if not math.isnan(value):
            title = Markup("<title>{}</title>").format(line.titles[number]) if line.titles else ""
            parts.append(Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="3">{}</circle>').format(
                line.style, x, y, title
            ))  # fmt: skip
    return parts


def _text(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _round_range(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    """A range of four round steps that holds the values, and 0 where it is asked for."""
    if not values:
        return 0.0, 1.0
    low, high = min([0.0] if from_zero else values), max(values)
    low = min(low, *values)
    rough = (high - low) / 4 or abs(high) / 4 or 0.25
    power = 10.0 ** math.floor(math.log10(rough))
    for step in (power * factor for factor in (1, 2, 2.5, 5, 10, 20)):
        start = math.floor(low / step + 1e-9) * step
        if start + 4 * step >= high * (1 - 1e-9):
            return start, start + 4 * step
    return low, high


def spread_ticks(values: Sequence[float], most: int = 6) -> list[tuple[float, str]]:
    """Some of the values, evenly chosen, the first and the last among them."""
    step = max(1, math.ceil((len(values) - 1) / (most - 1))) if len(values) > 1 else 1
    chosen = list(values[:-1:step]) + list(values[-1:])
    if len(chosen) > 2 and step > 1 and (len(values) - 1) % step and (len(values) - 1) % step < step / 2:
        del chosen[-2]
    return [(value, f"{value:g}") for value in chosen]
