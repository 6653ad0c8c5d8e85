"""Splits on hand-drawn dates, and what must hold for any panel."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import DataRefused
from models.inputs import horizon_months, panel
from models.splits import (
    SplitSettings,
    fold_indices,
    forward_indices,
    grouped_folds,
    later_indices,
    repeated_indices,
    split,
    untrainable,
)


def drawn(dates, customers=200, rate=0.2, horizon=12, seed=1):
    random = np.random.default_rng(seed)
    frame = pd.MultiIndex.from_product(
        [pd.to_datetime(dates), [f"c{n:04d}" for n in range(customers)]], names=["as_of", "customer_id"]
    ).to_frame(index=False)
    frame["outcome"] = (random.random(len(frame)) < rate).astype(int)
    closed = frame["as_of"] + pd.DateOffset(months=horizon)
    frame["outcome_known_on"] = closed.where(frame["outcome"] == 0, frame["as_of"] + pd.DateOffset(months=2))
    frame["x"] = random.normal(size=len(frame))
    return frame


@pytest.mark.fault("E4", "E8")
def test_train_windows_close_before_the_first_test_date():
    frame = drawn(pd.date_range("2020-01-01", periods=10, freq="3MS"))
    rows = panel(frame, ["x"], 12)
    result = split(rows, SplitSettings(), 12)
    assert result.plan["kind"] == "time"
    start = rows.as_of[result.test].min()
    assert str(start) == result.plan["test_from"]
    assert (rows.closes[result.train] <= start).all()
    assert start == np.datetime64("2022-04-01")  # 400 test and 1200 train rows: nearest to a fifth
    assert rows.as_of[result.train].max() == np.datetime64("2021-04-01")  # a year's gap before 2022-04-01
    assert not (result.test & result.train).any()
    assert (~result.test & ~result.train).sum() == 3 * 200  # the gap: 2021-04, 07, 10


@pytest.mark.parametrize(
    ("dates", "rate", "why"),
    [(["2020-01-01"], 0.2, "one as_of"), (["2020-01-01", "2020-06-01"], 0.2, "no date"),
     (["2020-01-01", "2022-01-01"], 0.07, "no date")],
)  # fmt: skip
def test_what_is_too_short_or_has_too_few_defaults_is_split_at_random(dates, rate, why):
    rows = panel(drawn(dates, rate=rate), ["x"], 12)
    result = split(rows, SplitSettings(), 12)
    assert result.plan["kind"] == "random"
    assert why in result.plan["why"]
    assert result.train.all()


def test_long_spans_get_expanding_folds_with_a_gap():
    rows = panel(drawn(pd.date_range("2010-01-01", periods=32, freq="3MS"), customers=60), ["x"], 12)
    result = split(rows, SplitSettings(), 12)
    assert result.plan["folds"] == "expanding"
    train_rows = rows.take(result.train)
    for train, valid in fold_indices(train_rows, result.fold[result.train], "expanding"):
        assert train_rows.closes[train].max() <= train_rows.as_of[valid].min()


@pytest.mark.fault("E8")
def test_a_customer_is_in_one_fold_and_defaults_are_spread():
    rows = panel(drawn(["2020-01-01", "2020-02-01", "2020-03-01"], rate=0.05), ["x"], 12)
    fold = grouped_folds(rows, 5, 1)
    folds_of_customer = pd.Series(fold).groupby(rows.customer)
    assert (folds_of_customer.min() == folds_of_customer.max()).all()
    bads = np.bincount(fold, weights=rows.outcome)
    assert bads.max() - bads.min() <= 3


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(60)))
def test_folds_hang_on_rows_not_on_their_order(order):
    frame = drawn(["2020-01-01"], customers=60)
    first = panel(frame, ["x"], 12)
    second = panel(frame.iloc[list(order)], ["x"], 12)
    assert (first.customer == second.customer).all()
    assert (grouped_folds(first, 4, 9) == grouped_folds(second, 4, 9)).all()


def test_repeats_divide_differently_and_each_row_validates_once_a_repeat():
    rows = panel(drawn(["2020-01-01"]), ["x"], 12)
    plan = split(rows, SplitSettings(), 12).plan
    indices = repeated_indices(rows, grouped_folds(rows, 5, plan["seed"]), plan, 3)
    counts = np.zeros(len(rows))
    for train, valid in indices:
        counts[valid] += 1
        assert not set(train) & set(valid)
    assert (counts == 3).all()
    assert set(indices[0][1]) != set(indices[5][1])


def test_horizon_is_what_good_outcomes_show():
    assert horizon_months(drawn(["2020-01-01", "2020-02-01"], horizon=6)) == 6
    assert horizon_months(pd.DataFrame({"outcome": [0], "as_of": ["2020-01-01"]})) == 12


@pytest.mark.parametrize("wrong", [2, -1, None, np.nan, 0.5])
@pytest.mark.fault("E3")
def test_labels_other_than_0_and_1_are_refused(wrong):
    frame = drawn(["2020-01-01"]).astype({"outcome": object})
    frame.loc[3, "outcome"] = wrong
    with pytest.raises(DataRefused, match="0 or 1"):
        panel(frame, ["x"], 12)


@pytest.mark.fault("E8")
def test_repeated_keys_are_refused():
    frame = drawn(["2020-01-01"])
    with pytest.raises(DataRefused, match="one row each"):
        panel(pd.concat([frame, frame.iloc[:2]]), ["x"], 12)


@pytest.mark.fault("E1", "E2")
def test_untrainable_says_why():
    assert untrainable(np.array([0] * 100 + [1] * 25), 20) is None
    assert "one class" in untrainable(np.zeros(50, int), 20)
    assert "19 defaults" in untrainable(np.array([0] * 100 + [1] * 19), 20)
    assert "no observation" in untrainable(np.array([], int), 20)


def test_blocks_of_time_are_asked_of_dates_whose_windows_had_closed():
    rows = panel(drawn(pd.date_range("2020-01-01", periods=8, freq="3MS")), ["x"], 12, in_time=True)
    folds = forward_indices(rows, 4, 60)
    starts = [str(rows.as_of[asked].min()) for _, asked in folds]
    assert starts == ["2021-04-01", "2021-07-01", "2021-10-01"]  # 40 defaults a date: two dates must have closed
    for train, asked in folds:
        assert (rows.closes[train] <= rows.as_of[asked].min()).all()
        assert rows.outcome[train].sum() >= 60
    together = np.concatenate([asked for _, asked in folds])
    assert len(np.unique(together)) == len(together)
    assert len(forward_indices(rows, 2, 60)) == 2
    assert forward_indices(rows, 4, 10_000) is None
    short = panel(drawn(pd.date_range("2020-01-01", periods=4, freq="3MS")), ["x"], 12, in_time=True)
    assert forward_indices(short, 4, 60) is None


def test_later_dates_of_other_customers_are_asked_where_no_window_closes_in_time():
    rows = panel(drawn(pd.date_range("2020-01-01", periods=4, freq="3MS")), ["x"], 12)
    folds = later_indices(rows, 5)
    for train, asked in folds:
        assert rows.as_of[train].max() < rows.as_of[asked].min()
        assert not set(rows.customer[train]) & set(rows.customer[asked])
    assert sum(len(asked) for _, asked in folds) == len(rows) / 2
