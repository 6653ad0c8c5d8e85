"""Whether reasons hold: agreement by hand, a typical row by hand, reasons taken away from models that are understood."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import estimator, soundness
from models.calibration import Calibrator
from models.encoders import fit_matrix
from models.inputs import inputs_from_catalogue, panel
from models.reasons import MOST, Ranked, Reference, Term, rank
from models.scorer import Scorer

TERMS = (
    Term("use", "numeric", "use", "", ""),
    Term("late", "numeric", "late", "", ""),
    Term("trade", "categorical", "trade", "", ""),
)
FAMILY = np.array([2, 0, 1])  # of each term, among `late`, `trade`, `use`


def of(*rows):
    """Return reasons by rank, -1 where there are fewer than four."""
    return np.array([[*row, *[-1] * (MOST - len(row))] for row in rows])


def test_agreement_by_hand():
    """One customer is told the same, one the same in another order, one differently, one nothing, one by one alone."""
    one = of([3, 1], [0, 1, 2], [2], [], [5])
    other = of([3, 1], [1, 0, 2], [4], [], [])
    found = soundness.agreement([one, other])
    assert found["first"] == 1 / 4
    assert found["first_among_four"] == 2 / 4
    assert found["shared"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert found["first_by_chance"] == pytest.approx(1 / 4 * 1 / 4)  # family 3: a quarter of the one, of the other


def test_agreement_is_the_mean_over_pairs_and_null_where_nobody_has_a_reason():
    """Three models, of which two agree: one pair in three."""
    assert soundness.agreement([of([1]), of([1]), of([2])])["first"] == pytest.approx(1 / 3)
    assert set(soundness.agreement([of([]), of([])]).values()) == {None}


@given(st.lists(st.lists(st.integers(0, 6), max_size=MOST, unique=True), min_size=1, max_size=8))
def test_a_model_agrees_with_itself(rows):
    """Whatever it says, where it says anything."""
    found = soundness.agreement([of(*rows), of(*rows)])
    for name in ("first", "first_among_four", "shared"):
        assert found[name] == (1.0 if any(rows) else None)


def test_reasons_are_named_by_rank():
    """Two customers of three have reasons."""
    ranked = Ranked(np.array([0, 0, 2]), np.array([1, 2, 1]), np.array([4, 2, 1]), np.array([0, 0, 0]), np.ones(3))
    assert soundness.named(ranked, 3).tolist() == of([4, 2], [], [1]).tolist()


def test_the_typical_row_is_what_the_reference_says_in_words():
    """A median without the missing, missing where most are, the code of the most frequent category, first of equals."""
    values = pd.DataFrame(
        {"use": [1.0, 3.0, None, 8.0], "late": [None, None, 5.0, None], "trade": ["b", "a", None, "c"]}
    )
    matrix = np.array([[1, np.nan, 0.2], [3, np.nan, 0.1], [np.nan, 5, 0.9], [8, np.nan, 0.3]])
    assert np.array_equal(soundness.typical_point(matrix, values, TERMS), [3, np.nan, 0.1], equal_nan=True)
    words = Reference.of(np.zeros((4, 4)), values, TERMS, "en").typical
    assert words == ("3", "not known", "a")


def grown(signs=(1, 1), rows=800):
    """Return a booster whose risk moves with two inputs as `signs` say, its matrix, and what they contribute."""
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(rows, 3))
    matrix[:, 2] = 0
    outcome = (matrix[:, :2] @ np.array(signs) + rng.normal(size=rows) > 0).astype(int)
    given = {"objective": "binary", "verbosity": -1, "deterministic": True, "num_threads": 1, "seed": 1}
    booster = lgb.train({**given, "monotone_constraints": [*signs, 0]}, lgb.Dataset(matrix, outcome), 20)
    return booster, matrix, booster.predict(matrix, pred_contrib=True)


def taken(booster, matrix, contributions, point):
    values = pd.DataFrame(matrix, columns=[term.feature for term in TERMS])
    ranked = rank(contributions, TERMS, Reference.of(contributions, values, TERMS, "en"), 0.2)
    return soundness.counterfactual(booster, matrix, ranked, FAMILY, np.array(point), 10.0)


def test_a_reason_taken_away_lowers_the_risk_of_a_monotone_model():
    """Every reason that weighs, to the median; each family has one input here, so both ways are the same."""
    booster, matrix, contributions = grown()
    found = taken(booster, matrix, contributions, np.median(matrix, axis=0))
    assert found["reasons"] > 300
    assert found["feature"]["lowered"] > 0.97
    assert found["feature"]["points"] > 2
    assert found["feature"] == found["family"]
    assert found["feature"]["lowered"] + found["feature"]["unchanged"] + found["feature"]["raised"] == pytest.approx(1)


def test_a_reason_pushed_further_raises_it():
    """The counterfactual tells: a typical value that is wrong, beyond the riskiest, lowers nobody's risk."""
    booster, matrix, contributions = grown()
    found = taken(booster, matrix, contributions, [9, 9, 0])
    assert found["feature"]["lowered"] == 0
    assert found["feature"]["raised"] > 0.5


def test_no_reason_gives_nulls():
    """A book without reasons has no shares."""
    booster, matrix, _ = grown()
    nothing = Ranked(*[np.empty(0, dtype=np.int64)] * 4, np.empty(0))
    found = soundness.counterfactual(booster, matrix, nothing, FAMILY, np.zeros(3), 10.0)
    assert found["reasons"] == 0
    assert set(found["feature"].values()) == {None}


def scorer_and_rows():
    """Return a scorer of two averaged seeds, half of whose features train each tree, and its train rows."""
    rng = np.random.default_rng(2)
    count = 600
    frame = pd.DataFrame({f"x{i}": rng.normal(size=count) for i in range(6)})
    frame["trade"] = rng.choice(["a", "b", None], count)
    frame["customer_id"] = [f"c{i}" for i in range(count)]
    frame["as_of"] = np.datetime64("2024-01-01")
    frame["outcome"] = (frame["x0"] + frame["x1"] + rng.normal(size=count) > 1).astype(int)
    catalogue = pd.DataFrame(
        [(name, "numeric" if name != "trade" else "categorical", int(name == "x0"), name, name)
         for name in [*(f"x{i}" for i in range(6)), "trade"]],
        columns=["name", "kind", "direction", "family", "definition_hash"],
    )  # fmt: skip
    inputs = inputs_from_catalogue(catalogue)
    rows = panel(frame, [each.name for each in inputs], 12)
    coder, matrix = fit_matrix(rows, inputs, 10.0, 5)
    columns = [each.column for each in inputs]
    monotone = estimator.monotone_constraints(inputs, True)
    grow = {"learning_rate": 0.2, "num_leaves": 5, "feature_fraction": 0.5, "min_data_in_leaf": 5, "lambda_l2": 3.0}
    plans = [estimator.parameters(grow, monotone, seed) for seed in (5, 106)]
    shared = estimator.dataset(matrix, rows.outcome, columns, plans[0])
    text = estimator.average([estimator.fit(shared, plan, 12) for plan in plans])
    curve = Calibrator("platt", {"platt": [1.0, 0.0]}, (-8.0, 8.0), (-9.0, 7.0), (-8.0, 8.0), 0.9)
    return Scorer(estimator.load(text, columns), inputs, coder, curve), rows, text


def test_refits_grow_as_the_model_did_with_seeds_of_their_own():
    """As many trees and seeds, the same parameters, the same directions; the same every time, and none like another."""
    scorer, rows, text = scorer_and_rows()
    first, second = soundness.refits(scorer, rows, 2)
    texts = [booster.model_to_string() for booster in (first, second)]
    assert [booster.model_to_string() for booster in soundness.refits(scorer, rows, 2)] == texts
    assert texts[0] != texts[1]
    for booster in (first, second):
        assert booster.num_trees() == scorer.booster.num_trees() == 24
        for name in ("learning_rate", "num_leaves", "feature_fraction", "lambda_l2", "monotone_constraints"):
            assert booster.params[name] == scorer.booster.params[name], name
    matrix = scorer.encoders.matrix(rows.features, scorer.inputs)
    margins = [booster.predict(matrix, raw_score=True) for booster in (scorer.booster, first, second)]
    assert np.corrcoef(margins).min() > 0.9
    assert text not in texts


def test_the_models_that_are_averaged_come_apart_again():
    """As many as there are seeds, in order, each a share of the whole; a model of one seed, or of odd trees, is one."""
    scorer, rows, _ = scorer_and_rows()
    booster = scorer.booster
    assert soundness.seeds_averaged(booster) == 2
    matrix = scorer.encoders.matrix(rows.features, scorer.inputs)
    parts = [each.predict(matrix, raw_score=True) for each in soundness.members(booster, 2)]
    assert np.abs(sum(parts) - booster.predict(matrix, raw_score=True)).max() < 1e-12
    assert np.abs(parts[0] - parts[1]).max() > 0.01
    alone = grown()[0]
    assert soundness.seeds_averaged(lgb.Booster(model_str=alone.model_to_string())) == 1
    odd = lgb.Booster(model_str=booster.model_to_string(num_iteration=23))
    assert soundness.seeds_averaged(odd) == 1
