"""Charts as inline SVG text: small, printable, without scripts or network; every label is escaped.

A chart is drawn on a canvas of fixed units and scales with the page; colours are CSS classes of the page's style.
Numbers are written with two decimals of a unit, so that equal figures give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH, HEIGHT = 440.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 20.0, 12.0, 40.0
NAMED = 40  # rows of a heat map that have room for their names
Format = Callable[[float], str]


def percent(value: float) -> str:
    """Return a share as a percentage with as many digits as its size needs."""
    return (
        f"{value:.0%}" if abs(value) >= 0.1 or value == 0 else f"{value:.1%}" if abs(value) >= 0.01 else f"{value:.2%}"
    )


def short(value: float) -> str:
    """Return a number of at most four characters or so: 950, 12k, 3.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers between low and high, at most `most` + 1 of them."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass
class Canvas:
    """An SVG under construction with scales for x and y; `log` makes y logarithmic."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    parts: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a point on the canvas."""
        low, high = self.y
        if self.log:
            y, low, high = (math.log10(max(v, 1e-9)) for v in (y, low, high))
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (min(max(y, low), high) - low) / ((high - low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def add(self, tag: str, text: str | None = None, /, **attributes: float | str) -> None:
        """Append one element; `klass` is its class, underscores in names become hyphens."""
        told = "".join(
            f' {"class" if k == "klass" else k.replace("_", "-")}="{f"{v:.2f}" if isinstance(v, float) else escape(v)}"'
            for k, v in attributes.items()
        )
        self.parts.append(f"<{tag}{told}/>" if text is None else f"<{tag}{told}>{escape(text)}</{tag}>")

    def axes(
        self, y_format: Format, x_ticks: Sequence[tuple[float, str]], x_name: str = "", grid: Sequence[float] = ()
    ) -> None:
        """Draw grid lines with their values, tick labels along x, and the name of x."""
        for value in grid or ticks(*self.y):
            x, y = self.at(self.x[0], value)
            self.add("line", x1=x, x2=WIDTH - RIGHT, y1=y, y2=y, klass="grid")
            self.add("text", y_format(value), x=x - 6, y=y + 4, text_anchor="end")
        for value, label in x_ticks:
            x, _ = self.at(value, self.y[0])
            self.add("text", label, x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle")
        if x_name:
            self.add("text", x_name, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle", klass="name")

    def path(self, points: Sequence[tuple[float, float]], klass: str) -> None:
        """Draw a line through the points."""
        if points:
            told = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*p) for p in points))
            self.parts.append(f'<polyline points="{told}" class="{klass}"/>')

    def box(self, x0: float, x1: float, y0: float, y1: float, klass: str, tip: str = "") -> None:
        """Draw a bar between two x and two y values, with a tip on hovering."""
        (a, top), (b, bottom) = self.at(x0, max(y0, y1)), self.at(x1, min(y0, y1))
        size = f'width="{max(b - a, 0.5):.1f}" height="{max(bottom - top, 0):.1f}"'
        told = f'<rect x="{a:.1f}" y="{top:.1f}" {size} class="{klass}"'
        self.parts.append(f"{told}><title>{escape(tip)}</title></rect>" if tip else f"{told}/>")

    def svg(self) -> Markup:
        """Return the finished picture."""
        body = "".join(self.parts)
        title = escape(self.title)
        return Markup(  # noqa: S704  every text in `body` went through `escape`
            f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{title}"><title>{title}</title>'
            f"{body}</svg>"
        )


def thinned(labels: Sequence[str], most: int) -> list[tuple[float, str]]:
    """Return (place, label) of every k-th label, the last always among them."""
    step = max(1, math.ceil(len(labels) / most))
    return [(float(i), label) for i, label in enumerate(labels) if (len(labels) - 1 - i) % step == 0]


def columns(
    title: str,
    labels: Sequence[str],
    stacks: Sequence[Sequence[float]],
    *,
    y_format: Format = short,
    classes: Sequence[str] = ("a", "b", "c", "d"),
    x_name: str = "",
    most: int = 13,
) -> Markup:
    """Return columns, one a label; several `stacks` are piled on one another."""
    tops = [sum(s[i] for s in stacks) for i in range(len(labels))]
    canvas = Canvas(title, (-0.6, len(labels) - 0.4), (0.0, max([*tops, 1e-9]) * 1.05))
    canvas.axes(y_format, thinned(labels, most), x_name)
    for i, label in enumerate(labels):
        base = 0.0
        for values, klass in zip(stacks, classes, strict=False):
            if values[i]:
                canvas.box(i - 0.38, i + 0.38, base, base + values[i], klass, f"{label}: {y_format(values[i])}")
            base += values[i]
    return canvas.svg()


def lines(
    title: str,
    labels: Sequence[str],
    series: Sequence[Sequence[float | None]],
    *,
    y_format: Format = percent,
    classes: Sequence[str] = ("la", "lb", "lc"),
    band: Sequence[tuple[float, float] | None] = (),
    rule: float | None = None,
    floor: float | None = None,
    most: int = 7,
) -> Markup:
    """Return lines over labels; gaps where null; `band` is an interval a label, `rule` a horizontal limit."""
    known = [v for s in series for v in s if v is not None] + [v for b in band if b for v in b]
    known += [rule] if rule is not None else []
    low, high = min(known, default=0.0), max(known, default=1.0)
    low = floor if floor is not None else max(0.0, low - 0.1 * (high - low or 1))
    canvas = Canvas(title, (-0.5, len(labels) - 0.5), (low, high + 0.05 * ((high - low) or 1)))
    canvas.axes(y_format, thinned(labels, most))
    for i, interval in enumerate(band):
        if interval:
            canvas.box(
                i - 0.08,
                i + 0.08,
                interval[0],
                interval[1],
                "interval",
                f"{labels[i]}: {y_format(interval[0])} – {y_format(interval[1])}",
            )
    if rule is not None:
        canvas.path([(-0.5, rule), (len(labels) - 0.5, rule)], "rule")
    for values, klass in zip(series, classes, strict=False):
        run: list[tuple[float, float]] = []
        for i, value in enumerate([*values, None]):
            if value is None:
                canvas.path(run, klass)
                run = []
            else:
                run.append((float(i), value))
                x, y = canvas.at(float(i), value)
                canvas.parts.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" class="{klass}">'
                    f"<title>{escape(labels[i])}: {y_format(value)}</title></circle>"
                )
    return canvas.svg()


def curve(
    title: str, points: Sequence[Sequence[float]], x_name: str, band: Sequence[Sequence[float]] = ()
) -> Markup:  # fmt: skip
    """Return a curve in the unit square over its diagonal; `band` holds (x, low, high) of its interval."""
    canvas = Canvas(title, (0.0, 1.0), (0.0, 1.0))
    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    canvas.axes(percent, [(v, percent(v)) for v in grid], x_name, grid)
    if band:
        edge = [*((b[0], b[1]) for b in band), *((b[0], b[2]) for b in reversed(band))]
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in (canvas.at(*p) for p in edge))
        canvas.parts.append(f'<polygon points="{told}" class="band"/>')
    canvas.path([(0.0, 0.0), (1.0, 1.0)], "rule")
    canvas.path([(p[0], p[1]) for p in points], "la thick")
    return canvas.svg()


def calibration(title: str, rows: Sequence[dict[str, float | str]]) -> Markup:
    """Return, a group on a logarithmic scale, the interval and dot of the realised rate and a bar at the mean PD."""
    values = [float(r[k]) for r in rows for k in ("pd", "rate", "low", "high") if float(r[k]) > 0]
    low, high = (
        10 ** math.floor(math.log10(max(min(values, default=0.01), 1e-4))),
        min(1.0, max(values, default=0.1) * 1.3),
    )
    canvas = Canvas(title, (-0.6, len(rows) - 0.4), (low, high), log=True)
    grid = [v for e in range(-5, 1) for v in (10.0**e, 3 * 10.0**e) if low <= v <= high * 1.001]
    most = max((float(r.get("rows", 0)) for r in rows), default=0.0) or 1.0
    for i, r in enumerate(rows):  # how many rows stand behind each group
        share = float(r.get("rows", 0)) / most
        x0, _ = canvas.at(i - 0.42, high)
        x1, _ = canvas.at(i + 0.42, high)
        tall = share * (HEIGHT - TOP - BOTTOM)
        canvas.add(
            "rect", x=x0, y=HEIGHT - BOTTOM - tall, width=x1 - x0, height=tall, klass="volume"
        )  # fmt: skip
    canvas.axes(percent, [(float(i), str(r["group"])) for i, r in enumerate(rows)], grid=grid)
    for i, r in enumerate(rows):
        mean, rate, least, most = (f"{float(r[k]):.2%}" for k in ("pd", "rate", "low", "high"))
        tip = f"{r['group']}: PD {mean}, {rate} ({least} – {most})"
        canvas.box(i - 0.1, i + 0.1, float(r["low"]), float(r["high"]), "interval", tip)
        canvas.path([(i - 0.32, float(r["pd"])), (i + 0.32, float(r["pd"]))], "lb thick")
        if float(r["rate"]) > 0:
            x, y = canvas.at(float(i), float(r["rate"]))
            canvas.add("circle", cx=x, cy=y, r=3.6, klass="a")
    return canvas.svg()


def distribution(title: str, edges: Sequence[float], good: Sequence[int], bad: Sequence[int], x_name: str) -> Markup:
    """Return two histograms over one scale, each as shares of its own total."""
    shares = [[c / max(sum(counts), 1) for c in counts] for counts in (good, bad)]
    canvas = Canvas(title, (edges[0], edges[-1]), (0.0, max([*shares[0], *shares[1], 1e-9]) * 1.05))
    canvas.axes(percent, [(v, f"{v:.4g}") for v in ticks(edges[0], edges[-1])], x_name)
    for counts, klass in zip(shares, ("a soft", "b soft"), strict=True):
        for i, share in enumerate(counts):
            if share:
                canvas.box(
                    edges[i], edges[i + 1], 0.0, share, klass, f"{edges[i]:.0f} – {edges[i + 1]:.0f}: {share:.1%}"
                )
    return canvas.svg()


def curves(
    title: str, series: Sequence[tuple[str, Sequence[float]]], x_name: str, *, y_format: Format = percent
) -> Markup:
    """Return one line a name over 0, 1, 2, ...: the earliest pale, the latest dark, each with its name at its end."""
    longest = max((len(values) for _, values in series), default=1)
    top = max((v for _, values in series for v in values), default=1.0) or 1.0
    canvas = Canvas(title, (0.0, max(1.0, longest - 1.0) * 1.16), (0.0, top * 1.05))
    canvas.axes(y_format, [(v, f"{v:g}") for v in ticks(0.0, max(1.0, longest - 1.0))], x_name)
    for i, (name, values) in enumerate(series):
        tone = 0.35 + 0.65 * (i + 1) / len(series)
        told = " ".join(f"{x:.1f},{y:.1f}" for x, y in (canvas.at(float(m), v) for m, v in enumerate(values)))
        tip = f"{name}: {y_format(values[-1])}" if values else name
        canvas.parts.append(
            f'<polyline points="{told}" class="la" style="opacity:{tone:.2f}"><title>{escape(tip)}</title></polyline>'
        )
        if values:
            x, y = canvas.at(len(values) - 1.0, values[-1])
            canvas.parts.append(f'<text x="{x + 3:.1f}" y="{y + 3:.1f}" class="tag">{escape(name)}</text>')
    return canvas.svg()


def heat(
    title: str,
    rows: Sequence[tuple[str, Sequence[float | None]]],
    columns: Sequence[str],
    levels: Sequence[float],
    y_format: Format = short,
) -> Markup:
    """Return a row a name and a column a date, darker where a value lies above more of `levels`; every row has a tip.

    Neighbours of one level are one bar, so that hundreds of rows stay small; few rows are named. Null is white.
    """
    named = len(rows) <= NAMED
    tall, wide, left, top = (13.0, 440.0, 150.0, 16.0) if named else (max(2.4, 600 / len(rows)), 440.0, 4.0, 16.0)
    step = (wide - left - 4) / max(len(columns), 1)
    parts = [
        f'<text x="{left + (i + 0.5) * step:.1f}" y="11" text-anchor="middle">{escape(label)}</text>'
        for i, label in thinned(columns, 7)
    ]
    for r, (name, values) in enumerate(rows):
        place = [None if v is None else sum(v > level for level in levels) for v in values]
        known = [v for v in values if v is not None]
        cells, start = [], 0
        for i in range(1, len(place) + 1):
            if i == len(place) or place[i] != place[start]:
                if place[start]:
                    cells.append(
                        f'<rect x="{left + start * step:.1f}" y="{top + r * tall:.1f}" '
                        f'width="{(i - start) * step:.1f}" height="{tall:.1f}" class="h{place[start]}"/>'
                    )
                start = i
        tip = f"{name}: {y_format(known[-1])} ({y_format(min(known))} – {y_format(max(known))})" if known else name
        if named:
            parts.append(
                f'<text x="{left - 4:.1f}" y="{top + r * tall + 10:.1f}" text-anchor="end">{escape(name[:30])}</text>'
            )
        if cells:
            parts.append(f"<g><title>{escape(tip)}</title>{''.join(cells)}</g>")
    height = top + tall * len(rows) + 2
    parts.append(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide - left - 4:.1f}" '
        f'height="{tall * len(rows):.1f}" class="frame"/>'
    )
    name = escape(title)
    return Markup(  # noqa: S704  every text in `parts` went through `escape`
        f'<svg viewBox="0 0 {wide:.0f} {height:.0f}" class="heat" role="img" aria-label="{name}"><title>{name}</title>'
        f"{''.join(parts)}</svg>"
    )


def spark(title: str, values: Sequence[float | None]) -> Markup:
    """Return a small line of a PD over time from 0 upwards; empty where fewer than two are known."""
    known = [(i, v) for i, v in enumerate(values) if v is not None]
    if len(known) < 2:
        return Markup("")
    top = max(v for _, v in known) or 1.0
    places = [(4 + 112 * i / (len(values) - 1), 32 - 28 * v / top) for i, v in known]
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    name = escape(title)
    return Markup(  # noqa: S704  the only text is escaped
        f'<svg viewBox="0 0 120 36" class="spark" role="img" aria-label="{name}"><title>{name}</title>'
        f'<line x1="4" x2="116" y1="32" y2="32" class="grid"/><polyline points="{told}" class="la"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" class="a"/></svg>'
    )
