"""Aggregates whose result depends neither on row order nor on threads, and their wording.

Sums run over DECIMAL or integers; only finished sums become doubles. A measure names a column once; `expand` crosses it
with aggregates and windows, so that a reader sees the family and not its hundred columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import ibis

from features.definition import Feature, Formula

DAYS_PER_MONTH = 30.4375
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
    rows = number.count(where=where).nullif(0).cast("float64")
    level = number.sum(where=where).cast("float64") / rows
    square = (wide(number) * number).sum(where=where).cast("float64") / rows
    variance = square - level * level
    return (variance > square * 1e-12).ifelse(variance, 0 * square).sqrt()


def trend(value: ibis.Value, days_before: ibis.Value, where: ibis.Value) -> ibis.Value:
    """Return the least-squares change a month (30.4375 days); null with fewer than two dates."""
    inside = where & value.notnull()
    x, y = days_before.cast("int64"), exact(value)
    rows, sum_x = inside.cast("int64").sum(), x.sum(where=inside)
    below = (rows * (x * x).sum(where=inside) - sum_x * sum_x).nullif(0).cast("float64")
    sum_y, sum_xy = (
        y.sum(where=inside).cast("float64"),
        (wide(y) * days_before.cast("int32")).sum(where=inside).cast("float64"),
    )
    return (sum_x.cast("float64") * sum_y - rows.cast("float64") * sum_xy) / below * DAYS_PER_MONTH


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


# (rows, column, window) -> value; English; Chinese; a unit in place of the measure's; factor of its direction
AGGREGATES: dict[str, tuple[Callable[..., ibis.Value], str, str, str | None, int]] = {
    "sum": (lambda _, v, w: total(v, w), "Total {noun} in the last {k}", "近{k}{noun}合计", None, 1),
    "mean": (lambda _, v, w: mean(v, w), "Average {noun} in the last {k}", "近{k}{noun}平均值", None, 1),
    "max": (
        lambda _, v, w: v.max(where=w).cast("float64"),
        "Highest {noun} in the last {k}",
        "近{k}{noun}最高值",
        None,
        1,
    ),
    "min": (
        lambda _, v, w: v.min(where=w).cast("float64"),
        "Lowest {noun} in the last {k}",
        "近{k}{noun}最低值",
        None,
        1,
    ),
    "std": (lambda _, v, w: spread(v, w), "Spread of {noun} in the last {k}", "近{k}{noun}波动（标准差）", None, 0),
    "trend": (
        lambda r, v, w: trend(v, r.days_before, w),
        "Monthly change of {noun} over the last {k}",
        "近{k}{noun}的月度变化",
        "{unit} a month",
        1,
    ),
    "q10": (
        lambda _, v, w: v.cast("float64").quantile(0.1, where=w),
        "Level that {noun} was below only a tenth of the time in the last {k}",
        "近{k}{noun}的10%分位数",
        None,
        1,
    ),
    "q25": (
        lambda _, v, w: v.cast("float64").quantile(0.25, where=w),
        "Level that {noun} was below only a quarter of the time in the last {k}",
        "近{k}{noun}的25%分位数",
        None,
        1,
    ),
    "median": (
        lambda _, v, w: v.cast("float64").quantile(0.5, where=w),
        "Middle value of {noun} in the last {k}",
        "近{k}{noun}中位数",
        None,
        1,
    ),
    "last": (lambda r, v, w: last(v, r.row_order, w).cast("float64"), "Latest {noun}", "最近一次{noun}", None, 1),
    "count": (
        lambda _, v, w: count(w & v.notnull()),
        "Number of {noun} in the last {k}",
        "近{k}{noun}次数",
        "count",
        1,
    ),
    "distinct": (
        lambda _, v, w: v.nunique(where=w).cast("float64"),
        "Number of different {noun} in the last {k}",
        "近{k}不同{noun}的数量",
        "count",
        1,
    ),
    "share": (lambda _, v, w: share(v, w), "Share of {noun} in the last {k}", "近{k}{noun}占比", "share", 1),
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


def _windowed(measure: Measure, aggregate: str, k: int | None) -> Formula:
    """Bind one aggregate of one column to the rows of the last `k` months (null: all)."""
    compute = AGGREGATES[aggregate][0]

    def formula(rows: ibis.Table) -> ibis.Value:
        inside = rows.months_before >= 1 if k is None else rows.months_before.between(1, k)
        return compute(rows, rows[measure.column], inside)

    return formula


def expand(prefix: str, measure: Measure, aggregates: Iterable[str], windows: Iterable[int]) -> Iterator[Feature]:
    """Cross one measure with aggregates and windows (months): `<prefix>_<column>_<aggregate>_<k>m`."""
    windows = tuple(windows)
    for aggregate in aggregates:
        _, english, chinese, unit, factor = AGGREGATES[aggregate]
        for k in (None,) if aggregate in EVER else windows:
            text, text_zh = months(k or 0)
            yield Feature(
                name=f"{prefix}_{measure.column}_{aggregate}" + (f"_{k}m" if k else ""),
                formula=_windowed(measure, aggregate, k),
                sentence=english.format(noun=measure.noun, k=text),
                sentence_zh=chinese.format(noun=measure.noun_zh, k=text_zh),
                family=measure.family,
                unit=measure.unit if unit is None else unit.format(unit=measure.unit),
                direction=measure.direction * factor,
            )


def lagged(prefix: str, measure: Measure, lags: int) -> Iterator[Feature]:
    """Give the measure's value in each of the last `lags` months, from rows with one value a month."""

    def formula(k: int) -> Formula:
        return lambda rows: rows[measure.column].max(where=rows.months_before == k).cast("float64")

    for k in range(1, lags + 1):
        when, when_zh = ("last month", "上月") if k == 1 else (f"{k} months ago", f"{k}个月前")
        yield Feature(
            name=f"{prefix}_{measure.column}_month_{k}",
            formula=formula(k),
            sentence=f"{measure.noun[:1].upper()}{measure.noun[1:]}, {when}",
            sentence_zh=f"{when_zh}{measure.noun_zh}",
            family=measure.family,
            unit=measure.unit,
            direction=measure.direction,
            null_means="no state was known for that month",
        )
