"""Transactions on rows drawn by hand: windows, ties, gaps, restatements."""

import statistics

import pytest

from tests.features.drawn import draw, values

TRANSACTIONS = draw(
    "transactions",
    """
    transaction_id customer_id event_on   amount  balance_after category counterparty known_on
    t1             a           2024-01-31  100.00  100.00       salary   x            2024-01-31
    t2             a           2024-02-29  -30.50   69.50       rent     y            2024-03-01
    t3             a           2024-03-14 -200.00 -130.50       rent     y            2024-03-14
    t4             a           2024-03-15  500.00  369.50       salary   x            2024-03-15
    t5             a           2023-03-15   40.00   40.00       gift     z            2023-03-15
    t6             a           2024-03-10   10.00   79.50       salary   x            2024-04-20
    t7             b           2024-03-31   10.00   10.00       salary   x            2024-03-31
    """,
)


def seen(as_of: str, customer: str = "a") -> dict[str, object]:
    return values({"transactions": TRANSACTIONS}, f"{customer} {as_of}")[customer, as_of]


def test_a_window_starts_k_months_back_and_ends_before_as_of():
    row = seen("2024-03-15")
    assert row["transactions_inflow_sum_1m"] == 0.0  # t4 is on as_of itself, t6 is not known yet
    assert row["transactions_outflow_sum_1m"] == 230.5
    assert row["transactions_inflow_sum_3m"] == 100.0
    assert row["transactions_amount_sum_3m"] == -130.5
    assert row["transactions_inflow_sum_12m"] == 140.0  # t5 lies exactly twelve months back: in
    assert seen("2024-03-16")["transactions_inflow_sum_12m"] == 600.0  # a day later it is out


def test_month_ends_are_clamped():
    """One month before 31 March is 29 February: t2 is in, t1 is not."""
    row = seen("2024-03-31")
    assert row["transactions_outflow_sum_1m"] == 230.5
    assert row["transactions_inflow_sum_1m"] == 500.0


def test_a_row_known_late_counts_from_when_it_was_known():
    assert seen("2024-04-20")["transactions_inflow_sum_3m"] == 600.0  # t1, t4
    assert seen("2024-04-21")["transactions_inflow_sum_3m"] == 610.0


def test_balances():
    row = seen("2024-03-15")
    assert row["transactions_balance_after_min_1m"] == -130.5
    assert row["transactions_balance_after_mean_3m"] == pytest.approx((100 + 69.5 - 130.5) / 3)
    assert row["transactions_balance_after_last"] == -130.5
    assert row["transactions_balance_after_std_12m"] == pytest.approx(statistics.pstdev([100, 69.5, -130.5, 40]))
    assert row["transactions_overdrawn_share_12m"] == 0.25
    assert row["transactions_balance_after_q10_3m"] == pytest.approx(-130.5 + 0.2 * 200)


def test_history_and_recency():
    row = seen("2024-03-15")
    assert row["transactions_history_months"] == 12.0
    assert row["transactions_inflow_recency"] == 44.0
    assert row["transactions_outflow_recency"] == 1.0
    assert row["transactions_counterparty_distinct_12m"] == 3.0


def test_what_is_unknown_is_null_and_never_zero():
    row = seen("2024-03-31", "b")
    assert row["transactions_inflow_sum_12m"] is None  # its only row is on as_of
    row = seen("2024-04-30", "b")
    assert row["transactions_outflow_sum_12m"] == 0.0
    assert row["transactions_balance_after_trend_12m"] is None  # one date has no slope
    assert row["transactions_outflow_to_inflow_1m"] == 0.0


def test_share_of_a_category():
    row = seen("2024-03-16")
    assert row["transactions_category_rent_share_12m"] == pytest.approx(230.5 / 830.5)
    assert row["transactions_category_salary_share_12m"] == pytest.approx(600 / 830.5)


def test_months_of_income_and_their_irregularity():
    row = seen("2024-03-15")
    assert row["transactions_monthly_inflow_months_12m"] == 2.0
    assert row["transactions_monthly_deficit_months_6m"] == 1.0
    # months known: 12, inflow 100 in one (k=2) and 40 in another (k=12)
    mean = 140 / 12
    spread = ((100**2 + 40**2) / 12 - mean**2) ** 0.5
    assert row["transactions_monthly_inflow_variation_12m"] == pytest.approx(spread / mean)


def test_a_restated_row_counts_in_the_version_known_then():
    table = draw(
        "transactions",
        """
        transaction_id customer_id event_on   amount known_on
        t1             a           2024-01-10 100    2024-01-10
        t1             a           2024-01-10 70     2024-02-10
        """,
    )
    rows = values({"transactions": table}, "a 2024-02-01\na 2024-02-10\na 2024-02-11")
    assert [rows["a", day]["transactions_inflow_sum_3m"] for day in ("2024-02-01", "2024-02-10", "2024-02-11")] == [
        100,
        100,
        70,
    ]
    assert rows["a", "2024-02-11"]["transactions_transaction_id_count_3m"] == 1.0
