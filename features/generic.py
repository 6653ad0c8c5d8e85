"""Histories and attributes that nobody foresaw: every numeric and categorical attribute of every dated table.

Numeric: last, mean, lowest, highest, sum and trend by window; categorical: the latest value, how many different ones.
A table without dates joins only where its mapping says `static: true`; its newest row then counts as stated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ibis

from features.aggregates import Measure, expand
from features.definition import Feature, History, Lender, Skipped, Subject, bound
from features.errors import DataRefused, Problem
from features.tables import CONTRACTS

FORESEEN = ("customers", "observations", "statements", "industries")  # their attributes are declared by subject
CANONICAL = ("transactions", "credits", "instalments", "payments", "financials", "standings", "mentions")


def subjects(lender: Lender) -> Iterator[Subject | Skipped]:
    """Declare the attributes of canonical histories, and every other history whole."""
    for table in sorted(lender.tables):
        numeric, categorical = lender.numeric.get(table, ()), lender.categorical.get(table, ())
        if table in FORESEEN or (table in CANONICAL and not numeric and not categorical):
            continue
        if not numeric and not categorical:
            yield Skipped(table, "the history has no attribute")
            continue
        dated = lender.has(table, "event_on")
        rows = lender.past(table) if dated else lender.known(table)
        name = f"{table}_attributes" if table in CANONICAL else table
        history = History(lender.tables[table]) if dated else None
        yield Subject(name, (table,), rows, tuple(_features(table, lender, dated=dated)), history=history)


def _features(table: str, lender: Lender, *, dated: bool) -> Iterator[Feature]:
    windows = lender.windows[-2:]
    subject = table.replace("_", " ")
    if not dated:
        for name in lender.numeric.get(table, ()):
            yield Feature(
                f"{table}_{name}_last",
                bound(lambda r, name: r[name].argmax(r.row_order, where=r[name].notnull()).cast("float64"), name),
                f"Latest {name.replace('_', ' ')} ({subject})",
                f"最近一次“{name.replace('_', ' ')}”（{subject}）",
                f"{table}_{name}",
            )
    else:
        rows = Measure("row_order", f"rows of {subject}", f"“{subject}”记录", "", table)
        if table not in CANONICAL:
            yield from expand(table, rows, ("count",), windows)
            yield from expand(table, rows, ("recency",), ())
        for name in lender.numeric.get(table, ()):
            measure = _measure(table, name)
            yield from expand(table, measure, ("last",), ())
            yield from expand(table, measure, ("mean", "max", "min", "sum"), windows)
            yield from expand(table, measure, ("trend",), windows[-1:])
    for name in lender.categorical.get(table, ()):
        words = name.replace("_", " ")
        yield Feature(
            f"{table}_{name}_last",
            bound(lambda r, name: r[name].argmax(r.row_order, where=r[name].notnull()), name),
            f"Latest {words} ({subject})",
            f"最近一次“{words}”（{subject}）",
            f"{table}_{name}",
            kind="categorical",
        )
        if dated:
            yield from expand(table, _measure(table, name), ("distinct",), windows[-1:])


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
