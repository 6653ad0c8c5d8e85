"""Facts for policy and alerts: known at as_of, null where nothing was."""

import pyarrow as pa

from tests.features.drawn import draw, matrix_of, observe

CUSTOMERS = draw("customers", "customer_id kind opened_on industry\na company 2022-01-01 i1\nb company 2022-01-01 -")
INDUSTRIES = draw(
    "industries",
    """
    industry period_start default_rate known_on
    i1       2023-12-01   0.02         2024-01-01
    i1       2024-01-01   0.04         2024-02-01
    i1       2024-02-01   0.09         2024-03-01
    """,
)
MENTIONS = draw(
    "mentions",
    """
    mention_id customer_id event_on   sentiment
    m1         a           2024-01-10 -0.5
    m2         a           2024-02-10 0.25
    m3         a           2024-05-01 -1
    """,
)
FINANCIALS = draw(
    "financials",
    """
    customer_id period_end published_on current_assets total_assets current_liabilities total_liabilities equity retained_earnings ebit known_on
    b           2022-12-31 2023-05-01   400            1000         200                 1100              -100   100               100  2023-05-01
    """,
)  # fmt: skip


def test_facts_of_companies():
    """The industry's newest known figure; mentions of three months; the accounts' equity and Altman Z''."""
    tables = {"customers": CUSTOMERS, "industries": INDUSTRIES, "mentions": MENTIONS, "financials": FINANCIALS}
    matrix, asked = matrix_of(tables, observe("a 2024-03-01\na 2024-05-01\nb 2024-03-01"))
    rows = pa.concat_tables([part for _, part in matrix.groups(asked, with_position=True)]).to_pylist()
    stands = {(row["customer_id"], row["as_of"].isoformat()): row for row in rows}
    march, may, other = stands["a", "2024-03-01"], stands["a", "2024-05-01"], stands["b", "2024-03-01"]
    assert (march["industry_default_rate"], may["industry_default_rate"]) == (0.04, 0.09)
    assert (march["sentiment_3m"], may["sentiment_3m"]) == (-0.125, 0.25)
    assert other["industry_default_rate"] is other["sentiment_3m"] is march["altman_z"] is None
    assert float(other["equity"]) == -100
    assert other["altman_z"] == 6.56 * 0.2 + 3.26 * 0.1 + 6.72 * 0.1 + 1.05 * (-100 / 1100)


def stands_of(tables, asked_for, names):
    """Return (customer, date) -> these columns of the position."""
    matrix, asked = matrix_of(tables, observe(asked_for))
    rows = pa.concat_tables([part for _, part in matrix.groups(asked, with_position=True)]).to_pylist()
    return {(row["customer_id"], row["as_of"].isoformat()): tuple(row[name] for name in names) for row in rows}


CREDITS = draw(
    "credits",
    """
    credit_id customer_id provider product opened_on  term_months known_on
    c1        a           own      card    2023-01-10 -           2023-01-10
    c2        a           own      card    2023-02-10 -           2023-02-10
    c3        a           bureau   loan    2023-02-10 -           2023-02-10
    c4        b           own      card    2023-01-10 -           2023-01-10
    c5        b           own      loan    2023-01-10 12          2023-01-10
    c6        c           own      card    2023-01-10 -           2023-01-10
    c7        c           own      -       2023-01-10 -           2023-01-10
    c8        d           own      loan    2023-01-10 12          2023-01-10
    """,
)


def test_the_product_is_that_of_the_open_own_lines_where_all_are_of_one():
    """Two cards are one product; another lender's line does not count; a loan that is over leaves the card alone."""
    found = stands_of(
        {"credits": CREDITS},
        "a 2023-06-01\nb 2023-06-01\nb 2024-06-01\nc 2023-06-01\nd 2023-06-01\nd 2024-06-01\ne 2023-06-01",
        ["product"],
    )
    assert found == {
        ("a", "2023-06-01"): ("card",), ("b", "2023-06-01"): (None,), ("b", "2024-06-01"): ("card",),
        ("c", "2023-06-01"): (None,), ("d", "2023-06-01"): ("loan",), ("d", "2024-06-01"): (None,),
        ("e", "2023-06-01"): (None,),
    }  # fmt: skip


def test_the_income_stated_at_the_decision_stands_in_where_no_transaction_is_known():
    """What the accounts say goes first."""
    transactions = draw(
        "transactions",
        "transaction_id customer_id event_on amount known_on\nt1 a 2023-05-10 1000 2023-05-10",
    )
    observations = draw(
        "observations",
        "customer_id as_of stated_income known_on\na 2023-06-01 700 2023-05-31\nb 2023-06-01 800 2023-05-31\nc 2023-06-01 - 2023-05-31",
    )
    found = stands_of(
        {"transactions": transactions, "observations": observations},
        "a 2023-06-01\nb 2023-06-01\nc 2023-06-01", ["monthly_inflow"],
    )  # fmt: skip
    assert {customer: income for (customer, _), (income,) in found.items()} == {"a": 1000, "b": 800, "c": None}
