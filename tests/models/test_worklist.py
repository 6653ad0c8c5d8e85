"""The worklist on hand-drawn customers: who is on it, in which order and week, what is asked and offered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contacts import Standing
from models.worklist import Facts, Rules, asked, floors, listed, loss_avoided, next_reviews, offered, reviews, spread_of

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
        np.full(len(rows), NEVER),
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


@pytest.mark.parametrize("who", [{"owners": {"lee": 0}}, {"weekly_capacity": 0}])
def test_of_an_owner_on_leave_everything_waits_and_nothing_of_others(who):
    found = one_list(rules=RULES.model_copy(update={"weekly_capacity": 1, **who}))
    waits = {"a", "b", "c"} | ({"e"} if "weekly_capacity" in who else set())
    assert set(found.index[found["state"] == "waiting"]) == waits
    assert found.loc[sorted(waits), ["week", "due_on"]].isna().all(axis=None)
    assert found["rank"].notna().all()
    assert found.loc["d", "week"] == 1


def test_without_any_capacity_of_those_without_an_owner_they_wait():
    found = one_list(rules=RULES.model_copy(update={"unassigned_capacity": 0}))
    assert found["state"].to_dict() == {"c": "open", "b": "open", "a": "waiting", "d": "waiting", "e": "open"}


@pytest.mark.parametrize(
    ("last", "due"), [("2025-07-03", "2026-01-07"), ("2025-07-12", "2026-01-12"), ("2025-05-01", "2026-01-07")]
)
def test_a_regular_review_is_not_due_before_its_day(last, due):
    """Calm f comes in the first week, which ends on the 7th: his review of the 3rd or an overdue one is due then."""
    found = one_list(everyone_open(last=last), months=6, rules=RULES.model_copy(update={"weekly_capacity": 9}))
    assert (found.loc["f", "week"], str(found.loc["f", "due_on"])[:10]) == (1, due)
    assert str(found.loc["a", "due_on"])[:10] == "2026-01-07", "an alarm does not wait for a review"


N = 400
WHO = np.array([f"c{k}" for k in range(N)], dtype=object)


def due(months, as_of="2026-01-01", last="NaT", first="NaT", joined="NaT", overdue=90):
    """Return when each of many calm customers is reviewed; last, joined: of all of them, or of each."""
    n, none = len(WHO), np.full(len(WHO), None, dtype=object)
    days = [np.broadcast_to(np.array(each, dtype="M8[D]"), n) for each in (last, joined)]
    now = Facts(
        WHO, none, np.full(n, 0.01), np.full(n, 5.0), np.zeros(n), np.full(n, months), np.zeros(n, dtype=bool),
        np.full(n, "keep", dtype=object), days[1],
    )  # fmt: skip
    stands = Standing(np.full(n, "open", dtype=object), none, np.full(n, NEVER), days[0], np.datetime64(first, "D"))
    rules = Rules(overdue_days=overdue)
    told = reviews(now, stands, np.datetime64(as_of), rules)
    on_it = np.isin(WHO, listed(now, stands, np.datetime64(as_of), rules)["customer_id"])
    assert (on_it == (told < np.datetime64(as_of) + 28)).all()
    return told


def dates_from(months, floor):
    """By hand: the first day, from the floor on, of each customer's own month of the interval and day of the month."""
    found = []
    for spread in pd.util.hash_array(WHO, categorize=False).tolist():
        month = floor.astype("M8[M]")
        while int(month.astype(int)) % months != spread % months or month.astype("M8[D]") + spread // 64 % 28 < floor:
            month += 1
        found.append(month.astype("M8[D]") + spread // 64 % 28)
    return np.array(found)


def test_first_reviews_spread_over_the_interval():
    told = due(12, overdue=0)
    month = (told.astype("M8[M]") - np.datetime64("2026-01")).astype(int)
    assert sorted(set(month)) == list(range(12))
    assert np.bincount(month).min() > 15
    assert (told >= np.datetime64("2026-01-01")).all()


def test_a_review_that_was_not_made_stays_due():
    """Nobody was ever contacted: it does for the stated 90 days. The earlier list held all of them."""
    july, august = due(12, "2026-07-01"), due(12, "2026-08-01")
    missed = (july >= np.datetime64("2026-07-01")) & (july < np.datetime64("2026-08-01"))
    assert missed.sum() > 15
    assert (august[missed] == july[missed]).all(), "it stays due since July, and is not due next July"
    later = due(12, "2026-11-01")
    gone = july < np.datetime64("2026-08-03")  # 90 days before November
    assert (later[~gone] == july[~gone]).all()
    assert (later[gone] == dates_from(12, np.datetime64("2026-08-03"))[gone]).all()
    assert (later >= np.datetime64("2026-08-03")).all()


@pytest.mark.parametrize("months", [1, 3, 6, 12])
def test_since_people_work_with_the_list_a_review_stays_due_until_it_is_made(months):
    """The first contact was recorded on 10 March 2025: each review from then on stands, however long ago it passed."""
    told = due(months, first="2025-03-10")
    assert (told == dates_from(months, np.datetime64("2025-03-10"))).all()
    assert told.min() < np.datetime64("2025-04-10")
    for later in ("2026-02-01", "2027-05-01"):
        assert (due(months, later, first="2025-03-10") == told).all()
    fresh = due(months, first="2025-12-20")
    assert (fresh == due(months)).all(), "a first contact of late leaves the stated days as they are"


def test_who_joined_of_late_is_not_overdue_at_once():
    """None before the day on which he joined, as if the list had begun on it."""
    for first in ("NaT", "2024-01-01"):
        told = due(3, joined="2025-12-10", first=first)
        assert (told == dates_from(3, np.datetime64("2025-12-10"))).all()
    assert (due(3, joined="2020-01-01") == due(3)).all()
    half = np.where(np.arange(N) % 2 == 0, np.datetime64("2025-12-10"), NEVER)
    assert (due(3, joined=half) == np.where(np.isnat(half), due(3), due(3, joined="2025-12-10"))).all()


def test_after_a_contact_the_interval_counts_from_it_whatever_the_floor():
    for more in ({}, {"first": "2020-01-01"}, {"joined": "2025-12-31"}, {"overdue": 0}):
        assert set(due(3, last="2025-07-15", **more).astype(str)) == {"2025-10-15"}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2000), st.one_of(st.none(), st.integers(0, 2000)), st.one_of(st.none(), st.integers(0, 2000)),
    st.integers(0, 400), st.integers(1, 24),
)  # fmt: skip
def test_the_first_review_is_the_first_day_of_its_calendar_on_or_after_the_floor(now, first, joined, overdue, months):
    start = np.datetime64("2020-01-01")
    as_of, told = start + now, [NEVER if each is None else start + each for each in (first, joined)]
    floor = floors(as_of, told[0], np.array([told[1]]), overdue)
    by_hand = min(day for day in (as_of - overdue, told[0]) if not np.isnat(day))
    assert floor[0] == (by_hand if np.isnat(told[1]) else max(by_hand, told[1]))
    some, many = spread_of(WHO[:40]), np.full(40, months)
    day = next_reviews(some, np.repeat(floor, 40), many, np.full(40, NEVER))
    assert (day >= floor).all()
    assert (day < (floor.astype("M8[M]") + months + 1).astype("M8[D]")).all()
    assert (next_reviews(some, day, many, np.full(40, NEVER)) == day).all(), "a day of the calendar is one"
    after = next_reviews(some, day + 1, many, np.full(40, NEVER))
    assert ((after.astype("M8[M]") - day.astype("M8[M]")).astype(int) == months).all()


@pytest.mark.parametrize(
    ("last", "months", "on"), [("2025-11-30", 3, "2026-02-28"), ("2025-12-15", 1, "2026-01-15"), ("2024-01-10", 12, "2025-01-10")]
)  # fmt: skip
def test_a_review_is_due_so_many_months_after_the_contact(last, months, on):
    """An overdue one keeps its day."""
    assert set(due(months, last=last).astype(str)) == {on}


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
