"""The search: good points first, a killed search ends where an unbroken one does, nothing learned from asked rows."""

import json

import numpy as np
import optuna
import pandas as pd
import pytest

from models import tuning
from models.inputs import Input, numbered, panel
from models.space import good_points, lightgbm_space, most_leaves
from models.splits import fold_indices, grouped_folds
from models.tuning import FoldData, TuneSettings, memory_study, search, trial_records


@pytest.fixture(scope="module")
def folds():
    random = np.random.default_rng(2)
    frame = pd.DataFrame(random.normal(size=(900, 5)), columns=list("abcde"))
    outcome = (random.random(900) < 1 / (1 + np.exp(1.5 - frame["a"] + frame["b"]))).astype(int)
    frame = frame.assign(outcome=outcome, as_of=pd.Timestamp("2020-01-01"), kind=random.choice(["p", "q"], 900))
    frame["customer_id"] = [f"c{n:04d}" for n in range(900)]
    inputs = numbered(Input(name, "", "numeric", 0, "", "") for name in "abcde")
    inputs = numbered((*inputs, Input("kind", "", "categorical", 0, "", "")))
    rows = panel(frame, [each.name for each in inputs], 12)
    return FoldData(rows, inputs, fold_indices(rows, grouped_folds(rows, 3, 1), "grouped"), TuneSettings())


SETTINGS = TuneSettings(trials=11, patience=50, max_rounds=40, learning_rate=0.2)


def told(study):
    return json.dumps(trial_records(study))


@pytest.mark.fault("E11")
def test_a_search_killed_at_any_trial_ends_where_an_unbroken_one_does(folds):
    unbroken = memory_study()
    winner = search(folds, unbroken, SETTINGS)
    broken = memory_study()
    for stop in (1, 4, 9):

        def kill(number, _planned, _best, stop=stop):
            if number == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(folds, broken, SETTINGS, kill)
    assert search(folds, broken, SETTINGS) == winner
    assert told(broken) == told(unbroken)
    assert len(trial_records(broken)) == 11


@pytest.mark.fault("E11")
def test_a_finished_search_is_not_searched_again(folds):
    study = memory_study()
    first = search(folds, study, SETTINGS)
    seen = []
    assert search(folds, study, SETTINGS, lambda *told: seen.append(told)) == first
    assert seen == []


def test_good_points_come_first_and_the_winner_is_no_worse(folds):
    study = memory_study()
    winner = search(folds, study, SETTINGS)
    records = trial_records(study)
    points = good_points(900, folds.panel.bads)
    for record, point in zip(records, points, strict=False):
        assert json.loads(record["parameters"]) == point
    assert winner.log_loss <= min(record["log_loss"] for record in records[: len(points)] if record["log_loss"])
    assert winner.log_loss in [record["log_loss"] for record in records if record["state"] == "complete"]


@pytest.fixture
def looking(monkeypatch):
    """Let the 600 rows that a fold teaches with count as many."""
    monkeypatch.setattr(tuning, "LOOK_FROM", 500)
    monkeypatch.setattr(tuning, "LOOK_ROWS", 300)


def test_many_rows_get_a_first_look_that_says_which_good_point_goes_first(folds, looking):
    told = []
    study = memory_study()
    search(folds, study, SETTINGS, lambda *each: told.append(each))
    points = good_points(900, folds.panel.bads)
    looked = tuning.first_look(folds, SETTINGS, points)
    assert [trial.value for trial in looked] == sorted(trial.value for trial in looked)
    assert sorted(sorted(trial.params.items()) for trial in looked) == sorted(sorted(point.items()) for point in points)
    first = [json.loads(record["parameters"]) for record in trial_records(study)[: len(points)]]
    assert first == [trial.params for trial in looked]
    looks = [held for number, planned, held in told if (number, planned) == (0, 11)]
    assert looks[-1].params == looked[0].params
    assert [held.value for held in looks] == sorted((held.value for held in looks), reverse=True)
    assert [number for number, _, _ in told][len(looks) :] == list(range(1, 12))


def test_a_look_sees_the_rows_of_one_fold_alone_and_states_trees_for_all_rows(folds, looking, monkeypatch):
    seen = []

    def curve(train, valid, *_):
        seen.append((train.num_data(), valid.num_data()))
        return np.array([0.5, 0.4, 0.3, 0.2, 0.6]), np.full(5, 0.7)

    monkeypatch.setattr(tuning.estimator, "learning_curve", curve)
    looked = tuning.first_look(folds, SETTINGS, good_points(900, folds.panel.bads))
    assert set(seen) == {(300, 150)}
    assert {trial.user_attrs["rounds"] for trial in looked} == {round(4 * (900 / 300) ** tuning.LOOK_GROWTH)}


def test_few_rows_get_no_look(folds):
    assert tuning.first_look(folds, SETTINGS, good_points(900, folds.panel.bads)) == []


def test_a_search_with_a_look_killed_at_any_trial_ends_where_an_unbroken_one_does(folds, looking):
    unbroken, broken = memory_study(), memory_study()
    winner = search(folds, unbroken, SETTINGS)
    for stop in (0, 1, 4):

        def kill(number, _planned, _held, stop=stop):
            if number == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search(folds, broken, SETTINGS, kill)
    assert search(folds, broken, SETTINGS) == winner
    assert trial_records(broken) == trial_records(unbroken)


def test_a_budget_that_is_over_before_the_first_trial_ends_with_what_the_look_found(folds, looking):
    study = memory_study()
    winner = search(folds, study, SETTINGS.model_copy(update={"seconds": 1e-6}))
    best = tuning.first_look(folds, SETTINGS, good_points(900, folds.panel.bads))[0]
    assert (winner.trials, winner.rounds, winner.log_loss) == (1, best.user_attrs["rounds"], best.value)
    assert winner.reproducible is False
    assert winner.companions == []


def lose(monkeypatch, values):
    """Let the trials' folds lose what `values` says, a list a trial, each after one round."""
    losses = (loss for trial in values for loss in trial)
    monkeypatch.setattr(tuning.estimator, "learning_curve", lambda *_: (np.array([next(losses)]), np.array([0.6])))
    monkeypatch.setattr(tuning.estimator, "side_by_side", lambda work, items: [work(each) for each in items])


@pytest.mark.parametrize(("other", "wins"), [([0.39, 0.38, 0.37], True), ([0.35, 0.43, 0.41], False)])
def test_a_known_good_point_gives_way_only_to_what_is_better_beyond_noise(folds, monkeypatch, other, wins):
    """Three folds: the good points lose .40 in each; the first other trial gains .02 evenly, or .003 with a spread."""
    points = good_points(900, folds.panel.bads)
    lose(monkeypatch, [[0.4] * 3] * len(points) + [other] * 20)
    study = memory_study()
    winner = search(folds, study, TuneSettings(trials=len(points) + 1))
    first = optuna.trial.FixedTrial(dict(points[0]))
    assert (winner.parameters != lightgbm_space(first, rows=900, bads=folds.panel.bads)) == wins


def test_companions_are_trials_as_good_as_the_winner(folds, monkeypatch):
    """Three folds lose .40: one trial .401 evenly (worse beyond noise), one .40 with a spread (as good), one .45."""
    points = good_points(900, folds.panel.bads)
    lose(monkeypatch, [[0.4] * 3, *([[0.45] * 3] * (len(points) - 1)), [0.401] * 3, [0.398, 0.4, 0.4025], [0.45] * 3])
    monkeypatch.setattr(tuning, "_hopeless", lambda *_: False)
    study = memory_study()
    found = search(folds, study, TuneSettings(trials=len(points) + 3))
    spread = json.loads(trial_records(study)[len(points) + 1]["parameters"])
    assert found.parameters == dict(points[0])
    assert [each["parameters"] for each in found.companions] == [spread]


def test_trials_fall_with_size_and_rise_where_the_search_pays():
    counts = [tuning.trial_count(rows, 40) for rows in (300, 6000, 20_000, 120_000, 1_000_000)]
    assert counts == [20, 40, 20, 12, 10]


def test_it_stops_when_nothing_improves(folds, monkeypatch):
    monkeypatch.setattr(tuning.estimator, "learning_curve", lambda *_: (np.array([0.5, 0.4]), np.array([0.6, 0.6])))
    study = memory_study()
    search(folds, study, TuneSettings(trials=60, patience=4))
    assert len(trial_records(study)) == len(good_points(900, folds.panel.bads)) + 4


def test_bad_trials_are_pruned_on_the_first_folds(folds, monkeypatch):
    calls = []

    def curve(_train, _valid, given, *_):
        calls.append(given["num_leaves"])
        bad = 0.0 if len(calls) <= 3 else 0.5
        return np.array([0.4 + bad]), np.array([0.6])

    monkeypatch.setattr(tuning.estimator, "learning_curve", curve)
    study = memory_study()
    search(folds, study, TuneSettings(trials=3))
    assert [record["state"] for record in trial_records(study)] == ["complete", "pruned", "pruned"]
    assert [record["folds"] for record in trial_records(study)] == [3, 2, 2]


def test_categories_are_coded_from_the_folds_train_rows_alone(folds):
    """Outcomes of the asked rows are turned round: the fold's train matrix must not move."""
    train, asked = folds.indices[0]
    before = folds.sets(0, 255)[0].num_data()
    assert before == len(train)
    from models import encoders

    first = encoders.fit_matrix(folds.panel.take(train), folds.inputs, 20.0, 1)[1]
    turned = folds.panel.outcome.copy()
    turned[asked] = 1 - turned[asked]
    other = type(folds.panel)(folds.panel.customer, folds.panel.as_of, folds.panel.closes, turned, folds.panel.features)
    assert (encoders.fit_matrix(other.take(train), folds.inputs, 20.0, 1)[1] == first).all()


@pytest.mark.parametrize(("rows", "bads"), [(60, 10), (310, 35), (6000, 300), (150_000, 10_000)])
def test_the_space_holds_its_good_points_and_fits_the_size(rows, bads):
    for point in good_points(rows, bads):
        drawn = lightgbm_space(optuna.trial.FixedTrial(dict(point)), rows=rows, bads=bads)
        assert drawn == dict(point)
    assert most_leaves(310, 35) <= 15
    assert most_leaves(4900, 190) == 190
    assert most_leaves(150_000, 10_000) == 512


@pytest.mark.fault("E1")
def test_a_fold_without_defaults_is_left_out(folds):
    rows = folds.panel
    good = np.flatnonzero(rows.outcome == 0)
    lonely = FoldData(rows, folds.inputs, [(good[:200], good[200:]), folds.indices[0]], TuneSettings())
    assert lonely.usable() == [1]


def test_a_budget_of_time_ends_the_search_after_the_trial_it_is_in_and_says_that_it_cannot_be_reproduced(
    folds, monkeypatch
):
    """The clock moves ten seconds a look; a budget of 25 s lets three trials pass."""
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(tuning.time, "monotonic", lambda: float(next(clock)))
    study = memory_study()
    winner = search(folds, study, SETTINGS.model_copy(update={"seconds": 25.0}))
    assert winner.trials == len(trial_records(study)) == 3
    assert not winner.reproducible
    assert search(folds, memory_study(), SETTINGS).reproducible
