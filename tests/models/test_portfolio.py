"""Sums of the portfolio against SQL, migration on customers drawn by hand, and the order of the worst."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import pytest

from models import portfolio
from models.portfolio import NO_GROUP, by_group, grade_order, herfindahl, migration, totals, worst


def table(n=200):
    rng = np.random.default_rng(6)
    return pd.DataFrame({
        "customer_id": [f"c{i:03d}" for i in range(n)], "industry": rng.choice(["a", "b", None], n), "pd_12m": rng.random(n),
        "exposure": rng.random(n).round(2) * 1000, "expected_loss": rng.random(n), "credit_limit": np.nan,
        "credit_limit_recommended": rng.choice([0.0, 100.0], n),
    })  # fmt: skip


def test_groups_agree_with_sql_and_lose_nobody():
    frame = table()
    con = duckdb.connect()
    con.register("t", frame)
    sql = "select coalesce(industry, '(none)'), count(*), sum(exposure), avg(pd_12m), sum((credit_limit_recommended = 0)::int) from t group by 1"
    expected = {row[0]: row[1:] for row in con.execute(sql).fetchall()}
    found = by_group(frame, "industry")
    assert NO_GROUP in expected
    assert {g["group"] for g in found} == set(expected)
    for g in found:
        assert (g["customers"], g["exposure"], g["mean_pd"], g["no_limit"]) == pytest.approx(expected[g["group"]])
        assert g["credit_limit"] is None
    assert [g["customers"] for g in found] == sorted((g["customers"] for g in found), reverse=True)


def test_small_groups_are_folded_together():
    frame = pd.DataFrame({"customer_id": range(30), "industry": [f"i{k}" for k in range(30)]})
    found = by_group(frame, "industry", most=15)
    assert len(found) == 16
    assert (found[-1]["group"], found[-1]["customers"]) == ("(other)", 15)
    assert by_group(frame, "region") == []
    assert totals(frame)["exposure"] is None


def test_herfindahl_of_equal_parts_and_of_one():
    assert herfindahl([5.0, 5.0, 5.0, 5.0, None]) == pytest.approx(0.25)
    assert herfindahl([7.0]) == 1
    assert herfindahl([0.0, None]) is None


def test_migration_of_six_customers():
    before = pd.DataFrame({"customer_id": list("abcdf"), "grade": ["A", "A", "B", "B", "A"]})
    now = pd.DataFrame({"customer_id": list("abcef"), "grade": ["A", "B", "A", "A", "B"]})
    told = migration(before, now, ["A", "B"])
    assert told["counts"] == [[1, 2], [1, 0]]
    assert (told["same"], told["worse"], told["better"], told["new"], told["gone"]) == (1, 2, 1, 1, 1)
    assert migration(before.head(0), now, ["A", "B"]) is None


def test_grades_in_order_of_their_pd():
    assert grade_order(pd.Series(["x", "y", "x", None]), pd.Series([0.5, 0.1, 0.5, 0.9])) == ["y", "x"]


def test_the_worst_have_most_at_stake():
    frame = pd.DataFrame(
        {"customer_id": list("dcba"), "pd_12m": [0.1, 0.5, 0.5, np.nan], "exposure": [1000.0, 100, np.nan, 9e9]}
    )
    assert worst(frame, 3)["customer_id"].tolist() == ["d", "c", "b"]
    assert worst(frame.drop(columns="exposure"), 2)["customer_id"].tolist() == ["b", "c"]


def test_reasons_by_grade_are_shares_of_its_customers():
    """By hand: of three customers of B two are told `late`, one of them first."""
    table = pd.DataFrame(
        {
            "grade": ["B", "B", "B", "A"],
            "reason_1_code": ["late", "debt", "debt", None],
            "reason_2_code": ["debt", "late", None, None],
        }
    )
    a, b = portfolio.reasons_by_grade(table, ["A", "B", "C"])
    assert (a["grade"], a["customers"], a["reasons"]) == ("A", 1, [])
    assert b["reasons"] == [
        {"code": "debt", "share": 1.0, "first": 2 / 3}, {"code": "late", "share": 2 / 3, "first": 1 / 3},
    ]  # fmt: skip
    assert portfolio.reasons_by_grade(table[["grade"]], ["A"]) == []
