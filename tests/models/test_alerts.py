"""Alerts along thirteen dates: raised, kept, cleared, first seen, evidence; unknown figures raise nothing."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from models.alerts import CODES, DATES, History, Thresholds, held, joined_codes, raise_alerts, use_of_limit

NAN = float("nan")
LIMITS = Thresholds(
    grade_down_notches=2, pd_high=0.2, pd_jump_factor=2, pd_jump_least=0.03, limit_use=0.9, arrears_days=5,
    inflow_drop=0.4, silent_days=60, look_back=3, balance_floor=-0.5, altman_z=1.1, equity_floor=0,
    industry_default_factor=1.5, sentiment_drop=0.5,
)  # fmt: skip


def history(n=1, **figures):
    """Return n customers at 2026-01-01 with a PD of .01 and nothing else known, but for `figures` (n, 13) or a row."""

    def full(values):
        return np.broadcast_to(np.asarray(values, dtype=float), (n, DATES)).copy()

    values = {"pd": 0.01, "notch": 2} | dict.fromkeys(
        (
            "limit_used",
            "days_past_due",
            "inflow",
            "silent_days",
            "bureau_default",
            "balance",
            "altman_z",
            "equity",
            "industry_default_rate",
            "sentiment",
        ),
        NAN,
    )
    matrices = {name: full(value) for name, value in (values | figures).items() if name != "scored"}
    scored = full(figures.get("scored", 1)).astype(bool)
    customers = np.array([f"c{i}" for i in range(n)], dtype=object)
    return History(customers, np.full(n, np.datetime64("2026-01-01")), scored, **matrices)


def row(*tail, before=NAN):
    """Return thirteen figures that end in `tail`."""
    return [before] * (DATES - len(tail)) + list(tail)


def the_one(found):
    assert len(found.table) == 1
    return found.table.iloc[0]


def test_nothing_known_raises_nothing():
    """And the summary says for how many customers each rule could be answered."""
    found = raise_alerts(history(3), LIMITS)
    assert found.table.empty
    assert not found.up.any()
    assert found.applicable["PD_HIGH"] == 3
    assert found.applicable["DATA_SILENT"] == found.applicable["LIMIT_USE"] == 0


def test_raised_at_the_last_date():
    """First seen at as_of; the value and the threshold are its evidence."""
    alert = the_one(raise_alerts(history(pd=row(0.25, before=0.18)), LIMITS))
    assert (alert["code"], alert["severity"], alert["state"]) == ("PD_HIGH", "high", "raised")
    assert alert["first_seen_on"] == dt.datetime(2026, 1, 1)  # noqa: DTZ001
    assert (alert["value"], alert["threshold"]) == (0.25, 0.2)
    assert alert["evidence"] == "PD 0.25, threshold 0.2"
    assert not alert["since_before"]


def test_kept_since_the_start_of_the_unbroken_run():
    """It held in March 2025 too, but not in October: first seen in November."""
    pd = row(0.3, 0.18, 0.18, 0.18, 0.18, 0.18, 0.18, 0.25, 0.25, 0.25, before=0.18)
    alert = the_one(raise_alerts(history(pd=pd), LIMITS))
    assert alert["state"] == "kept"
    assert str(alert["first_seen_on"])[:10] == "2025-11-01"


def test_held_ever_since_the_customer_was_scored():
    """First seen is then no more than the first date that there is, and that is said."""
    pd, scored = row(*[0.3] * 4), row(*[1] * 4, before=0)
    alert = the_one(raise_alerts(history(pd=pd, scored=scored), LIMITS))
    assert alert["since_before"]
    assert str(alert["first_seen_on"])[:10] == "2025-10-01"


def test_cleared_last_month_is_told_and_not_up():
    """With the figures of the last date on which it held."""
    found = raise_alerts(history(pd=row(0.25, 0.3, 0.1, before=0.1)), LIMITS)
    alert = found.table[found.table["code"] == "PD_HIGH"].iloc[0]
    assert (alert["state"], alert["value"]) == ("cleared", 0.3)
    assert str(alert["first_seen_on"])[:10] == "2025-11-01"
    assert not found.up[0, CODES.index("PD_HIGH")]


CASES = {
    "BUREAU_DEFAULT": ({"bureau_default": row(1, before=0)}, {"bureau_default": row(0, before=0)}),
    "PD_HIGH": ({"pd": row(0.2, before=0.19)}, {"pd": row(0.1999, before=0.19)}),
    "NEW_ARREARS": ({"days_past_due": row(0, 0, 0, 5)}, {"days_past_due": row(5, 5, 5, 5)}),
    "GRADE_DOWN": ({"notch": row(3, 3, 3, 5)}, {"notch": row(3, 3, 3, 4)}),
    "PD_JUMP": ({"pd": row(0.02, 0.02, 0.02, 0.04)}, {"pd": row(0.01, 0.01, 0.01, 0.025)}),
    "INFLOW_DROP": ({"inflow": row(100, 100, 100, 60)}, {"inflow": row(100, 100, 100, 61)}),
    "ALTMAN_LOW": ({"altman_z": row(1.09)}, {"altman_z": row(1.1)}),
    "EQUITY_LOW": ({"equity": row(-0.01)}, {"equity": row(0)}),
    "REPUTATION_SHOCK": ({"sentiment": row(0.25, 0, 0, -0.25)}, {"sentiment": row(0.25, 0, 0, -0.24)}),
    "INDUSTRY_SHOCK": (
        {"industry_default_rate": row(0.02, 0.02, 0.02, 0.03)},
        {"industry_default_rate": row(0.02, 0.02, 0.02, 0.029)},
    ),
    "BALANCE_LOW": (
        {"balance": row(-51), "inflow": row(100, before=100)},
        {"balance": row(-50), "inflow": row(100, before=100)},
    ),
    "LIMIT_USE": ({"limit_used": row(0.9)}, {"limit_used": row(0.89)}),
    "DATA_SILENT": ({"silent_days": row(60)}, {"silent_days": row(59)}),
}


@pytest.mark.parametrize("code", CODES)
def test_each_rule_at_its_threshold(code):
    """On the threshold it is up, just short of it is not; and every rule has its case."""
    holds, fails = CASES[code]
    up = raise_alerts(history(**holds), LIMITS)
    assert joined_codes(up.up).tolist() == [code]
    assert joined_codes(raise_alerts(history(**fails), LIMITS).up).tolist() == [""]
    assert up.table.iloc[0]["evidence"]
    assert "{" not in up.table.iloc[0]["evidence"]


CHANGES = {"pd": 0.1, "notch": 9, "days_past_due": 50, "inflow": 1, "sentiment": -1, "industry_default_rate": 0.9}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_needs_both_figures(name):
    """A customer without the figure three months ago has no change to report."""
    value = CHANGES[name]
    assert not raise_alerts(history(**{name: row(value)}), LIMITS).up.any()


def test_a_condition_without_its_number_is_not_looked_at():
    """A policy that was written before the condition existed raises what it always raised."""
    numbers = LIMITS.model_dump(exclude={"balance_floor", "altman_z", "equity_floor", "industry_default_factor",
                                         "sentiment_drop"})  # fmt: skip
    told = {"altman_z": -9, "equity": -9, "balance": -900, "inflow": 1, "industry_default_rate": row(0.9, before=0.1)}
    falling = {"sentiment": row(-1, before=1)}
    assert not raise_alerts(history(**told, **falling), Thresholds(**numbers)).up.any()
    assert len(raise_alerts(history(**told, **falling), LIMITS).table) == 5


def test_an_account_is_overdrawn_whatever_its_inflow():
    """A floor of 0 needs no inflow to compare with."""
    limits = LIMITS.model_copy(update={"balance_floor": 0})
    assert joined_codes(raise_alerts(history(balance=row(-0.01)), limits).up).tolist() == ["BALANCE_LOW"]
    assert not raise_alerts(history(balance=row(0)), limits).up.any()


def test_a_date_without_a_score_raises_nothing():
    """Facts of a date on which the customer was not in the population are no alert."""
    found = raise_alerts(history(bureau_default=row(1, 1, 1), scored=row(1, 0, 0, before=1)), LIMITS)
    assert not found.up.any()
    assert found.table.empty


def test_codes_are_joined_worst_first_and_alerts_ordered_by_customer():
    """Three customers: two alerts, none, one."""
    bad = np.array([row(1, before=0), row(0, before=0), row(1, before=0)])
    silent = np.array([row(70), row(1), row(1)])
    found = raise_alerts(history(3, bureau_default=bad, silent_days=silent), LIMITS)
    assert joined_codes(found.up).tolist() == ["BUREAU_DEFAULT;DATA_SILENT", "", "BUREAU_DEFAULT"]
    told = found.table[["customer_id", "code"]].to_numpy().tolist()
    assert told == [["c0", "BUREAU_DEFAULT"], ["c0", "DATA_SILENT"], ["c2", "BUREAU_DEFAULT"]]


def test_history_lists_every_date_on_which_a_condition_held():
    """For measuring lead times."""
    found = held(history(pd=row(0.3, 0.18, 0.3, before=0.18)), LIMITS)
    dates = found[found["code"] == "PD_HIGH"]["as_of"].astype(str).tolist()
    assert dates == ["2025-11-01", "2026-01-01"]


def test_evidence_in_chinese():
    """The language of the run."""
    found = raise_alerts(history(silent_days=row(61)), LIMITS, language="zh")
    assert found.table.iloc[0]["evidence"] == "61 天无任何记录"


def test_use_of_limit_is_unknown_without_a_limit_and_where_other_products_are_owed():
    """A loan of 5,000 beside a card of 1,000 says nothing about the card."""
    found = use_of_limit(np.array([90.0, 100.0, 5000.0, 90.0, NAN]), np.array([100.0, 100.0, 1000.0, 0.0, 100.0]))
    assert found[:2].tolist() == [0.9, 1.0]
    assert np.isnan(found[2:]).all()


def test_no_customers():
    """An empty table is no special case."""
    found = raise_alerts(history(0), LIMITS)
    assert found.table.empty
    assert joined_codes(found.up).tolist() == []
