"""Histories that nobody foresaw: a plain Python oracle, tables on credits, wide tables, rare values, a planted signal."""

from __future__ import annotations

import datetime as dt
import statistics
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.features.drawn import build, draw, matrix_of, observe, values

LATER = observe("c0 2030-01-01")
TRAITS = {"visits": {"numeric": ["length"], "categorical": ["channel"]}}


def back(as_of: dt.date, months: int) -> dt.date:
    """Return the day so many calendar months before, its end clamped."""
    month = as_of.year * 12 + as_of.month - 1 - months
    last = (dt.date((month + 1) // 12, (month + 1) % 12 + 1, 1) - dt.timedelta(days=1)).day
    return dt.date(month // 12, month % 12 + 1, min(as_of.day, last))


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.sampled_from(["2024-02-29", "2024-03-31", "2024-03-01"]))
def test_a_generic_history_equals_a_plain_loop(seed, day):
    random, as_of = Random(seed), dt.date.fromisoformat(day)
    rows = [("c0", dt.date(2023, 12, 1), 1.0, channel, dt.date(2023, 12, 1)) for channel in ("web", "shop", "phone")]
    for number in range(30):
        for _ in range(random.randrange(6)):
            event = as_of - dt.timedelta(days=random.choice([0, 1, 30, 31, 182, 183, 366, random.randrange(500)]))
            length = random.choice([None, float(random.randrange(50)), 7.5])
            known = event + dt.timedelta(days=random.choice([0, 0, 0, 20]))
            rows.append((f"c{number}", event, length, random.choice(["web", "shop", "phone", None]), known))
    kinds = {
        "customer_id": pa.string(),
        "event_on": pa.date32(),
        "length": pa.float64(),
        "channel": pa.string(),
        "known_on": pa.date32(),
    }
    table = pa.table({name: pa.array([row[at] for row in rows], kind) for at, (name, kind) in enumerate(kinds.items())})
    asked = "\n".join(f"c{number} {day}" for number in range(30))
    for (customer, _), got in values({"visits": table}, asked, attributes=TRAITS, training=LATER).items():
        seen = [row for row in rows if row[0] == customer and row[1] < as_of and row[4] < as_of]
        year = [row for row in seen if row[1] >= back(as_of, 12)]
        half = [row for row in seen if row[1] >= back(as_of, 6)]
        if not seen:
            assert (
                got["visits_length_mean_12m"] is got["visits_row_order_count_12m"] is got["visits_channel_last"] is None
            )
            continue
        lengths = [row[2] for row in year if row[2] is not None]
        assert got["visits_row_order_count_12m"] == len(year)
        assert got["visits_row_order_count_6m"] == len(half)
        assert got["visits_row_order_recency"] == min((as_of - row[1]).days for row in seen)
        assert got["visits_length_sum_12m"] == (sum(lengths) if lengths else None)
        assert got["visits_length_max_12m"] == max(lengths, default=None)
        assert got["visits_length_std_12m"] == (
            pytest.approx(statistics.pstdev(lengths), abs=1e-9) if lengths else None
        )
        missing = sum(row[2] is None for row in year) / len(year) if year else None
        assert got["visits_length_missing_share_12m"] == (None if missing is None else pytest.approx(missing))
        channels = [row[3] for row in year if row[3] is not None]
        assert got["visits_channel_web_share_12m"] == (
            pytest.approx(channels.count("web") / len(channels)) if channels else None
        )
        assert (got["visits_channel_distinct_12m"] or 0) == len(set(channels))


def test_the_newest_row_is_set_against_the_one_before():
    visits = draw(
        "visits",
        """
        customer_id event_on   length channel known_on
        a           2023-11-05 10     web     2023-11-05
        a           2024-02-05 -      web     2024-02-05
        a           2024-02-20 25     shop    2024-02-20
        a           2024-02-25 99     shop    2024-03-09
        b           2024-01-05 3      web     2024-01-05
        """,
        numeric=("length",),
    )
    rows = values({"visits": visits}, "a 2024-02-10\na 2024-03-01\na 2024-03-10\nb 2024-03-01", attributes=TRAITS)
    assert rows["a", "2024-03-10"]["visits_length_last_less_previous"] == 74.0
    assert rows["a", "2024-03-01"]["visits_length_last_less_previous"] is None  # the row before does not say
    assert rows["b", "2024-03-01"]["visits_length_last_less_previous"] is None
    assert rows["a", "2024-03-01"]["visits_count_6m_to_12m"] == 1.0


def test_a_history_on_credits_reaches_the_customer():
    credits_ = draw("credits", "credit_id customer_id provider opened_on\nk a own 2023-01-01")
    calls = draw(
        "calls",
        "credit_id event_on mood known_on\nk 2024-01-10 2 2024-01-10\nk 2024-02-10 5 2024-02-10",
        numeric=("mood",),
    )
    traits = {"calls": {"numeric": ["mood"]}}
    row = values({"credits": credits_, "calls": calls}, "a 2024-03-01", attributes=traits)["a", "2024-03-01"]
    assert row["calls_mood_mean_6m"] == 3.5
    assert row["calls_mood_last"] == 5.0


@pytest.mark.parametrize("measures", [1, 12, 13, 40, 41, 100])
def test_a_wide_table_yields_hundreds_of_features_and_not_thousands(measures):
    names = tuple(f"m{at}" for at in range(measures))
    wide = draw(
        "panel", f"customer_id event_on {' '.join(names)}\na 2024-01-01 {' '.join('1' * measures)}", numeric=names
    )
    matrix, _ = matrix_of({"panel": wide}, observe("a 2024-03-01"), attributes={"panel": {"numeric": list(names)}})
    assert measures <= len(matrix.features) <= 12 * 17 + 10 + 5 * measures
    assert all(f"panel_{name}_last" in {feature.name for feature, _, _ in matrix.features} for name in names)


def test_values_with_one_name_and_rare_values_make_no_twins():
    lines = [f"a 2024-01-{at % 28 + 1:02} {'A-b' if at % 2 else 'A_B'}" for at in range(100)] + [
        "a 2024-01-01 rare"
    ] * 1
    marks = draw("marks", "customer_id event_on kind\n" + "\n".join(lines))
    matrix, _ = matrix_of({"marks": marks}, observe("a 2024-03-01"), attributes={"marks": {"categorical": ["kind"]}})
    names = [feature.name for feature, _, _ in matrix.features]
    assert sum("share_12m" in name for name in names) == 1
    assert not [name for name in names if "rare" in name]


def test_a_planted_signal_in_a_table_that_nobody_foresaw_orders_outcomes():
    """End to end: a table with an invented name, no code for it, and a model that finds what was put in."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(5)
    customers = 400
    moisture = random.normal(size=customers)
    outcome = random.random(customers) < 1 / (1 + np.exp(-2 * moisture))
    days = random.integers(1, 360, (customers, 4))
    event = np.datetime64("2024-03-01") - days
    table = pa.table({
        "customer_id": pa.array([f"c{n:03}" for n in range(customers) for _ in range(4)]),
        "event_on": pa.array(event.ravel()).cast(pa.date32()),
        "moisture": pa.array((moisture[:, None] + random.normal(size=(customers, 4))).ravel()),
        "noise": pa.array(random.normal(size=customers * 4)),
        "known_on": pa.array(event.ravel()).cast(pa.date32()),
    })  # fmt: skip
    asked = observe("\n".join(f"c{n:03} 2024-03-01" for n in range(customers)))

    def auc(names: list[str]) -> float:
        got = build({"beehives": table}, asked, attributes={"beehives": {"numeric": names}})
        x = np.column_stack([got[name].to_numpy(zero_copy_only=False) for name in got.column_names[2:]]).astype(float)
        half = customers // 2
        model = HistGradientBoostingClassifier(max_iter=40, max_depth=3, random_state=1).fit(x[:half], outcome[:half])
        return roc_auc_score(outcome[half:], model.predict_proba(x[half:])[:, 1])

    assert auc(["noise"]) < 0.6
    assert auc(["moisture", "noise"]) > 0.7


def test_fading_average_latest_less_average_and_averages_by_category():
    visits = draw(
        "visits",
        """
        customer_id event_on   length channel known_on
        a           2023-03-01 8      web     2023-03-01
        a           2023-02-28 80     web     2023-02-28
        a           2023-12-15 4      shop    2023-12-15
        a           2024-02-29 10     web     2024-02-29
        a           2024-02-29 12     shop    2024-03-05
        b           2024-02-10 -      web     2024-02-10
        """,
        numeric=("length",),
    )
    rows = values({"visits": visits}, "a 2024-03-01\nb 2024-03-01", attributes=TRAITS, training=LATER)
    row = rows["a", "2024-03-01"]
    # in the window: 8 (12 months before: 1/16), 4 (3 months before: 1/2), 10 (1 month before: 2 ** -1/3)
    weights = {8: 4096 / 65536, 4: 32768 / 65536, 10: 52016 / 65536}
    expected = sum(length * weight for length, weight in weights.items()) / sum(weights.values())
    assert row["visits_length_decayed_12m"] == pytest.approx(expected, rel=1e-9)
    assert row["visits_length_last_less_mean_12m"] == pytest.approx(10 - 22 / 3)
    assert row["visits_length_of_channel_web_mean_12m"] == 9.0  # 80 is a day too old
    assert row["visits_length_of_channel_shop_mean_12m"] == 4.0  # 12 became known later
    empty = rows["b", "2024-03-01"]
    assert empty["visits_length_of_channel_web_mean_12m"] is None
    assert empty["visits_length_decayed_12m"] is None
    assert empty["visits_length_last_less_mean_12m"] is None
