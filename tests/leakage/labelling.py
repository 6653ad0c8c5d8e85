"""Labels and population: what may not change them, and leaks planted in the SQL that makes them."""

from __future__ import annotations

import datetime as dt
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pytest
from lenders import Case, Tables, simulated

from features import labels
from features.labels import Rules, judge, stated

D = dt.date
CUT = D(2023, 7, 1)
DATES = [D(2021 + m // 12, m % 12 + 1, 1) for m in range(8, 28, 2)]
RULES = Rules(horizon_months=6)
Judged = dict[tuple[str, dt.date], tuple]


@functools.cache
def lender() -> Case:
    """A simulated lender whose credits have statements."""
    with tempfile.TemporaryDirectory() as folder:
        return simulated(Path(folder), 5)


@functools.cache
def kinds() -> dict[str, Tables]:
    """The same lender, and another who keeps no statements, so that instalments and payments judge."""
    tables = {name: lender().tables[name] for name in ("customers", "credits", "statements", "instalments", "payments")}
    return {"statements": tables, "instalments": {n: t for n, t in tables.items() if n != "statements"}}


def known_before(tables: Tables, cut: dt.date) -> Tables:
    return {name: table.filter(pc.less(table["known_on"], cut)) for name, table in tables.items()}


def judged(tables: Tables, dates: list[dt.date], cut: dt.date) -> Judged:
    """Return (customer, as_of) -> (excluded_because, outcome, outcome_known_on)."""
    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    for name, table in tables.items():
        connection.register(name, table)
    judge(connection, set(tables), RULES, dates, cut, population="open_credit")
    query = "SELECT customer_id, as_of, excluded_because, outcome, outcome_known_on FROM judged"
    return {(row[0], row[1]): row[2:] for row in connection.execute(query).fetchall()}


def later_knowledge_changes_nothing() -> bool:
    """Rows known on the cut or later do not matter."""
    return all(
        judged(tables, DATES, cut) == judged(known_before(tables, cut), DATES, cut)
        for tables in kinds().values()
        for cut in (D(2022, 12, 1),)
    )


def population_is_that_of_its_date() -> bool:
    """Who is in the population on a date, and why not, is the same whatever became known later."""
    for tables in kinds().values():
        whole = judged(tables, DATES, CUT)
        for day in DATES:
            then = judged(known_before(tables, day), [day], day)
            if {key: row[0] for key, row in then.items()} != {k: r[0] for k, r in whole.items() if k[1] == day}:
                return False
    return True


def good_means_a_closed_window() -> bool:
    """No outcome is good before its window has closed; none is known before as_of or on the cut."""
    for tables in kinds().values():
        for (_, as_of), (_, outcome, known) in judged(tables, DATES, CUT).items():
            month = as_of.year * 12 + as_of.month - 1 + RULES.horizon_months
            closes = D(month // 12, month % 12 + 1, 1)
            if outcome is not None and not as_of <= known < CUT:
                return False
            if outcome == 0 and (closes > CUT or known < closes - dt.timedelta(days=1)):
                return False
    return True


OBSERVED = """SELECT * FROM (VALUES
    ('a', DATE '2021-01-01', 0, NULL::DATE, DATE '2020-12-31'), ('b', DATE '2021-01-01', 0, DATE '2021-06-01', DATE '2020-12-31'),
    ('b', DATE '2021-01-01', 1, DATE '2021-06-01', DATE '2021-09-01'), ('c', DATE '2021-03-01', 1, NULL, DATE '2021-02-28'),
    ('d', DATE '2021-03-01', NULL, NULL, DATE '2021-02-28'), ('d', DATE '2021-03-01', 1, DATE '2021-04-01', DATE '2021-12-01'))
    t(customer_id, as_of, outcome, outcome_known_on, known_on)"""


def stated_outcomes_wait() -> bool:
    """Outcomes that the source states: rows known later change nothing, and none is known before its row says it."""
    found = []
    for where in ("true", "known_on < DATE '2021-08-01'"):
        connection = duckdb.connect()
        connection.execute(f"CREATE TABLE observations AS SELECT * FROM ({OBSERVED}) WHERE {where}")
        stated(connection, RULES, D(2021, 8, 1), undated=False)
        found.append(connection.execute("SELECT customer_id, outcome, outcome_known_on FROM judged").fetchall())
    known = all(row[2] is None or row[2] < D(2021, 8, 1) for row in found[0])
    return found[0] == found[1] and known and {row[0]: row[1] for row in found[0]}["c"] is None


CHECKS: dict[str, Callable[[], bool]] = {
    "label later knowledge": later_knowledge_changes_nothing,
    "label population": population_is_that_of_its_date,
    "label window": good_means_a_closed_window,
    "label stated": stated_outcomes_wait,
}


def _sql(old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Mutate the SQL of the labels on its way to the engine; `old` must occur in it."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        run, used = labels._run, []

        def mutated(connection: Any, table: str, query: str) -> None:
            used.append(old in query)
            run(connection, table, query.replace(old, new))

        patch.setattr(labels, "_run", mutated)
        CHECKS["label stated"]()
        CHECKS["label window"]()
        assert any(used), "the planted text is not in the SQL any more"

    return plant


LABEL_LEAKS = (
    ("label window not closed", "L3.1", _sql(f"<= DATE '{CUT}' AS window_closed", "IS NOT NULL AS window_closed"), "label window"),
    ("labels from rows known after the cut", "L3.1", _sql(" WHERE s.known_on < DATE", " WHERE s.known_on IS NOT NULL OR s.known_on < DATE"), "label later knowledge"),
    ("population without those who default later", "L3.3", _sql("events e ON e.known_on < d.as_of AND", "events e ON"), "label population"),
    ("population without those who leave later", "L3.3", _sql("closings c ON c.known_on < d.as_of", "closings c ON true"), "label population"),
    ("restated instalments in the population", "L3.1", _sql("WHERE i.known_on < o.seen_on", "WHERE i.known_on IS NOT NULL"), "label population"),
    ("payments not yet known in the population", "L3.1", _sql("WHERE p.known_on < o.seen_on", "WHERE p.known_on IS NOT NULL"), "label population"),
    ("stated outcome before it was known", "L3.1", _sql("CASE WHEN learned < DATE '2021-08-01' THEN outcome", "CASE WHEN true THEN outcome"), "label stated"),
    ("stated outcome of the newest row", "L3.1", _sql("AND (known_on < DATE '2021-08-01' OR known_on <= as_of)", ""), "label stated"),
)  # fmt: skip
