"""Plots as SVG, legible on light and on dark pages: bars that lie, and lines."""

import html
import math

COLOURS = {"haproxy": "#3b82f6", "nginx": "#16a34a", "envoy": "#d946ef", "trunkline": "#f97316",
           "litellm": "#a16207", "portkey": "#0d9488", "direct": "#6b7280"}
MORE = ["#3b82f6", "#16a34a", "#d946ef", "#f97316", "#a16207", "#0d9488", "#6b7280", "#e11d48"]
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1f2937 } .title { font-size: 16px; font-weight: 600 }
.note { fill: #6b7280 } .grid { stroke: #d1d5db; stroke-width: 1 } .back { fill: #ffffff }
@media (prefers-color-scheme: dark) { text { fill: #e5e7eb } .note { fill: #9ca3af } .grid { stroke: #374151 } .back { fill: #111827 } }
</style>"""


def colour(name, number=0):
    """That of a proxy, else one of its own."""
    return COLOURS.get(name, MORE[number % len(MORE)])


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{html.escape(str(words))}</text>'


def page(width, height, title, unit, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    back = f'<rect class="back" width="{width}" height="{height}" rx="8"/>'
    return "\n".join([head, f"<title>{html.escape(title)}</title>", STYLE, back, text(20, 30, title, "title"),
                      text(20, 50, unit, "note"), *parts, "</svg>"]) + "\n"


def figure(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 0.1 else f"{value:.3f}"


def bars(title, unit, groups):
    """`groups`: of a label and a list of (name, value); values of none are left out."""
    groups = [(label, [(name, value) for name, value in group if value is not None]) for label, group in groups]
    most = max((value for _, group in groups for _, value in group), default=1) or 1
    width, left, room, y, parts = 760, 150, 500, 72, []
    for label, group in groups:
        if label:
            parts.append(text(20, y + 12, label))
            y += 22
        for number, (name, value) in enumerate(group):
            long = max(2, value / most * room)
            parts.append(text(left - 10, y + 14, name, anchor="end"))
            parts.append(f'<rect x="{left}" y="{y + 2}" width="{long:.1f}" height="16" rx="3" fill="{colour(name.split(",")[0], number)}"/>')
            parts.append(text(left + long + 8, y + 14, figure(value), "note"))
            y += 23
        y += 12
    return page(width, y + 8, title, unit, parts)


def lines(title, unit, series, ticks=None, log_y=False, log_x=False, x_unit=""):
    """`series`: name to points (x, y). `ticks`: x values that are written; else some are chosen."""
    series = {name: points for name, points in series.items() if points}
    every = [point for points in series.values() for point in points]
    if not every:
        return page(760, 90, title, unit + " (nothing was measured)", [])
    width, height, left, right, top, bottom = 760, 380, 80, 150, 76, 326
    ticks = ticks or sorted({x for x, _ in every})
    across = scale(min(x for x, _ in every), max(x for x, _ in every), left, width - right, log_x)
    low = min(y for _, y in every) if log_y else 0
    marks = steps(low, max(y for _, y in every), log_y)
    up = scale(marks[0], marks[-1], bottom, top, log_y)
    parts = []
    for mark in marks:
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{up(mark):.1f}" y2="{up(mark):.1f}"/>')
        parts.append(text(left - 8, up(mark) + 4, figure(mark), "note", "end"))
    for tick in ticks:
        words = getattr(tick, "words", None) or figure(tick)
        parts.append(text(across(tick), bottom + 20, words, "note", "middle"))
    parts.append(text((left + width - right) / 2, bottom + 42, x_unit, "note", "middle"))
    ends = []
    for number, (name, points) in enumerate(series.items()):
        at = " ".join(f"{across(x):.1f},{up(max(y, marks[0])):.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" stroke="{colour(name, number)}" stroke-width="2.5" stroke-linejoin="round" points="{at}"/>')
        if len(points) <= 12:
            parts += [f'<circle cx="{across(x):.1f}" cy="{up(max(y, marks[0])):.1f}" r="3.5" fill="{colour(name, number)}"/>' for x, y in points]
        ends.append([up(max(points[-1][1], marks[0])), name, colour(name, number)])
    return page(width, height, title, unit, parts + labels(ends, width - right + 12))


def labels(ends, x):
    """Names at the ends of their lines, moved apart."""
    ends.sort()
    for above, below in zip(ends, ends[1:]):
        below[0] = max(below[0], above[0] + 17)
    return [f'<rect x="{x}" y="{y - 5:.0f}" width="10" height="10" rx="2" fill="{shade}"/>' + text(x + 16, y + 4, name)
            for y, name, shade in ends]


def scale(low, high, start, end, log):
    if log:
        low, high = math.log10(max(low, 1e-9)), math.log10(max(high, 1e-9))
    span = (high - low) or 1
    def at(value):
        value = math.log10(max(value, 1e-9)) if log else value
        return start + (value - low) / span * (end - start)
    return at


def steps(low, high, log):
    if log:
        first, last = math.floor(math.log10(max(low, 1e-9))), math.ceil(math.log10(max(high, 1e-9)))
        return [10.0 ** n for n in range(first, max(last, first + 1) + 1)]
    rough = (high or 1) / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= rough)
    return [step * n for n in range(math.ceil((high or 1) / step) + 1)]
