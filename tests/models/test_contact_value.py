"""Would the list have reached defaulters in time? On hand-drawn dates whose answer can be told by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contact_value import highest, reached_in_time
from models.worklist import Rules

RULES = Rules(weeks=1, cool_down_days=45, avoided_early=0.5, avoided_late=0.5)
DATES = ("2025-01-01", "2025-02-01", "2025-03-01", "2025-04-01")
# the best PD is small's; the most money is big's. No review is due: 240 months between them, and no alarm on calm
WHO = {"big": (0.20, 500.0, True), "small": (0.60, 30.0, True), "calm": (0.01, 50.0, False)}


def panel(dates=DATES, **changes):
    rows = [
        {"customer_id": who, "as_of": day, "pd": pd_, "expected_loss": loss, "days_past_due": 0.0, "review_months": 10**6,
         "alarmed": alarmed, "in_training": False}
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
                         "in_training": False})  # fmt: skip
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
