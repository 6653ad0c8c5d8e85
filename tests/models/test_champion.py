"""The gate: who replaces whom, on figures that a reader can check."""

from __future__ import annotations

import numpy as np
import pytest

from models.champion import Gate, judge


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(3)
    margin = random.normal(-2.5, 1.2, 6000)
    pd = 1 / (1 + np.exp(-margin))
    return margin, pd, (random.random(6000) < pd).astype("int8")


def test_an_equal_and_calibrated_candidate_passes(rows):
    _, pd, outcome = rows
    verdict = judge(outcome, pd, pd, pd, Gate())
    assert verdict.passed
    assert verdict.figures["candidate_auc"] == verdict.figures["champion_auc"]
    assert verdict.figures["psi"] == pytest.approx(0)
    assert verdict.figures["calibration_slope"] == pytest.approx(1, abs=0.1)


@pytest.mark.fault("E12")
def test_a_candidate_that_ranks_worse_is_kept_out(rows):
    margin, pd, outcome = rows
    noisy = 1 / (1 + np.exp(-(margin + np.random.default_rng(1).normal(0, 1, len(margin))) * 0.6 + 1))
    verdict = judge(outcome, noisy, pd, noisy, Gate(calibration_slope=(0, 9)))
    assert not verdict.passed
    assert "AUC lower" in verdict.reasons[0]
    assert "paired p 0.000" in verdict.reasons[0]
    assert verdict.figures["auc_gain_low"] < verdict.figures["auc_gain"] < verdict.figures["auc_gain_high"] < 0
    gain = verdict.figures["candidate_auc"] - verdict.figures["champion_auc"]
    assert verdict.figures["auc_gain"] == pytest.approx(gain)


def test_customers_with_several_rows_make_the_comparison_less_sure(rows):
    margin, pd, outcome = rows
    noisy = 1 / (1 + np.exp(-margin - np.random.default_rng(1).normal(0, 0.3, len(margin))))
    twice = [np.tile(each, 2) for each in (outcome, noisy, pd)]
    who = np.tile(np.arange(len(pd)).astype(str), 2).astype(object)
    alone = judge(*twice, None, Gate()).figures
    grouped = judge(*twice, None, Gate(), who).figures
    assert grouped["auc_gain_high"] - grouped["auc_gain_low"] > 1.3 * (alone["auc_gain_high"] - alone["auc_gain_low"])


def test_an_overconfident_candidate_is_kept_out_by_its_slope(rows):
    margin, pd, outcome = rows
    steep = 1 / (1 + np.exp(-2 * margin))
    verdict = judge(outcome, steep, pd, steep, Gate())
    assert [reason.split()[0] for reason in verdict.reasons] == ["calibration"]
    assert verdict.figures["calibration_slope"] == pytest.approx(0.5, abs=0.06)


def test_a_score_that_moved_since_training_is_kept_out(rows):
    margin, pd, outcome = rows
    train = 1 / (1 + np.exp(-(margin - 2)))
    verdict = judge(outcome, pd, pd, train, Gate())
    assert any("PSI" in reason for reason in verdict.reasons)


@pytest.mark.fault("E2")
def test_too_few_defaults_decide_nothing(rows):
    _, pd, _ = rows
    outcome = np.zeros(len(pd), dtype="int8")
    outcome[:19] = 1
    assert "19 defaults" in judge(outcome, pd, pd, pd, Gate()).reasons[0]


def test_without_a_champion_the_absolute_gate_stands_alone(rows):
    _, pd, outcome = rows
    verdict = judge(outcome, pd, None, None, Gate())
    assert verdict.passed
    assert "champion_auc" not in verdict.figures
