"""What PDs promise: against every pair, sklearn's weighted AUC, and outcomes drawn from the PDs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from models.expected import expected_auc, expected_rate, pairs_below

PDS = st.lists(st.integers(1, 99).map(lambda n: n / 100), min_size=2, max_size=12)


def every_pair(pd: np.ndarray, risk: np.ndarray) -> float:
    """The chance that a default lies above a good one, by the definition."""
    found = total = 0.0
    for i in range(len(pd)):
        for j in range(len(pd)):
            if i != j:
                weight = pd[i] * (1 - pd[j])
                total += weight
                found += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return found / total


@given(PDS)
def test_the_area_is_that_of_every_pair_ties_counted_half(values):
    pd = np.array(values)
    assert expected_auc(pd)["value"] == pytest.approx(every_pair(pd, pd))
    other = np.round(np.sin(pd * 50), 1)
    assert expected_auc(pd, other)["value"] == pytest.approx(every_pair(pd, other))


def test_sklearns_weighted_area_agrees_where_rows_are_many():
    """Each row once as a default with weight PD and once as a good one: apart from pairs of a row with itself the same."""
    pd = np.random.default_rng(1).beta(1, 12, 4000)
    weighted = roc_auc_score(np.repeat([1, 0], len(pd)), np.tile(pd, 2), sample_weight=np.concatenate((pd, 1 - pd)))
    assert expected_auc(pd)["value"] == pytest.approx(weighted, abs=5e-4)


def test_outcomes_drawn_from_the_pds_fall_inside_the_interval_as_often_as_it_says():
    rng = np.random.default_rng(2)
    pd = rng.beta(0.8, 14, 3000)
    drawn = rng.random((400, len(pd))) < pd
    areas = np.array([roc_auc_score(outcome, pd) for outcome in drawn])
    told = expected_auc(pd)
    assert told["value"] == pytest.approx(areas.mean(), abs=3 * areas.std() / 20)
    assert np.mean((told["low"] <= areas) & (areas <= told["high"])) == pytest.approx(0.95, abs=0.035)
    rate = expected_rate(pd)
    assert rate["value"] == pytest.approx(pd.mean())
    assert np.mean((rate["low"] <= drawn.mean(axis=1)) & (drawn.mean(axis=1) <= rate["high"])) == pytest.approx(
        0.95, abs=0.035
    )


def test_equal_pds_cannot_be_told_apart_and_nobody_promises_nothing():
    assert expected_auc(np.full(50, 0.1))["value"] == pytest.approx(0.5)
    assert expected_auc(np.array([0.2])) is None
    assert expected_rate(np.array([])) is None


@given(PDS)
def test_weight_below_and_above_make_up_all_others(values):
    risk, weight = np.array(values), np.arange(1.0, len(values) + 1)
    both = pairs_below(risk, weight) + pairs_below(-risk, weight)
    np.testing.assert_allclose(both, weight.sum() - weight)
