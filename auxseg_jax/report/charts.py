"""Charts as SVG, drawn here because they are few and small: they take the colours of the page."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 34
_TICKS = 5


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
      name: what it is.
      points: (x, y), by x.
    """

    name: str
    points: Sequence[tuple[float, float]]


def lines(title: str, x_name: str, series: Sequence[Line], is_log: bool = False) -> str:
    """Draws lines.

    Args:
      title: what is seen, for people who do not see it.
      x_name: name of the axis x.
      series: the lines.
      is_log: whether y is drawn by its logarithm; values up to 0 are left out then.
    """
    shown = [
        Line(s.name, [(x, y) for x, y in s.points if math.isfinite(y) and (y > 0 or not is_log)])
        for s in series
    ]
    shown = [s for s in shown if s.points]
    if not shown:
        return ""
    xs = [x for s in shown for x, _ in s.points]
    ys = [math.log10(y) if is_log else y for s in shown for _, y in s.points]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    if y_high - y_low < 1e-9:
        y_low, y_high = y_low - 0.5, y_high + 0.5
    x_span = max(x_high - x_low, 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / x_span * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(across, 1), round(down, 1)

    parts = []
    for tick in _ticks(y_low, y_high):
        _, y = place(x_low, tick)
        text = _number(10**tick if is_log else tick)
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    whole = all(float(x).is_integer() for x in xs)
    for tick in _ticks(x_low, x_high, least=1.0 if whole else 0.0):
        x, _ = place(tick, y_low)
        text = _number(tick)
        parts.append(f'<text x="{x}" y="{_HEIGHT - 18}" text-anchor="middle">{text}</text>')
    parts.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">'
        f"{html.escape(x_name)}</text>"
    )
    for number, one in enumerate(shown):
        at = [place(x, math.log10(y) if is_log else y) for x, y in one.points]
        text = " ".join(f"{x},{y}" for x, y in at)
        parts.append(f'<polyline class="line c{number % 6}" points="{text}"/>')
        if len(at) < 20:
            parts += [f'<circle class="dot c{number % 6}" cx="{x}" cy="{y}" r="3"/>' for x, y in at]
    keys = "".join(
        f'<span class="key"><i class="c{k % 6}"></i>{html.escape(s.name)}</span>'
        for k, s in enumerate(shown)
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}"><title>{html.escape(title)}</title>'
        f"{''.join(parts)}</svg><figcaption>{html.escape(title)} {keys}</figcaption></figure>"
    )


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Returns round numbers between two, `least` apart or more."""
    raw = max((high - low) / _TICKS, least)
    if raw <= 0:
        return [low]
    base = 10 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw)
    if high <= low:
        return [low]
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.0f}"
