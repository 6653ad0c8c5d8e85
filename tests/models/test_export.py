"""The SQL statement answers as the bundle does, in DuckDB and in PostgreSQL, on whatever a row may hold."""

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import postgres

from models import encoders, estimator
from models.calibration import METHODS, CalibrateSettings, calibrate
from models.export import to_sql
from models.grades import Scale
from models.inputs import Input, numbered, panel
from models.scorer import Scorer

NAMES = ["x", "late days", 'it\'s "odd" 名前', "branch", "zeros"]
EXTREMES = [np.nan, 0.0, -0.0, 1e-36, -1e-36, 1e300, -1e300, 5e-324, 1.0]
ANSWERS = ["margin", "pd_raw", "pd", "pd_low", "pd_high"]
MISSING = [{}, {"zero_as_missing": True}, {"use_missing": False}]


def drawn(seed, method="platt", missing=None, leaves=8, trees=25, rate=None):
    """Return a scorer of random rows, and the features that taught it."""
    random = np.random.default_rng(seed)
    count = 700
    frame = pd.DataFrame(random.normal(size=(count, 3)), columns=NAMES[:3])
    frame[NAMES[3]] = random.choice(["north", "süd", "o'east", "rare west"], count, p=[0.5, 0.3, 0.199, 0.001])
    frame[NAMES[4]] = np.where(random.random(count) < 0.5, 0.0, random.normal(size=count))
    frame.loc[random.random(count) < 0.2, "late days"] = np.nan
    frame.loc[random.random(count) < 0.1, "branch"] = None
    odds = np.exp(frame["x"] + 0.5 * frame["late days"].fillna(1) - 1 + (frame["branch"] == "süd"))
    outcome = (random.random(count) < odds / (1 + odds)).astype(int)
    customer = [f"c{n:04d}" for n in range(count)]
    rows = panel(frame.assign(outcome=outcome, as_of=pd.Timestamp("2020-01-01"), customer_id=customer), NAMES, 12)
    kinds = {"branch": "categorical"}
    inputs = numbered(Input(name, "", kinds.get(name, "numeric"), 0, "f", f"h{name}") for name in NAMES)
    coder, matrix = encoders.fit_matrix(rows, inputs, 10.0, 1)
    shape = {"num_leaves": leaves, "min_data_in_leaf": 5, "min_sum_hessian_in_leaf": 1e-3, **(missing or {})}
    columns = [each.column for each in inputs]
    asked = estimator.parameters(shape, (1, 0, 0, 0, 0), seed)
    data = estimator.dataset(matrix, rows.outcome, columns, {**asked, **(missing or {})})
    if missing:
        import lightgbm

        data = lightgbm.Dataset(
            matrix, rows.outcome.astype(float), feature_name=columns, params={**asked, **missing}
        ).construct()
    text = estimator.fit(data, asked, trees)
    booster = estimator.load(text, columns)
    margin = estimator.margins(booster, matrix)
    how = CalibrateSettings(method=method, long_run_default_rate=rate)
    curve = calibrate(margin, rows.outcome, rows.customer, how, 0.3).calibrator
    return Scorer(booster, inputs, coder, curve, Scale()), rows.features


def asked_of(features, seed, count=300):
    """Return rows of known, missing, unseen, extreme and far values, and thresholds' own neighbours."""
    random = np.random.default_rng(seed)
    frame = features.sample(count, replace=True, random_state=seed).reset_index(drop=True)
    for name in frame.columns.drop("branch"):
        odd = random.random(count) < 0.3
        frame.loc[odd, name] = random.choice(EXTREMES, odd.sum())
        far = random.random(count) < 0.1
        frame.loc[far, name] = random.normal(size=far.sum()) * 1e6
    odd = random.random(count) < 0.3
    frame.loc[odd, "branch"] = random.choice(["never seen", None, "", "a" * 300, "NORTH"], odd.sum())
    keys = {"customer_id": [f"c{n:05d}" for n in range(count)], "as_of": pd.Timestamp("2026-01-01").date()}
    return frame.assign(**keys)


def in_duckdb(statement, frame):
    with duckdb.connect() as connection:
        connection.register("features", frame)
        return connection.execute(statement).df()


def check(scorer, frame, found):
    """The keys in order; every figure to 1e-9; points and grades equal but where a PD lies on a bound."""
    expected = scorer.score(frame).assign(margin=scorer.margins(frame))
    order = frame["customer_id"].argsort().to_numpy()
    assert found["customer_id"].tolist() == frame["customer_id"].iloc[order].tolist()
    for name in ANSWERS:
        np.testing.assert_allclose(
            found[name].to_numpy(dtype=float), expected[name].to_numpy()[order], rtol=1e-9, atol=1e-12, err_msg=name
        )
    near = np.abs(expected["pd"].to_numpy()[order][:, None] - np.array(scorer.scale.bounds)).min(axis=1) < 1e-9
    assert (found["grade"].to_numpy() == expected["grade"].to_numpy()[order])[~near].all()
    assert np.abs(found["score"].to_numpy(dtype=float) - expected["score"].to_numpy()[order]).max() <= near.max()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(METHODS),
    missing=st.sampled_from(MISSING),
    leaves=st.sampled_from([2, 5, 40]),
    trees=st.sampled_from([1, 13, 40]),
    rate=st.sampled_from([None, 0.02]),
)
def test_duckdb_answers_as_the_bundle(seed, method, missing, leaves, trees, rate):
    scorer, features = drawn(seed, method, missing, leaves, trees, rate)
    frame = asked_of(features, seed + 1)
    check(scorer, frame, in_duckdb(to_sql(scorer), frame))


def test_every_way_of_missing_is_among_the_models_tested():
    """Else the property above would say nothing of two of the three."""
    kinds = set()
    for missing in MISSING:
        text = drawn(1, missing=missing)[0].booster.model_to_string()
        lines = [line.split("=")[1].split() for line in text.splitlines() if line.startswith("decision_type=")]
        kinds |= {int(kind) >> 2 & 3 for line in lines for kind in line}
    assert kinds == {0, 1, 2}


def test_an_infinite_value_that_the_bundle_refuses_gets_no_answer():
    scorer, features = drawn(2)
    frame = asked_of(features, 3, 4)
    frame.loc[1, "x"] = np.inf
    found = in_duckdb(to_sql(scorer), frame)
    assert found.loc[1, [*ANSWERS, "score", "grade"]].isna().all()
    assert found.drop(index=1)[[*ANSWERS, "score", "grade"]].notna().all(axis=None)


@pytest.mark.fault("G6")
def test_no_level_stands_in_the_statement_in_clear():
    scorer, _ = drawn(4)
    statement = to_sql(scorer)
    assert not any(level in statement for level in ("north", "süd", "o'east", "o''east"))
    without = Scorer(scorer.booster, scorer.inputs, scorer.encoders, scorer.calibrator)
    with pytest.raises(ValueError, match=r"grades\.json"):
        to_sql(without)


def test_postgresql_answers_as_the_bundle():
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi")
    with postgres() as url, dbapi.connect(url) as connection, connection.cursor() as cursor:
        for number, (method, missing) in enumerate(zip(METHODS, MISSING, strict=True)):
            scorer, features = drawn(number + 20, method, missing, rate=[None, 0.02, 0.3][number])
            frame = asked_of(features, number)
            cursor.adbc_ingest("features", duckdb.sql("FROM frame").to_arrow_table(), mode="replace")
            cursor.execute(to_sql(scorer).rstrip().rstrip(";"))
            check(scorer, frame, cursor.fetch_arrow_table().to_pandas())
