"""The worklist on hand-drawn customers: who is on it, in which order and week, what is asked and offered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contacts import Standing
from models.worklist import Facts, Rules, asked, listed, loss_avoided, next_reviews, offered

AS_OF = np.datetime64("2026-01-01")
NEVER = np.datetime64("NaT", "D")
RULES = Rules(weeks=2, weekly_capacity=1, unassigned_capacity=2, late_days=60, avoided_early=0.5, avoided_late=0.1)
# customer, owner, pd, expected loss, days past due, alarmed, action; all are reviewed within 24 months
ROWS = (
    ("a", "lee", 0.30, 100.0, 0, True, "keep"),
    ("b", "lee", 0.40, 900.0, 61, True, "prepay"),  # comes late: 90 of 900
    ("c", "lee", 0.10, 400.0, 0, False, "reduce"),  # no alert, but an action
    ("d", None, 0.05, 10.0, 0, True, "keep"),
    ("e", "may", 0.20, np.nan, 0, True, "keep"),  # nothing known to lose
    ("f", "lee", 0.01, 5.0, 0, False, "keep"),  # calm
)


def facts(rows=ROWS, months=24):
    who, owner, pd_, loss, late, alarmed, action = zip(*rows, strict=True)
    return Facts(
        np.array(who, dtype=object), np.array(owner, dtype=object), np.array(pd_), np.array(loss, dtype=float),
        np.array(late, dtype=float), np.full(len(rows), months), np.array(alarmed), np.array(action, dtype=object),
    )  # fmt: skip


def everyone_open(n=6, last="2025-12-20"):
    """All were contacted long enough ago to be open, and so lately that no review is due."""
    none = np.full(n, None, dtype=object)
    return Standing(np.full(n, "open", dtype=object), none, np.full(n, NEVER), np.full(n, last, dtype="M8[D]"))


def one_list(standing=None, rules=RULES, **given_):
    found = listed(facts(**given_), standing or everyone_open(), AS_OF, rules)
    return found.set_index("customer_id")


def test_the_order_is_that_of_the_loss_which_a_contact_avoids():
    """400 x .5, 900 x .1 (late), 100 x .5, 10 x .5, unknown is 0: b is worth more than a, in spite of being late."""
    found = one_list()
    assert found["rank"].to_dict() == {"c": 1, "b": 2, "a": 3, "d": 4, "e": 5}
    assert found["loss_avoided"].to_dict() == {"c": 200.0, "b": 90.0, "a": 50.0, "d": 5.0, "e": 0.0}


def test_each_owners_weeks_are_filled_in_that_order_and_the_rest_waits():
    """Lee can do one a week: c, then b; a waits. Those of others do not take Lee's place."""
    found = one_list()
    assert found["state"].to_dict() == {"c": "open", "b": "open", "a": "waiting", "d": "open", "e": "open"}
    assert found["week"].dropna().to_dict() == {"c": 1, "b": 2, "d": 1, "e": 1}
    assert found["due_on"].dropna().astype(str).to_dict() == {
        "c": "2026-01-07", "b": "2026-01-14", "d": "2026-01-07", "e": "2026-01-07",
    }  # fmt: skip
    assert list(found.index) == ["c", "b", "d", "e", "a"]  # who waits comes after


def test_an_owner_may_have_a_capacity_of_his_own():
    found = one_list(rules=RULES.model_copy(update={"owners": {"lee": 3}}))
    assert found.loc[["c", "b", "a"], "week"].tolist() == [1, 1, 1]


def test_who_rests_is_shown_last_and_takes_no_place():
    now = everyone_open()
    now.state[2], now.again_from[2] = "done", np.datetime64("2026-02-01")
    found = one_list(now)
    assert found.loc["c", "state"] == "done"
    assert pd.isna(found.loc["c", "rank"])
    assert found.loc["b", "week"] == 1
    assert found.loc["a", "week"] == 2
    assert found.index[-1] == "c"


def test_a_review_puts_a_calm_customer_on_the_list_when_it_is_due():
    """Six months after 5 July is 5 January, within the two weeks; after 15 July it is not."""
    assert "f" in one_list(everyone_open(last="2025-07-05"), months=6).index
    assert "f" not in one_list(everyone_open(last="2025-07-15"), months=6).index
    assert one_list(everyone_open(last="2025-07-05"), months=6).loc["f", "kind"] == "review"


def reviews(months, last="NaT", as_of="2026-01-01", n=400):
    who = np.array([f"c{k}" for k in range(n)], dtype=object)
    return next_reviews(who, np.full(n, as_of, dtype="M8[D]"), np.full(n, months), np.full(n, last, dtype="M8[D]"))


def test_first_reviews_spread_over_the_interval_and_stay_from_run_to_run():
    """A month later the same days stand, but for those of January, which come again an interval later."""
    first, later = reviews(6), reviews(6, as_of="2026-02-01")
    month = (first.astype("M8[M]") - np.datetime64("2026-01")).astype(int)
    assert sorted(set(month)) == list(range(6))
    assert np.bincount(month).min() > 30
    assert (later[month > 0] == first[month > 0]).all()
    again = first[month == 0].astype("M8[M]") + 6
    assert (later[month == 0].astype("M8[M]") == again).all()


@pytest.mark.parametrize(
    ("last", "months", "due"), [("2025-11-30", 3, "2026-02-28"), ("2025-12-15", 1, "2026-01-15"), ("2024-01-10", 12, "2025-01-10")]
)  # fmt: skip
def test_a_review_is_due_so_many_months_after_the_contact(last, months, due):
    """An overdue one keeps its day."""
    assert set(reviews(months, last, n=2).astype(str)) == {due}


def test_a_contact_comes_late_from_the_stated_day_on():
    assert loss_avoided(np.array([100.0, 100, 100, np.nan]), np.array([59, 60, np.nan, 0]), RULES).tolist() == [
        50,
        10,
        50,
        0,
    ]


def lacks(**changes):
    base = {
        "company": True, "overdue_amount": 0.0, "accounts_period_end": "2025-06-30", "last_event_on": "2025-12-31",
        "monthly_inflow": 10.0, "driver": "x: 1 (typical: 2)", "risen": False,
    }  # fmt: skip
    return pd.DataFrame([base | changes])


@pytest.mark.parametrize(
    ("changes", "code", "english", "chinese"),
    [
        ({}, "", "", ""),
        ({"overdue_amount": 1234.5}, "payment", "payment of the overdue 1,234.50", "支付逾期款项 1,234.50"),
        ({"accounts_period_end": None}, "no_accounts", "the annual accounts: none are known", "年度财务报表：目前没有"),
        ({"accounts_period_end": "2024-06-30"}, "old_accounts", "newer accounts than those to 2024-06-30", "比截至 2024-06-30 更新的财务报表"),
        ({"accounts_period_end": "2024-07-01"}, "", "", ""),
        ({"last_event_on": "2025-11-02"}, "silent", "statements of the accounts since 2025-11-02", "2025-11-02 以来的账户流水"),
        ({"last_event_on": "2025-11-03"}, "", "", ""),
        ({"company": False, "accounts_period_end": None}, "", "", ""),
        ({"company": False, "monthly_inflow": None}, "no_income", "proof of income or turnover", "收入或营业额证明"),
        ({"risen": True}, "driver", "an explanation of: x: 1 (typical: 2)", "说明原因：x: 1 (typical: 2)"),
        ({"risen": True, "driver": None}, "", "", ""),
    ],
)  # fmt: skip
def test_what_is_asked_for(changes, code, english, chinese):
    """Accounts are old after 18 months, accounts are silent after 60 days; nothing is asked twice or of the wrong kind."""
    for language, words in (("en", english), ("zh", chinese)):
        codes, text = asked(lacks(**changes), AS_OF, RULES, language)
        assert (codes.item(), text.item()) == (code, words)


def test_several_are_asked_for_in_one_sentence():
    codes, text = asked(lacks(overdue_amount=5.0, accounts_period_end=None), AS_OF, RULES, "en")
    assert codes.item() == "payment; no_accounts"
    assert text.item() == "payment of the overdue 5.00; the annual accounts: none are known"


def test_what_is_offered_is_the_policys_action():
    action = pd.Series(["stop", "prepay", "reduce", "review", "raise", "keep"])
    limit, term = pd.Series([0.0, 0, 5000, None, 7000, 6000]), pd.Series([0, 0, 14, 30, 60, 45])
    assert offered(action, limit, term, "en").tolist() == [
        "no new credit; a plan to repay what is owed", "delivery against prepayment; a limit of 0",
        "a limit of 5,000, payment within 14 days", "nothing before the review is done",
        "a limit of 7,000, payment within 60 days", "present limit and terms: payment within 45 days",
    ]  # fmt: skip
    assert offered(action, limit, term, "zh").tolist()[2] == "额度降至 5,000，账期 14 天"


customers = st.lists(
    st.tuples(
        st.sampled_from(["lee", "may", None]), st.floats(0.001, 0.9), st.one_of(st.just(np.nan), st.floats(0, 1e6)),
        st.integers(0, 90), st.booleans(), st.sampled_from(["keep", "stop"]),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(customers, st.integers(1, 4))
def test_no_one_is_lost_no_week_overfull_and_no_better_contact_waits(drawn, weekly):
    """Whoever must be contacted is on the list once; an owner's earlier week is never worth less than a later one."""
    rows = [(f"k{k:02d}", *each) for k, each in enumerate(drawn)]
    if not rows:
        return
    rules = RULES.model_copy(update={"weekly_capacity": weekly, "unassigned_capacity": weekly})
    found = listed(facts(rows), everyone_open(len(rows)), AS_OF, rules)
    assert sorted(found["customer_id"]) == sorted(row[0] for row in rows if row[5] or row[6] == "stop")
    assert found["rank"].sort_values().tolist() == list(range(1, len(found) + 1))
    for _, own in found.groupby(found["owner"].fillna("")):
        by_week = own.groupby(own["week"].fillna(99).astype(int))["loss_avoided"]
        assert (by_week.size().drop(99, errors="ignore") <= weekly).all()
        lows, highs = by_week.min(), by_week.max()
        assert all(lows.iloc[k] >= highs.iloc[k + 1] for k in range(len(lows) - 1))
        waits = (own["state"] == "waiting").sum()
        assert waits == max(len(own) - weekly * rules.weeks, 0)
