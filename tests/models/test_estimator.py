"""LightGBM behind its fence: same bytes, averaged seeds, refusals where LightGBM would say nothing."""

import numpy as np
import pytest

from features.errors import DataRefused, IntegrityRefused
from models import estimator
from models.inputs import Input
from models.space import good_points

COLUMNS = [f"f{n:04d}" for n in range(1, 7)]


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(4)
    matrix = random.normal(size=(1500, 6))
    outcome = (random.random(1500) < 1 / (1 + np.exp(2 - 1.5 * matrix[:, 0] + matrix[:, 1]))).astype(int)
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    return matrix, outcome


def trained(rows, seed=1, monotone=(0,) * 6, rounds=30):
    matrix, outcome = rows
    given = estimator.parameters({**good_points(1500, 300)[0], "learning_rate": 0.1}, monotone, seed)
    return estimator.fit(estimator.dataset(matrix, outcome, COLUMNS, given), given, rounds)


def test_same_rows_same_bytes_side_by_side_or_alone(rows):
    alone = trained(rows)
    assert estimator.side_by_side(lambda _: trained(rows), range(4)) == [alone] * 4
    assert alone != trained(rows, seed=2)


def test_text_hides_the_thread_count():
    assert estimator.normalised("[num_threads: 64]\n[x: 1]") == estimator.normalised("[num_threads: -1]\n[x: 1]")


def test_averaged_text_gives_the_mean_margin(rows):
    texts = [trained(rows, seed=seed) for seed in range(3)]
    one = estimator.load(estimator.average(texts), COLUMNS)
    assert one.num_trees() == 90
    expected = np.mean([estimator.margins(estimator.load(text, COLUMNS), rows[0]) for text in texts], axis=0)
    assert estimator.margins(one, rows[0]) == pytest.approx(expected, abs=1e-12)
    contributions = one.predict(rows[0][:50], pred_contrib=True)
    assert contributions.sum(axis=1) == pytest.approx(expected[:50], abs=1e-9)


def test_directions_bind_the_model(rows):
    inputs = [
        Input(f"x{n}", c, "numeric", d, "", "")
        for n, (c, d) in enumerate(zip(COLUMNS, (1, -1, 1, -1, 0, 0), strict=True))
    ]
    assert estimator.monotone_constraints(inputs, wanted=False) == (0,) * 6
    constraints = estimator.monotone_constraints(inputs, wanted=True)
    booster = estimator.load(trained(rows, monotone=constraints), COLUMNS)
    at = np.repeat(np.nan_to_num(rows[0][:40]), 30, axis=0)
    for column, direction in enumerate(constraints):
        moved = at.copy()
        moved[:, column] = np.tile(np.linspace(-3, 3, 30), 40)
        steps = np.diff(estimator.margins(booster, moved).reshape(40, 30), axis=1)
        assert (steps * direction >= -1e-12).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m, y: (m, np.where(y == 1, 2, 0)), "0 or 1"),
        (lambda m, y: (m, np.zeros_like(y)), "one class"),
        (lambda m, y: (np.where(m > 3, np.inf, m), y), "infinity"),
        (lambda m, y: (m, y[:-1]), "1500 of them"),
        (lambda m, y: (m[:, :0], y), "at least one feature"),
    ],
)
@pytest.mark.fault("E3")
def test_what_lightgbm_would_swallow_is_refused(rows, spoil, message):
    matrix, outcome = spoil(*rows)
    with pytest.raises(DataRefused, match=message):
        estimator.dataset(matrix, outcome, COLUMNS[: matrix.shape[1]], {})


@pytest.mark.fault("G2", "G3")
def test_a_torn_or_foreign_text_is_refused_before_lightgbm_reads_it(rows):
    text = trained(rows)
    for torn in (text[:200], text[: len(text) // 2], "", "tree\n", text.replace("leaf_value=", "leaf_value=1", 1)):
        with pytest.raises(IntegrityRefused):
            estimator.load(torn, COLUMNS)
    with pytest.raises(IntegrityRefused, match="columns that are not those"):
        estimator.load(text, COLUMNS[::-1])


def test_a_model_of_no_splits_still_answers():
    random = np.random.default_rng(1)
    flat = (np.ones((60, 6)), random.permutation(np.repeat([0, 1], 30)))
    text = estimator.average([trained(flat, rounds=3), trained(flat, seed=2, rounds=3)])
    assert estimator.margins(estimator.load(text, COLUMNS), flat[0]) == pytest.approx(0, abs=1e-6)
