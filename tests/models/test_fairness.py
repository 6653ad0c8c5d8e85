"""Fairness against a published worked example and figures worked out by another road."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, fisher_exact, norm
from sklearn.metrics import roc_auc_score

from models.fairness import LEAST, NOT_STATED, approvals, calibration, groups


def who(*parts: tuple[str, int, int]) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Groups, approvals and PDs of (name, approved, refused)."""
    group = [name for name, yes, no in parts for _ in range(yes + no)]
    approved = [flag for _, yes, no in parts for flag in [True] * yes + [False] * no]
    return pd.Series(group), pd.Series(approved), pd.Series(np.linspace(0.01, 0.2, len(group)))


def test_the_four_fifths_example_of_the_uniform_guidelines():
    """Questions and answers on the Uniform Guidelines (1979): 48 of 80 white, 12 of 40 black applicants hired.

    Selection rates 60% and 30%; the ratio is one half.
    """
    found = {r["group"]: r for r in approvals(*who(("white", 48, 32), ("black", 12, 28)))}
    assert (found["white"]["rate"], found["black"]["rate"]) == (0.6, 0.3)
    assert found["white"]["reference"]
    assert found["white"]["ratio"] is None
    assert found["black"]["ratio"] == pytest.approx(0.5)
    spread = np.sqrt(1 / 12 - 1 / 40 + 1 / 48 - 1 / 80)  # Katz: the standard error of the log of the ratio
    ends = 0.5 * np.exp(np.array([-1, 1]) * norm.ppf(0.975) * spread)
    assert (found["black"]["ratio_low"], found["black"]["ratio_high"]) == pytest.approx(tuple(ends))
    assert found["black"]["p"] == pytest.approx(fisher_exact([[12, 28], [48, 32]])[1])
    assert (found["black"]["rate_low"], found["black"]["rate_high"]) == pytest.approx(
        tuple(beta.ppf([0.025, 0.975], 12.5, 28.5))
    )


def test_small_groups_and_the_unstated_are_shown_but_neither_judge_nor_are_judged():
    found = {r["group"]: r for r in approvals(*who(("a", 40, 60), ("b", LEAST - 1, 0), (NOT_STATED, 90, 10)))}
    assert found["a"]["reference"]
    assert [found[name]["ratio"] for name in ("b", NOT_STATED)] == [None, None]
    nobody = approvals(*who(("a", 0, 50), ("b", 0, 50)))
    assert [r["ratio"] for r in nobody] == [None, None]
    assert not any(r["reference"] for r in nobody)
    undecided = approvals(
        pd.Series(["a"] * 40 + ["b"] * 40), pd.Series([True] * 40 + [None] * 40), pd.Series([0.1] * 80)
    )
    assert [(r["rate"], r["decided"], r["mean_pd"]) for r in undecided][1] == (None, 0, pytest.approx(0.1))
    none = {r["group"]: r for r in approvals(*who(("a", 30, 20), ("b", 0, 50)))}
    assert (none["b"]["ratio"], none["b"]["ratio_low"]) == (0.0, None)


def test_groups_of_numbers_are_bands_of_equal_size():
    ages = groups(pd.Series([*range(20, 60), None]))
    assert ages.value_counts().to_dict() == {
        "up to 29": 10,
        "29 to 39": 10,
        "39 to 49": 10,
        "above 49": 10,
        NOT_STATED: 1,
    }
    assert groups(pd.Series([1.0, 2.0, None])).tolist() == ["1", "2", NOT_STATED]
    assert groups(pd.Series(["f", None])).tolist() == ["f", NOT_STATED]


def test_calibration_and_discrimination_by_group():
    rng = np.random.default_rng(5)
    pds = rng.beta(1, 9, 2000)
    sex = np.where(rng.random(2000) < 0.5, "f", "m")
    bad = (rng.random(2000) < np.where(sex == "f", np.minimum(2 * pds, 1), pds)).astype(float)
    found = {
        r["group"]: r
        for r in calibration(pd.Series(sex), pd.Series(bad), pd.Series(pds), pd.Series([f"c{i}" for i in range(2000)]))
    }
    assert found["f"]["p"] < 0.001 < found["m"]["p"]  # PDs of f are half of what is true
    for name, told in found.items():
        rows = sex == name
        assert told["rate"] == pytest.approx(bad[rows].mean())
        assert told["auc"]["value"] == pytest.approx(roc_auc_score(bad[rows], pds[rows]))
        assert told["p"] == pytest.approx(
            beta.cdf(pds[rows].mean(), bad[rows].sum() + 0.5, (1 - bad[rows]).sum() + 0.5)
        )
