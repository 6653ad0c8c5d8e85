"""The challengers find what is there, are text, and see no outcome that they are asked about."""

import numpy as np
import pytest

from models import challengers, encoders, metrics
from models.challengers import KINDS, Challenger, fit, fit_all, ranking
from models.splits import fold_indices, grouped_folds
from tests.models.test_recipe import world


@pytest.fixture(scope="module")
def trained():
    rows, inputs, _ = world(3000)
    used = tuple(each for each in inputs if each.name in ("x1", "x2", "x3", "noise", "code"))
    rows.features.loc[rows.features.index % 7 == 0, "x2"] = np.nan
    folds = fold_indices(rows, grouped_folds(rows, 3, 1), "grouped")
    return rows, used, fit_all(rows, used, folds, 20.0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_recovers_a_world_made_for_it(trained, kind):
    _, inputs, (coder, found) = trained
    asked, _, true = world(3000, seed=2)
    margin = found[kind].margins(coder.matrix(asked.features, inputs))
    assert metrics.auc(asked.outcome, margin) > metrics.auc(asked.outcome, true) - 0.025
    slope, intercept = metrics.calibration_line(asked.outcome, 1 / (1 + np.exp(-margin)))
    assert slope == pytest.approx(1, abs=0.2)
    assert intercept == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_text_reads_back(trained, kind):
    rows, inputs, (coder, found) = trained
    matrix = coder.matrix(rows.features, inputs)
    again = Challenger.from_json(found[kind].to_json(inputs))
    assert (again.margins(matrix) == found[kind].margins(matrix)).all()
    assert np.isfinite(again.margins(np.full((2, len(inputs)), np.nan))).all()


def test_weights_of_evidence_are_those_of_optbinning_and_of_counts():
    from optbinning import OptimalBinning

    random = np.random.default_rng(2)
    values = random.normal(size=4000)
    outcome = (random.random(4000) < 1 / (1 + np.exp(2 - values))).astype(int)
    part = fit("scorecard", values[:, None], outcome, np.array([0]), (1.0,))[0].parts[0]
    binning = OptimalBinning(solver="mip", max_n_bins=6, min_bin_size=0.03, monotonic_trend="auto_asc_desc")
    table = binning.fit(values, outcome).binning_table.build()
    theirs = table["WoE"].iloc[: len(part["woe"])].to_numpy(dtype=float)
    assert np.array(part["woe"]) == pytest.approx(-theirs, abs=0.06)  # theirs: good over bad, without half a row added
    assert (np.diff(part["woe"]) > 0).all()


def test_the_logistic_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(3)
    matrix = random.normal(3, 2, (1500, 2))
    outcome = (random.random(1500) < 1 / (1 + np.exp(5 - matrix[:, 0]))).astype(int)
    found = fit("logistic", matrix, outcome, np.array([0, 1]), (0.1,))[0]
    scaled = np.clip((matrix - matrix.mean(axis=0)) / matrix.std(axis=0), -4, 4)
    line = LogisticRegression(C=0.1).fit(scaled, outcome)
    assert found.margins(matrix) == pytest.approx(line.decision_function(scaled), abs=1e-2)


def test_ranking_is_the_gini_of_each_column():
    random = np.random.default_rng(4)
    outcome = random.integers(0, 2, 300)
    matrix = np.column_stack((outcome + random.normal(size=300), random.normal(size=300), np.full(300, np.nan)))
    expected = [abs(2 * metrics.auc(outcome, column) - 1) for column in matrix[:, :2].T]
    assert ranking(matrix, outcome) == pytest.approx([*expected, 0.0])


def test_where_nothing_varies_the_rate_is_predicted():
    outcome = np.tile([1, 0, 0, 0], 50)
    for kind in KINDS:
        nothing = fit(kind, np.ones((200, 2)), outcome, np.array([0, 1]), (0.1,))[0]
        assert 1 / (1 + np.exp(-nothing.margins(np.ones((3, 2))))) == pytest.approx(0.25, abs=0.01)


def test_codes_of_asked_rows_are_learned_from_the_folds_train_rows(monkeypatch):
    rows, inputs, _ = world(600)
    used = tuple(each for each in inputs if each.name in ("x1", "code"))
    folds = fold_indices(rows, grouped_folds(rows, 3, 1), "grouped")
    sizes = []
    real = encoders.fit_matrix
    monkeypatch.setattr(challengers.encoders, "fit_matrix", lambda p, *rest: (sizes.append(len(p)), real(p, *rest))[1])
    fit_all(rows, used, folds, 20.0, 1)
    assert sorted(sizes) == [400, 400, 400, 600]
