"""Aggregates whose result depends neither on row order nor on threads, and their wording.

Sums run over DECIMAL or integers; only finished sums become doubles. A measure names a column once; `expand` crosses it
with aggregates and windows, so that a reader sees the family and not its hundred columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import ibis

from features.definition import Feature, Formula

DAYS_PER_MONTH = 30.4375
YEAR = 12
HALF_LIFE = 3  # months after which a row counts half in a decayed average
LARGEST = 1e12  # larger doubles are taken as unknown: exact sums need a bound


def exact(value: ibis.Value) -> ibis.Value:
    """Return a DECIMAL with at most 18 digits: money as it is, doubles to six decimals, null beyond 1e12."""
    if value.type().is_decimal():
        return value.cast("decimal(18, 2)") if value.type().scale in (None, 2) else value.cast("decimal(18, 6)")
    if value.type().is_integer() or value.type().is_boolean():
        return value.cast("int64").cast("decimal(18, 0)")
    return (value.abs() < LARGEST).ifelse(value, ibis.null("float64")).cast("decimal(18, 6)")


def wide(number: ibis.Value) -> ibis.Value:
    """Return an exact number with 38 digits: DuckDB multiplies two narrow DECIMALs in 64 bits, which overflow."""
    return number.cast(f"decimal(38, {number.type().scale or 0})")


def total(value: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the exact sum as a double; null without rows."""
    return exact(value).sum(where=where).cast("float64")


def mean(value: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the mean of the known values; null without any."""
    return total(value, where) / exact(value).count(where=where).nullif(0).cast("float64")


def share(condition: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the share of rows on which `condition` holds, among those where it is known, in [0, 1]."""
    return mean(condition.cast("int64"), where)


def count(where: ibis.Value) -> ibis.Value:
    """Return the number of rows; 0 where the history exists and none fall in."""
    return where.cast("int64").sum().cast("float64")


def spread(value: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the population standard deviation of the known values, from exact power sums."""
    number = exact(value)
    squares = (wide(number) * number).sum(where=where)
    return deviation(number.count(where=where).nullif(0), number.sum(where=where), squares, number.type().scale or 0)


def deviation(rows: ibis.Value, sums: ibis.Value, squares: ibis.Value, scale: int) -> ibis.Value:
    """Return sqrt(rows * squares - sums * sums) / rows of sums with `scale` decimals: exact up to the root.

    So a small spread about a high level is not lost. Where that takes more than 38 digits (50 values of 1e12 with six
    decimals) doubles take over; a spread of under a millionth of the level is then 0.
    """
    count = rows.cast("float64")
    level, square = sums.cast("float64") / count, squares.cast("float64") / count
    fits = square * count * count < 9e37 * 10.0 ** (-2 * scale)
    sums, squares = (
        fits.ifelse(part.cast(f"decimal(38, {digits})"), ibis.null(f"decimal(38, {digits})"))
        for part, digits in ((sums, scale), (squares, 2 * scale))
    )
    variance = (squares * rows.cast("int64") - sums * sums).cast("float64") / count / count
    rough = square - level * level
    return ibis.coalesce(variance, (rough > square * 1e-12).ifelse(rough, 0 * square)).sqrt()


def trend(value: ibis.Value, days_before: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the least-squares change a month (30.4375 days); null with fewer than two dates."""
    inside = where & value.notnull()
    x, y = days_before.cast("int64"), exact(value)
    scale = y.type().scale or 0
    rows, sum_x = inside.cast("int64").sum(), x.sum(where=inside)
    below = (rows * (x * x).sum(where=inside) - sum_x * sum_x).nullif(0).cast("float64")
    sum_y, sum_xy = (
        part.cast(f"decimal(38, {scale})")
        for part in (y.sum(where=inside), (wide(y) * days_before.cast("int32")).sum(where=inside))
    )
    return (sum_y * sum_x - sum_xy * rows).cast("float64") / below * DAYS_PER_MONTH


def highest(value: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the highest known value as a double."""
    return value.max(where=where).cast("float64")


def lowest(value: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the lowest known value as a double."""
    return value.min(where=where).cast("float64")


def decayed(value: ibis.Value, months_before: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the mean in which a row counts 2 ** -(months before / HALF_LIFE), in whole 65,536ths: exact sums."""
    inside = where & value.notnull()
    faded = (months_before.cast("float64") * (-math.log(2) / HALF_LIFE)).exp()
    weight = (faded * 65536).round().cast("int32")
    weights = weight.cast("int64").sum(where=inside)
    return ratio((wide(exact(value)) * weight).sum(where=inside), weights)


def last(value: ibis.Value, order: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the newest known value; `order` is unique within a customer."""
    return value.argmax(order, where=where & value.notnull())


def ratio(above: ibis.Value, below: ibis.Value) -> ibis.Value:
    """Return above / below as a double; null where `below` is not above zero."""
    bottom = below.cast("float64")
    return above.cast("float64") / (bottom > 0).ifelse(bottom, ibis.null("float64"))


@dataclass(frozen=True)
class Measure:
    """One column of a subject's rows in words: what it is called, its unit, its direction, its reason family."""

    column: str
    noun: str
    noun_zh: str
    unit: str
    family: str
    direction: int = 0


# (rows, column, which rows) -> value; English; Chinese; a unit in place of the measure's; factor of its direction
AGGREGATES: dict[str, tuple[Callable[..., ibis.Value], str, str, str | None, int]] = {
    "sum": (lambda _, v, w: total(v, w), "Total {noun} {span}", "{span}{noun}合计", None, 1),
    "mean": (lambda _, v, w: mean(v, w), "Average {noun} {span}", "{span}{noun}平均值", None, 1),
    "max": (lambda _, v, w: highest(v, w), "Highest {noun} {span}", "{span}{noun}最高值", None, 1),
    "min": (lambda _, v, w: lowest(v, w), "Lowest {noun} {span}", "{span}{noun}最低值", None, 1),
    "range": (
        lambda _, v, w: highest(v, w) - lowest(v, w),
        "Highest less lowest {noun} {span}",
        "{span}{noun}最高与最低之差",
        None,
        0,
    ),
    "std": (lambda _, v, w: spread(v, w), "Spread of {noun} {span}", "{span}{noun}波动（标准差）", None, 0),
    "variation": (
        lambda _, v, w: ratio(spread(v, w), mean(v, w)),
        "Spread of {noun} over its average {span}",
        "{span}{noun}变异系数（标准差与均值之比）",
        "ratio",
        0,
    ),
    "trend": (
        lambda r, v, w: trend(v, r.days_before, w),
        "Monthly change of {noun} {span}",
        "{span}{noun}的月度变化",
        "{unit} a month",
        1,
    ),
    "decayed": (
        lambda r, v, w: decayed(v, r.months_before, w),
        f"Average {{noun}} {{span}}, where rows {HALF_LIFE} months older count half",
        f"{{span}}{{noun}}的时间衰减平均值（半衰期{HALF_LIFE}个月）",
        None,
        1,
    ),
    "q10": (
        lambda _, v, w: v.cast("float64").quantile(0.1, where=w),
        "Level that {noun} was below only a tenth of the time {span}",
        "{span}{noun}的10%分位数",
        None,
        1,
    ),
    "q25": (
        lambda _, v, w: v.cast("float64").quantile(0.25, where=w),
        "Level that {noun} was below only a quarter of the time {span}",
        "{span}{noun}的25%分位数",
        None,
        1,
    ),
    "median": (
        lambda _, v, w: v.cast("float64").quantile(0.5, where=w),
        "Middle value of {noun} {span}",
        "{span}{noun}中位数",
        None,
        1,
    ),
    "last": (lambda r, v, w: last(v, r.row_order, w).cast("float64"), "Latest {noun}", "最近一次{noun}", None, 1),
    "last_less_mean": (
        lambda r, v, w: last(v, r.row_order, w).cast("float64") - mean(v, w),
        "Latest {noun} less its average {span}",
        "最近一次{noun}与{span}平均值之差",
        None,
        1,
    ),
    "count": (lambda _, v, w: count(w & v.notnull()), "Number of {noun} {span}", "{span}{noun}次数", "count", 1),
    "distinct": (
        lambda _, v, w: v.nunique(where=w).cast("float64"),
        "Number of different {noun} {span}",
        "{span}不同{noun}的数量",
        "count",
        1,
    ),
    "share": (lambda _, v, w: share(v, w), "Share of {noun} {span}", "{span}{noun}占比", "share", 1),
    "recency": (
        lambda r, v, w: r.days_before.min(where=w & v.notnull()).cast("float64"),
        "Days since the latest {noun}",
        "距最近一次{noun}的天数",
        "days",
        -1,
    ),
}
EVER = ("last", "recency")  # aggregates over all that is known, whatever the window


def months(k: int) -> tuple[str, str]:
    """Return a window's length in English and Chinese."""
    return ("month" if k == 1 else f"{k} months"), f"{k}个月"


def span(k: int | None) -> tuple[str, str, str]:
    """Return a window (months; null: all that is known) as the end of a name and in English and Chinese."""
    if k is None:
        return "ever", "so far", "历史"
    text, text_zh = months(k)
    return f"{k}m", f"in the last {text}", f"近{text_zh}"


def _windowed(measure: Measure, aggregate: str, k: int | None) -> Formula:
    """Bind one aggregate of one column to the rows of the last `k` months (null: all)."""
    compute = AGGREGATES[aggregate][0]

    def formula(rows: ibis.Table) -> ibis.Value:
        inside = rows.months_before >= 1 if k is None else rows.months_before.between(1, k)
        return compute(rows, rows[measure.column], inside)

    return formula


def worded(name: str, measure: Measure, aggregate: str, formula: Formula, words: tuple[str, str]) -> Feature:
    """Return the feature that is one aggregate of one measure, `words` saying in English and Chinese of which rows."""
    _, english, chinese, unit, factor = AGGREGATES[aggregate]
    return Feature(
        name=name,
        formula=formula,
        sentence=english.format(noun=measure.noun, span=words[0]),
        sentence_zh=chinese.format(noun=measure.noun_zh, span=words[1]),
        family=measure.family,
        unit=measure.unit if unit is None else unit.format(unit=measure.unit),
        direction=measure.direction * factor,
    )


def expand(
    prefix: str, measure: Measure, aggregates: Iterable[str], windows: Iterable[int | None]
) -> Iterator[Feature]:
    """Cross one measure with aggregates and windows (months; null: all): `<prefix>_<column>_<aggregate>_<k>m`."""
    windows = tuple(windows)
    for aggregate in aggregates:
        named = f"{prefix}_{measure.column}_{aggregate}"
        for k in (None,) if aggregate in EVER else windows:
            end, *words = span(k)
            name = named if aggregate in EVER else f"{named}_{end}"
            yield worded(name, measure, aggregate, _windowed(measure, aggregate, k), (words[0], words[1]))
