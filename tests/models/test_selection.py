"""Selection on the folds: noise and copies of signal go, what carries the risk stays, drift alone is no reason."""

import numpy as np
import pandas as pd
import pytest

from models import estimator, metrics, selection, smallest
from models.adversarial import drift
from models.inputs import Input, numbered, panel
from models.refits import Refits, held_out_gain
from models.selection import SelectSettings, select, thinned
from models.splits import fold_indices, grouped_folds

DATES = pd.to_datetime(["2020-01-01", "2020-04-01", "2020-07-01", "2020-10-01"])


def world(customers=800, noise=12, *, months=4, seed=3, drifting_risk=False):
    """A panel over a few months: two inputs carry the risk, `clock` only tells the month, the rest is noise."""
    random = np.random.default_rng(seed)
    rows = customers * months
    frame = pd.DataFrame({f"noise_{n}": random.normal(size=rows) for n in range(noise)})
    frame["risk_a"], frame["risk_b"] = random.normal(size=(2, rows))
    month = np.repeat(np.arange(months), customers)
    frame["clock"] = month * 3.0 + random.normal(size=rows) * 0.3
    line = -2 + 1.2 * frame["risk_a"] - frame["risk_b"] + (1.2 * (month - months / 2) if drifting_risk else 0)
    frame["outcome"] = (random.random(rows) < 1 / (1 + np.exp(-line))).astype(int)
    frame["customer_id"] = np.tile([f"c{n:05d}" for n in range(customers)], months)
    frame["as_of"] = DATES[month]
    names = [name for name in frame if name not in ("outcome", "customer_id", "as_of")]
    inputs = numbered(Input(name, "", "numeric", 0, "", name) for name in names)
    return panel(frame, names, 12), inputs


def folds_of(rows, count=4):
    return fold_indices(rows, grouped_folds(rows, count, 5), "grouped")


@pytest.fixture(scope="module")
def chosen():
    rows, inputs = world()
    return rows, inputs, select(rows, inputs, folds_of(rows), SelectSettings(least_features=1))


@pytest.mark.fault("E5")
def test_noise_goes_and_the_risk_stays(chosen):
    _, _, result = chosen
    names = {each.name for each in result.inputs}
    assert {"risk_a", "risk_b"} <= names
    assert len(names) <= 6
    assert [each.column for each in result.inputs] == [f"f{n:04d}" for n in range(1, len(names) + 1)]
    reasons = result.reasons.set_index("feature")
    assert set(reasons.index[reasons["kept"]]) == names
    assert reasons.loc["risk_a", "place"] == 1
    assert (reasons["reason"] == "").equals(reasons["kept"])


def test_the_table_tells_drift_and_that_it_was_not_needed(chosen):
    _, _, result = chosen
    reasons = result.reasons.set_index("feature")
    assert reasons.loc["clock", "psi"] > 0.25
    assert reasons.loc["clock", "adversarial_share"] > 0.9
    assert reasons.loc["clock", "reason"] == selection.DRIFTS
    assert (reasons.drop("clock")["psi"] < 0.1).all()
    assert result.record["drift_candidates"] == ["clock"]


def test_what_drifts_and_carries_the_risk_stays():
    rows, inputs = world(drifting_risk=True)
    result = select(rows, inputs, folds_of(rows), SelectSettings(least_features=1))
    reasons = result.reasons.set_index("feature")
    assert "clock" in result.record["drift_candidates"]
    assert reasons.loc["clock", "kept"]


def test_one_month_has_no_drift():
    rows, inputs = world(months=1, customers=1500)
    result = select(rows, inputs, folds_of(rows), SelectSettings())
    assert result.record["drift"] == "not applicable: one month"
    assert result.reasons["psi"].isna().all()


def test_a_fold_is_judged_without_a_look_at_its_outcomes():
    """On pure noise a choice made on the held-out rows would rank them well; ours must not."""
    rows, inputs = world(customers=100, noise=150)
    rng = np.random.default_rng(1)
    outcome = (rng.random(len(rows)) < 0.1).astype(np.int8)
    rows = type(rows)(rows.customer, rows.as_of, rows.closes, outcome, rows.features)
    refits = Refits(rows, inputs, folds_of(rows), 1)
    worth = refits.worth()
    areas = [refits.ask([np.sort(np.argsort(-each)[:size]) for each in worth]).auc for size in (5, 20)]
    assert max(areas) < 0.62


def test_worth_of_a_fold_does_not_move_with_its_held_out_outcomes():
    rows, inputs = world(customers=200, noise=3)
    folds = folds_of(rows)
    before = Refits(rows, inputs, folds, 1).worth()
    other = rows.outcome.copy()
    other[folds[0][1]] = other[folds[0][1]][::-1]  # as many defaults as before
    after = Refits(type(rows)(rows.customer, rows.as_of, rows.closes, other, rows.features), inputs, folds, 1).worth()
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])


def test_tens_of_defaults_keep_everything():
    """With 25 defaults a smaller set only looks as good; without the limit on the standard error it would be taken."""
    rows, inputs = world(customers=60, noise=10, seed=4)
    bad = np.flatnonzero(rows.outcome)[25:]
    outcome = rows.outcome.copy()
    outcome[bad] = 0
    rows = type(rows)(rows.customer, rows.as_of, rows.closes, outcome, rows.features)
    folds = folds_of(rows)
    result = select(rows, inputs, folds, SelectSettings())
    assert "too few defaults" in result.record["why"]
    assert {each.name for each in inputs} - {each.name for each in result.inputs} <= {
        "clock"
    }  # it tells only the month
    rash = select(rows, inputs, folds, SelectSettings(max_auc_error=1.0))
    assert len(rash.inputs) < len(result.inputs)


def in_time(rows, learned=True):
    """The same rows with windows of three months, so that earlier dates close before later ones."""
    closes = (rows.as_of.astype("datetime64[M]") + 3).astype("datetime64[D]")
    return type(rows)(rows.customer, rows.as_of, closes, rows.outcome, rows.features, closes if learned else None)


def fading(rows, inputs, *, until):
    """Add `fad`: it moves with the months and tells the risk up to date number `until`, and the opposite afterwards."""
    random = np.random.default_rng(8)
    _, month = np.unique(rows.as_of, return_inverse=True)
    told = np.where(month < until, 1.5, -1.5) * rows.outcome + 0.6 * random.normal(size=len(rows)) + 2.0 * month
    frame = rows.features.assign(fad=told)
    more = numbered([*inputs, Input("fad", "", "numeric", 0, "", "fad")])
    return type(rows)(rows.customer, rows.as_of, rows.closes, rows.outcome, frame, rows.learned), more


def test_sets_are_judged_on_later_months_where_the_span_allows():
    rows, inputs = world(noise=4)
    result = select(in_time(rows), inputs, folds_of(rows), SelectSettings(least_features=1))
    assert result.record["folds"] == "by time"
    assert {"risk_a", "risk_b"} <= {each.name for each in result.inputs} <= {"risk_a", "risk_b", "noise_0", "noise_1"}
    other = select(in_time(rows, learned=False), inputs, folds_of(rows), SelectSettings(least_features=1))
    assert other.record["folds"] == "by customer"


def test_a_drifting_column_that_misleads_later_on_goes_and_one_that_still_tells_stays():
    rows, inputs = world(noise=2)
    misled, more = fading(in_time(rows), inputs, until=3)
    result = select(misled, more, folds_of(rows), SelectSettings(least_features=1, smallest=True, standard_errors=0.0))
    reasons = result.reasons.set_index("feature")
    assert "fad" in result.record["drift_candidates"]
    assert reasons.loc["fad", "reason"] == selection.DRIFTS
    told, more = fading(in_time(rows), inputs, until=9)
    result = select(told, more, folds_of(rows), SelectSettings(least_features=1))
    assert "fad" in result.record["drift_candidates"]
    assert result.reasons.set_index("feature").loc["fad", "kept"]


def test_where_no_later_date_is_judged_a_drifting_column_that_ranks_unseen_customers_stays():
    """`fad` misleads on the last date, but folds by customer, by which the model is judged, rank worse without it."""
    rows, inputs = world(noise=2)
    misled, more = fading(in_time(rows, learned=False), inputs, until=3)
    result = select(misled, more, folds_of(rows), SelectSettings(least_features=1))
    assert result.record["folds"] == "by customer"
    assert "fad" in result.record["drift_candidates"]
    assert result.reasons.set_index("feature").loc["fad", "kept"]
    tried = [each for each in result.record["tried"] if "auc_loss_by_customer" in each]
    assert tried
    assert all(each["auc_loss_by_customer"] > 0.001 for each in tried)


@pytest.mark.parametrize(
    ("below", "above", "expected", "why"),
    [
        ({40: (0.0, 0.0), 20: (0.0005, 0.002), 10: (0.004, 0.002)}, {}, 20, "as good as the best"),
        ({40: (0.0, 0.0), 20: (0.0025, 0.003), 10: (0.004, 0.002)}, {}, 40, "ranks worse"),
        ({40: (0.0, 0.0), 20: (0.0005, 0.010), 10: (0.0009, 0.01)}, {}, 40, "too few defaults"),
        ({40: (0.03, 0.01), 20: (0.0, 0.0), 10: (0.02, 0.01)}, {20: (0.03, 0.01)}, 20, "as good as the best"),
        ({40: (0.0005, 0.0004), 20: (0.0, 0.0), 10: (0.0009, 0.0004)}, {}, 20, "as good as the best"),
    ],
)
def test_the_rule_of_one_standard_error_and_its_limits(below, above, expected, why):
    above = {size: above.get(size, (0.0, below[size][1])) for size in below}
    size, told = smallest.choice(below, above, smallest.SmallestSettings())
    assert size == expected
    assert why in told


def test_held_out_gain_sums_to_what_the_trees_take_off_the_loss():
    rows, inputs = world(customers=500, noise=2)
    matrix = rows.features.to_numpy()
    half = len(rows) // 2
    given = estimator.parameters({"num_leaves": 7, "learning_rate": 0.1}, (), 1)
    columns = [each.column for each in inputs]
    text = estimator.fit(estimator.dataset(matrix[:half], rows.outcome[:half], columns, given), given, 30)
    booster, test, answer = estimator.load(text, columns), matrix[half:], rows.outcome[half:]
    gain = held_out_gain(booster, test, answer, 30)
    first = estimator.margins(booster, test) * 0 + np.log(rows.outcome[:half].mean() / (1 - rows.outcome[:half].mean()))
    off = metrics.log_loss(answer, estimator.probability(first)) - metrics.log_loss(
        answer, estimator.probability(estimator.margins(booster, test))
    )
    assert gain.sum() == pytest.approx(off, rel=0.03)
    names = [each.name for each in inputs]
    assert gain[names.index("risk_a")] > 10 * abs(gain[names.index("noise_0")])


def test_thinning_keeps_customers_whole_and_defaults_first():
    rows, _ = world(customers=1000, noise=0)
    folds = folds_of(rows)
    fewer, fewer_folds = thinned(rows, folds, 2000)
    assert 1800 <= len(fewer) <= 2000
    assert fewer.bads > 300
    count = pd.Series(fewer.customer).value_counts()
    assert (count == 4).all()
    for (train, asked), (old_train, old_asked) in zip(fewer_folds, folds, strict=True):
        assert len(train) + len(asked) == len(fewer)
        assert set(fewer.customer[asked]) <= set(rows.customer[old_asked])
        assert set(fewer.customer[train]) <= set(rows.customer[old_train])
    assert thinned(rows, folds, 10_000)[0] is rows


def test_select_repeats_itself(chosen):
    rows, inputs, result = chosen
    again = select(rows, inputs, folds_of(rows), SelectSettings(least_features=1))
    assert again.inputs == result.inputs
    assert again.record == result.record
    pd.testing.assert_frame_equal(again.reasons, result.reasons)


def test_switched_off_it_only_screens():
    rows, inputs = world(customers=200)
    result = select(rows, inputs, folds_of(rows), SelectSettings(smallest=False))
    assert len(result.inputs) == len(inputs)


def test_stable_months_have_no_candidates():
    rows, inputs = world(customers=400, noise=4)
    still = tuple(each for each in inputs if each.name != "clock")
    matrix = rows.features[[each.name for each in still]].to_numpy()
    found = drift(rows, still, matrix, SelectSettings())
    assert found.candidates == ()
    assert found.auc < 0.6
