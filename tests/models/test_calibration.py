"""The curve recovers a known truth, never changes the ranking, and says how little few defaults tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import IntegrityRefused
from models.calibration import (
    METHODS,
    CalibrateSettings,
    Calibrator,
    anchor_of,
    calibrate,
    centre_of,
    cross_fitted,
    disagreement,
    level_variance,
)
from models.splits import grouped_folds_of


def drawn(rows, seed=1, slope=0.6, shift=-1.0, bend=0.0, mean=-2.0):
    random = np.random.default_rng(seed)
    margin = random.normal(mean, 1.3, rows)
    true = 1 / (1 + np.exp(-(slope * margin + shift + bend * margin**2 * np.sign(margin))))
    return margin, (random.random(rows) < true).astype(int), np.arange(rows).astype(str).astype(object), true


@pytest.mark.parametrize("method", METHODS)
def test_each_method_recovers_an_overconfident_model(method):
    margin, outcome, customer, true = drawn(40_000)
    choice = calibrate(margin, outcome, customer, CalibrateSettings(method=method))
    inside = (margin > -4.5) & (margin < 0.5)
    assert np.abs(choice.calibrator.pd(margin) - true)[inside].mean() < 0.008
    assert choice.tried[method] < choice.tried["uncalibrated"]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), slope=st.floats(-0.5, 2))
def test_ranking_never_changes_and_the_interval_holds_the_pd(method, seed, slope):
    margin, outcome, customer, _ = drawn(400, seed=seed, slope=slope)
    outcome[:2] = 0, 1
    calibrator = calibrate(margin, outcome, customer, CalibrateSettings(method=method)).calibrator
    at = np.linspace(-12, 8, 400)
    pd = calibrator.pd(at)
    low, high = calibrator.interval(at)
    assert (np.diff(calibrator.log_odds(at)) > 0).all()
    assert (low <= pd).all()
    assert (pd <= high).all()
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(rate=st.floats(0.0005, 0.9), seed=st.integers(0, 1000))
def test_an_anchored_curve_averages_to_the_long_run_rate_and_ranks_as_before(method, rate, seed):
    margin, outcome, customer, _ = drawn(400, seed=seed)
    outcome[:2] = 0, 1
    free = calibrate(margin, outcome, customer, CalibrateSettings(method=method)).calibrator
    asked = CalibrateSettings(method=method, long_run_default_rate=rate)
    choice = calibrate(margin, outcome, customer, asked)
    anchored = choice.calibrator
    assert anchored.pd(margin).mean() == pytest.approx(rate, rel=1e-9)
    moved = anchored.log_odds(margin) - free.log_odds(margin)
    assert np.ptp(moved) < 1e-9
    assert moved[0] == pytest.approx(anchored.anchor)
    at = np.linspace(-12, 8, 300)
    low, high = anchored.interval(at)
    assert (low <= anchored.pd(at)).all()
    assert (anchored.pd(at) <= high).all()
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    inside = (at > free.grid[0]) & (at < free.grid[-1])
    odds = [np.log(each / (1 - each)) for each in (*free.interval(at[inside]), low[inside], high[inside])]
    np.testing.assert_allclose(odds[2] - odds[0], anchored.anchor, atol=1e-6)
    np.testing.assert_allclose(odds[3] - odds[1], anchored.anchor, atol=1e-6)
    assert Calibrator.from_json(anchored.to_json()) == anchored


def test_a_bad_year_anchored_to_the_cycle_gives_the_pds_of_an_average_year():
    """In the bad year the same customers have odds twice as high: the anchor takes the doubling off."""
    random = np.random.default_rng(3)
    margin = random.normal(-3, 1.2, 60_000)
    average, bad = (1 / (1 + np.exp(-margin - move)) for move in (0, np.log(2)))
    outcome = (random.random(60_000) < bad).astype(int)
    customer = np.arange(60_000).astype(str).astype(object)
    rate = average.mean()
    choice = calibrate(margin, outcome, customer, CalibrateSettings(method="platt", long_run_default_rate=rate))
    assert np.abs(choice.calibrator.pd(margin) / average - 1).mean() < 0.05
    assert choice.calibrator.anchor == pytest.approx(-np.log(2), abs=0.06)
    held_out = cross_fitted(margin, outcome, customer, "platt", 0, rate)
    assert held_out.mean() == pytest.approx(rate, rel=0.02)
    assert anchor_of(margin, None) == 0
    assert anchor_of(np.full(3, -1.0), 0.5) == pytest.approx(1)


@pytest.mark.fault("E10", "E2")
def test_few_defaults_allow_platt_only_and_draw_its_slope_to_one():
    margin, outcome, customer, _ = drawn(300)
    choice = calibrate(margin, outcome, customer, CalibrateSettings())
    assert outcome.sum() < 100
    assert choice.calibrator.method == "platt"
    assert set(choice.tried) == {"platt", "uncalibrated"}
    noise = np.random.default_rng(1).permutation(margin)
    slope = calibrate(noise, outcome, customer, CalibrateSettings()).calibrator.figures["platt"][0]
    assert slope > 0


def test_a_bent_truth_is_not_left_to_a_line():
    margin, outcome, customer, _ = drawn(40_000, slope=0.3, bend=0.6, mean=0.0, shift=0.0)
    assert calibrate(margin, outcome, customer, CalibrateSettings()).calibrator.method != "platt"


def test_the_simplest_of_equals_wins():
    margin, outcome, customer, _ = drawn(20_000, slope=1.0, shift=0.0)
    assert calibrate(margin, outcome, customer, CalibrateSettings()).calibrator.method == "platt"


def test_the_interval_covers_the_average_pd_and_narrows_with_rows():
    covered, widths = [], []
    for rows in (500, 8000):
        for seed in range(12):
            margin, outcome, customer, _ = drawn(rows, seed=seed)
            at = np.linspace(-4, 0, 30)
            low, high = calibrate(margin, outcome, customer, CalibrateSettings()).calibrator.interval(at)
            true = 1 / (1 + np.exp(-(0.6 * at - 1.0)))
            covered.append(((low <= true) & (true <= high)).mean())
            widths.append((high - low).mean())
    assert np.mean(covered) > 0.85
    assert np.mean(widths[12:]) < np.mean(widths[:12]) / 2


def test_repeated_rows_of_a_customer_do_not_narrow_the_interval():
    margin, outcome, customer, _ = drawn(1000)
    once = calibrate(margin, outcome, customer, CalibrateSettings(method="platt")).calibrator
    many = calibrate(*(np.repeat(some, 4) for some in (margin, outcome, customer)), CalibrateSettings(method="platt"))
    width = [np.subtract(*each.interval(np.array([-2.0]))[::-1])[0] for each in (once, many.calibrator)]
    assert width[1] > 0.75 * width[0]


def test_the_interval_holds_the_true_pds_that_are_hidden_behind_a_margin():
    """Log-odds of the truth are the sum of three equal parts: two are seen, each by one opinion, and one is hidden.

    An opinion explains a third, so its calibrated log-odds are a third of what they would be if the rest were known:
    E (a - b)^2 = 2 r (1 - r) variance with r = 1/3, a little more than the hidden .64.
    """
    random = np.random.default_rng(4)
    first, second, hidden = random.normal(0, 0.8, (3, 30_000))
    true = 1 / (1 + np.exp(2.5 - first - second - hidden))
    outcome = (random.random(30_000) < true).astype(int)
    customer = np.arange(30_000).astype(str).astype(object)
    spread = disagreement(first - 2.4, second - 2.4, outcome)
    assert spread == pytest.approx(2 * (1 / 3) * (2 / 3) * 3 * 0.64, rel=0.1)
    low, high = calibrate(first + second - 2.2, outcome, customer, CalibrateSettings(), 0.64).calibrator.interval(
        first + second - 2.2
    )
    assert ((low <= true) & (true <= high)).mean() == pytest.approx(0.9, abs=0.02)
    assert (true < low).mean() == pytest.approx(0.05, abs=0.02)
    alone = calibrate(first + second - 2.2, outcome, customer, CalibrateSettings()).calibrator
    low, high = alone.interval(first + second - 2.2)
    assert ((low <= true) & (true <= high)).mean() < 0.6


def test_two_opinions_that_agree_hide_nothing_and_scale_does_not_matter():
    margin, outcome, _, _ = drawn(5000)
    assert disagreement(margin, margin, outcome) == 0
    assert disagreement(margin, 3 * margin + 1, outcome) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("variance", [0.1, 1.0, 4.0])
def test_the_logit_normal_mean_is_that_of_quadrature(variance):
    from scipy.integrate import quad
    from scipy.stats import norm

    log_odds = np.array([-6.0, -3.0, 0.0, 2.0])
    for wanted, centre in zip(log_odds, centre_of(log_odds, variance), strict=True):
        mean = quad(lambda z, c=centre: norm.pdf(z) / (1 + np.exp(-c - np.sqrt(variance) * z)), -12, 12)[0]
        assert np.log(mean / (1 - mean)) == pytest.approx(wanted, abs=0.02)
    assert centre_of(log_odds, 0.0) == pytest.approx(log_odds)


def test_the_level_variance_is_that_of_the_years_beyond_chance():
    """Levels of 30 years vary by .5 around their mean, so the square of a year's move is .5 on average."""
    random = np.random.default_rng(3)
    as_of = np.repeat(np.arange("2000", "2030", dtype="datetime64[Y]").astype("datetime64[D]"), 4000)
    closes = np.repeat(np.arange("2001", "2031", dtype="datetime64[Y]").astype("datetime64[D]"), 4000)
    level = np.repeat(random.normal(-3, 0.5, 30), 4000)
    outcome = (random.random(len(level)) < 1 / (1 + np.exp(-level))).astype(int)
    assert level_variance(as_of, closes, outcome) == pytest.approx(0.5, abs=0.25)
    steady = (random.random(len(level)) < 0.05).astype(int)
    assert level_variance(as_of, closes, steady) < 0.01
    assert level_variance(as_of[:4000], closes[:4000], outcome[:4000]) == 0
    late = closes + np.timedelta64(365 * 40, "D")
    assert level_variance(as_of, late, outcome) == 0


def test_cross_fitted_pds_do_not_know_their_customer():
    margin, outcome, customer, _ = drawn(500)
    before = cross_fitted(margin, outcome, customer, "platt", 1)
    fold = grouped_folds_of(customer, outcome, 5, 1)
    for number in range(5):
        rest = fold != number
        alone = calibrate(margin[rest], outcome[rest], customer[rest], CalibrateSettings(method="platt")).calibrator
        assert before[~rest] == pytest.approx(alone.pd(margin[~rest]), abs=1e-12)


@pytest.mark.fault("E10")
def test_json_reads_back_and_a_falling_curve_is_refused():
    margin, outcome, customer, _ = drawn(3000)
    for method in METHODS:
        before = calibrate(margin, outcome, customer, CalibrateSettings(method=method)).calibrator
        after = Calibrator.from_json(before.to_json())
        assert (after.pd(margin) == before.pd(margin)).all()
        assert (after.interval(margin)[0] == before.interval(margin)[0]).all()
    falling = Calibrator("platt", {"platt": [-1.0, 0.0]}, (0.0,), (0.0,), (0.0,), 0.9).to_json()
    for text in (falling, "{}", before.to_json()[:30]):
        with pytest.raises(IntegrityRefused):
            Calibrator.from_json(text)
