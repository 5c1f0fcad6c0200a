"""Line charts as SVG without scripts.

`line_chart` is embedded in a page, which styles it by CSS classes (`grid`, `axis`, `band`, `line`, `last`)
for light and dark themes. `score_curves` is a self-contained image.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH, HEIGHT = 440, 220  # units of the drawing; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 52, 70, 14, 30  # least margins for labels
LINE_HEIGHT = 14  # of text of 13 units
CHARACTER, BOLD_CHARACTER = 8.3, 9.1  # width of a digit at 13 units in a wide font, DejaVu Sans
LOG_ROOM = 1.25  # margin factor of a logarithmic axis; a linear one ends at ticks
ROOM_FOR_TITLES = 240  # margin right of the curves for their titles
ROOM_FOR_TICK = 26  # from the end of an axis to its name
CURVE_STYLE = "text { font: 13px sans-serif; fill: #616875 } line { stroke: #b5bac4; stroke-width: .6 }"
CURVE_COLORS = (
    "#3a57ff",
    "#e8881a",
    "#1c9a6b",
    "#cc2c3a",
    "#70768a",
    "#8a3ab9",
)  # legible on white and on black
MOST_CHARACTERS = 45  # largest total length of tick labels; beyond it only round numbers are labelled
MAX_COLUMNS = 200  # more points than this are aggregated by column: mean as line, extremes as band

Number = int | float  # JSON may hold a value as either
Point = tuple[Number, Number]
Place = Callable[[Number], float]  # from a value to its coordinate along an axis


def line_chart(points: Sequence[Point], *, name: str, logarithmic: bool = False) -> str:
    """Draw (step, value) pairs, ordered by step, as an `<svg>` element.

    Args:
        points: non-finite values are omitted.
        name: name of the quantity, for screen readers.
        logarithmic: logarithmic value axis; linear if a value is not positive.

    Returns: SVG text, or "" without points.

    >>> line_chart([(0, 1.0), (100, 0.1)], name="loss", logarithmic=True).startswith("<svg")
    True
    """
    points = [(step, value) for step, value in points if math.isfinite(step) and math.isfinite(value)]
    if not points:
        return ""
    logarithmic = logarithmic and min(value for _, value in points) > 0
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if logarithmic:
        low, high = low / LOG_ROOM, high * LOG_ROOM
        ticks_y = logarithmic_ticks(low, high)
    else:
        ticks_y = linear_ticks(low, high)
        low, high = ticks_y[0], ticks_y[-1]
    labels_y = tick_labels(ticks_y)
    left = max(LEFT, 8 + CHARACTER * max(map(len, labels_y.values()), default=0))
    right = WIDTH - max(RIGHT, 10 + BOLD_CHARACTER * len(short_number(points[-1][1])))
    place_x = _scale(points[0][0], points[-1][0], left, right, float)
    place_y = _scale(low, high, HEIGHT - BOTTOM, TOP, math.log10 if logarithmic else float)
    labels_x = tick_labels(linear_ticks(points[0][0], points[-1][0]))
    labels_x = {tick: label for tick, label in labels_x.items() if left - 0.5 <= place_x(tick) <= right + 0.5}
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} over steps">',
            *_axes(labels_x, labels_y, place_x, place_y, left, right),
            *_curve(points, place_x, place_y),
            "</svg>",
        ]
    )


def score_curves(curves: dict[str, Sequence[Point]], *, name: str, axis: str) -> str:
    """Draw scores up to 1 over numbers (such as test iterations) as SVG, with a title at the end of each
    curve.

    The axis of scores starts at 0, or below the lowest score (ARI may be negative).

    Args:
        curves: title -> (number, score) pairs, ordered by number, at least one.
        name: name of the chart, for screen readers.
        axis: what the numbers are, beside their axis.

    >>> chart = score_curves({"ARI": [(1, -0.1), (3, 0.9)]}, name="ARI over iterations", axis="iterations")
    >>> chart.count("<polyline"), ">-0.5<" in chart, ">iterations<" in chart
    (1, True, True)
    """
    numbers = sorted({number for points in curves.values() for number, _ in points})
    right, floor = WIDTH - LEFT, HEIGHT - BOTTOM
    place_x = _scale(numbers[0], numbers[-1], LEFT, right, float)
    lowest = min(score for points in curves.values() for _, score in points)
    ticks = linear_ticks(min(lowest, 0), 1)
    place_y = _scale(ticks[0], ticks[-1], floor, TOP, float)
    parts = [f"<style>{CURVE_STYLE}</style>"]
    for tick in ticks:
        y = place_y(tick)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    round_numbers = [
        tick for tick in linear_ticks(numbers[0], numbers[-1]) if numbers[0] <= tick <= numbers[-1]
    ]
    needed = sum(len(f"{number:g}") + 1 for number in numbers)
    for number in numbers if needed <= MOST_CHARACTERS else round_numbers:
        x = place_x(number)
        parts.append(f'<text x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{number:g}</text>')
    parts.append(f'<text x="{right + ROOM_FOR_TICK}" y="{floor + 17}">{escape(axis)}</text>')
    ends = {title: place_y(points[-1][1]) for title, points in curves.items()}
    colors = dict(zip(curves, itertools.cycle(CURVE_COLORS), strict=False))
    below = -math.inf
    for title in sorted(ends, key=ends.__getitem__):
        path = " ".join(f"{place_x(number):.1f},{place_y(score):.1f}" for number, score in curves[title])
        below = max(ends[title] + 4, below + 14)  # stack titles that would overlap
        where = f'x="{place_x(curves[title][-1][0]) + 8:.1f}" y="{below:.1f}" style="fill:{colors[title]}"'
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colors[title]}" stroke-width="2"/>')
        parts.append(f"<text {where}>{escape(title)}</text>")
    box = f'viewBox="0 0 {right + ROOM_FOR_TITLES} {HEIGHT}" role="img" aria-label="{escape(name)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(parts)}</svg>\n'


def linear_ticks(low: Number, high: Number, wanted: int = 5) -> list[float]:
    """Ticks at multiples of 1, 2 or 5 times a power of ten that enclose `low`..`high`.

    >>> linear_ticks(0.03, 0.97)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    return [float(f"{index * gap:.12g}") for index in range(first, last + 1)]


def logarithmic_ticks(low: Number, high: Number) -> list[float]:
    """Ticks within `low`..`high`: powers of ten, 1, 2, 5 times those, or linear ticks for a narrow range.

    >>> logarithmic_ticks(0.0006, 0.12)
    [0.001, 0.01, 0.1]
    >>> logarithmic_ticks(0.003, 0.12)
    [0.005, 0.01, 0.02, 0.05, 0.1]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if high / low < 10:
        ticks = linear_ticks(low, high)
    else:
        factors, every = ((1, 2, 5), 1) if high / low < 100 else ((1,), -(-(last - first) // 6))
        powers = range(first, last + 1, every)
        ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def tick_labels(ticks: Sequence[float]) -> dict[float, str]:
    """What stands beside each tick: short numbers, or as many digits as tell them apart.

    >>> tick_labels([0.5, 1.0]), tick_labels([0.50001, 0.50002])
    ({0.5: '0.5', 1.0: '1'}, {0.50001: '0.50001', 0.50002: '0.50002'})
    """
    labels = {tick: short_number(tick) for tick in ticks}
    if len(set(labels.values())) < len(labels):
        return {tick: f"{tick:.12g}" for tick in ticks}
    return labels


def short_number(value: Number) -> str:
    """At most four significant digits: 0.9877, 12.35, 1500, 25k, 1.5M, 4.8e-4.

    >>> [short_number(value) for value in (0.98765, 25000, 1.5e6, 0.0, 0.00048)]
    ['0.9877', '25k', '1.5M', '0', '4.8e-4']
    """
    size = abs(value)
    if 0 < size < 1e-3 or 1e9 <= size < math.inf:
        digits, power = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    if 1e6 <= size < math.inf:
        return f"{value / 1e6:.4g}M"
    return f"{value / 1e3:.4g}k" if 1e4 <= size < math.inf else f"{value:.4g}"


def _scale(low: Number, high: Number, start: Number, stop: Number, warp: Place) -> Place:
    """The map from low..high to start..stop, after `warp`; a single value maps to the middle."""
    if warp(high) == warp(low):
        return lambda value: (start + stop) / 2
    return lambda value: start + (stop - start) * (warp(value) - warp(low)) / (warp(high) - warp(low))


def _axes(
    labels_x: dict[float, str],
    labels_y: dict[float, str],
    place_x: Place,
    place_y: Place,
    left: float,
    right: float,
) -> list[str]:
    """Lines, ticks and their labels; a label that would lie over the one before it is left out."""
    parts, free = [], math.inf
    for tick, label in labels_y.items():  # upwards
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if y <= free:
            parts.append(f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
            free = y - LINE_HEIGHT
    floor, free = HEIGHT - BOTTOM, -math.inf
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{floor}" y2="{floor}"/>')
    for tick, label in labels_x.items():
        x, half = place_x(tick), CHARACTER * len(label) / 2
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        if x - half >= free:
            parts.append(f'<text x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{label}</text>')
            free = x + half + CHARACTER
    return parts


def _curve(points: Sequence[Point], place_x: Place, place_y: Place) -> list[str]:
    columns = _columns(points)
    at = [(place_x(step), place_y(low), place_y(mean), place_y(high)) for step, low, mean, high in columns]
    parts = []
    if len(columns) < len(points):
        rim = [(x, high) for x, _, _, high in at] + [(x, low) for x, low, _, _ in reversed(at)]
        parts.append(f'<polygon class="band" points="{_path(rim)}"/>')
    parts.append(f'<polyline class="line" points="{_path([(x, mean) for x, _, mean, _ in at])}"/>')
    x, y = place_x(points[-1][0]), place_y(points[-1][1])
    value = short_number(points[-1][1])
    parts.append(f'<circle class="last" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
    parts.append(f'<text class="last" x="{x + 8:.1f}" y="{y + 4:.1f}">{value}</text>')
    return parts


def _columns(points: Sequence[Point]) -> list[tuple[Number, Number, Number, Number]]:
    """Points, aggregated to at most `MAX_COLUMNS` columns: (step, lowest, mean, highest)."""
    size = -(-len(points) // MAX_COLUMNS)
    columns = []
    for start in range(0, len(points), size):
        steps, values = zip(*points[start : start + size], strict=True)
        columns.append((steps[-1], min(values), math.fsum(values) / len(values), max(values)))
    return columns


def _path(places: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
