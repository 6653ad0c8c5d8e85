"""What schedules imply, on rows drawn by hand: the yearly rate, the term, new instalments against old ones."""

import pytest

from tests.features.drawn import draw, observe, values

LATER = observe("a 2030-01-01")

# 1,000 lent for twelve months at 1% a month: an annuity of 88.85; 600 lent in six interest-free instalments of 100
CREDITS = draw(
    "credits",
    """
    credit_id customer_id provider opened_on  principal
    old       a           own      2023-01-01 1000
    new       a           own      2024-01-15 600
    theirs    a           bank     2024-02-01 900
    """,
)
OLD = "\n".join(f"old {2023 + month // 12}-{month % 12 + 1:02}-01 88.85 2023-01-01" for month in range(1, 13))
NEW = "\n".join(f"new 2024-{month:02}-29 100 2024-01-15" for month in range(2, 8))
INSTALMENTS = draw("instalments", f"credit_id due_on amount known_on\n{OLD}\n{NEW}\ntheirs 2024-03-01 900 2024-02-01")
TABLES = {"credits": CREDITS, "instalments": INSTALMENTS}


def test_the_rate_of_an_annuity_at_one_percent_a_month():
    row = values(TABLES, "a 2024-01-01", training=LATER)["a", "2024-01-01"]
    assert row["schedules_rate_newest"] == pytest.approx(0.12, abs=0.001)
    assert row["schedules_term_newest"] == pytest.approx(1000 / 88.85)
    assert row["schedules_instalment_newest_to_previous"] is None  # one credit only
    assert row["schedules_largest_past"] == 88.85
    assert row["schedules_ahead_to_largest_past"] == 1.0  # the last one falls due on as_of: still to come


def test_a_new_credit_counts_from_the_day_after_it_was_known_and_other_lenders_never():
    rows = values(TABLES, "a 2024-01-15\na 2024-01-16\na 2024-02-29\na 2024-03-01", training=LATER)
    assert rows["a", "2024-01-15"]["schedules_term_newest"] == pytest.approx(1000 / 88.85)
    day_after = rows["a", "2024-01-16"]
    assert day_after["schedules_rate_newest"] == 0.0
    assert day_after["schedules_term_newest"] == 6.0
    assert day_after["schedules_instalment_newest_to_previous"] == pytest.approx(100 / 88.85)
    assert day_after["schedules_ahead_to_largest_past"] == pytest.approx(100 / 88.85)
    assert rows["a", "2024-02-29"]["schedules_largest_past"] == 88.85  # due on the leap day itself: not past yet
    assert rows["a", "2024-03-01"]["schedules_largest_past"] == 100.0


def test_quarterly_instalments_are_four_a_year():
    credits_ = draw("credits", "credit_id customer_id provider opened_on principal\nk a own 2023-01-01 400")
    due = draw(
        "instalments",
        """
        credit_id due_on     amount known_on
        k         2023-04-01 105    2023-01-01
        k         2023-07-01 105    2023-01-01
        k         2023-10-01 105    2023-01-01
        k         2024-01-01 105    2023-01-01
        """,
    )
    row = values({"credits": credits_, "instalments": due}, "a 2023-02-01", training=LATER)["a", "2023-02-01"]
    a_year = 3 * 365.25 / 275  # 1 April to 1 January are 275 days
    assert row["schedules_rate_newest"] == pytest.approx(6 * a_year * 20 / (3 * 400 * 5 + 20 * 3), rel=1e-9)
    assert row["schedules_largest_past"] is None  # nothing fell due yet


def test_one_instalment_has_no_rate_and_a_restated_one_counts_as_restated():
    credits_ = draw("credits", "credit_id customer_id provider opened_on principal\nk a own 2023-01-01 400")
    due = draw(
        "instalments",
        "credit_id due_on amount known_on\nk 2023-04-01 440 2023-01-01\nk 2023-04-01 200 2023-02-10",
    )
    rows = values({"credits": credits_, "instalments": due}, "a 2023-02-10\na 2023-02-11", training=LATER)
    assert rows["a", "2023-02-10"]["schedules_term_newest"] == pytest.approx(400 / 440)
    assert rows["a", "2023-02-11"]["schedules_term_newest"] == 2.0
    assert rows["a", "2023-02-11"]["schedules_rate_newest"] is None


def test_the_rate_asked_for_and_the_instalment_against_the_largest_before():
    decisions = draw(
        "observations",
        """
        customer_id as_of      loan_amount loan_duration loan_payment known_on
        a           2024-03-01 1000        12            88.85        2024-02-29
        b           2024-03-01 1000        24            -            2024-02-29
        """,
        numeric=("loan_amount", "loan_duration", "loan_payment"),
    )
    traits = {"observations": {"numeric": ["loan_amount", "loan_duration", "loan_payment"]}}
    rows = values({**TABLES, "observations": decisions}, "a 2024-03-01\nb 2024-03-01", attributes=traits)
    assert rows["a", "2024-03-01"]["observations_loan_payment_implied_rate"] == pytest.approx(0.12, abs=0.001)
    assert rows["a", "2024-03-01"]["observations_loan_payment_to_largest_instalment"] == pytest.approx(0.8885)
    assert rows["b", "2024-03-01"]["observations_loan_payment_implied_rate"] is None
    assert rows["b", "2024-03-01"]["observations_loan_payment_to_largest_instalment"] is None
