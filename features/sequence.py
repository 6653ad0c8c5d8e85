"""Order within a customer's own history: last and first k rows, gaps, months one by one, change and rank.

A row's place is counted among the rows that the observation sees, so a late or restated row moves the places of the
others from the day on which it was known, and not before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import ibis

from features.aggregates import AGGREGATES, YEAR, Measure, mean, ratio, worded
from features.definition import Feature, Formula

SEEN_BY = ("customer_id", "as_of")


def _newest_first(seen: ibis.Table, **frame: Any) -> Any:
    """Return the one order of all that is counted here, so that an engine sorts the rows once."""
    return ibis.window(group_by=[seen[name] for name in SEEN_BY], order_by=seen.row_order.desc(), **frame)


def ranked(rows: ibis.Table, *, oldest: bool = False) -> ibis.Table:
    """Add `newest_first` (1: the newest row that the observation sees); with `oldest` also `oldest_first`."""
    place = ibis.row_number().over(_newest_first(rows)) + 1
    if not oldest:
        return rows.mutate(newest_first=place)
    return rows.mutate(
        newest_first=place, oldest_first=rows.count().over(_newest_first(rows, rows=(None, None))) - place + 1
    )


def gaps(rows: ibis.Table) -> ibis.Table:
    """Add `newest_first`, and `gap`: days since the event before that the observation sees (null for the first)."""
    before = rows.days_before.lead().over(_newest_first(rows))
    return rows.mutate(newest_first=ibis.row_number().over(_newest_first(rows)) + 1, gap=before - rows.days_before)


def latest(prefix: str, measure: Measure, aggregates: Iterable[str], ks: Iterable[int]) -> Iterator[Feature]:
    """Cross one measure with aggregates over the last k rows (`ranked`): `<prefix>_<column>_<aggregate>_last_<k>`."""
    yield from _of_k(prefix, measure, aggregates, ks, ("last", "最近", "newest_first"))


def earliest(prefix: str, measure: Measure, aggregates: Iterable[str], ks: Iterable[int]) -> Iterator[Feature]:
    """Cross one measure with aggregates over the first k rows (`ranked`): `<prefix>_<column>_<aggregate>_first_<k>`."""
    yield from _of_k(prefix, measure, aggregates, ks, ("first", "最初", "oldest_first"))


def _of_k(
    prefix: str, measure: Measure, aggregates: Iterable[str], ks: Iterable[int], end: tuple[str, str, str]
) -> Iterator[Feature]:
    """Cross a measure with aggregates over k rows from one end: its word in English and Chinese, the place's column."""
    english, chinese, place = end
    for aggregate in aggregates:
        for k in ks:
            name = f"{prefix}_{measure.column}_{aggregate}_{english}_{k}"
            words = (f"(the {english} {'one' if k == 1 else k} only)", f"{chinese}{k}笔")
            yield worded(name, measure, aggregate, _placed(measure, aggregate, place, k), words)


def _placed(measure: Measure, aggregate: str, place: str, k: int) -> Formula:
    compute = AGGREGATES[aggregate][0]
    return lambda rows: compute(rows, rows[measure.column], rows[place] <= k)


def before_last(prefix: str, measure: Measure) -> Iterator[Feature]:
    """Set the newest row's value against the one before: `<prefix>_<column>_last_less_previous`."""

    def at(rows: ibis.Table, place: int) -> ibis.Value:
        return rows[measure.column].max(where=rows.newest_first == place).cast("float64")

    yield Feature(
        f"{prefix}_{measure.column}_last_less_previous",
        lambda rows: at(rows, 1) - at(rows, 2),
        f"Latest {measure.noun} less the one before",
        f"最近一次与前一次{measure.noun_zh}之差",
        measure.family,
        measure.unit,
        measure.direction,
        "fewer than two were known",
    )


def monthly_change(prefix: str, measure: Measure) -> Iterator[Feature]:
    """Set last month's value against the month before and the average of twelve, from rows of one a month.

    `<prefix>_<column>_change_1m` and `<prefix>_<column>_month_1_less_mean_12m`.
    """
    column, noun, noun_zh = measure.column, measure.noun, measure.noun_zh

    def at(rows: ibis.Table, k: int) -> ibis.Value:
        return rows[column].max(where=rows.months_before == k).cast("float64")

    for name, formula, english, chinese in (
        (
            "change_1m",
            lambda r: at(r, 1) - at(r, 2),
            f"Change of {noun} from the month before to the last",
            f"上月与前月{noun_zh}之差",
        ),
        (
            f"month_1_less_mean_{YEAR}m",
            lambda r: at(r, 1) - mean(r[column], r.months_before <= YEAR),
            f"Last month's {noun} less the average of the last {YEAR} months",
            f"上月{noun_zh}与近{YEAR}个月平均值之差",
        ),
    ):
        null_means = "nothing was known of last month, or of the months that it is set against"
        yield Feature(
            f"{prefix}_{column}_{name}", formula, english, chinese, measure.family, measure.unit, measure.direction,
            null_means,
        )  # fmt: skip


def rank_in_own_past(prefix: str, measure: Measure) -> Iterator[Feature]:
    """Give the share of the year's earlier months with a value below last month's, ties half; from one row a month."""

    def formula(rows: ibis.Table) -> ibis.Value:
        newest, *earlier = (rows[measure.column].max(where=rows.months_before == k) for k in range(1, YEAR + 1))
        below = [
            value.isnull().ifelse(ibis.null("int32"), (value < newest).ifelse(2, (value == newest).ifelse(1, 0)))
            for value in earlier
        ]
        points = sum((ibis.coalesce(each, 0) for each in below), ibis.literal(0))
        compared = sum((each.notnull().cast("int32") for each in below), ibis.literal(0))
        return newest.notnull().ifelse(ratio(points, compared * 2), ibis.null("float64"))

    yield Feature(
        f"{prefix}_{measure.column}_rank_{YEAR}m",
        formula,
        f"Share of the last year's earlier months in which {measure.noun} lay below last month's",
        f"近一年其余月份中{measure.noun_zh}低于上月的占比",
        measure.family,
        "share",
        measure.direction,
        "nothing was known of last month, or of any month before it",
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
