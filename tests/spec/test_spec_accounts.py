"""Accounts over the years: growth, lateness of filing, restatements, gaps, single rows, unknown lines."""

import pytest

from tests.features.drawn import draw, values

YEARS = draw(
    "financials",
    """
    customer_id period_end published_on total_assets equity revenue net_income known_on
    a           2021-12-31 2022-03-31   800          400    1000    50         2022-03-31
    a           2022-12-31 2023-05-31   1000         -100   1100    -20        2023-05-31
    a           2023-12-31 2024-09-30   900          200    990     30         2024-09-30
    """,
)


def test_growth_and_change_are_over_a_year():
    row = values({"financials": YEARS}, "a 2023-07-01")["a", "2023-07-01"]
    assert row["financials_revenue_growth_1y"] == pytest.approx(0.1)
    assert row["financials_total_assets_growth_1y"] == pytest.approx(0.25)
    assert row["financials_equity_growth_1y"] == pytest.approx(-1.25)
    assert row["financials_net_income_change_to_assets_1y"] == pytest.approx(-70 / 800)
    assert row["financials_loss_count_3"] == 1.0
    later = values({"financials": YEARS}, "a 2024-10-01")["a", "2024-10-01"]
    assert later["financials_equity_growth_1y"] is None  # it grew from below zero
    assert later["financials_net_income_growth_1y"] is None
    assert later["financials_return_on_equity"] == 0.15
    assert later["financials_loss_count_3"] == 1.0
    assert later["financials_count"] == 3.0


def test_half_years_are_set_against_the_half_year_twelve_months_before():
    halves = draw(
        "financials",
        """
        customer_id period_end revenue total_assets known_on
        a           2022-06-30 60      100          2022-08-01
        a           2022-12-31 30      100          2023-02-01
        a           2023-06-30 66      100          2023-08-01
        """,
    )
    rows = values({"financials": halves}, "a 2023-03-01\na 2023-09-01")
    assert rows["a", "2023-09-01"]["financials_revenue_growth_1y"] == pytest.approx(0.1)
    assert rows["a", "2023-03-01"]["financials_revenue_growth_1y"] is None


def test_a_year_that_is_missing_gives_no_growth():
    gap = YEARS.take([0, 2])
    row = values({"financials": gap}, "a 2024-10-01")["a", "2024-10-01"]
    assert row["financials_revenue"] == 990.0
    assert row["financials_revenue_growth_1y"] is None


def test_a_leap_year_is_a_year():
    leap = draw(
        "financials", "customer_id period_end revenue known_on\na 2023-02-28 10 2023-04-01\na 2024-02-29 12 2024-04-01"
    )
    row = values({"financials": leap}, "a 2024-05-01")["a", "2024-05-01"]
    assert row["financials_revenue_growth_1y"] == pytest.approx(0.2)


def test_lateness_of_filing_is_against_the_companys_own_habit():
    rows = values({"financials": YEARS}, "a 2023-07-01\na 2024-08-01\na 2024-10-01")
    first = rows["a", "2023-07-01"]
    assert first["financials_publication_lag_days"] == 151.0
    assert first["financials_publication_lag_to_own"] == 151.0 - 90.0
    assert first["financials_filing_overdue_days"] == 0.0
    waiting = rows["a", "2024-08-01"]
    assert waiting["financials_filing_overdue_days"] == 579.0 - 365.0 - 90.0
    assert rows["a", "2024-10-01"]["financials_publication_lag_to_own"] == 274.0 - (151.0 + 90.0) / 2


def test_one_set_of_accounts_has_no_habit_and_unknown_lines_are_counted():
    row = values({"financials": YEARS}, "a 2022-04-01")["a", "2022-04-01"]
    assert row["financials_publication_lag_to_own"] is None
    assert row["financials_filing_overdue_days"] is None
    assert row["financials_missing_share"] == pytest.approx(8 / 12)
    assert "financials_current_ratio" not in row  # no source of current assets at all


def test_restated_accounts_count_from_when_they_were_restated_and_keep_their_publication():
    restated = draw(
        "financials",
        """
        customer_id period_end published_on total_assets revenue known_on
        a           2022-12-31 2023-03-01   100          50      2023-03-01
        a           2022-12-31 2023-03-01   80           50      2023-06-15
        """,
    )
    rows = values({"financials": restated}, "a 2023-06-15\na 2023-06-16")
    assert rows["a", "2023-06-15"]["financials_total_assets"] == 100.0
    assert rows["a", "2023-06-16"]["financials_total_assets"] == 80.0
    assert rows["a", "2023-06-16"]["financials_publication_lag_days"] == 60.0


def test_the_day_of_publication_is_not_before_it():
    rows = values({"financials": YEARS}, "a 2022-03-31\na 2022-04-01")
    assert rows["a", "2022-03-31"]["financials_total_assets"] is None
    assert rows["a", "2022-04-01"]["financials_total_assets"] == 800.0
