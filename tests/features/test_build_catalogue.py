"""Definition hashes follow the meaning of a feature and nothing else; protected columns never become features."""

from __future__ import annotations

from dataclasses import replace

import ibis

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
