"""Accounts, industry, standing and reputation on rows drawn by hand."""

import pytest

from tests.features.drawn import draw, values

FINANCIALS = draw(
    "financials",
    """
    customer_id period_end published_on current_assets inventory total_assets current_liabilities total_liabilities equity retained_earnings revenue ebit interest_expense net_income operating_cash_flow known_on
    a           2022-12-31 2023-05-01   400            100       1000         200                 500               500    100               2000    100  20               50         80                  2023-05-01
    a           2023-12-31 2024-05-01   300            50        1200         400                 900               300    -50               2200    -40  30               -60        0                   2024-05-01
    """,
)  # fmt: skip
CUSTOMERS = draw("customers", "customer_id kind opened_on industry\na company 2022-01-01 i1")
INDUSTRIES = draw(
    "industries",
    """
    industry period_start default_rate growth known_on
    i1       2023-12-01   0.02         0.01   2024-01-01
    i1       2024-01-01   0.04         0.03   2024-02-01
    i2       2024-01-01   0.50         0.50   2024-02-01
    i1       2024-02-01   0.09         0.09   2024-03-01
    """,
)
MENTIONS = draw(
    "mentions",
    """
    mention_id customer_id event_on   sentiment reach
    m1         a           2024-01-10 -0.5      100
    m2         a           2024-02-10 0.25      300
    """,
)
STANDINGS = draw("standings", "customer_id period_start market_share\na 2023-07-01 0.10\na 2024-01-01 0.16")


def test_ratios_come_from_the_newest_accounts_published_before_as_of():
    rows = values({"financials": FINANCIALS}, "a 2024-05-01\na 2024-05-02")
    row = rows["a", "2024-05-01"]
    assert row["financials_current_ratio"] == 2.0
    assert row["financials_quick_ratio"] == 1.5
    assert row["financials_debt_to_assets"] == 0.5
    assert row["financials_interest_cover"] == 5.0
    assert row["financials_ebit_margin"] == 0.05
    assert row["financials_age_days"] == 487.0
    assert row["financials_publication_lag_days"] == 121.0
    assert row["financials_revenue_growth_1y"] is None
    later = rows["a", "2024-05-02"]
    assert later["financials_current_ratio"] == 0.75
    assert later["financials_revenue_growth_1y"] == pytest.approx(0.1)


def test_altman_z_is_the_published_formula():
    row = values({"financials": FINANCIALS}, "a 2024-01-01")["a", "2024-01-01"]
    assert row["financials_altman_z"] == pytest.approx(6.56 * 0.2 + 3.26 * 0.1 + 6.72 * 0.1 + 1.05 * 1.0)
    later = values({"financials": FINANCIALS}, "a 2024-06-01")["a", "2024-06-01"]
    z = 6.56 * (-100 / 1200) + 3.26 * (-50 / 1200) + 6.72 * (-40 / 1200) + 1.05 * (300 / 900)
    assert later["financials_altman_z"] == pytest.approx(z)
    assert later["financials_altman_z_change_1y"] == pytest.approx(z - row["financials_altman_z"])


def test_a_denominator_of_zero_gives_null():
    zero = draw(
        "financials", "customer_id period_end published_on current_assets current_liabilities total_assets\na 2022-12-31 2023-05-01 4 0 0"
    )  # fmt: skip
    row = values({"financials": zero}, "a 2024-01-01")["a", "2024-01-01"]
    assert row["financials_current_ratio"] is None


def test_the_industry_is_the_customers_own_and_known_before():
    row = values({"customers": CUSTOMERS, "industries": INDUSTRIES}, "a 2024-03-01")["a", "2024-03-01"]
    assert row["industry_default_rate"] == 0.04
    assert row["industry_default_rate_to_year"] == pytest.approx(0.01)
    assert row["customers_industry"] == "i1"
    assert row["customers_relationship_months"] == 26.0


def test_reputation_and_standing():
    row = values({"mentions": MENTIONS, "standings": STANDINGS}, "a 2024-03-01")["a", "2024-03-01"]
    assert row["mentions_sentiment_mean_12m"] == -0.125
    assert row["mentions_sentiment_min_6m"] == -0.5
    assert row["mentions_negative_share_12m"] == 0.5
    assert row["mentions_sentiment_by_reach_12m"] == pytest.approx((-50 + 75) / 400)
    assert row["standing_market_share_last"] == 0.16
    assert row["standing_market_share_trend_12m"] == pytest.approx(0.06 / 184 * 30.4375)


def test_an_industry_a_year_on():
    figures = draw(
        "industries",
        """
        industry period_start competition policy_signal size known_on
        i1       2022-12-01   3           -1            100  2022-12-31
        i1       2023-02-01   4           0             120  2023-02-28
        i1       2024-02-01   7           2             150  2024-02-29
        """,
    )
    row = values({"customers": CUSTOMERS, "industries": figures}, "a 2024-03-01")["a", "2024-03-01"]
    assert row["industry_competition_change_1y"] == 3.0
    assert row["industry_policy_signal_change_1y"] == 2.0
    assert row["industry_size_change_1y"] == 30.0
    assert row["industry_competition_to_year"] == 0.0
    edge = values({"customers": CUSTOMERS, "industries": figures}, "a 2024-02-29")["a", "2024-02-29"]
    assert edge["industry_competition"] == 4.0  # published that day
    assert edge["industry_competition_change_1y"] == 0.0


def test_reputation_by_window_with_its_last_and_worst():
    said = draw(
        "mentions",
        """
        mention_id customer_id event_on   source sentiment reach known_on
        m1         a           2023-05-01 press  0.5       1000  2023-05-01
        m2         a           2023-12-01 press  -1        10    2023-12-05
        m3         a           2024-02-29 web    0.25      300   2024-02-29
        m4         a           2024-02-20 web    -0.75     50    2024-03-02
        """,
    )
    rows = values({"mentions": said}, "a 2024-03-01\na 2024-03-03")
    row = rows["a", "2024-03-01"]
    assert row["mentions_mention_id_count_3m"] == 2.0
    assert row["mentions_sentiment_last"] == 0.25
    assert row["mentions_negative_recency"] == 91.0
    assert row["mentions_reach_sum_12m"] == 1310.0
    assert row["mentions_source_distinct_12m"] == 2.0
    assert row["mentions_sentiment_3m_to_12m"] == pytest.approx(-0.375 - (0.5 - 1 + 0.25) / 3)
    assert rows["a", "2024-03-03"]["mentions_negative_recency"] == 12.0  # it came to light late


def test_a_company_that_nobody_mentions_has_no_reputation():
    assert values({"mentions": MENTIONS}, "b 2024-03-01")["b", "2024-03-01"]["mentions_mention_id_count_12m"] is None
