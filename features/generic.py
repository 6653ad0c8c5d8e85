"""Histories and attributes that nobody foresaw: every numeric and categorical attribute of every dated table.

Numeric measures get the whole machinery by window, and averages over the rows of a category's frequent values;
categories the latest value, how many different ones, and the share of each frequent value. What is built thins out as a
table grows wider (`DEPTH`), so that a table of a hundred measures yields hundreds of features and not thousands. A
table without dates joins only where its mapping says `static: true`; its newest row then counts as stated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import ibis

from features.aggregates import Measure, count, expand, last, mean, months, ratio, share
from features.cashflow import slug
from features.definition import Feature, History, Lender, Skipped, Subject, bound
from features.engine import Engine
from features.errors import DataRefused, Problem
from features.tables import CONTRACTS

FORESEEN = ("customers", "observations", "industries")  # their attributes are declared by subject
CANONICAL = ("transactions", "credits", "instalments", "payments", "statements", "financials", "standings", "mentions")
ELSEWHERE = {"statements": ("numeric",)}  # attributes that a subject of its own sums up
# up to so many measures: aggregates over the last two windows, over the longest window, and over all that is known
DEPTH: tuple[tuple[int, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (12, ("mean", "max", "min", "sum"), ("std", "trend", "decayed", "last_less_mean"), ("last", "recency")),
    (40, ("mean",), ("max", "min", "trend", "decayed", "last_less_mean"), ("last",)),
    (10_000, (), ("mean", "max", "decayed", "last_less_mean"), ("last",)),
)
MOST_BY_CATEGORY = 24  # averages of a measure over the rows of one value of a category, a table
FREQUENT = 5  # values of a category whose share is a feature
MOST_CATEGORIES = 40  # of a table, beyond which only the latest value is a feature


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare the attributes of canonical histories, and every other history whole."""
    for table in sorted(lender.tables):
        numeric = () if "numeric" in ELSEWHERE.get(table, ()) else lender.numeric.get(table, ())
        categorical = lender.categorical.get(table, ())
        if table in FORESEEN or (table in CANONICAL and not numeric and not categorical):
            continue
        dated = lender.has(table, "event_on")
        if not numeric and not categorical and not dated:
            yield Skipped(table, "the table has neither a date nor an attribute with a value")
            continue
        name = f"{table}_attributes" if table in CANONICAL else table
        if not dated:
            yield Subject(name, (table,), lender.known(table), tuple(_stated(table, numeric, categorical)))
            continue
        sources = (table, "credits") if "credit_id" in lender.tables[table].columns and table != "credits" else (table,)
        yield Subject(
            name,
            sources,
            lender.past(table),
            tuple(_features(table, lender, numeric, categorical)),
            history=History(lender.tables[table]),
        )
        if numeric and len(numeric) <= DEPTH[0][0]:
            k = lender.windows[-1]
            yield Subject(
                f"{name}_newest",
                sources,
                newest_two(lender, table, k),
                tuple(_change(table, measure, k) for measure in numeric),
                made_by=(newest_two,),
            )


def categories(categorical: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Yield (table, attribute): the categories of histories whose frequent values make features."""
    for table, names in sorted(categorical.items()):
        if table not in FORESEEN and len(names) <= MOST_CATEGORIES:
            yield from ((table, name) for name in names)


def frequent(engine: Engine, rows: ibis.Table, column: str) -> tuple[str, ...]:
    """Return the values of a category that make up a hundredth of its rows or more (so at most 100), by frequency."""
    rows = rows.filter(rows[column].notnull())
    counted = rows.group_by(value=rows[column]).aggregate(rows=rows.count())
    entries = engine.rows(counted.filter(counted.rows * 100 >= counted.rows.sum().as_scalar()))
    entries.sort(key=lambda entry: (-entry["rows"], entry["value"]))
    return tuple(entry["value"] for entry in entries)


def newest_two(lender: Lender, table: str, k: int) -> ibis.Table:
    """Return the two newest rows of the last `k` months that each observation sees; `age` 1 is the newest."""
    rows = lender.past(table, k)
    order = ibis.window(group_by=["customer_id", "as_of"], order_by=ibis.desc("row_order"))
    rows = rows.mutate(age=ibis.row_number().over(order) + 1)
    return rows.filter(rows.age <= 2)


def _change(table: str, name: str, k: int) -> Feature:
    measure = _measure(table, name)
    return Feature(
        f"{table}_{name}_last_less_previous",
        bound(lambda r, name: r[name].max(where=r.age == 1) - r[name].max(where=r.age == 2), name),
        f"Latest {measure.noun} less that of the row before (both in the last {months(k)[0]})",
        f"最近一次{measure.noun_zh}与前一次之差（均在近{months(k)[1]}内）",
        measure.family,
        null_means="fewer than two rows were known in the window, or one of them does not say",
    )


def _stated(table: str, numeric: tuple[str, ...], categorical: tuple[str, ...]) -> Iterator[Feature]:
    """Pass a static table's newest row through."""
    for name in numeric:
        noun = _measure(table, name).noun
        yield Feature(
            f"{table}_{name}_last",
            bound(lambda r, name: last(r[name], r.row_order, r.row_order.notnull()).cast("float64"), name),
            f"{noun[:1].upper()}{noun[1:]} as stated",
            f"已申报：{_measure(table, name).noun_zh}",
            f"{table}_{name}",
            null_means="not stated",
        )
    yield from (_latest(table, name) for name in categorical)


def _features(table: str, lender: Lender, numeric: tuple[str, ...], categorical: tuple[str, ...]) -> Iterator[Feature]:
    windows = lender.windows[-2:]
    subject = table.replace("_", " ")
    if table not in CANONICAL:
        rows = Measure("row_order", f"rows of {subject}", f"“{subject}”记录", "", table)
        yield from expand(table, rows, ("count",), windows)
        yield from expand(table, rows, ("recency",), ())
        if len(windows) > 1:
            yield _busier(table, windows)
    _, twice, once, ever = next(depth for depth in DEPTH if len(numeric) <= depth[0])
    for name in numeric:
        measure = _measure(table, name)
        yield from expand(table, measure, ever, ())
        yield from expand(table, measure, twice, windows)
        yield from expand(table, measure, once, windows[-1:])
        if "std" in once:
            yield _missing(table, measure, windows[-1])
    for name in categorical:
        yield _latest(table, name)
        if len(categorical) > MOST_CATEGORIES:
            continue
        yield from expand(table, _measure(table, name), ("distinct",), windows[-1:])
        named = {slug(value): value for value in reversed(lender.vocabulary.get(f"{table}.{name}", ())[:FREQUENT])}
        for value in reversed(named.values()):  # of two values with one name the more frequent
            yield _share_of(table, name, value, windows[-1])
    yield from islice(_by_category(table, lender, numeric, categorical, windows[-1]), MOST_BY_CATEGORY)


def _by_category(
    table: str, lender: Lender, numeric: tuple[str, ...], categorical: tuple[str, ...], k: int
) -> Iterator[Feature]:
    """Average each measure over the rows of each frequent value, most frequent values first."""
    text, text_zh = months(k)
    for place in range(FREQUENT if len(categorical) <= MOST_CATEGORIES else 0):
        for name in categorical:
            named = {slug(value): value for value in reversed(lender.vocabulary.get(f"{table}.{name}", ())[:FREQUENT])}
            values = list(reversed(named.items()))
            if len(values) < 2 or place >= len(values):  # one value alone: the average over all rows says the same
                continue
            word, value = values[place]
            for column in numeric:
                measure = _measure(table, column)
                yield Feature(
                    f"{table}_{column}_of_{name}_{word}_mean_{k}m",
                    bound(
                        lambda r, three: mean(r[three[0]], (r.months_before <= k) & (r[three[1]] == three[2])),
                        (column, name, value),
                    ),
                    f"Average {measure.noun} in the last {text} over rows whose {name.replace('_', ' ')} is “{value}”",
                    f"近{text_zh}“{name.replace('_', ' ')}”为“{value}”的{measure.noun_zh}平均值",
                    measure.family,
                    null_means="no such row with a value was known in the window",
                )


def _busier(table: str, windows: tuple[int, ...]) -> Feature:
    (short, short_zh), (long, long_zh) = months(windows[0]), months(windows[-1])
    subject = table.replace("_", " ")
    return Feature(
        f"{table}_count_{windows[0]}m_to_{windows[-1]}m",
        lambda r: ratio(count(r.months_before <= windows[0]), count(r.months_before <= windows[-1])),
        f"Share of the rows of {subject} of the last {long} that fall in the last {short}",
        f"近{short_zh}“{subject}”记录占近{long_zh}的比例",
        table,
        "share",
        null_means="no row was known in the longer window",
    )


def _missing(table: str, measure: Measure, k: int) -> Feature:
    text, text_zh = months(k)
    return Feature(
        f"{table}_{measure.column}_missing_share_{k}m",
        bound(lambda r, name: share(r[name].isnull(), r.months_before <= k), measure.column),
        f"Share of the rows in the last {text} that leave {measure.noun} open",
        f"近{text_zh}{measure.noun_zh}缺失占比",
        measure.family,
        "share",
        null_means="no row was known in the window",
    )


def _latest(table: str, name: str) -> Feature:
    words = name.replace("_", " ")
    return Feature(
        f"{table}_{name}_last",
        bound(lambda r, name: r[name].argmax(r.row_order, where=r[name].notnull()), name),
        f"Latest {words} ({table.replace('_', ' ')})",
        f"最近一次“{words}”（{table.replace('_', ' ')}）",
        f"{table}_{name}",
        kind="categorical",
    )


def _share_of(table: str, name: str, value: str, k: int) -> Feature:
    """Say how much of a history is one frequent value, among the rows that state one."""
    text, text_zh = months(k)
    words, subject = name.replace("_", " "), table.replace("_", " ")
    return Feature(
        f"{table}_{name}_{slug(value)}_share_{k}m",
        bound(lambda r, name: share(r[name] == value, r.months_before <= k), name),
        f"Share of the rows of {subject} in the last {text} whose {words} is “{value}”",
        f"近{text_zh}“{subject}”中“{words}”为“{value}”的占比",
        f"{table}_{name}",
        "share",
        null_means="no row that states it was known in the window",
    )


def _measure(table: str, name: str) -> Measure:
    words = f"{name.replace('_', ' ')} ({table.replace('_', ' ')})"
    return Measure(name, words, f"“{words}”", "", f"{table}_{name}")


def refuse_undated(tables: Mapping[str, ibis.Table], description: Mapping[str, Any]) -> None:
    """Refuse (exit code 2) every table without `known_on`: what cannot be placed in time is never joined."""
    undated = sorted(name for name, table in tables.items() if "known_on" not in table.columns)
    dateless = sorted(
        name
        for name, table in tables.items()
        if name not in CONTRACTS and "event_on" not in table.columns and not (description.get(name) or {}).get("static")
    )
    problems = [
        Problem(
            f"data/ingest/tables/{name}",
            "a table with `known_on` and an event date, or one declared `static: true`",
            "neither",
            "Map `event_on` in data/sources, or declare the table static if its rows never change.",
        )
        for name in sorted({*undated, *dateless})
    ]
    if problems:
        raise DataRefused(problems)
