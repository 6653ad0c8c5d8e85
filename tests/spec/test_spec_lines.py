"""Credit lines on rows drawn by hand: new against old, ties, both sides together, and what a side never states."""

import pytest

from tests.features.drawn import draw, matrix_of, observe, values

LATER = observe("a 2030-01-01")
CREDITS = draw(
    "credits",
    """
    credit_id customer_id provider opened_on  principal credit_limit known_on
    k1        a           own      2022-01-31 100       -            2022-01-31
    k2        a           own      2023-06-30 300       50           2023-06-30
    k3        a           own      2024-02-29 200       -            2024-03-05
    b1        a           bank     2023-01-01 400       -            2023-01-01
    t1        tie         own      2024-01-01 10        -            2024-01-01
    t2        tie         own      2024-01-01 20        -            2024-01-01
    """,
)
STATEMENTS = draw(
    "statements",
    """
    credit_id stated_on  balance days_past_due overdue_amount status known_on
    k1        2024-01-31 0       0             0              closed 2024-01-31
    k2        2024-01-31 120     0             0              active 2024-01-31
    k2        2024-02-29 90      12            30             late   2024-02-29
    b1        2024-01-31 250     -             -              -      2024-02-20
    b1        2024-02-29 240     -             -              -      2024-03-20
    """,
)
TABLES = {"credits": CREDITS, "statements": STATEMENTS}


def test_the_newest_principal_against_those_before():
    rows = values(TABLES, "a 2024-03-05\na 2024-03-06\ntie 2024-03-06", training=LATER)
    before = rows["a", "2024-03-05"]  # k3 is known on the 5th: not yet
    assert before["credits_newest_principal_to_previous"] == 3.0
    assert before["credits_opening_gap_mean"] == 17.0  # 31 January 2022 to 30 June 2023, whole months back from as_of
    after = rows["a", "2024-03-06"]
    assert after["credits_newest_principal_to_previous"] == pytest.approx(200 / 300)
    assert after["credits_newest_principal_to_largest"] == pytest.approx(200 / 300)
    assert after["credits_newest_principal_to_mean"] == 1.0
    assert [after[f"credits_opened_count_{k}m"] for k in (6, 12, 36)] == [1, 2, 3]
    tie = rows["tie", "2024-03-06"]  # opened on one day: the identifier decides
    assert tie["credits_newest_principal_to_previous"] == 2.0


def test_states_and_the_debt_of_both_sides():
    rows = values(TABLES, "a 2024-03-01\na 2024-03-21\ntie 2024-03-01", training=LATER)
    row = rows["a", "2024-03-01"]
    assert row["credits_open_count"] == 1.0
    assert row["credits_closed_share"] == 0.5
    assert row["credits_status_late_count"] == 1.0
    assert row["credits_days_past_due_max"] == 12.0
    assert row["credits_overdue_to_balance"] == pytest.approx(30 / 90)
    assert row["bureau_balance_sum"] == 250.0  # that of February is known on 20 March
    assert row["debt_in_all"] == 340.0
    assert row["debt_with_others_share"] == pytest.approx(250 / 340)
    assert row["debt_to_principal_in_all"] == pytest.approx(340 / 700)
    assert rows["a", "2024-03-21"]["debt_in_all"] == 330.0
    assert rows["tie", "2024-03-01"]["credits_balance_sum"] is None
    assert rows["tie", "2024-03-01"]["bureau_count"] is None


def test_what_a_side_never_states_is_not_built_and_said():
    matrix, _ = matrix_of(TABLES, observe("a 2024-03-31"))
    names = {feature.name for feature, _, _ in matrix.features}
    assert {"credits_limit_sum", "credits_status_late_count", "credits_newest_principal_to_mean"} <= names
    assert {"bureau_balance_sum", "bureau_principal_sum", "bureau_newest_months"} <= names
    assert not [name for name in names if name.startswith("bureau_") and any(
        word in name for word in ("limit", "rate", "status", "overdue", "days_past_due", "newest_principal", "gap"))
    ]  # fmt: skip
    said = {item.name: item.why for item in matrix.skipped}
    assert said["bureau_limits"] == "no credit line with others of the source states a limit"
    assert said["bureau_new_against_old"] == "no customer has two credit lines with others"
    assert "credits_limits" not in said


def test_what_becomes_known_after_training_builds_no_column():
    late = draw(
        "credits",
        """
        credit_id customer_id provider opened_on  principal rate known_on
        k1        a           own      2022-01-31 100       -    2022-01-31
        k2        a           own      2022-02-28 100       0.2  2024-03-01
        """,
    )
    names = [
        {feature.name for feature, _, _ in matrix_of({"credits": late}, observe("a 2024-06-01"), training=observe(day))[0].features}
        for day in ("a 2024-03-01", "a 2024-03-02")
    ]  # fmt: skip
    assert "credits_rate_mean" not in names[0]
    assert "credits_rate_mean" in names[1]
