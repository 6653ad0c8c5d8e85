"""The families that won competitions and apply to canonical tables: which feature names cover each, all of them built.

A family is named as in the field study that the issue draws on; `other tables` are what a source may bring besides. The
scores of single child rows are fitted in models/ and stand among its tests.
"""

from __future__ import annotations

import datetime as dt

import pytest

from tests.features.drawn import draw, matrix_of, observe
from tests.spec.test_oracle_persons import ANCHOR, table_of

FAMILIES = {
    "bureau scores and their gaps": ("scores_rating_last", "scores_rating_missing_share_12m", "scores_rating_mean_12m"),
    "implied term and rate": (
        "schedules_rate_newest", "schedules_term_newest", "observations_payment_implied_rate",
        "observations_loan_amount_to_payment",
    ),
    "affordability": ("observations_payment_to_inflow_6m", "obligations_due_next_3m_to_inflow_6m",
                      "credits_balance_sum_to_inflow_6m", "balance_to_obligations_3m"),
    "debt, overdue and limit over all lines": ("debt_in_all", "overdue_to_debt_in_all", "limit_in_all",
                                               "debt_to_principal_in_all"),
    "recency": ("transactions_inflow_recency", "instalments_late_recency", "bureau_newest_months",
                "credits_late_recency_months"),
    "windows from a month to three years and ever": (
        "transactions_inflow_sum_1m", "transactions_inflow_sum_12m", "transactions_amount_sum_36m",
        "transactions_amount_sum_ever", "instalments_days_late_max_24m",
    ),
    "last and first k": ("instalments_days_late_mean_last_5", "instalments_days_late_mean_first_2",
                         "payments_amount_mean_last_3"),
    "lateness": ("instalments_late_share_12m", "instalments_late_over_5_days_share_3m",
                 "instalments_days_late_by_amount_12m", "instalments_days_late_max_3m"),
    "under- and over-payment": ("payments_to_due_12m", "payments_less_due_3m", "statements_repaid_of_bill_month_1",
                                "instalments_paid_share_3m"),
    "trends": ("transactions_balance_after_trend_12m", "instalments_days_late_trend_last_5",
               "statements_balance_trend_3m"),
    "recent over long window": ("transactions_inflow_3m_to_12m", "instalments_late_share_3m_less_12m"),
    "last less previous and less mean": ("instalments_days_late_last_less_previous", "statements_balance_change_1m",
                                         "instalments_days_late_last_less_mean_12m", "scores_rating_last_less_mean_12m"),
    "spread": ("instalments_days_late_std_12m", "statements_balance_variation_12m", "statements_balance_range_12m"),
    "time-decayed means": ("instalments_days_late_decayed_12m", "payments_amount_decayed_12m",
                           "scores_rating_decayed_12m"),
    "subsets by state and product": ("credits_open_count", "credits_closed_share", "bureau_count",
                                     "credits_product_card_open_count", "scores_rating_of_grade_low_mean_12m"),
    "attributes of the newest line": ("credits_product_last", "bureau_product_last", "scores_grade_last"),
    "utilisation and cash": ("statements_utilisation_mean_12m", "credits_line_balance_to_limit_max",
                             "transactions_cash_share_12m"),
    "low balances": ("transactions_balance_after_q10_12m", "transactions_balance_after_q25_3m",
                     "transactions_monthly_low_mean_3m"),
    "regularity": ("payments_gap_mean_12m", "payments_gap_std_12m", "transactions_receipts_gap_variation_12m",
                   "transactions_monthly_inflow_variation_12m"),
    "forward obligations": ("obligations_due_next_12m", "obligations_due_in_all", "credits_months_left_max",
                            "obligations_left_share"),
    "new against old": ("credits_newest_principal_to_previous", "schedules_instalment_newest_to_previous",
                        "schedules_ahead_to_largest_past", "observations_payment_to_largest_instalment"),
    "ranks in own history and in the month": ("statements_balance_rank_12m", "transactions_monthly_inflow_rank_12m",
                                              "peers_inflow_6m_rank_month"),
    "counts, missing values, categories, peers": (
        "transactions_transaction_id_count_3m", "statements_months_missing_share_12m", "scores_grade_distinct_12m",
        "scores_grade_low_share_12m", "peers_inflow_6m_less_industry", "peers_balance_6m_less_region",
    ),
    "arrears": ("arrears_overdue_mean_365d", "arrears_overdue_max_365d", "arrears_longest_days_365d"),
}  # fmt: skip


@pytest.fixture(scope="module")
def everything():
    """Return the features and the sentences of a lender that gives every table of persons."""
    tables = {name: table_of(name, rows) for name, rows in ANCHOR.items()}
    tables["customers"] = draw("customers", "customer_id kind industry segment region\nanchor person 7 small north")
    tables["observations"] = draw(
        "observations",
        "customer_id as_of loan_amount payment term known_on\nanchor 2025-12-01 900 90 12 2025-11-30",
        numeric=("loan_amount", "payment", "term"),
    )
    tables["scores"] = draw(
        "scores",
        "customer_id event_on rating grade\nanchor 2025-10-01 500 low\nanchor 2025-11-01 600 high",
        numeric=("rating",),
    )
    traits = {
        "observations": {"numeric": ["loan_amount", "payment", "term"]},
        "scores": {"numeric": ["rating"], "categorical": ["grade"]},
    }
    matrix, _ = matrix_of(tables, observe("anchor 2026-01-01"), attributes=traits)
    assert matrix.edge == dt.date(2026, 1, 1)
    return {feature.name: feature for feature, _, _ in matrix.features}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_built(everything, family):
    assert set(FAMILIES[family]) <= set(everything)


def test_every_feature_says_what_it_is(everything):
    for name, feature in everything.items():
        assert name == name.lower()
        assert " " not in name
        assert feature.sentence[:1].isupper(), name
        assert feature.sentence_zh, name
        assert feature.null_means, name
        assert "  " not in feature.sentence, name
        assert not feature.sentence.endswith("."), name
    sentences = [feature.sentence for feature in everything.values()]
    assert len(set(sentences)) == len(sentences), sorted(s for s in set(sentences) if sentences.count(s) > 1)
