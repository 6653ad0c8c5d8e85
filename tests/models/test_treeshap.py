"""The kernel is LightGBM's pred_contrib to 1e-9, and LightGBM is asked where the kernel does not apply."""

from __future__ import annotations

import itertools
import json
import math
import re

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import treeshap
from models.treeshap import Forest, NotApplicable, contributions

FIXED = {"objective": "binary", "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1}
MISSING = {"NaN": {}, "Zero": {"zero_as_missing": True}, "None": {"use_missing": False}}


def grown(seed: int, *, rows: int = 400, inputs: int = 6, trees: int = 5, **given_):
    """Return a booster and a matrix with missing values, zeros and values beyond those it was trained on."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, inputs)).round(1)
    matrix[rng.random(matrix.shape) < 0.15] = np.nan
    matrix[rng.random(matrix.shape) < 0.15] = 0.0
    known = np.nan_to_num(matrix)
    outcome = (known[:, 0] + known[:, 1] * known[:, 2] + rng.normal(size=rows) > 0.5).astype(int)
    data = lgb.Dataset(matrix, outcome, params={"min_data_in_bin": 1})
    booster = lgb.train({**FIXED, "min_data_in_leaf": 1, "min_data_in_bin": 1, **given_}, data, trees)
    asked = matrix.copy()
    asked[:4] = np.array([[np.inf], [-np.inf], [np.nan], [0.0]])
    asked[4:8] = rng.choice([1e-36, -1e-36, 1e30, -0.0], size=(4, inputs))
    return booster, asked


def explained(booster, asked, *, tabulated):
    """Return the kernel's values, by tables or row by row, whatever the number of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(treeshap, "TABULATED", 0 if tabulated else len(asked) + 1)
        return Forest.from_text(booster.model_to_string()).contributions(asked)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000), missing=st.sampled_from(sorted(MISSING)), tabulated=st.booleans(),
    leaves=st.one_of(st.sampled_from([2, 3, 8, 31, 127]), st.integers(2, 300)), inputs=st.integers(3, 24),
    trees=st.integers(1, 12), monotone=st.booleans(), rate=st.sampled_from([0.05, 0.7]),
)  # fmt: skip
@pytest.mark.fault("E9")
def test_equals_pred_contrib(seed, missing, tabulated, leaves, inputs, trees, monotone, rate):
    """Random models and inputs: every missing type, zeros, infinities, monotone trees, stumps and deep trees."""
    constraints = {"monotone_constraints": [1, 0, -1, *[0] * (inputs - 3)]} if monotone else {}
    booster, asked = grown(
        seed, inputs=inputs, trees=trees, num_leaves=leaves, learning_rate=rate, **constraints, **MISSING[missing]
    )
    expected = booster.predict(asked, pred_contrib=True)
    found = explained(booster, asked, tabulated=tabulated)
    assert np.abs(found - expected).max() < 1e-9
    assert np.abs(found.sum(axis=1) - booster.predict(asked, raw_score=True)).max() < 1e-9


@pytest.mark.parametrize("tabulated", [True, False])
def test_equals_pred_contrib_on_three_hundred_leaves(tabulated):
    """A path that meets the same input many times, and one with more inputs than a table has bits."""
    booster, asked = grown(3, rows=2000, inputs=25, trees=3, num_leaves=300, max_depth=-1, min_gain_to_split=0)
    expected = booster.predict(asked, pred_contrib=True)
    assert np.abs(explained(booster, asked, tabulated=tabulated) - expected).max() < 1e-9
    plan = Forest.from_text(booster.model_to_string()).plan
    assert int(np.diff(plan.path_start).max()) > treeshap.ALONE
    assert set(plan.group_table.tolist()) == {0, 1}


def chain(tmp_path, inputs):
    """Return a booster of one tree that asks one input after the other along a chain, and its rows."""
    split: dict = {}
    for feature in reversed(range(inputs)):
        split = {"feature": feature, "threshold": 0.05, **({"right": split} if split else {})}
    (tmp_path / "splits.json").write_text(json.dumps(split))
    rng = np.random.default_rng(1)
    matrix = rng.random((4000, inputs))
    given = {"num_leaves": inputs + 1, "min_data_in_leaf": 1, "forcedsplits_filename": str(tmp_path / "splits.json")}
    outcome = (matrix.min(axis=1) > 0.02).astype(int)
    return lgb.train({**FIXED, **given}, lgb.Dataset(matrix, outcome), 1), matrix


@pytest.mark.parametrize("tabulated", [True, False])
def test_equals_pred_contrib_on_a_deep_chain(tmp_path, tabulated):
    """Forty inputs on one path: the longest that were ever seen have half as many."""
    booster, matrix = chain(tmp_path, 40)
    found = explained(booster, matrix[:300], tabulated=tabulated)
    assert int(np.diff(Forest.from_text(booster.model_to_string()).plan.path_start).max()) >= 40
    assert np.abs(found - booster.predict(matrix[:300], pred_contrib=True)).max() < 1e-9


def test_lightgbm_is_asked_where_a_path_is_too_long(tmp_path):
    """Seventy inputs on one path: more than a state has bits."""
    booster, matrix = chain(tmp_path, 70)
    with pytest.raises(NotApplicable, match="at most 62 inputs on a path"):
        Forest.from_text(booster.model_to_string())
    assert np.array_equal(contributions(booster, matrix[:20]), booster.predict(matrix[:20], pred_contrib=True))


def test_trees_of_one_leaf_move_the_bias_alone():
    """A model that cannot split has the same value for everyone."""
    matrix = np.ones((50, 2))
    booster = lgb.train({**FIXED, "min_data_in_leaf": 20}, lgb.Dataset(matrix, np.arange(50) % 2), 3)
    found = contributions(booster, matrix)
    assert np.all(found[:, :2] == 0)
    assert found[:, 2] == pytest.approx(booster.predict(matrix, raw_score=True))


def test_equals_the_definition_of_the_shapley_value():
    """Independent of LightGBM: all coalitions of three inputs, each worth the path-dependent expectation of the tree."""
    booster, asked = grown(11, rows=150, inputs=3, trees=1, num_leaves=8)
    tree = booster.dump_model()["tree_info"][0]["tree_structure"]

    def worth(node, row, coalition):
        if "leaf_value" in node:
            return node["leaf_value"]
        left, right = node["left_child"], node["right_child"]
        if node["split_feature"] in coalition:
            value = row[node["split_feature"]]
            goes_left = node["default_left"] if np.isnan(value) else value <= node["threshold"]
            if np.isnan(value) and node["missing_type"] == "None":
                goes_left = node["threshold"] >= 0
            return worth(left if goes_left else right, row, coalition)
        covers = [child.get("internal_count", child.get("leaf_count")) for child in (left, right)]
        both = [worth(child, row, coalition) for child in (left, right)]
        return float(np.dot(covers, both)) / sum(covers)

    rows = asked[8:20]
    found = contributions(booster, rows)
    for row, values in zip(rows, found, strict=True):
        for feature in range(3):
            others = [other for other in range(3) if other != feature]
            expected = 0.0
            for size in range(3):
                weight = math.factorial(size) * math.factorial(2 - size) / 6
                for chosen in itertools.combinations(others, size):
                    expected += weight * (worth(tree, row, {*chosen, feature}) - worth(tree, row, set(chosen)))
            assert values[feature] == pytest.approx(expected, abs=1e-12)


@pytest.mark.fault("E9")
def test_a_row_does_not_depend_on_the_rows_beside_it(monkeypatch):
    """Any order, any number of rows, any way and in any pieces, the same bits: 1, 127, 129 and all rows."""
    booster, asked = grown(5, rows=4100, inputs=20, num_leaves=60)
    whole = contributions(booster, asked)  # by tables, which few rows do without
    assert len(asked) >= treeshap.TABULATED
    order = np.random.default_rng(0).permutation(len(asked))
    assert np.array_equal(contributions(booster, asked[order]), whole[order])
    for size in (1, 127, 129):
        assert np.array_equal(contributions(booster, asked[:size]), whole[:size])
    for name, value in (("THREADS", 3), ("STRIP", 100), ("ROWS", 333), ("TABULATED", 300), ("TABLES", 5000)):
        monkeypatch.setattr(treeshap, name, value)
        assert np.array_equal(contributions(booster, asked), whole), name


def test_the_order_of_inputs_does_not_matter():
    """The same trees over inputs in another order give the same values, in that order."""
    booster, asked = grown(6, num_leaves=31)
    order = np.random.default_rng(1).permutation(6)
    place = np.argsort(order)

    def moved(match):
        return "split_feature=" + " ".join(str(place[int(number)]) for number in match.group(1).split())

    text = re.sub(r"^split_feature=(.+)$", moved, booster.model_to_string(), flags=re.MULTILINE)
    found = Forest.from_text(text).contributions(asked[:, order])
    assert np.array_equal(found[:, :-1], Forest.from_text(booster.model_to_string()).contributions(asked)[:, order])


def test_no_rows_give_no_rows():
    """An empty matrix is no special case."""
    booster, asked = grown(5)
    assert contributions(booster, asked[:0]).shape == (0, 7)


def test_a_matrix_of_another_width_is_an_error():
    """A column too few would silently shift every input."""
    booster, asked = grown(5)
    with pytest.raises(ValueError, match=r"must be \(n, 6\)"):
        Forest.from_text(booster.model_to_string()).contributions(asked[:, :5])


@pytest.mark.parametrize("kind", ["categorical", "random forest", "linear"])
def test_lightgbm_is_asked_where_the_kernel_does_not_apply(kind):
    """Categorical splits, averaged output and linear leaves: refused by the kernel, answered by pred_contrib."""
    rng = np.random.default_rng(0)
    matrix = np.column_stack([rng.integers(0, 8, 600), rng.normal(size=600)]).astype(float)
    outcome = ((matrix[:, 0] % 2 == 0) ^ (matrix[:, 1] > 1)).astype(int)
    extra = {
        "categorical": {}, "linear": {"linear_tree": True},
        "random forest": {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7},
    }[kind]  # fmt: skip
    data = lgb.Dataset(
        matrix, outcome, categorical_feature=[0] if kind == "categorical" else "auto", params=extra, free_raw_data=False
    )
    booster = lgb.train({**FIXED, "min_data_per_group": 5, "cat_smooth": 1, **extra}, data, 5)
    with pytest.raises(NotApplicable):
        Forest.from_text(booster.model_to_string())
    if kind != "linear":  # LightGBM has no pred_contrib for linear leaves
        assert np.array_equal(contributions(booster, matrix), booster.predict(matrix, pred_contrib=True))
