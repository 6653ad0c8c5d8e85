"""Statements, own lines and other lenders' lines on rows drawn by hand."""

import pytest

from tests.features.drawn import draw, values

CREDITS = draw(
    "credits",
    """
    credit_id customer_id provider opened_on  principal credit_limit term_months known_on
    k1        a           own      2023-01-10 -         1000         -           2023-01-10
    k2        a           own      2023-06-10 -         500          -           2023-06-10
    b1        a           bank_x   2022-01-10 5000      -            24          2022-03-01
    b2        a           bank_y   2024-01-20 800       -            12          2024-03-05
    """,
)
STATEMENTS = draw(
    "statements",
    """
    credit_id stated_on  balance days_past_due overdue_amount status repayment_status known_on
    k1        2024-01-31 500     0             0              open   0                2024-01-31
    k1        2024-02-29 800     31            50             open   2                2024-02-29
    k1        2024-02-15 700     15            40             open   1                2024-02-15
    k2        2024-02-28 100     0             0              open   -1               2024-02-28
    b1        2024-01-31 2000    95            100            closed -                2024-02-10
    b1        2024-02-29 1500    120           100            closed -                2024-03-15
    """,
    numeric=("repayment_status",),
)
PAYMENTS = draw("payments", "payment_id credit_id paid_on amount\np1 k1 2024-02-20 125\np2 k1 2024-01-20 60")
ATTRIBUTES = {"statements": {"numeric": ["repayment_status"], "categorical": []}}
TABLES = {"credits": CREDITS, "statements": STATEMENTS, "payments": PAYMENTS}


def seen(as_of: str = "2024-03-01") -> dict[str, object]:
    return values(TABLES, f"a {as_of}", attributes=ATTRIBUTES)["a", as_of]


def test_a_month_is_the_sum_of_each_lines_newest_statement():
    row = seen()
    assert row["statements_balance_month_1"] == 900.0  # 800 of k1 (not 700) and 100 of k2
    assert row["statements_balance_month_2"] == 500.0
    assert row["statements_balance_month_3"] is None
    assert row["statements_balance_mean_3m"] == 700.0


def test_the_limit_comes_from_the_credit_where_the_statement_has_none():
    row = seen()
    assert row["statements_utilisation_month_1"] == pytest.approx(900 / 1500)
    assert row["statements_utilisation_month_2"] == pytest.approx(0.5)
    assert row["statements_utilisation_max_3m"] == pytest.approx(0.6)


def test_lateness_by_month():
    row = seen()
    assert row["statements_days_past_due_month_1"] == 31.0
    assert row["statements_months_past_due_1_days_3m"] == 1.0
    assert row["statements_months_past_due_30_days_3m"] == 1.0
    assert row["statements_overdue_amount_last"] == 50.0


def test_repaid_against_the_bill_before():
    row = seen()
    assert row["statements_repaid_month_1"] == 125.0
    assert row["statements_repaid_of_bill_month_1"] == pytest.approx(125 / 500)
    assert row["statements_repaid_of_bill_month_2"] is None
    assert row["statements_repaid_to_balance_3m"] == pytest.approx(185 / 1400)


def test_an_attribute_of_statements_gets_lags_and_windows():
    row = seen()
    assert row["statements_repayment_status_month_1"] == 2.0
    assert row["statements_repayment_status_month_2"] == 0.0
    assert row["statements_repayment_status_mean_3m"] == 1.0
    assert row["statements_repayment_status_trend_12m"] == pytest.approx(2 / 29 * 30.4375)


def test_own_lines():
    row = seen()
    assert row["credits_count"] == 2.0
    assert row["credits_limit_sum"] == 1500.0
    assert row["credits_balance_sum"] == 900.0
    assert row["credits_balance_to_limit"] == pytest.approx(0.6)
    assert row["credits_days_past_due_max"] == 31.0
    assert row["credits_opened_count_12m"] == 1.0
    assert row["credits_newest_months"] == 9.0


def test_other_lenders_lines_count_from_when_the_bureau_knew():
    row = seen()
    assert row["bureau_count"] == 1.0  # b2 is not known yet
    assert row["bureau_open_count"] == 0.0
    assert row["bureau_balance_sum"] is None
    assert row["bureau_days_past_due_max"] == 95.0
    assert seen("2024-03-20")["bureau_count"] == 2.0
    assert seen("2024-03-20")["bureau_worst_days_past_due_12m"] == 120.0
    assert seen("2024-03-20")["bureau_principal_sum"] == 800.0


def test_a_statement_whose_credit_is_not_known_yet_is_not_seen():
    late = draw(
        "credits", "credit_id customer_id provider opened_on credit_limit known_on\nk1 a own 2023-01-10 1000 2024-03-01"
    )
    tables = {"credits": late, "statements": STATEMENTS}
    rows = values(tables, "a 2024-03-01\na 2024-03-02")
    assert rows["a", "2024-03-01"]["statements_balance_month_1"] is None
    assert rows["a", "2024-03-02"]["statements_balance_month_1"] == 800.0
