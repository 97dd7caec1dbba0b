"""Policies in the plane of two objectives as an SVG picture: means, intervals, names."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from mopo_eval.scorecards import Estimate
from mopo_train.family import REFERENCE

WIDTH, HEIGHT = 520.0, 430.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 52.0
LETTER, LINE = 6.4, 13.0
"""About the size of a letter of a name, in the picture's units."""
MOST_NAMES = 24
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Point(NamedTuple):
    """One policy."""

    policy: str
    x: Estimate
    y: Estimate
    on_front: bool


class Scale(NamedTuple):
    """From values ``low`` to ``high`` to places ``begin`` to ``end``."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of ``value``."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def scatter(points: Sequence[Point], titles: tuple[str, str]) -> str:
    """The picture; ``titles`` of the axes with their unit. Values outside [0, 1] never occur."""
    x = _scale([point.x for point in points], LEFT, WIDTH - RIGHT)
    y = _scale([point.y for point in points], HEIGHT - BOTTOM, TOP)
    parts = [*_grid(x, y, titles)]
    for point in sorted(points, key=lambda point: point.on_front):  # the front is drawn above the others
        parts.append(_drawn(point, x, y))
    named = points if len(points) <= MOST_NAMES else [point for point in points if point.on_front][:MOST_NAMES]
    parts += _names(named, points, x, y)
    label = f"Policies by {titles[0]} and {titles[1]}"
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(parts)}</svg>"
    )


def ticks(low: float, high: float) -> list[str]:
    """Four to eight round values from ``low`` to ``high``, with equally many decimals."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{index * step:.{decimals}f}" for index in range(first, last + 1)]


def _scale(values: Sequence[Estimate], begin: float, end: float) -> Scale:
    low, high = min(value.low for value in values), max(value.high for value in values)
    pad = max(0.04 * (high - low), 0.01)
    return Scale(low - pad, high + pad, begin, end)


def _grid(x: Scale, y: Scale, titles: tuple[str, str]) -> list[str]:
    top, bottom, left, right = TOP, HEIGHT - BOTTOM, LEFT, WIDTH - RIGHT
    parts = []
    for value in ticks(x.low, x.high):
        at = f"{x(float(value)):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top:g}" y2="{bottom:g}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 17:g}" text-anchor="middle">{value}</text>')
    for value in ticks(y.low, y.high):
        place = y(float(value))
        parts.append(f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{left - 7:g}" y="{place + 4:.1f}" text-anchor="end">{value}</text>')
    middle, centre = (left + right) / 2, (top + bottom) / 2
    parts.append(
        f'<text class="axis" x="{middle:g}" y="{HEIGHT - 12:g}" text-anchor="middle">{escape(titles[0])} →</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(15 {centre:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(titles[1])} →</text>"
    )
    return parts


def _drawn(point: Point, x: Scale, y: Scale) -> str:
    at = (x(point.x.mean), y(point.y.mean))
    kind = "front" if point.on_front else "dominated"
    if point.policy == REFERENCE:
        mark = f'<path d="M{at[0]:.1f} {at[1] - 7:.1f}l7 7l-7 7l-7 -7z"/>'
    else:
        mark = f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5.5"/>'
    told = (
        f"{point.policy}: {point.x.mean:.3f} [{point.x.low:.3f}, {point.x.high:.3f}], "
        f"{point.y.mean:.3f} [{point.y.low:.3f}, {point.y.high:.3f}]"
    )
    return (
        f'<g class="{kind}"><title>{escape(told)}</title>'
        f'<line x1="{x(point.x.low):.1f}" x2="{x(point.x.high):.1f}" y1="{at[1]:.1f}" y2="{at[1]:.1f}"/>'
        f'<line x1="{at[0]:.1f}" x2="{at[0]:.1f}" y1="{y(point.y.low):.1f}" y2="{y(point.y.high):.1f}"/>{mark}</g>'
    )


def _names(named: Sequence[Point], points: Sequence[Point], x: Scale, y: Scale) -> list[str]:
    """Every name at the best free place around its point; crowded ones overlap as little as can be."""
    taken: list[Box] = []
    for point in points:
        px, py = x(point.x.mean), y(point.y.mean)
        taken.append((px - 8, py - 8, px + 8, py + 8))
    parts = []
    for point in named:
        px, py, width = x(point.x.mean), y(point.y.mean), LETTER * len(point.policy)
        places = [
            (px + side * far - (width if side < 0 else 0), py + up)
            for far in (9, 14)
            for up in (-15, 2, -24, 11, -6, -34, 21)
            for side in (1, -1)
        ]
        boxes = [(left, top, left + width, top + LINE) for left, top in places]
        best = min(boxes, key=lambda box: _crowding(box, taken))
        taken.append(best)
        parts.append(f'<text class="name" x="{best[0]:.1f}" y="{best[3] - 3:.1f}">{escape(point.policy)}</text>')
    return parts


def _crowding(box: Box, taken: Sequence[Box]) -> float:
    """Area of ``box`` that is taken or outside the frame."""
    inside = _overlap(box, (LEFT, TOP, WIDTH - RIGHT + 6, HEIGHT - BOTTOM))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return sum(_overlap(box, other) for other in taken) + 2 * outside


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
