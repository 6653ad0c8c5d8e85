"""Realised figures against other packages and hand-drawn rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from models import realised
from models.figures import data_figures, label_figures, matured, outcome_figures, score_figures
from models.realised import auc, calibration, coverage, distribution, histogram, lift, light, roc


def test_auc_agrees_with_scikit_learn_and_its_interval_holds_it():
    rng = np.random.default_rng(2)
    risk = rng.normal(size=400).round(1)  # ties
    outcome = (rng.random(400) < 1 / (1 + np.exp(-risk))).astype(float)
    found = auc(outcome, risk)
    assert found["value"] == pytest.approx(roc_auc_score(outcome, risk))
    assert found["low"] < found["value"] < found["high"]
    assert auc(np.zeros(5), np.arange(5.0)) is None


def test_copies_of_a_customer_are_no_evidence():
    """Each row ten times over: clustered by customer the interval stays, unclustered it shrinks."""
    rng = np.random.default_rng(4)
    risk, outcome = rng.normal(size=200), (rng.random(200) < 0.3).astype(float)
    once = auc(outcome, risk, np.arange(200))
    many = auc(np.repeat(outcome, 10), np.repeat(risk, 10), np.repeat(np.arange(200), 10))
    blind = auc(np.repeat(outcome, 10), np.repeat(risk, 10))
    assert many["high"] - many["low"] == pytest.approx(once["high"] - once["low"], rel=0.05)
    assert blind["high"] - blind["low"] < 0.5 * (once["high"] - once["low"])


def test_roc_runs_from_corner_to_corner():
    points = roc(np.array([0, 1, 0, 1.0]), np.array([0.1, 0.9, 0.4, 0.4]))
    assert points[0] == [0, 0]
    assert points[-1] == [1, 1]
    assert [0.0, 0.5] in points
    assert roc(np.zeros(3), np.arange(3.0)) == []


def test_calibration_by_grade_on_hand_drawn_rows():
    frame = pd.DataFrame(
        {"grade": ["A"] * 10 + ["B"] * 4, "outcome": [0] * 10 + [1, 1, 1, 0], "pd": [0.01] * 10 + [0.05] * 4}
    )
    good, bad = calibration(frame, "grade", ["A", "Z", "B"])
    assert (good["group"], good["rows"], good["bad"], good["low"]) == ("A", 10, 0, 0)
    assert good["light"] == "green"
    assert bad["rate"] == 0.75
    assert bad["p"] == pytest.approx(beta.cdf(0.05, 3.5, 1.5))
    assert bad["light"] == "red"
    assert [light(p) for p in (0.5, 0.03, 0.001)] == ["green", "amber", "red"]


def test_lift_of_a_perfect_ranking():
    """One bad in ten, ranked first: the first tenth holds all of them."""
    outcome = np.array([1] * 10 + [0] * 90)
    table = lift(outcome, -np.arange(100.0))
    assert (table[0]["capture"], table[0]["lift"]) == (1, pytest.approx(10))
    assert lift(np.zeros(10), np.arange(10.0)) == []


def test_histograms_lose_nobody():
    assert histogram(np.array([-5, 0, 1, 2, 99, np.nan]), np.array([0.0, 1, 2])) == [2, 3]
    both = distribution(np.array([0, 0, 1]), np.array([600.0, 600, 600]))
    assert (sum(both["good"]), sum(both["bad"])) == (2, 1)
    assert distribution(np.array([0.0]), np.array([np.nan])) is None


def test_coverage_counts_rows_with_truth_and_interval():
    nan = np.nan
    assert coverage(np.array([0.1, 0.5, nan, 0.2]), np.array([0, 0, 0, nan]), np.array([0.2, 0.2, 1, 1])) == 0.5
    assert coverage(np.array([nan]), np.array([0.0]), np.array([1.0])) is None


def test_only_closed_windows_outside_training_are_judged():
    """Of five scored rows: one trained, one has an open window (its default is known early), one is unknown, one excluded."""
    day = pd.Timestamp
    scores = pd.DataFrame({
        "customer_id": list("abcde"), "as_of": [day("2025-01-01")] * 5, "months_back": 12, "pd": 0.1,
        "in_training": [False, True, False, False, False],
    })  # fmt: skip
    scores.loc[2, "as_of"] = day("2025-06-01")
    observations = pd.DataFrame({
        "customer_id": list("abcde"), "as_of": scores["as_of"], "outcome": [1.0, 0, 1, np.nan, 0],
        "excluded_because": [None, None, None, None, "closed"],
    })  # fmt: skip
    assert matured(scores, observations, "2026-01-01", 12)["customer_id"].tolist() == ["a"]
    assert matured(scores, observations, None, 12).empty
    assert matured(pd.DataFrame(), observations, "2026-01-01", 12).empty


def test_drift_of_scores_is_measured_on_rows_that_did_not_train():
    """Twelve months ago half of the rows trained the model, with PDs of another kind: they are left out."""
    rng = np.random.default_rng(8)
    strange, usual = np.full(500, 0.9), rng.uniform(0, 0.5, 1000)
    scores = pd.DataFrame({
        "months_back": [12] * 1000 + [0] * 500, "as_of": pd.Timestamp("2025-01-01"), "pd": np.concatenate([strange, usual]),
        "in_training": [True] * 500 + [False] * 1000,
    })  # fmt: skip
    counts, moved = score_figures(scores, pd.DataFrame(), 10, 3)
    assert (counts["customers"], counts["in_training"], counts["by_month"][0]["customers"]) == (500, 0, 1000)
    assert moved["now"]["psi"] < moved["now"]["noise"]
    assert moved["by_month"][0]["psi"] == 0
    assert score_figures(scores.assign(in_training=True), pd.DataFrame(), 10, 3)[1] == {"by_month": []}
    assert score_figures(scores.head(0), pd.DataFrame(), 10, 3) == ({"customers": 0}, {})


def test_who_is_left_over_from_the_training_is_no_sample_of_the_scored():
    """Of 1,000 scored 100 have no outcome yet and PDs of their own: nothing shifted; where half are strangers, it did."""
    rng = np.random.default_rng(9)
    test = pd.DataFrame({"pd": rng.uniform(0, 0.5, 1000)})
    scores = pd.DataFrame({
        "months_back": 0, "as_of": pd.Timestamp("2025-01-01"), "pd": [*rng.uniform(0, 0.5, 900), *([0.9] * 100)],
        "in_training": [True] * 900 + [False] * 100,
    })  # fmt: skip
    counts, moved = score_figures(scores, test, 10, 3)
    assert (counts["customers"], counts["in_training"]) == (1000, 900)
    assert "now" not in moved
    half = pd.concat([scores.tail(100), scores.head(100)])
    assert score_figures(half, test, 10, 3)[1]["now"]["psi"] > 1


def test_labels_by_month_and_rows_by_table():
    observations = pd.DataFrame({
        "customer_id": list("abcd"), "as_of": pd.Timestamp("2025-01-01"), "outcome": [0.0, 1, np.nan, np.nan],
        "excluded_because": [None, None, None, "closed"],
    })  # fmt: skip
    told = label_figures(observations)
    assert told["by_month"] == [{"month": "2025-01", "good": 1, "bad": 1, "unknown": 1, "excluded": 1}]
    assert told["excluded"] == {"closed": 1}
    block = {"read": 10, "kept": 7, "quarantined": 1, "deduplicated": 2, "left_out": 0}
    (row,) = data_figures({"tables": {"t": {"blocks": [block, block], "rules": {"r": 2, "s": 0}}}})["tables"]
    assert (row["read"], row["quarantined"], row["rules"]) == (20, 2, {"r": 2})


def test_rows_without_a_pd_are_left_out():
    rows = pd.DataFrame(
        {
            "customer_id": list("abc"),
            "as_of": pd.Timestamp("2025-01-01"),
            "outcome": [0.0, 1, 1],
            "pd": [0.1, 0.9, np.nan],
        }
    )
    told = outcome_figures(rows, [])
    assert told["total"]["rows"] == 2
    assert told["auc"]["value"] == 1
    assert outcome_figures(pd.DataFrame(), []) == {}


def test_a_declined_auc_is_told_from_chance():
    """Against the normal test on log-odds worked out here; the ECB's takes the first as given."""
    from scipy.special import logit
    from scipy.stats import norm

    first, now = ({"value": v, "low": a, "high": b} for v, a, b in ((0.80, 0.78, 0.82), (0.70, 0.66, 0.74)))
    told = realised.auc_decline(first, now)
    widths = [(logit(one["high"]) - logit(one["low"])) / (2 * norm.ppf(0.975)) for one in (first, now)]
    fall = logit(0.8) - logit(0.7)
    assert told["p"] == pytest.approx(1 - norm.cdf(fall / widths[1]))
    assert told["p_both"] == pytest.approx(1 - norm.cdf(fall / np.sqrt(widths[0] ** 2 + widths[1] ** 2)))
    assert told["p"] < told["p_both"] < 0.001
    assert realised.auc_decline(first, first)["p"] == pytest.approx(0.5)
    assert realised.auc_decline(first, {"value": 1.0, "low": None, "high": None}) is None
    assert realised.auc_decline(None, now) is None
    alone = realised.auc_decline({"value": 0.8, "low": None, "high": None}, now)
    assert (alone["p"], alone["p_both"]) == (pytest.approx(told["p"]), None)


def test_a_planted_decline_is_found_and_chance_is_not_cried_at():
    """Of samples of one population at most a twentieth are called declined; a noisier score is."""
    rng = np.random.default_rng(11)

    def area(noise: float) -> dict:
        y = (rng.random(1500) < 0.15).astype(float)
        return realised.auc(y, y + rng.normal(0, noise, 1500))

    called = [realised.auc_decline(area(0.8), area(0.8))["p_both"] < 0.05 for _ in range(200)]
    assert np.mean(called) < 0.09
    assert realised.auc_decline(area(0.8), area(1.6))["p_both"] < 1e-4


def test_lights_by_vintage_are_those_of_each_date_and_grade():
    rows = pd.DataFrame(
        {
            "as_of": pd.to_datetime(["2024-01-01"] * 60 + ["2024-02-01"] * 60),
            "grade": ["A"] * 30 + ["B"] * 30 + ["A"] * 60,
            "pd": [0.1] * 30 + [0.01] * 30 + [0.1] * 60,
            "outcome": [1] * 3 + [0] * 27 + [1] * 9 + [0] * 21 + [1] * 6 + [0] * 54,
        }
    )
    first, second = realised.by_vintage(rows, ["A", "B"])
    assert (first["vintage"], second["vintage"]) == ("2024-01-01", "2024-02-01")
    assert first["by_grade"]["A"]["light"] == "green"
    assert first["by_grade"]["B"]["light"] == "red"
    assert set(second["by_grade"]) == {"A"}
    assert second["total"]["rate"] == pytest.approx(0.1)
    assert realised.by_vintage(rows.head(0), ["A"]) == []


def test_the_band_of_a_curve_is_jeffreys_of_the_defaults_caught():
    from scipy.stats import beta

    points = realised.roc(np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.2, 0.1]))
    band = realised.roc_band(points, 2)
    assert [b[0] for b in band] == [p[0] for p in points]
    half = next(b for b, p in zip(band, points, strict=True) if p[1] == 0.5)
    assert half[1:] == pytest.approx(beta.ppf([0.025, 0.975], 1.5, 1.5).tolist())
    assert realised.roc_band([], 0) == []


def test_rows_are_counted_by_month_and_by_broken_rule():
    month = {"read": 10, "kept": 8, "quarantined": 2, "deduplicated": 0, "left_out": 0}
    table = {**month, "rules": {"r": 2}, "months": {"2024-01": month}, "rules_by_month": {"2024-01": {"r": 2, "s": 0}}}
    told = data_figures({"tables": {"t": table, "u": {**table, "rules_by_month": {}}}})
    assert told["by_month"] == [{"month": "2024-01", **{name: 2 * n for name, n in month.items()}}]
    assert told["broken"] == [{"table": "t", "rule": "r", "months": {"2024-01": 2}, "rows": 2}]
