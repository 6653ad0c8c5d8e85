"""Money in and out on rows drawn by hand: quantiles of the balance, receipts in turn, months, cash and categories."""

import pytest

from tests.features.drawn import draw, observe, values

LATER = observe("a 2030-01-01")

# as_of 31 March 2024: the last month begins on 29 February, the last three on 31 December
TRANSACTIONS = draw(
    "transactions",
    """
    transaction_id customer_id event_on   amount balance_after category known_on
    t5             a           2023-12-30 40     40            salary   2023-12-30
    t4             a           2023-12-31 50     50            salary   2023-12-31
    t1             a           2024-02-29 100    100           salary   2024-02-29
    t2             a           2024-03-10 -30    70            cash     2024-03-10
    t3             a           2024-03-20 -80    -10           card     2024-03-20
    t6             a           2024-03-31 999    989           salary   2024-03-31
    t7             a           2024-03-21 -5     -15           card     2024-04-02
    o              one         2024-03-30 10     10            salary   2024-03-30
    z              none        2024-03-31 10     10            salary   2024-03-31
    """,
)


@pytest.fixture
def rows(engine):
    return values({"transactions": TRANSACTIONS}, "a 2024-03-31\none 2024-03-31\nnone 2024-03-31", training=LATER)


def test_windows_of_money_and_what_it_was(rows):
    row = rows["a", "2024-03-31"]
    assert [row[f"transactions_inflow_sum_{k}m"] for k in (1, 3, 6, 12)] == [100, 150, 190, 190]
    assert [row[f"transactions_outflow_sum_{k}m"] for k in (1, 3)] == [110, 110]
    assert row["transactions_outflow_to_inflow_3m"] == pytest.approx(110 / 150)
    assert row["transactions_inflow_3m_to_12m"] == pytest.approx((150 / 3) / (190 / 12))
    assert row["transactions_cash_share_3m"] == pytest.approx(30 / 110)
    assert row["transactions_category_salary_share_3m"] == pytest.approx(150 / 260)
    assert row["transactions_category_distinct_12m"] == 3.0


def test_how_low_the_balance_was(rows):
    row = rows["a", "2024-03-31"]  # -10, 50, 70, 100 in three months
    assert row["transactions_balance_after_q10_3m"] == pytest.approx(-10 + 0.3 * 60)
    assert row["transactions_balance_after_q25_3m"] == pytest.approx(-10 + 0.75 * 60)
    assert row["transactions_balance_after_min_1m"] == -10.0
    assert row["transactions_overdrawn_share_3m"] == 0.25
    assert row["transactions_overdrawn_recency"] == 11.0
    assert row["transactions_balance_after_last"] == -10.0
    assert row["transactions_balance_after_last_less_mean_12m"] == pytest.approx(-10 - 250 / 5)


def test_receipts_one_after_the_other(rows):
    row = rows["a", "2024-03-31"]  # 30 and 31 December, 29 February: a day and sixty days apart
    assert row["transactions_receipts_gap_mean_12m"] == 30.5
    assert row["transactions_receipts_gap_max_12m"] == 60.0
    assert row["transactions_receipts_gap_min_12m"] == 1.0
    assert row["transactions_receipts_gap_variation_12m"] == pytest.approx(29.5 / 30.5)
    assert row["transactions_receipts_inflow_mean_last_1"] == 100.0
    assert row["transactions_receipts_inflow_last_less_previous"] == 50.0
    assert row["transactions_receipts_inflow_last_less_mean_12m"] == pytest.approx(100 - 190 / 3)


def test_months_one_by_one(rows):
    row = rows["a", "2024-03-31"]  # 100 in and 110 out last month, none the month before, 50 and 40 in before that
    assert row["transactions_monthly_inflow_months_6m"] == 3.0
    assert row["transactions_monthly_deficit_months_6m"] == 1.0
    assert row["transactions_monthly_inflow_min_6m"] == 40.0
    assert row["transactions_monthly_inflow_change_1m"] is None
    assert row["transactions_monthly_inflow_month_1_less_mean_12m"] == pytest.approx(100 - 190 / 3)
    assert row["transactions_monthly_inflow_rank_12m"] == 1.0


def test_one_row_and_none(rows):
    one = rows["one", "2024-03-31"]
    assert one["transactions_inflow_sum_1m"] == 10.0
    assert one["transactions_outflow_sum_1m"] == 0.0
    assert one["transactions_balance_after_std_12m"] == 0.0
    assert one["transactions_balance_after_trend_12m"] is None
    assert one["transactions_receipts_gap_mean_12m"] is None
    assert one["transactions_receipts_inflow_last_less_previous"] is None
    assert one["transactions_history_months"] == 1.0
    none = rows["none", "2024-03-31"]  # its only row is of as_of itself
    assert none["transactions_inflow_sum_12m"] is None
    assert none["transactions_transaction_id_count_12m"] is None
    assert none["transactions_receipts_gap_mean_12m"] is None
