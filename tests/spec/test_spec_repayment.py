"""Instalments against payments on rows drawn by hand."""

import pytest

from tests.features.drawn import draw, observe, values

CREDITS = draw(
    "credits",
    """
    credit_id customer_id provider opened_on  principal
    k1        a           own      2023-12-01 300
    """,
)
INSTALMENTS = draw(
    "instalments",
    """
    credit_id due_on     amount known_on
    k1        2024-01-01 100    2023-12-01
    k1        2024-02-01 100    2023-12-01
    k1        2024-03-01 100    2023-12-01
    k1        2024-05-01 50     2023-12-01
    k1        2024-07-15 25     2023-12-01
    """,
)


def seen(payments: str, as_of: str = "2024-03-11") -> dict[str, object]:
    tables = {"credits": CREDITS, "instalments": INSTALMENTS, "payments": draw("payments", payments)}
    return values(tables, f"a {as_of}", training=observe("a 2024-12-31"))["a", as_of]


IN_ORDER = """
    payment_id credit_id paid_on    amount
    p1         k1        2023-12-31 100
    p2         k1        2024-02-11 60
    p3         k1        2024-02-21 40
    """


def test_an_instalment_is_settled_by_the_payment_that_reaches_its_end():
    row = seen(IN_ORDER)
    # one day early, twenty days late, ten days late so far
    assert row["instalments_days_late_mean_3m"] == pytest.approx((-1 + 20 + 10) / 3)
    assert row["instalments_days_late_max_3m"] == 20.0
    assert row["instalments_late_share_3m"] == pytest.approx(2 / 3)
    assert row["instalments_late_over_5_days_share_3m"] == pytest.approx(2 / 3)
    assert row["instalments_late_over_30_days_share_12m"] == 0.0
    assert row["instalments_days_late_last"] == 10.0


def test_arrears_now():
    row = seen(IN_ORDER)
    assert row["instalments_overdue_sum"] == 100.0
    assert row["instalments_overdue_count"] == 1.0
    assert row["instalments_days_past_due"] == 10.0
    assert row["instalments_paid_share_12m"] == pytest.approx(2 / 3)


def test_money_settles_the_oldest_first():
    row = seen("payment_id credit_id paid_on amount\np1 k1 2024-03-05 150")
    assert row["instalments_overdue_sum"] == 150.0
    assert row["instalments_days_past_due"] == 39.0  # since 1 February, half paid
    assert row["instalments_overdue_count"] == 2.0


def test_a_stated_due_date_settles_that_instalment():
    row = seen("payment_id credit_id paid_on amount due_on\np1 k1 2024-03-05 100 2024-03-01")
    assert row["instalments_days_past_due"] == 70.0  # January is still open
    assert row["instalments_days_late_last"] == 4.0


def test_a_payment_known_late_does_not_help_before():
    row = seen("payment_id credit_id paid_on amount known_on\np1 k1 2024-03-05 300 2024-03-11")
    assert row["instalments_overdue_sum"] == 300.0
    row = seen("payment_id credit_id paid_on amount known_on\np1 k1 2024-03-05 300 2024-03-10")
    assert row["instalments_overdue_sum"] == 0.0
    assert row["instalments_days_past_due"] == 0.0


def test_what_falls_due_next():
    row = seen(IN_ORDER)
    assert row["obligations_due_next_3m"] == 50.0
    assert row["obligations_due_next_12m"] == 75.0
    assert row["obligations_due_in_all"] == 75.0
    assert row["obligations_last_due_days"] == 126.0
    assert seen(IN_ORDER, "2024-05-01")["obligations_due_next_3m"] == 75.0  # due on as_of: still to come


def test_payments():
    row = seen(IN_ORDER)
    assert row["payments_amount_sum_3m"] == 200.0
    assert row["payments_amount_recency"] == 19.0
    assert row["payments_amount_last"] == 40.0


def test_nothing_due_yet_is_null():
    row = seen(IN_ORDER, "2024-01-01")
    assert row["instalments_overdue_sum"] is None
    assert row["instalments_days_late_mean_3m"] is None
