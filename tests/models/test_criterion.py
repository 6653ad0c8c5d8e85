"""The line that a search judges by: the posterior mode of two numbers, blind to how loudly a model speaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from models import criterion, estimator


def drawn(rows=3000, seed=1, slope=0.6, intercept=0.5):
    random = np.random.default_rng(seed)
    margin = random.normal(-3, 2, rows)
    outcome = (random.random(rows) < 1 / (1 + np.exp(-(intercept + slope * margin)))).astype(float)
    return margin, outcome


@given(st.integers(0, 10_000), st.integers(2, 400), st.floats(0.05, 4.0))
@settings(max_examples=60, deadline=None)
def test_the_line_is_the_most_probable_one(seed, rows, loudness):
    """Independent: scipy's BFGS on the penalised likelihood as it stands in the docstring."""
    margin, outcome = drawn(rows, seed)
    margin = margin * loudness

    def penalised(at):
        odds = at[0] + at[1] * margin
        return np.sum(np.logaddexp(0, odds) - outcome * odds) + criterion.PRIOR / 2 * (at[0] ** 2 + (at[1] - 1) ** 2)

    best = minimize(penalised, [0.0, 1.0], method="BFGS", options={"gtol": 1e-7})
    found = np.array(criterion.line(margin, outcome))
    assert penalised(found) <= best.fun + 1e-6
    assert found == pytest.approx(best.x, abs=2e-3)


def test_a_start_elsewhere_ends_at_the_same_line():
    margin, outcome = drawn()
    assert criterion.line(margin, outcome, (3.0, -2.0)) == pytest.approx(criterion.line(margin, outcome), abs=1e-4)


def test_a_model_that_speaks_twice_as_loudly_is_as_good_and_one_that_ranks_worse_is_not():
    margin, outcome = drawn(20_000)
    plain, _ = criterion.log_loss(margin, outcome)
    loud, _ = criterion.log_loss(2 * margin - 1, outcome)
    assert loud == pytest.approx(plain, abs=2e-5)
    blurred, _ = criterion.log_loss(margin + np.random.default_rng(2).normal(0, 2, len(margin)), outcome)
    assert blurred > plain + 0.01


def test_one_class_and_a_handful_of_defaults_stay_finite():
    margin = np.array([-5.0, -4.0, -3.0, 2.0])
    for outcome in (np.zeros(4), np.ones(4), np.array([0.0, 0, 0, 1])):
        loss, (intercept, slope) = criterion.log_loss(margin, outcome)
        assert np.isfinite([loss, intercept, slope]).all()
        assert slope < 2.5


def test_log_odds_of_certainty_are_finite():
    assert np.isfinite(criterion.log_odds(np.array([0.0, 0.5, 1.0]))).all()
    assert criterion.log_odds(np.array([0.5]))[0] == 0


def test_a_learning_curve_is_the_loss_of_each_round_after_its_line():
    """Independent: margins of each round by `predict`, its line from scratch."""
    import lightgbm

    random = np.random.default_rng(4)
    matrix = random.normal(size=(1200, 4))
    outcome = (random.random(1200) < 1 / (1 + np.exp(-matrix[:, 0] * 2 + 1))).astype(float)
    given_ = estimator.parameters({"num_leaves": 31, "learning_rate": 0.3, "max_bin": 63}, (0,) * 4, 1)
    names = ["f0", "f1", "f2", "f3"]
    train = estimator.dataset(matrix[:800], outcome[:800], names, given_)
    valid = estimator.dataset(matrix[800:], outcome[800:], names, given_, reference=train)
    losses, areas = estimator.learning_curve(train, valid, given_, 200, 15)
    assert len(losses) == len(areas) == losses.argmin() + 16
    model = lightgbm.Booster(model_str=estimator.fit(train, given_, len(losses)))
    for rounds in (1, 5, len(losses)):
        margin = model.predict(matrix[800:], raw_score=True, num_iteration=rounds)
        loss, _ = criterion.log_loss(margin, outcome[800:])
        assert losses[rounds - 1] == pytest.approx(loss, abs=1e-6)
