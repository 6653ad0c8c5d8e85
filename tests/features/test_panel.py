"""Partial aggregates give what the direct join gives, to the bit: late and restated rows, any day of the month."""

from __future__ import annotations

import datetime as dt
import random

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definition import KEYS
from features.grid import Total, carried, combined, words_of
from features.panel import Panel, period
from features.partials import Plan
from tests.features.drawn import build, draw, matrix_of, observe, values
from tests.features.test_time_build import ATTRIBUTES, CUSTOMERS, world

DAYS = ("2022-06-30", "2022-09-01", "2023-02-01", "2023-03-01", "2023-08-31", "2024-02-29", "2024-03-31")
PANEL = observe("\n".join(f"{customer} {day}" for customer in CUSTOMERS for day in DAYS))


def both(tables: dict[str, pa.Table], observations: pa.Table, **options: object) -> list[pa.Table]:
    """Return the matrix from partial aggregates and by the direct join."""
    return [build(tables, observations, panel=panel, **options) for panel in (True, False)]


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_the_panel_equals_the_direct_join(seed):
    """Every table, a fifth of rows late by 40 or 200 days, an eighth restated; four days of the month, 29 to 31 too."""
    options = {"attributes": ATTRIBUTES, "training": observe("a 2024-03-31"), "windows": (1, 3, 12), "lags": 2}
    composed, joined = both(world(seed, rows=150), PANEL, **options)
    assert composed.column_names == joined.column_names
    for name in joined.column_names:
        assert composed[name].equals(joined[name]), name


def test_most_of_transactions_comes_from_partials_and_what_needs_its_rows_does_not():
    matrix, _ = matrix_of(world(3), PANEL, attributes=ATTRIBUTES)
    plans = {panel.plan.subject.name: panel.plan for panel in matrix._queries(panel=True)[1]}
    assert plans["transactions_ever"].whole == []
    assert all(word in name for name in plans["transactions"].whole for word in ("balance_after",))
    assert "transactions_inflow_sum_3m" in plans["transactions"].formulas
    assert {name.rsplit("_", 2)[-2] for name in plans["transactions"].whole} == {"q10", "q25"}
    assert {"visits", "payments", "mentions"} <= set(plans)


def test_a_row_is_in_no_window_before_it_is_known_and_leaves_when_restated():
    table = draw(
        "transactions",
        """
        transaction_id customer_id event_on   amount known_on
        t1             a           2024-01-10 100    2024-01-10
        t2             a           2024-01-20 7      2024-03-05
        t1             a           2024-01-10 70     2024-02-20
        """,
    )
    dates = ("2024-02-01", "2024-03-01", "2024-04-01", "2024-05-01")
    rows = values({"transactions": table}, "\n".join(f"a {day}" for day in dates))
    assert [rows["a", day]["transactions_inflow_sum_3m"] for day in dates] == [100, 70, 77, 0]
    assert [rows["a", day]["transactions_inflow_sum_1m"] for day in dates] == [100, 0, 0, 0]


def test_squares_that_pass_63_bits_stay_exact():
    drawn = random.Random(1)
    lines = [
        f"t{at} a 2024-{1 + at % 3:02d}-{1 + at % 28:02d} 1 {drawn.randrange(10**12, 10**13)}.37" for at in range(60)
    ]
    table = draw("transactions", "transaction_id customer_id event_on amount balance_after\n" + "\n".join(lines))
    composed, joined = both({"transactions": table}, observe("a 2024-03-01\na 2024-04-01"))
    assert composed["transactions_balance_after_std_12m"].null_count == 0
    for name in joined.column_names:
        assert composed[name].equals(joined[name]), name


WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)


@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=1, max_size=5), st.integers(-(1 << 33), 1 << 33))
def test_words_are_exact(pairs, factor):
    """Sums of products of 64-bit numbers, and such sums times days, as Python's own whole numbers say."""
    a, b = (np.array(side, np.int64) for side in zip(*pairs, strict=True))
    words = [np.array([word.sum()]) for word in words_of(a, b)]
    expected = sum(x * y for x, y in pairs)
    assert number(carried(words)) == expected
    assert number(words_of(a[:1])) == pairs[0][0]
    totals = [Total(words, None), Total([a[:1]], None)]
    assert number(combined(totals, (-1, factor))) == -expected + factor * pairs[0][0]


def number(parts):
    """Return the first number of some words."""
    if len(parts) == 1:
        return int(parts[0][0])
    high, middle, low = (int(part[0]) for part in parts)
    return (high << 64) + (middle << 32) + low


@pytest.mark.parametrize("day", [1, 15, 29, 31])
def test_a_period_says_months_before_for_every_date_on_that_day(day):
    """`months_before` of the direct join is the difference of periods, whatever the day of the month."""
    query = f"""WITH days AS (SELECT (DATE '2023-11-01' + i::INTEGER) AS d FROM range(200) r(i)),
        pairs AS (SELECT a.d AS as_of, e.d AS e FROM days a, days e WHERE day(a.d) = {day})
        SELECT count(*) FILTER ((e < as_of) <> ({period("e", day)} < {period("as_of", day)})),
            count(*) FILTER (e >= (as_of - INTERVAL 2 MONTH)::DATE AND e < as_of
                AND NOT {period("as_of", day)} - {period("e", day)} BETWEEN 1 AND 2),
            count(*) FILTER (e < (as_of - INTERVAL 2 MONTH)::DATE
                AND {period("as_of", day)} - {period("e", day)} <= 2) FROM pairs"""
    assert ibis.duckdb.connect().con.execute(query).fetchone() == (0, 0, 0)


def test_what_became_known_since_is_added_to_the_cells():
    """Cells of the first months, extended by what became known later, are the cells of everything."""
    matrix, asked = matrix_of(world(5), observe("a 2024-03-01\nb 2024-03-01"), attributes=ATTRIBUTES)
    subject = next(item for item in matrix.subjects if item.name == "visits")
    connection = matrix.connection.con
    connection.execute("CREATE TEMP VIEW all_visits AS SELECT * FROM rows_visits")
    codes = "SELECT c.code AS customer_id, as_of, row_number() OVER () - 1 AS place FROM asked a JOIN customer_id_codes c ON a.customer_id = c.text"
    found = []
    for since in (None, dt.date(2023, 1, 1)):
        plan = Plan(subject, {feature.name: feature.formula for feature in subject.features}, lambda _: ("x", "y", "z"))
        rows = "all_visits" if since is None else f"(SELECT * FROM all_visits WHERE known_on < DATE '{since}')"
        panel = Panel(plan, connection, rows)
        if since is not None:
            panel.extend(1, f"(SELECT * FROM all_visits WHERE known_on >= DATE '{since}')")
        parts = pa.concat_tables(panel.batches(f"({codes})"))
        found.append(parts.sort_by([(key, "ascending") for key in KEYS]))
        assert plan.whole == ["visits_length_decayed_12m"]  # a weight that falls by the day is no sum of cells
    assert len(found[0]) == asked.count().execute()
    assert found[0].equals(found[1])
