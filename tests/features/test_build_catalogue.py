"""Definition hashes follow the meaning of a feature and nothing else; protected columns never become features."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import ibis
import pyarrow as pa
import pytest

from features.aggregates import spread, trend
from features.definition import Feature, Subject, definition_hashes
from tests.features.drawn import draw, matrix_of, observe

ROWS = ibis.table({"customer_id": "string", "as_of": "date", "x": "float64", "days_before": "int32"}, name="anything")
SUM = Feature("x_sum", lambda r: r.x.sum(), "Sum of x", "x合计", "x")


def rows_made_here() -> ibis.Table:
    """Stand for the code that makes a subject's rows."""
    return ROWS


def rows_made_otherwise() -> ibis.Table:
    """Stand for changed code."""
    return ROWS.filter(ROWS.x > 0)


def hash_of(feature: Feature, subject: Subject | None = None) -> str:
    subject = subject or Subject("s", ("t",), ROWS, (), made_by=(rows_made_here,))
    return definition_hashes(replace(subject, features=(feature,)))[feature.name]


def test_a_definition_hash_changes_with_the_formula_and_the_rows_only():
    same = hash_of(SUM)
    assert hash_of(replace(SUM, sentence="Other words", direction=1)) == same
    assert hash_of(replace(SUM, formula=lambda r: r.x.max())) != same
    wider = Subject("s", ("t",), ROWS.mutate(y=ROWS.x), (), made_by=(rows_made_here,))
    assert hash_of(SUM, wider) == same
    other = Subject("s", ("t",), ROWS, (), made_by=(rows_made_otherwise,))
    assert hash_of(SUM, other) != same


def test_a_protected_attribute_of_customers_is_no_feature():
    customers = draw("customers", "customer_id kind sex\na person f")
    traits = {"customers": {"categorical": ["sex"]}}
    names = [
        [feature.name for feature, _, _ in matrix_of({"customers": customers}, observe("a 2024-01-01"), attributes=traits, protected=p)[0].features]
        for p in ((), ("SEX",))
    ]  # fmt: skip
    assert names[0] == ["customers_kind", "customers_sex"]
    assert names[1] == ["customers_kind"]


def test_spread_and_trend_of_large_money_are_exact():
    """Squares of large amounts neither overflow nor lose the digits that matter."""
    table = ibis.memtable({"g": ["a"] * 3, "x": [9e11, 9e11, 9e11], "y": [1.0, 2.0, 3.0], "d": [60, 30, 0]})
    true = ibis.literal(True)
    got = table.group_by("g").aggregate(
        spread=spread(table.x, true), trend=trend(table.y, table.d, true), flat=trend(table.x, table.d, true)
    )
    row = got.execute().iloc[0]
    assert row["spread"] == 0
    assert abs(row["trend"] - 30.4375 / 30) < 1e-12
    assert row["flat"] == 0


@pytest.mark.parametrize(
    ("level", "noise", "rows"), [(1e4, 0.01, 30), (1e6, 1, 50), (1e9, 100, 400), (1e12 - 100, 1, 50), (1e15, 3, 20)]
)
def test_a_small_spread_or_trend_about_a_high_level_is_not_lost(level, noise, rows):
    random_ = random.Random(rows)
    money = [Decimal(level + random_.uniform(-noise, noise)).quantize(Decimal("0.01")) for _ in range(rows)]
    days = [(7 * at) % 360 for at in range(rows)]
    columns = {"g": ["a"] * rows, "x": pa.array(money, pa.decimal128(18, 2)), "d": pa.array(days, pa.int32())}
    table, true = ibis.memtable(pa.table(columns)), ibis.literal(True)
    got = table.group_by("g").aggregate(s=spread(table.x, true), t=trend(table.x, table.d, true)).execute().iloc[0]
    mean, middle = Fraction(sum(money)) / rows, Fraction(sum(days), rows)
    assert got["s"] == pytest.approx(float(sum((Fraction(x) - mean) ** 2 for x in money) / rows) ** 0.5, rel=1e-12)
    slope = sum((Fraction(x) - mean) * (middle - day) for x, day in zip(money, days, strict=True))
    slope /= sum((day - middle) ** 2 for day in days)
    assert got["t"] == pytest.approx(float(slope) * 30.4375, rel=1e-12)
