"""Draws the rows as an SVG: how far each target is met or missed."""

import math
from pathlib import Path
from xml.sax.saxutils import escape

from scripts.benchmarks.report import Row

_LINE = 26
_TOP = 64
_LEFT = 360
_BARS = 320
_RIGHT = 400
_DECADES = 1.0
"""The scale is logarithmic, from a tenth of the target's value to ten times it."""
_COLOURS = {True: "#2e7d32", False: "#c62828", None: "#757575"}


def _score(row: Row) -> float:
    """How much better than its target a row is: 1 just meets it.

    Without a target: than its peer, where less is better, as it is in all rows that have none.
    """
    if row.target is None:
        return 1 / row.judged
    score = row.judged / row.target.limit
    return 1 / score if row.target.relation == "at most" else score


def _place(score: float) -> float:
    bounded = min(_DECADES, max(-_DECADES, math.log10(score)))
    return _LEFT + _BARS * (bounded + _DECADES) / (2 * _DECADES)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _bar(row: Row, top: float) -> list[str]:
    work, ours, peer, ratio, target, _ = row.cells()
    middle, end = _place(1), _place(_score(row))
    beside = f" : {peer} = {ratio}" if peer else ""
    wanted = f" ({target})" if target else ""
    return [
        _text(_LEFT - 10, top + 16, work, "end"),
        f'<rect x="{min(middle, end):.1f}" y="{top + 4:.1f}" width="{abs(end - middle):.1f}" '
        f'height="16" fill="{_COLOURS[row.met]}"/>',
        _text(_LEFT + _BARS + 10, top + 16, f"{ours}{beside}{wanted}"),
    ]


def draw(rows: list[Row], about: dict[str, str]) -> str:
    """Draws a chart.

    Args:
        rows: What to show.
        about: Versions, for the line under the title.

    Returns:
        The text of an SVG file.
    """
    width, height = _LEFT + _BARS + _RIGHT, _TOP + _LINE * len(rows) + 40
    bottom = _TOP + _LINE * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<g font-size="16">{_text(10, 24, "Switchboard beside its peers")}</g>',
        _text(10, 44, ", ".join(f"{name} {value}" for name, value in about.items())),
    ]
    for number, row in enumerate(rows):
        parts += _bar(row, _TOP + _LINE * number)
    for score, label in (0.1, "10 times worse"), (1, "target"), (10, "10 times better"):
        x = _place(score)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#bdbdbd"/>'
        )
        parts.append(_text(x, bottom + 18, label, "middle"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def write_svg(path: Path, rows: list[Row], about: dict[str, str]) -> None:
    """Writes the chart to a file."""
    path.write_text(draw(rows, about), encoding="utf-8")
