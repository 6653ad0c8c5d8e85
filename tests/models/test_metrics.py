"""Each figure against scikit-learn, scipy, statsmodels, a brute-force count or a published example."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import metrics


@pytest.fixture(scope="module")
def sample():
    random = np.random.default_rng(7)
    line = random.normal(-2, 1.2, 3000)
    outcome = (random.random(3000) < 1 / (1 + np.exp(-line))).astype(int)
    pd = 1 / (1 + np.exp(-(0.7 * line + random.normal(0, 0.4, 3000))))
    return outcome, np.round(pd, 3)  # rounded: ties


def test_auc_is_the_share_of_ordered_pairs(sample):
    outcome, pd = (some[:300] for some in sample)
    bad, good = pd[outcome == 1], pd[outcome == 0]
    pairs = (bad[:, None] > good).mean() + 0.5 * (bad[:, None] == good).mean()
    assert metrics.auc(outcome, pd) == pytest.approx(pairs, abs=1e-12)


def test_delong_variance_is_that_of_the_pairwise_kernel(sample):
    """DeLong, DeLong, Clarke-Pearson 1988, equation 5, with the kernel written out."""
    outcome, pd = (some[:400] for some in sample)
    bad, good = pd[outcome == 1], pd[outcome == 0]
    kernel = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)
    expected = kernel.mean(axis=1).var(ddof=1) / len(bad) + kernel.mean(axis=0).var(ddof=1) / len(good)
    assert metrics.auc_variance(outcome, pd) == pytest.approx(expected, rel=1e-10)


def test_delong_interval_covers_as_often_as_it_says():
    from scipy.stats import norm

    random = np.random.default_rng(3)
    true = norm.cdf(1 / np.sqrt(2))
    hits = 0
    for _ in range(300):
        outcome = np.repeat([1, 0], [40, 160])
        score = random.normal(outcome, 1)
        _, low, high = metrics.auc_interval(outcome, score)
        hits += low <= true <= high
    assert 0.91 <= hits / 300 <= 0.98


def test_clustered_variance_counts_customers_not_rows(sample):
    outcome, pd = (some[:500] for some in sample)
    alone = metrics.auc_variance(outcome, pd, np.arange(500).astype(str))
    thrice = metrics.auc_variance(np.tile(outcome, 3), np.tile(pd, 3), np.tile(np.arange(500), 3).astype(str))
    assert alone == pytest.approx(metrics.auc_variance(outcome, pd), rel=0.03)
    assert thrice == pytest.approx(alone, rel=1e-9)  # rows without clusters would claim a third of it
    assert metrics.auc_variance(np.tile(outcome, 3), np.tile(pd, 3)) < alone / 2


def test_figures_agree_with_scikit_learn(sample):
    from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_curve

    outcome, pd = sample
    false, true, _ = roc_curve(outcome, pd)
    figures = metrics.figures(outcome, pd)
    assert figures["ks"] == pytest.approx((true - false).max(), abs=1e-12)
    assert figures["pr_auc"] == pytest.approx(average_precision_score(outcome, pd), abs=1e-12)
    assert figures["brier"] == pytest.approx(brier_score_loss(outcome, pd), abs=1e-12)
    assert figures["log_loss"] == pytest.approx(log_loss(outcome, np.clip(pd, 1e-15, 1)), abs=1e-9)
    assert figures["gini"] == pytest.approx(2 * figures["auc"] - 1)
    assert figures["rows"] == 3000
    assert figures["bads"] == outcome.sum()


def test_calibration_line_is_the_logistic_regression_of_statsmodels(sample):
    import statsmodels.api as sm

    outcome, pd = sample
    pd = np.clip(pd, 0.001, 0.999)
    expected = sm.Logit(outcome, sm.add_constant(np.log(pd / (1 - pd)))).fit(disp=0).params
    slope, intercept = metrics.calibration_line(outcome, pd)
    assert (intercept, slope) == pytest.approx(tuple(expected), abs=1e-6)


def test_logistic_fit_survives_separable_rows():
    line = np.linspace(-1, 1, 40)
    weights = metrics.logistic_fit(line[:, None], (line > 0).astype(int))
    assert np.isfinite(weights).all()
    assert weights[0] > 10


def test_jeffreys_interval_matches_published_values():
    """Brown, Cai, DasGupta 2001, table 5: n = 20, x = 5 gives [0.102, 0.464] at 95%; x = 0 gives [0, 0.117]."""
    low, high = metrics.jeffreys_interval(np.array([5, 0]), np.array([20, 20]), 0.95)
    assert low == pytest.approx([0.102, 0.0], abs=5e-4)
    assert high == pytest.approx([0.464, 0.117], abs=5e-4)


def test_jeffreys_test_falls_as_defaults_exceed_the_pd():
    assert metrics.jeffreys_test(1, 100, 0.02) > 0.5
    assert metrics.jeffreys_test(8, 100, 0.02) < 0.01


def test_lift_by_hand_and_ties_are_shared():
    outcome = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 0])
    score = np.arange(10)[::-1].astype(float)
    record = metrics.lift_table(outcome, score, (0.2,))[0]
    assert (record["capture"], record["lift"]) == pytest.approx((2 / 3, 10 / 3))
    flat = metrics.lift_table(outcome, np.zeros(10), (0.2,))[0]
    assert flat["capture"] == pytest.approx(0.2)


def test_psi_by_hand():
    """Two bins, 50/50 against 80/20: (.8-.5) ln(.8/.5) + (.2-.5) ln(.2/.5) = .4159."""
    expected, actual = np.repeat([0.0, 1.0], [50, 50]), np.repeat([0.0, 1.0], [80, 20])
    assert metrics.psi(expected, actual, bins=2) == pytest.approx(0.3 * np.log(1.6) - 0.3 * np.log(0.4), abs=1e-9)
    assert metrics.psi(expected, expected) == 0


def test_one_class_gives_nan_and_never_an_error():
    figures = metrics.figures(np.zeros(20, int), np.linspace(0.01, 0.2, 20))
    assert np.isnan(figures["auc"])
    assert figures["auc_low"] == 0
    assert figures["brier"] > 0


def test_ece_of_perfect_and_shifted_bins():
    outcome = np.tile([1, 0, 0, 0], 100)
    assert metrics.ece(outcome, np.full(400, 0.25)) == pytest.approx(0, abs=0.02)
    assert metrics.ece(outcome, np.full(400, 0.45)) == pytest.approx(0.2, abs=0.02)


def test_paired_delong_is_that_of_the_pairwise_kernels(sample):
    """DeLong, DeLong, Clarke-Pearson 1988: the covariance of both areas' structural components, written out."""
    outcome, first = (some[:500] for some in sample)
    second = first + np.random.default_rng(1).normal(0, 0.1, 500)
    parts = []
    for score in (first, second):
        bad, good = score[outcome == 1], score[outcome == 0]
        parts.append((bad[:, None] > good) + 0.5 * (bad[:, None] == good))
    of_bad = np.cov([part.mean(axis=1) for part in parts]) / (outcome == 1).sum()
    of_good = np.cov([part.mean(axis=0) for part in parts]) / (outcome == 0).sum()
    covariance = of_bad + of_good
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    found = metrics.auc_difference(outcome, first, second)
    assert found["standard_error"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert found["difference"] == pytest.approx(parts[0].mean() - parts[1].mean())
    assert found["low"] < found["difference"] < found["high"]


def test_paired_delong_rejects_equal_models_as_often_as_it_says():
    random = np.random.default_rng(5)
    p = []
    for _ in range(400):
        outcome = np.repeat([1, 0], [50, 150])
        common = random.normal(outcome, 1)
        p.append(metrics.auc_difference(outcome, *(common + random.normal(0, 0.7, (2, 200))))["p"])
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.045)


def test_paired_test_by_customer_is_not_fooled_by_repeated_rows(sample):
    outcome, first = (some[:400] for some in sample)
    second = first + np.random.default_rng(2).normal(0, 0.05, 400)
    once = metrics.auc_difference(outcome, first, second)
    rows = [np.tile(each, 4) for each in (outcome, first, second, np.arange(400).astype(str))]
    again = metrics.auc_difference(*rows)
    assert again["standard_error"] == pytest.approx(once["standard_error"], rel=0.03)
    assert metrics.auc_difference(*rows[:3])["standard_error"] < 0.6 * once["standard_error"]
    assert metrics.auc_difference(outcome, first, first)["p"] == 1


def test_brier_parts_add_up_and_are_murphys_where_pds_repeat(sample):
    outcome, pd = sample
    parts = metrics.brier_parts(outcome, pd)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
    assert total == pytest.approx(metrics.brier(outcome, pd), abs=1e-12)
    outcome, pd = np.tile([1, 0, 0, 0, 1, 1, 1, 0], 10), np.tile([0.2] * 4 + [0.6] * 4, 10)
    by_hand = {"reliability": (0.05**2 + 0.15**2) / 2, "resolution": 0.25**2, "uncertainty": 0.25, "within": 0}
    assert metrics.brier_parts(outcome, pd, 2) == pytest.approx(by_hand, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=4, max_size=40))
def test_auc_turns_round_with_the_score(rows):
    outcome, score = np.array(rows).T
    if 0 < outcome.sum() < len(outcome):
        assert metrics.auc(outcome, score) + metrics.auc(outcome, -score) == pytest.approx(1)
