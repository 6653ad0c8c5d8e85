"""Order within a history on rows drawn by hand: first and last k, ties, gaps, change, rank, empty and single rows."""

import pytest

from tests.features.drawn import draw, observe, values

LATER = observe("a 2030-01-01")
CREDITS = draw(
    "credits",
    """
    credit_id customer_id provider opened_on
    k         a           own      2023-01-01
    s         single      own      2023-01-01
    n         none        own      2023-01-01
    """,
)

# days late of a's six instalments: 1, 0, 10, 4, 2 (known a week later), 30 and counting
INSTALMENTS = draw(
    "instalments",
    """
    credit_id due_on     amount known_on
    k         2023-10-01 10     2023-01-01
    k         2023-11-01 10     2023-01-01
    k         2023-12-01 10     2023-01-01
    k         2024-01-01 10     2023-01-01
    k         2024-02-01 10     2023-01-01
    k         2024-02-29 10     2023-01-01
    s         2024-02-01 10     2023-01-01
    """,
)
PAYMENTS = draw(
    "payments",
    """
    payment_id credit_id paid_on    amount due_on     known_on
    p1         k         2023-10-02 10     2023-10-01 2023-10-02
    p2         k         2023-11-01 10     2023-11-01 2023-11-01
    p3         k         2023-12-11 10     2023-12-01 2023-12-11
    p4         k         2024-01-05 10     2024-01-01 2024-01-05
    p5         k         2024-02-03 10     2024-02-01 2024-02-10
    q          s         2024-02-01 7      2024-02-01 2024-02-01
    """,
)
TABLES = {"credits": CREDITS, "instalments": INSTALMENTS, "payments": PAYMENTS}


def test_last_and_first_instalments_move_with_what_is_known():
    rows = values(TABLES, "a 2024-02-10\na 2024-02-11\na 2024-03-30", training=LATER)
    before = rows["a", "2024-02-10"]  # the payment of 3 February is not known yet: 9 days late so far
    assert before["instalments_days_late_mean_last_2"] == (9 + 4) / 2
    assert before["instalments_days_late_last_less_previous"] == 9.0 - 4.0
    after = rows["a", "2024-02-11"]
    assert after["instalments_days_late_mean_last_2"] == (2 + 4) / 2
    assert after["instalments_days_late_max_last_3"] == 10.0
    assert after["instalments_days_late_mean_first_2"] == (1 + 0) / 2
    assert after["instalments_late_in_a_row"] == 3.0  # 10, 4, 2; the one of November was in time
    late = rows["a", "2024-03-30"]  # the leap day's instalment is 30 days late and unpaid
    assert late["instalments_days_late_last_less_previous"] == 28.0
    assert late["instalments_days_late_mean_last_10"] == pytest.approx((1 + 0 + 10 + 4 + 2 + 30) / 6)
    assert late["instalments_days_late_mean_first_4"] == (1 + 0 + 10 + 4) / 4


def test_single_rows_and_empty_histories():
    rows = values(TABLES, "single 2024-03-01\nnone 2024-03-01", training=LATER)
    single = rows["single", "2024-03-01"]
    assert single["instalments_days_late_mean_last_5"] == 29.0  # 7 of 10 paid: open since 1 February
    assert single["instalments_days_late_last_less_previous"] is None
    assert single["instalments_days_late_trend_last_5"] is None
    assert single["instalments_overdue_sum"] == 3.0
    assert single["payments_gap_mean_12m"] is None
    assert single["payments_amount_last_less_previous"] is None
    assert single["payments_amount_variation_12m"] == 0.0
    none = rows["none", "2024-03-01"]
    assert none["instalments_days_late_mean_last_2"] is None
    assert none["payments_gap_mean_12m"] is None


def test_gaps_between_payments_over_a_leap_day_with_a_tie_and_a_year_edge():
    paid = draw(
        "payments",
        """
        payment_id credit_id paid_on    amount
        p0         k         2023-03-01 100
        p1         k         2023-03-02 1
        p2         k         2024-02-28 2
        p3         k         2024-03-01 4
        p4         k         2024-03-01 8
        """,
    )
    tables = {"credits": CREDITS, "payments": paid}
    row = values(tables, "a 2024-03-02", training=LATER)["a", "2024-03-02"]
    # within twelve months before 2 March 2024: 2 March 2023, 28 February (363 days), 1 March (2), 1 March (0)
    assert row["payments_gap_max_12m"] == 363.0
    assert row["payments_gap_mean_12m"] == pytest.approx((363 + 2 + 0) / 3)
    assert row["payments_amount_mean_last_3"] == pytest.approx((2 + 4 + 8) / 3)
    assert row["payments_amount_sum_12m"] == 15.0  # the 100 lie a day outside
    # the two of one day follow their identifiers
    assert row["payments_amount_last"] == 8.0
    assert row["payments_amount_last_less_previous"] == 4.0
    assert row["payments_amount_last_less_mean_12m"] == pytest.approx(8 - 15 / 4)


BALANCES = draw(
    "statements",
    """
    credit_id stated_on  balance credit_limit days_past_due known_on
    k         2023-09-30 50      100          0             2023-09-30
    k         2023-12-31 20      100          0             2023-12-31
    k         2024-01-31 50      100          5             2024-01-31
    k         2024-02-29 80      100          35            2024-02-29
    k         2024-02-29 60      100          35            2024-03-04
    """,
)


def test_months_one_by_one_their_change_and_rank_with_ties_and_gaps():
    tables = {"credits": CREDITS, "statements": BALANCES}
    rows = values(tables, "a 2024-03-01\na 2024-03-04\na 2024-03-05\nnone 2024-03-01", training=LATER)
    row = rows["a", "2024-03-01"]
    assert [row[f"statements_balance_month_{k}"] for k in range(1, 7)] == [80, 50, 20, None, None, 50]
    assert row["statements_balance_change_1m"] == 30.0
    assert row["statements_balance_month_1_less_mean_12m"] == 80.0 - 50.0
    assert row["statements_balance_rank_12m"] == 1.0  # 50, 20 and 50 all lie below
    assert row["statements_balance_range_12m"] == 60.0
    assert row["statements_days_past_due_change_1m"] == 30.0
    assert row["statements_past_due_in_a_row"] == 2.0
    restated = rows["a", "2024-03-05"]  # 60 in place of 80, known on the 4th
    assert rows["a", "2024-03-04"]["statements_balance_month_1"] == 80.0
    assert restated["statements_balance_month_1"] == 60.0
    assert restated["statements_balance_mean_12m"] == 45.0
    assert rows["none", "2024-03-01"]["statements_balance_rank_12m"] is None
    assert rows["none", "2024-03-01"]["statements_balance_month_1"] is None


def test_a_tie_with_last_month_counts_half():
    ties = draw(
        "statements",
        """
        credit_id stated_on  balance known_on
        k         2023-12-31 20      2023-12-31
        k         2024-01-31 50      2024-01-31
        k         2024-02-29 50      2024-02-29
        s         2024-02-29 50      2024-02-29
        """,
    )
    rows = values({"credits": CREDITS, "statements": ties}, "a 2024-03-01\nsingle 2024-03-01", training=LATER)
    assert rows["a", "2024-03-01"]["statements_balance_rank_12m"] == 0.75
    assert rows["single", "2024-03-01"]["statements_balance_rank_12m"] is None  # nothing to be compared with
    assert rows["single", "2024-03-01"]["statements_balance_change_1m"] is None
