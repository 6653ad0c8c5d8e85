"""The recipe as a whole: it recovers a known world, repeats itself, and does not fool itself on noise."""

import numpy as np
import pandas as pd
import pytest

from models import metrics, recipe
from models.inputs import Input, numbered, panel
from models.recipe import CalibrateSettings, Settings, TrainSettings
from models.selection import SelectSettings, screen
from models.tuning import TuneSettings

QUICK = Settings(
    SelectSettings(), TuneSettings(trials=4, max_rounds=60, repeats=1), TrainSettings(seeds=2), CalibrateSettings()
)
COLUMNS = ("x1", "x2", "x3", "noise", "code", "constant", "copy", "empty", "number")


def world(rows, seed=1, signal=1.0):
    """Rows whose true PD is known: rising in x1, falling in x2, and by branch."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(rows, 4)), columns=["x1", "x2", "x3", "noise"])
    code = random.integers(0, 4, rows)
    line = -2.2 + signal * (frame["x1"] - 0.7 * frame["x2"] + 0.8 * (code == 2))
    true = 1 / (1 + np.exp(-line))
    frame["code"] = np.array(["p", "q", "r", "s"])[code]
    frame["constant"], frame["copy"], frame["empty"] = 1.0, frame["x1"] ** 3, np.nan
    frame["number"] = [f"id{n}" for n in range(rows)]
    frame = frame.assign(
        customer_id=[f"c{n:06d}" for n in range(rows)],
        as_of=pd.Timestamp("2020-01-01"),
        outcome=(random.random(rows) < true).astype(int),
    )
    kinds = {"code": "categorical", "number": "categorical"}
    direction = {"x1": 1, "x2": -1}
    inputs = numbered(
        Input(name, "", kinds.get(name, "numeric"), direction.get(name, 0), "", f"h{name}") for name in COLUMNS
    )
    return panel(frame, COLUMNS, 12), inputs, true.to_numpy()


@pytest.mark.fault("E5", "C9")
def test_selection_says_why_it_leaves_features_out():
    rows, inputs, _ = world(500)
    result = screen(rows, inputs, SelectSettings())
    reasons = result.reasons.set_index("feature")
    assert [each.name for each in result.inputs] == ["x1", "x2", "x3", "noise", "code"]
    assert [each.column for each in result.inputs] == ["f0001", "f0002", "f0003", "f0004", "f0005"]
    assert reasons.loc["constant", "reason"] == "constant"
    assert reasons.loc["empty", "reason"] == "never known"
    assert reasons.loc["copy", "twin"] == "x1"
    assert "identifier" in reasons.loc["number", "reason"]
    assert reasons["kept"].sum() == 5


def test_selection_keeps_a_constant_whose_absence_tells():
    rows, inputs, _ = world(500)
    rows.features["constant"] = np.where(np.arange(500) % 3 == 0, np.nan, 1.0)
    assert "constant" in [each.name for each in screen(rows, inputs, SelectSettings()).inputs]


def test_it_recovers_a_known_world():
    rows, inputs, _ = world(6000)
    asked, _, true = world(4000, seed=2)
    fitted = recipe.run(rows, inputs, QUICK)
    pd_ = fitted.calibrator.pd(fitted.margins(asked.features))
    reachable = metrics.auc(asked.outcome, true)
    assert metrics.auc(asked.outcome, pd_) > reachable - 0.02
    assert np.corrcoef(np.log(pd_ / (1 - pd_)), np.log(true / (1 - true)))[0, 1] > 0.93
    slope, _ = metrics.calibration_line(asked.outcome, pd_)
    assert 0.85 < slope < 1.15
    low, high = fitted.calibrator.interval(fitted.margins(asked.features))
    assert ((low <= true) & (true <= high)).mean() > 0.85


def test_opinions_come_from_models_that_never_saw_the_rows_customer_nor_each_others_evidence(monkeypatch):
    rows, inputs, _ = world(900)
    chosen = screen(rows, inputs, QUICK.select).inputs
    seen = []
    real = recipe.encoders.fit_matrix

    def spy(panel, some, *rest):
        seen.append((set(panel.customer), frozenset(each.name for each in some)))
        return real(panel, some, *rest)

    monkeypatch.setattr(recipe.encoders, "fit_matrix", spy)
    tuned = recipe.Tuned({"num_leaves": 4, "max_bin": 63}, 0.1, 20, 0.3, 0.7, 4, 1, True, 20.0)
    trained = recipe.train(rows, chosen, [(np.arange(450), np.arange(450, 900))], tuned, TrainSettings(seeds=1))
    assert not np.isnan(trained.opinion_a).any()
    assert not np.isnan(trained.opinion_b).any()
    opinions = [each for each in seen if len(each[0]) == 300]
    evidence = {names for _, names in opinions}
    assert len(opinions) == 6
    assert len(evidence) == 2
    assert not frozenset.intersection(*evidence)
    for half in evidence:
        assert len(set.union(*(who for who, names in opinions if names == half))) == 900


def test_same_rows_give_the_same_files():
    rows, inputs, _ = world(800)
    first, second = recipe.run(rows, inputs, QUICK), recipe.run(rows, inputs, QUICK)
    assert first.trained.booster == second.trained.booster
    assert first.trained.encoders.to_json() == second.trained.encoders.to_json()
    assert first.calibrator.to_json() == second.calibrator.to_json()


def test_thirty_defaults_in_noise_are_no_error_and_stay_near_the_rate():
    rows, inputs, _ = world(300, signal=0.0)
    assert 20 < rows.bads < 45
    fitted = recipe.run(rows, inputs, QUICK)
    pd_ = fitted.calibrator.pd(fitted.margins(world(1000, seed=3)[0].features))
    assert pd_.mean() == pytest.approx(rows.outcome.mean(), abs=0.04)
    assert pd_.std() < 0.08
    low, high = fitted.calibrator.interval(np.array([np.log(rows.outcome.mean())]))
    assert high - low > 0.04


def test_out_of_fold_margins_do_not_know_their_customer():
    """Each customer has four rows and the outcome is the customer's own coin: only memory could rank it."""
    random = np.random.default_rng(5)
    customers = np.repeat(np.arange(250), 4)
    own = random.normal(size=250)[customers]
    frame = pd.DataFrame({"x1": own, "x2": random.normal(size=1000), "customer_id": customers.astype(str)})
    frame["as_of"] = np.tile(pd.date_range("2020-01-01", periods=4, freq="MS"), 250)
    frame["outcome"] = (random.random(250) < 0.4).astype(int)[customers]
    rows = panel(frame, ["x1", "x2"], 12)
    inputs = numbered(Input(name, "", "numeric", 0, "", "") for name in ("x1", "x2"))
    fitted = recipe.run(rows, inputs, QUICK)
    assert abs(metrics.auc(rows.outcome, fitted.trained.margin) - 0.5) < 0.08
    assert metrics.auc(rows.outcome, fitted.margins(rows.features)) > 0.6


def test_overrides_scale_the_trees():
    rows, inputs, _ = world(600)
    chosen = screen(rows, inputs, QUICK.select).inputs
    tuned = recipe.Tuned({"num_leaves": 4, "max_bin": 63}, 0.1, 40, 0.3, 0.7, 4, 1, True, 20.0)
    folds = [(np.arange(300), np.arange(300, 600)), (np.arange(300, 600), np.arange(300))]
    half = recipe.train(rows, chosen, folds, tuned, TrainSettings(learning_rate=0.05, seeds=2))
    assert (half.rounds, half.seeds, half.learning_rate) == (80, 2, 0.05)
    assert half.booster.count("\nTree=") == 160
    few = recipe.train(rows, chosen, folds, tuned, TrainSettings(num_boost_round=7, seeds=1))
    assert few.booster.count("\nTree=") == 7


def members_of(plan):
    return [(each["num_leaves"], round(each["learning_rate"], 6)) for each in plan.members]


def test_members_are_the_winner_and_its_companions_in_turn_all_with_as_many_trees():
    """The winner wants 40 rounds at .1, a companion 80: both get half as many again as the winner, in smaller steps."""
    rows, inputs, _ = world(600)
    others = [{"parameters": {"num_leaves": 8, "max_bin": 255}, "rounds": 80}]
    tuned = recipe.Tuned({"num_leaves": 4, "max_bin": 63}, 0.1, 40, 0.3, 0.7, 4, 1, True, 20.0, True, others)
    plan = recipe._Plan.of(rows, inputs, tuned, TrainSettings(seeds=3))
    assert members_of(plan) == [(4, 0.066667), (8, 0.133333), (4, 0.066667)]
    assert plan.rounds == 60
    assert len({each["seed"] for each in plan.parameters(inputs, 3)}) == 3
    given = recipe._Plan.of(rows, inputs, tuned, TrainSettings(seeds=2, learning_rate=0.02, num_boost_round=9))
    assert members_of(given) == [(4, 0.02), (8, 0.04)]
    assert given.rounds == 9
    chosen = screen(rows, inputs, QUICK.select).inputs
    folds = [(np.arange(300), np.arange(300, 600)), (np.arange(300, 600), np.arange(300))]
    trained = recipe.train(rows, chosen, folds, tuned, TrainSettings(seeds=2))
    assert trained.booster.count("\nTree=") == 120


def test_averaging_is_measured_on_rows_by_customer_and_kept_where_it_helps():
    """Margins nearer to the truth gain, turned round they lose as much; a demand that nothing meets leaves the winner."""
    rows, inputs, _ = world(600)
    truth = np.where(rows.outcome == 1, 1.0, -1.0) + np.random.default_rng(1).normal(0, 2, 600)
    worse = truth + np.random.default_rng(2).normal(0, 4, 600)
    found = recipe.averaging(truth, worse, rows)
    assert found["gain"] > 3 * found["standard_error"] > 0
    assert recipe.averaging(worse, truth, rows)["gain"] == pytest.approx(-found["gain"])
    assert recipe.averaging(np.full(600, np.nan), truth, rows) == {"gain": 0.0, "standard_error": 0.0}
    rows, inputs, _ = world(1200)
    assert rows.bads >= 100
    chosen = screen(rows, inputs, QUICK.select).inputs
    tuned = recipe.Tuned({"num_leaves": 16, "max_bin": 63}, 0.1, 40, 0.3, 0.7, 4, 1, True, 20.0)
    folds = [(np.arange(600), np.arange(600, 1200)), (np.arange(600, 1200), np.arange(600))]
    single = recipe.train(rows, chosen, folds, tuned, TrainSettings(gain_errors=1e6))
    assert (single.seeds, single.booster.count("\nTree=")) == (1, 40)
    alone = recipe.train(rows, chosen, folds, tuned, TrainSettings(seeds=1))
    assert single.booster == alone.booster
    assert (single.margin == alone.margin).all()


def test_few_defaults_always_meet_a_spread_of_seeds():
    rows, inputs, _ = world(600)
    chosen = screen(rows, inputs, QUICK.select).inputs
    tuned = recipe.Tuned({"num_leaves": 4, "max_bin": 63}, 0.1, 10, 0.3, 0.7, 4, 1, True, 20.0)
    folds = [(np.arange(300), np.arange(300, 600)), (np.arange(300, 600), np.arange(300))]
    assert recipe.train(rows, chosen, folds, tuned, TrainSettings(gain_errors=1e6)).seeds == 5


def test_models_without_directions_are_those_that_train_gives_when_none_are_wanted():
    rows, inputs, _ = world(600)
    chosen = screen(rows, inputs, QUICK.select).inputs
    tuned = recipe.Tuned({"num_leaves": 4, "max_bin": 63}, 0.1, 20, 0.3, 0.7, 4, 1, True, 20.0)
    folds = [(np.arange(300), np.arange(300, 600)), (np.arange(300, 600), np.arange(300))]
    free = recipe.without_directions(rows, chosen, folds, tuned, TrainSettings(seeds=1))
    held = recipe.train(rows, chosen, folds, tuned, TrainSettings(seeds=1)).margin
    wanted = recipe.Tuned(**{**tuned.record(), "monotone": False})
    assert (free == recipe.train(rows, chosen, folds, wanted, TrainSettings(seeds=1)).margin).all()
    assert (free != held).any()
