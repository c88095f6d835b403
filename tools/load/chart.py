"""A chart of latency over time as SVG, written by hand: no library, no script, nothing fetched."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tools.load.report import Report

WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 50
TTFT_COLOUR, GAP_COLOUR = "#2563eb", "#d97706"


def _ticks(most: float, count: int = 5) -> list[float]:
    """Round values from 0 to `most` or a little beyond."""
    step = 10.0 ** math.floor(math.log10(max(most, 1e-9) / count))
    for factor in (1, 2, 5, 10):
        if most / (step * factor) <= count:
            step *= factor
            break
    return [step * i for i in range(math.ceil(most / step) + 1)]


def _label(value: float) -> str:
    return f"{value:,.10g}"


def svg(report: Report) -> str:
    """TTFT and the worst inter-token gap of each request over the time it was sent."""
    points = report.points
    most_s = max((point.at_s for point in points), default=1.0) or 1.0
    most_ms = max((max(point.ttft_ms, point.worst_gap_ms) for point in points), default=1.0) or 1.0
    x_ticks, y_ticks = _ticks(most_s), _ticks(most_ms)

    def x(seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / x_ticks[-1], 1)

    def y(ms: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ms / y_ticks[-1], 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(_title(report))}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(_title(report))}</text>',
        _legend(LEFT, TTFT_COLOUR, f"time to first token, p95 {report.ttft_ms.p95 or 0:.0f} ms"),
        _legend(LEFT + 300, GAP_COLOUR, "longest gap between tokens of a request"),
    ]
    for tick in y_ticks:
        parts.append(f'<path d="M{LEFT} {y(tick)}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{_label(tick)}</text>')
    parts += [
        f'<text x="{x(tick)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_label(tick)}</text>'
        for tick in x_ticks
    ]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">seconds into the run</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{TOP - 8}" text-anchor="end">ms</text>')
    parts += _dots([(x(p.at_s), y(p.ttft_ms)) for p in points], TTFT_COLOUR)
    parts += _dots([(x(p.at_s), y(p.worst_gap_ms)) for p in points], GAP_COLOUR)
    return "\n".join([*parts, "</svg>", ""])


def _title(report: Report) -> str:
    return (
        f"{report.scenario}: {report.whole} requests, {report.tokens_s:.0f} tokens/s in {report.took_s:.0f} s"
    )


def _legend(x: int, colour: str, words: str) -> str:
    dot = f'<circle cx="{x + 5}" cy="36" r="4" fill="{colour}"/>'
    return f'{dot}<text x="{x + 15}" y="40">{escape(words)}</text>'


def _dots(places: Sequence[tuple[float, float]], colour: str) -> list[str]:
    return [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}" fill-opacity="0.7"/>' for x, y in places]


def write(report: Report, path: Path) -> None:
    """Write the chart as SVG, or as an HTML page where the name ends so. Raises OSError."""
    drawing = svg(report)
    if path.suffix in (".html", ".htm"):
        title = escape(_title(report))
        drawing = f'<!doctype html>\n<meta charset="utf-8">\n<title>{title}</title>\n{drawing}'
    path.write_text(drawing, encoding="utf-8")
