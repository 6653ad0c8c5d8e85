"""Would the list have reached defaulters in time? On hand-drawn dates whose answer can be told by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contact_value import highest, reached_in_time
from models.worklist import Rules

RULES = Rules(overdue_days=90, weeks=1, cool_down_days=45, avoided_early=0.5, avoided_late=0.5)
DATES = ("2025-01-01", "2025-02-01", "2025-03-01", "2025-04-01")
# the best PD is small's; the most money is big's. No review is due: a million months between them, no alarm on calm
WHO = {"big": (0.20, 500.0, True), "small": (0.60, 30.0, True), "calm": (0.01, 50.0, False)}


def panel(dates=DATES, **changes):
    rows = [
        {"customer_id": who, "as_of": day, "pd": pd_, "expected_loss": loss, "days_past_due": 0.0, "review_months": 10**6,
         "alarmed": alarmed, "in_training": False, "joined_on": None}
        for day in dates for who, (pd_, loss, alarmed) in WHO.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**changes)


def defaults(**on):
    return pd.DataFrame({"customer_id": list(on), "known_on": list(on.values())})


def found(rows, bad, capacity=1, days=60, rules=RULES):
    told = reached_in_time(rows, bad, rules, [capacity], days)
    return told, told["capacities"].get(str(capacity))


def test_the_list_takes_the_most_money_and_pd_alone_the_likeliest():
    """One contact a month, due on the 7th: January big (or small), February rests, the other one's turn; and so on."""
    told, at = found(panel(), defaults(big="2025-03-20", small="2025-03-20"))
    assert (told["dates"], told["defaulters"]) == (4, 2)
    assert at["worklist"]["reached"] == 1  # big on 7 January; small on 7 February is 41 days before
    assert at["by_pd"]["reached"] == 1
    # exposure times loss given default: 500 / .2 = 2,500 against 30 / .6 = 50
    assert at["worklist"]["loss_share"] == pytest.approx(2500 / 2550)
    assert at["by_pd"]["loss_share"] == pytest.approx(50 / 2550)
    assert at["worklist"]["share_low"] < 0.5 < at["worklist"]["share_high"]


def test_a_contact_rests_for_the_cool_down_so_that_the_next_one_comes_in_turn():
    """Without a cool-down big is contacted in every month and small never."""
    bad = defaults(big="2025-06-01", small="2025-06-01")
    assert found(panel(), bad)[1]["worklist"]["reached"] == 2
    assert found(panel(), bad, rules=RULES.model_copy(update={"cool_down_days": 0}))[1]["worklist"]["reached"] == 1


@pytest.mark.parametrize(("on", "reached"), [("2025-03-08", 1), ("2025-03-07", 0)])
def test_in_time_is_counted_from_the_day_of_the_contact(on, reached):
    """The contact is due on 7 January; sixty days later is 8 March. A default of the 7th could have been in time."""
    told, at = found(panel(), defaults(big=on))
    assert (told["defaulters"], at["worklist"]["reached"]) == (1, reached)


def test_who_defaults_too_soon_after_every_date_is_not_counted():
    told, at = found(panel(), defaults(big="2025-02-20"))
    assert (told["defaulters"], at) == (0, None)


def test_who_has_no_alarm_and_no_review_is_not_on_the_list():
    at = found(panel(), defaults(calm="2025-12-01"), capacity=3)[1]
    assert at["worklist"]["reached"] == 0
    assert at["by_pd"]["reached"] == 1
    assert at["worklist"]["contacts"] == 4  # big and small in January and March
    assert at["by_pd"]["contacts"] == 6


def quiet(dates, **changes):
    """Return dates of 200 customers without any alarm, reviewed once a year; only their reviews put them on a list."""
    who = [f"k{k:03d}" for k in range(200)]
    rows = panel(dates)[:0]
    for day in dates:
        more = {"customer_id": who, "as_of": day, "pd": 0.1, "expected_loss": 1.0, "days_past_due": 0.0,
                "review_months": 12, "alarmed": False, "in_training": False, "joined_on": None}  # fmt: skip
        rows = pd.concat([rows, pd.DataFrame(more)], ignore_index=True)
    return rows.assign(**changes)


def days_within(start, end):
    """By hand: how many of those customers have their day of the yearly calendar in [start, end), less than a year."""
    months = np.arange(np.datetime64("2023-01"), np.datetime64("2028-01"))
    found = 0
    for spread in pd.util.hash_array(
        np.array([f"k{k:03d}" for k in range(200)], dtype=object), categorize=False
    ).tolist():
        own = [
            month.astype("M8[D]") + spread // 64 % 28 for month in months if int(month.astype(int)) % 12 == spread % 12
        ]
        found += any(np.datetime64(start) <= day < np.datetime64(end) for day in own)
    return found


def contacted(dates, capacity=500, rules=RULES, **changes):
    return found(quiet(dates, **changes), defaults(k000="2030-01-01"), capacity, rules=rules)[1]["worklist"]["contacts"]


def test_a_review_that_the_list_did_not_make_stays_on_it():
    """Whose day lay in the 90 before the date is due, as is whose day comes within the week."""
    assert contacted(["2025-01-01"]) == days_within("2024-10-03", "2025-01-08") > 20
    none_before = RULES.model_copy(update={"overdue_days": 0})
    assert contacted(["2025-01-01"], rules=none_before) == days_within("2025-01-01", "2025-01-08") < 10
    # five find no place on the first date, and have theirs on the next one
    places = days_within("2024-10-03", "2025-01-08") - 5
    assert contacted(["2025-01-01", "2025-01-02"], capacity=places) == days_within("2024-10-03", "2025-01-09")


def test_what_the_list_did_first_says_since_when_reviews_stay_due():
    """Two dates 14 months apart: since the first one's contacts, of 7 January, each day of the year passed without one;
    who was contacted then is due a year later. Alone, the second date knows the 90 days before it."""
    first = contacted(["2025-01-01"])
    assert contacted(["2025-01-01", "2026-03-01"]) == first + 200
    assert contacted(["2026-03-01"]) == days_within("2025-12-01", "2026-03-08") < 100


def test_after_a_contact_of_the_list_the_interval_counts_from_it():
    """Each once within the year; who was contacted on 7 January is due a year later, not on his day of the calendar."""
    year = pd.date_range("2025-01-01", periods=12, freq="MS").strftime("%Y-%m-%d")
    assert contacted(year) == 200
    assert contacted([*year, "2026-01-01"]) == 200 + contacted(["2025-01-01"])


def test_who_joined_of_late_is_not_overdue_in_the_replay():
    """Joined on the last day of the year: due is who has his day from then on, as without any days before."""
    assert contacted(["2025-01-01"], joined_on=pd.Timestamp("2024-12-31")) == days_within("2024-12-31", "2025-01-08")


def test_rows_that_trained_the_model_are_left_out():
    rows = panel()
    told, at = found(
        rows.assign(in_training=rows["as_of"] < "2025-03-01"), defaults(big="2025-04-20", small="2025-09-01")
    )
    assert (told["dates"], told["in_training"], told["defaulters"]) == (2, 6, 1)
    assert at["worklist"]["reached"] == 1  # small, on 7 April, since big rests; who could count is small alone


def test_later_weeks_come_later():
    """Two weeks of one: big on the 7th, small on the 14th of January."""
    rules = RULES.model_copy(update={"weeks": 2})
    assert found(panel(), defaults(small="2025-03-14"), rules=rules)[1]["worklist"]["reached"] == 0
    assert found(panel(), defaults(small="2025-03-15"), rules=rules)[1]["worklist"]["reached"] == 1


def test_random_lists_reach_about_their_share():
    """One of 50 customers a month, for one date: a fiftieth of defaulters is reached, on average over draws."""
    rows = pd.DataFrame({"customer_id": [f"k{k:02d}" for k in range(50)], "as_of": "2025-01-01", "pd": 0.1,
                         "expected_loss": 1.0, "days_past_due": 0.0, "review_months": 12, "alarmed": True,
                         "in_training": False, "joined_on": None})  # fmt: skip
    bad = pd.DataFrame({"customer_id": rows["customer_id"], "known_on": "2025-06-01"})
    at = found(rows, bad, capacity=10)[1]
    assert at["random"]["share"] == pytest.approx(10 / 50)
    few = found(rows, bad[:10], capacity=10)[1]
    assert 0.05 < few["random"]["share"] < 0.4


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=20), st.integers(1, 25))
def test_the_highest_are_those_of_a_whole_sort(values, count):
    drawn = np.array(values, dtype=float)
    assert highest(drawn, count).tolist() == np.argsort(-drawn, kind="stable")[:count].tolist()


def test_the_order_of_rows_changes_nothing():
    rows, bad = panel(), defaults(big="2025-03-20", small="2025-05-20")
    shuffled = rows.sample(frac=1, random_state=np.random.default_rng(5))
    assert found(shuffled, bad) == found(rows, bad)


@pytest.mark.parametrize(
    ("rows", "bad"), [(panel()[:0], defaults(big="2025-03-20")), (panel(), defaults()), (panel()[:0], defaults())]
)
def test_without_rows_or_defaults_there_are_no_figures(rows, bad):
    told, at = found(rows, bad)
    assert (told["defaulters"], told["capacities"], at) == (0, {}, None)
